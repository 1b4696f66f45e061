"""Tests of the event streams: a subscriber gets every event once, also after a disconnect, and
slow, closed or many subscribers cost the service little.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import random
import re
import resource
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from imageload.errors import Failure
from imageload.image import Downloaded, Failed, Purged, PurgeFailed, Report, Requeued, Uploaded
from imageload.job import AlbumEnded, AlbumMade, Change, Job, Mirrored, Started
from imageload.schemas import WaitingJson
from imageload.web.events import Events
from imageload.web.topics import JobEvents, Topic
from sandbox.testing import RunningSandbox, running_sandbox
from tests.events import Event, Subscriber
from tests.origin import IMAGES, Origin, answer
from tests.service import RunningService, ServiceProcess, assert_problem, running_service
from tests.waiting import PATIENCE, wait_until

FAILURE = Failure("http_status", "The origin answered 404 Not Found.", transient=False)
REPORT = Report("", 200, 1_000, "image/png", 1, 1, "0" * 64)
KEEPALIVE = 0.5


@pytest.fixture
def small(sandbox: RunningSandbox, tmp_path: Path) -> Iterator[RunningService]:
    """A service with limits that are soon reached."""
    with running_service(
        tmp_path / "temp",
        imgur_base_url=sandbox.url,
        imgur_link_base=sandbox.url,
        keepalive_seconds=KEEPALIVE,
        max_streams=2,
    ) as running:
        yield running


def events_url(service: RunningService, job_id: str) -> str:
    """The URL of the job's stream."""
    return f"{service.url}/v1/images/upload/{job_id}/events"


def subscribe(service: RunningService, job_id: str, last_id: str | None = None) -> Subscriber:
    """A subscriber to the job's stream."""
    return Subscriber(events_url(service, job_id), last_id)


def registered(service: RunningService, job: Job) -> Job:
    """`job` among the service's, without a thread: the test applies its Changes."""
    return service.add(job)


def apply(service: RunningService, job: Job, *changes: Change) -> None:
    """Apply Changes to the job and publish them."""
    service.apply(job, *changes)


def job_of(images: int, **keywords: Any) -> Job:
    """A job that has not started."""
    return Job([f"https://a.example/{number}" for number in range(images)], **keywords)


def numbers(events: list[Event]) -> list[int]:
    """The numbers of the images that `image` events are of."""
    return [event.data["number"] for event in events if event.name == "image"]


class Gate:
    """An origin's page that sends one image each time it is opened."""

    def __init__(self, origin: Origin) -> None:
        self._opened = threading.Semaphore(0)
        self._answer = answer((IMAGES / "png-1-pixel.png").read_bytes())
        self._origin = origin
        origin.default = self

    def __call__(self, connection: Any) -> None:
        """Wait for the gate and send the image."""
        if not self._origin.released.is_set():
            self._opened.acquire(timeout=PATIENCE)
        self._answer(connection)

    def open(self, times: int) -> None:
        """Allow this many more responses."""
        self._opened.release(times)

    def urls(self, count: int) -> list[str]:
        """URLs behind the gate."""
        return [f"{self._origin.url}/gate/{number}" for number in range(count)]


def test_a_stream_cut_ten_times_in_mid_job_sends_every_event_once(
    service: RunningService, origin: Origin
) -> None:
    gate = Gate(origin)
    job_id = service.submit(gate.urls(300))
    received: list[Event] = []
    last_id = None
    for cut in range(10):
        gate.open(25)
        with subscribe(service, job_id, last_id) as subscriber:
            received += subscriber.until("image", 15 + cut)
            last_id = subscriber.last_id
            subscriber.cut()
    assert not service.status(job_id)["finished"]
    gate.open(50)
    with subscribe(service, job_id, last_id) as subscriber:
        received += subscriber.until("complete")
        assert list(subscriber.events()) == []
    assert sorted(numbers(received)) == list(range(1, 301))
    assert [event.name for event in received].count("complete") == 1
    versions = [int(event.id) for event in received if event.name == "image"]
    assert versions == sorted(set(versions))


