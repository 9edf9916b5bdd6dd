"""Rows as another trainer holds them -> scores by this project's reward."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rewards.compose import term_weights
from rewards.judge import needs_judge
from rewards.types import RewardConfig, Scored
from videor2_rl.config.errors import ConfigError
from videor2_rl.scoring.batch import score_rows
from videor2_rl.scoring.rows import BadRow, ScoreRow, score_row
from videor2_rl.scoring.similarity import SentenceEncoder

COLUMNS = ("question", "options", "problem_type", "temporal_grounding")
"""What a row may say of its target besides the solution; any other column is one of the row's own."""


class RowScorer:
    """Scores rows with one sentence encoder; several threads may use it."""

    def __init__(self, config: RewardConfig) -> None:
        """
        Raises:
            ConfigError: the reward needs a judge, which a trainer of another project cannot reach from here.
        """
        if keys := needs_judge(config):
            raise ConfigError(f"{' and '.join(keys)}: found judge; in another trainer claims are read by rules")
        self.config = config
        self.weights = term_weights(config)
        self._encoder = SentenceEncoder()
        # The encoder is not made for threads; verl scores from several.
        self._lock = threading.Lock()

    def score(self, rows: Sequence[ScoreRow]) -> list[Scored]:
        """The score of each row; the encoder is called once for all of them.

        Raises:
            ValueError: a row's solution cannot be scored against; the message names the row.
        """
        with self._lock:
            results = score_rows(rows, self.config, self._encoder)
        scored = []
        for result in results:
            if isinstance(result, BadRow):
                raise ValueError(result.message)
            scored.append(result.scored)
        return scored


def row_of(
    columns: Mapping[str, Any], *, response: str, solution: Any, row_id: str, step: int | None = None
) -> ScoreRow:
    """A row from the columns of another trainer's data set.

    Args:
        columns: of this row. `COLUMNS` tell of the target, the others are the row's own.
        solution: the reference answer, bare or inside <answer></answer>.
        row_id: of the row, for messages and terms of one's own.
        step: of the training, for terms of one's own.

    Raises:
        ValueError: a column cannot be read; the message names the row, the column and the mend.
    """
    fields = {
        "id": row_id,
        "response": response,
        "solution": _plain(solution),
        "question": _plain(columns.get("question")),
        "options": _plain(columns.get("options")),
        "problem_type": _plain(columns.get("problem_type")),
        "temporal_grounding": _grounding(columns.get("temporal_grounding")),
    }
    own_columns = {name: value for name, value in columns.items() if name not in COLUMNS}
    row = score_row(fields, f"row {row_id}", own_columns=own_columns)
    if isinstance(row, BadRow):
        raise ValueError(row.message)
    return row._replace(context=replace(row.context, step=step))


def _plain(value: Any) -> Any:
    """Arrays, which Parquet readers make of lists, as lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def _grounding(value: Any) -> Any:
    """A map as it is or as JSON text. Arrow gives every row the keys of all rows, null where it had none."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError:
            return value  # named as no map
    if not isinstance(value, Mapping):
        return value
    return {key: sentence for key, sentence in value.items() if sentence is not None} or None
