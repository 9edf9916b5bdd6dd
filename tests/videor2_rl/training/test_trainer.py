"""The GRPO loop over fakes that satisfy its protocols: order, bookkeeping, what stops it, how it goes on."""

import json
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewards.types import Scored, Verdict
from videor2_rl.app import compose_run
from videor2_rl.config.sections import AlgorithmConfig, GrpoRun
from videor2_rl.judge.breaker import JudgeDown
from videor2_rl.run.checkpoint import Checkpoints
from videor2_rl.run.files import FileSum, file_sum
from videor2_rl.run.folder import SkipLedger
from videor2_rl.run.stopping import Stopped, Stopping
from videor2_rl.run.tracking import Tracker, read_metrics
from videor2_rl.training.periodic_evaluation import PeriodicEvaluation
from videor2_rl.training.protocols import Workers
from videor2_rl.training.trainer import (
    LogProbGapError,
    check_gap,
    rows_of,
    sampling_of,
    train,
    update_batches,
    with_advantages,
)
from videor2_rl.training.upkeep import Upkeep, mean_of, progress_of, restore
from videor2_rl.types import (
    Group,
    LogProbs,
    PromptHandle,
    Rollout,
    SamplingSpec,
    SkippedSample,
    TrainGroup,
    VideoSample,
    WeightSnapshot,
)


def rollout(*, version: int = 0, reason: Any = "stop", log_probs: Sequence[float] = (-1.0, -2.0)) -> Rollout:
    values = np.array(log_probs, dtype=np.float32)
    return Rollout(np.arange(len(values)), values, "text", reason, version)


NO_METRICS = dict.fromkeys(("tac", "tar_precision", "tar_recall", "tar_f1", "format"))


def scored(reward: float | None) -> Scored:
    verdict = Verdict("failure" if reward is None else "score", reward)
    return Scored(reward, {"accuracy": verdict, "temporal_alignment": verdict}, {**NO_METRICS, "accuracy": reward})


@dataclass
class Fakes:
    """All five parts in one: one weight that each update adds 1 to, and a log of what was asked."""

    weight: float = 0.0
    served: float = 0.0
    calls: list[str] = field(default_factory=list)
    steps: list[int | None] = field(default_factory=list)
    skip: frozenset[str] = frozenset()
    gap: float = 0.0
    saving: Path = Path()

    def prepare(self, samples: Sequence[VideoSample]) -> list[PromptHandle | SkippedSample]:
        self.calls.append("prepare")
        return [
            SkippedSample(s.sample_id, s.video, "empty", "")
            if s.sample_id in self.skip
            else PromptHandle(s.sample_id, s.sample_id, 4, None)
            for s in samples
        ]

    def prefetch(self, samples: Sequence[VideoSample]) -> None:
        self.calls.append(f"prefetch {','.join(s.sample_id for s in samples)}")

    def decodes_per_clip(self) -> float:
        return 1.0

    def memory(self) -> Mapping[str, float]:
        return {"rss": 5.0}

    def generate(
        self, prompts: Sequence[PromptHandle], *, group_ids: Sequence[int], sampling: SamplingSpec, seed: int
    ) -> list[Group]:
        self.calls.append(f"generate v{self.served:g} {','.join(p.sample_id for p in prompts)}")
        return [
            Group(i, p.sample_id, tuple(rollout(version=int(self.served)) for _ in range(sampling.group_size)))
            for i, p in zip(group_ids, prompts, strict=True)
        ]

    def update_weights(self, snapshot: WeightSnapshot) -> Mapping[str, float]:
        self.calls.append(f"sync v{snapshot.policy_version}")
        self.served = snapshot.policy_version
        return {}

    def score(
        self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
    ) -> list[list[Scored]]:
        self.calls.append("score")
        self.steps.append(step)
        return [[scored(float(index)) for index in range(len(group.rollouts))] for group in groups]

    def judge_metrics(self) -> Mapping[str, float]:
        return {"reward/judge_calls": 3.0}

    def write_rollouts(self, path: Path, records: Sequence[Mapping[str, Any]], prompts: Sequence[PromptHandle]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(dict(record)) + "\n" for record in records))

    def log_probs(self, groups: Sequence[TrainGroup], *, temperature: float) -> list[LogProbs]:
        self.calls.append("log_probs")
        assert all(group.prompt.visual == f"embeddings of {group.prompt.clip_key}" for group in groups)
        values = np.array([-1.0, -2.0 + self.gap], dtype=np.float32)
        return [LogProbs(g.group_id, (values,) * len(g.response_ids), (values,) * len(g.response_ids)) for g in groups]

    def encode(self, prompts: Sequence[PromptHandle]) -> list[PromptHandle]:
        self.calls.append("encode")
        return [replace(prompt, visual=f"embeddings of {prompt.clip_key}") for prompt in prompts]

    def visual_metrics(self) -> Mapping[str, float]:
        return {"data/encodings_per_clip": 1.0}

    def update(
        self, groups: Sequence[TrainGroup], *, algorithm: AlgorithmConfig, temperature: float
    ) -> dict[str, float]:
        self.calls.append("update")
        assert all(group.prompt.visual == f"embeddings of {group.prompt.clip_key}" for group in groups)
        self.weight += 1
        return {"actor/loss": self.weight, "actor/packed_tokens": 10.0}

    def publish_weights(self, policy_version: int) -> WeightSnapshot:
        assert policy_version == self.weight
        return WeightSnapshot(policy_version, None, 0, "", ())

    def save(self, path: Path) -> None:
        self.calls.append("save")
        (path / "weight").write_text(str(self.weight))
        self.saving = path / "weight"

    def finish_save(self) -> Mapping[str, FileSum]:
        self.calls.append("finish_save")
        return {"weight": file_sum(self.saving)}

    def load(self, path: Path) -> None:
        self.weight = float((path / "weight").read_text())

    def export(self, path: Path) -> None:
        raise NotImplementedError

    def workers(self, *, with_reference: bool = True) -> Workers:
        return Workers(self, self, self, self, self if with_reference else None)


