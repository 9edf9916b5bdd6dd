"""The values of a bucket as bytes: one after the other, or only those that changed with their places."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from workers.weights.plan import Bucket, Gathered

if TYPE_CHECKING:
    from torch import Tensor

_DIGEST_WORDS = 1 << 20
"""32-bit words that are summed at a time."""
_BITS = {2: torch.int16, 4: torch.int32}


class BucketDamaged(RuntimeError):
    """What arrived is not what was sent."""


def join(bucket: Bucket, tensors: Iterable[tuple[str, Tensor]], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The bucket's tensors end to end, [num_values] of `dtype` on `device`.

    Args:
        tensors: in the bucket's order.

    Raises:
        ValueError: they are others than the bucket's, or of other shapes.
    """
    flat = torch.empty(bucket.num_values, dtype=dtype, device=device)
    places = iter(zip(bucket.names, bucket.shapes, flat.split(_sizes(bucket)), strict=True))
    for name, tensor in tensors:
        expected = next(places, None)
        if expected is None or (name, tuple(tensor.shape)) != expected[:2]:
            raise ValueError(f"found {name} {tuple(tensor.shape)} in place of {expected and expected[:2]}")
        expected[2].copy_(tensor.detach().reshape(-1))
        # Before the next one is gathered: the largest are a gigabyte.
        del tensor
    if rest := [name for name, _, _ in places]:
        raise ValueError(f"nothing was gathered for {', '.join(rest)}")
    return flat


def split(flat: Tensor, bucket: Bucket) -> list[tuple[str, Tensor]]:
    """Views of `flat` under their names; the reverse of `join`."""
    parts = flat.split(_sizes(bucket))
    return [(name, part.view(shape)) for name, shape, part in zip(bucket.names, bucket.shapes, parts, strict=True)]


def _sizes(bucket: Bucket) -> list[int]:
    return [math.prod(shape) for shape in bucket.shapes]


def digest(flat: Tensor) -> str:
    """32 hexadecimal digits that tell one content from another, computed where the values are.

    Two sums modulo 2^64 as in Fletcher's checksum: of the 16- or 32-bit words, in which any one change shows, and of
    the words times their places, in which an exchange shows. Against faults of transport, not against an adversary.
    """
    words = flat.view(_BITS[flat.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    weighted = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, len(words), _DIGEST_WORDS):
        part = words[start : start + _DIGEST_WORDS].to(torch.int64)
        total += part.sum()
        weighted += (part * torch.arange(start + 1, start + 1 + len(part), device=flat.device)).sum()
    return f"{int(total) % 2**64:016x}{int(weighted) % 2**64:016x}"


def encode(flat: Tensor, base: Tensor | None) -> tuple[Tensor, Gathered]:
    """What is sent of a bucket, uint8 [num_bytes], and its description.

    Args:
        flat: [n], the new values.
        base: [n], what the receivers hold, or None. Changed values are sent alone where that is shorter.
    """
    whole = flat.view(torch.uint8)
    if base is not None:
        bits = _BITS[flat.element_size()]
        places = (flat.view(bits) != base.to(flat.device).view(bits)).nonzero()[:, 0].to(torch.int32)
        if len(places) * (4 + flat.element_size()) < len(whole):
            payload = torch.cat([places.view(torch.uint8), flat[places].view(torch.uint8)])
            return payload, Gathered(len(payload), len(places), digest(flat))
    return whole, Gathered(len(whole), None, digest(flat))


def decode(payload: Tensor, gathered: Gathered, *, dtype: torch.dtype, base: Tensor | None) -> Tensor:
    """The bucket's values, [n] of `dtype`.

    Args:
        payload: uint8 [num_bytes], as `encode` gave it.
        base: what this side holds; it takes the changed values in.

    Raises:
        BucketDamaged: the result has another digest than what was encoded.
    """
    if gathered.num_changed is None:
        flat = payload.view(dtype)
    else:
        assert base is not None, "changed values alone are sent to those that hold the others"
        cut = 4 * gathered.num_changed
        flat = base
        flat[payload[:cut].view(torch.int32).to(base.device)] = payload[cut:].view(dtype).to(base.device)
    found = digest(flat)
    if found != gathered.digest:
        raise BucketDamaged(f"arrived damaged: digest {found} in place of {gathered.digest}")
    return flat
