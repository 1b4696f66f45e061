"""The journal: a store in a SQLite file, written by a thread of its own.

If the disk is full or fails, nothing accepted is lost: it is kept in memory and tried again until
it is written. Meanwhile `trouble` says so, and new jobs are refused. The thread is in
`imageload.store.writer`, the tables in `imageload.store.rows`, the file in `imageload.store.file`.
Links, deletehashes and tokens are never logged.
"""

from __future__ import annotations

import itertools
import logging
import sqlite3
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path

from imageload.errors import ImageError
from imageload.image import Downloaded, Failed, Image, Requeued
from imageload.job import AlbumEnded, Change, Job, PurgeEnded
from imageload.store import NONE, Clock, Elsewhere, Link, Posted, Restored, rows
from imageload.store.file import Batch, JournalFile, Statement
from imageload.store.keys import Keys
from imageload.store.writer import Writer

_log = logging.getLogger(__name__)

_RUNNING = "journal:running"  # this setting exists while a process has the journal open
_PROGRESS = "journal:progress"
_CRASHES = "journal:crashes-without-progress"
_MOST_CRASHES = 10


def open_sqlite(
    path: Path, clock: Clock | None = None, on_break: Callable[[], object] | None = None
) -> Restored:
    """The journal in the file at `path`, which is made if it is missing, and its jobs.

    Raises StoreError if the file cannot be used: its folder is missing, it cannot be written,
    another process has it open, a newer program wrote it, or it is damaged.
    """
    file = JournalFile(path)
    try:
        with file.errors_explained():
            was_closed = _begin_run(file.connection)
            read = list(_read(file.connection, "NOT retired"))
            numbers = {each.job: each.number for each in read}
            stuck = None if was_closed else _count_crash(file.connection, numbers)
        file.written()
        store = SqliteStore(file, numbers, Writer(file, clock, on_break))
    except BaseException:
        file.close()
        raise
    kept = {each.job: each.kept for each in read if each.kept}
    if stuck is not None:
        _end_stuck(store, stuck)
        kept.pop(stuck, None)
    return Restored(store, list(numbers), was_closed, kept)


def _begin_run(connection: sqlite3.Connection) -> bool:
    """Note that a process has the journal open; True if the one before closed it."""
    connection.execute("BEGIN IMMEDIATE")
    running = connection.execute("SELECT 1 FROM setting WHERE name = ?", (_RUNNING,)).fetchone()
    if running:
        connection.execute(rows.SKIP_VERSIONS)
    connection.execute(rows.SET_SETTING, (_RUNNING, "yes"))
    connection.execute("COMMIT")
    return running is None


def _read(
    connection: sqlite3.Connection, where: str, values: Sequence[str] = ()
) -> Iterator[rows.ReadJob]:
    heads = connection.execute(rows.HEADS.format(where), values)
    images = connection.execute(rows.IMAGES.format(where), values)
    return rows.read_jobs(heads, images)


