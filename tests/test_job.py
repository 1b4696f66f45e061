"""Tests of job: legal moves only, one list for every URL at every moment, and JSON
views that are those of the contract.
"""

from __future__ import annotations

import json
import random
import re
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from imageload.errors import DownloadError, IllegalChange
from imageload.image import (
    STATES,
    Downloaded,
    Failed,
    Item,
    NotSent,
    Purged,
    PurgeFailed,
    Report,
    Requeued,
    ResponseLost,
    Returned,
    State,
    Uploaded,
    Uploading,
)
from imageload.job import (
    AlbumEnded,
    AlbumMade,
    CallbackEnded,
    Change,
    Job,
    Snapshot,
    Started,
)
from imageload.job_json import album_json, image_json, map_json, status_json, summary_json

SECRET = "d3l3t3h4sh"
FAILURE = DownloadError("not_image", "The first bytes are not those of an image.").failure()

LEGAL: dict[State, tuple[type[Change], ...]] = {
    "queued": (Downloaded, Failed),
    "downloaded": (Uploading, NotSent, ResponseLost, Uploaded, Failed, Returned),
    "completed": (Purged, PurgeFailed, Requeued),
    "failed": (Requeued,),
}
LEADS_TO: dict[type[Change], State] = {
    Downloaded: "downloaded",
    Uploading: "downloaded",
    NotSent: "downloaded",
    ResponseLost: "downloaded",
    Uploaded: "completed",
    Failed: "failed",
    Requeued: "queued",
    Returned: "queued",
    Purged: "failed",
    PurgeFailed: "completed",
}


def url(index: int) -> str:
    return f"https://origin.example/{index}.png"


def link(index: int) -> str:
    return f"https://i.imgur.com/{index:07}.png"


def report(index: int = 0) -> Report:
    return Report(f"/temp/{index}", 200, 1_234, "image/png", 64, 32, f"{index:064x}")


def job_of(count: int) -> Job:
    return Job([url(index) for index in range(count)])


def change(kind: type[Change], index: int) -> Change:
    """A Change of `kind` for the image at `index`."""
    if kind is Downloaded:
        return Downloaded(index, report(index))
    if kind is Uploaded:
        return Uploaded(index, link(index), SECRET)
    if kind in (Failed, Purged, PurgeFailed):
        return kind(index, FAILURE)
    return kind(index)  # type: ignore[call-arg, arg-type]


def bring_to(job: Job, state: State, index: int = 0) -> None:
    """Change the queued image at `index` to `state`."""
    ways: dict[State, tuple[type[Change], ...]] = {
        "queued": (),
        "downloaded": (Downloaded,),
        "completed": (Downloaded, Uploaded),
        "failed": (Failed,),
    }
    for kind in ways[state]:
        job.apply(change(kind, index))


def check(snapshot: Snapshot) -> None:
    """The invariant: each URL in exactly one list, in input order, and counts that agree."""
    urls = [image.url for image in snapshot.images]
    assert urls == [url(index) for index in range(len(urls))]
    found = Counter(image.state for image in snapshot.images)
    assert snapshot.counts == {state: found[state] for state in STATES}

    lists = status_json(snapshot)["uploaded"]
    pending = [entry["url"] for entry in lists["pending"]]
    link_to_url = {link(index): url(index) for index in range(len(urls))}
    completed = [link_to_url[each] for each in lists["completed"]]
    place = {each: index for index, each in enumerate(urls)}
    for each_list in (pending, completed, lists["failed"]):
        places = [place[each] for each in each_list]
        assert places == sorted(places)
    assert sorted(pending + completed + lists["failed"]) == sorted(urls)

    counts = summary_json(snapshot)["counts"]
    assert counts["total"] == len(urls)
    assert counts["pending"] == len(pending)
    assert counts["completed"] == len(completed)
    assert counts["failed"] == len(lists["failed"])
    assert snapshot.finished is (not pending)
    assert (snapshot.status == "complete") is snapshot.finished


