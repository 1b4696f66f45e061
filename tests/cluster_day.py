"""A day's work of a cluster in some minutes: many jobs, nodes killed at random, and its size."""

from __future__ import annotations

import contextlib
import itertools
import random
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import Cluster, running_cluster
from tests.pictures import Pictures, running_pictures
from tests.service import ServiceProcess
from tests.trial import LONGEST_SECONDS, Counts, Trial
from tests.waiting import wait_until

IMAGES = 200_000
_JOB = 2_000
_AT_ONCE = 4
_KILL_SECONDS = (10.0, 40.0)
_SAMPLE_SECONDS = 10.0
_MB = 2**20


@dataclass(slots=True)
class Day:
    """What there was. `samples` are rows of the table."""

    samples: list[tuple[float, ...]] = field(default_factory=list)
    posted: int = 0
    kills: int = 0
    counts: Counts = field(default_factory=Counts)


def measure(seconds: float, images: int, seed: int, show: Callable[[str], object] = print) -> bool:
    """Load so many images, or as many as fit into some seconds; print a table; True if right."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_pictures() as pictures,
        running_cluster(Path(folder), "--dead-seconds=8") as cluster,
    ):
        day = _run(cluster, pictures, images, seconds, random.Random(seed))
        cluster.stop()
    show(" | ".join(["| s", "images", "API MB", "worker MB", *_MEASURES]) + " |")
    show("|" + " ---: |" * (4 + len(_MEASURES)))
    for sample in day.samples:
        show("| " + " | ".join(f"{value:,.0f}" for value in sample) + " |")
    rate = statistics.median(_rates(day.samples) or [0])
    show(
        f"{day.posted:,} images, {day.kills} kills, {rate:.0f} images/s in the median; {day.counts}"
    )
    return day.counts.is_right()


def _run(
    cluster: Cluster, pictures: Pictures, images: int, seconds: float, chance: random.Random
) -> Day:
    day, trials, open_trials = Day(), list[Trial](), deque[Trial]()
    begun = time.monotonic()
    next_kill, next_sample = begun + chance.uniform(*_KILL_SECONDS), begun
    while time.monotonic() < begun + seconds:
        now = time.monotonic()
        open_trials = deque(trial for trial in open_trials if not trial.is_over())
        if day.posted < images and len(open_trials) < _AT_ONCE:
            numbers = range(day.posted, min(images, day.posted + _JOB))
            trials.append(Trial(cluster, pictures, numbers, is_followed=False))
            open_trials.append(trials[-1])
            day.posted += len(numbers)
        elif not open_trials:
            break
        if now >= next_kill:
            _kill_one(cluster, chance)
            day.kills += 1
            next_kill = now + chance.uniform(*_KILL_SECONDS)
        if now >= next_sample:
            day.samples.append((now - begun, *_sample(cluster)))
            next_sample += _SAMPLE_SECONDS
        time.sleep(0.1)  # polls
    for trial in open_trials:
        wait_until(trial.is_over, LONGEST_SECONDS)
    day.samples.append((time.monotonic() - begun, *_sample(cluster)))
    stored = cluster.stored()
    for trial in trials:
        day.counts += trial.count(stored)
    return day


def _kill_one(cluster: Cluster, chance: random.Random) -> None:
    role = chance.choice(["api", "worker", "worker", "worker"])
    cluster.kill(chance.choice(cluster.apis if role == "api" else cluster.workers))
    cluster.start(role)


def _sample(cluster: Cluster) -> tuple[float, ...]:
    ((images, *measures),) = cluster.query(_MEASURE)
    api, worker = (
        max(map(_resident_bytes, nodes)) / _MB for nodes in (cluster.apis, cluster.workers)
    )
    return (float(images), api, worker, *map(float, measures))


def _resident_bytes(node: ServiceProcess) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{node.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def _rates(samples: list[tuple[float, ...]]) -> list[float]:
    pairs = itertools.pairwise(samples)
    return [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs]


_MEASURES = ("connections", "dead rows", "live rows", "WAL MB written", "WAL MB on disk", "DB MB")
_MEASURE = """
    SELECT (SELECT coalesce(sum(completed + failed), 0) FROM slice),
        (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
        (SELECT sum(n_dead_tup) FROM pg_stat_user_tables),
        (SELECT sum(n_live_tup) FROM pg_stat_user_tables),
        pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') / 1048576,
        (SELECT sum(size) FROM pg_ls_waldir()) / 1048576,
        pg_database_size(current_database()) / 1048576"""
