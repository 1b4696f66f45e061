"""One limit of Imgur's: what is left of it, when it is full again, and how it will go on.

For whoever holds its lock; moments are those of the caller's clock. Nothing here does I/O.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

_FRESH = 0.98
_ROUNDED_SECONDS = 1.0  # Imgur rounds the end of a window up to a second

Name = Literal["user", "client", "posts"]


@dataclass(frozen=True, slots=True)
class BudgetView:
    """A budget as it stands: None is what Imgur has not said. `resets_at` by the quota's clock."""

    client: int | None
    name: Name
    limit: int | None
    remaining: int | None
    resets_at: float | None

    @classmethod
    def of(cls, budget: Budget, client: int | None, now: float) -> BudgetView:
        """`budget` as it stands, which is that of the client id of this number, or of all."""
        budget.has_room(0, now)  # lets a window that is over be over
        return cls(client, budget.name, budget.limit, budget.remaining, budget.resets_at)


class Budget:
    """What is left of one limit of Imgur's, and when it is full again.

    The window begins with the first spending after a reset, as far as we know; of several
    hints at its end the earliest counts, since Imgur rounds them up. What is left at first, and
    after a reset, is a guess: one request goes alone then, and the others learn from its answer.
    """

    def __init__(self, name: Name, window: float) -> None:
        self.name: Name = name
        self.window = window
        self.limit: int | None = None
        self.remaining: int | None = None
        self.resets_at: float | None = None
        self.in_flight = 0
        self._since = -math.inf
        self._learnt_at = -math.inf
        self._fresh_at: float | None = None
        self._untold: list[tuple[float, int]] = []
        self._is_guess = True
        self._is_asked = False

    def has_room(self, cost: int, now: float) -> bool:
        """May so much be spent now?"""
        self._roll(now)
        if self._is_guess and self._is_asked:
            return False
        return self.remaining is None or self.remaining - self.in_flight >= cost

    def take(self, cost: int) -> None:
        """A request that costs so much is under way."""
        self.in_flight += cost
        self._is_asked = True

    def give_back(self, cost: int, *, sent: float, answered: bool) -> None:
        """It is not any more; `answered`: not that Imgur only refused, or said nothing."""
        self.in_flight -= cost
        if sent >= self._since:
            self._is_asked = False
            self._is_guess = self._is_guess and not answered

    def learn(
        self,
        limit: float | None,
        remaining: float | None,
        reset: float | None,
        *,
        sent: float,
        now: float,
    ) -> bool:
        """Take in what the answer to a request of the moment `sent` says; False: it says nothing.

        Answers overtake each other, so the least that remains is believed, until the answer to a
        request that was sent later names more: then Imgur's window has begun anew.
        """
        self._roll(now)
        if limit is not None and limit > 0:
            self.limit = int(limit)
        if remaining is None or sent < self._since:
            return False
        # What ended before this was sent is in it; what ended since may not be.
        self._untold = [spent for spent in self._untold if spent[0] > sent]
        left = int(remaining) - sum(cost for _, cost in self._untold)
        if self.remaining is None or left <= self.remaining:
            self.remaining, self._learnt_at = left, now
        elif sent > self._learnt_at:
            self._begin(now, left, is_guess=False)
        self._learn_reset(left, reset, now)
        return True

    def _learn_reset(self, left: int, reset: float | None, now: float) -> None:
        if reset is None:
            if self.resets_at is None:
                self.resets_at = now + self.window
            return
        self.resets_at = now + reset if self.resets_at is None else min(self.resets_at, now + reset)
        # Only for forecasts: where hardly anything is spent, the window has just begun.
        is_fresh = self.limit is not None and left >= _FRESH * self.limit
        if is_fresh and reset > 0:
            self._fresh_at = now if self._fresh_at is None else self._fresh_at
            self.window = self.resets_at - self._fresh_at
        elif reset > self.window + _ROUNDED_SECONDS:
            self.window = reset

    def spend(self, cost: int, now: float) -> None:
        """Count what no answer has told of."""
        self._roll(now)
        if self.remaining is not None:
            self.remaining -= cost
            self._untold.append((now, cost))
            self._learnt_at = math.inf  # less than Imgur may say
            if self.resets_at is None:
                self.resets_at = now + self.window

    def empty(self, wait: float | None, *, sent: float, now: float) -> None:
        """Imgur says to a request of the moment `sent`: used up, for `wait` seconds more."""
        self._roll(now)
        if sent < self._since:
            return  # that was the window before
        self.remaining, self._learnt_at = 0, now
        end = now + (self.window if wait is None else wait)
        self.resets_at = end if self.resets_at is None else min(self.resets_at, end)

    def opens_at(self, cost: int, now: float) -> float:
        """When so much may be spent; `now`, a later moment, or inf: when something comes back."""
        if self.has_room(cost, now):
            return now
        if self.remaining is not None and self.remaining >= cost:
            return math.inf
        return math.inf if self.resets_at is None else self.resets_at

    def standing(self, now: float, clock: float) -> list[float | None]:
        """How it stands, with the reset by `clock`, which outlives the process."""
        self._roll(now)
        resets_at = None if self.resets_at is None else self.resets_at - now + clock
        return [self.limit, self.remaining, resets_at]

    def stand(self, standing: list[float | None], now: float, clock: float) -> None:
        """Stand as another process left it."""
        limit, remaining, resets_at = standing
        self.limit = None if limit is None else int(limit)
        self.remaining = None if remaining is None else int(remaining)
        self.resets_at = None if resets_at is None else resets_at - clock + now
        self._roll(now)

    def _roll(self, now: float) -> None:
        if self.resets_at is not None and now >= self.resets_at:
            self._begin(now, self.limit, is_guess=True)

    def _begin(self, now: float, remaining: int | None, *, is_guess: bool) -> None:
        self._is_guess, self._is_asked = is_guess, False
        self._since, self.remaining, self.resets_at = now, remaining, None
        self._learnt_at, self._fresh_at = now, None
        self._untold.clear()


@dataclass(slots=True)
class Forecast:
    """A Budget as it will go on if only uploads are sent."""

    cost: int
    limit: float
    remaining: float
    resets_at: float
    window: float

    @classmethod
    def of(cls, budget: Budget, cost: int, now: float) -> Forecast:
        """`budget` from `now` on, when an upload costs so much of it."""
        budget.has_room(cost, now)
        limit = math.inf if budget.limit is None else budget.limit
        left = limit if budget.remaining is None else budget.remaining - budget.in_flight
        resets_at = math.inf if budget.resets_at is None else budget.resets_at
        return cls(cost, limit, left, resets_at, budget.window)

    def fits(self, moment: float) -> float:
        """How many uploads may be sent at this moment."""
        if moment >= self.resets_at:
            self.remaining, self.resets_at = self.limit, math.inf
        return max(0.0, self.remaining // self.cost) if self.remaining != math.inf else math.inf

    def spend(self, uploads: int, moment: float) -> None:
        """Count uploads of this moment."""
        if uploads:
            self.remaining -= uploads * self.cost
            self.resets_at = min(self.resets_at, moment + self.window)
