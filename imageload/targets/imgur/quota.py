"""Imgur's limits: what may still be spent, and when there will be more.

    Quota ── Meter (a client id) ── Budget user    credits an hour, per address and client id
                                 ├─ Budget client  credits a day, per client id
                                 └─ Budget posts   POSTs an hour, per address: shared by all Meters

An upload costs 10 credits, any other call 1 (Imgur's API page). A Permit is taken before a request
is sent, and only where every budget has room for it, so that a 429 is the exception. What is left
is learnt from the answers, never believed to be more than what they say less what is under way.

A Meter that was refused is held: by a 429 that names no budget, by a block, by wrong credentials,
by failures in a row. A hold ends with one request that goes well. Nothing here does I/O.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from imageload import errors
from imageload.targets.imgur.budget import Budget, BudgetView, Forecast, Name

UPLOAD_COST = 10
CALL_COST = 1

Reason = Name | Literal["blocked", "credentials", "unavailable", "unasked"]

_FAILURES_IN_A_ROW = 3
_ASKED_SECONDS = 0.1  # how soon to look again where a hold is over and somebody is asking
_FIRST_REST_SECONDS = 1.0
_LONGEST_REST_SECONDS = 60.0
_LONGEST_HOLD_SECONDS = 3600.0
_MOST_AT_ONCE = 1_000.0
# After these Imgur has counted no request.
_NOT_COUNTED = frozenset({"rate_limited", "upload_connect_error", "disk_error", "resource_error"})
_SENTENCES: dict[Reason, str] = {
    "user": "Imgur's hourly credits of this address and client id are used up.",
    "client": "Imgur's daily credits of this client id are used up.",
    "posts": "Imgur's hourly number of POSTs from this address is used up.",
    "blocked": "Imgur refuses this address or client id.",
    "credentials": "Imgur does not take the client id or token.",
    "unavailable": "Imgur is out of order, or cannot be reached.",
    "unasked": "Imgur is being asked for its limits.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long things take where Imgur does not say, in seconds."""

    hour: float = 3600.0
    day: float = 86_400.0
    unhinted_wait: float = 60.0
    """After a 429 that says nothing; it doubles with each one in a row."""
    blocked_wait: float = 600.0
    """After a block; it doubles too."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Nothing is sent before `until` (by the quota's clock; inf: until something changes)."""

    reason: Reason
    until: float
    sentence: str


@dataclass(frozen=True, slots=True)
class _Hold:
    """Nobody is served before `until`; then one request is, and decides.

    With `only_asking` that has to be one that asks how things stand.
    """

    reason: Reason
    sentence: str
    begun: float
    wait: float
    until: float
    only_asking: bool = False


class Permit:
    """Leave to send one request: `learn` what its answer says, then `end` it."""

    def __init__(self, meter: Meter, cost: int, *, post: bool, asking: bool, sent: float) -> None:
        self._meter = meter
        self._told: set[Reason] = set()
        self._ended = False
        self.cost = cost
        self.post = post
        self.asking = asking
        self.sent = sent

    def learn(self, found: Mapping[str, float | None]) -> None:
        """Take in what an answer says of the budgets, by the names of `answers.budgets`."""
        self._told |= self._meter.learn(found, self.sent)

    def end(self, error: BaseException | None) -> None:
        """The request is over, well or with `error`. Once is enough, twice does no harm."""
        if not self._ended:
            self._ended = True
            self._meter.end(self, self._told, error)


