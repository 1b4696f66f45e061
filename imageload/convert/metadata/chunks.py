"""PNG and WebP without metadata."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from imageload.convert.metadata.errors import NotStripped, most_parts
from imageload.convert.metadata.exif import only_orientation

_CRITICAL: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_KEPT: Final = frozenset(
    b"tRNS cHRM gAMA iCCP sBIT sRGB cICP mDCV cLLI bKGD pHYs acTL fcTL fdAT".split()
)


def strip_png(source: bytes) -> bytes:
    """Keeps what decides on pixels, colours, size and animation, and the orientation.

    What follows IEND is cut off. A file that is cut short stays so.
    """
    parts, at = [source[:8]], 8
    for _ in range(most_parts(source)):
        kind = source[at + 4 : at + 8]
        if len(kind) < 4:
            return b"".join(parts)
        end = at + 12 + int.from_bytes(source[at : at + 4], "big")
        if kind in _CRITICAL or kind in _KEPT:
            parts.append(source[at:end])
        elif kind == b"eXIf":
            tiff = only_orientation(source[at + 8 : end - 4])
            if tiff:
                checked = kind + tiff
                crc = zlib.crc32(checked).to_bytes(4, "big")
                parts.append(len(tiff).to_bytes(4, "big") + checked + crc)
        elif not kind[0] & 0x20:
            raise NotStripped(f"the PNG needs a chunk that is not known: {kind!r}")
        if kind == b"IEND":
            return b"".join(parts)
        at = end
    raise NotStripped(f"the PNG has more than {most_parts(source):,} chunks")


_PIXELS: Final = frozenset({b"ALPH", b"VP8 ", b"VP8L"})
_KEPT_WEBP: Final = _PIXELS | {b"VP8X", b"ICCP", b"ANIM"}
_EXIF_FLAG, _XMP_FLAG = 0x08, 0x04  # of VP8X (RFC 9649, 2.7)


def strip_webp(source: bytes) -> bytes:
    """Keeps pictures, animation, ICC and the orientation. What follows the RIFF is cut off."""
    length = 8 + int.from_bytes(source[4:8], "little")
    if length > len(source) + 1:  # some writers count a last padding that is not there
        raise NotStripped("the WebP is cut short")
    parts: list[bytes] = []
    has_exif = False
    extended: int | None = None
    numbers = iter(range(most_parts(source)))
    for kind, payload in _riff_chunks(source[: min(length, len(source))], 12, numbers):
        if kind == b"EXIF" and extended is not None and not has_exif:
            tiff = only_orientation(payload.removeprefix(b"Exif\0\0"))
            has_exif = bool(tiff)
            if tiff:
                parts.append(_chunk(kind, tiff))
        elif kind == b"VP8X" and len(payload) >= 10 and extended is None:
            extended = len(parts)
            parts.append(payload)
        elif kind == b"ANMF":
            inner = _riff_chunks(payload, 16, numbers)
            frame = b"".join(_chunk(*each) for each in inner if each[0] in _PIXELS)
            parts.append(_chunk(kind, payload[:16] + frame))
        elif kind in _KEPT_WEBP and kind != b"VP8X":
            parts.append(_chunk(kind, payload))
    if extended is not None:
        head = parts[extended]
        flags = head[0] & ~(_EXIF_FLAG | _XMP_FLAG) | (_EXIF_FLAG if has_exif else 0)
        parts[extended] = _chunk(b"VP8X", bytes((flags,)) + head[1:10])
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _riff_chunks(source: bytes, at: int, numbers: Iterator[int]) -> Iterator[tuple[bytes, bytes]]:
    """The chunks from `at` on; each takes one of `numbers`, and NotStripped if none is left."""
    for _ in numbers:
        if at + 8 > len(source):
            return
        kind, size = source[at : at + 4], int.from_bytes(source[at + 4 : at + 8], "little")
        if at + 8 + size > len(source):
            raise NotStripped("the WebP is cut short")
        yield kind, source[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    raise NotStripped("the WebP has too many chunks")


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return kind + len(payload).to_bytes(4, "little") + payload + b"\0" * (len(payload) % 2)