def configure(tmp_path: Path, *overrides: str) -> GrpoRun:
    defaults = ["model.path=m", "data.train_file=t", "data.media_dir=d", f"output_dir={tmp_path}"]
    sizes = ["algorithm.num_steps=6", "algorithm.prompts_per_step=2", "algorithm.group_size=2"]
    return compose_run("grpo", GrpoRun, [*defaults, *sizes, "checkpoint.every_steps=2", *overrides])


def samples(count: int) -> list[VideoSample]:
    return [VideoSample(f"s{index}", f"/clips/{index}.mp4", "?", "<answer>A</answer>") for index in range(count)]


def run_loop(run: GrpoRun, fakes: Fakes, *, num_samples: int = 8) -> None:
    run_dir = Path(run.output_dir)
    checkpoints = Checkpoints(run_dir, keep=run.checkpoint.keep)
    workers = fakes.workers(with_reference=run.algorithm.kl_coefficient > 0)
    newest = checkpoints.newest()
    start = progress_of(newest)
    restore(workers, newest)
    logging, steps = run.logging, run.algorithm.num_steps
    ledger = SkipLedger(run_dir, num_samples=num_samples, max_frac=run.data.max_skipped_frac, keep=start.skipped)
    with (
        Stopping(limit_s=60, max_hours=run.checkpoint.max_hours) as stopping,
        Tracker(run_dir, logging, total_steps=steps, first_step=start.step + 1) as tracker,
        checkpoints.completed(),
    ):
        upkeep = Upkeep(
            run,
            workers,
            start=start,
            num_samples=num_samples,
            checkpoints=checkpoints,
            tracker=tracker,
            ledger=ledger,
            received_bytes=lambda: 7,
            evaluation=evaluation(run, fakes) if run.evaluation.every_steps else None,
            stopping=stopping,
        )
        with upkeep.saved_if_stopped():
            train(run, workers, samples(num_samples), start=start, upkeep=upkeep)


def evaluation(run: GrpoRun, fakes: Fakes) -> PeriodicEvaluation:
    return PeriodicEvaluation(
        run.evaluation,
        [replace(sample, sample_id=f"held-{sample.sample_id}") for sample in samples(2)],
        run_dir=Path(run.output_dir),
        videos=fakes,
        rollouts=fakes,
        rewards=fakes,
        max_tokens=8,
        max_skipped_frac=0.5,
        seed=0,
        card={},
    )


