"""One job at work: a window of its images under way, their retries, and every end they come to.

Runs on the job's thread, the one writer of the Job. Downloads and uploads bring a result or an
error through one queue and touch no Job. How an image travels is handed in.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol
from urllib.parse import urlsplit

from imageload.backlog import Backlog, host_of
from imageload.errors import Failure, ImageError, InternalError, Shutdown
from imageload.hosts import Hosts
from imageload.job import Change, Downloaded, Failed, Job, Landed, Report, Started, Uploaded
from imageload.retry import RetryRule
from imageload.sharing import Claim, Ended, Lead, Sharing
from imageload.transfer import TransferError

_log = logging.getLogger(__name__)

_LATE_SECONDS = 5.0


Reader = Callable[[Job, Change], None]


class Travel(Protocol):
    """A way for images that many use at once: downloads, or uploads."""

    @property
    def slots(self) -> int:
        """How many are under way at most, over all jobs."""

    def start(self, key: str, argument: str, done: Callable[[object], None]) -> None:
        """Take `argument` (a URL, a temp file) along in its turn among those of other keys.

        `done`, which must be quick, is told a Report or a Landed, or the exception in its place.
        Raises RuntimeError where nothing is taken any more.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """What every job's images travel on: shared by all jobs, safe in all threads."""

    download: Travel
    upload: Travel
    retry: RetryRule
    hosts: Hosts
    sharing: Sharing
    discard: Callable[[str, int], None]
    """Told the path and length of a temp file that is not needed any more."""
    window: int
    readers: tuple[Reader, ...] = ()


@dataclass(frozen=True, slots=True)
class _Turn:
    """A host may be asked again, or has a slot for us."""

    host: str
    granted: bool


@dataclass(frozen=True, slots=True)
class _Result:
    """What came of a task of ours, or (`shared`) of one that another image waited for."""

    index: int
    value: Report | Landed | ImageError | Ended
    shared: Literal["", "url", "bytes"] = ""


