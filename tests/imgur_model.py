"""A model of Imgur's budgets and a sender limited by a Quota, on a simulated clock.

The clock is set to the time of the next event, so hours take milliseconds. The model counts like
Imgur: a window begins with the first cost after the end of the last one, and responses have
Imgur's own headers.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Literal

from imageload import errors
from imageload.targets.imgur.answers import ApiResponse, budgets, checked
from imageload.targets.limits.quota import UPLOAD, Quotas, Reservation

# Far from today, so that epochs are read by the answer's Date and not by this machine's clock.
_EPOCH = 1_300_000_000

Resets = Literal["seconds", "epoch", "constant", "none"]


class Clock:
    """A clock that changes only when it is set."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Window:
    """One budget as Imgur counts it."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self.seconds = seconds
        self.spent_in_all = 0
        self._used = 0
        self._ends = -math.inf

    def left(self, now: float) -> int:
        """The remaining credits."""
        if now >= self._ends:
            self._used = 0
        return self.limit - self._used

    def spend(self, amount: int, now: float) -> None:
        """Count the cost; the first cost of a window begins it."""
        if self.left(now) == self.limit:
            self._ends = now + self.seconds
        self._used += amount
        self.spent_in_all += amount

    def end(self) -> None:
        """End the window now."""
        self._ends = -math.inf

    def seconds_left(self, now: float) -> float:
        """Seconds until the window ends."""
        return round(max(0.0, self._ends - now), 6)


@dataclass(kw_only=True)
class Imgur:
    """Counts requests, and refuses those over a budget.

    `resets` is the format of the reset header: seconds, rounded up; an epoch; always the window's
    length; or none.
    """

    clock: Clock
    hour: float = 3600.0
    day: float = 86_400.0
    user: int = 500
    client: int = 12_500
    posts: int = 1_250
    resets: Resets = "seconds"

    def __post_init__(self) -> None:
        self._windows: dict[tuple[str, int], Window] = {}

    def window(self, name: str, number: int = 0) -> Window:
        """The user or client budget of the client id of this number, or the POSTs of all."""
        seconds = self.day if name == "client" else self.hour
        limit: int = getattr(self, name)
        return self._windows.setdefault((name, number), Window(limit, seconds))

    def forget(self) -> None:
        """End every window now, before the time in the headers."""
        for window in self._windows.values():
            window.end()

    def answer(self, number: int, cost: int = UPLOAD.cost, *, post: bool = True) -> ApiResponse:
        """The response to the client id of this number now."""
        now = self.clock()
        counted = [(self.window("user", number), cost), (self.window("client", number), cost)]
        if post:
            counted.append((self.window("posts"), 1))
        if any(window.left(now) < amount for window, amount in counted):
            data = {"data": {"error": {"code": 429, "message": "Too fast."}}, "success": False}
            return ApiResponse(429, self._fields(number, now, post=post), data)
        for window, amount in counted:
            window.spend(amount, now)
        return ApiResponse(
            200, self._fields(number, now, post=post), {"data": True, "success": True}
        )

    def _fields(self, number: int, now: float, *, post: bool) -> dict[str, str]:
        fields = {"date": formatdate(_EPOCH + now, usegmt=True)}
        told = [("user", number, "x-ratelimit-user"), ("client", number, "x-ratelimit-client")]
        if post:
            told.append(("posts", 0, "x-post-rate-limit-"))
        for name, of, field_name in told:
            window = self.window(name, of)
            fields[f"{field_name}limit"] = str(window.limit)
            fields[f"{field_name}remaining"] = str(window.left(now))
            seconds = window.seconds_left(now)
            match self.resets:
                case "seconds":
                    fields[f"{field_name}reset"] = str(math.ceil(seconds))
                case "epoch":
                    fields[f"{field_name}reset"] = str(math.ceil(round(_EPOCH + now + seconds, 6)))
                case "constant":
                    fields[f"{field_name}reset"] = str(math.ceil(window.seconds))
        return fields


@dataclass(kw_only=True)
class Sender:
    """Keeps as many uploads to `imgur` in flight as `quotas` and `slots` allow, up to `wanted`.

    `latency` returns the seconds of one direction; `fate` returns the end of each request:
    "answered", "lost" (counted, without a response) or "unsent" (no connection).
    `refused` has the times of the 429s.
    """

    imgur: Imgur
    quotas: Quotas
    clock: Clock
    slots: int = 16
    latency: Callable[[], float] = lambda: 0.2
    fate: Callable[[], str] = lambda: "answered"
    wanted: float = math.inf

    def __post_init__(self) -> None:
        self.landed = 0
        self.in_flight = 0
        self.refused: list[float] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, moment: float, do: Callable[[], None]) -> None:
        """Call `work` at this time."""
        heapq.heappush(self._events, (moment, next(self._numbers), do))

    def run(self, seconds: float) -> None:
        """Send for this many seconds, then wait for the uploads in flight."""
        end = self.clock() + seconds
        while True:
            opens = self._send() if self.clock() < end else math.inf
            moment = self._events[0][0] if self._events else math.inf
            if min(moment, opens) == math.inf:
                return
            if moment <= opens:
                self.clock.now, _, do = heapq.heappop(self._events)
                do()
            else:
                self.clock.now = opens

    def _send(self) -> float:
        """Send the uploads allowed now; return the time of the next ones."""
        while self.in_flight < self.slots and self.landed + self.in_flight < self.wanted:
            seconds = self.quotas.seconds_to_open(self.quotas.blocked(UPLOAD))
            if seconds:
                return self.clock() + seconds
            quota = self.quotas.best(UPLOAD)
            reservation = quota.try_reserve(UPLOAD)
            self.in_flight += 1
            self._travel(quota.number, reservation)
        return math.inf

    def _travel(self, number: int, reservation: Reservation) -> None:
        fate = self.fate()

        def arrive() -> None:
            if fate == "unsent":
                end(errors.UploadError("upload_connect_error", "No connection."))
                return
            answer = self.imgur.answer(number)
            if fate == "lost":
                self.at(
                    self.clock() + self.latency(),
                    lambda: end(errors.UploadError("response_lost", "Lost.")),
                )
            else:
                self.at(self.clock() + self.latency(), lambda: hear(answer))

        def hear(answer: ApiResponse) -> None:
            reservation.learn(budgets(answer.headers))
            try:
                checked(answer)
            except errors.QuotaExceeded as error:
                self.refused.append(self.clock())
                end(error)
            else:
                self.landed += 1
                end(None)

        def end(error: errors.UploadError | None) -> None:
            self.in_flight -= 1
            reservation.end(error)

        self.at(self.clock() + self.latency(), arrive)
