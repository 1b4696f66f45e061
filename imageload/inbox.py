"""Messages for one thread from many: the bell rings once for any number of them.

Waking a thread costs more than what it is woken for, so messages collect while it is at work.
"""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """`tell` from any thread; `messages` in the one that reads."""

    def __init__(self) -> None:
        self._messages: deque[T] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._rung = False

    def __bool__(self) -> bool:
        """Is there a message?"""
        return bool(self._messages)

    def tell(self, message: T) -> None:
        """Leave a message."""
        self._messages.append(message)
        if not self._rung:
            self.ring()

    def ring(self) -> None:
        """Wake the reader, with or without a message."""
        self._rung = True
        self._bell.put(None)

    def messages(self, seconds: float | None) -> Iterator[T]:
        """What has come, after waiting for it, or for a ring, at most so long."""
        # The bell of what is there may have been heard: by a reader that went away halfway.
        with contextlib.suppress(queue.Empty):
            self._bell.get(timeout=0.0 if self._messages else seconds)
        self._rung = False
        while self._messages:
            yield self._messages.popleft()
