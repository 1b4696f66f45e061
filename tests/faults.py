"""Faults of a cluster: a job over two API processes and three workers, and one fault in it.

After each, everything must be as if nothing had happened, but for images that are on Imgur twice
and marked as maybe duplicates.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import requests

from tests.cluster import Cluster, running_cluster
from tests.events import Subscriber
from tests.pictures import Pictures, running_pictures, sha256_of
from tests.service import ServiceProcess
from tests.waiting import wait_until

IMAGES = 2_000
DEAD_SECONDS = 8.0
_DELAY = 0.15
_LONGEST_SECONDS = 240.0
_RECONNECT_EVERY = 150
_HOUR = 3_600

Places = set[tuple[int, int]]
Fault = Callable[[Cluster], AbstractContextManager[Places]]
"""Breaks something; gives the slices that are concerned. Mends it at the end of its block."""


@dataclass(slots=True)
class Counts:
    """What went wrong with a job. All but `marked` and `twice` must be 0."""

    lost: int = 0
    """Images that are not completed."""
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
    """A job on a cluster, from its POST to its check."""

    def __init__(self, cluster: Cluster, pictures: Pictures, numbers: range) -> None:
        self._cluster, self._numbers = cluster, numbers
        self._urls = pictures.urls(numbers)
        # The first API process may be killed; the last one survives.
        self._survivor = cluster.apis[-1]
        self.job_id = cluster.apis[0].submit(self._urls)
        self._follower = Follower(self._survivor.url, self.job_id)

    def has_ended(self, count: int) -> bool:
        """So many images have ended."""
        return sum(ended for _, ended, _ in self._slices()) >= count

    def ended(self, places: Places) -> int:
        """How many images have ended in these slices."""
        return sum(ended for place, ended, _ in self._slices() if place in places)

    def goes_on(self, places: Places, before: int) -> bool:
        """More images than `before` have ended in these slices, or all have."""
        try:
            found = [
                (count, is_open) for place, count, is_open in self._slices() if place in places
            ]
        except psycopg.Error:
            return False
        is_over = not any(is_open for _, is_open in found)
        return is_over or sum(count for count, _ in found) > before

    def _slices(self) -> list[tuple[tuple[int, int], int, bool]]:
        rows = self._cluster.query(_SLICES, self.job_id)
        return [((number, first), count, is_open) for number, first, count, is_open in rows]

    def finish(self, seconds: float = _LONGEST_SECONDS) -> Counts:
        """Wait for the job's end, and count."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(requests.RequestException, AssertionError):
                if self._survivor.status(self.job_id)["finished"]:
                    break
            time.sleep(0.05)  # polls
        self._follower.join(10.0)
        counts = Counts()
        records = self._survivor.records(self.job_id)
        images = self._cluster.images()
        stored = Counter(image["sha256"] for image in images)
        by_id = {image["id"]: image["sha256"] for image in images}
        for number, url in zip(self._numbers, self._urls, strict=True):
            _count_image(counts, records[url], sha256_of(number), stored, by_id)
        seen = self._follower.seen
        counts.unseen = len(self._numbers) - len(seen)
        counts.repeated = seen.total() - len(seen)
        counts.left = len(self._cluster.temp_files())
        return counts


def _count_image(
    counts: Counts,
    record: dict[str, Any],
    sha256: str,
    stored: Counter[str],
    by_id: dict[str, str],
) -> None:
    counts.lost += record["state"] != "completed"
    counts.marked += record["maybe_duplicate"]
    if record["link"] is not None:
        image_id = record["link"].rpartition("/")[2].partition(".")[0]
        counts.wrong += by_id.get(image_id) != sha256
    counts.twice += stored[sha256] > 1
    counts.unmarked += stored[sha256] > 1 and not record["maybe_duplicate"]


_SLICES = """
    SELECT slice.job, first, completed + failed, open FROM slice JOIN job ON number = slice.job
    WHERE job.id = %s AND first >= 0"""


# The faults


def _open_places(cluster: Cluster) -> Places:
    rows = cluster.query("SELECT job, first FROM slice WHERE open AND first >= 0")
    return {(number, first) for number, first in rows}