def test_a_step_asks_its_parts_in_the_order_of_the_algorithm(tmp_path: Path) -> None:
    fakes = Fakes()
    run_loop(configure(tmp_path, "algorithm.num_steps=1", "data.shuffle=false"), fakes)
    expected = ["prepare", "encode", "generate v0 s0,s1", "score", "log_probs", "log_probs", "update", "sync v1"]
    expected += ["save", "finish_save"]
    assert fakes.calls == expected


def test_a_checkpoint_is_written_while_the_next_step_samples_and_scores(tmp_path: Path) -> None:
    fakes = Fakes()
    run = configure(tmp_path, "algorithm.num_steps=2", "checkpoint.every_steps=1", "algorithm.kl_coefficient=0")
    run_loop(run, fakes)
    steps = [call.split()[0] for call in fakes.calls]
    second = steps.index("save")
    during = ["prepare", "encode", "generate", "score", "log_probs"]
    assert steps[second:] == ["save", *during, "finish_save", "update", "sync", "save", "finish_save"]


def test_a_run_that_fails_while_a_checkpoint_is_written_completes_it(tmp_path: Path) -> None:
    class Failing(Fakes):
        def score(
            self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
        ) -> list[list[Scored]]:
            if self.calls.count("score") == 2:
                raise RuntimeError("reward worker lost")
            return super().score(groups, samples, step=step)

    with pytest.raises(RuntimeError, match="reward worker lost"):
        run_loop(configure(tmp_path), Failing())
    newest = Checkpoints(tmp_path, keep=2).newest()
    assert newest is not None and newest.step == 2


def test_a_write_that_fails_in_the_background_stops_the_run_before_the_next_update(tmp_path: Path) -> None:
    class FullDisk(Fakes):
        def finish_save(self) -> Mapping[str, FileSum]:
            raise OSError("no space left on device")

    fakes = FullDisk()
    with pytest.raises(OSError, match="no space left"):
        run_loop(configure(tmp_path), fakes)
    assert fakes.calls.count("update") == 2
    assert Checkpoints(tmp_path, keep=2).newest() is None


def test_without_a_kl_term_no_reference_is_asked(tmp_path: Path) -> None:
    fakes = Fakes()
    run_loop(configure(tmp_path, "algorithm.num_steps=1", "algorithm.kl_coefficient=0"), fakes)
    assert fakes.calls.count("log_probs") == 1


def test_each_step_samples_with_the_weights_of_the_update_before(tmp_path: Path) -> None:
    fakes = Fakes()
    run_loop(configure(tmp_path, "algorithm.updates_per_batch=2"), fakes)
    versions = [call.split()[1] for call in fakes.calls if call.startswith("generate")]
    assert versions == ["v0", "v2", "v4", "v6", "v8", "v10"]
    assert fakes.steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("killed_in", ["generate", "update", "sync"])
def test_a_killed_run_goes_on_with_the_same_metrics_and_samples(tmp_path: Path, killed_in: str) -> None:
    # Found unusable in step 4, which the killed run began two steps after its last checkpoint.
    late, skip = ("data.shuffle=false", "data.max_skipped_frac=0.2"), frozenset({"s6"})
    whole, broken = Fakes(skip=skip), Fakes(skip=skip)
    run_loop(configure(tmp_path / "whole", *late), whole)

    class Killed(Fakes):
        def __getattribute__(self, name: str) -> Any:
            names = {"generate": "generate", "update": "update", "sync": "update_weights"}
            if name == names[killed_in] and object.__getattribute__(self, "weight") >= 3:
                raise KeyboardInterrupt
            return object.__getattribute__(self, name)

    run = configure(tmp_path / "broken", *late)
    with pytest.raises(KeyboardInterrupt):
        run_loop(run, Killed(skip=skip))
    run_loop(run, broken)
    keys = ("step", "actor/loss", "actor/policy_version", "data/epoch", "data/skipped")
    rows = [[tuple(row[key] for key in keys) for row in read_metrics(tmp_path / name)] for name in ("whole", "broken")]
    assert rows[0] == rows[1]
    assert [row[-1] for row in rows[0]] == [0, 0, 0, 1, 1, 1]
    resumed = [call for call in broken.calls if call.startswith("generate")]
    assert resumed == [call for call in whole.calls if call.startswith("generate")][-len(resumed) :]


