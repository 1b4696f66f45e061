"""The journal's thread: everything that has arrived is one transaction, one fsync for all waiters.

    put(image), edit(rows) ──┐                        ┌─► `durable`'s futures
    add(new jobs) ───────────┴─► Batch ─► SQLite ─────┴─► the Futures of new jobs
                                   ▲         │ disk full or broken
                                   └─────────┘ kept and tried again; new jobs are refused

It writes at once if somebody waits, but not sooner than 7 ms after the last transaction; otherwise
within 50 ms. It knows no Jobs, and never logs what it writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from operator import itemgetter

from imageload.errors import StoreUnavailable
from imageload.job import Image
from imageload.store import Clock
from imageload.store.file import JournalFile
from imageload.store.rows import Place, Row, image_row, image_statements

_log = logging.getLogger(__name__)

_LAZY_SECONDS = 0.05
# A transaction costs 200 µs of CPU and delays the other threads, so there is a pause after each. A
# pause of 15 ms cost 6 % of the images/s, as uploads wait for transactions.
_PACE_SECONDS = 0.007
_CHECK_SECONDS = 0.05  # between two checks of the file, if no new jobs arrive
_RETRY_SECONDS = 0.25

Statement = tuple[str, Row]
_Entry = tuple[Place, Image] | Callable[[], object]
"""An image to be written, or something else that the thread does with its batch."""


@dataclass(slots=True)
class Batch:
    """The rows that one transaction writes, in this order. A later row replaces an earlier one."""

    new: list[Statement] = field(default_factory=list)
    images: dict[Place, Row] = field(default_factory=dict)
    edits: dict[object, Statement] = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.new) + len(self.images) + len(self.edits)

    def write(self, connection: sqlite3.Connection) -> None:
        """Write all of it in one transaction, which is durable when this returns."""
        images = list(image_statements([*self.images.values()]))
        if len(images) == 1 and len(self) == len(self.images):
            # A transaction by itself. `executemany` gives up the interpreter's lock twice for a
            # statement, `execute` three times.
            statement, values = images[0]
            connection.executemany(statement, [values])
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            execute(connection, self.new)
            for statement, values in images:
                connection.executemany(statement, [values])
            execute(connection, self.edits.values())
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise


def execute(connection: sqlite3.Connection, statements: Iterable[Statement]) -> None:
    """Execute statements, with one call for those in a row that have the same text."""
    for text, some in itertools.groupby(statements, itemgetter(0)):
        connection.executemany(text, [row for _, row in some])


class Writer:
    """Writes to `file`, whose connection it alone uses once something arrives.

    Any thread may call it. On its thread, `clock` is called with the seconds that each transaction
    took, and `on_break` if a bug ends the thread.
    """

    def __init__(
        self, file: JournalFile, clock: Clock | None, on_break: Callable[[], object] | None
    ) -> None:
        self._file = file
        file.written()
        self._clock = clock
        self._on_break = on_break
        self._inbox: deque[_Entry] = deque()
        self._arrived, self._hurry = threading.Event(), threading.Event()
        self._closing = threading.Event()
        self._deadline = 0.0
        self._trouble: str | None = None
        self._has_unwritten = False
        # Only the thread uses these:
        self._batch = Batch()
        self._new_jobs: list[Future[None]] = []
        self._futures: list[asyncio.Future[None]] = []
        self._written_at = self._checked_at = 0.0
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def put(self, place: Place, image: Image) -> None:
        """Write the image as it is now."""
        self._append((place, image))

    def edit(self, edits: Mapping[object, Statement]) -> None:
        """Execute statements in one transaction; one replaces another with the same key."""
        self._append(lambda: self._batch.edits.update(edits))

    def add(self, statements: Collection[Statement]) -> Future[None]:
        """Write new jobs; the Future fails with StoreUnavailable if that is impossible.

        If it is cancelled in time, they are not written. Raises StoreUnavailable.
        """

        def take() -> None:
            if durable.set_running_or_notify_cancel():
                self._batch.new.extend(statements)
                self._new_jobs.append(durable)

        if self._trouble is not None or self._closing.is_set():
            raise self.refusal()
        durable: Future[None] = Future()
        self._append(take, hurry=True)
        return durable

    async def durable(self) -> None:
        """Return once all that was passed in before is durable."""
        # The inbox first: the thread sets the flag before it empties it.
        if self._inbox or self._has_unwritten:
            future = asyncio.get_running_loop().create_future()
            self._append(lambda: self._futures.append(future), hurry=True)
            await future

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written at the moment; None if writing works."""
        return self._trouble

    def refusal(self) -> StoreUnavailable:
        """The error for new jobs that are not taken."""
        reason = "it is closed" if self._closing.is_set() else self._trouble or "it takes too long"
        return StoreUnavailable(
            f"The journal cannot be written now: {reason}. Send this again in a while."
        )

    def close(self, seconds: float) -> int | None:
        """End the thread when all is written, or after `seconds`; gives how many rows were not.

        None if the disk does not respond: then the thread still uses the connection.
        """
        self._deadline = time.monotonic() + seconds
        self._closing.set()
        self._hurry.set()
        self._arrived.set()
        self._thread.join(seconds + 1.0)
        return None if self._thread.is_alive() else len(self._batch)

    def _append(self, entry: _Entry, *, hurry: bool = False) -> None:
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
            _log.exception("a bug ended the journal's thread")
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
                time.sleep(pause)
            self._arrived.wait()
            self._hurry.wait(_LAZY_SECONDS)

    def _take_in(self) -> None:
        self._has_unwritten = True  # before the inbox is emptied
        while self._inbox:
            entry = self._inbox.popleft()
            try:
                if isinstance(entry, tuple):
                    self._batch.images[entry[0]] = image_row(*entry)
                else:
                    entry()
            except Exception:
                _log.exception("a bug: the journal cannot store a value")

    def _write(self) -> bool:
        """Write the batch, and wake the waiters; False if that did not work."""
        if self._batch:
            begun = time.monotonic()
            try:
                is_due = begun > self._checked_at + _CHECK_SECONDS
                if is_due or self._batch.new or self._trouble:
                    self._file.check_in_place()
                    self._checked_at = begun
                self._batch.write(self._file.connection)
                self._file.written()
                if self._batch.new:
                    self._file.check_in_place()
            except Exception as error:
                self._fail(error)
                return False
            self._batch = Batch()
            self._written_at = time.monotonic()
            if self._clock is not None:
                self._clock(self._written_at - begun)
        self._succeed()
        return True

    def _fail(self, error: Exception) -> None:
        """Keep the batch for the next try, without the new jobs, which are refused."""
        self._batch.new.clear()
        reason = str(error) or type(error).__name__
        if self._trouble is None:
            is_bug = not isinstance(error, (sqlite3.Error, OSError, MemoryError))
            _log.error("the journal cannot be written: %s", reason, exc_info=is_bug)
        self._trouble = reason
        self._refuse_new_jobs()

    def _refuse_new_jobs(self) -> None:
        refused, self._new_jobs = self._new_jobs, []
        for new in refused:
            new.set_exception(self.refusal())

    def _succeed(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            _log.warning("the journal can be written again")
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
