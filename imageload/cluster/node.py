"""One process of a cluster: the store that all nodes share, all jobs as the API shows them, and,
unless its role is `api`, a worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from imageload.cluster.lease import LeaseRules, Leases
from imageload.cluster.mirror import Mirror, MirrorRules
from imageload.cluster.parking import Parking
from imageload.cluster.queue import Queue
from imageload.cluster.worker import Tell, Worker, WorkerRules, WorkerState
from imageload.errors import StoreUnavailable
from imageload.job import Change, Job
from imageload.loader import ImageLoad
from imageload.registry import Watch
from imageload.store import Clock
from imageload.store.postgres.store import open_postgres
from imageload.targets import Target
from imageload.transport.curl import TransferLoop

_log = logging.getLogger(__name__)


class Node:
    """A node on the PostgreSQL at `url`, whose tables are made if they are missing.

    `clock` is called with the seconds that each transaction took; `on_break` if a bug ends a
    thread of the node. Raises StoreError.
    """

    def __init__(
        self,
        url: str,
        rules: WorkerRules | None,
        clock: Clock | None = None,
        on_break: Callable[[], object] | None = None,
    ) -> None:
        """Without `rules` the node serves the API alone."""
        self._queue = Queue(url)
        self._rules, self._on_break = rules, on_break
        self.store = open_postgres(url, clock, on_break, self._queue)
        self._worker: Worker | None = None
        self._leases: Leases | None = None

    def mirror(
        self,
        observers: Iterable[Callable[[Job, Change], object]],
        watch: Watch | None,
        rules: MirrorRules,
    ) -> Mirror:
        """The jobs of all nodes, for the API."""
        worker = self._rules.name if self._rules is not None else None
        return Mirror(self.store, observers, watch, rules, worker)

    def start(
        self,
        image_load: ImageLoad,
        tell: Tell,
        target: Target,
        transfers: TransferLoop,
        leases: LeaseRules,
        park_seconds: float,
    ) -> None:
        """Begin to work on slices with `image_load`, if that is this node's role.

        `tell`, for the transfer loop, notifies the callback of a job that has ended.
        """
        if self._rules is None:
            return
        self._leases = Leases(self.store, self._rules.name, leases, target, transfers)
        parking = Parking(target, park_seconds, self._leases)
        store, queue = self.store, self._queue
        self._worker = Worker(store, queue, image_load, tell, self._rules, parking, self._on_break)
        self._leases.start()
        self._worker.start()

    @property
    def worker(self) -> WorkerState | None:
        """The state of this node's worker; None without one."""
        return self._worker.state if self._worker is not None else None

    def retire(self, keep_jobs: int, keep_hours: float) -> None:
        """Retire finished jobs of all nodes that are more, or older, than are kept; blocks."""
        try:
            retired = self.store.retire_finished(keep_jobs, keep_hours)
        except StoreUnavailable as error:
            _log.warning("no jobs were retired: %s", error)
            return
        if retired:
            _log.info("retired jobs=%d", retired)

    def stop(self) -> None:
        """Take no more slices."""
        if self._worker is not None:
            self._worker.stop()
        if self._leases is not None:
            self._leases.stop()

    def close(self, seconds: float) -> bool:
        """Give back the slices and leases that are left; True if no thread of the worker is."""
        if self._worker is None or self._leases is None:
            return True
        ended = self._leases.close(seconds)
        return self._worker.close(seconds) and ended