def test_a_sample_that_cannot_be_used_is_left_out_and_the_step_goes_on(tmp_path: Path) -> None:
    fakes = Fakes(skip=frozenset({"s1"}))
    run_loop(configure(tmp_path, "algorithm.num_steps=4", "data.shuffle=false", "data.max_skipped_frac=0.2"), fakes)
    generated = [call.split()[-1] for call in fakes.calls if call.startswith("generate")]
    assert generated == ["s0", "s2,s3", "s4,s5", "s6,s7"]
    assert read_metrics(tmp_path)[-1]["data/skipped"] == 1


def test_the_next_steps_samples_are_prepared_ahead_and_none_after_the_last_step(tmp_path: Path) -> None:
    fakes = Fakes()
    run_loop(configure(tmp_path, "algorithm.num_steps=3", "data.shuffle=false"), fakes)
    ahead = [call for call in fakes.calls if call.startswith(("prepare", "prefetch"))]
    assert ahead == ["prepare", "prefetch s2,s3", "prepare", "prefetch s4,s5", "prepare"]


def test_group_ids_follow_from_the_step_whatever_was_skipped_before(tmp_path: Path) -> None:
    asked: list[tuple[list[int], int]] = []

    class Recording(Fakes):
        def generate(
            self, prompts: Sequence[PromptHandle], *, group_ids: Sequence[int], sampling: SamplingSpec, seed: int
        ) -> list[Group]:
            asked.append((list(group_ids), seed))
            return super().generate(prompts, group_ids=group_ids, sampling=sampling, seed=seed)

    run = configure(tmp_path, "algorithm.num_steps=3", "data.shuffle=false", "data.max_skipped_frac=0.3", "seed=5")
    run_loop(run, Recording(skip=frozenset({"s1", "s4"})))
    assert asked == [([0], 5), ([2, 3], 5), ([4], 5)]


def test_the_gap_is_that_of_the_log_probs_at_temperature_1() -> None:
    group = Group(0, "s", (rollout(log_probs=[-1.0, -2.0]), rollout(log_probs=[-3.0, -0.5])))
    raw = tuple(one.log_probs for one in group.rollouts)
    tempered = tuple(values * 1.5 for values in raw)
    check_gap([group], [LogProbs(0, at_temperature=tempered, raw=raw)], limit=0.1)
    with pytest.raises(LogProbGapError, match=r"1\.50e\+00 nats"):
        check_gap([group], [LogProbs(0, at_temperature=raw, raw=tempered)], limit=0.1)


def test_a_gap_at_its_limit_is_taken_and_one_of_the_last_response_is_seen() -> None:
    group = Group(0, "s", (rollout(log_probs=[-1.0]), rollout(log_probs=[-1.0])))
    for value, is_taken in ((-1.5, True), (-0.5, True), (-1.75, False), (-0.25, False)):
        learner = LogProbs(0, (), (np.array([-1.0], np.float32), np.array([value], np.float32)))
        if is_taken:
            check_gap([group], [learner], limit=0.5)
        else:
            with pytest.raises(LogProbGapError):
                check_gap([group], [learner], limit=0.5)


def test_the_update_gets_tempered_log_probs_of_learner_and_reference(tmp_path: Path) -> None:
    trained: list[TrainGroup] = []

    class Tempered(Fakes):
        """Learner and reference give values of their own, at temperature 1 those of the rollouts."""

        def log_probs(self, groups: Sequence[TrainGroup], *, temperature: float) -> list[LogProbs]:
            shift = -10.0 if groups[0].old_log_probs is None else -20.0
            raw = np.array([-1.0, -2.0], dtype=np.float32)
            return [
                LogProbs(
                    g.group_id,
                    at_temperature=tuple(raw + shift * temperature - i for i, _ in enumerate(g.response_ids)),
                    raw=(raw,) * len(g.response_ids),
                )
                for g in groups
            ]

        def update(
            self, groups: Sequence[TrainGroup], *, algorithm: AlgorithmConfig, temperature: float
        ) -> dict[str, float]:
            assert temperature == 0.5
            trained.extend(groups)
            return super().update(groups, algorithm=algorithm, temperature=temperature)

    run_loop(configure(tmp_path, "algorithm.num_steps=1", "rollout.temperature=0.5"), Tempered())
    assert len(trained) == 2
    for group in trained:
        assert group.old_log_probs is not None and group.ref_log_probs is not None
        assert [values.tolist() for values in group.old_log_probs] == [[-6.0, -7.0], [-7.0, -8.0]]
        assert [values.tolist() for values in group.ref_log_probs] == [[-11.0, -12.0], [-12.0, -13.0]]
    # exp(d) - 1 - d with d = reference - learner = -5.
    assert read_metrics(tmp_path)[0]["actor/kl"] == pytest.approx(math.exp(-5) + 4)


