"""Events: brings Changes to the topics on Tornado's loop, and wakes their subscribers.

    transfer loop ── (job, change) ──► queue ──► Tornado's loop ──► JobEvents     ──► subscribers,
                              one wake in 125 ms at most       └──► AllJobsEvents     each an
                                                                                      asyncio.Event

A topic (`topics.py`) has the events that a subscriber is sent. This module knows no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from imageload.errors import Refused
from imageload.job import Change, Job
from imageload.registry import Summarized
from imageload.web.topics import AllJobsEvents, JobEvents, Topic, Waiting

# Eight wakes a second, and the event that greets a subscriber: at most ten in any second.
_WAKE_SECONDS = 0.125
# A write to a subscriber takes 0.1 ms. With many subscribers, wakes are rarer: a fifth of the loop.
_SUBSCRIBER_SECONDS = 0.0005


class Events:
    """An observer of Changes that wakes Tornado's loop, and the topics that clients subscribe to.

    `events(job, change)` and `notify` may be called from any thread, all else from Tornado's loop.
    `limit` bounds the subscribers: event streams, and answers that `Prefer: wait` holds.
    """

    def __init__(self, limit: int, waiting: Waiting) -> None:
        self._limit = limit
        self._waiting = waiting
        self._loop: asyncio.AbstractEventLoop
        self._queue: deque[tuple[Job, Change, int] | None] = deque()
        self._changed: set[JobEvents] = set()
        """Topics whose subscribers are to be notified."""
        self._wake_requested = False
        self._next_wake = 0.0
        self._jobs: weakref.WeakKeyDictionary[Job, JobEvents] = weakref.WeakKeyDictionary()
        self._all: AllJobsEvents | None = None
        self._idle = asyncio.Event()
        self.subscribers = 0
        self.is_closing = False

    def __call__(self, job: Job, change: Change) -> None:
        """Queue `change`, which was applied to `job`; a microsecond, if nobody has subscribed."""
        if self._all is not None or job in self._jobs:
            self._queue.append((job, change, job.version))
            self._request_wake()

    def watched(self) -> list[Job]:
        """The jobs that somebody has subscribed to."""
        return [job for job, topic in list(self._jobs.items()) if topic.subscribers]

    def notify(self) -> None:
        """Notify all: jobs wait for something else, or no longer. No Change says so."""
        if self._all is not None or self._jobs:
            self._queue.append(None)
            self._request_wake()

    def _request_wake(self) -> None:
        if not self._wake_requested:
            self._wake_requested = True
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._schedule_delivery)

    def _schedule_delivery(self) -> None:
        self._loop.call_at(max(self._next_wake, self._loop.time()), self._deliver)

    def _deliver(self) -> None:
        """Give the queued Changes to their topics, and notify."""
        self._wake_requested = False  # before the queue is read: a later Change wakes us again
        self._apply_queued()
        changed, self._changed = self._changed, set()
        notified = sum(topic.notify() for topic in changed)
        seconds = max(_WAKE_SECONDS, _SUBSCRIBER_SECONDS * notified)
        self._next_wake = self._loop.time() + seconds

    def _apply_queued(self) -> None:
        for _ in range(len(self._queue)):
            queued = self._queue.popleft()
            if queued is None:
                self._changed.update(self._jobs.values())
                if self._all is not None:
                    self._all.touch_unfinished()
                continue
            job, change, version = queued
            topic = self._jobs.get(job)
            if topic is not None:
                topic.apply(change, version)
                topic.blocks.clear()
                self._changed.add(topic)
            if self._all is not None:
                self._all.touch(job.job_id)

    def of_job(self, job: Job) -> JobEvents:
        """The events of `job`, from its first image on."""
        topic = self._jobs.get(job)
        if topic is None:
            self._loop = asyncio.get_running_loop()
            # Registered first: Changes are queued before the snapshot is taken, so none is missed.
            topic = self._jobs[job] = JobEvents(job, self._waiting)
            topic.load(job.snapshot())
        else:
            self._apply_queued()  # or they would be sent as they were, and again as they are
        return topic

    @property
    def watches_all(self) -> bool:
        """True if somebody has subscribed to the events of all jobs."""
        return self._all is not None and bool(self._all.subscribers)

    def of_all_jobs(self, jobs: Mapping[str, Summarized]) -> AllJobsEvents:
        """The events of all `jobs`, which are in the order of their creation."""
        if self._all is None:
            self._loop = asyncio.get_running_loop()
            self._all = AllJobsEvents(jobs, self._waiting)
        return self._all

    def touch(self, job_ids: Iterable[str]) -> None:
        """These jobs are new, or have changed."""
        if self._all is not None:
            for job_id in job_ids:
                self._all.touch(job_id)

    @contextlib.contextmanager
    def subscribe(self, topic: Topic[Any], changed: asyncio.Event) -> Iterator[None]:
        """Set `changed` when the topic is notified; Refused at the limit and after `close`."""
        if self.is_closing:
            raise Refused("shutting-down", "The service is stopping. Try again in a while.")
        if self.subscribers >= self._limit:
            raise Refused(
                "too-many-streams",
                f"{self.subscribers:,} event streams are open, which is the limit. Poll the job, "
                "or try again in a while.",
            )
        self.subscribers += 1
        topic.subscribers.add(changed)
        try:
            yield
        finally:
            topic.subscribers.discard(changed)
            if not topic.subscribers:
                topic.blocks.clear()
            self.subscribers -= 1
            if not self.subscribers:
                self._idle.set()

    async def close(self, seconds: float = 2.0) -> None:
        """Notify all subscribers for the last time, and wait until their streams have ended."""
        self.is_closing = True
        if self._queue:
            self._deliver()
        for topic in list(self._jobs.values()):
            topic.notify()
        if self._all is not None:
            self._all.flush()
        self._idle.clear()
        if self.subscribers:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)
