"""Tests of targets.imgur.albums: a job's images as one album, in the order of the input."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from imageload import errors
from imageload.image import Downloaded, Failed, Image, Purged, Report, Requeued, Uploaded
from imageload.job import AlbumEnded, AlbumMade, AlbumReopened, Job, Snapshot
from imageload.targets.imgur.albums import image_name, make_album
from tests.raising import raises_error

MADE = {"id": "aLbUm12", "deletehash": "d3l3t3"}
GONE = errors.UploadError("upload_rejected", "No.").failure()
Call = tuple[str, str, dict[str, Any]]


class Calls:
    """Records each call, and returns or raises the next of `answers`."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)
        self.made: list[Call] = []

    async def __call__(self, method: str, route: str, fields: dict[str, Any]) -> Any:
        self.made.append((method, route, fields))
        answer = self._answers.pop(0) if self._answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer


def job_of(count: int, *, failed: Sequence[int] = (), hashes: bool = True) -> Job:
    """A job of `count` images, all completed except those in `failed`."""
    job = Job([f"http://origin.example/{index}" for index in range(count)], album="My trip")
    for index in range(count):
        job.apply(Downloaded(index, Report("", 200, 1, "image/png", 1, 1, "5ha")))
        if index in failed:
            job.apply(Failed(index, GONE))
        else:
            link = f"https://i.imgur.com/id{index}.png"
            job.apply(Uploaded(index, link, f"hash{index}" if hashes else None))
    return job


def album_of(calls: Calls, job: Job | Snapshot, *, anonymous: bool = True) -> AlbumMade | None:
    """Make the job's album, or replace its images; the album that was made."""
    snapshot = job.snapshot() if isinstance(job, Job) else job
    made: list[AlbumMade] = []
    link_of = "https://imgur.com/a/{}".format
    asyncio.run(make_album(calls, snapshot, link_of, made.append, anonymous=anonymous))
    return made[0] if made else None


def names(prefix: str, indexes: range | list[int]) -> list[str]:
    return [f"{prefix}{index}" for index in indexes]


def test_anonymous_images_are_added_to_an_album_by_their_deletehashes() -> None:
    calls = Calls(MADE)
    made = album_of(calls, job_of(3))
    fields = {"title": "My trip", "deletehashes": names("hash", range(3))}
    assert calls.made == [("POST", "album", fields)]
    assert made == AlbumMade("aLbUm12", "https://imgur.com/a/aLbUm12", "d3l3t3")


def test_images_of_an_account_are_added_by_their_ids_without_a_deletehash_of_the_album() -> None:
    calls = Calls({"id": "aLbUm12"})
    made = album_of(calls, job_of(3), anonymous=False)
    fields = {"title": "My trip", "ids": names("id", range(3))}
    assert calls.made == [("POST", "album", fields)]
    assert made == AlbumMade("aLbUm12", "https://imgur.com/a/aLbUm12", None)


def test_an_album_has_the_completed_images_in_the_order_of_the_input() -> None:
    calls = Calls(MADE)
    album_of(calls, job_of(6, failed=(0, 3)))
    assert calls.made[0][2]["deletehashes"] == names("hash", [1, 2, 4, 5])


def test_without_an_image_there_is_no_album_and_no_call() -> None:
    calls = Calls(MADE)
    assert album_of(calls, job_of(2, failed=(0, 1))) is None
    assert calls.made == []


def test_an_image_in_the_job_twice_is_in_the_album_once() -> None:
    job = Job(["http://origin.example/a", "http://origin.example/b"], album="My trip")
    for index in range(2):
        job.apply(Downloaded(index, Report("", 200, 1, "image/png", 1, 1, "5ha")))
        job.apply(Uploaded(index, "https://i.imgur.com/same.png", "same", reused=index > 0))
    calls = Calls(MADE)
    album_of(calls, job)
    assert calls.made[0][2]["deletehashes"] == ["same"]


def test_images_are_added_a_hundred_at_a_time() -> None:
    calls = Calls(MADE)
    album_of(calls, job_of(250))
    routes = [(method, route) for method, route, _ in calls.made]
    assert routes == [("POST", "album"), *2 * [("POST", "album/d3l3t3/add")]]
    batches = [fields["deletehashes"] for _, _, fields in calls.made]
    assert [len(batch) for batch in batches] == [100, 100, 50]
    assert [name for batch in batches for name in batch] == names("hash", range(250))


def test_images_are_added_to_an_accounts_album_by_its_id() -> None:
    calls = Calls({"id": "aLbUm12", "deletehash": None})
    album_of(calls, job_of(101), anonymous=False)
    assert calls.made[1] == ("POST", "album/aLbUm12/add", {"ids": ["id100"]})


