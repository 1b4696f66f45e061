# mypy: ignore-errors
# ruff: noqa
"""A job tells its callback when it has ended: signed, under the guard, until it is heard."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from imageload.errors import Shutdown
from imageload.job import Change, Failed, Job
from imageload.observers.webhooks import Callbacks, signing_key
from imageload.transport.engine import Engine
from tests.contract import Contract, running_contract
from tests.downloads import Download
from tests.events import Listener
from tests.journals import fail, opened
from tests.origin import Origin
from tests.service import Client, RunningService, ServiceProcess, running_service
from tests.test_api import assert_problem

TARGET = "POST /hook"
SECRET = b"a secret of 24 bytes or so"
PATIENCE = 20.0


@pytest.fixture
def hook() -> Iterator[Contract]:
    """Somebody who wants to be told, at /hook."""
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
    """What became of the job's callback, once that is known; polls, as a user does."""
    deadline = time.monotonic() + PATIENCE
    while True:
        callback: dict[str, Any] = summary(client, job_id)["callback"]
        if callback["told"] or callback["error"]:
            return callback
        assert time.monotonic() < deadline, callback
        time.sleep(0.02)  # a poll's pace


def await_asked(hook: Contract, count: int) -> None:
    """Return when `hook` has been asked so often; polls."""
    deadline = time.monotonic() + PATIENCE
    while len(hook.asked) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)  # a poll's pace


def test_a_callback_is_told_once_when_its_job_has_ended(
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


def test_the_contract_s_status_says_nothing_of_it(
    service: RunningService, hook: Contract, origin: Origin
) -> None:
    hook.put(TARGET, {})
    job_id = post(service, hook, origin.image("png-rgb.png"))
    called(service, job_id)
    assert set(service.status(job_id)) == {"job_id", "created", "finished", "status", "uploaded"}


def test_what_is_told_is_signed_as_standard_webhooks_are(tmp_path: Path, hook: Contract) -> None:
    hook.put(TARGET, {})
    secret = "whsec_" + base64.b64encode(SECRET).decode()
    with running_service(tmp_path / "t", callback_secret=secret) as service:
        called(service, post(service, hook, "ftp://a.example/"))
    (asked,) = hook.asked
    message_id, moment = asked.headers["webhook-id"], asked.headers["webhook-timestamp"]
    assert abs(int(moment) - time.time()) < 60
    signed = f"{message_id}.{moment}.".encode() + asked.body
    mac = base64.b64encode(hmac.digest(SECRET, signed, hashlib.sha256)).decode()
    assert asked.headers["webhook-signature"] == f"v1,{mac}"


def test_a_secret_without_its_sign_is_the_key_itself() -> None:
    assert signing_key("plain") == b"plain"


@pytest.mark.parametrize("secret", ["whsec_", "whsec_%", "whsec_abc", "whsec_ä"])
def test_a_secret_that_would_sign_nothing_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="callback-secret"):
        signing_key(secret)


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_callback_that_is_in_trouble_is_told_again(
    service: RunningService, hook: Contract, status: int
) -> None:
    hook.put(TARGET, {}, {}, status=status)
    hook.put(TARGET, {})
    job_id = post(service, hook, "ftp://a.example/")
    assert called(service, job_id)["told"]
    assert len(hook.asked) == 3
    assert len({asked.headers["webhook-id"] for asked in hook.asked}) == 1
    assert len({asked.body for asked in hook.asked}) == 1


