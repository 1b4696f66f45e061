"""When a download from an origin may start: slots per host, pauses, and a circuit breaker.

    visit = await hosts.enter(target)    waits for a slot of the host, in the order of asking
    hosts.leave(visit, error)            gives it back; the breaker learns from the error

    closed ──failures in a row──► open ──a rest──► one download probes ──► closed, or open again
                                   └── still failing after `give_up_seconds`: images fail together

While the breaker is open, images wait, and a download that fails is no try: it is repeated. Images
that have not failed probe first, so a few broken images do not pass for a broken origin. Slots are
per host, the breaker is per host and port. Runs on the transfer loop; it never connects.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from imageload.errors import DownloadError, InvalidURL
from imageload.fetch.guard import Target, check_url, split_url

_MOST_ORIGINS = 10_000
_BUSY = ("origin_busy", "throttled_at_origin")


def host_of(url: str) -> str:
    """The host that `url` names, as DNS has it; empty if there is none."""
    try:
        host = (split_url(url).hostname or "").rstrip(".")
        return host if host.isascii() else check_url(url).host
    except (ValueError, InvalidURL):
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRules:
    """How origins are treated; times in seconds."""

    per_host: int = 8
    failures: int = 5
    """So many failures in a row open the breaker."""
    rest_seconds: float = 1.0
    """The first rest of an open breaker; it doubles up to `longest_rest_seconds`."""
    longest_rest_seconds: float = 3.0
    give_up_seconds: float = 25.0
    """After so long a failure, images of the origin fail."""
    max_pause_seconds: float = 300.0
    """The longest Retry-After that is followed."""


@dataclass(slots=True)
class _Host:
    """The slots of one host; `users` wait for one or have one."""

    slots: asyncio.Semaphore
    users: int = 0


class _LastFailure(NamedTuple):
    """When a download failed, and its error's name, message and status."""

    at: float
    name: str
    message: str
    status: int | None


@dataclass(slots=True)
class _Origin:
    """The breaker of one host and port; moments are those of `time.monotonic`."""

    failures: int = 0
    failing_since: float = 0.0
    last: _LastFailure | None = None
    rest: float = 0.0
    open_until: float = 0.0
    """No download starts before this, for the breaker is open."""
    paused_until: float = 0.0
    """No download starts before this, for the origin asked for a pause (Retry-After)."""
    probe: Visit | None = None
    fresh: int = 0
    """Images that wait and have not failed."""
    users: int = 0
    unused_since: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def notify(self) -> None:
        """Wake the waiting downloads, which check again."""
        self.changed.set()
        self.changed = asyncio.Event()


class Visit(msgspec.Struct, frozen=True, eq=False):
    """A download that waits for a slot of its host, or has one."""

    target: Target
    host: _Host
    origin: _Origin
    since: float
    has_failed: bool


