"""The journal: a reader of Changes that writes them to disk, so that a restart goes on with them.

    accept(jobs)          returns when they are durable, or refuses them
    record(job, change)   a Reader: a few µs; durable within 100 ms, sooner where somebody waits
    when_durable(done)    tells when all that was recorded so far is
    close()               after which the next `open_journal` gives back the same jobs

A disk that is full or broken loses nothing that was accepted: that is kept in memory and tried
again until it can be written; meanwhile `trouble` says so and new jobs are refused. The thread is
`imageload.store.writer`'s, the tables `imageload.store.rows`'s, the files
`imageload.store.file`'s. It never logs a link, a deletehash or a token.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imageload.errors import StoreError, StoreUnavailable
from imageload.job import (
    Change,
    Downloaded,
    Failed,
    Job,
    NotSent,
    Purged,
    PurgeFailed,
    Requeued,
    ResponseLost,
    Uploaded,
    Uploading,
)
from imageload.store.black_box import BlackBox
from imageload.store.file import JournalFile, beside
from imageload.store.rows import (
    UNREADABLE,
    Link,
    Place,
    count_deaths,
    deaths,
    head_row,
    job_row,
    jobs,
    last_number,
    links,
    notes,
)
from imageload.store.writer import Done, Writer

_log = logging.getLogger(__name__)

Clock = Callable[[float], object]

_RUNNING = "journal:running"
"""The note that is there while a process holds the journal, and after one died."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a journal held when it was opened.

    `jobs`, oldest first, are those that were not retired. `deaths` says of an image that has not
    ended, by jobId and index, how many processes have died while it was in work. `was_closed`: the
    process before this one ended properly, or there was none.
    """

    jobs: list[Job]
    deaths: dict[str, dict[int, int]]
    was_closed: bool


def open_journal(
    path: Path, *, move_damaged_aside: bool = False, clock: Clock | None = None
) -> tuple[Journal, Restored]:
    """The journal in the file at `path`, which is made where there is none, and what it held.

    Raises StoreError where it cannot be had: its folder is missing, it cannot be written, another
    process holds it, it is of a newer version, or it is damaged. A damaged one is moved aside, and
    an empty one begun, only with `move_damaged_aside`; a sound one is never touched by that.
    `clock` is told how many seconds each transaction took.
    """
    file = JournalFile(path, move_damaged_aside=move_damaged_aside)
    try:
        box = BlackBox(beside(file.path, ".work"))
        connection = file.connection
        connection.execute("BEGIN IMMEDIATE")
        kept = notes(connection)
        was_closed = kept.pop(_RUNNING, None) is None
        count_deaths(connection, [] if was_closed else box.found())
        connection.execute(
            "INSERT OR REPLACE INTO note (name, value) VALUES (?, 'yes')", (_RUNNING,)
        )
        connection.execute("COMMIT")
        box.clear()
        numbered, file.jobs = file.jobs, []
        restored = Restored([job for _, job in numbered], deaths(connection), was_closed)
        return Journal(file, box, numbered, kept, clock), restored
    except (OSError, sqlite3.Error) as error:
        file.close()
        raise StoreError(f"The journal {file.path} cannot be written: {error}.") from None
    except BaseException:
        file.close()
        raise


class Journal:
    """Writes jobs and their Changes to disk, on a thread of its own. Made by `open_journal`.

    Every method may be called from any thread.
    """

    def __init__(
        self,
        file: JournalFile,
        black_box: BlackBox,
        numbered: Iterable[tuple[int, Job]],
        kept_notes: dict[str, str],
        clock: Clock | None,
    ) -> None:
        self._file = file
        self._black_box = black_box
        self._notes = kept_notes
        self._numbers = weakref.WeakKeyDictionary({job: number for number, job in numbered})
        self._numbering = threading.Lock()
        self._last_number = last_number(file.connection)
        self._is_closed = False
        self._writer = Writer(file.connection, file.check_in_place, clock)

    def accept(self, jobs: Sequence[Job], *, seconds: float = 5.0) -> None:
        """Write down new `jobs`, all or none; they are durable when this returns.

        Blocks for `seconds` at most, so not for the event loop's thread. Raises StoreUnavailable
        where they could not be written in that time; then they are not in the journal.
        """
        with self._numbering:
            first = self._last_number + 1
            self._last_number += len(jobs)
        rows = [job_row(number, job) for number, job in enumerate(jobs, first)]
        durable = self._writer.add(rows)
        try:
            durable.result(seconds)
        except TimeoutError:
            if durable.cancel():
                raise self._writer.refusal() from None
            if not durable.done():  # it is being written just now, and has to go again
                self.delete([job.job_id for job in jobs])
                raise self._writer.refusal() from None
            durable.result()
        self._numbers.update(zip(jobs, range(first, first + len(jobs)), strict=True))

    def record(self, job: Job, change: Change) -> None:
        """`change` was applied to `job`: a Reader, called on the thread that applied it.

        Nothing is recorded of a job that is not in the journal.
        """
        number = self._numbers.get(job)
        if number is None:
            return
        match change:
            case Downloaded(index):  # what follows looks at no image any more
                self._black_box.erase((number, index))
            case (
                Uploading(index)
                | Uploaded(index)
                | NotSent(index)
                | ResponseLost(index)
                | Purged(index)
                | PurgeFailed(index)
            ):
                self._writer.put((number, index), job.image(index))
            case Failed(index):
                self._black_box.erase((number, index))
                self._writer.put((number, index), job.image(index))
            case Requeued(index):
                # First, as a process may die in between: its album is open again, its end untold.
                self._record_head(number, job)
                self._writer.put((number, index), job.image(index))
            case _:
                self._record_head(number, job)

    def _record_head(self, number: int, job: Job) -> None:
        # Made when it is taken in: of two threads that record at once the later row must not have
        # been made first.
        self._writer.edit(lambda batch: batch.heads.update({number: head_row(number, job)}))

    def working(self, job: Job, index: int) -> None:
        """Work on the image begins, which may kill the process; it ends with its download."""
        number = self._numbers.get(job)
        if number is not None:
            self._black_box.note((number, index))

    def when_durable(self, done: Done, *, hurry: bool = True) -> None:
        """Call `done`, from the journal's thread, once all that was recorded so far is durable.

        It is called late where the disk is in trouble, and never where that outlasts the journal.
        It must be quick. Without `hurry` nothing is written sooner for it, and it is called after
        those that are in one.
        """
        self._writer.when_durable(done, hurry=hurry)

    def retire(self, job_ids: Iterable[str], done: Done | None = None) -> None:
        """The jobs leave memory: after a restart they are not among the jobs, but their links are.

        This, and `delete`, hold when `done` is called.
        """
        gone = list(job_ids)
        self._writer.edit(lambda batch: batch.retired.extend(gone))
        if done is not None:
            self._writer.when_durable(done)

    def delete(self, job_ids: Iterable[str], done: Done | None = None) -> None:
        """Forget the jobs, their links and deletehashes too."""
        gone = list(job_ids)
        self._writer.edit(lambda batch: batch.deleted.extend(gone))
        if done is not None:
            self._writer.when_durable(done)

    def set_note(self, name: str, value: str | None) -> None:
        """Keep a text that outlives the process, a secret perhaps; None forgets it."""
        if value is None:
            self._notes.pop(name, None)
        else:
            self._notes[name] = value
        self._writer.edit(lambda batch: batch.notes.update({name: value}))

    def note(self, name: str) -> str | None:
        """The text that was kept under `name`, in this run or before."""
        return self._notes.get(name)

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written for now, in a few words; None when all is well."""
        return self._writer.trouble

    def number(self, job: Job) -> int:
        """Where `job` stands among all jobs of the journal: the older one has the lesser number."""
        return self._numbers[job]

    def links(self, after: Place = (0, -1), *, retired_only: bool = False) -> Iterator[Link]:
        """The links of all jobs, or of the retired ones, oldest job first, from after an image.

        Reads as it goes, and sees what is durable then. Raises StoreUnavailable.
        """
        while True:
            try:
                with self._file.reader() as connection:
                    page = links(connection, after, retired_only=retired_only)
            except sqlite3.Error as error:
                raise _unreadable(error) from None
            if not page:
                return
            yield from page
            after = page[-1].number, page[-1].n

    def load(self, job_id: str) -> Job | None:
        """The job as it is in the journal, retired or not; None if it is not there.

        What is recorded of this Job is written like that of any other. Raises StoreUnavailable.
        """
        try:
            with self._file.reader() as connection:
                connection.execute("BEGIN")  # so that both tables are of one moment
                found = list(jobs(connection, "job.id = ?", job_id))
        except UNREADABLE as error:
            raise _unreadable(error) from error
        if not found:
            return None
        ((number, job),) = found
        self._numbers[job] = number
        return job

    def close(self, seconds: float = 10.0) -> bool:
        """Write what is left, and let go of the files; True when everything is durable.

        Where the disk is in trouble it is tried for so many `seconds`.
        """
        if self._is_closed:
            return True
        self._is_closed = True
        self.set_note(_RUNNING, None)
        left = self._writer.close(seconds)
        if left is None:
            _log.error("the disk does not answer; the journal is left as it is")
            return False
        if left:
            _log.error("%d rows of the journal could not be written", left)
        self._black_box.clear()
        self._black_box.close()
        self._file.close()
        return not left


def _unreadable(error: Exception) -> StoreUnavailable:
    _log.error("the journal cannot be read: %s", error)
    return StoreUnavailable(f"The journal cannot be read now: {error}. Ask again in a while.")
