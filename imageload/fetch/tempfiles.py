"""The temp files of downloads: reused, and bounded in bytes.

Making and deleting a file costs more than filling it (ext4, files of 50 kB: 70 to 150 µs to make
one, 10 to open an existing one). So small files that are given back are kept for the next image: as
they are while any file is in use, emptied when the last one is given back. An empty file that is
not used from one `tidy` to the next is deleted.

With a journal they are in its spool, a folder that each process on the journal finds again
(`imageload.fetch.spool`). Without, each process has its own folder, `imageload-…`, which is always
removed: it holds the lock of the file `.lock` in it (flock(2): the kernel releases it when the
process ends, even after kill -9), and a folder whose lock is free belongs to a dead process.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

_log = logging.getLogger(__name__)

T = TypeVar("T")

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_AGAIN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_EMPTIED = os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
# More than are in use at the same time by default.
_MAX_SPARE_FILES = 1_024
_MAX_SPARE_BYTES = 64 * 2**20
_LARGEST_SPARE = 2**20
_SMALL_BYTES = 100_000  # work on such a file costs a tenth of handing it to a thread
_MAX_EMPTY_FILES = 128  # somewhat more than a job has in use at once
_PREFIX = "imageload-"
_FILE_NAME = re.compile("tmp[0-9a-f]{16}")
_FOLDER_NAME = re.compile(f"{_PREFIX}[0-9a-f]{{16}}")  # anything else may be a user's folder
_LOCK = ".lock"
_YOUNG_SECONDS = 60.0  # a folder without a lock is another process's, being made, until then


class TempFiles:
    """Files in `folder`, used on the transfer loop. While none is in use, all are empty."""

    def __init__(self, folder: Path) -> None:
        self.in_use = 0
        """The number of files that are taken and not given back."""
        self._folder = str(folder)
        self._spare: list[tuple[str, int]] = []
        self._spare_bytes = 0
        self._empty: list[str] = []
        self._untouched = 0  # of the empty ones, from the first, since the last `tidy`

    def adopt(self, wanted: Mapping[str, int]) -> dict[str, str]:
        """The paths of files that an earlier process left here, by name; they are in use now.

        They are those whose names are `wanted`, if they have that length. All other files of such
        a process are deleted. Raises OSError.
        """
        found = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if not _FILE_NAME.fullmatch(entry.name):
                    continue
                status = entry.stat(follow_symlinks=False)
                is_file = stat.S_ISREG(status.st_mode)
                if is_file and wanted.get(entry.name) == status.st_size:
                    found[entry.name] = entry.path
                else:
                    _delete(entry.path)
        self.in_use += len(found)
        return found

    def take(self) -> tuple[int, str]:
        """An open file and its path. It may hold old bytes: the caller cuts off the end.

        Raises OSError.
        """
        self.in_use += 1
        known = self._kept()
        try:
            if known is not None:
                try:
                    return os.open(known, _AGAIN), known
                except FileNotFoundError:
                    _log.warning("a temp file has vanished path=%s", known)
            path = f"{self._folder}/tmp{secrets.token_hex(8)}"  # noqa: S108 - a folder of our own
            return os.open(path, _NEW, 0o600), path
        except OSError:
            if known is not None:
                _delete(known)
            self._count_back()
            raise

    def give_back(self, path: str, length: int) -> None:
        """The caller no longer needs the file at `path`, of about `length` bytes."""
        has_room = self._spare_bytes + length <= _MAX_SPARE_BYTES
        if has_room and length <= _LARGEST_SPARE and len(self._spare) < _MAX_SPARE_FILES:
            self._spare.append((path, length))
            self._spare_bytes += length
        else:
            _delete(path)
        self._count_back()

    def delete(self, path: str) -> None:
        """The caller no longer needs the file at `path`, of unknown length."""
        _delete(path)
        self._count_back()

    def close(self) -> None:
        """Delete the files that nobody uses."""
        for path in [*self._empty, *(path for path, _ in self._spare)]:
            _delete(path)
        self._empty, self._spare, self._spare_bytes, self._untouched = [], [], 0, 0

    def tidy(self) -> None:
        """Delete the empty files that have not been used since the last call."""
        for path in self._empty[: self._untouched]:
            _delete(path)
        del self._empty[: self._untouched]
        self._untouched = len(self._empty)

    def _kept(self) -> str | None:
        """A file to reuse, if there is one."""
        if self._spare:
            path, length = self._spare.pop()
            self._spare_bytes -= length
            return path
        if not self._empty:
            return None
        path = self._empty.pop()
        self._untouched = min(self._untouched, len(self._empty))
        return path

    def _count_back(self) -> None:
        """Count one file less in use; after the last one, empty the spare ones."""
        self.in_use -= 1
        if self.in_use:
            return
        spare, self._spare, self._spare_bytes = self._spare, [], 0
        for path, _ in spare:
            if len(self._empty) < _MAX_EMPTY_FILES and _is_emptied(path):
                self._empty.append(path)
            else:
                _delete(path)


class TempBytes:
    """Limits the disk space of images from the start of a download to the end of the upload.

    A download reserves `largest` bytes, the most that an image may have, until its size is known.
    A key (a job's id) may hold half of what the other keys leave of `limit` bytes, so a large job
    that waits cannot keep a small one out. Used on the transfer loop.
    """

    def __init__(self, limit: float = math.inf, largest: int = 0) -> None:
        self.held = 0
        """The bytes that all keys hold, and have reserved."""
        self.largest = largest
        self._limit = limit
        self._held_by: dict[str, int] = {}
        self._wakes: dict[str, Callable[[], object]] = {}
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> int:
        """How many keys wait for room."""
        return len(self._wakes.keys() | self._lines.keys())

    def reserve(self, key: str) -> bool:
        """Reserve room for one more image of `key`; False if there is none."""
        if not self._has_room(key):
            return False
        self.resize(key, 0, self.largest)
        self._wake_first(key)  # there may be room for its next one too
        return True

    def resize(self, key: str, before: int, after: int) -> None:
        """An image of `key` holds `after` bytes, not `before`. Less than before wakes others."""
        self.held += after - before
        held = self._held_by.pop(key, 0) + after - before
        if held > 0:
            self._held_by[key] = held
        if after < before:
            wakes, self._wakes = self._wakes, {}
            for wake in wakes.values():
                wake()
            for each in list(self._lines):
                self._wake_first(each)

    def has_room(self, key: str, wake: Callable[[], object]) -> bool:
        """`key` may download another image. If not, `wake` is called when there may be room."""
        if self._has_room(key):
            return True
        self._wakes[key] = wake
        return False

    async def wait(self, key: str) -> None:
        """Return when there may be room for an image of `key`; `reserve` it then."""
        woken = asyncio.get_running_loop().create_future()
        self._lines.setdefault(key, deque()).append(woken)
        try:
            await woken
        except asyncio.CancelledError:
            if woken.cancelled():
                self._lines[key].remove(woken)
                if not self._lines[key]:
                    del self._lines[key]
            else:
                self._wake_first(key)
            raise

    def _has_room(self, key: str) -> bool:
        held, free = self._held_by.get(key, 0), self._limit - self.held
        if not self.held:
            return True
        return free >= self.largest and (not held or held < (free + held) / 2)

    def _wake_first(self, key: str) -> None:
        line = self._lines.get(key)
        while line and self._has_room(key):
            woken = line.popleft()
            if not line:
                del self._lines[key]
            if not woken.cancelled():
                woken.set_result(None)
                return


async def on_file(size: int, call: Callable[[], T]) -> T:
    """The result of `call()`, which works on a temp file of `size` bytes: in a thread if large."""
    return call() if size <= _SMALL_BYTES else await in_thread(call)


async def in_thread(call: Callable[[], T]) -> T:
    """The result of `call()`, which uses a temp file, in a thread.

    The thread has ended when this ends, also if it is cancelled: then the file can be given back.
    """
    work = asyncio.ensure_future(asyncio.to_thread(call))
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        with contextlib.suppress(Exception):
            work.result()
        raise cancelled
    return work.result()


def _is_emptied(path: str) -> bool:
    """Truncate the file; False if that fails."""
    try:
        os.close(os.open(path, _EMPTIED))
    except OSError:
        return False
    return True


def _delete(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108 - once per image, and Path costs more than the call
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("a temp file cannot be deleted path=%s reason=%s", path, error)


@contextlib.contextmanager
def temp_folder(parent: str = "") -> Iterator[Path]:
    """A new folder in `parent` (the system's temp folder if empty), removed at the end.

    First removes the folders of dead processes there. Raises OSError if it cannot be made.
    """
    place = Path(parent or tempfile.gettempdir())
    sweep(place)
    # Named before it is made: a signal may end this process between the two.
    folder = place / f"{_PREFIX}{secrets.token_hex(8)}"
    lock = None
    try:
        lock = _made_and_locked(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def sweep(parent: Path) -> list[Path]:
    """Delete the folders in `parent` whose processes are dead; links are not followed."""
    swept = [folder for folder in _folders(parent) if _sweep_one(folder)]
    if swept:
        _log.info("removed temp folders of dead processes count=%d", len(swept))
    return swept


def _made_and_locked(folder: Path) -> int:
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    while True:
        folder.mkdir(0o700)
        lock = os.open(folder / _LOCK, flags, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return lock
        os.close(lock)  # another process's sweep locked it first, and deleted the folder


def _folders(parent: Path) -> Iterator[Path]:
    try:
        entries = list(os.scandir(parent))
    except OSError:
        return
    for entry in entries:
        if not _FOLDER_NAME.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
            continue
        with contextlib.suppress(OSError):
            if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                yield Path(entry.path)


def _sweep_one(folder: Path) -> bool:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        # Without a lock it is being made right now, or half deleted.
        is_old = time.time() - folder.stat().st_mtime > _YOUNG_SECONDS
        if is_old:
            shutil.rmtree(folder, ignore_errors=True)
        return is_old
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
