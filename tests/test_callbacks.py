"""Callbacks over the API, and across restarts; test_webhooks.py has the calls themselves."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imageload.job import Job
from imageload.observers.webhooks import signing_key
from tests.contract import Contract, running_contract
from tests.events import Subscriber
from tests.journals import fail, opened
from tests.origin import Origin
from tests.service import Client, RunningService, ServiceProcess, assert_problem, running_service
from tests.waiting import PATIENCE, wait_until

TARGET = "POST /hook"
SECRET = b"a secret of 24 bytes or so"


@pytest.fixture
def hook() -> Iterator[Contract]:
    """A receiver of callbacks, at /hook."""
    with running_contract() as contract:
        yield contract


def post(client: Client, hook: Contract, *urls: str, path: str = "/hook") -> str:
    """The id of a new job with a callback."""
    answer = client.post(json={"urls": urls, "callback": hook.url + path})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["jobId"][0])


def summary(client: Client, job_id: str) -> dict[str, Any]:
    """The job in the list of jobs."""
    jobs = client.get("/v1/images/upload").json()["jobs"]
    (found,) = [job for job in jobs if job["job_id"] == job_id]
    return dict(found)


def called(client: Client, job_id: str) -> dict[str, Any]:
    """The job's callback, once it was received or given up; polls."""

    def callback() -> dict[str, Any]:
        return dict(summary(client, job_id)["callback"])

    wait_until(lambda: callback()["told"] or callback()["error"])
    return callback()


def test_a_callback_is_called_once_when_its_job_has_ended(
    service: RunningService, hook: Contract, origin: Origin
) -> None:
    hook.put(TARGET, {})
    job_id = post(service, hook, origin.image("png-rgb.png"), origin.image("missing.png"))
    assert called(service, job_id) == {"host": "127.0.0.1", "told": True, "error": None}
    (asked,) = hook.asked
    told = json.loads(asked.body)
    assert (told["type"], told["data"]["job_id"]) == ("job.complete", job_id)
    assert told["data"]["finished"] is True
    assert told["data"]["counts"]["completed"] == told["data"]["counts"]["failed"] == 1
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.headers["webhook-id"].startswith(job_id)
    assert asked.headers["webhook-signature"] is None


def test_the_status_of_the_contract_has_no_callback(
    service: RunningService, hook: Contract, origin: Origin
) -> None:
    hook.put(TARGET, {})
    job_id = post(service, hook, origin.image("png-rgb.png"))
    called(service, job_id)
    assert set(service.status(job_id)) == {"job_id", "created", "finished", "status", "uploaded"}


@pytest.mark.parametrize("secret", ["whsec_", "whsec_%", "whsec_abc", "whsec_ä"])
def test_a_secret_that_would_sign_nothing_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="callback-secret"):
        signing_key(secret)


@pytest.mark.one_process
def test_a_callback_that_is_given_up_is_shown_logged_and_counted(
    service: RunningService, hook: Contract, caplog: pytest.LogCaptureFixture
) -> None:
    hook.put(TARGET, {}, status=500)
    job_id = post(service, hook, "ftp://a.example/")
    assert called(service, job_id) == {
        "host": "127.0.0.1",
        "told": False,
        "error": {"code": "callback_failed", "message": "The callback answered 500."},
    }
    assert len(hook.asked) == 4
    assert [line for line in caplog.messages if f"callback failed job={job_id}" in line]
    metrics = service.get("/metrics").text
    assert 'imageload_callbacks_total{result="failed"} 1.0' in metrics


def test_a_callback_may_use_its_whole_timeout(tmp_path: Path, origin: Origin) -> None:
    def think(connection: socket.socket) -> None:
        # libcurl ends a transfer that is too slow for a second after two or three seconds.
        connection.settimeout(4)
        with contextlib.suppress(TimeoutError):
            while connection.recv(4_096):
                pass
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    body = {"urls": ["ftp://a.example/"], "callback": origin.page("/hook", think)}
    with running_service(tmp_path / "t", low_speed_seconds=1.0) as service:
        (job_id,) = service.post(json=body).json()["jobId"]
        assert called(service, job_id)["told"]
    assert origin.requests["/hook"] == 1


@pytest.mark.parametrize(
    "callback", ["", "foo", "ftp://a.example/", "http://user:pass@a.example/", "https:///x"]
)
def test_a_callback_that_is_no_url_refuses_the_request(
    service: RunningService, callback: str
) -> None:
    answer = service.post(json={"urls": ["http://a.example/"], "callback": callback})
    assert "callback" in assert_problem(answer, 400, "bad-request")["detail"]
    assert service.get("/v1/images/upload").json()["jobs"] == []


@pytest.mark.parametrize(
    "callback", [5, ["https://a.example/"], "https://a.example/" + "x" * 2_000]
)
def test_a_callback_is_a_text_that_is_not_too_long(
    service: RunningService, callback: object
) -> None:
    answer = service.post(json={"urls": ["http://a.example/"], "callback": callback})
    assert "callback" in assert_problem(answer, 400, "bad-request")["detail"]


