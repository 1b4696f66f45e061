"""One job at work: a window of its images under way, their retries, and every end they come to.

Runs on the job's thread, the one writer of the Job. The pools' threads bring a result or an
error through one queue and touch no Job. How an image is downloaded or uploaded is handed in.
"""

from __future__ import annotations

import heapq
import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from imageload.errors import ImageError, InternalError, ResourceError, Shutdown
from imageload.job import Change, Downloaded, Failed, Job, Landed, Report, Started, Uploaded
from imageload.pool import Pool
from imageload.retry import RetryRule

_log = logging.getLogger(__name__)

_LATE_SECONDS = 5.0


Reader = Callable[[Job, Change], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """What every job's images travel on: shared by all jobs, safe in all threads."""

    download: Callable[[str], Report]
    upload: Callable[[str], Landed]
    downloads: Pool
    uploads: Pool
    retry: RetryRule
    window: int
    readers: tuple[Reader, ...] = ()


@dataclass(frozen=True, slots=True)
class _Result:
    index: int
    value: Report | Landed | ImageError


class Run:
    """`work` brings the images of `job` through; `settle` ends whatever `work` left open."""

    def __init__(self, road: Road, job: Job) -> None:
        self._road = road
        self._job = job
        self._results: queue.SimpleQueue[_Result | None] = queue.SimpleQueue()
        self._next = 0
        self._tries: dict[int, int] = {}
        self._in_pools = 0
        self._due_downloads: list[tuple[float, int]] = []
        self._due_uploads: list[tuple[float, int]] = []
        self._stopped = False
        self._abandoned = False

    def stop(self) -> None:
        """Make `work` return soon; from any thread."""
        self._stopped = True
        self._results.put(None)

    def work(self) -> None:
        """Keep a window of images under way until all have ended, or `stop`."""
        self._apply(Started())
        while not self._stopped:
            self._fill_window()
            if not self._in_pools and not self._due_downloads and not self._due_uploads:
                return
            try:
                result = self._results.get(timeout=self._seconds_to_next_try())
            except queue.Empty:
                continue
            if result is not None:
                self._in_pools -= 1
                self._take(result)

    def settle(self) -> None:
        """Fail what has not ended and delete its temp files: no bug leaves a job open for ever."""
        self._take_late_results()
        error = (
            Shutdown("The service stopped before this image was through.")
            if self._stopped
            else InternalError("A bug in the service kept this image from going on.")
        )
        for index in range(len(self._job)):
            if self._job.image(index).state in ("queued", "downloaded"):
                self._fail(index, error)

    def _take_late_results(self) -> None:
        deadline = time.monotonic() + _LATE_SECONDS
        while self._in_pools:
            try:
                result = self._results.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                _log.warning("%d tasks did not end job=%s", self._in_pools, self._job.job_id)
                self._abandoned = True
                return
            if result is not None:
                self._in_pools -= 1
                self._take(result, goes_on=False)

    def _deliver(self, result: _Result) -> None:
        """Called by a pool's thread with the outcome of a task."""
        if self._abandoned and isinstance(result.value, Report):
            _delete(result.value)
        self._results.put(result)

    def _seconds_to_next_try(self) -> float | None:
        due = [heap[0][0] for heap in (self._due_downloads, self._due_uploads) if heap]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _fill_window(self) -> None:
        now = time.monotonic()
        while self._due_uploads and self._due_uploads[0][0] <= now:
            self._submit(heapq.heappop(self._due_uploads)[1])
        while self._has_room() and self._due_downloads and self._due_downloads[0][0] <= now:
            self._submit(heapq.heappop(self._due_downloads)[1])
        while self._has_room() and self._next < len(self._job):
            self._submit(self._next)
            self._next += 1

    def _has_room(self) -> bool:
        # An upload that waits for its next try keeps its place, for it keeps its temp file; a
        # download that waits has nothing, and lets others by.
        return self._in_pools + len(self._due_uploads) < self._road.window

    def _submit(self, index: int) -> None:
        road, image = self._road, self._job.image(index)
        if image.report is None:
            pool, action = road.downloads, _Action(road.download, image.url)
        else:
            pool, action = road.uploads, _Action(road.upload, image.report.temp_fn)
        self._in_pools += 1
        self._tries[index] = self._tries.get(index, 0) + 1
        try:
            pool.submit(self._job.job_id, lambda: self._deliver(_Result(index, action.outcome())))
        except RuntimeError:
            error = ResourceError("The service is out of threads for now.")
            self._results.put(_Result(index, error))

    def _take(self, result: _Result, *, goes_on: bool = True) -> None:
        index, value = result.index, result.value
        if isinstance(value, Report):
            self._apply(Downloaded(index, value, self._tries.pop(index)))
            if goes_on:
                self._submit(index)
        elif isinstance(value, Landed):
            self._delete_temp_file(index)
            self._apply(Uploaded(index, value.link, value.deletehash, self._tries.pop(index)))
        else:
            wait = self._road.retry.wait(value, self._tries[index]) if goes_on else None
            if wait is None:
                self._fail(index, value)
            else:
                self._try_again(index, value, wait)

    def _try_again(self, index: int, error: ImageError, wait: float) -> None:
        image = self._job.image(index)
        heap = self._due_downloads if image.report is None else self._due_uploads
        heapq.heappush(heap, (time.monotonic() + wait, index))
        _log.info(
            "try %d failed, the next in %.1f s job=%s code=%s url=%s",
            self._tries[index],
            wait,
            self._job.job_id,
            error.code,
            loggable(image.url),
        )

    def _fail(self, index: int, error: ImageError) -> None:
        self._delete_temp_file(index)
        self._apply(Failed(index, error.failure(), self._tries.pop(index, 0)))
        _log.warning(
            "failed job=%s code=%s url=%s reason=%s",
            self._job.job_id,
            error.code,
            loggable(self._job.image(index).url),
            error.message,
        )

    def _delete_temp_file(self, index: int) -> None:
        report = self._job.image(index).report
        if report is not None:
            _delete(report)

    def _apply(self, change: Change) -> None:
        self._job.apply(change)
        for reader in self._road.readers:
            try:
                reader(self._job, change)
            except Exception:
                _log.exception("a reader of changes raised job=%s", self._job.job_id)


@dataclass(frozen=True, slots=True)
class _Action:
    """A download or an upload, whose outcome is a value whatever happens."""

    call: Callable[[str], Report | Landed]
    argument: str

    def outcome(self) -> Report | Landed | ImageError:
        try:
            return self.call(self.argument)
        except ImageError as error:
            return error
        except Exception as error:
            _log.exception("an image met a bug")
            return InternalError(f"A bug in the service: {type(error).__name__}.")


def _delete(report: Report) -> None:
    try:
        Path(report.temp_fn).unlink(missing_ok=True)
    except OSError as error:
        _log.warning("a temp file stays behind path=%s reason=%s", report.temp_fn, error)


def loggable(url: str) -> str:
    """`url` as it may stand in a log: no query, no user name, no fragment, no control characters.

    The parts left out carry tokens; what is left is cut at 200 characters.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(unreadable)"
    host = parts.netloc.rpartition("@")[2]
    text = f"{parts.scheme}://{host}{parts.path}" if parts.scheme else parts.path
    return text.encode("unicode_escape").decode("ascii")[:200]
