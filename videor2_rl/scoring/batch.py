"""Scores of a batch of rows: known similarities first, what is missing from the encoder in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rewards.compose import score_response
from rewards.text.claims import tidy
from rewards.types import RewardConfig, Scored, Similarity, Verdict
from videor2_rl.judge.client import JudgeClient
from videor2_rl.judge.evidence import gather_evidence
from videor2_rl.scoring.rows import BadRow, ScoreRow
from videor2_rl.scoring.similarity import SentenceEncoder


class KnownSimilarity:
    """A `Similarity` from a row's table; remembers the sentences of pairs that it does not hold.

    The sentences of a table are those of the row. Rewards may tidy sentences first, so they are looked up as written
    and, where that finds nothing, as tidied.
    """

    def __init__(self, table: Mapping[str, Mapping[str, float]], encoder: Similarity | None) -> None:
        """
        Args:
            encoder: gives the pairs that the table does not hold; None: they count as 0 and are remembered.
        """
        self._table = table
        self._encoder = encoder
        self.missing: list[str] = []

    def __call__(self, claims: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
        """[claims, references] float64."""
        known = [
            [_find(cosines, reference) for reference in references]
            for cosines in (_find(self._table, claim) or {} for claim in claims)
        ]
        # None becomes NaN here.
        matrix = np.array(known, dtype=np.float64).reshape(len(claims), len(references))
        if not any(None in row for row in known):
            return matrix
        is_missing = np.array([[cosine is None for cosine in row] for row in known])
        if self._encoder is None:
            self.missing = [*claims, *references]
            return np.where(is_missing, 0.0, matrix)
        return np.where(is_missing, self._encoder(claims, references), matrix)


def _find(table: Mapping[str, Any], sentence: str) -> Any:
    """The entry of a sentence as it is written, else of the first that is the same when tidied; None: there is none."""
    if sentence in table:
        return table[sentence]
    return next((value for other, value in table.items() if sentence in (other.strip(), tidy(other))), None)


class ScoredRow(NamedTuple):
    """A row with its score."""

    row: ScoreRow
    scored: Scored


def score_rows(
    rows: Sequence[ScoreRow], config: RewardConfig, encoder: SentenceEncoder, *, judge: JudgeClient | None = None
) -> list[ScoredRow | BadRow]:
    """The score of each row, or why it has none.

    Judge and encoder are asked once each, for what the rows do not carry.

    Raises:
        JudgeDown: the judge stayed away.
    """
    if judge is not None:
        texts, targets = [row.response for row in rows], [row.target for row in rows]
        evidences = gather_evidence(judge, texts, targets, config, [row.evidence for row in rows])
        rows = [row._replace(evidence=evidence) for row, evidence in zip(rows, evidences, strict=True)]
    tables = [KnownSimilarity(row.similarity, None) for row in rows]
    results = [_score(row, config, table) for row, table in zip(rows, tables, strict=True)]
    waiting = [place for place, table in enumerate(tables) if table.missing]
    encoder.encode([sentence for place in waiting for sentence in tables[place].missing])
    for place in waiting:
        row = rows[place]
        results[place] = _score(row, config, KnownSimilarity(row.similarity, encoder.similarity))
    return results


def _score(row: ScoreRow, config: RewardConfig, similarity: Similarity) -> ScoredRow | BadRow:
    try:
        scored = score_response(
            row.response, row.target, config, similarity=similarity, evidence=row.evidence, context=row.context
        )
    except ValueError as error:
        return BadRow(f"{row.where}: {error}")
    return ScoredRow(row, scored)


def result_record(result: ScoredRow) -> dict[str, Any]:
    """What is written of a scored row: its id, the reward, and each term's verdict, value and what led to it."""
    record = {
        "id": result.row.id,
        **result.row.passed_on,
        "reward": result.scored.reward,
        "terms": {name: _term(verdict) for name, verdict in result.scored.terms.items()},
    }
    judge = result.row.evidence.judge
    return {**record, "judge": {name: reply.text for name, reply in judge.items()}} if judge else record


def _term(verdict: Verdict) -> dict[str, Any]:
    detail = dict(verdict.detail)
    if "claims" in detail:
        detail["pairs"] = [
            [place, claim["reference"], claim["similarity"]]
            for place, claim in enumerate(detail["claims"])
            if claim["reference"] is not None
        ]
    return {"verdict": verdict.status, "value": verdict.value, **detail}
