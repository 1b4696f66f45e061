"""Tests of ETag, If-None-Match and Prefer: wait for a job's status and the job list."""

from __future__ import annotations

import asyncio
import concurrent.futures
import http.client
import json
import time
from pathlib import Path

import pytest
import requests

from imageload.image import Failed
from imageload.job import Snapshot, Started
from imageload.schemas import WaitingJson
from imageload.settings import Settings
from imageload.store.memory import MemoryStore
from imageload.web.access import Access
from imageload.web.idempotency import IdempotencyKeys
from imageload.web.limits import RequestLimits
from imageload.web.status import encoded_status, preferred_wait, tag_of_list
from sandbox.testing import RunningSandbox
from tests.origin import Origin
from tests.service import RunningService, assert_problem, running_service
from tests.test_events import FAILURE, apply, hub, job_of, registered
from tests.waiting import PATIENCE, wait_until

PATHS = (
    "/v1/images/upload/{}",
    "/v1/images/upload/:{}",
    "/v1/images/upload?jobId={}",
    "/v1/images/upload/{}/images",
    "/v1/images/upload/{}/images?state=failed",
    "/v1/images/upload",
)
Answer = requests.Response


@pytest.mark.parametrize("path", PATHS)
def test_an_unchanged_response_is_304(service: RunningService, path: str) -> None:
    job = registered(service, job_of(2))
    path = path.format(job.job_id)
    first = service.get(path)
    etag = first.headers["ETag"]
    for condition in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = service.get(path, headers={"If-None-Match": condition})
        assert (again.status_code, again.content) == (304, b""), condition
        assert again.headers["ETag"] == etag
    assert service.session.head(service.url + path).headers["ETag"] == etag

    apply(service, job, Failed(0, FAILURE))
    changed = service.get(path, headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != etag
    assert changed.json() != first.json()


def test_an_etag_belongs_to_one_job(service: RunningService) -> None:
    etags = {
        service.get(f"/v1/images/upload/{registered(service, job_of(1)).job_id}").headers["ETag"]
        for _ in range(3)
    }
    assert len(etags) == 3


def test_the_list_changes_with_its_jobs_and_with_new_ones(service: RunningService) -> None:
    seen = [service.get("/v1/images/upload?limit=2").headers["ETag"]]
    jobs = []
    for _ in range(4):
        jobs.append(registered(service, job_of(2)))
        seen.append(service.get("/v1/images/upload?limit=2").headers["ETag"])
    for job in jobs[2:]:
        apply(service, job, Started())
        seen.append(service.get("/v1/images/upload?limit=2").headers["ETag"])
    assert len(set(seen)) == len(seen)
    apply(service, jobs[0], Started())  # which is on another page
    assert service.get("/v1/images/upload?limit=2").headers["ETag"] == seen[-1]


class Held:
    """A held GET, in its own thread."""

    def __init__(self, service: RunningService, job_id: str, **headers: str) -> None:
        before = service.subscribers
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        url = f"{service.url}/v1/images/upload/{job_id}"
        self._answer = self._pool.submit(requests.get, url, headers=headers, timeout=PATIENCE)
        wait_until(lambda: service.subscribers > before)

    def answer(self) -> Answer:
        """Its response."""
        self._pool.shutdown()
        return self._answer.result(PATIENCE)


@pytest.mark.parametrize("has_etag", [True, False])
def test_a_held_status_is_answered_when_the_job_changes(
    service: RunningService, *, has_etag: bool
) -> None:
    job = registered(service, job_of(2))
    etag = service.get(f"/v1/images/upload/{job.job_id}").headers["ETag"]
    headers = {"If-None-Match": etag} if has_etag else {}
    held = Held(service, job.job_id, Prefer="wait=45", **headers)
    apply(service, job, Failed(0, FAILURE))
    answer = held.answer()
    assert answer.status_code == 200
    assert answer.headers["Preference-Applied"] == "wait=45"
    assert answer.headers["ETag"] != etag
    assert answer.json()["uploaded"]["failed"] == [job.image(0).url]
    assert answer.elapsed.total_seconds() < 40


def test_a_held_status_is_answered_when_its_time_is_over(
    sandbox: RunningSandbox, tmp_path: Path
) -> None:
    with running_service(
        tmp_path / "t", imgur_base_url=sandbox.url, max_wait_seconds=0.2
    ) as service:
        job = registered(service, job_of(1))
        path = f"/v1/images/upload/{job.job_id}"
        for headers, status in ({}, 200), ({"If-None-Match": "*"}, 304):
            begun = time.monotonic()
            answer = service.get(path, headers={"Prefer": "wait=30", **headers})
            assert 0.2 <= time.monotonic() - begun < 25
            assert answer.status_code == status
            assert answer.headers["Preference-Applied"] == "wait=0.2"
        assert service.subscribers == 0


def test_a_request_with_an_old_etag_or_for_a_finished_job_is_answered_at_once(
    service: RunningService,
) -> None:
    job = registered(service, job_of(1))
    path = f"/v1/images/upload/{job.job_id}"
    old = service.get(path).headers["ETag"]
    apply(service, job, Started())
    answer = service.get(path, headers={"Prefer": "wait=45", "If-None-Match": old})
    assert answer.status_code == 200
    apply(service, job, Failed(0, FAILURE))
    finished = service.get(path, headers={"Prefer": "wait=45"})
    assert finished.json()["finished"] is True
    same = service.get(
        path, headers={"Prefer": "wait=45", "If-None-Match": finished.headers["ETag"]}
    )
    assert same.status_code == 304
    assert same.headers["Preference-Applied"] == "wait=45"
    total = sum(a.elapsed.total_seconds() for a in (answer, finished, same))
    assert total < 40


def test_a_request_for_an_unknown_job_is_answered_at_once(service: RunningService) -> None:
    answer = service.get("/v1/images/upload/malformed", headers={"Prefer": "wait=45"})
    assert_problem(answer, 505, "unknown-job")


def test_a_client_that_disconnects_releases_its_place(service: RunningService) -> None:
    job = registered(service, job_of(1))
    address = service.url.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    path = f"/v1/images/upload/{job.job_id}"
    connection.request("GET", path, headers={"Prefer": "wait=45"})
    wait_until(lambda: service.subscribers == 1)
    connection.close()
    wait_until(lambda: service.subscribers == 0)


@pytest.mark.one_process
def test_requests_beyond_the_limit_are_answered_at_once(
    sandbox: RunningSandbox, tmp_path: Path
) -> None:
    with running_service(tmp_path / "t", imgur_base_url=sandbox.url, max_streams=1) as service:
        job = registered(service, job_of(2))
        held = Held(service, job.job_id, Prefer="wait=45")
        answer = service.get(f"/v1/images/upload/{job.job_id}", headers={"Prefer": "wait=45"})
        assert answer.status_code == 200
        assert "Preference-Applied" not in answer.headers
        apply(service, job, Started())
        assert held.answer().status_code == 200


def test_held_requests_for_one_job_get_the_same_response(
    service: RunningService, origin: Origin
) -> None:
    job_id = service.submit([origin.page("/hang", origin.hang)])
    assert origin.hanging.acquire(timeout=PATIENCE)
    held = [Held(service, job_id, Prefer="wait=45") for _ in range(20)]
    origin.released.set()
    answers = [one.answer() for one in held]
    assert {answer.status_code for answer in answers} == {200}
    assert len({(answer.headers["ETag"], answer.content) for answer in answers}) == 1


def test_a_status_is_encoded_once_for_all_held_requests() -> None:
    async def wait() -> tuple[tuple[Snapshot, bytes], ...]:
        job = job_of(1_000)
        topic = hub().of_job(job)
        limits = RequestLimits(Access(Settings(), []), IdempotencyKeys(MemoryStore()), 0)
        bodies = await asyncio.gather(*(encoded_status(job, topic, limits) for _ in range(20)))
        assert not topic.statuses
        return tuple(bodies)

    first, *others = asyncio.run(wait())
    assert json.loads(first[1])["uploaded"]["pending"]
    assert all(body is first for body in others)


def test_a_held_answer_is_given_when_the_service_stops(service: RunningService) -> None:
    held = Held(service, registered(service, job_of(1)).job_id, Prefer="wait=45")
    service.on_loop(service.app.events.close)
    answer = held.answer()
    assert answer.json()["finished"] is False
    assert answer.elapsed.total_seconds() < 40


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=10", 10),
        ("respond-async, WAIT = 5 ;foo=bar", 5),
        ('wait="7"', 7),
        ("wait=3, wait=9", 3),
        ("wait=" + "0" * 20 + "8", 8),
        ("wait=" + "9" * 5_000, 999_999_999),
        ("wait=\u0661", 0),
        ("wait=\xb2", 0),
        ("", 0),
        ("wait", 0),
        ("wait=", 0),
        ("wait=-1", 0),
        ("wait=1.5", 0),
        ("wait=x", 0),
        ('wait="', 0),
        ("await=5", 0),
        ("wait=99999999999999", 999_999_999),
    ],
)
def test_the_wait_of_a_prefer_header_is_read_as_rfc_7240_has_it(
    header: str, seconds: float
) -> None:
    assert preferred_wait(header) == seconds


def test_the_lists_etag_changes_with_the_waits_of_its_jobs() -> None:
    jobs = [job_of(1).summary(), job_of(1).summary()]
    waits: list[WaitingJson] = [
        {"waiting_until": until, "waiting_for": "user" if until else None}
        for until in (None, "2026-11-22T21:37:16Z", "2026-11-22T22:37:16Z")
    ]
    tags = {
        tag_of_list(jobs, [first, second], is_last=True) for first in waits for second in waits[:1]
    }
    assert len(tags) == 3
