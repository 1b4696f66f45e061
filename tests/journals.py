"""Journals for tests: open, fill and restore them."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from imageload.errors import DownloadError
from imageload.image import Downloaded, Failed, Image, Report, Uploaded, Uploading
from imageload.job import Change, Job, Snapshot, Started
from imageload.store import Restored, Store
from imageload.store.opening import open_store
from tests.waiting import PATIENCE

SECRET = "d3l3t3h4sh"
FAILURE = DownloadError("connect_error", "Nobody answers.", status_code=503).failure()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Store, Restored]]:
    """Open the journal at `path`; at the end, close it and check that everything is written."""
    restored = open_store(str(path))
    try:
        yield restored.store, restored
        assert restored.store.close()
    finally:
        restored.store.close(0.0)


def restored_from(path: Path) -> Restored:
    """Open the journal at `path` again and return the restored state."""
    with opened(path) as (_, restored):
        return restored


def url(index: int) -> str:
    return f"https://origin.example/{index}.png"


def link(index: int) -> str:
    return f"https://i.imgur.com/{index:07}.png"


def report(index: int) -> Report:
    return Report(f"/temp/{index}", 200, 1_234, "image/png", 64, 32, f"{index:064x}", "image/webp")


def job_of(count: int) -> Job:
    return Job([url(index) for index in range(count)])


def record(journal: Store, job: Job, *changes: Change) -> None:
    """Apply the Changes to the job and record them."""
    for change in changes:
        job.apply(change)
        journal.record(job, change)


def finish(journal: Store, job: Job) -> None:
    """Complete every image; its link contains its index."""
    record(journal, job, Started())
    for index in range(len(job)):
        changes = Downloaded(index, report(index)), Uploading(index)
        record(journal, job, *changes, Uploaded(index, link(index), SECRET))


def fail(journal: Store, job: Job) -> None:
    """Fail every image."""
    record(journal, job, Started(), *(Failed(index, FAILURE) for index in range(len(job))))


def flush(journal: Store) -> None:
    """Return when all recorded Changes are durable."""
    asyncio.run(asyncio.wait_for(journal.durable(), PATIENCE))


def shown(job: Job) -> Snapshot:
    """The job without its versions."""
    snapshot = job.snapshot()
    images = tuple(replace(image, version=0) for image in snapshot.images)
    return replace(snapshot, version=0, images=images)


def after_a_restart(job: Job) -> Snapshot:
    """The job as a restart restores it: finished images stay, the others are queued again."""

    def image_after(image: Image) -> Image:
        if image.state in ("completed", "failed"):
            known = image.report and replace(image.report, temp_fn="")
            return replace(image, report=known)
        return Image(
            image.url,
            title=image.title,
            description=image.description,
            id=image.id,
            link=image.link,  # the dead one, of an image that is loaded again
            deletehash=image.deletehash,
            maybe_duplicate=image.maybe_duplicate or image.uploading,
        )

    before = shown(job)
    images = [image_after(image) for image in before.images]
    states = [image.state for image in images]
    return replace(
        before,
        images=tuple(images),
        started=before.started and before.finished,
        counts={state: states.count(state) for state in before.counts},
        downloaded_bytes=sum(image.downloaded_bytes for image in images),
        uploaded_bytes=sum(image.uploaded_bytes for image in images),
        maybe_duplicates=sum(image.maybe_duplicate for image in images),
    )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the journal's database as another program; the journal's writer waits."""
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()
