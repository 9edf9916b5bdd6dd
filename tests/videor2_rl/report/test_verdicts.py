"""How the page shows a verdict that is no score: an abstention, or a failure, which is not a 0."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewards.compose import score_response
from rewards.types import Evidence, JudgeReply, Scored, Target, VideoR2Config
from videor2_rl.app import compose_run
from videor2_rl.config.runs import GrpoRun
from videor2_rl.evaluation.results import sample_result
from videor2_rl.evaluation.summary import SampleResult, evaluation_dir, summarise, write_evaluation
from videor2_rl.report.curves import failed_shares, with_gaps
from videor2_rl.report.data import failures, read_report_data, report_numbers, series
from videor2_rl.report.frames import Frames
from videor2_rl.report.html import render
from videor2_rl.report.plots import grpo_plots
from videor2_rl.report.rollouts import ShownSample, shown_rollouts
from videor2_rl.report.tables import Cell, mode_tables
from videor2_rl.run.rollout_log import rollout_records
from videor2_rl.training.metrics import reward_metrics
from videor2_rl.types import Group, PromptHandle, Rollout, TrainGroup, VideoSample

GOOD = "<think>At 00:03 a red circle appears. So the answer is A.</think><answer>A</answer>"
GROUNDING = {"00:03": "A red circle appears.", "00:06": "A blue square appears."}
UP, DOWN = JudgeReply('{"consistent": true}', None), JudgeReply(None, "connection refused")


@pytest.fixture(scope="module")
def reward() -> VideoR2Config:
    """The default reward, its consistency read by a judge."""
    config = compose_run("grpo", GrpoRun, ["experiment=smoke"]).reward
    assert isinstance(config, VideoR2Config)
    return dataclasses.replace(config, consistency=dataclasses.replace(config.consistency, reader="judge"))


def sample(name: str, grounding: dict[str, str] | None = GROUNDING) -> VideoSample:
    question, answer = "Which?\nA. red\nB. blue", "<answer>A</answer>"
    return VideoSample(sample_id=name, video="v", question=question, solution=answer, temporal_grounding=grounding)


def scored(config: VideoR2Config, asked: VideoSample, reply: JudgeReply) -> Scored:
    target = Target(asked.question, asked.solution, temporal_grounding=asked.temporal_grounding)
    evidence = Evidence(None, {"consistency": reply})
    return score_response(GOOD, target, config, similarity=lambda a, b: np.ones((len(a), len(b))), evidence=evidence)


def rollout() -> Rollout:
    return Rollout(np.arange(2), np.zeros(2, dtype=np.float32), GOOD, "stop", policy_version=0)


def record(asked: VideoSample, scores: list[Scored]) -> dict[str, Any]:
    """What the run's own log says of a group."""
    size = len(scores)
    trained = TrainGroup(
        group_id=0,
        prompt=PromptHandle(sample_id=asked.sample_id, clip_key="k", num_tokens=2, ref=None),
        response_ids=(np.arange(2),) * size,
        advantages=np.zeros(size, dtype=np.float32),
        in_loss=np.array([score.reward is not None for score in scores]),
    )
    group = Group(group_id=0, sample_id=asked.sample_id, rollouts=(rollout(),) * size)
    [logged] = rollout_records([group], [asked], [scores], [trained])
    return {**logged, "frame_times_s": [0.0, 8.0]}


