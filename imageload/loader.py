"""ImageLoad: the registry of jobs, and the one background thread that each job has.

    upload(orders) ─► Jobs in job_list_s ─► a thread each: begin_upload(job)
                                              │ a Run keeps a window of images under way
                                              ├─► downloads ─┐
                                              ├─► uploads ───┤ one inbox of results
                                              ◄──────────────┘ applied to the Job

A job gets a thread again for what is asked of it later: a retry (a Run), a purge (a Purge). At
most `max_active_jobs` threads are at it; other jobs wait, pending, in the order they came.
It knows nothing of HTTP, and how an image is downloaded or uploaded is handed in.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from imageload.errors import Refused
from imageload.job import AlbumReopened, Item, Job, PurgeBegun, Requeued, Snapshot
from imageload.road import Road
from imageload.run import Run, failed_images
from imageload.targets.imgur.purge import Purge

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a Job is asked for: a list of URLs or Items, and how they are treated."""

    items: Sequence[str | Item]
    dedupe: bool = True
    album: str | None = None
    callback: str | None = None


class Work(Protocol):
    """What a job's thread does: a Run, or a Purge."""

    def work(self) -> None:
        """Do it; returns when it is done, or soon after `stop`."""

    def settle(self) -> None:
        """Leave nothing open, whatever happened to `work`."""

    def stop(self) -> None:
        """From any thread."""


class Ending(NamedTuple):
    """How many images a cancel, or a purge, ends; those that end meanwhile are counted too."""

    cancelled: int
    purging: int


class Link(Protocol):
    """A link that the Ledger has."""

    @property
    def link(self) -> str:
        """Where the image is."""


class Ledger(Protocol):
    """Where jobs are written down, so that a restart goes on with them: the Journal."""

    def accept(self, jobs: Sequence[Job], /) -> None:
        """Write down new jobs, all or none; they are durable when this returns, or refused."""

    def delete(self, job_ids: Iterable[str], /) -> None:
        """Forget jobs."""

    def retire(self, job_ids: Iterable[str], /) -> None:
        """Jobs are about to leave memory; their links are kept here."""

    def when_durable(self, done: Callable[[], object], /) -> None:
        """Call `done` once that is durable."""

    def links(self, *, retired_only: bool) -> Iterable[Link]:
        """The links of retired jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How many finished jobs stay in memory, and how long after their creation, in hours."""

    jobs: int = 10_000
    hours: float = math.inf


@dataclass(frozen=True, slots=True)
class _Task:
    """Work for a job that has no thread yet."""

    job: Job
    make: Callable[[], Work]


