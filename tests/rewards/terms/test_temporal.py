from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rewards.match.matching import match_greedy, match_optimal
from rewards.terms.temporal import (
    Reference,
    claims_of_pairs,
    find_candidates,
    parse_time_key,
    read_references,
    temporal_verdict,
)
from rewards.text.claims import Claim
from rewards.types import Similarity, TemporalAlignmentConfig, Verdict, VideoR2Config


@pytest.mark.parametrize(
    ("key", "interval"),
    [
        ("00:05", (5, 5)),
        ("0:05", (5, 5)),
        ("01:02:03", (3723, 3723)),
        ("00:05.5", (5.5, 5.5)),
        ("5", (5, 5)),
        ("5.5 s", (5.5, 5.5)),
        ("12 seconds", (12, 12)),
        ("00:05-00:08", (5, 8)),
        ("00:05 - 00:08", (5, 8)),
        ("00:05\u201300:08", (5, 8)),
        ("00:05 to 00:08", (5, 8)),
        ("from 5 s to 8 s", (5, 8)),
        ("00:08-00:05", (5, 8)),
        ("[00:05]", (5, 5)),
        ("5-8 s", (5, 8)),
        ("00:05-", None),
        ("-00:05", None),
        ("after 00:05", None),
        ("00:05 onwards", None),
        ("start", None),
        ("", None),
        ("nan", None),
        ("1:2:3:4", None),
    ],
)
def test_time_keys_are_read_loosely(key: str, interval: tuple[float, float] | None) -> None:
    assert parse_time_key(key) == interval


def test_references_are_sorted_and_of_equal_times_the_last_wins() -> None:
    grounding = {"00:08": "b", "00:05": "first", "soon": "lost", "0:05": "a", "00:09": " "}
    assert read_references(grounding) == [Reference(5, 5, "A."), Reference(8, 8, "B.")]


@pytest.fixture(scope="module")
def config(config: VideoR2Config) -> VideoR2Config:
    """The default, but a match is a match: precision, and no cost of ranges."""
    alignment = replace(config.temporal_alignment, statistic="precision", range_cost_per_second=0.0)
    return replace(config, temporal_alignment=alignment)


def claim(time: float | tuple[float, float], text: str) -> Claim:
    start, end = (time, time) if isinstance(time, (int, float)) else time
    return Claim(start, end, text, str(time))


def verdict_of(
    claims: Sequence[Claim],
    references: Sequence[Reference] | None,
    config: TemporalAlignmentConfig,
    *,
    similarity: Similarity,
    gate: float = 1.0,
) -> Verdict:
    candidates = None if references is None else find_candidates(claims, references, config=config)
    return temporal_verdict(claims, references, candidates, gate=gate, config=config, similarity=similarity)


REFERENCES = [Reference(2, 2, "A red square appears."), Reference(8, 8, "A yellow circle appears.")]


def test_precision_recall_and_f1_of_a_hand_worked_case(config: VideoR2Config, by_words: Similarity) -> None:
    claims = [claim(3, "A red square appears."), claim(20, "A yellow circle appears."), claim(2, "A dog barks loudly.")]
    verdict = verdict_of(claims, REFERENCES, config.temporal_alignment, similarity=by_words)
    assert verdict.value == pytest.approx(1 / 3)
    assert verdict.detail["precision"] == pytest.approx(1 / 3)
    assert verdict.detail["recall"] == pytest.approx(1 / 2)
    assert verdict.detail["f1"] == pytest.approx(2 / 5)
    assert [(c["outcome"], c["reference"]) for c in verdict.detail["claims"]] == [
        ("matched", 0),
        ("time", None),
        ("similarity", None),
    ]
    assert [r["claim"] for r in verdict.detail["references"]] == [0, None]


@pytest.mark.parametrize(("statistic", "expected"), [("precision", 1.0), ("recall", 0.5), ("f_beta", 2 / 3)])
def test_the_configured_statistic_is_paid_times_the_gate(
    statistic: Literal["precision", "recall", "f_beta"], expected: float, config: VideoR2Config, by_words: Similarity
) -> None:
    alignment = replace(config.temporal_alignment, statistic=statistic)
    for gate in (0.0, 1.0):
        verdict = verdict_of([claim(2, REFERENCES[0].text)], REFERENCES, alignment, similarity=by_words, gate=gate)
        assert verdict.value == pytest.approx(gate * expected)
        assert verdict.detail["precision"] == 1.0


