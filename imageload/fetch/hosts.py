"""When a download from an origin may start: slots per host, pauses, and a circuit breaker.

    await hosts.enter(target)     waits for a slot of the host, in the order of asking
    hosts.leave(target, error)    gives it back; the breaker learns from the error

    closed ──failures in a row──► open ──a rest──► one download probes ──► closed, or open again
                                   └── still failing after `give_up_seconds`: images fail at once

While the breaker is open, images wait: an image that was not tried has not failed. Slots are per
host, the breaker is per host and port. Runs on the transfer loop; it never connects to anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from imageload.errors import DownloadError
from imageload.fetch.guard import Target

_MOST_ORIGINS = 10_000


def host_of(url: str) -> str:
    """The host that `url` names, as it is written; empty if there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRules:
    """How origins are treated; times in seconds."""

    per_host: int = 8
    failures: int = 5
    """So many failures in a row open the breaker."""
    rest_seconds: float = 1.0
    """The first rest of an open breaker; it doubles up to `longest_rest_seconds`."""
    longest_rest_seconds: float = 5.0
    give_up_seconds: float = 20.0
    """After so long a failure, images of the origin fail."""
    max_pause_seconds: float = 300.0
    """The longest Retry-After that is kept."""


@dataclass(slots=True)
class _Host:
    """The slots of one host; `users` wait for one or have one."""

    slots: asyncio.Semaphore
    users: int = 0


@dataclass(slots=True)
class _Origin:
    """The breaker of one host and port; moments are those of `time.monotonic`."""

    failures: int = 0
    failing_since: float = 0.0
    last_failure: str = ""
    rest: float = 0.0
    open_until: float = 0.0
    """No download starts before this, for the breaker is open."""
    paused_until: float = 0.0
    """No download starts before this, for the origin asked for a pause (Retry-After)."""
    is_probed: bool = False
    users: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def notify(self) -> None:
        """Wake the waiting downloads, which check again."""
        self.changed.set()
        self.changed = asyncio.Event()


class Hosts:
    """The slots and breakers of all origins."""

    def __init__(self, rules: HostRules) -> None:
        self._rules = rules
        self._hosts: dict[str, _Host] = {}
        self._origins: dict[Hashable, _Origin] = {}

    async def enter(self, target: Target) -> None:
        """Wait until a download from `target` may start; `leave` must follow.

        Raises a DownloadError if its origin has been failing for too long.
        """
        origin = self._origin(target)
        host = self._hosts.get(target.host)
        if host is None:
            slots = asyncio.Semaphore(self._rules.per_host)
            host = self._hosts[target.host] = _Host(slots)
        origin.users += 1
        host.users += 1
        try:
            while True:
                await self._wait_for_breaker(origin)
                await host.slots.acquire()
                if not self._is_stopped(origin):
                    break
                host.slots.release()  # it changed meanwhile
        except BaseException:
            self._forget(target, host, origin)
            raise
        origin.is_probed = self._is_failing(origin)

    def leave(self, target: Target, error: BaseException | None) -> None:
        """Give the slot back. `error` is how the download ended; None: it succeeded."""
        host, origin = self._hosts[target.host], self._origin(target)
        host.slots.release()
        if error is None or isinstance(error, DownloadError):
            self._learn(origin, error)
        if origin.is_probed or self._is_failing(origin):
            origin.is_probed = False
            origin.notify()
        self._forget(target, host, origin)

    @property
    def in_use(self) -> int:
        """How many origins are kept."""
        return len(self._origins)

    def _origin(self, target: Target) -> _Origin:
        key = target.host, target.port
        origin = self._origins.get(key)
        if origin is None:
            if len(self._origins) >= _MOST_ORIGINS:
                self._forget_recovered()
            origin = self._origins[key] = _Origin()
        return origin

    def _is_failing(self, origin: _Origin) -> bool:
        return origin.failures >= self._rules.failures

    def _is_stopped(self, origin: _Origin) -> bool:
        if time.monotonic() < max(origin.open_until, origin.paused_until):
            return True
        return self._is_failing(origin) and origin.is_probed

    async def _wait_for_breaker(self, origin: _Origin) -> None:
        while self._is_stopped(origin):
            now = time.monotonic()
            until = max(origin.open_until, origin.paused_until)
            if self._is_failing(origin) and now >= origin.paused_until:
                give_up_at = origin.failing_since + self._rules.give_up_seconds
                if now >= give_up_at:
                    raise self._away(origin, now)
                until = min(until, give_up_at) if until > now else give_up_at
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.001, until - now)):
                    await origin.changed.wait()

    def _learn(self, origin: _Origin, error: DownloadError | None) -> None:
        now, rules = time.monotonic(), self._rules
        is_busy = error is not None and error.name == "origin_busy"
        if error is not None and is_busy and error.retry_after:
            pause = min(error.retry_after, rules.max_pause_seconds)
            origin.paused_until = max(origin.paused_until, now + pause)
            origin.failures, origin.rest = 0, 0.0
        elif error is not None and (is_busy or (error.host_is_away and not error.answered)):
            if not origin.failures:
                origin.failing_since = now
            origin.failures += 1
            origin.last_failure = error.message
            # A failure while it is open is that of a download which began before.
            if self._is_failing(origin) and now >= origin.open_until:
                origin.rest = min(rules.longest_rest_seconds, 2 * origin.rest or rules.rest_seconds)
                origin.open_until = now + origin.rest
        elif error is None or error.answered:
            origin.failures, origin.rest = 0, 0.0

    def _away(self, origin: _Origin, now: float) -> DownloadError:
        seconds = now - origin.failing_since
        error = DownloadError(
            "connect_error",
            f"The origin has failed for {seconds:.0f} seconds, so it will not be contacted again "
            f"for a few seconds. Its last failure: {origin.last_failure}",
        )
        error.max_tries = 1
        return error

    def _forget(self, target: Target, host: _Host, origin: _Origin) -> None:
        host.users -= 1
        origin.users -= 1
        if not host.users:
            del self._hosts[target.host]
        if not (origin.users or origin.failures or origin.paused_until > time.monotonic()):
            self._origins.pop((target.host, target.port), None)

    def _forget_recovered(self) -> None:
        """Forget origins that have not failed or paused for a while."""
        old = time.monotonic() - 10 * self._rules.longest_rest_seconds
        for key, origin in list(self._origins.items()):
            if not origin.users and max(origin.open_until, origin.paused_until) < old:
                del self._origins[key]
