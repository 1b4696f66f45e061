"""Which image of a job is downloaded next: in input order, as far as the origin hosts allow.

Each host has a lane. A lane sleeps while its host has no turn for us; the others go on, and
images of hosts not seen yet are looked for further down the list. Belongs to the job's thread.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Sequence
from urllib.parse import urlsplit

from imageload.errors import ImageError
from imageload.fetch.hosts import Busy, Down, Hosts, Wait, Wake


def host_of(url: str) -> str:
    """The name by which the turns of `url` go; empty where it names no host."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


class Backlog:
    """The images of `urls` that are still to be downloaded, by their index: those of `fresh`.

    `wake` is called from any thread with the name of a host whose turn it may be; hand that to
    `awake` on the job's thread.
    """

    def __init__(self, urls: Sequence[str], fresh: Sequence[int], hosts: Hosts, wake: Wake) -> None:
        self._urls = urls
        self._fresh = fresh
        self._hosts = hosts
        self._wake = wake
        self._next_fresh = 0
        self._lanes: dict[str, deque[int]] = {}
        self._asleep: dict[str, deque[int]] = {}
        self._alarms: list[tuple[float, str]] = []
        self._due: list[tuple[float, int]] = []
        self._granted: dict[str, None] = {}

    def __bool__(self) -> bool:
        """Is there anything left?"""
        fresh = self._next_fresh < len(self._fresh)
        return bool(fresh or self._lanes or self._asleep or self._due)

    def again(self, index: int, wait: float) -> None:
        """Have the image at `index` once more, in `wait` seconds."""
        heapq.heappush(self._due, (time.monotonic() + wait, index))

    def clear(self) -> None:
        """Have none of them any more; slots that are granted later go back with the others."""
        self._next_fresh = len(self._fresh)
        self._lanes.clear()
        self._asleep.clear()
        self._due.clear()
        self._alarms.clear()

    def awake(self, host: str, granted: bool = False) -> None:
        """The host may be asked again, or a slot of it is `granted` to us already."""
        lane = self._asleep.pop(host, None)
        if lane:
            self._lanes[host] = lane
        if granted:
            self._granted[host] = None

    def return_grants(self) -> None:
        """Give back the slots that were granted and not used: others stand in line."""
        while self._granted:
            self._hosts.release(self._granted.popitem()[0])

    def seconds_to_next(self) -> float | None:
        """How long until time alone brings something to do; None: it never will."""
        moments = [heap[0][0] for heap in (self._due, self._alarms) if heap]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def next(self) -> tuple[int, ImageError | None] | None:
        """The image to download now, its host's slot taken; None where there is none now.

        With an error, the image is not to be downloaded: that is how its try ended.
        """
        self._let_time_pass()
        while self._granted:
            host = self._granted.popitem()[0]
            if host in self._lanes:
                return self._first(host, self._lanes.pop(host)), None
            self._hosts.release(host)
        while True:
            while self._lanes:
                found = self._ask(next(iter(self._lanes)))
                if found is not None:
                    return found
            if self._next_fresh >= len(self._fresh):
                return None
            self._put(self._fresh[self._next_fresh])
            self._next_fresh += 1

    def _ask(self, host: str) -> tuple[int, ImageError | None] | None:
        lane = self._lanes.pop(host)
        turn = self._hosts.ask(host, self._wake)
        match turn:
            case Busy():
                self._asleep[host] = lane
                return None
            case Wait(until):
                self._asleep[host] = lane
                heapq.heappush(self._alarms, (until, host))
                return None
        return self._first(host, lane), turn.error if isinstance(turn, Down) else None

    def _first(self, host: str, lane: deque[int]) -> int:
        index = lane.popleft()
        if lane:
            self._lanes[host] = lane  # behind the others
        return index

    def _put(self, index: int) -> None:
        host = host_of(self._urls[index])
        lane = self._asleep.get(host)
        if lane is None:
            lane = self._lanes.setdefault(host, deque())
        lane.append(index)

    def _let_time_pass(self) -> None:
        now = time.monotonic()
        while self._alarms and self._alarms[0][0] <= now:
            self.awake(heapq.heappop(self._alarms)[1])
        while self._due and self._due[0][0] <= now:
            self._put(heapq.heappop(self._due)[1])
