"""Conformance tests of all stores."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from imageload.cluster.node import Node
from imageload.errors import KeyUsed
from imageload.image import Downloaded, Failed, Item, Purged, Uploaded, Uploading
from imageload.job import Job, Started
from imageload.store import Link, Posted, Store
from imageload.store.opening import open_store
from tests.journals import FAILURE, SECRET, fail, finish, flush, job_of, link, record, report, url
from tests.postgres import fresh_database


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "postgresql":
        store: Store = Node(fresh_database(), rules=None).store
    else:
        path = "" if request.param == "memory" else str(tmp_path / "journal")
        restored = open_store(path)
        assert (restored.jobs, restored.was_closed, restored.kept) == ([], True, {})
        store = restored.store
    yield store
    assert store.close()
    assert store.close(), "closing twice does no harm"


def landed(store: Store, count: int) -> Job:
    """A durable job of `count` completed images."""
    job = job_of(count)
    store.accept([job])
    finish(store, job)
    flush(store)
    return job


# Jobs


def test_an_accepted_job_can_be_loaded(store: Store) -> None:
    items: list[str | Item] = ["https://a.example/ü.png"]
    items += [Item(url(1), "A bird", "It sings."), Item(url(2), None, "")]
    job = Job(items, dedupe=False, album="Birds", callback="https://user.example/told")
    store.accept([job])
    found = store.load(job.job_id)
    assert found is not None
    assert replace(found.snapshot(), settled=None) == job.snapshot()
    assert found.dedupe is False
    assert store.load("4227cacf-2ee1-4b52-b231-110304c4e203") is None


def test_a_finished_job_is_loaded_as_it_is(store: Store) -> None:
    job = job_of(3)
    store.accept([job])
    record(store, job, Started(), Downloaded(0, report(0)), Uploading(0), Uploaded(0, link(0), "h"))
    record(store, job, Failed(1, FAILURE))
    record(store, job, Downloaded(2, report(2)), Uploaded(2, link(2), reused=True))
    flush(store)
    found = store.load(job.job_id)
    assert found is not None
    assert found.version == job.version
    for shown, image in zip(found.snapshot().images, job.snapshot().images, strict=True):
        assert (shown.state, shown.link, shown.failure) == (image.state, image.link, image.failure)
        assert shown.deletehash == image.deletehash
    order = [shown.version for shown in found.snapshot().images]
    assert order == sorted(order), "images are in the order of their last Changes"


def test_ids_are_loaded_and_need_not_be_unique(store: Store) -> None:
    items = [Item(url(0), id="7"), Item(url(1), "A bird", None, "7"), Item(url(2)), Item(url(3))]
    job = Job(items)
    store.accept([job])
    record(store, job, Downloaded(1, report(1)), Uploaded(1, link(1)))
    flush(store)
    found = store.load(job.job_id)
    assert found is not None
    assert [image.id for image in found.snapshot().images] == ["7", "7", None, None]


def test_a_document_is_kept_until_its_job_is_retired_or_deleted(store: Store) -> None:
    jobs = [job_of(1) for _ in range(3)]
    content = bytes(range(256)) * 1_000
    store.accept(jobs, documents={job.job_id: content for job in jobs[:2]})
    assert [store.document(job.job_id) for job in jobs] == [content, content, None]
    for job in jobs:
        finish(store, job)
    flush(store)
    store.retire([jobs[0].job_id])
    store.delete([jobs[1].job_id])
    flush(store)
    assert [store.document(job.job_id) for job in jobs] == [None, None, None]
    assert store.document("unknown") is None


def test_the_last_check_is_kept_until_its_job_is_retired_or_deleted(store: Store) -> None:
    jobs = [landed(store, 1) for _ in range(3)]
    for result in (b"first", bytes(range(256))):
        for job in jobs[:2]:
            store.keep_check(job.job_id, result)
        flush(store)
    assert [store.last_check(job.job_id) for job in jobs] == [result, result, None]
    store.retire([jobs[0].job_id])
    store.delete([jobs[1].job_id])
    flush(store)
    for job_id in (*(job.job_id for job in jobs[:2]), "unknown"):
        store.keep_check(job_id, b"later")
    flush(store)
    assert [store.last_check(job.job_id) for job in jobs] == [None, None, None]
    assert store.last_check("unknown") is None


def test_jobs_are_numbered_in_the_order_in_which_they_were_accepted(store: Store) -> None:
    jobs = [job_of(1) for _ in range(4)]
    store.accept(jobs[:2])
    store.accept(jobs[2:])
    for job in reversed(jobs):
        finish(store, job)
    flush(store)
    assert [found.job_id for found in store.links()] == [job.job_id for job in jobs]
    with pytest.raises(LookupError):
        list(store.links((job_of(1).job_id, 0)))


def test_a_job_that_was_not_accepted_is_ignored(store: Store) -> None:
    job = job_of(1)
    finish(store, job)
    flush(store)
    assert store.load(job.job_id) is None
    assert list(store.links()) == []


def test_a_deleted_job_leaves_nothing(store: Store) -> None:
    job, other = landed(store, 2), landed(store, 1)
    store.delete([job.job_id])
    record(store, job, Purged(0, FAILURE))
    flush(store)
    assert store.load(job.job_id) is None
    assert [found.job_id for found in store.links()] == [other.job_id]


def test_many_threads_may_use_it_at_once(store: Store) -> None:
    done: list[Job] = []

    def work() -> None:
        for _ in range(5):
            job = job_of(2)
            store.accept([job])
            finish(store, job)
            done.append(job)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    flush(store)
    found = list(store.links())
    assert len(found) == 80
    assert {each.job_id for each in found} == {job.job_id for job in done}


# Links


def test_links_are_in_order_and_begin_anywhere(store: Store) -> None:
    old, failed, new = landed(store, 2_500), job_of(1), landed(store, 3)
    store.accept([failed])
    fail(store, failed)
    flush(store)
    found = list(store.links())
    assert [each.link for each in found] == [link(n) for n in (*range(2_500), 0, 1, 2)]
    assert {each.job_id for each in found} == {old.job_id, new.job_id}
    rest = store.links((old.job_id, 2_400))
    assert [each.n for each in rest] == [*range(2_401, 2_500), 0, 1, 2]
    assert list(store.links((new.job_id, 2))) == []


def test_the_links_of_retired_jobs_are_kept_by_a_store_that_is_durable(store: Store) -> None:
    old, new = landed(store, 2), landed(store, 1)
    store.retire([old.job_id])
    flush(store)
    kept = [Link(old.job_id, n, link(n)) for n in range(2)] if store.is_durable else []
    assert list(store.links(retired_only=True)) == kept
    assert [each.job_id for each in store.links()] == [each.job_id for each in kept] + [new.job_id]
    assert (store.load(old.job_id) is not None) is store.is_durable


# Settings and keys


def test_a_setting_is_kept_until_it_is_deleted(store: Store) -> None:
    assert store.get_setting("budget") is None
    store.set_setting("budget", "12")
    store.set_setting("budget", "11")
    assert store.get_setting("budget") == "11"
    store.set_setting("budget", None)
    assert store.get_setting("budget") is None


def test_a_key_is_kept_until_all_its_jobs_are_gone(store: Store) -> None:
    first, second = job_of(1), job_of(1)
    posted = Posted("ann", "key", b"\x00hash", (first.job_id, second.job_id))
    store.accept([first, second], posted=posted)
    assert store.posted("ann", "key") == posted
    assert store.posted("bob", "key") is None
    store.retire([first.job_id])
    assert store.posted("ann", "key") == posted
    store.delete([second.job_id])
    assert store.posted("ann", "key") is None


def test_a_key_that_is_used_again_belongs_to_the_new_jobs(store: Store) -> None:
    old, new = job_of(1), job_of(1)
    store.accept([old], posted=Posted("ann", "key", b"1", (old.job_id,)))
    store.retire([old.job_id])
    posted = Posted("ann", "key", b"2", (new.job_id,))
    store.accept([new], posted=posted)
    store.delete([old.job_id])
    assert store.posted("ann", "key") == posted


def test_a_key_that_is_kept_makes_no_second_job(store: Store) -> None:
    first, second = job_of(1), job_of(1)
    posted = Posted("ann", "key", b"1", (first.job_id,))
    store.accept([first], posted=posted)
    with pytest.raises(KeyUsed) as raised:
        store.accept([second], posted=Posted("ann", "key", b"2", (second.job_id,)))
    assert (raised.value.fingerprint, raised.value.job_ids) == (b"1", (first.job_id,))
    assert store.load(second.job_id) is None
    assert store.posted("ann", "key") == posted
    store.accept([second], posted=Posted("bob", "key", b"2", (second.job_id,)))


# Durability


def is_immediate(store: Store) -> bool:
    """True if `durable` returns without waiting."""
    waiting = store.durable()
    try:
        waiting.send(None)
    except StopIteration:
        return True
    waiting.close()
    return False


def test_durable_returns_at_once_if_nothing_is_unwritten(store: Store) -> None:
    async def run() -> list[bool]:
        job = job_of(1)
        await asyncio.to_thread(store.accept, [job])
        await store.durable()
        seen = [is_immediate(store)]
        record(store, job, Started())
        seen.append(is_immediate(store))
        await store.durable()
        return [*seen, is_immediate(store)]

    assert asyncio.run(run()) == [True, not store.is_durable, True]


def test_all_callers_of_durable_are_woken_despite_a_cancelled_one(store: Store) -> None:
    async def load(job: Job, index: int) -> None:
        record(store, job, Downloaded(index, report(index)), Uploading(index))
        await store.durable()
        record(store, job, Uploaded(index, link(index), SECRET))

    async def run(job: Job) -> None:
        tasks = [asyncio.create_task(load(job, index)) for index in range(50)]
        await asyncio.sleep(0)
        tasks[7].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.durable()

    job = job_of(50)
    store.accept([job])
    asyncio.run(run(job))
    missing = {7} if store.is_durable else set()
    assert {found.n for found in store.links()} == {*range(50)} - missing
