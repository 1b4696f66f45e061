"""The uploads and other requests of all jobs: each in its turn, while the target accepts them.

    land ─► queue (fair by job, behind the gate) ─► announce ─► slot ─► send
             ▲                                                           │
             └────────── the target takes no uploads at the moment ◄─────┘

An upload that waits at the gate holds its temp file, and neither a slot nor a connection. A refusal
that any other image would have met too does not count as a try. Other requests have gates of their
own: a target refuses one endpoint and serves the others. Runs on the transfer loop; other threads
may read the properties.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from imageload import errors
from imageload.image import Landed
from imageload.targets import Upload
from imageload.targets.limits.breaker import Endpoint
from imageload.targets.limits.gate import Gate
from imageload.targets.limits.quota import ALBUM, DELETION, UPLOAD, Kind, Quotas
from imageload.transport.slots import Pool, Slots

T = TypeVar("T")
Send = Callable[[Upload], Awaitable[Landed | None]]
"""Sends an upload. None: the target takes none at the moment, or this one may not be sent."""
Retry = Callable[[errors.ImageError, int], float | None]
"""`RetryRule.wait`."""

CALL_SLOTS = 8
_SHORTEST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 60.0
_LOOK_SECONDS = 1.0


class Uploads:
    """Lets uploads and other requests through the gates of `quotas`, each in its turn."""

    def __init__(
        self,
        quotas: Quotas,
        slots: int,
        *,
        retry: Retry,
        clock: Callable[[float], object] | None = None,
        on_resize: Callable[[int], object] | None = None,
    ) -> None:
        """`clock` and `on_resize` are those of the uploads' Slots."""
        self.quotas = quotas
        self._retry = retry
        self.gates: dict[Endpoint, Gate] = {
            kind.endpoint: Gate(quotas, kind) for kind in (UPLOAD, ALBUM, DELETION)
        }
        self.gate = self.gates["uploads"]
        # Twice the slots: an announcement waits for the disk, and its upload needs no slot before.
        self._queue = Slots(2 * slots, gate=self._seconds_to_next)
        self._upload_slots = Slots(slots, clock=clock, on_resize=on_resize)
        self._call_slots = Slots(CALL_SLOTS)
        self._slots = slots
        self._waiting_outside = 0  # of the queue, see `_wait_outside`
        self._average_seconds = 0.0  # of an upload

    async def land(self, key: str, upload: Upload, send: Send) -> Landed:
        """`Target.land`, which has `send` send the image."""
        line: tuple[str, bool] = (key, False)
        while True:
            outcome = await self._queue.run(
                line, lambda: self._announce_and_upload(key, upload, send)
            )
            if isinstance(outcome, Landed):
                return outcome
            if outcome is not None:
                raise outcome
            # Refused images have a line of their own, not behind all that were not sent yet: only
            # they tell whether a rejection is about the image (`breaker.Rejections`).
            line = (key, True)
            self.gate.raise_long_outage(upload.since)
            if self.gate.is_long_outage:
                await self._wait_outside(upload.since)

    async def call(
        self,
        key: str,
        kind: Kind,
        call: Callable[[], Awaitable[T]],
        is_refused: Callable[[errors.UploadError], bool],
    ) -> T:
        """The result of `call`, a request of this kind; waits while the target accepts none.

        `is_refused` says whether an error would have met any other request too.
        """
        tries, began = 0, time.monotonic()
        gate = self.gates[kind.endpoint]
        while True:
            try:
                return await self._call_slots.run(key, call)
            except errors.UploadError as error:
                if is_refused(error):
                    gate.raise_long_outage(began, error)
                    blocked = self.quotas.blocked(kind)
                    wait: float | None = self.quotas.seconds_to_open(blocked)
                else:
                    tries += 1
                    wait = self._retry(error, tries)
                if wait is None:
                    raise
            finally:
                gate.seconds_to_next(0)  # tells its watchers
                self._queue.reconsider()  # the response may have opened the gate of uploads
            await asyncio.sleep(_pause(wait))

    def reconsider(self) -> None:
        """`Target.reconsider`."""
        self.gate.seconds_to_next(0)  # tells its watchers
        self._queue.reconsider()

    @property
    def pool(self) -> Pool:
        """`Target.pool`."""
        pool, queued = self._upload_slots.pool, self._queue.pool.waiting
        return pool._replace(waiting=pool.waiting + queued + self._waiting_outside)

    @property
    def parked(self) -> int:
        """`Target.parked`."""
        return self.pool.waiting if self.gate.closed is not None else 0

    def seconds_for(self, uploads: int) -> float:
        """`Target.seconds_for`."""
        at_best = uploads * self._average_seconds / self._slots
        return max(at_best, self.quotas.seconds_for(uploads))

    def _seconds_to_next(self) -> float:
        # Uploads that have left the queue and have no Reservation yet will need one.
        unsent = self._queue.pool.busy - self.quotas.in_flight("uploads")
        return self.gate.seconds_to_next(max(0, unsent))

    async def _announce_and_upload(
        self, key: str, upload: Upload, send: Send
    ) -> Landed | errors.ImageError | None:
        """Upload the image; None: the target takes no uploads now, or it may not be sent.

        An error is returned and not raised. Otherwise a ResourceError, which has halved the number
        of upload slots already, would halve the queue's slots too.
        """
        if self.gate.was_closed:  # it is open for a long outage, see `land`
            return None
        try:
            if upload.announce is not None:
                await upload.announce()
            landed = await self._upload_slots.run(key, lambda: self._upload(upload, send))
        except errors.ImageError as error:
            return error
        if landed is None:
            upload.retract()
        return landed

    async def _upload(self, upload: Upload, send: Send) -> Landed | None:
        began = time.monotonic()
        upload.on_send(True)
        try:
            landed = await send(upload)
        finally:
            upload.on_send(False)
        if landed is not None:
            seconds, average = time.monotonic() - began, self._average_seconds
            self._average_seconds += (seconds - average) * (0.1 if average else 1)
        return landed

    async def _wait_outside(self, since: float) -> None:
        """Wait outside the queue, which a long outage does not stop."""
        self._waiting_outside += 1
        try:
            await asyncio.sleep(_pause(self.gate.seconds_to_retry(since)))
        finally:
            self._waiting_outside -= 1


class QueuedTarget:
    """A target whose uploads and calls go through `uploads`: that part of `Target`."""

    def __init__(self, uploads: Uploads) -> None:
        self.quotas = uploads.quotas
        self.gates = uploads.gates
        self.gate = uploads.gate
        self.purging = asyncio.Lock()
        self._uploads = uploads

    def reconsider(self) -> None:
        """`Target.reconsider`."""
        self._uploads.reconsider()

    @property
    def pool(self) -> Pool:
        """`Target.pool`."""
        return self._uploads.pool

    @property
    def parked(self) -> int:
        """`Target.parked`."""
        return self._uploads.parked

    def seconds_for(self, uploads: int) -> float:
        """`Target.seconds_for`."""
        return self._uploads.seconds_for(uploads)


def _pause(seconds: float) -> float:
    """How long to wait for a gate that opens in `seconds`; inf: when a request has ended."""
    if seconds == math.inf:
        return _LOOK_SECONDS
    return min(max(seconds, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
