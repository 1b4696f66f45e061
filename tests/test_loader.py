# mypy: ignore-errors
# ruff: noqa
"""Tests of loader, jobs and pipeline with downloads and uploads that are handed in: images overlap,
jobs share, every image comes to an end, and no temp file outlives it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from imageload import errors
from imageload.fetch.guard import redact_url
from imageload.job import (
    Change,
    Downloaded,
    Failed,
    Image,
    Job,
    Landed,
    Report,
    Started,
    State,
    Uploaded,
    Uploading,
)
from imageload.loader import Order
from imageload.retry import RetryRule
from tests.journals import wait_until
from tests.raising import raises_refused
from tests.wired import (
    PATIENCE,
    DownloadCall,
    Folder,
    SlowStore,
    Tap,
    UploadCall,
    Wired,
    link_of,
    nowhere,
    urls,
)

Wire = Callable[..., Wired]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "temp")


@pytest.fixture
def wire(folder: Folder) -> Iterator[Wire]:
    """Wires up an ImageLoad; its end leaves no thread and no temp file, in every test."""
    before = set(threading.enumerate())
    made: list[Wired] = []

    def wire_up(
        download: DownloadCall = folder.download,
        upload: UploadCall = folder.upload,
        **options: Any,
    ) -> Wired:
        made.append(Wired(download, upload, folder, **options))
        return made[-1]

    yield wire_up
    for wired in made:
        wired.close()
        for job in wired.load.jobs():
            assert job.summary().finished or wired.is_left(job)
    assert set(threading.enumerate()) <= before
    assert folder.files() == []
    given_back = [path for path in folder.given_back if "nonexistent" not in path]
    assert sorted(given_back) == sorted(folder.made), "each file goes back, once"


# One job


def test_every_image_lands_under_its_own_link_in_the_order_of_the_input(wire: Wire) -> None:
    images = wire().run(urls(100))
    assert list(images) == urls(100)
    for url, image in images.items():
        assert (image.state, image.link) == ("completed", link_of(url))
        assert image.deletehash == "d3l3t3h4sh"
        assert image.report is not None
        assert not Path(image.report.temp_fn).exists()


def test_downloads_of_a_job_overlap(wire: Wire, folder: Folder) -> None:
    meet = threading.Barrier(4)

    def download(url: str) -> Report:
        meet.wait(PATIENCE)  # breaks unless four are here at once
        return folder.download(url)

    images = wire(download, threads=8).run(urls(16))
    assert {image.state for image in images.values()} == {"completed"}


def test_uploads_of_a_job_overlap(wire: Wire, folder: Folder) -> None:
    meet = threading.Barrier(4)

    def upload(temp_fn: str) -> Landed:
        meet.wait(PATIENCE)
        return folder.upload(temp_fn)

    images = wire(upload=upload, threads=8).run(urls(16))
    assert {image.state for image in images.values()} == {"completed"}


def test_an_image_uploads_while_another_still_downloads(wire: Wire, folder: Folder) -> None:
    uploaded = threading.Event()

    def download(url: str) -> Report:
        if url.endswith("/1"):
            assert uploaded.wait(PATIENCE)
        return folder.download(url)

    def upload(temp_fn: str) -> Landed:
        uploaded.set()
        return folder.upload(temp_fn)

    images = wire(download, upload).run(urls(2))
    assert {image.state for image in images.values()} == {"completed"}


def test_no_more_images_than_the_window_are_under_way(wire: Wire, folder: Folder) -> None:
    """Counted in temp files, while every third upload has to be tried again."""
    meet, lock, seen = threading.Barrier(5), threading.Lock(), Counter[str]()

    def download(url: str) -> Report:
        report = folder.download(url)
        if int(url.rpartition("/")[2]) < 5:
            meet.wait(PATIENCE)  # the window is used in full
        return report

    def upload(temp_fn: str) -> Landed:
        with lock:
            seen[temp_fn] += 1
        if seen[temp_fn] == 1 and len(seen) % 3 == 0:
            raise errors.UploadError("unavailable", "Later.")
        return folder.upload(temp_fn)

    images = wire(download, upload, threads=32, window=5).run(urls(200))
    assert {image.state for image in images.values()} == {"completed"}
    assert max(seen.values()) == 2
    assert folder.most == 5


def test_a_url_that_waits_for_its_next_try_lets_others_by(wire: Wire, folder: Folder) -> None:
    landed = threading.Event()

    def download(url: str) -> Report:
        if url.endswith("/0"):
            raise errors.DownloadError("connect_error", "Come back in an hour.", retry_after=3_600)
        return folder.download(url)

    def reader(job: Job, _: Change) -> None:
        if job.summary().counts["completed"] == 9:
            landed.set()

    retry = RetryRule(max_tries=3, seconds=1, cap_seconds=3_600)
    wired = wire(download, window=1, retry=retry, observers=(reader,))
    job = wired.start(urls(10))
    assert landed.wait(PATIENCE)
    assert job.image(0).state == "queued"
    assert not job.summary().finished


def test_a_temp_file_is_there_for_every_try_of_its_upload(wire: Wire, folder: Folder) -> None:
    def upload(temp_fn: str) -> Landed:
        assert Path(temp_fn).exists()
        raise errors.UploadError("unavailable", "Out of order.")

    images = wire(upload=upload).run(urls(5))
    assert {image.failure and image.failure.code for image in images.values()} == {"upload_error"}
    assert folder.files() == []


# Failures


def test_a_passing_download_error_is_tried_again_and_the_attempts_are_counted(
    wire: Wire, folder: Folder
) -> None:
    tries = Counter[str]()

    def download(url: str) -> Report:
        tries[url] += 1
        if tries[url] <= int(url.rpartition("/")[2]):
            raise errors.DownloadError("connect_error", "No connection.")
        return folder.download(url)

    wired = wire(download)
    job = wired.start(urls(5))
    images = wired.wait(job)
    states = [image.state for image in images.values()]
    assert states == ["completed", "completed", "completed", "failed", "failed"]
    assert [*tries.values()] == [1, 2, 3, 3, 3]
    a, b, c, d, e = images
    assert wired.attempts(job, Downloaded) == {a: 1, b: 2, c: 3}
    assert wired.attempts(job, Failed) == {d: 3, e: 3}
    assert images[d].attempts == 3
    assert images[d].failure == errors.DownloadError("connect_error", "No connection.").failure()


def test_a_passing_upload_error_is_tried_again_without_another_download(
    wire: Wire, folder: Folder
) -> None:
    downloads, uploads = Counter[str](), Counter[str]()

    def download(url: str) -> Report:
        downloads[url] += 1
        return folder.download(url)

    def upload(temp_fn: str) -> Landed:
        url = Path(temp_fn).read_text()
        uploads[url] += 1
        if uploads[url] <= int(url.rpartition("/")[2]):
            raise errors.UploadError("unavailable", "Out of order.")
        return folder.upload(temp_fn)

    wired = wire(download, upload)
    job = wired.start(urls(4))
    images = wired.wait(job)
    a, b, c, d = images
    assert downloads == {a: 1, b: 1, c: 1, d: 1}
    assert uploads == {a: 1, b: 2, c: 3, d: 3}
    assert wired.attempts(job, Uploaded) == {a: 1, b: 2, c: 3}
    assert wired.attempts(job, Failed) == {d: 3}
    assert images[d].failure == errors.UploadError("unavailable", "Out of order.").failure()


def test_the_tries_of_an_upload_are_counted_from_one_whatever_the_download_took(
    wire: Wire, folder: Folder
) -> None:
    failed: set[str] = set()

    def once(name: str, error: errors.ImageError) -> None:
        if name not in failed:
            failed.add(name)
            raise error

    def download(url: str) -> Report:
        once("download", errors.DownloadError("truncated", "Cut off."))
        return folder.download(url)

    def upload(temp_fn: str) -> Landed:
        once("upload", errors.UploadError("response_lost", "No answer."))
        return folder.upload(temp_fn)

    wired = wire(download, upload)
    job = wired.start(urls(1))
    wired.wait(job)
    assert [*wired.attempts(job, Downloaded).values()] == [2]
    assert [*wired.attempts(job, Uploaded).values()] == [2]


@pytest.mark.parametrize(
    "error",
    [
        errors.DownloadError("not_image", "Text."),
        errors.DownloadError("blocked_address", "No."),
        errors.DownloadError("http_status", "404."),
    ],
)
def test_an_error_that_no_retry_cures_ends_the_image_at_once(
    wire: Wire, error: errors.ImageError
) -> None:
    calls: list[str] = []

    def download(url: str) -> Report:
        calls.append(url)
        raise error

    (image,) = wire(download).run(urls(1)).values()
    assert calls == urls(1)
    assert (image.failure, image.attempts) == (error.failure(), 1)


@pytest.mark.parametrize("phase", ["download", "upload"])
@pytest.mark.parametrize("bug", [KeyError("s3cret"), OSError(28, "s3cret"), RecursionError()])
def test_a_bug_ends_one_image_and_the_job_goes_on(
    wire: Wire, folder: Folder, phase: str, bug: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    bad = urls(20)[7]

    def download(url: str) -> Report:
        if phase == "download" and url == bad:
            raise bug
        return folder.download(url)

    def upload(temp_fn: str) -> Landed:
        if phase == "upload" and Path(temp_fn).read_text() == bad:
            raise bug
        return folder.upload(temp_fn)

    images = wire(download, upload).run(urls(20))
    failure = images.pop(bad).failure
    assert failure is not None
    assert failure.code == "internal_error"
    assert type(bug).__name__ in failure.message
    assert "s3cret" not in failure.message
    assert {image.state for image in images.values()} == {"completed"}
    assert [record.exc_info and record.exc_info[1] for record in caplog.records if record.exc_info]


def test_what_is_neither_a_report_nor_an_error_ends_one_image(wire: Wire, folder: Folder) -> None:
    bad = urls(20)[7]

    def download(url: str) -> Report:
        return cast(Report, None) if url == bad else folder.download(url)

    images = wire(download).run(urls(20))
    failure = images.pop(bad).failure
    assert failure is not None
    assert (failure.code, failure.message) == ("internal_error", "A bug in the service: NoneType.")
    assert {image.state for image in images.values()} == {"completed"}


class BrokenRule(RetryRule):
    """A rule with a bug."""

    def wait(self, error: errors.ImageError, tries: int) -> float | None:
        """Raise, where it is asked about a connection."""
        if error.code == "connect_error":
            raise ZeroDivisionError(f"{error.code}, {tries}")
        return super().wait(error, tries)


def test_a_bug_of_the_jobs_own_thread_leaves_no_image_open(
    wire: Wire, folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    def download(url: str) -> Report:
        if url.endswith("/9"):
            raise errors.DownloadError("connect_error", "No connection.")
        return folder.download(url)

    rule = BrokenRule(max_tries=3, seconds=1, cap_seconds=1)
    images = wire(download, window=3, retry=rule).run(urls(50))
    assert {image.state for image in images.values()} <= {"completed", "failed"}
    codes = {image.failure.code for image in images.values() if image.failure}
    assert codes == {"internal_error"}
    assert images[urls(50)[49]].state == "failed"
    assert "the thread of a job broke" in caplog.text


def test_after_a_bug_of_the_jobs_own_thread_no_upload_of_it_begins(
    wire: Wire, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold a slot for ever, or find another image in its temp file."""
    monkeypatch.setattr("imageload.run._LATE_SECONDS", 3 * PATIENCE)
    announced = threading.Event()

    def download(url: str) -> Report:
        if url.endswith("/2"):
            assert announced.wait(PATIENCE)
            raise errors.DownloadError("connect_error", "No connection.")
        return folder.download(url)

    record, uploads = SlowStore(), Tap(folder.upload)
    rule = BrokenRule(max_tries=3, seconds=1, cap_seconds=1)
    wired = wire(download, uploads, window=3, retry=rule, store=record)
    job = wired.start(urls(3))
    written = record.take(2)
    announced.set()
    images = wired.wait(job)
    assert {image.failure.code for image in images.values() if image.failure} == {"internal_error"}
    assert {image.state for image in images.values()} == {"failed"}
    for each in written:
        each()
    wired.close()
    assert uploads.at.empty()
    assert folder.files() == []


