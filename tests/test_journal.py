"""Tests of store.sqlite: durable Changes are restored after any end of the process; Changes that
cannot be written are written later, and new jobs are refused until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import random
import re
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from imageload.errors import Failure, IllegalChange, StoreUnavailable
from imageload.image import (
    Downloaded,
    Failed,
    Image,
    Item,
    NotSent,
    Purged,
    PurgeFailed,
    Requeued,
    ResponseLost,
    Uploaded,
    Uploading,
)
from imageload.job import AlbumEnded, AlbumMade, CallbackEnded, Change, Job, Started
from imageload.store import Link, Posted, Store
from imageload.store.opening import open_store
from tests.disks import full, small_disk
from tests.journals import (
    FAILURE,
    SECRET,
    after_a_restart,
    fail,
    finish,
    flush,
    job_of,
    link,
    locked,
    opened,
    record,
    report,
    restored_from,
    shown,
    url,
)
from tests.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Store]:
    with opened(path) as (journal, _):
        yield journal


# Restored state


def test_an_accepted_job_is_restored_with_everything_that_was_posted(path: Path) -> None:
    items: list[str | Item] = ["https://a.example/ü.png"]
    items += [Item(url(1), "A bird", "It sings."), Item(url(2), None, "")]
    created = datetime(2018, 10, 13, 20, 37, 16, tzinfo=UTC)
    job = Job(items, dedupe=False, album="Birds", created=created)
    with opened(path) as (journal, _):
        journal.accept([job])
    (again,) = restored_from(path).jobs
    assert (again.job_id, again.dedupe, again.created) == (job.job_id, False, created)
    assert shown(again) == shown(job)


def test_jobs_are_restored_in_the_order_in_which_they_were_accepted(path: Path) -> None:
    jobs = [job_of(count) for count in (3, 1, 2, 5)]
    with opened(path) as (journal, _):
        journal.accept(jobs[:2])
        finish(journal, jobs[0])
        journal.accept(jobs[2:])
        fail(journal, jobs[2])
    for _ in range(2):
        restored = restored_from(path).jobs
        assert [job.job_id for job in restored] == [job.job_id for job in jobs]
        assert [shown(job) for job in restored] == [after_a_restart(job) for job in jobs]


def test_an_unfinished_job_is_restored_as_pending_and_a_finished_one_as_finished(
    path: Path,
) -> None:
    jobs = [job_of(2), job_of(2)]
    with opened(path) as (journal, _):
        journal.accept(jobs)
        finish(journal, jobs[0])
        record(journal, jobs[1], Started(), Failed(0, FAILURE))
    ended, open_job = restored_from(path).jobs
    assert (ended.summary().status, open_job.summary().status) == ("complete", "pending")
    open_job.apply(Started())


def test_an_image_whose_upload_had_started_is_restored_as_a_maybe_duplicate(path: Path) -> None:
    job = job_of(4)
    with opened(path) as (journal, _):
        journal.accept([job])
        record(journal, job, *(Downloaded(index, report(index)) for index in range(4)))
        record(journal, job, Uploading(1), Uploading(2), ResponseLost(2), Uploading(3))
        record(journal, job, Uploaded(3, link(3)))
    (again,) = restored_from(path).jobs
    images = again.snapshot().images
    assert [image.state for image in images] == ["queued", "queued", "queued", "completed"]
    assert [image.maybe_duplicate for image in images] == [False, True, True, False]
    with opened(path) as (journal, restored):  # and once more, after a run that did nothing
        (again,) = restored.jobs
        assert [image.maybe_duplicate for image in again.snapshot().images][1:3] == [True, True]


def test_images_left_open_by_a_stop_are_queued_again(path: Path) -> None:
    job = Job([url(index) for index in range(3)], album="Birds")
    with opened(path) as (journal, _):
        journal.accept([job])
        record(journal, job, Started(), Downloaded(0, report(0)), Uploading(0), Failed(2, FAILURE))
        flush(journal)
        record(journal, job, NotSent(0))
    (again,) = restored_from(path).jobs
    images = again.snapshot().images
    assert [image.state for image in images] == ["queued", "queued", "failed"]
    assert not any(image.maybe_duplicate for image in images), "it was announced and not sent"
    album = again.summary().album
    assert album is not None
    assert album.is_open


def test_images_sent_before_a_stop_are_maybe_duplicates(path: Path) -> None:
    job = job_of(1)
    with opened(path) as (journal, _):
        journal.accept([job])
        record(journal, job, Started(), Downloaded(0, report(0)), Uploading(0), ResponseLost(0))
        record(journal, job, NotSent(0))
    (again,) = restored_from(path).jobs
    assert again.image(0).maybe_duplicate


def test_an_album_that_is_being_filled_is_known_after_a_restart(path: Path) -> None:
    job = Job([url(0)], album="Birds")
    with opened(path) as (journal, _):
        journal.accept([job])
        fail(journal, job)
        record(journal, job, AlbumMade("abc", "https://imgur.com/a/abc", SECRET))
    (again,) = restored_from(path).jobs
    assert again.summary().album == job.summary().album
    assert not again.summary().finished


def test_an_album_reopened_by_a_retry_is_open_after_a_restart(path: Path) -> None:
    job = Job([url(0)], album="Birds")
    with opened(path) as (journal, _):
        journal.accept([job])
        fail(journal, job)
        record(journal, job, AlbumMade("abc", "https://imgur.com/a/abc", SECRET))
        record(journal, job, AlbumEnded())
        flush(journal)
        record(journal, job, Requeued(0))
    (again,) = restored_from(path).jobs
    assert shown(again) == after_a_restart(job)
    assert again.summary().album == job.summary().album


STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(
            [
                "down",
                "up",
                "unsent",
                "missed",
                "landed",
                "reused",
                "failed",
                "again",
                "gone",
                "stays",
                "album",
                "told",
            ]
        ),
        st.integers(1, 5),
    ),
    max_size=40,
)


def change_of(job: Job, index: int, kind: str, attempts: int) -> Change:
    """A Change, legal or not."""
    failure = Failure("http_status", f"Nö {attempts}.", attempts % 2 == 0, attempts * 100)
    changes: dict[str, Change] = {
        "down": Downloaded(index, replace(report(index), height=None), attempts),
        "up": Uploading(index),
        "unsent": NotSent(index),
        "missed": ResponseLost(index),
        "landed": Uploaded(index, link(index), SECRET, attempts),
        "reused": Uploaded(index, link(index), None, attempts, reused=True),
        "failed": Failed(index, failure, attempts),
        "again": Requeued(index),
        "gone": Purged(index, failure),
        "stays": PurgeFailed(index, failure),
        "album": AlbumEnded(failure),
        "made": AlbumMade("abc", "https://imgur.com/a/abc", SECRET),
        "told": CallbackEnded(job.version, failure if attempts > 3 else None),
    }
    return changes[kind]


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS, retold=STEPS)
@example(steps=[(0, "down", 1), (0, "landed", 1), (0, "again", 1)], retold=[])
def test_any_sequence_of_changes_is_restored(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, str, int]],
    retold: list[tuple[int, str, int]],
) -> None:
    path = tmp_path_factory.mktemp("walk") / "journal"
    job = Job([url(0), Item(url(1), "A bird"), url(2), url(3)], album="Birds", callback=url(4))
    other = job_of(2)
    with opened(path) as (journal, _):
        journal.accept([job, other])
        walk(journal, job, steps)
    expected = after_a_restart(job), shown(other)
    with opened(path) as (journal, restored):
        assert tuple(shown(job) for job in restored.jobs) == expected
        walk(journal, restored.jobs[0], retold)
        expected = after_a_restart(restored.jobs[0]), shown(other)
    assert tuple(shown(job) for job in restored_from(path).jobs) == expected


def walk(journal: Store, job: Job, steps: list[tuple[int, str, int]]) -> None:
    """Apply the steps that are legal."""
    if not job.summary().started:
        record(journal, job, Started())
    for step in steps:
        try:
            record(journal, job, change_of(job, *step))
        except IllegalChange:
            continue


class CutShortJob(Job):
    """A job that calls `death` when one of its images is read."""

    death: Callable[[], None] | None = None

    def image(self, index: int) -> Image:
        """The image, after that."""
        if self.death is not None:
            self.death()
        return super().image(index)


def copy_of_what_is_durable(journal: Store, path: Path, copy: Path) -> None:
    """Copy the journal at `path` as a process that dies now leaves it."""
    flush(journal)
    with (
        contextlib.closing(sqlite3.connect(path)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)


def test_the_callback_and_the_album_are_open_after_an_interrupted_retry(path: Path) -> None:
    job = CutShortJob([url(0)], album="Birds", callback="https://user.example/told")
    copy = path.with_name("copy")
    with opened(path) as (journal, _):
        journal.accept([job])
        fail(journal, job)
        record(journal, job, AlbumEnded(failure=FAILURE))
        record(journal, job, CallbackEnded(job.version))
        flush(journal)
        job.death = functools.partial(copy_of_what_is_durable, journal, path, copy)
        record(journal, job, Requeued(0))
    (restored,) = restored_from(copy).jobs
    summary = restored.summary()
    assert summary.callback is not None
    assert summary.album is not None
    assert summary.callback.is_open
    assert summary.album.is_open


# Versions


def versions(path: Path) -> list[tuple[int, list[int]]]:
    """Of each job in the journal its version, and those of its images."""
    jobs = restored_from(path).jobs
    return [(job.version, [image.version for image in job.snapshot().images]) for job in jobs]


def test_versions_continue_after_a_clean_restart(path: Path) -> None:
    jobs = [job_of(2), job_of(2), job_of(1)]
    with opened(path) as (journal, _):
        journal.accept(jobs)
        finish(journal, jobs[0])
        record(journal, jobs[1], Started(), Failed(1, FAILURE), Downloaded(0, report(0)))
    expected = [(7, [4, 7]), (4, [4, 2]), (0, [0])]
    assert versions(path) == expected, "the download was undone, which is one more change"
    assert versions(path) == expected, "nothing has happened since"


SHOWER = """
import os, signal, sys
from imageload.image import Downloaded, Requeued
from imageload.job import Started
from imageload.store.opening import open_store
from tests.journals import fail, flush, job_of, report, record

