"""Imgur as a target: uploads within its limits, and other calls beside them.

    land ─► line (fair by job, behind the quota's gate) ─► announce ─► slot ─► ImgurAPI.land
             ▲                                                                    │
             └──────────── Deferred: Imgur accepts nothing at the moment ◄────────┘

An upload that waits at the gate holds its temp file, and neither a slot nor a connection. A refusal
that any other image would have met too does not count as a try. Runs on the transfer loop; other
threads may read the properties.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imageload import errors
from imageload.job import Landed
from imageload.targets import Upload
from imageload.targets.imgur.client import Client, ask_until_known
from imageload.targets.imgur.quota import CALL_COST, UPLOAD_COST, Blocked, Quotas
from imageload.transport.slots import Pool, Slots

_log = logging.getLogger(__name__)

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
        outage_seconds: float = math.inf,
        clock: Callable[[float], object] | None = None,
        on_resize: Callable[[int], object] | None = None,
    ) -> None:
        """`retry` is `RetryRule.wait`; `clock` and `on_resize` are those of the uploads' Slots.

        An outage of `outage_seconds` fails the uploads and calls that have waited as long.
        """
        self.quotas = quotas
        self.anonymous = anonymous
        self.slots = slots
        self._clients = {client.quota.number: client for client in clients}
        self._retry = retry
        self._outage_seconds = outage_seconds
        # Twice the slots: an announcement waits for the disk, and its upload needs no slot before.
        self._line = Slots(2 * slots, gate=self._seconds_to_next)
        self._uploading = Slots(slots, clock=clock, on_resize=on_resize)
        self._calls = Slots(CALL_SLOTS)
        self.purging = asyncio.Lock()
        """Held while a purge finds out which of its images other jobs have too."""
        self._resting = 0
        self._waits_for: tuple[str, int] | None = None
        self._watchers: list[Callable[[], object]] = []
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._upload_seconds = 0.0

    async def land(self, key: str, upload: Upload) -> Landed:
        """Upload the image in the turn of the job `key`, as soon as Imgur takes it.

        Raises an ImageError of this try, or that of an outage which has lasted too long.
        """
        while True:
            outcome = await self._line.run(key, lambda: self._announced(key, upload))
            if isinstance(outcome, Landed):
                return outcome
            if not isinstance(outcome, errors.Deferred):
                raise outcome
            self._raise_long_outage(upload.since)
            if self._is_long_outage:  # so the gate lets all through, to fail if they waited as long
                await self._rest(upload.since)

    async def request(
        self, key: str, method: str, route: str, fields: Mapping[str, Any] | None = None
    ) -> Any:
        """The `data` of Imgur's response; waits as long as Imgur takes nothing."""
        tries, began, post = 0, time.monotonic(), method == "POST"
        while True:
            client = self._client(CALL_COST, post=post)
            try:
                call = functools.partial(
                    client.request, method, route, fields, anonymous=self.anonymous
                )
                return await self._calls.run(key, call)
            except errors.UploadError as error:
                if self._is_refused_as_a_whole(client, error):
                    self._raise_long_outage(began, error)
                    blocked = self.quotas.blocked(CALL_COST, post=post)
                    wait: float | None = self.quotas.seconds_to_open(blocked)
                else:
                    tries += 1
                    wait = self._retry(error, tries)
                if wait is None:
                    raise
            finally:
                self._line.reconsider()  # the response may have opened the gate
            await asyncio.sleep(_pause(wait))

    async def ask(self) -> None:
        """Begin to ask for the limits of each client id; uploads wait for the response."""
        for client in self._clients.values():
            client.quota.block_until_asked(_ASK_SECONDS)
            self._ask(client)

    def album_link(self, album_id: str) -> str:
        """The page of the album."""
        return next(iter(self._clients.values())).album_link(album_id)

    def watch(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, on the loop, when uploads wait for something else than before."""
        self._watchers.append(callback)

    def unwatch(self, callback: Callable[[], object]) -> None:
        """Undo a `watch`."""
        self._watchers.remove(callback)

    @property
    def pool(self) -> Pool:
        """How many uploads are in flight, and how many wait for a slot or for Imgur."""
        slots, busy, waiting = self._uploading.pool
        return Pool(slots, busy, waiting + self._line.pool.waiting + self._resting)

    @property
    def parked(self) -> int:
        """How many images wait because Imgur takes no uploads."""
        return self.pool.waiting if self.closed is not None else 0

    @property
    def is_parked(self) -> bool:
        """Do uploads wait for Imgur? As of the last look: costs nothing."""
        return self._waits_for is not None

    @property
    def closed(self) -> Blocked | None:
        """Why uploads wait, and until when; None: they go on."""
        blocked = self.quotas.blocked(UPLOAD_COST, post=True)
        return None if blocked is None or blocked.until == math.inf else blocked

    @property
    def outage(self) -> tuple[float, errors.UploadError] | None:
        """The block or outage for which uploads wait: how long it has lasted, and its error."""
        closed, seconds = self.closed, self.quotas.outage_seconds()
        return None if closed is None or not seconds else (seconds, closed.error(time.monotonic()))

    def seconds_for(self, uploads: int) -> float:
        """How long so many uploads will take, by the budgets and the average upload."""
        at_best = uploads * self._upload_seconds / self.slots
        return max(at_best, self.quotas.seconds_for(uploads))

    def _seconds_to_next(self) -> float:
        """The gate of the line: the seconds until one more upload may leave it."""
        # Uploads that have left the line and have no Reservation yet will need one.
        unsent = max(0, self._line.pool.busy - self.quotas.in_flight)
        if self.quotas.blocked(UPLOAD_COST, post=True, count=unsent + 1) is None:
            self._notify(None)
            return 0.0
        closed = self.closed
        self._notify(closed)
        if closed is None:
            return math.inf
        outage = self.quotas.outage_seconds()
        until_long = self._outage_seconds - outage if outage else math.inf
        return max(0.0, min(self.quotas.seconds_to_open(closed), until_long))

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
        for callback in list(self._watchers):
            callback()

    async def _announced(self, key: str, upload: Upload) -> Landed | errors.ImageError:
        """Announce the upload and do it.

        An error is returned: the line must not queue again what lacked resources in its slot.
        """
        try:
            if self.is_parked:  # a long outage opens the gate, see `land`
                raise errors.Deferred("Imgur accepts no uploads at the moment.")
            if upload.announce is not None:
                await upload.announce()
            return await self._uploading.run(key, lambda: self._upload(upload))
        except errors.ImageError as error:
            return error

    async def _upload(self, upload: Upload) -> Landed:
        if upload.on_send is None:
            return await self._send(upload)
        upload.on_send(True)
        try:
            return await self._send(upload)
        finally:
            upload.on_send(False)

    async def _send(self, upload: Upload) -> Landed:
        client, began = self._client(UPLOAD_COST, post=True), time.monotonic()
        try:
            if upload.was_lost and not self.anonymous:
                found = await self._find(client, upload.name)
                if found is not None:
                    return found
            texts = {"title": upload.title, "description": upload.description}
            if not self.anonymous:
                texts["name"] = upload.name
            config = {name: text for name, text in texts.items() if text is not None}
            landed = await client.land(upload.path, config, anonymous=self.anonymous)
        except errors.UploadError as error:
            if self._is_refused_as_a_whole(client, error):
                raise errors.Deferred(error.message) from error
            raise
        took = time.monotonic() - began
        self._upload_seconds += (took - self._upload_seconds) * (0.1 if self._upload_seconds else 1)
        return landed

    async def _find(self, client: Client, name: str) -> Landed | None:
        """The account's image of this name, if it is among its newest."""
        images = await client.request("GET", "account/me/images/0", None, anonymous=False)
        for image in images if isinstance(images, list) else []:
            if isinstance(image, dict) and image.get("name") == name:
                return client.landed(image)
        return None

    def _client(self, cost: int, *, post: bool) -> Client:
        return self._clients[self.quotas.best(cost, post=post).number]

    def _is_refused_as_a_whole(self, client: Client, error: errors.UploadError) -> bool:
        """Would any other request have met this error too, and is it worth waiting?"""
        if isinstance(error, errors.CredentialsRefused):
            self._ask(client)
            return True
        if isinstance(error, (errors.QuotaExceeded, errors.UploadBlocked)):
            return True
        # With a `max_tries` of its own, Imgur may have received the image: that counts as a try.
        is_down = error.imgur_is_away and error.max_tries is None
        return is_down and client.quota.backoff is not None

    @property
    def _is_long_outage(self) -> bool:
        return self.quotas.outage_seconds() >= self._outage_seconds

    def _raise_long_outage(self, since: float, error: errors.UploadError | None = None) -> None:
        """Raise the outage's error if the outage and a wait from `since` have lasted too long.

        It is the last word on the image: another try would wait as long.
        """
        outage = self.outage
        waited = time.monotonic() - since
        if outage is not None and min(outage[0], waited) >= self._outage_seconds:
            error = error or outage[1]
            error.max_tries = 1
            raise error

    async def _rest(self, since: float) -> None:
        """Wait out of the line until Imgur may take uploads, or `since` is too long ago."""
        blocked = self.quotas.blocked(UPLOAD_COST, post=True)
        until_long = since + self._outage_seconds - time.monotonic()
        self._resting += 1
        try:
            await asyncio.sleep(_pause(min(self.quotas.seconds_to_open(blocked), until_long)))
        finally:
            self._resting -= 1

    def _ask(self, client: Client) -> None:
        number = client.quota.number
        if number not in self._asking:
            task = asyncio.get_running_loop().create_task(
                ask_until_known(client, anonymous=self.anonymous)
            )
            self._asking[number] = task
            task.add_done_callback(lambda _: self._asked(number))

    def _asked(self, number: int) -> None:
        del self._asking[number]
        self._line.reconsider()


def _pause(seconds: float) -> float:
    """How long to wait for a gate that opens in `seconds`; inf: when a request has ended."""
    if seconds == math.inf:
        return _LOOK_SECONDS
    return min(max(seconds, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
