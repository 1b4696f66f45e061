"""Tests of fetch.spool: what waits for its upload is not downloaded again after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from imageload.errors import StoreError
from imageload.fetch.spool import Spool, spool_folder
from imageload.fetch.tempfiles import TempBytes, TempFiles
from imageload.image import Failed, Report
from imageload.job import Job
from imageload.store.opening import open_store
from sandbox.testing import RunningSandbox, running_sandbox
from tests.folders import filled
from tests.jobs import all_landed, delete, distinct
from tests.journals import FAILURE
from tests.origin import IMAGES, Origin, answer
from tests.service import Client, RunningService, running_service, service_processes, wired
from tests.waiting import wait_until

PAGE_BYTES = (IMAGES / "png-rgb.png").stat().st_size + 2  # of each image of `distinct`


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[RunningSandbox]:
    """A sandbox whose budget is spent after three uploads."""
    with running_sandbox(tmp_path / "sandbox", user_credits=35) as sandbox:
        yield sandbox


def kept_images(journal: Path) -> int:
    """How many open images the journal has with their temp files."""
    uri = f"{journal.as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        records = [msgspec.msgpack.decode(each) for (each,) in connection.execute(_RECORDS)]
    return sum(record[0] == "downloaded" and record[6] is not None for record in records)


_RECORDS = "SELECT record FROM image"


def shown_files(service: Client, job_id: str) -> dict[str, str]:
    """The temp files in the job's status, by URL."""
    pending = service.status(job_id)["uploaded"]["pending"]
    return {each["url"]: each["temp_fn"] for each in pending if each["temp_fn"]}


def spend(service: Client, origin: Origin) -> None:
    """Spend the budget: what comes next waits."""
    assert all_landed(service, [service.submit(distinct(origin, 3, "first"))])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_images_that_wait_for_quota_land_after_a_restart_though_their_origin_is_gone(
    tmp_path: Path, origin: Origin, limited: RunningSandbox, number: int
) -> None:
    spool, journal = tmp_path / "journal-spool", tmp_path / "journal"
    pages = distinct(origin, 5)
    same_bytes = origin.page("/other", answer((IMAGES / "png-rgb.png").read_bytes() + b"d4"))
    converted = origin.page("/webp", answer((IMAGES / "webp-lossy-vp8.webp").read_bytes()))
    with service_processes(tmp_path, limited) as start:
        first = start("--temp-dir=")
        spend(first, origin)
        job_id = first.submit([*pages, *pages[3:], same_bytes, converted])
        if number == signal.SIGKILL:  # what waits is on disk within two seconds
            wait_until(lambda: kept_images(journal) == 7)
        else:
            wait_until(lambda: len(shown_files(first, job_id)) == 7)
        assert {Path(each).parent for each in shown_files(first, job_id).values()} == {spool}
        assert spool.stat().st_mode & 0o777 == 0o700
        first.stop(number)
        origin.pages.clear()
        asked = origin.connections
        limited.settings(unlimited=True)
        second = start("--temp-dir=", "--imgur-client-id=new")  # whose budget is not spent
        assert all_landed(second, [job_id])
        assert origin.connections == asked
        assert second.stop() == 0
    assert len(limited.images()) == 9, "nothing twice"
    assert list(spool.iterdir()) == []


def test_a_file_that_was_changed_meanwhile_is_downloaded_again(
    tmp_path: Path, origin: Origin, limited: RunningSandbox
) -> None:
    options = wired(limited, store=str(tmp_path / "journal"))
    with running_service(tmp_path / "temp", **options) as service:
        spend(service, origin)
        job_id = service.submit(distinct(origin, 6))
        wait_until(lambda: len(shown_files(service, job_id)) == 6)
        files = shown_files(service, job_id)
    changed, cut, gone, *_ = (Path(files[page]) for page in distinct(origin, 6))
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    stray = tmp_path / "temp" / "tmp0123456789abcdef"
    stray.write_bytes(b"of an image that has ended")
    limited.settings(unlimited=True)
    with running_service(tmp_path / "temp", **options, imgur_client_id="new") as service:
        assert not stray.exists()
        assert all_landed(service, [job_id])
        assert [origin.requests[f"/d-{n}"] for n in range(6)] == [2, 2, 2, 1, 1, 1]
    assert list((tmp_path / "temp").iterdir()) == []