store, jobs, _, _ = open_store(sys.argv[1])
if not jobs:
    jobs = [job_of(3), job_of(3)]
    store.accept(jobs)
    fail(store, jobs[0])
    flush(store)
print("ready", flush=True)
sys.stdin.readline()
for job in jobs:
    for n, image in enumerate(job.snapshot().images):
        job.apply(Requeued(n) if image.state == "failed" else Downloaded(n, report(n)))
    print(job.version, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_version_is_used_twice_after_a_kill(path: Path) -> None:
    """The Changes are shown and not recorded, as by a process that dies before it writes them."""
    shown_last = [0, 0]
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", SHOWER, str(path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            said, _ = process.communicate("go\n", timeout=PATIENCE)
        shown_now = [int(line) for line in said.split()[1:]]
        assert all(map(int.__lt__, shown_last, shown_now))
        shown_last = shown_now
    (failed, ends), (unfinished, images) = versions(path)
    assert failed > shown_last[0]
    assert ends == [2, 3, 4], "those were written"
    assert unfinished > shown_last[1]
    assert min(images) > shown_last[1], (
        "a client that saw the downloads is shown that they are gone"
    )


# When it is durable


def test_a_change_is_on_disk_soon_without_a_call_of_durable(journal: Store) -> None:
    job = job_of(1)
    journal.accept([job])
    finish(journal, job)
    wait_until(lambda: [found.link for found in journal.links()] == [link(0)])


def test_durable_returns_when_the_change_is_on_disk(journal: Store, path: Path) -> None:
    job = job_of(1)
    journal.accept([job])
    record(journal, job, Downloaded(0, report(0)), Uploading(0))
    flush(journal)
    with contextlib.closing(sqlite3.connect(path)) as other:
        rows = other.execute("SELECT n, version, link FROM image").fetchall()
    assert rows == [(0, 2, None)]


def test_callers_of_durable_share_transactions(journal: Store, path: Path) -> None:
    async def fail_one(index: int) -> None:
        record(journal, job, Failed(index, FAILURE))
        await journal.durable()

    async def fail_all() -> None:
        await asyncio.gather(*map(fail_one, range(len(job))))

    job = job_of(200)
    journal.accept([job])
    before = commits(path)
    asyncio.run(fail_all())
    assert commits(path) - before < 20


def commits(path: Path) -> int:
    """How many transactions are in the WAL: the frames that carry the database's new length.

    https://www.sqlite.org/fileformat2.html#walformat
    """
    wal = Path(f"{path}-wal").read_bytes()
    header = struct.Struct(">8I")
    *_, page, _, salt1, salt2, _, _ = header.unpack(wal[:32])
    frame = struct.Struct(">4I")
    found = [frame.unpack_from(wal, at) for at in range(32, len(wal), 24 + page)]
    return sum(bool(length) and (one, two) == (salt1, salt2) for _, length, one, two in found)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 65, 130])
