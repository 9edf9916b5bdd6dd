"""What a matching pays under each option, worked by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rewards.match.alignment import NUM_SHIFTS, counts, interval_iou, paid_statistic, shifted
from rewards.terms.temporal import Reference, find_candidates, temporal_verdict
from rewards.text.claims import Claim
from rewards.types import Similarity, TemporalAlignmentConfig, Verdict, VideoR2Config

POINTS = [(2.0, 2.0), (8.0, 8.0), (12.0, 12.0)]


@pytest.fixture(scope="module")
def alignment(config: VideoR2Config) -> TemporalAlignmentConfig:
    return config.temporal_alignment


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"statistic": "precision"}, 1.0),
        ({"statistic": "recall"}, 1 / 3),
        # F1 = 2 PR / (P + R) = (2/3) / (4/3); F2 = 5 PR / (4 P + R) = (5/3) / (13/3); F0.5 = 1.25 PR / (0.25 P + R).
        ({"statistic": "f_beta", "beta": 1.0}, 1 / 2),
        ({"statistic": "f_beta", "beta": 2.0}, 5 / 13),
        ({"statistic": "f_beta", "beta": 0.5}, 5 / 7),
        ({"statistic": "interval_iou"}, 1 / 2),
    ],
)
def test_one_safe_claim_of_three_events(
    options: dict[str, Any], expected: float, alignment: TemporalAlignmentConfig
) -> None:
    paid = paid_statistic([(0, 0)], POINTS[:1], POINTS, config=replace(alignment, **options))
    assert paid == pytest.approx(expected)


def test_counts_are_of_pairs_alone() -> None:
    assert counts([(0, 0)], num_claims=4, num_references=2) == {"precision": 0.25, "recall": 0.5, "f1": 1 / 3}
    assert counts([], num_claims=0, num_references=2) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


@pytest.mark.parametrize("statistic", ["precision", "recall", "f_beta", "interval_iou"])
def test_without_a_claim_nothing_is_paid(statistic: Any, alignment: TemporalAlignmentConfig) -> None:
    assert paid_statistic([], [], POINTS, config=replace(alignment, statistic=statistic)) == 0.0


@pytest.mark.parametrize(
    ("claim", "reference", "cost", "expected"),
    [
        ((2.0, 2.0), (2.0, 2.0), 0.1, 1.0),
        ((1.0, 4.0), (2.0, 2.0), 0.1, 0.7),
        ((1.0, 4.0), (2.0, 4.0), 0.1, 0.9),
        ((1.0, 4.0), (2.0, 2.0), 0.0, 1.0),
        ((1.0, 4.0), (2.0, 2.0), 0.5, 0.0),  # 1 - 1.5 is below 0.
        ((2.0, 2.0), (1.0, 9.0), 0.1, 1.0),  # A point in a long event costs nothing.
    ],
)
def test_a_range_longer_than_the_reference_costs_by_the_second(
    claim: tuple[float, float], reference: tuple[float, float], cost: float, expected: float,
    alignment: TemporalAlignmentConfig,
) -> None:  # fmt: skip
    priced = replace(alignment, statistic="precision", range_cost_per_second=cost)
    assert paid_statistic([(0, 0)], [claim], [reference], config=priced) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second", "margin_s", "expected"),
    [
        ((2, 2), (2, 2), 1, 1.0),
        ((2, 2), (2, 2), 0, 1.0),
        ((2, 2), (3, 3), 1, 1 / 3),  # 1..3 and 2..4
        ((2, 2), (4, 4), 1, 0.0),
        ((0, 4), (2, 6), 0, 2 / 6),
        ((0, 4), (4, 8), 1, 2 / 10),
        ((0, 2), (5, 6), 0, 0.0),
    ],
)
def test_interval_iou(first: Any, second: Any, margin_s: float, expected: float) -> None:
    assert interval_iou(first, second, margin_s=margin_s) == pytest.approx(expected)


INTERVALS = st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda pair: (float(min(pair)), float(max(pair))))


@given(INTERVALS, INTERVALS, st.integers(0, 5))
def test_interval_iou_is_symmetric_and_a_share(first: Any, second: Any, margin_s: int) -> None:
    value = interval_iou(first, second, margin_s=margin_s)
    assert value == interval_iou(second, first, margin_s=margin_s)
    assert 0.0 <= value <= 1.0
    assert (value == 1.0) == (first == second)


@given(st.lists(INTERVALS, min_size=1, max_size=5), st.lists(INTERVALS, min_size=1, max_size=5), st.integers(0, 4))
def test_every_shift_moves_every_claim_by_more_than_the_buffer_and_keeps_its_length(
    claims: Any, references: Any, buffer_s: int
) -> None:
    moved = shifted(claims, references, buffer_seconds=buffer_s)
    assert len(moved) == NUM_SHIFTS
    for there in moved:
        for (start, end), (new_start, new_end) in zip(claims, there, strict=True):
            assert new_end - new_start == pytest.approx(end - start)
            assert abs(new_start - start) >= 2 * buffer_s


def exact(ours: Sequence[str], theirs: Sequence[str]) -> NDArray[np.float32]:
    return np.array([[float(a == b) for b in theirs] for a in ours], dtype=np.float32)


def verdict(times: Sequence[tuple[float, float]], text: str, alignment: TemporalAlignmentConfig) -> Verdict:
    claims = [Claim(start, end, text, "") for start, end in times]
    references = [Reference(20, 20, "A cat jumps."), Reference(40, 40, "A dog barks.")]
    candidates = find_candidates(claims, references, config=alignment)
    return temporal_verdict(claims, references, candidates, gate=1.0, config=alignment, similarity=exact)


def test_chance_correction_takes_back_what_claims_earn_wherever_they_stand(alignment: TemporalAlignmentConfig) -> None:
    plain = replace(alignment, statistic="recall", range_cost_per_second=0.0)
    corrected = replace(plain, chance_correction=True)
    one = [(20.0, 20.0)]
    assert verdict(one, "A cat jumps.", plain).value == verdict(one, "A cat jumps.", corrected).value == 0.5
    assert verdict(one, "A cat jumps.", corrected).detail["chance"] == 0.0
    # A stamp every second is in time after every shift too.
    stamps = [(float(second), float(second)) for second in range(60)]
    assert verdict(stamps, "A cat jumps.", plain).value == 0.5
    spam = verdict(stamps, "A cat jumps.", corrected)
    assert spam.value == 0.0
    assert spam.detail["chance"] == 0.5
    assert spam.detail["recall"] == 0.5


def test_chance_is_the_mean_over_the_shifts(alignment: TemporalAlignmentConfig) -> None:
    # Buffer 2: shifts of 5 to 55 in steps of 50/7 around a circle of 40 + 10 = 50 + ... s; two stamps of one event.
    corrected = replace(alignment, statistic="recall", range_cost_per_second=0.0, chance_correction=True)
    times = [(20.0, 20.0), (10.0, 10.0)]
    length, least = 40 + 2 * 5, 5
    steps = [least + step * (length - 2 * least) / 7 for step in range(8)]
    by_hand = sum(0.5 for step in steps if any(abs((t + step) % length - 20) <= 2 for t, _ in times)) / 8
    assert 0 < by_hand < 0.5
    assert verdict(times, "A cat jumps.", corrected).detail["chance"] == pytest.approx(by_hand)
    assert verdict(times, "A cat jumps.", corrected).value == pytest.approx(0.5 - by_hand)
    assert verdict([], "A cat jumps.", corrected).value == 0.0


def test_sentences_of_shifted_pairs_are_listed_for_the_encoder(
    reward_config: Callable[..., VideoR2Config], toy_target: Any, by_words: Similarity
) -> None:
    from rewards.compose import score_response, sentences_to_encode

    config = reward_config("video_r2", "reward.temporal_alignment.chance_correction=true")
    response = "<think>At 00:30 a red square appears. The first is red (A).</think><answer>A</answer>"
    asked: set[str] = set()

    def recording(claims: Sequence[str], references: Sequence[str]) -> NDArray[np.float32]:
        asked.update([*claims, *references])
        return by_words(claims, references)

    score_response(response, toy_target, config, similarity=recording)
    assert asked == set(sentences_to_encode([response], [toy_target], config)) != set()


def test_intervals_are_widened_by_half_the_buffer_at_both_ends(alignment: TemporalAlignmentConfig) -> None:
    config = replace(alignment, statistic="interval_iou", buffer_seconds=2.0, range_cost_per_second=0.0)
    # 1..3 and 2..4 share one second of three: 2 * (1/3) / (1 + 1).
    assert paid_statistic([(0, 0)], [(2.0, 2.0)], [(3.0, 3.0)], config=config) == pytest.approx(1 / 3)
