"""One rate limit of Imgur: how much of it is left, when it is full again, and a forecast.

Moments are those of the caller's clock. Written on the transfer loop. Other threads may read
without a lock: no reading changes anything. Nothing here does I/O.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_FRESH = 0.98
_ROUNDED_SECONDS = 1.0  # Imgur rounds the end of a window up to a second

Name = Literal["user", "client", "posts"]
BudgetSnapshot = list[float | None]
"""Limit, remaining, and the reset as an epoch."""


@dataclass(frozen=True, slots=True)
class BudgetView:
    """A budget at one moment; None: Imgur has not said. `resets_at` is by the quota's clock.

    `client` is the number of the client id; None: the budget belongs to all of them.
    """

    client: int | None
    name: Name
    limit: int | None
    remaining: int | None
    resets_at: float | None


class Budget:
    """How much is left of one rate limit, and when it is full again; inf: Imgur has not said.

    The window begins with the first request after a reset, as far as we know. Imgur rounds a reset
    up, so the earliest of several counts. At first and after a reset, `remaining` is a guess: then
    one request is sent alone, as a probe, and the others wait for its response.
    """

    def __init__(
        self, name: Name, window: float, client: int | None = None, spare: int = 0
    ) -> None:
        """`client` is that of the BudgetView. `spare` is never spent."""
        self.name: Name = name
        self.window = window
        self.spare = spare
        self.limit = math.inf
        self.remaining = math.inf
        self.resets_at = math.inf
        self.in_flight = 0
        self._client = client
        self._began = -math.inf
        self._learnt_at = -math.inf
        self._fresh_at = math.inf
        self._uncounted: list[tuple[float, int]] = []
        self._probes: int | None = 0  # in flight; None: `remaining` is no guess

    def at(self, now: float) -> tuple[float, float, int | None]:
        """What remains, when it resets, and the number of probes; None: no probe is needed."""
        resets_at = self.resets_at
        if now >= resets_at:
            return self.limit, math.inf, 0
        return self.remaining, resets_at, self._probes

    def view(self, now: float) -> BudgetView:
        """The budget at this moment."""
        remaining, resets_at, _ = self.at(now)
        return BudgetView(
            client=self._client,
            name=self.name,
            limit=None if self.limit == math.inf else int(self.limit),
            remaining=None if remaining == math.inf else int(remaining),
            resets_at=None if resets_at == math.inf else resets_at,
        )

    def blocked_until(self, cost: int, now: float, *, count: int = 1) -> float:
        """When `count` requests may spend `cost` each: `now`, later, or inf.

        Inf is when a request in flight has ended.
        """
        remaining, resets_at, probes = self.at(now)
        cost *= count
        is_free = probes is None or probes + count == 1
        if is_free and remaining - self.in_flight >= cost + self.spare:
            return now
        return math.inf if remaining >= cost + self.spare else resets_at

    def reserve(self, cost: int, now: float) -> None:
        """Count a request of this cost as in flight."""
        self._roll(now)
        self.in_flight += cost
        if self._probes is not None:
            self._probes = 1

    def release(self, cost: int, *, sent: float, answered: bool) -> None:
        """Count it as ended. `answered`: Imgur did the request, or judged it."""
        self.in_flight -= cost
        if sent >= self._began and self._probes is not None:
            self._probes = None if answered else 0

    def learn(
        self,
        limit: float | None,
        remaining: float | None,
        reset: float | None,
        *,
        sent: float,
        now: float,
    ) -> bool:
        """Take in the response to a request sent at `sent`; False: it did not say what remains.

        `reset` is in seconds from now. Responses overtake each other, so the least that remains is
        believed, until a request that was sent later is told of more: then a new window has begun.
        """
        self._roll(now)
        if limit is not None and limit > 0:
            self.limit = int(limit)
        if remaining is None or sent < self._began:
            return False
        # Requests that ended before `sent` are in Imgur's number; later ones may not be.
        self._uncounted = [spent for spent in self._uncounted if spent[0] > sent]
        left = int(remaining) - sum(cost for _, cost in self._uncounted)
        if left <= self.remaining:
            self.remaining, self._learnt_at = left, now
        elif sent > self._learnt_at:
            self._begin(now, left, probes=None)
        self._learn_reset(left, reset, now)
        return True

    def _learn_reset(self, left: int, reset: float | None, now: float) -> None:
        if reset is None:
            self._guess_reset(now)
            return
        self.resets_at = min(self.resets_at, now + reset)
        # The window's length is only for forecasts: an almost full budget has just been reset.
        if left >= _FRESH * self.limit and reset > 0:
            self._fresh_at = min(self._fresh_at, now)
            self.window = self.resets_at - self._fresh_at
        elif reset > self.window + _ROUNDED_SECONDS:
            self.window = reset

    def spend(self, cost: int, now: float) -> None:
        """Count a request whose response said nothing of this budget."""
        self._roll(now)
        if self.remaining < math.inf:
            self.remaining -= cost
            self._uncounted.append((now, cost))
            self._learnt_at = math.inf  # Imgur may say more, and it is no new window
            self._guess_reset(now)

    def empty(self, wait: float | None, *, sent: float, now: float) -> None:
        """Imgur says to a request sent at `sent`: used up, for `wait` seconds more."""
        self._roll(now)
        if sent < self._began:
            return  # that was the window before
        # The end first: another thread must not read an empty budget without one.
        self.resets_at = min(self.resets_at, now + (self.window if wait is None else wait))
        self.remaining, self._learnt_at = 0, now

    def snapshot(self, now: float, epoch: float) -> BudgetSnapshot:
        """For `restore`; `epoch` is `now` by the clock of the snapshot. In flight is spent."""
        in_flight = self.in_flight  # first: it is counted as spent before it is released
        view = self.view(now)
        left = None if view.remaining is None else max(0, view.remaining - in_flight)
        reset = None if view.resets_at is None else view.resets_at - now + epoch
        return [view.limit, left, reset]

    def restore(self, snapshot: BudgetSnapshot, now: float, epoch: float) -> None:
        """Go on with a `snapshot` of a process before; `epoch` is `now` by the snapshot's clock.

        What remains is a guess until the next response.
        """
        limit, remaining, resets_at = snapshot
        self._begin(now, math.inf if remaining is None else int(remaining), probes=0)
        self._learnt_at = -math.inf
        self.limit = math.inf if limit is None else int(limit)
        self.resets_at = math.inf if resets_at is None else resets_at - epoch + now
        self._roll(now)

    def _guess_reset(self, now: float) -> None:
        if self.resets_at == math.inf:
            self.resets_at = now + self.window

    def _roll(self, now: float) -> None:
        if now >= self.resets_at:
            self._begin(now, self.limit, probes=0)

    def _begin(self, now: float, remaining: float, *, probes: int | None) -> None:
        self._probes, self._uncounted = probes, []
        self._began, self.remaining, self.resets_at = now, remaining, math.inf
        self._learnt_at, self._fresh_at = now, math.inf


class Forecast:
    """A Budget as it develops if only uploads of this cost are sent, from `now` on."""

    def __init__(self, budget: Budget, cost: int, now: float) -> None:
        remaining, self.resets_at, _ = budget.at(now)
        self.cost, self.limit, self.window = cost, budget.limit - budget.spare, budget.window
        self.remaining = min(self.limit, remaining - budget.in_flight - budget.spare)

    def fits(self, moment: float) -> float:
        """How many uploads may be sent at this moment."""
        if moment >= self.resets_at:
            self.remaining, self.resets_at = self.limit, math.inf
        return max(0.0, self.remaining // self.cost) if self.remaining != math.inf else math.inf

    def spend(self, uploads: int, moment: float) -> None:
        """Count uploads sent at this moment."""
        if uploads:
            self.remaining -= uploads * self.cost
            self.resets_at = min(self.resets_at, moment + self.window)


def forecast(
    clients: Sequence[tuple[float, Sequence[Forecast]]], uploads: int, now: float
) -> float:
    """When all `uploads` may have been sent, or inf; changes the Forecasts.

    Each client id is the moment from which it may send, and the Forecasts of its budgets.
    """
    moment = now
    while True:
        openings = []
        for free_at, budgets in clients:
            fits = min(budget.fits(moment) for budget in budgets) if free_at <= moment else 0
            sent = int(min(uploads, fits))
            for budget in budgets:
                budget.spend(sent, moment)
            uploads -= sent
            openings.append(max([free_at, *(b.resets_at for b in budgets if not b.fits(moment))]))
        if uploads <= 0:
            return moment
        if not moment < min(openings) < math.inf:
            return math.inf
        moment = min(openings)
