"""PostgreSQL alone: several nodes, broken connections, a full disk, and purges over all nodes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from imageload.cluster.queue import Queue
from imageload.errors import KeyUsed, Refused, StoreError, StoreUnavailable
from imageload.image import Downloaded, Failed, Purged, Uploaded, Uploading
from imageload.job import Job, PurgeBegun, PurgeEnded
from imageload.registry import Sender
from imageload.store import Posted
from imageload.store.postgres import schema
from imageload.store.postgres.connections import Connection, Connections
from imageload.store.postgres.store import PostgresStore, open_postgres
from imageload.web.idempotency import IdempotencyKeys
from sandbox.testing import RunningSandbox
from tests.disks import full
from tests.jobs import delete
from tests.journals import FAILURE, finish, flush, job_of, link, record, report
from tests.origin import Origin
from tests.postgres import database_on_a_small_disk, fresh_database
from tests.raising import raises_refused
from tests.relay import Relay, running_relay
from tests.service import running_service, wired
from tests.waiting import PATIENCE, wait_until

Open = Callable[[str], PostgresStore]


@pytest.fixture(scope="module")
def url() -> str:
    """A database that the tests of this file share."""
    return fresh_database()


@pytest.fixture
def node() -> Iterator[Open]:
    """Opens the stores of nodes."""
    opened: list[PostgresStore] = []

    def open_one(url: str) -> PostgresStore:
        opened.append(open_postgres(url, None, None, Queue(url)))
        return opened[-1]

    yield open_one
    for store in opened:
        assert store.close()


def ask(url: str, statement: str, *values: object) -> list[tuple[object, ...]]:
    """What the database answers to an observer."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(statement.encode(), values)
        return found.fetchall() if found.description else []


def number_of(url: str, job: Job) -> int:
    ((number,),) = ask(url, "SELECT number FROM job WHERE id = %s", job.job_id)
    assert isinstance(number, int)
    return number


def landed(store: PostgresStore, links: list[str]) -> Job:
    """A durable job whose images are completed with these links."""
    job = job_of(len(links))
    store.accept([job])
    for index, each in enumerate(links):
        record(store, job, Downloaded(index, report(index)), Uploaded(index, each, "secret"))
    flush(store)
    return job


# Cut connections


class Cut:
    """Breaks the connection at the `moment`-th request that comes through a relay.

    `kind`: the request is lost, or its response, or the server ends the connection before it.
    Until `end` nothing comes through any more.
    """

    def __init__(self, relay: Relay, url: str, kind: str, moment: int) -> None:
        self.is_done = False
        self._relay, self._url, self._kind, self._moment = relay, url, kind, moment
        relay.watch = self._watch

    def _watch(self, _: bytes, is_answer: bool) -> None:
        if self.is_done:
            raise ConnectionError
        self._moment -= not is_answer
        if self._moment < 0 and is_answer is (self._kind == "response"):
            self.is_done = True
            if self._kind == "terminate":
                ask(self._url, _TERMINATE)
            else:
                raise ConnectionError

    def end(self) -> None:
        self._relay.watch = None


_TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'imageload'"""
_PARTS_OF_A_JOB = """
    SELECT (SELECT count(*) FROM slice WHERE job = number),
        (SELECT count(*) FROM procrastinate_jobs WHERE args->>'number' = number::text),
        (SELECT count(*) FROM posted WHERE id = ANY(job_ids))
    FROM job WHERE id = %s"""


@contextlib.contextmanager
def relayed(url: str) -> Iterator[tuple[Relay, str]]:
    """A relay before the server, and the database's URL through it."""
    parts = urlsplit(url)
    with running_relay(f"tcp://127.0.0.1:{parts.port}") as relay:
        port = urlsplit(relay.url).port
        yield relay, url.replace(f":{parts.port}/", f":{port}/")


