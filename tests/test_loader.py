"""ImageLoad: the registry of jobs, their threads, how many wait, and the close."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta

import pytest

from imageload import errors, loader
from imageload.errors import DownloadError
from imageload.fetch.hosts import HostRules
from imageload.image import Failed, Landed, Report
from imageload.job import Change, Job
from imageload.retry import RetryRule
from imageload.store import Link
from imageload.store.memory import MemoryStore
from tests.raising import raises_refused
from tests.waiting import PATIENCE, wait_until
from tests.wired import Folder, SlowStore, Tap, Wired, nowhere, urls

Wire = Callable[..., Wired]


# The registry and the threads


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


def test_no_orders_make_no_jobs_and_no_threads(wire: Wire) -> None:
    wired = wire()
    assert wired.load.upload([]) == []
    assert wired.load.jobs() == []
    assert not [t for t in threading.enumerate() if t.name.startswith("job-")]


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


def test_max_active_jobs_bounds_the_threads_and_queues_the_other_jobs(
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
        tap.resume()
        began += tap.next(1)
    assert began[2:] == [job.image(0).url for job in jobs[2:]]
    tap.resume(2)
    for job in jobs:
        wired.wait(job)


def test_many_jobs_at_once_all_end(wire: Wire) -> None:
    wired = wire(max_active_jobs=4, threads=4)
    jobs = wired.start_several([urls(5, f"job{number}") for number in range(60)])
    for job in jobs:
        wired.wait(job)
        assert job.summary().counts["completed"] == 5


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
    tap.resume(3)
    for job in (running, waiting, last):
        wired.wait(job)
    assert sorted(tap.next(2)) == sorted([waiting.image(0).url, last.image(0).url])
    assert tap.at.empty()


def test_a_job_that_is_cancelled_while_it_waits_makes_room_for_another(
    wire: Wire, folder: Folder
) -> None:
    tap = Tap(folder.download)
    wired = wire(tap, max_active_jobs=1, max_waiting_jobs=1)
    running = wired.start(urls(1, "running"))
    tap.next(1)
    waiting = wired.start(urls(1, "waiting"))
    with raises_refused("backlog-full"):
        wired.start(urls(1, "one more"))
    assert wired.on_loop(wired.load.cancel(waiting)).cancelled == 1
    assert waiting.summary().finished
    last = wired.start(urls(1, "last"))
    tap.resume(2)
    assert {image.state for job in (running, last) for image in wired.wait(job).values()} == {
        "completed"
    }
    assert wired.changes[waiting.job_id][0].__class__ is Failed, "it was never started"


def test_of_a_job_that_is_cancelled_right_after_its_retry_nothing_is_kept(
    wire: Wire, folder: Folder
) -> None:
    tap = Tap(folder.download)
    wired = wire(tap, max_active_jobs=1)
    bad = wired.start(["ftp://bad.example/1"])
    wired.wait(bad)
    wired.wait_until_idle()
    running = wired.start(urls(1), dedupe=True)
    tap.next(1)

    async def retry_and_cancel() -> None:
        await asyncio.gather(wired.load.retry(bad), wired.load.cancel(bad))

    wired.on_loop(retry_and_cancel())
    tap.resume()
    wired.wait(running)
    wired.wait_until_idle()
    assert wired.pipeline.dedupe.results_kept == 0


def no_thread(_: threading.Thread) -> None:
    """Raise like Thread.start when the system is out of threads."""
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


def start_second_without_thread(
    wired: Wired, tap: Tap[Report], monkeypatch: pytest.MonkeyPatch
) -> tuple[Job, Job]:
    """A job that downloads, and one that was posted when the system had no thread left."""
    first = wired.start(urls(1, "first"))
    tap.next(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        return first, wired.start(urls(1, "second"))


def test_without_a_thread_a_job_waits_while_another_runs_and_starts_after_it(
    wire: Wire, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = Tap(folder.download)
    wired = wire(tap)
    first, second = start_second_without_thread(wired, tap, monkeypatch)
    assert second.summary().status == "pending"
    tap.resume(2)
    wired.wait(first)
    wired.wait(second)


def test_queued_jobs_use_the_last_thread_if_no_thread_can_be_started(
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
    tap.resume(10)
    for job in jobs:
        assert {image.state for image in wired.wait(job).values()} == {"completed"}
    assert [url.split("/")[2] for url in tap.next(8)] == [
        f"job{number}.example" for number in (1, 1, 2, 2, 3, 3, 4, 4)
    ]


def test_a_thread_that_has_ended_its_job_begins_the_next_that_waits_under_its_name(
    wire: Wire, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = Tap(folder.download)
    wired = wire(tap, max_active_jobs=1)
    begin_upload = wired.load.begin_upload
    begun: list[tuple[threading.Thread, str]] = []

    def begin(job: Job) -> None:
        begun.append((threading.current_thread(), threading.current_thread().name))
        begin_upload(job)

    monkeypatch.setattr(wired.load, "begin_upload", begin)
    jobs = wired.start_several([urls(1, f"job{number}") for number in range(4)])
    tap.resume(4)
    for job in jobs:
        wired.wait(job)
    assert [name for _, name in begun] == [f"job-{job.job_id[:8]}" for job in jobs]
    assert len({thread for thread, _ in begun}) == 1


def test_all_jobs_that_may_start_begin_at_once_when_a_thread_has_ended_its_job(
    wire: Wire, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "STALL_SECONDS", 10 * PATIENCE)  # nothing else looks at them
    tap = Tap(folder.download)
    wired = wire(tap)
    first, second = start_second_without_thread(wired, tap, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        more = wired.start_several([urls(1, "third"), urls(1, "fourth")])
    tap.resume()
    wired.wait(first)
    assert sorted(tap.next(3)) == sorted(job.image(0).url for job in (second, *more))
    tap.resume(3)
    for job in (second, *more):
        wired.wait(job)


def test_a_bug_that_ends_the_thread_of_a_job_takes_no_job_that_waits_with_it(
    wire: Wire, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "STALL_SECONDS", 10 * PATIENCE)
    ended: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", ended.append)
    tap = Tap(folder.download)
    wired = wire(tap, max_active_jobs=1)
    begin_upload = wired.load.begin_upload

    def begin(job: Job) -> None:
        begin_upload(job)
        if job is broken:
            raise KeyError("a bug")

    monkeypatch.setattr(wired.load, "begin_upload", begin)
    broken, *waiting = wired.start_several([urls(1, f"job{number}") for number in range(3)])
    tap.resume(3)
    for job in (broken, *waiting):
        assert {image.state for image in wired.wait(job).values()} == {"completed"}
    assert [(each.exc_type, each.thread and each.thread.name) for each in ended] == [
        (KeyError, f"job-{broken.job_id[:8]}")
    ]


def test_a_slow_start_of_a_thread_delays_no_other_job(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    begun, resume = threading.Event(), threading.Event()

    def start_the_first_late(thread: threading.Thread) -> None:
        if thread.name.startswith("job-") and not begun.is_set():
            begun.set()
            assert resume.wait(PATIENCE)
        start(thread)

    wired = wire(max_active_jobs=2)
    monkeypatch.setattr(threading.Thread, "start", start_the_first_late)
    with ThreadPoolExecutor(1) as other:
        first = other.submit(wired.start, urls(1, "first"))
        assert begun.wait(PATIENCE)
        wired.wait(wired.start(urls(1, "second")))
        resume.set()
        wired.wait(first.result())


def test_jobs_that_wait_begin_when_the_system_has_threads_again(
    wire: Wire, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "STALL_SECONDS", 0.01)
    tap = Tap(folder.download)
    wired = wire(tap)
    first, second = start_second_without_thread(wired, tap, monkeypatch)
    assert tap.next(1) == [second.image(0).url]
    tap.resume(2)
    wired.wait(first)
    wired.wait(second)


def test_a_finished_job_that_is_retried_gets_a_thread_again(wire: Wire, folder: Folder) -> None:
    is_down = threading.Event()
    is_down.set()

    def download(url: str) -> Report:
        if is_down.is_set():
            raise errors.DownloadError("http_status", "404.", status_code=404)
        return folder.download(url)

    wired = wire(download)
    job = wired.start(urls(3))
    wired.wait(job)
    is_down.clear()
    assert wired.on_loop(wired.load.retry(job)) == 3
    wired.wait_until_idle()
    assert job.summary().counts["completed"] == 3


def test_a_job_is_retired_once_it_has_finished_and_its_links_are_forgotten(wire: Wire) -> None:
    wired = wire(keep_jobs=0)
    job = wired.start(urls(1), dedupe=True)
    wired.wait_until_idle()
    assert wired.on_loop(wired.load.retire()) == 1
    assert wired.load.jobs() == []
    again = wired.start(urls(1), dedupe=True)
    wired.wait_until_idle()
    assert not again.image(0).reused
    assert job.summary().finished


def test_a_clock_that_jumps_retires_no_job(wire: Wire) -> None:
    wired = wire(keep_hours=1.0)
    job = wired.start(urls(1))
    wired.wait_until_idle()
    job.created -= timedelta(days=7)  # as the system's clock shows it after a jump
    assert wired.on_loop(wired.load.retire()) == 0
    earlier = Job([], created=job.created)
    wired.load.restore([earlier])
    assert wired.on_loop(wired.load.retire()) == 1
    assert wired.load.jobs() == [job]


def test_a_purge_keeps_an_image_of_a_job_that_is_retired_meanwhile(wire: Wire) -> None:
    sent: list[str] = []

    class RetiringStore(MemoryStore):
        def links(
            self, after: tuple[str, int] | None = None, *, retired_only: bool = False
        ) -> Iterator[Link]:
            found = list(super().links(after, retired_only=retired_only))
            assert wired.on_loop(wired.load.retire()) == 1
            return iter(found)

    def respond(method: str, route: str, _fields: object) -> bool:
        sent.append(f"{method} {route}")
        return True

    wired = wire(store=RetiringStore(), keep_jobs=0, response=respond)
    purged, other = wired.start(urls(1), dedupe=True), wired.start(urls(1), dedupe=True)
    wired.wait(other)
    wired.wait_until_idle()
    wired.on_loop(wired.load.purge(purged))
    wired.wait_until_idle()
    assert wired.failures(purged) == ["purged"]
    assert sent == []


def test_a_job_that_is_at_work_is_not_retired(wire: Wire, folder: Folder) -> None:
    tap = Tap(folder.download)
    wired = wire(tap, keep_jobs=0)
    job = wired.start(urls(1))
    tap.next(1)
    assert wired.on_loop(wired.load.retire()) == 0
    assert wired.load.jobs() == [job]
    tap.resume()
    wired.wait(job)


@pytest.mark.parametrize("action", ["retry", "purge"])
def test_a_job_that_leaves_memory_or_has_left_it_refuses_retries_and_purges(
    wire: Wire, action: str
) -> None:
    """It would be at work, and in no list."""
    store = SlowStore()
    wired = wire(store=store, keep_jobs=0)
    job = wired.start(urls(1))
    store.write(1)
    wired.wait_until_idle()
    retired = wired.transfers.submit(wired.load.retire())
    (written,) = store.take(1)
    with raises_refused("job-busy"):
        wired.on_loop(getattr(wired.load, action)(job))
    written()
    assert retired.result(PATIENCE) == 1
    with raises_refused("job-busy"):
        wired.on_loop(getattr(wired.load, action)(job))
    assert job.image(0).state == "completed"


# The end


def test_images_in_flight_at_a_close_end_with_the_code_shutdown(wire: Wire, folder: Folder) -> None:
    tap = Tap(folder.download)
    wired = wire(tap, window=2)
    job = wired.start(urls(4))
    tap.next(2)
    tap.resume(4)
    wired.close()
    images = job.snapshot().images
    assert {image.state for image in images} <= {"completed", "failed"}
    codes = {image.failure.code for image in images if image.failure}
    assert codes <= {"shutdown"}


def test_close_ends_running_and_waiting_jobs_with_the_code_shutdown(
    wire: Wire, folder: Folder
) -> None:
    begun, resume = threading.Semaphore(0), threading.Event()

    def download(url: str) -> Report:
        if not url.endswith("/0"):
            begun.release()
            assert resume.wait(PATIENCE)
        return folder.download(url)

    def upload(temp_fn: str) -> Landed:
        begun.release()
        assert resume.wait(PATIENCE)
        return folder.upload(temp_fn)

    wired = wire(download, upload, max_active_jobs=2, window=3)
    jobs = wired.start_several([urls(20, f"job{number}") for number in range(5)])
    for _ in range(4):
        assert begun.acquire(timeout=PATIENCE)
    assert wired.load.close(PATIENCE)
    for job in jobs:
        assert (job.summary().status, job.summary().finished) == ("complete", True)
        for image in job.snapshot().images:
            assert image.failure is not None
            assert image.failure.code == "shutdown"
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("job-")])
    resume.set()


def test_a_download_that_ends_after_a_close_leaves_no_file(wire: Wire, folder: Folder) -> None:
    tap = Tap(folder.download)
    wired = wire(tap)
    job = wired.start(urls(3))
    tap.next(3)
    assert wired.load.close(PATIENCE)
    assert job.summary().counts["failed"] == 3
    assert folder.made == []
    tap.resume(3)
    wired.close()
    assert len(folder.made) == 3
    assert folder.files() == []


def test_close_keeps_completed_images(wire: Wire, folder: Folder) -> None:
    landed = threading.Event()

    def download(url: str) -> Report:
        if url.endswith("/0"):
            return folder.download(url)
        raise errors.DownloadError("origin_busy", "Come back in an hour.", retry_after=3_600)

    def observe(job: Job, _: Change) -> None:
        if job.summary().counts["completed"]:
            landed.set()

    retry = RetryRule(max_tries=3, seconds=1, cap_seconds=3_600)
    wired = wire(download, retry=retry, observers=(observe,))
    job = wired.start(urls(3))
    assert landed.wait(PATIENCE)
    assert wired.load.close(PATIENCE)
    states = [image.state for image in job.snapshot().images]
    assert states == ["completed", "failed", "failed"]


def test_close_ends_a_waiting_job_without_starting_it_and_observers_are_called(
    wire: Wire, folder: Folder
) -> None:
    tap = Tap(folder.download)

    wired = wire(tap, max_active_jobs=1)
    running, waiting = wired.start_several([urls(1, "running"), urls(4, "waiting")])
    assert tap.next(1) == urls(1, "running")
    assert wired.load.close(PATIENCE)
    assert tap.at.empty()
    for image in wired.wait(waiting).values():
        assert image.failure is not None
        assert (image.failure.code, image.attempts) == ("shutdown", 0)
    assert [type(change) for change in wired.changes[waiting.job_id]] == [Failed] * 4
    assert wired.wait(running)
    tap.resume()


def test_close_waits_for_the_thread_that_a_retried_job_gets_meanwhile(
    wire: Wire, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = Tap(folder.download)
    wired = wire(tap, store=SlowStore())
    begin_upload, resume = wired.load.begin_upload, threading.Semaphore(0)

    def begin_and_wait(job: Job) -> None:
        begin_upload(job)
        assert resume.acquire(timeout=PATIENCE)

    monkeypatch.setattr(wired.load, "begin_upload", begin_and_wait)
    job = wired.start(urls(1))
    tap.next(1)
    wired.on_loop(wired.load.retry(job))
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(wired.load.close, PATIENCE)
        wait([closing], timeout=0.2)
        resume.release()
        wait([closing], timeout=0.2)
        assert not closing.done()
        resume.release()
        assert closing.result()
    tap.resume()


def test_close_ends_a_job_that_was_retried_as_it_began_and_waits_for_a_thread(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "STALL_SECONDS", 0.01)
    wired = wire()
    job = wired.start(["ftp://job.example/1"])
    wired.wait(job)
    wired.wait_until_idle()
    stop = wired.load.at_work.stop

    async def retry_and_stop(grace_seconds: float, waiting: list[Job]) -> None:
        lock.release()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            assert await retry == 1
        await stop(grace_seconds, waiting)

    async def begin_retry() -> asyncio.Task[int]:
        await lock.acquire()
        task = asyncio.ensure_future(wired.load.retry(job))
        await asyncio.sleep(0)  # it waits for the lock
        return task

    lock = wired.load.at_work.lock(job)
    retry = wired.on_loop(begin_retry())
    with monkeypatch.context() as patch:
        patch.setattr(wired.load.at_work, "stop", retry_and_stop)
        assert wired.load.close(PATIENCE)
    assert wired.failures(job) == ["shutdown"]


def test_after_close_no_job_is_accepted(wire: Wire) -> None:
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


@pytest.mark.parametrize("action", ["cancel", "purge", "retry"])
def test_after_close_no_job_is_cancelled_purged_or_retried(wire: Wire, action: str) -> None:
    """The end might not be recorded, and a restart would continue the job."""
    wired = wire()
    job = wired.start(urls(1))
    wired.wait(job)
    assert wired.load.close(PATIENCE)
    with raises_refused("shutting-down"):
        wired.on_loop(getattr(wired.load, action)(job))


def test_jobs_that_wait_for_a_thread_are_left_to_the_next_start_by_a_durable_store(
    wire: Wire, folder: Folder
) -> None:
    tap = Tap(folder.download)
    wired = wire(tap, max_active_jobs=1, store=SlowStore())
    running, waiting = wired.start_several([urls(1, "running"), urls(4, "waiting")])
    tap.next(1)
    assert wired.load.close(PATIENCE)
    assert [job.summary().counts["queued"] for job in (running, waiting)] == [1, 4]
    tap.resume()


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
    job = wired.start(["https://a.example/found", "https://a.example/lost?key=s3cret#x"])
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


def test_jobs_that_wait_for_a_slow_origin_keep_no_other_job_from_starting(
    wire: Wire, folder: Folder
) -> None:
    def download(url: str) -> Report:
        if "slow.example" in url:
            raise DownloadError("origin_busy", "Later.", status_code=503, retry_after=3_600)
        return folder.download(url)

    rules = HostRules(max_pause_seconds=3_600)
    retry = RetryRule(max_tries=3, seconds=1, cap_seconds=3_600)
    wired = wire(download, max_active_jobs=2, rules=rules, retry=retry)
    slow = [wired.start(urls(3, "slow")) for _ in range(4)]
    other = wired.start(urls(3, "other"))
    assert {image.state for image in wired.wait(other).values()} == {"completed"}
    assert not any(job.summary().finished for job in slow)