def test_a_finished_jobs_stream_sends_every_event_and_closes(
    service: RunningService, origin: Origin
) -> None:
    urls = [origin.image("png-1-pixel.png"), origin.image("missing.png"), "foo"]
    job_id = service.submit(urls)
    service.finish(job_id)
    records = service.records(job_id)
    with subscribe(service, job_id) as subscriber:
        events = list(subscriber.events())
    assert [event.name for event in events] == ["progress", "image", "image", "image", "complete"]
    for event in events[1:4]:
        assert event.data == {"number": event.data["number"], **records[event.data["url"]]}
        assert urls[event.data["number"] - 1] == event.data["url"]
    state = events[-1].data
    size = (IMAGES / "png-1-pixel.png").stat().st_size
    assert (state["job_id"], state["status"], state["finished"]) == (job_id, "complete", True)
    assert state["bytes"] == {"downloaded": size, "uploaded": size}
    assert (state["counts"]["completed"], state["counts"]["failed"]) == (1, 2)
    assert events[0].data == state


def test_a_reconnect_after_the_end_gets_204(
    service: RunningService,
) -> None:
    job_id = service.submit(["foo"])
    with subscribe(service, job_id) as subscriber:
        first, last = [e for e in subscriber.events() if e.name in ("image", "complete")]
    with subscribe(service, job_id, last.id) as subscriber:
        assert (subscriber.answer.status, subscriber.answer.read()) == (204, b"")
    with subscribe(service, job_id, first.id) as subscriber:
        assert [event.name for event in subscriber.events()] == ["progress", "complete"]


def test_the_response_is_an_event_stream_that_is_neither_cached_nor_buffered(
    service: RunningService,
) -> None:
    job_id = service.submit(["foo"])
    with subscribe(service, job_id) as subscriber:
        headers = subscriber.answer.headers
        assert headers["Content-Type"] == "text/event-stream"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Accel-Buffering"] == "no"
        assert subscriber.answer.readline() == b"retry: 2000\n"


@pytest.mark.parametrize("path", ["/v1/images/upload/{}/events", "/v1/events"])
def test_head_gives_the_headers_of_a_stream_and_does_not_hang(
    service: RunningService, origin: Origin, path: str
) -> None:
    job_id = service.submit([origin.page("/hang", origin.hang)])
    answered = service.session.head(service.url + path.format(job_id), timeout=PATIENCE)
    assert (answered.status_code, answered.content) == (200, b"")
    assert answered.headers["Content-Type"] == "text/event-stream"


def test_an_unknown_job_has_no_stream(service: RunningService) -> None:
    assert_problem(service.get("/v1/images/upload/malformed/events"), 505, "unknown-job")


@pytest.mark.parametrize(
    "last_id",
    ["nonsense", "", "-", "9b1f03aa-1", "999", "2-", "2-x", "-2", "2.5", "2" * 99, "9-end"],
)
def test_an_unknown_id_begins_from_the_start(service: RunningService, last_id: str) -> None:
    job = registered(service, job_of(2))
    apply(service, job, Started(), Failed(1, FAILURE), Failed(0, FAILURE))
    with subscribe(service, job.job_id, last_id) as subscriber:
        assert numbers(list(subscriber.events())) == [2, 1]


def test_progress_is_sent_at_most_ten_times_a_second(
    service: RunningService,
) -> None:
    job = registered(service, job_of(8_000))

    def work() -> None:
        apply(service, job, Started())
        for first in range(0, len(job), 50):
            changes: list[Change] = []
            for index in range(first, first + 50):
                changes += Downloaded(index, REPORT), Failed(index, FAILURE)
            apply(service, job, *changes)

    with subscribe(service, job.job_id) as subscriber:
        events = subscriber.until("progress")
        begun = time.monotonic()
        worker = threading.Thread(target=work)
        worker.start()
        events += subscriber.events()
        seconds = time.monotonic() - begun
        worker.join()
    assert numbers(events) == list(range(1, 8_001))
    progress = [event.data["counts"] for event in events if event.name == "progress"]
    assert 2 <= len(progress) <= 10 * seconds + 2
    assert events[-1].data["bytes"] == {"downloaded": 8_000_000, "uploaded": 0}


