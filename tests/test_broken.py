"""Tests of bugs that end a thread: the service says so and stops with status 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.testing import RunningSandbox
from tests.origin import Origin
from tests.service import ServiceProcess, wired
from tests.waiting import wait_until

_START = """
import sys
import main
from imageload.jobs import Jobs
from imageload.service import Service
from imageload.store.writer import Writer
from imageload.transport.curl import TransferLoop

def bug(*_):
    raise KeyError("a bug")

{bug}
sys.exit(main.main(sys.argv[1:]))
"""

WRITER = """
ended = Writer._write
def write(self):
    if self._new_jobs:
        bug()
    return ended(self)
Writer._write = write
"""
JOB = "Jobs._settle = Jobs._load_images = bug"
LOOP = """
import asyncio
async def break_the_loop(*_):
    asyncio.get_running_loop()._process_events = bug
    await asyncio.Event().wait()
Jobs.work = break_the_loop
"""
MAINTENANCE = "Service.run_maintenance = bug; main._MAINTENANCE_SECONDS = 0.05"

Start = Callable[[str], ServiceProcess]


@pytest.fixture
def start(tmp_path: Path, sandbox: RunningSandbox) -> Iterator[Start]:
    started: list[ServiceProcess] = []

    def start_one(bug: str) -> ServiceProcess:
        options = wired(sandbox, port=0, allow_origin="127.0.0.1", store=tmp_path / "journal")
        started.append(
            ServiceProcess(
                *(f"--{name.replace('_', '-')}={value}" for name, value in options.items()),
                environment={"IMGUR_CLIENT_ID": "test"},
                source=_START.format(bug=bug),
            )
        )
        return started[-1]

    yield start_one
    for process in started:
        process.stop()


@pytest.mark.parametrize("bug", [WRITER, JOB, LOOP], ids=["writer", "job", "loop"])
def test_a_bug_that_ends_a_thread_ends_the_service_with_status_1(
    bug: str, start: Start, origin: Origin
) -> None:
    service = start(bug)
    response = service.post(json=[origin.image("png-rgb.png")])
    assert response.status_code == (503 if bug is WRITER else 202)
    assert service.process.wait(20) == 1
    service.stop()
    log = "".join(service.log)
    assert "a bug ended" in log
    assert "KeyError: 'a bug'" in log
    assert "stopping" in log


def test_maintenance_that_meets_a_bug_is_logged_and_counted_and_runs_again(start: Start) -> None:
    service = start(MAINTENANCE)
    wait_until(lambda: "".join(service.log).count("KeyError: 'a bug'") > 2)
    metrics = service.get("/metrics").text
    assert "imageload_errors_logged_total 0.0" not in metrics
    assert service.get("/readyz").status_code == 200
    assert service.stop() == 0
