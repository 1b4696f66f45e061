"""A store's thread: everything that has arrived is one transaction, one fsync for all waiters.

    put(entry) ──────┐                          ┌─► `durable`'s futures
    add(new jobs) ───┴─► batch ─► database ─────┴─► the Futures of new jobs
                           ▲         │ disk full, broken or away
                           └─────────┘ kept and tried again; new jobs are refused

It writes at once if somebody waits, but not sooner than 7 ms after the last transaction; otherwise
within 50 ms. For new jobs and for images of small ones every second transaction may come sooner. It
knows no Jobs, and never logs what it writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

from imageload.errors import StoreUnavailable
from imageload.store import Clock
from imageload.transport.loop import is_urgent

_log = logging.getLogger(__name__)

_LAZY_SECONDS = 0.05
# A transaction costs 200 µs of CPU and delays the other threads, so there is a pause after each. A
# pause of 15 ms cost 6 % of the images/s, as uploads wait for transactions.
_PACE_SECONDS = 0.007
_RETRY_SECONDS = 0.25

B = TypeVar("B", bound="Batch")


class Batch(Protocol):
    """What one transaction writes."""

    def __len__(self) -> int:
        """How much that is."""

    def drop_new(self) -> None:
        """Leave the new jobs out."""


class Database(Protocol[B]):
    """Where a Writer writes; its thread alone calls these methods."""

    name: str
    """For messages."""
    errors: tuple[type[Exception], ...]
    """The exceptions of `write` that are no bugs of ours."""

    def new_batch(self) -> B:
        """An empty batch."""

    def write(self, batch: B) -> None:
        """Write `batch` in one transaction, which is durable when this returns."""


class Writer(Generic[B]):
    """Writes to `database`, whose methods its thread alone calls once something arrives.

    Any thread may call it. On its thread, `clock` is called with the seconds that each transaction
    took, and `on_break` if a bug ends the thread.
    """

    def __init__(
        self, database: Database[B], clock: Clock | None, on_break: Callable[[], object] | None
    ) -> None:
        self._database = database
        self._clock = clock
        self._on_break = on_break
        self._inbox: deque[Callable[[B], object]] = deque()
        self._arrived, self._hurry = threading.Event(), threading.Event()
        self._urgent, self._closing = threading.Event(), threading.Event()
        self._deadline = 0.0
        self._trouble: str | None = None
        self._has_unwritten = False
        # Only the thread uses these:
        self._batch = database.new_batch()
        self._new_jobs: list[Future[None]] = []
        self._futures: list[asyncio.Future[None]] = []
        self._written_at = 0.0
        self._was_cut = False
        self._thread = threading.Thread(target=self._run, name=database.name, daemon=True)
        self._thread.start()

    def put(self, entry: Callable[[B], object]) -> None:
        """Call `entry` with the batch that is written next."""
        self._append(entry)

    def add(self, entry: Callable[[B], object]) -> Future[None]:
        """Write new jobs; the Future fails with StoreUnavailable if that is impossible.

        If it is cancelled in time, they are not written. Raises StoreUnavailable.
        """

        def take(batch: B) -> None:
            if durable.set_running_or_notify_cancel():
                entry(batch)
                self._new_jobs.append(durable)

        if self._trouble is not None or self._closing.is_set():
            raise self.refusal()
        durable: Future[None] = Future()
        self._append(take, hurry=True)
        self._urgent.set()
        return durable

    async def durable(self) -> None:
        """Return once all that was passed in before is durable."""
        # The inbox first: the thread sets the flag before it empties it.
        if self._inbox or self._has_unwritten:
            future = asyncio.get_running_loop().create_future()
            self._append(lambda _: self._futures.append(future), hurry=True)
            if is_urgent.get():
                self._urgent.set()
            await future

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written at the moment; None if writing works."""
        return self._trouble

    def refusal(self) -> StoreUnavailable:
        """The error for new jobs that are not taken."""
        reason = "it is closed" if self._closing.is_set() else self._trouble or "it takes too long"
        name = self._database.name
        return StoreUnavailable(
            f"The {name} cannot be written now: {reason}. Send this again in a while."
        )

    def close(self, seconds: float) -> int | None:
        """End the thread when all is written, or after `seconds`; returns how many rows were not.

        None if the disk does not respond: then the thread still uses the connection.
        """
        self._deadline = time.monotonic() + seconds
        self._closing.set()
        for event in (self._hurry, self._urgent, self._arrived):
            event.set()
        self._thread.join(seconds + 1.0)
        return None if self._thread.is_alive() else len(self._batch)

    def _append(self, entry: Callable[[B], object], *, hurry: bool = False) -> None:
        self._inbox.append(entry)
        # Mostly they are set already, and setting an Event takes a lock.
        if hurry and not self._hurry.is_set():
            self._hurry.set()
        if not self._arrived.is_set():
            self._arrived.set()

    def _run(self) -> None:
        try:
            self._work()
        except Exception:
            _log.exception("a bug ended the thread of the %s", self._database.name)
            self._trouble = "a bug ended its thread"
            self._refuse_new_jobs()
            if self._on_break is not None:
                self._on_break()

    def _work(self) -> None:
        while True:
            self._wait()
            is_last = self._closing.is_set()
            self._arrived.clear()  # first, so that no later entry is overlooked
            self._hurry.clear()
            self._urgent.clear()
            self._take_in()
            written = self._write()
            if is_last and not self._inbox and (written or time.monotonic() >= self._deadline):
                return

    def _wait(self) -> None:
        """Wait until there is something to write, and a little for more."""
        if self._closing.is_set():
            time.sleep(_RETRY_SECONDS if self._trouble else 0.0)
        elif self._trouble is not None:
            self._closing.wait(_RETRY_SECONDS)
        else:
            # The pace first: under load entries arrive meanwhile, and an upload waits for them.
            pause = self._written_at + _PACE_SECONDS - time.monotonic()
            if pause > 0:
                self._pause(pause)
            self._arrived.wait()
            self._hurry.wait(_LAZY_SECONDS)

    def _pause(self, seconds: float) -> None:
        """Wait so long; an urgent entry ends it, unless one ended the last pause."""
        if self._was_cut:
            self._closing.wait(seconds)
            self._was_cut = False
        else:
            self._was_cut = self._urgent.wait(seconds)

    def _take_in(self) -> None:
        self._has_unwritten = True  # before the inbox is emptied
        while self._inbox:
            entry = self._inbox.popleft()
            try:
                entry(self._batch)
            except Exception:
                _log.exception("a bug: the %s cannot store a value", self._database.name)

    def _write(self) -> bool:
        """Write the batch, and wake the waiters; False if that did not work."""
        if self._batch:
            begun = time.monotonic()
            try:
                self._database.write(self._batch)
            except Exception as error:
                self._fail(error)
                return False
            self._batch = self._database.new_batch()
            self._written_at = time.monotonic()
            if self._clock is not None:
                self._clock(self._written_at - begun)
        self._succeed()
        return True

    def _fail(self, error: Exception) -> None:
        """Keep the batch for the next try, without the new jobs, which are refused."""
        self._batch.drop_new()
        reason = str(error) or type(error).__name__
        if self._trouble is None:
            is_bug = not isinstance(error, (*self._database.errors, OSError, MemoryError))
            _log.error("the %s cannot be written: %s", self._database.name, reason, exc_info=is_bug)
        self._trouble = reason
        self._refuse_new_jobs()

    def _refuse_new_jobs(self) -> None:
        refused, self._new_jobs = self._new_jobs, []
        for new in refused:
            new.set_exception(self.refusal())

    def _succeed(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            _log.warning("the %s can be written again", self._database.name)
        self._has_unwritten = False
        written, self._new_jobs = self._new_jobs, []
        for new in written:
            new.set_result(None)
        futures, self._futures = self._futures, []
        if futures:  # all are of one event loop, and one call wakes them
            with contextlib.suppress(RuntimeError):  # it is closed
                futures[0].get_loop().call_soon_threadsafe(_finish, futures)


def _finish(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():  # it may have been cancelled
            future.set_result(None)