@pytest.mark.parametrize("kind", ["request", "response", "terminate"])
def test_a_post_is_whole_or_nothing_wherever_its_connection_breaks(
    url: str, node: Open, kind: str
) -> None:
    other = node(url)
    outcomes = []
    with relayed(url) as (relay, through):
        store = node(through)
        for moment in itertools.count():
            job = job_of(250)
            posted = Posted("ann", f"{kind}{moment}", b"1", (job.job_id,))
            cut = Cut(relay, url, kind, moment)
            is_refused = False
            try:
                store.accept([job], posted=posted)
            except StoreUnavailable:
                is_refused = True
            relay.take_away()
            # What is under way when its client goes may end a moment later.
            wait_until(lambda: not ask(url, _BUSY))
            parts = ask(url, _PARTS_OF_A_JOB, job.job_id)
            assert parts in ([], [(3, 2, 1)])
            outcomes.append((is_refused, bool(parts)))
            again = job_of(250)
            repeated = Posted("ann", posted.key, b"1", (again.job_id,))
            if parts:  # a client that sends it again, to any node, gets the same job
                with pytest.raises(KeyUsed) as used:
                    other.accept([again], posted=repeated)
                assert used.value.job_ids == (job.job_id,)
            else:
                other.accept([again], posted=repeated)
            cut.end()
            relay.bring_back()
            if not cut.is_done:
                break
    *broken, whole = outcomes
    assert whole == (False, True)
    assert (True, False) in broken
    assert ((True, True) in broken) is (kind == "response"), "the commit's response was lost"


_BUSY = """
    SELECT pid FROM pg_stat_activity WHERE datname = current_database()
    AND application_name = 'imageload' AND state <> 'idle'"""


def commit_response_lost(relay: Relay) -> threading.Event:
    """Lose the next response to a COMMIT; set once that has happened."""
    commits: list[bytes] = []
    lost = threading.Event()

    def watch(chunk: bytes, is_answer: bool) -> None:
        if commits and is_answer:
            relay.watch = None
            lost.set()
            raise ConnectionError
        if b"COMMIT" in chunk and not is_answer:
            commits.append(chunk)

    relay.watch = watch
    return lost


def test_a_post_on_a_kept_connection_survives_the_loss_of_its_commits_response(
    url: str, node: Open
) -> None:
    with relayed(url) as (relay, through):
        store = node(through)
        store.accept([job_of(1)])
        lost = commit_response_lost(relay)
        jobs = [job_of(250), job_of(1)]
        posted = Posted("ann", "kept", b"1", tuple(job.job_id for job in jobs))
        store.accept(jobs, posted=posted)
        assert lost.is_set()
        assert ask(url, _PARTS_OF_A_JOB, jobs[0].job_id) == [(3, 2, 1)]
        assert ask(url, _PARTS_OF_A_JOB, jobs[1].job_id) == [(2, 1, 1)]
        finish(store, jobs[0])
        flush(store)
        found = store.load(jobs[0].job_id)
        assert found is not None
        assert found.summary().counts["completed"] == 250


def test_a_batch_that_is_written_twice_changes_nothing_the_second_time(
    url: str, node: Open
) -> None:
    with relayed(url) as (relay, through):
        store = node(through)
        posted = job_of(1)
        store.accept([posted])
        number = number_of(url, posted)
        claimed = store.slices.claim((number, 0), "worker", 60.0)
        assert claimed is not None
        job = claimed.job
        flush(store)
        lost = commit_response_lost(relay)
        finish(store, job)
        store.slices.end(job, is_over=True)
        flush(store)
        assert lost.is_set()
        found = store.load(posted.job_id)
        assert found is not None
        assert found.version == 4, "three Changes of the image, and the start of the job"
        assert found.snapshot().images[0].link == link(0)
        slices = "SELECT first, open, worker FROM slice WHERE job = %s ORDER BY first"
        assert ask(url, slices, number) == [(-1, False, None), (0, False, None)]


