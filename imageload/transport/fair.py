"""A queue shared by many jobs, in which none can take the place of all others.

What waits, waits in one line a key (a job's id), and the lines are served in turn, so a job of one
URL never waits behind ten thousand of another. A key may hold at most half of the slots that the
others leave, rounded up: n busy keys end up with 1/(n+1) of the slots each, and the last share is
free for whoever comes next. Where none ever gives back, the k-th to come gets the k-th half: of 32
slots 16, 8, 4, 2, 1, 1, so six keys that hang fill them. Not for several threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items wait under their key until `take` gives them one of `slots`; `give_back` frees it."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._lines: dict[Hashable, deque[T]] = {}
        self._held: dict[Hashable, int] = {}
        self._busy = 0
        self._waiting = 0

    def __len__(self) -> int:
        """How many items wait."""
        return self._waiting

    @property
    def busy(self) -> int:
        """How many slots are taken."""
        return self._busy

    def put(self, key: Hashable, item: T) -> None:
        """Stand `item` in the line of `key`."""
        self._lines.setdefault(key, deque()).append(item)
        self._waiting += 1

    def take(self) -> tuple[Hashable, T] | None:
        """The next item that may have a slot, with its key; None where there is none now."""
        for key in self._lines:
            held = self._held.get(key, 0)
            left_by_others = self.slots - self._busy + held
            if held < (left_by_others + 1) // 2:
                break
        else:
            return None
        line = self._lines.pop(key)
        item = line.popleft()
        if line:
            self._lines[key] = line  # at the end of the turn again
        self._held[key] = held + 1
        self._busy += 1
        self._waiting -= 1
        return key, item

    def give_back(self, key: Hashable) -> None:
        """Free a slot that `key` holds."""
        self._busy -= 1
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]

    def drop(self, key: Hashable) -> list[T]:
        """Everything that waits under `key`, which now waits no more."""
        line = self._lines.pop(key, deque())
        self._waiting -= len(line)
        return list(line)

    def clear(self) -> list[T]:
        """Everything that waits, which now waits no more."""
        return [item for key in list(self._lines) for item in self.drop(key)]
