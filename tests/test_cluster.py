"""Tests of a cluster of processes. `python -m tests.soak --cluster` is the long form."""

from __future__ import annotations

from pathlib import Path

from tests import faults
from tests.cluster import running_cluster
from tests.components import missing
from tests.pictures import running_pictures
from tests.postgres import programs
from tests.waiting import wait_until

IMAGES = 300


def test_the_images_of_a_killed_worker_are_loaded_by_another(tmp_path: Path) -> None:
    if programs() is None:
        missing("PostgreSQL", "postgresql")
    options = ("--dead-seconds=2", "--downloads=8", "--uploads=8")
    with (
        running_pictures(delay=0.05) as pictures,
        running_cluster(tmp_path, *options, apis=1, workers=2) as cluster,
    ):
        trial = faults.Trial(cluster, pictures, range(IMAGES))
        wait_until(lambda: trial.has_ended(IMAGES // 3))
        with faults.kill_worker(cluster) as places:
            before = trial.ended(places)
            wait_until(lambda: trial.goes_on(places, before))
        counts = trial.finish()
        assert counts.is_right(), counts
        cluster.stop()
