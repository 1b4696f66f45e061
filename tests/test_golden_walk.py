"""A test of one job from its POST to its undo, over HTTP, with a kill -9 in the middle."""

from __future__ import annotations

import signal
from typing import Any

import requests

from sandbox.testing import RunningSandbox
from tests.contract import Contract, running_contract
from tests.events import Event, Subscriber
from tests.origin import IMAGES, Origin, answer
from tests.service import Client, ServiceProcess, Start
from tests.waiting import wait_until

PNG = (IMAGES / "png-rgb.png").read_bytes()
IMAGES_OF_THE_JOB = 60
TOLD = 8
KILLED_AFTER = 24
JOBS = "/v1/images/upload"


def pages(origin: Origin) -> dict[str, bytes]:
    """URLs of images, each with other bytes."""
    bodies = [PNG + number.to_bytes(4, "big") for number in range(IMAGES_OF_THE_JOB)]
    return {origin.page(f"/{n}.png", answer(body)): body for n, body in enumerate(bodies)}


def killed_in_its_middle(service: ServiceProcess, body: dict[str, Any]) -> tuple[str, list[Event]]:
    """POST the job, kill the service in its middle: the jobId and the first `image` events.

    Uploads take 0.2 s and the journal writes within 0.1 s, so those first ones are on disk.
    """
    accepted = service.post(json=body)
    assert accepted.status_code == 202
    (job_id,) = accepted.json()["jobId"]
    assert accepted.headers["Location"] == f"{JOBS}/{job_id}"
    with Subscriber(f"{service.url}{JOBS}/{job_id}/events") as subscriber:
        first = [event for event in subscriber.until("image", TOLD) if event.name == "image"]
        subscriber.until("image", KILLED_AFTER - TOLD)
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
    start: Start, sandbox: RunningSandbox, origin: Origin
) -> None:
    with running_contract() as hook:
        walk(start, sandbox, origin, hook)


def walk(start: Start, sandbox: RunningSandbox, origin: Origin, hook: Contract) -> None:
    """POST, events, status, kill -9, restart, links, callback, album, undo."""
    hook.put("POST /hook", {})
    sandbox.fault("slow_answer", seconds=0.2, count=0)
    bodies, missing = pages(origin), origin.image("missing.png")
    posted = {"urls": [*bodies, missing], "album": "Birds", "callback": f"{hook.url}/hook"}
    job_id, first = killed_in_its_middle(start(), posted)
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
    for link, body in zip(links, bodies.values(), strict=True):
        assert requests.get(link, timeout=10).content == body
    assert service.get("/v1/images").json() == {"uploaded": links}
    assert requests.get(summary(service, job_id)["album"]["link"], timeout=10).ok
    wait_until(lambda: summary(service, job_id)["callback"]["told"])
    assert hook.asked, "the process that was killed did not live to do it"

    undone = service.session.delete(f"{service.url}{JOBS}/{job_id}?purge=true", timeout=10)
    assert undone.status_code == 202
    assert undone.json() == {"job_id": job_id, "cancelled": 0, "purging": len(bodies)}
    status = service.finish(job_id)
    assert status["uploaded"] == {"pending": [], "completed": [], "failed": posted["urls"]}
    marked = {record["sha256"] for record in records.values() if record["maybe_duplicate"]}
    assert {image["sha256"] for image in sandbox.images()} <= marked, "the rest is gone"
    for link in links:
        assert requests.get(link, timeout=10).url.endswith("/removed.png")
    assert service.stop() == 0
    assert "Traceback" not in "".join(service.log)


def test_a_subscriber_resumes_after_a_restart(
    start: Start, sandbox: RunningSandbox, origin: Origin
) -> None:
    sandbox.fault("slow_answer", seconds=0.2, count=0)
    job_id, first = killed_in_its_middle(start(), {"urls": [*pages(origin)]})
    sandbox.clear_faults()
    events = events_to_the_end(start(), job_id, first[-1].id)
    told = {event.data["number"] for event in first}
    rest = {event.data["number"] for event in events if event.name == "image"}
    assert rest == {*range(1, IMAGES_OF_THE_JOB + 1)} - told
    assert events[-1].name == "complete"