def test_a_batch_that_comes_after_a_take_over_writes_nothing(url: str, node: Open) -> None:
    store = node(url)
    posted = job_of(1)
    store.accept([posted])
    number = number_of(url, posted)
    first = store.slices.claim((number, 0), "first", 0.0)
    second = store.slices.claim((number, 0), "second", 60.0)
    assert first is not None
    assert second is not None
    record(store, first.job, Downloaded(0, report(0)), Uploaded(0, "https://first/", "secret"))
    flush(store)
    record(store, second.job, Downloaded(0, report(0)), Uploaded(0, "https://second/", "secret"))
    flush(store)
    assert [each.link for each in store.links() if each.job_id == posted.job_id] == [
        "https://second/"
    ]


# Outages


def test_the_first_request_after_an_outage_is_served_at_once(url: str, node: Open) -> None:
    with relayed(url) as (relay, through):
        store = node(through)
        meet = threading.Barrier(4)

        def use(_: int) -> None:  # four kept connections
            store._connections.run(lambda _: meet.wait(PATIENCE))

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(use, range(4)))
        relay.take_away()
        with pytest.raises(StoreUnavailable, match="PostgreSQL cannot be used now"):
            store.accept([job_of(1)])
        relay.bring_back()
        store.accept([job_of(1)])


class Watched(Connections):
    """Says when a request waits for the attempt of another one."""

    def __init__(self, url: str) -> None:
        super().__init__(url, connect_seconds=int(10 * PATIENCE))
        self.waits = threading.Event()

    def _may_take(self) -> bool:
        may_take = super()._may_take()
        if not may_take:
            self.waits.set()
        return may_take


def test_requests_at_the_end_of_an_outage_wait_for_the_first_of_them(url: str) -> None:
    with relayed(url) as (relay, through), ThreadPoolExecutor(2) as threads:
        connections, begun = Watched(through), threading.Event()
        relay.take_away()
        with pytest.raises(StoreUnavailable):
            connections.run(lambda _: None)
        relay.bring_back()
        relay.cut()
        hold = relay.watch
        assert hold is not None

        def watch(chunk: bytes, is_answer: bool) -> None:
            begun.set()
            hold(chunk, is_answer)

        relay.watch = watch
        first = threads.submit(connections.run, lambda _: "first")
        assert begun.wait(PATIENCE), "it connects"
        second = threads.submit(connections.run, lambda _: "second")
        wait_until(lambda: second.done() or connections.waits.is_set())
        relay.join()
        assert (first.result(PATIENCE), second.result(PATIENCE)) == ("first", "second")
        connections.close()


def test_what_was_recorded_in_an_outage_is_written_after_it(url: str, node: Open) -> None:
    with relayed(url) as (relay, through):
        store = node(through)
        job = job_of(3)
        store.accept([job])
        relay.take_away()
        finish(store, job)
        store.set_setting("budget", "12")
        wait_until(lambda: store.trouble)
        assert store.get_setting("budget") == "12"
        relay.bring_back()
        flush(store)
        assert store.trouble is None
        assert node(url).get_setting("budget") == "12"
        assert sum(each.job_id == job.job_id for each in store.links()) == 3


def test_of_two_transactions_that_wait_for_each_other_both_are_done(url: str) -> None:
    ask(url, "CREATE TABLE ends (n INTEGER PRIMARY KEY, count INTEGER)")
    ask(url, "INSERT INTO ends VALUES (1, 0), (2, 0)")
    connections = Connections(url)
    have_one = threading.Barrier(2)

    def work(rows: list[int], tries: list[Connection], connection: Connection) -> None:
        tries.append(connection)
        connection.execute("SET LOCAL deadlock_timeout = '10ms'")
        for n in rows:
            connection.execute("UPDATE ends SET count = count + 1 WHERE n = %s", (n,))
            if n == rows[0] and len(tries) == 1:
                have_one.wait(PATIENCE)

    tries: tuple[list[Connection], list[Connection]] = [], []
    with ThreadPoolExecutor(2) as threads:
        orders = zip(([1, 2], [2, 1]), tries, strict=True)
        works = [functools.partial(work, rows, each) for rows, each in orders]
        for done in [threads.submit(connections.run, each) for each in works]:
            done.result(PATIENCE)
    assert ask(url, "SELECT count FROM ends") == [(2,), (2,)]
    assert sum(map(len, tries)) > 2, "one of them was done again"
    connections.close()


