"""What a judge is asked about a response, and what its raw replies say. Pure; who sends the calls lives elsewhere.

The instructions are text files in `rewards/prompts/`, one a purpose. Their names carry the version: a changed text gets
a new name, so that a cached reply is never taken for the answer to another prompt.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeGuard

from rewards.official.answers import first_block
from rewards.terms.accuracy import target_options
from rewards.text.parsing import MAX_BLOCK_CHARS, read_blocks
from rewards.text.thoughts import without_thoughts
from rewards.types import NO_EVIDENCE, Evidence, JudgeReply, OfficialConfig, RewardConfig, Target

Purpose: TypeAlias = Literal["claims", "consistency", "conclusion", "answer", "vas"]

UNSTATED = ""
"""What `read_answer_reply` gives where the judge says that the text states no answer."""

_MAX_REPLY_CHARS = 65_536
# Each failed attempt may read the whole rest of the text; the limit keeps that linear.
_MAX_OBJECTS = 64


# --- what is asked ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgePrompt:
    """One call to a judge."""

    purpose: Purpose
    version: str
    """Name of the file that `system` comes from, e.g. "claims.v1"."""
    system: str
    user: str
    """The material as one JSON object: what stands in a response cannot pass for something outside of it."""
    schema: Mapping[str, Any] | None
    """JSON schema of the reply, for servers that can hold a model to it; None: the reply is free text."""


def needed_prompts(
    response: str, target: Target, config: RewardConfig, evidence: Evidence = NO_EVIDENCE
) -> dict[Purpose, JudgePrompt]:
    """The calls that must be answered before `score_response` can score a response; none without judge readers.

    Nothing is asked that `evidence` already answers, that no term depends on (no references, so no claims), or that
    has nothing to ask about (an empty block).
    """
    is_official = isinstance(config, OfficialConfig)
    think, answer = _blocks(response, config)
    prompts: dict[Purpose, JudgePrompt] = {}
    if config.temporal_alignment.claims == "judge" and evidence.claims is None and think and target.temporal_grounding:
        prompts["claims"] = claims_prompt(think, is_official=is_official)
    if config.consistency.reader == "judge" and think and answer:
        prompts["consistency"] = consistency_prompt(
            think, answer, question=target.question, options=target_options(target), is_official=is_official
        )
    known = {purpose for purpose, reply in evidence.judge.items() if reply.text is not None}
    return {purpose: prompt for purpose, prompt in prompts.items() if purpose not in known}


def _blocks(response: str, config: RewardConfig) -> tuple[str, str]:
    """Think and answer text as the reward reads them, empty where they are missing or too long."""
    if isinstance(config, OfficialConfig):
        return first_block(response, "think")[:MAX_BLOCK_CHARS], first_block(response, "answer")[:MAX_BLOCK_CHARS]
    blocks = read_blocks(response, answer_block=config.answer_block)
    return (blocks.think or "").strip(), (blocks.answer or "").strip()


def with_replies(evidence: Evidence, replies: Mapping[Purpose, JudgeReply]) -> Evidence:
    """The evidence with what the judge has said since."""
    return Evidence(evidence.claims, dict(evidence.judge) | dict(replies))


def needs_judge(config: RewardConfig) -> tuple[str, ...]:
    """The configuration keys under which this reward has a judge read; empty: it needs none."""
    readers = {
        "reward.temporal_alignment.claims": config.temporal_alignment.claims,
        "reward.consistency.reader": config.consistency.reader,
    }
    return tuple(key for key, reader in readers.items() if reader == "judge")


def claims_prompt(think: str, *, is_official: bool = False) -> JudgePrompt:
    """Lists the timed events of a think text; read by `read_claims_reply`.

    Args:
        is_official: ask for the map from time to sentence that `rewards.official` reads.
    """
    if is_official:
        return _prompt("claims", "claims_official.v1", None, reasoning=think)
    claim = _object_schema(time={"type": "string"}, event={"type": "string"})
    schema = _object_schema(claims={"type": "array", "items": claim})
    return _prompt("claims", "claims.v1", schema, reasoning=think)


def consistency_prompt(
    think: str, answer: str, *, question: str, options: Sequence[str], is_official: bool = False
) -> JudgePrompt:
    """Asks whether think and answer agree; read by `read_consistency_reply`.

    Args:
        is_official: ask for TRUE or FALSE on the first line, as `rewards.official` reads it.
    """
    material = _question(question, options) | {"reasoning": think, "answer": answer}
    if is_official:
        return _prompt("consistency", "consistency_official.v1", None, **material)
    schema = _object_schema(reason={"type": "string"}, consistent={"type": "boolean"})
    return _prompt("consistency", "consistency.v1", schema, **material)


def conclusion_prompt(think: str, *, question: str, options: Sequence[str]) -> JudgePrompt:
    """Which answer a think text settles on (TAC); read by `read_answer_reply`."""
    return _prompt("conclusion", "conclusion.v1", _ANSWER_SCHEMA, **_question(question, options) | {"reasoning": think})


def answer_prompt(answer: str, *, question: str, options: Sequence[str]) -> JudgePrompt:
    """Which answer an answer text gives (TAC); read by `read_answer_reply`."""
    return _prompt("answer", "answer.v1", _ANSWER_SCHEMA, **_question(question, options) | {"text": answer})


def vas_prompt(think: str, *, question: str) -> JudgePrompt:
    """How far a think text rests on what can be seen, 0 to 10 (VAS); read by `read_vas_reply`."""
    score = {"type": "integer", "minimum": 0, "maximum": 10}
    schema = _object_schema(reason={"type": "string"}, score=score)
    return _prompt("vas", "vas.v1", schema, question=question, reasoning=think)


def official_vas_prompt(response: str, *, question: str) -> JudgePrompt:
    """The same of a whole response, as the paper's script asks it; read by `read_vas_reply`."""
    return _prompt("vas", "vas_official.v1", None, input=question, response=response)


