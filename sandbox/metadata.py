"""Removes metadata (EXIF, GPS, XMP, comments) from JPEG, PNG and GIF; pixels keep their bytes.

Colour profiles and all that changes the picture stay. A file without metadata comes back as it is.
Bytes after the end of the image go: some cameras append a second image, with its own metadata.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

# JFIF, the colour profile, and Adobe's note on the colours (ITU-T T.81, B.1.1.3).
_KEPT_SEGMENTS = ((0xE0, b"JFIF\0"), (0xE2, b"ICC_PROFILE\0"), (0xEE, b"Adobe"))
_COMMENT, _SCAN, _END = 0xFE, 0xDA, 0xD9
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # the next after a scan's data
_PNG_METADATA = frozenset({b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME"})
_GIF_EXTENSIONS = frozenset({b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012"})


def strip_metadata(content: bytes, media_type: str) -> bytes:
    """The image without its metadata. Raises ValueError for a file that cannot be parsed."""
    pieces = _PIECES[media_type]
    try:
        return b"".join(pieces(content))
    except IndexError as error:
        raise ValueError("the file ends within a segment") from error


def _jpeg_pieces(content: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(content):
        found = _MARKER.search(content, at)  # what lies before it belongs to no segment
        if found is None:  # the file ends without its end marker, which decoders forgive
            yield content[at:]
            return
        start, marker = found.start(), found[1][0]
        if marker in _BARE or marker == _END:
            yield content[start : start + 2]
            at = start + 2
            if marker == _END:
                return
            continue
        at = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        if marker == _SCAN:
            after = _MARKER.search(content, at)
            at = after.start() if after is not None else len(content)
        segment = content[start:at]
        is_application = 0xE0 <= marker <= 0xEF
        kept = any(marker == m and segment[4:].startswith(name) for m, name in _KEPT_SEGMENTS)
        if kept or not (is_application or marker == _COMMENT):
            yield segment


def _png_pieces(content: bytes) -> Iterator[bytes]:
    yield content[:8]
    at = 8
    while at < len(content):
        name = content[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if name not in _PNG_METADATA:
            yield content[at:end]
        if name == b"IEND":
            return
        at = end


def _gif_pieces(content: bytes) -> Iterator[bytes]:
    at = 13 + _palette(content[10])
    yield content[:at]
    while at < len(content):
        start, introducer = at, content[at]
        if introducer == 0x3B:
            yield content[at : at + 1]
            return
        if introducer == 0x2C:
            at = _after_blocks(content, at + 11 + _palette(content[at + 9]))
        elif introducer == 0x21:
            label, at = content[at + 1], _after_blocks(content, at + 2)
            name = content[start + 3 : start + 14]
            if label == 0xFE or (label == 0xFF and name not in _GIF_EXTENSIONS):
                continue
        else:
            raise ValueError("the GIF has an unknown block")
        yield content[start:at]


def _palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(content: bytes, at: int) -> int:
    while size := content[at]:
        at += size + 1
    return at + 1


_PIECES: Mapping[str, Callable[[bytes], Iterator[bytes]]] = {
    "image/jpeg": _jpeg_pieces,
    "image/png": _png_pieces,
    "image/gif": _gif_pieces,
}
