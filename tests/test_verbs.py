"""Random requests for random jobs: no image is lost or duplicated unmarked, no response is 5xx."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.verbs import Outcome, walk_with_kills, walk_with_retirement

SECONDS = 0.7


def check(outcome: Outcome) -> None:
    """Check that the audit found nothing and that every kind of request was sent."""
    told = "\n".join(each[:500] for each in outcome.wrong[:20])
    assert not outcome.wrong, f"{len(outcome.wrong)} inconsistencies:\n{told}"
    assert outcome.counts["completed"] > 0
    assert {verb for verb, _ in outcome.answers} >= {"post", "retry", "cancel", "purge"}


@pytest.mark.parametrize("journal", [False, True], ids=["in memory", "journal"])
def test_random_requests_from_eight_threads_leave_everything_accounted_for(
    tmp_path: Path, *, journal: bool
) -> None:
    outcome = walk_with_retirement(tmp_path, SECONDS, seed=1, journal=journal)
    check(outcome)
    assert outcome.counts["retired jobs"] > 0


def test_random_requests_with_kills_leave_everything_accounted_for(tmp_path: Path) -> None:
    outcome = walk_with_kills(tmp_path, SECONDS, seed=1)
    check(outcome)
    assert outcome.counts["kills"] > 0
