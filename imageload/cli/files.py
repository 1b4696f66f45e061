"""Files of the command line that are replaced as a whole, or not at all, and their backups."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path, like: Path | None = None) -> Iterator[BinaryIO]:
    """A new file that replaces `path` when the block ends, and is removed if the block fails.

    It is on disk before it has the name. It gets the permissions and the owner of `like`. The name
    of the new file is always the same one, so one that a killed run has left is written again.
    Raises OSError, also if another run writes it now.
    """
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    new = path.with_name(f".imageload-{name}")
    with _locked(new) as file:
        try:
            yield file
            file.flush()
            if like is not None:
                _copy_owner(like, file.fileno())
            os.fsync(file.fileno())
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    _sync_folder(path.parent)


def _locked(path: Path) -> BinaryIO:
    """An empty file at `path`, which no other process writes."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        file = os.fdopen(descriptor, "w+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise OSError(errno.EBUSY, "Another run writes this file now.") from None
        # Between the opening and the lock, another run may have given this file its name.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
            file.truncate(0)
            return file
        file.close()


def _copy_owner(like: Path, descriptor: int) -> None:
    status = like.stat()
    with contextlib.suppress(PermissionError):  # only root may give files away
        os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, status.st_mode & 0o7777)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def back_up(path: Path) -> None:
    """Copy `path` to FILE.bak, or to FILE.bak2, ... if there is another file of this name."""
    for number in count(1):
        backup = path.with_name(f"{path.name}.bak{number if number > 1 else ''}")
        if not os.path.lexists(backup):
            with replacing(backup, path) as file, path.open("rb") as before:
                shutil.copyfileobj(before, file)
            shutil.copystat(path, backup)
            return
        if backup.is_file() and digest(backup) == digest(path):
            return


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
