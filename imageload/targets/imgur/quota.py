"""Imgur's rate limits: which request may be sent now, and when the next one may.

    Quotas ── Quota (one client id) ── Budget user    credits an hour, per address and client id
                                   ├── Budget client  credits a day, per client id
                                   └── Budget posts   POSTs an hour, per address: all share it

An upload costs 10 credits, any other call 1 (Imgur's API page). Before a request is sent, its cost
is reserved in every budget; a budget is never believed to have more than the responses said, less
what is in flight. So a 429 is the exception. Beside its budgets a Quota has a state:

    open ──► backoff ──blocked_until──► probing ──success──► open
               ▲                           │
               └── refused: wait doubled ◄─┘

Backoff begins with a 429 that names no budget, a block, refused credentials or three failures in a
row. Written on the transfer loop; other threads may read without a lock, as they read a Budget.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from imageload import errors
from imageload.targets.imgur.budget import (
    Budget,
    BudgetSnapshot,
    BudgetView,
    Forecast,
    Name,
    forecast,
)

UPLOAD_COST = 10
CALL_COST = 1

Reason = Name | Literal["blocked", "credentials", "unavailable", "unasked"]

_FAILURES_IN_A_ROW = 3
_POLL_SECONDS = 0.1  # when a wait is over but the request that ends it has not been sent
_FIRST_OUTAGE_WAIT = 1.0
_LONGEST_OUTAGE_WAIT = 60.0
_LONGEST_WAIT = 3600.0
_MOST_IN_FLIGHT = 1_000.0
# The errors after which Imgur has counted no request.
_NOT_COUNTED = {"rate_limited", "upload_connect_error", "disk_error", "resource_error"}
_MESSAGES: dict[Reason, str] = {
    "user": "Imgur's hourly credits of this address and client id are used up.",
    "client": "Imgur's daily credits of this client id are used up.",
    "posts": "Imgur's hourly number of POSTs from this address is used up.",
    "blocked": "Imgur refuses this address or client id.",
    "credentials": "Imgur does not accept the client id or token.",
    "unavailable": "Imgur is out of order, or cannot be reached.",
    "unasked": "Imgur is being asked for its limits.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Seconds that are assumed where Imgur's response does not say them."""

    hour: float = 3600.0
    day: float = 86_400.0
    unhinted_wait: float = 60.0
    """After a 429 without a hint; doubled for each further one in a row."""
    blocked_wait: float = 600.0
    """After a block; doubled likewise."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why nothing may be sent before `until`, on the quota's clock; inf: until a request ends."""

    reason: Reason
    until: float
    message: str

    def error(self, now: float) -> errors.UploadError:
        """The error of a request that was not sent."""
        wait = None if self.until == math.inf else self.until - now
        match self.reason:
            case "blocked":
                return errors.UploadBlocked(self.message, retry_after=wait)
            case "credentials":
                return errors.CredentialsRefused(self.message, retry_after=wait)
            case "unavailable" | "unasked":
                return errors.UploadError("unavailable", self.message, retry_after=wait)
        error = errors.QuotaExceeded(self.message, retry_after=wait)
        error.budget = self.reason
        return error


@dataclass(frozen=True, slots=True)
class Backoff:
    """Rejects requests until `blocked_until`, then lets one probe through.

    `only_asking`: the probe has to be a request that only asks for the limits.
    """

    reason: Reason
    message: str
    began: float
    wait: float
    only_asking: bool = False
    is_over: bool = False

    @property
    def blocked_until(self) -> float:
        """When the probe may be sent."""
        return self.began if self.is_over else self.began + self.wait


Amounts = tuple[tuple[Budget, int], ...]
"""How much of each budget a request costs."""


@dataclass(slots=True)
class Reservation:
    """Room for one request: `learn` from its response, then `end` it or leave the `with`."""

    quota: Quota
    amounts: Amounts
    asking: bool
    sent: float
    told: frozenset[Name] = frozenset()

    def learn(self, found: Mapping[str, float | None]) -> None:
        """Take in the rate-limit headers of the response, as `answers.budgets` reads them."""
        self.told |= self.quota.learn(found, self.sent)

    def end(self, error: BaseException | None = None) -> None:
        """The request has ended, well or with `error`."""
        self.quota.end(self, error)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self.end(error)


