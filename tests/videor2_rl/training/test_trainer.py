"""The GRPO loop over fakes that satisfy its protocols: order of the parts, what is asked of them, what stops it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from loop_fakes import Begun, Fakes, configure, rollout, run_loop, scored

from rewards.types import Scored, Verdict
from videor2_rl.config.algorithm import AlgorithmConfig
from videor2_rl.config.errors import ConfigError
from videor2_rl.run.tracking import read_metrics
from videor2_rl.training.gap import LogProbGapError
from videor2_rl.training.ledger import read_ends
from videor2_rl.training.stream import sampling_of
from videor2_rl.training.trainer import (
    update_batches,
    with_advantages,
)
from videor2_rl.types import (
    Group,
    LogProbs,
    PromptHandle,
    SamplingSpec,
    TrainGroup,
    VideoSample,
)


def test_a_step_asks_its_parts_in_the_order_of_the_algorithm(tmp_path: Path) -> None:
    fakes = Fakes()
    run_loop(configure(tmp_path, "algorithm.num_steps=1", "data.shuffle=false"), fakes)
    expected = ["prepare", "encode", "generate v0 s0,s1", "begin_log_probs", "score", "ref_log_probs", "update"]
    expected += ["sync v1", "save", "finish_save"]
    assert fakes.calls == expected


def test_without_a_kl_term_no_reference_is_asked(tmp_path: Path) -> None:
    fakes = Fakes()
    run_loop(configure(tmp_path, "algorithm.num_steps=1", "algorithm.kl_coefficient=0"), fakes)
    assert "begin_log_probs" not in fakes.calls


def test_the_reference_works_while_rewards_and_old_log_probs_are_computed(tmp_path: Path) -> None:
    fakes = Fakes()
    run_loop(configure(tmp_path, "algorithm.num_steps=1", "algorithm.updates_per_batch=2"), fakes)
    phases = ["begin_log_probs", "score", "log_probs", "ref_log_probs", "update"]
    assert [call for call in fakes.calls if call in phases] == [*phases, "update"]


@pytest.mark.parametrize(
    ("overrides", "passes"),
    [
        ([], 0),
        (["model.lora.rank=4"], 0),
        (["model.lora.dropout=0.1"], 0),
        (["model.lora.rank=4", "model.lora.dropout=0.1"], 1),
        (["algorithm.updates_per_batch=2"], 1),
    ],
)
def test_old_log_probs_take_a_pass_of_their_own_only_where_the_update_does_not_give_them(
    tmp_path: Path, overrides: list[str], passes: int
) -> None:
    trained: list[TrainGroup] = []

    class Recording(Fakes):
        def update(
            self,
            groups: Sequence[TrainGroup],
            *,
            algorithm: AlgorithmConfig,
            temperature: float,
            is_tempered: bool = False,
        ) -> dict[str, float]:
            trained.extend(groups)
            return super().update(groups, algorithm=algorithm, temperature=temperature)

    fakes = Recording(gap=0.0625)
    run_loop(configure(tmp_path, "algorithm.num_steps=1", "algorithm.kl_coefficient=0", *overrides), fakes)
    assert fakes.calls.count("log_probs") == passes
    assert [group.old_log_probs is not None for group in trained] == [passes == 1] * 2
    assert all(group.rollout_log_probs is not None for group in trained)
    [row] = read_metrics(tmp_path)
    assert row["rollout/log_prob_gap_max"] == 0.0625
    assert ("timing_s/old_log_probs" in row) == (passes == 1)


def test_the_gap_is_measured_in_a_step_that_trains_on_nothing_too(tmp_path: Path) -> None:
    """All responses are equally accurate, and such groups are left out."""

    class Equal(Fakes):
        def score(
            self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
        ) -> list[list[Scored]]:
            return [[scored(1.0) for _ in group.rollouts] for group in groups]

    overrides = ["algorithm.num_steps=1", "algorithm.kl_coefficient=0", "algorithm.filter_zero_variance=true"]
    run_loop(configure(tmp_path / "near", *overrides), Equal(gap=0.0625))
    [row] = read_metrics(tmp_path / "near")
    assert row["rollout/log_prob_gap_max"] == 0.0625 and "actor/loss" not in row
    with pytest.raises(LogProbGapError):
        run_loop(configure(tmp_path / "far", *overrides), Equal(gap=0.75))


def test_each_step_samples_with_the_weights_of_the_update_before(tmp_path: Path) -> None:
    fakes = Fakes()
    run_loop(configure(tmp_path, "algorithm.updates_per_batch=2"), fakes)
    versions = [call.split()[1] for call in fakes.calls if call.startswith("generate")]
    assert versions == ["v0", "v2", "v4", "v6", "v8", "v10"]
    assert fakes.steps == [1, 2, 3, 4, 5, 6]


def test_a_sample_that_cannot_be_used_is_left_out_and_the_step_goes_on(tmp_path: Path) -> None:
    fakes = Fakes(skip=frozenset({"s1"}))
    run_loop(configure(tmp_path, "algorithm.num_steps=4", "data.shuffle=false", "data.max_skipped_frac=0.2"), fakes)
    generated = [call.split()[-1] for call in fakes.calls if call.startswith("generate")]
    assert generated == ["s0", "s2,s3", "s4,s5", "s6,s7"]
    assert read_metrics(tmp_path)[-1]["data/skipped"] == 1


def test_a_step_without_a_usable_sample_is_passed_over_and_teaches_nothing(tmp_path: Path) -> None:
    fakes = Fakes(skip=frozenset({"s2", "s3"}))
    overrides = ["algorithm.num_steps=4", "data.shuffle=false", "data.max_skipped_frac=0.25"]
    run_loop(configure(tmp_path, *overrides), fakes)
    assert [call for call in fakes.calls if call.startswith(("generate", "update", "sync"))] == [
        *("generate v0 s0,s1", "update", "sync v1"),
        *("generate v1 s4,s5", "update", "sync v2"),
        *("generate v2 s6,s7", "update", "sync v3"),
    ]
    metrics = read_metrics(tmp_path)
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    assert [row["actor/policy_version"] for row in metrics] == [1, 1, 2, 3]
    assert [row["data/skipped"] for row in metrics] == [0, 2, 2, 2]
    assert "reward/mean" in metrics[0] and "reward/mean" not in metrics[1]
    assert not (tmp_path / "rollouts/step_000002.jsonl").exists()


def test_a_resumed_run_passes_the_same_step_over(tmp_path: Path) -> None:
    # Checkpoints after every second step: the empty one is the last before the first of them, and the first after.
    overrides = ["data.shuffle=false", "data.max_skipped_frac=0.5"]
    for skip, folder in ((("s2", "s3"), tmp_path / "a"), (("s4", "s5"), tmp_path / "b")):
        whole, parts = folder / "whole", folder / "parts"
        run_loop(configure(whole, "algorithm.num_steps=4", *overrides), once := Fakes(skip=frozenset(skip)))
        first = Fakes(skip=frozenset(skip))
        run_loop(configure(parts, "algorithm.num_steps=2", *overrides), first)
        second = Fakes(skip=frozenset(skip))
        run_loop(configure(parts, "algorithm.num_steps=4", *overrides), second)
        generated = [call for fakes in (first, second) for call in fakes.calls if call.startswith("generate")]
        assert generated == [call for call in once.calls if call.startswith("generate")]
        assert second.weight == once.weight == 3.0
        assert [row["data/skipped"] for row in read_metrics(parts)] == [
            row["data/skipped"] for row in read_metrics(whole)
        ]


def test_too_many_samples_that_cannot_be_used_still_end_the_run(tmp_path: Path) -> None:
    fakes = Fakes(skip=frozenset({"s2", "s3"}))
    with pytest.raises(ConfigError, match="max_skipped_frac"):
        run_loop(configure(tmp_path, "data.shuffle=false", "data.max_skipped_frac=0.2"), fakes)


def test_weights_that_no_update_changed_are_not_sent(tmp_path: Path) -> None:
    class Equal(Fakes):
        """Every answer is right: the filter leaves no group."""

        def score(
            self, groups: Sequence[Group], samples: Sequence[VideoSample], *, step: int | None = None
        ) -> list[list[Scored]]:
            return [[scored(1.0) for _ in group.rollouts] for group in groups]

    fakes = Equal()
    run_loop(configure(tmp_path, "algorithm.num_steps=2", "algorithm.filter_zero_variance=true"), fakes)
    assert not [call for call in fakes.calls if call.startswith(("update", "sync"))]
    assert [row["actor/policy_version"] for row in read_metrics(tmp_path)] == [0, 0]


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
    assert asked == [([0], 5), ([2, 3], 5), ([5], 5)]


def test_the_update_gets_tempered_log_probs_of_learner_and_reference(tmp_path: Path) -> None:
    trained: list[TrainGroup] = []

    class Tempered(Fakes):
        """Learner and reference give values of their own, at temperature 1 those of the rollouts."""

        def log_probs(self, groups: Sequence[TrainGroup], *, temperature: float) -> list[LogProbs]:
            return self._shifted(groups, -10.0 * temperature)

        def begin_log_probs(self, groups: Sequence[TrainGroup], *, temperature: float) -> Begun:
            return Begun(self, self._shifted(groups, -20.0 * temperature))

        def _shifted(self, groups: Sequence[TrainGroup], shift: float) -> list[LogProbs]:
            raw = np.array([-1.0, -2.0], dtype=np.float32)
            return [
                LogProbs(
                    g.group_id,
                    at_temperature=tuple(raw + shift - i for i, _ in enumerate(g.response_ids)),
                    raw=(raw,) * len(g.response_ids),
                )
                for g in groups
            ]

        def update(
            self,
            groups: Sequence[TrainGroup],
            *,
            algorithm: AlgorithmConfig,
            temperature: float,
            is_tempered: bool = False,
        ) -> dict[str, float]:
            assert temperature == 0.5
            trained.extend(groups)
            return super().update(groups, algorithm=algorithm, temperature=temperature)

    updates = ["algorithm.num_steps=1", "algorithm.updates_per_batch=2"]
    run_loop(configure(tmp_path, *updates, "rollout.temperature=0.5"), Tempered())
    assert len(trained) == 2
    for group in trained:
        assert group.old_log_probs is not None and group.ref_log_probs is not None
        assert [values.tolist() for values in group.old_log_probs] == [[-6.0, -7.0], [-7.0, -8.0]]
        assert [values.tolist() for values in group.ref_log_probs] == [[-11.0, -12.0], [-12.0, -13.0]]
    # exp(d) - 1 - d with d = reference - learner = -5.
    assert read_metrics(tmp_path)[0]["actor/kl"] == pytest.approx(math.exp(-5) + 4)


def test_a_gap_between_engine_and_learner_stops_the_run_before_the_update(tmp_path: Path) -> None:
    for updates in (1, 2):
        fakes = Fakes(gap=0.6)
        with pytest.raises(LogProbGapError, match=r"mean 3\.00e-01 nats, more than algorithm.max_log_prob_gap_mean"):
            run_loop(configure(tmp_path / str(updates), f"algorithm.updates_per_batch={updates}"), fakes)
        assert fakes.weight == 0 and "sync v1" not in fakes.calls


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


def test_rollouts_are_sampled_as_configured(tmp_path: Path) -> None:
    overrides = ["rollout.temperature=0.5", "rollout.top_p=0.75", "rollout.top_k=9", "rollout.max_response_tokens=33"]
    assert sampling_of(configure(tmp_path, *overrides, "algorithm.group_size=5")) == SamplingSpec(
        temperature=0.5, top_p=0.75, top_k=9, max_tokens=33, group_size=5
    )


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
    assert [(ends.trained, ends.filtered) for _, ends in read_ends(tmp_path)] == [
        ([], {0: "no_reward", 1: "no_reward"}),
        ([2, 3], {}),
    ]


def test_a_batch_is_split_into_updates_that_use_every_group_once(tmp_path: Path) -> None:
    algorithm = replace(configure(tmp_path).algorithm, updates_per_batch=3)
    groups = [TrainGroup(i, PromptHandle("s", "s", 4, None), (np.arange(2),)) for i in range(7)]
    parts = update_batches(groups, algorithm=algorithm)
    assert [len(part) for part in parts] == [3, 2, 2]
    assert [group.group_id for part in parts for group in part] == list(range(7))