def _busiest(cluster: Cluster) -> ServiceProcess:
    return max(cluster.workers, key=lambda worker: len(cluster.places_of(worker)))


@contextlib.contextmanager
def kill_worker_and_api(cluster: Cluster) -> Iterator[Places]:
    """kill -9 of a worker, and of the API process that took the POST."""
    worker = _busiest(cluster)
    places = cluster.places_of(worker)
    cluster.kill(worker, cluster.apis[0])
    yield places


@contextlib.contextmanager
def kill_worker(cluster: Cluster) -> Iterator[Places]:
    """kill -9 of a worker."""
    worker = _busiest(cluster)
    places = cluster.places_of(worker)
    cluster.kill(worker)
    yield places


@contextlib.contextmanager
def kill_all_workers(cluster: Cluster) -> Iterator[Places]:
    """kill -9 of all workers; others are started at once."""
    places = _open_places(cluster)
    count = len(cluster.workers)
    cluster.kill(*cluster.workers)
    cluster.start_all(["worker"] * count)
    yield places


def postgres_away(seconds: float) -> Fault:
    """PostgreSQL crashes, and is back after some seconds."""

    @contextlib.contextmanager
    def fault(cluster: Cluster) -> Iterator[Places]:
        places = _open_places(cluster)
        cluster.server.stop("immediate")
        time.sleep(seconds)
        cluster.server.start()
        yield places

    return fault


@contextlib.contextmanager
def kill_backend(cluster: Cluster) -> Iterator[Places]:
    """kill -9 of one process of PostgreSQL, which then restarts all connections."""
    places = _open_places(cluster)
    ((pid,), *_) = cluster.query(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'imageload' ORDER BY random()"
    )
    os.kill(pid, signal.SIGKILL)
    yield places


@contextlib.contextmanager
def stop_worker(cluster: Cluster) -> Iterator[Places]:
    """SIGSTOP of a worker until others have its slices, then SIGCONT."""
    worker = _busiest(cluster)
    places = cluster.places_of(worker)
    worker.process.send_signal(signal.SIGSTOP)
    try:
        yield places
    finally:
        worker.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def terminate_worker(cluster: Cluster) -> Iterator[Places]:
    """SIGTERM of a worker: it gives its slices back."""
    worker = _busiest(cluster)
    places = cluster.places_of(worker)
    worker.process.terminate()
    yield places
    assert worker.process.wait(_LONGEST_SECONDS) == 0, "".join(worker.log[-20:])
    cluster.remove(worker)


@contextlib.contextmanager
def cut_off_worker(cluster: Cluster) -> Iterator[Places]:
    """Nothing passes between a worker and PostgreSQL until others have its slices."""
    relay, worker = cluster.relays[-1], cluster.workers[0]
    places = cluster.places_of(worker)
    passes = threading.Event()
    relay.watch = lambda *_: passes.wait()
    try:
        yield places
    finally:
        relay.watch = None
        passes.set()


@contextlib.contextmanager
def kill_one_of_other_clock(cluster: Cluster) -> Iterator[Places]:
    """kill -9 of the worker whose clock is an hour ahead; another's is an hour behind."""
    worker = cluster.workers[0]
    places = cluster.places_of(worker)
    cluster.kill(worker)
    yield places


@contextlib.contextmanager
def kill_old_worker(cluster: Cluster) -> Iterator[Places]:
    """kill -9 of the worker that runs the older version; the others run this one."""
    worker = cluster.workers[0]
    places = cluster.places_of(worker)
    cluster.kill(worker)
    yield places


