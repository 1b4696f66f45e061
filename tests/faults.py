"""Faults of a cluster: a job over two API processes and three workers, and one fault in it.

After each, everything must be as if nothing had happened, but for images that are on Imgur twice
and marked as maybe duplicates.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

from tests.cluster import Cluster, running_cluster
from tests.disks import full
from tests.network import NetworkRelay
from tests.pictures import running_pictures
from tests.relay import Relay
from tests.service import ServiceProcess
from tests.trial import LONGEST_SECONDS, Counts, Places, Trial
from tests.waiting import wait_until

IMAGES = 2_000
DEAD_SECONDS = 8.0
_DELAY = 0.15
_POISONED = (sys.executable, "-m", "tests.poisoned")
_POISON_SECONDS = 600.0
_FULL_SECONDS = 10.0

Fault = Callable[[Cluster, Trial], AbstractContextManager[Places]]
"""Breaks something; gives the slices that are concerned. Mends it at the end of its block."""


def _open_places(cluster: Cluster) -> Places:
    rows = cluster.query("SELECT job, first FROM slice WHERE open AND first >= 0")
    return {(number, first) for number, first in rows}


def _busiest(cluster: Cluster) -> ServiceProcess:
    return max(cluster.workers, key=lambda worker: len(cluster.places_of(worker)))


@contextlib.contextmanager
def kill_worker_and_api(cluster: Cluster, _trial: Trial) -> Iterator[Places]:
    """kill -9 of a worker, and of the API process that took the POST."""
    worker = _busiest(cluster)
    places = cluster.places_of(worker)
    cluster.kill(worker, cluster.apis[0])
    yield places


@contextlib.contextmanager
def kill_worker(cluster: Cluster, _trial: Trial) -> Iterator[Places]:
    """kill -9 of a worker."""
    worker = _busiest(cluster)
    places = cluster.places_of(worker)
    cluster.kill(worker)
    yield places


@contextlib.contextmanager
def kill_all_workers(cluster: Cluster, _trial: Trial) -> Iterator[Places]:
    """kill -9 of all workers; others are started at once."""
    places = _open_places(cluster)
    count = len(cluster.workers)
    cluster.kill(*cluster.workers)
    cluster.start_all(["worker"] * count)
    yield places


def postgres_away(seconds: float) -> Fault:
    """PostgreSQL crashes, and is back after some seconds."""

    @contextlib.contextmanager
    def fault(cluster: Cluster, _trial: Trial) -> Iterator[Places]:
        places = _open_places(cluster)
        cluster.server.stop("immediate")
        time.sleep(seconds)
        cluster.server.start()
        yield places

    return fault


@contextlib.contextmanager
def kill_backend(cluster: Cluster, _trial: Trial) -> Iterator[Places]:
    """kill -9 of one process of PostgreSQL, which then restarts all connections."""
    places = _open_places(cluster)
    ((pid,), *_) = cluster.query(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'imageload' ORDER BY random()"
    )
    os.kill(pid, signal.SIGKILL)
    yield places


@contextlib.contextmanager
def stop_worker(cluster: Cluster, _trial: Trial) -> Iterator[Places]:
    """SIGSTOP of a worker until others have its slices, then SIGCONT."""
    worker = _busiest(cluster)
    places = cluster.places_of(worker)
    worker.process.send_signal(signal.SIGSTOP)
    try:
        yield places
    finally:
        worker.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def terminate_worker(cluster: Cluster, _trial: Trial) -> Iterator[Places]:
    """SIGTERM of a worker: it gives its slices back."""
    worker = _busiest(cluster)
    places = cluster.places_of(worker)
    worker.process.terminate()
    yield places
    assert worker.process.wait(LONGEST_SECONDS) == 0, "".join(worker.log[-20:])
    cluster.remove(worker)


@contextlib.contextmanager
def cut_off_worker(cluster: Cluster, _trial: Trial) -> Iterator[Places]:
    """Nothing passes between a worker and PostgreSQL until others have its slices."""
    relay, places = cluster.relay, cluster.places_of(cluster.workers[0])
    assert relay is not None
    relay.cut()
    try:
        yield places
    finally:
        relay.join()


@contextlib.contextmanager
def fill_disk(cluster: Cluster, _trial: Trial) -> Iterator[Places]:
    """The disk of PostgreSQL's tables is full for some seconds."""
    places = _open_places(cluster)
    with full(cluster.table_disk()):
        time.sleep(_FULL_SECONDS)
    logs = [line for worker in cluster.workers for line in worker.log]
    assert any("No space left" in line for line in logs), "the disk was not full for any worker"
    yield places


@contextlib.contextmanager
def kill_first_worker(cluster: Cluster, _trial: Trial) -> Iterator[Places]:
    """kill -9 of the worker that was prepared."""
    worker = cluster.workers[0]
    places = cluster.places_of(worker)
    cluster.kill(worker)
    yield places


