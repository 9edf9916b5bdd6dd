"""One logged response and the judge's replies -> its TAC and VAS, ours and the paper's."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rewards.judge import read_vas_reply
from rewards.terms.accuracy import Answer
from rewards.text.thoughts import without_thoughts
from rewards.types import JudgeReply
from videor2_rl.evaluation import tac
from videor2_rl.evaluation.judged import Replies
from videor2_rl.evaluation.official import tac as official_tac
from videor2_rl.evaluation.official import vas as official_vas
from videor2_rl.evaluation.official.cases import Case
from videor2_rl.evaluation.summary import bootstrap_interval

Status: TypeAlias = Literal["read", "empty", "unreadable", "failed"]
"""Of a reading. empty: the response has no such block; failed: the judge gave no reply."""


@dataclass(frozen=True)
class LogResult:
    """What came out for one row."""

    readings: tac.Readings
    think_status: Status
    answer_status: Status
    consistency: tac.Consistency
    logged_score: float | None
    """Of lmms-eval's own prediction; None: the row holds none."""
    official: official_tac.Lenses
    vas: float | None
    """0-10; None: nobody judged, or `vas_failed`."""
    vas_failed: bool
    """The judge gave no reply, or none that can be read."""
    official_vas: official_vas.Score | None
    """None: nobody judged, or the row has no `input`, without which the script leaves it out."""


def evaluate_row(row: Mapping[str, Any], case: Case, replies: Replies, *, has_score: bool = True) -> LogResult:
    """Read a response by the judge's replies, and by rules where nobody was asked.

    Args:
        has_score: the row holds lmms-eval's own prediction.
    """
    question = tac.question_of(case)
    rules = tac.read_by_rules(case, question)
    think = rules.think if replies.think is None else _read(replies.think, question)
    answer = rules.answer if replies.answer is None else _read(replies.answer, question)
    # An empty block says nothing, whatever a judge reads into it.
    readings = tac.Readings(think if case.think else None, answer if case.answer else None)
    vas = _vas(replies)
    official = official_tac.read_case(
        case,
        think_reply=_official_reply(replies.think, rules.think),
        answer_reply=_official_reply(replies.answer, rules.answer),
    )
    return LogResult(
        readings=readings,
        think_status=_status(case.think, readings.think, replies.think),
        answer_status=_status(case.answer, readings.answer, replies.answer),
        consistency=tac.judge_consistency(readings, question),
        logged_score=official.lmms.score if has_score else None,
        official=official,
        vas=vas,
        vas_failed=replies.vas is not None and vas is None,
        official_vas=None
        if replies.vas is None or official_vas.input_text(row) is None
        else official_vas.score_replies(
            without_thoughts(_text(replies.vas)), without_thoughts(_text(replies.vas_retry))
        ),
    )


def _read(reply: JudgeReply, question: tac.Question) -> Answer | None:
    return None if reply.text is None else tac.read_reply(reply.text, question)


def _status(block: str, reading: Answer | None, reply: JudgeReply | None) -> Status:
    if not block:
        return "empty"
    if reading is not None:
        return "read"
    return "failed" if reply is not None and reply.text is None else "unreadable"


def _official_reply(reply: JudgeReply | None, by_rules: Answer | None) -> str:
    """What the paper's reader is given: the judge's text; what our rules read stands in where nobody was asked."""
    if reply is not None:
        return _unwrapped(without_thoughts(_text(reply)))
    return f"{by_rules:.12g}" if isinstance(by_rules, float) else by_rules or ""


def _unwrapped(reply: str) -> str:
    """The answer of a reply in the form that our prompts ask for, `{"answer": ...}`; any other reply as it is.

    The paper's prompts ask for the bare answer, and its readers expect that.
    """
    try:
        value = json.loads(reply)
    except (ValueError, RecursionError):
        return reply
    if not isinstance(value, dict) or value.keys() != {"answer"}:
        return reply
    return "UNKNOWN" if value["answer"] is None else str(value["answer"])


def _text(reply: JudgeReply | None) -> str:
    return "" if reply is None or reply.text is None else reply.text


def _vas(replies: Replies) -> float | None:
    scores = (read_vas_reply(_text(reply)) for reply in (replies.vas, replies.vas_retry))
    return next((score for score in scores if score is not None), None)


def summarise(
    results: Sequence[LogResult], *, resamples: int, seed: int, mixer: official_tac.Mixer = official_tac.PAPER_MIXER
) -> dict[str, Any]:
    """TAC and VAS of some rows, with intervals and everything that was left out of them counted.

    `logged_accuracy` is that of the predictions in lmms-eval's score dicts: responses without an answer counted wrong,
    rows without a score dict left out.
    """
    think, answer = Counter(r.think_status for r in results), Counter(r.answer_status for r in results)
    judged = [r for r in results if r.vas is not None or r.vas_failed]
    vas = bootstrap_interval([r.vas for r in judged], resamples=resamples, seed=seed)
    return {
        "num_samples": len(results),
        "logged_accuracy": dataclasses.asdict(
            bootstrap_interval([r.logged_score for r in results], resamples=resamples, seed=seed)
        ),
        "tac": {
            **tac.statistics([r.consistency for r in results], resamples=resamples, seed=seed, mixer=mixer),
            "think_blocks": {status: think[status] for status in ("read", "empty", "unreadable", "failed")},
            "answer_blocks": {status: answer[status] for status in ("read", "empty", "unreadable", "failed")},
        },
        "vas": None
        if not judged
        else {
            "mean": vas.mean,
            "low": vas.low,
            "high": vas.high,
            "num_scored": vas.num_scored,
            "num_failed": vas.num_unscored,
        },
    }


def result_row(
    file: str, number: int, line: int, row: Mapping[str, Any], result: LogResult, replies: Replies
) -> dict[str, Any]:
    """One line of readings.jsonl.

    Args:
        number: of the row among those that are evaluated, from 0.
        line: of the row in its file, from 1.
    """
    raw = {
        name: {"text": reply.text, "failure": reply.failure}
        for name, reply in (
            ("think", replies.think),
            ("answer", replies.answer),
            ("vas", replies.vas),
            ("vas_retry", replies.vas_retry),
        )
        if reply is not None
    }
    return {
        "file": file,
        "row": number,
        "line": line,
        "doc_id": row.get("doc_id"),
        "think": {"answer": result.readings.think, "status": result.think_status},
        "answer": {"answer": result.readings.answer, "status": result.answer_status},
        "think_right": result.consistency.think_right,
        "answer_right": result.consistency.answer_right,
        "agreement": result.consistency.agreement,
        "same_answer": result.consistency.same_answer,
        "vas": result.vas,
        "vas_failed": result.vas_failed,
        "judge": raw,
    }