@pytest.fixture(scope="module")
def run_folder(reward: VideoR2Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps: the judge up, down throughout, and down for two of six responses, one sample without grounding."""
    folder = tmp_path_factory.mktemp("failing")
    grounded, bare = sample("grounded"), sample("bare", None)
    up, down = scored(reward, grounded, UP), scored(reward, grounded, DOWN)
    last = {"grounded": [up, down], "all-down": [down, up], "bare": [scored(reward, bare, UP)] * 2}
    rows = [
        {"step": step, **reward_metrics(groups)}
        for step, groups in enumerate(([[up, up]], [[down, down]], list(last.values())), start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"grounded": grounded, "all-down": sample("all-down"), "bare": bare}
    records = [record(asked[name], scores) for name, scores in last.items()]
    records[1]["responses"] = [records[1]["responses"][0]] * 2
    (folder / "rollouts").mkdir()
    (folder / "rollouts" / "step_000003.jsonl").write_text("".join(json.dumps(item) + "\n" for item in records))
    return folder


@pytest.fixture(scope="module")
def shown(run_folder: Path) -> dict[str, ShownSample]:
    rollouts = shown_rollouts(read_report_data(run_folder), Frames())
    return {item.sample_id.split(",")[0]: item for item in rollouts.samples}


def test_a_failed_verdict_says_so_with_its_reason_and_has_no_number(shown: dict[str, ShownSample]) -> None:
    good, failed = shown["grounded"].responses
    assert ("TAC", "1", "good") in good.verdicts
    assert (good.failures, good.reward.startswith("Reward 2.")) == ((), True)
    # The gate of temporal alignment went with the judge; accuracy and format did not.
    assert failed.verdicts == (
        ("accuracy", "1", "good"),
        ("TAC", "failed", "failed"),
        ("TAR precision", "failed", "failed"),
        ("TAR recall", "failed", "failed"),
        ("format", "1", "good"),
    )
    assert failed.failures == ("consistency: connection refused",)
    assert failed.reward.startswith("No reward, because a term failed")
    assert shown["grounded"].sample_id == "grounded, step 3, 1 of its 2 responses without a reward"


def test_references_are_not_called_missed_by_a_response_whose_claims_nobody_judged(
    shown: dict[str, ShownSample],
) -> None:
    # The last response failed; the one before it found the first event.
    assert [event.mark for event in shown["grounded"].references] == ["hit", "missed"]
    assert [event.time for event in shown["all-down"].references] == ["00:03", "00:06"]
    assert [event.mark for event in shown["all-down"].references] == ["open", "open"]
    assert {response.no_claims for response in shown["all-down"].responses} == {"claims not judged: the judging failed"}


def test_an_abstention_is_neither_a_failure_nor_a_number(shown: dict[str, ShownSample]) -> None:
    response = shown["bare"].responses[0]
    assert [verdict for verdict in response.verdicts if verdict[0].startswith("TAR")] == [
        ("TAR precision", "n/a", "none"),
        ("TAR recall", "n/a", "none"),
    ]
    assert (response.failures, response.no_claims) == ((), "claims not compared")
    assert response.reward.startswith("Reward 1.")


def test_the_page_and_report_json_name_every_failure(run_folder: Path) -> None:
    data = read_report_data(run_folder)
    sentences = failures(data)
    assert sentences == [
        "GRPO training, consistency failed: in 2 of 3 steps, at most 100.0 % (step 2).",
        "GRPO training, responses without a reward: in 2 of 3 steps, at most 100.0 % (step 2).",
        "GRPO training, temporal alignment failed: in 2 of 3 steps, at most 100.0 % (step 2).",
    ]
    assert report_numbers(data)["failures"] == sentences
    page = render(data, plots=[], rollouts=shown_rollouts(data, Frames()))
    assert all(sentence in page for sentence in sentences)
    # One failed response of the first group, two of the second.
    assert page.count('<p class="failure">Failed: consistency: connection refused</p>') == 3
    assert page.count('<span class="chip failed">') == 9
    assert not re.search(r"(?:TAC|TAR \w+) 0<", page)


def test_a_step_that_failed_throughout_leaves_a_gap_and_not_a_line_across(run_folder: Path) -> None:
    rows = with_gaps(read_report_data(run_folder).runs["grpo"].metrics)
    for name in ("reward/mean", "reward/tac", "reward/temporal_alignment"):
        steps, values = series(rows, name)
        assert steps == [1, 2, 3]
        assert [math.isnan(value) for value in values] == [False, True, False]
    assert series(rows, "reward/accuracy")[1] == [1.0, 1.0, 1.0]


def test_failed_shares_are_drawn_where_something_failed(run_folder: Path) -> None:
    run = read_report_data(run_folder).runs["grpo"]
    assert failed_shares(run.metrics) == {
        "reward/consistency_failure_frac": "consistency failed",
        "reward/failure_frac": "responses without a reward",
        "reward/temporal_alignment_failure_frac": "temporal alignment failed",
    }
    assert "Failed verdicts" in [plot.title for plot in grpo_plots(run)]
    sound = dataclasses.replace(run, metrics=run.metrics[:1])
    assert failed_shares(sound.metrics) == {}
    assert "Failed verdicts" not in [plot.title for plot in grpo_plots(sound)]


def test_failures_of_evaluations_while_training_are_counted_over_those_evaluations(run_folder: Path) -> None:
    rows: list[dict[str, float]] = [
        {"step": 1, "evaluation/failure_frac": 0.0},
        {"step": 2},
        {"step": 3, "evaluation/failure_frac": 0.25},
    ]
    data = read_report_data(run_folder)
    data = dataclasses.replace(data, runs={"grpo": dataclasses.replace(data.runs["grpo"], metrics=tuple(rows))})
    assert failures(data) == [
        "GRPO training, held-out responses not fully judged: in 1 of 2 steps, at most 25.0 % (step 3)."
    ]


def results_of(config: VideoR2Config) -> list[SampleResult]:
    """A score, a failure and an abstention."""
    asked = [sample("a"), sample("b"), sample("c", None)]
    replies = [UP, DOWN, UP]
    return [
        sample_result(row, rollout(), scored(config, row, reply), duration_s=8.0)
        for row, reply in zip(asked, replies, strict=True)
    ]


def test_a_held_out_table_counts_failures_and_abstentions_apart(reward: VideoR2Config, tmp_path: Path) -> None:
    results = results_of(reward)
    summary = summarise(results, resamples=10, seed=0, card={})
    assert summary["num_failed"] == {
        "accuracy": 0,
        "tac": 1,
        "tar_precision": 1,
        "tar_recall": 1,
        "tar_f1": 1,
        "format": 0,
        "response_tokens": 0,
    }
    write_evaluation(evaluation_dir(tmp_path, stage="grpo", mode="greedy"), results, summary=summary)
    data = read_report_data(tmp_path)
    [table] = mode_tables(data)
    cells = {row.label: row.cells[0] for row in table.rows}
    assert cells["TAC"] == Cell("1.000", "[1.000, 1.000]", "1 failed")
    assert cells["TAR precision"] == Cell("1.000", "[1.000, 1.000]", "1 failed, 1 abstained")
    assert cells["Accuracy"] == Cell("1.000", "[1.000, 1.000]", "")
    assert failures(data)[0] == "GRPO, greedy: TAC failed on 1 of 3 held-out clips."
    by_id = {item.sample_id: item for item in shown_rollouts(data, Frames()).samples}
    assert ("TAC", "failed", "failed") in by_id["b"].responses[0].verdicts
    assert by_id["b"].responses[0].failures == ("consistency: connection refused",)
    assert ("TAR recall", "n/a", "none") in by_id["c"].responses[0].verdicts
