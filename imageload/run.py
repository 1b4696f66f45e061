"""One job at work: a window of its images under way, their retries, and every end they come to.

Runs on the job's thread, the one writer of the Job. Downloads and uploads bring a result or an
error through one inbox and touch no Job. How an image travels is handed in.
"""

from __future__ import annotations

import functools
import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any, TypeVar

from msgspec.structs import replace

from imageload.announcement import Announcer
from imageload.errors import Deferred, Failure, ImageError, Shutdown
from imageload.fetch.backlog import Backlog, host_of
from imageload.fetch.guard import redact_url
from imageload.inbox import Inbox
from imageload.job import (
    AlbumEnded,
    Change,
    Downloaded,
    Failed,
    Job,
    Landed,
    NotSent,
    PurgeBegun,
    Report,
    Requeued,
    ResponseLost,
    Started,
    Uploaded,
    Uploading,
)
from imageload.leads import By, Leads, Shared
from imageload.road import Done, Road, Travel, Upload, outcome_of
from imageload.sharing import Ended, Follow, Lead
from imageload.targets.imgur.albums import album_steps
from imageload.transport.transfer import Steps, TransferError

_log = logging.getLogger(__name__)

_LATE_SECONDS = 5.0
_LOOK_SECONDS = 1.0  # between two looks at what has waited too long

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Turn:
    """A host may be asked again, or has a slot for us."""

    host: str
    granted: bool


@dataclass(frozen=True, slots=True)
class _Result:
    """What came of a task of ours."""

    index: int
    value: Report | Landed | ImageError


@dataclass(frozen=True, slots=True)
class _Turned:
    """An upload's turn has come, and it waits to be announced."""

    index: int


@dataclass(frozen=True, slots=True)
class _AlbumResult:
    """What came of the job's album."""

    value: object


@dataclass(frozen=True, slots=True)
class _Again:
    """Failed images are wanted again: all of them, or those whose error is transient."""

    only_transient: bool


_Message = _Result | Shared | _Turn | _AlbumResult | _Again | _Turned