def _clock(seconds: int) -> dict[str, str]:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "libfaketime is not installed: apt-get install faketime"
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME": f"{seconds:+d}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of the table. `prepare` starts the workers that `fault` needs, if they are special."""

    name: str
    fault: Fault
    prepare: Callable[[Cluster], object] = lambda _: None


def _start_behind_relay(cluster: Cluster) -> None:
    relay = cluster.new_relay()
    url = cluster.server.url.replace(f":{cluster.server.port}/", f":{relay.port}/")
    cluster.start("worker", f"--store={url}")


def _start_with_other_clocks(cluster: Cluster) -> None:
    for seconds in (_HOUR, -_HOUR):
        cluster.start("worker", environment=_clock(seconds))


def entries(old: Path | None) -> list[Entry]:
    """All faults; with `old`, a checkout of another version, also one of two versions."""
    found = [
        Entry(name="worker and API killed", fault=kill_worker_and_api),
        Entry(name="all workers killed", fault=kill_all_workers),
        Entry(name="PostgreSQL away 3 s", fault=postgres_away(3)),
        Entry(name="PostgreSQL away 15 s", fault=postgres_away(15)),
        Entry(name="PostgreSQL away 60 s", fault=postgres_away(60)),
        Entry(name="backend killed", fault=kill_backend),
        Entry(name="worker stopped, woken", fault=stop_worker),
        Entry(name="worker cut off", fault=cut_off_worker, prepare=_start_behind_relay),
        Entry(name="SIGTERM of a worker", fault=terminate_worker),
        Entry(
            name="clocks an hour apart",
            fault=kill_one_of_other_clock,
            prepare=_start_with_other_clocks,
        ),
    ]
    if old is not None:
        found.append(
            Entry(
                name="two versions",
                fault=kill_old_worker,
                prepare=lambda cluster: cluster.start("worker", folder=old),
            )
        )
    return found


@dataclass(slots=True)
class Row:
    """The trials of one fault."""

    name: str
    runs: int = 0
    counts: Counts = field(default_factory=Counts)
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, counts: Counts, seconds: float) -> None:
        """Another trial, which went on after some seconds."""
        self.runs += 1
        self.seconds.append(seconds)
        for each in fields(Counts):
            total = getattr(self.counts, each.name) + getattr(counts, each.name)
            setattr(self.counts, each.name, total)

    def __str__(self) -> str:
        counts = " | ".join(str(getattr(self.counts, each.name)) for each in fields(Counts))
        median, most = statistics.median(self.seconds or [0]), max(self.seconds or [0])
        return f"| {self.name} | {self.runs} | {counts} | {median:.1f} | {most:.1f} |"


def play(entry: Entry, runs: int, *, images: int = IMAGES) -> Row:
    """Try one fault `runs` times on one cluster."""
    row = Row(entry.name)
    options = (f"--dead-seconds={DEAD_SECONDS:g}",)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_pictures(_DELAY) as pictures,
        running_cluster(Path(folder), *options, apis=2, workers=0) as cluster,
    ):
        for run in range(runs):
            _complete(cluster, entry)
            trial = Trial(cluster, pictures, range(run * images, (run + 1) * images))
            wait_until(partial(trial.has_ended, images // 3))
            row.add(*_break(cluster, trial, entry.fault))
        cluster.stop()
    return row


def _complete(cluster: Cluster, entry: Entry) -> None:
    """Start the nodes that are missing; what the last fault did to a worker is undone."""
    ended = [node for node in cluster.workers if node.process.poll() is not None]
    cluster.remove(*ended)
    cluster.kill(*cluster.workers)
    entry.prepare(cluster)
    roles = ["worker"] * (3 - len(cluster.workers)) + ["api"] * (2 - len(cluster.apis))
    cluster.start_all(roles)


def _break(cluster: Cluster, trial: Trial, fault: Fault) -> tuple[Counts, float]:
    begun = time.monotonic()
    with fault(cluster) as places:
        assert places, "the fault concerns no slice"
        before = trial.ended(places)
        wait_until(lambda: trial.goes_on(places, before), _LONGEST_SECONDS)
        seconds = time.monotonic() - begun
    return trial.finish(), seconds


def measure(
    runs: int,
    names: Sequence[str] = (),
    old: Path | None = None,
    show: Callable[[str], object] = print,
) -> bool:
    """Print the table of all faults, or of those with one of `names` in theirs; True if right."""
    heads = " | ".join(each.name for each in fields(Counts))
    show(f"| fault | runs | {heads} | median s | max s |")
    show("| --- |" + " ---: |" * (len(fields(Counts)) + 3))
    is_right = True
    for entry in entries(old):
        if not names or any(name in entry.name for name in names):
            row = play(entry, runs)
            show(str(row))
            is_right = is_right and row.counts.is_right()
    return is_right