def test_any_number_of_images_may_be_written_at_once(path: Path, count: int) -> None:
    job = job_of(count)
    with opened(path) as (journal, _):
        journal.accept([job])
        with locked(path):
            record(journal, job, *(Failed(index, FAILURE) for index in range(count)))
    assert shown(restored_from(path).jobs[0]) == after_a_restart(job)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM image").fetchone() == (count,)


# When it cannot be written


def test_a_job_not_written_in_time_is_refused_and_not_restored(path: Path) -> None:
    gate, busy = threading.Event(), threading.Event()
    refused, kept = job_of(1), job_of(1)

    def hold_the_thread(_: float) -> None:
        busy.set()
        gate.wait(PATIENCE)

    journal = open_store(str(path), hold_the_thread).store
    journal.set_setting("a name", "a value")
    assert busy.wait(PATIENCE)
    with pytest.raises(StoreUnavailable, match="it takes too long"):
        journal.accept([refused], seconds=0.05)
    gate.set()
    journal.accept([kept])
    assert journal.close()
    assert [job.job_id for job in restored_from(path).jobs] == [kept.job_id]


def test_a_job_written_after_its_refusal_is_deleted(path: Path) -> None:
    refused, kept = job_of(1), job_of(1)
    with opened(path) as (journal, _):
        journal.accept([kept])
        with locked(path), pytest.raises(StoreUnavailable):
            journal.accept([refused], seconds=0.1)  # within the time that SQLite waits for a lock
        record(journal, refused, Failed(0, FAILURE))
    assert [job.job_id for job in restored_from(path).jobs] == [kept.job_id]


