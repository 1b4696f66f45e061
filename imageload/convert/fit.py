"""Downloads made fit for Imgur: converted where it does not take the type, shrunk or refused
where it does not take the size.

    start(url) ─► download ─► Report ─► fits? ───────────────────────────────► done
                                         └─ no ─► a thread ─► Converter ─────► done, a new Report

The threads only wait for the Converter's processes; the engine and the API wait for nothing. A
conversion that nobody wants any more is told as stopped at once, and what it makes thrown away.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from imageload import errors
from imageload.convert.pool import NEEDS, Converted, Converter
from imageload.fetch.tempfiles import TempFiles
from imageload.job import Report
from imageload.transport.engine import Pool, Way

_log = logging.getLogger(__name__)

Done = Callable[[object], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """`convert` types that Imgur does not take, `shrink` what has more than `max_bytes`."""

    convert: bool
    shrink: bool
    max_bytes: int


@dataclass(slots=True, eq=False)
class _Unfit:
    """A Report to be made fit, for the job `key`; `done` is gone once it was told."""

    key: str
    report: Report
    done: Done | None


class FittingDownloads:
    """Downloads on `way`, whose Reports are fit to be uploaded. What a Run starts images on."""

    def __init__(
        self,
        way: Way,
        *,
        fit: Fit,
        converter: Converter,
        files: TempFiles,
        clock: Callable[[float], object] | None = None,
    ) -> None:
        """`clock` is told how many seconds each conversion took."""
        self.slots = way.slots
        self._way = way
        self._fit = fit
        self._converter = converter
        self._files = files
        self._clock = clock
        self._closed = False
        # Threads of our own, and all from the start: an executor queues first and may fail then.
        self._queue: queue.SimpleQueue[_Unfit | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unfit: set[_Unfit] = set()
        self._threads = [
            threading.Thread(target=self._work, name=f"convert-{n + 1}", daemon=True)
            for n in range(converter.workers)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, key: str, url: str, done: Done) -> None:
        """Download `url` in its turn, and tell `done` the fit Report, or the error."""

        def downloaded(value: object) -> None:
            if not isinstance(value, Report) or self._is_fit(value):
                done(value)
                return
            if self._closed:
                self._files.give_back(value.temp_fn, value.bytes)
                done(errors.Shutdown("The service stopped before this image was converted."))
                return
            unfit = _Unfit(key, value, done)
            with self._lock:
                self._unfit.add(unfit)
            self._queue.put(unfit)

        self._way.start(key, url, downloaded)

    @property
    def pool(self) -> Pool:
        """How many downloads are under way, and wait for a slot."""
        return self._way.lane.pool

    @property
    def conversions(self) -> Pool:
        """How many conversions are under way, and wait for a process."""
        unfit, workers = len(self._unfit), self._converter.workers
        return Pool(workers, min(unfit, workers), max(0, unfit - workers))

    def cancel(self, key: str) -> None:
        """End what `key` has waiting or under way, soon."""
        self._way.cancel(key)
        with self._lock:
            unwanted = [unfit for unfit in self._unfit if unfit.key == key]
        for unfit in unwanted:
            self._tell(unfit, errors.Shutdown("Nobody wants this image any more."))

    def stop(self) -> None:
        """End what waits or is under way, soon: nobody wants any of it."""
        self._way.lane.drain(under_way=True)
        with self._lock:
            unwanted = list(self._unfit)
        for unfit in unwanted:
            self._tell(unfit, errors.Shutdown("The service stopped before this was converted."))

    def close(self) -> None:
        """End conversions as `shutdown`, and the threads that wait for them: after the engine."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        self._converter.close()
        for thread in self._threads:
            thread.join()

    def _is_fit(self, report: Report) -> bool:
        return report.type not in NEEDS and report.bytes <= self._fit.max_bytes

    def _work(self) -> None:
        while (unfit := self._queue.get()) is not None:
            try:
                self._make_fit(unfit)
            except Exception:
                _log.exception("who waited for a conversion raised")

    def _make_fit(self, unfit: _Unfit) -> None:
        report = unfit.report
        if unfit.done is None:
            self._files.give_back(report.temp_fn, report.bytes)
            return
        begun = time.monotonic()
        try:
            outcome: object = self._fitted(report)
        except Exception as error:  # told to who waits, as all else
            self._files.give_back(report.temp_fn, report.bytes)
            outcome = error
        if self._clock is not None:
            self._clock(time.monotonic() - begun)
        if not self._tell(unfit, outcome) and isinstance(outcome, Report):
            self._files.give_back(outcome.temp_fn, outcome.bytes)

    def _tell(self, unfit: _Unfit, outcome: object) -> bool:
        """Tell who waits for it, once; False where that was done before."""
        with self._lock:
            self._unfit.discard(unfit)
            done, unfit.done = unfit.done, None
        if done is not None:
            done(outcome)
        return done is not None

    def _fitted(self, report: Report) -> Report:
        fit, path = self._fit, Path(report.temp_fn)
        if report.type in NEEDS and not fit.convert:
            raise errors.DownloadError(
                "unsupported_type",
                f"Imgur does not take {report.type}, and conversion is off.",
                status_code=report.status_code,
            )
        if report.type in NEEDS:
            try:
                converted = self._converter.convert(path, report.type, max_bytes=fit.max_bytes)
                return self._replaced(report, converted)
            except errors.TooLarge:
                if not fit.shrink:
                    raise
        elif not fit.shrink:
            raise errors.TooLarge(
                f"The image has {report.bytes:,} bytes; Imgur takes {fit.max_bytes:,}.",
                status_code=report.status_code,
            )
        shrunk = self._converter.shrink(path, report.type, fit.max_bytes)
        return self._replaced(report, shrunk)

    def _replaced(self, report: Report, converted: Converted) -> Report:
        """The Report of what was made of the image, whose own file goes back."""
        self._files.adopt()
        self._files.give_back(report.temp_fn, report.bytes)
        return replace(
            report,
            temp_fn=str(converted.path),
            bytes=converted.bytes,
            type=converted.type,
            width=converted.width,
            height=converted.height,
            sha256=converted.sha256,
            converted_from=report.type,
        )
