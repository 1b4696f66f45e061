"""A store that keeps nothing beyond the process: the service without a journal."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from imageload.job import Change, Job
from imageload.store import NONE, Elsewhere, Link, Posted
from imageload.store.keys import Keys


class MemoryStore:
    """The jobs themselves, until they are retired, and their links. It is always up to date."""

    is_durable = False
    keeps_files = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._documents: dict[str, bytes] = {}
        self._checks: dict[str, bytes] = {}
        self._keys = Keys()
        self._settings: dict[str, str] = {}

    def accept(
        self,
        jobs: Sequence[Job],
        *,
        posted: Posted | None = None,
        documents: Mapping[str, bytes] = NONE,
        seconds: float = 5.0,  # noqa: ARG002
    ) -> None:
        self._keys.check_free(posted)
        with self._lock:
            self._jobs.update((job.job_id, job) for job in jobs)
            self._documents.update(documents)
        if posted is not None:
            self._keys.add(posted)

    def document(self, job_id: str) -> bytes | None:
        return self._documents.get(job_id)

    def keep_check(self, job_id: str, check: bytes) -> None:
        with self._lock:
            if job_id in self._jobs:
                self._checks[job_id] = check

    def last_check(self, job_id: str) -> bytes | None:
        return self._checks.get(job_id)

    def posted(self, caller: str, key: str) -> Posted | None:
        return self._keys.get(caller, key)

    def record(self, job: Job, change: Change) -> None:
        pass

    def keep(self, job: Job, index: int) -> None:
        pass

    async def durable(self, job: Job | None = None) -> None:
        pass

    def is_ours(self, job: Job) -> bool:  # noqa: ARG002
        return True

    def elsewhere(self, job: Job, index: int) -> Elsewhere | None:  # noqa: ARG002
        return None

    def retire(self, job_ids: Iterable[str]) -> None:
        """Forget the jobs: their links would fill the memory in time."""
        self.delete(job_ids)

    def delete(self, job_ids: Iterable[str]) -> None:
        gone = list(job_ids)
        with self._lock:
            for job_id in gone:
                self._jobs.pop(job_id, None)
                self._documents.pop(job_id, None)
                self._checks.pop(job_id, None)
        self._keys.remove_jobs(gone)

    def load(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def links(
        self, after: tuple[str, int] | None = None, *, retired_only: bool = False
    ) -> Iterator[Link]:
        start = 0
        with self._lock:
            jobs = list(self._jobs.values())
            if after is not None:
                jobs = jobs[jobs.index(self._jobs[after[0]]) :]
                start = after[1] + 1
        for job in [] if retired_only else jobs:
            for n, image in enumerate(job.snapshot().images[start:], start):
                if image.link is not None:
                    yield Link(job.job_id, n, image.link)
            start = 0

    def links_to_leave(self, job_id: str, links: Set[str]) -> set[str]:  # noqa: ARG002
        return set()

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