def test_images_that_are_tried_again_or_purged_are_events_again(service: RunningService) -> None:
    job = registered(service, job_of(3))
    landed = [Uploaded(index, f"https://i.imgur.com/{index}.png") for index in (0, 1)]
    apply(service, job, Started(), *(Downloaded(index, REPORT) for index in range(3)), *landed)
    with subscribe(service, job.job_id) as subscriber:
        assert numbers(subscriber.until("image", 2)) == [1, 2]
        apply(service, job, Failed(2, FAILURE))
        (*_, complete) = subscriber.events()
    assert complete.data["bytes"] == {"downloaded": 3_000, "uploaded": 2_000}

    apply(service, job, Requeued(2), Purged(0, FAILURE), PurgeFailed(1, FAILURE))
    with subscribe(service, job.job_id, complete.id) as subscriber:
        progress, *events = subscriber.until("image", 3)
        told = [(e.data["number"], e.data["state"]) for e in events if e.name == "image"]
        assert told == [(3, "queued"), (1, "failed"), (2, "completed")]
        assert progress.data["bytes"] == {"downloaded": 2_000, "uploaded": 1_000}
        again = Downloaded(2, REPORT), Uploaded(2, "https://i.imgur.com/2.png")
        apply(service, job, *again)
        (*_, image, complete) = subscriber.events()
    assert (image.data["number"], image.data["state"]) == (3, "completed")
    assert complete.data["bytes"] == {"downloaded": 3_000, "uploaded": 2_000}
    with subscribe(service, job.job_id) as subscriber:
        assert numbers(list(subscriber.events())) == [1, 2, 3]


def test_a_stream_stays_open_until_the_album_is_made_too(service: RunningService) -> None:
    job = registered(service, job_of(1, album="Birds"))
    apply(service, job, Started(), Failed(0, FAILURE))
    with subscribe(service, job.job_id) as subscriber:
        subscriber.until("image")
        apply(service, job, AlbumMade("1", "https://imgur.com/a/1"))
        apply(service, job, AlbumEnded())
        complete = subscriber.until("complete")[-1]
    assert complete.data["album"]["link"] == "https://imgur.com/a/1"


def test_an_idle_stream_is_kept_alive_by_comments(small: RunningService, origin: Origin) -> None:
    job_id = small.submit([origin.page("/hang", origin.hang)])
    with subscribe(small, job_id) as subscriber:
        assert [subscriber.comment() for _ in range(2)] == ["keepalive"] * 2


def test_a_subscriber_that_reads_nothing_is_dropped_and_can_resume(
    small: RunningService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    # 3 MB of events: a system's buffers must not be able to take it all.
    job = registered(small, Job([f"https://a.example/{'x' * 3_000}/{n}" for n in range(1_000)]))
    apply(small, job, Started(), *(Failed(index, FAILURE) for index in range(len(job))))
    with Subscriber(events_url(small, job.job_id), receive_buffer=4_096) as subscriber:
        wait_until(lambda: "reads nothing" in caplog.text and not small.subscribers)
        received = list(subscriber.events())
        assert 0 < subscriber.received < 600_000
    assert numbers(received) == list(range(1, len(numbers(received)) + 1))
    with subscribe(small, job.job_id, subscriber.last_id) as subscriber:
        received += subscriber.events()
    assert numbers(received) == list(range(1, 1_001))


def test_a_slow_subscriber_gets_every_event(sandbox: RunningSandbox, tmp_path: Path) -> None:
    keepalive = 1.5  # many times what it takes to read what was sent to it in one piece
    with running_service(
        tmp_path / "temp", imgur_base_url=sandbox.url, keepalive_seconds=keepalive
    ) as service:
        job = registered(service, Job([f"https://a.example/{'x' * 3_000}/{n}" for n in range(600)]))
        apply(service, job, Started(), *(Failed(index, FAILURE) for index in range(len(job))))
        with Subscriber(events_url(service, job.job_id), receive_buffer=4_096) as subscriber:
            begun, received = time.monotonic(), []
            for event in subscriber.events():
                received.append(event)
                time.sleep(0.004)  # that is how slow it is
            assert time.monotonic() - begun > keepalive
    assert numbers(received) == list(range(1, 601))


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process may have both ends of a few thousand connections open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 8_192), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
def test_three_hundred_subscribers_to_a_job_get_the_same_events(
    service: RunningService, origin: Origin
) -> None:
    gate = Gate(origin)
    job_id = service.submit(gate.urls(100))

    async def read_all() -> list[bytes]:
        readers = []
        for _ in range(300):
            host, port = service.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            path = f"/v1/images/upload/{job_id}/events"
            writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            readers.append((reader, writer))
        while service.subscribers < 300:
            await asyncio.sleep(0.005)
        gate.open(100)
        bodies = await asyncio.gather(*(reader.read() for reader, _ in readers))
        for _, writer in readers:
            writer.close()
        return bodies

    bodies = asyncio.run(asyncio.wait_for(read_all(), PATIENCE))
    images = {
        b"".join(part for part in body.split(b"\n\n") if b": image" in part) for body in bodies
    }
    assert len(images) == 1
    assert images.pop().count(b'"state":"completed"') == 100


