"""Polling for conditions that send no event, and the patience of all waits."""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds that are only ever waited out where something is broken: many, as a busy machine is
# slow. It says nothing of how long something takes; a test of that needs a bound of its own.
PATIENCE = 60.0


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Return when `condition` is true; raise AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true within {seconds} seconds"
        time.sleep(0.005)
