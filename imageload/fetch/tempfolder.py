"""A folder for temp files that no process leaves behind: what a killed one left is swept.

Each process has a folder of its own, `imageload-…`, and holds the lock of the file `.lock` in it
(flock(2): the kernel lets go of it when the process ends, however that is). A folder whose lock
can be had belongs to nobody any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger(__name__)

_PREFIX = "imageload-"
_LOCK = ".lock"
# Between the making of a folder and of its lock another process must not take it for a leaving.
_YOUNG_SECONDS = 60.0


@contextlib.contextmanager
def temp_folder(parent: str = "") -> Iterator[Path]:
    """A new folder in `parent`, the system's for temp files if empty; gone at the end.

    Sweeps what dead processes left there. Raises OSError where no folder can be made.
    """
    place = Path(parent or tempfile.gettempdir())
    sweep(place)
    # Named before it is there: a signal may end us at any moment, and leaves none.
    folder = place / f"{_PREFIX}{secrets.token_hex(8)}"
    lock = None
    try:
        lock = _made_and_locked(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _made_and_locked(folder: Path) -> int:
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    while True:
        folder.mkdir(0o700)
        lock = os.open(folder / _LOCK, flags, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return lock
        os.close(lock)  # another's sweep was quicker with the lock than we


def sweep(parent: Path) -> list[Path]:
    """Delete the folders in `parent` whose processes are dead; links are not followed."""
    swept = [folder for folder in _folders(parent) if _sweep_one(folder)]
    if swept:
        _log.info("swept %d folders of temp files that dead processes left", len(swept))
    return swept


def _folders(parent: Path) -> Iterator[Path]:
    try:
        entries = list(os.scandir(parent))
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(_PREFIX) or not entry.is_dir(follow_symlinks=False):
            continue
        with contextlib.suppress(OSError):
            if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                yield Path(entry.path)


def _sweep_one(folder: Path) -> bool:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        # Without a lock it may be one that is just being made, or a half-deleted one.
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
