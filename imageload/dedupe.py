"""An image that is requested twice is loaded once: by its URL while jobs run, and by its bytes.

    claim.by_url()       None: load it, and `settle` the claim │ the Result of another image
    claim.by_content()   the same for its bytes                │ that has the same URL or bytes

The first to claim a key leads; the others wait for its Result. A URL's content may change, so a
Result that is known by URL serves only jobs that were running when it came; the link of bytes is
kept until it is forgotten (a purge). Images are the same only with the same title and description.
Runs on the transfer loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from imageload.errors import Failure, ImageError
from imageload.image import Image, Landed, Report, texts_key
from imageload.job import Job


class Result(NamedTuple):
    """How an image ended: where it landed, or why it failed. Neither: claim it again.

    `is_own`: for the image that was uploaded itself, not for those that reuse its link.
    """

    report: Report | None = None
    landed: Landed | None = None
    failure: Failure | None = None
    is_own: bool = False


class SharedFailure(ImageError):
    """Another image that has the same URL or bytes failed, and this one with it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__("internal_error", failure.message)
        self._failure = failure

    def failure(self) -> Failure:
        """The failure of the other image."""
        return self._failure


@dataclass(slots=True)
class _InFlight:
    """A key that some image leads; `followers` wait for its Result."""

    followers: list[asyncio.Future[Result]] = field(default_factory=list)


class Dedupe:
    """The claims of all jobs."""

    def __init__(self, *, keeps_links: bool = True) -> None:
        """Without `keeps_links` the store has the links of bytes, as a purge on another node would
        not be seen here.
        """
        self._keeps_links = keeps_links
        self._in_flight: dict[str, _InFlight] = {}
        self._links: dict[str, Landed] = {}
        self._by_url: dict[str, tuple[int, Result]] = {}
        self._order: deque[tuple[int, str]] = deque()
        self._clock = 0
        self._running: dict[str, int] = {}

    def restore(self, jobs: Iterable[Job], link_base: str) -> Callable[[], None]:
        """A function, for the loop, that makes the links of these jobs known; for any thread.

        Links that do not begin with `link_base` are another target's. A link that is dead in one
        job is not used, though others may still have it; so an image's own upload counts for more
        than a link that was reused.
        """
        known: dict[str, Landed] = {}
        uploaded: dict[str, Landed] = {}
        dead: set[str | None] = set()
        for job in jobs if self._keeps_links else ():
            for image in job.snapshot().images:
                link, report = image.link, image.report
                if image.is_lost:
                    dead.add(link)
                elif job.dedupe and link and report and link.startswith(link_base):
                    # Without texts this is the report's own string: 10^6 copies take 110 MB.
                    key = report.sha256 + texts_key(image.title, image.description)
                    found = known if image.reused else uploaded
                    found[key] = Landed(link, image.deletehash)
        known.update(uploaded)
        if dead:
            known = {key: each for key, each in known.items() if each.link not in dead}
        return lambda: self._links.update(known)

    def begin(self, *job_ids: str) -> None:
        """These jobs run from now on."""
        for job_id in job_ids:
            self._running.setdefault(job_id, self._clock)

    def end(self, job_id: str) -> None:
        """The job runs no more; Results by URL that serve no running job are forgotten."""
        self._running.pop(job_id, None)
        # The clock only rises, so the first to begin is the oldest.
        oldest = next(iter(self._running.values()), self._clock)
        while self._order and self._order[0][0] <= oldest:
            moment, url = self._order.popleft()
            if self._by_url.get(url, (0,))[0] == moment:
                del self._by_url[url]

    def claim(self, job: Job, image: Image) -> Claim:
        """The claim of one image of a running job. It is empty if the job wants no dedupe."""
        return Claim(self, job, image)

    def forget(self, links: Set[str]) -> None:
        """These links are gone from the target, or about to be: load their bytes and URLs again."""
        self._links = {k: each for k, each in self._links.items() if each.link not in links}
        for url, (_, result) in list(self._by_url.items()):
            if result.landed is not None and result.landed.link in links:
                del self._by_url[url]

    @property
    def results_kept(self) -> int:
        """How many Results are kept by URL for jobs that run."""
        return len(self._by_url)

    def known(self, key: str, job_id: str) -> Result | None:
        """The Result of this key, if it is known and may serve the job."""
        kind, _, name = key.partition(":")
        if kind == "sha256":
            landed = self._links.get(name)
            return Result(landed=landed) if landed is not None else None
        moment, result = self._by_url.get(name, (-1, None))
        return result if moment > self._running.get(job_id, self._clock) else None

    def lead(self, key: str) -> bool:
        """True: the caller leads this key from now on. False: another image does."""
        if key in self._in_flight:
            return False
        self._in_flight[key] = _InFlight()
        return True

    async def lead_or_follow(self, key: str) -> Result | None:
        """None: the caller leads this key. Else the Result of the image that led it."""
        if self.lead(key):
            return None
        following: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._in_flight[key].followers.append(following)
        return await following

    def settle(self, key: str, result: Result) -> None:
        """The image that led this key has ended with `result`."""
        if result.landed is not None:
            kind, _, name = key.partition(":")
            if kind == "sha256":
                if self._keeps_links:
                    self._links[name] = result.landed
            else:
                self._clock += 1
                self._by_url[name] = self._clock, result
                self._order.append((self._clock, name))
        for following in self._in_flight.pop(key).followers:
            if not following.done():
                following.set_result(result)


class Claim:
    """The keys that one image leads or follows. `settle` must be called however the image ends."""

    def __init__(self, dedupe: Dedupe, job: Job, image: Image) -> None:
        self._dedupe = dedupe
        self._job = job
        self._url = image.url
        self._texts = texts_key(image.title, image.description)
        self._led: list[str] = []

    async def by_url(self) -> Result | None:
        """None: download the URL. Else the Result of an image with the same URL.

        Raises SharedFailure.
        """
        return await self._claim(f"url:{self._url}{self._texts}")

    def lead_url(self) -> None:
        """Never follow by URL; others may follow this image, if it is the first of its URL."""
        key = f"url:{self._url}{self._texts}"
        if self._job.dedupe and self._dedupe.lead(key):
            self._led.append(key)

    async def by_content(self, sha256: str) -> Result | None:
        """None: upload the bytes. Else the Result of an image with the same bytes.

        Raises SharedFailure.
        """
        return await self._claim(f"sha256:{sha256}{self._texts}")

    def settle(self, result: Result | None = None) -> None:
        """The image has ended with `result`; None: others have to load it themselves."""
        led, self._led = self._led, []
        for key in led:
            self._dedupe.settle(key, result or Result())

    async def _claim(self, key: str) -> Result | None:
        if not self._job.dedupe:
            return None
        while True:
            result = self._dedupe.known(key, self._job.job_id)
            if result is None:
                result = await self._dedupe.lead_or_follow(key)
            if result is None:
                self._led.append(key)
                return None
            if result.failure is not None:
                raise SharedFailure(result.failure)
            if result.landed is not None:
                return result
