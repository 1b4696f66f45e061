"""Tests of the memory of jobs: past its bound a POST is refused; finished jobs make room."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageload.image import Image, Item, memory_of
from imageload.job import Job
from sandbox.testing import RunningSandbox
from tests.origin import Origin
from tests.service import RunningService, assert_problem, running_service, wired
from tests.waiting import wait_until

PATH = "/v1/images/upload"


def hanging(origin: Origin, count: int, name: str = "a") -> list[str]:
    """URLs of images that the origin does not send."""
    page = origin.page("/hang", origin.hang)
    return [f"{page}?{name}{number}" for number in range(count)]


def listed(service: RunningService) -> list[str]:
    """The ids of all jobs, newest first."""
    return [job["job_id"] for job in service.get(PATH).json()["jobs"]]


def gauge(service: RunningService, name: str) -> float:
    """A metric without labels."""
    found = re.search(rf"^imageload_{name} (\S+)$", service.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


@pytest.fixture
def service(tmp_path: Path, origin: Origin) -> Iterator[RunningService]:
    """A service with room for some forty images."""
    assert 30_000 < memory_of(hanging(origin, 40)) < 40_000
    with running_service(tmp_path / "t", jobs_bytes=40_000, max_active_jobs=1) as running:
        yield running


def test_jobs_past_the_bound_are_refused_and_none_of_them_is_accepted(
    service: RunningService, origin: Origin
) -> None:
    job_id = service.submit(hanging(origin, 30))
    lists = [hanging(origin, 5, "b"), hanging(origin, 20, "c")]
    answer = service.post(json=lists)
    problem = assert_problem(answer, 429, "backlog-full")
    assert "--jobs-bytes" in problem["detail"]
    assert answer.headers["Retry-After"] == "30"
    assert listed(service) == [job_id]
    assert gauge(service, "job_bytes_limit") == 40_000
    assert 20_000 < gauge(service, "job_bytes") < 40_000
    assert service.post(json=lists[0]).status_code == 202, "one that fits is still accepted"


def test_finished_jobs_make_room_the_oldest_first(service: RunningService, origin: Origin) -> None:
    first, second = (service.submit(hanging(origin, 15, name)) for name in "ab")
    for job_id in (first, second):
        assert service.session.delete(f"{service.url}{PATH}/{job_id}").status_code == 202
        service.finish(job_id)
    wait_until(lambda: not service.service.image_load._active)
    third = service.submit(hanging(origin, 25, "c"))
    assert listed(service) == [third, second]
    assert_problem(service.get(f"{PATH}/{first}"), 505, "unknown-job")


def test_finished_jobs_stay_where_their_room_would_not_do(
    service: RunningService, origin: Origin
) -> None:
    finished = service.submit(hanging(origin, 5, "a"))
    service.session.delete(f"{service.url}{PATH}/{finished}")
    service.finish(finished)
    running = service.submit(hanging(origin, 35, "b"))
    assert_problem(service.post(json=hanging(origin, 20, "c")), 429, "backlog-full")
    assert listed(service) == [running, finished]


def test_jobs_for_which_there_will_never_be_room_are_too_large(
    service: RunningService, origin: Origin
) -> None:
    assert_problem(service.post(json=hanging(origin, 60)), 413, "too-large")
    entry = {"url": "http://a.example/", "description": "x" * 9_000}
    entries = [{**entry, "url": f"http://a.example/{number}"} for number in range(5)]
    assert_problem(service.post(json=entries), 413, "too-large")
    assert listed(service) == []
    assert gauge(service, "job_bytes") == 0


def test_a_store_with_more_than_the_bound_is_continued(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    store = str(tmp_path / "journal")
    with running_service(tmp_path / "t", **wired(sandbox, store=store)) as service:
        urls = [f"{origin.image('png-rgb.png')}?{number}" for number in range(40)]
        service.finish(service.submit(urls))
        before = service.submit(hanging(origin, 40))
    missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    origin.page("/hang", lambda connection: connection.sendall(missing))
    with running_service(
        tmp_path / "t", **wired(sandbox, store=store, jobs_bytes=40_000)
    ) as service:
        assert gauge(service, "job_bytes") > 40_000
        service.finish(before)
        wait_until(lambda: not service.service.image_load._active)
        after = service.submit(["ftp://a.example/"])
        assert after in listed(service)
        assert gauge(service, "job_bytes") < 40_000
        assert len(service.get("/v1/images").json()["uploaded"]) == 40


def test_bodies_in_memory_are_shown(service: RunningService) -> None:
    assert gauge(service, "body_bytes") == 0
    assert gauge(service, "body_bytes_limit") == 256 * 2**20


def test_the_memory_of_a_job_counts_all_of_its_texts() -> None:
    plain = memory_of(["http://a.example/"])
    titled = memory_of([Item("http://a.example/", "x" * 500, "y" * 1_000)])
    assert 1_500 < titled - plain < 1_700
    job = Job([Item("http://a.example/", "x" * 500, "y" * 1_000)])
    assert job.memory_bytes == titled
    assert (
        memory_of([Image("http://a.example/", title="x" * 500, description="y" * 1_000)]) == titled
    )
