"""The learner through Ray and verl: one rank and two, on a tiny Qwen2.5-VL with video."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import packed_prompts
import pytest
from learner_calls import (
    old_log_probs,
    plain_log_probs,
    process_of,
    save,
    token_values,
    update,
    weights_of,
    with_rollouts,
)
from learner_configs import learner_config, model_config
from packed_prompts import LENGTHS

from videor2_rl.config.errors import ConfigError
from videor2_rl.config.sections import ModelConfig, ReferenceConfig
from videor2_rl.run.checkpoint import Checkpoints
from videor2_rl.run.storage import full_disk
from videor2_rl.training.gap import LogProbGapError
from videor2_rl.types import TrainGroup
from workers.errors import RankLost
from workers.learner import beats

if TYPE_CHECKING:
    from workers.learner.learner import Learner

pytestmark = [pytest.mark.slow, pytest.mark.ray]

LEARNER = learner_config(lr_schedule="cosine", min_lr_frac=0.1, weight_decay=0.01, visual_cache_mib=64)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    from cluster_configs import cluster_config

    from workers.cluster import connected
    from workers.learner.verl_config import learner_env

    # A short path: Ray's sockets live under it, and their names are limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray_") as folder:
        config = cluster_config(folder, object_store_mib=256)
        with connected(config, worker_env={**learner_env("cpu"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}):
            yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    from videor2_rl.demo.model import make_model

    folder = tmp_path_factory.mktemp("model")
    make_model(folder, seed=0)
    return model_config(str(folder))


@pytest.fixture(scope="module")
def groups(cluster: None, model: ModelConfig) -> list[TrainGroup]:
    """Five groups of four responses, their prompts in Ray's object store."""
    import ray

    return packed_prompts.make_groups(model.path, put=ray.put)


@pytest.fixture(scope="module")
def one_rank(groups: list[TrainGroup], model: ModelConfig) -> Iterator[Learner]:
    from workers.learner.learner import Learner

    learner = Learner(LEARNER, model, total_steps=10, seed=0)
    yield learner
    learner.shutdown()


@pytest.fixture(scope="module")
def two_ranks(groups: list[TrainGroup], model: ModelConfig) -> Iterator[Learner]:
    """Small micro-batches, unequally many: rank 1 gets repeats that weigh nothing; activations recomputed."""
    from workers.learner.learner import Learner

    config = replace(LEARNER, num_ranks=2, max_tokens_per_micro_batch=70, gradient_checkpointing=True)
    learner = Learner(config, model, total_steps=10, seed=0)
    yield learner
    learner.shutdown()


@pytest.fixture(scope="module")
def ready(one_rank: Learner, model: ModelConfig, groups: list[TrainGroup]) -> list[TrainGroup]:
    """The groups with old log-probs of the learner and those of a reference of the same weights."""
    from workers.learner.reference import Reference

    reference = Reference(
        ReferenceConfig(num_ranks=1, cpus_per_rank=1, gpus_per_rank=0, cpu_offload=False),
        model,
        backend="fsdp2",
        max_tokens_per_micro_batch=100,
    )
    begun = reference.begin_log_probs(groups, temperature=0.9)
    old = one_rank.log_probs(groups, temperature=0.9)
    ref = begun.result()
    reference.shutdown()
    return [
        replace(group, old_log_probs=o.at_temperature, ref_log_probs=r.at_temperature)
        for group, o, r in zip(groups, old, ref, strict=True)
    ]


@pytest.fixture(autouse=True)
def start_state(one_rank: Learner, two_ranks: Learner, tmp_path_factory: pytest.TempPathFactory) -> dict[Learner, Path]:
    """Every test begins with the checkpoint's weights and a fresh optimiser, by saving and restoring."""
    folders = {
        learner: tmp_path_factory.getbasetemp() / f"start_{name}"
        for name, learner in (("one", one_rank), ("two", two_ranks))
    }
    for learner, folder in folders.items():
        if folder.exists():
            learner.load(folder)
        else:
            save(learner, folder)
    return folders


