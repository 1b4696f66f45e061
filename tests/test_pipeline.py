"""One image from its URL to its link: retries, ends, temp files, slots, observers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from imageload import errors
from imageload.image import Downloaded, Failed, Landed, Report, Uploaded, Uploading
from imageload.job import Change, Job, Started
from imageload.retry import RetryRule
from tests.waiting import PATIENCE, wait_until
from tests.wired import Folder, SlowStore, Tap, Wired, link_of, urls

Wire = Callable[..., Wired]


# The way of an image


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


def test_no_more_images_than_the_window_are_in_flight(wire: Wire, folder: Folder) -> None:
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


def test_a_url_that_waits_for_its_next_try_lets_others_pass(wire: Wire, folder: Folder) -> None:
    landed = threading.Event()

    def download(url: str) -> Report:
        if url.endswith("/0"):
            raise errors.DownloadError("connect_error", "Come back in an hour.", retry_after=3_600)
        return folder.download(url)

    def observe(job: Job, _: Change) -> None:
        if job.summary().counts["completed"] == 9:
            landed.set()

    retry = RetryRule(max_tries=3, seconds=1, cap_seconds=3_600)
    wired = wire(download, window=1, retry=retry, observers=(observe,))
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


def test_a_transient_download_error_is_tried_again_and_the_attempts_are_counted(
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


def test_a_transient_upload_error_is_tried_again_without_another_download(
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


def test_tries_of_an_upload_are_counted_apart_from_the_downloads(
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
def test_a_bug_fails_one_image_and_no_other(
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


def test_a_download_that_returns_no_report_ends_one_image(wire: Wire, folder: Folder) -> None:
    bad = urls(20)[7]

    def download(url: str) -> Report:
        return cast(Report, None) if url == bad else folder.download(url)

    images = wire(download).run(urls(20))
    failure = images.pop(bad).failure
    assert failure is not None
    assert failure.code == "internal_error"
    assert failure.message.startswith("A bug in the service: ")
    assert {image.state for image in images.values()} == {"completed"}


class BrokenRule(RetryRule):
    """A rule with a bug."""

    def wait(self, error: errors.ImageError, tries: int) -> float | None:
        """Raise when a connection is checked."""
        if error.code == "connect_error":
            raise ZeroDivisionError(f"{error.code}, {tries}")
        return super().wait(error, tries)


def test_a_bug_in_the_retry_rule_ends_one_image(
    wire: Wire, folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    def download(url: str) -> Report:
        if url.endswith("/9"):
            raise errors.DownloadError("connect_error", "No connection.")
        return folder.download(url)

    rule = BrokenRule(max_tries=3, seconds=1, cap_seconds=1)
    images = wire(download, window=3, retry=rule).run(urls(50))
    failed = {url for url, image in images.items() if image.state == "failed"}
    assert failed == {url for url in urls(50) if url.endswith("/9")}
    codes = {image.failure.code for image in images.values() if image.failure}
    assert codes == {"internal_error"}
    assert "an image met a bug" in caplog.text


# Temp files


def test_temp_files_are_deleted_however_the_image_ends(wire: Wire, folder: Folder) -> None:
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


def test_a_temp_file_that_is_gone_already_does_no_harm(wire: Wire, folder: Folder) -> None:
    def upload(temp_fn: str) -> Landed:
        landed = folder.upload(temp_fn)
        Path(temp_fn).unlink()
        return landed

    images = wire(upload=upload).run(urls(3))
    assert {image.state for image in images.values()} == {"completed"}


def test_downloads_wait_while_the_temp_files_have_no_room(wire: Wire, folder: Folder) -> None:
    tap = Tap(folder.upload)
    length = len(urls(1)[0])
    wired = wire(upload=tap, temp_bytes=4.0 * length)
    job = wired.start(urls(9))
    for done in range(9):
        tap.next(1)
        assert wired.pipeline.temp_bytes.held <= 8 * length
        tap.resume()
        assert done < 9
    wired.wait(job)
    assert wired.pipeline.temp_bytes.held == 0


def test_jobs_that_start_at_once_never_have_more_temp_bytes_than_the_limit(
    wire: Wire, folder: Folder
) -> None:
    tap = Tap(folder.upload)
    lists = [urls(8, f"job{number}") for number in range(8)]
    length = len(lists[0][0])
    wired = wire(upload=tap, temp_bytes=6.0 * length, largest_image=length)
    jobs = wired.start_several(lists)
    for _ in range(64):
        tap.next(1)
        tap.resume()
    for job in jobs:
        assert {image.state for image in wired.wait(job).values()} == {"completed"}
    assert 1 < folder.most <= 6


def test_a_job_that_waits_for_temp_bytes_can_be_cancelled(wire: Wire, folder: Folder) -> None:
    tap = Tap(folder.upload)
    length = len(urls(1)[0])
    wired = wire(upload=tap, temp_bytes=1.0 * length, largest_image=length)
    first = wired.start(urls(1))
    tap.next(1)
    second = wired.start(urls(3, "two"))
    wait_until(lambda: wired.pipeline.temp_bytes.waiting == 1)
    wired.on_loop(wired.load.cancel(second))
    assert wired.failures(second) == ["cancelled"] * 3
    tap.resume()
    assert wired.wait(first)[urls(1)[0]].state == "completed"


# Observers


def test_observers_get_every_change_in_order_after_it_was_applied(wire: Wire) -> None:
    heard: list[tuple[int, Change]] = []

    def observe(job: Job, change: Change) -> None:
        heard.append((job.version, change))
        if isinstance(change, Downloaded):
            assert job.image(change.index).report == change.report

    wired = wire(observers=(observe,))
    job = wired.start(urls(20))
    wired.wait(job)
    assert [version for version, _ in heard] == list(range(1, job.version + 1))
    kinds = Counter(type(change) for _, change in heard)
    assert kinds == {Started: 1, Downloaded: 20, Uploaded: 20}
    assert isinstance(heard[0][1], Started)
    assert [change for _, change in heard] == wired.changes[job.job_id]


def test_an_observer_that_raises_is_logged_and_stops_nothing(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    def observe(_: Job, change: Change) -> None:
        raise ValueError(f"I cannot stand {type(change).__name__}")

    images = wire(observers=(observe,)).run(urls(10))
    assert {image.state for image in images.values()} == {"completed"}
    logged = [record for record in caplog.records if "an observer of changes" in record.message]
    assert len(logged) == 21


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


def test_no_more_downloads_of_a_host_run_than_it_has_slots(wire: Wire, folder: Folder) -> None:
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


def test_every_slot_of_a_host_is_given_back_however_a_download_ends(
    wire: Wire, folder: Folder
) -> None:
    ends: list[BaseException | None] = [
        None,
        errors.DownloadError("not_image", "Text.", status_code=200),
        errors.DownloadError("origin_busy", "Later.", status_code=503),
        KeyError("a bug"),
    ]
    both = threading.Barrier(2)

    def download(url: str) -> Report:
        if "last" in url:
            both.wait(PATIENCE)  # breaks unless both slots are free
            return folder.download(url)
        end = ends[int(url.rpartition("/")[2]) % len(ends)]
        if end is not None:
            raise end
        return folder.download(url)

    wired = wire(download, per_host=2)
    jobs = [wired.start(urls(30, "job"), dedupe=number % 2 > 0) for number in range(4)]
    for job in jobs:
        wired.wait(job)
    last = wired.run([f"https://job.example/last{number}" for number in range(2)])
    assert {image.state for image in last.values()} == {"completed"}


# The start of an upload is on disk before it is sent


def test_no_upload_is_sent_before_its_start_is_durable(wire: Wire, folder: Folder) -> None:
    store, downloads, uploads = SlowStore(), Tap(folder.download), Tap(folder.upload)
    wired = wire(downloads, uploads, window=3, store=store)
    job = wired.start(urls(3))
    announced: list[Callable[[], None]] = []
    for _ in range(3):
        downloads.resume()
        announced += store.take(1)
    assert [type(change) for change in wired.changes[job.job_id]].count(Uploading) == 3
    assert uploads.at.empty()
    announced[0]()
    uploads.next(1)
    assert uploads.at.empty()
    for written in announced[1:]:
        written()
    uploads.next(2)
    uploads.resume(3)
    assert {image.state for image in wired.wait(job).values()} == {"completed"}
    assert folder.files() == []


def test_an_image_that_reuses_a_link_announces_no_upload(wire: Wire, folder: Folder) -> None:
    store = SlowStore()
    wired = wire(lambda _: folder.file_of(urls(1)[0]), store=store)
    first = wired.start(urls(1), dedupe=True)
    store.write(1)
    wired.wait(first)
    later = wired.start(urls(5, "later"), dedupe=True)
    assert {image.reused for image in wired.wait(later).values()} == {True}
    assert not [each for each in wired.changes[later.job_id] if isinstance(each, Uploading)]
