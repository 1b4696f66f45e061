"""A test of one job from its POST to its undo, over HTTP, with a kill -9 in the middle."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
from pathlib import Path
from typing import Any

import requests

from sandbox.testing import RunningSandbox
from tests.contract import Contract, running_contract
from tests.events import Event, Subscriber
from tests.origin import IMAGES, Origin, answer
from tests.service import Client, ServiceProcess, Start
from tests.waiting import PATIENCE, wait_until

PNG = (IMAGES / "png-rgba.png").read_bytes()
IMAGES_OF_THE_JOB = 60
TOLD = 8
KILLED_AFTER = 24
JOBS = "/v1/images/upload"


def pages(origin: Origin) -> dict[str, bytes]:
    """URLs of images, each with other bytes."""
    bodies = [PNG + number.to_bytes(4, "big") for number in range(IMAGES_OF_THE_JOB)]
    return {origin.page(f"/{n}.png", answer(body)): body for n, body in enumerate(bodies)}


def are_written(events: list[Event], journal: Path) -> bool:
    """Whether the images of these events are in the journal as they were told."""
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        versions = dict(connection.execute("SELECT n, version FROM image").fetchall())
    return all(versions.get(each.data["number"] - 1, 0) >= int(each.id) for each in events)


def killed_in_its_middle(
    service: ServiceProcess, sandbox: RunningSandbox, journal: Path, body: dict[str, Any]
) -> tuple[str, list[Event]]:
    """POST the job, kill the service in its middle: the jobId and the first `image` events.

    Those are on disk; later uploads are on Imgur, which has not responded when the kill comes.
    """
    sandbox.fault("slow_answer", seconds=0.2, count=KILLED_AFTER)
    sandbox.fault("slow_answer", seconds=10 * PATIENCE, count=0)
    accepted = service.post(json=body)
    assert accepted.status_code == 202
    (job_id,) = accepted.json()["jobId"]
    assert accepted.headers["Location"] == f"{JOBS}/{job_id}"
    with Subscriber(f"{service.url}{JOBS}/{job_id}/events") as subscriber:
        first = [event for event in subscriber.until("image", TOLD) if event.name == "image"]
        subscriber.until("image", KILLED_AFTER - TOLD)
    wait_until(lambda: are_written(first, journal))
    status = service.status(job_id)
    assert (status["status"], status["finished"]) == ("in-progress", False)
    assert sum(map(len, status["uploaded"].values())) == len(body["urls"])
    assert len(status["uploaded"]["completed"]) >= KILLED_AFTER - 1
    service.stop(signal.SIGKILL)
    return job_id, first


def events_to_the_end(service: ServiceProcess, job_id: str, last_id: str) -> list[Event]:
    """The events that a subscriber gets after it reconnects."""
    with Subscriber(f"{service.url}{JOBS}/{job_id}/events", last_id) as subscriber:
        return list(subscriber.events())


def summary(client: Client, job_id: str) -> dict[str, Any]:
    """The job in the list of jobs."""
    jobs = client.get(JOBS).json()["jobs"]
    (found,) = [job for job in jobs if job["job_id"] == job_id]
    return dict(found)


def test_a_job_survives_a_kill_and_is_undone(
    start: Start, sandbox: RunningSandbox, origin: Origin, tmp_path: Path
) -> None:
    with running_contract() as hook:
        walk(start, sandbox, origin, hook, tmp_path / "journal")


def walk(
    start: Start, sandbox: RunningSandbox, origin: Origin, hook: Contract, journal: Path
) -> None:
    """POST, events, status, kill -9, restart, links, callback, album, undo."""
    hook.put("POST /hook", {})
    bodies, missing = pages(origin), origin.image("missing.png")
    posted = {"urls": [*bodies, missing], "album": "Birds", "callback": f"{hook.url}/hook"}
    job_id, first = killed_in_its_middle(start(), sandbox, journal, posted)
    sandbox.clear_faults()
    assert hook.asked == []

    service = start()
    events = events_to_the_end(service, job_id, first[-1].id)
    assert events[-1].name == "complete"
    assert events[-1].data["counts"]["completed"] == len(bodies)
    status = service.status(job_id)
    assert (status["status"], status["finished"]) == ("complete", True)
    assert status["uploaded"]["pending"] == []
    assert status["uploaded"]["failed"] == [missing]

    records = service.records(job_id)
    assert list(records) == posted["urls"], "in the order of the input"
    links = [records[url]["link"] for url in bodies]
    assert status["uploaded"]["completed"] == links
    for link in links:
        assert requests.get(link, timeout=PATIENCE).content == PNG
    assert service.get("/v1/images").json() == {"uploaded": links}
    assert requests.get(summary(service, job_id)["album"]["link"], timeout=PATIENCE).ok
    wait_until(lambda: summary(service, job_id)["callback"]["told"])
    assert hook.asked, "the process that was killed did not live to do it"

    undone = service.session.delete(f"{service.url}{JOBS}/{job_id}?purge=true", timeout=PATIENCE)
    assert undone.status_code == 202
    assert undone.json() == {"job_id": job_id, "cancelled": 0, "purging": len(bodies)}
    status = service.finish(job_id)
    assert status["uploaded"] == {"pending": [], "completed": [], "failed": posted["urls"]}
    marked = {record["sha256"] for record in records.values() if record["maybe_duplicate"]}
    assert {image["sha256"] for image in sandbox.images()} <= marked, "the rest is gone"
    for link in links:
        assert requests.get(link, timeout=PATIENCE).url.endswith("/removed.png")
    assert service.stop() == 0
    assert "Traceback" not in "".join(service.log)


def test_a_subscriber_resumes_after_a_restart(
    start: Start, sandbox: RunningSandbox, origin: Origin, tmp_path: Path
) -> None:
    body = {"urls": [*pages(origin)]}
    job_id, first = killed_in_its_middle(start(), sandbox, tmp_path / "journal", body)
    sandbox.clear_faults()
    events = events_to_the_end(start(), job_id, first[-1].id)
    told = {event.data["number"] for event in first}
    rest = {event.data["number"] for event in events if event.name == "image"}
    assert rest == {*range(1, IMAGES_OF_THE_JOB + 1)} - told
    assert events[-1].name == "complete"
