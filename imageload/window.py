"""The window of a job: its images in flight, and the order in which the others start.

Images start in input order. At most one image of each host waits for its host; later images of the
same host queue behind it, and images of other hosts overtake them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any

from imageload.errors import Failure
from imageload.job import Job

_MOST_ASIDE = 1_000
"""Images of a job that wait for a host, another image or their next download."""

STALL_SECONDS = 1.0
"""A job whose images have all waited for so long is stalled."""

HostOf = Callable[[str], str]


class StartOrder:
    """The images of one job that are still to start, by index."""

    def __init__(self, hosts: Callable[[int], str]) -> None:
        """`hosts` returns the host of an image's URL."""
        self._host_of = hosts
        self._fresh: deque[int] = deque()
        self._queues: dict[str, deque[int]] = {}
        self._ready: deque[str] = deque()
        self._blocked: dict[str, int] = {}

    def __bool__(self) -> bool:
        """True if any are left."""
        return bool(self._fresh or self._queues)

    def add(self, indexes: Iterable[int]) -> None:
        """Start these too, after the others."""
        self._fresh.extend(indexes)

    def clear(self) -> None:
        """Start none of them."""
        self._fresh.clear()
        self._queues.clear()
        self._ready.clear()

    def next(self) -> int | None:
        """The image to start now; None if all that are left are behind one that waits."""
        while self._ready:
            host = self._ready.popleft()
            queue = self._queues.get(host)
            if queue is None or host in self._blocked:
                continue
            index = queue.popleft()
            if queue:
                self._ready.append(host)
            else:
                del self._queues[host]
            return index
        while self._fresh:
            index = self._fresh.popleft()
            if not (self._blocked or self._queues):
                return index
            host = self._host_of(index)
            if host not in self._blocked and host not in self._queues:
                return index
            self._queues.setdefault(host, deque()).append(index)
        return None

    def block(self, host: str) -> None:
        """An image waits for this host."""
        self._blocked[host] = self._blocked.get(host, 0) + 1

    def unblock(self, host: str) -> bool:
        """The image no longer waits for this host; True if others were queued behind it."""
        self._blocked[host] -= 1
        if self._blocked[host]:
            return False
        del self._blocked[host]
        if host not in self._queues:
            return False
        self._ready.append(host)
        return True