def test_log_probs_equal_plain_transformers_in_the_order_given(
    one_rank: Learner, two_ranks: Learner, groups: list[TrainGroup], model: ModelConfig
) -> None:
    order = [groups[i] for i in (3, 0, 4, 2, 1)]
    for learner in (one_rank, two_ranks):
        found = learner.log_probs(order, temperature=0.9)
        assert [log_probs.group_id for log_probs in found] == [3, 0, 4, 2, 1]
        for group, log_probs in zip(order, found, strict=True):
            for temperature, values in ((0.9, log_probs.at_temperature), (1.0, log_probs.raw)):
                for one, other in zip(plain_log_probs(model, group, temperature=temperature), values, strict=True):
                    np.testing.assert_allclose(other, one, atol=1e-5, rtol=0)


def test_embeddings_stand_in_for_pixels_and_each_clip_is_encoded_once(
    one_rank: Learner, two_ranks: Learner, ready: list[TrainGroup]
) -> None:
    """With embeddings the pixels may be anything: no pass of learner or update looks at them."""
    import ray

    def blank(group: TrainGroup) -> TrainGroup:
        prompt = ray.get(group.prompt.ref)
        ref = ray.put(replace(prompt, patches=np.zeros_like(prompt.patches)))
        return replace(group, prompt=replace(group.prompt, ref=ref))

    for learner, other in ((one_rank, two_ranks), (two_ranks, one_rank)):
        prompts = learner.encoder.encode([group.prompt for group in ready])
        assert learner.encoder.metrics() == {
            "data/clips_encoded": 5,
            "data/clips_reused": 0,
            "data/encodings_per_clip": 1,
        }
        encoded = [blank(replace(group, prompt=p)) for group, p in zip(ready, prompts, strict=True)]
        from_pixels, found = other.log_probs(ready, temperature=0.9), other.log_probs(encoded, temperature=0.9)
        for one, two in zip(from_pixels, found, strict=True):
            for expected, values in zip(one.at_temperature, two.at_temperature, strict=True):
                # Some units in the last place of a float32 near 9; which, depends on the CPU.
                np.testing.assert_allclose(values, expected, atol=4e-6, rtol=0)
        metrics = update(learner, encoded)
        for name, value in update(other, ready).items():
            assert metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
        # The tower is frozen, so after an update, too, the embeddings are what they were.
        assert [p.visual for p in learner.encoder.encode([group.prompt for group in ready])] == [
            p.visual for p in prompts
        ]
        assert learner.encoder.metrics()["data/clips_reused"] == 5


def test_first_update_has_ratio_one_and_no_divergence_from_the_reference(
    one_rank: Learner, ready: list[TrainGroup]
) -> None:
    metrics = update(one_rank, ready)
    assert metrics["actor/ratio_mean"] == pytest.approx(1, abs=1e-6)
    assert metrics["actor/ratio_max"] == pytest.approx(1, abs=1e-5)
    assert metrics["actor/kl"] == pytest.approx(0, abs=1e-8)
    assert metrics["actor/clip_frac"] == 0
    assert metrics["actor/tokens"] == sum(map(sum, LENGTHS))
    # With ratio 1 the loss is minus the mean advantage over tokens.
    by_hand = -np.average(np.concatenate([g.advantages for g in ready]), weights=np.concatenate(LENGTHS))
    assert metrics["actor/pg_loss"] == pytest.approx(by_hand, abs=1e-6)
    assert metrics["actor/lr"] == pytest.approx(1e-3)
    assert 0 < metrics["actor/entropy"] < np.log(1000)
    assert metrics["actor/skipped_update"] == 0


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean"])
def test_ranks_micro_batches_and_order_do_not_change_the_update(
    one_rank: Learner, two_ranks: Learner, ready: list[TrainGroup], aggregation: str
) -> None:
    shuffled = [ready[i] for i in (2, 4, 1, 0, 3)]
    for step in range(2):
        one = update(one_rank, ready, loss_aggregation=aggregation)
        two = update(two_ranks, shuffled, loss_aggregation=aggregation)
        assert one.keys() == two.keys()
        for name in one:
            assert two[name] == pytest.approx(one[name], rel=1e-5, abs=2e-6), (step, name)
    first, second = weights_of(one_rank), weights_of(two_ranks)
    assert first.keys() == second.keys()
    for name in first:
        # Adam turns rounding noise of a zero gradient into steps of the learning rate: a key's bias has nothing else,
        # and of other weights it meets a few in 10,000, which ones depends on the CPU.
        if not name.endswith("k_proj.bias"):
            assert np.mean(np.abs(second[name] - first[name]) > 1e-5) < 5e-4, name


