"""Removes metadata from images by their bytes: no decoder, not a pixel changes.

    strip(source, type) ─► the image without metadata, never longer
                           NotStripped: it has a part that is not understood

What is kept is listed, everything else goes: so metadata of a kind that nobody has heard of go too.
The orientation and the colour profile are kept, and what a format needs for its pixels. The work is
bounded by the file's length (docs/decisions/metadata.md).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from imageload.convert.metadata.boxes import strip_boxes
from imageload.convert.metadata.chunks import strip_png, strip_webp
from imageload.convert.metadata.errors import NotStripped
from imageload.convert.metadata.parts import Parts
from imageload.convert.metadata.segments import strip_gif, strip_jpeg
from imageload.convert.metadata.tiff import strip_tiff

__all__ = ["QUICK_TYPES", "NotStripped", "strip", "strip_file"]

_BY_TYPE: Final[Mapping[str, Callable[[bytes], Parts]]] = {
    "image/jpeg": strip_jpeg,
    "image/png": strip_png,
    "image/apng": strip_png,
    "image/gif": strip_gif,
    "image/webp": strip_webp,
    "image/avif": strip_boxes,
    "image/heic": strip_boxes,
    "image/tiff": strip_tiff,
    "image/bmp": lambda source: Parts(source, range(len(source))),  # it has none
}
QUICK_TYPES: Final = frozenset({"image/jpeg", "image/png", "image/webp"})
"""Types whose small files take little time, however hostile: 5 ms for 100 kB, usually 0.1."""


def strip(source: bytes, kind: str) -> bytes:
    """The image of the type `kind` without metadata; raises NotStripped."""
    return b"".join(part.content for part in _stripped(source, kind))


def strip_file(path: str, kind: str) -> dict[str, Any] | None:
    """Strip the file: its new length and hash, or None if nothing changes; for a thread.

    Only bytes that move are written. Raises NotStripped, and OSError; then it is as it was, or
    half written.
    """
    source = Path(path).read_bytes()
    parts = _stripped(source, kind)
    if parts.length == len(source) and all(part.is_in_place for part in parts):
        return None
    sha256 = hashlib.sha256()
    with Path(path).open("r+b", buffering=0) as file:
        for at, content, is_in_place in parts:
            sha256.update(content)
            written = len(content) if is_in_place else 0
            while written < len(content):
                written += os.pwrite(file.fileno(), content[written:], at + written)
        file.truncate(parts.length)
    return {"bytes": parts.length, "sha256": sha256.hexdigest()}


def _stripped(source: bytes, kind: str) -> Parts:
    try:
        parts = _BY_TYPE[kind](source)
    except IndexError:
        raise NotStripped("the image is cut short") from None
    if parts.length > len(source):
        raise NotStripped("the image would grow")
    return parts
