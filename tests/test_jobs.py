"""The actions on a job: cancel, retry, purge and stop, and its album, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from imageload import errors
from imageload.errors import Refused
from imageload.image import Failed, Image, Landed, Report, State
from imageload.job import Album, Change, Job
from imageload.jobs import Jobs, WindowRules
from imageload.retry import RetryRule
from imageload.store.memory import MemoryStore
from imageload.targets.limits.gate import Gate
from imageload.targets.limits.quota import UPLOAD, Quotas
from imageload.transport.loop import is_urgent
from tests.raising import raises_refused
from tests.waiting import PATIENCE, wait_until
from tests.wired import Folder, SlowStore, Tap, Wired, link_of, urls

Wire = Callable[..., Wired]


async def no_links(_: Job) -> set[str]:
    return set()


class Requests:
    """Imgur's other responses: albums and deletions, which may be held at `gate`."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.albums: list[list[str]] = []
        self.deleted: set[str] = set()
        self.arrived = threading.Semaphore(0)
        self.gate: asyncio.Event | None = None
        self._lock = threading.Lock()

    async def __call__(self, method: str, route: str, fields: Any) -> Any:
        with self._lock:
            self.sent.append(f"{method} {route}")
        self.arrived.release()
        if self.gate is not None:
            await self.gate.wait()
        if method == "DELETE":
            self.deleted.add(route.partition("/")[2])
            return True
        if method == "POST" and "album" in route:
            self.albums.append(fields["deletehashes"])
        return {"id": "alb", "deletehash": "albhash"}


def failing_once(folder: Folder, code: str = "http_status") -> Callable[[str], Report]:
    """Downloads that fail at the first try of each URL."""
    seen: set[str] = set()

    def download(url: str) -> Report:
        if url not in seen:
            seen.add(url)
            raise errors.DownloadError(code, "Not yet.", status_code=404)
        return folder.download(url)

    return download


# The window


def test_in_an_outage_only_so_many_images_of_a_job_wait_for_another(
    wire: Wire, folder: Folder
) -> None:
    quotas = Quotas()
    quotas.each[0].block_until_asked(3_600)
    tap = Tap(folder.download)
    wired = wire(tap)
    wired.target.gate = Gate(quotas, UPLOAD)
    assert wired.target.gate.seconds_to_next(0) > 0
    job = wired.start(urls(1) * 3_000, dedupe=True)
    tap.next(1)

    async def tasks() -> int:
        for _ in range(3_000):
            await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert 1_000 < wired.on_loop(tasks()) < 1_100
    tap.resume()
    wired.wait(job)


# Cancels


def test_a_cancel_ends_open_images_and_keeps_completed_ones(wire: Wire, folder: Folder) -> None:
    tap = Tap(folder.download)
    wired = wire(tap, window=2)
    job = wired.start(urls(6))
    tap.next(2)
    tap.resume(1)
    tap.next(1)
    wait_until(lambda: job.summary().counts["completed"] == 1)
    result = wired.on_loop(wired.load.cancel(job))
    assert (result.cancelled, result.purging) == (5, 0)
    assert job.summary().counts == {"queued": 0, "downloaded": 0, "completed": 1, "failed": 5}
    assert set(wired.failures(job)) == {None, "cancelled"}
    tap.resume(2)


def test_a_cancel_of_a_job_that_has_just_started_ends_every_image(
    wire: Wire, folder: Folder
) -> None:
    tap = Tap(folder.download)
    wired = wire(tap)
    jobs = [wired.start(urls(3, f"job{number}")) for number in range(20)]
    for job in jobs:
        wired.on_loop(wired.load.cancel(job))
        assert job.summary().finished
    late = [wired.start(urls(3, f"late{number}")) for number in range(20)]
    for job in late:
        wired.on_loop(wired.load.cancel(job))
        assert set(wired.failures(job)) == {"cancelled"}
    tap.resume(1_000)


def test_a_queued_job_that_is_cancelled_never_starts(wire: Wire, folder: Folder) -> None:
    tap = Tap(folder.download)
    wired = wire(tap, max_active_jobs=1)
    running, waiting = wired.start_several([urls(1, "running"), urls(2, "waiting")])
    tap.next(1)
    assert wired.on_loop(wired.load.cancel(waiting)).cancelled == 2
    tap.resume()
    wired.wait(running)
    wired.wait_until_idle()
    assert wired.failures(waiting) == ["cancelled"] * 2
    assert tap.at.empty()


