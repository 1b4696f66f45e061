"""The jobs of all nodes, as one node shows them: read from the tables, never written here.

    GET ─► find ─► the Job, with the Changes of other nodes ─► the handlers
    listeners ─► one query in 125 ms for all of their jobs ─► Mirrored ─► events

A Job that was requested lately is kept in memory, and only its changed slices are read again. Runs
on Tornado's loop; the database is read in threads.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from imageload.cluster.budgets import Budgets
from imageload.cluster.lease import UNKNOWING, LeaseRules, blocked_of, soonest
from imageload.errors import ImageLoadError, shutting_down
from imageload.job import Change, Job, Only, Snapshot
from imageload.jobs import CANCELLED, CancelResult
from imageload.registry import Order, Sender, Watch, jobs_of
from imageload.store import Posted, Totals
from imageload.store.postgres.store import PostgresStore
from imageload.targets import Blocked, BudgetView, Endpoint, Terms

_log = logging.getLogger(__name__)

T = TypeVar("T")

_POLL_SECONDS = 0.125
_LOOK_SECONDS = 0.5
_WORKERS_SECONDS = 1.0
_KNOWN_SECONDS = 5.0
_KEPT_JOBS = 1_000
_OBEY_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorRules:
    """`most_bytes` bounds the jobs that are kept. `own_closed`: why requests wait on this node.

    A worker without a beat for `dead_seconds` is dead. `leases`, `terms` and `has_budgets`
    are those of the target.
    """

    most_bytes: int
    dead_seconds: float
    leases: LeaseRules
    terms: Terms
    has_budgets: bool
    own_closed: Callable[[Endpoint], Blocked | None]


class Mirror:
    """The jobs, for handlers; `observers` get every Mirrored Change.

    `watch` has the jobs with listeners; None: no job has any. `worker`: the name of this node's.
    """

    has_links = False

    def __init__(
        self,
        store: PostgresStore,
        observers: Iterable[Callable[[Job, Change], object]],
        watch: Watch | None,
        rules: MirrorRules,
        worker: str | None = None,
    ) -> None:
        self._store = store
        self._observers = tuple(observers)
        self._watch = watch
        self._rules = rules
        self._worker = worker
        self._kept: OrderedDict[str, Job] = OrderedDict()
        self._kept_bytes = 0
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._newest = ""
        self._looking = asyncio.Lock()
        self._others: dict[str, Blocked | None] = {}
        self._heard = float("-inf")  # of the workers
        self._budgets = Budgets(rules.leases, rules.terms)
        self.listed: dict[str, Snapshot] = {}
        self.workers: int | None = None
        self.trouble: str | None = None
        self.is_closing = False

    def upload(self, orders: Sequence[Order], sender: Sender | None = None) -> list[Job]:
        """Store a Job for each order; workers begin with them. Blocks; raises Refused."""
        if self.is_closing:
            raise shutting_down()
        jobs, documents = jobs_of(orders)
        posted = Posted(*sender, tuple(job.job_id for job in jobs)) if sender else None
        self._store.accept(jobs, posted=posted, documents=documents)
        for job in jobs:
            _log.info("accepted job=%s urls=%d", job.job_id, len(job))
        return jobs

    async def find(self, job_id: str) -> Job | None:
        """The job as it is now, or None."""
        async with self._lock(job_id):
            job = self._kept.get(job_id)
            if job is not None and await self._refresh(job):
                return job
            job = await asyncio.to_thread(self._store.load, job_id)
            if job is not None:
                self._keep(job)
            return job

    def _lock(self, job_id: str) -> asyncio.Lock:
        """Held while the job is read; it is forgotten once it is neither held nor waited for."""
        return self._locks.setdefault(job_id, asyncio.Lock())

    async def _refresh(self, job: Job) -> bool:
        """Apply the Changes of other nodes, under the job's lock; False if it was deleted."""
        try:
            change = await asyncio.to_thread(self._store.changes, job)
        except LookupError:
            self._drop(job)
            return False
        if change is not None:
            job.apply(change)
            for observer in self._observers:
                observer(job, change)
        if self._kept.get(job.job_id) is job:
            self._kept.move_to_end(job.job_id)
        return True

    def _keep(self, job: Job) -> None:
        self._kept[job.job_id] = job
        self._kept_bytes += job.memory_bytes
        while len(self._kept) > 1 and (
            len(self._kept) > _KEPT_JOBS or self._kept_bytes > self._rules.most_bytes
        ):
            self._drop(next(iter(self._kept.values())))

    def _drop(self, job: Job) -> None:
        if self._kept.get(job.job_id) is job:
            del self._kept[job.job_id]
            self._kept_bytes -= job.memory_bytes

    async def newest(self, after: str | None, limit: int) -> list[Snapshot]:
        """Summaries of jobs, newest first, older than the job `after`; raises LookupError."""
        return await asyncio.to_thread(self._store.newest, after, limit)

    async def cancel(self, job: Job) -> CancelResult:
        """Fail open images as `cancelled`; returns how many were open."""
        return await self._cancel(job, purge=False)

    async def purge(self, job: Job) -> CancelResult:
        """`cancel`, and delete the job's images from the target."""
        return await self._cancel(job, purge=True)

    async def _cancel(self, job: Job, *, purge: bool) -> CancelResult:
        self._check_closing()
        done = await asyncio.to_thread(self._store.cancel, job.job_id, CANCELLED, purge=purge)
        landed = done.before.counts["completed"] if purge else 0
        await self._follow(job, until_finished=not purge)
        return CancelResult(done.images, landed)

    async def retry(self, job: Job, only: Only = None) -> int:
        """Load again the failed images that `only` chooses; returns how many."""
        self._check_closing()
        done = await asyncio.to_thread(self._store.retry, job.job_id, only)
        await self._follow(job, until_finished=False)
        return done.images

    async def rehost(self, job: Job, dead: Mapping[int, int]) -> int:
        """Load again images whose links are dead, by index and version; returns how many."""
        self._check_closing()
        done = await asyncio.to_thread(self._store.rehost, job.job_id, dead)
        await self._follow(job, until_finished=False)
        return done.images

    async def _follow(self, job: Job, *, until_finished: bool) -> None:
        """Show the new state; wait a little until the workers of the job have followed."""
        until = time.monotonic() + _OBEY_SECONDS
        while True:
            async with self._lock(job.job_id):
                is_there = await self._refresh(job)
            is_over = not until_finished or job.summary().finished
            if is_over or not is_there or time.monotonic() > until:
                return
            await asyncio.sleep(_POLL_SECONDS / 2)

    def _check_closing(self) -> None:
        if self.is_closing:
            raise shutting_down()

    async def act(self, action: Coroutine[Any, Any, T]) -> T:
        """The result of one of the coroutines above."""
        return await action

    def jobs(self) -> list[Job]:
        """None: the store lists the links of all jobs."""
        return []

    def totals(self) -> Totals:
        """How many jobs and images there are; blocks."""
        return self._store.totals()

    def closed(self, endpoint: Endpoint) -> Blocked | None:
        """Why requests of this kind wait for the target, and until when.

        Uploads wait if they do on all workers, until the first of them goes on. The waits of other
        workers are known with some delay.
        """
        own = self._rules.own_closed(endpoint)
        if endpoint != "uploads":
            return own
        others: list[Blocked | None] = []
        is_known = time.monotonic() - self._heard < _KNOWN_SECONDS
        if is_known:
            found = self._others.values()
            others = [each for each in found if each is None or each.reason not in UNKNOWING]
        has_no_lease = own is not None and own.reason == "lease"
        if self._worker is None or (has_no_lease and is_known):
            return soonest(others)
        return soonest([own, *others])

    def parked(self) -> int:
        """How many images wait for the target without a worker; blocks."""
        return self._store.count_parked()

    def budgets(self) -> Sequence[BudgetView]:
        """The limits of the target, as the nodes that upload know them."""
        return self._budgets.views() if self._rules.has_budgets else ()

    def seconds_for(self, uploads: int) -> float:
        """How long so many uploads will take, by the limits; inf: unknown."""
        closed = self.closed("uploads")
        wait = closed.until - time.monotonic() if closed is not None else 0.0
        return max(wait, self._budgets.seconds_for(uploads))

    async def run(self) -> None:
        """Follow the jobs with listeners, and the workers, until it is cancelled."""
        looked = asked = float("-inf")
        while True:
            now = time.monotonic()
            try:
                if now - asked >= _WORKERS_SECONDS:
                    asked = now
                    await self._ask_about_workers()
                if self._watch is not None and self._watch.watches_all:
                    if now - looked >= _LOOK_SECONDS:
                        looked = now
                        await self._look(is_all=False)
                else:
                    self._newest = ""  # the next look is one at all jobs
                if self._watch is not None:
                    await self._follow_watched(self._watch.watched())
            except ImageLoadError as error:
                self.trouble = str(error)
                _log.debug("no look at the jobs: %s", error)
            except Exception:
                _log.exception("a bug in the mirror")
            await asyncio.sleep(_POLL_SECONDS)

    async def _follow_watched(self, watched: Sequence[Job]) -> None:
        if not watched:
            return
        versions = await asyncio.to_thread(self._store.versions, watched)
        for job, version in versions.items():
            if version is not None and (version != job.version or not job.is_settled):
                async with self._lock(job.job_id):
                    await self._refresh(job)

    async def look(self) -> None:
        """Bring `listed` up to date with all jobs, for a new listener to all of them."""
        await self._look(is_all=not self._newest)

    async def _look(self, *, is_all: bool) -> None:
        async with self._looking:
            open_ = [each.job_id for each in self.listed.values() if not each.finished]
            newest = "" if is_all else self._newest
            found = await asyncio.to_thread(self._store.active, open_, newest)
            changed = []
            for each in found:
                before = self.listed.get(each.job_id)
                if before is None or before.version != each.version:
                    changed.append(each.job_id)
            if not newest:
                self.listed.clear()  # retired jobs leave it
            self.listed.update((each.job_id, each) for each in found)
            self._newest = next(reversed(self.listed), "")
            if self._watch is not None:
                self._watch.touch(changed)

    async def _ask_about_workers(self) -> None:
        dead, prefix = self._rules.dead_seconds, self._budgets.prefix
        workers = await asyncio.to_thread(self._store.workers, dead, prefix)
        # The worker of a node that has just started may not have sent a heartbeat.
        self.workers = workers.living or int(self._worker is not None)
        self.trouble = None
        self._budgets.learn(workers.leases)
        before = self.closed("uploads")
        self._heard = time.monotonic()
        self._others = {
            name: _steady(self._others.get(name), blocked_of(wait))
            for name, wait in workers.waits.items()
            if name != self._worker
        }
        if self._watch is not None and self.closed("uploads") != before:
            self._watch.notify()


def _steady(before: Blocked | None, now: Blocked | None) -> Blocked | None:
    """`now`, or `before` if that is the same but for the inaccuracy of the clocks."""
    if before is None or now is None or before.reason != now.reason:
        return now
    return before if abs(before.until - now.until) < 1.0 else now