# The moves


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", LEADS_TO)
def test_a_change_fits_its_state_or_is_refused_and_changes_nothing(
    state: State, kind: type[Change]
) -> None:
    job = job_of(2)
    bring_to(job, state)
    before = job.snapshot()
    if kind in LEGAL[state]:
        job.apply(change(kind, 0))
        after = job.snapshot()
        assert after.images[0].state == LEADS_TO[kind]
        assert after.images[1] == before.images[1]
        assert after.version == before.version + 1
        check(after)
    else:
        with pytest.raises(IllegalChange, match=f"{kind.__name__} does not follow {state}"):
            job.apply(change(kind, 0))
        assert job.snapshot() == before


@pytest.mark.parametrize("kind", LEADS_TO)
@pytest.mark.parametrize("index", [-1, -2, 2, 10**9])
def test_a_change_of_an_image_that_is_not_there_is_refused_and_changes_nothing(
    kind: type[Change], index: int
) -> None:
    job = job_of(2)
    before = job.snapshot()
    with pytest.raises(IllegalChange, match=f"there is no image {index}"):
        job.apply(change(kind, index))
    assert job.snapshot() == before


def test_a_job_starts_once() -> None:
    job = job_of(1)
    job.apply(Started())
    before = job.snapshot()
    with pytest.raises(IllegalChange):
        job.apply(Started())
    assert job.snapshot() == before


def test_a_requeued_image_has_no_values_of_its_last_try() -> None:
    job = job_of(1)
    fresh = job.image(0)
    job.apply(Downloaded(0, report(), attempts=2))
    job.apply(Failed(0, FAILURE, attempts=4))
    job.apply(Requeued(0))
    assert job.image(0) == replace(fresh, version=3)


def test_a_change_sets_the_values_that_it_has() -> None:
    job = job_of(1)
    job.apply(Downloaded(0, report(), attempts=2))
    assert (job.image(0).report, job.image(0).attempts) == (report(), 2)
    job.apply(Uploaded(0, link(0), SECRET, attempts=3))
    image = job.image(0)
    assert (image.link, image.deletehash, image.attempts) == (link(0), SECRET, 3)
    assert image.report == report()


def test_changes_and_snapshots_are_frozen() -> None:
    job = job_of(1)
    for value, name in (
        (Failed(0, FAILURE), "index"),
        (report(), "temp_fn"),
        (job.snapshot(), "version"),
        (job.image(0), "state"),
    ):
        assert hasattr(value, name)
        with pytest.raises(AttributeError, match=r"cannot assign|immutable"):
            setattr(value, name, None)


def test_a_requeued_image_keeps_its_texts_and_its_maybe_duplicate_mark() -> None:
    job = Job([Item(url(0), "A bird", "It sings.")])
    job.apply(Downloaded(0, report()))
    job.apply(Uploading(0))
    job.apply(ResponseLost(0))
    job.apply(Failed(0, FAILURE))
    job.apply(Requeued(0))
    image = job.image(0)
    assert (image.title, image.description) == ("A bird", "It sings.")
    assert (image.maybe_duplicate, image.uploading, image.report) == (True, False, None)


def test_a_purged_image_loses_its_link_and_one_that_was_not_deleted_keeps_it() -> None:
    job = job_of(2)
    for index in range(2):
        bring_to(job, "completed", index)
    job.apply(Purged(0, FAILURE))
    job.apply(PurgeFailed(1, FAILURE))
    gone, stays = job.snapshot().images
    assert (gone.link, gone.deletehash, gone.failure) == (None, None, FAILURE)
    assert (stays.link, stays.deletehash, stays.failure) == (link(1), SECRET, FAILURE)
    assert map_json(job.snapshot())["map"] == {url(1): link(1)}


