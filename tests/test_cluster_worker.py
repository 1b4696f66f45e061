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
from msgspec.structs import replace

from imageload.cluster.node import Node
from imageload.errors import ImageError
from imageload.image import Downloaded, Failed, Image, Item, Landed, NotSent, Uploaded, Uploading
from imageload.job import Job
from imageload.store import Elsewhere
from imageload.store.postgres.claims import Claimed, Wait
from imageload.store.postgres.schema import MIGRATIONS
from imageload.store.postgres.store import PostgresStore
from sandbox.testing import RunningSandbox
from tests.contract import running_contract
from tests.jobs import delete, distinct, retry
from tests.journals import FAILURE, job_of, link, record, report
from tests.journals import url as url_of
from tests.origin import IMAGES, Origin, Page, answer
from tests.postgres import fresh_database
from tests.relay import Relay
from tests.service import RunningService, running_service
from tests.waiting import PATIENCE, wait_until

DEAD = 2.0
_WAITING = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'"
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
            self.go.wait(2 * PATIENCE)
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
    claimed = store.slices.claim((number, first), "worker", 60.0, **terms)
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


def at_work(running: RunningService) -> int:
    """How many slices are at work on this node."""
    node = running.service.node
    assert node is not None
    assert node.worker is not None
    return node.worker.at_work


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
        assert await asyncio.to_thread(store.slices.beat, [job], 60.0)
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
    assert store.slices.is_lost(job)
    assert not store.is_ours(job)
    assert database.one("SELECT count(*) FROM image") == 1
    assert database.one("SELECT link FROM image") is None


def test_a_beat_tells_what_was_taken_over(store: PostgresStore, database: Database) -> None:
    job = claim(store, job_of(1)).job
    assert list(store.slices.beat([job], None)) == [job]
    taken_over(database)
    assert store.slices.beat([job], 60.0) == {}
    assert store.slices.is_lost(job)


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


def test_a_slice_that_ends_while_the_database_is_away_has_ended(
    url: str, database: Database, tmp_path: Path, sandbox: RunningSandbox, origin: Origin
) -> None:
    relay = Relay(url)
    sandbox.fault("slow_answer", seconds=0.3, count=1)
    with worker(tmp_path / "a", behind(relay, url), sandbox) as node:
        job_id = node.submit(distinct(origin, 1))
        sandbox.wait_for("upload")
        relay.take_away()
        wait_until(lambda: not at_work(node))
        relay.bring_back()
        assert len(node.finish(job_id)["uploaded"]["completed"]) == 1
        assert len(sandbox.images()) == 1
        wait_until(lambda: not database.one("SELECT open FROM slice WHERE first = 0"))
        # Its message could not be told that it has ended, or the queue's worker has ended.
        wait_until(lambda: not database.one("SELECT count(*) FROM procrastinate_jobs"))
        wait_until(lambda: database.one("SELECT count(*) FROM procrastinate_workers") == 1)
    relay.take_away()


def test_a_queue_that_has_broken_is_read_again(
    url: str,
    tmp_path: Path,
    sandbox: RunningSandbox,
    origin: Origin,
    caplog: pytest.LogCaptureFixture,
) -> None:
    relay = Relay(url)
    with worker(tmp_path / "a", behind(relay, url), sandbox) as node:
        node.finish(node.submit(distinct(origin, 1)))
        relay.take_away()
        wait_until(lambda: "the queue cannot be read now" in caplog.text)
        relay.bring_back()
        wait_until(lambda: node.get("/readyz").status_code == 200)
        job_id = node.submit(distinct(origin, 3))
        assert len(node.finish(job_id)["uploaded"]["completed"]) == 3
    relay.take_away()


# Messages and claims


def test_a_job_has_another_version_when_its_slices_are_let_go_and_when_they_are_taken_back(
    store: PostgresStore,
) -> None:
    job = job_of(1)
    claimed = claim(store, job)
    seen = store.load(job.job_id)
    assert seen is not None
    place = store._claims[job].number, 0

    def change() -> tuple[int, bool]:
        found = store.changes(seen)
        assert found is not None
        seen.apply(found)
        (listed,) = store.newest(None, 1)
        assert (listed.version, listed.parked) == (found.version, found.parked)
        return found.version, found.parked

    version = seen.version
    store.slices.end(claimed.job, is_over=False, wait=Wait("user", 600.0))
    asyncio.run(store.durable())
    assert change() == (version + 1, True)
    again = store.slices.claim(place, "worker", 60.0)
    assert again is not None
    assert change() == (version + 2, False)
    store.slices.end(again.job, is_over=False)
    asyncio.run(store.durable())
    store.slices.park(place, Wait("user", 600.0))
    assert change() == (version + 3, True)
    store.slices.park(place, Wait("user", 500.0))
    assert store.versions([seen]) == {seen: version + 3}


