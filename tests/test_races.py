"""Two requests at one job at the same moment: they act one after the other, as each answered."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import requests

from sandbox.testing import RunningSandbox
from tests.jobs import codes, distinct, urls
from tests.journals import locked
from tests.origin import IMAGES, Origin, Page, answer
from tests.service import RunningService, running_service, wired
from tests.waiting import PATIENCE, wait_until

PNG = (IMAGES / "png-rgb.png").read_bytes()
JOBS = "/v1/images/upload"
ROUNDS = 4


@pytest.fixture
def small(tmp_path: Path, sandbox: RunningSandbox) -> Iterator[RunningService]:
    """A service that works on one job at a time, and keeps one finished job."""
    with running_service(
        tmp_path / "temp", **wired(sandbox, max_active_jobs=1, keep_jobs=1)
    ) as service:
        yield service


def at_once(*requests_to_send: Callable[[], requests.Response]) -> list[requests.Response]:
    """The responses to requests that are sent at the same moment."""
    barrier = threading.Barrier(len(requests_to_send))

    def send(request: Callable[[], requests.Response]) -> requests.Response:
        barrier.wait(PATIENCE)
        return request()

    with ThreadPoolExecutor(len(requests_to_send)) as pool:
        sent = [pool.submit(send, request) for request in requests_to_send]
        wait(sent)
        return [each.result() for each in sent]


def retry(service: RunningService, job_id: str) -> Callable[[], requests.Response]:
    """A request for a retry of the job."""
    return lambda: requests.post(f"{service.url}{JOBS}/{job_id}/retry", timeout=PATIENCE)


def delete(
    service: RunningService, job_id: str, query: str = ""
) -> Callable[[], requests.Response]:
    """A request to cancel the job."""
    return lambda: requests.delete(f"{service.url}{JOBS}/{job_id}{query}", timeout=PATIENCE)


def fails_first(page: Page) -> Page:
    """`page`, after one 404."""
    number = itertools.count()
    missing = answer(status="404 Not Found")
    return lambda connection: (page if next(number) else missing)(connection)


def test_retries_of_a_job_whose_album_failed_all_get_202(
    small: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.fault("data_false", match="album")
    pages = [*urls(origin, 2), origin.page("/flaky", fails_first(answer(PNG)))]
    job_id = small.post(json={"urls": pages, "album": "Birds"}).json()["jobId"][0]
    small.finish(job_id)
    blocker = small.submit([origin.page("/hanging", origin.hang)])
    assert origin.hanging.acquire(timeout=PATIENCE)
    answers = [retry(small, job_id)() for _ in range(3)] + at_once(*[retry(small, job_id)] * 3)
    assert [each.status_code for each in answers] == [202] * 6
    delete(small, blocker)()
    small.finish(job_id)
    assert codes(small, job_id) == [None] * 3
    assert small.get(f"{JOBS}/{job_id}/images").json()["album"]["link"]


def test_concurrent_retries_of_a_job_upload_each_image_once(
    small: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    for number in range(ROUNDS):
        good = distinct(origin, 4, f"r{number}-")
        flaky = [
            origin.page(f"/f{number}-{n}", fails_first(origin.pages[url.removeprefix(origin.url)]))
            for n, url in enumerate(good)
        ]
        job_id = small.submit([*good, *flaky], dedupe=False)
        small.finish(job_id)
        blocker = small.submit(urls(origin, 3, f"b{number}"), dedupe=False)
        answers = at_once(*[retry(small, job_id)] * 4)
        assert {each.status_code for each in answers} <= {202, 409}
        small.finish(blocker)
        small.finish(job_id)
        assert codes(small, job_id) == [None] * 8
    named = small.get("/v1/images").json()["uploaded"]
    assert len(sandbox.images()) == len(set(named)), "no image that no job names"
    wait_until(lambda: not small.temp_files)


def test_a_cancel_within_a_retry_is_answered_with_the_count_of_images_it_ends(
    service: RunningService, origin: Origin
) -> None:
    for number in range(ROUNDS):
        hanging = origin.page("/hanging", answer(status="404 Not Found"))
        failing = [f"{hanging}?{number}-{n}" for n in range(200)]
        job_id = service.submit(failing)
        service.finish(job_id)
        origin.pages["/hanging"] = origin.hang
        retried, cancelled = at_once(retry(service, job_id), delete(service, job_id))
        assert (retried.status_code, cancelled.status_code) in {(202, 202), (409, 202)}
        if retried.status_code == 202 and not cancelled.json()["cancelled"]:
            # The cancel came first, and the retry continues.
            assert delete(service, job_id)().json()["cancelled"] == 200
        else:
            assert cancelled.json()["cancelled"] in (0, 200), "all of the retry, or nothing"
        service.finish(job_id)
        assert set(codes(service, job_id)) <= {"cancelled", "http_status"}


def test_a_job_that_is_retried_is_not_retired(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    journal = tmp_path / "journal"
    with running_service(
        tmp_path / "temp", **wired(sandbox, keep_jobs=1, store=str(journal))
    ) as service:
        job_id = service.submit([origin.page("/late", fails_first(origin.hang))])
        service.finish(job_id)
        service.finish(service.submit(["ftp://no.image/"]))  # the one that is kept
        with ThreadPoolExecutor(2) as pool:
            with locked(journal):  # all writes wait
                retiring = pool.submit(service.service.run_maintenance)
                wait([retiring], timeout=0.5)
                retrying = pool.submit(retry(service, job_id))
                wait([retrying], timeout=0.5)
            retried = retrying.result()
            retiring.result()
        service.submit(["ftp://no.image/2"])  # on disk when it is answered, as all before it
        if retried.status_code == 202:
            assert service.get(f"{JOBS}/{job_id}").status_code == 200, "it is at work"
            delete(service, job_id)()
            service.finish(job_id)
        else:
            assert retried.status_code in (409, 505)
