"""ImageLoad: takes jobs, and gives each of them a background thread of its own.

    upload(orders) ─► Jobs in job_list_s ─► a thread each: begin_upload(job)
                                              └─► Jobs.work(job) on the transfer loop; waits

A job gets a thread again for a retry or a purge. At most `max_active_jobs` are at work; other jobs
wait, pending, in the order they came, and a thread whose job has ended begins the next of them. A
job that only waits for its origins is not counted, so that slow origins keep no other job from
starting. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import dropwhile, islice
from typing import Any, TypeVar

from imageload.errors import Refused, shutting_down
from imageload.image import memory_of
from imageload.job import Job, Only, Snapshot
from imageload.jobs import CancelResult, Jobs, WindowRules
from imageload.pipeline import Pipeline
from imageload.registry import Order, Sender, Summarized, jobs_of
from imageload.retention import KeptJobs, Retention
from imageload.store import Posted, Totals
from imageload.targets import Blocked, BudgetView, Endpoint
from imageload.transport.curl import TransferLoop
from imageload.window import STALL_SECONDS

_log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS_PER_ACTIVE_JOB = 16
"""Bounds the threads of jobs that only wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How many jobs are at work, and how many wait for a thread."""

    max_active_jobs: int = 64
    max_waiting_jobs: int = 10_000


class ImageLoad:
    """Takes lists of URLs and loads them in the background.

    `job_list_s` maps every jobId to its Job, oldest first. `upload`, `restore` and `close` may be
    called from any thread but the transfer loop's; `cancel`, `retry`, `rehost`, `purge` and
    `retire` are coroutines for the transfer loop.
    """

    def __init__(
        self,
        transfers: TransferLoop,
        pipeline: Pipeline,
        rules: WindowRules,
        capacity: Capacity,
        retention: Retention,
    ) -> None:
        self.has_links = True
        self.workers: int | None = None
        self.kept = KeptJobs(retention)
        self.job_list_s: dict[str, Job] = self.kept.by_id
        self._target = pipeline.target
        self._transfers = transfers
        self._store = pipeline.store
        self._dedupe = pipeline.dedupe
        self._spool = pipeline.spool
        self.at_work = Jobs(pipeline, rules, self._links_of_others)
        self._capacity = capacity
        self._lock = threading.Lock()
        self._waiting: dict[str, Job] = {}
        self._active: set[str] = set()
        """The jobs that have threads, or get them now."""
        self._job_ended = threading.Condition(self._lock)
        self._again: set[str] = set()
        self._will_look = False
        self.is_closing = False

    def upload(self, orders: Sequence[Order], sender: Sender | None = None) -> list[Job]:
        """Register and start one Job for each order; with a journal, blocks until they are on disk.

        All or none: raises Refused, and nothing was registered. The store keeps the jobs' ids
        under the key of `sender`. If memory is full, the oldest finished jobs leave it.
        """
        needed = sum(memory_of(each.items) + self._held_of(each.document) for each in orders)
        with self._lock:
            self._check_room(len(orders))
            is_full = not self.kept.has_room(needed)
        if is_full:
            self.submit(self.retire(needed)).result()
            with self._lock:
                self.kept.check_room(needed)
        jobs, documents = jobs_of(orders)
        for job in jobs:
            job.memory_bytes += self._held_of(documents.get(job.job_id))
        posted = Posted(*sender, tuple(job.job_id for job in jobs)) if sender else None
        self._store.accept(jobs, posted=posted, documents=documents)
        try:
            self._register(jobs)
        except Refused:
            self._store.delete([job.job_id for job in jobs])
            raise
        for job in jobs:
            _log.info("accepted job=%s urls=%d", job.job_id, len(job))
        return jobs

    def _held_of(self, document: bytes | None) -> int:
        """The memory of a document, if the store does not have it on disk."""
        return 0 if document is None or self._store.is_durable else len(document)

    def _register(self, jobs: Sequence[Job]) -> None:
        needed = sum(job.memory_bytes for job in jobs)
        with self._lock:
            self._check_room(len(jobs))
            self.kept.check_room(needed)
            self._wait_for_threads(jobs)
            self.kept.add(jobs)
        if not self._start_waiting():
            self._refuse_without_threads(jobs)

    def _refuse_without_threads(self, jobs: Sequence[Job]) -> None:
        """Raise Refused, and `jobs` are gone, if no thread is left that could get to them."""
        with self._lock:
            if self._active or any(job.job_id not in self._waiting for job in jobs):
                return
            for job in jobs:
                self._wait_no_more(job)
            self.kept.forget(jobs)
        raise Refused("out-of-threads", "The service is out of threads. Try again later.")

    def restore(self, jobs: Sequence[Job]) -> None:
        """Take over the jobs of an earlier process, and continue those that are not finished."""
        unfinished = [job for job in jobs if not job.summary().finished]
        # Those whose images hold temp bytes run as before: others may wait for these bytes.
        with_files = [job for job in unfinished if job.job_id in self._spool]
        unfinished.sort(key=lambda job: job.job_id not in self._spool)
        know_links = self._dedupe.restore(jobs, self._target.link_base)
        self._transfers.loop.call_soon_threadsafe(know_links)  # before any thread's work
        with self._lock:
            self.kept.add(jobs)
            self._wait_for_threads(unfinished)
        self._start_waiting(at_least=len(with_files))
        if jobs:
            _log.info("restored jobs=%d unfinished=%d", len(jobs), len(unfinished))

    def jobs(self) -> list[Job]:
        """Every job, oldest first."""
        with self._lock:
            return list(self.job_list_s.values())

    async def run(self) -> None:
        """There are no other nodes."""

    async def look(self) -> None:
        """`listed` is up to date."""

    @property
    def listed(self) -> Mapping[str, Summarized]:
        """Every job by its id, oldest first."""
        return self.job_list_s

    @property
    def trouble(self) -> str | None:
        """Why the store cannot be written at the moment."""
        return self._store.trouble

    def closed(self, endpoint: Endpoint) -> Blocked | None:
        """Why requests of this kind wait for the target, and until when."""
        return self._target.gates[endpoint].closed

    def parked(self) -> int:
        """`Registry.parked`."""
        return self._target.parked

    def budgets(self) -> Sequence[BudgetView]:
        """`Registry.budgets`."""
        return self._target.budgets()

    def seconds_for(self, uploads: int) -> float:
        """`Registry.seconds_for`."""
        return self._target.seconds_for(uploads)

    async def find(self, job_id: str) -> Job | None:
        """The job with this id, or None."""
        return self.job_list_s.get(job_id)

    async def newest(self, after: str | None, limit: int) -> list[Snapshot]:
        """Summaries of at most `limit` jobs, newest first, older than the job `after`.

        Raises LookupError if there is no such job.
        """
        newest_first = reversed(self.jobs())
        if after is not None:
            last = self.job_list_s[after]
            newest_first = dropwhile(lambda job: job is not last, newest_first)
            next(newest_first, None)
        return [job.summary() for job in islice(newest_first, limit)]

    def totals(self) -> Totals:
        """How many jobs and images there are."""
        return Totals.of(job.summary() for job in self.jobs())

    async def act(self, action: Coroutine[Any, Any, T]) -> T:
        """The result of one of the coroutines below, from another loop than the transfer loop.

        Raises Refused (shutting-down) once that loop has ended.
        """
        return await self._transfers.act(action)

    def submit(self, action: Coroutine[Any, Any, T]) -> Future[T]:
        """Run one of the coroutines below on the transfer loop, from another thread.

        Raises Refused (shutting-down) once the loop has ended.
        """
        return self._transfers.submit(action)

    async def cancel(self, job: Job) -> CancelResult:
        """Fail open images as `cancelled`; how many that may be.

        Done twice, it does the same. Raises Refused (shutting-down).
        """
        self._check_closing()
        result = await self.at_work.cancel(job)
        with self._lock:
            if job.summary().finished and job.job_id in self._waiting:
                self._wait_no_more(job)  # it needs no thread any more
        _log.info("cancelled job=%s", job.job_id)
        return result

    async def purge(self, job: Job) -> CancelResult:
        """`cancel`, and delete the job's images from the target; how many they are.

        The deletion goes on in the background, and a `cancel` does not end it. Raises Refused.
        """
        with self._lock:
            self._check_stays(job)
        result = await self.at_work.cancel(job, purge=True)
        self._start(job)
        _log.info("to be purged job=%s images=%d", job.job_id, result.purging)
        return result

    async def retry(self, job: Job, only: Only = None) -> int:
        """Load the failed images again that `only` chooses; how many they are.

        An album that failed is made again too. Raises Refused.
        """
        self._check_restart(job)
        count = await self.at_work.requeue(job, only)
        self._start(job)
        _log.info("retried job=%s images=%d", job.job_id, count)
        return count

    async def rehost(self, job: Job, dead: Mapping[int, int]) -> int:
        """Load images again whose links are dead, by index and version; how many they are.

        Raises Refused.
        """
        self._check_restart(job)
        count = await self.at_work.rehost(job, dead)
        self._start(job)
        _log.info("rehosted job=%s images=%d", job.job_id, count)
        return count

    async def retire(self, room: int = 0) -> int:
        """Let the oldest finished jobs leave memory that are more, or older, than are kept.

        And as many as it takes for `room` bytes of new jobs. Returns how many have left.
        """
        with self._lock:
            busy = {*self._active, *self._waiting}
            retired = self.kept.begin_to_retire(
                room, busy, lambda job: self.at_work.lock(job).locked()
            )
        if retired:
            self._store.retire(retired)
            await self._store.durable()
            with self._lock:
                self.kept.forget(retired.values())
            self._dedupe.forget(_links(retired.values()))
            _log.info("retired jobs=%d", len(retired))
        return len(retired)

    def begin_upload(self, job: Job) -> None:
        """The body of a job's thread: returns when `job` is finished, or the service stops.

        Raises only the exception of a bug for which no image and no job could be failed.
        """
        try:
            self._transfers.run(self._work_on(job))
        except Exception:
            if not self.is_closing:
                raise
            _log.exception("the work on a job was cut off job=%s", job.job_id)

    async def _work_on(self, job: Job) -> None:
        """`Jobs.work`, and a log line at its end: its thread would have to get the GIL for that."""
        try:
            await self.at_work.work(job)
        finally:
            _log_end(job)

    def _work(self, job: Job | None) -> None:
        """The body of a thread: runs `job`, and then the jobs that wait, one after the other."""
        while job is not None:
            threading.current_thread().name = _thread_name(job)
            try:
                self.begin_upload(job)
            except BaseException:
                self._end_job(job)
                self._start_waiting()  # as this thread begins none of them
                raise
            self._end_job(job)
            job = self._next_to_start()
            if job is not None:
                self._start_waiting()  # as more may start once others have stalled

    def _end_job(self, job: Job) -> None:
        with self._lock:
            self._active.discard(job.job_id)
            if job.job_id in self._again and not job.summary().finished:
                self._waiting[job.job_id] = job
            self._again.discard(job.job_id)
            self._job_ended.notify_all()

    def _start(self, job: Job) -> None:
        """Give `job` a thread: now, or when its thread ends."""
        with self._lock:
            if job.job_id in self._active:
                self._again.add(job.job_id)
            elif job.job_id not in self._waiting and not job.summary().finished:
                self._wait_for_threads([job])
        self._start_waiting()

    def _wait_for_threads(self, jobs: Sequence[Job]) -> None:
        """For the lock's holder: these jobs wait, after the others."""
        # Before the first starts: its images may serve the others.
        begin, ids = self._dedupe.begin, [job.job_id for job in jobs]
        self._transfers.loop.call_soon_threadsafe(begin, *ids)
        self._waiting.update(zip(ids, jobs, strict=True))

    def _wait_no_more(self, job: Job) -> None:
        """For the lock's holder: the job needs no thread."""
        del self._waiting[job.job_id]
        self._job_ended.notify_all()
        # Behind its `begin`, which the loop may not have called yet.
        self._transfers.loop.call_soon_threadsafe(self._dedupe.end, job.job_id)

    def _start_waiting(self, at_least: int = 0) -> bool:
        """Start threads for the jobs that wait; False if the system has none left.

        Without the lock: a start waits until the new thread has the GIL, 5 ms under load.
        """
        while (job := self._next_to_start(at_least)) is not None:
            name = _thread_name(job)
            thread = threading.Thread(target=self._work, args=(job,), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                _log.warning("out of threads, the job waits job=%s", job.job_id)
                with self._lock:
                    self._active.remove(job.job_id)
                    self._waiting = {job.job_id: job, **self._waiting}
                    self._look_later()
                    self._job_ended.notify_all()
                return False
        return True

    def _next_to_start(self, at_least: int = 0) -> Job | None:
        """The job that waits longest, if it may start: it is active from now on."""
        with self._lock:
            if self._waiting and (len(self._active) < at_least or self._may_start()):
                job = self._waiting.pop(next(iter(self._waiting)))
                self._active.add(job.job_id)
                return job
            self._look_later()
            return None

    def _may_start(self) -> bool:
        active, most = len(self._active), self._capacity.max_active_jobs
        if active < most:
            return True
        return active < _THREADS_PER_ACTIVE_JOB * most and active - self.at_work.stalled < most

    def _look_later(self) -> None:
        """For the lock's holder: see in a while whether jobs that wait may start."""
        if self._waiting and not self._will_look:
            self._will_look = True
            loop = self._transfers.loop
            loop.call_soon_threadsafe(loop.call_later, STALL_SECONDS, self._look_again)

    def _look_again(self) -> None:
        with self._lock:
            self._will_look = False
        self._start_waiting()

    def close(self, seconds: float, grace_seconds: float = 0.0) -> bool:
        """Take no more jobs, and leave every job as it stands; True if no thread of ours is left.

        Uploads that are being sent have `grace_seconds` to land, and then everything has `seconds`.
        Images that had not landed are left to the store, or fail with the code `shutdown` if it
        does not outlive the process.
        """
        with self._lock:
            self.is_closing = True
            waiting, self._waiting = list(self._waiting.values()), {}
        self._transfers.run(self.at_work.stop(grace_seconds, waiting))
        with self._lock:  # a job that was retried meanwhile has a new thread, or waits for one
            return self._job_ended.wait_for(lambda: not (self._active or self._waiting), seconds)

    def _check_closing(self) -> None:
        if self.is_closing:
            raise shutting_down()

    def _check_stays(self, job: Job) -> None:
        """For the lock's holder: raise Refused if `job` leaves memory, or the service stops."""
        self._check_closing()
        self.kept.check_stays(job)

    def _check_restart(self, job: Job) -> None:
        """Raise Refused if `job` cannot get a thread again."""
        with self._lock:
            self._check_stays(job)
            if job.job_id not in self._active and job.job_id not in self._waiting:
                self._check_room(1)

    def _check_room(self, jobs: int) -> None:
        """For the lock's holder: raise Refused if so many jobs more may not wait."""
        self._check_closing()
        capacity = self._capacity
        room = capacity.max_waiting_jobs + capacity.max_active_jobs - len(self._active)
        if len(self._waiting) + jobs > room:
            raise Refused(
                "backlog-full",
                f"The backlog is full, at {len(self._waiting):,}. Send this again in a while.",
            )

    async def _links_of_others(self, job: Job) -> set[str]:
        return await asyncio.to_thread(self._read_links_of_others, job)

    def _read_links_of_others(self, job: Job) -> set[str]:
        # Jobs in memory first: one that is retired meanwhile is in the store then.
        own = _links([job])
        shared = own & _links(other for other in self.jobs() if other is not job)
        return shared | self._store.links_to_leave(job.job_id, own)


def _links(jobs: Iterable[Job]) -> set[str]:
    return {image.link for job in jobs for image in job.snapshot().images if image.link is not None}


def _thread_name(job: Job) -> str:
    return f"job-{job.job_id[:8]}"


def _log_end(job: Job) -> None:
    """Of a job that is not finished, the service's next start or another node has the rest."""
    summary = job.summary()
    counts = summary.counts
    ends = counts["completed"], counts["failed"]
    if summary.finished:
        _log.info("complete job=%s completed=%d failed=%d", job.job_id, *ends)
    else:
        pending = counts["queued"] + counts["downloaded"]
        _log.info("left open job=%s completed=%d failed=%d pending=%d", job.job_id, *ends, pending)
