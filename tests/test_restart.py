"""Tests of restarts with a journal, and of full disks and few descriptors."""

from __future__ import annotations

import contextlib
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from imageload.settings import SANDBOX_CLIENT_ID
from sandbox.testing import RunningSandbox, running_sandbox
from tests.disks import full, small_disk
from tests.events import Subscriber
from tests.jobs import all_landed, codes, distinct, urls
from tests.journals import locked
from tests.origin import Origin
from tests.service import (
    ROOT,
    RunningService,
    Start,
    account,
    running_service,
    wired,
)
from tests.waiting import PATIENCE, wait_until
from tests.wire import Wire, post


def test_jobs_links_failures_and_albums_are_restored(
    start: Start, origin: Origin, sandbox: RunningSandbox
) -> None:
    first = start()
    pages = [*distinct(origin, 5), origin.image("missing.png")]
    job_id = first.post(json={"urls": pages, "album": "Birds", "title": "A bird"}).json()["jobId"][
        0
    ]
    before = first.finish(job_id)
    records, album = (
        first.records(job_id),
        first.get("/v1/images/upload").json()["jobs"][0]["album"],
    )
    links = first.get("/v1/images").json()
    assert first.stop() == 0
    second = start()
    after = second.status(job_id)
    assert after == before
    assert second.records(job_id) == records
    assert second.get("/v1/images/upload").json()["jobs"][0]["album"] == album
    assert second.get("/v1/images").json() == links
    assert album["link"]
    again = second.session.delete(
        f"{second.url}/v1/images/upload/{job_id}?purge=true", timeout=PATIENCE
    )
    assert again.json()["purging"] == 5, "the deletehashes were kept"
    second.finish(job_id)
    assert sandbox.images() == []


def test_a_job_stopped_in_mid_job_continues_and_uploads_nothing_twice(
    start: Start, origin: Origin, sandbox: RunningSandbox
) -> None:
    first = start("--uploads=4")
    sandbox.fault("slow_answer", seconds=0.1, count=0)
    pages = distinct(origin, 120)
    job_id = first.submit(pages)
    wait_until(lambda: len(first.status(job_id)["uploaded"]["completed"]) > 10)
    assert first.stop() == 0
    log = "".join(first.log)
    assert "Traceback" not in log
    sandbox.clear_faults()
    second = start()
    assert second.status(job_id)["status"] in ("pending", "in-progress")
    status = second.finish(job_id)
    assert len(status["uploaded"]["completed"]) == 120
    assert len(sandbox.images()) == 120, "nothing twice"
    assert not any(each["maybe_duplicate"] for each in second.records(job_id).values())


def test_subscribers_of_a_stopped_job_get_a_shutdown_event(
    start: Start, origin: Origin, sandbox: RunningSandbox
) -> None:
    first = start("--uploads=4")
    sandbox.fault("slow_answer", seconds=0.2, count=4)
    sandbox.fault("slow_answer", seconds=3.0, count=0)
    job_id = first.submit(distinct(origin, 60))
    with Subscriber(f"{first.url}/v1/images/upload/{job_id}/events") as subscriber:
        subscriber.until("image")
        wait_until(lambda: sandbox.stats()["faults_met"]["slow_answer"] > 4)
        first.process.send_signal(signal.SIGTERM)
        wait_until(lambda: first.get("/readyz").status_code == 503)
        assert first.status(job_id)["finished"] is False
        told = list(subscriber.events())
    assert first.process.wait(PATIENCE) == 0
    first.stop()
    assert [event.data["state"] for event in told if event.name == "image"]
    assert {event.data["state"] for event in told if event.name == "image"} == {"completed"}
    assert not any(event.data["finished"] for event in told if event.name == "progress")
    assert told[-1].name == "shutdown"
    assert f"left open job={job_id}" in "".join(first.log)
    sandbox.clear_faults()
    assert len(start().finish(job_id)["uploaded"]["completed"]) == 60