def test_an_upload_that_is_cancelled_after_its_body_was_sent_may_be_a_duplicate(
    wire: Wire, folder: Folder
) -> None:
    tap = Tap(folder.upload)
    wired = wire(upload=tap)
    job = wired.start(urls(1))
    tap.next(1)
    wired.on_loop(wired.load.cancel(job))
    assert wired.failures(job) == ["cancelled"]
    assert job.image(0).maybe_duplicate
    tap.resume()


def test_a_job_that_is_cancelled_before_its_uploads_are_durable_sends_none(
    wire: Wire, folder: Folder
) -> None:
    store, uploads = SlowStore(), Tap(folder.upload)
    wired = wire(folder.download, uploads, window=3, store=store)
    job = wired.start(urls(3))
    announced = store.take(3)
    assert wired.on_loop(wired.load.cancel(job)).cancelled == 3
    assert wired.failures(job) == ["cancelled"] * 3
    for written in announced:
        written()
    wired.close()
    assert uploads.at.empty()


# Retries


def test_a_retry_loads_the_failed_images_again_and_no_others(wire: Wire, folder: Folder) -> None:
    wired = wire(failing_once(folder))
    job = wired.start(urls(4))
    wired.wait_until_idle()
    assert wired.on_loop(wired.load.retry(job)) == 4
    wired.wait_until_idle()
    assert job.summary().counts["completed"] == 4
    assert wired.on_loop(wired.load.retry(job)) == 0
    assert len(folder.made) == 4


def test_a_retry_of_transient_errors_leaves_the_others_failed(wire: Wire, folder: Folder) -> None:
    def download(url: str) -> Report:
        if len(folder.made) < 1 and url.endswith("/0"):
            folder.give_back(folder.download(url).temp_fn, 0)
            raise errors.DownloadError("truncated", "Cut off.")
        raise errors.DownloadError("not_image", "Text.")

    wired = wire(download, retry=RetryRule(max_tries=1, seconds=1, cap_seconds=1))
    job = wired.start(urls(2))
    wired.wait_until_idle()
    assert wired.failures(job) == ["truncated", "not_image"]
    assert wired.on_loop(wired.load.retry(job, "transient")) == 1
    wired.wait_until_idle()
    assert wired.failures(job) == ["not_image"] * 2


def test_a_retry_during_a_cancel_waits_for_it_and_loads_the_cancelled_images(
    wire: Wire, folder: Folder
) -> None:
    tap = Tap(folder.download)
    wired = wire(tap)
    job = wired.start(urls(3))
    tap.next(3)

    async def both() -> int:
        cancelling = asyncio.ensure_future(wired.load.cancel(job))
        await asyncio.sleep(0)
        count = await wired.load.retry(job)
        assert cancelling.done()
        return count

    assert wired.on_loop(both()) == 3
    tap.resume(6)
    wired.wait_until_idle()
    assert job.summary().counts["completed"] == 3


def test_a_stop_leaves_images_open_that_were_retried_after_a_cancel(
    wire: Wire, folder: Folder
) -> None:
    """It was cancelled before, and is not any more."""
    tap = Tap(folder.download)
    wired = wire(tap, store=SlowStore())
    job = wired.start(urls(2))
    tap.next(2)

    async def both() -> int:
        cancelling = asyncio.ensure_future(wired.load.cancel(job))
        await asyncio.sleep(0)
        count = await wired.load.retry(job)
        await cancelling
        return count

    assert wired.on_loop(both()) == 2
    tap.next(2)
    assert wired.load.close(PATIENCE)
    assert job.summary().counts["queued"] == 2
    tap.resume(4)


# Purges


def test_a_purge_deletes_completed_images(wire: Wire) -> None:
    requests = Requests()
    wired = wire(response=requests)
    job = wired.start(urls(3))
    wired.wait_until_idle()
    result = wired.on_loop(wired.load.purge(job))
    assert (result.cancelled, result.purging) == (0, 3)
    wired.wait_until_idle()
    assert requests.sent == ["DELETE image/d3l3t3h4sh"] * 3
    assert wired.failures(job) == ["purged"] * 3


