"""The journal's file: locked by one process, migrated, and checked before it is used.

    FILE         the SQLite database; FILE-wal and FILE-shm come and go beside it
    FILE.lock    names the process that has it, which holds a lock of the system on it

All are readable by their owner only: they contain deletehashes and tokens. A file that cannot be
read is never emptied or deleted.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import itertools
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import msgspec

from imageload.errors import StoreError, StoreUnavailable
from imageload.image import Image
from imageload.store.rows import (
    MIGRATIONS,
    Place,
    Row,
    image_row,
    image_statements,
    record_of_version_3,
)

_log = logging.getLogger(__name__)

UNREADABLE = (sqlite3.DatabaseError, msgspec.MsgspecError, LookupError, ValueError, TypeError)
"""What reading raises if the file contains what was never written."""

_APPLICATION_ID = 0x696D6C64
_BUSY_SECONDS = 1.0
_WAL_LIMIT = 16 * 2**20
_CHECK_SECONDS = 0.05  # between two checks that the file is in place, if no new jobs arrive
_NOT_READABLE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


Statement = tuple[str, Row]


@dataclass(slots=True)
class Batch:
    """The rows that one transaction writes, in this order. A later row replaces an earlier one."""

    new: list[Statement] = field(default_factory=list)
    images: dict[Place, Row] = field(default_factory=dict)
    edits: dict[object, Statement] = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.new) + len(self.images) + len(self.edits)

    def put(self, place: Place, image: Image) -> None:
        """Write the image as it is now."""
        self.images[place] = image_row(place, image)

    def drop_new(self) -> None:
        """Leave the new jobs out."""
        self.new.clear()

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


class JournalFile:
    """The database at `path`, made if it is missing, locked, checked and open as `connection`.

    Raises StoreError.
    """

    name = "journal"
    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, path: Path) -> None:
        self._checked_at = 0.0
        self.path = _real(path)
        with self.errors_explained():
            self._lock = _held(self.path)
            try:
                if not self.path.exists():
                    _refuse_orphaned_wal(self.path)
                    _create(self.path)
                self.connection = _opened(self.path)
                self._status = self.path.stat()
                self._wal: _Wal | None = None  # until `written`
            except BaseException:
                os.close(self._lock)
                raise

    @contextlib.contextmanager
    def errors_explained(self) -> Iterator[None]:
        """Raise StoreError in place of an error of the disk, or of damage to the file.

        It is for reading the whole file, so it keeps the garbage collector off too.
        """
        was_enabled = gc.isenabled()
        gc.disable()  # it takes a third of the time when many objects are made and none is freed
        try:
            yield
        except UNREADABLE as error:
            if isinstance(error, sqlite3.Error) and not _means_damage(error):
                raise StoreError(f"The journal {self.path} cannot be opened: {error}.") from None
            raise StoreError(
                f"The journal {self.path} is damaged: {error}. Put back a copy of it, or move it "
                "away to start with an empty one."
            ) from None
        except OSError as error:
            raise StoreError(f"The journal {self.path} cannot be opened: {error}.") from None
        finally:
            if was_enabled:
                gc.enable()

    def new_batch(self) -> Batch:
        """An empty batch."""
        return Batch()

    def write(self, batch: Batch) -> None:
        """Write `batch`; raises OSError if the file is not in its place any more."""
        now = time.monotonic()
        if batch.new or now > self._checked_at + _CHECK_SECONDS:
            self._checked_at = 0.0
            self.check_in_place()
            self._checked_at = now
        batch.write(self.connection)
        self.written()
        if batch.new:
            self.check_in_place()

    def check_in_place(self) -> None:
        """Raise OSError if another program has moved or changed the files that are open.

        If only the WAL was deleted or replaced, nothing is lost: the open one is brought into the
        database. To be called before and after each transaction, on the writing thread.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            raise OSError("its file was moved or deleted") from None
        if not os.path.samestat(status, self._status):
            raise OSError("its file was moved or deleted")
        if status.st_size < self._status.st_size:
            raise OSError("another program has cut off its file")
        self._status = status
        self._check_wal()

    def written(self) -> None:
        """A transaction was written: the WAL has grown, or begins anew."""
        wal = _wal_of(self.path)
        if self._wal is None or (wal is not None and wal.inode == self._wal.inode):
            self._wal = wal

    def _check_wal(self) -> None:
        known, now = self._wal, _wal_of(self.path)
        if known is None:
            return
        if now is None or now.inode != known.inode:
            self._save_wal()
        elif now.size < min(known.size, _WAL_LIMIT) or now.header != known.header:
            raise OSError("another program has changed its WAL")

    def _save_wal(self) -> None:
        """Bring the WAL that is open into the database, and open the database with a new one."""
        is_busy, _, _ = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise OSError("its WAL was deleted")
        self.connection.close()
        self.connection = _connected(self.path)
        _set_up(self.connection)
        self._wal = _wal_of(self.path)
        _log.warning("the journal's WAL was deleted while it was open; nothing is lost")

    @contextlib.contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading on the calling thread; raises StoreUnavailable.

        A missing file is not made: SQLite would delete the WAL that is kept for it.
        """
        try:
            with contextlib.closing(_connected(self.path)) as connection:
                connection.execute("PRAGMA query_only = 1")
                yield connection
        except UNREADABLE as error:
            _log.error("the journal cannot be read: %s", error)
            raise StoreUnavailable(
                f"The journal cannot be read now: {error}. Ask again in a while."
            ) from error

    def close(self) -> None:
        """Bring everything into the one file, and unlock it."""
        self.connection.rollback()
        try:
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            _log.warning("the journal's WAL stays as it is: %s", error)
        self.connection.close()
        os.ftruncate(self._lock, 0)
        os.close(self._lock)


def check_free(path: Path) -> None:
    """Raise StoreError if another process has the journal at `path`, or its folder is missing.

    For a process with other work to do before it opens the journal.
    """
    try:
        os.close(_held(_real(path)))
    except OSError as error:
        raise StoreError(f"The journal {path} cannot be opened: {error}.") from None


def _real(path: Path) -> Path:
    """The path without symbolic links, so that all names of a journal have one lock."""
    return Path(os.path.realpath(path))


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _held(path: Path) -> int:
    """The descriptor of the lock; raises StoreError if another process has it."""
    if not path.parent.is_dir():
        raise StoreError(f"The folder of the journal is not there: {path.parent}.")
    if path.is_dir():
        raise StoreError(f"The journal {path} is a folder. Name a file.")
    lock = os.open(_beside(path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
    """Raise StoreError: SQLite would delete a WAL without its database, and jobs may be in it."""
    wal = _beside(path, "-wal")
    if wal.exists() and wal.stat().st_size:
        raise StoreError(
            f"The journal {path} is gone, but {wal.name} is still there. Put the journal back, or "
            "move that file away."
        )


class _Wal(NamedTuple):
    """A WAL: its inode, its size, and its header, which names its generation."""

    inode: int
    size: int
    header: bytes


def _wal_of(path: Path) -> _Wal | None:
    """The WAL beside the database at `path`; None if there is none."""
    try:
        # Twice for each transaction, and Path costs more than the calls.
        file = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(file)
        return _Wal(status.st_ino, status.st_size, os.pread(file, 32, 0))
    finally:
        os.close(file)


def _create(path: Path) -> None:
    """An empty journal. It is renamed when it is whole, so an empty file is always damage."""
    new = _beside(path, ".new")
    new.unlink(missing_ok=True)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(_connected(new)) as connection:
        _migrate(connection, 0)
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _connected(path: Path) -> sqlite3.Connection:
    """A connection to the file, which must exist."""
    return sqlite3.connect(
        f"{path.as_uri()}?mode=rw",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )


def _opened(path: Path) -> sqlite3.Connection:
    """The database at `path`, checked and migrated."""
    path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o700)
    if not path.stat().st_size:
        raise ValueError("it is empty")
    if path.stat().st_nlink > 1:  # each name would have a WAL of its own
        raise StoreError(
            f"The journal {path} has another name, a hard link. Delete that link, or copy the "
            "journal to a file of its own."
        )
    connection = _connected(path)
    try:
        _check(path, connection)
        _set_up(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _means_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    # Text that is no UTF-8 has no code.
    return code is None or code & 0xFF in _NOT_READABLE


def _check(path: Path, connection: sqlite3.Connection) -> None:
    """Raise if this is no journal, a newer one or a damaged one; migrate an older one."""
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
    connection.create_function("record_of_version_3", -1, record_of_version_3)
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
        f"journal_size_limit = {_WAL_LIMIT}",
    ):
        connection.execute(f"PRAGMA {pragma}")