@pytest.mark.parametrize("fault", ["503", "429", "forbidden", "internal"])
def test_uploads_refused_during_a_stop_are_retried_after_a_restart(
    start: Start, origin: Origin, sandbox: RunningSandbox, fault: str
) -> None:
    first = start()
    first.finish(first.submit(distinct(origin, 1, "first")))  # or one upload goes ahead, alone
    sandbox.fault(fault, seconds=0.5, count=0)
    job_id = first.submit(distinct(origin, 20))
    sandbox.wait_for("upload", 3)
    assert first.stop() == 0
    sandbox.clear_faults()
    second = start()
    assert second.finish(job_id)["uploaded"]["failed"] == []


def test_an_album_that_is_being_made_when_the_service_stops_is_made_after_a_restart(
    start: Start, origin: Origin, sandbox: RunningSandbox
) -> None:
    first = start()
    sandbox.fault("slow_answer", match="album", seconds=10.0, count=0)
    body = {"urls": distinct(origin, 3), "album": "Birds"}
    (job_id,) = first.post(json=body).json()["jobId"]
    sandbox.wait_for("album")
    assert first.stop() == 0
    sandbox.clear_faults()
    second = start()
    second.finish(job_id)
    assert second.get("/v1/images/upload").json()["jobs"][0]["album"]["link"]


def test_a_purge_continues_after_a_restart(
    start: Start, origin: Origin, sandbox: RunningSandbox
) -> None:
    first = start()
    job_id = first.submit(distinct(origin, 30))
    first.finish(job_id)
    sandbox.fault("slow_answer", match="DELETE", seconds=0.2, count=0)
    first.session.delete(f"{first.url}/v1/images/upload/{job_id}?purge=true", timeout=PATIENCE)
    wait_until(lambda: len(sandbox.images()) < 25)
    first.stop(signal.SIGKILL)
    sandbox.clear_faults()
    second = start()
    assert second.finish(job_id)["uploaded"]["completed"] == []
    assert sandbox.images() == []


def test_a_purge_in_mid_job_continues_after_a_stop_without_the_job(
    start: Start, origin: Origin, sandbox: RunningSandbox
) -> None:
    first = start()
    sandbox.fault("slow_answer", seconds=0.5, after=1, count=0)
    job_id = first.submit(distinct(origin, 200))
    wait_until(lambda: sandbox.stats()["uploads"] > 5)
    first.session.delete(f"{first.url}/v1/images/upload/{job_id}?purge=true", timeout=PATIENCE)
    assert first.stop() == 0
    sandbox.clear_faults()
    second = start()
    assert second.finish(job_id)["uploaded"]["pending"] == []
    images = second.records(job_id).values()
    assert {each["error"]["code"] for each in images} == {"purged", "cancelled"}
    assert sandbox.images() == []