def test_temp_files_are_deleted_whatever_the_end(wire: Wire, folder: Folder) -> None:
    ends: list[Exception | None] = [
        None,
        errors.UploadError("upload_rejected", "No."),
        errors.UploadError("unavailable", "Later."),
        errors.UploadError("upload_error", "No link."),
        ValueError("a bug"),
    ]

    def upload(temp_fn: str) -> Landed:
        number = int(Path(temp_fn).read_text().rpartition("/")[2])
        end = ends[number % len(ends)]
        if end is not None:
            raise end
        return folder.upload(temp_fn)

    images = wire(upload=upload).run(urls(50))
    states = Counter(image.state for image in images.values())
    assert states == {"completed": 10, "failed": 40}
    assert folder.files() == []


def test_a_temp_file_that_somebody_else_took_away_is_no_trouble(wire: Wire, folder: Folder) -> None:
    def upload(temp_fn: str) -> Landed:
        landed = folder.upload(temp_fn)
        Path(temp_fn).unlink()
        return landed

    images = wire(upload=upload).run(urls(3))
    assert {image.state for image in images.values()} == {"completed"}


# Readers


def test_readers_hear_of_every_change_in_order_when_it_is_true(wire: Wire) -> None:
    heard: list[tuple[int, Change]] = []

    def reader(job: Job, change: Change) -> None:
        heard.append((job.version, change))
        if isinstance(change, Downloaded):
            assert job.image(change.index).report == change.report

    wired = wire(observers=(reader,))
    job = wired.start(urls(20))
    wired.wait(job)
    assert [version for version, _ in heard] == list(range(1, job.version + 1))
    kinds = Counter(type(change) for _, change in heard)
    assert kinds == {Started: 1, Downloaded: 20, Uploaded: 20}
    assert isinstance(heard[0][1], Started)
    assert [change for _, change in heard] == wired.changes[job.job_id]