def test_a_worker_that_is_handed_its_own_slice_goes_on_with_it(
    url: str, database: Database, tmp_path: Path, sandbox: RunningSandbox, origin: Origin
) -> None:
    held = Held()
    # Beats of a busy machine may come seconds late.
    with worker(tmp_path / "a", url, sandbox, dead_seconds=6 * DEAD) as node:
        job_id = node.submit(held.pages(origin, 1))
        held.wait(1)
        database.rows("UPDATE slice SET until = now() - interval '1 hour'")  # as if it were late
        task = database.one(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
            " SELECT 'default', 'imageload.slice', jsonb_build_object('number', job, 'first', 0)"
            " FROM slice WHERE first = 0 RETURNING id"
        )
        is_there = "SELECT count(*) FROM procrastinate_jobs WHERE id = %s"
        wait_until(lambda: not database.one(is_there, task))  # it was done
        wait_until(lambda: database.one("SELECT until > now() FROM slice WHERE first = 0"))
        held.go.set()
        assert len(node.finish(job_id)["uploaded"]["completed"]) == 1
        assert database.one("SELECT epoch FROM slice WHERE first = 0") == 1
        assert node.service.node is not None
        assert node.service.node.worker is not None
        assert node.service.node.worker.lost == 0


def test_a_slice_of_a_node_that_seems_dead_is_left_to_it_after_an_outage(
    database: Database, store: PostgresStore
) -> None:
    job = job_of(1)
    assert claim(store, job).taken_over == 0
    place = store._claims[job].number, 0
    assert store.slices.claim(place, "other", 60.0) is None, "it lives"
    database.rows("UPDATE slice SET until = now() - interval '1 hour'")
    assert store.slices.claim(place, "other", 60.0, may_rescue=False) is None
    assert store.slices.queue_forgotten("one", 60.0, rescue=False) == 0
    database.rows("DELETE FROM procrastinate_jobs")
    assert store.slices.queue_forgotten("one", 60.0, rescue=True) == 1
    database.rows("DELETE FROM procrastinate_jobs")
    assert store.slices.queue_forgotten("other", 60.0, rescue=True) == 0, (
        "one node sweeps at a time"
    )
    claimed = store.slices.claim(place, "other", 60.0)
    assert claimed is not None
    assert claimed.taken_over == 1


def test_a_node_that_has_just_started_takes_nothing_from_others(
    url: str, database: Database, tmp_path: Path, sandbox: RunningSandbox, store: PostgresStore
) -> None:
    claim(store, job_of(1))
    database.rows("UPDATE slice SET worker = 'other', until = now() WHERE first = 0")
    with worker(tmp_path / "a", url, sandbox, dead_seconds=3600.0):
        wait_until(lambda: not database.one(_WAITING))
        wait_until(lambda: not database.one("SELECT count(*) FROM procrastinate_jobs"))
        assert database.one("SELECT worker FROM slice WHERE first = 0") == "other"


@pytest.mark.parametrize("worker_id", ["NULL", "(SELECT max(id) FROM procrastinate_workers)"])
def test_a_message_that_is_in_hand_for_ever_strands_no_slice(
    worker_id: str,
    url: str,
    database: Database,
    store: PostgresStore,
    tmp_path: Path,
    sandbox: RunningSandbox,
    origin: Origin,
) -> None:
    job = Job(distinct(origin, 2))
    store.accept([job])
    database.rows("INSERT INTO procrastinate_workers DEFAULT VALUES")
    database.rows(f"UPDATE procrastinate_jobs SET status = 'doing', worker_id = {worker_id}")
    with worker(tmp_path / "a", url, sandbox) as node:
        assert len(node.finish(job.job_id)["uploaded"]["completed"]) == 2
        wait_until(lambda: not database.one("SELECT count(*) FROM procrastinate_jobs"))


# Poison