def test_a_job_that_is_retried_calls_again_when_it_has_ended_again(
    service: RunningService, hook: Contract
) -> None:
    hook.put(TARGET, {})
    job_id = post(service, hook, "ftp://a.example/")
    called(service, job_id)
    service.session.post(f"{service.url}/v1/images/upload/{job_id}/retry", timeout=PATIENCE)
    wait_until(lambda: len(hook.asked) >= 2)
    assert called(service, job_id)["told"]
    assert len({asked.headers["webhook-id"] for asked in hook.asked}) == 2


def test_an_event_stream_has_the_end_of_a_job_once(service: RunningService, origin: Origin) -> None:
    received = threading.Event()

    def answer_late(connection: socket.socket) -> None:
        received.wait(PATIENCE)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    body = {"urls": ["ftp://a.example/"], "callback": origin.page("/hook", answer_late)}
    (job_id,) = service.post(json=body).json()["jobId"]
    url = f"{service.url}/v1/images/upload/{job_id}/events"
    with Subscriber(url) as subscriber:
        *_, end = subscriber.events()
    received.set()
    assert called(service, job_id)["told"]
    deadline = time.monotonic() + PATIENCE
    while True:  # subscribers get a change within an eighth of a second
        with Subscriber(url, end.id) as subscriber:
            if subscriber.answer.status == 204:
                return
            assert {event.id for event in subscriber.events()} == {end.id}
        assert time.monotonic() < deadline


def test_each_list_of_a_request_has_a_call_of_its_own(
    service: RunningService, hook: Contract
) -> None:
    hook.put(TARGET, {})
    body = {"urls": [["ftp://a.example/"], ["ftp://b.example/"]], "callback": hook.url + "/hook"}
    ids = service.post(json=body).json()["jobId"]
    for job_id in ids:
        called(service, job_id)
    assert sorted(json.loads(asked.body)["data"]["job_id"] for asked in hook.asked) == sorted(ids)


def process(tmp_path: Path) -> ServiceProcess:
    """A service with a journal."""
    return ServiceProcess(
        "--port=0",
        "--allow-origin=127.0.0.1",
        f"--store={tmp_path / 'journal'}",
        f"--temp-dir={tmp_path}",
        "--imgur-base-url=http://127.0.0.1:9",
        environment={"IMGUR_CLIENT_ID": "test"},
    )


def test_a_callback_is_called_after_a_restart(tmp_path: Path, hook: Contract) -> None:
    hook.put(TARGET, {}, status=500)
    first = process(tmp_path)
    job_id = post(first, hook, "ftp://a.example/")
    first.finish(job_id)
    wait_until(lambda: len(hook.asked) >= 1)
    first.stop(signal.SIGKILL)
    before = len(hook.asked)
    hook.put(TARGET, {})
    hook.answers[TARGET].popleft()
    second = process(tmp_path)
    try:
        assert called(second, job_id)["told"]
    finally:
        assert second.stop() == 0
    assert len(hook.asked) == before + 1
    third = process(tmp_path)
    try:
        assert summary(third, job_id)["callback"]["told"], "and is not told a second time"
    finally:
        assert third.stop() == 0
    assert len(hook.asked) == before + 1


def test_a_job_stays_in_memory_until_its_callback_is_called(tmp_path: Path, hook: Contract) -> None:
    hook.put(TARGET, {}, status=500)
    hook.put(TARGET, {})
    path = tmp_path / "journal"
    job = Job(["ftp://a.example/"], callback=f"{hook.url}/hook")
    with opened(path) as (journal, _):
        journal.accept([job])
        fail(journal, job)
    options = {"store": str(path), "keep_hours": 1e-9, "retry_seconds": 60.0}
    with running_service(tmp_path / "t", **options) as first:
        wait_until(lambda: len(hook.asked) >= 1)
        assert (
            first.service.image_load.submit(first.service.image_load.retire()).result(PATIENCE) == 0
        )
    with running_service(tmp_path / "t", **options) as second:
        assert called(second, job.job_id)["told"]
        assert (
            second.service.image_load.submit(second.service.image_load.retire()).result(PATIENCE)
            == 1
        )


def test_no_two_ends_of_a_job_have_the_same_id_across_a_restart_either(
    tmp_path: Path, hook: Contract
) -> None:
    hook.put(TARGET, {})
    first = process(tmp_path)
    job_id = post(first, hook, "ftp://a.example/")
    called(first, job_id)
    assert first.stop() == 0
    second = process(tmp_path)
    try:
        second.session.post(f"{second.url}/v1/images/upload/{job_id}/retry", timeout=PATIENCE)
        wait_until(lambda: len(hook.asked) >= 2)
    finally:
        assert second.stop() == 0
    assert len({asked.headers["webhook-id"] for asked in hook.asked}) == 2