class Meter:
    """The budgets and the standing of one client id. Safe in all threads."""

    def __init__(
        self,
        number: int,
        *,
        posts: Budget,
        terms: Terms,
        lock: threading.Lock,
        clock: Callable[[], float],
        on_end: Callable[[BaseException | None], object] | None = None,
    ) -> None:
        self.number = number
        self.user = Budget("user", terms.hour)
        self.client = Budget("client", terms.day)
        self.posts = posts
        self._terms = terms
        self._lock = lock
        self._clock = clock
        self._on_end = on_end
        self._hold: _Hold | None = None
        self._trouble_since: float | None = None
        self._failures = 0
        self._under_way = 0
        self._at_once = _MOST_AT_ONCE

    def take(self, cost: int = CALL_COST, *, post: bool = False, asking: bool = False) -> Permit:
        """Leave for a request of this cost; raises the UploadError that stands against it.

        With `asking`, a request that only wants to know how things stand, no hold is in the way.
        """
        with self._lock:
            now = self._clock()
            closed = self.closed_at(now, cost, post=post, asking=asking)
            if closed is not None:
                raise error_of(closed, now)
            for budget, amount in self._budgets(cost, post=post):
                budget.take(amount)
            self._under_way += 1
            return Permit(self, cost, post=post, asking=asking, sent=now)

    def learn(self, found: Mapping[str, float | None], sent: float) -> set[Reason]:
        """Which budgets the answer told something of."""
        told: set[Reason] = set()
        names = (("User", self.user), ("Client", self.client), ("Post", self.posts))
        with self._lock:
            now = self._clock()
            for name, budget in names:
                said = [found.get(name + key) for key in ("Limit", "Remaining", "Reset")]
                if budget.learn(*said, sent=sent, now=now):
                    told.add(budget.name)
        return told

    def end(self, permit: Permit, told: set[Reason], error: BaseException | None) -> None:
        """Called by the Permit."""
        counted = not (isinstance(error, errors.ImageError) and error.code in _NOT_COUNTED)
        answered = error is None or (
            isinstance(error, errors.UploadError)
            and not isinstance(error, errors.QuotaExceeded)
            and not error.imgur_is_away
        )
        with self._lock:
            now = self._clock()
            self._under_way -= 1
            for budget, amount in self._budgets(permit.cost, post=permit.post):
                budget.give_back(amount, sent=permit.sent, answered=answered)
                if budget.name not in told and counted:
                    budget.spend(amount, now)
            self._judge(permit, error, now)
        if self._on_end is not None:
            self._on_end(error)

    def presume(self, user: int | None, client: int | None) -> None:
        """Take these for the budgets until Imgur says otherwise."""
        with self._lock:
            for budget, limit in ((self.user, user), (self.client, client)):
                budget.limit = budget.remaining = limit

    def hold_until_asked(self, seconds: float) -> None:
        """Send nothing before Imgur has said how things stand, or for so long."""
        with self._lock:
            now = self._clock()
            self._hold = _Hold("unasked", _SENTENCES["unasked"], now, seconds, now + seconds)

    @property
    def trouble_since(self) -> float | None:
        """Since when this client id is blocked or Imgur out of order; None where it is neither."""
        return self._trouble_since

    @property
    def hold(self) -> Closed | None:
        """What stands against this client id beside its budgets."""
        hold = self._hold
        return Closed(hold.reason, hold.until, hold.sentence) if hold is not None else None

    def closed_at(
        self, now: float, cost: int, *, post: bool, asking: bool = False
    ) -> Closed | None:
        """What stands against a request of this cost. For the lock's holder."""
        hold = None if asking else self._hold
        if hold is not None:
            if hold.only_asking or now < hold.until:
                # Whoever asks may take its time: nobody is to look again every moment.
                until = hold.until if now < hold.until else now + _FIRST_REST_SECONDS
                return Closed(hold.reason, until, hold.sentence)
            if self._under_way:
                return Closed(hold.reason, math.inf, hold.sentence)
        if self._under_way >= self._at_once and not asking:
            return Closed("user", math.inf, _SENTENCES["user"])
        found: Closed | None = None
        for budget, amount in self._budgets(cost, post=post):
            until = budget.opens_at(amount, now)
            if until > now and (found is None or until > found.until):
                found = Closed(budget.name, until, _SENTENCES[budget.name])
        return found

    def room(self) -> float:
        """How many credits may be spent before a budget is empty. For the lock's holder."""
        left = [
            budget.remaining - budget.in_flight
            for budget in (self.user, self.client)
            if budget.remaining is not None
        ]
        return min(left, default=math.inf)

    def _budgets(self, cost: int, *, post: bool) -> list[tuple[Budget, int]]:
        spent = [(self.user, cost), (self.client, cost)] if cost else []
        return [*spent, (self.posts, 1)] if post else spent

    def _judge(self, permit: Permit, error: BaseException | None, now: float) -> None:
        """What the end of a request says of this client id's standing."""
        terms = self._terms
        match error:
            case errors.QuotaExceeded():
                if self._refused(permit, error, now):
                    self._went_well(permit, now)
            case errors.UploadBlocked():
                self._hold_on(permit.sent, "blocked", error.message, terms.blocked_wait, now)
            case errors.CredentialsRefused():
                self._hold_on(permit.sent, "credentials", error.message, terms.unhinted_wait, now)
            case errors.UploadError(imgur_is_away=True):
                self._failures += 1
                if self._failures >= _FAILURES_IN_A_ROW or self._hold is not None:
                    first = _FIRST_REST_SECONDS
                    self._hold_on(permit.sent, "unavailable", _SENTENCES["unavailable"], first, now)
            case None | errors.UploadError():
                self._failures = 0
                if self._at_once < _MOST_AT_ONCE:
                    self._at_once += 1 / self._at_once
                self._went_well(permit, now)

    def _went_well(self, permit: Permit, now: float) -> None:
        hold = self._hold
        if hold is None or permit.sent < hold.begun:
            return
        # Imgur may tell its limits to whom it takes no uploads from: one of these has to show.
        still = permit.asking and hold.reason != "unasked"
        if not still:
            self._trouble_since = None
        self._hold = replace(hold, until=now, only_asking=False) if still else None

    def _refused(self, permit: Permit, error: errors.QuotaExceeded, now: float) -> bool:
        """A 429: the budget that it names is empty; if it names none, wait longer each time.

        True where a budget explains it: then Imgur knows us and works.
        """
        budgets = self._budgets(permit.cost, post=permit.post)
        wait = error.retry_after
        for budget, _ in budgets:
            # One that is used up for no time at all is as good as none.
            if budget.name == error.budget and (wait is None or wait > 0):
                budget.empty(wait, sent=permit.sent, now=now)
                return True
        if not all(budget.has_room(amount, now) for budget, amount in budgets):
            return True
        self._at_once = 1.0
        self._hold_on(permit.sent, "user", error.message, self._terms.unhinted_wait, now)
        return False

    def _hold_on(
        self, sent: float, reason: Reason, sentence: str, first_wait: float, now: float
    ) -> None:
        hold = self._hold
        if hold is not None and sent < hold.begun:
            return  # one of many that were under way when the first of them was refused
        wait = first_wait
        if hold is not None and hold.reason == reason:
            cap = _LONGEST_REST_SECONDS if reason == "unavailable" else _LONGEST_HOLD_SECONDS
            wait = max(first_wait, min(cap, 2 * hold.wait))
        self._hold = _Hold(reason, sentence, now, wait, now + wait, reason == "credentials")
        is_trouble = reason in ("blocked", "unavailable")
        self._trouble_since = (self._trouble_since or now) if is_trouble else None


