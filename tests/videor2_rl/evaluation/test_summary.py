from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from videor2_rl.evaluation.summary import (
    METRICS,
    SUMMARY_FILE,
    SampleResult,
    bootstrap_interval,
    evaluation_dir,
    paired_difference,
    read_evaluation,
    sample_row,
    summarise,
    write_evaluation,
)


def result(number: int, **changes: Any) -> SampleResult:
    values: dict[str, Any] = {
        "sample_id": f"clip-{number}",
        "video": f"{number}.mp4",
        "question": "Which?",
        "target": "<answer>A</answer>",
        "response": "<think></think><answer>A</answer>",
        "answer": "A",
        "finish_reason": "stop",
        "response_tokens": 10 + number,
        **dict.fromkeys(("accuracy", "tac", "tar_precision", "tar_recall", "tar_f1", "format"), 1.0),
    }
    return SampleResult(**{**values, **changes})


@pytest.mark.parametrize("seed", [0, 1])
def test_interval_agrees_with_scipys_percentile_bootstrap(seed: int) -> None:
    values = np.random.default_rng(seed).beta(2, 1, size=256)
    interval = bootstrap_interval(values.tolist(), resamples=10_000, seed=seed)
    reference = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(99)
    ).confidence_interval
    # Two independent sets of 10,000 resamples: their quantiles differ by about 0.03 standard errors.
    tolerance = 0.15 * values.std() / math.sqrt(len(values))
    assert interval.low == pytest.approx(reference.low, abs=tolerance)
    assert interval.high == pytest.approx(reference.high, abs=tolerance)
    assert interval.mean == pytest.approx(values.mean())


def test_interval_of_many_coin_flips_is_the_normal_approximation() -> None:
    values = [1.0] * 600 + [0.0] * 400
    interval = bootstrap_interval(values, resamples=20_000, seed=0)
    half = 1.96 * math.sqrt(0.6 * 0.4 / 1000)
    assert interval.low == pytest.approx(0.6 - half, abs=0.002)
    assert interval.high == pytest.approx(0.6 + half, abs=0.002)


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    values = np.random.default_rng(0).random(50).tolist()
    first = bootstrap_interval(values, resamples=1000, seed=3)
    assert bootstrap_interval(values, resamples=1000, seed=3) == first
    assert bootstrap_interval(values, resamples=1000, seed=4) != first


@given(st.lists(st.none() | st.floats(0, 1), max_size=30))
def test_unscored_samples_are_left_out_and_counted(values: list[float | None]) -> None:
    interval = bootstrap_interval(values, resamples=50, seed=0)
    scored = [value for value in values if value is not None]
    assert interval.num_scored == len(scored)
    assert interval.num_unscored == len(values) - len(scored)
    if not scored:
        assert interval.mean is interval.low is interval.high is None
    else:
        assert interval.mean is not None and interval.low is not None and interval.high is not None
        assert interval.mean == pytest.approx(sum(scored) / len(scored))
        # A resample's mean may round one unit beyond the extreme value.
        assert min(scored) - 1e-12 <= interval.low <= interval.high <= max(scored) + 1e-12


def test_a_constant_metric_has_an_interval_of_no_width() -> None:
    interval = bootstrap_interval([1.0] * 20, resamples=100, seed=0)
    assert (interval.mean, interval.low, interval.high) == (1.0, 1.0, 1.0)


def test_pairing_makes_the_interval_of_a_constant_gain_exact() -> None:
    noise = np.random.default_rng(0).random(40)
    before = {f"clip-{i}": float(value) for i, value in enumerate(noise)}
    after = {name: value + 0.25 for name, value in reversed(before.items())}
    interval = paired_difference(before, after, resamples=200, seed=0)
    assert interval.low == pytest.approx(0.25)
    assert interval.high == pytest.approx(0.25)


def test_paired_difference_agrees_with_scipys_paired_bootstrap() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.random(120), rng.random(120) + 0.2
    ours = paired_difference(
        dict(zip(map(str, range(120)), a.tolist(), strict=True)),
        dict(zip(map(str, range(120)), b.tolist(), strict=True)),
        resamples=10_000,
        seed=0,
    )
    reference = stats.bootstrap(
        (b, a),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(99),
    ).confidence_interval
    tolerance = 0.15 * (b - a).std() / math.sqrt(120)
    assert ours.low == pytest.approx(reference.low, abs=tolerance)
    assert ours.high == pytest.approx(reference.high, abs=tolerance)


def test_pairs_with_an_unscored_side_are_left_out_and_other_samples_are_refused() -> None:
    interval = paired_difference({"a": 0.0, "b": None, "c": 0.0}, {"a": 1.0, "b": 1.0, "c": None}, resamples=10, seed=0)
    assert (interval.mean, interval.num_scored, interval.num_unscored) == (1.0, 1, 2)
    with pytest.raises(ValueError, match="'b'"):
        paired_difference({"a": 0.0}, {"a": 0.0, "b": 0.0}, resamples=10, seed=0)


def test_summary_counts_samples_truncations_and_unscored_values() -> None:
    results = [result(0), result(1, tac=None, finish_reason="length", accuracy=0.0), result(2), result(3)]
    summary = summarise(results, resamples=100, seed=0, card={"model": "m"})
    assert summary["num_samples"] == 4
    assert summary["truncated_frac"] == 0.25
    assert tuple(summary["metrics"]) == METRICS
    assert summary["metrics"]["accuracy"]["mean"] == 0.75
    assert summary["metrics"]["response_tokens"]["mean"] == 11.5
    assert summary["metrics"]["tac"] == {
        "mean": 1.0,
        "low": 1.0,
        "high": 1.0,
        "num_scored": 3,
        "num_unscored": 1,
    }
    assert summary["card"] == {"model": "m"}