def test_a_gap_between_engine_and_learner_stops_the_run_before_the_update(tmp_path: Path) -> None:
    fakes = Fakes(gap=0.6)
    with pytest.raises(LogProbGapError, match=r"6\.00e-01 nats"):
        run_loop(configure(tmp_path), fakes)
    assert "update" not in fakes.calls


def test_a_gap_that_is_not_a_number_stops_the_run_too() -> None:
    group = Group(0, "s", (rollout(log_probs=[np.nan]),))
    learner = LogProbs(0, (np.zeros(1, np.float32),), (np.zeros(1, np.float32),))
    with pytest.raises(LogProbGapError):
        check_gap([group], [learner], limit=1.0)


def test_a_failed_verdict_leaves_baseline_and_loss(tmp_path: Path) -> None:
    algorithm = configure(tmp_path, "algorithm.advantage=dr_grpo").algorithm
    groups = [Group(5, "s", tuple(rollout() for _ in range(3)))]
    prompts = [PromptHandle("s", "s", 4, None)]
    scores = [[scored(1.0), scored(None), scored(0.0)]]
    [group] = with_advantages(groups, prompts, scores, algorithm=algorithm, reward_range=(0.0, 3.0))
    assert group.advantages is not None and group.in_loss is not None
    # The mean of 1 and 0; a zero in the failure's place would have made it 1/3.
    np.testing.assert_allclose(group.advantages, [0.5, 0.0, -0.5])
    assert group.in_loss.tolist() == [True, False, True]


def test_truncated_responses_leave_the_loss_only_when_asked(tmp_path: Path) -> None:
    algorithm = configure(tmp_path).algorithm
    groups = [Group(5, "s", (rollout(), rollout(reason="length")))]
    prompts = [PromptHandle("s", "s", 4, None)]
    scores = [[scored(1.0), scored(0.0)]]
    for should_mask, expected in ((False, [True, True]), (True, [True, False])):
        masking = replace(algorithm, mask_truncated=should_mask)
        [group] = with_advantages(groups, prompts, scores, algorithm=masking, reward_range=(0.0, 3.0))
        assert group.in_loss is not None and group.in_loss.tolist() == expected


def shaped(accuracy: float | None, alignment: float | None) -> Scored:
    """accuracy + alignment; None: that verdict failed."""
    values = {"accuracy": accuracy, "temporal_alignment": alignment}
    terms = {name: Verdict("failure" if value is None else "score", value) for name, value in values.items()}
    reward = None if accuracy is None or alignment is None else accuracy + alignment
    return Scored(reward, terms, {"accuracy": accuracy})


def test_the_filter_looks_at_accuracy_and_not_at_what_other_terms_pay(tmp_path: Path) -> None:
    algorithm = configure(tmp_path).algorithm
    scores = {
        "all right, shaped apart": [shaped(1.0, 0.0), shaped(1.0, 1.0)],
        "all wrong, shaped apart": [shaped(0.0, 0.0), shaped(0.0, 0.5)],
        "right and wrong": [shaped(1.0, 0.5), shaped(0.0, 0.5)],
        "the wrong one failed": [shaped(1.0, 0.0), shaped(1.0, 1.0), shaped(0.0, None)],
        "no accuracy of one": [shaped(1.0, 0.0), shaped(0.0, 1.0), shaped(None, 1.0)],
    }
    prompts = [PromptHandle(name, name, 4, None) for name in scores]
    groups = [Group(i, name, tuple(rollout() for _ in scores[name])) for i, name in enumerate(scores)]
    train_groups = with_advantages(groups, prompts, list(scores.values()), algorithm=algorithm, reward_range=(0.0, 3.0))
    assert [len(part) for part in update_batches(train_groups, algorithm=algorithm)] == [5]
    [part] = update_batches(train_groups, algorithm=replace(algorithm, filter_zero_variance=True))
    assert [group.prompt.sample_id for group in part] == ["right and wrong", "no accuracy of one"]