def _count_crash(connection: sqlite3.Connection, numbers: Mapping[Job, int]) -> Job | None:
    """Count the death of the process before this one; returns the job to end as its possible cause.

    There is one if ten processes in a row died before an image of any job had got further.
    The suspect is the oldest job that the last process was at; its start may not be on disk yet.
    """
    unfinished = {numbers[job]: job for job in numbers if not job.summary().finished}
    settings = dict(connection.execute(rows.CRASH_SETTINGS).fetchall())
    progress = "{}/{}".format(*connection.execute(rows.PROGRESS).fetchone())
    crashes = (
        int(settings.get(_CRASHES, 0)) + 1 if settings.get(_PROGRESS, progress) == progress else 0
    )
    started = [number for (number,) in connection.execute(rows.STARTED) if number in unfinished]
    suspects = started or list(unfinished)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(rows.SET_SETTING, (_PROGRESS, progress))
    connection.execute(rows.SET_SETTING, (_CRASHES, str(crashes)))
    connection.executemany(rows.SET_NOT_STARTED, [(number,) for number in unfinished])
    connection.execute("COMMIT")
    return unfinished[suspects[0]] if suspects and crashes >= _MOST_CRASHES else None


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
    keeps_files = True

    def __init__(
        self, file: JournalFile, numbers: Mapping[Job, int], writer: Writer[Batch]
    ) -> None:
        self._file = file
        self._writer = writer
        self._numbers = weakref.WeakKeyDictionary(numbers)
        query = file.connection.execute
        (last,) = query("SELECT coalesce(max(number), 0) FROM job").fetchone()
        self._new_numbers = itertools.count(last + 1)  # threads share it: `next` is one C call
        self._settings: dict[str, str] = dict(query("SELECT name, value FROM setting").fetchall())
        self._keys = Keys()
        kept = {job.job_id for job in numbers}
        posts = query("SELECT caller, key, fingerprint, job_ids FROM posted").fetchall()
        for caller, key, fingerprint, job_ids in posts:
            posted = Posted(caller, key, fingerprint, tuple(job_ids.split()))
            self._keys.add(posted, kept.intersection(posted.job_ids))
        self._is_closed = False

    def accept(
        self,
        jobs: Sequence[Job],
        *,
        posted: Posted | None = None,
        documents: Mapping[str, bytes] = NONE,
        seconds: float = 5.0,
    ) -> None:
        self._keys.check_free(posted)
        numbers = {job: next(self._new_numbers) for job in jobs}
        pairs = [rows.job_rows(number, job) for job, number in numbers.items()]
        new: list[Statement] = [(rows.ADD_JOB, head) for head, _ in pairs]
        new += [(rows.ADD_ITEMS, items) for _, items in pairs]
        new += [
            (rows.ADD_DOCUMENT, (number, documents[job.job_id]))
            for job, number in numbers.items()
            if job.job_id in documents
        ]
        if posted is not None:
            new.append((rows.ADD_POSTED, (*posted[:3], " ".join(posted.job_ids))))
        durable = self._writer.add(lambda batch: batch.new.extend(new))
        try:
            durable.result(seconds)
        except TimeoutError:
            if durable.cancel():
                raise self._writer.refusal() from None
            if not durable.done():  # it is being written at this moment, so it is deleted after
                self._delete([job.job_id for job in jobs], [posted[:2]] if posted else [])
                raise self._writer.refusal() from None
            durable.result()
        self._numbers.update(numbers)
        if posted is not None:
            self._keys.add(posted)

    def document(self, job_id: str) -> bytes | None:
        with self._file.reader() as connection:
            found = connection.execute(rows.DOCUMENT, (job_id,)).fetchone()
            return None if found is None else bytes(found[0])

    def keep_check(self, job_id: str, check: bytes) -> None:
        self._put({("check", job_id): (rows.KEEP_CHECK, (check, job_id))})

    def last_check(self, job_id: str) -> bytes | None:
        with self._file.reader() as connection:
            found = connection.execute(rows.CHECK, (job_id,)).fetchone()
            return None if found is None else bytes(found[0])

    def posted(self, caller: str, key: str) -> Posted | None:
        return self._keys.get(caller, key)

    def record(self, job: Job, change: Change) -> None:
        # A download is not written, unless its image waits for long: `keep`.
        if type(change) is Downloaded or (number := self._numbers.get(job)) is None:
            return
        index = getattr(change, "index", None)
        if index is None or type(change) is Requeued:
            self._record_head(number, job)  # first, as a process may die in between
        if index is not None:
            self._put_image((number, index), job.image(index))

    def keep(self, job: Job, index: int) -> None:
        number = self._numbers.get(job)
        if number is not None:
            self._put_image((number, index), job.image(index))

    def _put_image(self, place: rows.Place, image: Image) -> None:
        self._writer.put(lambda batch: batch.put(place, image))

    def _record_head(self, number: int, job: Job) -> None:
        self._put({number: (rows.SET_HEAD, rows.head_row(number, job))})

    async def durable(self, job: Job | None = None) -> None:  # noqa: ARG002
        await self._writer.durable()

    def is_ours(self, job: Job) -> bool:  # noqa: ARG002
        return True

    def elsewhere(self, job: Job, index: int) -> Elsewhere | None:  # noqa: ARG002
        return None

    def retire(self, job_ids: Iterable[str]) -> None:
        gone = list(job_ids)
        over = self._keys.remove_jobs(gone)
        jobs = [(text, (each,)) for text in rows.RETIRE for each in gone]
        self._edit(jobs + _deleted_keys(over))

    def delete(self, job_ids: Iterable[str]) -> None:
        gone = list(job_ids)
        self._delete(gone, self._keys.remove_jobs(gone))

    def _delete(self, job_ids: Sequence[str], keys: Iterable[tuple[str, str]]) -> None:
        jobs = [(text, (each,)) for text in rows.DELETE_JOB for each in job_ids]
        self._edit(jobs + _deleted_keys(keys))

    def _edit(self, statements: Iterable[Statement]) -> None:
        self._put({each: each for each in statements})

    def _put(self, edits: Mapping[object, Statement]) -> None:
        """Execute statements in one transaction; one replaces another with the same key."""
        self._writer.put(lambda batch: batch.edits.update(edits))

    def load(self, job_id: str) -> Job | None:
        with self._file.reader() as connection:
            connection.execute("BEGIN")  # so that both tables are of one moment
            read = list(_read(connection, "job.id = ?", (job_id,)))
        found = {each.job: each.number for each in read}
        self._numbers.update(found)
        return next(iter(found), None)

    def links(
        self, after: tuple[str, int] | None = None, *, retired_only: bool = False
    ) -> Iterator[Link]:
        place = 0, -1
        if after is not None:
            with self._file.reader() as connection:
                found = connection.execute(rows.NUMBER, after[:1]).fetchone()
            if found is None:
                raise LookupError(after[0])
            place = found[0], after[1]
        while True:
            with self._file.reader() as connection:
                page = connection.execute(rows.LINKS, (*place, retired_only)).fetchall()
            if not page:
                return
            yield from (Link(*link) for _, *link in page)
            place = page[-1][0], page[-1][2]

    def links_to_leave(self, job_id: str, links: Set[str]) -> set[str]:  # noqa: ARG002
        # No more are kept: a journal may have those of years.
        return {each.link for each in self.links(retired_only=True) if each.link in links}

    def get_setting(self, name: str) -> str | None:
        return self._settings.get(name)

    def set_setting(self, name: str, value: str | None) -> None:
        if value is None:
            self._settings.pop(name, None)
            self._put({name: (rows.DELETE_SETTING, (name,))})
        else:
            self._settings[name] = value
            self._put({name: (rows.SET_SETTING, (name, value))})

    @property
    def trouble(self) -> str | None:
        return self._writer.trouble

    def close(self, seconds: float = 10.0) -> bool:
        if self._is_closed:
            return True
        self._is_closed = True
        self.set_setting(_RUNNING, None)
        for job, number in list(self._numbers.items()):
            if not job.summary().finished:  # its version counts downloads too, unlike its rows
                self._record_head(number, job)
        left = self._writer.close(seconds)
        if left is None:
            _log.error("the disk does not respond; the journal is left as it is")
            return False
        if left:
            _log.error("rows of the journal could not be written rows=%d", left)
        self._file.close()
        return not left


def _deleted_keys(keys: Iterable[tuple[str, str]]) -> list[Statement]:
    return [(rows.DELETE_POSTED, key) for key in keys]
