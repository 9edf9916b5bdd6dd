"""Losses of packed micro-batches: the papers' formulas in plain loops, and independence of how a batch is split."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from learner_configs import algorithm_config
from torch import Tensor

import conf
from videor2_rl.app import compose_run
from videor2_rl.config.algorithm import AlgorithmConfig, LossAggregation
from videor2_rl.config.sections import GrpoRun
from videor2_rl.model.packing import MicroBatch, PackedBatch, only_in_loss
from videor2_rl.model.token_scores import TokenScores, token_scores
from videor2_rl.training.gap import gap_metrics, gap_of, measure_gap
from videor2_rl.types import Group, LogProbs, PromptHandle, Rollout, TrainGroup

pytestmark = pytest.mark.slow

VOCABULARY = 12
ALGORITHM = algorithm_config(prompts_per_step=3, group_size=2, clip_low=0.1, kl_coefficient=0.1, importance_cap=1.5)


def a_group(rng: np.random.Generator, group_id: int, lengths: tuple[int, ...]) -> TrainGroup:
    def log_probs() -> tuple[np.ndarray, ...]:
        return tuple(-rng.uniform(1.5, 3.5, n).astype(np.float32) for n in lengths)

    return TrainGroup(
        group_id=group_id,
        prompt=PromptHandle("s", "c", 3, None),
        response_ids=tuple(rng.integers(0, VOCABULARY, n) for n in lengths),
        advantages=rng.normal(size=len(lengths)).astype(np.float32),
        old_log_probs=log_probs(),
        ref_log_probs=log_probs(),
        rollout_log_probs=log_probs(),
    )


def scores_of(logits: Tensor, targets: Tensor, *, temperature: float) -> TokenScores:
    """Those of a head whose logits are its hidden states."""
    return token_scores(logits, torch.eye(logits.shape[1]), targets, temperature=temperature)


def run(ranks: list[list[MicroBatch]], logits: dict[int, torch.Tensor], algorithm: AlgorithmConfig) -> Any:
    """Metrics and the gradient with respect to the logits, averaged over ranks as FSDP does."""
    from workers.learner import losses
    from workers.learner.verl_config import UpdateSpec, actor_config

    counted = [g for batches in ranks for batch in batches if batch.counts for g in batch.groups]
    lengths = [len(ids) for group in counted for ids in group.response_ids]
    spec = UpdateSpec(algorithm, 0.7, sum(lengths), len(lengths), num_ranks=len(ranks), max_response_tokens=16)
    leaves = {group_id: values.clone().requires_grad_() for group_id, values in logits.items()}
    sums, gaps = [], []
    for batches in ranks:
        parts = []
        for batch in batches:
            ids = [ids for group in batch.groups for ids in group.response_ids]
            # The losses read two fields of it.
            targets = torch.from_numpy(np.concatenate(ids))
            packed = cast(PackedBatch, SimpleNamespace(response_lengths=tuple(map(len, ids)), target_ids=targets))
            rows = torch.cat([leaves[group.group_id] for group in batch.groups])
            scores = scores_of(rows, targets, temperature=spec.temperature)
            loss, part = losses.policy_loss(scores, packed, batch, spec=spec, config=actor_config(spec))
            (loss / len(ranks)).backward()
            parts.append(part)
        sums.append(losses.to_sums(parts))
        gaps += [part.get("gap") for part in parts]
    # On real ranks these are gathered.
    metrics = {**losses.update_metrics(sums), **gap_metrics(gap_of(gaps))}
    return metrics, {group_id: leaf.grad for group_id, leaf in leaves.items()}


@pytest.fixture
def groups() -> list[TrainGroup]:
    rng = np.random.default_rng(0)
    return [a_group(rng, index, lengths) for index, lengths in enumerate([(3, 1), (7, 2), (4, 4)])]


@pytest.fixture
def logits(groups: list[TrainGroup]) -> dict[int, torch.Tensor]:
    torch.manual_seed(0)
    return {g.group_id: torch.randn(sum(map(len, g.response_ids)), VOCABULARY) for g in groups}


@pytest.fixture
def near(groups: list[TrainGroup], logits: dict[int, Tensor]) -> list[TrainGroup]:
    """The groups with old log-probs so near the present ones that some ratios are clipped and some are not; and with
    reference and rollouts near too, for verl limits the KL penalty of a token to 10."""
    rng = np.random.default_rng(1)
    moved, scale = [], iter((1e-4, 0.3, 5e-4, 0.1, 2e-4, 3.0))
    for group in groups:
        rows = (logits[group.group_id] / 0.7).log_softmax(-1).numpy()
        taken = rows[np.arange(len(rows)), np.concatenate(group.response_ids)]
        present = np.split(taken, np.cumsum([len(ids) for ids in group.response_ids])[:-1])
        old = tuple((lp + rng.normal(size=len(lp)) * next(scale)).astype(np.float32) for lp in present)
        rollout, ref = (tuple((lp + rng.normal(size=len(lp)) * 0.3).astype(np.float32) for lp in old) for _ in range(2))
        moved.append(replace(group, old_log_probs=old, rollout_log_probs=rollout, ref_log_probs=ref))
    return moved


NAMED = sorted(file.stem for file in (Path(conf.__file__).parent / "algorithm").glob("*.yaml"))
AGGREGATIONS: tuple[LossAggregation, ...] = get_args(LossAggregation)
OTHER_LOSSES = ("sapo", "gpg", "dppo_tv", "dppo_kl")


@cache
def algorithm_of(name: str) -> AlgorithmConfig:
    """A shipped algorithm; or GRPO with another aggregation, or with a loss of verl's that has no file of its own."""
    if name in AGGREGATIONS:
        return replace(ALGORITHM, loss_aggregation=cast(LossAggregation, name))
    if name in OTHER_LOSSES:
        algorithm = replace(ALGORITHM, policy_loss=name, clip_low=1e-4, clip_high=2e-4)
        return replace(algorithm, loss_aggregation="seq-mean-token-mean")
    paths = ["model.path=m", "data.train_file=t", "data.media_dir=d"]
    return replace(compose_run("grpo", GrpoRun, [f"algorithm={name}", *paths]).algorithm, importance_cap=1.5)


