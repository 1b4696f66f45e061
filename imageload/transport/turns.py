"""Resumes the tasks of many jobs fairly: while a small job is at work, a few of each at a turn.

asyncio runs at one turn of its loop everything that is ready. A job with many images in flight
makes the turns long, and a job of one image needs some eight of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from typing import Generic, TypeVar

T = TypeVar("T")

current_job: ContextVar[Hashable] = ContextVar("current_job", default=None)
"""The id of the job that a task works on. Tasks without one count as one job."""

_SHORT_SECONDS = 0.25
"""Short turns cost CPU time, so they end soon after the last small job."""
_RESUMED_AT_A_SHORT_TURN = 2


class Turns(Generic[T]):
    """Sets the results of Futures: all at once, or for a while a few of each job at a turn."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._short_until = 0.0
        self._lines: dict[Hashable, deque[tuple[asyncio.Future[T], T]]] = {}
        self._will_resume = False

    def shorten(self) -> None:
        """Resume few tasks of each job at a turn, for 0.25 s from now; from any thread."""
        self._short_until = self._clock() + _SHORT_SECONDS

    @property
    def are_short(self) -> bool:
        """True within 0.25 s after `shorten`."""
        return self._clock() < self._short_until

    def put(self, job_id: Hashable, future: asyncio.Future[T], result: T) -> None:
        """Have a later `resume` set the result of `future`, unless it is done by then."""
        self._lines.setdefault(job_id, deque()).append((future, result))

    def resume(self) -> None:
        """Set results now; those that are left over are set at the next turns."""
        if self._lines and not self._will_resume:
            self._resume()

    def _resume(self) -> None:
        are_short = self.are_short
        for job_id, line in list(self._lines.items()):
            most = _RESUMED_AT_A_SHORT_TURN if are_short else len(line)
            for _ in range(min(most, len(line))):
                future, result = line.popleft()
                if not future.done():
                    future.set_result(result)
            if not line:
                del self._lines[job_id]
        self._will_resume = bool(self._lines)
        if self._will_resume:
            asyncio.get_running_loop().call_soon(self._resume)
