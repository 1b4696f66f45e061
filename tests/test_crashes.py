"""Tests of kill -9 in mid-job: no accepted image is lost, and every duplicate is marked."""

from __future__ import annotations

from pathlib import Path

from tests.crashes import killed_again_and_again


def test_kills_lose_no_image_and_mark_every_duplicate(tmp_path: Path) -> None:
    counts = killed_again_and_again(tmp_path, kills=4, size=20, seed=1)
    assert counts.kills >= 4
    assert counts.images == counts.jobs * 20 > 0
    assert (counts.lost, counts.wrong, counts.unmarked, counts.left) == (0, 0, 0, 0), counts