def test_a_group_shared_out_over_ranks_and_passes_gives_the_same_update(
    one_rank: Learner, two_ranks: Learner, ready: list[TrainGroup]
) -> None:
    """One group of four responses, of which each of two ranks takes two."""
    group = [ready[2]]
    one, two = update(one_rank, group), update(two_ranks, group)
    # The second rank computes the prompt too.
    assert two.pop("actor/packed_tokens") == one.pop("actor/packed_tokens") + group[0].prompt.num_tokens
    for name in one:
        assert two[name] == pytest.approx(one[name], rel=1e-5, abs=2e-6), name
    for first, second in zip(
        one_rank.log_probs(ready, temperature=1.0), two_ranks.log_probs(ready, temperature=1.0), strict=True
    ):
        assert first.group_id == second.group_id
        for values, others in zip(first.raw, second.raw, strict=True):
            np.testing.assert_allclose(others, values, atol=1e-4)


def test_responses_out_of_the_loss_do_not_count(one_rank: Learner, ready: list[TrainGroup]) -> None:
    in_loss = [np.array([True, False, True, True])] + [np.ones(4, dtype=bool)] * 3 + [np.zeros(4, dtype=bool)]
    marked = [replace(group, in_loss=mask) for group, mask in zip(ready, in_loss, strict=True)]
    metrics = update(one_rank, marked)
    kept = np.concatenate(in_loss)
    advantages = np.concatenate([group.advantages for group in ready])[kept]
    lengths = np.concatenate(LENGTHS)[kept]
    assert metrics["actor/tokens"] == lengths.sum()
    assert metrics["actor/pg_loss"] == pytest.approx(-np.average(advantages, weights=lengths), abs=1e-6)
    with pytest.raises(ValueError, match="in the loss"):
        update(one_rank, [replace(group, in_loss=np.zeros(4, dtype=bool)) for group in ready])


def test_stale_rollouts_are_weighted_up_to_the_cap(one_rank: Learner, ready: list[TrainGroup]) -> None:
    stale = [
        replace(group, rollout_log_probs=tuple(values - np.float32(1) for values in old_log_probs(group)))
        for group in ready
    ]
    plain = update(one_rank, ready, kl_coefficient=0.0)
    weighted = update(one_rank, stale, kl_coefficient=0.0, importance_cap=2.0)
    assert weighted["actor/importance_weight"] == pytest.approx(2.0)
    assert "actor/kl" not in plain


def test_saving_and_loading_gives_the_same_next_step(
    one_rank: Learner, two_ranks: Learner, ready: list[TrainGroup], tmp_path: Path
) -> None:
    for name, learner in (("one", one_rank), ("two", two_ranks)):
        update(learner, ready)
        save(learner, tmp_path / name)
        saved = weights_of(learner)
        expected, weights = update(learner, ready), weights_of(learner)
        update(learner, ready)
        learner.load(tmp_path / name)
        assert update(learner, ready) == expected
        for key, value in weights_of(learner).items():
            np.testing.assert_array_equal(value, weights[key])
    # One rank takes over what two have written.
    one_rank.load(tmp_path / "two")
    for key, value in weights_of(one_rank).items():
        np.testing.assert_array_equal(value, saved[key])
    assert update(one_rank, ready)["actor/loss"] == pytest.approx(expected["actor/loss"], rel=1e-4, abs=1e-6)


