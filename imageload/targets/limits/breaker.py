"""Whether a target takes requests at the moment: circuit breakers.

    closed ──► backoff ──blocked_until──► probing ──success──► closed
                 ▲                           │
                 └── refused: wait doubled ◄─┘

Imgur refuses one endpoint and serves the others, or refuses one client id and serves the next. So
each client id has a breaker for each endpoint, and one for the id as a whole. Written on the
transfer loop; other threads may read without a lock. Nothing here does I/O.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from imageload import errors
from imageload.targets.limits.budget import Name

Endpoint = Literal["uploads", "albums", "deletions", "account"]
ENDPOINTS: tuple[Endpoint, ...] = ("uploads", "albums", "deletions", "account")

Reason = (
    Name
    | Literal["month", "blocked", "blocked_id", "blocked_address", "throttled"]
    | Literal["credentials", "unavailable", "unasked", "lease"]
)

MESSAGES: dict[Reason, str] = {
    "user": "Imgur's hourly credits of this address and client id are used up.",
    "client": "Imgur's daily credits of this client id are used up.",
    "posts": "Imgur's hourly number of POSTs from this address is used up.",
    "month": (
        "Imgur's daily credits of this client id were used up on five days of the last month: "
        "the application may be blocked for the rest of the month."
    ),
    "blocked": "Imgur refuses this address or client id.",
    "blocked_id": "Imgur refuses this client id.",
    "blocked_address": "Imgur refuses this address.",
    "credentials": "Imgur does not accept the client id or token.",
    "unavailable": "Imgur is out of order, or cannot be reached.",
    "unasked": "Imgur is being asked for its limits.",
    "throttled": "The target accepts fewer requests at the moment.",
    "lease": "A client id belongs to one node at a time, and this node has none at the moment.",
}

_FAILURES_IN_A_ROW = 3
_FIRST_OUTAGE_WAIT = 1.0
_LONGEST_OUTAGE_WAIT = 60.0
_LONGEST_REJECTING_WAIT = 120.0  # a probe that is rejected may cost the credits of an upload
_LONGEST_WAIT = 3600.0
_MOST_IN_FLIGHT = 1_000.0
_MOST_REJECTED = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Seconds that are assumed where Imgur's response does not say them."""

    hour: float = 3600.0
    day: float = 86_400.0
    unhinted_wait: float = 60.0
    """After a 429 without a hint; doubled for each further one in a row."""
    blocked_wait: float = 600.0
    """After a block; doubled likewise."""
    outage_seconds: float = math.inf
    """An outage of this length fails what has waited as long; no wait for a probe is longer."""
    lease_seconds: float = 30.0
    """How long a client id is one node's; then, at the latest, a node without one looks again."""
    longest_wait: float = _LONGEST_WAIT
    """The longest wait after 429s without a hint."""
    throttled: Reason = "user"
    """What uploads wait for after a 429 that no budget explains."""
    place: str = "Imgur"
    """How sentences name the target, at their beginning."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why nothing may be sent before `until`, on the quota's clock; inf: until a request ends."""

    reason: Reason
    until: float
    message: str
    is_budget: bool = False
    """Credits or posts are used up: no outage, however long."""

    def error(self, now: float) -> errors.UploadError:
        """The error of a request that was not sent."""
        wait = None if self.until == math.inf else self.until - now
        match self.reason:
            case "blocked" | "blocked_id" | "blocked_address":
                return errors.UploadBlocked(self.message, retry_after=wait)
            case "credentials":
                return errors.CredentialsRefused(self.message, retry_after=wait)
            case "unavailable" | "unasked":
                return errors.UploadError("unavailable", self.message, retry_after=wait)
        error = errors.QuotaExceeded(self.message, retry_after=wait)
        if self.reason not in ("lease", "throttled"):
            error.budget = "client" if self.reason == "month" else self.reason
        return error


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why requests are refused, and the first and the longest wait for a probe.

    `only_asking`: the probe has to be a request that only asks for the limits.
    """

    reason: Reason
    message: str
    wait: float
    longest: float = _LONGEST_WAIT
    only_asking: bool = False


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


_AWAY = Refusal(
    reason="unavailable",
    message=MESSAGES["unavailable"],
    wait=_FIRST_OUTAGE_WAIT,
    longest=_LONGEST_OUTAGE_WAIT,
)


class Breaker:
    """The breaker of a client id as a whole; others decide when it opens."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.backoff: Backoff | None = None
        self.in_flight = 0

    def blocked(self, count: int, now: float) -> Blocked | None:
        """Why `count` requests may not be sent now; None: they may."""
        backoff = self.backoff
        if backoff is None:
            return None
        until = backoff.blocked_until
        if now >= until:
            if not backoff.only_asking and self.in_flight + count <= 1:
                return None
            until = now + _FIRST_OUTAGE_WAIT if backoff.only_asking else math.inf
        return Blocked(backoff.reason, until, backoff.message)

    def back_off(self, refusal: Refusal, *, sent: float, now: float) -> bool:
        """A request that was sent at `sent` was refused: wait, or twice the last such wait.

        False: it was in flight together with the first that was refused, and changes nothing.
        """
        before, wait = self.backoff, refusal.wait
        if before is not None and sent < before.began:
            return False
        if before is not None and before.reason == refusal.reason:
            wait = max(wait, min(refusal.longest, 2 * before.wait))
        self.backoff = Backoff(refusal.reason, refusal.message, now, wait, refusal.only_asking)
        return True

    def close(self) -> None:
        """Let all requests through."""
        self.backoff = None

    def end_wait(self, now: float) -> None:
        """Let one probe through now."""
        if self.backoff is not None:
            self.backoff = replace(self.backoff, began=now, is_over=True, only_asking=False)


