"""Converts images that the target rejects, in child processes.

    await if_needed(report) ── a JSON request ──> worker process: decode, encode, write a file
                            <── a JSON response ──

Codecs never run in the service's own process. A worker runs at nice 10 and in bounded memory, is
killed at its deadline, is replaced after a crash (which fails one image), and ends with its parent.

Which format an image becomes:
- An opaque image becomes a JPEG, quality 92, 4:4:4. An image with transparency becomes a PNG, and
  so does one of a lossless source (BMP, WebP's VP8L; an AVIF does not say, so it counts as lossy).
- An animated WebP or AVIF becomes a GIF, with the time of each frame, the number of loops and a
  palette per frame. Imgur also accepts APNG, but its help says that a PNG over 5 MB becomes a JPEG,
  and most lossy animations are larger as APNG. A GIF over 2 MB becomes a video there and still
  moves. The price is 256 colours per frame, and pixels either opaque or fully transparent.
- Pixels are turned as EXIF, irot or imir say. Of the metadata only the ICC profile is kept: no
  EXIF (so no location), no XMP, no comment. An image that is not converted is uploaded unchanged.
- HDR and more than 8 bits per channel are reduced to 8 without tone mapping. A colour space given
  only as a CICP code is treated as sRGB.

CPU time of a warm worker on one 2.8 GHz core, per megapixel: 55 ms for a lossy WebP, 83 AVIF, 108
HEIC, 130 BMP, 170 with transparency, 75 to 260 in an animation (which may reach the deadline before
the pixel limit); 2 ms in all for an image of 128 x 128. A worker starts in 0.15 s and uses 25 MB
when idle; convert/memory.py says how much it needs for an image.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from imageload import errors
from imageload.convert.memory import Memory, needed_bytes
from imageload.convert.metadata import QUICK_TYPES, NotStripped, strip_file
from imageload.fetch.tempfiles import TempFiles, in_thread, on_file
from imageload.image import Report
from imageload.processes.worker import WorkerLost, Workers
from imageload.transport.slots import Pool, Slots

_log = logging.getLogger(__name__)

_STRIPPED_AT_ONCE: Final = 2  # each has its file in memory, up to three times
NEEDS: Final = frozenset({"image/webp", "image/avif", "image/heic", "image/bmp"})
"""The types, as sniff names them, that Imgur rejects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionRules:
    """When images are converted, and the limits of one conversion.

    `needs`: the types that are not uploaded as they are; `convert`: convert them. `shrink`: shrink
    images of more than `max_bytes`. `strip`: remove metadata; `must_strip`: fail an image if that
    is impossible.
    `max_pixels`: width x height; four times that for all frames of an animation together.
    `max_memory`: of all workers together, in bytes. `seconds`: then the worker is killed.
    """

    needs: Sequence[str] = tuple(NEEDS)
    convert: bool = True
    shrink: bool = False
    strip: bool = False
    must_strip: bool = False
    max_bytes: int = sys.maxsize
    max_pixels: int = 50_000_000
    max_memory: int = 1_536 * 2**20
    seconds: float = 30.0


