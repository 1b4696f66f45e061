"""Imgur's budgets, and the headers that tell of them.

    per user    500 credits an hour for one IP and client id; 2000 with an account (ShareX#7289)
    per client  12,500 credits a day for one client id
    per IP      1250 POSTs an hour

A call costs 1 credit, an upload 10, OAuth nothing. So an anonymous user gets 50 uploads an hour,
which is what people measure (EasyImgur#54). `unlimited` counts and tells, down to half of each
limit so that a careful client does not slow down, and refuses nothing. Not copied: the month-long
block of a client id that has hit its daily limit five times.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from .options import Options

MOST_KEYS = 10_000  # then windows that are over are forgotten


@dataclass(frozen=True)
class Caller:
    """Who asks: an IP with a client id, and the account when it came with a Bearer token."""

    ip: str
    client_id: str
    account: int | None = None


@dataclass(frozen=True)
class Allowance:
    """What is left of one budget; `seconds` until it is full again."""

    limit: int
    remaining: int
    seconds: float


class Budget:
    """Spending counted by key, in windows that begin with the first spending."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._windows: dict[Hashable, tuple[float, int]] = {}

    def allowance(self, key: Hashable, limit: int, window: float) -> Allowance:
        """What is left for the key."""
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
class Standing:
    """The three allowances of one caller after a request, and whether it may go on."""

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

    def charge(self, caller: Caller, options: Options, *, cost: int, post: bool) -> Standing:
        """Take the cost from every budget it counts in, or take nothing and refuse."""
        before = self.standing(caller, options)
        short = (
            before.user.remaining < cost
            or before.client.remaining < cost
            or (post and before.posts.remaining < 1)
        )
        if short and not options.unlimited:
            return Standing(before.user, before.client, before.posts, refused=True)
        self._users.spend(_user(caller), cost, options.hour_seconds)
        self._clients.spend(caller.client_id, cost, options.day_seconds)
        if post:
            self._posts.spend(caller.ip, 1, options.hour_seconds)
        return self.standing(caller, options)

    def standing(self, caller: Caller, options: Options) -> Standing:
        """What the caller has left, with nothing taken."""
        credit = options.user_credits if caller.account is None else options.account_credits
        hour, day = options.hour_seconds, options.day_seconds
        return Standing(
            _shown(self._users.allowance(_user(caller), credit, hour), options),
            _shown(self._clients.allowance(caller.client_id, options.client_credits, day), options),
            _shown(self._posts.allowance(caller.ip, options.posts, hour), options),
        )

    def headers(self, standing: Standing, reset: str, *, post: bool) -> dict[str, str]:
        """The X-RateLimit-* and, for a POST, the X-Post-Rate-Limit-* headers.

        UserReset was an epoch in 2017 and is a number of seconds since 2021 (ShareX#5611).
        """
        told = {
            "X-RateLimit-UserLimit": str(standing.user.limit),
            "X-RateLimit-UserRemaining": str(max(0, standing.user.remaining)),
            "X-RateLimit-ClientLimit": str(standing.client.limit),
            "X-RateLimit-ClientRemaining": str(max(0, standing.client.remaining)),
        }
        if reset != "none":
            since = self._clock() if reset == "epoch" else 0.0
            told["X-RateLimit-UserReset"] = str(math.ceil(since + standing.user.seconds))
            told["X-RateLimit-ClientReset"] = str(math.ceil(since + standing.client.seconds))
        if post:
            told["X-Post-Rate-Limit-Limit"] = str(standing.posts.limit)
            told["X-Post-Rate-Limit-Remaining"] = str(max(0, standing.posts.remaining))
            told["X-Post-Rate-Limit-Reset"] = str(math.ceil(standing.posts.seconds))
        return told

    def credits(self, standing: Standing) -> dict[str, int]:
        """What GET /3/credits answers; its UserReset has stayed an epoch."""
        return {
            "UserLimit": standing.user.limit,
            "UserRemaining": max(0, standing.user.remaining),
            "UserReset": math.ceil(self._clock() + standing.user.seconds),
            "ClientLimit": standing.client.limit,
            "ClientRemaining": max(0, standing.client.remaining),
        }


def _user(caller: Caller) -> Hashable:
    return (caller.account or caller.ip, caller.client_id)


def _shown(allowance: Allowance, options: Options) -> Allowance:
    if not options.unlimited:
        return allowance
    floor = allowance.limit - allowance.limit // 10
    return Allowance(allowance.limit, max(floor, allowance.remaining), allowance.seconds)