def test_a_slice_that_was_taken_over_too_often_is_split(
    store: PostgresStore, database: Database
) -> None:
    claimed = claim(store, job_of(5))
    record(store, claimed.job, Downloaded(0, report(0)), Uploaded(0, link(0)))
    record(store, claimed.job, Downloaded(4, report(4)), Uploaded(4, link(4)))
    asyncio.run(store.durable())
    number = claimed.claim.number
    mirrored = store.load(claimed.job.job_id.partition("/")[0])
    assert mirrored is not None
    for _ in range(2):
        database.rows("UPDATE slice SET until = now() - interval '1 hour'")
        assert store.slices.claim((number, 0), "next", 60.0) is not None
    database.rows("UPDATE slice SET until = now() - interval '1 hour'")
    assert store.slices.claim((number, 0), "next", 60.0, may_suspect=False) is None
    suspect = store.slices.claim((number, 0), "next", 60.0)
    assert suspect is not None
    assert suspect.is_suspect
    database.rows("UPDATE slice SET until = now() - interval '1 hour'")
    assert store.slices.claim((number, 0), "next", 60.0) is None, "it was split"
    columns = "first, count, completed, taken_over, worker"
    parts = database.rows(f"SELECT {columns} FROM slice WHERE first >= 0 ORDER BY first")
    assert parts == [(0, 3, 1, 3, None), (3, 2, 1, 3, None)]
    assert database.rows(
        "SELECT args->>'first' FROM procrastinate_jobs ORDER BY id DESC LIMIT 2"
    ) == [("3",), ("0",)]
    change = store.changes(mirrored)
    assert change is not None
    mirrored.apply(change)
    assert [image.link for image in mirrored.snapshot().images] == [link(0), *[None] * 3, link(4)]
    second = store.slices.claim((number, 3), "next", 60.0)
    assert second is not None
    assert [image.state for image in second.job.snapshot().images] == ["queued", "completed"]
    record(store, second.job, Downloaded(0, report(3)), Uploaded(0, link(3)))
    asyncio.run(store.durable())
    assert database.one("SELECT completed FROM slice WHERE first = 3") == 2


def test_the_orders_of_a_slice_that_is_split_are_those_of_both_parts(
    store: PostgresStore, database: Database
) -> None:
    claimed = claim(store, job_of(5))
    record(store, claimed.job, *(Failed(n, FAILURE) for n in range(5)))
    asyncio.run(store.durable())
    job_id = claimed.job.job_id.partition("/")[0]
    number = claimed.claim.number
    for only in (1, 4, "transient"):
        assert store.retry(job_id, only).images
    database.rows("UPDATE slice SET cancels = 1, taken_over = 3, until = now() WHERE first = 0")
    assert store.slices.claim((number, 0), "next", 60.0) is None, "it was split"
    first = store.slices.claim((number, 0), "a", 60.0)
    second = store.slices.claim((number, 3), "b", 60.0)
    assert first is not None
    assert second is not None
    assert (first.order.cancels, first.order.retries) == (1, [1, "transient"])
    assert (second.order.cancels, second.order.retries) == (1, [1, "transient"])


def test_an_image_alone_that_kills_its_nodes_fails(
    url: str, database: Database, tmp_path: Path, sandbox: RunningSandbox, store: PostgresStore
) -> None:
    job = job_of(1)
    claim(store, job)
    database.rows("UPDATE slice SET taken_over = 3, worker = 'dead', until = now() WHERE first = 0")
    with worker(tmp_path / "a", url, sandbox, dead_seconds=0.5) as node:
        node.finish(job.job_id)
        (image,) = node.records(job.job_id).values()
        assert image["error"]["code"] == "poison"
        assert image["error"]["message"].startswith("The service died more than 3 times")


# Stops


