"""The journal's files: held by one process, brought up to date, and judged before they are used.

    FILE                 the SQLite database; FILE-wal and FILE-shm come and go beside it
    FILE.lock            who holds it: a lock of the system's, which a process loses when it dies
    FILE.work            the BlackBox
    FILE.damaged-<when>  what could not be read any more, moved aside where that was asked for

All are for their owner's eyes: deletehashes and tokens are in them. Nothing here ever empties or
deletes a file that it cannot read.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import logging
import os
import sqlite3
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from imageload.errors import StoreError
from imageload.job import Job
from imageload.store.rows import MIGRATIONS, UNREADABLE, jobs, readable

_log = logging.getLogger(__name__)

_APPLICATION_ID = 0x696D6C64
_BUSY_SECONDS = 1.0
_NOT_READABLE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class _Damaged(Exception):
    """The database cannot be read; the text says why."""


class JournalFile:
    """The database at `path`, held for this process and open, and the jobs that were in it.

    `jobs` are the jobs that were not retired, oldest first, each with its number. A database that
    is not there is made. Raises StoreError where it cannot be had; a damaged one is moved aside,
    and an empty one made, only with `move_damaged_aside`.
    """

    def __init__(self, path: Path, *, move_damaged_aside: bool = False) -> None:
        self.path = _real(path)
        try:
            self._lock = _held(self.path)
        except OSError as error:
            raise StoreError(f"The journal {self.path} cannot be opened: {error}.") from None
        try:
            self.connection, self.jobs = self._opened(move_damaged_aside)
            self._identity = _identity(self.path)
        except BaseException:
            os.close(self._lock)
            raise

    def _opened(self, move_damaged_aside: bool) -> tuple[sqlite3.Connection, list[tuple[int, Job]]]:
        try:
            if not self.path.exists():
                _refuse_orphaned_wal(self.path)
                _create(self.path)
            try:
                return _read(self.path)
            except _Damaged as damage:
                if not move_damaged_aside:
                    raise StoreError(
                        f"The journal {self.path} is damaged: {damage}. Put back a copy of it, or "
                        "start with --journal-reset to have it moved aside and begin anew."
                    ) from None
                aside = _move_aside(self.path)
                _log.error("the journal was damaged and is now %s: %s", aside, damage)
            _create(self.path)
            return _read(self.path)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"The journal {self.path} cannot be opened: {error}.") from None

    def check_in_place(self) -> None:
        """Raise OSError where the file that is written is not the one at the path any more."""
        try:
            found = _identity(self.path)
        except FileNotFoundError:
            found = None
        if found != self._identity:
            raise OSError("its file was moved or deleted")

    @contextlib.contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading, for the thread that asks; raises sqlite3.Error.

        Where the file is gone it makes none: SQLite would throw away the WAL that waits for it.
        """
        connection = _connected(self.path)
        try:
            connection.execute("PRAGMA query_only = 1")
            yield connection
        finally:
            connection.close()

    def close(self) -> None:
        """Bring everything into the one file, and let another process have it."""
        self.connection.rollback()
        try:
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            _log.warning("the journal's WAL stays as it is: %s", error)
        self.connection.close()
        os.ftruncate(self._lock, 0)
        os.close(self._lock)


def check_free(path: Path) -> None:
    """Raise StoreError where another process holds the journal at `path`, or no folder is there.

    For who has something to do before it takes the journal: that one may still be slower.
    """
    try:
        os.close(_held(_real(path)))
    except OSError as error:
        raise StoreError(f"The journal {path} cannot be opened: {error}.") from None


def _real(path: Path) -> Path:
    """Where the journal is: two that name it by different links meet at one lock."""
    return Path(os.path.realpath(path))


def beside(path: Path, ending: str) -> Path:
    """The file that belongs to the journal at `path`."""
    return path.with_name(path.name + ending)


def _held(path: Path) -> int:
    """The descriptor of the lock; StoreError where another process has it."""
    if not path.parent.is_dir():
        raise StoreError(f"The folder of the journal is not there: {path.parent}.")
    if path.is_dir():
        raise StoreError(f"The journal {path} is a folder. Name a file.")
    lock = os.open(beside(path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock, 20, 0).decode(errors="replace").strip()
            holder = f"process {pid}" if pid else "another process"
            raise StoreError(
                f"The journal {path} is held by {holder}. Stop that one, or name another file: "
                "two services cannot share a journal."
            ) from None
        os.fchmod(lock, 0o600)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _refuse_orphaned_wal(path: Path) -> None:
    """SQLite would delete a WAL whose database is gone, and there may be jobs in it."""
    wal = beside(path, "-wal")
    if wal.exists() and wal.stat().st_size:
        raise StoreError(
            f"The journal {path} is gone, but {wal.name} is still there. Put the journal back, or "
            "move that file away."
        )


def _create(path: Path) -> None:
    """An empty journal. It comes into its place whole, so one of no length is always damage."""
    new = beside(path, ".new")
    new.unlink(missing_ok=True)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = _connected(new)
    try:
        _migrate(connection, 0)
    finally:
        connection.close()
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _connected(path: Path) -> sqlite3.Connection:
    """A connection to the file, which has to be there."""
    return sqlite3.connect(
        f"{path.as_uri()}?mode=rw",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )


def _read(path: Path) -> tuple[sqlite3.Connection, list[tuple[int, Job]]]:
    """The journal at `path`, open and of the newest schema, and its jobs; raises _Damaged."""
    path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o700)
    if not path.stat().st_size:
        raise _Damaged("it is empty")
    connection = _connected(path)
    try:
        try:
            _judge(path, connection)
            _set_up(connection)
            with _no_collections():
                return connection, list(jobs(connection))
        except UNREADABLE as error:
            if isinstance(error, sqlite3.Error) and not _means_damage(error):
                raise
            count = "{:,} jobs and {:,} links of it can be read".format(*readable(connection))
            raise _Damaged(f"{error} ({count})") from None
    except BaseException:
        connection.close()
        raise


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """While many objects come and none go, looking for garbage takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _means_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    # Text that is no UTF-8 has no code.
    return code is None or code & 0xFF in _NOT_READABLE


def _judge(path: Path, connection: sqlite3.Connection) -> None:
    """Raise where this is no journal, or a newer one; bring it up to date where it is older."""
    (kind,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if kind != _APPLICATION_ID:
        raise StoreError(f"{path} is a database, but no journal of imageload. Name another file.")
    if version > len(MIGRATIONS):
        raise StoreError(
            f"The journal {path} is of version {version}, and this program knows versions up to "
            f"{len(MIGRATIONS)}. Start the newer program that wrote it."
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise ValueError(" ".join(verdict.replace("*** in database main ***", "").split()))
    _migrate(connection, version)


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        # One script is one transaction: half of it is never there.
        connection.executescript(
            f"BEGIN IMMEDIATE; {script}; PRAGMA application_id = {_APPLICATION_ID}; "
            f"PRAGMA user_version = {number}; COMMIT;"
        )


def _set_up(connection: sqlite3.Connection) -> None:
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "fullfsync = ON",  # on a Mac fsync alone does not reach the disk
        "secure_delete = FAST",
        "journal_size_limit = 16777216",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _move_aside(path: Path) -> Path:
    aside = beside(path, f".damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    for ending in ("-wal", ""):
        if beside(path, ending).exists():
            beside(path, ending).rename(beside(aside, ending))
    beside(path, "-shm").unlink(missing_ok=True)
    return aside


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
