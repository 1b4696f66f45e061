"""The Idempotency-Keys of accepted POSTs, in memory: looked up without reading the disk."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from imageload.store import Posted


class Keys:
    """The POSTs whose jobs are not all gone. Any thread may call it."""

    def __init__(self, posts: Iterable[Posted] = ()) -> None:
        self._lock = threading.Lock()
        self._posts: dict[tuple[str, str], Posted] = {}
        self._by_job: dict[str, Posted] = {}
        for posted in posts:
            self.add(posted)

    def add(self, posted: Posted) -> None:
        """Keep `posted`, in place of an older one with the same key."""
        with self._lock:
            self._posts[posted[:2]] = posted
            self._by_job.update(dict.fromkeys(posted.job_ids, posted))

    def get(self, caller: str, key: str) -> Posted | None:
        """The POST with this key."""
        return self._posts.get((caller, key))

    def remove_jobs(self, job_ids: Iterable[str]) -> list[tuple[str, str]]:
        """The jobs are gone; gives the keys (caller, key) that no job is left of."""
        with self._lock:
            posts = {self._by_job.pop(each) for each in job_ids if each in self._by_job}
            over = [
                posted[:2]
                for posted in posts
                if self._posts.get(posted[:2]) is posted
                and not any(job_id in self._by_job for job_id in posted.job_ids)
            ]
            for key in over:
                del self._posts[key]
            return over
