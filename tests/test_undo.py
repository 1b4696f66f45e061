"""Tests of cancel, retry and purge of the whole service."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from sandbox.testing import RunningSandbox, running_sandbox
from tests.jobs import all_landed, codes, delete, distinct, retry, urls
from tests.origin import IMAGES, Origin, answer
from tests.service import RunningService, running_service, wired
from tests.waiting import PATIENCE, wait_until

PNG = (IMAGES / "png-palette.png").read_bytes()
AT_ONCE = 10.0  # on a busy machine; an origin or Imgur that hangs is given up after 15 s


# Cancel


@pytest.mark.parametrize("where", ["downloads", "uploads"])
def test_a_cancel_ends_downloads_and_uploads_at_once(
    service: RunningService, origin: Origin, sandbox: RunningSandbox, where: str
) -> None:
    if where == "downloads":
        job_id = service.submit([f"{origin.page('/h', origin.hang)}?{n}" for n in range(300)])
        assert origin.hanging.acquire(timeout=PATIENCE)
    else:
        sandbox.fault("hang", count=0)
        job_id = service.submit(urls(origin, 300), dedupe=False)
        sandbox.wait_for("upload", 1)
    begun = time.monotonic()
    ending = delete(service, job_id)
    status = service.finish(job_id)
    assert time.monotonic() - begun < AT_ONCE
    assert ending == {"cancelled": 300, "purging": 0}
    assert status["uploaded"]["pending"] == status["uploaded"]["completed"] == []
    assert codes(service, job_id) == ["cancelled"] * 300
    assert service.temp_files == []
    assert delete(service, job_id) == {"cancelled": 0, "purging": 0}, "twice is as once"


def test_a_cancel_keeps_completed_images(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    hanging = origin.page("/h", origin.hang)
    job_id = service.submit([*urls(origin, 10), f"{hanging}?1", f"{hanging}?2"], dedupe=False)
    wait_until(lambda: len(service.status(job_id)["uploaded"]["completed"]) == 10)
    assert delete(service, job_id) == {"cancelled": 2, "purging": 0}
    assert len(service.finish(job_id)["uploaded"]["completed"]) == 10
    assert len(sandbox.images()) == 10


@pytest.mark.one_process
def test_a_job_that_is_queued_can_be_cancelled(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    with running_service(tmp_path / "t", **wired(sandbox, max_active_jobs=1)) as service:
        first = service.submit([origin.page("/h", origin.hang)])
        assert origin.hanging.acquire(timeout=PATIENCE)
        waiting = service.submit(urls(origin, 5))
        assert service.status(waiting)["status"] == "pending"
        assert delete(service, waiting) == {"cancelled": 5, "purging": 0}
        assert codes(service, waiting) == ["cancelled"] * 5
        assert not service.status(first)["finished"]
        delete(service, first)
        service.finish(first)


def test_a_cancel_does_not_wait_for_a_conversion(service: RunningService, origin: Origin) -> None:
    webp = (IMAGES / "webp-extended-alpha.webp").read_bytes()
    pages = [origin.page(f"/{n}.webp", answer(webp)) for n in range(100)]
    job_id = service.submit([f"{url}?{n}" for n, url in enumerate(pages)], dedupe=False)
    wait_until(lambda: service.status(job_id)["uploaded"]["completed"])
    for pid in service.service.converters._workers.pids:
        os.kill(pid, signal.SIGSTOP)  # its conversion does not end by itself
    assert delete(service, job_id)["cancelled"] > 0
    service.finish(job_id)
    wait_until(lambda: not service.temp_files)


def test_a_job_that_shares_an_image_with_a_cancelled_job_uploads_it(
    service: RunningService, origin: Origin
) -> None:
    hanging = origin.page("/h", origin.hang)
    first = service.submit([hanging])
    assert origin.hanging.acquire(timeout=PATIENCE)
    second = service.submit([hanging])
    delete(service, first)
    service.finish(first)
    assert origin.hanging.acquire(timeout=PATIENCE), "the second asks for it by itself"
    assert not service.status(second)["finished"]
    delete(service, second)
    service.finish(second)


def test_an_upload_cancelled_before_its_response_is_a_maybe_duplicate(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    assert all_landed(service, [service.submit(urls(origin, 1, "first"))])
    sandbox.fault("slow_answer", seconds=30, count=0)
    job_id = service.submit(urls(origin, 3), dedupe=False)
    wait_until(lambda: len(sandbox.images()) == 4)
    delete(service, job_id)
    service.finish(job_id)
    records = service.records(job_id).values()
    assert [each["maybe_duplicate"] for each in records] == [True] * 3


# Retry


def test_a_retry_uploads_failed_images_in_the_same_job(
    service: RunningService, origin: Origin
) -> None:
    pages = iter([answer(b"gone", "404 Not Found")])
    good = answer(PNG)
    flaky = origin.page("/flaky", lambda connection: next(pages, good)(connection))
    job_id = service.submit([*urls(origin, 3), flaky], dedupe=False)
    assert service.finish(job_id)["uploaded"]["failed"] == [flaky]
    assert retry(service, job_id, "?only=transient").json()["requeued"] == 0
    answered = retry(service, job_id)
    assert (answered.status_code, answered.json()) == (202, {"job_id": job_id, "requeued": 1})
    assert all_landed(service, [job_id])
    assert len(service.status(job_id)["uploaded"]["completed"]) == 4
    assert retry(service, job_id).json()["requeued"] == 0, "there is nothing to try again"
    assert origin.requests["/flaky"] == 2


def test_one_failed_image_is_retried_alone(service: RunningService, origin: Origin) -> None:
    pages = {name: iter([answer(b"gone", "404 Not Found")]) for name in ("/one", "/other")}

    def flaky(name: str) -> str:
        return origin.page(name, lambda connection: next(pages[name], answer(PNG))(connection))

    hanging = origin.page("/h", origin.hang)
    job_id = service.submit([flaky("/one"), flaky("/other"), hanging], dedupe=False)
    wait_until(lambda: len(service.status(job_id)["uploaded"]["failed"]) == 2)
    assert retry(service, job_id, "?only=2").json() == {"job_id": job_id, "requeued": 1}
    wait_until(lambda: service.status(job_id)["uploaded"]["completed"])
    assert retry(service, job_id, "?only=2").json()["requeued"] == 0, "it has landed"
    assert service.status(job_id)["uploaded"]["failed"] == [f"{origin.url}/one"]
    delete(service, job_id)
    service.finish(job_id)
    assert retry(service, job_id, "?only=1").json()["requeued"] == 1
    wait_until(lambda: len(service.status(job_id)["uploaded"]["completed"]) == 2)
    assert service.finish(job_id)["uploaded"]["failed"] == [hanging]


def test_a_cancelled_job_can_be_retried(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.fault("hang", count=0)
    job_id = service.submit(urls(origin, 100), dedupe=False)
    sandbox.wait_for("upload", 1)
    delete(service, job_id)
    service.finish(job_id)
    sandbox.clear_faults()
    assert retry(service, job_id).json()["requeued"] == 100
    assert all_landed(service, [job_id])


def test_failed_images_of_a_running_job_can_be_retried(
    service: RunningService, origin: Origin
) -> None:
    pages = iter([answer(b"gone", "404 Not Found")])
    good = answer(PNG)
    flaky = origin.page("/flaky", lambda connection: next(pages, good)(connection))
    job_id = service.submit([flaky, origin.page("/h", origin.hang)])
    wait_until(lambda: service.status(job_id)["uploaded"]["failed"] == [flaky])
    assert retry(service, job_id).json()["requeued"] == 1
    wait_until(lambda: len(service.status(job_id)["uploaded"]["completed"]) == 1)
    delete(service, job_id)
    service.finish(job_id)


def test_bad_parameters_and_unknown_jobs_are_refused(
    service: RunningService, origin: Origin
) -> None:
    job_id = service.submit([origin.image("missing.png")])
    service.finish(job_id)
    for only in ("mine", "0", "2", "-1", "01"):
        assert retry(service, job_id, f"?only={only}").status_code == 400
    assert retry(service, "4227cacf-2ee1-4b52-b231-110304c4e203").status_code == 505
    unknown = service.session.delete(f"{service.url}/v1/images/upload/x", timeout=PATIENCE)
    assert unknown.status_code == 505
    odd = service.session.delete(
        f"{service.url}/v1/images/upload/{job_id}?purge=1", timeout=PATIENCE
    )
    assert odd.status_code == 400


# Purge


def test_a_purge_deletes_every_image_of_the_job_from_imgur(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    job_id = service.submit([*distinct(origin, 200), origin.image("missing.png")])
    assert len(service.finish(job_id)["uploaded"]["completed"]) == 200
    assert len(sandbox.images()) == 200
    assert delete(service, job_id, "?purge=true") == {"cancelled": 0, "purging": 200}
    status = service.finish(job_id)
    assert sandbox.images() == []
    assert service.temp_files == []
    assert status["uploaded"]["completed"] == status["uploaded"]["pending"] == []
    assert codes(service, job_id) == [*["purged"] * 200, "http_status"]
    assert {each["link"] for each in service.records(job_id).values()} == {None}
    assert service.get("/v1/images").json()["uploaded"] == []
    assert delete(service, job_id, "?purge=true") == {"cancelled": 0, "purging": 0}


def test_a_purge_in_mid_job_cancels_the_job_and_deletes_completed_images(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    hanging = origin.page("/h", origin.hang)
    job_id = service.submit([*distinct(origin, 20), *(f"{hanging}?{n}" for n in range(5))])
    wait_until(lambda: len(service.status(job_id)["uploaded"]["completed"]) == 20)
    assert delete(service, job_id, "?purge=true") == {"cancelled": 5, "purging": 20}
    service.finish(job_id)
    assert sandbox.images() == []
    assert codes(service, job_id) == ["purged"] * 20 + ["cancelled"] * 5


def test_a_purge_deletes_images_whose_upload_was_in_flight(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.fault("slow_answer", seconds=0.5, after=1, count=0)
    job_id = service.submit(distinct(origin, 200))
    wait_until(lambda: sandbox.stats()["uploads"] > 5)
    ending = delete(service, job_id, "?purge=true")
    service.finish(job_id)
    assert sandbox.images() == []
    assert codes(service, job_id).count("purged") > ending["purging"]
    assert set(codes(service, job_id)) == {"purged", "cancelled"}
    assert not any(each["maybe_duplicate"] for each in service.records(job_id).values())


def test_an_image_shared_with_another_job_is_deleted_when_both_are_purged(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    shared, own = distinct(origin, 2, "shared"), distinct(origin, 3, "own")
    first = service.submit([*shared, *own])
    service.finish(first)
    second = service.submit(shared)
    service.finish(second)
    delete(service, first, "?purge=true")
    assert service.finish(first)["uploaded"]["completed"] == []
    assert len(sandbox.images()) == 2
    kept = service.records(first)[shared[0]]["error"]
    assert kept["code"] == "purged"
    assert "another job" in kept["message"]
    delete(service, second, "?purge=true")
    service.finish(second)
    assert sandbox.images() == []


def test_the_same_bytes_are_uploaded_again_after_a_purge(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    pages = distinct(origin, 2)
    job_id = service.submit(pages)
    service.finish(job_id)
    delete(service, job_id, "?purge=true")
    service.finish(job_id)
    assert all_landed(service, [service.submit(pages)])
    assert len(sandbox.images()) == 2
    assert retry(service, job_id).json()["requeued"] == 2
    assert all_landed(service, [job_id])
    assert len(sandbox.images()) == 2, "they were there"


def test_a_purge_waits_for_the_quota_and_a_retry_waits_for_the_purge(
    tmp_path: Path, origin: Origin
) -> None:
    limits = {"user_credits": 70, "hour_seconds": 6.0}
    with (
        running_sandbox(tmp_path / "sandbox", **limits) as sandbox,
        running_service(tmp_path / "t", **wired(sandbox, quota_hour_seconds=6.0)) as service,
    ):
        job_id = service.submit(distinct(origin, 6))
        assert len(service.finish(job_id)["uploaded"]["completed"]) == 6
        sandbox.settings(user_credits=64)  # 61 are spent
        delete(service, job_id, "?purge=true")
        wait_until(lambda: codes(service, job_id).count("purged") >= 3)
        assert not service.status(job_id)["finished"]
        busy = retry(service, job_id)
        assert (busy.status_code, busy.json()["type"]) == (409, "urn:imageload:problem:job-busy")
        assert busy.headers["Retry-After"]
        assert service.finish(job_id)["uploaded"]["completed"] == []
        assert sandbox.images() == []


def test_an_image_that_imgur_does_not_delete_stays_with_the_reason(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    job_id = service.submit(distinct(origin, 3))
    service.finish(job_id)
    sandbox.fault("answer", match="DELETE", status=400, message="No.")
    sandbox.fault("answer", match="DELETE", status=404, message="Unable to find an image")
    delete(service, job_id, "?purge=true")
    status = service.finish(job_id)
    assert len(status["uploaded"]["completed"]) == 1
    assert sorted(filter(None, codes(service, job_id))) == ["purged", "purged", "upload_rejected"]
    delete(service, job_id, "?purge=true")
    assert service.finish(job_id)["uploaded"]["completed"] == []