def test_a_process_that_is_stopped_amid_a_transaction_keeps_no_rows(url: str, node: Open) -> None:
    store, stopped = node(url), Connections(url)
    job = job_of(1)
    store.accept([job])
    locked, go_on = threading.Event(), threading.Event()

    def work(connection: Connection) -> None:
        limit = connection.execute("SHOW idle_in_transaction_session_timeout").fetchone()
        assert limit == ("15s",)
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
        connection.execute("SELECT FROM job WHERE id = %s FOR UPDATE", (job.job_id,))
        locked.set()
        assert go_on.wait(PATIENCE)

    with ThreadPoolExecutor() as threads:
        stop = threads.submit(stopped.run, work)
        assert locked.wait(PATIENCE)
        try:
            assert store.cancel(job.job_id, FAILURE).images == 1
        finally:
            go_on.set()
        with pytest.raises(StoreUnavailable):
            stop.result(PATIENCE)


def test_a_database_that_takes_no_writes_is_unavailable(url: str, node: Open) -> None:
    node(url)

    def write(connection: Connection) -> None:
        connection.execute("SET TRANSACTION READ ONLY")  # as after a switch to a standby
        connection.execute("DELETE FROM setting")

    connections = Connections(url)
    with pytest.raises(StoreUnavailable, match="read-only transaction"):
        connections.run(write)
    connections.close()


def test_a_full_disk_refuses_new_jobs_and_loses_nothing() -> None:
    with contextlib.ExitStack() as stack:
        url, disk = stack.enter_context(database_on_a_small_disk(40_000))
        store = open_postgres(url, None, None, Queue(url))
        stack.callback(store.close)
        jobs = [job_of(2_000)]
        store.accept(jobs, seconds=PATIENCE)
        store.set_setting("name", "value")  # on the writer's connection, which stays open
        flush(store)
        with full(disk):
            refusal = None
            while refusal is None:
                refused = job_of(200)
                try:
                    store.accept([refused], seconds=PATIENCE)
                    jobs.append(refused)
                except StoreUnavailable as error:
                    refusal = str(error)
            assert "No space left on device. Send this again" in refusal
            finish(store, jobs[0])
            wait_until(lambda: store.trouble is not None and "No space left" in store.trouble)
        flush(store)
        assert store.trouble is None
        assert store.load(refused.job_id) is None
        store.accept([refused], seconds=PATIENCE)
        assert sum(each.job_id == jobs[0].job_id for each in store.links()) == 2_000
        kept = [each.job_id for each in reversed(store.newest(None, 10_000))]
        assert kept == [job.job_id for job in (*jobs, refused)]


# Several nodes


def test_nodes_that_start_together_make_the_tables_once(node: Open) -> None:
    url = fresh_database()
    with ThreadPoolExecutor(4) as threads:
        stores = list(threads.map(node, [url] * 4))
    job = job_of(1)
    stores[0].accept([job])
    assert stores[1].load(job.job_id) is not None
    assert ask(url, "SELECT version FROM imageload_schema") == [(len(schema.MIGRATIONS),)]


def test_a_database_of_another_encoding_is_refused(node: Open) -> None:
    url = fresh_database("ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    with pytest.raises(StoreError, match="must have UTF8: createdb"):
        node(url)


def test_this_version_works_beside_tables_of_the_next(
    node: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fresh_database()
    old = node(url)
    before = job_of(2)
    old.accept([before])
    tables = ("job", "slice", "image", "content", "posted", "setting", "lease")
    additions = [f"ALTER TABLE {each} ADD COLUMN next TEXT DEFAULT 'x';" for each in tables]
    with monkeypatch.context() as newer:
        newer.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, " ".join(additions)))
        new = node(url)
    again = node(url)
    for store in (old, new, again):
        job = job_of(2)
        store.accept([job], posted=Posted("ann", job.job_id, b"1", (job.job_id,)))
        finish(store, job)
        store.set_setting("budget", job.job_id)
        flush(store)
        found = old.load(job.job_id)
        assert found is not None
        assert found.summary().counts["completed"] == 2
    finish(old, before)
    flush(old)
    assert len(list(new.links())) == 8
    assert len(old.newest(None, 10)) == 4