def test_a_callback_that_never_answers_well_is_given_up_and_that_is_said(
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


@pytest.mark.parametrize("status", [301, 404, 410])
def test_a_callback_that_will_not_have_it_is_not_told_again(
    service: RunningService, hook: Contract, status: int
) -> None:
    hook.put(TARGET, {}, status=status)
    job_id = post(service, hook, "ftp://a.example/")
    assert called(service, job_id)["error"]["message"] == f"The callback answered {status}."
    assert len(hook.asked) == 1


def test_a_callback_has_all_of_its_time_to_answer(tmp_path: Path, origin: Origin) -> None:
    def think(connection: socket.socket) -> None:
        # libcurl gives up on what is too slow for a second after two, or three.
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


def test_what_a_callback_has_answered_counts_whatever_becomes_of_the_rest(
    tmp_path: Path, origin: Origin
) -> None:
    def begin(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        origin.hang(connection)

    body = {"urls": ["ftp://a.example/"], "callback": origin.page("/hook", begin)}
    with running_service(tmp_path / "t", callback_seconds=0.5) as service:
        (job_id,) = service.post(json=body).json()["jobId"]
        assert called(service, job_id)["told"]
    assert origin.requests["/hook"] == 1


def test_a_callback_that_leads_to_this_machine_is_not_called(
    tmp_path: Path, hook: Contract
) -> None:
    hook.put(TARGET, {})
    with running_service(tmp_path / "t", allow_origin=()) as service:
        error = called(service, post(service, hook, "ftp://a.example/"))["error"]
    assert "address" in error["message"]
    assert hook.asked == []


@pytest.mark.parametrize(
    "callback", ["", "foo", "ftp://a.example/", "http://user:pass@a.example/", "https:///x"]
)
def test_what_is_no_callback_refuses_the_request(service: RunningService, callback: str) -> None:
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


def test_a_job_that_is_retried_tells_again_when_it_has_ended_again(
    service: RunningService, hook: Contract
) -> None:
    hook.put(TARGET, {})
    job_id = post(service, hook, "ftp://a.example/")
    called(service, job_id)
    service.session.post(f"{service.url}/v1/images/upload/{job_id}/retry", timeout=10)
    await_asked(hook, 2)
    assert called(service, job_id)["told"]
    assert len({asked.headers["webhook-id"] for asked in hook.asked}) == 2


def test_a_listener_hears_of_the_end_once_and_not_again_when_the_callback_was_told(
    service: RunningService, origin: Origin
) -> None:
    heard = threading.Event()

    def answer_late(connection: socket.socket) -> None:
        heard.wait(PATIENCE)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    body = {"urls": ["ftp://a.example/"], "callback": origin.page("/hook", answer_late)}
    (job_id,) = service.post(json=body).json()["jobId"]
    url = f"{service.url}/v1/images/upload/{job_id}/events"
    with Listener(url) as listener:
        *_, end = listener.events()
    heard.set()
    assert called(service, job_id)["told"]
    deadline = time.monotonic() + PATIENCE
    while True:  # listeners hear of a change within an eighth of a second
        with Listener(url, end.id) as listener:
            if listener.answer.status == 204:
                return
            assert {event.id for event in listener.events()} == {end.id}
        assert time.monotonic() < deadline


def test_hosts_that_are_down_keep_no_other_from_being_told(tmp_path: Path, hook: Contract) -> None:
    hook.put(TARGET, {})
    with ExitStack() as stack:
        down = [stack.enter_context(running_contract()) for _ in range(5)]
        service = stack.enter_context(running_service(tmp_path / "t", retry_seconds=60.0))
        for each in down:
            each.put(TARGET, {}, status=503)
            lists = [["ftp://a.example/"]] * 16
            service.post(json={"urls": lists, "callback": f"{each.url}/hook"})
        for each in down:
            await_asked(each, 16)
        assert called(service, post(service, hook, "ftp://a.example/"))["told"]


def test_several_lists_are_told_of_one_by_one(service: RunningService, hook: Contract) -> None:
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


def test_what_a_service_had_no_time_to_tell_the_next_one_tells(
    tmp_path: Path, hook: Contract
) -> None:
    hook.put(TARGET, {}, status=500)
    hook.put(TARGET, {})
    first = process(tmp_path)
    job_id = post(first, hook, "ftp://a.example/")
    first.finish(job_id)
    await_asked(hook, 1)
    first.stop(signal.SIGKILL)
    second = process(tmp_path)
    try:
        assert called(second, job_id)["told"]
    finally:
        assert second.stop() == 0
    assert len(hook.asked) == 2
    third = process(tmp_path)
    try:
        assert summary(third, job_id)["callback"]["told"], "and is not told a second time"
    finally:
        assert third.stop() == 0
    assert len(hook.asked) == 2


def test_a_job_stays_in_memory_until_its_end_is_told(tmp_path: Path, hook: Contract) -> None:
    hook.put(TARGET, {}, status=500)
    hook.put(TARGET, {})
    path = tmp_path / "journal"
    job = Job(["ftp://a.example/"], callback=f"{hook.url}/hook")
    with opened(path) as (journal, _):
        journal.accept([job])
        fail(journal, job)
    options = {"store": str(path), "keep_hours": 1e-9, "retry_seconds": 60.0}
    with running_service(tmp_path / "t", **options) as first:
        await_asked(hook, 1)
        assert first.service.image_load.retire() == 0
    with running_service(tmp_path / "t", **options) as second:
        assert called(second, job.job_id)["told"]
        assert second.service.image_load.retire() == 1


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
        second.session.post(f"{second.url}/v1/images/upload/{job_id}/retry", timeout=10)
        await_asked(hook, 2)
    finally:
        assert second.stop() == 0
    assert len({asked.headers["webhook-id"] for asked in hook.asked}) == 2


def test_what_ends_because_the_service_stops_is_not_told_as_complete(
    tmp_path: Path, hook: Contract
) -> None:
    hook.put(TARGET, {})
    engine, transfer = Engine(), Download(tmp_path).transfer
    told = threading.Event()

    def apply(job: Job, change: Change) -> None:
        job.apply(change)
        told.set()

    stopped, other = (Callbacks(engine, transfer, apply, seconds=5, waits=()) for _ in range(2))
    jobs = [Job(["ftp://a.example/"], callback=f"{hook.url}/hook") for _ in range(2)]
    for job in jobs:
        job.apply(Failed(0, Shutdown("The service stopped.").failure()))
    engine.start()
    stopped.stop()
    stopped.look(jobs[0])
    other.look(jobs[1])
    assert told.wait(PATIENCE)
    assert engine.close(PATIENCE)
    assert [json.loads(asked.body)["data"]["job_id"] for asked in hook.asked] == [jobs[1].job_id]
