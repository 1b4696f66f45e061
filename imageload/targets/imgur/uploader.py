"""Uploads within Imgur's limits: which client id sends, and what waits until there is room.

    start(job, upload) ─► Lane ─► the quota's gate ─► ImgurAPI.land ─► Landed
                            ▲                              │
                            └──── Deferred: in line again ◄──┘ Imgur takes nothing for now

What waits at the gate holds its temp file and nothing else: no slot, no thread, no connection.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imageload import errors
from imageload.job import Landed
from imageload.retry import RetryRule
from imageload.road import Upload
from imageload.targets.imgur.quota import CALL_COST, UPLOAD_COST, Closed, Quota, error_of
from imageload.transport.engine import Done, Engine, Pool
from imageload.transport.transfer import Pause, Steps, Transfer, Until
from imgurapi import ImgurAPI

_log = logging.getLogger(__name__)

_CALL_SLOTS = 8
_ASK_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 60.0


class Uploads:
    """The way to Imgur for all jobs. `apis` has one ImgurAPI for each of the quota's Meters."""

    def __init__(
        self,
        engine: Engine,
        transfer: Transfer,
        slots: int,
        *,
        apis: Sequence[ImgurAPI],
        quota: Quota,
        retry: RetryRule,
        anonymous: bool = True,
        outage_seconds: float = math.inf,
        clock: Callable[[float], object] | None = None,
    ) -> None:
        """`outage_seconds` is how long a `request` waits for an Imgur in trouble.

        `clock` is told how many seconds each try of an upload took.
        """
        self.slots = slots
        self.quota = quota
        self.anonymous = anonymous
        self._apis = {api.meter.number: api for api in apis}
        self._retry = retry
        self._outage_seconds = outage_seconds
        self._lane = engine.lane(transfer, slots, self._seconds_to_turn, clock)
        self._calls = engine.lane(transfer, _CALL_SLOTS)
        self._asks = engine.lane(transfer, 2 * len(apis))
        self._is_parked = False
        self._told: tuple[str, int] | None = None
        self._watchers: dict[object, Callable[[], object]] = {}
        self._asking: set[int] = set()
        self._upload_seconds = 0.0

    def start(self, key: str, upload: Upload, done: Done) -> None:
        """Upload in its turn; `done` is told the Landed, or the error. See Travel."""
        self._lane.submit(key, functools.partial(self._steps, upload), done)

    def cancel(self, key: str) -> None:
        """End what `key` has waiting or under way here, soon."""
        self._lane.cancel(key)

    def unqueue(self, key: str) -> None:
        """End what `key` has waiting here, soon; what is under way goes on."""
        self._lane.cancel(key, under_way=False)

    def stop(self) -> None:
        """End what waits, and all calls; uploads under way go on."""
        self._lane.drain(under_way=False)
        self._calls.drain(under_way=True)
        self._asks.drain(under_way=True)

    def call(self, key: str, steps: Callable[[], Steps[Any]], done: Done) -> None:
        """Do other Steps towards Imgur in their turn: those that `request` gives."""
        self._calls.submit(key, steps, done)

    def cancel_calls(self, key: str) -> None:
        """End what `key` has waiting or under way of these."""
        self._calls.cancel(key)

    def request(
        self, method: str, route: str, fields: Mapping[str, Any] | None = None
    ) -> Steps[Any]:
        """Steps to the `data` of Imgur's answer, that wait as long as Imgur takes nothing."""
        tries, begun = 0, time.monotonic()
        while True:
            post = method == "POST"
            api = self._apis[self.quota.best(CALL_COST, post=post).number]
            try:
                return (yield from api.request(method, route, fields, force_anon=self.anonymous))
            except errors.UploadError as error:
                in_trouble = min(self.quota.seconds_of_trouble(), time.monotonic() - begun)
                if self._is_no_fault_of_its_own(api, error):
                    if in_trouble > self._outage_seconds:
                        raise
                    wait: float | None = self.quota.seconds_to_open(CALL_COST, post=post)
                else:
                    tries += 1
                    wait = self._retry.wait(error, tries)
                if wait is None:
                    raise
            yield Pause(min(max(wait, 0.05), _LONGEST_PAUSE_SECONDS))

    def album_link(self, album_id: str) -> str:
        """Where the album of this id is seen."""
        return next(iter(self._apis.values())).album_link(album_id)

    def ask(self) -> None:
        """Ask Imgur how the budgets of each client id stand, and send nothing before it said so."""
        for api in self._apis.values():
            api.meter.hold_until_asked(_ASK_SECONDS)
            self._ask(api)

    @property
    def pool(self) -> Pool:
        """How many uploads are under way, and wait for a slot or for Imgur."""
        return self._lane.pool

    @property
    def parked(self) -> int:
        """How many images wait for Imgur to take more."""
        return self._lane.waiting if self.closed is not None else 0

    @property
    def is_parked(self) -> bool:
        """Do uploads wait for Imgur? As last seen, and cheap: for those who are watching."""
        return self._is_parked

    @property
    def closed(self) -> Closed | None:
        """What uploads wait for, where that has a time; None where they go on."""
        closed = self.quota.closed(UPLOAD_COST, post=True)
        return None if closed is None or closed.until == math.inf else closed

    @property
    def outage(self) -> tuple[float, errors.UploadError] | None:
        """The block or the outage that uploads wait for, after its seconds so far, or None."""
        closed, seconds = self.closed, self.quota.seconds_of_trouble()
        if closed is None or not seconds:
            return None
        return seconds, error_of(closed, time.monotonic())

    def seconds_for(self, uploads: int) -> float:
        """How long so many uploads will take, by the budgets and by how long one has taken."""
        at_best = uploads * self._upload_seconds / self.slots
        return max(at_best, self.quota.seconds_for(uploads))

    def watch(self, watcher: object, wake: Callable[[], object]) -> None:
        """Have `wake` called, from any thread, whenever what uploads wait for is another."""
        self._watchers[watcher] = wake

    def unwatch(self, watcher: object) -> None:
        """Take back a `watch`."""
        self._watchers.pop(watcher, None)

    def _seconds_to_turn(self) -> float:
        """The lane's gate."""
        closed = self.quota.closed(UPLOAD_COST, post=True)
        seconds = self.quota.seconds_until_open(closed)
        is_parked = 0 < seconds < math.inf
        if closed is not None and is_parked and not self._is_parked:
            _log.warning("uploads wait for %.0f s reason=%s", seconds, closed.sentence)
        elif not is_parked and self._is_parked:
            _log.info("uploads go on")
        self._is_parked = is_parked
        self._tell(closed if is_parked else None)
        return seconds

    def _tell(self, closed: Closed | None) -> None:
        """Wake the watchers where uploads wait for something else than before."""
        waits = (closed.reason, round(closed.until)) if closed is not None else None
        if waits != self._told:
            self._told = waits
            for wake in list(self._watchers.values()):
                wake()

    def _steps(self, upload: Upload) -> Steps[Landed]:
        api = self._apis[self.quota.best(UPLOAD_COST, post=True).number]
        announcement = upload.announcement
        if announcement is not None and not announcement.is_durable:
            yield Until(announcement.hold)
        began = time.monotonic()
        try:
            if upload.was_lost and not self.anonymous:
                found = yield from self._find(api, upload.name)
                if found is not None:
                    return found
            texts = {"title": upload.title, "description": upload.description}
            if not self.anonymous:
                texts["name"] = upload.name
            config = {name: text for name, text in texts.items() if text is not None}
            landed = yield from api.land(upload.path, anonymous=self.anonymous, config=config)
        except errors.UploadError as error:
            if self._is_no_fault_of_its_own(api, error):
                raise errors.Deferred(error.message) from error
            raise
        took = time.monotonic() - began
        self._upload_seconds += (took - self._upload_seconds) * (0.1 if self._upload_seconds else 1)
        return landed

    def _find(self, api: ImgurAPI, name: str) -> Steps[Landed | None]:
        """The account's image of this name, among its newest: it had landed after all."""
        images = yield from api.request("GET", "account/me/images/0")
        for image in images if isinstance(images, list) else []:
            if isinstance(image, dict) and image.get("name") == name:
                return api.landed(image)
        return None

    def _is_no_fault_of_its_own(self, api: ImgurAPI, error: errors.UploadError) -> bool:
        """Would any other request have met this error too, and is it worth waiting?"""
        if isinstance(error, errors.CredentialsRefused):
            self._ask(api)
            return True
        if isinstance(error, (errors.QuotaExceeded, errors.UploadBlocked)):
            return True
        # With a `max_tries` of its own, Imgur may have received the image: that counts as a try.
        is_down = error.imgur_is_away and error.max_tries is None
        return is_down and api.meter.hold is not None

    def _ask(self, api: ImgurAPI) -> None:
        number = api.meter.number
        if number not in self._asking:
            self._asking.add(number)
            self._asks.submit(
                f"ask-{number}",
                functools.partial(self._asked, api),
                lambda _: self._asking.discard(number),
            )

    def _asked(self, api: ImgurAPI) -> Steps[None]:
        """Ask until Imgur takes the credentials; any other trouble shows with the uploads."""
        while True:
            hold = api.meter.hold
            if hold is not None and hold.reason == "credentials":
                yield Pause(min(max(hold.until - time.monotonic(), 0.05), 3600.0))
            try:
                yield from api.ask_credits(anonymous=self.anonymous)
            except errors.CredentialsRefused as error:
                number = api.meter.number
                name = "IMGUR_CLIENT_ID" if number == 1 else "--client-ids"
                _log.error("client id %d waits, check %s: %s", number, name, error.message)
            except errors.ImageError as error:
                _log.warning("Imgur does not tell its limits yet: %s", error.message)
                hold = api.meter.hold
                if hold is None or hold.reason != "credentials":
                    return
                yield Pause(min(max(error.retry_after or 0.0, 1.0), _LONGEST_PAUSE_SECONDS))
            else:
                return
