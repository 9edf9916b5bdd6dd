"""Which prompts are on their way: the one bound that makes a run synchronous, one step off, or streaming.

Prompts have numbers, their places in the sample order; each step takes `prompts_per_step` of them. At most
(`max_staleness` + 1) x `prompts_per_step` are active, that is admitted and not released; a prompt is released when the
step that took it has trained and its weights are out. With `max_staleness` 0 the next step's prompts are thus admitted
when nothing else is active: that is the synchronous loop. Nothing is ever dropped for being too old.

How stale a prompt can be when it is taken, in steps trained since it was admitted: with P prompts a step, K =
`max_staleness` and L = `lookahead`, at most

    ((K + 1) P - 1 + L) // P,    which is K for L = 0.

Proof. Take prompt n. When it is admitted at most (K + 1) P - 1 others are active, and those admitted later have higher
numbers, since numbers are admitted in order. A prompt m > n may be taken before n only as long as m <= head + L, the
head being the lowest number that was not taken; n itself was not taken, so head <= n and m <= n + L: at most L such
prompts. Of those taken after n's admission and before n there are then at most (K + 1) P - 1 + L. Each step takes P, so
at most that // P whole steps lie between. (The windowed queue of pytorch/torchtitan proves the same of its own; its
window W is L + 1.)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice


def staleness_bound(*, prompts_per_step: int, max_staleness: int, lookahead: int) -> int:
    """The most steps that can train between a prompt's admission and the step that takes it."""
    return ((max_staleness + 1) * prompts_per_step - 1 + lookahead) // prompts_per_step


class Window:
    """Admits prompts in order, hands out steps, and releases."""

    def __init__(
        self, *, prompts_per_step: int, max_staleness: int, lookahead: int, end: int, taken: Collection[int] = ()
    ) -> None:
        """
        Args:
            lookahead: so many younger prompts may go before the oldest one that is not ready; 0: strict order.
            end: of the numbers, which begin with 0; a multiple of `prompts_per_step`.
            taken: by steps before a run was resumed.
        """
        if end % prompts_per_step:
            raise ValueError(f"{end} prompts are no whole number of steps of {prompts_per_step}")
        self._size = prompts_per_step
        self._places = (max_staleness + 1) * prompts_per_step
        self._lookahead = lookahead
        self._end = end
        done = set(taken)
        self._head = next(number for number in range(end + 1) if number not in done)
        self._passed = {number for number in done if number > self._head}
        """Taken, and younger than the head."""
        self._next = self._head
        self._active: set[int] = set()
        self._ready: set[int] = set()
        self._blockers = range(0)
        """The last look found no step: these may still be in it, and the first of them holds up all that are beyond."""
        self._missing = 0
        """So many of them, or the first, must get ready before there is one."""

    def admit(self) -> list[int]:
        """The numbers that may set out now."""
        numbers = []
        while self._next < self._end and len(self._active) < self._places:
            if self._next not in self._passed:
                numbers.append(self._next)
                self._active.add(self._next)
            self._next += 1
        return numbers

    def ahead(self) -> list[int]:
        """The numbers of a step that will be admitted next; nothing of theirs may be sampled yet."""
        found = (number for number in range(self._next, self._end) if number not in self._passed)
        return list(islice(found, self._size))

    def ready(self, number: int) -> None:
        """A prompt's way has ended: it was scored, or cannot be used."""
        if number not in self._active or number in self._ready:
            raise ValueError(f"prompt {number} is not on its way")
        self._ready.add(number)
        if number in self._blockers:
            self._missing -= self._missing if number == self._blockers.start else 1

    def take(self) -> list[int] | None:
        """The next step's numbers, the oldest first; None while too few are ready."""
        if len(self._ready) < self._size or self._missing > 0:
            return None
        batch: list[int] = []
        head = number = self._head
        passed = set(self._passed)
        while len(batch) < self._size:
            while number <= head + self._lookahead and number not in self._ready:
                number += 1  # it was taken before, or is on its way
            if number > head + self._lookahead:
                self._blockers, self._missing = range(head, number), self._size - len(batch)
                return None
            batch.append(number)
            passed.add(number)
            while head in passed:
                passed.remove(head)
                head += 1
            number = max(number + 1, head)
        self._head, self._passed = head, passed
        self._ready -= set(batch)
        return batch

    def release(self, numbers: Sequence[int]) -> None:
        """Their step has trained, and its weights are out."""
        if unknown := set(numbers) - self._active:
            raise ValueError(f"prompts {sorted(unknown)} are not active")
        self._active -= set(numbers)