def test_an_evaluation_of_no_samples_has_null_means() -> None:
    summary = summarise([], resamples=100, seed=0, card={})
    assert summary["num_samples"] == 0
    assert summary["truncated_frac"] is None
    assert summary["metrics"]["accuracy"]["mean"] is None
    json.dumps(summary, allow_nan=False)


def test_files_have_lmms_evals_layout_and_come_back(tmp_path: Path) -> None:
    folder = evaluation_dir(tmp_path, stage="sft", mode="greedy")
    claim = {"start_s": 5.0, "end_s": 5.0, "text": "A red circle appears.", "reference": 0, "outcome": "matched"}
    results = [result(0, response='say "hi"\u2028{}', claims=(claim,)), result(1, tac=None, answer=None)]
    write_evaluation(folder, results, summary=summarise(results, resamples=10, seed=0, card={}))
    assert folder == tmp_path / "evaluation" / "sft" / "greedy"
    summary, rows = read_evaluation(folder)
    assert summary["num_samples"] == 2
    assert [row["doc_id"] for row in rows] == [0, 1]
    assert rows[0].keys() == {"doc_id", "doc", "target", "input", "resps", "filtered_resps", "videor2_score"}
    assert rows[0]["resps"] == [['say "hi"\u2028{}']]
    assert rows[0]["filtered_resps"] == ["A"]
    assert rows[0]["target"] == "<answer>A</answer>"
    assert rows[0]["videor2_score"]["claims"] == [claim]
    assert rows[1]["videor2_score"]["tac"] is None
    assert rows[1]["filtered_resps"] == [None]


def test_each_block_of_resamples_is_drawn_anew_and_there_are_no_more_of_them_than_asked() -> None:
    # At most 4 million indices are drawn at once, so that each resample is a block of its own here.
    values = [0.0, 1.0] * 1_000_001
    pair = bootstrap_interval(values, resamples=2, seed=0)
    assert pair.low is not None and pair.high is not None
    assert pair.low < pair.high
    # The mean of a single resample is both quantiles.
    single = bootstrap_interval([0.0, 1.0] * 500, resamples=1, seed=0)
    assert single.low == single.high


def test_a_failed_metric_is_counted_apart_from_one_that_abstained() -> None:
    results = [
        result(0, tac=None, tar_recall=None, failed={"tac": "the judge is down"}),
        result(1, tac=None),
        result(2, tar_recall=None, failed={"tar_recall": "the judge is down"}),
        result(3, tac=None, failed={"tac": "the judge is down"}),
    ]
    summary = summarise(results, resamples=10, seed=0, card={})
    assert summary["num_failed"] == {**dict.fromkeys(METRICS, 0), "tac": 2, "tar_recall": 1}
    assert summary["metrics"]["tac"]["num_unscored"] == 3


def test_each_metric_has_its_own_mean_in_the_summary_and_its_own_value_in_a_row() -> None:
    values = {name: place / 10 for place, name in enumerate(METRICS)} | {"response_tokens": 7}
    summary = summarise([result(0, **values)], resamples=10, seed=0, card={})
    assert {name: entry["mean"] for name, entry in summary["metrics"].items()} == values
    scores = sample_row(result(0, **values), doc_id=0)["videor2_score"]
    assert {name: scores[name] for name in METRICS} == values


def test_rows_that_cannot_be_written_leave_no_summary_behind(tmp_path: Path) -> None:
    def fails(_: SampleResult) -> dict[str, Any]:
        raise ValueError("no such row")

    with pytest.raises(ValueError, match="no such row"):
        write_evaluation(tmp_path, [result(0)], summary={"num_samples": 1}, log_fields=fails)
    assert not (tmp_path / SUMMARY_FILE).exists()


def test_the_fields_of_a_benchmark_stand_instead_of_ours(tmp_path: Path) -> None:
    write_evaluation(tmp_path, [result(0)], summary={}, log_fields=lambda _: {"target": "B", "mlvu": 1})
    (row,) = read_evaluation(tmp_path)[1]
    assert (row["target"], row["mlvu"], row["filtered_resps"]) == ("B", 1, ["A"])


def test_a_row_holds_the_sample_the_response_and_what_led_to_its_scores() -> None:
    claim, reference = {"start_s": 5.0, "text": "A."}, {"start_s": 6.0, "text": "B."}
    full = result(
        3,
        response="what it said",
        answer="C",
        problem_type="number",
        duration_s=16.5,
        claims=(claim,),
        references=(reference,),
        failed={"tac": "the judge is down"},
        finish_reason="length",
    )
    row = sample_row(full, doc_id=8)
    scores = row.pop("videor2_score")
    assert row == {
        "doc_id": 8,
        "doc": {
            "id": "clip-3",
            "video": "3.mp4",
            "question": "Which?",
            "problem_type": "number",
            "duration_s": 16.5,
            "clip_start_s": None,
            "clip_end_s": None,
            "subtitles": None,
            "subtitles_beside": False,
        },
        "target": "<answer>A</answer>",
        "input": "Which?",
        "resps": [["what it said"]],
        "filtered_resps": ["C"],
    }
    assert {key: value for key, value in scores.items() if key not in METRICS} == {
        "finish_reason": "length",
        "claims": [claim],
        "references": [reference],
        "failed": {"tac": "the judge is down"},
    }