def test_frozen_parts_stay_bit_for_bit(one_rank: Learner, two_ranks: Learner, ready: list[TrainGroup]) -> None:
    for learner in (one_rank, two_ranks):
        before = weights_of(learner)
        update(learner, ready)
        after = weights_of(learner)
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        assert {name for name in before if not name.startswith("model.visual.")} == changed
        assert "lm_head.weight" not in before


def test_sft_loss_is_the_mean_over_all_response_tokens(
    one_rank: Learner, two_ranks: Learner, groups: list[TrainGroup], model: ModelConfig
) -> None:
    rows = [replace(group, response_ids=group.response_ids[:1], advantages=None) for group in groups]
    log_probs = [plain_log_probs(model, row, temperature=1.0)[0] for row in rows]
    by_hand = -np.concatenate(log_probs).mean()
    losses = []
    for learner in (one_rank, two_ranks):
        assert learner.sft_loss(rows) == pytest.approx(by_hand, abs=1e-5)
        metrics = learner.sft_step(rows)
        assert metrics["sft/loss"] == pytest.approx(by_hand, abs=1e-5)
        assert metrics["sft/tokens"] == sum(len(values) for values in log_probs)
        losses.append(learner.sft_loss(rows))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] < by_hand
    # Fewer samples than ranks.
    assert two_ranks.sft_loss(rows[:1]) == pytest.approx(one_rank.sft_loss(rows[:1]), abs=1e-5)


def test_exported_folder_is_an_ordinary_checkpoint(
    two_ranks: Learner, ready: list[TrainGroup], groups: list[TrainGroup], model: ModelConfig, tmp_path: Path
) -> None:
    from transformers import AutoProcessor

    update(two_ranks, ready)
    two_ranks.export(tmp_path / "hf")
    exported = replace(model, path=str(tmp_path / "hf"))
    found = two_ranks.log_probs(groups[:1], temperature=1.0)[0].raw
    for one, other in zip(plain_log_probs(exported, groups[0], temperature=1.0), found, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)
    assert AutoProcessor.from_pretrained(exported.path).tokenizer is not None
    assert not list(tmp_path.glob(".partial*"))
    with pytest.raises(ConfigError, match="exists"):
        two_ranks.export(tmp_path / "hf")


def test_what_is_sent_are_the_checkpoints_weights_but_for_the_frozen_ones(
    one_rank: Learner, two_ranks: Learner, model: ModelConfig
) -> None:
    from transformers import AutoModelForImageTextToText

    network = AutoModelForImageTextToText.from_pretrained(model.path)
    stored = {name: value.numpy() for name, value in network.state_dict().items() if name != "lm_head.weight"}
    assert one_rank.weights(7).policy_version == 7
    for learner in (one_rank, two_ranks):
        sent = weights_of(learner)
        assert set(sent) == {name for name in stored if not name.startswith("model.visual.")}
        assert all(np.array_equal(values, stored[name]) for name, values in sent.items())


def test_unsplittable_losses_are_refused(one_rank: Learner, ready: list[TrainGroup]) -> None:
    with pytest.raises(ConfigError, match="policy_loss"):
        update(one_rank, ready, policy_loss="kl_cov")
    with pytest.raises(ConfigError, match="max_response_tokens"):
        update(one_rank, ready, loss_aggregation="seq-mean-token-sum-norm")


