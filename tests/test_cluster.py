"""Tests of a cluster of processes. `python -m tests.soak --cluster` is the long form."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path

from imageload.cluster.lease import LeaseRules
from imageload.cluster.mirror import Mirror, MirrorRules
from imageload.cluster.node import Node
from imageload.image import Failed
from imageload.job import Change, Job, Mirrored
from imageload.targets import Terms
from tests.cluster import running_cluster
from tests.components import missing
from tests.faults import kill_worker
from tests.journals import FAILURE, flush, job_of, record
from tests.pictures import running_pictures
from tests.postgres import fresh_database
from tests.postgres_server import programs
from tests.trial import Trial
from tests.waiting import wait_until

IMAGES = 300
_FAILED = 60


def test_the_images_of_a_killed_worker_are_loaded_by_another(tmp_path: Path) -> None:
    if programs() is None:
        missing("PostgreSQL", "postgresql")
    options = ("--dead-seconds=2", "--downloads=8", "--uploads=8")
    with (
        running_pictures(delay=0.05) as pictures,
        running_cluster(tmp_path, *options, apis=1, workers=2) as cluster,
    ):
        trial = Trial(cluster, pictures, range(IMAGES))
        wait_until(lambda: trial.has_ended(IMAGES // 3))
        with kill_worker(cluster, trial) as places:
            before = trial.ended(places)
            wait_until(lambda: trial.goes_on(places, before))
        counts = trial.finish()
        assert counts.is_right(), counts
        cluster.stop()


def test_each_change_of_another_node_is_observed_once() -> None:
    url = fresh_database()
    writing, reading = Node(url, rules=None).store, Node(url, rules=None)
    job, seen = job_of(_FAILED), Counter[int]()
    writing.accept([job])

    def observe(_: Job, change: Change) -> None:
        assert isinstance(change, Mirrored)
        seen.update(list(change.images))

    async def look(mirror: Mirror, delays: int) -> None:
        while seen.total() < _FAILED:
            await mirror.find(job.job_id)
            for _ in range(delays):
                await asyncio.sleep(0)

    async def look_from_many_requests() -> None:
        rules = MirrorRules(
            most_bytes=2**20,
            dead_seconds=60.0,
            leases=LeaseRules(target="", clients=[""], egress=""),
            terms=Terms(),
            has_budgets=True,
            own_closed=lambda _: None,
        )
        mirror = reading.mirror([observe], None, rules)
        await mirror.find(job.job_id)
        failing = threading.Thread(target=fail_all)
        failing.start()
        await asyncio.gather(*(look(mirror, delays) for delays in range(6)))
        failing.join()

    def fail_all() -> None:
        for index in range(_FAILED):
            record(writing, job, Failed(index, FAILURE))
            flush(writing)

    asyncio.run(look_from_many_requests())
    assert len(seen) == seen.total() == _FAILED
    assert writing.close()
    assert reading.store.close()