def test_each_group_keeps_its_own_rewards_accuracies_and_rollouts(tmp_path: Path) -> None:
    algorithm = configure(tmp_path, "algorithm.advantage=dr_grpo").algorithm
    algorithm = replace(algorithm, importance_cap=2.0)
    groups = [
        Group(9, "a", (rollout(log_probs=[-1.0]), rollout(log_probs=[-2.0, -3.0]))),
        Group(4, "b", (rollout(log_probs=[-4.0]), rollout(log_probs=[-5.0]))),
    ]
    prompts = [PromptHandle("a", "a", 4, None), PromptHandle("b", "b", 7, None)]
    scores = [[shaped(1.0, 1.0), shaped(0.0, 0.0)], [shaped(0.5, 0.0), shaped(0.5, 3.0)]]
    first, second = with_advantages(groups, prompts, scores, algorithm=algorithm, reward_range=(0.0, 4.0))
    assert (first.group_id, first.prompt.num_tokens) == (9, 4)
    assert (second.group_id, second.prompt.num_tokens) == (4, 7)
    assert first.advantages is not None and second.advantages is not None
    # Rewards 2 and 0, 0.5 and 3.5, each less its group's mean.
    np.testing.assert_allclose(first.advantages, [1.0, -1.0])
    np.testing.assert_allclose(second.advantages, [-1.5, 1.5])
    assert first.accuracies is not None and first.accuracies.tolist() == [1.0, 0.0]
    assert second.accuracies is not None and second.accuracies.tolist() == [0.5, 0.5]
    assert first.rollout_log_probs is not None
    assert [values.tolist() for values in first.rollout_log_probs] == [[-1.0], [-2.0, -3.0]]
    assert [ids.tolist() for ids in first.response_ids] == [[0], [0, 1]]
    uncorrected = with_advantages(
        groups, prompts, scores, algorithm=replace(algorithm, importance_cap=None), reward_range=(0.0, 4.0)
    )
    assert [group.rollout_log_probs for group in uncorrected] == [None, None]


def test_a_steps_row_holds_what_its_parts_tell(tmp_path: Path) -> None:
    run = configure(tmp_path, "algorithm.num_steps=3", "logging.rollouts=true", "algorithm.kl_coefficient=0.1")
    run_loop(run, Fakes())
    rows = read_metrics(tmp_path)
    # Two prompts a step of eight samples.
    assert [row["data/epoch"] for row in rows] == [0.25, 0.5, 0.75]
    assert [row["perf/driver_received_bytes"] for row in rows] == [7, 7, 7]
    assert [row["data/encodings_per_clip"] for row in rows] == [1.0, 1.0, 1.0]
    assert len(list((tmp_path / "rollouts").glob("step_*.jsonl"))) == 3
    assert rows[0]["actor/kl"] == 0.0


def test_without_a_log_of_rollouts_none_is_written(tmp_path: Path) -> None:
    run_loop(configure(tmp_path, "algorithm.num_steps=1", "logging.rollouts=false"), Fakes())
    assert not (tmp_path / "rollouts").exists()


def test_the_last_step_has_a_checkpoint_and_each_tells_the_next_sample(tmp_path: Path) -> None:
    run_loop(configure(tmp_path, "checkpoint.every_steps=4", "checkpoint.keep=9"), Fakes())
    found = sorted((tmp_path / "checkpoints").glob("step_*"))
    states = [json.loads((path / "manifest.json").read_text())["state"] for path in found]
    # Steps 4 and 6, two samples a step.
    assert states == [
        {"policy_version": 4, "skipped": 0, "next_sample": 8},
        {"policy_version": 6, "skipped": 0, "next_sample": 12},
    ]