def test_an_update_without_old_log_probs_takes_them_from_its_own_pass(
    one_rank: Learner, two_ranks: Learner, ready: list[TrainGroup], start_state: dict[Learner, Path]
) -> None:
    for learner in (one_rank, two_ranks):
        own = with_rollouts(learner, ready, moved=5e-5)
        expected, weights = update(learner, ready, importance_cap=None), weights_of(learner)
        learner.load(start_state[learner])
        metrics = update(learner, own, importance_cap=None)
        assert metrics.pop("rollout/log_prob_gap_max") == pytest.approx(5e-5, rel=0.1)
        assert metrics.pop("rollout/log_prob_gap_mean") < 1e-5
        assert metrics.pop("rollout/log_prob_gap_tail") == pytest.approx(5e-5, rel=0.1)
        place = [
            int(metrics.pop(f"rollout/log_prob_gap_max_{what}")) for what in ("group", "response", "position", "token")
        ]
        ids = own[3].response_ids[2]
        assert place == [own[3].group_id, 2, len(ids) - 1, ids[-1]]
        assert 0 <= metrics.pop("rollout/kl_to_learner") < 1e-9
        assert metrics["actor/ratio_mean"] == metrics["actor/ratio_max"] == 1
        assert metrics == pytest.approx(expected, rel=1e-5, abs=2e-6)
        for name, value in weights_of(learner).items():
            if not name.endswith("k_proj.bias"):
                assert np.mean(np.abs(value - weights[name]) > 1e-5) < 5e-4, name


def test_what_an_update_found_for_each_token_is_there_for_the_log(
    one_rank: Learner, two_ranks: Learner, ready: list[TrainGroup], model: ModelConfig
) -> None:
    """Of responses in the loss, each with its place in the group as it was sampled, however they were shared out."""
    in_loss = [np.array([False, True, True, False]), *[np.ones(4, dtype=bool)] * 2]
    for learner in (one_rank, two_ranks):
        learner.take_token_values()  # of the tests before
        groups = [replace(g, in_loss=mask) for g, mask in zip(with_rollouts(learner, ready)[:3], in_loss, strict=False)]
        metrics = update(learner, groups)
        found = token_values(learner)
        kept = [(g.group_id, int(place)) for g, m in zip(groups, in_loss, strict=True) for place in np.flatnonzero(m)]
        assert sorted(found) == kept
        for group in groups:
            for place, values in enumerate(plain_log_probs(model, group, temperature=1.0)):
                if (group.group_id, place) in found:
                    one = found[group.group_id, place].log_probs
                    assert one is not None
                    np.testing.assert_allclose(one, values, atol=1e-5, rtol=0)
        entropy = np.concatenate([one.entropy for one in found.values()])
        assert metrics["actor/entropy"] == pytest.approx(entropy.mean(), rel=1e-5)
        assert token_values(learner) == {}

        update(learner, ready)
        assert {one.log_probs for one in token_values(learner).values()} == {None}


@pytest.mark.parametrize("moved", [2e-4, np.nan])
def test_a_gap_beyond_its_limit_on_one_token_of_one_rank_stops_the_update_before_anything_moves(
    one_rank: Learner,
    two_ranks: Learner,
    ready: list[TrainGroup],
    start_state: dict[Learner, Path],
    moved: float,
) -> None:
    for learner in (one_rank, two_ranks):
        own, before = with_rollouts(learner, ready, moved=moved), weights_of(learner)
        with pytest.raises(LogProbGapError, match=r"largest (2\.0.e-04|nan) at sample"):
            update(learner, own)
        for name, value in weights_of(learner).items():
            np.testing.assert_array_equal(value, before[name])
        # The next update is the one that it would have been: no gradient, moment or rate is left of the refused one.
        found = update(learner, ready)
        learner.load(start_state[learner])
        assert update(learner, ready) == found