def test_budgets_are_restored_after_a_clean_stop_and_requested_after_a_kill(
    start: Start, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.settings(unlimited=False)
    first = start()
    first.finish(first.submit(distinct(origin, 3)))
    known = first.get("/v1/quota").json()["budgets"]
    first.stop()
    asked = sandbox.stats()["requests"]["credits"]
    second = start()
    assert [each["limit"] for each in second.get("/v1/quota").json()["budgets"]] == [
        each["limit"] for each in known
    ]
    assert sandbox.stats()["requests"]["credits"] == asked
    second.stop(signal.SIGKILL)
    start()
    wait_until(lambda: sandbox.stats()["requests"]["credits"] == asked + 1)


def test_another_client_id_does_not_wait_for_the_budgets_of_the_one_before(
    tmp_path: Path, origin: Origin
) -> None:
    with running_sandbox(tmp_path / "sandbox", user_credits=35) as sandbox:
        options = wired(sandbox, store=str(tmp_path / "journal"))
        with running_service(tmp_path / "temp", **options) as service:
            job_id = service.submit(distinct(origin, 6))
            wait_until(lambda: service.get("/v1/quota").json()["parked"] == 3)
        with running_service(tmp_path / "temp", **options, imgur_client_id="new") as service:
            assert all_landed(service, [job_id])


def test_the_sandbox_without_limits_does_not_wait_for_the_budgets_of_the_one_with_them(
    tmp_path: Path, origin: Origin
) -> None:
    options: dict[str, Any] = {
        "imgur_client_id": SANDBOX_CLIENT_ID,
        "store": str(tmp_path / "journal"),
    }
    with running_sandbox(tmp_path / "sandbox", user_credits=35) as sandbox:
        options = wired(sandbox, **options)
        with running_service(tmp_path / "temp", **options, sandbox_limits=True) as service:
            job_id = service.submit(distinct(origin, 6))
            wait_until(lambda: service.get("/v1/quota").json()["parked"] == 3)
        sandbox.settings(unlimited=True)
        with running_service(tmp_path / "temp", **options) as service:
            assert all_landed(service, [job_id])


def test_a_rotated_refresh_token_outlives_the_process(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.settings(rotate_refresh_tokens=True)
    options: dict[str, Any] = {**account(sandbox), "store": str(tmp_path / "journal")}
    for _ in range(2):
        with running_service(tmp_path / "temp", **wired(sandbox, **options)) as service:
            assert all_landed(service, [service.submit(urls(origin, 2), dedupe=False)])
    assert sandbox.stats()["oauth_refreshes"] == 2


def test_concurrent_posts_share_the_wait_for_the_disk(
    tmp_path: Path, sandbox: RunningSandbox
) -> None:
    path = tmp_path / "journal"
    with (
        running_service(tmp_path / "temp", **wired(sandbox, store=str(path))) as service,
        contextlib.ExitStack() as stack,
    ):
        wires = [stack.enter_context(Wire(service.url)) for _ in range(12)]
        with locked(path):
            for wire in wires:
                wire.send(post(b'["ftp://a.example/"]'))
            wait_until(
                lambda: len([t for t in threading.enumerate() if "web-journal" in t.name]) == 12
            )
        # A request that waits too long is refused; on a busy machine some are.
        assert {wire.answer().status for wire in wires} <= {202, 503}


@pytest.mark.parametrize("name", ["journal", "link"])
@pytest.mark.parametrize("client_id", ["x", ""])
def test_a_second_process_on_the_journal_does_not_start_and_names_the_first(
    start: Start, tmp_path: Path, sandbox: RunningSandbox, name: str, client_id: str
) -> None:
    first = start()
    (tmp_path / "link").symlink_to(tmp_path / "journal")
    result = subprocess.run(
        [
            sys.executable,
            "main.py",
            "--port=0",
            f"--sandbox-port={sandbox.port}",  # which is taken, as that of the first one would be
            f"--sandbox-dir={tmp_path / 'sandbox-of-the-second'}",
            f"--store={tmp_path / name}",
        ],
        cwd=ROOT,
        env={"IMGUR_CLIENT_ID": client_id, "PATH": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 1
    assert str(first.process.pid) in result.stderr
    assert "Traceback" not in result.stderr


def test_finished_jobs_are_retired_and_their_links_stay(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    kept = {"store": str(tmp_path / "journal"), "keep_jobs": 2}
    with running_service(tmp_path / "temp", **wired(sandbox, **kept)) as service:
        jobs = [service.submit(distinct(origin, 3, name)) for name in "abcde"]
        for job_id in jobs:
            service.finish(job_id)
        links = service.get("/v1/images").json()["uploaded"]
        assert len(links) == 15
        assert service.service.transfers.run(service.service.image_load.retire()) == 3
        wait_until(lambda: len(_listed(service)) == 2)
        assert _listed(service) == jobs[:2:-1]
        assert service.get(f"/v1/images/upload/{jobs[0]}").status_code == 505
        assert service.get("/v1/images").json()["uploaded"] == links
        paged, path = [], "/v1/images?limit=4"
        while path:
            page = service.get(path)
            paged += page.json()["uploaded"]
            path = page.links.get("next", {}).get("url", "")
        assert paged == links
        shared = service.submit(distinct(origin, 3, "a"))
        service.finish(shared)
    with running_service(tmp_path / "temp", **wired(sandbox, **kept)) as service:
        assert _listed(service) == [shared, *jobs[:2:-1]]
        assert len(service.get("/v1/images").json()["uploaded"]) == 18


def test_the_links_can_be_read_during_a_stop(
    start: Start, origin: Origin, sandbox: RunningSandbox
) -> None:
    service = start()
    service.finish(service.submit(distinct(origin, 3, "first")))
    sandbox.fault("slow_answer", seconds=3.0, count=0)
    service.submit(distinct(origin, 3))
    sandbox.wait_for("upload", 4)
    service.process.send_signal(signal.SIGTERM)
    wait_until(lambda: service.get("/readyz").status_code == 503)
    assert len(service.get("/v1/images").json()["uploaded"]) == 3
    assert len(service.get("/v1/images?limit=9").json()["uploaded"]) == 3
    assert service.process.wait(PATIENCE) == 0


def test_requests_that_need_an_unreadable_journal_are_refused(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal"
    with running_service(tmp_path / "temp", **wired(sandbox, store=str(path))) as service:
        job_id = service.submit(distinct(origin, 2))
        service.finish(job_id)
        path.rename(tmp_path / "elsewhere")
        for asked in ("/v1/images", "/v1/images?limit=9"):
            refused = service.get(asked)
            assert refused.status_code == 503
            assert refused.json()["type"] == "urn:imageload:problem:journal-unavailable"
        service.session.delete(
            f"{service.url}/v1/images/upload/{job_id}?purge=true", timeout=PATIENCE
        )
        service.finish(job_id)
        records = service.records(job_id).values()
        assert [each["error"]["code"] for each in records] == ["disk_error"] * 2
        assert {each["state"] for each in records} == {"completed"}, "others may have them too"
        (tmp_path / "elsewhere").rename(path)
        wait_until(lambda: service.get("/readyz").status_code == 200)
        assert len(service.get("/v1/images").json()["uploaded"]) == 2
        service.session.delete(
            f"{service.url}/v1/images/upload/{job_id}?purge=true", timeout=PATIENCE
        )
        wait_until(lambda: sandbox.images() == [])
    assert "Traceback" not in caplog.text


def _listed(service: RunningService) -> list[str]:
    return [job["job_id"] for job in service.get("/v1/images/upload").json()["jobs"]]


def test_a_job_that_kills_the_service_each_time_is_given_up(
    start: Start, origin: Origin, tmp_path: Path
) -> None:
    hanging = origin.page("/h", origin.hang)
    first = start("--downloads=1")
    job_id = first.submit([hanging])
    for crashes in (1, 2, 9, 10):
        assert origin.hanging.acquire(timeout=PATIENCE)
        first.stop(signal.SIGKILL)
        if crashes == 9:  # the six crashes between would only take time
            with contextlib.closing(sqlite3.connect(tmp_path / "journal")) as journal, journal:
                name = "journal:crashes-without-progress"
                changed = journal.execute("UPDATE setting SET value = 8 WHERE name = ?", (name,))
                assert changed.rowcount == 1
        first = start("--downloads=1")
    wait_until(lambda: first.status(job_id)["uploaded"]["failed"] == [hanging])
    assert first.records(job_id)[hanging]["error"]["code"] == "poison"


# Running out


def test_a_full_journal_disk_refuses_new_jobs_until_there_is_room_and_loses_none(
    start: Start, origin: Origin, tmp_path: Path, sandbox: RunningSandbox
) -> None:
    with small_disk(tmp_path / "disk", 4_000) as disk:
        service = start(journal=disk / "journal")
        sandbox.fault("slow_answer", seconds=0.05, count=0)
        job_id = service.submit(distinct(origin, 100))
        with full(disk):
            wait_until(lambda: service.post(json=distinct(origin, 2, "no")).status_code == 503)
            refused = service.post(json=distinct(origin, 2, "no"))
            assert refused.json()["type"] == "urn:imageload:problem:journal-unavailable"
            assert refused.headers["Retry-After"]
            wait_until(lambda: service.get("/readyz").status_code == 503)
            assert service.get("/readyz").json()["journal"]
        wait_until(lambda: service.get("/readyz").status_code == 200)
        status = service.finish(job_id)
        assert len(status["uploaded"]["completed"]) == 100
        other = service.submit(distinct(origin, 2, "yes"))
        service.finish(other)
        assert service.stop() == 0
        again = start(journal=disk / "journal")
        assert again.status(job_id) == status
        assert len(again.get("/v1/images/upload").json()["jobs"]) == 2
        again.stop()
    assert len(sandbox.images()) == 102


def test_a_full_temp_disk_fails_images_until_there_is_room(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    with small_disk(tmp_path / "disk", 400) as disk:
        with (
            running_service(disk / "temp", **wired(sandbox, store="")) as service,
            full(disk),
        ):
            job_id = service.submit(distinct(origin, 20))
            service.finish(job_id)
            assert set(codes(service, job_id)) <= {None, "disk_full"}
            assert "disk_full" in codes(service, job_id)
            assert service.get("/healthz").status_code == 200
        waits = {"retry_seconds": 0.5, "retry_cap_seconds": 20.0}  # in which uploads make room
        with running_service(disk / "temp", **wired(sandbox, **waits)) as service:
            # More images than there is room for at once.
            assert all_landed(service, [service.submit(distinct(origin, 200, "more"))])


# The name has two addresses.
@pytest.mark.parametrize(("clients", "host"), [(0, "127.0.0.1"), (100, "localhost")])
def test_64_descriptors_are_enough_for_a_job_of_200_images(
    start: Start, origin: Origin, monkeypatch: pytest.MonkeyPatch, clients: int, host: str
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = [sys.executable, "-c", "import resource,os,sys;"
             "resource.setrlimit(resource.RLIMIT_NOFILE,(64,64));"
             "os.execv(sys.executable,[sys.executable,*sys.argv[1:]])"]  # fmt: skip
    popen = subprocess.Popen

    def limited(command: list[str], **keywords: Any) -> subprocess.Popen[str]:
        return popen([*limit, *command[1:]], **keywords)

    monkeypatch.setattr(subprocess, "Popen", limited)
    service = start("--allow-origin=127.0.0.1,localhost")
    monkeypatch.undo()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
    with contextlib.ExitStack() as stack:
        for _ in range(clients):  # they get half of the descriptors, and say nothing
            stack.enter_context(Wire(service.url))
        job_id = service.submit(
            [url.replace("127.0.0.1", host, 1) for url in distinct(origin, 200)]
        )
        status = service.finish(job_id)
    assert len(status["uploaded"]["completed"]) == 200, "".join(service.log)[-3_000:]
    assert service.get("/healthz").status_code == 200
    assert service.stop() == 0


@pytest.mark.parametrize("spare", [0, 1, 2, 3, 4])
def test_a_lack_of_descriptors_is_no_failure_of_the_origin(origin: Origin, spare: int) -> None:
    """Descriptors run out at the look-up, at the socket, or at libcurl's copy of it."""
    code = f"""
import os, resource, time
from imageload.transport.curl import TransferLoop, Transport
from imageload.transport.request import Bounds, Request, TransferError
transfers = TransferLoop()
transfers.start()
transport = Transport(transfers, Bounds(), user_agent="test")
async def kind_of(host):
    url = f"http://{{host}}/images/png-rgb.png"
    request = Request(url=url, host=host, deadline=time.monotonic() + 5)
    taken = set(map(int, os.listdir("/dev/fd")))
    first_free = min(set(range(len(taken) + 1)) - taken)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + {spare}, most))
    try:
        await transport.perform(request, lambda response: None)
        return "answered"
    except TransferError as error:
        return error.kind
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
for host in ("127.0.0.1:{origin.port}", "nowhere.invalid"):
    print(transfers.run(kind_of(host)))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    by_address, by_name = ended.stdout.split()
    assert by_address in ("resource", "answered")
    assert by_name in ("resource", "dns", "timeout")
    if spare < 2:
        assert (by_address, by_name) == ("resource", "resource")
