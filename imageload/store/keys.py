"""The Idempotency-Keys of accepted POSTs, in memory: looked up without reading the disk."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from imageload.errors import KeyUsed
from imageload.store import Posted


class Keys:
    """The POSTs whose jobs are not all gone. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._posts: dict[tuple[str, str], tuple[Posted, set[str]]] = {}

    def add(self, posted: Posted, job_ids: Iterable[str] | None = None) -> None:
        """Keep `posted`, in place of an older one with the same key.

        `job_ids` are those of its jobs that are left; all by default.
        """
        with self._lock:
            left = set(posted.job_ids if job_ids is None else job_ids)
            self._posts[posted[:2]] = posted, left

    def check_free(self, posted: Posted | None) -> None:
        """Raise KeyUsed if the key of `posted` is kept for an earlier POST."""
        found = self.get(*posted[:2]) if posted is not None else None
        if found is not None:
            raise KeyUsed(found.fingerprint, found.job_ids)

    def get(self, caller: str, key: str) -> Posted | None:
        """The POST with this key."""
        found = self._posts.get((caller, key))
        return found and found[0]

    def remove_jobs(self, job_ids: Iterable[str]) -> list[tuple[str, str]]:
        """Forget these jobs; returns the keys (caller, key) that have no job left."""
        gone = set(job_ids)
        with self._lock:
            for _, left in self._posts.values():
                left.difference_update(gone)
            over = [key for key, (_, left) in self._posts.items() if not left]
            for key in over:
                del self._posts[key]
            return over
