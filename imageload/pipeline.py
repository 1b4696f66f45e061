"""One image from its URL to its link: download, convert, upload, and every way to fail.

    load_image ─► claim its URL ─► download ─► convert ─► claim its bytes ─► upload ─► link
                  (dedupe)         (fetch/)    (convert/)  (dedupe)           (targets/)

Runs on the transfer loop, which is the one writer of every Job.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from msgspec.structs import replace

from imageload.convert.pool import Converters
from imageload.dedupe import Claim, Dedupe, Result
from imageload.errors import DownloadError, Failure, ImageError, UploadError
from imageload.fetch.download import Downloader, Hop
from imageload.fetch.guard import Target as Origin
from imageload.fetch.guard import check_url, redact_url
from imageload.fetch.hosts import Hosts
from imageload.fetch.imgur import album_of, image_target, only_image
from imageload.fetch.spool import Spool
from imageload.fetch.tempfiles import TempBytes, TempFiles
from imageload.image import (
    Downloaded,
    Failed,
    Landed,
    NotSent,
    Report,
    ResponseLost,
    Uploaded,
    Uploading,
)
from imageload.job import Change, Job
from imageload.retry import RetryRule
from imageload.store import Elsewhere, Store
from imageload.targets import Target, Upload
from imageload.transport.slots import Slots
from imageload.window import Window

_log = logging.getLogger(__name__)

T = TypeVar("T")
Observer = Callable[[Job, Change], None]
AlbumLinks = Callable[[str, str], Awaitable[list[str] | None]]


_FOLLOW_SECONDS = 0.25
_KEEP_SECONDS = 1.0
"""An image that waits for longer with its temp file is recorded with it: few do without a reason,
so the others cost nothing."""


class _AtAnotherNode(Exception):
    """Another node has uploaded the same bytes, or is at it: then `landed` is None."""

    def __init__(self, elsewhere: Elsewhere) -> None:
        super().__init__()
        self.landed = elsewhere.landed


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Loads images. Its fields are the dependencies that all jobs share."""

    downloader: Downloader
    downloads: Slots
    converters: Converters
    target: Target
    hosts: Hosts
    album_links: AlbumLinks | None = None
    """The links of an album of Imgur, for a job; None: Imgur cannot be asked."""
    dedupe: Dedupe
    retry: RetryRule
    files: TempFiles
    temp_bytes: TempBytes
    spool: Spool
    store: Store
    observers: tuple[Observer, ...] = ()

    async def load_image(self, window: Window, index: int) -> None:
        """Carry one image from its URL to its link; every way it can end is here."""
        job = window.job
        claim = self.dedupe.claim(job, job.image(index))
        try:
            if index in self.spool.images_of(job.job_id):
                result = None  # it needs no other image: it has its file
                claim.lead_url()
            else:
                with window.aside(index):
                    result = await claim.by_url()
            if result is None:
                result = await self._load(window, index, claim)
            elif result.report is not None:
                self.apply(job, Downloaded(index, replace(result.report, temp_fn=""), 0))
            claim.settle(Result(job.image(index).report, result.landed))
            self.apply(job, _uploaded(index, result, window.tries.get(index, 0)))
        except asyncio.CancelledError as cancelled:
            claim.settle()
            self._stop_image(window, index, cancelled)
        except ImageError as error:
            claim.settle(Result(failure=error.failure()))
            self._fail(window, index, error.failure())
        except Exception as error:  # a bug ends this image, not its job
            _log.exception("an image met a bug job=%s", job.job_id)
            failure = bug_failure(error)
            claim.settle(Result(failure=failure))
            self._fail(window, index, failure)

    async def _load(self, window: Window, index: int, claim: Claim) -> Result:
        """Download the image and upload it, unless its bytes are known; give its temp file back.

        If the service stops, the file is left to the next process on the store.
        """
        job, is_left = window.job, False
        report = await self._download(window, index)
        keeping = self._keep_later(job, index)
        try:
            known = await claim.by_content(report.sha256)
            if known is not None:
                return known
            return await self._upload(window, index, report)
        except asyncio.CancelledError:
            is_left = self.store.keeps_files and window.ending is None
            if is_left:
                self.store.keep(job, index)
            raise
        finally:
            if keeping is not None:
                keeping.cancel()
            if not is_left:
                self.files.give_back(report.temp_fn, report.bytes)
            self.temp_bytes.resize(job.job_id, report.bytes, 0)

    def _keep_later(self, job: Job, index: int) -> asyncio.TimerHandle | None:
        """Record in a while which temp file the image has, unless that is cancelled."""
        if not self.store.keeps_files:
            return None
        loop = asyncio.get_running_loop()
        return loop.call_later(_KEEP_SECONDS, self.store.keep, job, index)

    async def _download(self, window: Window, index: int) -> Report:
        """Download the image to a temp file, in a format and size that the target takes.

        Unless an earlier process has, and left it in the spool.
        """
        job = window.job
        has_file = index in self.spool.images_of(job.job_id)
        target = None if has_file else await self._origin_of(window, index)

        async def attempt() -> Report:
            report, size = await self.spool.take(job.job_id, index), 0
            if report is None:
                origin = target or await self._origin_of(window, index)
                report = await self._fetch(window, index, origin)
            try:
                converted = await self.converters.if_needed(report, job.job_id)
                size = converted.bytes
                return converted
            finally:
                self.temp_bytes.resize(job.job_id, report.bytes, size)

        async def wait(seconds: float) -> None:
            with window.aside(index):
                await asyncio.sleep(seconds)

        report = await self._retrying(window, index, attempt, wait)
        self.apply(job, Downloaded(index, report, window.tries.pop(index)))
        window.downloaded(index)
        return report

    async def _fetch(self, window: Window, index: int, target: Origin) -> Report:
        """Download `target`; with & in place of &amp;, as browsers read a page, if that fails."""
        try:
            return await self._follow(window, index, target)
        except DownloadError as error:
            is_refused = error.name == "http_status" and 400 <= (error.status_code or 0) <= 499
            if "&amp;" not in target.url or not is_refused:
                raise
            try:
                unescaped = check_url(target.url.replace("&amp;", "&"))
                report = await self._follow(window, index, unescaped)
            except ImageError:
                raise error from None
        job_id, url = window.job.job_id, redact_url(target.url)
        _log.info("downloaded with & in place of &amp; job=%s url=%s", job_id, url)
        return report

    async def _follow(self, window: Window, index: int, target: Origin) -> Report:
        """Download `target`, at each origin that its redirects lead to in a slot of that one."""
        found: Report | Hop = Hop(target)
        while isinstance(found, Hop):
            found = await self._visit(window, index, found)
        return found

    async def _origin_of(self, window: Window, index: int) -> Origin:
        """Where the image is; for a page of Imgur that is not its URL."""
        target = check_url(window.job.image(index).url)
        album = album_of(target)
        if album is None or self.album_links is None:
            return image_target(target)
        with window.aside(index, target.host):
            links = await self.album_links(window.job.job_id, album.id)
        return only_image(target, album, links)

    async def _visit(self, window: Window, index: int, hop: Hop) -> Report | Hop:
        """Download from the origin of `hop`; again, while that fails and its breaker is open."""
        key, has_failed = window.job.job_id, window.tries[index] > 1
        while True:
            host = None if has_failed else hop.target.host
            with window.aside(index, host):
                try:
                    visit = await self.hosts.enter(
                        hop.target, since=window.since, has_failed=has_failed
                    )
                except DownloadError:
                    window.tries[index] -= 1  # it was not tried
                    raise
            if not self.temp_bytes.reserve(key):
                # Other jobs may have room for images of this host.
                self.hosts.leave(visit, asyncio.CancelledError())
                with window.aside(index):
                    await self.temp_bytes.wait(key)
                continue
            size = 0
            try:
                found = await self.downloads.run(key, lambda: self.downloader.fetch(hop))
                size = found.bytes if isinstance(found, Report) else 0
            except BaseException as error:
                if not self.hosts.leave(visit, error):
                    raise
                has_failed = True
            else:
                self.hosts.leave(visit, None)
                return found
            finally:
                self.temp_bytes.resize(key, self.temp_bytes.largest, size)

    async def _upload(self, window: Window, index: int, report: Report) -> Result:
        """Upload the image from its temp file.

        The start is on disk before it is sent, unless another upload would change nothing.

        If another node has its bytes, wait for that upload and take its link.
        """
        job, image = window.job, window.job.image(index)
        since = time.monotonic() if job.waiting_since is None else job.waiting_since
        is_announced = self.store.is_durable and not self.target.is_repeatable

        async def announce() -> None:
            if not job.image(index).uploading:
                self.apply(job, Uploading(index))
            await self.store.durable(job)
            elsewhere = self.store.elsewhere(job, index)
            if elsewhere is not None:
                raise _AtAnotherNode(elsewhere)

        def retract() -> None:
            if job.image(index).uploading:
                self.apply(job, NotSent(index))

        async def attempt() -> Landed:
            upload = Upload(
                path=report.temp_fn,
                name=f"imageload-{job.job_id}-{index + 1}",
                since=since,
                content=report.sha256,
                type=report.type,
                bytes=report.bytes,
                title=image.title,
                description=image.description,
                was_lost=job.image(index).maybe_duplicate,
                announce=announce if is_announced else None,
                retract=retract,
                may_send=lambda: self.store.is_ours(job),
                on_send=lambda is_sent: window.note_sending(index, is_sent=is_sent),
            )
            return await self.target.land(job.job_id, upload)

        while True:
            try:
                landed = await self._retrying(window, index, attempt, asyncio.sleep)
                return Result(report, landed, is_own=True)
            except _AtAnotherNode as found:
                if found.landed is not None:
                    return Result(report, found.landed)
                retract()
                await asyncio.sleep(_FOLLOW_SECONDS)

    async def _retrying(
        self,
        window: Window,
        index: int,
        attempt: Callable[[], Awaitable[T]],
        wait: Callable[[float], Awaitable[None]],
    ) -> T:
        """The result of the first `attempt` that succeeds; `wait` is awaited between two.

        Raises the last attempt's error once the retry rule allows no more.
        """
        job = window.job
        window.tries[index] = 0
        while True:
            window.tries[index] += 1
            tries = window.tries[index]
            try:
                return await attempt()
            except ImageError as error:
                if isinstance(error, UploadError) and error.maybe_landed:
                    self.apply(job, ResponseLost(index))
                seconds = self.retry.wait(error, tries)
                if seconds is None:
                    raise
                _log.info(
                    "try %d failed, the next in %.1f s job=%s code=%s url=%s",
                    tries,
                    seconds,
                    job.job_id,
                    error.code,
                    redact_url(job.image(index).url),
                )
            await wait(seconds)

    def _fail(self, window: Window, index: int, failure: Failure) -> None:
        job = window.job
        self.apply(job, Failed(index, failure, window.tries.get(index, 0)))
        _log.warning(
            "failed job=%s code=%s url=%s reason=%s",
            job.job_id,
            failure.code,
            redact_url(job.image(index).url),
            failure.message,
        )

    def _stop_image(self, window: Window, index: int, cancelled: asyncio.CancelledError) -> None:
        """The job was cancelled, or the service stops: fail the image, or leave it open."""
        job = window.job
        maybe_landed = getattr(cancelled, "maybe_landed", False)
        if maybe_landed:
            self.apply(job, ResponseLost(index))
        if window.ending is not None:
            self._fail(window, index, window.ending)
        elif job.image(index).uploading and not maybe_landed:
            self.apply(job, NotSent(index))

    def apply(self, job: Job, change: Change) -> None:
        """Make `change` true of `job`, and call the observers."""
        job.apply(change)
        for observer in self.observers:
            try:
                observer(job, change)
            except Exception:
                _log.exception("an observer of changes raised job=%s", job.job_id)


def bug_failure(error: Exception) -> Failure:
    """The failure of an image or an album that met a bug of ours."""
    message = f"A bug in the service: {type(error).__name__}."
    return ImageError("internal_error", message).failure()


def _uploaded(index: int, result: Result, tries: int) -> Uploaded:
    landed = result.landed
    assert landed is not None, "a claim gives only results that have landed"
    return Uploaded(index, landed.link, landed.deletehash, tries, not result.is_own)
