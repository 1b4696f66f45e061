"""Tests of sandbox_process: a sandbox that ends or hangs is started again, and that is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from imageload.sandbox_process import SandboxError, SandboxProcess, WatchRules
from tests.jobs import all_landed, distinct
from tests.origin import IMAGES, Origin
from tests.service import ServiceProcess, running_service
from tests.waiting import wait_until

Start = Callable[..., SandboxProcess]
QUICK = WatchRules(wait=0.01, longest_wait=0.05)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    started: list[SandboxProcess] = []

    def start_one(rules: WatchRules = QUICK) -> SandboxProcess:
        started.append(SandboxProcess(["--port=0", f"--dir={folder}", "--unlimited"], rules))
        return started[-1]

    yield start_one
    for sandbox in started:
        sandbox.stop()


def upload(sandbox: SandboxProcess) -> str:
    """The link of a new image."""
    answer = requests.post(
        f"{sandbox.url}/3/image",
        data=(IMAGES / "png-palette.png").read_bytes(),
        headers={"Authorization": "Client-ID test", "Content-Type": "image/png"},
        timeout=20,
    )
    link: str = answer.json()["data"]["link"]
    return link


def break_starts(folder: Path) -> Callable[[], object]:
    """Let every start fail, as one does whose port is taken; returns what undoes that."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.write_text("not a folder")

    def undo() -> None:
        folder.unlink()
        aside.rename(folder)

    return undo


def test_a_killed_sandbox_runs_again_at_the_same_address(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sandbox = start()
    link, first = upload(sandbox), sandbox.pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: sandbox.restarts == 1)
    assert sandbox.pid != first
    assert sandbox.trouble is None
    assert requests.get(link, timeout=20).status_code == 200
    assert "the sandbox was ended by signal 9; it is started again in 0.0 s" in caplog.messages
    assert f"the sandbox runs again at {sandbox.url}" in caplog.messages


def test_a_sandbox_that_hangs_is_killed_and_runs_again(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = start(WatchRules(wait=0.01, probe=0.05, answer=1.0))
    first = sandbox.pid
    os.kill(first, signal.SIGSTOP)
    wait_until(lambda: sandbox.restarts)
    assert sandbox.pid != first
    assert any("did not respond for 1 s" in message for message in caplog.messages)


def test_starts_that_fail_are_repeated_until_one_succeeds(start: Start, folder: Path) -> None:
    sandbox = start()
    link = upload(sandbox)
    undo = break_starts(folder)
    os.kill(sandbox.pid, signal.SIGKILL)
    wait_until(lambda: sandbox.trouble == "The sandbox ended with status 1.")
    assert sandbox.restarts == 0
    undo()
    wait_until(lambda: sandbox.restarts == 1)
    assert sandbox.trouble is None
    assert requests.get(link, timeout=20).status_code == 200


def test_the_waits_between_starts_double_up_to_the_longest(
    start: Start, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = start(WatchRules(wait=0.1, longest_wait=0.4))
    break_starts(folder)
    os.kill(sandbox.pid, signal.SIGKILL)
    wait_until(lambda: sum("again in 0.4 s" in message for message in caplog.messages) == 2)
    waits = [float(message.split()[-2]) for message in caplog.messages if "again in" in message]
    assert waits[:4] == [0.1, 0.2, 0.4, 0.4]


def test_a_sandbox_that_waits_for_its_next_start_can_be_stopped(folder: Path) -> None:
    rules = WatchRules(wait=1000.0, longest_wait=1000.0)
    sandbox = SandboxProcess(["--port=0", f"--dir={folder}"], rules)
    os.kill(sandbox.pid, signal.SIGKILL)
    wait_until(lambda: sandbox.trouble)
    sandbox.stop()
    assert "sandbox" not in [thread.name for thread in threading.enumerate()]


def test_a_sandbox_whose_port_is_taken_does_not_start(start: Start, folder: Path) -> None:
    port = start().url.rpartition(":")[2]
    with pytest.raises(SandboxError, match="ended with status 1"):
        SandboxProcess([f"--port={port}", f"--dir={folder}"])


def test_a_sandbox_that_does_not_listen_in_time_does_not_start(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec cat\n")  # waits for the end of its stdin
    silent.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(silent))
    with pytest.raises(SandboxError, match="did not listen"):
        SandboxProcess([f"--dir={folder}"], WatchRules(start=0.01))


def test_uploads_wait_while_the_sandbox_is_down_and_the_service_is_not_ready(
    start: Start, folder: Path, tmp_path: Path, origin: Origin
) -> None:
    sandbox = start()
    options = {"imgur_base_url": sandbox.url, "imgur_link_base": sandbox.url}
    with running_service(tmp_path / "temp", sandbox=sandbox, **options) as service:
        assert service.get("/readyz").json()["sandbox"] is None
        assert "imageload_sandbox_failing 0.0" in service.get("/metrics").text
        undo = break_starts(folder)
        os.kill(sandbox.pid, signal.SIGKILL)
        wait_until(lambda: sandbox.trouble)
        job_id = service.submit(distinct(origin, 5))
        answer = service.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["status"] == "not ready"
        assert answer.json()["sandbox"].startswith("The sandbox ")
        assert "imageload_sandbox_failing 1.0" in service.get("/metrics").text
        wait_until(lambda: service.get("/readyz").json()["waiting_for"] == "unavailable")
        undo()
        assert all_landed(service, [job_id])
        assert service.get("/readyz").status_code == 200
        assert "imageload_sandbox_restarts_total 1.0" in service.get("/metrics").text


def test_the_service_starts_its_own_sandbox_again(tmp_path: Path, origin: Origin) -> None:
    process = ServiceProcess(
        *("--port=0", "--sandbox-port=0", f"--sandbox-dir={tmp_path}", "--allow-origin=127.0.0.1")
    )
    try:
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        )
        families = [line.split() for line in listed.stdout.splitlines()]
        children = [int(pid) for pid, parent in families if parent == str(process.process.pid)]
        assert len(children) == 1
        os.kill(children[0], signal.SIGKILL)
        wait_until(lambda: "imageload_sandbox_restarts_total 1.0" in process.get("/metrics").text)
        assert all_landed(process, [process.submit(distinct(origin, 3))])
        assert process.stop() == 0
    finally:
        process.stop(signal.SIGKILL)