def test_at_a_stop_another_node_has_the_slice_at_once_and_what_is_sent_lands(
    url: str,
    database: Database,
    tmp_path: Path,
    sandbox: RunningSandbox,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Held()
    sandbox.fault("slow_answer", seconds=0.3, count=1)
    # So long that no slice is taken over.
    with worker(tmp_path / "a", url, sandbox, dead_seconds=3600.0) as first:
        job_id = first.submit([*distinct(origin, 1), *held.pages(origin, 2)])
        held.wait(2)
        sandbox.wait_for("upload")
        with worker(tmp_path / "b", url, sandbox, dead_seconds=3600.0) as second:
            assert first.app.close(PATIENCE, PATIENCE)
            monkeypatch.setattr(first.app, "close", lambda _: True)  # only once
            held.wait(2)
            held.go.set()
            assert len(second.finish(job_id)["uploaded"]["completed"]) == 3
            records = second.records(job_id).values()
            assert not any(each["maybe_duplicate"] for each in records)
            assert len(sandbox.images()) == 3
            assert database.one("SELECT taken_over FROM slice WHERE first = 0") == 0


# The head: album, purge, callback


def test_the_callback_is_called_once_for_each_end(
    url: str, database: Database, tmp_path: Path, sandbox: RunningSandbox, origin: Origin
) -> None:
    missing = f"{origin.url}/missing"
    with (
        running_contract() as hook,
        worker(tmp_path / "a", url, sandbox) as first,
        worker(tmp_path / "b", url, sandbox) as second,
    ):
        hook.put("POST /hook", {})
        urls = [*distinct(origin, 2), missing]
        posted = first.post(json={"urls": urls, "callback": f"{hook.url}/hook"})
        (job_id,) = posted.json()["jobId"]
        wait_until(lambda: not database.one("SELECT count(*) FROM slice WHERE open"))
        assert len(hook.asked) == 1
        assert database.one("SELECT callback::jsonb->>'is_told' FROM job") == "true"
        origin.page("/missing", answer(PNG))
        assert retry(second, job_id).status_code == 202
        wait_until(lambda: len(hook.asked) == 2)
        wait_until(lambda: not database.one("SELECT count(*) FROM slice WHERE open"))
        assert len(second.status(job_id)["uploaded"]["completed"]) == 3
        assert len(hook.asked) == 2
        assert database.one("SELECT callback::jsonb->>'is_told' FROM job") == "true"


def test_a_purge_deletes_what_all_slices_have_landed(
    url: str,
    database: Database,
    tmp_path: Path,
    sandbox: RunningSandbox,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("imageload.store.postgres.accepting.SLICE", 2)
    held = Held()
    with (
        worker(tmp_path / "a", url, sandbox) as first,
        worker(tmp_path / "b", url, sandbox) as second,
    ):
        job_id = first.submit([*distinct(origin, 5), *held.pages(origin, 2)])
        held.wait(2)
        wait_until(lambda: len(states(second, job_id)["completed"]) == 5)
        delete(second, job_id, "?purge=true")
        wait_until(lambda: first.status(job_id)["finished"])
        held.go.set()
        assert sandbox.images() == []
        codes = [each["error"]["code"] for each in second.records(job_id).values()]
        assert codes == [*["purged"] * 5, *["cancelled"] * 2]
        wait_until(lambda: not database.one("SELECT count(*) FROM slice WHERE open"))


def test_a_cancel_is_followed_by_the_next_owner_if_its_node_dies(
    url: str, database: Database, tmp_path: Path, sandbox: RunningSandbox, store: PostgresStore
) -> None:
    job = job_of(2)
    claim(store, job)
    done = store.cancel(job.job_id, ImageError("cancelled", "Cancelled.").failure())
    assert done.images == 2
    database.rows("UPDATE slice SET until = now() WHERE first = 0")
    with worker(tmp_path / "a", url, sandbox, dead_seconds=0.5) as node:
        node.finish(job.job_id)
        codes = [each["error"]["code"] for each in node.records(job.job_id).values()]
        assert codes == ["cancelled"] * 2


# Dedupe over the cluster


def announced(store: PostgresStore, job: Job, index: int, content: str) -> Elsewhere | None:
    """What other nodes did with these bytes, when their upload is to begin."""
    facts = replace(report(index), sha256=content)
    record(store, job, Downloaded(index, facts), Uploading(index))
    asyncio.run(store.durable(job))
    return store.elsewhere(job, index)


@pytest.fixture
def other(url: str) -> Iterator[PostgresStore]:
    """The store of another node."""
    node = Node(url, rules=None)
    yield node.store
    node.store.close()


def test_bytes_that_another_node_has_landed_are_not_uploaded(
    store: PostgresStore, other: PostgresStore
) -> None:
    first, second = claim(store, job_of(3)).job, claim(other, job_of(3)).job
    assert announced(store, first, 0, "a") is None
    assert announced(other, second, 0, "a") == Elsewhere(None), "it is at its upload"
    assert announced(other, second, 1, "b") is None
    record(store, first, Uploaded(0, link(0), "hash"))
    asyncio.run(store.durable())
    record(other, second, NotSent(0), Uploading(0))
    asyncio.run(other.durable(second))
    assert other.elsewhere(second, 0) == Elsewhere(Landed(link(0), "hash"))
    record(other, second, Uploaded(0, link(0), "hash", reused=True))
    assert announced(store, first, 1, "a") == Elsewhere(Landed(link(0), "hash"))


def test_bytes_whose_upload_failed_or_whose_node_died_are_uploaded_by_the_next(
    store: PostgresStore, other: PostgresStore, database: Database
) -> None:
    first, second = claim(store, job_of(3)).job, claim(other, job_of(4)).job
    assert announced(store, first, 0, "a") is None
    record(store, first, Failed(0, FAILURE))
    asyncio.run(store.durable())
    assert database.one("SELECT count(*) FROM content") == 0
    assert announced(other, second, 0, "a") is None
    assert announced(store, first, 1, "b") is None
    assert announced(other, second, 1, "b") == Elsewhere(None)
    database.rows(
        "UPDATE slice SET until = now() FROM job WHERE number = job AND first = 0 AND id = %s",
        first.job_id.partition("/")[0],
    )
    record(other, second, NotSent(1), Uploading(1))
    asyncio.run(other.durable(second))
    assert other.elsewhere(second, 1) is None


def test_the_texts_tell_images_of_the_same_bytes_apart_and_a_job_may_want_no_dedupe(
    store: PostgresStore, other: PostgresStore, database: Database
) -> None:
    first, second = claim(store, job_of(1)).job, claim(other, Job([Item(url_of(0), "A bird")])).job
    third = claim(other, Job([url_of(0)], dedupe=False)).job
    assert announced(store, first, 0, "a") is None
    record(store, first, Uploaded(0, link(0), "hash"))
    asyncio.run(store.durable())
    assert announced(other, second, 0, "a") is None
    assert announced(other, third, 0, "a") is None
    assert database.one("SELECT count(*) FROM content") == 2


def test_two_nodes_upload_the_same_bytes_once(
    url: str, tmp_path: Path, sandbox: RunningSandbox, origin: Origin
) -> None:
    held = Held()
    urls = [origin.page(f"/{name}", held(b"")) for name in ("one", "two")]
    sandbox.fault("slow_answer", seconds=0.3, count=1)
    with (
        worker(tmp_path / "a", url, sandbox, max_active_jobs=1) as first,
        worker(tmp_path / "b", url, sandbox, max_active_jobs=1) as second,
    ):
        job_ids = [first.submit([each]) for each in urls]
        held.wait(2)
        assert at_work(first) == at_work(second) == 1
        held.go.set()
        links = [second.finish(job_id)["uploaded"]["completed"] for job_id in job_ids]
        assert links[0] == links[1]
        assert len(sandbox.images()) == 1
        third = first.submit([origin.page("/three", answer(PNG))])
        assert first.finish(third)["uploaded"]["completed"] == links[0]
        assert len(sandbox.images()) == 1


# Metrics, and nodes of two versions


def test_metrics_say_what_a_worker_does(
    url: str, database: Database, tmp_path: Path, sandbox: RunningSandbox, origin: Origin
) -> None:
    held = Held()

    def metrics() -> dict[str, float]:
        lines = node.get("/metrics").text.splitlines()
        pairs = (line.split(" ") for line in lines if line.startswith("imageload_"))
        return {name: float(value) for name, value in pairs if "{" not in name}

    with worker(tmp_path / "a", url, sandbox, max_active_jobs=1) as node:
        node.submit(held.pages(origin, 1))
        held.wait(1)
        node.submit(distinct(origin, 1))
        found = metrics()
        assert found["imageload_slices_claimed"] == 1
        assert found["imageload_slices_waiting"] == 1
        assert found["imageload_slices_stuck"] == 0
        assert 0 <= found["imageload_beat_age_seconds"] < PATIENCE
        taken_over(database)
        database.rows("UPDATE slice SET taken_over = 4")
        wait_until(lambda: metrics()["imageload_slices_lost_total"] == 1)
        assert metrics()["imageload_slices_stuck"] == 2
        held.go.set()


def test_a_node_works_beside_one_with_newer_tables(
    url: str, database: Database, tmp_path: Path, sandbox: RunningSandbox, origin: Origin
) -> None:
    with worker(tmp_path / "a", url, sandbox) as old:
        for table in ("job", "slice", "image", "content", "posted", "setting"):
            database.rows(f"ALTER TABLE {table} ADD COLUMN newer INTEGER")
        database.rows("UPDATE imageload_schema SET version = version + 1")
        job_id = old.submit(distinct(origin, 3))
        assert len(old.finish(job_id)["uploaded"]["completed"]) == 3
        with worker(tmp_path / "b", url, sandbox) as restarted:
            assert len(restarted.status(job_id)["uploaded"]["completed"]) == 3
            assert (
                len(old.finish(restarted.submit(distinct(origin, 2)))["uploaded"]["completed"]) == 2
            )
    newer = len(MIGRATIONS) + 1
    assert database.one("SELECT version FROM imageload_schema") == newer, "it is not set back"


def test_a_node_that_is_stopped_right_after_its_start_ends(tmp_path: Path) -> None:
    # Its queue opens meanwhile; `running_service` asserts that no thread outlives the node.
    for number in range(2):
        with running_service(tmp_path / str(number), store=fresh_database()):
            pass
