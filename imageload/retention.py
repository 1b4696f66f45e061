"""The jobs in memory, and which of them leave it: by their number, their age and their memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime

from imageload.errors import Refused
from imageload.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How many finished jobs stay in memory, and for how long.

    `jobs_bytes`: the memory that all jobs may take, as `Job.memory_bytes` counts it.
    """

    keep_jobs: int = 10_000
    keep_hours: float = math.inf
    jobs_bytes: int = 2**30


class KeptJobs:
    """The jobs in memory, by id, oldest first. Every method is for the holder of their lock."""

    def __init__(self, rules: Retention) -> None:
        self.rules = rules
        self.by_id: dict[str, Job] = {}
        self.bytes_held = 0
        """Their memory, as `Job.memory_bytes` counts it."""
        self._retiring: set[str] = set()
        # By `time.monotonic`: a system clock that jumps retires nothing.
        self._created: dict[str, float] = {}

    def add(self, jobs: Sequence[Job]) -> None:
        """Keep these too."""
        now, monotonic = datetime.now(UTC), time.monotonic()
        for job in jobs:
            age = max(0.0, (now - job.created).total_seconds())
            self._created[job.job_id] = monotonic - age
        self.by_id.update((job.job_id, job) for job in jobs)
        self.bytes_held += sum(job.memory_bytes for job in jobs)

    def forget(self, jobs: Iterable[Job]) -> None:
        """These jobs leave memory."""
        for job in jobs:
            self._retiring.discard(job.job_id)
            self._created.pop(job.job_id, None)
            if self.by_id.pop(job.job_id, None) is not None:
                self.bytes_held -= job.memory_bytes

    def has_room(self, needed: int) -> bool:
        """True if jobs of `needed` bytes fit beside those that are kept."""
        return self.bytes_held + needed <= self.rules.jobs_bytes

    def check_room(self, needed: int) -> None:
        """Raise Refused if there is no room for jobs of `needed` bytes."""
        most = self.rules.jobs_bytes
        if needed > most:
            raise Refused(
                "too-large",
                f"This request needs {needed:,} bytes of memory; all jobs have {most:,} "
                "(--jobs-bytes). Send shorter lists.",
            )
        if not self.has_room(needed):
            raise Refused(
                "backlog-full",
                f"Jobs take {self.bytes_held:,} of {most:,} bytes of memory (--jobs-bytes); this "
                f"request needs {needed:,}. Send it again when other jobs have finished.",
            )

    def check_stays(self, job: Job) -> None:
        """Raise Refused if `job` is about to leave memory, or has left it."""
        if job.job_id in self._retiring or job.job_id not in self.by_id:
            raise Refused("job-busy", "The job is leaving memory. Send this again in a while.")

    def begin_to_retire(
        self, room: int, busy: Set[str], is_locked: Callable[[Job], bool]
    ) -> dict[str, Job]:
        """The jobs that leave memory next, by id; `forget` them once the store has retired them.

        They are the oldest finished jobs that are more, or older, than are kept, and as many as it
        takes for `room` bytes. Jobs that are `busy`, by id, or locked stay.
        """
        oldest = time.monotonic() - 3_600 * self.rules.keep_hours
        finished = [
            job
            for job in self.by_id.values()
            if job.job_id not in busy and job.job_id not in self._retiring and job.summary().is_over
        ]
        spare = max(0, len(finished) - self.rules.keep_jobs)
        excess = self.bytes_held + room - self.rules.jobs_bytes
        if excess > sum(job.memory_bytes for job in finished):
            excess = 0  # it would be in vain
        retired = {}
        for n, job in enumerate(finished):
            is_old = self._created.get(job.job_id, math.inf) < oldest
            if (n < spare or is_old or excess > 0) and not is_locked(job):
                retired[job.job_id] = job
                excess -= job.memory_bytes
        self._retiring.update(retired)
        return retired
