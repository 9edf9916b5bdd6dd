"""The reward for verl's trainers (`custom_reward_function`).

    python -m verl.trainer.main_ppo ... \\
        reward.custom_reward_function.path=pkg://videor2_rl.integrations.verl \\
        reward.custom_reward_function.name=compute_score \\
        +reward.custom_reward_function.reward_kwargs.preset=video_r2

verl's row holds the reference answer as `reward_model.ground_truth`; question, options, problem_type and
temporal_grounding (a map, or one as JSON text) stand in `extra_info`. A term of one's own gets the rest of `extra_info`
in `context.extra`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from videor2_rl.integrations.scorer import RowScorer, row_of
from videor2_rl.scoring.presets import reward_config


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    preset: str = "video_r2",
    overrides: Sequence[str] = (),
    config_dir: str | None = None,
    failure_score: float = 0.0,
    **_: Any,
) -> dict[str, float]:
    """One response's reward, as verl calls it; the first call in a process composes the reward.

    Args:
        data_source: verl's name of the data set; for terms of one's own.
        solution_str: the response.
        ground_truth: the reference answer, bare or inside <answer></answer>.
        extra_info: the row's other columns.
        preset, overrides, config_dir: as `videor2_rl.scoring.presets.reward_config` takes them.
        failure_score: what a response gets on which a paying term failed; verl cannot leave one out of its group.
        _: what verl passes to rewards that need a model.

    Returns:
        `score`, which verl trains on; `acc`, by which it validates; each term's value, and `<term>_abstained` and
        `failed`, 0 or 1: verl averages what it finds, so a term that abstains counts 0 there. The same keys for every
        row.

    Raises:
        ConfigError: the reward's configuration cannot be used.
        ValueError: the row's reference cannot be scored against.
    """
    scorer = _scorer(preset, tuple(str(override) for override in overrides), config_dir)
    columns = {"data_source": data_source, **(extra_info or {})}
    row_id = next((str(columns[name]) for name in ("id", "index") if columns.get(name) is not None), data_source)
    [scored] = scorer.score([row_of(columns, response=solution_str, solution=ground_truth, row_id=row_id)])
    terms = {name: verdict.value or 0.0 for name, verdict in scored.terms.items()}
    abstained = {f"{name}_abstained": float(one.status == "abstention") for name, one in scored.terms.items()}
    return {
        "score": failure_score if scored.reward is None else scored.reward,
        "acc": terms["accuracy"],
        **terms,
        **abstained,
        "failed": float(scored.reward is None),
    }


@lru_cache(maxsize=8)
def _scorer(preset: str, overrides: tuple[str, ...], config_dir: str | None) -> RowScorer:
    return RowScorer(reward_config(preset, overrides, config_dir=config_dir))