@pytest.mark.parametrize("cancels", [0, 1])
def test_a_purge_lets_an_upload_that_is_being_sent_land_and_deletes_it(
    wire: Wire, folder: Folder, cancels: int
) -> None:
    requests, uploads = Requests(), Tap(folder.upload)
    wired = wire(upload=uploads, response=requests, window=1)
    job = wired.start(urls(3))
    uploads.next(1)
    wired.on_loop(wired.load.purge(job))
    for _ in range(cancels):
        assert wired.on_loop(wired.load.cancel(job)) == (1, 0)
    assert requests.sent == []
    assert sorted(map(str, wired.failures(job))) == ["None", "cancelled", "cancelled"]
    uploads.resume()
    wired.wait_until_idle()
    assert requests.sent == ["DELETE image/d3l3t3h4sh"]
    assert sorted(map(str, wired.failures(job))) == ["cancelled", "cancelled", "purged"]
    assert uploads.at.empty()


def test_a_purge_sends_no_upload_again_that_has_failed(wire: Wire, folder: Folder) -> None:
    """The purge would wait for its next try."""
    requests = Requests()

    def upload(temp_fn: str) -> Landed:
        if Path(temp_fn).read_text().endswith("/0"):
            return folder.upload(temp_fn)
        raise errors.UploadError("unavailable", "Later.", retry_after=3_600)

    tap = Tap(upload)
    wired = wire(
        upload=tap,
        response=requests,
        retry=RetryRule(max_tries=3, seconds=1, cap_seconds=3_600),
    )
    job = wired.start(urls(2))
    tap.next(2)
    wired.on_loop(wired.load.purge(job))
    tap.resume(2)
    wired.wait_until_idle()
    assert wired.failures(job) == ["purged", "cancelled"]


def test_a_retry_is_refused_during_a_purge(wire: Wire, folder: Folder) -> None:
    requests = Requests()
    requests.gate = asyncio.Event()
    fail = failing_once(folder)
    wired = wire(
        lambda url: fail(url) if url.endswith("/1") else folder.download(url), response=requests
    )
    job = wired.start(urls(2))
    wired.wait_until_idle()
    wired.on_loop(wired.load.purge(job))
    assert requests.arrived.acquire(timeout=PATIENCE)
    with raises_refused("job-busy"):
        wired.on_loop(wired.load.retry(job))
    wired.transfers.loop.call_soon_threadsafe(requests.gate.set)
    wired.wait_until_idle()
    assert wired.failures(job) == ["purged", "http_status"]
    assert wired.on_loop(wired.load.retry(job)) == 2
    wired.wait_until_idle()
    assert job.summary().counts["completed"] == 2


def test_of_two_jobs_with_one_image_that_are_purged_at_once_one_deletes_it(wire: Wire) -> None:
    requests = Requests()
    wired = wire(response=requests)
    jobs = [wired.start(urls(1), dedupe=True)]
    wired.wait_until_idle()
    jobs.append(wired.start(urls(1), dedupe=True))
    wired.wait_until_idle()
    assert jobs[1].image(0).reused

    async def purge_both() -> None:
        await asyncio.gather(*(wired.load.purge(job) for job in jobs))

    wired.on_loop(purge_both())
    wired.wait_until_idle()
    assert requests.sent == ["DELETE image/d3l3t3h4sh"]
    assert [wired.failures(job) for job in jobs] == [["purged"]] * 2


def test_a_restored_job_that_was_being_purged_loads_no_image(wire: Wire) -> None:
    landed = Image(urls(2)[0], "completed", link=link_of(urls(2)[0]), deletehash="hash")
    images = [landed, Image(urls(2)[1])]
    job = Job.restored(images, "job", created=datetime.now(UTC), started=True, purging=True)
    wired = wire(response=Requests())
    wired.load.restore([job])
    wired.wait_until_idle()
    assert wired.failures(job) == ["purged", "cancelled"]


def test_a_restored_job_that_was_being_purged_makes_no_album(wire: Wire) -> None:
    def respond(method: str, route: str, _fields: Any) -> Any:
        if method == "DELETE":
            raise errors.UploadError("upload_rejected", "No.")
        pytest.fail(f"{method} {route}")

    landed = Image(urls(1)[0], "completed", link=link_of(urls(1)[0]), deletehash="hash")
    job = Job.restored(
        [landed], "job", created=datetime.now(UTC), started=True, purging=True, album=Album("Birds")
    )
    wired = wire(response=respond)
    wired.load.restore([job])
    wired.wait_until_idle()
    album = job.summary().album
    assert album is not None
    assert album.failure is not None
    assert album.failure.code == "cancelled"