@pytest.mark.parametrize(("count", "calls_made"), [(100, 1), (101, 2), (200, 2), (1, 1)])
def test_no_call_is_made_without_images(count: int, calls_made: int) -> None:
    calls = Calls(MADE)
    album_of(calls, job_of(count))
    assert len(calls.made) == calls_made


def again(*, anonymous: bool) -> Job:
    """A job with an album whose second image was completed later by a retry."""
    job = job_of(2, failed=(1,))
    job.apply(AlbumMade("aLbUm12", "https://imgur.com/a/aLbUm12", "d3l3t3" if anonymous else None))
    job.apply(AlbumEnded())
    job.apply(Requeued(1))
    job.apply(Downloaded(1, Report("", 200, 1, "image/png", 1, 1, "5ha")))
    job.apply(Uploaded(1, "https://i.imgur.com/id1.png", "hash1"))
    return job


@pytest.mark.parametrize(
    ("anonymous", "route", "key"),
    [(True, "album/d3l3t3", "deletehashes"), (False, "album/aLbUm12", "ids")],
)
def test_an_existing_album_has_its_images_replaced(anonymous: bool, route: str, key: str) -> None:
    calls, prefix = Calls(), "hash" if anonymous else "id"
    job = again(anonymous=anonymous)
    assert album_of(calls, job, anonymous=anonymous) is None, "it is the same one"
    assert calls.made == [("POST", route, {key: names(prefix, range(2))})]
    job.apply(AlbumEnded())
    album = job.summary().album
    assert album is not None
    assert (album.id, album.link) == ("aLbUm12", "https://imgur.com/a/aLbUm12")
    assert album.deletehash == ("d3l3t3" if anonymous else None), "it is not forgotten"


@pytest.mark.parametrize(
    "made",
    [
        True,
        None,
        [],
        {},
        {"id": "aLbUm12"},
        {"deletehash": "d3l3t3"},
        {"id": 7, "deletehash": "d3l3t3"},
        {"id": "../image/x", "deletehash": "d3l3t3"},
        {"id": "aLbUm12", "deletehash": "a/b"},
        {"id": "", "deletehash": "d3l3t3"},
    ],
)
def test_an_album_with_a_malformed_id_is_a_bad_response(made: object) -> None:
    calls = Calls(made)
    with raises_error("upload_error"):
        album_of(calls, job_of(150))
    assert len(calls.made) == 1, "nothing is added to what has no name"


def test_an_error_before_there_is_an_album_is_raised() -> None:
    trouble = errors.UploadError("unavailable", "Down.")
    with raises_error("unavailable") as caught:
        album_of(Calls(trouble), job_of(150))
    assert caught.value is trouble


def test_an_album_that_cannot_be_filled_is_kept_and_filled_by_a_retry() -> None:
    trouble = errors.UploadError("unavailable", "Down.")
    job = job_of(250)
    with raises_error("unavailable"):
        asyncio.run(
            make_album(Calls(MADE, True, trouble), job.snapshot(), str, job.apply, anonymous=True)
        )
    job.apply(AlbumEnded(trouble.failure()))
    job.apply(AlbumReopened())
    calls = Calls()
    album_of(calls, job)
    assert [route for _, route, _ in calls.made] == ["album/d3l3t3", *2 * ["album/d3l3t3/add"]]


def test_purged_images_are_not_in_the_album() -> None:
    job = job_of(3)
    job.apply(Purged(1, GONE))
    calls = Calls(MADE)
    album_of(calls, job)
    assert calls.made[0][2]["deletehashes"] == ["hash0", "hash2"]


def test_images_without_a_deletehash_stay_out_of_an_anonymous_album() -> None:
    calls = Calls(MADE)
    assert album_of(calls, job_of(2, hashes=False)) is None
    assert calls.made == []


@pytest.mark.parametrize(
    ("link", "deletehash", "anonymous", "name"),
    [
        ("https://i.imgur.com/aB3.png", "hash", True, "hash"),
        ("https://i.imgur.com/aB3.png", None, True, None),
        ("https://i.imgur.com/aB3.png", "hash", False, "aB3"),
        ("https://i.imgur.com/aB3.jpeg", None, False, "aB3"),
        ("http://127.0.0.1:8889/aB3", None, False, "aB3"),
        (None, None, True, None),
    ],
)
def test_an_image_is_named_by_its_deletehash_or_by_the_id_in_its_link(
    link: str | None, deletehash: str | None, anonymous: bool, name: str | None
) -> None:
    image = Image("http://origin.example/x", "completed", link=link, deletehash=deletehash)
    assert image_name(image, anonymous=anonymous) == name
