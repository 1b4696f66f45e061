"""Which slices wait without a worker, because the target takes no uploads for long.

A slice that would wait longer than `seconds` is let go, or not begun: it holds no thread, disk or
lease. A worker whose gate is open takes such slices back, one at a time, and only while its budgets
have room for more images than it has at work. Any thread may call it; nothing here does I/O.
"""

from __future__ import annotations

import time

from imageload.cluster.lease import Leases, soonest
from imageload.job import Job
from imageload.store.postgres.batch import HEAD
from imageload.store.postgres.claims import Wait
from imageload.targets import Blocked, Target
from imageload.targets.limits.gate import Gate

_OUTAGES = ("blocked", "blocked_id", "blocked_address", "unavailable")
_LAST = 2**31 - 1


class Parking:
    """Decides by the gates of `target`, and by the announcements of other nodes."""

    def __init__(self, target: Target, seconds: float, leases: Leases) -> None:
        self._target = target
        self._seconds = seconds
        self._outage_seconds = target.quotas.terms.outage_seconds
        self._leases = leases

    def wait_of(self, job: Job, first: int) -> Wait | None:
        """The wait for which a slice at work is to be let go; None: it goes on."""
        if first != HEAD:
            gate = self._target.gate
            is_over = job.waiting_since is not None and self._is_too_long(gate, job.waiting_since)
            return None if is_over else self._shared(self._long(gate))
        summary = job.summary()
        if summary.purging:
            closed = self._long(self._target.gates["deletions"])
        elif summary.album is not None and summary.album.is_open:
            closed = self._long(self._target.gates["albums"])
        else:
            return None  # a callback needs no gate
        return None if closed is None else _known(closed)

    def wait_before(self, first: int, at_work: int) -> Wait | None:
        """The wait for which a slice is not begun, with `at_work` images at work; None: begin it.

        Later slices of a job wait if the budgets have no room, its first one does not: so no job
        waits behind a large one.
        """
        if first == HEAD:
            return None
        closed = self._long(self._target.gate)
        if closed is not None:
            return self._shared(closed)
        return Wait(None, 0.0) if first and not self._has_room(at_work) else None

    def wanted(self, at_work: int) -> tuple[int, int, float] | None:
        """The parked slices that this node takes back: from and to which first image.

        And how long they must have waited in an outage. None: it takes none back.
        """
        gates = self._target.gates
        heads = not (self._long(gates["albums"]) or self._long(gates["deletions"]))
        least = HEAD if heads else 0
        closed = self._long(self._target.gate)
        if closed is None:
            return least, _LAST if self._has_room(at_work) else 0, 0.0
        if self._target.gate.is_long_outage:
            return 0, _LAST, self._outage_seconds
        return (HEAD, HEAD, 0.0) if heads else None

    def wait_of_all(self) -> Wait | None:
        """The wait of all slices without a worker; None: some node takes them."""
        return self._shared(self._long(self._target.gate))

    def _has_room(self, images: int) -> bool:
        return not images or self._target.quotas.seconds_for(images + 1) <= self._seconds

    def _long(self, gate: Gate) -> Blocked | None:
        closed = gate.closed
        if closed is None or closed.reason == "lease":
            return closed
        return closed if closed.until - time.monotonic() > self._seconds else None

    def _is_too_long(self, gate: Gate, since: float) -> bool:
        """True if images that have waited from `since` are to fail now."""
        return gate.is_long_outage and time.monotonic() - since >= self._outage_seconds

    def _shared(self, closed: Blocked | None) -> Wait | None:
        """The wait until the first node goes on."""
        if closed is None:
            return None
        first = soonest([closed, *self._leases.others])
        return Wait(None, 0.0) if first is None else _known(first)


def _known(closed: Blocked) -> Wait:
    seconds = max(0.0, closed.until - time.monotonic())
    return Wait(closed.reason, seconds, closed.reason in _OUTAGES)