class Quota:
    """The budgets and the backoff of one client id."""

    def __init__(self, number: int, quotas: Quotas) -> None:
        self.number = number
        self.user = Budget("user", quotas.terms.hour, number)
        self.client = Budget("client", quotas.terms.day, number)
        self.backoff: Backoff | None = None
        self.outage_since: float | None = None
        """Since when this client id has been blocked or Imgur out of order."""
        self.in_flight = 0
        self._quotas = quotas
        self._failures = 0
        self._most_in_flight = _MOST_IN_FLIGHT

    async def reserve(
        self, cost: int = CALL_COST, *, post: bool = False, asking: bool = False
    ) -> Reservation:
        """Room for a request of this cost; waits while requests in flight are in its way.

        Raises the UploadError that a longer wait has as its reason. A request that is `asking`
        only for the limits is not subject to the backoff.
        """
        while True:
            try:
                return self.try_reserve(cost, post=post, asking=asking)
            except errors.UploadError as error:
                if error.retry_after is not None:
                    raise
            await self._quotas.wait_for_end()

    def try_reserve(
        self, cost: int = CALL_COST, *, post: bool = False, asking: bool = False
    ) -> Reservation:
        """`reserve` without waiting: raises an error without `retry_after` instead."""
        now = self._quotas.clock()
        blocked = self.blocked(cost, post=post, asking=asking)
        if blocked is not None:
            raise blocked.error(now)
        amounts = self._amounts(cost, post=post)
        for budget, amount in amounts:
            budget.reserve(amount, now)
        self.in_flight += 1
        return Reservation(self, amounts, asking=asking, sent=now)

    def blocked(
        self, cost: int, *, post: bool, asking: bool = False, count: int = 1
    ) -> Blocked | None:
        """Why `count` requests of this cost may not be sent now; None: they may."""
        now, backoff = self._quotas.clock(), None if asking else self.backoff
        if backoff is not None:
            until = backoff.blocked_until
            if now < until:
                return Blocked(backoff.reason, until, backoff.message)
            if backoff.only_asking:
                return Blocked(backoff.reason, now + _FIRST_OUTAGE_WAIT, backoff.message)
            if self.in_flight + count > 1:
                return Blocked(backoff.reason, math.inf, backoff.message)
        if self.in_flight + count - 1 >= self._most_in_flight and not asking:
            return Blocked("user", math.inf, _MESSAGES["user"])
        name, latest = None, now
        for budget, amount in self._amounts(cost, post=post):
            until = budget.blocked_until(amount, now, count=count)
            if until > latest:
                name, latest = budget.name, until
        return None if name is None else Blocked(name, latest, _MESSAGES[name])

    def room(self) -> float:
        """How many credits may be spent before a budget is empty."""
        return min(budget.remaining - budget.in_flight for budget in (self.user, self.client))

    def learn(self, found: Mapping[str, float | None], sent: float) -> frozenset[Name]:
        """Take in limits that Imgur told to a request sent at `sent`; the budgets it told of."""
        now, told = self._quotas.clock(), set[Name]()
        each = ("User", self.user), ("Client", self.client), ("Post", self._quotas.posts)
        for prefix, budget in each:
            read = [found.get(f"{prefix}{key}") for key in ("Limit", "Remaining", "Reset")]
            if budget.learn(*read, sent=sent, now=now):
                told.add(budget.name)
        return frozenset(told)

    def end(self, request: Reservation, error: BaseException | None) -> None:
        """Called by the Reservation."""
        now = self._quotas.clock()
        is_counted = not (isinstance(error, errors.ImageError) and error.name in _NOT_COUNTED)
        answered = error is None or (
            isinstance(error, errors.UploadError)
            and not isinstance(error, errors.QuotaExceeded)
            and not error.imgur_is_away
        )
        self.in_flight -= 1
        for budget, amount in request.amounts:
            budget.release(amount, sent=request.sent, answered=answered)
            if budget.name not in request.told and is_counted:
                budget.spend(amount, now)
        self._judge(request, error, now)
        self._quotas.notify_end(error)

    def assume_limits(self, user: int | None, client: int | None) -> None:
        """Count with these limits until Imgur says others."""
        for budget, limit in ((self.user, user), (self.client, client)):
            budget.limit = budget.remaining = math.inf if limit is None else limit

    def block_until_asked(self, seconds: float) -> None:
        """Send nothing before Imgur has told its limits, or for so long."""
        now = self._quotas.clock()
        self.backoff = Backoff("unasked", _MESSAGES["unasked"], now, seconds)

    def _amounts(self, cost: int, *, post: bool) -> Amounts:
        amounts = ((self.user, cost), (self.client, cost)) if cost else ()
        return (*amounts, (self._quotas.posts, 1)) if post else amounts

    def _judge(self, request: Reservation, error: BaseException | None, now: float) -> None:
        """Begin, lengthen or end the backoff."""
        terms, sent = self._quotas.terms, request.sent
        match error:
            case errors.QuotaExceeded():
                if self._names_a_budget(request, error, now):
                    self._succeeded(request, now)
                else:
                    self._most_in_flight = 1.0
                    self._back_off(sent, "user", error.message, terms.unhinted_wait, now)
            case errors.UploadBlocked():
                self._back_off(sent, "blocked", error.message, terms.blocked_wait, now)
            case errors.CredentialsRefused():
                self._back_off(sent, "credentials", error.message, terms.unhinted_wait, now)
            case errors.UploadError(imgur_is_away=True):
                self._failures += 1
                if self._failures >= _FAILURES_IN_A_ROW or self.backoff is not None:
                    message = _MESSAGES["unavailable"]
                    self._back_off(sent, "unavailable", message, _FIRST_OUTAGE_WAIT, now)
            case None | errors.UploadError():
                self._failures = 0
                if self._most_in_flight < _MOST_IN_FLIGHT:
                    self._most_in_flight += 1 / self._most_in_flight
                self._succeeded(request, now)

    def _succeeded(self, request: Reservation, now: float) -> None:
        backoff = self.backoff
        if backoff is None or request.sent < backoff.began:
            return
        # Imgur may tell its limits to a client from which it takes no uploads: probe with one.
        if request.asking and backoff.reason != "unasked":
            self.backoff = replace(backoff, began=now, is_over=True, only_asking=False)
        else:
            self.backoff = self.outage_since = None

    def _names_a_budget(
        self, request: Reservation, error: errors.QuotaExceeded, now: float
    ) -> bool:
        """True if an empty budget explains the 429; then Imgur works, and accepts the client id."""
        wait = error.retry_after
        for budget, _ in request.amounts:
            # "Used up for 0 seconds" is no hint.
            if budget.name == error.budget and (wait is None or wait > 0):
                budget.empty(wait, sent=request.sent, now=now)
                return True
        return any(budget.blocked_until(amount, now) > now for budget, amount in request.amounts)

    def _back_off(
        self, sent: float, reason: Reason, message: str, first_wait: float, now: float
    ) -> None:
        backoff, wait = self.backoff, first_wait
        if backoff is not None and sent < backoff.began:
            return  # it was in flight together with the first that was refused
        if backoff is not None and backoff.reason == reason:
            cap = _LONGEST_OUTAGE_WAIT if reason == "unavailable" else _LONGEST_WAIT
            wait = max(first_wait, min(cap, 2 * backoff.wait))
        self.backoff = Backoff(reason, message, now, wait, only_asking=reason == "credentials")
        is_outage = reason in ("blocked", "unavailable")
        self.outage_since = (self.outage_since or now) if is_outage else None


