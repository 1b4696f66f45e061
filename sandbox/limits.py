"""Imgur's budgets and rate headers.

    per user    500 credits an hour for one IP and client id; 2000 with an account (ShareX#7289)
    per client  12,500 credits a day for one client id
    per IP      1250 POSTs an hour

A call costs 1 credit, an upload 10, OAuth nothing. So an anonymous user has 50 uploads an
hour, as measured by users (EasyImgur#54). `unlimited` refuses nothing and names no limit, as a
gateway without limits does.

"If the daily limit is hit five times in a month, then the app will be blocked for the rest of the
month" (Imgur's API page). Users of blocked programs got the 429 of the daily limit at any time of
the day, for days (jomo/imgur-screenshot#94, mac2imgur#100). Whether "hit" is the last credit or the
first refusal is not published, so both count here, once a day; and a month begins with the first.
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

    def begin(self, key: Hashable, window: float) -> float:
        """When the current window of the key began."""
        return self._window(key, window)[0]

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
        self._bad_days = Budget(clock)
        self._last_bad_day: dict[str, float] = {}

    def charge(self, caller: Caller, options: Options, *, cost: int, post: bool) -> Budgets:
        """Take the cost from all of its budgets, or refuse and take nothing."""
        before = self.budgets(caller, options)
        if self._is_blocked(caller.client_id, options) and not options.unlimited:
            none = Allowance(before.client.limit, 0, before.client.seconds)
            return Budgets(before.user, none, before.posts, refused=True)
        short = (
            before.user.remaining < cost
            or before.client.remaining < cost
            or (post and before.posts.remaining < 1)
        )
        if short and not options.unlimited:
            if before.client.remaining < cost:
                self._count_day(caller.client_id, options)
            return Budgets(before.user, before.client, before.posts, refused=True)
        self._users.spend(_user(caller), cost, options.hour_seconds)
        self._clients.spend(caller.client_id, cost, options.day_seconds)
        if post:
            self._posts.spend(caller.ip, 1, options.hour_seconds)
        after = self.budgets(caller, options)
        if after.client.remaining <= 0:
            self._count_day(caller.client_id, options)
        return after

    def budgets(self, caller: Caller, options: Options) -> Budgets:
        """The caller's budgets, unchanged."""
        credit = options.user_credits if caller.account is None else options.account_credits
        hour, day = options.hour_seconds, options.day_seconds
        return Budgets(
            self._users.allowance(_user(caller), credit, hour),
            self._clients.allowance(caller.client_id, options.client_credits, day),
            self._posts.allowance(caller.ip, options.posts, hour),
        )

    def _count_day(self, client_id: str, options: Options) -> None:
        """The daily limit was hit: count this day, once."""
        day = self._clients.begin(client_id, options.day_seconds)
        if self._last_bad_day.get(client_id) != day:
            self._last_bad_day[client_id] = day
            self._bad_days.spend(client_id, 1, options.month_seconds)

    def _is_blocked(self, client_id: str, options: Options) -> bool:
        """Whether the client id is blocked for the rest of the month."""
        most, month = options.daily_hits, options.month_seconds
        left = self._bad_days.allowance(client_id, most, month).remaining
        return most > 0 and left <= 0

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