# --- The papers' formulas: one response's or token's loss, on float64 scalars, without masks or padding --------------


def ppo(ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def ppo_tokens(new: Tensor, old: Tensor, advantage: float, low: float, high: float) -> list[Tensor]:
    """GRPO (arXiv:2402.03300) and what differs from it by its clip, baseline or mean alone."""
    return [ppo((n - o).exp(), advantage, low, high) for n, o in zip(new, old, strict=True)]


def gspo(new: Tensor, old: Tensor, advantage: float, low: float, high: float) -> list[Tensor]:
    """arXiv:2507.18071: the ratio of the sequences to the power of 1 / length."""
    ratio = ((new.sum() - old.sum()) / len(new)).exp()
    return [ppo(ratio, advantage, low, high)] * len(new)


def gmpo(new: Tensor, old: Tensor, advantage: float, low: float, high: float) -> list[Tensor]:
    """arXiv:2507.20673: the geometric mean of tokens that are clipped where it lowers the objective."""
    product = torch.ones((), dtype=torch.float64)
    for n, o in zip(new, old, strict=True):
        ratio = (n - o).exp()
        clipped = ratio.clamp(math.exp(-low), math.exp(high))
        product = product * (torch.minimum(ratio, clipped) if advantage > 0 else torch.maximum(ratio, clipped))
    return [-advantage * product ** (1 / len(new))] * len(new)


def cispo(new: Tensor, old: Tensor, advantage: float, low: float, high: float) -> list[Tensor]:
    """arXiv:2506.13585: the clipped ratio weighs the gradient and has none."""
    return [-(n - o).exp().clamp(1 - low, 1 + high).item() * advantage * n for n, o in zip(new, old, strict=True)]


def gpg(new: Tensor, old: Tensor, advantage: float, low: float, high: float) -> list[Tensor]:
    """arXiv:2504.02546: the policy gradient itself."""
    return [-advantage * n for n in new]


def sapo(new: Tensor, old: Tensor, advantage: float, low: float, high: float) -> list[Tensor]:
    """arXiv:2511.20347: a sigmoid of the ratio with temperature 1 for gains and 1.05 for losses."""
    tau = 1.0 if advantage > 0 else 1.05
    return [-advantage * 4 / tau / (1 + (-tau * ((n - o).exp() - 1)).exp()) for n, o in zip(new, old, strict=True)]


def dppo(diverges: Callable[[float, float, float, float], bool]) -> Callable[..., list[Tensor]]:
    """arXiv:2602.04879: REINFORCE by the ratio, without the tokens that moved too far in the advantage's direction."""

    def tokens(new: Tensor, old: Tensor, advantage: float, low: float, high: float) -> list[Tensor]:
        found = []
        for n, o in zip(new, old, strict=True):
            p, q = n.exp().item(), o.exp().item()
            is_off = diverges(p, q, low, high) and (p > q if advantage > 0 else p < q)
            found.append(n * 0 if is_off else -advantage * (p / q) * n)
        return found

    return tokens


def binary_kl(p: float, q: float) -> float:
    return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))


