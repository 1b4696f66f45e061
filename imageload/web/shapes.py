"""What the API answers beyond a job's own views, as types: handlers fill them, /openapi.json tells.

Requests are in `imageload.web.lists`, a job's views in `imageload.views`.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from msgspec import Meta

from imageload.targets.imgur.budget import Name
from imageload.targets.imgur.quota import Reason
from imageload.views import (
    AlbumJson,
    Count,
    ImageJson,
    JobId,
    Link,
    Moment,
    SummaryJson,
    WaitingJson,
    WaitingSummaryJson,
)


class AcceptedJson(TypedDict):
    """What was made of a POST of URLs."""

    jobId: Annotated[  # the contract's name
        list[JobId], Meta(min_length=1, description="A job for each list, in order.")
    ]


class LinksJson(TypedDict):
    """Links on Imgur, those of the oldest job first."""

    uploaded: list[Link]


class JobsJson(TypedDict):
    """Jobs, newest first."""

    jobs: list[WaitingSummaryJson]


class ImagesJson(WaitingJson):
    """A job's images in the order of the input, and what they have in common."""

    images: list[ImageJson]
    album: AlbumJson | None


class MapJson(TypedDict):
    """From the URL of every image that has landed to its link, in the order of the input."""

    job_id: JobId
    map: dict[str, Link]


class RequeuedJson(TypedDict):
    """How many failed images are tried again."""

    job_id: JobId
    requeued: Count


class EndingJson(TypedDict):
    """How many images a cancel ends, and how many are then deleted from Imgur."""

    job_id: JobId
    cancelled: Count
    purging: Count


class ImageEventJson(ImageJson):
    """The data of an `image` event."""

    number: Annotated[int, Meta(ge=1, description="Its place in the input.")]


class BytesJson(TypedDict):
    """Bytes of a job's images as they stand."""

    downloaded: Count
    uploaded: Annotated[Count, Meta(description="By this job; not what was there already.")]


class ProgressEventJson(SummaryJson, WaitingJson):
    """The data of a `progress` and of a `complete` event."""

    bytes: BytesJson


class BudgetJson(TypedDict):
    """One limit of Imgur's; null is what it has not said."""

    client: Annotated[int | None, Meta(description="The place of the client id; null: all.")]
    budget: Name
    limit: Count | None
    remaining: int | None
    resets_at: Moment | None


class QuotaJson(WaitingJson):
    """What Imgur still allows, and what waits for it."""

    reason: Annotated[str | None, Meta(description="What uploads wait for, for people.")]
    parked: Annotated[Count, Meta(description="Images that wait for Imgur in their temp files.")]
    pending: Annotated[Count, Meta(description="Images of all jobs that have not ended.")]
    done_at: Annotated[
        Moment | None, Meta(description="When they will have been uploaded; null: never.")
    ]
    budgets: list[BudgetJson]


class HealthJson(TypedDict):
    """The process answers."""

    status: Literal["ok"]


class ReadyJson(TypedDict):
    """Whether to send work, and why not."""

    status: Literal["ready", "not ready", "stopping"]
    waiting_for: Reason | None
    reason: str | None
    journal: Annotated[str | None, Meta(description="Why the journal cannot be written.")]


class ProblemJson(TypedDict):
    """What went wrong (RFC 9457). `type` names it for programs, `detail` says what to do."""

    type: Annotated[str, Meta(extra_json_schema={"format": "uri"})]
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    instance: NotRequired[
        Annotated[str, Meta(description="Names the request.", extra_json_schema={"format": "uri"})]
    ]
