"""Webhooks: the callback of a job that has ended is called, signed, until it has received it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from imageload.errors import DownloadError
from imageload.fetch.guard import Guard
from imageload.image import Failed, Requeued
from imageload.job import CallbackEnded, Change, Job
from imageload.observers.webhooks import WebhookRules, Webhooks, signing_key
from imageload.transport.curl import TransferLoop, Transport
from imageload.transport.request import Bounds
from tests.contract import Contract, running_contract
from tests.origin import Origin
from tests.waiting import PATIENCE, wait_until

TARGET = "POST /hook"
SECRET = b"a secret of 24 bytes or so"
GONE = Failed(0, DownloadError("http_status", "404.").failure())


class Caller:
    """Webhooks on a loop; `ended` has the ends of callbacks by jobId."""

    def __init__(self, rules: WebhookRules, allow: Sequence[str]) -> None:
        self.transfers = TransferLoop()
        self._transport = Transport(
            self.transfers,
            Bounds(connect_seconds=PATIENCE, low_speed_bytes=0),
            user_agent="tests",
            refusal=Guard(allow, (), (80, 443)).refusal,
        )
        self.webhooks = Webhooks(self._transport, rules, self._apply)
        self.ended: dict[str, list[CallbackEnded]] = {}
        self.transfers.start()

    def _apply(self, job: Job, change: Change) -> None:
        assert isinstance(change, CallbackEnded)
        job.apply(change)
        self.ended.setdefault(job.job_id, []).append(change)

    def job(self, url: str) -> Job:
        """A job that has not ended, with this callback."""
        return Job(["https://a.example/"], callback=url)

    def apply(self, job: Job, *changes: Change) -> None:
        """Apply them on the loop, with the webhooks as an observer."""
        self.transfers.run(self._observed(job, changes))

    async def _observed(self, job: Job, changes: Sequence[Change]) -> None:
        for change in changes:
            job.apply(change)
            self.webhooks(job, change)

    def end(self, url: str) -> Job:
        """A job with this callback that has just ended."""
        job = self.job(url)
        self.apply(job, GONE)
        return job

    def wait(self, job: Job, count: int = 1) -> CallbackEnded:
        """The last of `count` ends of the job's callback."""
        wait_until(lambda: len(self.ended.get(job.job_id, ())) >= count, PATIENCE)
        return self.ended[job.job_id][-1]

    def close(self) -> None:
        """Stop, and leave nothing."""
        assert self.transfers.close(PATIENCE)


MakeCaller = Callable[..., Caller]


@pytest.fixture
def make_caller() -> Iterator[MakeCaller]:
    """Makes Webhooks with short waits."""
    made: list[Caller] = []

    def make(allow: Sequence[str] = ("127.0.0.1",), **rules: Any) -> Caller:
        made.append(Caller(WebhookRules(**{"waits": (0.01, 0.02, 0.03)} | rules), allow))
        return made[-1]

    yield make
    for caller in made:
        caller.close()


@pytest.fixture
def caller(make_caller: MakeCaller) -> Caller:
    return make_caller()


@pytest.fixture
def hook() -> Iterator[Contract]:
    """A receiver of callbacks, at /hook."""
    with running_contract() as contract:
        yield contract


def hook_url(hook: Contract) -> str:
    return f"{hook.url}/hook"


def test_a_callback_is_called_once_when_its_job_has_ended(caller: Caller, hook: Contract) -> None:
    hook.put(TARGET, {})
    job = caller.end(hook_url(hook))
    assert caller.wait(job).failure is None
    assert job.callback is not None
    assert job.callback.is_told
    (asked,) = hook.asked
    called = json.loads(asked.body)
    assert (called["type"], called["data"]["job_id"]) == ("job.complete", job.job_id)
    assert called["data"]["finished"] is True
    assert called["data"]["counts"]["failed"] == 1
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.headers["webhook-id"].startswith(job.job_id)
    assert asked.headers["webhook-signature"] is None


def test_an_unfinished_job_or_one_without_a_callback_sends_no_request(
    caller: Caller, hook: Contract
) -> None:
    hook.put(TARGET, {})
    two = Job(["https://a.example/", "https://b.example/"], callback=hook_url(hook))
    caller.apply(two, GONE)
    caller.apply(Job(["https://a.example/"]), GONE)
    caller.wait(caller.end(hook_url(hook)))
    assert len(hook.asked) == 1
    caller.apply(two, Failed(1, GONE.failure))
    caller.wait(two)
    assert len(hook.asked) == 2


def test_callbacks_are_signed_as_standard_webhooks_are(
    make_caller: MakeCaller, hook: Contract
) -> None:
    hook.put(TARGET, {})
    caller = make_caller(secret="whsec_" + base64.b64encode(SECRET).decode())
    caller.wait(caller.end(hook_url(hook)))
    (asked,) = hook.asked
    message_id, moment = asked.headers["webhook-id"], asked.headers["webhook-timestamp"]
    assert abs(int(moment) - time.time()) < 60
    signed = f"{message_id}.{moment}.".encode() + asked.body
    mac = base64.b64encode(hmac.digest(SECRET, signed, hashlib.sha256)).decode()
    assert asked.headers["webhook-signature"] == f"v1,{mac}"


