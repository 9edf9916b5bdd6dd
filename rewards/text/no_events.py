"""Times in a text that date no event: on clocks and boards in the scene, of the clip's own length, decades."""

from __future__ import annotations

import re

# What shows times of its own in the scene, and the words that say it shows one. A stamp on the picture is the clip's.
_DEVICE = (
    r"(?:(?:alarm|wall|digital|tower|game|shot|chess|kitchen|race)?\s?clocks?|(?:wrist|stop|smart)?watch(?:es)?|score\s?boards?|"
    r"boards?|displays?|timers?|countdowns?|(?:smart|cell)?\s?phones?|microwaves?|ovens?|plates?|signs?|tickets?|schedules?|"
    r"timetables?|monitors?|radios?|dashboards?|thermostats?|calendars?|billboards?|posters?|jerseys?|receipts?|treadmills?)"
)
_SCENE_BEFORE = re.compile(
    rf"(?:\b{_DEVICE}\b[^.;:]{{0,40}}?\b(?:reads?|reading|shows?|showing|displays?|displaying|says?|saying|indicates?|indicating|"
    rf"set to|counts? down from)|\btime\s(?:shown\s)?on\b[^.;:]{{0,30}}?\b{_DEVICE}\s(?:is|was))\s"
    rf"(?:(?:about|exactly|the time|a time of|time)\s)?(?:[A-Z0-9]{{1,4}}[\s-])?[\"'\u201c(]?$",
    re.IGNORECASE,
)
_SCENE_AFTER = re.compile(
    rf"[\"'\u201d)]?\s(?:is\s|are\s|was\s)?(?:shown\s|displayed\s|visible\s|written\s|printed\s|seen\s)?(?:on|in)\s"
    rf"(?:the|a|an|his|her|its|their|one)\s(?:\w+\s){{0,2}}{_DEVICE}\b",
    re.IGNORECASE,
)
_STAMP = re.compile(
    r"\btime\s?stamp|\boverla|\bcorner\b|\b(?:top|upper|bottom|lower)[\s-](?:left|right)|\bvideo(?:'s)?\s(?:clock|timer)",
    re.I,
)
_LENGTH_BEFORE = re.compile(
    r"\b(?:(?:video|clip|footage|recording|film|movie|scene|segment)\s(?:itself\s)?(?:is|was|runs?(?:\sfor)?)|lasts?|lasting|lasted|"
    r"(?:total\s)?(?:length|duration|runtime|running time)\b[^.;:]{0,32}?(?:is|of|was|:))"
    r"\s(?:(?:about|around|approximately|only|exactly|roughly|just|nearly|over|almost)\s)?$",
    re.IGNORECASE,
)
_LENGTH_AFTER = re.compile(r"[\s-](?:long|video|clip|in\stotal|in\slength|in\sduration)\b", re.IGNORECASE)
# "in his 30s", "the late 20s"
_DECADE = re.compile(r"\b(?:his|her|their|its|my|your|the|early|mid|late)[\s-]$", re.IGNORECASE)
_WINDOW = 80
"""Characters before and after a time that are looked at."""


def is_of_the_scene(text: str, start: int, end: int) -> bool:
    """Whether a clock, a board or a plate in the picture shows the time between `start` and `end`, rather than a stamp
    that is the clip's own."""
    before, after = text[max(0, start - _WINDOW) : start], text[end : end + _WINDOW]
    if _STAMP.search(before) or _STAMP.search(after):
        return False
    return _SCENE_BEFORE.search(before) is not None or _SCENE_AFTER.match(after) is not None


def is_length(text: str, start: int, end: int) -> bool:
    """Whether a time on a clock's form says how long the clip is: "the video lasts 0:30", "a 0:30 clip"."""
    return (
        _LENGTH_BEFORE.search(text[max(0, start - _WINDOW) : start]) is not None
        or _LENGTH_AFTER.match(text, end) is not None
    )


def is_decade(point: str, before: str) -> bool:
    """Whether `30s` are years: "in his 30s", "the late 20s"."""
    return re.fullmatch(r"\d0s", point) is not None and _DECADE.search(before) is not None