def test_a_reader_that_raises_is_logged_and_hurts_nobody(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    def reader(_: Job, change: Change) -> None:
        raise ValueError(f"I cannot stand {type(change).__name__}")

    images = wire(observers=(reader,)).run(urls(10))
    assert {image.state for image in images.values()} == {"completed"}
    logged = [record for record in caplog.records if "an observer of changes" in record.message]
    assert len(logged) == 21


# Several jobs


def test_upload_gives_one_job_for_each_list_in_order_oldest_first(wire: Wire) -> None:
    wired = wire()
    lists = [urls(3, f"job{number}") for number in range(5)]
    jobs = wired.start_several(lists)
    late = wired.start(urls(1, "late"))
    assert [[image.url for image in job.snapshot().images] for job in jobs] == lists
    assert wired.load.jobs() == [*jobs, late]
    assert list(wired.load.job_list_s.items()) == [(job.job_id, job) for job in (*jobs, late)]
    for job in (*jobs, late):
        wired.wait(job)


def test_a_job_of_one_url_passes_one_of_ten_thousand(wire: Wire) -> None:
    begun, passed = threading.Semaphore(0), threading.Event()

    def download(url: str) -> Report:
        if "large" in url:
            begun.release()
            assert passed.wait(PATIENCE)  # as if every origin of the large job hung
        return nowhere(url)

    wired = wire(download, lambda _: Landed("https://i.imgur.com/x.png"), threads=4, window=64)
    large = wired.start(urls(10_000, "large"))
    for _ in range(2):
        assert begun.acquire(timeout=PATIENCE)
    small = wired.start(urls(1, "small"))
    wired.wait(small)
    assert large.summary().status == "in-progress"
    assert large.summary().counts["completed"] == 0
    passed.set()


def test_max_active_jobs_bounds_the_threads_and_the_rest_wait_pending_in_their_order(
    wire: Wire, folder: Folder
) -> None:
    tap = Tap(folder.download)
    wired = wire(tap, max_active_jobs=2)
    jobs = wired.start_several([urls(1, f"job{number}") for number in range(6)])
    began = tap.next(2)
    for turn in range(2, 6):
        assert {*began} == {job.image(0).url for job in jobs[:turn]}
        assert tap.at.empty()
        statuses = ["complete"] * (turn - 2) + ["in-progress"] * 2 + ["pending"] * (6 - turn)
        assert sorted(job.summary().status for job in jobs) == sorted(statuses)
        assert [job.summary().status for job in jobs[turn:]] == ["pending"] * (6 - turn)
        tap.let_on()
        began += tap.next(1)
    assert began[2:] == [job.image(0).url for job in jobs[2:]]
    tap.let_on(2)
    for job in jobs:
        wired.wait(job)


def test_many_jobs_at_once_all_end(wire: Wire) -> None:
    wired = wire(max_active_jobs=4, threads=4)
    jobs = wired.start_several([urls(5, f"job{number}") for number in range(60)])
    for job in jobs:
        wired.wait(job)
        assert job.summary().counts["completed"] == 5


# Slots and the CPU


def test_a_retry_that_is_due_while_the_window_is_full_costs_no_cpu(
    wire: Wire, folder: Folder
) -> None:
    failed, released = threading.Event(), threading.Event()

    def download(url: str) -> Report:
        if url.endswith("/0") and not failed.is_set():
            failed.set()
            raise errors.DownloadError("connect_error", "No connection.")
        if url.endswith("/1"):
            assert released.wait(PATIENCE)
        return folder.download(url)

    wired = wire(download, window=1)  # the retry is due after 2 ms, and 1 has the only place
    job = wired.start(urls(2))
    assert failed.wait(PATIENCE)
    begun = time.process_time()
    assert not released.wait(0.5)
    assert time.process_time() - begun < 0.25
    released.set()
    assert {image.state for image in wired.wait(job).values()} == {"completed"}


def test_what_waits_for_its_next_try_in_an_outage_costs_no_cpu_and_fails_when_it_is_in_line(
    wire: Wire,
) -> None:
    outage = errors.UploadBlocked("Imgur refuses us.")

    def upload(_: str) -> Landed:
        wired.to_imgur.park((math.inf, outage))
        raise errors.UploadError("unavailable", "Later.", retry_after=0.5)

    retry = RetryRule(max_tries=3, seconds=0.5, cap_seconds=0.5)
    wired = wire(nowhere, upload, retry=retry, outage_seconds=0.01)
    before = time.process_time()
    (image,) = wired.run(urls(1)).values()
    assert image.failure == outage.failure()
    assert time.process_time() - before < 0.25
    assert wired.to_imgur.unqueued <= 3


def test_no_more_downloads_of_a_host_are_under_way_than_it_may_have(
    wire: Wire, folder: Folder
) -> None:
    lock, present, most = threading.Lock(), Counter[str](), Counter[str]()

    def download(url: str) -> Report:
        host = url.split("/")[2]
        with lock:
            present[host] += 1
            most[host] = max(most[host], present[host])
        report = folder.download(url)
        with lock:
            present[host] -= 1
        return report

    wired = wire(download, threads=32, window=32, per_host=2)
    jobs = wired.start_several([urls(20, "one") + urls(20, "other") for _ in range(3)])
    for job in jobs:
        assert {image.state for image in wired.wait(job).values()} == {"completed"}
    assert set(most) == {"one.example", "other.example"}
    assert max(most.values()) <= 2


def test_every_slot_of_a_host_is_given_back_whatever_the_end(wire: Wire, folder: Folder) -> None:
    ends: list[BaseException | None] = [
        None,
        errors.DownloadError("not_image", "Text.", status_code=200),
        errors.DownloadError("origin_busy", "Later.", status_code=503),
        KeyError("a bug"),
    ]

    def download(url: str) -> Report:
        end = ends[int(url.rpartition("/")[2]) % len(ends)]
        if end is not None:
            raise end
        return folder.download(url)

    wired = wire(download, per_host=2)
    jobs = [wired.start(urls(30, "job"), dedupe=number % 2 > 0) for number in range(4)]
    for job in jobs:
        wired.wait(job)
    wired.close()
    assert wired.hosts.in_use == 0


# Sharing


def test_a_job_that_follows_anothers_url_ends_with_reused(wire: Wire, folder: Folder) -> None:
    tap = Tap(folder.download)
    wired = wire(tap)
    leader = wired.start(urls(1), dedupe=True)
    assert tap.next(1) == urls(1)
    followers = [wired.start(urls(1), dedupe=True) for _ in range(3)]
    others = wired.start(urls(1, "other"), dedupe=True)
    assert tap.next(1) == urls(1, "other"), "the followers came before, and download nothing"
    tap.let_on(2)
    (led,) = wired.wait(leader).values()
    assert (led.state, led.reused, led.attempts) == ("completed", False, 1)
    for follower in followers:
        (image,) = wired.wait(follower).values()
        assert (image.state, image.link, image.reused) == ("completed", led.link, True)
        assert image.deletehash == led.deletehash
        assert image.report is not None
        assert (image.report.temp_fn, image.report.bytes) == ("", len(urls(1)[0]))
    wired.wait(others)
    assert tap.at.empty()
    assert len(folder.made) == 2


def test_without_dedupe_every_job_downloads_for_itself(wire: Wire, folder: Folder) -> None:
    calls = Counter[str]()

    def download(url: str) -> Report:
        calls[url] += 1
        return folder.download(url)

    wired = wire(download)
    jobs = [wired.start(urls(4)) for _ in range(3)]
    for job in jobs:
        assert not any(image.reused for image in wired.wait(job).values())
    assert calls == dict.fromkeys(urls(4), 3)


def test_the_same_bytes_under_other_urls_are_uploaded_once(wire: Wire, folder: Folder) -> None:
    uploads: list[str] = []

    def download(_: str) -> Report:
        return folder.file_of("https://same.example/bytes")

    def upload(temp_fn: str) -> Landed:
        uploads.append(temp_fn)
        return folder.upload(temp_fn)

    wired = wire(download, upload)
    images = wired.wait(wired.start(urls(12), dedupe=True))
    assert {image.link for image in images.values()} == {link_of("https://same.example/bytes")}
    assert Counter(image.reused for image in images.values()) == {True: 11, False: 1}
    later = wired.wait(wired.start(urls(1, "later"), dedupe=True))
    assert [image.reused for image in later.values()] == [True]
    assert len(uploads) == 1
    assert len(folder.made) == 13


def test_a_failure_of_the_leader_is_that_of_its_followers(wire: Wire) -> None:
    begun, released = threading.Event(), threading.Event()

    def download(_: str) -> Report:
        begun.set()
        assert released.wait(PATIENCE)
        raise errors.DownloadError("not_image", "Text.")

    wired = wire(download)
    jobs = [wired.start(urls(1), dedupe=True)]
    assert begun.wait(PATIENCE)
    jobs += [wired.start(urls(1), dedupe=True) for _ in range(3)]
    released.set()
    for job in jobs:
        (image,) = wired.wait(job).values()
        assert image.failure == errors.DownloadError("not_image", "Text.").failure()
        assert not image.reused


def test_jobs_with_the_same_urls_and_bytes_bring_each_over_once(wire: Wire, folder: Folder) -> None:
    uploads = Counter[str]()

    def upload(temp_fn: str) -> Landed:
        uploads[Path(temp_fn).read_text()] += 1
        return folder.upload(temp_fn)

    wired = wire(upload=upload, window=3, per_host=2)
    jobs = [wired.start(urls(40), dedupe=True) for _ in range(8)]
    for job in jobs:
        images = wired.wait(job)
        assert {url: image.link for url, image in images.items()} == {
            url: link_of(url) for url in urls(40)
        }
    assert uploads == dict.fromkeys(urls(40), 1)


class Stoppable:
    """A Run on a thread of its own, which may be stopped alone."""

    def __init__(self, road: Road, url_list: list[str]) -> None:
        self.job = Job(url_list)
        self.run = Run(road, self.job)
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        self.run.work()
        self.run.settle()

    def wait(self) -> Image:
        """The one image of its job, at its end."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.job.image(0)


def test_who_follows_the_url_of_a_job_that_is_stopped_goes_on_alone(
    wire: Wire, folder: Folder
) -> None:
    at: queue.SimpleQueue[str] = queue.SimpleQueue()
    stopped = threading.Event()

    def download(url: str) -> Report:
        first = not stopped.is_set()
        at.put(url)
        if first:
            assert stopped.wait(PATIENCE)
            raise errors.Shutdown("Stopped.")
        return folder.download(url)

    road = wire(download).road
    leader = Stoppable(road, urls(1))
    assert at.get(timeout=PATIENCE) == urls(1)[0]
    followers = [Stoppable(road, urls(1)) for _ in range(2)]
    leader.run.stop()
    stopped.set()
    failure = leader.wait().failure
    assert failure is not None
    assert failure.code == "shutdown"
    images = [follower.wait() for follower in followers]
    assert [image.state for image in images] == ["completed"] * 2
    assert sorted(image.reused for image in images) == [False, True], "one of them leads now"


def test_who_follows_the_bytes_of_a_job_that_is_stopped_goes_on_alone(
    wire: Wire, folder: Folder
) -> None:
    at: queue.SimpleQueue[str] = queue.SimpleQueue()
    stopped = threading.Event()

    def download(_: str) -> Report:
        return folder.file_of("https://same.example/bytes")

    def upload(temp_fn: str) -> Landed:
        first = not stopped.is_set()
        at.put(temp_fn)
        if first:
            assert stopped.wait(PATIENCE)
            raise errors.Shutdown("Stopped.")
        return folder.upload(temp_fn)

    downloaded = threading.Event()

    def reader(job: Job, change: Change) -> None:
        if isinstance(change, Downloaded) and job.image(0).url == urls(1, "follower")[0]:
            downloaded.set()

    road = wire(download, upload, observers=(reader,)).road
    leader = Stoppable(road, urls(1, "leader"))
    at.get(timeout=PATIENCE)
    follower = Stoppable(road, urls(1, "follower"))
    assert downloaded.wait(PATIENCE)
    leader.run.stop()
    stopped.set()
    assert leader.wait().state == "failed"
    image = follower.wait()
    assert (image.state, image.reused) == ("completed", False)


def test_a_follower_that_is_stopped_leaves_its_leader_alone(wire: Wire, folder: Folder) -> None:
    tap = Tap(folder.download)
    road = wire(tap).road
    leader = Stoppable(road, urls(1))
    tap.next(1)
    follower = Stoppable(road, urls(1))
    follower.run.stop()
    failure = follower.wait().failure
    assert failure is not None
    assert failure.code == "shutdown"
    tap.let_on()
    assert leader.wait().state == "completed"


def test_a_new_job_finds_the_link_of_bytes_and_not_the_end_of_a_url(
    wire: Wire, folder: Folder
) -> None:
    """What is behind a URL may change: it is downloaded again, and its bytes are recognized."""
    wired = wire()
    (first,) = wired.wait(wired.start(urls(1), dedupe=True)).values()
    (again,) = wired.wait(wired.start(urls(1), dedupe=True)).values()
    assert len(folder.made) == 2
    assert (again.link, again.reused) == (first.link, True)


# What is not taken


def test_past_max_waiting_jobs_a_request_is_refused_whole(wire: Wire, folder: Folder) -> None:
    tap = Tap(folder.download)
    wired = wire(tap, max_active_jobs=1, max_waiting_jobs=2)
    running = wired.start(urls(1, "running"))
    tap.next(1)
    waiting = wired.start(urls(1, "waiting"))
    with raises_refused("backlog-full", match="The backlog is full, at 1\\."):
        wired.start_several([urls(1, "one"), urls(1, "two")])
    assert wired.load.jobs() == [running, waiting]
    last = wired.start(urls(1, "last"))
    with raises_refused("backlog-full"):
        wired.start(urls(1, "one more"))
    tap.let_on(3)
    for job in (running, waiting, last):
        wired.wait(job)
    assert sorted(tap.next(2)) == sorted([waiting.image(0).url, last.image(0).url])
    assert tap.at.empty()


def no_thread(_: threading.Thread) -> None:
    """What Thread.start does where the system is out of threads."""
    raise RuntimeError("can't start new thread")


def test_without_a_thread_a_request_is_refused_and_nothing_registered(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    wired = wire()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with raises_refused("out-of-threads"):
            wired.start_several([urls(1), urls(2)])
    assert wired.load.jobs() == []
    assert wired.load.job_list_s == {}
    job = wired.start(urls(1))
    wired.wait(job)
    assert wired.load.close(PATIENCE)
    assert wired.load.jobs() == [job]
    assert [*wired.changes] == [job.job_id]


def test_where_one_job_runs_others_wait_for_a_thread_and_get_it_when_there_is_one(
    wire: Wire, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = Tap(folder.download)
    wired = wire(tap)
    first = wired.start(urls(1, "first"))
    tap.next(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        second = wired.start(urls(1, "second"))
    assert second.summary().status == "pending"
    tap.let_on(2)
    wired.wait(first)
    wired.wait(second)


def test_upload_of_nothing_makes_nothing(wire: Wire) -> None:
    wired = wire()
    assert wired.load.upload([]) == []
    assert wired.load.jobs() == []
    assert not [t for t in threading.enumerate() if t.name.startswith("job-")]


def test_waiting_jobs_go_on_where_no_further_thread_can_be_had(
    wire: Wire, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def start_no_job(thread: threading.Thread) -> None:
        if thread.name.startswith("job-"):
            no_thread(thread)
        start(thread)

    tap = Tap(folder.download)
    wired = wire(tap, max_active_jobs=1)
    jobs = wired.start_several([urls(2, f"job{number}") for number in range(5)])
    tap.next(2)
    monkeypatch.setattr(threading.Thread, "start", start_no_job)
    tap.let_on(10)
    for job in jobs:
        assert {image.state for image in wired.wait(job).values()} == {"completed"}
    assert [url.split("/")[2] for url in tap.next(8)] == [
        f"job{number}.example" for number in (1, 1, 2, 2, 3, 3, 4, 4)
    ]


# The end


def test_what_cannot_travel_any_more_ends_with_the_code_shutdown(
    wire: Wire, folder: Folder
) -> None:
    """The engine is closed first: it takes nothing, and what it had ends as stopped."""
    tap = Tap(folder.download)
    wired = wire(tap, window=2)
    job = wired.start(urls(4))
    tap.next(2)
    tap.let_on(4)
    wired.close()
    images = job.snapshot().images
    assert {image.state for image in images} <= {"completed", "failed"}
    codes = {image.failure.code for image in images if image.failure}
    assert codes <= {"shutdown"}


def test_close_ends_running_and_waiting_jobs_with_the_code_shutdown(
    wire: Wire, folder: Folder
) -> None:
    """As main.py does it: the transfers under way are aborted first."""
    begun, aborted = threading.Semaphore(0), threading.Event()

    def download(url: str) -> Report:
        if url.endswith("/0"):
            return folder.download(url)
        begun.release()
        assert aborted.wait(PATIENCE)
        raise errors.Shutdown("The service stopped.")

    def upload(_: str) -> Landed:
        begun.release()
        assert aborted.wait(PATIENCE)
        raise errors.Shutdown("The service stopped.")

    wired = wire(download, upload, max_active_jobs=2, window=3)
    jobs = wired.start_several([urls(20, f"job{number}") for number in range(5)])
    for _ in range(4):
        assert begun.acquire(timeout=PATIENCE)
    aborted.set()
    assert wired.load.close(PATIENCE)
    for job in jobs:
        assert (job.summary().status, job.summary().finished) == ("complete", True)
        for image in job.snapshot().images:
            assert image.failure is not None
            assert image.failure.code == "shutdown"
    assert folder.files() == []
    assert not [t for t in threading.enumerate() if t.name.startswith("job-")]


def test_a_download_that_ends_after_close_leaves_no_file(wire: Wire, folder: Folder) -> None:
    tap = Tap(folder.download)
    wired = wire(tap)
    job = wired.start(urls(3))
    tap.next(3)
    closed: queue.SimpleQueue[bool] = queue.SimpleQueue()
    closing = threading.Thread(target=lambda: closed.put(wired.load.close(PATIENCE)))
    closing.start()
    tap.let_on(3)
    assert closed.get(timeout=PATIENCE)
    closing.join()
    assert job.summary().finished
    assert folder.files() == []


def test_a_download_that_ends_when_nobody_waits_for_it_any_more_leaves_no_file(
    wire: Wire, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageload.run._LATE_SECONDS", 0.05)
    tap = Tap(folder.download)
    wired = wire(tap)
    job = wired.start(urls(3))
    tap.next(3)
    assert wired.load.close(PATIENCE)
    assert job.summary().counts["failed"] == 3
    assert folder.made == []
    tap.let_on(3)
    wired.close()
    assert len(folder.made) == 3
    assert folder.files() == []


def test_close_keeps_what_has_landed(wire: Wire, folder: Folder) -> None:
    landed = threading.Event()

    def download(url: str) -> Report:
        if url.endswith("/0"):
            return folder.download(url)
        raise errors.DownloadError("origin_busy", "Come back in an hour.", retry_after=3_600)

    def reader(job: Job, _: Change) -> None:
        if job.summary().counts["completed"]:
            landed.set()

    retry = RetryRule(max_tries=3, seconds=1, cap_seconds=3_600)
    wired = wire(download, retry=retry, observers=(reader,))
    job = wired.start(urls(3))
    assert landed.wait(PATIENCE)
    assert wired.load.close(PATIENCE)
    states = [image.state for image in job.snapshot().images]
    assert states == ["completed", "failed", "failed"]


def test_close_ends_a_waiting_job_without_starting_it_and_readers_hear_of_it(
    wire: Wire, folder: Folder
) -> None:
    tap = Tap(folder.download)

    def reader(job: Job, _: Change) -> None:
        if job.summary().counts["failed"] == 4:
            tap.let_on()  # the running job holds its place until the waiting one has ended

    wired = wire(tap, max_active_jobs=1, observers=(reader,))
    running, waiting = wired.start_several([urls(1, "running"), urls(4, "waiting")])
    assert tap.next(1) == urls(1, "running")
    assert wired.load.close(PATIENCE)
    assert tap.at.empty()
    for image in wired.wait(waiting).values():
        assert image.failure is not None
        assert (image.failure.code, image.attempts) == ("shutdown", 0)
    assert [type(change) for change in wired.changes[waiting.job_id]] == [Failed] * 4
    assert wired.wait(running)


def test_after_close_nothing_is_taken(wire: Wire) -> None:
    wired = wire()
    done = wired.start(urls(1))
    wired.wait(done)
    assert wired.load.close(PATIENCE)
    with raises_refused("shutting-down"):
        wired.start(urls(1))
    assert wired.load.jobs() == [done]


def test_close_may_be_called_twice_and_with_nothing_to_end(wire: Wire) -> None:
    wired = wire()
    assert wired.load.close(PATIENCE)
    assert wired.load.close(PATIENCE)


# The log


def test_the_log_has_job_and_url_and_no_secrets(
    wire: Wire, folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def download(url: str) -> Report:
        if "lost" in url:
            raise errors.DownloadError("connect_error", "No connection.")
        return folder.download(url)

    wired = wire(download)
    job = wired.start(["https://a.example/found", "https://me:s3cret@a.example/lost?key=s3cret#x"])
    wired.wait(job)
    assert wired.load.close(PATIENCE)
    assert "s3cret" not in caplog.text
    assert "d3l3t3h4sh" not in caplog.text
    messages = [record.getMessage() for record in caplog.records]
    assert f"accepted job={job.job_id} urls=2" in messages
    assert f"complete job={job.job_id} completed=1 failed=1" in messages
    failed = f"failed job={job.job_id} code=connect_error url=https://a.example/lost "
    assert [message for message in messages if message.startswith(failed)]
    tries = [message for message in messages if message.startswith("try ")]
    assert len(tries) == 2
    assert all(f"job={job.job_id}" in message for message in tries)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://a.example/x.png", "https://a.example/x.png"),
        ("https://a.example:8443/x/", "https://a.example:8443/x/"),
        ("https://a.example/x?token=s3cret", "https://a.example/x"),
        ("https://a.example?token=s3cret", "https://a.example"),
        ("https://a.example/x#s3cret", "https://a.example/x"),
        ("https://me:s3cret@a.example/x", "https://a.example/x"),
        ("https://s3cret@a.example/x", "https://a.example/x"),
        ("https://s3@cr:e@t@a.example/x", "https://a.example/x"),
        ("https://a.example/@me", "https://a.example/@me"),
        ("//me:s3cret@a.example/x", "/x"),
        ("foo", "foo"),
        ("", ""),
        ("me:s3cret@a.example/x", "a.example/x"),
        ("http:/me:s3cret@a.example/x", "http://a.example/x"),
        ("http:me:s3cret@a.example/x", "http://a.example/x"),
        ("http:///me:s3cret@a.example/x", "http://a.example/x"),
        ("https://me:s3cret@", "https://"),
        ("me:s3c/ret@a.example/x?y@z", "a.example/x"),
        ("https://[::1/", "(unreadable)"),
        ("https://a.example/é", r"https://a.example/\xe9"),
        ("https://a.example/\x00\x1b[31m\x7f", r"https://a.example/\x00\x1b[31m\x7f"),
        ("https://a.example/x y\u2028z", r"https://a.example/x y\u2028z"),
        ("https://a.example/\ud800", r"https://a.example/\ud800"),
        (f"https://a.example/{'x' * 500}", f"https://a.example/{'x' * 182}"),
    ],
)
def test_redact_url_leaves_out_what_may_be_a_secret_and_what_a_log_cannot_bear(
    url: str, text: str
) -> None:
    assert redact_url(url) == text
    assert redact_url(url).isascii()
    assert len(redact_url(url)) <= 200


def test_no_url_breaks_a_line_of_the_log() -> None:
    for control in map(chr, [*range(32), *range(127, 160), 0x2028, 0x2029]):
        text = redact_url(f"https://a.example/{control}failed job=forged")
        assert text.isprintable()
        assert len(text.splitlines()) == 1


def test_jobs_accepted_together_share_also_where_they_wait(wire: Wire, folder: Folder) -> None:
    downloads = Counter[str]()

    def download(url: str) -> Report:
        downloads[url] += 1
        return folder.download(url)

    wired = wire(download, folder.upload, max_active_jobs=1)
    jobs = wired.load.upload([Order(items=urls(3))] * 4)
    for job in jobs:
        wired.wait(job)
    assert downloads == dict.fromkeys(urls(3), 1)


def test_no_upload_begins_before_it_is_durable_that_it_does(wire: Wire, folder: Folder) -> None:
    record, downloads, uploads = SlowStore(), Tap(folder.download), Tap(folder.upload)
    wired = wire(downloads, uploads, window=3, store=record)
    job = wired.start(urls(3))
    announced: list[Callable[[], None]] = []
    for _ in range(3):
        downloads.let_on()
        announced += record.take(1)
    assert [type(change).__name__ for change in wired.changes[job.job_id]].count("Uploading") == 3
    assert uploads.at.empty()
    announced[0]()
    uploads.next(1)
    assert uploads.at.empty()
    for written in announced[1:]:
        written()
    uploads.next(2)
    uploads.let_on(3)
    record.write(3)
    assert {image.state for image in wired.wait(job).values()} == {"completed"}
    assert folder.files() == []


def test_what_imgur_was_not_asked_to_take_has_no_more_uploads_announced(
    wire: Wire, folder: Folder
) -> None:
    same = urls(20, "same")

    def download(url: str) -> Report:
        return folder.file_of(same[0] if url in same else url)

    record, downloads, uploads = SlowStore(), Tap(download), Tap(folder.upload)
    wired = wire(downloads, uploads, threads=2, window=64, store=record)
    before = wired.start(same[:1], dedupe=True)
    downloads.let_on()
    record.write(1)
    uploads.let_on()
    wired.wait(before)
    record.write(1)
    own = urls(20, "own")
    job = wired.start([own[0], *same, *own[1:]], dedupe=True)
    downloads.let_on(1 + len(same))
    record.write(1 + len(same))
    downloads.let_on(len(own) - 1)
    wait_until(lambda: job.summary().counts["downloaded"] == len(own))
    begun = [change for change in wired.changes[job.job_id] if isinstance(change, Uploading)]
    assert len(begun) == 2, "as many as there are slots"
    wired.on_loop(wired.load.cancel(job))
    uploads.let_on()
    wired.wait(job)
    wired.close()
    record.write_rest()


def test_a_temp_file_stays_until_it_is_durable_that_its_image_has_landed(
    wire: Wire, folder: Folder
) -> None:
    record = SlowStore()
    wired = wire(folder.download, folder.upload, store=record)
    job = wired.start(urls(1))
    record.write(1)
    assert wired.wait(job)[urls(1)[0]].state == "completed"
    assert len(folder.files()) == 1
    record.write(1)
    assert folder.files() == []


def test_a_job_that_is_cancelled_before_its_uploads_may_begin_leaves_nothing(
    wire: Wire, folder: Folder
) -> None:
    record, uploads = SlowStore(), Tap(folder.upload)
    wired = wire(folder.download, uploads, window=3, store=record)
    job = wired.start(urls(3))
    announced = record.take(3)
    assert wired.on_loop(wired.load.cancel(job)).cancelled == 3
    images = wired.wait(job)
    assert {image.failure.code for image in images.values() if image.failure} == {"cancelled"}
    assert {image.state for image in images.values()} == {"failed"}
    for written in announced:
        written()
    wired.close()
    assert uploads.at.empty()
    assert folder.files() == []


def test_a_stop_before_uploads_may_begin_leaves_no_upload_and_no_file(
    wire: Wire, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it wait for what has not begun."""
    monkeypatch.setattr("imageload.run._LATE_SECONDS", 3 * PATIENCE)
    record, uploads = SlowStore(), Tap(folder.upload)
    wired = wire(folder.download, uploads, window=3, store=record)
    job = wired.start(urls(3))
    announced = record.take(3)
    wired.close()
    for written in announced:
        written()
    images = job.snapshot().images
    assert [(image.failure, image.uploading) for image in images] == [(None, False)] * 3
    assert wired.is_left(job)
    assert uploads.at.empty()
    assert folder.files() == []


@pytest.mark.parametrize(
    ("error", "state", "maybe_duplicate"),
    [
        (errors.Deferred("Imgur takes nothing for now."), "downloaded", False),
        (errors.UploadError("unavailable", "Later."), "downloaded", False),
        (errors.Shutdown("Stopped."), "downloaded", False),
        (
            errors.UploadError("response_lost", "It was sent, and nobody answered."),
            "downloaded",
            True,
        ),
        (errors.UploadError("upload_rejected", "No image."), "failed", False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_stop_fails_no_image_that_another_try_may_bring_where_it_is_written_down(
    wire: Wire,
    folder: Folder,
    error: errors.ImageError,
    state: State,
    maybe_duplicate: bool,
) -> None:
    at, stopped = threading.Event(), threading.Event()

    def upload(_: str) -> Landed:
        at.set()
        assert stopped.wait(PATIENCE)
        raise error

    record = SlowStore()
    wired = wire(folder.download, upload, store=record)
    job = wired.start(urls(1))
    record.write(1)
    assert at.wait(PATIENCE)
    wired.load.stop()
    stopped.set()
    assert wired.load.close(PATIENCE)
    image = job.image(0)
    assert (image.state, image.maybe_duplicate, image.uploading) == (state, maybe_duplicate, False)
    assert folder.files() == []


def test_an_upload_that_did_not_come_back_before_the_end_may_be_on_imgur(
    wire: Wire, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageload.run._LATE_SECONDS", 0.05)
    record, uploads = SlowStore(), Tap(folder.upload)
    wired = wire(folder.download, uploads, store=record)
    job = wired.start(urls(1))
    record.write(1)
    (path,) = uploads.next(1)
    assert wired.load.close(PATIENCE)
    assert job.image(0).uploading
    Path(path).touch()  # for the upload that comes back now
    uploads.let_on()
    wired.close()
    Path(path).unlink()


def test_a_job_that_was_cancelled_does_not_go_on_after_a_restart(
    wire: Wire, folder: Folder
) -> None:
    at, stopped = threading.Event(), threading.Event()

    def upload(_: str) -> Landed:
        at.set()
        assert stopped.wait(PATIENCE)
        raise errors.Shutdown("Nobody wants this image any more.")

    record = SlowStore()
    wired = wire(folder.download, upload, store=record)
    job = wired.start(urls(1))
    record.write(1)
    assert at.wait(PATIENCE)
    wired.on_loop(wired.load.cancel(job))
    wired.load.stop()
    stopped.set()
    (image,) = wired.wait(job).values()
    assert image.failure is not None
    assert image.failure.code == "cancelled"


def test_while_the_service_stops_no_job_is_cancelled(wire: Wire) -> None:
    """It might not be written down any more, and the job go on after a restart."""
    wired = wire()
    job = wired.start(urls(1))
    wired.wait(job)
    wired.load.stop()
    for end in (wired.load.cancel, wired.load.purge):
        with raises_refused("shutting-down"):
            end(job)


# Purges


class Door:
    """A lock at which one can hear that somebody has come to it."""

    def __init__(self) -> None:
        self.came = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self.came.release()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_of_two_jobs_with_one_image_that_are_purged_at_once_one_deletes_it(wire: Wire) -> None:
    deleted: list[str] = []
    door, wired = Door(), wire(answer=lambda method, route: deleted.append(f"{method} {route}"))
    jobs = [wired.start(urls(1)), wired.start(urls(1))]
    (link,) = {image.link for job in jobs for image in wired.wait(job).values()}

    def links_of_the_second() -> set[str]:
        assert door.came.acquire(timeout=PATIENCE)
        thread.start()
        assert door.came.acquire(timeout=PATIENCE)
        return {str(link)}

    first = Purge(wired.road, jobs[0], links_of_the_second, door)
    second = Purge(wired.road, jobs[1], lambda: {str(jobs[0].image(0).link)}, door)
    thread = threading.Thread(target=second.work)
    first.work()
    thread.join(PATIENCE)
    first.settle()
    second.settle()
    assert deleted == ["DELETE image/d3l3t3h4sh"]
    assert [job.image(0).state for job in jobs] == ["failed", "failed"]


def test_a_job_that_died_while_it_was_cancelled_for_a_purge_is_not_begun_again(wire: Wire) -> None:
    landed = Image(urls(2)[0], "completed", link=link_of(urls(2)[0]), deletehash="hash")
    images = [landed, Image(urls(2)[1])]
    job = Job.restored(images, "job", created=datetime.now(UTC), started=True, purging=True)
    wired = wire(answer=lambda method, route: None)  # noqa: ARG005
    wired.load.restore([job])
    ended = wired.wait(job).values()
    assert [each.failure and each.failure.code for each in ended] == ["purged", "cancelled"]