@pytest.mark.parametrize(("time", "matches"), [(4.0, True), (0.0, True), (4.1, False), ((4, 6), True), ((5, 6), False)])
def test_the_gap_between_the_intervals_is_compared_with_the_buffer_once(
    time: float | tuple[float, float], matches: bool, config: VideoR2Config, by_words: Similarity
) -> None:
    verdict = verdict_of([claim(time, REFERENCES[0].text)], REFERENCES, config.temporal_alignment, similarity=by_words)
    assert (verdict.value == 1.0) == matches


def test_a_gap_of_decimal_fractions_equal_to_the_buffer_matches(config: VideoR2Config, by_words: Similarity) -> None:
    references = [Reference(2.4, 2.4, "A red square appears.")]
    assert 4.4 - 2.4 > 2.0
    verdict = verdict_of([claim(4.4, references[0].text)], references, config.temporal_alignment, similarity=by_words)
    assert verdict.value == 1.0


def test_a_range_over_the_whole_video_matches_only_references_as_long(
    config: VideoR2Config, by_words: Similarity
) -> None:
    alignment = config.temporal_alignment
    whole = [claim((0, 60), "A red square appears.")]
    assert verdict_of(whole, REFERENCES, alignment, similarity=by_words).value == 0.0
    assert verdict_of(whole, [Reference(0, 58, REFERENCES[0].text)], alignment, similarity=by_words).value == 1.0
    unguarded = replace(alignment, max_range_excess_seconds=None)
    assert verdict_of(whole, REFERENCES, unguarded, similarity=by_words).value == 1.0


def test_the_wrong_event_at_the_right_time_does_not_match_however_similar(config: VideoR2Config) -> None:
    def always(claims: Sequence[str], references: Sequence[str]) -> NDArray[np.float32]:
        return np.full((len(claims), len(references)), 0.99, dtype=np.float32)

    wrong = [claim(2, "A red circle appears."), claim(2, "A blue square appears.")]
    verdict = verdict_of(wrong, REFERENCES, config.temporal_alignment, similarity=always)
    assert verdict.value == 0.0
    assert {c["outcome"] for c in verdict.detail["claims"]} == {"contrast"}
    unguarded = replace(config.temporal_alignment, contrast_guard=False)
    assert verdict_of(wrong, REFERENCES, unguarded, similarity=always).value == 0.5


def test_of_claims_that_crowd_around_the_references_the_first_512_pairs_are_compared(config: VideoR2Config) -> None:
    references = [Reference(2, 2 + place / 100, f"Event {place}.") for place in range(4)]
    claims = [claim(2, "Event.")] * 256
    assert len(find_candidates(claims, references, config=config.temporal_alignment).undecided) == 512
    unguarded = replace(config.temporal_alignment, contrast_guard=False)
    assert len(find_candidates(claims, references, config=unguarded).undecided) == 1024


def test_a_claim_repeated_matches_once(config: VideoR2Config, by_words: Similarity) -> None:
    verdict = verdict_of(
        [claim(2, "A red square appears.")] * 4, REFERENCES, config.temporal_alignment, similarity=by_words
    )
    assert verdict.value == 0.25
    assert [c["outcome"] for c in verdict.detail["claims"]].count("taken") == 3


def test_no_grounding_and_no_readable_key_abstain(config: VideoR2Config, by_words: Similarity) -> None:
    nothing: list[Reference] = []
    for references in (None, nothing):
        verdict = verdict_of([claim(2, "x")], references, config.temporal_alignment, similarity=by_words)
        assert (verdict.status, verdict.value) == ("abstention", None)


def test_no_claim_scores_zero(config: VideoR2Config, by_words: Similarity) -> None:
    verdict = verdict_of([], REFERENCES, config.temporal_alignment, similarity=by_words)
    assert (verdict.status, verdict.value, verdict.detail["recall"]) == ("score", 0.0, 0.0)


