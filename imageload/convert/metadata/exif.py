"""The orientation in EXIF, and EXIF that has nothing else."""

from __future__ import annotations

import struct
from typing import Final

_ORIENTATION: Final = 0x0112
_SHORT: Final = 3
_MOST_ENTRIES: Final = 1_000
_NO_NEXT: Final = 4  # bytes at the end, which some writers leave out


def orientation(tiff: bytes) -> int:
    """How a viewer turns the image, 2 to 8; 1 if it does not. `tiff` is EXIF's TIFF structure."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (at,) = struct.unpack_from(order + "I", tiff, 4)
    if at + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(order + "H", tiff, at)
    for n in range(min(count, _MOST_ENTRIES)):
        entry = at + 2 + 12 * n
        if entry + 12 > len(tiff):
            break
        tag, kind, number, value = struct.unpack_from(order + "HHIH", tiff, entry)
        if (tag, kind, number) == (_ORIENTATION, _SHORT, 1):
            return value if 2 <= value <= 8 else 1
    return 1


def only_orientation(tiff: bytes) -> bytes:
    """EXIF with the orientation of `tiff` alone, no longer than it; empty if it turns nothing."""
    value = orientation(tiff)
    if value == 1:
        return b""
    whole = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, _ORIENTATION, _SHORT, 1, value, 0, 0)
    return whole[: max(len(tiff), len(whole) - _NO_NEXT)]