def test_a_closed_journal_takes_nothing(path: Path) -> None:
    with opened(path) as (journal, _):
        pass
    with pytest.raises(StoreUnavailable, match="closed"):
        journal.accept([job_of(1)])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    with small_disk(tmp_path / "disk", 2_048) as folder:
        yield folder


def test_new_jobs_are_refused_on_a_full_disk_and_old_ones_are_kept(disk: Path) -> None:
    path = disk / "journal"
    job, refused, later = job_of(300), job_of(1), job_of(1)
    with opened(path) as (journal, _):
        journal.accept([job])
        waiting = threading.Thread(target=flush, args=(journal,))
        with full(disk):
            finish(journal, job)
            waiting.start()
            wait_until(lambda: journal.trouble)
            assert journal.trouble == "database or disk is full"
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="disk is full") as refusal:
                journal.accept([refused])
            assert time.monotonic() - began < 4, "it would wait for 5 s if nobody knew of the disk"
            assert (refusal.value.status, refusal.value.slug) == (503, "journal-unavailable")
            assert waiting.is_alive()
        waiting.join(PATIENCE)
        assert not waiting.is_alive(), "it heals by itself"
        assert journal.trouble is None
        journal.accept([later])
    first, second = restored_from(path).jobs
    assert (shown(first), second.job_id) == (after_a_restart(job), later.job_id)


