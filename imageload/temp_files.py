"""The temp files of downloads: made, used again while others are in use, and bounded in bytes.

Making and deleting a file costs more than filling it (measured on ext4, files of 50 kB: 70 to
150 µs to make one, 10 to open one that is there). So small files that are given back are kept for
the next image, as long as any file is in use; when the last one is given back all are deleted.
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

from imageload.errors import DiskError, DiskFull, ImageError, ResourceError

_log = logging.getLogger(__name__)

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_AGAIN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
# With a journal, files come back by the dozen: all whose images are durable with one transaction.
_MAX_SPARE_FILES = 1_024
_MAX_SPARE_BYTES = 64 * 2**20
_LARGEST_SPARE = 2**20


class TempFiles:
    """Files in `folder`, for any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._lock = threading.Lock()
        self._spare: list[tuple[str, int]] = []
        self._spare_bytes = 0
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
            spare, length = self._spare.pop() if self._spare else (None, 0)
            self._spare_bytes -= length
        try:
            if spare is not None:
                try:
                    return os.open(spare, _AGAIN), spare
                except FileNotFoundError:
                    _log.warning("a temp file has vanished path=%s", spare)
            path = f"{self._folder}/tmp{secrets.token_hex(8)}"  # noqa: S108 - a folder of our own
            return os.open(path, _NEW, 0o600), path
        except OSError:
            if spare is not None:
                _delete(spare)
            self._count_back()
            raise

    def adopt(self) -> None:
        """Count a file that somebody else made in the folder as one of those in use."""
        with self._lock:
            self._in_use += 1

    def give_back(self, path: str, length: int) -> None:
        """The file at `path`, of some `length` bytes, is not needed any more."""
        if length <= _LARGEST_SPARE:
            with self._lock:
                has_room = self._spare_bytes + length <= _MAX_SPARE_BYTES
                if self._in_use > 1 and has_room and len(self._spare) < _MAX_SPARE_FILES:
                    self._in_use -= 1
                    self._spare.append((path, length))
                    self._spare_bytes += length
                    return
        _delete(path)
        self._count_back()

    def _count_back(self) -> None:
        """One file less is in use; after the last one the spare ones go."""
        with self._lock:
            self._in_use -= 1
            spare: list[tuple[str, int]] = []
            if not self._in_use:
                spare, self._spare = self._spare, spare
                self._spare_bytes = 0
        for path, _ in spare:
            _delete(path)


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
        """The job has let go of a file of this length; who waited for room is told."""
        with self._lock:
            self._total -= length
            left = self._held.pop(job_id, 0) - length
            if left > 0:
                self._held[job_id] = left
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
    return DiskError(f"A temp file cannot be used: {os.strerror(error.errno or 0)}.")


def _delete(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108 - for every image, and Path costs more than it
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("a temp file stays behind path=%s reason=%s", path, error)
