"""ImageLoad: the registry of jobs, and the one background thread that each job has.

    upload(url_lists) ─► Jobs in job_list_s ─► a thread each: begin_upload(job)
                                                 │ a Run keeps a window of images under way
                                                 ├─► downloads ─┐
                                                 ├─► uploads ───┤ one queue of results
                                                 ◄──────────────┘ applied to the Job

At most `max_active_jobs` threads are at it; other jobs wait, pending, in the order they came.
It knows nothing of HTTP, and how an image is downloaded or uploaded is handed in.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from imageload.errors import BacklogFull, OutOfThreads, ShuttingDown
from imageload.job import Job
from imageload.run import Road, Run

_log = logging.getLogger(__name__)


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
        self._waiting: deque[Job] = deque()
        self._active: dict[str, tuple[threading.Thread, Run]] = {}
        self._closing = False

    def upload(self, url_lists: Sequence[Sequence[str]], *, dedupe: bool = True) -> list[Job]:
        """One Job for each list, registered and on its way, in order.

        All or none: raises BacklogFull, OutOfThreads or ShuttingDown, and nothing was registered.
        """
        jobs = [Job(urls, dedupe=dedupe) for urls in url_lists]
        with self._lock:
            if self._closing:
                raise ShuttingDown("The service is stopping. Send this again in a while.")
            room = self._max_waiting_jobs + self._max_active_jobs - len(self._active)
            if len(self._waiting) + len(jobs) > room:
                raise BacklogFull(
                    f"The backlog is full, at {len(self._waiting):,}. Send this again in a while."
                )
            for job in jobs:  # before the first starts: what it brings may serve the others
                self._road.sharing.begin(job.job_id)
            self._waiting.extend(jobs)
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

    def jobs(self) -> list[Job]:
        """Every job, oldest first."""
        with self._lock:
            return list(self.job_list_s.values())

    def begin_upload(self, job: Job, run: Run) -> None:
        """The body of a job's thread: sees every image of `job` to its end."""
        try:
            run.work()
        except Exception:
            _log.exception("the thread of a job broke job=%s", job.job_id)
        finally:
            try:
                run.settle()
            except Exception:
                _log.exception("a job could not be settled job=%s", job.job_id)
            counts = job.summary().counts
            ends = counts["completed"], counts["failed"]
            _log.info("complete job=%s completed=%d failed=%d", job.job_id, *ends)

    def _work(self, job: Job, run: Run) -> None:
        """A thread's life: one job, and the next only where no other thread can be had for it."""
        while True:
            self.begin_upload(job, run)
            with self._lock:
                del self._active[job.job_id]
                self._start_waiting()
                if self._active or not self._waiting:
                    return
                job = self._waiting.popleft()
                run = Run(self._road, job)
                self._active[job.job_id] = (threading.current_thread(), run)

    def stop(self) -> None:
        """Take no more, and end every job as it stands.

        What had not landed fails with the code `shutdown`: at once in jobs that wait, in others
        when what they have under way ends, which is the caller's to hasten.
        """
        with self._lock:
            self._closing = True
            waiting, self._waiting = list(self._waiting), deque()
            active = list(self._active.values())
        for _, run in active:
            run.stop()
        for job in waiting:
            run = Run(self._road, job)
            run.stop()
            run.settle()

    def close(self, seconds: float) -> bool:
        """`stop`, and wait for the jobs' threads; True when none is left after `seconds`."""
        self.stop()
        deadline = time.monotonic() + seconds
        with self._lock:
            threads = [thread for thread, _ in self._active.values()]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _start_waiting(self) -> None:
        while self._waiting and len(self._active) < self._max_active_jobs:
            job = self._waiting[0]
            run = Run(self._road, job)
            name = f"job-{job.job_id[:8]}"
            thread = threading.Thread(target=self._work, args=(job, run), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                _log.warning("no thread to be had, the job waits job=%s", job.job_id)
                return
            self._active[job.job_id] = (thread, run)
            self._waiting.popleft()