def test_files_that_wait_count_as_temp_bytes_and_keep_no_job_from_its_end(
    tmp_path: Path, origin: Origin, limited: RunningSandbox
) -> None:
    bounds = {"downloads": 1, "max_bytes": 40_000, "temp_bytes": 100_000}
    options = wired(limited, store=str(tmp_path / "journal"), **bounds)

    def held(service: RunningService) -> float:
        assert sum(path.stat().st_size for path in filled(tmp_path / "temp")) <= 100_000
        return service.service.temp_bytes.held

    with running_service(tmp_path / "temp", **options) as service:
        spend(service, origin)
        job_ids = [service.submit(distinct(origin, 4, name)) for name in "ab"]
        wait_until(lambda: held(service) == 2 * PAGE_BYTES)
    with running_service(tmp_path / "temp", **options) as service:
        assert held(service) == 2 * PAGE_BYTES
        with pytest.raises(StoreError):  # a second process gets no further, so not to the files
            open_store(str(tmp_path / "journal"))
    limited.settings(unlimited=True)
    options |= {"imgur_client_id": "new", "max_active_jobs": 1}  # the bytes are of two jobs
    with running_service(tmp_path / "temp", **options) as service:
        assert all_landed(service, job_ids)
        assert held(service) == 0
    assert origin.requests.total() == 3 + 8
    assert list((tmp_path / "temp").iterdir()) == []


@pytest.mark.parametrize("query", ["", "?purge=true"])
def test_a_cancel_after_a_restart_deletes_the_files(
    tmp_path: Path, origin: Origin, limited: RunningSandbox, query: str
) -> None:
    options = wired(limited, store=str(tmp_path / "journal"))
    with running_service(tmp_path / "temp", **options) as service:
        spend(service, origin)
        job_id = service.submit(distinct(origin, 3))
        wait_until(lambda: len(shown_files(service, job_id)) == 3)
    assert len(filled(tmp_path / "temp")) == 3
    with running_service(tmp_path / "temp", **options) as service:
        delete(service, job_id, query)
        service.finish(job_id)
        wait_until(lambda: service.service.temp_bytes.held == 0)
        assert filled(tmp_path / "temp") == []


def test_the_file_of_an_image_that_fails_before_it_is_loaded_is_deleted(tmp_path: Path) -> None:
    reports = [_left(tmp_path, number, b"image %d" % number) for number in range(2)]
    job = Job(["http://a.example/0", "http://a.example/1"])
    files, room = TempFiles(tmp_path), TempBytes()
    spool = Spool(files, room, {job: dict(enumerate(reports))})
    assert (files.in_use, room.held, job.job_id in spool) == (2, 14, True)
    assert asyncio.run(spool.take(job.job_id, 1)) == reports[1]
    spool(job, Failed(0, FAILURE))
    spool(job, Failed(1, FAILURE))
    assert (files.in_use, room.held, job.job_id in spool) == (1, 7, False)
    assert [str(path) for path in tmp_path.iterdir()] == [reports[1].temp_fn]


def test_the_spool_moves_with_its_journal_and_links_are_not_followed(tmp_path: Path) -> None:
    moved, linked = _left(tmp_path, 0, b"image 0"), _left(tmp_path, 1, b"image 1")
    secret = tmp_path / "secret"
    Path(linked.temp_fn).rename(secret)
    Path(linked.temp_fn).symlink_to(secret)
    job = Job(["http://a.example/0", "http://a.example/1"])
    kept = {job: {0: replace(moved, temp_fn=f"/before/{Path(moved.temp_fn).name}"), 1: linked}}
    spool = Spool(TempFiles(tmp_path), TempBytes(), kept)
    assert asyncio.run(spool.take(job.job_id, 0)) == moved
    assert asyncio.run(spool.take(job.job_id, 1)) is None
    assert {path.name for path in tmp_path.iterdir()} == {Path(moved.temp_fn).name, "secret"}


def _left(folder: Path, number: int, content: bytes) -> Report:
    path = folder / f"tmp{number:016x}"
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return Report(str(path), 200, len(content), "image/png", 1, 1, sha256)


def test_each_journal_has_one_spool_that_is_its_users_alone(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "journal")
    names = [str(tmp_path / name) for name in ("journal", "link", "other")]
    beside = [spool_folder(name) for name in names]
    below = [spool_folder(name, str(tmp_path)) for name in names]
    assert beside[0] == beside[1] == tmp_path / "journal-spool"
    assert below[0] == below[1] != below[2]
    assert {path.stat().st_mode & 0o777 for path in (*beside, *below)} == {0o700}
    below[0].rmdir()
    below[0].symlink_to(below[2])
    with pytest.raises(PermissionError, match="a link"):
        spool_folder(names[0], str(tmp_path))