class Window:
    """The images of `job` in flight. `load` carries one of them; `may_start` bounds how many.

    An image has a place in the window while it is downloaded, converted or uploaded, or has a temp
    file. One that waits for its host, for another image or for its next download has none.
    """

    def __init__(
        self,
        job: Job,
        load: Callable[[Window, int], Coroutine[Any, Any, None]],
        may_start: Callable[[Window], bool],
        host_of: HostOf,
    ) -> None:
        self.job = job
        self.is_ending = False
        """True from `end` to `reopen`."""
        self.ending: Failure | None = None
        """The failure of images that are cancelled meanwhile; None: they are left open."""
        self.tries: dict[int, int] = {}
        """The tries so far of each image's download or upload, whichever it is at."""
        self.since = time.monotonic()
        """When images were last added."""
        self.sending: set[int] = set()
        """The images whose uploads are being sent."""
        self._load = load
        self._may_start = may_start
        # Another job's task may fill the window, and that may be more urgent, or less.
        self._context = contextvars.copy_context()
        self._order = StartOrder(lambda index: host_of(job.image(index).url))
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._begun: set[int] = set()
        self._places: set[int] = set()
        self._no_places_since = time.monotonic()
        self._downloading: set[int] = set()
        self._will_fill = False
        self._empty = asyncio.Event()

    @property
    def places(self) -> int:
        """How many images have a place."""
        return len(self._places)

    @property
    def downloading(self) -> int:
        """How many of them have not been downloaded."""
        return len(self._downloading)

    @property
    def has_many_aside(self) -> bool:
        """True if so many images wait without a place that no more should start."""
        return len(self._tasks) - len(self._places) >= _MOST_ASIDE

    @property
    def is_stalled(self) -> bool:
        """True if for some time every image in flight has waited without a place."""
        waited = time.monotonic() - self._no_places_since
        return bool(self._tasks) and not self._places and waited >= STALL_SECONDS

    def __contains__(self, index: int) -> bool:
        """True if the image is on its way."""
        return index in self._tasks

    def add(self, indexes: Sequence[int]) -> None:
        """Load these images too."""
        self.since = time.monotonic()
        self._order.add(indexes)
        self.fill()

    def start(self, indexes: Iterable[int]) -> None:
        """Load these images now, however many are in flight: they have their temp files."""
        for index in indexes:
            self._start(index)

    def fill(self) -> None:
        """Start images while there is room."""
        self._will_fill = False
        while self._order and self._may_start(self):
            index = self._order.next()
            if index is None:
                break
            self._start(index)
        if not (self._tasks or self._order):
            self._empty.set()

    def fill_soon(self) -> None:
        """Call `fill` at the next turn of the loop, once for any number of calls."""
        if not self._will_fill and self._order:
            self._will_fill = True
            asyncio.get_running_loop().call_soon(self.fill)
        elif not (self._tasks or self._order):
            self._empty.set()

    async def wait_until_empty(self) -> None:
        """Return when no image is on its way or left to start."""
        while self._tasks or self._order:
            self._empty.clear()
            await self._empty.wait()

    def downloaded(self, index: int) -> None:
        """The image has its temp file, and goes on."""
        self._downloading.discard(index)
        self.fill_soon()

    def note_sending(self, index: int, *, is_sent: bool) -> None:
        """The image's upload is being sent from now on, or is not any more."""
        if is_sent:
            self.sending.add(index)
            return
        self.sending.discard(index)
        if self.is_ending:  # it was left to land, but not to be sent again
            self._tasks[index].cancel()

    @contextlib.contextmanager
    def aside(self, index: int, host: str | None = None) -> Iterator[None]:
        """Wait without a place in the window; for `host`, so that its other images queue."""
        self._leave_place(index)
        self._downloading.discard(index)
        if host is not None:
            self._order.block(host)
        self.fill_soon()
        try:
            yield
        finally:
            self._places.add(index)
            self._downloading.add(index)
            if host is not None and self._order.unblock(host):
                self.fill_soon()

    def end(self, ending: Failure | None, *, but_sending: bool = False) -> None:
        """Start no more images, and cancel those on their way: they fail with `ending`.

        With `but_sending`, uploads that are being sent may land. An image whose task has not begun
        is not on its way any more: asyncio never runs a task that is cancelled before.
        """
        self.is_ending, self.ending = True, ending
        self._order.clear()
        for index, task in list(self._tasks.items()):
            if not (but_sending and index in self.sending):
                task.cancel()
                if index not in self._begun:
                    self._forget(index)
        self.fill_soon()

    def reopen(self) -> None:
        """Images may start again."""
        self.is_ending, self.ending = False, None

    def _leave_place(self, index: int) -> None:
        self._places.discard(index)
        if not self._places:
            self._no_places_since = time.monotonic()

    def _start(self, index: int) -> None:
        self._places.add(index)
        self._downloading.add(index)
        load = self._run(index)
        task = asyncio.get_running_loop().create_task(load, context=self._context)
        self._tasks[index] = task
        task.add_done_callback(lambda _: self._ended(index, task))

    async def _run(self, index: int) -> None:
        self._begun.add(index)
        await self._load(self, index)

    def _ended(self, index: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get(index) is task:
            self._forget(index)
        self.fill_soon()

    def _forget(self, index: int) -> None:
        del self._tasks[index]
        self._begun.discard(index)
        self._leave_place(index)
        self._downloading.discard(index)
        self.tries.pop(index, None)
