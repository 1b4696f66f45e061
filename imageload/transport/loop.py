"""The asyncio loop of all transfers, on which the tasks of small jobs go first.

asyncio runs what is ready in the order in which it became ready, all of it at each turn. A job with
many images in flight makes a turn some 5 ms long, and a job of one image needs some ten turns.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any

is_urgent: ContextVar[bool] = ContextVar("is_urgent", default=False)
"""True in the context of a task that goes before others which are ready too."""

_IN_A_ROW = 16
"""Handles that go first, one after the other, before one that waits."""


def new_loop() -> asyncio.AbstractEventLoop:
    """An UrgentFirstLoop; where this Python was not tried with it, asyncio's own."""
    return UrgentFirstLoop() if sys.version_info < (3, 14) else asyncio.new_event_loop()


class _Ready:
    """asyncio's queue of handles that are ready, in two parts: each is in order."""

    def __init__(self) -> None:
        self.first: deque[asyncio.Handle] = deque()
        self._others: deque[asyncio.Handle] = deque()
        self._in_a_row = 0

    def __len__(self) -> int:
        return len(self.first) + len(self._others)

    def append(self, handle: asyncio.Handle) -> None:
        goes_first = handle._context.get(is_urgent)  # type: ignore[attr-defined]
        (self.first if goes_first else self._others).append(handle)

    def popleft(self) -> asyncio.Handle:
        if self.first and (self._in_a_row < _IN_A_ROW or not self._others):
            self._in_a_row += 1
            return self.first.popleft()
        self._in_a_row = 0
        return self._others.popleft()

    def clear(self) -> None:
        self.first.clear()
        self._others.clear()


class UrgentFirstLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, but urgent tasks, sockets and calls from other threads go first."""

    def __init__(self) -> None:
        super().__init__()
        self._ready = _Ready()  # private to asyncio, which has no setting for the order

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Call `callback(*args)` soon, after earlier calls from other threads.

        Raises RuntimeError if the loop is closed.
        """
        self._check_closed()  # type: ignore[attr-defined]
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.first.append(handle)
        self._write_to_self()  # type: ignore[attr-defined]
        return handle

    def _add_callback(self, handle: asyncio.Handle) -> None:
        """Called by asyncio if a socket is ready."""
        if not handle.cancelled():
            self._ready.first.append(handle)