def test_an_image_whose_link_is_dead_keeps_it_until_it_lands_again() -> None:
    job = job_of(1)
    bring_to(job, "completed")
    job.apply(Requeued(0))
    assert (job.image(0).state, job.image(0).link) == ("queued", link(0))
    assert job.image(0).deletehash == SECRET
    assert job.image(0).is_lost
    for each in (
        Downloaded(0, report(5)),
        Returned(0),
        Downloaded(0, report(5)),
        Failed(0, FAILURE),
    ):
        job.apply(each)
    assert (job.image(0).state, job.image(0).link) == ("completed", link(0))
    assert job.image(0).failure == FAILURE
    assert job.image(0).is_lost
    assert job.summary().uploaded_bytes == job.summary().downloaded_bytes == 0
    for again in (Requeued(0), Downloaded(0, report(5)), Uploaded(0, link(5), "new")):
        job.apply(again)
    image = job.image(0)
    assert (image.link, image.deletehash, image.failure) == (link(5), "new", None)
    assert not image.is_lost


def test_maybe_duplicates_are_counted() -> None:
    job = job_of(3)
    for index in range(2):
        job.apply(Downloaded(index, report()))
        job.apply(ResponseLost(index))
        job.apply(ResponseLost(index))
    job.apply(Uploaded(0, link(0)))
    assert job.summary().maybe_duplicates == 2
    assert [image.maybe_duplicate for image in job.snapshot().images] == [True, True, False]


# A restart


def restored(job: Job) -> Job:
    """The job as another process has it that read it from somewhere."""
    before = job.snapshot()
    return Job.restored(
        before.images,
        job.job_id,
        created=job.created,
        dedupe=job.dedupe,
        started=before.started,
        album=before.album,
        version=before.version,
    )


def test_a_finished_job_is_restored_unchanged() -> None:
    job = Job([url(0), Item(url(1), "A bird", "It sings.")], dedupe=False, album="Birds")
    job.apply(Started())
    bring_to(job, "completed", 0)
    bring_to(job, "failed", 1)
    job.apply(AlbumMade("abc", "https://imgur.com/a/abc", SECRET))
    job.apply(AlbumEnded())
    again = restored(job)
    assert again.snapshot() == job.snapshot()
    assert again.summary() == replace(again.snapshot(), images=())
    assert (again.dedupe, again.created, len(again)) == (False, job.created, 2)
    again.apply(Requeued(1))
    check_counts(again.snapshot())


def test_unfinished_images_are_restored_as_queued_and_as_maybe_duplicates_if_uploading() -> None:
    job = job_of(4)
    job.apply(Started())
    for index in (1, 2):
        bring_to(job, "downloaded", index)
    job.apply(Uploading(2))
    bring_to(job, "completed", 3)
    job.apply(Uploading(1))
    job.apply(NotSent(1))
    again = restored(job).snapshot()
    fresh = job_of(4).snapshot().images
    expected = (*fresh[:2], replace(fresh[2], maybe_duplicate=True))
    assert again.version == job.version + 1
    assert again.images[:3] == tuple(replace(image, version=again.version) for image in expected)
    assert again.images[3] == job.image(3)
    assert (again.status, again.maybe_duplicates) == ("pending", 1)
    check_counts(again)


def check_counts(snapshot: Snapshot) -> None:
    """The counts agree with the images."""
    found = Counter(image.state for image in snapshot.images)
    assert snapshot.counts == {state: found[state] for state in STATES}


# The album


def test_a_job_is_not_finished_before_its_album_is() -> None:
    job = Job([url(0)], album="Birds")
    bring_to(job, "completed")
    assert not job.summary().finished
    job.apply(AlbumMade("abc", "https://imgur.com/a/abc", SECRET))
    assert not job.summary().finished, "it may still be filled"
    job.apply(AlbumEnded())
    assert job.summary().finished
    shown = {"title": "Birds", "link": "https://imgur.com/a/abc", "error": None}
    assert album_json(job.summary().album) == shown
    for late in (AlbumEnded(), AlbumMade("abd", "https://imgur.com/a/abd")):
        with pytest.raises(IllegalChange):
            job.apply(late)


