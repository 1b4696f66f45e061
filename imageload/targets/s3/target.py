"""S3 as a target: an image is one object, named by its bytes, however often it is uploaded.

So a lost response or a kill costs nothing but another PUT, and nothing is ever marked as maybe
there twice. What is shared must not be deleted: an object's uploads and its deletion exclude each
other. Runs on the transfer loop; other threads may read the properties.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence, Set

from imageload import errors
from imageload.image import Landed
from imageload.targets import Albums, Takes, Upload
from imageload.targets.limits.breaker import Rejections
from imageload.targets.limits.budget import BudgetView
from imageload.targets.limits.quota import ASKING, DELETION, UPLOAD, Kind, Quota
from imageload.targets.s3.bucket import Bucket, name_of
from imageload.targets.uploads import QueuedTarget, Uploads

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 60.0


class S3(QueuedTarget):
    """Uploads to `bucket`, by quotas that have one Quota, without limits."""

    place = "the bucket"
    is_repeatable = True
    has_budgets = False
    strips_metadata = False
    albums: Albums | None = None
    takes = Takes()

    def __init__(self, bucket: Bucket, uploads: Uploads) -> None:
        super().__init__(uploads)
        self.name, self.link_base = bucket.location.name, bucket.location.link_base
        self.quotas.is_limited = False
        (self._quota,) = self.quotas.each
        self._bucket = bucket
        self._objects = _Objects()
        self._asking: asyncio.Task[None] | None = None
        self._ask_seconds = self.quotas.terms.unhinted_wait  # to the next time, when one is refused
        self._looking: asyncio.Task[None] | None = None
        self._look_at = 0.0
        self.trouble: str | None = None

    async def land(self, key: str, upload: Upload) -> Landed:
        """`Target.land`."""
        name = name_of(upload)
        link = self._bucket.link(name)

        async def send(upload: Upload) -> Landed | None:
            async with self._objects.landing(link):
                return await self._send(name, upload)

        landed = await self._uploads.land(key, upload, send)
        self._look(link)
        return landed

    async def delete(self, key: str, landed: Landed) -> None:
        """`Target.delete`; upload_rejected if the image is in no bucket of ours."""
        name = self._bucket.name_in(landed.link)
        if name is None:
            message = f"This image is not in {self.name}, where images go now: it was not deleted."
            raise errors.UploadError("upload_rejected", message)

        async def call() -> None:
            with await self._quota.reserve(DELETION):
                await self._bucket.delete(name)

        is_refused = functools.partial(self._is_refused, DELETION)
        await self._uploads.call(key, DELETION, call, is_refused)

    async def has(self, link: str) -> bool | None:
        """`Target.has`."""
        name = self._bucket.name_in(link)
        try:
            return None if name is None else await self._bucket.has(name)
        except errors.ImageError:
            return None

    def deleting(self, links: Set[str]) -> contextlib.AbstractAsyncContextManager[None]:
        """`Target.deleting`."""
        return self._objects.deleting(links)

    async def ask(self) -> None:
        """`Target.ask`."""
        self.ask_for(self._quota)

    def ask_for(self, _: Quota) -> None:
        """`Target.ask_for`: uploads do not wait for the response."""
        self._ask(0.0)

    def budgets(self) -> Sequence[BudgetView]:
        """`Target.budgets`."""
        return ()

    async def _send(self, name: str, upload: Upload) -> Landed | None:
        if not upload.may_send():
            return None
        try:
            with await self._quota.reserve(UPLOAD, upload.content):
                await self._bucket.put(name, upload)
        except errors.UploadError as error:
            if self._is_refused(UPLOAD, error):
                return None
            raise
        self._ask_seconds = self.quotas.terms.unhinted_wait
        return Landed(self._bucket.link(name))

    def _is_refused(self, kind: Kind, error: errors.UploadError) -> bool:
        """True if any other request of this kind would have failed too, and may succeed later."""
        if isinstance(error, errors.CredentialsRefused):
            self._ask(self._ask_seconds)
            return True
        if isinstance(error, errors.QuotaExceeded):
            return True
        is_all = error.target_is_away or error.name in Rejections.NAMES
        return self._quota.breakers[kind.endpoint].backoff is not None and is_all

    def _ask(self, seconds: float) -> None:
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask_until_taken(seconds))

    async def _ask_until_taken(self, seconds: float) -> None:
        """Prove, in so many seconds, that the bucket takes our requests; again if it does not.

        Keys that may read and not write are proved, and their next upload is refused: then it is
        asked later and later.
        """
        try:
            while True:
                await asyncio.sleep(seconds)
                seconds = self._ask_seconds
                self._ask_seconds = min(2 * seconds, self.quotas.terms.longest_wait)
                try:
                    with await self._quota.reserve(ASKING):
                        await self._bucket.probe()
                except errors.CredentialsRefused as error:
                    _log.error("uploads wait target=%s: %s", self.name, error.message)
                except errors.ImageError as error:
                    _log.warning("no proof of target=%s: %s", self.name, error.message)
                    if self._quota.access.backoff is None:
                        return  # uploads find out
                else:
                    return
        finally:
            self._asking = None
            self.reconsider()

    def _look(self, link: str) -> None:
        """See whether links open, at the first one; if they do not, again in a while."""
        now = time.monotonic()
        if self._looking is None and now >= self._look_at:
            self._looking = asyncio.ensure_future(self._look_at_link(link))

    async def _look_at_link(self, link: str) -> None:
        try:
            reason = await self._bucket.look(link)
        finally:
            self._looking = None
        if reason is None:
            self._look_at, self.trouble = float("inf"), None
            _log.info("links of the bucket open target=%s", self.name)
            return
        self._look_at = time.monotonic() + _LOOK_SECONDS
        self.trouble = (
            f"Links of the bucket do not open without keys ({reason}): {link}. Make the bucket "
            "public for reading, or set --s3-public-url to where it is."
        )
        _log.warning("%s", self.trouble)


class _Objects:
    """Keeps the uploads of an object and its deletion apart. Uploads do not exclude each other."""

    def __init__(self) -> None:
        self._landing: Counter[str] = Counter()
        self._deleting: set[str] = set()
        self._changed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def landing(self, link: str) -> AsyncIterator[None]:
        """Held while an object is uploaded. Its end lets nothing else run on the loop."""
        while link in self._deleting:
            await self._changed.wait()
        self._landing[link] += 1
        try:
            yield
        finally:
            self._landing[link] -= 1
            if not self._landing[link]:
                del self._landing[link]
            self._notify()

    @contextlib.asynccontextmanager
    async def deleting(self, links: Set[str]) -> AsyncIterator[None]:
        """Held while objects are deleted: all of `links` at once, so no two wait for each other."""
        while links & self._deleting:
            await self._changed.wait()
        self._deleting |= links
        try:
            while links & self._landing.keys():
                await self._changed.wait()
            yield
        finally:
            self._deleting -= links
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
