"""The journal's thread: whatever has come is one transaction, one fsync for all who wait for it.

    put(image), edit(batch) ──┐                        ┌─► when_durable's callbacks
    add(job rows) ────────────┴─► Batch ─► SQLite ─────┴─► the Futures of new jobs
                                    ▲         │ full, broken
                                    └─────────┘ kept, tried again; new jobs are refused

Writing begins at once where somebody is in a hurry, but not sooner than 7 ms after the transaction
before; else after 50 ms. It knows nothing of Jobs, and what it writes is never logged.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from imageload.errors import StoreUnavailable
from imageload.job import Image
from imageload.store.rows import UNWRITABLE, Batch, Place, Row

_log = logging.getLogger(__name__)

_LAZY_SECONDS = 0.05
# Each transaction costs some 200 µs of CPU and holds up the other threads, so they are not back to
# back; 15 ms apart cost 0.06 of the images/s, for then uploads wait for them in their slots.
_PACE_SECONDS = 0.007
_CHECK_SECONDS = 0.05  # between two looks at the file, if no new jobs come
_RETRY_SECONDS = 0.1
_RETRY_CAP_SECONDS = 5.0

Done = Callable[[], object]
Edit = Callable[[Batch], object]


@dataclass(frozen=True, slots=True)
class _NewJobs:
    rows: list[Row]
    durable: Future[None]


@dataclass(frozen=True, slots=True)
class _Waiter:
    done: Done
    hurry: bool


_News = tuple[Place, Image] | Edit | _NewJobs | _Waiter


class Writer:
    """Writes through `connection`, which is its own until it is closed. Any thread may call it.

    `check` is called before new jobs are written, and often beside that; it raises where writing
    would be in vain. `clock` is told how many seconds each transaction took.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        check: Callable[[], None],
        clock: Callable[[float], object] | None,
    ) -> None:
        self._connection = connection
        self._check = check
        self._clock = clock
        self._inbox: deque[_News] = deque()
        self._news, self._hurry = threading.Event(), threading.Event()
        self._closing = threading.Event()
        self._deadline = 0.0
        self._trouble: str | None = None
        # Of the thread alone:
        self._batch = Batch()
        self._new_jobs: list[_NewJobs] = []
        self._waiters: list[_Waiter] = []
        self._retry_seconds = _RETRY_SECONDS
        self._written_at = self._checked_at = 0.0
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def put(self, place: Place, image: Image) -> None:
        """Write the image as it is now, in place of what was written of it before."""
        self._tell((place, image))

    def edit(self, edit: Edit) -> None:
        """Have the batch changed by `edit`."""
        self._tell(edit)

    def add(self, rows: list[Row]) -> Future[None]:
        """Write new jobs; the Future fails with StoreUnavailable where they are not written.

        Cancelled in time, they are not written either.
        """
        if self._trouble is not None or self._closing.is_set():
            raise self.refusal()
        new = _NewJobs(rows, Future())
        self._tell(new, hurry=True)
        return new.durable

    def when_durable(self, done: Done, *, hurry: bool = True) -> None:
        """Call `done`, from the thread, once all that it was told so far is durable."""
        self._tell(_Waiter(done, hurry), hurry=hurry)

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written for now; None when all is well."""
        return self._trouble

    def refusal(self) -> StoreUnavailable:
        """What those are told whose jobs are not taken."""
        reason = "it is closed" if self._closing.is_set() else self._trouble or "it takes too long"
        return StoreUnavailable(
            f"The journal cannot be written now: {reason}. Send this again in a while."
        )

    def close(self, seconds: float) -> int | None:
        """End the thread when all is written, or after `seconds`: how many rows were not.

        None where the disk does not answer: then the connection is not free.
        """
        self._deadline = time.monotonic() + seconds
        self._closing.set()
        self._hurry.set()
        self._news.set()
        self._thread.join(seconds + 1.0)
        return None if self._thread.is_alive() else len(self._batch)

    def _tell(self, news: _News, *, hurry: bool = False) -> None:
        self._inbox.append(news)
        # Looked at first: most of the time it is set, and setting it takes a lock.
        if hurry and not self._hurry.is_set():
            self._hurry.set()
        if not self._news.is_set():
            self._news.set()

    def _work(self) -> None:
        while True:
            self._await_news()
            is_last = self._closing.is_set()
            self._news.clear()  # before looking, so that what comes now is not overlooked
            self._hurry.clear()
            self._take_in()
            written = self._write()
            if is_last and not self._inbox and (written or time.monotonic() >= self._deadline):
                return

    def _await_news(self) -> None:
        """Wait until there is something to write, and for what may come along with it."""
        if self._closing.is_set():
            time.sleep(_RETRY_SECONDS if self._trouble else 0.0)
        elif self._trouble is not None:
            self._closing.wait(self._retry_seconds)
        else:
            # First the pace: at work there is news by then, and somebody in a hurry: no more waits.
            pause = self._written_at + _PACE_SECONDS - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            self._news.wait()
            self._hurry.wait(_LAZY_SECONDS)

    def _take_in(self) -> None:
        while self._inbox:
            news = self._inbox.popleft()
            if isinstance(news, tuple):
                self._batch.images[news[0]] = news[1]
            elif isinstance(news, _Waiter):
                self._waiters.append(news)
            elif not isinstance(news, _NewJobs):
                news(self._batch)
            elif news.durable.set_running_or_notify_cancel():
                self._batch.jobs.extend(news.rows)
                self._new_jobs.append(news)

    def _write(self) -> bool:
        """Write the batch, and tell those who wait; False where that did not work."""
        try:
            if self._batch:
                begun = time.monotonic()
                if self._batch.jobs or self._trouble or begun > self._checked_at + _CHECK_SECONDS:
                    self._check()
                    self._checked_at = begun
                self._batch.write(self._connection)
                if self._clock is not None:
                    self._clock(time.monotonic() - begun)
        except UNWRITABLE as error:
            dropped = self._batch.drop_unwritable(self._connection)
            if dropped:
                _log.error("a bug: rows that cannot be written, by job and index: %s", dropped)
                return self._write()
            self._fail(error)
            return False
        except Exception as error:
            self._fail(error)
            return False
        self._succeed()
        return True

    def _fail(self, error: Exception) -> None:
        """Keep the batch for the next try, but for the new jobs, which are refused."""
        self._batch.jobs.clear()
        reason = str(error) or type(error).__name__
        if self._trouble is None:
            self._retry_seconds = _RETRY_SECONDS
            is_bug = not isinstance(error, (sqlite3.Error, OSError, MemoryError))
            _log.error("the journal cannot be written: %s", reason, exc_info=is_bug)
        else:
            self._retry_seconds = min(2 * self._retry_seconds, _RETRY_CAP_SECONDS)
        self._trouble = reason
        refused, self._new_jobs = self._new_jobs, []
        for new in refused:
            new.durable.set_exception(self.refusal())

    def _succeed(self) -> None:
        if self._batch:
            self._batch = Batch()
            self._written_at = time.monotonic()
        if self._trouble is not None:
            self._trouble = None
            _log.warning("the journal can be written again")
        written, self._new_jobs = self._new_jobs, []
        for new in written:
            new.durable.set_result(None)
        waiters, self._waiters = self._waiters, []
        # Files are deleted by some, and each time another thread may take the interpreter.
        waiters.sort(key=lambda waiter: not waiter.hurry)
        for waiter in waiters:
            try:
                waiter.done()
            except Exception:
                _log.exception("one who waited for the journal raised")
