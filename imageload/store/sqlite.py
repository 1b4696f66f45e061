"""The journal: a store in a SQLite file, written by a thread of its own.

If the disk is full or fails, nothing accepted is lost: it is kept in memory and tried again until
it is written. Meanwhile `trouble` says so, and new jobs are refused. The thread is in
`imageload.store.writer`, the tables in `imageload.store.rows`, the file in `imageload.store.file`.
Links, deletehashes and tokens are never logged.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_args

from imageload.errors import ImageError, StoreUnavailable
from imageload.job import (
    AlbumEnded,
    Change,
    Downloaded,
    Failed,
    ImageChange,
    Job,
    PurgeEnded,
    Requeued,
)
from imageload.store import Clock, Link, Place, Posted, Restored, rows
from imageload.store.file import UNREADABLE, JournalFile
from imageload.store.keys import Keys
from imageload.store.writer import Batch, Statement, Writer

_log = logging.getLogger(__name__)

_RUNNING = "journal:running"  # this setting exists while a process has the journal open
_CRASHES = "journal:crashes"  # how many processes have not closed it
_VERSIONS_OF_A_RUN = 10**9
_MOST_CRASHES = 5

_IMAGE_CHANGES = frozenset(get_args(ImageChange))


def open_sqlite(path: Path, *, clock: Clock | None = None) -> Restored:
    """The journal in the file at `path`, which is made if it is missing, and its jobs.

    Raises StoreError if the file cannot be used: its folder is missing, it cannot be written,
    another process has it open, a newer program wrote it, or it is damaged.
    """
    file = JournalFile(path)
    try:
        with file.errors_explained():
            connection = file.connection
            was_closed, first_version = _begin_run(connection)
            stored = list(_read(connection, "NOT retired", (), first_version))
            stuck = [] if was_closed else _count_crashes(connection, stored)
        store = SqliteStore(file, stored, first_version, clock)
    except BaseException:
        file.close()
        raise
    for job in stuck:
        _end_stuck(store, job)
    return Restored(store, [each.job for each in stored], was_closed)


def _begin_run(connection: sqlite3.Connection) -> tuple[bool, int]:
    """Note that a process has the journal open.

    Gives whether the last one closed it, and the first version that no process has given out. A
    process that was killed may have shown versions that it did not write, so after it they start
    at the next multiple of 10^9: no version ever means two states.
    """
    connection.execute("BEGIN IMMEDIATE")
    settings = dict(connection.execute("SELECT name, value FROM setting").fetchall())
    was_closed = _RUNNING not in settings
    crashes = int(settings.get(_CRASHES, 0)) + (not was_closed)
    for row in (_RUNNING, "yes"), (_CRASHES, str(crashes)):
        connection.execute(rows.SET_SETTING, row)
    connection.execute("COMMIT")
    return was_closed, crashes * _VERSIONS_OF_A_RUN


def _read(
    connection: sqlite3.Connection, where: str, values: Sequence[str], first_version: int
) -> Iterator[rows.Stored]:
    heads = connection.execute(rows.HEADS.format(where), values)
    images = connection.execute(rows.IMAGES.format(where), values)
    return rows.read_jobs(heads, images, first_version)


def _count_crashes(connection: sqlite3.Connection, stored: Iterable[rows.Stored]) -> list[Job]:
    """The process before this one died: count that for the unfinished jobs that it was at.

    The oldest is one of them, though its start may not have been written yet. Gives the jobs at
    which five processes died in a row, without one image of theirs that ended.
    """
    stuck = []
    connection.execute("BEGIN IMMEDIATE")
    unfinished = [each for each in stored if not each.job.summary().finished]
    for n, each in enumerate(unfinished):
        was_at_work = each.was_started or n == 0
        crashes = each.crashes + was_at_work if each.progress == each.old_progress else 0
        connection.execute(rows.SET_CRASHES, (crashes, each.progress, each.number))
        if crashes >= _MOST_CRASHES:
            stuck.append(each.job)
    connection.execute("COMMIT")
    return stuck


def _end_stuck(store: SqliteStore, job: Job) -> None:
    """End a job that may be the reason why processes die."""
    message = f"The service died {_MOST_CRASHES} times in a row while it was at work on this job."
    failure = ImageError("poison", message).failure()
    summary = job.summary()
    changes: list[Change] = [
        Failed(n, failure)
        for n, image in enumerate(job.snapshot().images)
        if image.state == "queued"
    ]
    if summary.purging:
        changes.append(PurgeEnded(album_failure=failure))
    if summary.album is not None and summary.album.is_open:
        changes.append(AlbumEnded(failure=failure))
    for change in changes:
        job.apply(change)
        store.record(job, change)
    _log.error("failed job=%s code=poison", job.job_id)


class SqliteStore:
    """Writes jobs and their Changes to a SQLite file. Made by `open_sqlite`."""

    is_durable = True

    def __init__(
        self,
        file: JournalFile,
        stored: Iterable[rows.Stored],
        first_version: int,
        clock: Clock | None,
    ) -> None:
        self._file = file
        self._first_version = first_version
        self._numbers = weakref.WeakKeyDictionary({each.job: each.number for each in stored})
        self._numbering = threading.Lock()
        query = file.connection.execute
        (self._last_number,) = query("SELECT coalesce(max(number), 0) FROM job").fetchone()
        self._settings: dict[str, str] = dict(query("SELECT name, value FROM setting").fetchall())
        posts = query("SELECT caller, key, fingerprint, job_ids FROM posted")
        self._keys = Keys(
            Posted(caller, key, fingerprint, tuple(job_ids.split()))
            for caller, key, fingerprint, job_ids in posts
        )
        self._is_closed = False
        self._writer = Writer(file.connection, file.check_in_place, clock)

    def accept(
        self, jobs: Sequence[Job], *, posted: Posted | None = None, seconds: float = 5.0
    ) -> None:
        with self._numbering:
            first = self._last_number + 1
            self._last_number += len(jobs)
        for job in jobs:
            job.begin_at(self._first_version)
        pairs = [rows.job_rows(number, job) for number, job in enumerate(jobs, first)]
        new: list[Statement] = [(rows.ADD_JOB, head) for head, _ in pairs]
        new += [(rows.ADD_ITEMS, items) for _, items in pairs]
        if posted is not None:
            new.append((rows.ADD_POSTED, (*posted[:3], " ".join(posted.job_ids))))
        durable = self._writer.add(new)
        try:
            durable.result(seconds)
        except TimeoutError:
            if durable.cancel():
                raise self._writer.refusal() from None
            if not durable.done():  # it is being written at this moment, so it is deleted after
                self._delete([job.job_id for job in jobs], [posted[:2]] if posted else [])
                raise self._writer.refusal() from None
            durable.result()
        self._numbers.update(zip(jobs, range(first, first + len(jobs)), strict=True))
        if posted is not None:
            self._keys.add(posted)

    def posted(self, caller: str, key: str) -> Posted | None:
        return self._keys.get(caller, key)

    def record(self, job: Job, change: Change) -> None:
        kind = type(change)
        # Not written: a restart downloads again. Few types are looked at, for `match` takes
        # 0.15 µs for each class of Struct.
        if kind is Downloaded or (number := self._numbers.get(job)) is None:
            return
        if kind not in _IMAGE_CHANGES or kind is Requeued:
            self._record_head(number, job)  # first, as a process may die in between
        if kind in _IMAGE_CHANGES:
            index = change.index  # type: ignore[union-attr]
            self._writer.put((number, index), job.image(index))

    def _record_head(self, number: int, job: Job) -> None:
        # The row is made on the thread: of two that are recorded at once the later is the newer.
        self._writer.edit(lambda batch: batch.heads.update({number: rows.head_row(number, job)}))

    async def durable(self, *, hurry: bool = True) -> None:
        await self._writer.durable(hurry=hurry)

    def retire(self, job_ids: Iterable[str]) -> None:
        gone = list(job_ids)
        over = self._keys.remove_jobs(gone)
        self._edit([(rows.RETIRE, (each,)) for each in gone] + _deleted_keys(over))

    def delete(self, job_ids: Iterable[str]) -> None:
        gone = list(job_ids)
        self._delete(gone, self._keys.remove_jobs(gone))

    def _delete(self, job_ids: Sequence[str], keys: Iterable[tuple[str, str]]) -> None:
        jobs = [(text, (each,)) for text in rows.DELETE_JOB for each in job_ids]
        self._edit(jobs + _deleted_keys(keys))

    def _edit(self, statements: Iterable[Statement]) -> None:
        def edit(batch: Batch) -> None:
            batch.edits.update((each, each) for each in statements)

        self._writer.edit(edit)

    def load(self, job_id: str) -> Job | None:
        try:
            with self._file.reader() as connection:
                connection.execute("BEGIN")  # so that both tables are of one moment
                found = list(_read(connection, "job.id = ?", (job_id,), self._first_version))
        except UNREADABLE as error:
            raise _unreadable(error) from error
        if not found:
            return None
        self._numbers[found[0].job] = found[0].number
        return found[0].job

    def number(self, job: Job) -> int:
        return self._numbers[job]

    def links(self, after: Place = (0, -1), *, retired_only: bool = False) -> Iterator[Link]:
        while True:
            try:
                with self._file.reader() as connection:
                    page = connection.execute(rows.LINKS, (*after, retired_only)).fetchall()
            except sqlite3.Error as error:
                raise _unreadable(error) from None
            if not page:
                return
            yield from map(Link._make, page)
            after = page[-1][0], page[-1][2]

    def get_setting(self, name: str) -> str | None:
        return self._settings.get(name)

    def set_setting(self, name: str, value: str | None) -> None:
        if value is None:
            self._settings.pop(name, None)
            statement: Statement = (rows.DELETE_SETTING, (name,))
        else:
            self._settings[name] = value
            statement = rows.SET_SETTING, (name, value)
        self._writer.edit(lambda batch: batch.edits.update({name: statement}))

    @property
    def trouble(self) -> str | None:
        return self._writer.trouble

    def close(self, seconds: float = 10.0) -> bool:
        if self._is_closed:
            return True
        self._is_closed = True
        self.set_setting(_RUNNING, None)
        for job, number in list(self._numbers.items()):
            if not job.summary().finished:  # its version counts Changes that are not written
                self._record_head(number, job)
        left = self._writer.close(seconds)
        if left is None:
            _log.error("the disk does not respond; the journal is left as it is")
            return False
        if left:
            _log.error("%d rows of the journal could not be written", left)
        self._file.close()
        return not left


def _deleted_keys(keys: Iterable[tuple[str, str]]) -> list[Statement]:
    return [(rows.DELETE_POSTED, key) for key in keys]


def _unreadable(error: Exception) -> StoreUnavailable:
    _log.error("the journal cannot be read: %s", error)
    return StoreUnavailable(f"The journal cannot be read now: {error}. Ask again in a while.")