# Albums


def test_the_album_has_the_completed_images(wire: Wire) -> None:
    requests = Requests()
    wired = wire(response=requests)
    job = wired.start(urls(3), album="Birds")
    wired.wait_until_idle()
    album = job.summary().album
    assert album is not None
    assert (album.link, album.is_open) == ("https://imgur.com/a/alb", False)
    assert len([each for each in requests.sent if each.startswith("POST album")]) == 1


@pytest.mark.parametrize("lands_before", [True, False])
def test_images_that_are_retried_while_the_album_is_made_get_into_it(
    wire: Wire, folder: Folder, lands_before: bool
) -> None:
    fail = failing_once(folder)
    tap = Tap(lambda url: fail(url) if url.endswith("/2") else folder.download(url))
    requests = Requests()
    requests.gate = asyncio.Event()

    def upload(temp_fn: str) -> Landed:
        return replace(folder.upload(temp_fn), deletehash=Path(temp_fn).read_text())

    wired = wire(tap, upload, response=requests)
    job = wired.start(urls(3), album="Birds")
    tap.resume(3)
    assert requests.arrived.acquire(timeout=PATIENCE)
    assert wired.on_loop(wired.load.retry(job)) == 1
    if lands_before:
        tap.resume()
        wait_until(lambda: job.summary().counts["completed"] == 3)
    wired.transfers.loop.call_soon_threadsafe(requests.gate.set)
    if not lands_before:
        wait_until(lambda: len(requests.albums) == 1)
        tap.resume()
    wired.wait_until_idle()
    assert job.summary().counts["completed"] == 3
    assert [len(names) for names in requests.albums] == [2, 3]
    album = job.summary().album
    assert album is not None
    assert album.link == "https://imgur.com/a/alb"


def test_a_retry_of_a_job_whose_album_is_retried_already_changes_nothing(
    wire: Wire, folder: Folder
) -> None:
    fail, is_down = failing_once(folder), threading.Event()
    is_down.set()
    tap = Tap(lambda url: fail(url) if url.endswith("/1") else folder.download(url))

    def respond(_method: str, _route: str, _fields: Any) -> Any:
        if is_down.is_set():
            raise errors.UploadError("upload_rejected", "No album.")
        return {"id": "alb", "deletehash": "albhash"}

    wired = wire(tap, response=respond)
    job = wired.start(urls(2), album="Birds")
    tap.resume(2)
    wired.wait_until_idle()
    is_down.clear()
    assert [wired.on_loop(wired.load.retry(job)) for _ in range(3)] == [1, 0, 0]
    tap.resume()
    wired.wait_until_idle()
    album = job.summary().album
    assert album is not None
    assert (album.failure, album.link) == (None, "https://imgur.com/a/alb")


def test_a_cancel_ends_an_album_that_is_being_made(wire: Wire) -> None:
    requests = Requests()
    requests.gate = asyncio.Event()
    wired = wire(response=requests)
    job = wired.start(urls(2), album="Birds")
    assert requests.arrived.acquire(timeout=PATIENCE)
    wired.on_loop(wired.load.cancel(job))
    wired.wait_until_idle()
    album = job.summary().album
    assert album is not None
    assert album.failure is not None
    assert album.failure.code == "cancelled"
    assert job.summary().counts["completed"] == 2


# The stop


def test_a_stop_starts_no_image_of_a_job_that_waits_for_an_action_to_end(wire: Wire) -> None:
    wired = wire()

    jobs = Jobs(wired.pipeline, WindowRules(), no_links)

    async def stop() -> Job:
        job = Job(urls(2))
        async with jobs.lock(job):
            work = asyncio.ensure_future(jobs.work(job))
            await asyncio.sleep(0)
            await jobs.stop(0, [])
        await work
        return job

    assert wired.failures(wired.on_loop(stop())) == ["shutdown"] * 2


def test_a_stop_ends_a_retry_of_many_images(wire: Wire) -> None:
    wired = wire()
    jobs = Jobs(wired.pipeline, WindowRules(), no_links)
    job = Job(urls(2_500))
    for n in range(2_500):
        job.apply(Failed(n, errors.DownloadError("timeout", "Slow.").failure()))

    async def retry_and_stop() -> None:
        retry = asyncio.ensure_future(jobs.requeue(job))
        await asyncio.sleep(0)
        await jobs.stop(0, [job])
        with raises_refused("shutting-down"):
            await retry

    wired.on_loop(retry_and_stop())
    assert job.summary().counts["failed"] == 2_500