@pytest.mark.one_process
def test_streams_past_the_limit_are_refused_until_one_ends(
    small: RunningService, origin: Origin
) -> None:
    job_id = small.submit([origin.page("/hang", origin.hang)])
    with subscribe(small, job_id), Subscriber(f"{small.url}/v1/events"):
        refused = small.get(f"/v1/images/upload/{job_id}/events")
        assert_problem(refused, 503, "too-many-streams")
        assert int(refused.headers["Retry-After"]) > 0
        assert_problem(small.get("/v1/events"), 503, "too-many-streams")
        assert small.status(job_id)["finished"] is False
    wait_until(lambda: small.subscribers == 0)
    with subscribe(small, job_id) as subscriber:
        subscriber.until("progress")


@pytest.mark.one_process
def test_a_stop_of_the_service_sends_a_last_event_and_closes_streams(
    service: RunningService, origin: Origin
) -> None:
    with subscribe(service, service.submit(["foo"])) as subscriber:
        subscriber.until("complete")
    job_id = service.submit([origin.page("/hang", origin.hang)])
    with (
        subscribe(service, job_id) as subscriber,
        Subscriber(f"{service.url}/v1/events") as all_jobs,
    ):
        subscriber.until("progress")
        service.on_loop(service.app.events.close)
        wait_until(lambda: service.subscribers == 0)
        assert [event.name for event in subscriber.events()][-1] == "shutdown"
        assert [event.name for event in all_jobs.events()][-1] == "shutdown"
    assert_problem(service.get(f"/v1/images/upload/{job_id}/events"), 503, "shutting-down")


def test_a_stopped_process_ends_its_jobs_and_then_their_streams(
    sandbox: RunningSandbox, origin: Origin
) -> None:
    process = ServiceProcess(
        "--port=0",
        "--allow-origin=127.0.0.1",
        f"--imgur-base-url={sandbox.url}",
        environment={"IMGUR_CLIENT_ID": "test"},
    )
    job_id = process.submit([origin.page("/hang", origin.hang)])
    ended = process.submit(["foo"])
    with Subscriber(f"{process.url}/v1/images/upload/{ended}/events") as subscriber:
        subscriber.until("complete")
    all_jobs = Subscriber(f"{process.url}/v1/events")
    with Subscriber(f"{process.url}/v1/images/upload/{job_id}/events") as subscriber, all_jobs:
        subscriber.until("progress")
        assert process.stop() == 0
        events = list(subscriber.events())
        told = list(all_jobs.events())
    assert [event.data["finished"] for event in told if event.name == "job"][-1] is True
    assert told[-1].name == "shutdown"
    assert [event.data["error"]["code"] for event in events if event.name == "image"] == [
        "shutdown"
    ]
    assert events[-1].name == "complete"


def test_the_stream_of_all_jobs_sends_the_progress_of_each(
    service: RunningService, origin: Origin
) -> None:
    earlier = service.submit(["foo"])
    service.finish(earlier)
    with Subscriber(f"{service.url}/v1/events") as subscriber:
        gate = Gate(origin)
        job_id = service.submit(gate.urls(2))
        states: list[dict[str, Any]] = []
        for event in subscriber.events():
            assert event.data["job_id"] == job_id
            states.append(event.data)
            if len(states) == 1:
                gate.open(2)
            if event.data["finished"]:
                break
    assert states[0]["counts"]["pending"] == 2
    assert states[-1] == service.get("/v1/images/upload?limit=1").json()["jobs"][0]


@pytest.mark.one_process
def test_the_stream_of_all_jobs_includes_waiting_jobs(
    sandbox: RunningSandbox, origin: Origin, tmp_path: Path
) -> None:
    with running_service(tmp_path / "t", imgur_base_url=sandbox.url, max_active_jobs=1) as service:
        service.submit([origin.page("/hang", origin.hang)])
        assert origin.hanging.acquire(timeout=PATIENCE)
        with Subscriber(f"{service.url}/v1/events") as subscriber:
            job_id = service.submit(["foo"])
            (event,) = subscriber.until("job")
        assert (event.data["job_id"], event.data["status"]) == (job_id, "pending")


