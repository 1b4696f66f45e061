"""AVIF and HEIC without metadata: nothing moves, and metadata become bytes that say nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from imageload.convert.metadata.errors import NotStripped
from imageload.convert.metadata.parts import Parts

_MOST_BOXES: Final = 20_000
_MOST_EXTENTS: Final = 2_000
_IMAGES: Final = frozenset(
    b"av01 hvc1 lhv1 hvt1 avc1 vvc1 jpeg j2k1 unci mski grid iden iovl tmap".split()
)
_TOP_LEVEL: Final = frozenset(b"ftyp meta moov mdat free skip styp sidx moof mfra".split())
_IN_MOVIE: Final = frozenset({b"moov", b"trak"})
_NO_METADATA: Final = frozenset({b"pict", b"auxv", b"vide"})  # handlers of tracks
_DESCRIPTIONS: Final = frozenset({b"udes", b"crtt", b"mdft", b"uuid"})
# EXIF whose offset is 0 and that has no entry, as readers expect some (ISO 23008-12, A.2.1).
_EMPTY_EXIF: Final = b"\0\0\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"


@dataclass(frozen=True, slots=True)
class _Box:
    kind: bytes
    at: int
    start: int  # of its content
    end: int


class _File:
    def __init__(self, source: bytes) -> None:
        self.bytes = bytearray(source)
        self._boxes = 0

    def number(self, at: int, length: int, end: int) -> int:
        if at + length > end:
            raise NotStripped("a box is too short")
        return int.from_bytes(self.bytes[at : at + length], "big")

    def boxes(self, at: int, end: int) -> Iterator[_Box]:
        """The boxes from `at` to `end`."""
        while at < end:
            self._boxes += 1
            if self._boxes > _MOST_BOXES:
                raise NotStripped(f"the file has more than {_MOST_BOXES:,} boxes")
            size, kind, start = self.number(at, 4, end), bytes(self.bytes[at + 4 : at + 8]), at + 8
            if size == 1:
                size, start = self.number(at + 8, 8, end), at + 16
            elif size == 0:
                size = end - at
            if size < start - at or at + size > end:
                raise NotStripped("a box is longer than the file, or too short")
            yield _Box(kind, at, start, at + size)
            at += size

    def blank(self, box: _Box) -> None:
        """Make it a box that readers skip."""
        self.bytes[box.at + 4 : box.at + 8] = b"free"
        self.bytes[box.start : box.end] = bytes(box.end - box.start)


def strip_boxes(source: bytes) -> Parts:
    """Keeps pictures, their properties (ICC and the orientation too), thumbnails and sequences.

    EXIF, XMP and all other items that are no pictures are overwritten where they are.
    """
    file, has_items = _File(source), False
    for box in file.boxes(0, len(source)):
        if box.kind == b"meta":
            if has_items:
                raise NotStripped("the file has two lists of items")
            has_items = True
            _strip_items(file, box)
        elif box.kind == b"moov":
            _strip_movie(file, box)
        elif box.kind not in _TOP_LEVEL or box.kind in (b"free", b"skip"):
            file.blank(box)
    parts = Parts(source)
    parts.add(bytes(file.bytes))
    return parts


def _strip_movie(file: _File, movie: _Box) -> None:
    for box in file.boxes(movie.start, movie.end):
        if box.kind in _IN_MOVIE:
            _strip_movie(file, box) if movie.kind == b"moov" else file.blank(box)
        elif box.kind in (b"udta", b"meta", b"uuid", b"free", b"skip"):
            file.blank(box)
        elif box.kind == b"mdia":
            for inner in file.boxes(box.start, box.end):
                kind = bytes(file.bytes[inner.start + 8 : inner.start + 12])
                if inner.kind == b"hdlr" and kind not in _NO_METADATA:
                    raise NotStripped("the file has a track that is no picture")


def _strip_items(file: _File, meta: _Box) -> None:
    parts = {}
    for box in file.boxes(meta.start + 4, meta.end):
        parts[box.kind] = box
        if box.kind in (b"free", b"skip", b"uuid"):
            file.blank(box)
    if b"iprp" in parts:
        for box in file.boxes(parts[b"iprp"].start, parts[b"iprp"].end):
            if box.kind == b"ipco":
                for described in file.boxes(box.start, box.end):
                    if described.kind in _DESCRIPTIONS:
                        file.blank(described)
    if b"iinf" not in parts or b"iloc" not in parts:
        return
    kinds = _kinds(file, parts[b"iinf"])
    data = parts.get(b"idat")
    extents = list(_extents(file, parts[b"iloc"], data.start if data else None))
    kept = [(at, at + length) for item, at, length in extents if kinds.get(item) in _IMAGES]
    left = len(file.bytes)
    for item, at, length in extents:
        if kinds.get(item) in _IMAGES:
            continue
        end, left = at + length, left - length
        if left < 0:
            raise NotStripped("metadata overlap")
        if not length or any(at < its_end and its_at < end for its_at, its_end in kept):
            raise NotStripped("metadata are among the pixels")
        is_in_data = data is not None and data.start <= at and end <= data.end
        if not is_in_data and (end > len(file.bytes) or (at < meta.end and meta.at < end)):
            raise NotStripped("metadata are not where they should be")
        if not is_in_data and not _is_in_media(file, at, end):
            raise NotStripped("metadata are not where they should be")
        empty = _EMPTY_EXIF if kinds.get(item) == b"Exif" and length >= len(_EMPTY_EXIF) else b""
        fill = b" " if kinds.get(item) == b"mime" else b"\0"
        file.bytes[at:end] = empty.ljust(length, fill)


def _is_in_media(file: _File, at: int, end: int) -> bool:
    boxes = file.boxes(0, len(file.bytes))
    return any(box.start <= at and end <= box.end for box in boxes if box.kind == b"mdat")


def _kinds(file: _File, box: _Box) -> dict[int, bytes]:
    """The type of each item (ISO 14496-12, 8.11.6)."""
    version = file.number(box.start, 1, box.end)
    found = {}
    for entry in file.boxes(box.start + (6 if version == 0 else 8), box.end):
        version = file.number(entry.start, 1, entry.end)
        if entry.kind != b"infe" or version not in (2, 3):
            raise NotStripped("an item's entry is not known")
        width = 2 if version == 2 else 4
        at = entry.start + 4 + width + 2
        item = file.number(entry.start + 4, width, entry.end)
        file.number(at, 4, entry.end)
        found[item] = bytes(file.bytes[at : at + 4])
    return found


def _extents(file: _File, box: _Box, data: int | None) -> Iterator[tuple[int, int, int]]:
    """Each extent: its item, its place in the file, its length (ISO 14496-12, 8.11.3)."""
    at, end = box.start + 6, box.end
    version, sizes = file.number(box.start, 1, end), file.number(box.start + 4, 2, end)
    offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    if version > 2:
        raise NotStripped("the places of items are not known")
    items, at = file.number(at, wide, end), at + wide
    left = _MOST_EXTENTS
    for _ in range(items):
        item, at = file.number(at, wide, end), at + wide
        method = 0
        if version:
            method, at = file.number(at, 2, end) & 15, at + 2
        at += 2  # data_reference_index
        origin, at = file.number(at, base, end), at + base
        extents, at = file.number(at, 2, end), at + 2
        if method > 1 or (method == 1 and data is None):
            raise NotStripped("items are made of other items")
        if method == 1:
            origin += data or 0
        left -= extents + 1
        if left < 0:
            raise NotStripped(f"the file has more than {_MOST_EXTENTS:,} items")
        for _ in range(extents):
            at += index if version else 0
            place, at = file.number(at, offset, end), at + offset
            size, at = file.number(at, length, end), at + length
            yield item, origin + place, size
