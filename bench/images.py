"""The images that are loaded: pictures of noise as JPEG, each another, all of one size in bytes."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

from PIL import Image

_QUALITY = 85
_MIN_BYTES = 2_000


def make_images(folder: Path, count: int, size: int) -> list[str]:
    """Write `count` JPEG files of exactly `size` bytes to `folder`; gives their names.

    Each is a picture that decodes, with zeros behind its end up to `size`. Raises ValueError
    where `size` is too small for that.
    """
    if size < _MIN_BYTES:
        raise ValueError(f"an image has at least {_MIN_BYTES:,} bytes")
    side = _side_for(size)
    names = [f"{number:06}.jpg" for number in range(count)]
    for name in names:
        picture = _noise(side)
        while len(picture) > size:
            side -= max(1, side // 50)
            picture = _noise(side)
        (folder / name).write_bytes(picture.ljust(size, b"\0"))
    return names


def _side_for(size: int) -> int:
    small, large = len(_noise(32)), len(_noise(256))
    bytes_per_pixel = (large - small) / (256**2 - 32**2)
    return max(8, int(math.sqrt(max(64.0, (size * 0.98 - small) / bytes_per_pixel))))


def _noise(side: int) -> bytes:
    file = io.BytesIO()
    picture = Image.frombytes("L", (side, side), os.urandom(side * side))
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
