"""Zip files: their entries are read, and written again with some of them replaced."""

from __future__ import annotations

import copy
import re
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from imageload.cli.connection import CommandError

_MOST_ENTRIES = 100_000
_MOST_BYTES = 2 * 2**30
# Texts are rarely packed to less than a fiftieth; deflate packs to a thousandth at most.
_MOST_RATIO = 200
_SMALL = 100 * 2**20
_ENCRYPTED = 0x1
_DRIVE = re.compile(r"[A-Za-z]:")


class BadArchive(CommandError):
    """A zip file is not read or written; a sentence says why."""


def entries(path: Path) -> list[zipfile.ZipInfo]:
    """The entries, in order. Raises BadArchive for a zip file that may do harm, or is broken."""
    with _opened(path) as archive:
        return archive.infolist()


def read(
    path: Path, wanted: Mapping[int, zipfile.ZipInfo], most: int
) -> Iterator[tuple[int, bytes | None]]:
    """The content of the `wanted` entries, by their place; None if it has more than `most` bytes.

    Raises BadArchive.
    """
    with _opened(path) as archive:
        for number, entry in wanted.items():
            yield number, archive.read(entry) if entry.file_size <= most else None


def write(path: Path, replaced: Mapping[int, bytes], file: BinaryIO) -> None:
    """Write the zip file `path` to `file`, with these entries replaced, by their place.

    Names, dates, permissions, comments and the order stay. Raises BadArchive.
    """
    with (
        _opened(path) as before,
        zipfile.ZipFile(file, "w") as after,
        warnings.catch_warnings(),  # of names that are there twice: they stay
    ):
        warnings.simplefilter("ignore")
        after.comment = before.comment
        for number, entry in enumerate(before.infolist()):
            new = copy.copy(entry)
            new.extra = _without_sizes(entry.extra)
            if number in replaced:
                after.writestr(new, replaced[number])
            elif entry.is_dir():
                after.writestr(new, b"")
            else:
                with before.open(entry) as content, after.open(new, "w") as copied:
                    shutil.copyfileobj(content, copied)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            _check(path, archive)
            yield archive
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, struct.error) as error:
        raise BadArchive(f"{path} is no zip file that can be read: {error}") from None
    except zipfile.LargeZipFile:
        raise BadArchive(f"{path} is too large for a zip file.") from None


def _check(path: Path, archive: zipfile.ZipFile) -> None:
    found = archive.infolist()
    size = sum(entry.file_size for entry in found)
    packed = path.stat().st_size
    if len(found) > _MOST_ENTRIES:
        raise BadArchive(f"{path} has {len(found):,} entries; {_MOST_ENTRIES:,} are read at most.")
    if size > _MOST_BYTES or size > max(_SMALL, _MOST_RATIO * packed):
        raise BadArchive(f"{path} would unpack to {size:,} bytes, which is too much.")
    for entry in found:
        # As it is written there: ZipInfo cuts a name at a null character.
        name = entry.orig_filename.replace("\\", "/")
        if name.startswith("/") or ".." in name.split("/") or _DRIVE.match(name) or "\0" in name:
            raise BadArchive(
                f"{path} has an entry that leads out of its folder: {entry.orig_filename}"
            )
        if entry.flag_bits & _ENCRYPTED:
            raise BadArchive(f"{path} is encrypted: {entry.filename}. Unpack it first.")


def _without_sizes(extra: bytes) -> bytes:
    """The extra fields of an entry but for the sizes of ZIP64, which are written anew."""
    kept, at = b"", 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind != 1:
            kept += extra[at : at + 4 + size]
        at += 4 + size
    return kept + extra[at:]