def test_the_second_update_of_a_batch_is_measured_from_the_policy_that_generated(
    one_rank: Learner, ready: list[TrainGroup]
) -> None:
    first, second = ready[:3], ready[3:]
    assert update(one_rank, first)["actor/ratio_max"] == pytest.approx(1, abs=1e-5)
    present = one_rank.log_probs(second, temperature=0.9)
    metrics = update(one_rank, second)
    gaps = [
        now - old
        for group, log_probs in zip(second, present, strict=True)
        for now, old in zip(log_probs.at_temperature, old_log_probs(group), strict=True)
    ]
    ratios = np.exp(np.concatenate(gaps))
    assert np.abs(ratios - 1).max() > 1e-2
    assert metrics["actor/ratio_mean"] == pytest.approx(ratios.mean(), rel=1e-4)
    assert metrics["actor/ratio_max"] == pytest.approx(ratios.max(), rel=1e-4)


@pytest.mark.parametrize(("fault", "end"), [(signal.SIGKILL, "died"), (signal.SIGSTOP, "stands still")])
def test_where_a_rank_is_lost_all_are_started_anew_and_go_on_from_what_was_saved(
    two_ranks: Learner,
    ready: list[TrainGroup],
    start_state: dict[Learner, Path],
    monkeypatch: pytest.MonkeyPatch,
    fault: signal.Signals,
    end: str,
) -> None:
    monkeypatch.setattr(beats, "SILENT_S", 15.0)
    expected = update(two_ranks, ready)
    os.kill(process_of(two_ranks, rank=1), fault)
    with pytest.raises(RankLost, match=rf"learner rank .*1.* {end}"):
        update(two_ranks, ready)
    assert two_ranks._ranks.is_lost()
    two_ranks.rebuild()
    assert not two_ranks._ranks.is_lost()
    two_ranks.load(start_state[two_ranks])
    assert update(two_ranks, ready) == pytest.approx(expected)


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before_and_the_next_one_is_whole(
    one_rank: Learner, tmp_path: Path
) -> None:
    checkpoints, pid = Checkpoints(tmp_path, keep=3), process_of(one_rank)
    no_limit = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    checkpoints.begin(1, {}, one_rank)
    checkpoints.complete()
    # What a full disk is to the rank's real writes, without one: a file of it may not grow any more.
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, no_limit[1]))
    try:
        checkpoints.begin(2, {}, one_rank)
        with pytest.raises(Exception, match="File too large") as error:
            checkpoints.complete()
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, no_limit)
    assert full_disk(error.value) == "File too large"
    newest = checkpoints.newest()
    assert newest is not None and newest.step == 1
    checkpoints.begin(3, {}, one_rank)
    checkpoints.complete()
    newest = checkpoints.newest()
    assert newest is not None and newest.step == 3
    assert not list(tmp_path.glob("checkpoints/.partial_*"))


def test_a_reference_says_the_same_group_by_group_and_after_a_rank_died(
    groups: list[TrainGroup], model: ModelConfig
) -> None:
    from workers.learner.reference import Reference

    config = ReferenceConfig(num_ranks=1, cpus_per_rank=1, gpus_per_rank=0, cpu_offload=False)
    reference = Reference(config, model, backend="fsdp2", max_tokens_per_micro_batch=100)
    expected = reference.begin_log_probs(groups, temperature=0.9).result()
    begun = [reference.begin_log_probs([group], temperature=0.9) for group in groups]
    for future, together in zip(begun, expected, strict=True):
        (alone,) = future.result()
        assert alone.group_id == together.group_id
        for one, other in zip(alone.raw, together.raw, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    whole = reference._ranks
    reference.rebuild_if_lost()
    assert reference._ranks is whole
    os.kill(process_of(reference), signal.SIGKILL)
    with pytest.raises(RankLost, match=r"log-probs of 5 groups: reference rank 0 died"):
        reference.begin_log_probs(groups, temperature=0.9).result()
    reference.rebuild_if_lost()
    again = reference.begin_log_probs(groups, temperature=0.9).result()
    reference.shutdown()
    for before, after in zip(expected, again, strict=True):
        for one, other in zip(before.at_temperature, after.at_temperature, strict=True):
            np.testing.assert_array_equal(one, other)
