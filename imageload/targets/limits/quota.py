"""Imgur's rate limits: which request may be sent now, and when the next one may.

    Quotas ─┬─ Quota (one client id) ─┬─ leased_until   if other nodes may use the client id too
            │                         ├─ Budget user    credits an hour, per address and client id
            │                         ├─ Budget client  credits a day, per client id
            │                         ├─ DailyHits      the days on which these were used up
            │                         └─ breakers       of the id, and of each endpoint
            └─ Budget posts           POSTs an hour, per address: all share it

A bucket has one Quota, whose budgets have no limits: only its breakers count.

An upload costs 10 credits, any other call 1 (Imgur's API page). Before a request is sent, its cost
is reserved in every budget; a budget is never believed to have more than the responses said, less
what is in flight. So a 429 is the exception. A 429 that an empty budget explains concerns all
endpoints, and any other refusal the breaker of its endpoint. Refused credentials concern the client
id. Written on the transfer loop, but for `leased_until`; other threads may read without a lock, as
they read a Budget.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from imageload import errors
from imageload.targets.limits.breaker import (
    ENDPOINTS,
    MESSAGES,
    Blocked,
    Breaker,
    Endpoint,
    EndpointBreaker,
    Reason,
    Refusal,
    Terms,
)
from imageload.targets.limits.budget import (
    Budget,
    BudgetView,
    Forecast,
    Name,
    forecast,
)
from imageload.targets.limits.daily_hits import DailyHits

_POLL_SECONDS = 0.1  # when a wait is over but the request that ends it has not been sent
# The errors after which Imgur has counted no request.
_NOT_COUNTED = {"rate_limited", "upload_connect_error", "disk_error", "resource_error"}


class Kind(NamedTuple):
    """A kind of request: its endpoint, its cost in credits, and whether it is a POST.

    `asking`: it only asks for the limits, so no breaker is in its way.
    """

    endpoint: Endpoint
    cost: int = 1
    post: bool = False
    asking: bool = False


UPLOAD = Kind("uploads", 10, post=True)
ALBUM = Kind("albums", post=True)
DELETION = Kind("deletions")
ASKING = Kind("account", asking=True)


def kind_of(method: str, route: str) -> Kind:
    """The kind of a request for `route`, which is below /3/."""
    post, (place, _, _) = method == "POST", route.partition("/")
    if post and route in ("upload", "image"):
        return UPLOAD
    endpoints: dict[str, Endpoint] = {"album": "albums", "image": "deletions"}
    return Kind(endpoints.get(place, "account"), post=post)


Amounts = tuple[tuple[Budget, int], ...]
"""How much of each budget a request costs."""


@dataclass(slots=True)
class Reservation:
    """Room for one request: `learn` from its response, then `end` it or leave the `with`.

    `content` identifies the image that is uploaded.
    """

    quota: Quota
    kind: Kind
    amounts: Amounts
    sent: float
    content: str = ""
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
    """The budgets and the breakers of one client id."""

    def __init__(self, number: int, quotas: Quotas) -> None:
        self.number = number
        self.user = Budget("user", quotas.terms.hour, number)
        self.client = Budget("client", quotas.terms.day, number, spare=1)
        self.daily_hits = DailyHits(quotas.terms.day)
        self.access = Breaker(quotas.terms)
        """Open while Imgur does not accept the client id, or has not told its limits."""
        self.breakers = {each: EndpointBreaker(quotas.terms, each) for each in ENDPOINTS}
        self.leased_until = math.inf
        """Nothing is sent from then on; inf: no lease is needed. Any thread may write it."""
        self.assumed: tuple[int | None, int | None] = (None, None)
        """The limits of an hour and of a day that count until Imgur says others."""
        self.clock = quotas.clock
        self._quotas = quotas

    async def reserve(self, kind: Kind, content: str = "") -> Reservation:
        """Room for a request; waits while requests in flight are in its way.

        Raises the UploadError that a longer wait has as its reason.
        """
        while True:
            try:
                return self.try_reserve(kind, content)
            except errors.UploadError as error:
                if error.retry_after is not None:
                    raise
            await self._quotas.wait_for_end()

    def try_reserve(self, kind: Kind, content: str = "") -> Reservation:
        """`reserve` without waiting: raises an error without `retry_after` instead."""
        now = self.clock()
        blocked = self.blocked(kind)
        if blocked is not None:
            raise blocked.error(now)
        amounts = self._amounts(kind)
        for budget, amount in amounts:
            budget.reserve(amount, now)
        self.access.in_flight += 1
        self.breakers[kind.endpoint].in_flight += 1
        return Reservation(self, kind, amounts, now, content)

    def blocked(self, kind: Kind, count: int = 1) -> Blocked | None:
        """Why `count` requests of this kind may not be sent now; None: they may."""
        now = self.clock()
        if not self.is_leased:
            # In whole terms of a lease, so that it is not another time at every look.
            term = self._quotas.terms.lease_seconds
            return Blocked("lease", now - now % term + term, MESSAGES["lease"])
        if not kind.asking:
            refused = self.access.blocked(count, now)
            refused = refused or self.breakers[kind.endpoint].blocked(count, now)
            if refused is not None:
                return refused
        name, latest = None, now
        for budget, amount in self._amounts(kind):
            until = budget.blocked_until(amount, now, count=count)
            if until > latest:
                name, latest = budget.name, until
        if name is None:
            return None
        is_month = name == "client" and self.daily_hits.presume_block(now)
        reason: Reason = "month" if is_month else name
        return Blocked(reason, latest, MESSAGES[reason], is_budget=True)

    def opens_at(self, kind: Kind) -> float:
        """When its breakers let a request through, for a forecast; inf: nobody knows."""
        now = self.clock()
        if not self.is_leased:
            return math.inf
        found = [each.backoff for each in (self.access, self.breakers[kind.endpoint])]
        ends = [math.inf if b.reason == "credentials" else b.blocked_until for b in found if b]
        return max([now, *ends])

    @property
    def is_leased(self) -> bool:
        """True if requests may be sent with this client id."""
        return self.clock() < self.leased_until

    def room(self) -> float:
        """How many credits may be spent before a budget is empty."""
        return min(budget.remaining - budget.in_flight for budget in (self.user, self.client))

    def learn(self, found: Mapping[str, float | None], sent: float) -> frozenset[Name]:
        """Take in limits that Imgur told to a request sent at `sent`; the budgets it told of."""
        now, told = self.clock(), set[Name]()
        each = ("User", self.user), ("Client", self.client), ("Post", self._quotas.posts)
        for prefix, budget in each:
            read = [found.get(f"{prefix}{key}") for key in ("Limit", "Remaining", "Reset")]
            if budget.learn(*read, sent=sent, now=now):
                told.add(budget.name)
        if "client" in told:
            self._note_daily_limit(now)
        if told:
            self._quotas.is_limited = True
        return frozenset(told)

    def learn_no_limits(self) -> None:
        """Imgur was asked for its limits, and named none."""
        self._quotas.is_limited = self._quotas.is_limited or False

    def end(self, request: Reservation, error: BaseException | None) -> None:
        """Called by the Reservation."""
        now = self.clock()
        is_counted = not (isinstance(error, errors.ImageError) and error.name in _NOT_COUNTED)
        answered = error is None or (
            isinstance(error, errors.UploadError)
            and not isinstance(error, errors.QuotaExceeded)
            and not error.target_is_away
        )
        self.access.in_flight -= 1
        self.breakers[request.kind.endpoint].in_flight -= 1
        for budget, amount in request.amounts:
            # In this order: a note that is taken meanwhile counts it as spent or as in flight.
            if budget.name not in request.told and is_counted:
                budget.spend(amount, now)
            budget.release(amount, sent=request.sent, answered=answered)
        self._quotas.learn_if_limited(request, error)
        self._judge(request, error, now)
        self._quotas.notify_end(error)

    @property
    def assumes_limits(self) -> bool:
        """True if an operator has named a limit."""
        return self.assumed != (None, None)

    def assume_limits(self, user: int | None, client: int | None) -> None:
        """Count with these limits until Imgur says others."""
        self.assumed = user, client
        if self.assumes_limits:
            self._quotas.is_limited = True
        for budget, limit in ((self.user, user), (self.client, client)):
            budget.limit = budget.remaining = math.inf if limit is None else limit

    @property
    def knows_credits(self) -> bool:
        """True if it is known how many credits of both budgets remain."""
        return max(self.user.remaining, self.client.remaining) < math.inf

    def block_until_asked(self, seconds: float) -> None:
        """Send nothing before Imgur has told its limits, or for so long."""
        now = self.clock()
        unasked = Refusal(reason="unasked", message=MESSAGES["unasked"], wait=seconds)
        self.access.back_off(unasked, sent=now, now=now)

    def _note_daily_limit(self, now: float) -> None:
        """Imgur has told of a budget: count the day if its credits are used up."""
        if self.client.remaining <= 0:
            self.daily_hits.note(min(self.client.resets_at, now + self._quotas.terms.day), now)

    def _amounts(self, kind: Kind) -> Amounts:
        cost = kind.cost
        amounts = ((self.user, cost), (self.client, cost)) if cost else ()
        return (*amounts, (self._quotas.posts, 1)) if kind.post else amounts

    def _judge(self, request: Reservation, error: BaseException | None, now: float) -> None:
        """Begin, lengthen or end the backoff of the client id, or of the endpoint."""
        breaker, sent = self.breakers[request.kind.endpoint], request.sent
        if isinstance(error, errors.CredentialsRefused):
            refusal = Refusal(
                reason="credentials",
                message=error.message,
                wait=self._quotas.terms.unhinted_wait,
                longest=self._quotas.terms.longest_wait,
                only_asking=True,
            )
            self.access.back_off(refusal, sent=sent, now=now)
            breaker.close()
            return
        is_ours = isinstance(error, errors.QuotaExceeded) and self._names_a_budget(
            request, error, now
        )
        if is_ours:
            breaker.succeed(sent)
        is_accepted = is_ours or breaker.judge(error, sent=sent, now=now, content=request.content)
        backoff, asking = self.access.backoff, request.kind.asking
        if backoff is None or sent < backoff.began:
            return
        # Imgur may tell its limits to a client from which it takes no uploads, and may take
        # uploads from a client to which it does not tell them: probe with one.
        if asking and is_accepted == (backoff.reason == "credentials"):
            self.access.end_wait(now)
        elif is_accepted:
            self.access.close()

    def _names_a_budget(
        self, request: Reservation, error: errors.QuotaExceeded, now: float
    ) -> bool:
        """True if an empty budget explains the 429; then Imgur works, and accepts the client id."""
        wait = error.retry_after
        for budget, _ in request.amounts:
            # "Used up for 0 seconds" is no hint.
            if budget.name == error.budget and (wait is None or wait > 0):
                budget.empty(wait, sent=request.sent, now=now)
                self._note_daily_limit(now)
                return True
        return any(budget.blocked_until(amount, now) > now for budget, amount in request.amounts)


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
        self.all_budgets = (*own, self.posts)
        self.is_limited: bool | None = None
        """True if Imgur or an operator has named a limit, or Imgur has answered 429; False if it
        named none and uploaded."""
        self._on_end = on_end
        self._ended = asyncio.Event()

    async def wait_for_end(self) -> None:
        """Wait until the next request has ended."""
        await self._ended.wait()

    def notify_end(self, error: BaseException | None) -> None:
        """Called by a Quota when a request has ended."""
        if self._on_end is not None:
            self._on_end(error)
        self._ended.set()  # wakes all that wait
        self._ended.clear()

    def learn_if_limited(self, request: Reservation, error: BaseException | None) -> None:
        """Called by a Quota when a request has ended."""
        if isinstance(error, errors.QuotaExceeded):
            self.is_limited = True
        elif error is None and request.kind is UPLOAD and self.is_limited is None:
            self.is_limited = False

    def in_flight(self, endpoint: Endpoint) -> int:
        """How many requests to the endpoint are in flight."""
        return sum(quota.breakers[endpoint].in_flight for quota in self.each)

    def best(self, kind: Kind) -> Quota:
        """The one that may send such a request, and of those the one with the most room."""
        if len(self.each) == 1:
            return self.each[0]
        return max(self.each, key=lambda quota: (quota.blocked(kind) is None, quota.room()))

    def blocked(self, kind: Kind, count: int = 1) -> Blocked | None:
        """Why none of them may send `count` such requests now; None: one of them may."""
        found: list[Blocked] = []
        for quota in self.each:
            blocked = quota.blocked(kind, count)
            if blocked is None:
                return None
            found.append(blocked)
        # The end of a wait for credentials ends nothing: they are only asked about again.
        # Nor does the wait for a lease, if there is one for another client id.
        last = "credentials", "lease"
        return min(found, key=lambda blocked: (blocked.reason in last, blocked.until))

    def seconds_to_open(self, blocked: Blocked | None) -> float:
        """How long until what is `blocked` may be sent; inf: when a request in flight has ended."""
        if blocked is None:
            return 0.0
        left = blocked.until - self.clock()
        return left if left > 0 else _POLL_SECONDS

    def outage_seconds(self, endpoint: Endpoint) -> float:
        """For how long the endpoint has served no client id; 0: it serves one."""
        now = self.clock()
        used = [each.breakers[endpoint] for each in self.each if each.is_leased]
        return min((now - (each.outage_since or now) for each in used), default=0.0)

    def refused_at(self, endpoint: Endpoint) -> float:
        """When the endpoint last refused a probe; -inf: no wait for one is on."""
        backoffs = [quota.breakers[endpoint].backoff for quota in self.each]
        return max((backoff.began for backoff in backoffs if backoff), default=-math.inf)

    @property
    def knows_credits(self) -> bool:
        """True if the credits of every client id are known."""
        return all(quota.knows_credits for quota in self.each)

    def budgets(self) -> list[BudgetView]:
        """Every budget at this moment."""
        now = self.clock()
        return [budget.view(now) for budget in self.all_budgets]

    def seconds_for(self, uploads: int) -> float:
        """How long until so many uploads may have been sent, by the budgets; inf: never."""
        now = self.clock()
        posts = Forecast(self.posts, 1, now)
        clients = []
        for quota in self.each:
            credit = [Forecast(each, UPLOAD.cost, now) for each in (quota.user, quota.client)]
            clients.append((quota.opens_at(UPLOAD), [*credit, posts]))
        return forecast(clients, uploads, now) - now
