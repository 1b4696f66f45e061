"""JPEG and GIF without metadata."""

from __future__ import annotations

import re
from typing import Final

from imageload.convert.metadata.errors import NotStripped, most_parts
from imageload.convert.metadata.exif import only_orientation
from imageload.convert.metadata.parts import Parts

_PIECE: Final = 2**18  # bytes that are searched while other threads wait
_EXIF: Final = b"Exif\0\0"
_ICC: Final = b"ICC_PROFILE\0"
# Without a quantifier, so a run of FF takes no more time than its length.
_MARKER: Final = re.compile(rb"\xff[^\xff]", re.DOTALL)
_SCAN_END: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
# SOF0 to SOF15 with DHT, JPG and DAC, then DQT, DNL, DRI, DHP and EXP (ITU T.81, table B.1).
_CODING: Final = frozenset((*range(0xC0, 0xD0), *range(0xDB, 0xE0)))
_APP0, _APP1, _APP2, _APP14, _APP15, _COM = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE
_SOS, _EOI, _TEM = 0xDA, 0xD9, 0x01


def strip_jpeg(source: bytes) -> Parts:
    """Keeps JFIF without its thumbnail, ICC, Adobe's colours, and the orientation.

    What follows the image is cut off: more pictures (MPF, a gain map) and films have metadata of
    their own. A file that is cut short stays so.
    """
    parts = Parts(source, range(2))
    at, has_exif = 2, False
    for _ in range(most_parts(source)):
        at = _find(_MARKER, source, at)
        if at == len(source):
            return parts
        marker = source[at + 1]
        if marker == _EOI:
            parts.keep(at, at + 2)
            return parts
        if marker in (0, _TEM) or 0xD0 <= marker <= 0xD8:  # decoders skip them here
            at += 2
            continue
        end = at + 2 + int.from_bytes(source[at + 2 : at + 4], "big")
        payload = source[at + 4 : end]
        if marker == _SOS:
            end = _find(_SCAN_END, source, end)
            parts.keep(at, end)
        elif marker in _CODING:
            parts.keep(at, end)
        elif _APP0 <= marker <= _APP15 or marker == _COM:
            is_exif = marker == _APP1 and payload.startswith(_EXIF) and not has_exif
            has_exif = has_exif or is_exif
            kept = _exif(payload) if is_exif else _kept(marker, payload)
            if kept:
                parts.add(bytes((0xFF, marker)) + (len(kept) + 2).to_bytes(2, "big") + kept)
        else:
            raise NotStripped(f"a JPEG's marker FF{marker:02X} is not known")
        at = end
    raise NotStripped(f"the JPEG has more than {most_parts(source):,} segments")


def _find(pattern: re.Pattern[bytes], source: bytes, at: int) -> int:
    """Where the two bytes of `pattern` are next; the file's end if nowhere."""
    for start in range(at, len(source), _PIECE):
        found = pattern.search(source, start, start + _PIECE + 1)
        if found is not None:
            return found.start()
    return len(source)


def _exif(payload: bytes) -> bytes:
    tiff = only_orientation(payload[len(_EXIF) :])
    return _EXIF + tiff if tiff else b""


def _kept(marker: int, payload: bytes) -> bytes:
    """What is kept of an APPn or COM segment; empty: nothing."""
    if marker == _APP0 and payload.startswith(b"JFIF\0") and len(payload) >= 14:
        return payload[:12] + b"\0\0"
    if marker == _APP2 and payload.startswith(_ICC):
        return payload
    if marker == _APP14 and payload.startswith(b"Adobe"):
        return payload[:12]
    return b""


_KEPT_APPLICATIONS: Final = frozenset({b"NETSCAPE2.0", b"ANIMEXTS1.0"})
_GIF_ICC: Final = b"ICCRGBG1012"
_LOOP_BYTES: Final = 5  # of the sub-block with the number of loops


def strip_gif(source: bytes) -> Parts:
    """Keeps pictures, their control blocks, the number of loops, and ICC."""
    at = 13 + _table_bytes(source[10])
    parts, blocks = Parts(source, range(at)), _Blocks(source)
    while at < len(source):
        kind = source[at]
        if kind == 0x3B:
            parts.add(b";")
            break
        if kind == 0x2C:
            if at + 10 > len(source):
                break
            end = blocks.end(at + 11 + _table_bytes(source[at + 9]))
            parts.keep(at, end)
        elif kind == 0x21:
            end = blocks.end(at + 2)
            parts.add(_extension(source[at:end]))
        elif kind == 0:  # a stray end of a block, which decoders skip
            end = at + 1
        else:
            raise NotStripped(f"a GIF's block {kind:02X} is not known")
        blocks.count()
        at = end
    return parts


def _extension(block: bytes) -> bytes:
    """What is kept of an extension."""
    label, name = block[1:2], block[3:14]
    if label == b"\x01":
        raise NotStripped("the GIF draws text")
    if label == b"\xf9":
        return block[:7] + b"\0" if len(block) >= 8 else b""
    if label == b"\xff" and block[2:3] == b"\x0b":
        if name == _GIF_ICC:
            return block
        if name in _KEPT_APPLICATIONS and block[14:16] == b"\x03\x01":
            return block[: 14 + _LOOP_BYTES - 1] + b"\0"
    return b""


def _table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


class _Blocks:
    """Finds the ends of sub-blocks, in all in bounded time."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._left = 10_000 + len(source) // 64

    def count(self) -> None:
        """Count one more; raises NotStripped if there are too many, all of them short."""
        self._left -= 1
        if self._left < 0:
            raise NotStripped("the GIF has too many blocks")

    def end(self, at: int) -> int:
        """Where the sub-blocks that begin at `at` end, or the file."""
        source, length = self._source, len(self._source)
        while at < length:
            size = source[at]
            at += 1 + size
            if not size:
                return at
            self.count()
        return length