def test_only_the_job_that_fills_the_disk_is_refused(disk: Path) -> None:
    path = disk / "journal"
    small = job_of(1)
    with opened(path) as (journal, _):
        with pytest.raises(StoreUnavailable, match="disk is full"):
            journal.accept([job_of(100_000)])
        wait_until(lambda: journal.trouble is None)
        journal.accept([small])
    assert [job.job_id for job in restored_from(path).jobs] == [small.job_id]


def test_a_journal_closed_on_a_full_disk_logs_the_loss_and_keeps_earlier_rows(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = disk / "journal"
    job = job_of(300)
    journal = open_store(str(path)).store
    journal.accept([job])
    with full(disk):
        finish(journal, job)
        wait_until(lambda: journal.trouble)
        assert not journal.close(0.2)
    assert re.search(r"rows of the journal could not be written rows=30\d", caplog.text)
    restored = restored_from(path)
    assert [job.job_id for job in restored.jobs] == [job.job_id]
    assert not restored.was_closed


def refusal(journal: Store) -> str:
    """The message with which the journal refuses a job."""
    with pytest.raises(StoreUnavailable) as error:
        journal.accept([job_of(1)])
    return str(error.value)


def test_close_waits_for_a_disk_that_gets_room_in_time(disk: Path) -> None:
    path = disk / "journal"
    job = job_of(300)
    journal = open_store(str(path)).store
    journal.accept([job])
    closed: list[bool] = []
    closing = threading.Thread(target=lambda: closed.append(journal.close(20)))
    with full(disk):
        finish(journal, job)
        wait_until(lambda: journal.trouble)
        closing.start()
        wait_until(lambda: "it is closed" in refusal(journal))
        closing.join(0.3)
        assert closing.is_alive(), "it has not given up"
    closing.join()
    assert closed == [True]
    assert shown(restored_from(path).jobs[0]) == after_a_restart(job)


def test_a_journal_whose_file_was_moved_refuses_jobs_until_it_is_back(
    path: Path, tmp_path: Path
) -> None:
    job = job_of(1)
    with opened(path) as (journal, _):
        journal.accept([job])
        path.rename(tmp_path / "elsewhere")
        finish(journal, job)
        wait_until(lambda: journal.trouble)
        assert journal.trouble == "its file was moved or deleted"
        with pytest.raises(StoreUnavailable):
            list(journal.links())
        with pytest.raises(StoreUnavailable):
            journal.load(job.job_id)
        assert not path.exists(), "an empty one would do away with the WAL"
        (tmp_path / "elsewhere").rename(path)
        flush(journal)
    assert shown(restored_from(path).jobs[0]) == after_a_restart(job)


def test_a_refused_job_leaves_no_key(path: Path) -> None:
    refused, kept = job_of(1), job_of(1)
    with opened(path) as (journal, _):
        with locked(path), pytest.raises(StoreUnavailable):
            journal.accept([refused], posted=Posted("a", "1", b"", (refused.job_id,)), seconds=0.1)
        posted = Posted("a", "2", b"", (kept.job_id,))
        journal.accept([kept], posted=posted)
        assert journal.posted("a", "1") is None
    with opened(path) as (journal, _):
        assert journal.posted("a", "1") is None
        assert journal.posted("a", "2") == posted
        journal.retire([kept.job_id])
    with opened(path) as (journal, _):
        assert journal.posted("a", "2") is None


def test_a_row_that_sqlite_cannot_store_is_left_out_and_the_others_are_kept(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of(2)
    with opened(path) as (journal, _):
        journal.accept([job])
        record(journal, job, Failed(0, replace(FAILURE, message="\udcff")), Failed(1, FAILURE))
    (again,) = restored_from(path).jobs
    assert [image.state for image in again.snapshot().images] == ["queued", "failed"]
    assert "a bug: the journal cannot store a value" in caplog.text


def test_a_bug_that_ends_the_journals_thread_is_reported(path: Path) -> None:
    broken = threading.Event()

    def buggy_clock(_: float) -> None:
        raise KeyError("a bug")

    journal = open_store(str(path), buggy_clock, broken.set).store
    journal.set_setting("a name", "a value")
    assert broken.wait(PATIENCE)
    assert journal.trouble == "a bug ended its thread"
    with pytest.raises(StoreUnavailable, match="a bug ended its thread"):
        journal.accept([job_of(1)])
    journal.close(0.0)


# Retiring, deleting, looking


def test_a_retired_job_is_not_restored_but_can_be_read_with_its_links(path: Path) -> None:
    jobs = [job_of(2), job_of(3)]
    with opened(path) as (journal, _):
        journal.accept(jobs)
        for job in jobs:
            finish(journal, job)
        journal.retire([jobs[0].job_id])
        flush(journal)
    with opened(path) as (journal, restored):
        assert [job.job_id for job in restored.jobs] == [jobs[1].job_id]
        assert [found.link for found in journal.links()] == [link(n) for n in (0, 1, 0, 1, 2)]
        assert list(journal.links(retired_only=True)) == [
            Link(jobs[0].job_id, index, link(index)) for index in range(2)
        ]
        again = journal.load(jobs[0].job_id)
        assert again is not None
        assert shown(again) == after_a_restart(jobs[0])
        record(journal, again, Purged(0, FAILURE))
        flush(journal)
        assert [found.n for found in journal.links(retired_only=True)] == [1]
        assert journal.load("4227cacf-2ee1-4b52-b231-110304c4e203") is None


def test_a_deleted_job_has_no_rows_and_takes_no_changes(path: Path) -> None:
    jobs = [job_of(2), job_of(2)]
    with opened(path) as (journal, _):
        journal.accept(jobs)
        finish(journal, jobs[0])
        journal.delete([jobs[0].job_id])
        flush(journal)
        record(journal, jobs[0], PurgeFailed(0, FAILURE))
        flush(journal)
        assert list(journal.links()) == []
        assert journal.load(jobs[0].job_id) is None
    assert [job.job_id for job in restored_from(path).jobs] == [jobs[1].job_id]
    assert SECRET.encode() not in path.read_bytes()


def test_links_are_streamed_in_order_from_any_position_during_writes(journal: Store) -> None:
    old, new = job_of(2_500), job_of(500)
    journal.accept([old, new])
    finish(journal, old)
    flush(journal)
    stream = journal.links()
    seen = [next(stream) for _ in range(10)]
    writer = threading.Thread(target=finish, args=(journal, new))
    writer.start()
    seen += stream
    writer.join()
    assert [found.link for found in seen[:2_500]] == [link(index) for index in range(2_500)]
    assert {found.job_id for found in seen[2_500:]} <= {new.job_id}
    flush(journal)
    rest = journal.links((old.job_id, 2_400))
    assert [found.n for found in rest] == [*range(2_401, 2_500), *range(500)]


def test_notes_outlive_the_process_until_they_are_forgotten(path: Path) -> None:
    with opened(path) as (journal, _):
        assert journal.get_setting("imgur:refresh-token") is None
        journal.set_setting("imgur:refresh-token", "t0k3n")
        journal.set_setting("imgur:budget", "12")
        journal.set_setting("imgur:budget", "11")
        journal.set_setting("gone", "x")
        journal.set_setting("gone", None)
        assert journal.get_setting("imgur:budget") == "11"
    with opened(path) as (journal, _):
        kept = [
            journal.get_setting(name) for name in ("imgur:refresh-token", "imgur:budget", "gone")
        ]
        assert kept == ["t0k3n", "11", None]


def test_no_secret_is_logged_and_no_file_is_for_others_to_read(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    job = job_of(1)
    mask = os.umask(0)
    try:
        with opened(path) as (journal, _):
            journal.accept([job])
            journal.set_setting("token", SECRET)
            finish(journal, job)
            flush(journal)
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    finally:
        os.umask(mask)
    endings = ("", "-wal", "-shm", ".lock")
    assert modes == {f"journal{ending}": 0o600 for ending in endings}
    assert SECRET not in caplog.text
    assert link(0) not in caplog.text


# When the process is killed

WRITER = """
import asyncio, os, sys
from imageload.image import Downloaded, Uploaded, Uploading
from imageload.job import Started
from imageload.store.opening import open_store
from tests.journals import job_of, link, report, record

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def load(job, index):
    record(store, job, Downloaded(index, report(index)), Uploading(index))
    await store.durable()
    say("uploading", job.job_id, index)
    record(store, job, Uploaded(index, link(index), "d3l3t3h4sh"))
    await store.durable()
    say("landed", job.job_id, index)

async def work():
    while True:
        job = job_of(20)
        store.accept([job])
        say("accepted", job.job_id)
        record(store, job, Started())
        await asyncio.gather(*(load(job, index) for index in range(20)))

store, jobs, _, _ = open_store(sys.argv[1])
say("restored", len(jobs))
asyncio.run(work())
"""


def test_durable_changes_survive_a_kill_of_the_process(path: Path) -> None:
    chance = random.Random(1)
    accepted: list[str] = []
    uploading: set[tuple[str, int]] = set()
    landed: set[tuple[str, int]] = set()
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            # After work, and not after a time in which a slow machine does none; then a moment
            # later, so that it is not always at the end of a transaction.
            killer = threading.Timer(chance.uniform(0.0, 0.01), writer.kill)
            killed_after = chance.randrange(200)
            for number, line in enumerate(writer.stdout):
                if number == killed_after:
                    killer.start()
                what, *where = line.split()
                if what == "restored":
                    assert int(where[0]) >= len(accepted)
                elif what == "accepted":
                    accepted.append(where[0])
                elif line.endswith("\n"):  # the last may be half a line
                    said = uploading if what == "uploading" else landed
                    said.add((where[0], int(where[1])))
        assert writer.returncode == -signal.SIGKILL
    restored = restored_from(path)
    assert not restored.was_closed
    jobs = {job.job_id: job.snapshot().images for job in restored.jobs}
    assert [job_id for job_id in jobs if job_id in set(accepted)] == accepted
    for job_id, index in landed:
        assert jobs[job_id][index].link == link(index)
    for job_id, index in uploading:
        image = jobs[job_id][index]
        assert image.link or image.maybe_duplicate
    assert landed, "the test has seen something"


WORKER = """
import os, signal, sys
from imageload.image import Failed
from imageload.job import Started
from imageload.store.opening import open_store
from tests.journals import FAILURE, flush, job_of, record

store = open_store(sys.argv[1])
if not store.jobs:
    jobs = [job_of(3) for _ in range(3)]
    store.store.accept(jobs)
else:
    jobs = store.jobs
stuck, other, waiting = jobs
record(store.store, stuck, Started())
if sys.argv[2] == "goes further":
    left = [n for n, image in enumerate(other.snapshot().images) if image.state == "queued"]
    record(store.store, other, Failed(left[0], FAILURE))
if sys.argv[2] == "closes":
    store.store.close()
else:
    store.store.set_setting("last", "written")
    flush(store.store)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_job_fails_at_which_ten_processes_died_before_any_image_went_further(path: Path) -> None:
    def run(*hows: str) -> None:
        for how in hows:
            arguments = [sys.executable, "-c", WORKER, str(path), how]
            subprocess.run(arguments, cwd=ROOT, check=False)

    def states() -> list[bool]:
        return [job.summary().finished for job in restored_from(path).jobs]

    run(*["dies"] * 5, "goes further", *["dies"] * 4, "closes", *["dies"] * 5)
    assert states() == [False] * 3, (
        "progress begins the count anew, and a clean stop does not count"
    )
    run("dies")
    assert states() == [True, False, False]
    stuck = restored_from(path).jobs[0]
    failures = [image.failure for image in stuck.snapshot().images]
    assert [failure and failure.code for failure in failures] == ["poison"] * 3