def test_a_stop_leaves_unsent_uploads_unmarked_and_marks_those_that_were_sent(
    wire: Wire, folder: Folder
) -> None:
    store, uploads = SlowStore(), Tap(folder.upload)
    wired = wire(folder.download, uploads, window=3, store=store)
    job = wired.start(urls(3))
    announced = store.take(3)
    announced[0]()
    uploads.next(1)
    assert wired.load.close(PATIENCE)
    for written in announced[1:]:
        written()
    images = job.snapshot().images
    assert {(image.state, image.failure) for image in images} == {("downloaded", None)}
    sent = [(image.uploading, image.maybe_duplicate) for image in images]
    assert sorted(sent) == [(False, False), (False, False), (True, True)]
    assert wired.is_left(job)
    assert uploads.at.empty()
    uploads.resume()


def test_a_stop_gives_uploads_that_are_being_sent_time_to_land(wire: Wire, folder: Folder) -> None:
    store, uploads = SlowStore(), Tap(folder.upload)
    wired = wire(folder.download, uploads, store=store)
    job = wired.start(urls(2))
    for written in store.take(2):
        written()
    uploads.next(2)
    closing = threading.Thread(target=lambda: wired.load.close(PATIENCE, PATIENCE))
    closing.start()
    wait_until(lambda: wired.load.is_closing)
    uploads.resume(2)
    closing.join(PATIENCE)
    assert job.summary().counts["completed"] == 2


def test_a_stop_without_a_durable_store_interrupts_a_purge(wire: Wire) -> None:
    requests = Requests()
    requests.gate = asyncio.Event()
    wired = wire(response=requests)
    job = wired.start(urls(2))
    wired.wait_until_idle()
    wired.on_loop(wired.load.purge(job))
    assert requests.arrived.acquire(timeout=PATIENCE)
    assert wired.load.close(PATIENCE)
    assert job.summary().finished
    assert [image.link is None for image in job.snapshot().images] == [False, False]


