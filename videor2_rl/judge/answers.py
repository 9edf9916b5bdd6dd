"""What stands in a server's answer: a reply, or its own words about why there is none."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MAX_MESSAGE_CHARS = 200
_MESSAGE_KEYS = ("error", "message", "detail", "msg", "error_description", "errors", "reason", "title")
_INVISIBLE = re.compile(r"<(script|style|head)\b.*?</\1\s*>|<!--.*?-->", re.DOTALL | re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<[^>]+>")


@dataclass(frozen=True)
class Completion:
    """A chat completion."""

    text: str
    """"" where it has none."""
    finish_reason: str | None
    refusal: str | None
    """Why the model declines, in its own words."""


class NoCompletion(Exception):
    """The body of an answer with status 200 is none."""

    def __init__(self, reason: str, *, code: int | None = None) -> None:
        super().__init__(reason)
        self.code = code
        """The status that the body gives itself."""


def read_completion(body: str) -> Completion:
    """The first choice of a chat completion; thoughts in fields or parts of their own are left out.

    Raises:
        NoCompletion: it is none; the message has the server's own words.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        said = words_of(body)
        raise NoCompletion(f"the reply is no JSON: {first_line(said)}" if said else "the reply is no JSON") from None
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        text, refusal = _text(message["content"]), message.get("refusal")
        return Completion(text, choice.get("finish_reason"), refusal if isinstance(refusal, str) else None)
    except (KeyError, IndexError, TypeError, AttributeError):
        pass
    said = _words(answer)
    if not said and isinstance(answer, Mapping) and isinstance(answer.get("choices"), list):
        said = _words(answer["choices"])
    if not said:
        raise NoCompletion("the reply is no chat completion")
    code = _code(answer)
    ending = "" if code is None else f" (code {code})"
    raise NoCompletion(f"an error in place of a reply: {first_line(said)}{ending}", code=code)


def _text(content: object) -> str:
    """The text of a message, whole or in parts; "" where there is none.

    Raises:
        TypeError: it is something else.
    """
    if content is None or isinstance(content, str):
        return content or ""
    parts = [content] if isinstance(content, Mapping) else content
    if not isinstance(parts, list):
        raise TypeError
    # Parts of other types are thoughts, pictures, calls of tools.
    return "".join(
        part if isinstance(part, str) else part["text"]
        for part in parts
        if isinstance(part, str) or (part.get("type", "text") in ("text", "output_text") and part.get("text"))
    )


def words_of(body: str) -> str:
    """What a server says in the body of an error: a JSON object of any of the usual forms, a page, or plain text."""
    try:
        return _words(json.loads(body))
    except (ValueError, RecursionError):
        pass
    if "<html" not in body.lower() and not body.lstrip().lower().startswith("<!doctype"):
        return body.strip()
    visible = html.unescape(_TAG.sub(" ", _INVISIBLE.sub(" ", body))).strip()
    title = _TITLE.search(body)
    return visible or (html.unescape(title[1]).strip() if title else "")


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return "; ".join(filter(None, map(_words, value)))
    if not isinstance(value, Mapping):
        return ""
    said = next((words for key in _MESSAGE_KEYS if (words := _words(value.get(key)))), "")
    # FastAPI's own checks name the field apart from what is wrong with it; OpenAI's servers may do so too.
    where = value.get("loc") or value.get("param")
    place = ".".join(map(str, where)) if isinstance(where, list) else where
    return f"{place}: {said}" if said and isinstance(place, str) and not names_field(said, place) else said


def _code(answer: Any) -> int | None:
    """The status that an error object gives itself."""
    holders = [answer, answer.get("error")] if isinstance(answer, Mapping) else []
    codes = (holder.get(key) for holder in holders if isinstance(holder, Mapping) for key in ("code", "status"))
    return next(
        (int(code) for code in codes if isinstance(code, int) or (isinstance(code, str) and code.isdecimal())), None
    )


def names_field(words: str, name: str) -> bool:
    """Whether a field of the request stands in a server's words, as a word of its own."""
    return re.search(rf"(?<![\w]){re.escape(name)}(?![\w])", words, re.IGNORECASE) is not None


def first_line(value: object) -> str:
    """A text on one line, cut to what fits in a sentence."""
    text = " ".join(str(value).split())
    return (text or type(value).__name__)[:_MAX_MESSAGE_CHARS]
