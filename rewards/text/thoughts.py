"""What of a reasoning model's reply stands outside of its thoughts: a verdict in a thought is a draft."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

_NAMES = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reasoning|reflection|scratchpad|analysis)"
_TAG = re.compile(
    # <think>, [THINK] (Magistral), Kimi's and <|begin_of_thought|>, <|START_THINKING|>, <|thinking|>
    rf"(?P<open><\s*{_NAMES}\s*>|\[THINK\]|◁think▷|<\|(?:begin_of_thought|start_thinking|{_NAMES})\|>"
    # gpt-oss: every channel but the final one, with its special tokens or, where those are left out, without
    r"|(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*(?!final\b)\w+[^<]*<\|message\|>|\A\s*analysis(?-i:(?=[A-Z\"'{])))"
    rf"|(?P<close><\s*/\s*{_NAMES}\s*>|\[/THINK\]|◁/think▷|<\|(?:end_of_thought|end_thinking|/{_NAMES})\|>"
    r"|(?:<\|end\|>\s*)?(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*final\b[^<]*<\|message\|>|(?-i:assistantfinal))",
    re.IGNORECASE,
)
_FRAME = re.compile(
    r"<\|(?:return|end|im_end|begin_of_solution|end_of_solution|start_response|end_response)\|>", re.IGNORECASE
)
"""What some models put around what follows their thoughts."""
_QUOTES = "`\"'\u201c\u201d\u2018\u2019"
_SPOKEN_OF = re.compile(r"[ \t]+(?:blocks?|tags?|sections?|parts?|texts?|contents?|and|or)\b")
_ELIDED = re.compile(r"<(\w+)>\s*(?:\.{3}|…)\s*</\1>")
_VERDICT = re.compile(r"\s*(?:[{\[]|```)|\s*[^<\n]{1,200}\Z")
_DECODER = json.JSONDecoder()
# Each failed attempt may read the whole rest of the text; the limit keeps that linear.
_MAX_OBJECTS = 64


class _Tag(NamedTuple):
    start: int
    end: int
    opens: bool


def without_thoughts(text: str) -> str:
    """A reply without the thoughts in it, whatever tags they stand in; "" where it is nothing else.

    A thought without an end, as the token limit leaves it, takes the rest of the text. One without a beginning, which
    the chat template has written, takes all that is before its end; so does one that is ended twice. A tag that is
    only spoken of, in quotes ("the `<think>` block", "<think>...</think>") or in a JSON object, is text.
    """
    tags = _tags(text)
    if not tags:
        return text
    visible: list[str] = []
    start = depth = 0
    for tag in tags:
        if tag.opens:
            if depth == 0:
                visible.append(text[start : tag.start])
            depth += 1
        else:
            if depth == 0:
                visible.clear()
            depth = max(0, depth - 1)
            start = tag.end
    # Begun twice and ended once: the end of it all, or of something that a thought quotes and goes on after.
    if depth == 0 or (not tags[-1].opens and _VERDICT.match(text, start)):
        visible.append(text[start:])
    return _FRAME.sub("", "\n".join(part for part in visible if part.strip()))


def _tags(text: str) -> list[_Tag]:
    """The tags that begin and end thoughts, in order."""
    found = [_Tag(match.start(), match.end(), match["open"] is not None) for match in _TAG.finditer(text)]
    if not found:
        return []
    quoted = [*_objects(text), *(match.span() for match in _ELIDED.finditer(text))]
    return [
        tag
        for tag in found
        if not _is_mention(text, tag) and not any(start <= tag.start < end for start, end in quoted)
    ]


def _is_mention(text: str, tag: _Tag) -> bool:
    line = text[text.rfind("\n", 0, tag.start) + 1 : tag.start]
    if not line.strip():
        return False
    is_quoted = line[-1] in _QUOTES and tag.end < len(text) and text[tag.end] in _QUOTES
    return is_quoted or bool(_SPOKEN_OF.match(text, tag.end))


def _objects(text: str) -> Sequence[tuple[int, int]]:
    """Where the JSON objects of a text begin and end."""
    spans = []
    start = text.find("{")
    for _ in range(_MAX_OBJECTS):
        if start < 0:
            break
        try:
            _, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        spans.append((start, end))
        start = text.find("{", end)
    return spans