def _prompt(purpose: Purpose, version: str, schema: Mapping[str, Any] | None, **material: Any) -> JudgePrompt:
    user = json.dumps(material, ensure_ascii=False, indent=1).encode(errors="replace").decode()  # no lone surrogates
    return JudgePrompt(purpose, version, _instructions(version), user, schema)


def _question(question: str, options: Sequence[str]) -> dict[str, Any]:
    lettered = {chr(ord("A") + index): option for index, option in enumerate(options)}
    return {"question": question, "options": lettered}


def _object_schema(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_ANSWER_SCHEMA = _object_schema(answer={"type": ["string", "null"]})


@lru_cache(maxsize=32)
def _instructions(version: str) -> str:
    return (files("rewards") / "prompts" / f"{version}.txt").read_text(encoding="utf-8")


# --- what the replies say -----------------------------------------------------------------------------------------


def read_claims_reply(text: str) -> tuple[tuple[str, str], ...] | None:
    """The claims of a reply as (time, sentence), in its order; None where it holds none of the known forms.

    Known are `{"claims": [{"time": ..., "event": ...}]}`, the bare list, and a map from time to sentence. A time stays
    as the judge wrote it; entries without a sentence are left out. `()`: the judge says that there are no claims. A
    list that is cut off is unreadable: its missing rest would count as never claimed.
    """
    found = list(_objects(text))
    if not found:
        return None
    first = found[0]
    if _is_cut_list(text):
        return None
    if len(first) == 1 and isinstance(inner := first.get("claims"), list | _Object):
        return _pairs_of_map(inner) if isinstance(inner, _Object) else _pairs_of_list(inner)
    if "time" in first:
        return _pairs_of_list(found)
    return _pairs_of_map(first)


def read_consistency_reply(text: str) -> bool | None:
    """Whether the judge finds that think and answer agree; None where it says neither, both, or cannot be read.

    Read are the first JSON object with a verdict in it, then the first line ("TRUE", "**False.**", "Verdict: yes"),
    then a labelled verdict in the last line. "NOT TRUE" is False; a negation inside a sentence decides nothing.
    """
    for found in _objects(text):
        for key in ("consistent", "verdict", "decision", "result", "answer"):
            value = found.get(key)
            if isinstance(value, bool):
                return value
            if isinstance(value, str):
                return _verdict(value)
    in_broken_json = {match[1].lower() == "true" for match in _CONSISTENT_KEY.finditer(_visible(text))}
    if in_broken_json:
        return in_broken_json.pop() if len(in_broken_json) == 1 else None
    lines = [line for line in _visible(text).splitlines() if line.strip(_MARKUP + " \t")]
    if not lines:
        return None
    first = _verdict(lines[0])
    if first is None and _LABEL.match(_plain(lines[-1])):
        return _verdict(lines[-1])
    return first


def read_answer_reply(text: str) -> str | None:
    """The answer that a judge read from a think or answer text: a letter, a value or some words.

    `UNSTATED` where the judge says that there is none; None where the reply itself cannot be read. A reply that is no
    JSON counts when it is one line of at most 200 characters.
    """
    for found in _objects(text):
        if "answer" in found:
            return _answer_value(found["answer"])
    lines = [line for line in _visible(text).splitlines() if line.strip()]
    if len(lines) != 1 or len(lines[0]) > 200 or "{" in lines[0]:
        return None
    return _answer_value(_LABEL.sub("", lines[0].strip(_MARKUP + " \t")))


def read_vas_reply(text: str) -> float | None:
    """The score of a reply in [0, 10]; None where there is none, or one outside.

    Read are the first JSON object with a score in it, then `score: 7`, then a reply of nothing but a number. "7/10" and
    "7 out of 10" are 7.
    """
    for found in _objects(text):
        if "score" in found:
            return _score_value(found["score"])
    visible = _visible(text)
    said = {match[1] for match in _SCORE_KEY.finditer(visible)}
    if len(said) > 1:
        return None
    return _score_value(said.pop() if said else visible.strip(_MARKUP + " \t\n."))


READERS: Mapping[Purpose, Callable[[str], object | None]] = MappingProxyType(
    {
        "claims": read_claims_reply,
        "consistency": read_consistency_reply,
        "conclusion": read_answer_reply,
        "answer": read_answer_reply,
        "vas": read_vas_reply,
    }
)
"""Who reads the replies of each purpose; None is an unreadable one."""


def is_whole_before_cut(text: str) -> bool:
    """Whether a reply that ended at the token limit had given its verdict by then: as a whole JSON object or list, or
    as a first line of one word. Anything else may be a thought whose tag a chat template has written."""
    said = _visible(text).lstrip().removeprefix("```json").removeprefix("```").lstrip()
    if said.startswith(("{", "[")):
        try:
            _DECODER.raw_decode(said)
        except (ValueError, RecursionError):
            return False
        return True
    first, ended, _ = said.partition("\n")
    return bool(ended) and _LABEL.sub("", _plain(first)).rstrip(".!").lower() in {"true", "false", "yes", "no"}


class _Object(dict[str, Any]):
    """A JSON object that remembers the entries whose key comes twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


_DECODER = json.JSONDecoder(object_pairs_hook=_Object)
_LIST_OF_OBJECTS = re.compile(r"\[\s*\{")
_MARKUP = "*_`#\"'>"
_LABEL = re.compile(
    r"(?:(?:my|the|final)\s+)*(?:verdict|answer|decision|result|conclusion|consistent|consistency)\s*(?:is|[:=-])\s*",
    re.IGNORECASE,
)
_CONSISTENT_KEY = re.compile(r"""["']consistent["']\s*:\s*["']?(true|false)\b""", re.IGNORECASE)
_SCORE_KEY = re.compile(r"""\bscore\b["'*\s]*[:=][\s"'*]*(-?\d+(?:\.\d+)?)""", re.IGNORECASE)
_SCORE = re.compile(r"(-?\d+(?:\.\d+)?)(?:\s*(?:/|out of)\s*10)?")
_TRUE_FALSE = re.compile(r"(not\s+)?(true|false)\b(?!\s*(?:/|\||or\b|and\b))")
_YES_NO = re.compile(r"(yes|no)\s*(?:$|[.,:;!)\u2013\u2014-])")
_UPPER_VERDICT = re.compile(r"\b(TRUE|FALSE)\b")
_NEGATION = re.compile(r"\b(?:not|neither|nor|never)\b|n't\b", re.IGNORECASE)
_LETTER = re.compile(r"(?:option\s+)?\(?([A-Z])\)?[.):]?", re.IGNORECASE)
_NO_ANSWER = frozenset({"", "unknown", "none", "null", "n/a"})


def _visible(text: str) -> str:
    """The reply without its thoughts, which hold drafts and no verdict."""
    return without_thoughts(text)[:_MAX_REPLY_CHARS]


def _objects(text: str) -> Iterator[_Object]:
    """The JSON objects of a reply from left to right, fenced or not; braces that open none are passed over."""
    text = _visible(text)
    start = text.find("{")
    for _ in range(_MAX_OBJECTS):
        if start < 0:
            return
        try:
            found, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        yield found
        start = text.find("{", end)


def _is_cut_list(text: str) -> bool:
    """Whether the reply's first bracket opens a list that does not end, as the token limit leaves it."""
    text = _visible(text)
    start = text.find("[")
    if start < 0 or not _LIST_OF_OBJECTS.match(text, start):
        return False
    try:
        _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return "]" not in text[start:]
    return False


def _pairs_of_list(entries: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    rows = [entry for entry in entries if isinstance(entry, dict)]
    pairs = ((row.get("time"), row.get("event")) for row in rows)
    return tuple((str(time), event) for time, event in pairs if time is not None and _is_sentence(event))


def _pairs_of_map(found: _Object) -> tuple[tuple[str, str], ...] | None:
    pairs = tuple((key, value) for key, value in found.pairs if _is_sentence(value))
    return pairs if pairs or not found else None


def _is_sentence(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _plain(line: str) -> str:
    return line.translate(_WITHOUT_MARKUP).strip()


_WITHOUT_MARKUP = str.maketrans("", "", _MARKUP)


def _verdict(line: str) -> bool | None:
    """What one line says."""
    said = _LABEL.sub("", _plain(line), count=1).lower()
    if match := _TRUE_FALSE.match(said):
        return (match[2] == "true") != bool(match[1])
    if match := _YES_NO.match(said):
        return match[1] == "yes"
    # Somewhere in a sentence only as the capitals that were asked for, and without anything that may turn it round.
    words = set(_UPPER_VERDICT.findall(line))
    return words == {"TRUE"} if len(words) == 1 and not _NEGATION.search(line) else None


def _answer_value(value: object) -> str | None:
    if value is None:
        return UNSTATED
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    said = str(value).strip(_MARKUP + " \t.")
    if said.lower() in _NO_ANSWER:
        return UNSTATED
    letter = _LETTER.fullmatch(said)
    return letter[1].upper() if letter else said


def _score_value(value: object) -> float | None:
    if isinstance(value, str):
        match = _SCORE.fullmatch(value.strip())
        value = float(match[1]) if match else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and 0 <= value <= 10 else None
