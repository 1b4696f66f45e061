"""PNG and WebP without metadata."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from imageload.convert.metadata.errors import NotStripped, most_parts
from imageload.convert.metadata.exif import only_orientation
from imageload.convert.metadata.parts import Parts

_CRITICAL: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_KEPT: Final = frozenset(
    b"tRNS cHRM gAMA iCCP sBIT sRGB cICP mDCV cLLI bKGD pHYs acTL fcTL fdAT".split()
)


def strip_png(source: bytes) -> Parts:
    """Keeps what decides on pixels, colours, size and animation, and the orientation.

    What follows IEND is cut off. A file that is cut short stays so.
    """
    parts, at = Parts(source, range(8)), 8
    for _ in range(most_parts(source)):
        kind = source[at + 4 : at + 8]
        if len(kind) < 4:
            return parts
        end = at + 12 + int.from_bytes(source[at : at + 4], "big")
        if kind in _CRITICAL or kind in _KEPT:
            parts.keep(at, end)
        elif kind == b"eXIf":
            tiff = only_orientation(source[at + 8 : end - 4])
            if tiff:
                checked = kind + tiff
                crc = zlib.crc32(checked).to_bytes(4, "big")
                parts.add(len(tiff).to_bytes(4, "big") + checked + crc)
        elif not kind[0] & 0x20:
            raise NotStripped(f"the PNG needs a chunk that is not known: {kind!r}")
        if kind == b"IEND":
            return parts
        at = end
    raise NotStripped(f"the PNG has more than {most_parts(source):,} chunks")


_PIXELS: Final = frozenset({b"ALPH", b"VP8 ", b"VP8L"})
_KEPT_WEBP: Final = _PIXELS | {b"VP8X", b"ICCP", b"ANIM"}
_EXIF_FLAG, _XMP_FLAG = 0x08, 0x04  # of VP8X (RFC 9649, 2.7)


def strip_webp(source: bytes) -> Parts:
    """Keeps pictures, animation, ICC and the orientation. What follows the RIFF is cut off."""
    end = 8 + int.from_bytes(source[4:8], "little")
    if end > len(source) + 1:  # some writers count a last padding that is not there
        raise NotStripped("the WebP is cut short")
    before, after = Parts(source), Parts(source)  # VP8X
    extended: bytes | None = None
    has_exif = False
    numbers = iter(range(most_parts(source)))
    for kind, payload in _riff_chunks(source, 12, min(end, len(source)), numbers):
        parts = before if extended is None else after
        if kind == b"EXIF" and extended is not None and not has_exif:
            exif = source[payload.start : payload.stop]
            tiff = only_orientation(exif.removeprefix(b"Exif\0\0"))
            has_exif = bool(tiff)
            if tiff:
                _add_chunk(parts, kind, tiff)
        elif kind == b"VP8X" and len(payload) >= 10 and extended is None:
            extended = source[payload.start : payload.start + 10]
        elif kind == b"ANMF":
            _add_chunk(parts, kind, _frame(source, payload, numbers))
        elif kind in _KEPT_WEBP and kind != b"VP8X":
            _add_chunk(parts, kind, Parts(source, payload))
    if extended is not None:
        flags = extended[0] & ~(_EXIF_FLAG | _XMP_FLAG) | (_EXIF_FLAG if has_exif else 0)
        _add_chunk(before, b"VP8X", bytes((flags,)) + extended[1:])
    whole = Parts(source)
    length = 4 + before.length + after.length
    whole.add(b"RIFF" + length.to_bytes(4, "little") + b"WEBP", before, after)
    return whole


def _frame(source: bytes, payload: range, numbers: Iterator[int]) -> Parts:
    """What is kept of a frame of an animation."""
    frame = Parts(source, payload[:16])
    for kind, inner in _riff_chunks(source, payload.start + 16, payload.stop, numbers):
        if kind in _PIXELS:
            _add_chunk(frame, kind, Parts(source, inner))
    return frame


def _riff_chunks(
    source: bytes, at: int, end: int, numbers: Iterator[int]
) -> Iterator[tuple[bytes, range]]:
    """The chunks from `at` to `end`: the kind of each, and where its payload is.

    Each takes one of `numbers`; raises NotStripped if none is left.
    """
    for _ in numbers:
        if at + 8 > end:
            return
        kind, size = source[at : at + 4], int.from_bytes(source[at + 4 : at + 8], "little")
        if at + 8 + size > end:
            raise NotStripped("the WebP is cut short")
        yield kind, range(at + 8, at + 8 + size)
        at += 8 + size + size % 2
    raise NotStripped("the WebP has too many chunks")


def _add_chunk(parts: Parts, kind: bytes, payload: bytes | Parts) -> None:
    length = len(payload) if isinstance(payload, bytes) else payload.length
    parts.add(kind + length.to_bytes(4, "little"), payload, b"\0" * (length % 2))
