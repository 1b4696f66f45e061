"""The temp files of downloads: made, and used again while others are in use.

Making and deleting a file costs more than filling it (measured on ext4, files of 50 kB: 70 to
150 µs to make one, 10 to open one that is there). So small files that are given back are kept for
the next image, as long as any file is in use; when the last one is given back all are deleted.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from pathlib import Path

_log = logging.getLogger(__name__)

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_AGAIN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_MAX_SPARE_FILES = 64
_MAX_SPARE_BYTES = 2**20


class TempFiles:
    """Files in `folder`, for any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._lock = threading.Lock()
        self._spare: list[str] = []
        self._in_use = 0

    def take(self) -> tuple[int, str]:
        """An open file and its path. It may hold old bytes: the end must be cut off.

        Raises OSError where there is none to be had.
        """
        with self._lock:
            self._in_use += 1
            spare = self._spare.pop() if self._spare else None
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
        if length <= _MAX_SPARE_BYTES:
            with self._lock:
                if self._in_use > 1 and len(self._spare) < _MAX_SPARE_FILES:
                    self._in_use -= 1
                    self._spare.append(path)
                    return
        _delete(path)
        self._count_back()

    def _count_back(self) -> None:
        """One file less is in use; after the last one the spare ones go."""
        with self._lock:
            self._in_use -= 1
            spare: list[str] = []
            if not self._in_use:
                spare, self._spare = self._spare, spare
        for path in spare:
            _delete(path)


def _delete(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108 - for every image, and Path costs more than it
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("a temp file stays behind path=%s reason=%s", path, error)