class EndpointBreaker(Breaker):
    """The breaker of one endpoint for one client id."""

    def __init__(self, terms: Terms, endpoint: Endpoint) -> None:
        super().__init__(terms)
        self.outage_since: float | None = None
        """The beginning of the time in which the endpoint has refused the client id, or failed."""
        self.is_block_asked = False
        """True if Imgur was asked whether the block concerns the client id or the address."""
        self._block: Reason = "blocked"
        self._endpoint = endpoint
        self._failures = 0
        self._most_in_flight = _MOST_IN_FLIGHT
        self._rejections = Rejections()

    def blocked(self, count: int, now: float) -> Blocked | None:
        """Why `count` requests may not be sent now; None: they may."""
        blocked = super().blocked(count, now)
        if blocked is None and self.in_flight + count - 1 >= self._most_in_flight:
            return Blocked("user", math.inf, MESSAGES["user"])
        return blocked

    def judge(
        self, error: BaseException | None, *, sent: float, now: float, content: str = ""
    ) -> bool:
        """Begin, lengthen or end the backoff after a request; True if Imgur did it or judged it.

        `content` identifies the image that was uploaded.
        """
        match error:
            case errors.QuotaExceeded():
                self._slow_down(error, sent=sent, now=now)
            case errors.UploadBlocked():
                message, wait = self._block_message(error.message), self.terms.blocked_wait
                refusal = Refusal(reason=self._block, message=message, wait=wait)
                self._begin_outage(refusal, sent=sent, now=now)
            case errors.UploadError(target_is_away=True):
                self._failures += 1
                if self._failures >= _FAILURES_IN_A_ROW or self.backoff is not None:
                    message = f"{self.terms.place} is out of order, or cannot be reached."
                    away = replace(_AWAY, message=message)
                    self._begin_outage(away, sent=sent, now=now)
            case errors.UploadError() if self._rejections.concern_every_image(error, content):
                message = f"{self.terms.place} rejects every image. {error.message}"
                refusal = replace(_AWAY, message=message, longest=_LONGEST_REJECTING_WAIT)
                self._begin_outage(refusal, sent=sent, now=now)
            case None | errors.UploadError():
                if error is None and content:
                    self._rejections.landed()
                self.succeed(sent)
                return True
        return False

    def succeed(self, sent: float) -> None:
        """Imgur did a request that was sent at `sent`, or judged it."""
        self._failures = 0
        if self._most_in_flight < _MOST_IN_FLIGHT:
            self._most_in_flight += 1 / self._most_in_flight
        if self.backoff is None or sent >= self.backoff.began:
            self.close()

    def close(self) -> None:
        """Let all requests through."""
        super().close()
        self.outage_since, self._block, self.is_block_asked = None, "blocked", False

    def name_block(self, reason: Reason) -> None:
        """The block, if it lasts, concerns the client id or the address, as `reason` says."""
        if self.backoff is not None and self.backoff.reason == self._block:
            self._block = reason
            message = self._block_message(self.backoff.message)
            self.backoff = replace(self.backoff, reason=reason, message=message)

    def _block_message(self, message: str) -> str:
        """The message of a block, with what it concerns if that is known."""
        if self._block == "blocked":
            return message
        _, quote, said = message.partition(" Imgur says:")
        return f"{MESSAGES[self._block]}{quote}{said}"

    def _slow_down(self, error: errors.QuotaExceeded, *, sent: float, now: float) -> None:
        """Back off after a 429 that no budget explains; then send one request at a time."""
        hint = max(0.0, error.retry_after or 0.0)
        if not hint:
            self._most_in_flight = 1.0
        refusal = Refusal(
            reason=self.terms.throttled,
            message=error.message,
            wait=hint or self.terms.unhinted_wait,
            longest=hint or self.terms.longest_wait,
        )
        if self._endpoint != "uploads":  # an album cannot wait for ever
            self._begin_outage(refusal, sent=sent, now=now)
        elif self.back_off(refusal, sent=sent, now=now):
            self.outage_since = None  # a wait for credits fails no image, however long

    def _begin_outage(self, refusal: Refusal, *, sent: float, now: float) -> None:
        """Back off, for no wait that is longer than an outage may be."""
        bound = self.terms.outage_seconds
        wait, longest = min(refusal.wait, bound), min(refusal.longest, bound)
        if self.back_off(replace(refusal, wait=wait, longest=longest), sent=sent, now=now):
            self.outage_since = self.outage_since or now


