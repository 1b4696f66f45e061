"""Workers of a cluster on a real PostgreSQL: claims, losses, outages, stops."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from imageload.cluster.node import Node
from imageload.job import Downloaded, Image, Job, Uploaded, Uploading
from imageload.store.postgres.claims import Claimed
from imageload.store.postgres.store import PostgresStore
from sandbox.testing import RunningSandbox
from tests.jobs import distinct
from tests.journals import job_of, link, record, report
from tests.origin import IMAGES, Origin, Page, answer
from tests.postgres import fresh_database
from tests.relay import Relay
from tests.service import RunningService, running_service
from tests.waiting import PATIENCE, wait_until

DEAD = 2.0
PNG = (IMAGES / "png-rgb.png").read_bytes()


@pytest.fixture
def url() -> str:
    """The URL of an empty database."""
    return fresh_database()


class Database:
    """A connection of the test itself."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self.close = self._connection.close

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """What `statement` gives."""
        cursor = self._connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []

    def one(self, statement: str, *values: object) -> Any:
        """The one value that `statement` gives."""
        ((value,),) = self.rows(statement, *values)
        return value


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """The database, seen from outside."""
    with contextlib.closing(Database(url)) as found:
        yield found


@pytest.fixture
def store(url: str) -> Iterator[PostgresStore]:
    """A store of a node without a worker."""
    node = Node(url, rules=None)
    yield node.store
    node.store.close()


@contextlib.contextmanager
def worker(
    folder: Path, url: str, sandbox: RunningSandbox, **options: Any
) -> Iterator[RunningService]:
    """A node in this process."""
    values = {"store": url, "dead_seconds": DEAD, "imgur_base_url": sandbox.url, **options}
    with running_service(folder, imgur_link_base=sandbox.url, **values) as running:
        yield running


def behind(relay: Relay, url: str) -> str:
    """The database's URL through `relay`."""
    port = urlsplit(relay.url).port
    return url.replace(f":{urlsplit(url).port}/", f":{port}/")


class Held:
    """A page of an origin that responds once it is let go."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, content: bytes) -> Page:
        def page(connection: Any) -> None:
            self.asked.release()
            assert self.go.wait(PATIENCE)
            answer(PNG + content)(connection)

        return page

    def pages(self, origin: Origin, count: int) -> list[str]:
        """The URLs of images that differ."""
        return [origin.page(f"/held-{n}", self(b"%d" % n)) for n in range(count)]

    def wait(self, count: int) -> None:
        """Return when so many downloads wait."""
        for _ in range(count):
            assert self.asked.acquire(timeout=PATIENCE)


def claim(store: PostgresStore, job: Job, first: int = 0, **terms: Any) -> Claimed:
    """The claim on a slice of the job."""
    store.accept([job])
    number = store._claims[job].number
    claimed = store.claim((number, first), "worker", 60.0, **terms)
    assert claimed is not None
    return claimed


def taken_over(database: Database) -> None:
    """Another node has every slice from now on."""
    database.rows(
        "UPDATE slice SET epoch = epoch + 1, worker = 'other', until = now() + interval '1 hour'"
    )


def states(running: RunningService, job_id: str) -> dict[str, list[str]]:
    """The URLs or links in each state."""
    return dict(running.status(job_id)["uploaded"])


def at_hand(running: RunningService) -> list[Image]:
    """The images of the slices that are at work here, as they are in memory."""
    windows = list(running.service.image_load.at_work._windows.values())
    return [image for window in windows for image in window.job.snapshot().images]


# Fence and liveness


def test_an_upload_waits_until_its_slice_is_known_to_be_ours(store: PostgresStore) -> None:
    claimed = claim(store, job_of(1))
    job = claimed.job
    assert store.is_ours(job)
    claimed.claim.heard -= 30.0  # half of the time after which this node counts as dead
    assert not store.is_ours(job)

    async def play() -> None:
        waiting = asyncio.ensure_future(store.durable(job))
        await store.durable()
        assert not waiting.done()
        assert await asyncio.to_thread(store.beat, [job], 60.0)
        async with asyncio.timeout(PATIENCE):
            await waiting

    asyncio.run(play())
    claimed.claim.heard -= 30.0
    record(store, job, Downloaded(0, report(0)), Uploading(0))
    asyncio.run(asyncio.wait_for(store.durable(job), PATIENCE))  # a commit is heard too


def test_nothing_is_written_of_a_slice_that_was_taken_over(
    store: PostgresStore, database: Database
) -> None:
    job = claim(store, job_of(2)).job
    record(store, job, Downloaded(0, report(0)), Uploading(0))
    asyncio.run(store.durable())
    taken_over(database)
    record(store, job, Uploaded(0, link(0)), Downloaded(1, report(1)))
    asyncio.run(store.durable())
    assert store.is_lost(job)
    assert not store.is_ours(job)
    assert database.one("SELECT count(*) FROM image") == 1
    assert database.one("SELECT link FROM image") is None


def test_a_beat_tells_what_was_taken_over(store: PostgresStore, database: Database) -> None:
    job = claim(store, job_of(1)).job
    assert list(store.beat([job], None)) == [job]
    taken_over(database)
    assert store.beat([job], 60.0) == {}
    assert store.is_lost(job)


def test_uploads_of_a_slice_that_was_taken_over_are_not_sent(
    url: str, database: Database, tmp_path: Path, sandbox: RunningSandbox, origin: Origin
) -> None:
    sandbox.fault("hang", count=1)
    with worker(tmp_path / "a", url, sandbox, uploads=1) as node:
        job_id = node.submit(distinct(origin, 4))
        sandbox.wait_for("upload")
        state = node.service.node
        assert state is not None
        taken_over(database)
        wait_until(lambda: state.worker is not None and state.worker.lost == 1)
        wait_until(lambda: state.worker is not None and not state.worker.at_work)
        assert node.temp_files == [], "the others were let go"
        assert sandbox.stats()["requests"]["upload"] == 1
        assert not states(node, job_id)["failed"]
        assert database.one("SELECT worker FROM slice WHERE first = 0") == "other"
        # The other node dies.
        database.rows("UPDATE slice SET until = now() WHERE first = 0")
        assert len(node.finish(job_id)["uploaded"]["completed"]) == 4
        assert len(sandbox.images()) == 4
        duplicates = [each["maybe_duplicate"] for each in node.records(job_id).values()]
        assert duplicates.count(True) >= 1, "its upload had begun"


# The database away


def test_while_the_database_is_away_uploads_end_and_none_begins(
    url: str, tmp_path: Path, sandbox: RunningSandbox, origin: Origin
) -> None:
    relay, held = Relay(url), Held()
    sandbox.fault("slow_answer", seconds=0.3, count=1)
    with worker(tmp_path / "a", behind(relay, url), sandbox) as node:
        job_id = node.submit([*distinct(origin, 1), *held.pages(origin, 5)])
        held.wait(5)
        sandbox.wait_for("upload")
        relay.take_away()
        held.go.set()
        wait_until(lambda: [each.uploading for each in at_hand(node)].count(True) == 5)
        wait_until(lambda: [each.state for each in at_hand(node)].count("completed") == 1)
        wait_until(lambda: node.service.store.trouble is not None)
        assert node.get("/readyz").status_code == 503
        assert sandbox.stats()["requests"]["upload"] == 1
        relay.bring_back()
        status = node.finish(job_id)
        assert len(status["uploaded"]["completed"]) == 6
        assert len(sandbox.images()) == 6
        assert not any(each["maybe_duplicate"] for each in node.records(job_id).values())
    relay.take_away()