def test_a_secret_without_the_prefix_is_the_key_itself() -> None:
    assert signing_key("plain") == b"plain"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_a_callback_with_a_transient_error_is_called_again_with_the_same_message(
    caller: Caller, hook: Contract, status: int
) -> None:
    hook.put(TARGET, {}, {}, status=status)
    hook.put(TARGET, {})
    assert caller.wait(caller.end(hook_url(hook))).failure is None
    assert len(hook.asked) == 3
    assert len({asked.headers["webhook-id"] for asked in hook.asked}) == 1
    assert len({asked.body for asked in hook.asked}) == 1


def test_a_callback_that_always_fails_is_given_up_and_the_job_has_the_reason(
    caller: Caller, hook: Contract, caplog: pytest.LogCaptureFixture
) -> None:
    hook.put(TARGET, {}, status=500)
    job = caller.end(hook_url(hook))
    failure = caller.wait(job).failure
    assert failure is not None
    assert (failure.code, failure.message) == ("callback_failed", "The callback answered 500.")
    assert len(hook.asked) == 4
    assert [line for line in caplog.messages if f"callback failed job={job.job_id}" in line]


@pytest.mark.parametrize("status", [301, 404, 410])
def test_a_callback_that_refuses_the_message_is_not_called_again(
    caller: Caller, hook: Contract, status: int
) -> None:
    hook.put(TARGET, {}, status=status)
    failure = caller.wait(caller.end(hook_url(hook))).failure
    assert failure is not None
    assert failure.message == f"The callback answered {status}."
    assert len(hook.asked) == 1


def test_a_callback_that_cannot_be_reached_is_called_again(caller: Caller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/hook"
    failure = caller.wait(caller.end(url)).failure
    assert failure is not None
    assert failure.message == "The callback was not reached: connect."


@pytest.mark.parametrize("hangs", [False, True])
def test_a_success_status_counts_even_if_the_body_breaks_off(
    make_caller: MakeCaller, origin: Origin, hangs: bool
) -> None:
    def begin(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        if hangs:
            origin.hang(connection)

    caller = make_caller(seconds=1.0 if hangs else PATIENCE)
    assert caller.wait(caller.end(origin.page("/hook", begin))).failure is None
    assert origin.requests["/hook"] == 1


def test_a_callback_on_this_machine_is_not_called(make_caller: MakeCaller, hook: Contract) -> None:
    hook.put(TARGET, {})
    caller = make_caller(allow=())
    failure = caller.wait(caller.end(hook_url(hook))).failure
    assert failure is not None
    assert "address" in failure.message
    assert hook.asked == []


def test_a_job_that_ends_again_calls_again_with_another_id(caller: Caller, hook: Contract) -> None:
    hook.put(TARGET, {})
    job = caller.end(hook_url(hook))
    caller.wait(job)
    caller.apply(job, Requeued(0), GONE)
    caller.wait(job, 2)
    assert len({asked.headers["webhook-id"] for asked in hook.asked}) == 2
    assert job.callback is not None
    assert job.callback.is_told


def test_a_job_that_ends_again_during_its_call_calls_again_after_it(
    caller: Caller, origin: Origin
) -> None:
    arrived, resume = threading.Semaphore(0), threading.Event()

    def respond(connection: socket.socket) -> None:
        arrived.release()
        assert resume.wait(PATIENCE)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    job = caller.end(origin.page("/hook", respond))
    assert arrived.acquire(timeout=PATIENCE)
    caller.apply(job, Requeued(0), GONE)
    assert job.callback is not None
    resume.set()
    caller.wait(job, 2)
    assert origin.requests["/hook"] == 2
    assert job.callback.is_told


def test_hanging_hosts_delay_no_other_callback(
    make_caller: MakeCaller, hook: Contract, origin: Origin
) -> None:
    hook.put(TARGET, {})
    caller = make_caller(seconds=10 * PATIENCE)
    url = origin.page("/hook", origin.hang)
    for _ in range(60):
        caller.end(url)
    assert caller.wait(caller.end(hook_url(hook))).failure is None


def test_pending_callbacks_of_restored_jobs_are_called(caller: Caller, hook: Contract) -> None:
    hook.put(TARGET, {})
    jobs = [caller.job(hook_url(hook)) for _ in range(3)]
    for job in jobs[:2]:
        job.apply(GONE)
    jobs[1].apply(CallbackEnded(jobs[1].version))

    async def restore() -> None:
        caller.webhooks.restore(jobs)

    caller.transfers.run(restore())
    caller.wait(jobs[0])
    assert [json.loads(asked.body)["data"]["job_id"] for asked in hook.asked] == [jobs[0].job_id]


def test_a_job_that_ends_by_a_stop_sends_no_request(caller: Caller, hook: Contract) -> None:
    hook.put(TARGET, {})
    before = caller.end(hook_url(hook))
    caller.wait(before)
    caller.webhooks.stop()
    after = caller.end(hook_url(hook))
    assert after.callback is not None
    assert after.callback.is_open, "the next start calls it"
    assert len(hook.asked) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs the whole of 127.0.0.0/8")
def test_sixty_receivers_that_hang_delay_no_other(make_caller: MakeCaller, hook: Contract) -> None:
    caller = make_caller(allow=("127.0.0.0/8",), seconds=3600)
    hook.put(TARGET, {})
    with contextlib.ExitStack() as stack:
        for n in range(60):
            silent = stack.enter_context(socket.create_server((f"127.0.1.{n + 1}", 0)))
            caller.end(f"http://127.0.1.{n + 1}:{silent.getsockname()[1]}/hook")
        assert caller.wait(caller.end(hook_url(hook))).failure is None