class Quota:
    """The Meters of all client ids, and what they say together."""

    def __init__(
        self,
        clients: int = 1,
        terms: Terms | None = None,
        clock: Callable[[], float] | None = None,
        on_end: Callable[[BaseException | None], object] | None = None,
    ) -> None:
        """`on_end` is told of each request that was sent how it ended: well, or with an error."""
        terms = terms or Terms()
        self._clock = clock or time.monotonic
        self._lock = threading.Lock()
        posts = Budget("posts", terms.hour)
        self.meters = tuple(
            Meter(
                number,
                posts=posts,
                terms=terms,
                lock=self._lock,
                clock=self._clock,
                on_end=on_end,
            )
            for number in range(1, clients + 1)
        )

    def best(self, cost: int, *, post: bool) -> Meter:
        """The Meter for the next request of this cost: the one with the most room, if any has."""
        with self._lock:
            now = self._clock()
            return max(
                self.meters,
                key=lambda m: (m.closed_at(now, cost, post=post) is None, m.room()),
            )

    def closed(self, cost: int, *, post: bool) -> Closed | None:
        """What stands against a request of this cost, whichever client id asks; None: nothing."""
        with self._lock:
            now = self._clock()
            found: list[Closed] = []
            for meter in self.meters:
                closed = meter.closed_at(now, cost, post=post)
                if closed is None:
                    return None
                found.append(closed)
            # Wrong credentials do not end by themselves: that wait is only until the next look.
            return min(found, key=lambda closed: (closed.reason == "credentials", closed.until))

    def seconds_of_trouble(self) -> float:
        """How long no client id has been able to send for a block or an outage; 0: one is."""
        with self._lock:
            now = self._clock()
            return min(now - (meter.trouble_since or now) for meter in self.meters)

    def seconds_to_open(self, cost: int, *, post: bool) -> float:
        """How long until a request of this cost may be sent; inf: when something comes back."""
        return self.seconds_until_open(self.closed(cost, post=post))

    def seconds_until_open(self, closed: Closed | None) -> float:
        """The same, where what stands against it is known."""
        if closed is None:
            return 0.0
        left = closed.until - self._clock()
        return left if left > 0 else _ASKED_SECONDS

    def standing(self) -> list[list[float | None]]:
        """How the budgets stand, for `stand` in another process."""
        with self._lock:
            now, clock = self._clock(), time.time()
            return [budget.standing(now, clock) for budget in self._all()]

    def stand(self, standing: list[list[float | None]]) -> bool:
        """Begin where another process left it; False where that had other client ids."""
        with self._lock:
            budgets = self._all()
            if len(standing) != len(budgets):
                return False
            for budget, each in zip(budgets, standing, strict=True):
                budget.stand(each, self._clock(), time.time())
            return all(budget.remaining is not None for budget in budgets[:-1])

    def _all(self) -> list[Budget]:
        own = [budget for meter in self.meters for budget in (meter.user, meter.client)]
        return [*own, self.meters[0].posts]

    def budgets(self) -> list[BudgetView]:
        """Every budget as it stands."""
        with self._lock:
            now = self._clock()
            views = []
            for meter in self.meters:
                views += [BudgetView.of(b, meter.number, now) for b in (meter.user, meter.client)]
            return [*views, BudgetView.of(self.meters[0].posts, None, now)]

    def seconds_for(self, uploads: int) -> float:
        """How long until so many uploads may have been sent, as the budgets go; inf: never."""
        with self._lock:
            now = self._clock()
            posts = Forecast.of(self.meters[0].posts, 1, now)
            clients = []
            for meter in self.meters:
                free_at = _end_of(meter.hold, now)
                credit = [Forecast.of(b, UPLOAD_COST, now) for b in (meter.user, meter.client)]
                clients.append((free_at, [*credit, posts]))
        moment = now
        while True:
            nexts = []
            for free_at, budgets in clients:
                fits = min(budget.fits(moment) for budget in budgets) if free_at <= moment else 0
                sent = int(min(uploads, fits))
                for budget in budgets:
                    budget.spend(sent, moment)
                uploads -= sent
                full = [b.resets_at for b in budgets if not b.fits(moment)]
                nexts.append(max([free_at, *full]))
            if uploads <= 0 or min(nexts) == math.inf or min(nexts) <= moment:
                return moment - now if uploads <= 0 else math.inf
            moment = min(nexts)


def _end_of(hold: Closed | None, now: float) -> float:
    """When what is held goes on, for a forecast; inf where nobody knows."""
    if hold is None:
        return now
    return math.inf if hold.reason == "credentials" else hold.until


def error_of(closed: Closed, now: float) -> errors.UploadError:
    """What stands in the way, as the error of a request that was not sent."""
    wait = None if closed.until == math.inf else closed.until - now
    match closed.reason:
        case "blocked":
            return errors.UploadBlocked(closed.sentence, retry_after=wait)
        case "credentials":
            return errors.CredentialsRefused(closed.sentence, retry_after=wait)
        case "unavailable" | "unasked":
            return errors.UploadError("unavailable", closed.sentence, retry_after=wait)
    error = errors.QuotaExceeded(closed.sentence, retry_after=wait)
    error.budget = closed.reason
    return error
