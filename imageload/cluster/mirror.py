"""The jobs of all nodes, as one node shows them: read from the tables, never written here.

    GET ─► find ─► the Job, with what other nodes have changed since ─► the handlers, as ever
    listeners ─► one query in 125 ms for all of their jobs ─► Mirrored ─► events

A Job that was asked for lately is kept, and only changed slices are read again. Runs on Tornado's
loop; the database is asked in threads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from imageload.errors import ImageError, ImageLoadError, Refused
from imageload.job import Change, Job, Snapshot
from imageload.jobs import CancelResult
from imageload.loader import Order, Sender
from imageload.store import Posted, Totals
from imageload.store.postgres.store import PostgresStore

_log = logging.getLogger(__name__)

T = TypeVar("T")

_POLL_SECONDS = 0.125
_LIST_SECONDS = 0.5
_KEPT_JOBS = 1_000
_KEPT_IMAGES = 500_000
_OBEY_SECONDS = 2.0
_CANCELLED = ImageError(
    "cancelled", "The job was cancelled before this image was finished."
).failure()


class Mirror:
    """What handlers need of the jobs; `observers` get every Mirrored Change."""

    def __init__(
        self,
        store: PostgresStore,
        observers: Iterable[Callable[[Job, Change], object]],
        watched: Callable[[], Iterable[Job]],
    ) -> None:
        self._store = store
        self._observers = tuple(observers)
        self._watched = watched
        self._kept: OrderedDict[str, Job] = OrderedDict()
        self.job_list_s: dict[str, Job] = self._kept
        # A lock is kept as long as somebody has it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.is_closing = False
        self.has_links = False

    def upload(self, orders: Sequence[Order], sender: Sender | None = None) -> list[Job]:
        """Store a Job for each order; workers begin with them. Blocks; raises Refused."""
        if self.is_closing:
            raise Refused("shutting-down", "The service is stopping. Send this again in a while.")
        jobs = [
            Job(each.items, dedupe=each.dedupe, album=each.album, callback=each.callback)
            for each in orders
        ]
        posted = Posted(*sender, tuple(job.job_id for job in jobs)) if sender else None
        self._store.accept(jobs, posted=posted)
        for job in jobs:
            _log.info("accepted job=%s urls=%d", job.job_id, len(job))
        return jobs

    async def find(self, job_id: str) -> Job | None:
        """The job as it is now, or None."""
        lock = self._locks.setdefault(job_id, asyncio.Lock())
        async with lock:
            job = self._kept.get(job_id)
            if job is None:
                job = await asyncio.to_thread(self._store.load, job_id)
                if job is not None:
                    self._keep(job)
            else:
                self._kept.move_to_end(job_id)
                await self._refresh(job)
            return job

    async def newest(self, after: str | None, limit: int) -> list[Snapshot]:
        """Summaries of jobs, newest first, older than the job `after`; raises LookupError."""
        return await asyncio.to_thread(self._store.newest, after, limit)

    async def cancel(self, job: Job) -> CancelResult:
        """Fail what has not ended as `cancelled`; how many images that may be."""
        return await self._cancel(job, purge=False)

    async def purge(self, job: Job) -> CancelResult:
        """`cancel`, and delete from the target what the job has landed."""
        return await self._cancel(job, purge=True)

    async def _cancel(self, job: Job, *, purge: bool) -> CancelResult:
        done = await asyncio.to_thread(self._store.cancel, job.job_id, _CANCELLED, purge=purge)
        landed = done.before.counts["completed"] if purge else 0
        await self._until(job, lambda: job.summary().finished or purge)
        return CancelResult(done.images, landed)

    async def retry(self, job: Job, *, only_transient: bool = False) -> int:
        """Load failed images again; how many they are."""
        done = await asyncio.to_thread(self._store.retry, job.job_id, only_transient=only_transient)
        await self._until(job, lambda: True)
        return done.images

    def jobs(self) -> list[Job]:
        """None: the store lists the links of all jobs."""
        return []

    def totals(self) -> Totals:
        """How many jobs and images there are; blocks."""
        return self._store.totals()

    async def act(self, action: Coroutine[Any, Any, T]) -> T:
        """The result of one of the coroutines above."""
        return await action

    async def run(self) -> None:
        """Follow the jobs that somebody listens to, until it is cancelled."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            watched = list(self._watched())
            if not watched:
                continue
            try:
                versions = await asyncio.to_thread(self._store.versions, watched)
                for job, version in versions.items():
                    if version is not None and version != job.version:
                        await self.find(job.job_id)
            except ImageLoadError as error:
                _log.debug("no look at the jobs: %s", error)
            except Exception:
                _log.exception("a bug in the mirror")

    async def _refresh(self, job: Job) -> None:
        change = await asyncio.to_thread(self._store.changes, job)
        if change is not None:
            job.apply(change)
            for observer in self._observers:
                observer(job, change)

    async def _until(self, job: Job, is_so: Callable[[], bool]) -> None:
        """Wait a little for the nodes that have slices of the job to follow."""
        until = time.monotonic() + _OBEY_SECONDS
        while True:
            lock = self._locks.setdefault(job.job_id, asyncio.Lock())
            async with lock:
                await self._refresh(job)
            if is_so() or time.monotonic() > until:
                return
            await asyncio.sleep(_POLL_SECONDS / 2)

    def _keep(self, job: Job) -> None:
        self._kept[job.job_id] = job
        images = sum(map(len, self._kept.values()))
        while len(self._kept) > _KEPT_JOBS or (images > _KEPT_IMAGES and len(self._kept) > 1):
            _, dropped = self._kept.popitem(last=False)
            images -= len(dropped)