LOSSES: dict[str, Callable[..., list[Tensor]]] = {
    "vanilla": ppo_tokens,
    "gspo": gspo,
    "geo_mean": gmpo,
    "cispo": cispo,
    "gpg": gpg,
    "sapo": sapo,
    "dppo_tv": dppo(lambda p, q, low, high: abs(p - q) > (high if p > q else low)),
    "dppo_kl": dppo(lambda p, q, low, high: binary_kl(p, q) > (high if p > q else low)),
}


def mean_of(responses: list[list[Tensor]], aggregation: str) -> Tensor:
    """The aggregations by their names in verl; 16 is the longest response that may be generated."""
    tokens = [token for response in responses for token in response]
    if aggregation == "token-mean":
        return torch.stack(tokens).mean()
    if aggregation == "seq-mean-token-mean":
        return torch.stack([torch.stack(response).mean() for response in responses]).mean()
    divisor = 16 if aggregation == "seq-mean-token-sum-norm" else 1
    return torch.stack(tokens).sum() / divisor / len(responses)


def by_formula(groups: list[TrainGroup], logits: dict[int, Tensor], algorithm: AlgorithmConfig) -> Any:
    """Policy loss, whole loss and the gradient of the whole loss with respect to the logits."""
    leaves = {group_id: values.double().requires_grad_() for group_id, values in logits.items()}
    policy, penalties = [], []
    for group in groups:
        assert group.advantages is not None and group.old_log_probs is not None and group.ref_log_probs is not None
        rows = iter((leaves[group.group_id] / 0.7).log_softmax(-1))
        for index, ids in enumerate(group.response_ids):
            new = torch.stack([next(rows)[token] for token in ids])
            rollouts = group.rollout_log_probs or group.old_log_probs
            old, ref, rollout = (
                torch.tensor(values[index]).double() for values in (group.old_log_probs, group.ref_log_probs, rollouts)
            )
            advantage = float(group.advantages[index])
            losses = LOSSES[algorithm.policy_loss](new, old, advantage, algorithm.clip_low, algorithm.clip_high)
            weights = (old - rollout).exp().clamp(max=algorithm.cap)
            if algorithm.policy_loss == "geo_mean":
                weights = torch.full_like(weights, weights.log().mean().exp().item())
            policy.append([loss * weight for loss, weight in zip(losses, weights, strict=True)])
            penalties.append([(r - n).exp() - (r - n) - 1 for n, r in zip(new, ref, strict=True)])
    pg_loss = mean_of(policy, algorithm.loss_aggregation)
    loss = pg_loss + algorithm.kl_coefficient * mean_of(penalties, algorithm.loss_aggregation)
    loss.backward()
    return pg_loss.item(), loss.item(), {group_id: leaf.grad for group_id, leaf in leaves.items()}


