"""TIFF without metadata: nothing moves, and everything that is not known becomes zero."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from imageload.convert.metadata.errors import NotStripped
from imageload.convert.metadata.parts import Parts

_MOST_DIRECTORIES: Final = 2_000
_MOST_VALUES: Final = 200_000
_TYPE_BYTES: Final = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8,
    18: 8,
}  # fmt: skip
_COMPRESSION, _SUB_IFDS, _DNG_VERSION = 259, 330, 50706
_OLD_JPEG: Final = 6  # its tables have no length
_OFFSETS: Final = {273: 279, 324: 325, 288: 289}  # where data are, and how long they are
# What decides on the pixels, their colours, size and orientation (TIFF 6.0 and its supplements).
_KEPT: Final = frozenset((
    254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281, 282,
    283, 284, 286, 287, 290, 291, 292, 293, 296, 297, 301, 317, 318, 319, 320, 321, 322, 323, 324,
    325, 326, 327, 328, 330, 332, 334, 336, 338, 339, 340, 341, 342, 347, 529, 530, 531, 532, 34675,
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Entry:
    tag: int
    raw: bytes
    kind: int
    count: int
    at: int  # of its values
    length: int


class _Tiff:
    """The structure of a file: TIFF, or BigTIFF with its wider fields."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.order = "<" if source[:2] == b"II" else ">"
        version = self._number(2, 2)
        self.is_big = version == 43
        if version not in (42, 43) or (self.is_big and self._number(4, 4) != 8):
            raise NotStripped("the TIFF's version is not known")
        self.word = 8 if self.is_big else 4
        self.first = self._number(self.word, self.word)
        self.head_bytes = 2 * self.word
        self._values = 0

    def _number(self, at: int, length: int) -> int:
        if at + length > len(self.source):
            raise NotStripped("the TIFF is cut short")
        order = "little" if self.order == "<" else "big"
        return int.from_bytes(self.source[at : at + length], order)  # type: ignore[arg-type]

    def entries(self, at: int) -> tuple[list[_Entry], int, int]:
        """The entries of the directory at `at`, the directory after it, and this one's end."""
        counted, entry_bytes = (8, 20) if self.is_big else (2, 12)
        count = self._number(at, counted)
        self._count(count)
        end = at + counted + entry_bytes * count
        following = self._number(end, self.word)
        places = range(at + counted, end, entry_bytes)
        return [self._entry(place, entry_bytes) for place in places], following, end + self.word

    def _entry(self, at: int, length: int) -> _Entry:
        tag, kind = self._number(at, 2), self._number(at + 2, 2)
        count = self._number(at + 4, self.word)
        size = count * _TYPE_BYTES.get(kind, 0)
        inside = at + length - self.word
        place = inside if size <= self.word else self._number(inside, self.word)
        return _Entry(tag, self.source[at : at + length], kind, count, place, size)

    def values(self, entry: _Entry) -> Iterator[int]:
        """Its values as integers."""
        self._count(entry.count)
        size = _TYPE_BYTES.get(entry.kind, 0)
        if not size:
            raise NotStripped("a TIFF's offsets are of a type that is not known")
        return (self._number(entry.at + n * size, size) for n in range(entry.count))

    def _count(self, more: int) -> None:
        """Raise NotStripped once the entries and offsets of the file are too many."""
        self._values += more
        if self._values > _MOST_VALUES:
            raise NotStripped(f"the TIFF has more than {_MOST_VALUES:,} entries and offsets")

    def directory(self, entries: list[_Entry], following: int, length: int) -> bytes:
        """A directory of these entries, filled up to `length` with zeros."""
        count = struct.pack(self.order + ("Q" if self.is_big else "H"), len(entries))
        last = struct.pack(self.order + ("Q" if self.is_big else "I"), following)
        return (count + b"".join(each.raw for each in entries) + last).ljust(length, b"\0")


def strip_tiff(source: bytes) -> Parts:
    """Keeps every page's pixels, and the tags and bytes that they need, where they are.

    Raises NotStripped for a raw photograph (DNG), or a JPEG of the old form in a TIFF.
    """
    tiff = _Tiff(source)
    stripped = bytearray(len(source))
    end, left = 0, 2 * len(source)

    def keep(at: int, content: bytes) -> None:
        nonlocal end, left
        stripped[at : at + len(content)] = content
        end, left = max(end, at + len(content)), left - len(content)
        if left < 0:
            raise NotStripped("parts of the TIFF overlap")

    keep(0, source[: tiff.head_bytes])
    waiting, seen = [tiff.first], set[int]()
    directories = []
    while waiting:
        at = waiting.pop()
        if at in seen or not at:
            continue
        seen.add(at)
        if len(seen) > _MOST_DIRECTORIES:
            raise NotStripped(f"the TIFF has more than {_MOST_DIRECTORIES:,} directories")
        found, following, directory_end = tiff.entries(at)
        kept = _checked(tiff, found)
        waiting.append(following)
        by_tag = {entry.tag: entry for entry in kept}
        if _SUB_IFDS in by_tag:
            waiting += tiff.values(by_tag[_SUB_IFDS])
        for entry in kept:
            if entry.length > tiff.word:
                keep(entry.at, source[entry.at : entry.at + entry.length])
        for where, how_long in _OFFSETS.items():
            if where in by_tag and how_long in by_tag:
                pairs = zip(tiff.values(by_tag[where]), tiff.values(by_tag[how_long]), strict=False)
                for place, length in pairs:
                    keep(place, source[place : place + length])
        directories.append((at, tiff.directory(kept, following, directory_end - at)))
    for at, directory in directories:  # last: no pixels of a hostile file are over them
        keep(at, directory)
    parts = Parts(source)
    parts.add(bytes(memoryview(stripped)[:end]))
    return parts


def _checked(tiff: _Tiff, entries: list[_Entry]) -> list[_Entry]:
    """The entries that are kept."""
    for entry in entries:
        is_old = entry.tag == _COMPRESSION and _OLD_JPEG in tiff.values(entry)
        if entry.tag == _DNG_VERSION or is_old:
            raise NotStripped("the TIFF is a raw photograph, or has a JPEG of the old form")
    return [entry for entry in entries if entry.tag in _KEPT]
