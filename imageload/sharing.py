"""The same image asked for twice is brought over once: joins in flight, and known bytes.

Two tables of one kind. By URL: what two running jobs want is downloaded by the first of them.
By SHA-256: bytes that were uploaded in the life of this registry have their link already. Who
claims a key is told to lead, to follow the one who leads, or what became of it.

A URL's content may change, so an end known by URL only serves jobs that were running when it came
about; the link of bytes holds until it is forgotten (a purge). It never does I/O.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Set
from dataclasses import dataclass, field

from imageload.errors import Failure
from imageload.job import Landed, Report


@dataclass(frozen=True, slots=True)
class Lead:
    """Nobody is at it: bring it over, and `settle` it."""


@dataclass(frozen=True, slots=True)
class Follow:
    """Somebody is at it: the callback will get an Ended."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended: where it landed, or how it failed; neither: not at all, claim it again."""

    report: Report | None = None
    landed: Landed | None = None
    failure: Failure | None = None


Claim = Lead | Follow | Ended
Follower = Callable[[Ended], None]


@dataclass(slots=True)
class _Flight:
    followers: list[Follower] = field(default_factory=list)


class Sharing:
    """What all jobs share. Safe in all threads; followers are called outside of its lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, _Flight] = {}
        self._links: dict[str, Landed] = {}
        self._ends: dict[str, tuple[int, Ended]] = {}
        self._order: deque[tuple[int, str]] = deque()
        self._clock = 0
        self._running: dict[str, int] = {}

    def begin(self, job_id: str) -> None:
        """The job is on its way from now on."""
        with self._lock:
            self._running[job_id] = self._clock

    def end(self, job_id: str) -> None:
        """The job runs no more; ends that serve no running job are forgotten."""
        with self._lock:
            self._running.pop(job_id, None)
            oldest = min(self._running.values(), default=self._clock)
            while self._order and self._order[0][0] <= oldest:
                moment, url = self._order.popleft()
                if self._ends.get(url, (0,))[0] == moment:
                    del self._ends[url]

    def claim_url(self, url: str, job_id: str, follower: Follower) -> Claim:
        """What `job_id` is to do about `url`."""
        with self._lock:
            moment, ended = self._ends.get(url, (-1, None))
            if ended is not None and moment > self._running.get(job_id, self._clock):
                return ended
            return self._board(f"url:{url}", follower)

    def claim_bytes(self, sha256: str, follower: Follower) -> Claim:
        """What is to be done about an image with these bytes."""
        with self._lock:
            landed = self._links.get(sha256)
            if landed is not None:
                return Ended(landed=landed)
            return self._board(f"sha256:{sha256}", follower)

    def settle_url(self, url: str, ended: Ended) -> None:
        """Tell how the URL that this caller led has ended."""
        with self._lock:
            if ended.landed is not None:
                self._clock += 1
                self._ends[url] = (self._clock, ended)
                self._order.append((self._clock, url))
            followers = self._land(f"url:{url}")
        for follower in followers:
            follower(ended)

    def settle_bytes(self, sha256: str, ended: Ended) -> None:
        """Tell how the bytes that this caller led have ended."""
        with self._lock:
            if ended.landed is not None:
                self._links[sha256] = ended.landed
            followers = self._land(f"sha256:{sha256}")
        for follower in followers:
            follower(ended)

    @property
    def ends_kept(self) -> int:
        """How many URLs' ends are kept for jobs that run."""
        return len(self._ends)

    def forget(self, links: Set[str]) -> None:
        """What is behind these links is gone: neither its bytes nor its URL are known any more."""
        with self._lock:
            self._links = {k: each for k, each in self._links.items() if each.link not in links}
            for url, (_, ended) in list(self._ends.items()):
                if ended.landed is not None and ended.landed.link in links:
                    del self._ends[url]

    def _board(self, key: str, follower: Follower) -> Claim:
        flight = self._flights.get(key)
        if flight is None:
            self._flights[key] = _Flight()
            return Lead()
        flight.followers.append(follower)
        return Follow()

    def _land(self, key: str) -> list[Follower]:
        flight = self._flights.pop(key, None)
        return flight.followers if flight is not None else []