def test_the_stream_of_all_jobs_resumes_after_a_disconnect(service: RunningService) -> None:
    with Subscriber(f"{service.url}/v1/events") as subscriber:
        service.submit(["foo"])
        for event in subscriber.events():
            if event.data["finished"]:
                break
    missed = [service.submit(["foo"]) for _ in range(2)]
    for job_id in missed:
        service.finish(job_id)
    with Subscriber(f"{service.url}/v1/events", subscriber.last_id) as again:
        received: dict[str, bool] = {}
        for event in again.events():
            received[event.data["job_id"]] = event.data["finished"]
            if all(received.get(job_id) for job_id in missed):
                break
    assert [job_id for job_id in received if job_id in missed] == missed


def test_an_id_of_another_service_gets_the_state_of_every_job(service: RunningService) -> None:
    jobs = [registered(service, job_of(1)) for _ in range(300)]
    with Subscriber(f"{service.url}/v1/events", "00000000-7") as subscriber:
        told = [event.data["job_id"] for event in subscriber.until("job", 300)]
    assert told == [job.job_id for job in jobs]


def test_a_job_that_changes_constantly_is_sent_twice_a_second(
    service: RunningService,
) -> None:
    job = registered(service, job_of(100_000))
    done = threading.Event()

    def work() -> None:
        for index in itertools.takewhile(lambda _: not done.is_set(), range(len(job))):
            apply(service, job, Failed(index, FAILURE))
            done.wait(0.0002)

    with Subscriber(f"{service.url}/v1/events") as subscriber:
        worker = threading.Thread(target=work)
        begun = time.monotonic()
        worker.start()
        events = subscriber.until("job", 3)
        seconds = time.monotonic() - begun
        done.set()
        worker.join()
    assert seconds > 0.9
    failed = [event.data["counts"]["failed"] for event in events]
    assert failed == sorted(failed)
    assert failed[-1] > failed[0]


def hub(waits: WaitingJson | None = None) -> Events:
    """An Events without a service, on the running event loop."""
    nothing: WaitingJson = {"waiting_until": None, "waiting_for": None}
    return Events(10, lambda _: waits or nothing)


async def notified(events: Events, topic: JobEvents) -> None:
    """Return when the topic is notified."""
    changed = asyncio.Event()
    with events.subscribe(topic, changed):
        await asyncio.wait_for(changed.wait(), PATIENCE)


def test_complete_is_not_sent_before_the_last_image_is() -> None:
    async def hear() -> None:
        events, job = hub(), job_of(1)
        topic = events.of_job(job)
        job.apply(Failed(0, FAILURE))  # its observers are called a moment later
        assert topic.next(0, is_notified=False)[0::2] == (b"", False)
        events(job, Failed(0, FAILURE))
        await notified(events, topic)
        sent, position, is_last = topic.next(0, is_notified=True)
        assert [sent.count(name) for name in (b"event: image", b"event: complete")] == [1, 1]
        assert (position, is_last) == (1, True)

    asyncio.run(hear())


def test_a_change_during_the_first_subscription_is_sent_once() -> None:
    async def hear() -> None:
        events, job = hub(), job_of(2)
        job.apply(Failed(0, FAILURE))
        topic = events.of_job(job)
        events(job, Failed(0, FAILURE))  # its observers are called only now
        job.apply(Failed(1, FAILURE))
        events(job, Failed(1, FAILURE))
        await notified(events, topic)
        assert list(topic.since(0)) == [(0, 1), (1, 2)]

    asyncio.run(hear())


def image_ids(topic: JobEvents) -> list[int]:
    """The ids of the `image` events that a new subscriber gets."""
    return [
        int(found) for found in re.findall(rb"id: (\d+)\n", topic.next(0, is_notified=False)[0])
    ]


def test_a_change_before_a_later_subscription_is_sent_once() -> None:
    async def hear() -> None:
        events, job = hub(), job_of(1)
        topic = events.of_job(job)

        def change(*changes: Change) -> None:
            for each in changes:
                job.apply(each)
                events(job, each)

        change(Failed(0, FAILURE))
        await notified(events, topic)
        assert image_ids(topic) == [1]
        change(Requeued(0), Failed(0, FAILURE))
        assert events.of_job(job) is topic  # for a subscriber, before they are delivered
        assert image_ids(topic) == [3]

    asyncio.run(hear())


