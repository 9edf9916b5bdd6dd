"""Tokens by one random number each, against their probabilities and against numpy."""

from __future__ import annotations

import numpy as np
import torch

from workers.cpu_sampler import SeededNumbers, SeededRows, sample, uniforms


def test_a_number_falls_into_its_tokens_share() -> None:
    logits = torch.tensor([[0.2, 0.3, 0.5]]).log().repeat(6, 1)
    numbers = torch.tensor([0.0, 0.19, 0.21, 0.49, 0.51, 1 - 2**-53], dtype=torch.float64)
    assert sample(logits, numbers).tolist() == [0, 0, 1, 1, 2, 2]


def test_what_is_cut_away_is_never_sampled() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]]).repeat(2, 1)
    assert sample(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 3]


def test_tokens_come_as_often_as_they_are_likely() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=40).astype(np.float32))
    tokens = sample(logits.repeat(200_000, 1), torch.from_numpy(rng.random(200_000)))
    expected = np.exp(logits.double().numpy()) / np.exp(logits.double().numpy()).sum()
    counts = np.bincount(tokens.numpy(), minlength=40)
    # Chi-squared with 39 degrees of freedom: 72 has a probability of 0.001.
    assert ((counts - 200_000 * expected) ** 2 / (200_000 * expected)).sum() < 72


def numbers(seed: int) -> SeededNumbers:
    return SeededNumbers(torch.Generator().manual_seed(seed))


def test_a_seeded_row_draws_the_same_wherever_it_stands() -> None:
    first, second = uniforms(3, {0: numbers(7)}), uniforms(5, {4: numbers(7), 1: numbers(8)})
    assert first[0] == second[4]
    assert len(set(first.tolist() + second.tolist())) == 7


def test_the_number_of_a_discarded_token_comes_again() -> None:
    plain, turned = numbers(7), SeededRows()
    turned[3] = torch.Generator().manual_seed(7)
    drawn = []
    for is_discarded in (True, True, False, False, True, False):
        number = turned[3].draw()
        if is_discarded:
            # As vLLM does it.
            turned[3].set_offset(turned[3].get_offset() - 4)
        else:
            drawn.append(number)
    assert drawn == [plain.draw() for _ in range(3)]
    # Rows change places as they are.
    turned[1] = turned.pop(3)
    assert turned[1].draw() == plain.draw()
