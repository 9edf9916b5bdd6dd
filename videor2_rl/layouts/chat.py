"""Turns of a chat, however a file spells them: who speaks, texts and parts, and the clip that a part names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from videor2_rl.layouts.row import VIDEO_MARKER, RowError
from videor2_rl.types import VISION_TOKENS

_ROLES = {"human": "user", "gpt": "assistant"}
"""The paper's names of speakers; all others are as the chat templates have them."""
_EXPECTED = {
    "conversations": {
        "user": '{"from": "human", "value": text}',
        "assistant": '{"from": "gpt", "value": text}',
    }
}
_WANTED = {
    True: "two turns: a human and a gpt one",
    False: "one user turn",
    None: "a user turn and at most one assistant turn",
}
"""By whether the chat ends with an answer."""
_MARKER = re.compile(rf"\A\s*{VIDEO_MARKER}|(?<={VIDEO_MARKER}){VIDEO_MARKER}|^[ \t]*{VIDEO_MARKER}[ \t]*$", re.M)
_ANYWHERE = re.compile(VIDEO_MARKER)
_PATH_KEYS = ("video", "path", "video_url", "url", "file")


@dataclass(frozen=True)
class VideoPart:
    """A clip as a row or a part of its chat names it."""

    path: str
    start: Any = None
    """Seconds; not checked yet."""
    end: Any = None


@dataclass(frozen=True)
class Chat:
    """One exchange about one clip."""

    system: str | None
    question: str
    answer: str | None
    """None: the chat ends with the question."""
    video: VideoPart | None
    """None: the chat names no clip; the row has to."""


def read_chat(turns: Any, key: str, *, has_answer: bool | None) -> Chat:
    """The chat of a row.

    Args:
        turns: a list of {"from", "value"} or {"role", "content"}; a question alone may be a plain text.
        key: where the row has it, for messages.
        has_answer: it must (True) or must not (False) end with an answer; None: it may.

    Raises:
        RowError: it is no such list; the message names what was found.
    """
    if isinstance(turns, str):
        turns = [{"role": "user", "content": turns}]
    wanted = f"expected {_WANTED[has_answer]}, after at most one system turn"
    if not isinstance(turns, list):
        raise RowError(f"{key} is {turns!r:.80}, {wanted}")
    rest = turns[1:] if turns and _role(turns[0]) == "system" else turns
    lengths = {True: (2,), False: (1,), None: (1, 2)}[has_answer]
    if len(rest) not in lengths:
        raise RowError(f"{key} is {len(turns)} turns, {wanted}")
    texts, videos = [], []
    for turn, role in zip(rest, ("user", "assistant"), strict=False):
        if _role(turn) != role:
            raise RowError(f"{key}: expected {_expected(key, role)}, found {turn!r:.80}")
        text, named = _content(turn, key, role)
        texts.append(text)
        videos += named
    if len(videos) > 1:
        raise RowError(f"{key}: names {len(videos)} clips, expected one; split the row or choose one")
    system = _content(turns[0], key, "system")[0].strip() if rest is not turns else ""
    without_vision_tokens(system, f"{key}: the system turn")
    return Chat(
        system=system or None,
        question=_question(texts[0], key, needs_marker=not videos),
        answer=_answer(texts[1], key) if len(texts) > 1 else None,
        video=next((video for video in videos if video is not None), None),
    )


def read_video(value: Any, key: str) -> VideoPart | None:
    """The clip that a column names: a path, an address of a file, an object that holds one, or a list of one of them.

    Raises:
        RowError: several clips, an address on the web, or something else.
    """
    if isinstance(value, list):
        if not value:
            return None
        if len(value) != 1:
            raise RowError(f"{key} lists {len(value)} clips, expected one; split the row or choose one")
        value = value[0]
    start = end = None
    if isinstance(value, Mapping):
        start, end = value.get("video_start"), value.get("video_end")
        found = next((value[name] for name in _PATH_KEYS if value.get(name) is not None), None)
        if found is None and value.get("bytes") is not None:
            raise RowError(f"{key} holds the clip itself, expected its path; write the clips to files")
        value = found["url"] if isinstance(found, Mapping) and "url" in found else found
        if isinstance(value, list):
            raise RowError(f"{key} is a list of {len(value)} pictures, expected the path of one clip")
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise RowError(f"{key} is {value!r:.80}, expected the clip's path relative to data.media_dir")
    scheme = urlsplit(value).scheme
    if scheme in ("http", "https", "data", "s3", "gs", "hf"):
        raise RowError(f"{key} is {value!r:.80}, expected a path; download the clip and name the file")
    if scheme == "file":
        value = unquote(value.removeprefix("file://").removeprefix("localhost"))
    return VideoPart(value, start, end)


def _role(turn: Any) -> str | None:
    if not isinstance(turn, Mapping):
        return None
    name = turn.get("role") if turn.get("from") is None else turn.get("from")
    return _ROLES.get(name, name) if isinstance(name, str) else None


def _content(turn: Mapping[str, Any], key: str, role: str) -> tuple[str, list[VideoPart | None]]:
    """The text of a turn, and each clip that it shows; None for one that the part does not name."""
    content = turn.get("content") if turn.get("value") is None else turn.get("value")
    if isinstance(content, str):
        return content, []
    if not isinstance(content, Sequence):
        raise RowError(f"{key}: expected {_expected(key, role)}, found {turn!r:.80}")
    texts: list[str] = []
    videos: list[VideoPart | None] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else "text" if isinstance(part, str) else None
        if kind in ("video", "video_url"):
            videos.append(read_video(part, f"{key}, video part"))
        elif kind == "text":
            text = part if isinstance(part, str) else part.get("text")
            if not isinstance(text, str):
                raise RowError(f"{key}: a text part holds {text!r:.80}, expected its text")
            texts.append(text)
        else:
            raise RowError(f"{key}: a part is of type {kind!r}, only text and video are read; take it out")
    return "\n".join(texts), videos


def _question(text: str, key: str, *, needs_marker: bool) -> str:
    """The text without the marker of the clip.

    A marker leads the text or has a line of its own; a lone one elsewhere counts where no part shows the clip. All else
    is the word, as in a question about HTML.
    """
    if "<image>" in text and VIDEO_MARKER not in text:
        raise RowError(f"{key}: the question has an <image> marker; only {VIDEO_MARKER} is read")
    markers = list(_MARKER.finditer(text))
    if not markers and needs_marker and text.count(VIDEO_MARKER) == 1:
        markers = list(_ANYWHERE.finditer(text))
    if len(markers) > 1:
        raise RowError(f"{key}: the question has more than one {VIDEO_MARKER} marker; keep one")
    question = (text[: markers[0].start()] + text[markers[0].end() :] if markers else text).strip()
    if not question:
        raise RowError(f"{key}: the question is empty; write one beside the {VIDEO_MARKER} marker")
    return without_vision_tokens(question, f"{key}: the question")


def _answer(text: str, key: str) -> str:
    if not text.strip():
        raise RowError(f"{key}: the answer is empty; write at least <answer>...</answer>")
    return without_vision_tokens(text.strip(), f"{key}: the answer")


def without_vision_tokens(text: str, what: str) -> str:
    """The text, when it has no token of a vision-language model: a prompt with one has places for clips that are not
    there."""
    found = next((token for token in VISION_TOKENS if token in text), None)
    if found is not None:
        raise RowError(f"{what} holds {found}, a token of the model's own; mark the clip with {VIDEO_MARKER} instead")
    return text


def _expected(key: str, role: str) -> str:
    return _EXPECTED.get(key, {}).get(role, f'{{"role": "{role}", "content": text or parts}}')