@contextlib.contextmanager
def poison(cluster: Cluster, trial: Trial) -> Iterator[Places]:
    """An image kills every worker that loads it; workers are started again until the job ends."""
    places = _open_places(cluster)
    deadline = time.monotonic() + _POISON_SECONDS
    while not trial.is_over() and time.monotonic() < deadline:
        for _ in range(_remove_dead(cluster)):
            cluster.start("worker", command=_POISONED)
        time.sleep(0.1)  # polls
    _remove_dead(cluster)
    yield places


def _remove_dead(cluster: Cluster) -> int:
    dead = [worker for worker in cluster.workers if worker.process.poll() is not None]
    cluster.remove(*dead)
    return len(dead)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of the table. `prepare` starts the workers that `fault` needs, if they are special."""

    name: str
    fault: Fault
    prepare: Callable[[Cluster], object] = lambda _: None
    has_poison: bool = False


def _start_behind(relay: Callable[[str], Relay]) -> Callable[[Cluster], object]:
    return lambda cluster: cluster.start_behind(relay)


def _start_with_other_clocks(cluster: Cluster) -> None:
    """Start workers whose clocks are an hour behind and an hour ahead."""
    library = cluster.folder / "other_clock.so"
    if not library.exists():
        source = str(Path(__file__).with_name("other_clock.c"))
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), source], check=True)
    for seconds in (-3_600, 3_600):
        clock = {"LD_PRELOAD": str(library), "CLOCK_AHEAD_SECONDS": str(seconds)}
        cluster.start("worker", environment=clock)


def _start_poisoned(cluster: Cluster) -> None:
    for _ in range(3):
        cluster.start("worker", command=_POISONED)


def entries(old: Path | None) -> list[Entry]:
    """All faults; with `old`, a checkout of another version, also one of two versions.

    Two need root, to make a network and to mount a disk; that of clocks needs a C compiler.
    """
    found = [
        Entry(name="worker and API killed", fault=kill_worker_and_api),
        Entry(name="all workers killed", fault=kill_all_workers),
        Entry(name="PostgreSQL away 3 s", fault=postgres_away(3)),
        Entry(name="PostgreSQL away 15 s", fault=postgres_away(15)),
        Entry(name="PostgreSQL away 60 s", fault=postgres_away(60)),
        Entry(name="backend killed", fault=kill_backend),
        Entry(name="worker stopped, woken", fault=stop_worker),
        Entry(
            name="worker's connections silent", fault=cut_off_worker, prepare=_start_behind(Relay)
        ),
        Entry(name="SIGTERM of a worker", fault=terminate_worker),
    ]
    if os.geteuid() == 0:
        apart = _start_behind(NetworkRelay)
        found.append(Entry(name="worker's network down", fault=cut_off_worker, prepare=apart))
        found.append(Entry(name="full disk", fault=fill_disk, prepare=Cluster.table_disk))
    if shutil.which("cc"):
        clocks = _start_with_other_clocks
        found.append(Entry(name="clocks an hour apart", fault=kill_first_worker, prepare=clocks))
    found.append(Entry(name="poison", fault=poison, prepare=_start_poisoned, has_poison=True))
    if old is not None:
        found.append(
            Entry(
                name="two versions",
                fault=kill_first_worker,
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

    def add(self, counts: Counts, seconds: float) -> None:
        """Another trial, which went on after some seconds."""
        self.runs += 1
        self.seconds.append(seconds)
        self.counts += counts

    def __str__(self) -> str:
        counts = " | ".join(str(getattr(self.counts, each.name)) for each in fields(Counts))
        median, most = statistics.median(self.seconds or [0]), max(self.seconds or [0])
        return f"| {self.name} | {self.runs} | {counts} | {median:.1f} | {most:.1f} |"


def play(entry: Entry, runs: int, *, images: int = IMAGES) -> Row:
    """Try one fault `runs` times on one cluster."""
    row = Row(entry.name)
    # So few slices at once that no worker takes all of a job's.
    options = (f"--dead-seconds={DEAD_SECONDS:g}", "--max-active-jobs=4")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_pictures(_DELAY) as pictures,
        running_cluster(Path(folder), *options, apis=2, workers=0) as cluster,
    ):
        for run in range(runs):
            _complete(cluster, entry)
            numbers = range(run * images, (run + 1) * images)
            at = images // 2 if entry.has_poison else None
            trial = Trial(cluster, pictures, numbers, poison=at)
            wait_until(partial(trial.has_ended, images // 3))
            row.add(*_break(cluster, trial, entry.fault))
        cluster.stop()
    return row


def _complete(cluster: Cluster, entry: Entry) -> None:
    """Start the nodes that are missing; what the last fault did to a worker is undone."""
    cluster.kill(*cluster.workers)
    entry.prepare(cluster)
    roles = ["worker"] * (3 - len(cluster.workers)) + ["api"] * (2 - len(cluster.apis))
    cluster.start_all(roles)


def _break(cluster: Cluster, trial: Trial, fault: Fault) -> tuple[Counts, float]:
    begun = time.monotonic()
    with fault(cluster, trial) as places:
        assert places, "the fault concerns no slice"
        before = trial.ended(places)
        wait_until(lambda: trial.goes_on(places, before), LONGEST_SECONDS)
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