def test_a_similarity_that_is_not_finite_is_a_failure_and_a_wrong_shape_raises(config: VideoR2Config) -> None:
    claims = [claim(2, "A red square appears.")]
    broken = verdict_of(
        claims, REFERENCES, config.temporal_alignment, similarity=lambda a, b: np.full((1, 1), np.nan, np.float32)
    )
    assert (broken.status, broken.value) == ("failure", None)
    with pytest.raises(ValueError, match=r"similarity gave shape \(2, 2\)"):
        verdict_of(claims, REFERENCES, config.temporal_alignment, similarity=lambda a, b: np.ones((2, 2), np.float32))


def test_greedy_takes_claims_by_midpoint_where_optimal_finds_more_pairs(config: VideoR2Config) -> None:
    # The early claim likes reference 1 best, the only one that the late claim can have.
    allowed = {(0, 0): 0.8, (0, 1): 0.9, (1, 1): 0.85}
    assert match_greedy(allowed, order=[0, 1]) == [(0, 1)]
    assert match_greedy(allowed, order=[1, 0]) == [(0, 0), (1, 1)]
    assert match_optimal(allowed) == [(0, 0), (1, 1)]

    def cosines(claims: Sequence[str], references: Sequence[str]) -> NDArray[np.float32]:
        table = {("X y.", "X."): 0.8, ("X y.", "Y."): 0.9, ("Y.", "X."): 0.1, ("Y.", "Y."): 0.85}
        return np.array([[table[ours, theirs] for theirs in references] for ours in claims], dtype=np.float32)

    claims = [claim(2, "X y."), claim(3, "Y.")]
    references = [Reference(2, 2, "X."), Reference(3, 3, "Y.")]
    cases: list[tuple[Literal["greedy", "optimal"], float]] = [("greedy", 0.5), ("optimal", 1.0)]
    for matching, expected in cases:
        alignment = replace(config.temporal_alignment, matching=matching)
        assert verdict_of(claims, references, alignment, similarity=cosines).value == expected


ALLOWED = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.floats(-1, 1, width=16), max_size=9)


@given(ALLOWED)
def test_optimal_matching_equals_a_search_of_all_matchings(allowed: dict[tuple[int, int], float]) -> None:
    matchings = [
        subset
        for size in range(min(len(allowed), 4) + 1)
        for subset in combinations(allowed, size)
        if len({row for row, _ in subset}) == len({column for _, column in subset}) == size
    ]
    best = max((len(subset), sum(allowed[pair] for pair in subset)) for subset in matchings)
    found = match_optimal(allowed)
    assert set(found) <= set(allowed)
    assert len(found) == best[0]
    assert sum(allowed[pair] for pair in found) == pytest.approx(best[1], abs=1e-6)


@given(ALLOWED, st.permutations(range(4)))
def test_greedy_matching_is_one_to_one_maximal_and_never_larger(
    allowed: dict[tuple[int, int], float], order: list[int]
) -> None:
    found = match_greedy(allowed, order=order)
    rows, columns = {row for row, _ in found}, {column for _, column in found}
    assert len(rows) == len(columns) == len(found) <= len(match_optimal(allowed))
    assert all(row in rows or column in columns for row, column in allowed)


TIMES = st.integers(0, 30).map(float)
CLAIMS = st.lists(st.builds(lambda t, x: claim(t, f"Event {x}."), TIMES, st.sampled_from("pqr")), max_size=5)
EVENTS = st.lists(st.builds(lambda t, x: Reference(t, t, f"Event {x}."), TIMES, st.sampled_from("pqr")), max_size=5)


@given(claims=CLAIMS, references=EVENTS.filter(bool), random=st.randoms(use_true_random=False))
@pytest.mark.parametrize("chance_correction", [False, True])
def test_the_score_does_not_depend_on_the_order_of_claims(  # type: ignore[no-untyped-def]
    claims, references, random, chance_correction: bool, config: VideoR2Config
) -> None:
    alignment = replace(config.temporal_alignment, statistic="f_beta", chance_correction=chance_correction)

    def equal(ours: Sequence[str], theirs: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[float(a == b) for b in theirs] for a in ours], dtype=np.float32)

    shuffled = random.sample(claims, len(claims))
    first = verdict_of(claims, references, alignment, similarity=equal)
    second = verdict_of(shuffled, references, alignment, similarity=equal)
    assert first.value == pytest.approx(second.value)
    assert first.value is not None
    assert 0.0 <= first.value <= 1.0