# GSPO with weights is its token form, whose gradient is another one.
WEIGHTED = [name for name in (*NAMED, *OTHER_LOSSES) if name != "gspo"]


@pytest.mark.parametrize(
    ("name", "weighted"),
    [(name, False) for name in (*NAMED, *OTHER_LOSSES)] + [(name, True) for name in WEIGHTED],
)
def test_loss_and_gradient_are_those_of_the_papers_formula(
    near: list[TrainGroup], logits: dict[int, Tensor], name: str, weighted: bool
) -> None:
    algorithm = algorithm_of(name)
    if not weighted:
        near = [replace(group, rollout_log_probs=None) for group in near]
    metrics, gradient = run([[MicroBatch(tuple(near))]], logits, algorithm)
    pg_loss, loss, expected = by_formula(near, logits, algorithm)
    assert metrics["actor/pg_loss"] == pytest.approx(pg_loss, rel=1e-4, abs=1e-6)
    assert metrics["actor/loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    for group_id, values in expected.items():
        assert values.abs().max() > 0
        torch.testing.assert_close(gradient[group_id].double(), values, rtol=1e-3, atol=2e-7)
    if algorithm.policy_loss not in ("gpg", "sapo"):
        assert 0 < metrics["actor/clip_frac"] + metrics["actor/dual_clip_frac"] < 1


@pytest.mark.parametrize("name", [*NAMED, *OTHER_LOSSES])
def test_without_old_log_probs_the_policy_is_its_own_old_one(
    near: list[TrainGroup], logits: dict[int, Tensor], name: str
) -> None:
    """In two passes on each of two ranks: loss, gradient, importance weights, and the gap to the rollouts."""
    algorithm = algorithm_of(name)
    present, learner, engine = [], [], []
    for group in near:
        assert group.rollout_log_probs is not None
        lengths = [len(ids) for ids in group.response_ids]
        targets = torch.from_numpy(np.concatenate(group.response_ids))
        scores = scores_of(logits[group.group_id], targets, temperature=0.7)
        old, raw = (
            tuple(part.numpy() for part in values.split(lengths)) for values in (scores.log_probs, scores.raw_log_probs)
        )
        # GSPO's weighted form has another gradient than the formula below.
        sampled = group.rollout_log_probs if name in WEIGHTED else None
        present.append(replace(group, old_log_probs=old, rollout_log_probs=sampled))
        learner.append(LogProbs(group.group_id, old, raw))
        rollouts = zip(group.response_ids, group.rollout_log_probs, strict=True)
        engine.append(Group(group.group_id, "s", tuple(Rollout(ids, lps, "", "stop", 0) for ids, lps in rollouts)))
    ours = [replace(group, old_log_probs=None) for group in near]
    filler = MicroBatch((replace(ours[0], rollout_log_probs=nan_like(ours[0].rollout_log_probs)),), counts=False)
    ranks = [[MicroBatch((ours[2],)), MicroBatch((ours[0],))], [MicroBatch((ours[1],)), filler]]
    cap = algorithm.importance_cap if name in WEIGHTED else None
    metrics, gradient = run(ranks, logits, replace(algorithm, importance_cap=cap))

    pg_loss, loss, expected = by_formula(present, logits, algorithm)
    assert metrics["actor/pg_loss"] == pytest.approx(pg_loss, rel=1e-5, abs=1e-6)
    assert metrics["actor/loss"] == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert metrics["actor/ratio_mean"] == metrics["actor/ratio_max"] == 1
    assert metrics["actor/clip_frac"] == metrics["actor/dual_clip_frac"] == 0
    for group_id, values in expected.items():
        assert values.abs().max() > 0
        torch.testing.assert_close(gradient[group_id].double(), values, rtol=1e-4, atol=2e-7)
    gap = gap_metrics(measure_gap(engine, learner, is_tempered=False))
    assert gap["rollout/log_prob_gap_max"] > 0.1
    assert {key: metrics[key] for key in gap} == pytest.approx(gap, rel=1e-6)


def nan_like(values: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.full_like(value, np.nan) for value in values)


@pytest.mark.parametrize("place", [0, 2])
def test_a_gap_that_is_not_a_number_is_the_largest(
    near: list[TrainGroup], logits: dict[int, Tensor], place: int
) -> None:
    ours = [replace(group, old_log_probs=None) for group in near]
    ours[place] = replace(ours[place], rollout_log_probs=nan_like(ours[place].rollout_log_probs))
    metrics, _ = run([[MicroBatch((group,)) for group in ours]], logits, ALGORITHM)
    assert math.isnan(metrics["rollout/log_prob_gap_max"])
    assert metrics["rollout/log_prob_gap_max_group"] == ours[place].group_id


@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_a_ratio_cap_bounds_the_loss_where_the_advantage_is_negative(advantage: float) -> None:
    """A token four times as probable as when it was sampled."""
    log_prob = -np.log(VOCABULARY)
    old = np.array([log_prob - np.log(4)], dtype=np.float32)
    group = TrainGroup(
        group_id=0,
        prompt=PromptHandle("s", "c", 3, None),
        response_ids=(np.array([0]),),
        advantages=np.array([advantage], dtype=np.float32),
        old_log_probs=(old,),
    )
    algorithm = replace(ALGORITHM, kl_coefficient=0.0, importance_cap=None)
    for cap, expected in ((None, 4.0), (3.0, 3.0)):
        metrics, _ = run([[MicroBatch((group,))]], {0: torch.zeros(1, VOCABULARY)}, replace(algorithm, ratio_cap=cap))
        assert metrics["actor/pg_loss"] == pytest.approx(expected if advantage < 0 else -1.2, rel=1e-5)


def reordered(group: TrainGroup, order: tuple[int, ...]) -> TrainGroup:
    assert group.advantages is not None

    def pick(values: Any) -> Any:
        return tuple(values[i] for i in order)

    return replace(
        group,
        response_ids=pick(group.response_ids),
        advantages=group.advantages[list(order)],
        old_log_probs=pick(group.old_log_probs),
        ref_log_probs=pick(group.ref_log_probs),
        rollout_log_probs=pick(group.rollout_log_probs),
    )


@pytest.mark.parametrize("name", [*NAMED, *OTHER_LOSSES])
def test_order_of_groups_and_responses_does_not_matter(
    groups: list[TrainGroup], logits: dict[int, Tensor], name: str
) -> None:
    metrics, gradient = run([[MicroBatch(tuple(groups))]], logits, algorithm_of(name))
    turned = [reordered(group, (1, 0)) for group in groups[::-1]]
    lengths = {group.group_id: [len(ids) for ids in group.response_ids] for group in groups}
    swapped = {i: torch.cat(rows.split(lengths[i])[::-1]) for i, rows in logits.items()}
    other_metrics, other_gradient = run([[MicroBatch(tuple(turned))]], swapped, algorithm_of(name))
    assert other_metrics == pytest.approx(metrics, rel=1e-5, abs=1e-6)
    for i, rows in gradient.items():
        back = torch.cat(other_gradient[i].split(lengths[i][::-1])[::-1])
        torch.testing.assert_close(back, rows, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [*NAMED, *OTHER_LOSSES])
def test_nan_out_of_the_loss_reaches_neither_metrics_nor_gradient(
    groups: list[TrainGroup], logits: dict[int, Tensor], name: str
) -> None:
    """In a repeat that weighs nothing, and in a response that is kept out of the loss."""

    def spoilt(group: TrainGroup, *, kept: tuple[bool, ...]) -> TrainGroup:
        def fill(values: Any) -> Any:
            return tuple(v if keep else np.full_like(v, np.nan) for v, keep in zip(values, kept, strict=True))

        assert group.advantages is not None
        return replace(
            group,
            advantages=np.where(kept, group.advantages, np.float32(np.nan)),
            old_log_probs=fill(group.old_log_probs),
            ref_log_probs=fill(group.ref_log_probs),
            rollout_log_probs=fill(group.rollout_log_probs),
        )

    expected, gradient = run([[MicroBatch(tuple(groups))]], logits, algorithm_of(name))
    filler = MicroBatch((spoilt(groups[0], kept=(False, False)),), counts=False)
    found, other_gradient = run([[MicroBatch(tuple(groups)), filler]], logits, algorithm_of(name))
    assert found == pytest.approx(expected)
    torch.testing.assert_close(other_gradient, gradient)

    first = replace(spoilt(groups[0], kept=(True, False)), in_loss=np.array([True, False]))
    rows = {**logits, 0: logits[0][:3]}
    found, _ = run([[MicroBatch((only_in_loss(first), *groups[1:]))]], rows, algorithm_of(name))
    clean, _ = run([[MicroBatch((reordered(groups[0], (0,)), *groups[1:]))]], rows, algorithm_of(name))
    assert found == pytest.approx(clean)
    assert all(np.isfinite(value) for value in found.values())


@pytest.mark.parametrize("name", [*NAMED, *OTHER_LOSSES, *AGGREGATIONS])
def test_splitting_a_batch_changes_neither_gradient_nor_metrics(
    groups: list[TrainGroup], logits: dict[int, Tensor], name: str
) -> None:
    algorithm = algorithm_of(name)
    whole = [[MicroBatch(tuple(groups))]]
    filler = MicroBatch((groups[0],), counts=False)
    split = [[MicroBatch((groups[1],)), MicroBatch((groups[0],))], [MicroBatch((groups[2],)), filler]]
    metrics, gradient = run(whole, logits, algorithm)
    split_metrics, split_gradient = run(split, logits, algorithm)
    assert split_metrics.keys() == metrics.keys()
    for name, value in metrics.items():
        assert split_metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for group_id, expected in gradient.items():
        assert expected.abs().max() > 0
        torch.testing.assert_close(split_gradient[group_id], expected, rtol=1e-5, atol=1e-7)


def test_every_supported_loss_is_covered() -> None:
    from workers.learner.verl_config import GLOBALLY_NORMALISED_LOSSES

    assert {algorithm_of(name).policy_loss for name in (*NAMED, *OTHER_LOSSES)} == set(GLOBALLY_NORMALISED_LOSSES)


def test_policy_loss_by_hand() -> None:
    """Two tokens of one response, old log-probs chosen to give the ratios 1.5 and 0.5, advantage 1, reference = old."""
    token = np.array([0, 1])
    rows = torch.zeros(2, VOCABULARY)
    log_prob = -np.log(VOCABULARY)
    old = np.array([log_prob - np.log(1.5), log_prob - np.log(0.5)], dtype=np.float32)
    group = TrainGroup(
        group_id=0,
        prompt=PromptHandle("s", "c", 3, None),
        response_ids=(token,),
        advantages=np.array([1.0], dtype=np.float32),
        old_log_probs=(old,),
        ref_log_probs=(old,),
    )
    metrics, _ = run([[MicroBatch((group,))]], {0: rows}, ALGORITHM)
    # The first ratio is clipped at 1.2, the second is not clipped from below for a positive advantage.
    assert metrics["actor/pg_loss"] == pytest.approx(-(1.2 + 0.5) / 2)
    # k3 of log(ref / policy) = -log(ratio): exp(x) - x - 1.
    kl = ((1 / 1.5 + np.log(1.5) - 1) + (1 / 0.5 + np.log(0.5) - 1)) / 2
    assert metrics["actor/kl"] == pytest.approx(kl, rel=1e-5)
    assert metrics["actor/loss"] == pytest.approx(-0.85 + 0.1 * kl, rel=1e-5)
    assert metrics["actor/clip_frac"] == pytest.approx(0.5)
    assert metrics["actor/ratio_mean"] == pytest.approx(1.0)
    assert metrics["actor/ratio_max"] == pytest.approx(1.5)
    assert metrics["actor/entropy"] == pytest.approx(np.log(VOCABULARY), rel=1e-5)
    assert metrics["actor/tokens"] == 2
    assert "actor/importance_weight" not in metrics


def test_the_sft_loss_is_the_mean_over_all_tokens_of_the_batch_however_it_is_split() -> None:
    """One token of probability 3/4 on the first rank, two of 1/4 on the second; a repeat that weighs nothing."""
    from workers.learner import losses

    group = TrainGroup(0, PromptHandle("s", "c", 3, None), (np.array([0]),))

    def rank(targets: list[int], *, counts: bool = True) -> Any:
        rows = torch.tensor([[math.log(3), 0.0]] * len(targets), requires_grad=True)
        packed = cast(PackedBatch, SimpleNamespace(response_lengths=(len(targets),), target_ids=torch.tensor(targets)))
        scores = scores_of(rows, packed.target_ids, temperature=1.0)
        loss, part = losses.sft_loss(scores, packed, MicroBatch((group,), counts=counts), batch_tokens=3, num_ranks=2)
        loss.backward()
        return part, rows.grad

    (first, _), (second, gradient), (repeat, nothing) = rank([0]), rank([1, 1]), rank([0], counts=False)
    metrics = losses.sft_metrics([losses.to_sums([first, repeat]), losses.to_sums([second])])
    assert metrics == pytest.approx({"sft/loss": (math.log(4 / 3) + 2 * math.log(4)) / 3, "sft/tokens": 3})
    # Softmax less one-hot, over 3 tokens, times 2 ranks that are averaged.
    torch.testing.assert_close(gradient, torch.tensor([[0.75, -0.75]] * 2) / 3 * 2)
    assert not nothing.any()


def test_entropy_is_that_of_the_softmax_at_the_sampling_temperature() -> None:
    """At 0.7 the first row is (3/4, 1/4), the second (1/2, 1/2)."""
    rows = torch.tensor([[0.7 * math.log(3), 0.0], [1.0, 1.0]])
    zeros = np.zeros(2, dtype=np.float32)
    group = TrainGroup(
        group_id=0,
        prompt=PromptHandle("s", "c", 3, None),
        response_ids=(np.array([0, 1]),),
        advantages=np.array([1.0], dtype=np.float32),
        old_log_probs=(zeros,),
        ref_log_probs=(zeros,),
    )
    metrics, _ = run([[MicroBatch((group,))]], {0: rows}, ALGORITHM)
    first, second = math.log(4) - 0.75 * math.log(3), math.log(2)
    assert metrics["actor/entropy"] == pytest.approx((first + second) / 2, rel=1e-6)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("beyond", ["truncate", "mask"])
def test_importance_weights_of_every_kind_are_those_of_the_definition(
    near: list[TrainGroup], logits: dict[int, Tensor], level: Any, beyond: Any
) -> None:
    cap = 1.25
    algorithm = replace(
        ALGORITHM,
        importance_cap=cap,
        importance_level=level,
        importance_beyond=beyond,
        kl_coefficient=0.0,
        clip_low=1.0,
        clip_high=1e6,
    )
    metrics, _ = run([[MicroBatch(tuple(near[:2]))], [MicroBatch(tuple(near[2:]))]], logits, algorithm)
    ratios, terms = [], []
    for group in near:
        rows = (logits[group.group_id].double() / 0.7).log_softmax(-1).numpy()
        start = 0
        assert group.old_log_probs is not None and group.rollout_log_probs is not None and group.advantages is not None
        for index, ids in enumerate(group.response_ids):
            old, rollout = (
                values[index].astype(np.float64) for values in (group.old_log_probs, group.rollout_log_probs)
            )
            r = np.exp(old - rollout) if level == "token" else np.full(len(ids), np.exp((old - rollout).sum()))
            new = rows[np.arange(start, start + len(ids)), ids]
            weights = np.minimum(r, cap) if beyond == "truncate" else np.where((r <= cap) & (r >= 1 / cap), r, 0)
            ratios.append(r)
            terms.append(-np.exp(new - old) * group.advantages[index] * weights)
            start += len(ids)
    flat = np.concatenate(ratios)
    assert 0 < np.mean(flat > cap) < 1
    assert metrics["actor/pg_loss"] == pytest.approx(np.concatenate(terms).mean(), rel=1e-5)
    assert metrics["actor/importance_ratio"] == pytest.approx(flat.mean(), rel=1e-5)
    assert metrics["actor/effective_sample_frac"] == pytest.approx(flat.sum() ** 2 / (len(flat) * (flat**2).sum()))
    masked = np.mean((flat > cap) | (flat < 1 / cap)) if beyond == "mask" else 0.0
    assert metrics["actor/importance_masked_frac"] == pytest.approx(masked)
    if beyond == "truncate":
        assert metrics["actor/importance_weight"] == pytest.approx(np.minimum(flat, cap).mean(), rel=1e-5)


def test_a_batch_whose_tokens_are_all_masked_teaches_nothing(near: list[TrainGroup], logits: dict[int, Tensor]) -> None:
    far = [replace(g, rollout_log_probs=tuple(values - 5 for values in g.rollout_log_probs or ())) for g in near]
    algorithm = replace(ALGORITHM, importance_beyond="mask")
    metrics, gradient = run([[MicroBatch(tuple(far))]], logits, algorithm)
    assert metrics["actor/loss"] == 0 and metrics["actor/importance_masked_frac"] == 1
    assert all(values.abs().max() == 0 for values in gradient.values())


def test_only_what_the_present_policy_sampled_has_to_agree_with_the_engine(
    near: list[TrainGroup], logits: dict[int, Tensor]
) -> None:
    ours = [replace(group, old_log_probs=None) for group in near]
    all_metrics, _ = run([[MicroBatch(tuple(ours))]], logits, ALGORITHM)
    stale = [replace(group, is_fresh=np.array([False, True])) for group in ours]
    metrics, _ = run([[MicroBatch(tuple(stale))]], logits, ALGORITHM)
    # Of the second responses alone: recomputed from the logits at temperature 1.
    gaps = []
    for group in near:
        rows, first = logits[group.group_id].double().log_softmax(-1).numpy(), len(group.response_ids[0])
        ids = group.response_ids[1]
        assert group.rollout_log_probs is not None
        gaps.append(np.abs(rows[np.arange(first, first + len(ids)), ids] - group.rollout_log_probs[1]))
    assert metrics["rollout/log_prob_gap_mean"] == pytest.approx(np.concatenate(gaps).mean(), rel=1e-5)
    assert metrics["rollout/log_prob_gap_mean"] != pytest.approx(all_metrics["rollout/log_prob_gap_mean"], rel=1e-2)
    assert metrics["actor/loss"] == all_metrics["actor/loss"]
    none = [replace(group, is_fresh=np.array([False, False])) for group in ours]
    metrics, _ = run([[MicroBatch(tuple(none))]], logits, ALGORITHM)
    assert "rollout/log_prob_gap_mean" not in metrics