def test_an_image_that_changed_again_is_sent_once_its_place_is_settled() -> None:
    async def hear() -> None:
        events, job = hub(), job_of(1)
        topic = events.of_job(job)
        failed = replace(job_of(1).image(0), state="failed", failure=FAILURE, version=5)
        for place, settled in (5, 6), (8, 7), (8, 9):
            change = Mirrored(
                {0: replace(failed, version=place)}, True, False, None, None, place, settled
            )
            job.apply(change)
            events(job, change)
            await notified(events, topic)
            assert image_ids(topic) == ([] if place > settled else [place])

    asyncio.run(hear())


def test_events_are_encoded_once_for_all_subscribers() -> None:
    async def hear() -> None:
        events, job = hub(), job_of(300)
        for index in range(300):
            job.apply(Failed(index, FAILURE))
        topic = events.of_job(job)
        changed = [asyncio.Event() for _ in range(2)]
        with events.subscribe(topic, changed[0]), events.subscribe(topic, changed[1]):
            position = 0
            while position < 200:
                one, other = (topic.next(position, is_notified=False) for _ in range(2))
                assert one[0] is other[0]
                assert one[0].count(b"event: image") == 128
                position = one[1]

    asyncio.run(hear())


def test_progress_includes_the_reason_of_a_wait() -> None:
    async def hear() -> list[bytes]:
        waits: WaitingJson = {"waiting_until": None, "waiting_for": None}
        events, job = hub(waits), job_of(1)
        topic = events.of_job(job)
        before = topic.progress()
        waits["waiting_for"] = "user"
        threading.Thread(target=events.notify).start()
        await notified(events, topic)
        return [before, topic.progress()]

    before, after = asyncio.run(hear())
    assert b'"waiting_for":null' in before
    assert b'"waiting_for":"user"' in after


@pytest.mark.imgur("uses its credits up")
def test_subscribers_get_the_reason_and_the_end_of_a_wait_for_imgur(
    origin: Origin, tmp_path: Path
) -> None:
    with (
        running_sandbox(tmp_path / "sandbox", user_credits=15) as sandbox,
        running_service(
            tmp_path / "temp", imgur_base_url=sandbox.url, imgur_link_base=sandbox.url
        ) as service,
    ):
        urls = [f"{origin.image('png-1-pixel.png')}?{number}" for number in range(3)]
        with Subscriber(f"{service.url}/v1/events") as all_jobs:
            job_id = service.submit(urls, dedupe=False)
            with subscribe(service, job_id) as subscriber:
                for events in (subscriber.events(), all_jobs.events()):
                    waits = (e.data for e in events if e.data.get("waiting_for"))
                    state = next(waits)
                    assert state["waiting_for"] == "user"
                    assert state["waiting_until"].endswith("Z")
                    assert state["finished"] is False


@pytest.mark.imgur("uses its credits up")
def test_subscribers_get_the_new_end_of_a_longer_wait(origin: Origin, tmp_path: Path) -> None:
    with (
        running_sandbox(tmp_path / "sandbox", client_ids="another") as sandbox,
        running_service(
            tmp_path / "temp",
            imgur_base_url=sandbox.url,
            imgur_link_base=sandbox.url,
            quota_wait_seconds=0.5,
        ) as service,
    ):
        job_id = service.submit([origin.image("png-1-pixel.png")])
        with subscribe(service, job_id) as subscriber:
            told = (event.data["waiting_until"] for event in subscriber.events())
            moments = itertools.groupby(filter(None, told))
            assert len(list(itertools.islice(moments, 3))) == 3


def test_the_events_of_a_job_are_forgotten_with_it() -> None:
    async def forget() -> bool:
        events, job = hub(), job_of(1)
        topic = weakref.ref(events.of_job(job))
        del job
        gc.collect()
        return topic() is None

    assert asyncio.run(forget())


def test_changes_after_the_event_loop_has_ended_are_ignored() -> None:
    events, job = hub(), job_of(1)

    async def listen_once() -> None:
        events.of_job(job)

    asyncio.run(listen_once())
    job.apply(Started())
    events(job, Started())