class Rejections:
    """Tells images that Imgur rejects from an Imgur that rejects every image.

    Three different images in a row that get the same status and message, with none landed between,
    are Imgur's trouble. If an image is rejected again after others have landed, its rejection is
    about the image. docs/decisions/rejections.md has the reasons.
    """

    NAMES = frozenset(("unknown_rejection", "server_fault"))

    def __init__(self) -> None:
        self._complaint: tuple[int | None, str] | None = None
        self._landings = 0
        self._rejected: dict[str, int] = {}  # content to the landings before its first rejection
        self._run = 0
        self._is_of_images = False

    def landed(self) -> None:
        """An image landed."""
        self._landings += 1
        self._run = 0

    def concern_every_image(self, error: errors.UploadError, content: str) -> bool:
        """True if this rejection of `content` would have hit any other image too."""
        if not content or error.name not in self.NAMES:
            return False
        complaint = (error.status_code, error.message)
        if complaint != self._complaint or len(self._rejected) > _MOST_REJECTED:
            self._complaint, self._rejected = complaint, {}
            self._run, self._is_of_images = 0, False
        if content not in self._rejected:
            self._rejected[content] = self._landings
            self._run += 1
        if self._rejected[content] != self._landings:
            # An image may meet a fault twice by chance, and a rejection hardly.
            self._is_of_images = self._is_of_images or not error.transient
            return False
        return self._run >= _FAILURES_IN_A_ROW and not self._is_of_images