@pytest.mark.parametrize(
    ("claim_s", "reference_s", "matches"),
    [
        ((2, 10), (12, 12), True),  # The claim ends 2 s before,
        ((2, 10), (12.5, 12.5), False),  # 2.5 s before,
        ((14, 20), (12, 12), True),  # or starts 2 s after.
        ((14.5, 20), (12, 12), False),
        ((10, 10), (12, 30), True),
        ((32, 32), (12, 30), True),
        ((9.5, 9.5), (12, 30), False),
        ((32.5, 32.5), (12, 30), False),
        ((20, 20), (12, 30), True),
    ],
)
def test_the_gap_is_from_the_end_of_the_earlier_to_the_start_of_the_later(
    claim_s: tuple[float, float], reference_s: tuple[float, float], matches: bool, config: VideoR2Config
) -> None:
    alignment = replace(config.temporal_alignment, buffer_seconds=2.0, max_range_excess_seconds=None)
    candidates = find_candidates([claim(claim_s, "X.")], [Reference(*reference_s, "X.")], config=alignment)
    assert candidates.in_place == (((0, 0),) if matches else ())


@pytest.mark.parametrize(("end_s", "matches"), [(6.0, True), (6.01, False)])
def test_a_range_may_be_longer_than_its_reference_by_the_limit_itself(
    end_s: float, matches: bool, config: VideoR2Config
) -> None:
    alignment = replace(config.temporal_alignment, max_range_excess_seconds=4.0)
    candidates = find_candidates([claim((0, end_s), "X.")], [Reference(1, 3, "X.")], config=alignment)
    assert bool(candidates.in_place) == matches


def test_of_two_keys_for_one_time_the_last_wins() -> None:
    assert read_references({"00:05": "a dog", "0:05": "a cat"}) == [Reference(5, 5, "A cat.")]
    assert read_references({"0:05": "a cat", "00:05": "a dog"}) == [Reference(5, 5, "A dog.")]


@pytest.mark.parametrize(("cosine", "matches"), [(0.75, True), (0.7499, False)])
def test_sentences_match_from_the_threshold_on(cosine: float, matches: bool, config: VideoR2Config) -> None:
    def constant(claims: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
        return np.full((len(claims), len(references)), cosine)

    alignment = replace(config.temporal_alignment, similarity_threshold=0.75)
    verdict = verdict_of([claim(2, "X.")], [Reference(2, 2, "X.")], alignment, similarity=constant)
    assert verdict.value == float(matches)


def test_the_similarity_told_of_a_claim_that_matched_nothing_is_its_best_however_low(config: VideoR2Config) -> None:
    def opposite(claims: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
        return np.array([[-0.5, -0.25]])

    references = [Reference(2, 2, "X."), Reference(3, 3, "Y.")]
    verdict = verdict_of([claim(2, "Z.")], references, config.temporal_alignment, similarity=opposite)
    assert [(c["outcome"], c["similarity"]) for c in verdict.detail["claims"]] == [("similarity", -0.25)]


def test_greedy_goes_by_the_middle_of_a_claim_and_takes_the_earliest_of_equally_similar_references(
    config: VideoR2Config, by_words: Similarity
) -> None:
    greedy = replace(config.temporal_alignment, matching="greedy", max_range_excess_seconds=None)
    # The range starts first, but its middle, 5 s, comes after 4 s.
    contested = [claim((0, 10), "A cat."), claim(4, "A cat.")]
    verdict = verdict_of(contested, [Reference(4, 4, "A cat.")], greedy, similarity=by_words)
    assert [c["outcome"] for c in verdict.detail["claims"]] == ["taken", "matched"]
    references = [Reference(2, 2, "A cat."), Reference(3, 3, "A cat.")]
    verdict = verdict_of([claim(3, "A cat.")], references, greedy, similarity=by_words)
    assert [c["reference"] for c in verdict.detail["claims"]] == [0]


def test_of_claims_that_somebody_else_extracted_the_first_256_are_read_in_their_order() -> None:
    texts = [(f"{number} s", f"event {number}") for number in range(300, 0, -1)]
    read = claims_of_pairs([("1 s", None), ("later", "x"), *texts])
    # A value that is no text is passed over before counting, an unreadable key after it.
    assert [(claim.start_s, claim.text) for claim in read] == [
        (number, f"Event {number}.") for number in range(300, 45, -1)
    ]
