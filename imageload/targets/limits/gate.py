"""The gate of an endpoint: closed while the target accepts no requests there, as its quotas know.

An outage that lasts too long opens the gate, so that the uploads that have waited as long can fail.
Written on the transfer loop; other threads may read the properties.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from imageload import errors
from imageload.targets.limits.breaker import Blocked
from imageload.targets.limits.quota import Kind, Quotas

_log = logging.getLogger(__name__)


class Gate:
    """Decides whether a request of this kind may start."""

    def __init__(self, quotas: Quotas, kind: Kind) -> None:
        self._quotas = quotas
        self._kind, self._endpoint = kind, kind.endpoint
        self._outage_seconds = quotas.terms.outage_seconds
        self._waits_for: tuple[str, int] | None = None
        self._watchers: list[Callable[[], object]] = []

    def watch(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, on the loop, when requests wait for something else."""
        self._watchers.append(callback)

    @property
    def closed(self) -> Blocked | None:
        """Why requests wait, and until when; None: they go on."""
        blocked = self._quotas.blocked(self._kind)
        return None if blocked is None or blocked.until == math.inf else blocked

    @property
    def was_closed(self) -> bool:
        """True if requests had to wait at the last `seconds_to_next`. Costs no CPU time."""
        return self._waits_for is not None

    @property
    def is_long_outage(self) -> bool:
        """True if requests that have waited too long are to fail."""
        return self._outage(self.closed) >= self._outage_seconds

    def seconds_to_next(self, unsent: int) -> float:
        """The seconds until one more request may start; inf: until a request has ended.

        `unsent` requests have started and have no Reservation yet.
        """
        if self._quotas.blocked(self._kind, unsent + 1) is None:
            self._notify(None)
            return 0.0
        closed = self.closed
        self._notify(closed)
        if closed is None:
            return math.inf
        outage = self._outage(closed)
        until_long = self._outage_seconds - outage if outage else math.inf
        return max(0.0, min(self._quotas.seconds_to_open(closed), until_long))

    def seconds_to_retry(self, since: float) -> float:
        """The seconds until an upload may start, or has waited too long from `since`."""
        seconds = self._quotas.seconds_to_open(self._quotas.blocked(self._kind))
        left = since + self._outage_seconds - self._quotas.clock()
        return min(seconds, left) if left > 0 else seconds

    def raise_long_outage(self, since: float, error: errors.UploadError | None = None) -> None:
        """Raise the outage's error if the outage and a wait from `since` have lasted too long.

        A probe must have failed since then. The error allows no other try, for that would wait as
        long.
        """
        closed, now = self.closed, self._quotas.clock()
        outage = self._outage(closed)
        is_long = outage > 0 and min(outage, now - since) >= self._outage_seconds
        if closed is not None and is_long and self._quotas.refused_at(self._endpoint) >= since:
            error = error or closed.error(now)
            error.max_tries = 1
            raise error

    def _outage(self, closed: Blocked | None) -> float:
        """For how long the endpoint has served nothing; 0 in a wait for a budget."""
        if closed is not None and closed.is_budget:
            return 0.0
        return self._quotas.outage_seconds(self._endpoint)

    def _notify(self, closed: Blocked | None) -> None:
        """Call the watchers if requests wait for something else than before."""
        waits_for = (closed.reason, round(closed.until)) if closed is not None else None
        if waits_for == self._waits_for:
            return
        if closed is None:
            _log.info("%s go on", self._endpoint)
        elif self._waits_for is None:
            seconds = closed.until - self._quotas.clock()
            told = self._endpoint, seconds, closed.message
            _log.warning("%s wait for %.0f s reason=%s", *told)
        self._waits_for = waits_for
        for callback in self._watchers:
            callback()
