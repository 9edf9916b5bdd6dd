"""What is lost, besides Ray's own errors; nothing here imports Ray."""

from __future__ import annotations


class WorkerLost(RuntimeError):
    """Raised inside an actor that cannot serve any more (its engine died): the pool replaces the actor."""


class DeadlineExceeded(RuntimeError):
    """Something asked of a worker took longer than allowed; the message names it."""


class CallGivenUp(RuntimeError):
    """One call cost a pool more actors than it may; the message says how many, and why the last one was lost."""


class RankLost(RuntimeError):
    """A rank of the learner or reference died: all of them are started anew, and the run goes on from its last
    checkpoint."""
