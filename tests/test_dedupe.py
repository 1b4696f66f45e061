"""Tests of dedupe: an image requested twice is loaded once, and no waiter waits forever."""

from __future__ import annotations

import asyncio

import pytest

from imageload.dedupe import Dedupe, Result, SharedFailure
from imageload.errors import DownloadError
from imageload.image import Item, Landed
from imageload.job import Job

URL = "https://a.example/1"
LANDED = Result(landed=Landed("https://i.imgur.com/1.png"))
FAILED = Result(failure=DownloadError("not_image", "Text.").failure())


def running(dedupe: Dedupe, *items: str | Item) -> Job:
    """A job that runs."""
    job = Job(items or (URL,))
    dedupe.begin(job.job_id)
    return job


async def turns() -> None:
    """Run all ready tasks."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_later_claims_get_the_result_of_the_first() -> None:
    async def play() -> None:
        dedupe = Dedupe()
        jobs = [running(dedupe) for _ in range(3)]
        leader, *others = (dedupe.claim(job, job.image(0)) for job in jobs)
        assert await leader.by_url() is None
        following = [asyncio.ensure_future(other.by_url()) for other in others]
        await turns()
        assert not any(task.done() for task in following)
        leader.settle(LANDED)
        assert await asyncio.gather(*following) == [LANDED, LANDED]

    asyncio.run(play())


def test_a_result_by_url_serves_jobs_that_ran_when_it_came_and_no_later_one() -> None:
    async def play() -> None:
        dedupe = Dedupe()
        first, second = running(dedupe), running(dedupe)
        leader = dedupe.claim(first, first.image(0))
        assert await leader.by_url() is None
        leader.settle(LANDED)
        assert await dedupe.claim(second, second.image(0)).by_url() == LANDED
        late = running(dedupe)
        assert await dedupe.claim(late, late.image(0)).by_url() is None

    asyncio.run(play())


def test_results_by_url_are_forgotten_when_no_running_job_can_use_them() -> None:
    async def play() -> None:
        dedupe = Dedupe()
        first, second = running(dedupe), running(dedupe)
        leader = dedupe.claim(first, first.image(0))
        await leader.by_url()
        leader.settle(LANDED)
        dedupe.end(first.job_id)
        assert dedupe.results_kept == 1
        dedupe.end(second.job_id)
        assert dedupe.results_kept == 0

    asyncio.run(play())


def test_the_link_of_bytes_is_known_until_it_is_forgotten() -> None:
    async def play() -> None:
        dedupe = Dedupe()
        job = running(dedupe)
        leader = dedupe.claim(job, job.image(0))
        assert await leader.by_content("sha") is None
        leader.settle(LANDED)
        dedupe.end(job.job_id)
        later = running(dedupe)
        assert await dedupe.claim(later, later.image(0)).by_content("sha") == LANDED
        dedupe.forget({"https://i.imgur.com/1.png"})
        assert await dedupe.claim(later, later.image(0)).by_content("sha") is None

    asyncio.run(play())


def test_a_failure_is_shared_and_not_kept() -> None:
    async def play() -> None:
        dedupe = Dedupe()
        first, second = running(dedupe), running(dedupe)
        leader = dedupe.claim(first, first.image(0))
        await leader.by_url()
        following = asyncio.ensure_future(dedupe.claim(second, second.image(0)).by_url())
        await turns()
        leader.settle(FAILED)
        with pytest.raises(SharedFailure) as caught:
            await following
        assert caught.value.failure() == FAILED.failure
        assert await dedupe.claim(second, second.image(0)).by_url() is None

    asyncio.run(play())


def test_the_next_claim_takes_over_from_an_abandoned_one() -> None:
    async def play() -> None:
        dedupe = Dedupe()
        jobs = [running(dedupe) for _ in range(3)]
        leader, second, third = (dedupe.claim(job, job.image(0)) for job in jobs)
        await leader.by_url()
        tasks = [asyncio.ensure_future(claim.by_url()) for claim in (second, third)]
        await turns()
        leader.settle()
        await turns()
        assert [task.done() for task in tasks] == [True, False]
        assert await tasks[0] is None, "it leads now"
        second.settle(LANDED)
        assert await tasks[1] == LANDED

    asyncio.run(play())


def test_cancelling_one_waiter_does_not_affect_the_others() -> None:
    async def play() -> None:
        dedupe = Dedupe()
        jobs = [running(dedupe) for _ in range(3)]
        leader, *others = (dedupe.claim(job, job.image(0)) for job in jobs)
        await leader.by_url()
        tasks = [asyncio.ensure_future(other.by_url()) for other in others]
        await turns()
        tasks[0].cancel()
        leader.settle(LANDED)
        assert await tasks[1] == LANDED
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]

    asyncio.run(play())


@pytest.mark.parametrize("title", ["Dusk", ""])
def test_images_with_other_texts_are_other_images(title: str) -> None:
    async def play() -> None:
        dedupe = Dedupe()
        plain, titled = running(dedupe), running(dedupe, Item(URL, title))
        leader = dedupe.claim(plain, plain.image(0))
        assert await leader.by_url() is None
        assert await dedupe.claim(titled, titled.image(0)).by_url() is None

    asyncio.run(play())


def test_a_job_without_dedupe_shares_no_result() -> None:
    async def play() -> None:
        dedupe = Dedupe()
        jobs = [Job([URL], dedupe=False) for _ in range(2)]
        for job in jobs:
            dedupe.begin(job.job_id)
            assert await dedupe.claim(job, job.image(0)).by_url() is None

    asyncio.run(play())