@pytest.mark.parametrize("overrides", [["checkpoint.every_steps=0"], ["checkpoint.every_steps=2"]])
def test_a_judge_that_is_away_from_the_start_leaves_no_checkpoint(tmp_path: Path, overrides: list[str]) -> None:
    class Unreachable(Fakes):
        def score(
            self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
        ) -> list[list[Scored]]:
            raise JudgeDown("the judge at http://x has been away")

    with pytest.raises(JudgeDown):
        run_loop(configure(tmp_path, *overrides), Unreachable())
    assert Checkpoints(tmp_path, keep=2).newest() is None


def test_rollouts_are_sampled_as_configured(tmp_path: Path) -> None:
    overrides = ["rollout.temperature=0.5", "rollout.top_p=0.75", "rollout.top_k=9", "rollout.max_response_tokens=33"]
    assert sampling_of(configure(tmp_path, *overrides, "algorithm.group_size=5")) == SamplingSpec(
        temperature=0.5, top_p=0.75, top_k=9, max_tokens=33, group_size=5
    )


def test_rows_follow_the_prompts_that_they_became() -> None:
    rows = samples(3)
    prompts = [PromptHandle(name, "c", 4, None) for name in ("s2", "s0")]
    assert rows_of(prompts, rows) == [rows[2], rows[0]]


def test_metrics_of_updates_are_averaged_and_none_come_from_no_update() -> None:
    assert mean_of([{"a": 1.0, "b": -2.0}, {"a": 4.0, "b": 2.0}]) == {"a": 2.5, "b": 0.0}
    assert mean_of([]) == {}


def test_a_step_without_a_single_verdict_trains_on_nothing_and_goes_on(tmp_path: Path) -> None:
    class Unjudged(Fakes):
        def score(
            self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
        ) -> list[list[Scored]]:
            is_first = "score" not in self.calls
            return [
                [scored(None) if is_first else one for one in group]
                for group in super().score(groups, samples, step=step)
            ]

    fakes = Unjudged()
    run_loop(configure(tmp_path, "algorithm.num_steps=2"), fakes)
    assert fakes.calls.count("update") == 1
    first, second = read_metrics(tmp_path)
    assert (first["actor/policy_version"], second["actor/policy_version"]) == (0, 1)
    assert first["reward/failure_frac"] == 1 and "reward/mean" not in first
    assert first["reward/judge_calls"] == 3


def test_a_judge_that_stays_away_costs_no_finished_step(tmp_path: Path) -> None:
    class Abandoned(Fakes):
        def score(
            self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
        ) -> list[list[Scored]]:
            if self.calls.count("score") == 3:
                raise JudgeDown("the judge at http://x has been away")
            return super().score(groups, samples, step=step)

    run, fakes = configure(tmp_path, "checkpoint.every_steps=100"), Fakes()
    with pytest.raises(JudgeDown):
        run_loop(run, Abandoned())
    newest = Checkpoints(tmp_path, keep=2).newest()
    assert newest is not None and newest.step == 3
    run_loop(run, fakes)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert fakes.calls.count("score") == 3


def test_a_batch_is_split_into_updates_that_use_every_group_once(tmp_path: Path) -> None:
    algorithm = replace(configure(tmp_path).algorithm, updates_per_batch=3)
    groups = [TrainGroup(i, PromptHandle("s", "s", 4, None), (np.arange(2),)) for i in range(7)]
    parts = update_batches(groups, algorithm=algorithm)
    assert [len(part) for part in parts] == [3, 2, 2]
    assert [group.group_id for part in parts for group in part] == list(range(7))


def test_evaluations_belong_to_the_policy_a_step_begins_with_and_the_last_one_to_the_end(tmp_path: Path) -> None:
    fakes = Fakes()
    run = configure(
        tmp_path,
        "algorithm.num_steps=3",
        "data.shuffle=false",
        "evaluation.every_steps=2",
        "data.validation_file=held.json",
    )
    run_loop(run, fakes)
    held = [call for call in fakes.calls if "held" in call and call.startswith("generate")]
    assert held == [f"generate v{version} held-s0,held-s1" for version in (0, 2, 3)]
    rows = read_metrics(tmp_path)
    assert [row.get("evaluation/steps_done") for row in rows] == [0.0, None, 2.0]
    assert rows[2]["final_evaluation/steps_done"] == 3.0
    assert (
        rows[0]["evaluation/accuracy"] == 0.0 and "timing_s/evaluate" in rows[0] and "timing_s/evaluate" not in rows[1]
    )
    for steps_done in (0, 2, 3):
        folder = tmp_path / f"evaluation/step_{steps_done:06d}/greedy"
        assert json.loads((folder / "summary.json").read_text())["card"] == {"steps_done": steps_done}
        assert len((folder / "samples.jsonl").read_text().splitlines()) == 2


