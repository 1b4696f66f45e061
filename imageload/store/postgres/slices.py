"""The slices of this node's worker: claimed, kept, given back. `claims.py` has the SQL.

A claim is kept in memory with the epoch of its slice, under which the store writes what the worker
does. All here blocks, but for `followed` and `end`, and raises StoreUnavailable.
"""

from __future__ import annotations

import functools
import itertools
import logging
import operator
import time
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Protocol

from imageload.job import Job
from imageload.store.postgres import claims, leases
from imageload.store.postgres.batch import HEAD, Batch, Claim
from imageload.store.postgres.claims import Claimed, Place, SliceCounts, SliceOrder, Wait
from imageload.store.postgres.connections import Connection, Connections
from imageload.store.writer import Writer

_log = logging.getLogger(__name__)


class Queue(Protocol):
    """The queue of slices that wait for a node, in the same database."""

    def create(self, connection: Connection) -> None:
        """Make its tables if they are missing."""

    def defer(self, connection: Connection, slices: Mapping[int, Sequence[int]]) -> None:
        """Queue slices of jobs, by their numbers, in the transaction of `connection`."""

    def tidy(self, connection: Connection, dead_seconds: float) -> None:
        """Delete what workers have left that were not heard of for `dead_seconds`."""


class Slices:
    """Claims slices and gives them back; a PostgresStore writes what is done of those `held`."""

    def __init__(
        self,
        connections: Connections,
        queue: Queue,
        writer: Writer[Batch],
        held: MutableMapping[Job, Claim],
    ) -> None:
        self._connections = connections
        self._queue = queue
        self._writer = writer
        self._held = held

    def claim(
        self,
        place: Place,
        worker: str,
        seconds: float,
        *,
        may_rescue: bool = True,
        may_suspect: bool = True,
    ) -> Claimed | None:
        """The slice at `place` as a job to load, which is this worker's for `seconds`; or None.

        None also if it was split.
        """
        sent = time.monotonic()

        def run(connection: Connection) -> Claimed | None:
            claimed = claims.claim(
                connection, place, worker, seconds, may_rescue=may_rescue, may_suspect=may_suspect
            )
            if claimed is None or not claimed.is_poisoned or len(claimed.claim.images) < 2:
                return claimed
            if place[1] == HEAD:
                return claimed
            self._queue.defer(connection, {place[0]: claims.split(connection, claimed)})
            job_id, _, _ = claimed.job.job_id.partition("/")
            _log.warning("split a slice that may kill nodes job=%s first=%d", job_id, place[1])
            return None

        claimed = self._connections.run(run)
        if claimed is not None:
            claim = self._held[claimed.job] = claimed.claim
            claim.heard, claim.seconds = sent, seconds / 2
        return claimed

    def beat(self, jobs: Sequence[Job], seconds: float | None) -> dict[Job, SliceOrder]:
        """Those of the slices of `jobs` that are still ours, and what is wanted of them.

        They are kept for `seconds` more; None: only look. The others are lost.
        """
        mine = {_place(self._held[job]): job for job in jobs}
        epochs = [self._held[job].slices[first].epoch for (_, first), job in mine.items()]
        rows = [(*place, epoch) for place, epoch in zip(mine, epochs, strict=True)]
        sent = time.monotonic()
        orders = self._connections.run(lambda connection: claims.beat(connection, rows, seconds))
        for place, job in mine.items():
            claim = self._held[job]
            if place not in orders:
                claim.is_lost = True
            elif seconds is not None:
                claim.heard = max(claim.heard, sent)
        return {mine[place]: order for place, order in orders.items()}

    def park(self, place: Place, wait: Wait) -> None:
        """Have a slice that no worker has wait."""
        self._connections.run(lambda connection: claims.park(connection, place, wait))

    def parked(self, least: int, most: int, waited_seconds: float) -> Place | None:
        """A slice that waits, whose first image is from `least` to `most`.

        It has waited for `waited_seconds` in an outage.
        """
        return self._connections.run(lambda c: claims.parked(c, (least, most), waited_seconds))

    def update_waits(self, wait: Wait) -> None:
        """All slices that wait now wait for this."""
        self._connections.run(lambda connection: claims.update_waits(connection, wait))

    def is_lost(self, job: Job) -> bool:
        """True if another node has taken this slice over: nothing of it is written any more."""
        return self._held[job].is_lost

    def followed(self, job: Job, order: SliceOrder) -> None:
        """What was ordered of this slice was done; written after all that was recorded of it."""
        claim = self._held[job]
        _, first = _place(claim)
        edit = functools.partial(claims.follow, claimed=claim, first=first, order=order)
        self._writer.put(lambda batch: batch.edits.update({(claim, order): edit}))

    def end(self, job: Job, *, is_over: bool, wait: Wait | None = None) -> None:
        """The slice has nothing left to do, or (`is_over` is False) others may go on with it.

        With a `wait` for the target: after that. It is written after all that was recorded of it.
        """
        claim = self._held[job]
        _, first = _place(claim)

        def edit(connection: Connection) -> None:
            if is_over:
                queue = claims.end(connection, claim, first)
            else:
                queue = claims.give_back(connection, claim, first, wait)
            self._queue.defer(connection, {claim.number: queue})

        def put(batch: Batch) -> None:
            batch.locks.add(claim.number)
            batch.edits[claim] = edit

        self._writer.put(put)

    def counts(self) -> SliceCounts:
        """How many slices of all nodes wait, and are stuck."""
        return self._connections.run(claims.count)

    def queue_forgotten(self, worker: str, seconds: float, *, rescue: bool) -> int:
        """Queue the slices that nobody has and no message names; how many they are.

        With `rescue`, those of nodes that seem dead too: for `seconds` it is then the work of this
        worker, and 0 for the others.
        """

        def run(connection: Connection) -> int:
            if rescue and leases.take(connection, "sweep", worker, seconds) is None:
                return 0
            places = claims.forgotten(connection, rescue=rescue)
            jobs = itertools.groupby(places, operator.itemgetter(0))
            slices = {number: [first for _, first in some] for number, some in jobs}
            self._queue.defer(connection, slices)
            return len(places)

        return self._connections.run(run)

    def tidy_queue(self, dead_seconds: float) -> None:
        """Delete what dead workers have left in the queue's tables."""
        self._connections.run(lambda connection: self._queue.tidy(connection, dead_seconds))


def _place(claim: Claim) -> Place:
    return claim.number, HEAD if HEAD in claim.slices else claim.offset
