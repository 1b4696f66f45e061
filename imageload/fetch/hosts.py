"""Which origin host may be asked for an image now: slots, waits, and a circuit breaker.

    ask(host) ─► Go              a slot is yours until `done`
              ─► Busy            stand in line: `wake(host, granted)` comes, in the order of asking
              ─► Wait(until)     the host asked for a pause (Retry-After)
              ─► Down(error)     it failed several times in a row: no contact for a while

Shared by all jobs and safe in all threads; it holds state only of hosts that are in use or in
trouble. It never connects to anything.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from imageload.errors import DownloadError, ImageError

Wake = Callable[[str, bool], None]
"""Told the host's name, and whether a slot is granted with it: use that, or `release` it. Without
one, ask again."""

_MAX_HOSTS = 10_000


@dataclass(frozen=True, slots=True)
class Go:
    """Download now, and call `done` after it."""


@dataclass(frozen=True, slots=True)
class Busy:
    """As many downloads as the host may have are under way: wait for the wake."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The host wants to be left alone until this moment on `time.monotonic`."""

    until: float


@dataclass(frozen=True, slots=True)
class Down:
    """The host is not contacted for a while; this is the failure of an image that asked."""

    error: ImageError


Turn = Go | Busy | Wait | Down


@dataclass(slots=True)
class _Host:
    running: int = 0
    failures: int = 0
    open_until: float = 0.0
    wait_until: float = 0.0
    line: deque[Wake] = field(default_factory=deque)

    def is_idle(self, now: float) -> bool:
        return not (self.running or self.line or self.failures or self.wait_until > now)


class Hosts:
    """The turns of all origin hosts.

    At most `per_host` downloads of one host run at once. After `failures` in a row without a
    single answer it is not contacted for `rest_seconds`, then asked by one download; what that one
    meets decides. A pause that a host asks for is kept up to `max_wait_seconds`.
    """

    def __init__(
        self, *, per_host: int, failures: int, rest_seconds: float, max_wait_seconds: float
    ) -> None:
        self._per_host = per_host
        self._failures = failures
        self._rest_seconds = rest_seconds
        self._max_wait_seconds = max_wait_seconds
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}

    def ask(self, name: str, wake: Wake) -> Turn:
        """What a download from the host `name` may do now. `wake` must be quick."""
        now = time.monotonic()
        with self._lock:
            host = self._hosts.get(name)
            if host is None:
                self._forget_idle(now)
                host = self._hosts[name] = _Host()
            if host.failures >= self._failures and now < host.open_until:
                return Down(self._down(host.open_until - now))
            if now < host.wait_until:
                return Wait(host.wait_until)
            if host.line or host.running >= self._slots(host):
                host.line.append(wake)
                return Busy()
            host.running += 1
            return Go()

    def done(self, name: str, error: ImageError | None) -> None:
        """Give the slot back, and learn from how the download ended."""
        now = time.monotonic()
        with self._lock:
            host = self._hosts[name]
            if error is not None and error.host_is_away and not error.answered:
                host.failures += 1
                host.open_until = now + self._rest_seconds
            elif error is None or error.answered:
                host.failures = 0
            if error is not None and error.answered and error.retry_after:
                pause = min(error.retry_after, self._max_wait_seconds)
                host.wait_until = max(host.wait_until, now + pause)
            woken = self._give_back(name, host, now)
        for wake, granted in woken:
            wake(name, granted)

    def release(self, name: str) -> None:
        """Give the slot back unused: nothing was downloaded, and nothing is learnt."""
        with self._lock:
            woken = self._give_back(name, self._hosts[name], time.monotonic())
        for wake, granted in woken:
            wake(name, granted)

    @property
    def in_use(self) -> int:
        """How many hosts there is something to remember of."""
        return len(self._hosts)

    def _slots(self, host: _Host) -> int:
        return 1 if host.failures >= self._failures else self._per_host

    def _give_back(self, name: str, host: _Host, now: float) -> list[tuple[Wake, bool]]:
        """Pass slots to the first in line; send all away to ask again where nobody may go now."""
        host.running -= 1
        woken: list[tuple[Wake, bool]] = []
        down = host.failures >= self._failures and now < host.open_until
        if down or now < host.wait_until:
            woken = [(wake, False) for wake in host.line]
            host.line.clear()
        while host.line and host.running < self._slots(host):
            woken.append((host.line.popleft(), True))
            host.running += 1
        if host.is_idle(now):
            del self._hosts[name]
        return woken

    def _down(self, seconds: float) -> DownloadError:
        return DownloadError(
            "connect_error",
            f"The origin failed {self._failures} times in a row and will not be contacted again "
            "for a few seconds.",
            retry_after=seconds,
        )

    def _forget_idle(self, now: float) -> None:
        """Drop hosts whose trouble is long over, when there are very many."""
        if len(self._hosts) < _MAX_HOSTS:
            return
        for name in [n for n, host in self._hosts.items() if self._is_over(host, now)]:
            del self._hosts[name]

    def _is_over(self, host: _Host, now: float) -> bool:
        if host.running or host.line or host.wait_until > now:
            return False
        return now > host.open_until + 10 * self._rest_seconds