def test_a_requeued_image_reopens_the_same_album() -> None:
    job = Job([url(0)], album="Birds")
    job.apply(Failed(0, FAILURE))
    job.apply(AlbumMade("abc", "https://imgur.com/a/abc", SECRET))
    job.apply(AlbumEnded())
    job.apply(Requeued(0))
    album = job.summary().album
    assert album is not None
    assert (album.is_open, album.id, album.deletehash) == (True, "abc", SECRET)


def test_a_job_without_an_album_ends_none() -> None:
    with pytest.raises(IllegalChange):
        job_of(1).apply(AlbumEnded())


# The status


def test_the_status_changes_from_pending_to_in_progress_to_complete() -> None:
    job = job_of(2)
    seen = [job.snapshot().status]
    steps: list[Change] = [
        Started(),
        Downloaded(0, report()),
        Uploaded(0, link(0)),
        Downloaded(1, report(1)),
        Failed(1, FAILURE),
    ]
    for step in steps:
        assert not job.snapshot().finished
        job.apply(step)
        seen.append(job.snapshot().status)
    assert seen == ["pending", *["in-progress"] * 4, "complete"]
    assert job.snapshot().finished


def test_a_job_that_never_started_may_be_complete() -> None:
    job = job_of(1)
    job.apply(Failed(0, FAILURE))
    assert (job.snapshot().status, job.snapshot().finished) == ("complete", True)


def test_a_requeued_image_puts_the_job_in_progress_again() -> None:
    job = job_of(1)
    job.apply(Started())
    job.apply(Failed(0, FAILURE))
    assert job.snapshot().status == "complete"
    job.apply(Requeued(0))
    assert (job.snapshot().status, job.snapshot().finished) == ("in-progress", False)


def test_counts_has_the_number_of_images_in_each_state() -> None:
    job = job_of(10)
    states: tuple[State, ...] = ("downloaded", "completed", "completed", "failed")
    for index, state in enumerate(states):
        bring_to(job, state, index)
    assert job.summary().counts == {"queued": 6, "downloaded": 1, "completed": 2, "failed": 1}
    assert len(job) == 10


def test_the_version_counts_the_changes_and_only_those() -> None:
    job = job_of(1)
    versions = [job.version]
    for step in (Started(), Downloaded(0, report()), Failed(0, FAILURE), Requeued(0)):
        job.apply(step)
        versions.append(job.version)
    assert versions == [0, 1, 2, 3, 4]
    assert job.snapshot().version == job.summary().version == 4


def test_an_image_has_the_version_of_its_last_change() -> None:
    job = job_of(3)
    bring_to(job, "completed", 1)
    bring_to(job, "failed", 0)
    job.apply(Started())
    assert [image.version for image in job.snapshot().images] == [3, 2, 0]


def test_a_restored_job_continues_from_its_version() -> None:
    job = job_of(2)
    assert restored(job).snapshot() == job.snapshot(), "it had not begun, so nothing was reset"
    job.apply(Started())
    again = restored(job)
    assert (again.version, again.summary().status) == (2, "pending")
    assert [image.version for image in again.snapshot().images] == [2, 2]
    again.apply(Started())
    again.apply(Failed(1, FAILURE))
    assert (again.version, again.image(1).version) == (4, 4)


def test_snapshots_of_one_version_are_equal_and_stay_as_they_were() -> None:
    job = job_of(2)
    first, second = job.snapshot(), job.snapshot()
    assert first == second
    job.apply(Started())
    job.apply(Failed(0, FAILURE))
    assert first == second
    assert first != job.snapshot()
    assert first.counts["queued"] == 2


def test_a_summary_is_the_snapshot_without_its_images() -> None:
    job = job_of(3)
    bring_to(job, "failed", 1)
    summary, snapshot = job.summary(), job.snapshot()
    assert len(summary.images) == 0
    assert summary_json(summary) == summary_json(snapshot)
    assert (summary.status, summary.finished) == (snapshot.status, snapshot.finished)


