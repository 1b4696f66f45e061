"""Tests of client ids that many workers share: leases, budgets, and slices that wait for Imgur."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.testing import running_sandbox
from tests.jobs import all_landed, urls
from tests.origin import Origin
from tests.postgres import fresh_database, programs
from tests.service import running_service, wired

pytestmark = pytest.mark.skipif(programs() is None, reason="needs PostgreSQL")

SHORT = {"dead_seconds": 2.0, "lease_seconds": 3.0, "park_seconds": 1.0}


@pytest.fixture
def database() -> str:
    """The URL of an empty database."""
    return fresh_database()


def test_a_node_alone_uploads(tmp_path: Path, origin: Origin, database: str) -> None:
    with (
        running_sandbox(tmp_path / "sandbox") as sandbox,
        running_service(tmp_path / "temp", **wired(sandbox, store=database, **SHORT)) as service,
    ):
        assert all_landed(service, [service.submit(urls(origin, 5), dedupe=False)])
