"""Imgur as a target: uploads within its limits, and other calls beside them.

    land ─► queue (fair by job, behind the quota's gate) ─► announce ─► slot ─► ImgurAPI.land
             ▲                                                                     │
             └─────────────── Imgur accepts no uploads at the moment ◄─────────────┘

An upload that waits at the gate holds its temp file, and neither a slot nor a connection. A refusal
that any other image would have met too does not count as a try. Albums and deletions have gates of
their own: Imgur refuses one endpoint and serves the others. Runs on the transfer loop; other
threads may read the properties.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from imageload import errors
from imageload.job import Landed
from imageload.targets import Upload
from imageload.targets.imgur.breaker import Endpoint, Rejections
from imageload.targets.imgur.client import Client, ask_until_known, ask_what_is_refused
from imageload.targets.imgur.gate import Gate
from imageload.targets.imgur.quota import ALBUM, DELETION, UPLOAD, Kind, Quota, Quotas, kind_of
from imageload.transport.slots import Pool, Slots

Ask = Callable[..., Awaitable[None]]

CALL_SLOTS = 8
_ASK_SECONDS = 10.0
_SHORTEST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 60.0
_LOOK_SECONDS = 1.0


class Imgur:
    """Uploads and calls of all jobs. `clients` has one client for each of `quotas`."""

    def __init__(
        self,
        clients: Sequence[Client],
        quotas: Quotas,
        slots: int,
        *,
        retry: Callable[[errors.ImageError, int], float | None],
        anonymous: bool = True,
        clock: Callable[[float], object] | None = None,
        on_resize: Callable[[int], object] | None = None,
    ) -> None:
        """`retry` is `RetryRule.wait`; `clock` and `on_resize` are those of the uploads' Slots."""
        self.quotas = quotas
        self.anonymous = anonymous
        self._clients = {client.quota.number: client for client in clients}
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
        self.purging = asyncio.Lock()
        """Held while a purge finds out which of its images other jobs have too."""
        self._waiting_outside = 0  # of the queue, see `_wait_outside`
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._average_seconds = 0.0  # of an upload

    async def land(self, key: str, upload: Upload) -> Landed:
        """Upload the image in the turn of the job `key`, as soon as Imgur takes it.

        Raises an ImageError of this try, or that of an outage which has lasted too long.
        """
        line: tuple[str, bool] = (key, False)
        while True:
            outcome = await self._queue.run(line, lambda: self._announce_and_upload(key, upload))
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

    async def request(
        self, key: str, method: str, route: str, fields: Mapping[str, Any] | None = None
    ) -> Any:
        """The `data` of Imgur's response; waits while Imgur accepts no requests."""
        kind, tries, began = kind_of(method, route), 0, time.monotonic()
        gate = self.gates[kind.endpoint]
        while True:
            client = self._client(kind)
            try:
                call = functools.partial(
                    client.request, method, route, fields, anonymous=self.anonymous
                )
                return await self._call_slots.run(key, call)
            except errors.UploadError as error:
                if self._is_refused_as_a_whole(client, kind, error):
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

    async def ask(self) -> None:
        """Begin to ask for the limits of each client id; uploads wait for the response."""
        for client in self._clients.values():
            self.ask_for(client.quota)

    def ask_for(self, quota: Quota) -> None:
        """Begin to ask for the limits of one client id, which waits for the response."""
        quota.block_until_asked(_ASK_SECONDS)
        self._ask(self._clients[quota.number])

    def reconsider(self) -> None:
        """The gate of uploads may have opened or shut without a request."""
        self.gate.seconds_to_next(0)  # tells its watchers
        self._queue.reconsider()

    def album_link(self, album_id: str) -> str:
        """The page of the album."""
        return next(iter(self._clients.values())).album_link(album_id)

    @property
    def pool(self) -> Pool:
        """How many uploads are in flight, and how many wait for a slot or for Imgur."""
        pool, queued = self._upload_slots.pool, self._queue.pool.waiting
        return pool._replace(waiting=pool.waiting + queued + self._waiting_outside)

    @property
    def parked(self) -> int:
        """How many images wait because Imgur takes no uploads."""
        return self.pool.waiting if self.gate.closed is not None else 0

    def seconds_for(self, uploads: int) -> float:
        """How long so many uploads will take, by the budgets and the average upload."""
        at_best = uploads * self._average_seconds / self._slots
        return max(at_best, self.quotas.seconds_for(uploads))

    def _seconds_to_next(self) -> float:
        # Uploads that have left the queue and have no Reservation yet will need one.
        unsent = self._queue.pool.busy - self.quotas.in_flight("uploads")
        return self.gate.seconds_to_next(max(0, unsent))

    async def _announce_and_upload(
        self, key: str, upload: Upload
    ) -> Landed | errors.ImageError | None:
        """Upload the image; None: Imgur accepts no uploads at the moment, or it may not be sent.

        An error is returned and not raised. Otherwise a ResourceError, which has halved the number
        of upload slots already, would halve the queue's slots too.
        """
        if self.gate.was_closed:  # it is open for a long outage, see `land`
            return None
        try:
            if upload.announce is not None:
                await upload.announce()
            landed = await self._upload_slots.run(key, lambda: self._upload(upload))
        except errors.ImageError as error:
            return error
        if landed is None:
            upload.retract()
        return landed

    async def _upload(self, upload: Upload) -> Landed | None:
        upload.on_send(True)
        try:
            return await self._send(upload)
        finally:
            upload.on_send(False)

    async def _send(self, upload: Upload) -> Landed | None:
        client, began = self._client(UPLOAD), time.monotonic()
        if upload.was_lost and not self.anonymous:
            # If the account cannot be read, the image is sent again: it is marked already.
            with contextlib.suppress(errors.UploadError):
                found = await client.find(upload.name)
                if found is not None:
                    return found
        texts = {"title": upload.title, "description": upload.description}
        if not self.anonymous:
            texts["name"] = upload.name
        config = {name: text for name, text in texts.items() if text is not None}
        if not upload.may_send():
            return None
        try:
            landed = await client.land(
                upload.path, config, anonymous=self.anonymous, content=upload.content
            )
        except errors.UploadError as error:
            if self._is_refused_as_a_whole(client, UPLOAD, error):
                return None
            raise
        seconds, average = time.monotonic() - began, self._average_seconds
        self._average_seconds += (seconds - average) * (0.1 if average else 1)
        return landed

    def _client(self, kind: Kind) -> Client:
        return self._clients[self.quotas.best(kind).number]

    def _is_refused_as_a_whole(self, client: Client, kind: Kind, error: errors.UploadError) -> bool:
        """True if any other request of this kind would have failed too, and may succeed later."""
        breaker = client.quota.breakers[kind.endpoint]
        if isinstance(error, errors.CredentialsRefused):
            self._ask(client)
            return True
        if isinstance(error, errors.UploadBlocked):
            if kind is UPLOAD and error.answered and not breaker.is_block_asked:
                breaker.is_block_asked = True
                self._ask(client, ask_what_is_refused)
            return True
        if isinstance(error, errors.QuotaExceeded):
            return True
        # With a `max_tries` of its own, Imgur may have received the image: that counts as a try.
        is_down = error.imgur_is_away and error.max_tries is None
        return breaker.backoff is not None and (is_down or error.name in Rejections.NAMES)

    async def _wait_outside(self, since: float) -> None:
        """Wait outside the queue, which a long outage does not stop."""
        self._waiting_outside += 1
        try:
            await asyncio.sleep(_pause(self.gate.seconds_to_retry(since)))
        finally:
            self._waiting_outside -= 1

    def _ask(self, client: Client, ask: Ask = ask_until_known) -> None:
        number = client.quota.number
        if number not in self._asking:
            self._asking[number] = asyncio.ensure_future(self._ask_and_forget(client, ask))

    async def _ask_and_forget(self, client: Client, ask: Ask) -> None:
        try:
            await ask(client, anonymous=self.anonymous)
        finally:
            del self._asking[client.quota.number]
            self._queue.reconsider()
        backoff = client.quota.access.backoff
        if ask is not ask_until_known and backoff is not None and backoff.only_asking:
            self._ask(client)  # the client id was refused meanwhile


def _pause(seconds: float) -> float:
    """How long to wait for a gate that opens in `seconds`; inf: when a request has ended."""
    if seconds == math.inf:
        return _LOOK_SECONDS
    return min(max(seconds, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