class Run:
    """`work` brings the images of `job` through; `settle` ends whatever `work` left open."""

    def __init__(self, road: Road, job: Job) -> None:
        self._road = road
        self._job = job
        # What comes from other threads. The bell rings once for many: waking costs more than work.
        self._inbox: deque[_Result | _Turn] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._rung = False
        self._settling = threading.Lock()
        self._settled = False
        urls = [image.url for image in job.snapshot().images]
        self._backlog = Backlog(urls, road.hosts, self._wake)
        self._due_uploads: list[tuple[float, int]] = []
        self._tries: dict[int, int] = {}
        self._under_way = 0
        self._downloading = 0
        self._led_urls: dict[int, str] = {}
        self._led_bytes: dict[int, str] = {}
        self._following_url: set[int] = set()
        self._following_bytes: set[int] = set()
        self._stopped = False
        self._abandoned = False

    def stop(self) -> None:
        """Make `work` return soon; from any thread."""
        self._stopped = True
        self._bell.put(None)

    def work(self) -> None:
        """Keep a window of images under way until all have ended, or `stop`."""
        self._apply(Started())
        while not self._stopped:
            self._fill_window()
            if not self._is_open():
                return
            for message in self._messages(self._seconds_to_next_try()):
                if isinstance(message, _Turn):
                    self._backlog.awake(message.host, message.granted)
                else:
                    self._take(message)

    def settle(self) -> None:
        """Fail what has not ended and delete its temp files: no bug leaves a job open for ever."""
        self._take_late_results()
        self._refuse_turns()
        error = (
            Shutdown("The service stopped before this image was through.")
            if self._stopped
            else InternalError("A bug in the service kept this image from going on.")
        )
        failure = error.failure()
        open_images = [
            index
            for index in range(len(self._job))
            if self._job.image(index).state in ("queued", "downloaded")
        ]
        for index in open_images:
            self._hand_over(index)
            self._end_as_failed(index, failure)
        if open_images:
            told = self._job.job_id, failure.code, len(open_images), failure.message
            _log.warning("failed job=%s code=%s images=%d reason=%s", *told)
        self._road.sharing.end(self._job.job_id)

    def _wake(self, host: str, granted: bool) -> None:
        """Called by whoever gave a host's slot back."""
        with self._settling:
            if not self._settled:
                self._tell(_Turn(host, granted))
                return
        if granted:
            self._road.hosts.release(host)

    def _refuse_turns(self) -> None:
        """Give back the slots of hosts that were or will be granted to us."""
        with self._settling:
            self._settled = True
        for message in self._messages(0.0):
            if isinstance(message, _Turn) and message.granted:
                self._backlog.awake(message.host, granted=True)
            elif isinstance(message, _Result) and isinstance(message.value, Report):
                self._discard(message.value)
        self._backlog.return_grants()

    def _is_open(self) -> bool:
        following = self._following_url or self._following_bytes
        return bool(self._under_way or self._backlog or self._due_uploads or following)

    def _take_late_results(self) -> None:
        deadline = time.monotonic() + _LATE_SECONDS
        while self._under_way:
            seconds = deadline - time.monotonic()
            if seconds <= 0:
                _log.warning("%d tasks did not end job=%s", self._under_way, self._job.job_id)
                self._abandoned = True
                return
            for message in self._messages(seconds):
                if isinstance(message, _Turn) and message.granted:
                    self._backlog.awake(message.host, granted=True)
                elif isinstance(message, _Result) and not message.shared:
                    self._take(message, goes_on=False)

    def _tell(self, message: _Result | _Turn) -> None:
        """Leave a message for the job's thread; from any thread."""
        self._inbox.append(message)
        if not self._rung:
            self._rung = True
            self._bell.put(None)

    def _messages(self, seconds: float | None) -> Iterator[_Result | _Turn]:
        """What has come, after waiting for it at most so long."""
        with contextlib.suppress(queue.Empty):
            self._bell.get(timeout=seconds)
        self._rung = False
        while self._inbox:
            yield self._inbox.popleft()

    def _deliver(self, result: _Result) -> None:
        """Called, from another thread, with the outcome of what was started."""
        if self._abandoned and isinstance(result.value, Report):
            self._discard(result.value)
            return
        self._tell(result)

    def _seconds_to_next_try(self) -> float | None:
        """How long until time alone brings something to do; a full window waits for results."""
        waits = [self._backlog.seconds_to_next()] if self._has_room() else []
        if self._due_uploads:
            waits.append(max(0.0, self._due_uploads[0][0] - time.monotonic()))
        return min((wait for wait in waits if wait is not None), default=None)

    def _fill_window(self) -> None:
        now = time.monotonic()
        while self._due_uploads and self._due_uploads[0][0] <= now:
            self._upload(heapq.heappop(self._due_uploads)[1])
        while self._has_room() and (found := self._backlog.next()) is not None:
            index, error = found
            if error is None:
                self._download(index)
            else:
                self._count_try(index)
                self._end_try(index, error)
        self._backlog.return_grants()

    def _has_room(self) -> bool:
        # An upload that waits, for its next try or for another's, keeps its place, for it keeps
        # its temp file; a download that waits has nothing, and lets others by.
        waiting = len(self._due_uploads) + len(self._following_bytes)
        # No more downloads are started than there are slots: those that wait hold their hosts.
        may_start = self._downloading < self._road.download.slots
        return self._under_way + waiting < self._road.window and may_start

    def _download(self, index: int) -> None:
        """Download the image, whose host's slot is taken, unless another job is at it."""
        road, url = self._road, self._job.image(index).url
        host = host_of(url)
        if self._job.dedupe and index not in self._led_urls:
            job_id = self._job.job_id
            claim = road.sharing.claim_url(url, job_id, self._follower(index, "url"))
            if not isinstance(claim, Lead):
                road.hosts.release(host)
                self._follow(index, claim, "url")
                return
            self._led_urls[index] = url

        def done(value: object) -> None:
            outcome = _outcome(value)
            road.hosts.done(host, outcome if isinstance(outcome, ImageError) else None)
            self._deliver(_Result(index, outcome))

        self._downloading += 1
        if not self._start(road.download, index, url, done):
            road.hosts.release(host)

    def _upload(self, index: int) -> None:
        """Upload the image from its temp file, unless its bytes are on Imgur or on their way."""
        road, report = self._road, self._report(index)
        if self._job.dedupe and index not in self._led_bytes:
            claim = road.sharing.claim_bytes(report.sha256, self._follower(index, "bytes"))
            if not isinstance(claim, Lead):
                self._follow(index, claim, "bytes")
                return
            self._led_bytes[index] = report.sha256
        self._start(
            road.upload,
            index,
            report.temp_fn,
            lambda value: self._deliver(_Result(index, _outcome(value))),
        )

    def _start(
        self, travel: Travel, index: int, argument: str, done: Callable[[object], None]
    ) -> bool:
        self._under_way += 1
        self._count_try(index)
        try:
            travel.start(self._job.job_id, argument, done)
        except RuntimeError:
            error = Shutdown("The service stopped before this image was through.")
            self._tell(_Result(index, error))
            return False
        return True

    def _count_try(self, index: int) -> None:
        self._tries[index] = self._tries.get(index, 0) + 1

    def _follower(self, index: int, shared: Literal["url", "bytes"]) -> Callable[[Ended], None]:
        return lambda ended: self._tell(_Result(index, ended, shared))

    def _follow(self, index: int, claim: Claim, shared: Literal["url", "bytes"]) -> None:
        following = self._following_url if shared == "url" else self._following_bytes
        following.add(index)
        if isinstance(claim, Ended):
            self._take_shared(index, claim, shared)

    def _take_shared(self, index: int, ended: Ended, shared: str) -> None:
        """An image that we waited for has ended: so has ours, or it goes on by itself."""
        if shared == "url":
            self._following_url.discard(index)
            if ended.landed is not None and ended.report is not None:
                # The file was the other image's, and is gone.
                self._apply(Downloaded(index, replace(ended.report, temp_fn=""), 0))
        else:
            self._following_bytes.discard(index)
        if ended.landed is not None:
            self._land(index, ended.landed, reused=True)
        elif ended.failure is not None:
            self._fail(index, ended.failure)
        elif shared == "url":
            self._backlog.again(index, 0.0)
        else:
            self._upload(index)

    def _take(self, result: _Result, *, goes_on: bool = True) -> None:
        index, value = result.index, result.value
        if isinstance(value, Ended):
            self._take_shared(index, value, result.shared)
            return
        self._under_way -= 1
        if self._job.image(index).report is None:
            self._downloading -= 1
        if isinstance(value, Report):
            self._apply(Downloaded(index, value, self._tries.pop(index)))
            if goes_on:
                self._upload(index)
        elif isinstance(value, Landed):
            self._land(index, value)
        else:
            self._end_try(index, value, goes_on=goes_on)

    def _end_try(self, index: int, error: ImageError, *, goes_on: bool = True) -> None:
        tries = self._tries[index]
        wait = self._road.retry.wait(error, tries) if goes_on else None
        if wait is None:
            if not goes_on:
                self._hand_over(index)
            self._fail(index, error.failure())
            return
        image = self._job.image(index)
        if image.report is None:
            self._backlog.again(index, wait)
        else:
            heapq.heappush(self._due_uploads, (time.monotonic() + wait, index))
        _log.info(
            "try %d failed, the next in %.1f s job=%s code=%s url=%s",
            tries,
            wait,
            self._job.job_id,
            error.code,
            loggable(image.url),
        )

    def _land(self, index: int, landed: Landed, *, reused: bool = False) -> None:
        report, tries = self._report(index), self._tries.pop(index, 0)
        self._discard(report)
        self._apply(Uploaded(index, landed.link, landed.deletehash, tries, reused))
        self._settle_shared(index, Ended(report, landed))

    def _end_as_failed(self, index: int, failure: Failure) -> None:
        report = self._job.image(index).report
        if report is not None:
            self._discard(report)
        self._apply(Failed(index, failure, self._tries.pop(index, 0)))
        self._settle_shared(index, Ended(failure=failure))

    def _fail(self, index: int, failure: Failure) -> None:
        self._end_as_failed(index, failure)
        _log.warning(
            "failed job=%s code=%s url=%s reason=%s",
            self._job.job_id,
            failure.code,
            loggable(self._job.image(index).url),
            failure.message,
        )

    def _hand_over(self, index: int) -> None:
        """Let those who wait for this image bring it over themselves."""
        self._settle_shared(index, Ended())

    def _settle_shared(self, index: int, ended: Ended) -> None:
        sha256, url = self._led_bytes.pop(index, None), self._led_urls.pop(index, None)
        if sha256 is not None:
            self._road.sharing.settle_bytes(sha256, ended)
        if url is not None:
            self._road.sharing.settle_url(url, ended)

    def _report(self, index: int) -> Report:
        report = self._job.image(index).report
        assert report is not None, "only what was downloaded is uploaded"
        return report

    def _discard(self, report: Report) -> None:
        if report.temp_fn:
            self._road.discard(report.temp_fn, report.bytes)

    def _apply(self, change: Change) -> None:
        self._job.apply(change)
        for reader in self._road.readers:
            try:
                reader(self._job, change)
            except Exception:
                _log.exception("a reader of changes raised job=%s", self._job.job_id)


def _outcome(value: object) -> Report | Landed | ImageError:
    """What came of a travel, with bugs and a stop as errors of the image too."""
    if isinstance(value, (Report, Landed, ImageError)):
        return value
    if isinstance(value, TransferError) and value.kind == "stopped":
        return Shutdown("The service stopped before this image was through.")
    error = value if isinstance(value, BaseException) else None
    _log.error("an image met a bug: %r", value, exc_info=error)
    return InternalError(f"A bug in the service: {type(value).__name__}.")


def loggable(url: str) -> str:
    """`url` as it may stand in a log: no query, no user name, no fragment, no control characters.

    The parts left out carry tokens; what is left is cut at 200 characters.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(unreadable)"
    host = parts.netloc.rpartition("@")[2]
    if ":" in host and "@" in url and "@" not in parts.netloc:
        return "(unreadable)"  # a password with a slash in it
    # Where there is no host, what looks like a path may begin with a name and a password.
    path = parts.path if host else parts.path.rpartition("@")[2]
    if parts.scheme in ("http", "https"):
        path = f"{parts.scheme}://{host}{path}"
    return path.encode("unicode_escape").decode("ascii")[:200]
