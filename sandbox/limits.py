"""Imgur's budgets and rate headers.

    per user    500 credits an hour for one IP and client id; 2000 with an account (ShareX#7289)
    per client  12,500 credits a day for one client id
    per IP      1250 POSTs an hour

A call costs 1 credit, an upload 10, OAuth nothing. So an anonymous user has 50 uploads an
hour, as measured by users (EasyImgur#54). `unlimited` refuses nothing and names no limit, as a
gateway without limits does. Not copied: the block of a client id for a month after it has reached
its daily limit five times.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from .options import Options

MOST_KEYS = 10_000  # beyond it, windows that have ended are dropped


@dataclass(frozen=True)
class Caller:
    """A caller: IP, client id, and the account with a Bearer token."""

    ip: str
    client_id: str
    account: int | None = None


@dataclass(frozen=True)
class Allowance:
    """The rest of one budget; `seconds` until it is full again."""

    limit: int
    remaining: int
    seconds: float


class Budget:
    """Amounts counted by key, in windows that begin with the first amount."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._windows: dict[Hashable, tuple[float, int]] = {}

    def allowance(self, key: Hashable, limit: int, window: float) -> Allowance:
        """The rest for the key."""
        start, used = self._window(key, window)
        return Allowance(limit, limit - used, start + window - self._clock())

    def spend(self, key: Hashable, amount: int, window: float) -> None:
        """Count the amount against the key."""
        if len(self._windows) > MOST_KEYS:
            oldest = self._clock() - window
            self._windows = {k: w for k, w in self._windows.items() if w[0] > oldest}
        start, used = self._window(key, window)
        self._windows[key] = (start, used + amount)

    def _window(self, key: Hashable, window: float) -> tuple[float, int]:
        now = self._clock()
        start, used = self._windows.get(key, (now, 0))
        return (start, used) if now < start + window else (now, 0)


@dataclass(frozen=True)
class Budgets:
    """The three budgets of a caller after a request, and whether the request is refused."""

    user: Allowance
    client: Allowance
    posts: Allowance
    refused: bool = False


class Limits:
    """All budgets of the sandbox. Used from the event loop only."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._users = Budget(clock)
        self._clients = Budget(clock)
        self._posts = Budget(clock)

    def charge(self, caller: Caller, options: Options, *, cost: int, post: bool) -> Budgets:
        """Take the cost from all of its budgets, or refuse and take nothing."""
        before = self.budgets(caller, options)
        short = (
            before.user.remaining < cost
            or before.client.remaining < cost
            or (post and before.posts.remaining < 1)
        )
        if short and not options.unlimited:
            return Budgets(before.user, before.client, before.posts, refused=True)
        self._users.spend(_user(caller), cost, options.hour_seconds)
        self._clients.spend(caller.client_id, cost, options.day_seconds)
        if post:
            self._posts.spend(caller.ip, 1, options.hour_seconds)
        return self.budgets(caller, options)

    def budgets(self, caller: Caller, options: Options) -> Budgets:
        """The caller's budgets, unchanged."""
        credit = options.user_credits if caller.account is None else options.account_credits
        hour, day = options.hour_seconds, options.day_seconds
        return Budgets(
            self._users.allowance(_user(caller), credit, hour),
            self._clients.allowance(caller.client_id, options.client_credits, day),
            self._posts.allowance(caller.ip, options.posts, hour),
        )

    def headers(self, budgets: Budgets, reset: str, *, post: bool) -> dict[str, str]:
        """The X-RateLimit-* and, for a POST, the X-Post-Rate-Limit-* headers.

        UserReset was an epoch in 2017 and is a number of seconds since 2021 (ShareX#5611).
        """
        headers = {
            "X-RateLimit-UserLimit": str(budgets.user.limit),
            "X-RateLimit-UserRemaining": str(max(0, budgets.user.remaining)),
            "X-RateLimit-ClientLimit": str(budgets.client.limit),
            "X-RateLimit-ClientRemaining": str(max(0, budgets.client.remaining)),
        }
        if reset != "none":
            since = self._clock() if reset == "epoch" else 0.0
            headers["X-RateLimit-UserReset"] = str(math.ceil(since + budgets.user.seconds))
            headers["X-RateLimit-ClientReset"] = str(math.ceil(since + budgets.client.seconds))
        if post:
            headers["X-Post-Rate-Limit-Limit"] = str(budgets.posts.limit)
            headers["X-Post-Rate-Limit-Remaining"] = str(max(0, budgets.posts.remaining))
            headers["X-Post-Rate-Limit-Reset"] = str(math.ceil(budgets.posts.seconds))
        return headers

    def credits(self, budgets: Budgets) -> dict[str, int]:
        """The data of GET /3/credits; its UserReset is still an epoch."""
        return {
            "UserLimit": budgets.user.limit,
            "UserRemaining": max(0, budgets.user.remaining),
            "UserReset": math.ceil(self._clock() + budgets.user.seconds),
            "ClientLimit": budgets.client.limit,
            "ClientRemaining": max(0, budgets.client.remaining),
        }


def _user(caller: Caller) -> Hashable:
    return (caller.account or caller.ip, caller.client_id)
