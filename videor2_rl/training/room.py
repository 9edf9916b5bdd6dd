"""How much of the prepared pixels may lie in the object store ahead of the learner."""

from __future__ import annotations


class Room:
    """Of what has set out and not been released, by number; as many as there are, each question costs the same."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._sizes: dict[int, int | None] = {}
        """None: not known yet."""
        self._known_bytes = 0
        self._num_known = 0
        self._largest = 0

    def enter(self, number: int) -> None:
        """It is being prepared."""
        self._sizes[number] = None

    def measured(self, number: int, num_bytes: int) -> None:
        """So large are its pixels."""
        self._sizes[number] = num_bytes
        self._known_bytes += num_bytes
        self._num_known += 1
        self._largest = max(self._largest, num_bytes)

    def leave(self, number: int) -> None:
        """Its pixels are needed no more; nothing where it is unknown."""
        size = self._sizes.pop(number, None)
        if size is not None:
            self._known_bytes -= size
            self._num_known -= 1

    @property
    def is_below_limit(self) -> bool:
        """What is known is less than the limit."""
        return self._known_bytes < self._limit

    @property
    def has_room(self) -> bool:
        """Another one may be prepared, even where each that is being prepared is as large as any was."""
        if not self._num_known:
            return not self._sizes
        return self._known_bytes + (len(self._sizes) - self._num_known) * self._largest < self._limit