class ImageLoad:
    """Takes lists of URLs and gets them done in the background.

    `job_list_s` maps every jobId to its Job, oldest first.
    """

    def __init__(
        self,
        road: Road,
        *,
        max_active_jobs: int,
        max_waiting_jobs: int,
        ledger: Ledger | None = None,
        keep: Keep | None = None,
    ) -> None:
        self.job_list_s: dict[str, Job] = {}
        self._road = road
        self._ledger = ledger
        self._keep = keep or Keep()
        self._max_active_jobs = max_active_jobs
        self._max_waiting_jobs = max_waiting_jobs
        self._lock = threading.Lock()
        self._taking_off = threading.Lock()
        self._waiting: deque[_Task] = deque()
        self._active: dict[str, tuple[threading.Thread, Work]] = {}
        self._next: dict[str, _Task] = {}
        self._requeueing: set[str] = set()
        self._retiring: set[str] = set()
        self._closing = False

    def upload(self, orders: Sequence[Order]) -> list[Job]:
        """One Job for each order, registered and on its way, in order.

        All or none: raises Refused, and nothing was registered.
        """
        jobs = [
            Job(each.items, dedupe=each.dedupe, album=each.album, callback=each.callback)
            for each in orders
        ]
        if self._ledger is not None and jobs:
            with self._lock:
                self._check_room(len(jobs))
            self._ledger.accept(jobs)
        try:
            self._register(jobs)
        except Refused:
            if self._ledger is not None:
                self._ledger.delete([job.job_id for job in jobs])
            raise
        for job in jobs:
            _log.info("accepted job=%s urls=%d", job.job_id, len(job))
        return jobs

    def _register(self, jobs: Sequence[Job]) -> None:
        with self._lock:
            self._check_room(len(jobs))
            for job in jobs:  # before the first starts: what it brings may serve the others
                self._road.sharing.begin(job.job_id)
            self._waiting.extend(self._run_of(job) for job in jobs)
            self._start_waiting()
            if jobs and not self._active:
                for job in jobs:
                    self._waiting.pop()
                    self._road.sharing.end(job.job_id)
                raise Refused(
                    "out-of-threads",
                    "The service has no thread to work with. Try again in a while.",
                )
            self.job_list_s.update((job.job_id, job) for job in jobs)

    def restore(self, jobs: Sequence[Job]) -> None:
        """Take over the jobs of a process before this one, and go on with those not finished."""
        for job in jobs:
            if job.summary().purging and _pending(job):  # it had died before all was cancelled
                self._cancel_unbegun(job)
        with self._lock:
            self.job_list_s.update((job.job_id, job) for job in jobs)
            for job in jobs:
                summary = job.summary()
                if summary.purging:
                    self._waiting.append(self._purge_of(job))
                elif not summary.finished:
                    self._road.sharing.begin(job.job_id)
                    self._waiting.append(self._run_of(job))
            unfinished = len(self._waiting)
            self._start_waiting()
        if jobs:
            _log.info("restored %d jobs, %d of them not finished", len(jobs), unfinished)

    def retire(self) -> int:
        """Let the oldest finished jobs leave memory that are more, or older, than is kept."""
        oldest = datetime.now(UTC) - timedelta(hours=min(self._keep.hours, 1e6))
        with self._lock:
            waiting = (task.job.job_id for task in self._waiting)
            busy = {*self._active, *self._next, *self._requeueing, *self._retiring, *waiting}
            finished = [
                job
                for job in self.job_list_s.values()
                if job.job_id not in busy and _is_over(job.summary())
            ]
            spare = max(0, len(finished) - self._keep.jobs)
            retired = [job for n, job in enumerate(finished) if n < spare or job.created < oldest]
            self._retiring.update(job.job_id for job in retired)
        if retired and self._ledger is not None:
            self._ledger.retire([job.job_id for job in retired])
            self._ledger.when_durable(lambda: self._forget(retired))
        elif retired:
            self._forget(retired)
        return len(retired)

    def _forget(self, retired: Sequence[Job]) -> None:
        with self._lock:
            for job in retired:
                self.job_list_s.pop(job.job_id, None)
                self._retiring.discard(job.job_id)
        links = {image.link for job in retired for image in job.snapshot().images if image.link}
        self._road.sharing.forget(links)
        _log.info("retired jobs=%d", len(retired))

    @property
    def is_closing(self) -> bool:
        """Was it told to stop?"""
        return self._closing

    def jobs(self) -> list[Job]:
        """Every job, oldest first."""
        with self._lock:
            return list(self.job_list_s.values())

    def cancel(self, job: Job) -> Ending:
        """End what has not ended, as `cancelled`, within a second; how many images that may be.

        Blocks for as long as the images of a job that waits take to be ended. Done twice, it does
        the same. Raises Refused (shutting-down).
        """
        ending = Ending(_pending(job), 0)
        self._end(job)
        _log.info("cancelled job=%s", job.job_id)
        return ending

    def _end(self, job: Job, *, purge: bool = False) -> None:
        with self._lock:
            self._check_closing()
            _, work = self._active.get(job.job_id, (None, None))
            waiting = [t for t in self._waiting if t.job is job and not job.summary().purging]
            if work is None and waiting:
                self._waiting.remove(waiting[0])
        if isinstance(work, Run):
            work.cancel(purge=purge)
        elif work is None and waiting:
            self._cancel_unbegun(job)

    def _cancel_unbegun(self, job: Job) -> None:
        """Fail what is open in a job that has no thread."""
        run = Run(self._road, job)
        run.cancel()
        run.settle()

    def retry(self, job: Job, *, only_transient: bool = False) -> int:
        """Try the failed images again, or those whose error is transient; how many they are.

        An album that failed is tried again too. Blocks for as long as the images take to be
        requeued. Raises Refused while the job is being cancelled or purged, and what `upload` does.
        """
        failed = failed_images(job, only_transient=only_transient)
        album = job.summary().album
        is_wanted = album is not None and album.failure is not None
        if not failed and not is_wanted:
            return 0
        with self._lock:
            _, work = self._active.get(job.job_id, (None, None))
            if isinstance(work, Run) and work.again(only_transient=only_transient):
                return len(failed)
            is_reserved = job.job_id in self._next or job.job_id in self._requeueing
            if work is not None or job.summary().purging or is_reserved:
                raise Refused(
                    "job-busy", "The job is being cancelled or purged. Send this again in a while."
                )
            self._check_room(1)
            self._requeueing.add(job.job_id)
        try:
            for index in failed:  # the job has no thread that would write it
                self._road.apply(job, Requeued(index))
            if is_wanted and not failed:
                self._road.apply(job, AlbumReopened())
        finally:
            with self._lock:
                self._requeueing.remove(job.job_id)
                if not any(task.job is job for task in self._waiting):
                    self._road.sharing.begin(job.job_id)
                    self._waiting.append(self._run_of(job))
                self._start_waiting()
        _log.info("retried job=%s images=%d", job.job_id, len(failed))
        return len(failed)

    def purge(self, job: Job) -> Ending:
        """`cancel`, and delete from Imgur what the job has there; how many images that may be.

        The deletion goes on in the background, and is not ended by a `cancel`. Blocks as that does.
        """
        pending = _pending(job)
        self._end(job, purge=True)
        task = self._purge_of(job)
        with self._lock:
            before = job.summary()
            completed = before.counts["completed"]
            has_any = completed or (before.album is not None and before.album.id is not None)
            _, work = self._active.get(job.job_id, (None, None))
            is_asked = job.job_id in self._next or any(t.job is job for t in self._waiting)
            # A run that is being cancelled may still land an image, even its first.
            if isinstance(work, Purge) or is_asked or not (has_any or work is not None):
                return Ending(pending, completed)
            self._check_closing()
            if work is not None:
                self._next[job.job_id] = task
            else:
                self._road.apply(job, PurgeBegun())  # the job has no thread that would write it
                self._waiting.append(task)
                self._start_waiting()
        _log.info("to be purged job=%s images=%d", job.job_id, completed)
        return Ending(pending, completed)

    def begin_upload(self, job: Job, work: Work) -> None:
        """The body of a job's thread: sees every image of `job` to its end."""
        try:
            work.work()
        except Exception:
            _log.exception("the thread of a job broke job=%s", job.job_id)
        finally:
            try:
                work.settle()
            except Exception:
                _log.exception("a job could not be settled job=%s", job.job_id)
            _log_end(job, is_left=self._closing and not job.summary().finished)

    def _work(self, job: Job, work: Work) -> None:
        """A thread's life: one job, and the next only where no other thread can be had for it."""
        while True:
            self.begin_upload(job, work)
            with self._lock:
                del self._active[job.job_id]
                following = self._next.pop(job.job_id, None)
                if following is not None and not self._closing:
                    self._waiting.appendleft(following)
                self._start_waiting()
                if self._active or not self._waiting:
                    return
                task = self._waiting.popleft()
                job, work = task.job, task.make()
                self._active[job.job_id] = (threading.current_thread(), work)

    def stop(self) -> None:
        """Take no more, and end every job as it stands.

        What had not landed is left to the ledger, or without one fails with the code `shutdown`:
        at once in jobs that wait, in others when what they have under way ends, which is the
        caller's to hasten.
        """
        with self._lock:
            self._closing = True
            waiting, self._waiting = list(self._waiting), deque()
            active = list(self._active.values())
        for _, work in active:
            work.stop()
        for task in waiting:
            work = task.make()
            work.stop()
            work.settle()

    def close(self, seconds: float) -> bool:
        """`stop`, and wait for the jobs' threads; True when none is left after `seconds`."""
        self.stop()
        deadline = time.monotonic() + seconds
        with self._lock:
            threads = [thread for thread, _ in self._active.values()]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _run_of(self, job: Job) -> _Task:
        return _Task(job, lambda: Run(self._road, job))

    def _purge_of(self, job: Job) -> _Task:
        others = functools.partial(self._links_of_others, job)
        return _Task(job, lambda: Purge(self._road, job, others, self._taking_off))

    def _check_closing(self) -> None:
        if self._closing:
            raise Refused("shutting-down", "The service is stopping. Send this again in a while.")

    def _check_room(self, jobs: int) -> None:
        """For the lock's holder: may so many jobs more wait?"""
        self._check_closing()
        room = self._max_waiting_jobs + self._max_active_jobs - len(self._active)
        if len(self._waiting) + jobs > room:
            raise Refused(
                "backlog-full",
                f"The backlog is full, at {len(self._waiting):,}. Send this again in a while.",
            )

    def _links_of_others(self, job: Job) -> set[str]:
        ledger = self._ledger
        retired = ledger.links(retired_only=True) if ledger is not None else ()
        return {found.link for found in retired} | {
            image.link
            for other in self.jobs()
            if other is not job
            for image in other.snapshot().images
            if image.link is not None
        }

    def _start_waiting(self) -> None:
        while self._waiting and len(self._active) < self._max_active_jobs:
            task = self._waiting[0]
            job, work = task.job, task.make()
            name = f"job-{job.job_id[:8]}"
            thread = threading.Thread(target=self._work, args=(job, work), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                _log.warning("no thread to be had, the job waits job=%s", job.job_id)
                return
            self._active[job.job_id] = (thread, work)
            self._waiting.popleft()


def _is_over(job: Snapshot) -> bool:
    """Has it ended, and is that told? What has left memory is not told after a restart."""
    return job.finished and (job.callback is None or not job.callback.is_open)


def _pending(job: Job) -> int:
    counts = job.summary().counts
    return counts["queued"] + counts["downloaded"]


def _log_end(job: Job, *, is_left: bool) -> None:
    counts = job.summary().counts
    ends = counts["completed"], counts["failed"]
    if is_left:
        told = job.job_id, *ends, _pending(job)
        _log.info("left for the next start job=%s completed=%d failed=%d pending=%d", *told)
    else:
        _log.info("complete job=%s completed=%d failed=%d", job.job_id, *ends)
