"""Tests of targets.purge; tests/test_undo.py has those with the whole service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Set

import pytest

from imageload.errors import StoreUnavailable
from imageload.image import Downloaded, Landed, Purged, PurgeFailed, Report, Uploaded
from imageload.job import AlbumEnded, AlbumMade, Change, Job, PurgeEnded
from imageload.targets.imgur.uploader import Imgur
from imageload.targets.limits.breaker import Terms
from imageload.targets.purge import purge
from sandbox.testing import RunningSandbox
from tests.test_uploads import Target, target_at, uploads


@pytest.fixture
def target(sandbox: RunningSandbox) -> Iterator[Target]:
    """A Target that uploads to the sandbox."""
    with target_at(sandbox.url) as running:
        yield running


class Purging:
    """Purges of jobs with the images of `landed`, and the Changes applied."""

    def __init__(self, imgur: Imgur) -> None:
        self.imgur = imgur
        self.jobs: list[Job] = []
        self.changes: list[Change] = []
        self.forgotten: set[str] = set()
        self.trouble: Exception | None = None

    def job(self, landed: list[Landed], album: AlbumMade | None = None) -> Job:
        """A job whose images are completed."""
        urls = [f"http://origin.example/{n}" for n in range(len(landed))]
        job = Job(urls, album="My trip" if album is not None else None)
        for index, each in enumerate(landed):
            job.apply(Downloaded(index, Report("", 200, 1, "image/png", 1, 1, "5ha")))
            job.apply(Uploaded(index, each.link, each.deletehash))
        if album is not None:
            job.apply(album)
            job.apply(AlbumEnded())
        self.jobs.append(job)
        return job

    async def links_of_others(self, job: Job) -> Set[str]:
        """Return the links of the other jobs after a short wait, like a store."""
        await asyncio.sleep(0.01)
        if self.trouble is not None:
            raise self.trouble
        others = [each for each in self.jobs if each is not job]
        return {i.link for each in others for i in each.snapshot().images if i.link is not None}

    async def purge(self, job: Job) -> None:
        """Purge the job."""

        def apply(job: Job, change: Change) -> None:
            job.apply(change)
            self.changes.append(change)

        await purge(
            job,
            self.imgur,
            apply,
            links_of_others=self.links_of_others,
            forget=self.forgotten.update,
        )


def test_images_and_album_are_deleted(target: Target, sandbox: RunningSandbox) -> None:
    purging = Purging(target.imgur())

    async def run() -> Job:
        landed = await asyncio.gather(*uploads(purging.imgur, 20))
        made = await purging.imgur.request("job", "POST", "album", {"title": "My trip"})
        album = AlbumMade(made["id"], "link", made["deletehash"])
        job = purging.job([*landed, landed[0]], album)
        await purging.purge(job)
        return job

    job = target.run(run())
    assert sandbox.images() == []
    assert job.summary().counts["failed"] == 21
    assert {image.failure.code for image in job.snapshot().images if image.failure} == {"purged"}
    assert purging.changes[-1] == PurgeEnded(album_deleted=True)
    assert len(purging.forgotten) == 20
    assert sandbox.stats()["requests"]["image"] == 20, "the same image is deleted once"


def test_of_two_jobs_with_an_image_the_second_to_be_purged_deletes_it(
    target: Target, sandbox: RunningSandbox
) -> None:
    purging = Purging(target.imgur())

    async def run() -> list[Landed]:
        landed = await asyncio.gather(*uploads(purging.imgur, 3))
        jobs = [purging.job(landed[:2]), purging.job(landed[1:])]
        await asyncio.gather(*(purging.purge(job) for job in jobs))
        return landed

    target.run(run())
    assert sandbox.images() == []
    messages = [change.failure.message for change in purging.changes if isinstance(change, Purged)]
    assert len([message for message in messages if "another job" in message]) == 1


def test_an_image_that_cannot_be_deleted_stays_completed_and_says_why(
    target: Target, sandbox: RunningSandbox
) -> None:
    purging = Purging(target.imgur(terms=Terms(blocked_wait=0.05, outage_seconds=0.2)))

    async def run() -> Job:
        landed = await asyncio.gather(*uploads(purging.imgur, 2))
        job = purging.job([landed[0], Landed(landed[1].link)])
        sandbox.fault("500", match="image", count=0)
        await purging.purge(job)
        return job

    job = target.run(run())
    assert job.summary().counts["completed"] == 2
    failures = [image.failure for image in job.snapshot().images if image.failure is not None]
    assert {each.code for each in failures} == {"upload_error", "upload_rejected"}
    assert purging.changes[-1] == PurgeEnded()


def test_an_image_that_is_gone_already_is_deleted(target: Target, sandbox: RunningSandbox) -> None:
    purging = Purging(target.imgur())

    async def run() -> Job:
        (landed,) = await asyncio.gather(*uploads(purging.imgur, 1))
        await purging.imgur.request("job", "DELETE", f"image/{landed.deletehash}")
        job = purging.job([landed])
        await purging.purge(job)
        return job

    assert target.run(run()).summary().counts["failed"] == 1
    assert sandbox.images() == []


def test_nothing_is_deleted_if_the_store_cannot_list_other_jobs(
    target: Target, sandbox: RunningSandbox
) -> None:
    purging = Purging(target.imgur())
    purging.trouble = StoreUnavailable("The disk is gone.")

    async def run() -> None:
        await purging.purge(purging.job(await asyncio.gather(*uploads(purging.imgur, 2))))

    target.run(run())
    assert len(sandbox.images()) == 2
    failures = [change.failure for change in purging.changes if isinstance(change, PurgeFailed)]
    assert [each.code for each in failures] == ["disk_error"] * 2


def test_a_cancelled_purge_can_be_continued(target: Target, sandbox: RunningSandbox) -> None:
    purging = Purging(target.imgur())
    sandbox.fault("hang", match="image", count=1)

    async def run() -> Job:
        job = purging.job(await asyncio.gather(*uploads(purging.imgur, 5)))
        task = asyncio.create_task(purging.purge(job))
        while job.summary().counts["failed"] < 4:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert job.summary().purging
        await purging.purge(job)
        return job

    assert not target.run(run()).summary().purging
    assert sandbox.images() == []


def test_a_bug_ends_a_purge(target: Target) -> None:
    purging = Purging(target.imgur())
    purging.trouble = ZeroDivisionError()

    async def run() -> Job:
        job = purging.job(await asyncio.gather(*uploads(purging.imgur, 1)))
        await purging.purge(job)
        return job

    job = target.run(run())
    assert not job.summary().purging
    assert purging.changes[-1] == PurgeEnded()
