"""Times in Chinese, Japanese and Korean sentences.

Read as times: `第5秒`, `5秒时`, `1分05秒`, `从00:05到00:10`, `5秒から10秒まで`, `5초에`, `00:05`.
Durations (`持续5秒`, `5秒間`, `5초 동안`) are none, and neither is the length of the clip.
Texts come as `choices.normalise` leaves them, with a space between letters and digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from rewards.text.times import Interval, parse_time_key

_CLOCK = r"\d{1,3}:[0-5]\d(?::[0-5]\d)?(?:\.\d{1,6})?(?![\d:])"
_SECONDS = r"\d{1,6}(?:\.\d{1,6})?\s?(?:秒钟|秒鐘|秒|초|s(?![a-z]))"
_MINUTES = rf"\d{{1,4}}\s?(?:分钟|分鐘|分(?!之)|분)(?:\s?{_SECONDS})?"
_POINT = rf"(?:{_CLOCK}|{_MINUTES}|{_SECONDS})"
_JOIN = r"\s?(?:到|至|から|부터|[-\u2010-\u2015\u2212~\u301c])\s?(?:第\s?)?"
_LEAD = r"(?:(?:从|從|在|大约|大約|约|約|到了|自|于|於|약)\s?){0,2}(?:视频|影片|视頻)?(?:的)?\s?(?:第)?\s?[\[(]?"
_TRAIL = (
    r"[\])]?\s?(?:之间|之間|の間|まで|까지|左右|的时候|的時候|时|時|处|處|目|頃|後|后|경|대|째)?\s?"
    r"(?:の時点|のとき|に|で|에서|에)?[\s,\u3001:]*"
)
_TIME = re.compile(
    rf"(?P<lead>{_LEAD})(?P<time>(?:\d{{1,6}}(?={_JOIN}{_SECONDS})|{_POINT})(?:{_JOIN}{_POINT})?)(?P<trail>{_TRAIL})",
    re.I,
)
_DURATION_BEFORE = re.compile(
    r"(?:持续|持續|历时|歷時|长达|長達|时长|時長|长度|長度|长|長さ|总共|總共|全长|过了|過了|每|毎|길이|총|前|后|最后|最後)"
    r"(?:为|為|是|了|は|가|는|은)?\s?(?:约|約|약)?\s?$"
)
_DURATION_AFTER = re.compile(r"\s?(?:間|間的|长|長|以上|以下|동안|간|짜리|的(?:视频|影片|動画|片段))")
# A clock, a board, a phone in the scene that shows a time of its own.
_SCENE_BEFORE = re.compile(
    r"(?:钟|鐘|表|計|牌|板|手机|手機|屏幕|计时器|タイマー|スマホ|시계|전광판|휴대폰)\s?(?:上|は|が|가|는|에는)?\s?"
    r"(?:的)?(?:时间|時間)?\s?(?:显示|顯示|表示|指向|指着|是|为)?\s?$"
)
_MAX_TIMES = 64


def cjk_times(text: str) -> Iterator[tuple[int, int, Interval]]:
    """Start and end of each time expression with the words that belong to it, and what it says in seconds."""
    for match in islice(_TIME.finditer(text), _MAX_TIMES):
        end = match.end("time")
        is_range = re.search(_JOIN, match["time"]) is not None
        before = text[max(0, match.start("lead") - 16) : match.start("lead")] + match["lead"].rstrip("第 [(")
        if "第" not in match["lead"] and not is_range and ":" not in match["time"]:
            if _DURATION_BEFORE.search(before) or _DURATION_AFTER.match(text, end):
                continue
        elif (
            ":" in match["time"] and not is_range and (_DURATION_BEFORE.search(before) or _SCENE_BEFORE.search(before))
        ):
            continue
        interval = parse_time_key(match["time"])
        if interval is not None:
            yield match.start(), match.end(), interval