class Converters:
    """Up to `workers` processes that convert images. Runs on the transfer loop.

    Processes start when they are needed, and keys (job ids) share them fairly. A conversion starts
    when the memory that it needs is free. If that is not enough all the same, it is done once more
    with all the memory for itself.
    """

    def __init__(
        self,
        rules: ConversionRules,
        files: TempFiles,
        *,
        workers: int = 2,
        clock: Callable[[float], object] | None = None,
    ) -> None:
        """`clock` is called with the seconds that each conversion took."""
        self._rules = rules
        self._files = files
        self._slots = Slots(workers, clock=clock)
        self._strip_slots = Slots(_STRIPPED_AT_ONCE)
        self.memory = Memory(rules.max_memory)
        self._workers = Workers("imageload.convert.worker")

    @property
    def pool(self) -> Pool:
        """How many conversions are in progress, and how many are queued."""
        return self._slots.pool

    async def if_needed(self, report: Report, key: Hashable) -> Report:
        """A Report of an image that the target accepts: `report`, or one of a converted copy.

        Unless the Report has the same file, that is given back to the TempFiles, also after an
        error. Raises DownloadError (`unsupported_type`, `too_large`, `too_many_pixels`,
        `conversion_failed`, `metadata_kept`), DiskFull, `disk_error`, ResourceError if no process
        can be started, Shutdown after `close`, and `internal_error`. When the task is cancelled its
        worker is killed.
        """
        is_same = False
        try:
            if self._rules.strip and report.type not in self._rules.needs:
                report = await self._strip(report, key)  # a conversion removes metadata too
            is_same = report.type not in self._rules.needs and report.bytes <= self._rules.max_bytes
            if is_same:
                return report
            self._check(report)
            memory = self._memory_for(report)
            return await self._slots.run(key, lambda: self._convert(report, memory))
        finally:
            if not is_same:
                self._files.give_back(report.temp_fn, report.bytes)

    async def _strip(self, report: Report, key: Hashable) -> Report:
        """The same file without metadata."""

        def call() -> dict[str, Any] | None:
            return strip_file(report.temp_fn, report.type)

        async def work() -> dict[str, Any] | None:
            if report.type in QUICK_TYPES:
                return await on_file(report.bytes, call)
            return await in_thread(call)

        try:
            new = await self._strip_slots.run(key, work)
        except NotStripped as reason:
            if self._rules.must_strip:
                raise errors.DownloadError(
                    "metadata_kept",
                    f"The image's metadata cannot be removed: {reason}.",
                    status_code=report.status_code,
                ) from None
            _log.warning("metadata are left job=%s type=%s reason=%s", key, report.type, reason)
            return report
        except OSError as error:
            raise errors.disk_error(error) from None
        return report if new is None else replace(report, **new)

    async def close(self) -> None:
        """End every process. Conversions in progress or queued raise Shutdown."""
        await self._workers.close()

    def _check(self, report: Report) -> None:
        rules = self._rules
        if report.type in rules.needs and not rules.convert:
            raise errors.DownloadError(
                "unsupported_type",
                f"Imgur does not accept {report.type}, and conversion is off.",
                status_code=report.status_code,
            )
        if report.type not in rules.needs and not rules.shrink:
            raise errors.TooLarge(
                f"The image has {report.bytes:,} bytes; Imgur accepts {rules.max_bytes:,}.",
                status_code=report.status_code,
            )

    def _memory_for(self, report: Report) -> int:
        """The bytes to reserve: all if the image's size is not known."""
        limit = self.memory.limit
        try:
            needed = needed_bytes(report)
        except OSError as error:
            raise errors.disk_error(error) from None
        if needed is not None and needed > limit:
            pixels = (report.width or 0) * (report.height or 0)
            raise errors.DownloadError(
                "too_many_pixels",
                f"The image has {pixels:,} pixels, and its conversion would need "
                f"{needed:,} bytes of memory; {limit:,} are allowed.",
                status_code=report.status_code,
            )
        return limit if needed is None else needed

    async def _convert(self, report: Report, memory: int) -> Report:
        try:
            return await self._convert_within(report, memory)
        except OutOfMemory:
            if memory == self.memory.limit:
                raise
            _log.info("a conversion is tried again with all memory type=%s", report.type)
            return await self._convert_within(report, self.memory.limit)

    async def _convert_within(self, report: Report, max_memory: int) -> Report:
        try:
            descriptor, new_path = self._files.take()
        except OSError as error:
            raise errors.disk_error(error) from None
        os.close(descriptor)
        request = {
            **dataclasses.asdict(self._rules),
            "path": report.temp_fn,
            "type": report.type,
            "new_path": new_path,
            "convert": report.type in self._rules.needs,
            "max_memory": max_memory,
        }
        try:
            async with self.memory.reserve(max_memory):
                new = await self._ask(request)
        except BaseException:
            self._files.delete(new_path)
            raise
        return replace(report, temp_fn=new_path, converted_from=report.type, **new)

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The new image's type, width, height, bytes and sha256; raises the worker's error."""
        seconds = self._rules.seconds
        try:
            response = await self._workers.ask(json.dumps(request).encode(), seconds)
        except TimeoutError:
            message = f"The image took longer than {seconds:g} seconds to convert."
            raise _lost(errors.DownloadError("conversion_failed", message), request) from None
        except WorkerLost as lost:
            if lost.signal == signal.SIGKILL:  # as the system does to free memory
                message = "The image's decoder was killed: the machine is short of memory."
                raise _lost(OutOfMemory(message), request) from None
            message = "The image made its decoder crash."
            raise _lost(errors.DownloadError("conversion_failed", message), request) from None
        facts: dict[str, Any] = json.loads(response)
        if "error" in facts:
            raise _error(facts["error"], facts["message"], request["type"])
        return facts


class OutOfMemory(errors.DownloadError):
    """A worker had not enough memory for its image; `conversion_failed` if that is final."""

    def __init__(self, message: str) -> None:
        super().__init__("conversion_failed", message)


def _lost(error: errors.DownloadError, request: dict[str, Any]) -> errors.DownloadError:
    _log.warning("a worker was lost type=%s: %s", request["type"], error.message)
    return error


_CLASSES: Final[Mapping[str, Callable[[str], errors.ImageError]]] = {
    "out_of_memory": OutOfMemory,
    "too_large": errors.TooLarge,
    "disk_full": errors.DiskFull,
    "resource_error": errors.ResourceError,
}


def _error(name: str, message: str, kind: str) -> errors.ImageError:
    """The error that a worker reported for an image of type `kind`."""
    if name == "internal_error":
        _log.error("a bug in a conversion type=%s\n%s", kind, message)
        return errors.ImageError(name, "A bug in the service stopped the conversion of this image.")
    known = _CLASSES.get(name)
    return errors.DownloadError(name, message) if known is None else known(message)