def test_of_posts_with_one_key_on_many_nodes_one_makes_jobs(url: str, node: Open) -> None:
    stores = [node(url) for _ in range(3)]
    meet = threading.Barrier(len(stores))

    def post(store: PostgresStore) -> tuple[bool, tuple[str, ...]]:
        jobs = [job_of(1), job_of(1)]
        job_ids = tuple(job.job_id for job in jobs)
        meet.wait(PATIENCE)
        try:
            store.accept(jobs, posted=Posted("ann", key, b"1", job_ids))
        except KeyUsed as used:
            return False, used.job_ids
        return True, job_ids

    with ThreadPoolExecutor(len(stores)) as threads:
        for key in ("a", "b", "c", "d", "e"):
            made, job_ids = zip(*threads.map(post, stores), strict=True)
            assert sum(made) == 1
            assert len(set(job_ids)) == 1
            kept = "SELECT count(*) FROM job WHERE caller = 'ann' AND key = %s"
            assert ask(url, kept, key) == [(2,)]


def test_a_key_of_another_node_gives_its_jobs_or_a_refusal(url: str, node: Open) -> None:
    """Both nodes have looked for the key in vain before either stores it."""
    stores = [node(url), node(url)]

    async def run(*senders: Sender) -> list[tuple[list[str], bool] | BaseException]:
        meet = asyncio.Barrier(2)

        async def once(store: PostgresStore, sender: Sender) -> tuple[list[str], bool]:
            async def accept() -> list[str]:
                job = job_of(1)
                await meet.wait()
                await asyncio.to_thread(store.accept, [job], posted=Posted(*sender, (job.job_id,)))
                return [job.job_id]

            return await IdempotencyKeys(store).once(sender, accept)

        both = map(once, stores, senders)
        return await asyncio.wait_for(asyncio.gather(*both, return_exceptions=True), PATIENCE)

    same = asyncio.run(run(Sender("ann", "same", b"1"), Sender("ann", "same", b"1")))
    assert not any(isinstance(each, BaseException) for each in same)
    (ids, is_replay), (other_ids, is_other_replay) = same  # type: ignore[misc]
    assert ids == other_ids
    assert is_replay is not is_other_replay
    others = asyncio.run(run(Sender("ann", "two", b"1"), Sender("ann", "two", b"2")))
    (refused,) = [each for each in others if isinstance(each, BaseException)]
    with raises_refused("key-reused"):
        raise refused
    assert isinstance(refused, Refused)


# Jobs that leave


