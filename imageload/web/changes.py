"""The one reader of Changes that wakes the event loop, and its listeners there.

    jobs' threads ── job, change ──► inbox ──► event loop ──► a JobFeed for each job listened to
                              one call wakes the loop, at most eight times a second

A Change of a job that nobody has listened to costs a look into a set. What wakes the loop is
paced here, in one place, so no listener hears of a job more often than that.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from imageload.errors import Refused
from imageload.job import Change, Job, Snapshot
from imageload.schemas import WaitingJson
from imageload.web.feeds import JobFeed, JobsFeed, Waiting
from imageload.web.news import Blocks

# With what a listener is sent at once, that is ten in no second more.
_TURN_SECONDS = 0.125
# To write to a listener takes some 0.1 ms; so many of them take a fifth of the loop, not all of it.
_LISTENER_SECONDS = 0.0005


_News = tuple[Job, Change, int] | None
"""A Change and the version it made; None: what jobs wait for."""


def waits_for_nothing(_: Snapshot) -> WaitingJson:
    """A Waiting for jobs that wait for nothing."""
    return {"waiting_until": None, "waiting_for": None}


class Changes:
    """A reader for a Road's `readers`; all but calling it and `nudge` is the event loop's.

    Every Change has to come here after it was applied, in the order of its job. `most` bounds the
    places, of which every event stream and every held answer takes one.
    """

    def __init__(self, most: int, waiting: Waiting = waits_for_nothing) -> None:
        self._most = most
        self._waiting = waiting
        self._loop: asyncio.AbstractEventLoop
        self._inbox: deque[_News] = deque()
        self._rung = False
        self._pace: asyncio.TimerHandle | None = None
        self._heard: set[str] = set()
        self._feeds: dict[str, JobFeed] = {}
        self._all: JobsFeed | None = None
        self.taken = 0
        """The places that are taken."""
        self._empty = asyncio.Event()
        self.is_closing = False
        self.blocks = Blocks()
        self.token = secrets.token_hex(4)
        """Another one in each run of the service, where versions begin anew."""

    def __call__(self, job: Job, change: Change) -> None:
        """Take note of `change`; from the job's thread, in a microsecond or two."""
        if self._all is not None or job.job_id in self._heard:
            self._tell((job, change, job.version))

    def nudge(self) -> None:
        """What jobs wait for is new, without a Change; from any thread."""
        if self._all is not None or self._heard:
            self._tell(None)

    def _tell(self, news: _News) -> None:
        self._inbox.append(news)
        if not self._rung:
            self._rung = True
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._pace is None:  # else two threads rang
            self._turn()

    def _turn(self) -> None:
        """Give out what has come, and again later, until nothing comes for the length of a turn."""
        self._pace = None
        if not self._inbox:
            self._rung = False
            if not self._inbox:  # else it came in between, and did not ring
                return
            self._rung = True
        seconds = max(_TURN_SECONDS, _LISTENER_SECONDS * self._give_out())
        self._pace = self._loop.call_later(seconds, self._turn)

    def _give_out(self) -> int:
        """Apply what is in the inbox to the feeds; gives how many listeners were woken."""
        told: dict[JobFeed, None] = {}
        for _ in range(len(self._inbox)):
            news = self._inbox.popleft()
            if news is None:
                told.update(dict.fromkeys(list(self._feeds.values())))
                if self._all is not None:
                    self._all.touch_unfinished()
                continue
            job, change, version = news
            feed = self._feeds.get(job.job_id)
            if feed is not None:
                feed.apply(job, change, version)
                told[feed] = None
            if self._all is not None:
                self._all.touch(job.job_id)
        return sum(feed.tell() for feed in told)

    def feed(self, job: Job) -> JobFeed:
        """What is new of `job`, from its first image on."""
        feed = self._feeds.get(job.job_id)
        if feed is None:
            self._loop = asyncio.get_running_loop()
            # Its Changes come to the inbox before the snapshot is taken, so none falls between;
            # those that are in both are known by their version.
            self._heard.add(job.job_id)
            feed = JobFeed(job.snapshot(), self.blocks, self._waiting)
            self._feeds[job.job_id] = feed
            weakref.finalize(job, self._forget, job.job_id).atexit = False
        return feed

    @property
    def feeds(self) -> int:
        """How many jobs are listened to, or were and are still kept."""
        return len(self._feeds)

    def _forget(self, job_id: str) -> None:
        self._heard.discard(job_id)
        self._feeds.pop(job_id, None)

    def all_jobs(self, jobs: Mapping[str, Job], existing: Iterable[Job]) -> JobsFeed:
        """What is new of all `jobs`, of which these are `existing`, oldest first."""
        if self._all is None:
            self._loop = asyncio.get_running_loop()
            self._all = JobsFeed(jobs, existing, self.blocks, self._waiting)
        return self._all

    def accepted(self, jobs: Iterable[Job]) -> None:
        """These jobs are new."""
        if self._all is not None:
            for job in jobs:
                self._all.touch(job.job_id)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place for one who stays; raises Refused at the limit or after `close`."""
        if self.is_closing:
            raise Refused("shutting-down", "The service is stopping. Come back in a while.")
        if self.taken >= self._most:
            raise Refused(
                "too-many-streams",
                f"{self.taken:,} event streams are open, which is the limit. Poll the job, or "
                "come back in a while.",
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
            if not self.taken:
                self._empty.set()

    async def close(self, seconds: float = 2.0) -> None:
        """Tell every listener what is left to tell, and that this is the end; wait for them."""
        self.is_closing = True
        self._give_out()
        for feed in list(self._feeds.values()):
            feed.bell.ring()
        if self._all is not None:
            self._all.tell()
        self._empty.clear()
        if self.taken:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)
