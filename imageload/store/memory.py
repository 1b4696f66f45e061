"""A store that keeps nothing beyond the process: the service without a journal."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

from imageload.job import Change, Job
from imageload.store import Link, Place, Posted
from imageload.store.keys import Keys


class MemoryStore:
    """The jobs themselves, until they are retired, and their links. It is always up to date."""

    is_durable = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self._jobs: dict[str, Job] = {}
        self._last_number = 0
        self._keys = Keys()
        self._settings: dict[str, str] = {}

    def accept(
        self,
        jobs: Sequence[Job],
        *,
        posted: Posted | None = None,
        seconds: float = 5.0,  # noqa: ARG002
    ) -> None:
        with self._lock:
            for job in jobs:
                self._last_number += 1
                self._numbers[job.job_id] = self._last_number
                self._jobs[job.job_id] = job
        if posted is not None:
            self._keys.add(posted)

    def posted(self, caller: str, key: str) -> Posted | None:
        return self._keys.get(caller, key)

    def record(self, job: Job, change: Change) -> None:
        pass

    async def durable(self, *, hurry: bool = True) -> None:
        pass

    def retire(self, job_ids: Iterable[str]) -> None:
        """Forget the jobs: their links would fill the memory in time."""
        self.delete(job_ids)

    def delete(self, job_ids: Iterable[str]) -> None:
        gone = list(job_ids)
        with self._lock:
            for job_id in gone:
                self._jobs.pop(job_id, None)
                self._numbers.pop(job_id, None)
        self._keys.remove_jobs(gone)

    def load(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def number(self, job: Job) -> int:
        return self._numbers[job.job_id]

    def links(self, after: Place = (0, -1), *, retired_only: bool = False) -> Iterator[Link]:
        with self._lock:
            jobs = [] if retired_only else list(self._jobs.values())
        for job in jobs:
            number = self._numbers.get(job.job_id, 0)
            for n, image in enumerate(job.snapshot().images) if number >= after[0] else ():
                if image.link is not None and (number, n) > after:
                    yield Link(number, job.job_id, n, image.link)

    def get_setting(self, name: str) -> str | None:
        return self._settings.get(name)

    def set_setting(self, name: str, value: str | None) -> None:
        if value is None:
            self._settings.pop(name, None)
        else:
            self._settings[name] = value

    @property
    def trouble(self) -> str | None:
        return None

    def close(self, seconds: float = 10.0) -> bool:  # noqa: ARG002
        return True