class Run:
    """`work` brings the images of `job` through; `settle` ends whatever `work` left open."""

    def __init__(self, road: Road, job: Job) -> None:
        self._road = road
        self._job = job
        self._inbox: Inbox[_Message] = Inbox()
        self._door = threading.Lock()
        self._closed = False
        self._settled = False
        images = job.snapshot().images
        queued = [index for index, image in enumerate(images) if image.state == "queued"]
        self._backlog = Backlog([image.url for image in images], queued, road.hosts, self._wake)
        self._due_uploads: list[tuple[float, int]] = []
        self._tries: dict[int, int] = {}
        self._downloads: set[int] = set()
        self._uploads: set[int] = set()
        self._announcer = Announcer(
            self._write_uploading,
            self._when_durable,
            lambda index: self._inbox.tell(_Turned(index)),
        )
        self._spent: list[Report] = []
        self._in_line_since: dict[int, float] = {}
        self._leads = Leads(road.sharing, job.job_id, self._inbox.tell)
        self._album_under_way = False
        self._look_at = 0.0
        self._stopped = False
        self._cancelled = False
        self._cancelling = False
        self._purge_next = False
        self._abandoned = False

    def stop(self) -> None:
        """Make `work` return soon; from any thread."""
        self._stopped = True
        self._inbox.ring()

    def cancel(self, *, purge: bool = False) -> None:
        """Fail as `cancelled` what has not ended; from any thread. `purge`: a Purge comes next."""
        self._purge_next = self._purge_next or purge
        self._cancelled = True
        self._inbox.ring()

    def again(self, *, only_transient: bool) -> bool:
        """Try failed images again; False where the run is over, or ends; from any thread."""
        with self._door:
            if self._closed or self._cancelled or self._stopped:
                return False
            self._inbox.tell(_Again(only_transient))
            return True

    def work(self) -> None:
        """Keep a window of images under way until all have ended, or `stop`."""
        if not self._job.started:
            self._apply(Started())
        self._road.upload.watch(self, self._inbox.ring)
        while not self._stopped:
            if self._cancelled and not self._cancelling:
                self._begin_cancel()
            self._end_long_waits()
            self._fill_window()
            if not self._goes_on() and self._close():
                return
            for message in self._messages(self._seconds_to_next_try()):
                self._hear(message)

    def settle(self) -> None:
        """Fail what has not ended and delete its temp files: no bug leaves a job open for ever.

        What only a stop has kept from its end is left open where there is a record: then it goes
        on after a restart.
        """
        self._road.upload.unwatch(self)
        if self._cancelled and not self._cancelling:
            self._begin_cancel()
        self._announce_purge()
        if self._uploads:  # from here on nobody hears that the turn of one has come
            self._road.upload.unqueue(self._job.job_id)
        self._take_late_results()
        self._refuse_turns()
        if self._cancelled:
            self._end_all(_cancelled())
        elif not self._stopped:
            self._end_all(
                ImageError("internal_error", "A bug in the service kept this image from going on.")
            )
        elif self._road.record is None:
            self._end_all(Shutdown("The service stopped before this image was through."))
        else:
            self._leave_open_images()
        self._await_durable()
        self._road.sharing.end(self._job.job_id)

    def _messages(self, seconds: float | None) -> Iterator[_Message]:
        """What has come, after waiting for it at most so long."""
        self._await_durable()
        return self._inbox.messages(seconds)

    def _await_durable(self) -> None:
        """Have what waits for the disk go on when what was applied so far is durable.

        Asked once for all that came since the last time, for to be told costs each time.
        """
        self._announcer.flush()
        if self._spent:
            spent, self._spent = self._spent, []
            self._when_durable(functools.partial(self._discard, *spent), hurry=False)

    def _when_durable(self, done: Callable[[], None], *, hurry: bool = True) -> None:
        assert self._road.record is not None, "without one nothing waits for it"
        self._road.record.when_durable(done, hurry=hurry)

    def _end_all(self, error: ImageError) -> None:
        self._end_open_images(error)
        album = self._job.summary().album
        if album is not None and album.is_open:
            self._apply(AlbumEnded(failure=error.failure()))

    def _leave_open_images(self) -> None:
        for index in self._open_images():
            self._hand_over(index)
            image = self._job.image(index)
            if image.report is not None:
                self._discard(image.report)
            # What did not come back in time may still arrive.
            if image.uploading and index not in self._uploads:
                self._apply(NotSent(index))

    def _hear(self, message: _Message) -> None:
        match message:
            case _Turn(host, granted):
                self._backlog.awake(host, granted)
            case Shared():
                self._take_shared(message)
            case _Again(only_transient):
                for index in failed_images(self._job, only_transient=only_transient):
                    self._apply(Requeued(index))
                    self._backlog.again(index, 0.0)
            case _AlbumResult(value):
                if self._stopped and _is_stop(value):
                    return  # `settle` decides
                self._album_under_way = False
                cancelled = AlbumEnded(failure=_cancelled().failure())
                self._apply(cancelled if self._cancelling else _album_ended(value))
            case _Turned(index):
                self._announcer.turned(index)
            case _Result():
                self._take(message)

    def _end_open_images(self, error: ImageError, but: Set[int] = frozenset()) -> None:
        failure = error.failure()
        open_images = [index for index in self._open_images() if index not in but]
        for index in open_images:
            self._hand_over(index)
            self._end_as_failed(index, failure)
        if open_images:
            told = self._job.job_id, failure.code, len(open_images), failure.message
            _log.warning("failed job=%s code=%s images=%d reason=%s", *told)

    def _open_images(self) -> list[int]:
        states = ("queued", "downloaded")
        return [n for n in range(len(self._job)) if self._job.image(n).state in states]

    def _begin_cancel(self) -> None:
        """Stop what is under way, which then comes back, and end all else now."""
        self._cancelling = True
        self._announce_purge()
        job_id = self._job.job_id
        self._road.download.cancel(job_id)
        if self._purge_next:
            # What is on its way may land, and only its answer has the deletehash to delete it by.
            self._road.upload.unqueue(job_id)
        else:
            self._road.upload.cancel(job_id)
        self._road.upload.cancel_calls(job_id)
        self._backlog.clear()
        self._due_uploads.clear()
        self._leads.give_up()
        self._end_open_images(_cancelled(), but=self._downloads | self._uploads)

    def _announce_purge(self) -> None:
        """Keep the job from being finished before the Purge that comes next."""
        goes_on = not self._stopped or self._road.record is not None
        if self._purge_next and goes_on and not self._job.summary().purging:
            self._apply(PurgeBegun())

    def _wake(self, host: str, granted: bool) -> None:
        """Called by whoever gave a host's slot back."""
        with self._door:
            if not self._settled:
                self._inbox.tell(_Turn(host, granted))
                return
        if granted:
            self._road.hosts.release(host)

    def _refuse_turns(self) -> None:
        """Give back the slots of hosts that were or will be granted to us."""
        with self._door:
            self._settled = True
        for message in self._inbox.messages(0.0):
            if isinstance(message, _Turn) and message.granted:
                self._backlog.awake(message.host, granted=True)
            elif isinstance(message, _Result) and isinstance(message.value, Report):
                self._road.discard(message.value.temp_fn, message.value.bytes)
        self._backlog.return_grants()

    def _goes_on(self) -> bool:
        """Is anything still to be done? Begins with the album when all images have ended."""
        if self._downloads or self._uploads or self._backlog or self._due_uploads:
            return True
        return bool(self._leads.following) or self._album_goes_on()

    def _close(self) -> bool:
        """Take nothing more, unless something has come meanwhile."""
        with self._door:
            self._closed = not self._inbox
            return self._closed

    def _album_goes_on(self) -> bool:
        snapshot = self._job.summary()
        if snapshot.album is None or not snapshot.album.is_open or self._cancelling:
            return False
        if not self._album_under_way:
            self._album_under_way = True
            upload, whole = self._road.upload, self._job.snapshot()
            self._call(
                lambda: album_steps(
                    upload.request, whole, upload.album_link, anonymous=upload.anonymous
                )
            )
        return True

    def _call(self, steps: Callable[[], Steps[Any]]) -> None:
        def done(value: object) -> None:
            self._inbox.tell(_AlbumResult(value))

        try:
            self._road.upload.call(self._job.job_id, steps, done)
        except RuntimeError:
            done(TransferError("stopped", "nothing is taken any more"))

    def _take_late_results(self) -> None:
        deadline = time.monotonic() + self._road.grace_seconds + _LATE_SECONDS
        while self._downloads or self._uploads:
            seconds = deadline - time.monotonic()
            if seconds <= 0:
                left = len(self._downloads) + len(self._uploads)
                _log.warning("%d tasks did not end job=%s", left, self._job.job_id)
                self._abandoned = True
                return
            for message in self._messages(seconds):
                if isinstance(message, _Turn) and message.granted:
                    self._backlog.awake(message.host, granted=True)
                elif isinstance(message, _Result):
                    self._take(message, goes_on=False)

    def _deliver(self, result: _Result) -> None:
        """Called, from another thread, with the outcome of what was started."""
        if self._abandoned and isinstance(result.value, Report):
            self._road.discard(result.value.temp_fn, result.value.bytes)
            return
        self._inbox.tell(result)

    def _seconds_to_next_try(self) -> float | None:
        """How long until time alone brings something to do; a full window waits for results."""
        waits = [self._backlog.seconds_to_next()] if self._has_room() else []
        if self._due_uploads:
            waits.append(max(0.0, self._due_uploads[0][0] - time.monotonic()))
        waits.append(self._seconds_to_long_wait())
        return min((wait for wait in waits if wait is not None), default=None)

    def _seconds_to_long_wait(self) -> float | None:
        """How long until an image has waited too long for an Imgur that is out of order."""
        if not self._in_line_since or not self._road.upload.is_parked:
            return None
        outage = self._road.upload.outage
        if outage is None:
            return _LOOK_SECONDS  # nobody says when what they wait for becomes one
        now = time.monotonic()
        longest = now - next(iter(self._in_line_since.values()))
        left = self._road.outage_seconds - min(outage[0], longest)
        return max(0.0, left, self._look_at - now)

    def _end_long_waits(self) -> None:
        """Have all come back that wait, if one has waited too long; see `_out_of_line`.

        That one may not be in line now: under way, or before its next try.
        """
        if self._seconds_to_long_wait() == 0.0:
            self._look_at = time.monotonic() + _LOOK_SECONDS
            self._road.upload.unqueue(self._job.job_id)

    def _out_of_line(self, index: int) -> None:
        """An upload came back unsent: in line again, or that was it."""
        outage = self._road.upload.outage
        waited = time.monotonic() - self._in_line_since[index]
        if outage is not None and min(outage[0], waited) >= self._road.outage_seconds:
            self._fail(index, outage[1].failure())
        else:
            self._tries[index] -= 1
            self._upload(index)

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
        # No more downloads are started than there are slots: those that wait hold their hosts.
        if len(self._downloads) >= self._road.download.slots:
            return False
        # An upload that waits, for its next try or for another's, keeps its place, for it keeps
        # its temp file; a download that waits has nothing, and lets others by. While all uploads
        # wait for Imgur, only the disk bounds how far downloads run ahead.
        waiting = len(self._due_uploads) + self._leads.following_bytes
        busy = len(self._downloads) + len(self._uploads) + waiting
        if busy >= self._road.window and not self._road.upload.is_parked:
            return False
        return self._road.temp_bytes.has_room(self._job.job_id, self._inbox.ring)

    def _download(self, index: int) -> None:
        """Download the image, whose host's slot is taken, unless another job is at it."""
        road, image = self._road, self._job.image(index)
        host = host_of(image.url)
        if self._job.dedupe:
            claim = self._leads.claim_url(index, image)
            if not isinstance(claim, Lead):
                road.hosts.release(host)
                if isinstance(claim, Ended):
                    self._share_end(index, "url", claim)
                return

        def done(value: object) -> None:
            outcome = outcome_of(value)
            road.hosts.done(host, outcome if isinstance(outcome, ImageError) else None)
            self._deliver(_Result(index, outcome))

        self._downloads.add(index)
        if not self._start(road.download, index, image.url, done):
            road.hosts.release(host)

    def _upload(self, index: int) -> None:
        """Upload the image from its temp file, unless its bytes are on Imgur or on their way."""
        image, report = self._job.image(index), self._report(index)
        if self._job.dedupe:
            claim = self._leads.claim_bytes(index, image, report.sha256)
            if isinstance(claim, Ended):
                self._share_end(index, "bytes", claim)
                return
            if isinstance(claim, Follow):
                return
        way, is_recorded = self._road.upload, self._road.record is not None
        upload = Upload(
            path=report.temp_fn,
            name=f"imageload-{self._job.job_id}-{index + 1}",
            title=image.title,
            description=image.description,
            was_lost=image.maybe_duplicate,
            announcement=self._announcer.add(index) if is_recorded else None,
        )
        if is_recorded and not way.is_parked:
            self._announcer.make_ahead(index, before=len(self._uploads) - way.slots)
        self._uploads.add(index)
        self._in_line_since.setdefault(index, time.monotonic())
        self._start(
            way, index, upload, lambda value: self._deliver(_Result(index, outcome_of(value)))
        )

    def _write_uploading(self, index: int) -> bool:
        """Write down that the upload begins: from now on it may be on Imgur."""
        if self._job.image(index).state != "downloaded":
            return False
        self._apply(Uploading(index))
        return True

    def _start(self, travel: Travel[T], index: int, argument: T, done: Done) -> bool:
        self._count_try(index)
        try:
            travel.start(self._job.job_id, argument, done)
        except RuntimeError:
            self._stopped = True  # nothing is taken any more: this image is not the only one
            error = Shutdown("The service stopped before this image was through.")
            self._inbox.tell(_Result(index, error))
            return False
        return True

    def _count_try(self, index: int) -> None:
        self._tries[index] = self._tries.get(index, 0) + 1

    def _take_shared(self, shared: Shared) -> None:
        """An image that we waited for has ended: so has ours, or it goes on by itself."""
        if self._leads.is_awaited(shared):
            self._share_end(shared.index, shared.by, shared.ended)

    def _share_end(self, index: int, by: By, ended: Ended) -> None:
        if by == "url" and ended.landed is not None and ended.report is not None:
            # The file was the other image's, and is gone.
            self._apply(Downloaded(index, replace(ended.report, temp_fn=""), 0))
        if ended.landed is not None:
            self._land(index, ended.landed, reused=True)
        elif ended.failure is not None:
            self._fail(index, ended.failure)
        elif by == "url":
            self._backlog.again(index, 0.0)
        else:
            self._upload(index)

    def _take(self, result: _Result, *, goes_on: bool = True) -> None:
        index, value = result.index, result.value
        goes_on = goes_on and not self._stopped
        self._downloads.discard(index)
        self._uploads.discard(index)
        self._announcer.forget(index)
        if isinstance(value, Report):
            self._road.temp_bytes.hold(self._job.job_id, value.bytes)
            self._apply(Downloaded(index, value, self._tries.pop(index)))
            if goes_on and not self._cancelling:
                self._upload(index)
        elif isinstance(value, Landed):
            self._announcer.landed()
            self._land(index, value)
        else:
            self._end_try(index, value, goes_on=goes_on)

    def _end_try(self, index: int, error: ImageError, *, goes_on: bool = True) -> None:
        image = self._job.image(index)
        if error.maybe_landed and image.report is not None:
            self._apply(ResponseLost(index))
        if self._cancelling:
            return  # `settle` ends it
        is_unsent = isinstance(error, (Deferred, Shutdown))
        if is_unsent and goes_on and image.report is not None:
            self._out_of_line(index)
            return
        tries = self._tries[index]
        wait = self._road.retry.wait(error, tries)
        if not goes_on and (is_unsent or wait is not None):
            return  # `settle` ends it, or leaves it
        if wait is None:
            if not goes_on:
                self._hand_over(index)
            self._fail(index, error.failure())
            return
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
            redact_url(image.url),
        )

    def _land(self, index: int, landed: Landed, *, reused: bool = False) -> None:
        report, tries = self._report(index), self._tries.pop(index, 0)
        self._in_line_since.pop(index, None)
        self._leads.settle(index, Ended(report, landed))
        if self._road.record is None:
            self._discard(report)
        self._apply(Uploaded(index, landed.link, landed.deletehash, tries, reused))
        if self._road.record is not None:
            self._spent.append(report)

    def _end_as_failed(self, index: int, failure: Failure) -> None:
        report = self._job.image(index).report
        self._in_line_since.pop(index, None)
        if report is not None:
            self._discard(report)
        self._leads.settle(index, Ended(failure=failure))
        self._apply(Failed(index, failure, self._tries.pop(index, 0)))

    def _fail(self, index: int, failure: Failure) -> None:
        self._end_as_failed(index, failure)
        _log.warning(
            "failed job=%s code=%s url=%s reason=%s",
            self._job.job_id,
            failure.code,
            redact_url(self._job.image(index).url),
            failure.message,
        )

    def _hand_over(self, index: int) -> None:
        """Let those who wait for this image bring it over themselves."""
        self._leads.settle(index, Ended())

    def _report(self, index: int) -> Report:
        report = self._job.image(index).report
        assert report is not None, "only what was downloaded is uploaded"
        return report

    def _discard(self, *reports: Report) -> None:
        length = 0
        for report in reports:
            if report.temp_fn:
                self._road.discard(report.temp_fn, report.bytes)
                length += report.bytes
        if length:
            self._road.temp_bytes.release(self._job.job_id, length)

    def _apply(self, change: Change) -> None:
        self._road.apply(self._job, change)


def failed_images(job: Job, *, only_transient: bool) -> list[int]:
    """The failed images of `job`, or those whose error another try may cure, by their index."""
    return [
        index
        for index, image in enumerate(job.snapshot().images)
        if image.failure is not None
        and image.state == "failed"
        and (image.failure.transient or not only_transient)
    ]


def _cancelled() -> ImageError:
    return ImageError("cancelled", "The job was cancelled before this image was through.")


def _is_stop(value: object) -> bool:
    return isinstance(value, BaseException) and isinstance(outcome_of(value), Shutdown)


def _album_ended(value: object) -> AlbumEnded:
    """What the end of the album's calls means; a bug among them too."""
    if isinstance(value, AlbumEnded):
        return value
    outcome = outcome_of(value)
    assert isinstance(outcome, ImageError), "an album is no image"
    _log.warning("an album was not made code=%s reason=%s", outcome.code, outcome.message)
    return AlbumEnded(failure=outcome.failure())
