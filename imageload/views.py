"""How a job looks as JSON: the status of the contract, and what goes beyond. It shows no secret.

The types say what each answer has, to whoever fills it and to the OpenAPI document.
"""

from __future__ import annotations

import csv
import io
from datetime import datetime
from typing import Annotated, Literal, TypedDict
from urllib.parse import urlsplit

from msgspec import Meta

from imageload.errors import Failure
from imageload.job import Album, Callback, Image, Snapshot, State, Status
from imageload.targets.imgur.quota import Reason

JobId = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Moment = Annotated[
    str, Meta(description="UTC, to the second.", extra_json_schema={"format": "date-time"})
]
Count = Annotated[int, Meta(ge=0)]
Link = Annotated[str, Meta(extra_json_schema={"format": "uri"})]


class PendingJson(TypedDict):
    """An image that has not ended; one that is still to be downloaded has only its URL."""

    status_code: Annotated[int | None, Meta(description="What the origin answered.")]
    url: str
    temp_fn: Annotated[str | None, Meta(description="The temp file, on the service's disk.")]


class ListsJson(TypedDict):
    """Every URL of a job, in exactly one list, in the order of the input."""

    pending: list[PendingJson]
    completed: Annotated[list[Link], Meta(description="The links.")]
    failed: Annotated[list[str], Meta(description="The URLs, as they were posted.")]


class StatusJson(TypedDict):
    """A job, as the first version of this API answered it."""

    job_id: JobId
    created: Moment
    finished: Annotated[bool, Meta(description="Nothing more will happen.")]
    status: Status
    uploaded: ListsJson


class ErrorJson(TypedDict):
    """Why something failed: `code` for programs, `message` for people."""

    code: Annotated[str, Meta(examples=["http_status"])]
    message: Annotated[str, Meta(examples=["The origin answered 404 Not Found."])]


class AlbumJson(TypedDict):
    """The album that a job's images go into. `link` comes when every image has ended."""

    title: str
    link: Link | None
    error: ErrorJson | None


class CallbackJson(TypedDict):
    """What became of telling the callback that the job has ended."""

    host: Annotated[str, Meta(description="Of its URL, the rest of which may be a secret.")]
    told: bool
    error: ErrorJson | None


class CountsJson(TypedDict):
    """How many of a job's images are where."""

    total: Count
    pending: Count
    completed: Count
    failed: Count
    maybe_duplicate: Annotated[
        Count, Meta(description="Of them all: may be on Imgur twice, for an answer was lost.")
    ]


class SummaryJson(TypedDict):
    """A job in the list of jobs."""

    job_id: JobId
    created: Moment
    status: Status
    finished: Annotated[bool, Meta(description="Nothing more will happen.")]
    counts: CountsJson
    album: AlbumJson | None
    callback: CallbackJson | None


class CalledJson(TypedDict):
    """What a callback is told when its job has ended."""

    type: Literal["job.complete"]
    timestamp: Moment
    data: SummaryJson


class WaitingJson(TypedDict):
    """Until when uploads wait for Imgur, and for which of its limits; null where they do not."""

    waiting_until: Moment | None
    waiting_for: Reason | None


class WaitingSummaryJson(SummaryJson, WaitingJson):
    """A job in the list of jobs, and what it waits for."""


class ImageJson(TypedDict):
    """What became of one URL."""

    url: str
    state: State
    link: Link | None
    error: ErrorJson | None
    status_code: Annotated[int | None, Meta(description="What the origin answered.")]
    attempts: Annotated[Count, Meta(description="Tries of the step that it took last.")]
    bytes: Count | None
    type: Annotated[str | None, Meta(examples=["image/jpeg"])]
    width: Count | None
    height: Count | None
    sha256: str | None
    converted_from: Annotated[str | None, Meta(description="The type it came as, if another.")]
    reused: Annotated[bool, Meta(description="Another upload or job has brought it.")]
    maybe_duplicate: Annotated[
        bool, Meta(description="May be on Imgur once more than its link says.")
    ]
    title: str | None
    description: str | None


def status_json(snapshot: Snapshot) -> StatusJson:
    """The answer of GET /v1/images/upload/<jobId>, as the v1 contract has it."""
    pending: list[PendingJson] = []
    completed: list[str] = []
    failed: list[str] = []
    for image in snapshot.images:
        if image.state == "completed":
            completed.append(image.link or "")
        elif image.state == "failed":
            failed.append(image.url)
        else:
            report = image.report
            pending.append(
                {
                    "status_code": report.status_code if report else None,
                    "url": image.url,
                    "temp_fn": (report.temp_fn or None) if report else None,
                }
            )
    return {
        "job_id": snapshot.job_id,
        "created": utc_text(snapshot.created),
        "finished": snapshot.finished,
        "status": snapshot.status,
        "uploaded": {"pending": pending, "completed": completed, "failed": failed},
    }


def summary_json(snapshot: Snapshot) -> SummaryJson:
    """A job in the list of jobs: what it is and how many of its images are where."""
    counts = snapshot.counts
    return {
        "job_id": snapshot.job_id,
        "created": utc_text(snapshot.created),
        "status": snapshot.status,
        "finished": snapshot.finished,
        "counts": {
            "total": sum(counts.values()),
            "pending": counts["queued"] + counts["downloaded"],
            "completed": counts["completed"],
            "failed": counts["failed"],
            "maybe_duplicate": snapshot.maybe_duplicates,
        },
        "album": album_json(snapshot.album),
        "callback": _callback_json(snapshot.callback),
    }


def album_json(album: Album | None) -> AlbumJson | None:
    """A job's album as its users see it. Never the deletehash."""
    if album is None:
        return None
    return {"title": album.title, "link": album.link, "error": _error_json(album.failure)}


def _callback_json(callback: Callback | None) -> CallbackJson | None:
    if callback is None:
        return None
    return {
        "host": urlsplit(callback.url).hostname or "",
        "told": callback.is_told,
        "error": _error_json(callback.failure),
    }


def _error_json(failure: Failure | None) -> ErrorJson | None:
    return {"code": failure.code, "message": failure.message} if failure else None


def image_json(image: Image) -> ImageJson:
    """One record of GET /v1/images/upload/<jobId>/images. Never the deletehash."""
    report, failure = image.report, image.failure
    status_code = failure.status_code if failure else None
    return {
        "url": image.url,
        "state": image.state,
        "link": image.link,
        "error": _error_json(failure),
        "status_code": report.status_code if report else status_code,
        "attempts": image.attempts,
        "bytes": report.bytes if report else None,
        "type": report.type if report else None,
        "width": report.width if report else None,
        "height": report.height if report else None,
        "sha256": report.sha256 if report else None,
        "converted_from": report.converted_from if report else None,
        "reused": image.reused,
        "maybe_duplicate": image.maybe_duplicate,
        "title": image.title,
        "description": image.description,
    }


def map_json(snapshot: Snapshot) -> dict[str, str]:
    """From every completed image's URL to its link, in the order of the input."""
    return {image.url: image.link for image in snapshot.images if image.link is not None}


def map_csv(snapshot: Snapshot) -> str:
    """The same as CSV (RFC 4180), with a header line."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(("url", "link"))
    rows.writerows(map_json(snapshot).items())
    return text.getvalue()


def utc_text(moment: datetime) -> str:
    """`moment`, which is UTC, to the second, as all of our answers write it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
