"""An origin that is away for a while costs no image; one that stays away ends all soon."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from imageload.errors import DownloadError
from imageload.fetch.hosts import HostRules
from imageload.image import Failed, Report
from sandbox.testing import RunningSandbox
from tests.origin import IMAGES, Origin, Page, answer, redirect, reset
from tests.service import running_service, wired
from tests.waiting import PATIENCE
from tests.wired import Folder, Wired, urls

Wire = Callable[..., Wired]

PNG = (IMAGES / "png-rgb.png").read_bytes()
# One failure opens the breaker: of five, slow threads could let one image have most.
RULES = HostRules(failures=1, rest_seconds=0.01, longest_rest_seconds=0.01, give_up_seconds=60)
AWAY = {
    "reset": DownloadError("connect_error", "The origin closed the connection."),
    "503": DownloadError("origin_busy", "The origin answered 503.", status_code=503),
    "503 with Retry-After": DownloadError(
        "origin_busy", "The origin answered 503.", status_code=503, retry_after=0.01
    ),
    "dead name": DownloadError("dns_error", "The host's name does not resolve."),
    "no answer": DownloadError("timeout", "The origin was too slow."),
}


class Outage:
    """Downloads that fail with `error` until `failures` of them have, then succeed."""

    def __init__(self, folder: Folder, error: DownloadError, failures: float) -> None:
        self._folder = folder
        self._error = error
        self._lock = threading.Lock()
        self.failures = failures
        self.failed = Counter[str]()

    def download(self, url: str) -> Report:
        with self._lock:
            is_away = self.failed.total() < self.failures
            self.failed[url] += is_away
        if is_away:
            raise self._error
        return self._folder.download(url)


@pytest.mark.parametrize("kind", AWAY)
@pytest.mark.parametrize("images", [100, 1])
def test_an_origin_that_is_away_for_a_while_costs_no_image(
    wire: Wire, folder: Folder, kind: str, images: int
) -> None:
    outage = Outage(folder, AWAY[kind], failures=60)
    made = wire(outage.download, rules=RULES).run(urls(images))
    assert {image.state for image in made.values()} == {"completed"}
    assert outage.failed.total() == 60


@pytest.mark.parametrize("kind", AWAY)
def test_an_origin_that_stays_away_ends_all_and_a_retry_brings_them_back(
    wire: Wire, folder: Folder, kind: str
) -> None:
    outage = Outage(folder, AWAY[kind], failures=float("inf"))
    rules = replace(RULES, rest_seconds=0.05, longest_rest_seconds=0.05, give_up_seconds=0.2)
    made = wire(outage.download, rules=rules)
    job = made.start(urls(200))
    failures = [image.failure for image in made.wait(job).values()]
    assert {failure and failure.code for failure in failures} == {AWAY[kind].code}
    sentences = [failure.message for failure in failures if failure is not None]
    assert all(re.match(r"The origin has failed for \d+ s\. ", text) for text in sentences)
    assert all(AWAY[kind].message in text for text in sentences)
    tries = made.attempts(job, Failed)
    assert all(bool(tries[url]) <= bool(outage.failed[url]) for url in tries), "tried, or 0 tries"
    made.wait_until_idle()

    outage.failures = 0
    assert made.on_loop(made.load.retry(job, "transient")) == 200
    made.wait_until_idle()
    assert job.summary().counts["completed"] == 200


def test_broken_images_at_the_head_of_a_list_do_not_pass_for_a_broken_origin(
    wire: Wire, folder: Folder
) -> None:
    def download(url: str) -> Report:
        if int(url.rpartition("/")[2]) < 8:
            raise AWAY["503"]
        return folder.download(url)

    images = [*wire(download, rules=replace(RULES, failures=5), per_host=8).run(urls(50)).values()]
    assert {image.state for image in images[:8]} == {"failed"}
    assert {image.attempts for image in images[:8]} == {3}
    assert {image.state for image in images[8:]} == {"completed"}


def first(count: int, page: Page, then: Page) -> Page:
    """A page that is `page` for the first requests, and `then` after them."""
    left = threading.Semaphore(count)

    def either(connection: socket.socket) -> None:
        (page if left.acquire(blocking=False) else then)(connection)

    return either


@pytest.mark.parametrize(
    "away", [reset, answer(b"", "503 Service Unavailable")], ids=["reset", "503"]
)
def test_a_job_outlives_an_outage_of_its_origin(
    sandbox: RunningSandbox, origin: Origin, tmp_path: Path, away: Page
) -> None:
    origin.default = first(12, away, answer(PNG))
    options = wired(sandbox, host_failures=1, host_rest_seconds=0.02, host_give_up_seconds=60)
    with running_service(tmp_path / "t", per_host=8, **options) as service:
        status = service.finish(service.submit([f"{origin.url}/{n}" for n in range(100)]))
    assert len(status["uploaded"]["completed"]) == 100


def run_redirects(
    sandbox: RunningSandbox, origin: Origin, temp_dir: Path, page: Page, count: int
) -> None:
    """Load images whose URLs redirect to another host, which responds with `page`."""
    options = wired(sandbox, host_failures=1, host_rest_seconds=0.02, host_give_up_seconds=60)
    options["allow_origin"] = ("127.0.0.1", "localhost")
    origin.default = page
    origin.pages["/to"] = redirect(f"http://localhost:{origin.port}/image")
    with running_service(temp_dir, per_host=3, **options) as service:
        status = service.finish(service.submit([f"{origin.url}/to?{n}" for n in range(count)]))
    assert len(status["uploaded"]["completed"]) == count


def test_a_job_outlives_an_outage_of_the_host_that_its_redirects_lead_to(
    sandbox: RunningSandbox, origin: Origin, tmp_path: Path
) -> None:
    run_redirects(sandbox, origin, tmp_path / "t", first(7, reset, answer(PNG)), 100)


def test_the_host_that_a_redirect_leads_to_has_slots_of_its_own(
    sandbox: RunningSandbox, origin: Origin, tmp_path: Path
) -> None:
    meet, lock, busy, most = threading.Barrier(3), threading.Lock(), 0, 0

    def counted(connection: socket.socket) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        meet.wait(PATIENCE)  # breaks unless three are here at once
        with lock:
            busy -= 1
        answer(PNG)(connection)

    run_redirects(sandbox, origin, tmp_path / "t", counted, 30)
    assert most == 3