def test_a_stream_resumes_after_a_restart_without_loss() -> None:
    """A client was sent two images of a job; the rest of it happens while the service is away."""

    def restart(job: Job) -> Job:
        snapshot = job.snapshot()
        return Job.restored(
            snapshot.images,
            job.job_id,
            created=job.created,
            started=snapshot.started,
            version=snapshot.version,
        )

    async def hear() -> None:
        job = job_of(5)
        for index in (3, 1, 4):
            job.apply(Failed(index, FAILURE))
        topic = hub().of_job(job)
        ids = [version for _, version in topic.since(0)]
        again = restart(job)
        resumed = hub().of_job(again)
        assert list(resumed.since(resumed.position(str(ids[1])))) == [(4, ids[2])]
        assert resumed.next(ids[1], is_notified=True)[2] is False

        for index in (2, 0):
            again.apply(Failed(index, FAILURE))
        third = restart(again)
        finished = hub().of_job(third)
        assert [index for index, _ in finished.since(finished.position(str(ids[2])))] == [2, 0]
        end, position, is_last = finished.next(ids[2], is_notified=False)
        end_id = end.partition(b"event: complete\nid: ")[2].partition(b"\n")[0].decode()
        assert is_last
        assert position == third.version
        fourth = restart(third)
        assert hub().of_job(fourth).is_end(end_id)

    asyncio.run(hear())


def test_changes_of_other_nodes_are_sent_in_the_order_of_the_database_once_it_is_settled() -> None:
    """A Change that is read later may come before those that were read already."""

    async def hear() -> None:
        events, job = hub(), job_of(4)
        topic = events.of_job(job)

        async def mirror(places: dict[int, int], version: int, settled: int) -> list[bytes]:
            ended = {
                n: replace(job_of(4).image(n), state="failed", failure=FAILURE) for n in places
            }
            images = {n: replace(image, version=places[n]) for n, image in ended.items()}
            change = Mirrored(images, True, False, None, None, version, settled)
            position = topic.version
            job.apply(change)
            events(job, change)
            await notified(events, topic)
            sent = topic.next(position, is_notified=False)[0]
            return re.findall(rb"id: (\S+)", sent)

        assert await mirror({1: 70}, 2, settled=60) == []
        assert await mirror({0: 65, 3: 90}, 5, settled=80) == [b"65", b"70"]
        assert await mirror({2: 95}, 7, settled=99) == [b"90", b"95", b"95-end"]

    asyncio.run(hear())


def test_changes_that_were_lost_in_a_crash_do_not_hide_later_ones() -> None:
    """The client has seen versions that the store had not written; it starts at higher ones."""

    async def hear() -> None:
        job = job_of(5)
        job.apply(Started())
        job.apply(Failed(0, FAILURE))
        stored = job.snapshot()
        job.apply(Failed(1, FAILURE))
        job.apply(Failed(2, FAILURE))
        last_id = str(job.version)
        again = Job.restored(
            stored.images, job.job_id, created=job.created, started=True, version=10**9
        )
        again.apply(Started())
        for index in (4, 3, 2, 1):
            again.apply(Failed(index, FAILURE))
        topic = hub().of_job(again)
        since = [index for index, _ in topic.since(topic.position(last_id))]
        assert since[-4:] == [4, 3, 2, 1]

    asyncio.run(hear())


@settings(max_examples=25, deadline=None)
@given(images=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_a_change_log_loses_no_change_and_stays_small(images: int, seed: int) -> None:
    chance = random.Random(seed)
    log = Topic[int]()
    positions = [0, 0, 0]
    seen: list[dict[int, int]] = [{} for _ in positions]  # by image: the version seen last
    newest: dict[int, int] = {}
    version = 0
    for _ in range(3_000):
        version += chance.randint(1, 3)
        index = chance.randrange(images)
        log.add(index, version)
        newest[index] = version
        reader = chance.randrange(len(positions))
        if chance.random() < 0.02:
            found = list(log.since(positions[reader]))
            assert [at for _, at in found] == sorted(at for _, at in found)
            assert len(found) == len(dict(found)) <= images
            seen[reader].update(found)
            positions[reader] = version
    for reader, position in enumerate(positions):
        seen[reader].update(log.since(position))
        assert seen[reader] == newest
    assert list(log.since(version)) == []