def test_a_job_has_an_id_of_its_own_and_the_second_it_was_made_in() -> None:
    jobs = [job_of(1) for _ in range(100)]
    assert len({job.job_id for job in jobs}) == 100
    for job in jobs:
        assert uuid.UUID(job.job_id).version == 4
        assert job.created.tzinfo is UTC
        assert job.created.microsecond == 0
        assert abs(datetime.now(UTC) - job.created) < timedelta(seconds=60)
    assert Job([url(0)], job_id="given").job_id == "given"


# The JSON views


def test_the_status_json_has_the_shape_of_the_contract() -> None:
    job = Job(
        [
            "https://us.example/bird.jpg",
            "https://us.example/later.jpg",
            "https://us.example/parrot.jpg",
            "https://susan.example/lovebird.jpg",
        ],
        job_id="4227cacf-2ee1-4b52-b231-110304c4e203",
    )
    job.created = datetime(2018, 10, 13, 20, 37, 16, tzinfo=UTC)
    job.apply(Started())
    job.apply(Downloaded(0, Report("/tmp/tmp45tw5jyr", 200, 9, "image/jpeg", 1, 1, "0" * 64)))
    job.apply(Downloaded(2, report()))
    job.apply(Uploaded(2, "https://i.imgur.com/zxtczst.jpg", SECRET))
    job.apply(Failed(3, FAILURE))
    expected = {
        "job_id": "4227cacf-2ee1-4b52-b231-110304c4e203",
        "created": "2018-10-13T20:37:16Z",
        "finished": False,
        "status": "in-progress",
        "uploaded": {
            "pending": [
                {
                    "status_code": 200,
                    "url": "https://us.example/bird.jpg",
                    "temp_fn": "/tmp/tmp45tw5jyr",
                },
                {"status_code": None, "url": "https://us.example/later.jpg", "temp_fn": None},
            ],
            "completed": ["https://i.imgur.com/zxtczst.jpg"],
            "failed": ["https://susan.example/lovebird.jpg"],
        },
    }
    # As text, for True is 1 to Python and not to a client.
    assert json.dumps(status_json(job.snapshot()), sort_keys=True) == json.dumps(
        expected, sort_keys=True
    )