class Hosts:
    """The slots and breakers of all origins."""

    def __init__(self, rules: HostRules) -> None:
        self._rules = rules
        self._hosts: dict[str, _Host] = {}
        self._origins: dict[Hashable, _Origin] = {}
        self._next_tidy = 0.0

    async def enter(self, target: Target, *, since: float = 0.0, has_failed: bool = False) -> Visit:
        """Wait until a download from `target` may start; `leave` must follow.

        Raises a DownloadError once the origin has failed for `give_up_seconds`, which are counted
        from `since` at the earliest: when the image was asked for, on `time.monotonic`.
        `has_failed`: a download of this image has failed before.
        """
        origin = self._origin(target)
        host = self._hosts.get(target.host)
        if host is None:
            slots = asyncio.Semaphore(self._rules.per_host)
            host = self._hosts[target.host] = _Host(slots)
        origin.users += 1
        host.users += 1
        origin.fresh += not has_failed
        visit = Visit(target, host, origin, since, has_failed)
        try:
            while True:
                await self._wait_for_breaker(origin, visit)
                await host.slots.acquire()
                if not self._is_stopped(origin, visit, time.monotonic()):
                    break
                host.slots.release()  # it changed meanwhile
        except BaseException:
            origin.fresh -= not has_failed
            origin.notify()
            self._forget(target, host, origin)
            raise
        origin.fresh -= not has_failed
        if self._is_failing(origin):
            origin.probe = visit
        return visit

    def leave(self, visit: Visit, error: BaseException | None) -> bool:
        """Give the slot back. `error` is how the download ended; None: it succeeded.

        True if the error is that of an origin whose breaker is open. Then the download was no try
        of its image: `enter` lets it start again, or says for how long the origin has failed.
        """
        host, origin = visit.host, visit.origin
        host.slots.release()
        is_away, was_failing = False, self._is_failing(origin)
        if error is None or isinstance(error, DownloadError):
            is_away = self._learn(origin, error)
        if origin.probe is visit:
            origin.probe = None
        if was_failing or is_away:
            origin.notify()
        self._forget(visit.target, host, origin)
        return is_away

    @property
    def in_use(self) -> int:
        """How many origins are kept."""
        return len(self._origins)

    def _origin(self, target: Target) -> _Origin:
        key = target.host, target.port
        origin = self._origins.get(key)
        if origin is not None and self._is_over(origin):
            origin = None
        if origin is None:
            if len(self._origins) >= _MOST_ORIGINS and time.monotonic() >= self._next_tidy:
                self._forget_old()
            origin = self._origins[key] = _Origin()
        return origin

    def _is_over(self, origin: _Origin) -> bool:
        """True if the failures of an origin are so old that they say nothing about it now."""
        unused_until = max(origin.unused_since, origin.paused_until)
        return not origin.users and time.monotonic() >= unused_until + self._rules.give_up_seconds

    def _is_failing(self, origin: _Origin) -> bool:
        return origin.failures >= self._rules.failures

    def _is_stopped(self, origin: _Origin, visit: Visit, now: float) -> bool:
        if now < max(origin.open_until, origin.paused_until):
            return True
        comes_later = origin.probe is not None or (visit.has_failed and origin.fresh > 0)
        return self._is_failing(origin) and comes_later

    async def _wait_for_breaker(self, origin: _Origin, visit: Visit) -> None:
        while self._is_stopped(origin, visit, now := time.monotonic()):
            moments = [origin.open_until, origin.paused_until]
            if origin.last is not None and self._is_failing(origin):
                give_up_at = max(origin.failing_since, visit.since) + self._rules.give_up_seconds
                # A pause that the origin asked for, and the probe after it, come first.
                if not origin.last.at < give_up_at < origin.paused_until:
                    if now >= give_up_at:
                        raise _away(now - origin.failing_since, origin.last)
                    moments.append(give_up_at)
            next_moment = min((moment for moment in moments if moment > now), default=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(next_moment and max(0.001, next_moment - now)):
                    await origin.changed.wait()

    def _learn(self, origin: _Origin, error: DownloadError | None) -> bool:
        """Note how a download ended; True if its failure is the origin's, which is failing."""
        now, rules = time.monotonic(), self._rules
        if error is None or not _is_away(error):
            if error is None or error.answered:
                origin.failures, origin.rest, origin.open_until = 0, 0.0, 0.0
            return False
        if not origin.failures:
            origin.failing_since = now
        origin.failures += 1
        origin.last = _LastFailure(now, error.name, error.message, error.status_code)
        if error.name in _BUSY and error.retry_after:
            pause = min(error.retry_after, rules.max_pause_seconds)
            origin.paused_until = max(origin.paused_until, now + pause)
        if not self._is_failing(origin):
            return False
        if now >= origin.open_until:  # else it is of a download that began before
            origin.rest = min(rules.longest_rest_seconds, 2 * origin.rest or rules.rest_seconds)
            origin.open_until = now + origin.rest
        return True

    def _forget(self, target: Target, host: _Host, origin: _Origin) -> None:
        host.users -= 1
        origin.users -= 1
        if not host.users:
            del self._hosts[target.host]
        if origin.users:
            return
        origin.unused_since = time.monotonic()
        if not (origin.failures or origin.paused_until > origin.unused_since):
            self._origins.pop((target.host, target.port), None)

    def _forget_old(self) -> None:
        self._next_tidy = time.monotonic() + 1.0
        for key, origin in list(self._origins.items()):
            if self._is_over(origin):
                del self._origins[key]


def _is_away(error: DownloadError) -> bool:
    return error.name in _BUSY or (error.host_is_away and not error.answered)


def _away(seconds: float, last: _LastFailure) -> DownloadError:
    error = DownloadError(
        last.name,
        f"The origin has failed for {seconds:.0f} s. Retry this image later. The origin's "
        f"last failure: {last.message}",
        status_code=last.status,
    )
    error.max_tries = 1
    return error
