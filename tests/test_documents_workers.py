"""Documents are read in processes of their own: hostile ones cost nobody else anything."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from sandbox.testing import RunningSandbox
from tests.service import Client, RunningService, assert_problem, running_service, wired
from tests.waiting import PATIENCE, wait_until

SMALL = "![](http://127.0.0.1:1/a.png)"
SLOW = "![](http://a.e/b.png)\n\n" * 40_000  # takes several times the CPU time that the tests allow


class Caller(Client):
    """A client with a token of its own."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(url)
        self.session.headers["Authorization"] = f"Bearer {token}"

    def send(self, text: str, **options: str) -> requests.Response:
        """The response to a POST of a Markdown document."""
        return self.session.post(
            f"{self.url}/v1/documents",
            data=text.encode(),
            headers={"Content-Type": "text/markdown"},
            params=options,
            timeout=PATIENCE,
        )


class Sending(threading.Thread):
    """A POST of a document, whose `answer` comes later."""

    def __init__(self, caller: Caller, text: str) -> None:
        super().__init__(daemon=True)
        self._caller, self._text = caller, text
        self.start()

    def run(self) -> None:
        self.response = self._caller.send(self._text)

    def answer(self) -> requests.Response:
        self.join(PATIENCE)
        return self.response


@pytest.fixture
def limited(tmp_path: Path, sandbox: RunningSandbox) -> Iterator[RunningService]:
    """A service with little CPU time for documents, and tokens for two callers."""
    options = wired(sandbox, api_token=("one", "two"), document_seconds=0.25)
    with running_service(tmp_path / "t", **options) as service:
        yield service


def pids(service: RunningService) -> list[int]:
    """The processes for documents."""
    return service.service.documents.pids


def stopped(service: RunningService, caller: Caller) -> int:
    """The process that reads the next document, which does nothing until SIGCONT."""
    caller.send(SMALL)
    (pid,) = pids(service)
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_others_are_served_while_a_document_is_read_that_takes_too_long(
    limited: RunningService,
) -> None:
    url = limited.url
    one, two = Caller(url, "one"), Caller(url, "two")
    pid = stopped(limited, one)
    slow = Sending(one, SLOW)
    wait_until(lambda: limited.service.documents.pool.busy == 1)
    next_one = Sending(one, SMALL)
    wait_until(lambda: limited.service.documents.pool.waiting == 1)
    assert two.send(SMALL).status_code == 202
    assert slow.is_alive()
    assert next_one.is_alive(), "one caller has one process"
    os.kill(pid, signal.SIGCONT)
    detail = assert_problem(slow.answer(), 422, "too-complex")["detail"]
    assert "more than 0.2 seconds of CPU time" in detail
    assert next_one.answer().status_code == 202
    assert pid not in pids(limited)
    metrics = one.get("/metrics").text
    assert 'imageload_documents_total{result="cpu"} 1.0' in metrics
    assert 'imageload_documents_total{result="read"} 3.0' in metrics
    assert "imageload_documents_in_progress 0.0" in metrics


def test_a_client_that_leaves_ends_the_reading_of_its_document(limited: RunningService) -> None:
    one = Caller(limited.url, "one")
    pid = stopped(limited, one)
    place = limited.url.removeprefix("http://")
    host, port = place.split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        head = f"POST /v1/documents HTTP/1.1\r\nHost: {place}\r\nAuthorization: Bearer one\r\n"
        head += f"Content-Type: text/markdown\r\nContent-Length: {len(SMALL)}\r\n\r\n"
        connection.sendall((head + SMALL).encode())
        wait_until(lambda: limited.service.documents.pool.busy == 1)
    wait_until(lambda: limited.service.documents.pool.busy == 0)
    assert pid not in pids(limited)
    assert one.send(SMALL).status_code == 202
    jobs = limited.service.registry.totals().jobs
    assert sum(jobs.values()) == 2, "none of the client that left"


def test_a_document_that_takes_too_much_memory_is_refused(
    tmp_path: Path, sandbox: RunningSandbox
) -> None:
    limits = {"document_seconds": 10 * PATIENCE, "document_bytes": 96 * 2**20}
    with running_service(tmp_path / "t", **wired(sandbox, **limits)) as service:
        caller = Caller(service.url, "none")
        base = "http://a.example/" + "a" * 7_000 + "/"
        many = caller.send("![](a)\n" * 15_000, dry_run="true", base=base)
        assert "memory" in assert_problem(many, 422, "too-complex")["detail"]
        assert caller.send(SMALL).status_code == 202


def test_a_process_that_is_killed_costs_one_document(limited: RunningService) -> None:
    one = Caller(limited.url, "one")
    pid = stopped(limited, one)
    sending = Sending(one, SMALL)
    wait_until(lambda: limited.service.documents.pool.busy == 1)
    os.kill(pid, signal.SIGKILL)
    assert "killed" in assert_problem(sending.answer(), 422, "too-complex")["detail"]
    assert one.send(SMALL).status_code == 202


def test_a_service_that_stops_refuses_the_document_that_is_read(
    tmp_path: Path, sandbox: RunningSandbox
) -> None:
    with running_service(tmp_path / "t", **wired(sandbox)) as service:
        caller = Caller(service.url, "none")
        pid = stopped(service, caller)
        sending = Sending(caller, SMALL)
        wait_until(lambda: service.service.documents.pool.busy == 1)
    assert_problem(sending.answer(), 503, "shutting-down")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
