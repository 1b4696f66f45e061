"""The temp files of downloads: made, used again, and bounded in bytes.

Making and deleting a file costs more than filling it (measured on ext4, files of 50 kB: 70 to
150 µs to make one, 10 to open one that is there). So small files that are given back are kept for
the next image: as they are while any file is in use, and emptied when the last one is given back.
What nobody has taken from one `tidy` to the next is deleted.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

from imageload.errors import DiskFull, ImageError, ResourceError

_log = logging.getLogger(__name__)

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_AGAIN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_EMPTIED = os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
# With a journal, files come back by the dozen: all whose images are durable with one transaction.
_MAX_SPARE_FILES = 1_024
_MAX_SPARE_BYTES = 64 * 2**20
_LARGEST_SPARE = 2**20
# Some more than a job has in use at once.
_MAX_EMPTY_FILES = 128


class TempFiles:
    """Files in `folder`, for any thread. While none is in use, none of them has a byte in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._lock = threading.Lock()
        self._spare: list[tuple[str, int]] = []
        self._spare_bytes = 0
        self._empty: list[str] = []
        self._untouched = 0  # of the empty ones, from the first, since the last `tidy`
        self._in_use = 0

    @property
    def in_use(self) -> int:
        """How many files somebody has."""
        return self._in_use

    def take(self) -> tuple[int, str]:
        """An open file and its path. It may hold old bytes: the end must be cut off.

        Raises OSError where there is none to be had.
        """
        with self._lock:
            self._in_use += 1
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

    def adopt(self) -> None:
        """Count a file that somebody else made in the folder as one of those in use."""
        with self._lock:
            self._in_use += 1

    def give_back(self, path: str, length: int) -> None:
        """The file at `path`, of some `length` bytes, is not needed any more."""
        with self._lock:
            has_room = self._spare_bytes + length <= _MAX_SPARE_BYTES
            is_kept = has_room and length <= _LARGEST_SPARE and len(self._spare) < _MAX_SPARE_FILES
            if is_kept:
                self._spare.append((path, length))
                self._spare_bytes += length
                if self._in_use > 1:
                    self._in_use -= 1
                    return
        if not is_kept:
            _delete(path)
        self._count_back()

    def tidy(self) -> None:
        """Delete the empty files that nobody has taken since this was called before."""
        with self._lock:
            untouched, self._empty = self._empty[: self._untouched], self._empty[self._untouched :]
            self._untouched = len(self._empty)
        for path in untouched:
            _delete(path)

    def _kept(self) -> str | None:
        """For the lock's holder: a file to be used again, if there is one."""
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
        """One file less is in use; with the last one, the spare ones are emptied."""
        with self._lock:
            self._in_use -= 1
            if self._in_use:
                return
            spare, self._spare, self._spare_bytes = self._spare, [], 0
            room = max(0, _MAX_EMPTY_FILES - len(self._empty))
        emptied = [path for path, _ in spare[:room] if _emptied(path)]
        for path, _ in spare[room:]:
            _delete(path)
        with self._lock:
            self._empty += emptied


class TempBytes:
    """How much disk the images that wait for their upload may take, over all jobs.

    A job that is alone may hold half of `limit`; others half of what the rest leave, as in
    FairQueue, so that a small job is not shut out by a large one that waits. For any thread.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        self._total = 0
        self._waiting: dict[str, Callable[[], object]] = {}

    @property
    def held(self) -> int:
        """How many bytes the images that wait have, in all."""
        return self._total

    def hold(self, job_id: str, length: int) -> None:
        """The job has a file of this length more."""
        with self._lock:
            self._held[job_id] = self._held.get(job_id, 0) + length
            self._total += length

    def release(self, job_id: str, length: int) -> None:
        """The job has let go of files of this length; who waited for room is told."""
        with self._lock:
            self._total -= length
            left = self._held.pop(job_id, 0) - length
            if left > 0:
                self._held[job_id] = left
            if not self._waiting:
                return
            waiting, self._waiting = self._waiting, {}
        for wake in waiting.values():
            wake()

    def has_room(self, job_id: str, wake: Callable[[], object]) -> bool:
        """May the job download another image? If not, `wake` is called when some room came."""
        with self._lock:
            held = self._held.get(job_id, 0)
            if not held or held < (self._limit - self._total + held) / 2:
                return True
            self._waiting[job_id] = wake
            return False


def disk_error(error: OSError) -> ImageError:
    """What it means for an image that its temp file could not be used."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("The disk of the service is full.")
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN):
        return ResourceError("The service is out of file descriptors or memory for now.")
    return ImageError("disk_error", f"A temp file cannot be used: {os.strerror(error.errno or 0)}.")


def _emptied(path: str) -> bool:
    """Take the bytes out of the file; where that cannot be done it is deleted."""
    try:
        os.close(os.open(path, _EMPTIED))
    except OSError:
        _delete(path)
        return False
    return True


def _delete(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108 - for every image, and Path costs more than it
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("a temp file stays behind path=%s reason=%s", path, error)
