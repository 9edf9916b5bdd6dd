"""Training that goes on inside the same run when ranks of its learner or reference are lost."""

from __future__ import annotations

import logging
from collections.abc import Callable

from workers.errors import RankLost

log = logging.getLogger(__name__)


def train_through_losses(train: Callable[[], None], rebuild: Callable[[], None], *, max_rebuilds: int) -> None:
    """Call `train` until it returns; each time that ranks were lost in it, `rebuild` starts them anew before.

    Args:
        train: goes on from the newest checkpoint whenever it is called.

    Raises:
        RankLost: ranks were lost once more than `max_rebuilds` times, in training or while they were started.
    """
    rebuilds = 0
    while True:
        try:
            if rebuilds:
                rebuild()
            train()
            return
        except RankLost as error:
            if rebuilds == max_rebuilds:
                raise
            rebuilds += 1
            log.warning(
                "%s; its ranks are started anew, and training goes on from the newest checkpoint (%d of "
                "learner.max_rebuilds=%d times)",
                error,
                rebuilds,
                max_rebuilds,
            )