def test_a_resumed_run_evaluates_at_the_same_steps(tmp_path: Path) -> None:
    held = ("evaluation.every_steps=2", "data.validation_file=held.json", "data.shuffle=false")
    run_loop(configure(tmp_path, "algorithm.num_steps=2", *held), Fakes())
    again = Fakes(weight=2.0, served=2.0)
    run_loop(configure(tmp_path, "algorithm.num_steps=4", *held), again)
    generated = [call for call in again.calls if "held" in call and call.startswith("generate")]
    assert generated == ["generate v2 held-s0,held-s1", "generate v4 held-s0,held-s1"]


@pytest.mark.parametrize(
    ("phase", "whole_steps"), [("generate", 2), ("score", 2), ("log_probs", 2), ("update", 3), ("sync", 3)]
)
def test_a_signal_costs_no_whole_step_and_no_half_of_one(tmp_path: Path, phase: str, whole_steps: int) -> None:
    class Signalled(Fakes):
        """Gets SIGTERM in the third step's phase."""

        def __getattribute__(self, name: str) -> Any:
            names = {"update_weights": "sync"}
            if names.get(name, name) == phase and object.__getattribute__(self, "calls").count("prepare") == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return object.__getattribute__(self, name)

    run, fakes = configure(tmp_path, "checkpoint.every_steps=100"), Signalled()
    with pytest.raises(Stopped):
        run_loop(run, fakes)
    newest = Checkpoints(tmp_path, keep=2).newest()
    assert newest is not None and newest.step == whole_steps
    # Of the learner's one weight, to which each whole step adds 1.
    assert (newest.path / "weight").read_text() == f"{whole_steps:.1f}"
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, whole_steps + 1))


def test_a_run_out_of_time_stops_before_the_step_with_what_it_has(tmp_path: Path) -> None:
    run, fakes = configure(tmp_path, "checkpoint.every_steps=100", "checkpoint.max_hours=1"), Fakes()

    class Slow(Fakes):
        def score(
            self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
        ) -> list[list[Scored]]:
            if self.calls.count("score") == 1:
                clock[0] += 2000
            return super().score(groups, samples)

    clock = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: clock[0])
        patch.setattr(time, "perf_counter", lambda: clock[0])
        with pytest.raises(Stopped) as stop:
            run_loop(run, Slow())
    # The second step took 2,000 s; a third as long would end after 3,600.
    assert stop.value.exit_code == 0
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    run_loop(run, fakes)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_keeps_no_checkpoints_writes_none_when_it_is_stopped(tmp_path: Path) -> None:
    class Signalled(Fakes):
        def score(
            self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
        ) -> list[list[Scored]]:
            if self.calls.count("score") == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return super().score(groups, samples)

    with pytest.raises(Stopped):
        run_loop(configure(tmp_path, "checkpoint.every_steps=0"), Signalled())
    assert Checkpoints(tmp_path, keep=2).newest() is None


def test_tokens_a_second_and_the_memory_of_every_part_are_logged(tmp_path: Path) -> None:
    run_loop(configure(tmp_path, "algorithm.num_steps=1"), Fakes())
    [row] = read_metrics(tmp_path)
    # 2 prompts of group_size responses of two tokens; the fake's update says 10.
    sampled = 2 * configure(tmp_path).algorithm.group_size * 2
    assert row["perf/rollout_tokens_per_s"] == pytest.approx(sampled / row["timing_s/generate"])
    assert row["perf/learner_tokens_per_s"] == pytest.approx(10 / row["timing_s/update"])
    for part in ("video", "rollout", "reward", "learner", "reference"):
        assert row[f"perf/{part}_rss_mib"] == 5.0
    assert row["perf/driver_rss_mib"] > 10