@pytest.mark.parametrize(
    ("error", "state", "maybe_duplicate"),
    [
        (errors.UploadError("unavailable", "Later.", retry_after=60), "downloaded", False),
        (errors.UploadError("response_lost", "No response.", retry_after=60), "downloaded", True),
        (errors.UploadError("upload_rejected", "No image."), "failed", False),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_stop_fails_no_image_that_another_try_may_load_after_a_restart(
    wire: Wire, folder: Folder, error: errors.ImageError, state: State, maybe_duplicate: bool
) -> None:
    at, stopped = threading.Event(), threading.Event()

    def upload(_: str) -> Landed:
        at.set()
        assert stopped.wait(PATIENCE)
        raise error

    store = SlowStore()
    retry = RetryRule(max_tries=3, seconds=60, cap_seconds=60)
    wired = wire(folder.download, upload, store=store, retry=retry)
    job = wired.start(urls(1))
    store.write(1)
    assert at.wait(PATIENCE)
    closing = threading.Thread(target=lambda: wired.load.close(PATIENCE, PATIENCE))
    closing.start()
    wait_until(lambda: wired.load.is_closing)
    stopped.set()
    closing.join(PATIENCE)
    image = job.image(0)
    assert (image.state, image.maybe_duplicate) == (state, maybe_duplicate)
    assert not image.uploading


# Everything at once


class Imgur:
    """Returns a different link for each upload and records the deleted ones."""

    def __init__(self, folder: Folder, chance: random.Random) -> None:
        self.links: set[str] = set()
        self.deleted: set[str] = set()
        self._numbers: Iterator[int] = count()
        self._folder = folder
        self._chance = chance
        self._lock = threading.Lock()

    def upload(self, _: str) -> Landed:
        with self._lock:
            if self._chance.random() < 0.2:
                raise errors.UploadError("unavailable", "Later.")
            number = next(self._numbers)
            self.links.add(f"https://i.imgur.com/{number}")
            return Landed(f"https://i.imgur.com/{number}", f"{number}")

    def download(self, url: str) -> Report:
        with self._lock:
            draw = self._chance.random()
        if draw < 0.2:
            name = "truncated" if draw < 0.1 else "not_image"
            raise errors.DownloadError(name, "No image.")
        return self._folder.file_of(url.rpartition("/")[2] if draw < 0.5 else url)

    def respond(self, method: str, route: str, _: Any) -> Any:
        kind, _, name = route.partition("/")
        if method == "DELETE" and kind == "image":
            self.deleted.add(f"https://i.imgur.com/{name}")
        return {"id": "alb", "deletehash": "albhash"}


async def act(wired: Wired, job: Job, action: str) -> None:
    """Cancel, retry or purge the job, or retire those that are finished."""
    with contextlib.suppress(Refused):
        match action:
            case "cancel":
                await wired.load.cancel(job)
            case "purge":
                await wired.load.purge(job)
            case "retire":
                await wired.load.retire()
            case _:
                await wired.load.retry(job, "transient" if action == "retry transient" else None)


def act_at_random(wired: Wired, jobs: list[Job], seed: int) -> None:
    """Sixty actions, one after the other."""
    chance = random.Random(seed)
    actions = ["cancel", "retry", "retry transient", "purge", "retire"]
    for action in chance.choices(actions, weights=[3, 6, 2, 2, 1], k=60):
        wired.on_loop(act(wired, chance.choice(jobs), action))


@pytest.mark.parametrize("seed", range(3))
def test_no_order_of_actions_loses_or_duplicates_an_image(
    wire: Wire, folder: Folder, seed: int
) -> None:
    chance = random.Random(seed)
    imgur = Imgur(folder, random.Random(seed))
    wired = wire(imgur.download, imgur.upload, response=imgur.respond, window=3, keep_jobs=60)
    jobs = [
        wired.start(
            [f"https://h{chance.randrange(4)}.example/{chance.randrange(30)}" for _ in range(size)],
            dedupe=chance.random() < 0.7,
            album="Birds" if chance.random() < 0.3 else None,
        )
        for size in chance.choices(range(1, 8), k=100)
    ]
    threads = [
        threading.Thread(target=act_at_random, args=(wired, jobs, seed * 10 + n)) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    wired.wait_until_idle()
    for job in jobs:
        state = job.snapshot()
        assert state.finished
        assert sum(state.counts.values()) == len(job)
        for image in state.images:
            assert (image.state == "completed") == (image.link is not None)
            assert (image.state == "failed") == (image.failure is not None)
    # A store that does not outlive the process forgets the links of retired jobs.
    assert not links_of(wired.load.jobs()) & imgur.deleted, "no job shows a link that is gone"
    lost = imgur.links - imgur.deleted - links_of(jobs)
    assert len(lost) <= wired.target.cancelled, "only cancelled uploads leave images behind"


def links_of(jobs: list[Job]) -> set[str]:
    """The links in their lists."""
    return {image.link for job in jobs for image in job.snapshot().images if image.link}


class QuickStore(MemoryStore):
    """A store that outlives the process, in which everything is durable at once."""

    is_durable = True


@pytest.mark.parametrize("seed", range(4))
def test_a_stop_amid_actions_leaves_every_job_as_it_should(
    wire: Wire, folder: Folder, seed: int
) -> None:
    chance = random.Random(seed)
    imgur = Imgur(folder, random.Random(seed))
    store = QuickStore() if seed % 2 else MemoryStore()
    wired = wire(imgur.download, imgur.upload, response=imgur.respond, window=3, store=store)
    jobs = [
        wired.start(urls(chance.randrange(1, 20), f"job{number}"), album="Birds")
        for number in range(40)
    ]
    threads = [
        threading.Thread(target=act_at_random, args=(wired, jobs, seed * 10 + n)) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(imgur.links) > chance.randrange(40))
    assert wired.load.close(PATIENCE, 0.05)
    for thread in threads:
        thread.join(PATIENCE)
    for job in jobs:
        assert job.summary().finished or store.is_durable
        for image in job.snapshot().images:
            assert not image.uploading or image.maybe_duplicate, "only one that was sent is marked"


def test_images_of_a_small_job_go_first_and_those_of_a_large_one_do_not(wire: Wire) -> None:
    urgent: dict[str, set[bool]] = {}

    def observe(job: Job, _: Change) -> None:
        urgent.setdefault(job.job_id, set()).add(is_urgent.get())

    wired = wire(observers=(observe,))
    small, large = wired.start_several([urls(2, "small"), urls(40, "large")])
    wired.wait(small)
    wired.wait(large)
    assert urgent == {small.job_id: {True}, large.job_id: {False}}