def test_an_image_stays_until_the_last_job_that_has_it_is_purged(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    options = wired(sandbox, store=fresh_database(), dead_seconds=2.0)
    with (
        running_service(tmp_path / "node", **options),
        running_service(tmp_path / "api", role="api", **options) as api,
    ):
        page = origin.image("png-rgb.png")
        jobs = [api.submit([page]), api.submit([page])]
        (link,) = {each for job_id in jobs for each in api.finish(job_id)["uploaded"]["completed"]}
        for job_id, left in zip(jobs, (1, 0), strict=True):
            assert delete(api, job_id, "?purge=true")["purging"] == 1
            assert api.finish(job_id)["uploaded"]["failed"] == [page]
            assert len(sandbox.images()) == left
        assert link not in api.get("/v1/images").text


def test_a_purge_leaves_links_that_any_other_job_has(url: str, node: Open) -> None:
    store, other = node(url), node(url)
    job = landed(store, ["https://i/own", "https://i/both", "https://i/retired"])
    landed(other, ["https://i/both", "https://i/its"])
    retired = landed(other, ["https://i/retired"])
    other.retire([retired.job_id])
    add = "INSERT INTO content (key, link) VALUES (%s, %s)"
    for each in ("own", "its"):
        ask(url, add, each.encode(), f"https://i/{each}")
    links = {"https://i/own", "https://i/both", "https://i/retired"}
    assert store.links_to_leave(job.job_id, links) == links - {"https://i/own"}
    left = ask(url, "SELECT link FROM content WHERE link LIKE 'https://i/%%'")
    assert left == [("https://i/its",)]


def test_of_two_jobs_that_are_purged_together_one_deletes_their_link(url: str, node: Open) -> None:
    stores = [node(url), node(url)]
    meet = threading.Barrier(2)

    def purge(store: PostgresStore, job: Job) -> bool:
        meet.wait(PATIENCE)
        return bool(store.links_to_leave(job.job_id, {shared}))

    with ThreadPoolExecutor(2) as threads:
        for round_ in range(5):
            shared = f"https://i/shared{round_}"
            jobs = [landed(store, [shared]) for store in stores]
            for store, job in zip(stores, jobs, strict=True):
                record(store, job, PurgeBegun())
            assert sorted(threads.map(purge, stores, jobs)) == [False, True]


def test_a_purge_leaves_a_link_that_another_node_is_about_to_reuse(url: str, node: Open) -> None:
    store, other = node(url), node(url)

    def uploading(store: PostgresStore) -> tuple[str, Job]:
        """A job, and its slice, whose upload of the same bytes is about to begin."""
        job = job_of(1)
        store.accept([job])
        slice_ = store.slices.claim((number_of(url, job), 0), "worker", 60.0)
        assert slice_ is not None
        record(store, slice_.job, Downloaded(0, report(1_000_000)), Uploading(0))
        flush(store)
        return job.job_id, slice_.job

    purged, slice_ = uploading(store)
    record(store, slice_, Uploaded(0, "https://i/reused", "secret"))
    flush(store)
    _, reusing = uploading(other)
    found = other.elsewhere(reusing, 0)
    assert found is not None
    assert found.landed is not None
    assert store.links_to_leave(purged, {"https://i/reused"})
    record(other, reusing, Uploaded(0, found.landed.link, found.landed.deletehash, reused=True))
    flush(other)
    _, late = uploading(store)
    assert store.elsewhere(late, 0) is None, "it is uploaded again"


def test_a_job_whose_purge_has_ended_counts_again(url: str, node: Open) -> None:
    store = node(url)
    kept, other = landed(store, ["https://i/kept"]), landed(store, ["https://i/kept"])
    record(store, kept, PurgeBegun())
    assert store.links_to_leave(kept.job_id, {"https://i/kept"})
    assert not store.links_to_leave(other.job_id, {"https://i/kept"})
    record(store, kept, PurgeEnded())
    flush(store)
    assert store.links_to_leave(other.job_id, {"https://i/kept"})
    record(store, kept, PurgeBegun(), Purged(0, FAILURE))
    flush(store)
    assert not store.links_to_leave(other.job_id, {"https://i/kept"})


def test_finished_jobs_of_all_nodes_are_retired_by_number_and_by_age(node: Open) -> None:
    url = fresh_database()
    store, other = node(url), node(url)
    old, unfinished = job_of(1), job_of(1)
    store.accept([old, unfinished], posted=Posted("ann", "k", b"1", (old.job_id,)))
    jobs = [landed(each, [link(n)]) for n, each in enumerate([store, other, store])]
    done = [old, *jobs]
    close = "UPDATE slice SET open = false FROM job WHERE number = job AND id = ANY(%s)"
    ask(url, close, [job.job_id for job in done])
    with psycopg.connect(url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (0x696D6C72,))
        assert store.retire_finished(0, 0.0) == 0, "another node does it at this moment"
    assert store.retire_finished(3, 1.0) == 1
    assert [job.job_id for job in store.newest(None, 9)] == [
        *(job.job_id for job in reversed(jobs)),
        unfinished.job_id,
    ]
    assert store.posted("ann", "k") is None
    assert [each.link for each in other.links()] == [link(n) for n in range(3)]
    ask(url, "UPDATE job SET created = created - 7200 WHERE id = %s", jobs[0].job_id)
    assert other.retire_finished(3, 1.0) == 1
    assert [each.job_id for each in store.links(retired_only=True)] == [jobs[0].job_id]
    assert store.retire_finished(2, float("inf")) == 0


# Verbs beside nodes at work


@contextlib.contextmanager
def changed_at_this_moment(
    url: str, statement: str, *values: object
) -> Iterator[Callable[[], None]]:
    """A statement of another transaction, which ends once somebody waits for it."""
    with psycopg.connect(url) as holder:
        holder.execute(statement.encode(), values)
        pid = holder.info.backend_pid

        def release() -> None:
            waiting = "SELECT pid FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
            wait_until(lambda: ask(url, waiting, pid))
            holder.commit()

        yield release


def test_a_cancel_reaches_a_slice_that_its_node_gives_back_at_this_moment(
    url: str, node: Open
) -> None:
    store, job = node(url), job_of(250)
    store.accept([job])
    number = number_of(url, job)
    store.slices.claim((number, 0), "worker", 60.0)
    give_back = "UPDATE slice SET worker = NULL, until = NULL WHERE job = %s AND first = 0"
    with (
        changed_at_this_moment(url, give_back, number) as release,
        ThreadPoolExecutor() as threads,
    ):
        cancel = threads.submit(store.cancel, job.job_id, FAILURE)
        release()
        assert cancel.result(PATIENCE).images == 250
    found = store.load(job.job_id)
    assert found is not None
    assert found.summary().counts["failed"] == 50, "those of the slice that no node had"
    slice_ = store.slices.claim((number, 0), "next", 60.0)
    assert slice_ is not None
    assert slice_.order.cancels == 1


def test_a_retry_reaches_a_slice_that_ends_at_this_moment(url: str, node: Open) -> None:
    store, job = node(url), job_of(1)
    store.accept([job])
    number = number_of(url, job)
    slice_ = store.slices.claim((number, 0), "worker", 60.0)
    assert slice_ is not None
    record(store, slice_.job, Failed(0, FAILURE))
    flush(store)
    ask(url, "DELETE FROM procrastinate_jobs")
    end = "UPDATE slice SET open = false, worker = NULL WHERE job = %s AND first = 0"
    with changed_at_this_moment(url, end, number) as release, ThreadPoolExecutor() as threads:
        retry = threads.submit(store.retry, job.job_id)
        release()
        assert retry.result(PATIENCE).images == 1
    assert ask(url, "SELECT args->'first' FROM procrastinate_jobs") == [(0,)]
    again = store.slices.claim((number, 0), "next", 60.0)
    assert again is not None
    assert again.order.again == "all"


def test_a_retry_that_is_followed_leaves_those_that_came_meanwhile(url: str, node: Open) -> None:
    store, job = node(url), job_of(20)
    store.accept([job])
    slice_ = store.slices.claim((number_of(url, job), 0), "worker", 60.0)
    assert slice_ is not None
    record(store, slice_.job, *(Failed(n, FAILURE) for n in range(20)))
    flush(store)
    for only in (1, 12, 2, None, "transient"):
        order = store.slices.beat([slice_.job], 60.0)[slice_.job]
        store.retry(job.job_id, only)
        store.slices.followed(slice_.job, order)
        flush(store)
        assert store.slices.beat([slice_.job], 60.0)[slice_.job].retries == [only]


def test_what_was_recorded_before_a_verb_is_not_written_over_it(url: str, node: Open) -> None:
    with relayed(url) as (relay, through):
        late, store = node(through), node(url)
        job = job_of(1)
        late.accept([job])
        relay.take_away()
        record(late, job, Downloaded(0, report(0)), Uploaded(0, "https://late/", "secret"))
        store.cancel(job.job_id, FAILURE)
        relay.bring_back()
        flush(late)
    found = store.load(job.job_id)
    assert found is not None
    assert found.snapshot().images[0].failure == FAILURE
