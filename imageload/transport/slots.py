"""Slots that many jobs share fairly: no job can take all of them.

Waiting work is queued per key (a job's id), and the queues are served in turn, so a job of
one URL never waits behind ten thousand of another. A key may hold at most half of the slots that
the others leave, rounded up: with n busy keys each ends up with 1/(n+1) of the slots, and the last
share is free for the next key. If no key ever gives back, the k-th gets the k-th half: of 32 slots
16, 8, 4, 2, 1, 1, so six keys that hang fill them. Runs on the transfer loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import NamedTuple, TypeVar

from imageload.errors import DiskFull, ResourceError

T = TypeVar("T")


class Pool(NamedTuple):
    """How full something is: its slots, how many are busy, how many wait for one."""

    slots: int
    busy: int
    waiting: int


class Slots:
    """`await run(key, work)` awaits `work()` in a slot.

    When work ends for lack of descriptors, memory or disk (ResourceError, DiskFull), the number of
    slots is halved; it grows by one each time that so many have ended otherwise.
    """

    def __init__(
        self,
        slots: int,
        *,
        gate: Callable[[], float] | None = None,
        clock: Callable[[float], object] | None = None,
        on_resize: Callable[[int], object] | None = None,
    ) -> None:
        """`gate` returns the seconds until the next work may start: 0 is now, inf is when other
        work has ended. `clock` gets the seconds that each work spent in its slot. `on_resize` gets
        the new number of slots.
        """
        self._most = self._slots = slots
        self._gate = gate
        self._clock = clock
        self._on_resize = on_resize
        self._lines: dict[Hashable, deque[asyncio.Future[None]]] = {}
        self._held: dict[Hashable, int] = {}
        self._busy = 0
        self._waiting = 0
        self._ended_well = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pool(self) -> Pool:
        """How full it is."""
        return Pool(self._slots, self._busy, self._waiting)

    async def run(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work()`, awaited in a slot.

        Work that ends with a ResourceError while other slots are busy goes back into the line: the
        others will give back what it lacked.
        """
        while True:
            await self._acquire(key)
            begun, error = time.monotonic(), None
            try:
                return await work()
            except BaseException as raised:
                error = raised
                if not isinstance(raised, ResourceError) or self._busy <= 1:
                    raise
            finally:
                if self._clock is not None:
                    self._clock(time.monotonic() - begun)
                self._resize(error)
                self._release(key)

    def reconsider(self) -> None:
        """Ask the gate again, which may have opened."""
        self._start_waiting()

    async def _acquire(self, key: Hashable) -> None:
        if not self._waiting and self._has_slot(key) and self._seconds_to_open() <= 0:
            self._take(key)
            return
        granted = asyncio.get_running_loop().create_future()
        self._lines.setdefault(key, deque()).append(granted)
        self._waiting += 1
        self._start_waiting()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._leave(key, granted)
            else:
                self._release(key)
            raise

    def _leave(self, key: Hashable, granted: asyncio.Future[None]) -> None:
        line = self._lines.get(key) or deque()
        if granted in line:
            self._waiting -= 1
            line.remove(granted)
            if not line:
                del self._lines[key]

    def _take(self, key: Hashable) -> None:
        self._held[key] = self._held.get(key, 0) + 1
        self._busy += 1

    def _release(self, key: Hashable) -> None:
        self._busy -= 1
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        if self._waiting:
            self._start_waiting()

    def _has_slot(self, key: Hashable) -> bool:
        held = self._held.get(key, 0)
        left_by_others = self._slots - self._busy + held
        return held < (left_by_others + 1) // 2

    def _start_waiting(self) -> None:
        while self._waiting:
            for key in self._lines:
                if self._has_slot(key):
                    break
            else:
                return
            seconds = self._seconds_to_open()
            if seconds > 0:
                self._look_again_in(seconds)
                return
            line = self._lines.pop(key)
            granted = line.popleft()
            if line:
                self._lines[key] = line  # behind the other keys
            self._waiting -= 1
            if not granted.cancelled():
                self._take(key)
                granted.set_result(None)

    def _seconds_to_open(self) -> float:
        return self._gate() if self._gate is not None else 0.0

    def _look_again_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds < math.inf:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self._start_waiting)

    def _resize(self, error: BaseException | None) -> None:
        if isinstance(error, (ResourceError, DiskFull)):
            self._set_slots(max(1, self._slots // 2))
        elif self._slots < self._most:
            self._ended_well += 1
            if self._ended_well >= self._slots:
                self._set_slots(self._slots + 1)

    def _set_slots(self, slots: int) -> None:
        self._slots, self._ended_well = slots, 0
        if self._on_resize is not None:
            self._on_resize(slots)
