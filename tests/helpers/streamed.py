"""What the learner would send to the rollout workers, collected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def sent_weights(source: Any, get: Callable[[Any], np.ndarray]) -> dict[str, np.ndarray]:
    """Name -> values of an update's weights, in float32.

    Args:
        source: what `Learner.weights` gave.
        get: what its `store` gives -> the bytes.
    """
    import torch

    weights = {}
    for index, bucket in enumerate(source.plan.buckets):
        gathered = source.gather(index, bucket, only_changes=False)
        values = torch.tensor(get(source.store())).view(getattr(torch, source.plan.dtype))
        assert gathered.num_bytes == values.nbytes
        sizes = [int(np.prod(shape)) for shape in bucket.shapes]
        for name, shape, part in zip(bucket.names, bucket.shapes, values.split(sizes), strict=True):
            weights[name] = part.view(shape).float().numpy()
    source.end(is_whole=True)
    return weights
