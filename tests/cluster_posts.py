"""POSTs of large jobs to an API process that is killed meanwhile: each is whole or nothing."""

from __future__ import annotations

import random
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import requests

from tests.cluster import Cluster, running_cluster

URLS = 100_000


def measure(kills: int, seed: int, show: Callable[[str], object] = print) -> bool:
    """Kill an API process in so many POSTs, and count; True if no job was torn."""
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_cluster(Path(folder), apis=2, workers=0) as cluster,
    ):
        begun = time.monotonic()
        cluster.apis[0].submit(_urls("none"))
        seconds = time.monotonic() - begun
        for _ in range(kills):
            counts[_post(cluster, chance.uniform(0, 1.2 * seconds))] += 1
            cluster.start("api")
        cluster.stop()
    show(f"{seconds:.2f} s for a POST of {URLS:,} URLs without a kill")
    for outcome, count in sorted(counts.items()):
        show(f"{outcome:40} {count:>5}")
    return not any("torn" in outcome and count for outcome, count in counts.items())


def _post(cluster: Cluster, seconds: float) -> str:
    """POST a job, and kill the first API process after some seconds; the outcome in a word.

    The same POST is then sent to the other API process, with the same Idempotency-Key.
    """
    key, before = str(uuid.uuid4()), _jobs(cluster)
    urls = _urls(key)
    first, other = cluster.apis
    killer = threading.Timer(seconds, first.process.kill)
    killer.start()
    try:
        answer = first.post(json=urls, headers={"Idempotency-Key": key})
        is_answered = answer.status_code == 202
    except requests.RequestException:
        is_answered = False
    killer.cancel()
    cluster.kill(first)
    made = _jobs(cluster) - before
    answer = other.post(json=urls, headers={"Idempotency-Key": key})
    assert answer.status_code == 202, answer.text
    after = _jobs(cluster) - before
    is_whole = all(_is_whole(cluster, number) for number in after)
    if not is_whole or len(made) > 1 or len(after) != 1 or is_answered > len(made):
        return f"torn: {len(made)} jobs, {len(after)} after the second POST"
    if not made:
        return "no job, and one after the second POST"
    return "a job, answered 202" if is_answered else "a job, not answered, found by its key"


def _urls(name: str) -> list[str]:
    return [f"https://origin.example/{name}/{number}.png" for number in range(URLS)]


def _jobs(cluster: Cluster) -> set[int]:
    return {number for (number,) in cluster.query("SELECT number FROM job")}


def _is_whole(cluster: Cluster, number: int) -> bool:
    ((total, images, slices),) = cluster.query(_TOTALS, number)
    ((messages,),) = cluster.query(_MESSAGES, str(number))
    return (total, images, messages) == (URLS, URLS, slices)


_TOTALS = """
    SELECT total, sum(count), count(*) FROM job JOIN slice ON job = number AND first >= 0
    WHERE number = %s GROUP BY total"""
_MESSAGES = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo' AND args->>'number' = %s"
