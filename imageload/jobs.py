"""The jobs at work: one coroutine per job, and the actions that users ask for.

    work(job):  images that are open ─► a purge that was asked for ─► the album ─► done

The next step follows from the Job's state alone, so a job goes on after a restart, a retry or a
purge in the same way. Everything here runs on the transfer loop. The actions on one job are done
one after the other, and `work` decides on its next step only between two of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from imageload.errors import (
    Failure,
    ImageError,
    Refused,
    UploadError,
    not_finished,
    shutting_down,
)
from imageload.fetch.hosts import host_of
from imageload.image import Failed, NotSent, Requeued, Returned
from imageload.job import (
    AlbumEnded,
    AlbumReopened,
    Job,
    Only,
    PurgeBegun,
    PurgeEnded,
    Snapshot,
    Started,
)
from imageload.pipeline import Pipeline, bug_failure
from imageload.targets.imgur.albums import make_album
from imageload.targets.purge import LinksOfOthers, purge
from imageload.transport.loop import is_urgent
from imageload.window import STALL_SECONDS, Window

_log = logging.getLogger(__name__)

_IMAGES_PER_TURN = 1_000
"""Images that are changed in one go before the loop may do something else."""

_LAST_SECONDS = 5.0
_COUNT_SECONDS = STALL_SECONDS / 20
_SMALL_JOB = 16
"""Images of a job whose tasks go before those of larger jobs that are ready too."""
T = TypeVar("T")


class CancelResult(NamedTuple):
    """How many images a cancel or a purge ends; images that end meanwhile are counted too."""

    cancelled: int
    purging: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRules:
    """How many images of one job are in flight."""

    places: int = 64
    downloads: int = 32
    """Never more than the download slots: images that wait for one hold a slot of their host."""


class Jobs:
    """The jobs that are at work."""

    def __init__(
        self, pipeline: Pipeline, rules: WindowRules, links_of_others: LinksOfOthers
    ) -> None:
        """`links_of_others` returns the links of a job that other jobs have too."""
        self._pipeline = pipeline
        self._rules = rules
        self._links_of_others = links_of_others
        self._windows: dict[str, Window] = {}
        self._calls: dict[str, asyncio.Task[Any]] = {}
        self._locks: weakref.WeakKeyDictionary[Job, asyncio.Lock] = weakref.WeakKeyDictionary()
        self._stalled, self._counted_at = 0, 0.0
        self._is_stopping = False
        self._left: weakref.WeakSet[Job] = weakref.WeakSet()
        self._let_go: weakref.WeakSet[Job] = weakref.WeakSet()
        pipeline.target.gate.watch(self._fill_windows)

    async def work(self, job: Job) -> None:
        """Do all steps of `job`; returns when none is left, or the service stops."""
        is_urgent.set(len(job) <= _SMALL_JOB)
        window = Window(job, self._pipeline.load_image, self._may_start, host_of)
        self._windows[job.job_id] = window
        self._pipeline.dedupe.begin(job.job_id)
        try:
            if job.summary().purging:  # the process died before all was cancelled
                await self._end_open_images(job, CANCELLED)
                self._end_album(job, CANCELLED)
            while True:
                async with self.lock(job):
                    if self._is_left(job):
                        break
                    window.reopen()
                    step = self._next_step(job, window)
                if step is None:
                    break
                if not job.started:
                    self._pipeline.apply(job, Started())
                await step()
        except Exception:
            _log.exception("the work on a job broke job=%s", job.job_id)
            self._settle(job, _BUG)
        finally:
            del self._windows[job.job_id]
            self._pipeline.dedupe.end(job.job_id)
            if self._is_stopping:
                self._settle_at_stop(job)
            elif job in self._let_go:
                self._return_images(job)

    @property
    def stalled(self) -> int:
        """How many jobs have only images that wait for their origins, or for another image."""
        now = time.monotonic()
        if now - self._counted_at >= _COUNT_SECONDS:
            self._stalled = sum(window.is_stalled for window in list(self._windows.values()))
            self._counted_at = now
        return self._stalled

    def lock(self, job: Job) -> asyncio.Lock:
        """Held by each action on `job`."""
        lock = self._locks.get(job)
        if lock is None:
            lock = self._locks[job] = asyncio.Lock()
        return lock

    async def cancel(
        self, job: Job, *, purge: bool = False, may_land: bool = False
    ) -> CancelResult:
        """Fail open images of `job` as `cancelled`; with `purge`, delete those that have landed.

        Uploads that are being sent land first if they are to be purged: only their responses have
        the deletehashes. The purge itself is `work`'s, or, with `may_land`, another node's. Done
        twice, it does the same.
        """
        async with self.lock(job):
            before = job.summary()
            pending = _pending(before)
            is_purge = purge or before.purging or may_land
            window = self._windows.get(job.job_id)
            may_have_images = before.counts["completed"] or (window is not None and window.sending)
            if purge and not before.purging and (may_have_images or _has_album(before)):
                self._pipeline.apply(job, PurgeBegun())
            if window is not None:
                window.end(CANCELLED, but_sending=is_purge)
            album_call = self._calls.get(job.job_id) if not before.purging else None
            if album_call is not None:
                album_call.cancel()
            await self._end_open_images(job, CANCELLED)
            if album_call is None:
                self._end_album(job, CANCELLED)
            if window is not None and not is_purge:
                await window.wait_until_empty()
        return CancelResult(pending, before.counts["completed"] if purge else 0)

    async def requeue(self, job: Job, only: Only = None) -> int:
        """Load the failed images again that `only` chooses; how many they are.

        An album that failed is made again too. Raises Refused during a purge or a stop.
        """
        async with self.lock(job):
            await self._wait_for_cancelled(job)
            summary = job.summary()
            failed = job.failed(only)
            album = summary.album
            album_failed = album is not None and album.failure is not None and not album.is_open
            if not failed and not album_failed:
                return 0
            if summary.purging:
                raise Refused("job-busy", "The job is being purged. Send this again in a while.")
            self._check_running()
            if not failed:
                self._pipeline.apply(job, AlbumReopened())
            await self._requeue(job, failed)
            return len(failed)

    async def rehost(self, job: Job, dead: Mapping[int, int]) -> int:
        """Load images again whose links are dead, by index and version; how many they are.

        Those that have changed since that version are left alone. Raises Refused unless the job is
        finished, and during a stop.
        """
        async with self.lock(job):
            await self._wait_for_cancelled(job)
            if not job.summary().finished:
                raise not_finished()
            self._check_running()
            lost = job.completed_at(dead)
            # First: from now on no job reuses one of these links.
            self._pipeline.dedupe.forget({link for n in lost if (link := job.image(n).link)})
            await self._requeue(job, lost)
            return len(lost)

    async def _wait_for_cancelled(self, job: Job) -> None:
        """Wait for the tasks of images that a cancel has ended, under the job's lock."""
        window = self._windows.get(job.job_id)
        if window is not None and window.is_ending and not job.summary().purging:
            await window.wait_until_empty()
            window.reopen()

    async def _requeue(self, job: Job, indexes: Sequence[int]) -> None:
        for count, index in enumerate(indexes, 1):
            self._pipeline.apply(job, Requeued(index))
            if count % _IMAGES_PER_TURN == 0:
                await asyncio.sleep(0)
                self._check_running()
        window = self._windows.get(job.job_id)
        if window is not None:
            window.add(indexes)

    async def fail(self, job: Job, failure: Failure) -> None:
        """Fail the open images of `job`, which is not at work, and its album."""
        async with self.lock(job):
            self._settle(job, failure)

    async def stop(self, grace_seconds: float, waiting: Iterable[Job]) -> None:
        """Leave every job as it stands, those that are `waiting` for a thread too.

        Uploads that are being sent have `grace_seconds` to land. With a store that outlives the
        process, open images go on after a restart; else they fail with the code `shutdown`.
        """
        self._is_stopping = True
        windows = list(self._windows.values())
        ending = None if self._pipeline.store.is_durable else _SHUTDOWN
        for window in windows:
            window.end(window.ending or ending, but_sending=True)
        for call in self._calls.values():
            call.cancel()
        landing = [asyncio.ensure_future(window.wait_until_empty()) for window in windows]
        if landing:
            await asyncio.wait(landing, timeout=grace_seconds)
            for window in windows:
                window.end(window.ending)
            await asyncio.wait(landing, timeout=_LAST_SECONDS)
        for job in waiting:
            self._settle_at_stop(job)

    async def leave(self, job: Job) -> None:
        """Leave `job` as it stands: another node works on it."""
        self._leave(job, but_sending=False)

    async def let_go(self, job: Job) -> None:
        """Leave `job` for later; uploads that are being sent may land, other images are queued."""
        self._let_go.add(job)
        self._leave(job, but_sending=True)

    def _leave(self, job: Job, *, but_sending: bool) -> None:
        self._left.add(job)
        window, call = self._windows.get(job.job_id), self._calls.get(job.job_id)
        if window is not None:
            window.end(None, but_sending=but_sending)
        if call is not None:
            call.cancel()

    def _return_images(self, job: Job) -> None:
        for index in _open_images(job):
            if job.image(index).state == "downloaded":
                self._pipeline.apply(job, Returned(index))

    def _is_left(self, job: Job) -> bool:
        return self._is_stopping or job in self._left

    def _check_running(self) -> None:
        if self._is_stopping:
            raise shutting_down()

    def _settle_at_stop(self, job: Job) -> None:
        if not self._pipeline.store.is_durable:
            self._settle(job, _SHUTDOWN)
            return
        for index in _open_images(job):
            image = job.image(index)
            if image.uploading and not image.maybe_duplicate:
                self._pipeline.apply(job, NotSent(index))

    def _settle(self, job: Job, failure: Failure) -> None:
        """Leave nothing open in a job that is not at work any more."""
        ended = _open_images(job)
        for index in ended:
            self._pipeline.apply(job, Failed(index, failure, 0))
        _log_failed(job, failure, len(ended))
        if job.summary().purging:
            self._pipeline.apply(job, PurgeEnded())  # the images it left stay in its lists
        self._end_album(job, failure)

    def _next_step(self, job: Job, window: Window) -> Callable[[], Awaitable[None]] | None:
        summary = job.summary()
        if _pending(summary):
            return lambda: self._load_images(job, window)
        if summary.purging:
            return lambda: self._purge(job)
        if summary.album is not None and summary.album.is_open:
            return lambda: self._make_album(job)
        return None

    async def _load_images(self, job: Job, window: Window) -> None:
        images, kept = enumerate(job.snapshot().images), self._pipeline.spool.images_of(job.job_id)
        queued = [n for n, image in images if image.state == "queued" and n not in window]
        window.start([n for n in queued if n in kept])
        window.add([n for n in queued if n not in window])
        await window.wait_until_empty()

    async def _purge(self, job: Job) -> None:
        pipeline = self._pipeline
        call = purge(
            job,
            pipeline.target,
            pipeline.apply,
            links_of_others=self._links_of_others,
            forget=pipeline.dedupe.forget,
        )
        with contextlib.suppress(asyncio.CancelledError):
            await self._call(job, call)

    async def _make_album(self, job: Job) -> None:
        before, ended = job.snapshot(), AlbumEnded()
        try:
            await self._call(job, self._album_call(job, before))
        except asyncio.CancelledError:
            if self._is_left(job):
                return
            ended = AlbumEnded(failure=CANCELLED)
        except ImageError as error:
            ended = AlbumEnded(failure=error.failure())
        except Exception as error:
            _log.exception("an album met a bug job=%s", job.job_id)
            ended = AlbumEnded(failure=bug_failure(error))
        if (failure := ended.failure) is not None:
            told = job.job_id, failure.code, failure.message
            _log.warning("an album was not made job=%s code=%s reason=%s", *told)
        self._pipeline.apply(job, ended)
        after = job.summary()
        has_more = _pending(after) or after.counts["completed"] > before.counts["completed"]
        if has_more and ended.failure is None:
            self._pipeline.apply(job, AlbumReopened())  # images were requeued meanwhile

    async def _album_call(self, job: Job, before: Snapshot) -> None:
        albums = self._pipeline.target.albums
        if albums is None:
            message = f"There are no albums on {self._pipeline.target.place}."
            raise UploadError("upload_rejected", message)
        request = functools.partial(albums.request, job.job_id)
        on_made = functools.partial(self._pipeline.apply, job)
        await make_album(request, before, albums.album_link, on_made, anonymous=albums.anonymous)

    async def _call(self, job: Job, call: Coroutine[Any, Any, T]) -> T:
        """The result of `call`, which a stop cancels; a cancel of the job cancels an album's."""
        task: asyncio.Task[T] = asyncio.ensure_future(call)
        self._calls[job.job_id] = task
        try:
            return await task
        finally:
            del self._calls[job.job_id]

    async def _end_open_images(self, job: Job, failure: Failure) -> None:
        """Fail the images that no task has."""
        window = self._windows.get(job.job_id)
        ended = [n for n in _open_images(job) if window is None or n not in window]
        for count, index in enumerate(ended, 1):
            self._pipeline.apply(job, Failed(index, failure, 0))
            if count % _IMAGES_PER_TURN == 0:
                await asyncio.sleep(0)
        _log_failed(job, failure, len(ended))

    def _end_album(self, job: Job, failure: Failure) -> None:
        album = job.summary().album
        if album is not None and album.is_open:
            self._pipeline.apply(job, AlbumEnded(failure=failure))

    def _may_start(self, window: Window) -> bool:
        rules, uploads_wait = self._rules, self._pipeline.target.gate.was_closed
        if window.downloading >= rules.downloads or window.has_many_aside:
            return False
        # While all uploads wait for the target, only the disk bounds how far downloads run ahead.
        if not uploads_wait and window.places >= rules.places:
            return False
        return self._pipeline.temp_bytes.has_room(window.job.job_id, window.fill_soon)

    def _fill_windows(self) -> None:
        for window in self._windows.values():
            window.fill_soon()


def _log_failed(job: Job, failure: Failure, images: int) -> None:
    if images:
        told = job.job_id, failure.code, images, failure.message
        _log.warning("failed job=%s code=%s images=%d reason=%s", *told)


def _open_images(job: Job) -> Sequence[int]:
    return [n for n, image in enumerate(job.snapshot().images) if image.is_open]


def _pending(summary: Snapshot) -> int:
    return summary.counts["queued"] + summary.counts["downloaded"]


def _has_album(summary: Snapshot) -> bool:
    return summary.album is not None and summary.album.id is not None


def _failure(code: str, message: str) -> Failure:
    return ImageError(code, message).failure()


CANCELLED = _failure("cancelled", "The job was cancelled before this image was finished.")
_SHUTDOWN = _failure("shutdown", "The service stopped before this image was finished.")
_BUG = _failure("internal_error", "A bug in the service kept this image from its end.")
