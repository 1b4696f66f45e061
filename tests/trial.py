"""A job on a cluster, followed to its end and compared with the sandbox's store."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from dataclasses import astuple, dataclass
from typing import Any

import requests

from tests.cluster import Cluster, Stored
from tests.events import Subscriber
from tests.pictures import Pictures, sha256_of
from tests.poisoned import POISON

LONGEST_SECONDS = 240.0
"""How long a job may take with a fault in it."""
_RECONNECT_EVERY = 150

Places = set[tuple[int, int]]
"""Slices: each the number of its job, and its first image."""


@dataclass(slots=True)
class Counts:
    """What went wrong with a job. All but `marked` and `twice` must be 0."""

    lost: int = 0
    """Images that are not completed, or poison that did not fail as such."""
    wrong: int = 0
    """Links to other bytes."""
    unmarked: int = 0
    """Images that are on Imgur twice without a mark."""
    marked: int = 0
    """Images marked as maybe duplicates."""
    twice: int = 0
    """Images that are on Imgur twice."""
    unseen: int = 0
    """Images whose end was no event."""
    repeated: int = 0
    """Events of an image beyond the first."""
    left: int = 0
    """Temp files of nodes with nothing to do."""

    def __add__(self, other: Counts) -> Counts:
        """The counts of both."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Counts(*(mine + others for mine, others in pairs))

    def is_right(self) -> bool:
        """Nothing went wrong."""
        return not any(getattr(self, name) for name in MUST_BE_ZERO)


MUST_BE_ZERO = ("lost", "wrong", "unmarked", "unseen", "repeated", "left")


class Follower:
    """Reads a job's events in a thread; reconnects amid the stream, and when it breaks.

    Events after the last id are sent again after a reconnect, so until then they do not count.
    """

    def __init__(self, url: str, job_id: str) -> None:
        self.seen: Counter[int] = Counter()
        self._since_id: list[int] = []
        self._url = f"{url}/v1/images/upload/{job_id}/events"
        self._last_id: str | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Wait for the stream's end; True if it came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._has_ended():
            time.sleep(0.1)

    def _has_ended(self) -> bool:
        with contextlib.suppress(OSError), Subscriber(self._url, self._last_id) as stream:
            if stream.answer.status != 200:
                return stream.answer.status == 204
            self._since_id.clear()
            for count, event in enumerate(stream.events()):
                if event.name == "image":
                    self._since_id.append(event.data["number"])
                if stream.last_id != self._last_id:
                    self._last_id = stream.last_id
                    self.seen.update(self._since_id)
                    self._since_id.clear()
                if event.name == "complete":
                    return True
                if event.name == "image" and count >= _RECONNECT_EVERY:
                    return False
        return False


class Trial:
    """A job on a cluster, from its POST to its check. The image at `poison` kills workers."""

    def __init__(
        self,
        cluster: Cluster,
        pictures: Pictures,
        numbers: range,
        *,
        poison: int | None = None,
        is_followed: bool = True,
    ) -> None:
        self._cluster, self._numbers = cluster, numbers
        self._urls = pictures.urls(numbers)
        if poison is not None:
            self._urls[poison] += POISON
        # The first API process may be killed; the last one survives.
        self._survivor = cluster.apis[-1]
        self.job_id = cluster.apis[0].submit(self._urls)
        self._follower = Follower(self._survivor.url, self.job_id) if is_followed else None

    def has_ended(self, count: int) -> bool:
        """So many images have ended."""
        return sum(ended for _, ended, _ in self._slices()) >= count

    def ended(self, places: Places) -> int:
        """How many images have ended in these slices."""
        return sum(ended for place, ended, _ in self._slices() if place in places)

    def is_over(self) -> bool:
        """No slice is open."""
        return not any(is_open for _, _, is_open in self._slices())

    def goes_on(self, places: Places, before: int) -> bool:
        """More images than `before` have ended in these slices, or all have."""
        found = [(count, is_open) for place, count, is_open in self._slices() if place in places]
        is_over = not any(is_open for _, is_open in found)
        return is_over or sum(count for count, _ in found) > before

    def _slices(self) -> list[tuple[tuple[int, int], int, bool]]:
        rows = self._cluster.query(_SLICES, self.job_id)
        return [((number, first), count, is_open) for number, first, count, is_open in rows]

    def finish(self, seconds: float = LONGEST_SECONDS) -> Counts:
        """Wait for the job's end, and count."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(requests.RequestException, AssertionError):
                if self._survivor.status(self.job_id)["finished"]:
                    break
            time.sleep(0.05)  # polls
        counts = self.count(self._cluster.stored())
        if self._follower is not None:
            self._follower.join(10.0)
            seen = self._follower.seen
            counts.unseen = len(self._numbers) - len(seen)
            counts.repeated = seen.total() - len(seen)
        counts.left = len(self._cluster.temp_files())
        return counts

    def count(self, stored: Stored) -> Counts:
        """What went wrong with the images, of which the sandbox has `stored`."""
        counts, records = Counts(), self._cluster.apis[-1].records(self.job_id)
        for number, url in zip(self._numbers, self._urls, strict=True):
            _count_image(counts, records[url], sha256_of(number), stored)
        return counts


def _count_image(counts: Counts, record: dict[str, Any], sha256: str, stored: Stored) -> None:
    if record["url"].endswith(POISON):
        counts.lost += record["error"] is None or record["error"]["code"] != "poison"
        return
    counts.lost += record["state"] != "completed"
    counts.marked += record["maybe_duplicate"]
    if record["link"] is not None:
        image_id = record["link"].rpartition("/")[2].partition(".")[0]
        counts.wrong += stored.sha256s.get(image_id) != sha256
    counts.twice += stored.times[sha256] > 1
    counts.unmarked += stored.times[sha256] > 1 and not record["maybe_duplicate"]


_SLICES = """
    SELECT slice.job, first, completed + failed, open FROM slice JOIN job ON number = slice.job
    WHERE job.id = %s AND first >= 0"""