def test_created_is_utc_to_the_second_with_a_z() -> None:
    created = status_json(job_of(1).snapshot())["created"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", created)


def test_completed_and_failed_are_in_the_order_of_the_input() -> None:
    job = job_of(100)
    indexes = list(range(100))
    random.Random(1).shuffle(indexes)
    for index in indexes:
        bring_to(job, "completed" if index % 2 else "failed", index)
    lists = status_json(job.snapshot())["uploaded"]
    assert lists["completed"] == [link(index) for index in range(1, 100, 2)]
    assert lists["failed"] == [url(index) for index in range(0, 100, 2)]
    assert lists["pending"] == []


def test_the_summary_json_counts_the_images_of_each_list() -> None:
    job = job_of(4)
    bring_to(job, "downloaded", 1)
    bring_to(job, "completed", 2)
    bring_to(job, "failed", 3)
    view = summary_json(job.summary())
    assert view == {
        "job_id": job.job_id,
        "created": status_json(job.snapshot())["created"],
        "status": "pending",
        "finished": False,
        "counts": {"total": 4, "pending": 2, "completed": 1, "failed": 1, "maybe_duplicate": 0},
        "album": None,
        "callback": None,
        "document": None,
        "first_url": job.image(0).url,
    }


def test_a_callback_counts_as_received_until_the_job_changes() -> None:
    job = Job([url(0)], callback="https://user.example/told?key=secret")
    job.apply(Failed(0, FAILURE))
    job.apply(CallbackEnded(job.version, FAILURE))
    assert callback_of(job) == {
        "host": "user.example",
        "told": False,
        "error": {"code": FAILURE.code, "message": FAILURE.message},
    }
    job.apply(CallbackEnded(job.version))
    assert callback_of(job)["told"] is True
    job.apply(Requeued(0))
    assert callback_of(job) == {"host": "user.example", "told": False, "error": None}


def test_a_callback_received_for_one_end_does_not_count_for_the_next() -> None:
    job = Job([url(0)], callback="https://user.example/told")
    job.apply(Failed(0, FAILURE))
    first_end = job.version
    job.apply(Requeued(0))
    job.apply(CallbackEnded(first_end))
    assert callback_of(job)["told"] is False, "it has begun again"
    job.apply(Failed(0, FAILURE))
    job.apply(CallbackEnded(first_end))
    assert callback_of(job)["told"] is False, "it has ended again"


def callback_of(job: Job) -> dict[str, object]:
    """The job's callback in the API."""
    callback = summary_json(job.summary())["callback"]
    assert callback is not None
    return {**callback}


def test_a_job_without_a_callback_has_none_to_end() -> None:
    with pytest.raises(IllegalChange):
        job_of(1).apply(CallbackEnded(0))


def test_an_image_record_has_null_for_unknown_values() -> None:
    job = job_of(1)
    unknown = dict.fromkeys(
        (
            *("link", "error", "status_code", "bytes", "type", "width", "height", "sha256"),
            *("id", "converted_from", "title", "description"),
        )
    )
    assert image_json(1, job.image(0)) == {
        **unknown,
        "number": 1,
        "url": url(0),
        "state": "queued",
        "attempts": 0,
        "reused": False,
        "maybe_duplicate": False,
    }
    job.apply(Downloaded(0, report(), attempts=2))
    job.apply(Uploaded(0, link(0), SECRET, attempts=3))
    assert image_json(1, job.image(0)) == {
        "number": 1,
        "url": url(0),
        "state": "completed",
        "link": link(0),
        "error": None,
        "status_code": 200,
        "attempts": 3,
        "bytes": 1_234,
        "type": "image/png",
        "width": 64,
        "height": 32,
        "sha256": report().sha256,
        "converted_from": None,
        "reused": False,
        "maybe_duplicate": False,
        "title": None,
        "description": None,
        "id": None,
    }


def test_the_record_has_the_original_type_and_whether_the_link_was_reused() -> None:
    job = job_of(1)
    job.apply(Downloaded(0, replace(report(), temp_fn="", converted_from="image/webp")))
    (pending,) = status_json(job.snapshot())["uploaded"]["pending"]
    assert pending == {"status_code": 200, "url": url(0), "temp_fn": None}
    job.apply(Uploaded(0, link(0), SECRET, attempts=0, reused=True))
    record = image_json(1, job.image(0))
    assert (record["type"], record["converted_from"]) == ("image/png", "image/webp")
    assert (record["reused"], record["attempts"]) == (True, 0)


def test_the_record_of_a_failed_image_has_its_code_message_and_http_status() -> None:
    job = job_of(1)
    failure = DownloadError("connect_error", "No connection.", status_code=503).failure()
    job.apply(Failed(0, failure, attempts=4))
    record = image_json(1, job.image(0))
    assert record["error"] == {"code": "connect_error", "message": "No connection."}
    assert (record["state"], record["attempts"], record["status_code"]) == ("failed", 4, 503)


def test_no_json_view_has_the_deletehash() -> None:
    job = job_of(1)
    bring_to(job, "completed")
    snapshot = job.snapshot()
    assert snapshot.images[0].deletehash == SECRET
    views = (status_json(snapshot), summary_json(snapshot), image_json(1, snapshot.images[0]))
    assert SECRET not in json.dumps(views)


# The invariant, on walks


class Walk(RuleBasedStateMachine):
    """Any Change at any time, beside a model of eight images."""

    def __init__(self) -> None:
        super().__init__()
        self.job = job_of(8)
        self.states: list[State] = ["queued"] * 8
        self.have_links: set[int] = set()
        self.started = False
        self.version = 0

    @rule(index=st.integers(0, 7), kind=st.sampled_from(list(LEADS_TO)))
    def change_image(self, index: int, kind: type[Change]) -> None:
        """One Change of one image, fitting or not."""
        if kind in LEGAL[self.states[index]]:
            self.job.apply(change(kind, index))
            self.states[index] = LEADS_TO[kind]
            if kind is Uploaded:
                self.have_links.add(index)
            elif kind is Purged:
                self.have_links.discard(index)
            elif kind is Failed and index in self.have_links:
                self.states[index] = "completed"
            self.version += 1
        else:
            with pytest.raises(IllegalChange):
                self.job.apply(change(kind, index))

    @precondition(lambda self: not self.started)
    @rule()
    def start(self) -> None:
        """The job's thread begins."""
        self.job.apply(Started())
        self.started = True
        self.version += 1

    @invariant()
    def is_as_the_model(self) -> None:
        """Every snapshot holds the invariant and agrees with the model."""
        snapshot = self.job.snapshot()
        check(snapshot)
        assert self.job.summary() == replace(snapshot, images=())
        assert [image.state for image in snapshot.images] == self.states
        assert {n for n, image in enumerate(snapshot.images) if image.link} == self.have_links
        assert snapshot.version == self.version
        unfinished = {"queued", "downloaded"} & {*self.states}
        word = ("in-progress" if self.started else "pending") if unfinished else "complete"
        assert snapshot.status == word


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


@pytest.fixture
def impatient_interpreter() -> Iterator[None]:
    """Switch threads every few bytecodes, so that a race has its chance."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Watcher(threading.Thread):
    """Takes and checks snapshots until `stop` is set."""

    ENOUGH = 60

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job
        self.seen_enough = threading.Event()
        self.stop = threading.Event()
        self.versions = [0]
        self.trouble: BaseException | None = None

    def run(self) -> None:
        """Watch."""
        try:
            while not self.stop.is_set():
                # Many at once and looked at later, so that most of the time goes into taking them.
                snapshots = [self.job.snapshot() for _ in range(100)]
                check(snapshots[0])
                for snapshot in snapshots:
                    self.look_at(snapshot)
                assert self.job.summary().version >= snapshots[-1].version
        except BaseException as error:
            self.trouble = error
            self.seen_enough.set()

    def look_at(self, snapshot: Snapshot) -> None:
        """Compare its version with those before, and its counts with its images."""
        assert snapshot.version >= self.versions[-1]
        found = [image.state for image in snapshot.images]
        assert snapshot.counts == {state: found.count(state) for state in STATES}
        if snapshot.version > self.versions[-1]:
            self.versions.append(snapshot.version)
        if len(self.versions) > self.ENOUGH:
            self.seen_enough.set()


@pytest.mark.usefixtures("impatient_interpreter")
@pytest.mark.parametrize("seed", range(2))
def test_every_snapshot_holds_the_invariant_while_another_thread_applies(seed: int) -> None:
    chance, count = random.Random(seed), 24
    job = job_of(count)
    watchers = [Watcher(job) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    job.apply(Started())
    applied = 1

    def step(index: int, may_complete: Callable[[int], bool]) -> int:
        kinds = [
            kind
            for kind in LEGAL[job.image(index).state]
            if kind is not Uploaded or may_complete(index)
        ]
        if kinds:
            job.apply(change(chance.choice(kinds), index))
        return len(kinds[:1])

    # The second half of the images walks in circles until every watcher has seen enough.
    while not all(watcher.seen_enough.is_set() for watcher in watchers):
        applied += step(chance.randrange(count), lambda index: index < count // 2)
    for index in range(count):
        while job.image(index).state != "completed":
            applied += step(index, lambda _: True)
    for watcher in watchers:
        watcher.stop.set()
        watcher.join()
    assert [watcher.trouble for watcher in watchers] == [None] * 3
    assert job.snapshot().finished
    assert job.version == applied


def test_a_change_of_a_job_of_100_000_urls_is_as_quick_as_of_a_small_one() -> None:
    """With a scan of the job in each, the 100,000 Changes would outlast the limit of a test."""
    count = 100_000
    job = job_of(count)
    for index in range(count):
        job.apply(Failed(index, FAILURE))
    assert job.version == count
    assert job.summary().counts["failed"] == count
    assert job.summary().finished
