"""A bucket as bytes and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.weights import payload as payloads
from workers.weights.payload import BucketDamaged, decode, digest, encode, join, split
from workers.weights.plan import Bucket, Gathered

BUCKET = Bucket(("a", "b", "c"), ((2, 3), (4,), ()))
CPU = torch.device("cpu")


def tensors() -> list[tuple[str, torch.Tensor]]:
    return [("a", torch.arange(6.0).view(3, 2).t()), ("b", torch.ones(4, dtype=torch.float64)), ("c", torch.tensor(7))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_come_back_as_they_went(dtype: torch.dtype) -> None:
    flat = join(BUCKET, iter(tensors()), dtype=dtype, device=CPU)
    assert (flat.shape, flat.dtype) == ((11,), dtype)
    back = split(flat, BUCKET)
    assert [name for name, _ in back] == ["a", "b", "c"]
    assert back[0][1].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert back[1][1].tolist() == [1, 1, 1, 1]
    assert back[2][1].item() == 7
    assert all(tensor.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr() for _, tensor in back)


def test_what_was_gathered_must_be_the_bucket() -> None:
    whole = tensors()
    with pytest.raises(ValueError, match="nothing was gathered for b, c"):
        join(BUCKET, whole[:1], dtype=torch.float32, device=CPU)
    with pytest.raises(ValueError, match="found b"):
        join(BUCKET, whole[1:], dtype=torch.float32, device=CPU)
    with pytest.raises(ValueError, match=r"found a \(3, 2\)"):
        join(BUCKET, [("a", torch.zeros(3, 2)), *whole[1:]], dtype=torch.float32, device=CPU)
    with pytest.raises(ValueError, match="found d"):
        join(BUCKET, [*whole, ("d", torch.zeros(1))], dtype=torch.float32, device=CPU)


values = st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=40)


def of_bits(bits: list[int]) -> torch.Tensor:
    """Any bit pattern, not-a-numbers and both zeros among them."""
    return torch.from_numpy(np.array(bits, dtype=np.uint32).view(np.float32).copy())


@given(values, st.data())
def test_a_changed_bit_and_two_exchanged_values_have_another_digest(bits: list[int], data: st.DataObject) -> None:
    before = digest(of_bits(bits))
    place = data.draw(st.integers(0, len(bits) - 1))
    flipped = list(bits)
    flipped[place] ^= 1 << data.draw(st.integers(0, 31))
    assert digest(of_bits(flipped)) != before
    other = data.draw(st.integers(0, len(bits) - 1))
    swapped = list(bits)
    swapped[place], swapped[other] = swapped[other], swapped[place]
    assert (digest(of_bits(swapped)) != before) == (bits[place] != bits[other])


def test_the_digest_is_that_of_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python's own integers; in portions and at once."""
    flat = torch.randn(1001)
    words = [int(word) for word in flat.numpy().view(np.int32)]
    total = sum(words)
    weighted = sum(word * place for place, word in enumerate(words, start=1))
    expected = f"{total % 2**64:016x}{weighted % 2**64:016x}"
    assert digest(flat) == expected
    monkeypatch.setattr(payloads, "_DIGEST_WORDS", 64)
    assert digest(flat) == expected


@settings(max_examples=200)
@given(st.integers(1, 60), st.floats(0, 1), st.sampled_from([torch.float32, torch.bfloat16]), st.integers(0, 2**31))
def test_changes_alone_give_the_same_bits_and_never_more_bytes(
    size: int, frac: float, dtype: torch.dtype, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 2**32, size, dtype=np.uint32).view(np.int32)
    base = torch.from_numpy(raw.copy()).view(torch.float32).to(dtype)
    new = base.clone()
    changed = torch.from_numpy(rng.random(size) < frac)
    new[changed] = torch.from_numpy(rng.standard_normal(size)).to(dtype)[changed]
    data, gathered = encode(new, base)
    assert len(data) == gathered.num_bytes <= new.nbytes
    received = decode(data.clone(), gathered, dtype=dtype, base=base.clone())
    assert received.view(torch.uint8).tolist() == new.view(torch.uint8).tolist()


def test_one_change_of_many_travels_alone_and_zero_with_another_sign_is_a_change() -> None:
    base = torch.zeros(1000, dtype=torch.bfloat16)
    new = base.clone()
    new[3], new[7] = 1.5, -0.0
    data, gathered = encode(new, base)
    assert (gathered.num_changed, gathered.num_bytes) == (2, 2 * (4 + 2))
    assert torch.signbit(decode(data, gathered, dtype=torch.bfloat16, base=base)[7])


def test_many_changes_travel_as_the_whole() -> None:
    base = torch.zeros(90, dtype=torch.bfloat16)
    new = base.clone()
    new[:30] = 1
    assert encode(new, base)[1].num_changed is None
    new[:30], new[:29] = 0, 1
    assert encode(new, base)[1].num_changed == 29


def test_damage_is_noticed_in_either_form() -> None:
    base, new = torch.zeros(100), torch.zeros(100)
    new[5] = 1
    for kept in (None, base):
        data, gathered = encode(new, kept)
        data = data.clone()
        data[-1] ^= 1
        with pytest.raises(BucketDamaged, match="arrived damaged: digest"):
            decode(data, gathered, dtype=torch.float32, base=base.clone())
    wrong_base = torch.ones(100)
    data, gathered = encode(new, base)
    with pytest.raises(BucketDamaged):
        decode(data, gathered, dtype=torch.float32, base=wrong_base)
    with pytest.raises(AssertionError, match="changed values alone"):
        decode(data, Gathered(8, 1, ""), dtype=torch.float32, base=None)
