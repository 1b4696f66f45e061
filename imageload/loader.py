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

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from imageload.errors import BacklogFull, JobBusy, OutOfThreads, ShuttingDown
from imageload.job import AlbumReopened, Item, Job, PurgeBegun, Requeued
from imageload.purge import Purge
from imageload.road import Road
from imageload.run import Run, failed_images

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a Job is asked for: a list of URLs or Items, and how they are treated."""

    items: Sequence[str | Item]
    dedupe: bool = True
    album: str | None = None


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


@dataclass(frozen=True, slots=True)
class _Task:
    """Work for a job that has no thread yet."""

    job: Job
    make: Callable[[], Work]


class ImageLoad:
    """Takes lists of URLs and gets them done in the background.

    `job_list_s` maps every jobId to its Job, oldest first.
    """

    def __init__(self, road: Road, *, max_active_jobs: int, max_waiting_jobs: int) -> None:
        self.job_list_s: dict[str, Job] = {}
        self._road = road
        self._max_active_jobs = max_active_jobs
        self._max_waiting_jobs = max_waiting_jobs
        self._lock = threading.Lock()
        self._waiting: deque[_Task] = deque()
        self._active: dict[str, tuple[threading.Thread, Work]] = {}
        self._next: dict[str, _Task] = {}
        self._requeueing: set[str] = set()
        self._closing = False

    def upload(self, orders: Sequence[Order]) -> list[Job]:
        """One Job for each order, registered and on its way, in order.

        All or none: raises BacklogFull, OutOfThreads or ShuttingDown, and nothing was registered.
        """
        jobs = [Job(order.items, dedupe=order.dedupe, album=order.album) for order in orders]
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
                raise OutOfThreads("The service has no thread to work with. Try again in a while.")
            self.job_list_s.update((job.job_id, job) for job in jobs)
        for job in jobs:
            _log.info("accepted job=%s urls=%d", job.job_id, len(job))
        return jobs

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
        the same.
        """
        ending = Ending(_pending(job), 0)
        self._end(job)
        _log.info("cancelled job=%s", job.job_id)
        return ending

    def _end(self, job: Job, *, purge: bool = False) -> None:
        with self._lock:
            _, work = self._active.get(job.job_id, (None, None))
            waiting = [t for t in self._waiting if t.job is job and not job.summary().purging]
            if work is None and waiting:
                self._waiting.remove(waiting[0])
        if isinstance(work, Run):
            work.cancel(purge=purge)
        elif work is None and waiting:
            run = Run(self._road, job)
            run.cancel()
            run.settle()

    def retry(self, job: Job, *, only_transient: bool = False) -> int:
        """Try the failed images again, or those whose error is transient; how many they are.

        An album that failed is tried again too. Blocks for as long as the images take to be
        requeued. Raises JobBusy while the job is being cancelled or purged, and what `upload` does.
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
                raise JobBusy("The job is being cancelled or purged. Send this again in a while.")
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
        task = _Task(job, lambda: Purge(self._road, job, lambda: self._links_of_others(job)))
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
            counts = job.summary().counts
            ends = counts["completed"], counts["failed"]
            _log.info("complete job=%s completed=%d failed=%d", job.job_id, *ends)

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

        What had not landed fails with the code `shutdown`: at once in jobs that wait, in others
        when what they have under way ends, which is the caller's to hasten.
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

    def _check_closing(self) -> None:
        if self._closing:
            raise ShuttingDown("The service is stopping. Send this again in a while.")

    def _check_room(self, jobs: int) -> None:
        """For the lock's holder: may so many jobs more wait?"""
        self._check_closing()
        room = self._max_waiting_jobs + self._max_active_jobs - len(self._active)
        if len(self._waiting) + jobs > room:
            raise BacklogFull(
                f"The backlog is full, at {len(self._waiting):,}. Send this again in a while."
            )

    def _links_of_others(self, job: Job) -> set[str]:
        return {
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


def _pending(job: Job) -> int:
    counts = job.summary().counts
    return counts["queued"] + counts["downloaded"]
