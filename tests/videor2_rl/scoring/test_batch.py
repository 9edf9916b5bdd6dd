from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rewards.judge import JudgePrompt
from rewards.types import Evidence, JudgeReply, RewardConfig, Target
from videor2_rl.app import compose_run
from videor2_rl.config.runs import GrpoRun
from videor2_rl.judge.client import JudgeClient
from videor2_rl.scoring.batch import KnownSimilarity, ScoredRow, result_record, score_rows
from videor2_rl.scoring.rows import BadRow, ScoreRow
from videor2_rl.scoring.similarity import SentenceEncoder


def nine_tenths(claims: Sequence[str], references: Sequence[str]) -> NDArray[np.float32]:
    return np.full((len(claims), len(references)), 0.9, dtype=np.float32)


def test_a_full_table_is_exact_and_asks_nobody() -> None:
    table = KnownSimilarity({"a": {"x": 0.7, "y": 1}}, None)
    assert table(["a"], ["y", "x"]).tolist() == [[1.0, 0.7]]
    assert table.missing == []


def test_sentences_are_found_as_written_and_as_tidied() -> None:
    table = KnownSimilarity({" and a cat sits ": {"a dog runs": 0.5}, "A cat sits.": {"A dog runs.": 0.25}}, None)
    assert table(["A cat sits."], ["A dog runs."]).tolist() == [[0.25]]
    table = KnownSimilarity({" and a cat sits ": {"a dog runs": 0.5}}, None)
    assert table(["A cat sits."], ["A dog runs."]).tolist() == [[0.5]]
    assert table(["and a cat sits"], ["a dog runs"]).tolist() == [[0.5]]
    assert table.missing == []


def test_pairs_left_out_are_remembered_and_come_from_the_encoder() -> None:
    incomplete = {"a": {"x": 0.5}}
    table = KnownSimilarity(incomplete, None)
    assert table(["a", "b"], ["x", "y"]).tolist() == [[0.5, 0.0], [0.0, 0.0]]
    assert table.missing == ["a", "b", "x", "y"]
    filled = KnownSimilarity(incomplete, nine_tenths)(["a", "b"], ["x", "y"])
    np.testing.assert_allclose(filled, [[0.5, 0.9], [0.9, 0.9]], rtol=1e-6)


def test_no_claims_and_no_references_give_an_empty_matrix() -> None:
    assert KnownSimilarity({}, nine_tenths)([], ["x"]).shape == (0, 1)


CAT, DOG = "A cat sits.", "A dog runs."
RESPONSE = "<think>At 00:05 a cat sits. At 00:09 a dog runs. So it is red (A).</think><answer>A</answer>"
TARGET = Target(
    "Which?", "A", options=("red", "blue"), temporal_grounding={"00:05": "A cat rests.", "00:09": "A dog leaps."}
)


class Recording(SentenceEncoder):
    """Gives 0.9 to every pair, and remembers what it was to encode ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded: list[list[str]] = []

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        self.encoded.append(list(sentences))
        return np.zeros((len(sentences), 1), dtype=np.float32)

    def similarity(self, claims: Sequence[str], references: Sequence[str]) -> NDArray[np.float32]:
        return nine_tenths(claims, references)


class Agreeing(JudgeClient):
    """A judge that finds every response consistent."""

    def __init__(self) -> None:
        self.asked = 0

    def ask(self, prompts: Sequence[JudgePrompt]) -> list[JudgeReply]:
        self.asked += len(prompts)
        return [JudgeReply("TRUE", None)] * len(prompts)


def row(name: str, similarity: Mapping[str, Mapping[str, float]] | None = None, **changes: Any) -> ScoreRow:
    return ScoreRow(name, name, RESPONSE, TARGET, Evidence(None, {}), similarity or {}, {})._replace(**changes)


@pytest.fixture(scope="module")
def config() -> RewardConfig:
    return compose_run("grpo", GrpoRun, ["model.path=m", "data.train_file=t", "data.media_dir=d"]).reward


def similarities(result: ScoredRow | BadRow) -> list[float]:
    assert isinstance(result, ScoredRow)
    return [claim["similarity"] for claim in result.scored.terms["temporal_alignment"].detail["claims"]]


def test_what_a_row_knows_counts_and_what_it_lacks_is_encoded_for_all_rows_at_once(config: RewardConfig) -> None:
    known = {CAT: {"A cat rests.": 0.8, "A dog leaps.": 0.1}, DOG: {"A cat rests.": 0.1, "A dog leaps.": 0.85}}
    half = {CAT: {"A cat rests.": 0.8, "A dog leaps.": 0.1}}
    encoder = Recording()
    rows = [row("none"), row("known", known), row("half", half), row("bad", target=Target("Which?", ""))]
    results = score_rows(rows, config, encoder)
    assert [similarities(result) for result in results[:3]] == [
        pytest.approx([0.9, 0.9]),
        [0.8, 0.85],
        pytest.approx([0.8, 0.9]),
    ]
    assert results[3] == BadRow("bad: The solution '' holds no answer; give one, bare or inside <answer></answer>.")
    # Those of the first and the third row, both sides.
    assert encoder.encoded == [[CAT, DOG, "A cat rests.", "A dog leaps."] * 2]


def test_a_judge_is_asked_for_what_the_rows_do_not_carry(config: RewardConfig) -> None:
    judged = replace(config, consistency=replace(config.consistency, reader="judge"))  # type: ignore[arg-type]
    denied = Evidence(None, {"consistency": JudgeReply("FALSE", None)})
    judge = Agreeing()
    asked, kept = score_rows([row("asked"), row("kept", evidence=denied)], judged, Recording(), judge=judge)
    assert isinstance(asked, ScoredRow) and isinstance(kept, ScoredRow)
    assert [result.scored.metrics["tac"] for result in (asked, kept)] == [1.0, 0.0]
    assert judge.asked == 1
    assert [result_record(result)["judge"] for result in (asked, kept)] == [
        {"consistency": "TRUE"},
        {"consistency": "FALSE"},
    ]


def test_a_record_holds_what_is_passed_on_and_pairs_of_claim_and_reference(config: RewardConfig) -> None:
    known = {
        "A bird sings.": {"A cat rests.": 0.0, "A dog leaps.": 0.0},
        CAT: {"A cat rests.": 0.8, "A dog leaps.": 0.1},
    }
    response = "<think>At 00:06 a bird sings. At 00:05 a cat sits. So it is red (A).</think><answer>A</answer>"
    (result,) = score_rows([row("r", known, response=response, passed_on={"step": 3})], config, Recording())
    assert isinstance(result, ScoredRow)
    record = result_record(result)
    assert (record["id"], record["step"], record["reward"]) == ("r", 3, result.scored.reward)
    assert record["terms"]["temporal_alignment"]["pairs"] == [[1, 0, 0.8]]
    assert record["terms"]["accuracy"] == {
        "verdict": "score",
        "value": 1.0,
        "type": "choice",
        "answer": "A",
        "reference": "A",
    }
    assert "judge" not in record
