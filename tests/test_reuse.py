"""Tests of reuse: images requested twice are loaded once, in one job or in several."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from imageload import errors
from imageload.image import Downloaded, Landed, Report
from imageload.job import Change, Job
from imageload.registry import Order
from tests.waiting import PATIENCE
from tests.wired import Folder, Tap, Wired, link_of, urls

Wire = Callable[..., Wired]


def test_a_job_that_follows_the_url_of_another_ends_as_reused(wire: Wire, folder: Folder) -> None:
    tap = Tap(folder.download)
    wired = wire(tap)
    leader = wired.start(urls(1), dedupe=True)
    assert tap.next(1) == urls(1)
    followers = [wired.start(urls(1), dedupe=True) for _ in range(3)]
    others = wired.start(urls(1, "other"), dedupe=True)
    assert tap.next(1) == urls(1, "other"), "the followers came before, and download nothing"
    tap.resume(2)
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


def test_a_failure_of_the_leader_is_shared_with_its_followers(wire: Wire) -> None:
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


def test_jobs_with_the_same_urls_upload_each_once(wire: Wire, folder: Folder) -> None:
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


def test_jobs_accepted_together_share_although_some_wait_for_a_thread(
    wire: Wire, folder: Folder
) -> None:
    downloads = Counter[str]()

    def download(url: str) -> Report:
        downloads[url] += 1
        return folder.download(url)

    wired = wire(download, folder.upload, max_active_jobs=1)
    jobs = wired.load.upload([Order(items=urls(3))] * 4)
    for job in jobs:
        wired.wait(job)
    assert downloads == dict.fromkeys(urls(3), 1)


def test_a_new_job_reuses_the_link_of_known_bytes_and_downloads_the_url_again(
    wire: Wire, folder: Folder
) -> None:
    """The bytes at a URL may change: it is downloaded again, and its bytes are compared."""
    wired = wire()
    (first,) = wired.wait(wired.start(urls(1), dedupe=True)).values()
    (again,) = wired.wait(wired.start(urls(1), dedupe=True)).values()
    assert len(folder.made) == 2
    assert (again.link, again.reused) == (first.link, True)


def test_a_job_that_waits_for_the_url_of_a_cancelled_job_loads_it_itself(
    wire: Wire, folder: Folder
) -> None:
    tap = Tap(folder.download)
    wired = wire(tap)
    leader = wired.start(urls(1), dedupe=True)
    tap.next(1)
    followers = [wired.start(urls(1), dedupe=True) for _ in range(2)]
    wired.on_loop(wired.load.cancel(leader))
    tap.next(1)
    tap.resume(2)
    images = [image for follower in followers for image in wired.wait(follower).values()]
    assert [image.state for image in images] == ["completed"] * 2
    assert sorted(image.reused for image in images) == [False, True], "one of them leads now"
    assert [image.state for image in wired.wait(leader).values()] == ["failed"]


def test_a_job_that_waits_for_the_bytes_of_a_cancelled_job_uploads_them_itself(
    wire: Wire, folder: Folder
) -> None:
    downloaded = threading.Event()

    def observe(job: Job, change: Change) -> None:
        if isinstance(change, Downloaded) and job.image(0).url == urls(1, "follower")[0]:
            downloaded.set()

    uploads = Tap(folder.upload)
    wired = wire(
        lambda _: folder.file_of("https://same.example/bytes"), uploads, observers=(observe,)
    )
    leader = wired.start(urls(1, "leader"), dedupe=True)
    uploads.next(1)
    follower = wired.start(urls(1, "follower"), dedupe=True)
    assert downloaded.wait(PATIENCE)
    wired.on_loop(wired.load.cancel(leader))
    uploads.next(1)
    uploads.resume(2)
    (image,) = wired.wait(follower).values()
    assert (image.state, image.reused) == ("completed", False)


def test_a_follower_that_is_cancelled_leaves_its_leader_alone(wire: Wire, folder: Folder) -> None:
    tap = Tap(folder.download)
    wired = wire(tap)
    leader = wired.start(urls(1), dedupe=True)
    tap.next(1)
    follower = wired.start(urls(1), dedupe=True)
    wired.on_loop(wired.load.cancel(follower))
    (image,) = wired.wait(follower).values()
    assert image.failure is not None
    assert image.failure.code == "cancelled"
    tap.resume()
    assert {image.state for image in wired.wait(leader).values()} == {"completed"}
