"""The memory that conversions need, and a limit on that of all together.

    needed_bytes(report) ─► Memory.reserve ─► a worker that cannot have more (RLIMIT_DATA)

The need follows from the image's header, before anything is decoded. If a header lies, only its own
image fails: the worker runs out of the memory reserved for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from imageload.image import Report

# Measured as the growth of a worker's private memory with images of 16 megapixels of every type,
# blank and of noise: up to 17.8 bytes per pixel (WebP; 20 if EXIF turns it), in animations 41.4.
_PER_PIXEL: Final = 22
_PER_PIXEL_ANIMATED: Final = 46
_PROCESS: Final = 64 * 2**20
_HEAD_BYTES: Final = 64


def needed_bytes(report: Report) -> int | None:
    """The most memory that a worker needs for this image; None if its size is not known.

    Frames are decoded one after the other, so their number does not matter. Raises OSError.
    """
    if not report.width or not report.height:
        return None
    per_pixel = _PER_PIXEL_ANIMATED if _is_animated(report) else _PER_PIXEL
    return _PROCESS + 2 * report.bytes + per_pixel * report.width * report.height


def _is_animated(report: Report) -> bool:
    """The image may have more than one frame; of a GIF only a decoder can tell."""
    if report.type not in ("image/webp", "image/avif"):
        return report.type in ("image/gif", "image/apng")
    with Path(report.temp_fn).open("rb", buffering=0) as file:
        head = file.read(_HEAD_BYTES)
    if report.type == "image/webp":  # the flag A of the chunk VP8X (RFC 9649, 2.7)
        return head[12:16] == b"VP8X" and bool(head[20] & 2)
    return b"avis" in head  # the brand of an AVIF sequence


class Memory:
    """Grants up to `limit` bytes in all, first come, first served. Runs on the transfer loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reserved = 0
        """The bytes that are granted."""
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line)

    @contextlib.asynccontextmanager
    async def reserve(self, size: int) -> AsyncIterator[None]:
        """Wait until `size` bytes, at most `limit`, are free, and have them within the block."""
        granted = asyncio.get_running_loop().create_future()
        self._line.append((size, granted))
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._line.remove((size, granted))
                self._grant()  # the next may fit
            else:
                self._release(size)
            raise
        try:
            yield
        finally:
            self._release(size)

    def _release(self, size: int) -> None:
        self.reserved -= size
        self._grant()

    def _grant(self) -> None:
        while self._line and self._line[0][0] <= self.limit - self.reserved:
            size, granted = self._line[0]
            if granted.cancelled():
                return  # it leaves the line at the loop's next turn
            self._line.popleft()
            self.reserved += size
            granted.set_result(None)
