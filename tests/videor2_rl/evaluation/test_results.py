from __future__ import annotations

from dataclasses import replace

import numpy as np

from rewards.types import Scored, Verdict, abstained, failed
from videor2_rl.evaluation.results import sample_result
from videor2_rl.evaluation.summary import METRICS
from videor2_rl.types import Rollout, VideoSample

SAMPLE = VideoSample(sample_id="clip-1", video="/clips/1.mp4", question="Which?", solution="<answer>A</answer>")
ROLLOUT = Rollout(np.arange(2), np.zeros(2, dtype=np.float32), "text", "stop", policy_version=0)


def score(alignment: Verdict, *, answer: str | float | None = "A") -> Scored:
    accuracy = Verdict("score", 1.0, {"type": "choice", "answer": answer, "reference": "A"})
    return Scored(
        reward=1.0,
        terms={
            "accuracy": accuracy,
            "temporal_alignment": alignment,
            "consistency": failed("consistency: connection refused"),
            "format": Verdict("score", 1.0),
        },
        metrics={**dict.fromkeys(METRICS, 0.5), "tac": None},
    )


def test_the_answer_the_claims_and_what_matched_them_are_kept() -> None:
    event = {"start_s": 5.0, "end_s": 5.0, "text": "A red circle appears."}
    detail = {
        "precision": 0.5,
        "claims": [
            {**event, "quote": "At 00:05", "reference": 0, "outcome": "matched", "similarity": 1.0},
            {**event, "quote": "At 00:05", "reference": None, "outcome": "taken", "similarity": 1.0},
        ],
        "references": [{**event, "claim": 0}],
    }
    result = sample_result(SAMPLE, ROLLOUT, score(Verdict("score", 0.5, detail)), duration_s=16.0)
    assert (result.answer, result.target, result.response_tokens, result.duration_s) == (
        "A",
        "<answer>A</answer>",
        2,
        16.0,
    )
    assert (result.accuracy, result.tac) == (0.5, None)
    assert [(claim["reference"], claim["outcome"]) for claim in result.claims] == [(0, "matched"), (None, "taken")]
    assert result.references == (event,)


def test_only_a_failed_judging_is_named_with_its_reason() -> None:
    result = sample_result(SAMPLE, ROLLOUT, score(abstained("no temporal grounding")))
    assert result.failed == {"tac": "consistency: connection refused"}


def test_without_grounding_there_are_no_claims_and_an_unread_answer_is_none() -> None:
    result = sample_result(SAMPLE, ROLLOUT, score(abstained("no temporal grounding"), answer=None))
    assert (result.claims, result.references, result.answer) == ((), (), None)


def test_a_number_is_kept_as_text() -> None:
    assert sample_result(SAMPLE, ROLLOUT, score(abstained("none"), answer=5.5)).answer == "5.5"


def test_a_failed_alignment_is_the_reason_of_all_that_is_read_from_it() -> None:
    result = sample_result(SAMPLE, ROLLOUT, score(failed("a sentence similarity is not finite")))
    reason = "a sentence similarity is not finite"
    assert result.failed == {
        "tac": "consistency: connection refused",
        "tar_precision": reason,
        "tar_recall": reason,
        "tar_f1": reason,
    }


def test_each_metric_is_its_own() -> None:
    values = {name: place / 10 for place, name in enumerate(METRICS) if name != "response_tokens"}
    result = sample_result(SAMPLE, ROLLOUT, replace(score(abstained("none")), metrics=values))
    assert {name: getattr(result, name) for name in values} == values


def test_what_is_known_of_the_sample_and_the_end_of_the_response_are_kept() -> None:
    sample, rollout = replace(SAMPLE, problem_type="number"), replace(ROLLOUT, finish_reason="length")
    result = sample_result(sample, rollout, score(abstained("none")))
    assert (result.sample_id, result.video, result.question) == ("clip-1", "/clips/1.mp4", "Which?")
    assert (result.problem_type, result.finish_reason, result.response) == ("number", "length", "text")