class Quotas:
    """The Quota of each client id, and the budget that they share."""

    def __init__(
        self,
        clients: int = 1,
        terms: Terms | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_end: Callable[[BaseException | None], object] | None = None,
    ) -> None:
        """`on_end` is called when a request has ended, with its error if it failed."""
        self.terms = terms or Terms()
        self.clock = clock
        self.posts = Budget("posts", self.terms.hour)
        self.each = tuple(Quota(number, self) for number in range(1, clients + 1))
        own = [budget for quota in self.each for budget in (quota.user, quota.client)]
        self._budgets = [*own, self.posts]
        self._on_end = on_end
        self._ended = asyncio.Event()

    async def wait_for_end(self) -> None:
        """Wait until the next request has ended."""
        await self._ended.wait()

    def notify_end(self, error: BaseException | None) -> None:
        """Called by a Quota when a request has ended."""
        if self._on_end is not None:
            self._on_end(error)
        self._ended.set()
        self._ended = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """How many requests are in flight."""
        return sum(quota.in_flight for quota in self.each)

    def best(self, cost: int, *, post: bool) -> Quota:
        """The one that may send a request of this cost, and of those the one with the most room."""
        if len(self.each) == 1:
            return self.each[0]
        return max(self.each, key=lambda q: (q.blocked(cost, post=post) is None, q.room()))

    def blocked(self, cost: int, *, post: bool, count: int = 1) -> Blocked | None:
        """Why none of them may send `count` requests of this cost now; None: one of them may."""
        found: list[Blocked] = []
        for quota in self.each:
            blocked = quota.blocked(cost, post=post, count=count)
            if blocked is None:
                return None
            found.append(blocked)
        # The end of a wait for credentials ends nothing: they are only asked about again.
        return min(found, key=lambda blocked: (blocked.reason == "credentials", blocked.until))

    def seconds_to_open(self, blocked: Blocked | None) -> float:
        """How long until what is `blocked` may be sent; inf: when a request in flight has ended."""
        if blocked is None:
            return 0.0
        left = blocked.until - self.clock()
        return left if left > 0 else _POLL_SECONDS

    def outage_seconds(self) -> float:
        """For how long no client id has been able to send for a block or an outage; 0: one is."""
        now = self.clock()
        return min(now - (quota.outage_since or now) for quota in self.each)

    def snapshot(self) -> list[BudgetSnapshot]:
        """All budgets, for `restore` in another process."""
        offset = time.time() - self.clock()

        def epoch(moment: float | None) -> float | None:
            return None if moment is None else moment + offset

        return [[view.limit, view.remaining, epoch(view.resets_at)] for view in self.budgets()]

    def restore(self, snapshot: list[BudgetSnapshot]) -> bool:
        """Go on with the `snapshot` of another process; False: not all credits are known then.

        A snapshot of another number of client ids is ignored. Raises TypeError or ValueError if it
        is not valid.
        """
        if len(snapshot) != len(self._budgets):
            return False
        now, epoch = self.clock(), time.time()
        for budget, each in zip(self._budgets, snapshot, strict=True):
            budget.restore(each, now, epoch)
        return all(budget.remaining < math.inf for budget in self._budgets[:-1])

    def budgets(self) -> list[BudgetView]:
        """Every budget at this moment."""
        now = self.clock()
        return [budget.view(now) for budget in self._budgets]

    def seconds_for(self, uploads: int) -> float:
        """How long until so many uploads may have been sent, by the budgets; inf: never."""
        now = self.clock()
        posts = Forecast(self.posts, 1, now)
        clients = []
        for quota in self.each:
            credit = [Forecast(each, UPLOAD_COST, now) for each in (quota.user, quota.client)]
            clients.append((_opens_at(quota.backoff, now), [*credit, posts]))
        return forecast(clients, uploads, now) - now


def _opens_at(backoff: Backoff | None, now: float) -> float:
    """When a client id may send again, for a forecast; inf: nobody knows."""
    if backoff is None:
        return now
    return math.inf if backoff.reason == "credentials" else backoff.blocked_until
