"""The gate of uploads: closed while Imgur accepts none, as far as its quotas know.

An outage that lasts too long opens the gate, so that the uploads that have waited as long can fail.
Written on the transfer loop; other threads may read the properties.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from imageload import errors
from imageload.targets.imgur.quota import UPLOAD_COST, Blocked, Quotas

_log = logging.getLogger(__name__)


class Gate:
    """Decides whether an upload may start. `outage_seconds` is the longest wait in an outage."""

    def __init__(self, quotas: Quotas, outage_seconds: float) -> None:
        self._quotas = quotas
        self._outage_seconds = outage_seconds
        self._waits_for: tuple[str, int] | None = None
        self._watchers: list[Callable[[], object]] = []

    def watch(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, on the loop, when uploads wait for something else than before."""
        self._watchers.append(callback)

    @property
    def closed(self) -> Blocked | None:
        """Why uploads wait, and until when; None: they go on."""
        blocked = self._quotas.blocked(UPLOAD_COST, post=True)
        return None if blocked is None or blocked.until == math.inf else blocked

    @property
    def was_closed(self) -> bool:
        """True if uploads had to wait at the last `seconds_to_next`. Costs no CPU time."""
        return self._waits_for is not None

    @property
    def is_long_outage(self) -> bool:
        """True if uploads that have waited too long are to fail."""
        return self._quotas.outage_seconds() >= self._outage_seconds

    def seconds_to_next(self, unsent: int) -> float:
        """The seconds until one more upload may start; inf: until a request has ended.

        `unsent` uploads have started and have no Reservation yet.
        """
        if self._quotas.blocked(UPLOAD_COST, post=True, count=unsent + 1) is None:
            self._notify(None)
            return 0.0
        closed = self.closed
        self._notify(closed)
        if closed is None:
            return math.inf
        outage = self._quotas.outage_seconds()
        until_long = self._outage_seconds - outage if outage else math.inf
        return max(0.0, min(self._quotas.seconds_to_open(closed), until_long))

    def seconds_to_retry(self, since: float) -> float:
        """The seconds until an upload may start, or has waited too long from `since`."""
        seconds = self._quotas.seconds_to_open(self._quotas.blocked(UPLOAD_COST, post=True))
        return min(seconds, since + self._outage_seconds - time.monotonic())

    def raise_long_outage(self, since: float, error: errors.UploadError | None = None) -> None:
        """Raise the outage's error if the outage and a wait from `since` have lasted too long.

        The error allows no other try, for that would wait as long.
        """
        closed, now = self.closed, time.monotonic()
        outage = self._quotas.outage_seconds()
        if closed is not None and outage and min(outage, now - since) >= self._outage_seconds:
            error = error or closed.error(now)
            error.max_tries = 1
            raise error

    def _notify(self, closed: Blocked | None) -> None:
        """Call the watchers if uploads wait for something else than before."""
        waits_for = (closed.reason, round(closed.until)) if closed is not None else None
        if waits_for == self._waits_for:
            return
        if closed is None:
            _log.info("uploads go on")
        elif self._waits_for is None:
            seconds = closed.until - time.monotonic()
            _log.warning("uploads wait for %.0f s reason=%s", seconds, closed.message)
        self._waits_for = waits_for
        for callback in self._watchers:
            callback()
