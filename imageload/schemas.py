"""The types of the HTTP API's JSON.

Handlers and webhooks fill them, and the OpenAPI document is generated from them. `job_json.py`
has the functions that turn a job into them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, NotRequired, TypedDict

from msgspec import Meta

from imageload.image import State
from imageload.job import Status
from imageload.targets import Reason
from imageload.targets.limits.budget import Name

JobId = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Moment = Annotated[
    str, Meta(description="UTC, to the second.", extra_json_schema={"format": "date-time"})
]
Count = Annotated[int, Meta(ge=0)]
Link = Annotated[str, Meta(extra_json_schema={"format": "uri"})]
Finished = Annotated[bool, Meta(description="true: the job is done and will not change.")]
OriginStatus = Annotated[int | None, Meta(description="The HTTP status of the origin's response.")]
WaitingFor = Annotated[Reason | None, Meta(description="The limit that uploads wait for.")]

# A job's status, as in version 1 of the API


class PendingJson(TypedDict):
    """An image in progress. Before its download, status_code and temp_fn are null."""

    status_code: OriginStatus
    url: str
    temp_fn: Annotated[str | None, Meta(description="The temp file on the service's disk.")]


class ListsJson(TypedDict):
    """Every URL of a job, in exactly one of the lists, in the order of the request."""

    pending: list[PendingJson]
    completed: Annotated[list[Link], Meta(description="The links of the uploaded images.")]
    failed: Annotated[list[str], Meta(description="The URLs, as they were posted.")]


class StatusJson(TypedDict):
    """The status of a job."""

    job_id: JobId
    created: Moment
    finished: Finished
    status: Status
    uploaded: ListsJson


class AcceptedJson(TypedDict):
    """The response to a POST of URLs."""

    jobId: Annotated[  # the contract's name
        list[JobId], Meta(min_length=1, description="One job for each list, in order.")
    ]


class DocumentsAcceptedJson(AcceptedJson):
    """The response to a POST of documents."""

    kinds: Annotated[list[str], Meta(description="As what each document was read.")]


class FoundJson(TypedDict):
    """A place of an image in a document."""

    url: str
    line: Annotated[int, Meta(ge=1)]
    as_written: str


class IgnoredJson(TypedDict):
    """Text that looks like an image and is not taken."""

    text: str
    line: Annotated[int, Meta(ge=1)]
    why: str


class DocumentJson(TypedDict):
    """The images of a document: an image in two places is there twice."""

    kind: str
    images: list[FoundJson]
    ignored: list[IgnoredJson]


class DocumentsJson(TypedDict):
    """The images of the documents of a request, in order."""

    documents: list[DocumentJson]


class LinksJson(TypedDict):
    """Links to uploaded images, those of the oldest job first."""

    uploaded: list[Link]


# Jobs


class ErrorJson(TypedDict):
    """The reason of a failure: `code` for programs, `message` for people."""

    code: Annotated[str, Meta(examples=["http_status"])]
    message: Annotated[str, Meta(examples=["The origin answered 404 Not Found."])]


class AlbumJson(TypedDict):
    """The album of a job's images. `link` is null until every image has ended."""

    title: str
    link: Link | None
    error: ErrorJson | None


class CallbackJson(TypedDict):
    """The state of a job's callback."""

    host: Annotated[str, Meta(description="The host. The rest of the URL may be a secret.")]
    told: Annotated[bool, Meta(description="true: the callback was delivered.")]
    error: ErrorJson | None


class CountsJson(TypedDict):
    """The number of a job's images in each state."""

    total: Count
    pending: Count
    completed: Count
    failed: Count
    maybe_duplicate: Annotated[
        Count,
        Meta(description="Of the total: may be on Imgur twice, because a response was lost."),
    ]


class SummaryJson(TypedDict):
    """A job without its images."""

    job_id: JobId
    created: Moment
    status: Status
    finished: Finished
    counts: CountsJson
    album: AlbumJson | None
    callback: CallbackJson | None
    document: Annotated[
        str | None, Meta(description="The file name of the job's document; null: it has none.")
    ]
    first_url: Annotated[
        str | None, Meta(description="The first URL of the job; null: not known on this node.")
    ]


class EntryJson(TypedDict):
    """An image by its id, which is null if it was posted without one."""

    id: str | None
    url: str
    link: Link | None
    error: ErrorJson | None


Entries = Annotated[
    list[EntryJson], Meta(description="The images that have an id. Missing if none has one.")
]


class EndedJson(SummaryJson):
    """A job that has ended. `entries` has the first 1,000 images with an id."""

    entries: NotRequired[Entries]


class CalledJson(TypedDict):
    """The body of a callback, sent when a job has ended."""

    type: Literal["job.complete"]
    timestamp: Moment
    data: EndedJson


class WaitingJson(TypedDict):
    """The time until which uploads wait for Imgur, and the reason; null if they do not wait."""

    waiting_until: Moment | None
    waiting_for: WaitingFor


class WaitingSummaryJson(SummaryJson, WaitingJson):
    """A job without its images, and the reason why it waits."""


class JobsJson(TypedDict):
    """Jobs, newest first."""

    jobs: list[WaitingSummaryJson]


class RequeuedJson(TypedDict):
    """The number of images that are loaded again."""

    job_id: JobId
    requeued: Count


class CancelJson(TypedDict):
    """The number of images that are cancelled, and of images that are deleted from Imgur."""

    job_id: JobId
    cancelled: Count
    purging: Count


# The links of a job


class LinkCountsJson(TypedDict):
    """The number of images by the state of their links."""

    alive: Count
    gone: Annotated[Count, Meta(description="The host has the image no more.")]
    replaced: Annotated[Count, Meta(description="The host sends a placeholder.")]
    refused: Annotated[Count, Meta(description="The host did not serve this service.")]
    unreachable: Annotated[Count, Meta(description="There was no response that says it.")]


class CheckedLinkJson(TypedDict):
    """An image whose link is not alive."""

    number: Annotated[int, Meta(ge=1, description="The image's position in the request, from 1.")]
    url: str
    link: Link
    state: Literal["gone", "replaced", "refused", "unreachable"]
    status_code: Annotated[
        int | None, Meta(description="The HTTP status of the host's response; null: none came.")
    ]


class CheckJson(TypedDict):
    """The last check of a job's links. `links` has the images whose links are not alive."""

    job_id: JobId
    started: Moment
    finished: Annotated[bool, Meta(description="true: every link was checked.")]
    total: Annotated[Count, Meta(description="The images that had landed.")]
    checked: Count
    counts: LinkCountsJson
    links: Annotated[
        list[CheckedLinkJson],
        Meta(description="Without images that have changed since, such as rehosted ones."),
    ]


# Images


class ImageJson(TypedDict):
    """One image of a job; also the data of an `image` event."""

    number: Annotated[int, Meta(ge=1, description="The image's position in the request, from 1.")]
    id: Annotated[str | None, Meta(description="The id that was posted with the URL.")]
    url: str
    state: State
    link: Link | None
    error: ErrorJson | None
    status_code: OriginStatus
    attempts: Annotated[Count, Meta(description="Tries of the last step (download or upload).")]
    bytes: Count | None
    type: Annotated[str | None, Meta(examples=["image/jpeg"])]
    width: Count | None
    height: Count | None
    sha256: str | None
    converted_from: Annotated[
        str | None, Meta(description="The type before the conversion, if it was converted.")
    ]
    reused: Annotated[bool, Meta(description="The link comes from an earlier upload.")]
    maybe_duplicate: Annotated[
        bool, Meta(description="The image may be on Imgur a second time, under another link.")
    ]
    title: str | None
    description: str | None


class ImagesJson(WaitingJson):
    """A job's images in the order of the request, and their album."""

    images: list[ImageJson]
    album: AlbumJson | None


class MapJson(TypedDict):
    """The link of every uploaded image by its URL, in the order of the request."""

    job_id: JobId
    map: dict[str, Link]
    entries: NotRequired[Entries]


# Events


class BytesJson(TypedDict):
    """Bytes of a job's images so far."""

    downloaded: Count
    uploaded: Annotated[Count, Meta(description="Without images whose link was reused.")]


class ProgressEventJson(SummaryJson, WaitingJson):
    """The data of a `progress` and of a `complete` event."""

    bytes: BytesJson


# Operations


class BudgetJson(TypedDict):
    """One of Imgur's limits; null for numbers that Imgur has not sent."""

    client: Annotated[
        int | None, Meta(description="The number of the client id, from 1; null: all of them.")
    ]
    budget: Name
    limit: Count | None
    remaining: int | None
    resets_at: Moment | None


class QuotaJson(WaitingJson):
    """Imgur's limits, and the images that wait for them."""

    reason: Annotated[str | None, Meta(description="Why uploads wait, for people.")]
    parked: Annotated[Count, Meta(description="Downloaded images that wait for Imgur.")]
    pending: Annotated[Count, Meta(description="Images of all jobs that have not ended.")]
    done_at: Annotated[
        Moment | None, Meta(description="Estimated end of all uploads; null: never.")
    ]
    target: Annotated[str, Meta(description="Where images go: imgur, or s3://BUCKET/PREFIX.")]
    link_base: Annotated[str, Meta(description="All links of new images begin with this.")]
    budgets: list[BudgetJson]


class HealthJson(TypedDict):
    """The process is alive."""

    status: Literal["ok"]


class ReadyJson(TypedDict):
    """Whether the service takes jobs, and why not."""

    status: Literal["ready", "not ready", "stopping"]
    waiting_for: WaitingFor
    reason: str | None
    journal: Annotated[str | None, Meta(description="Why the journal cannot be written.")]
    sandbox: Annotated[str | None, Meta(description="Why the sandbox does not run.")]
    target: Annotated[
        str | None, Meta(description="What an operator should see to although uploads go on.")
    ]


class ProblemJson(TypedDict):
    """An error (RFC 9457): `type` identifies it for programs, `detail` says what to do."""

    type: Annotated[str, Meta(extra_json_schema={"format": "uri"})]
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    instance: NotRequired[
        Annotated[
            str, Meta(description="Identifies the request.", extra_json_schema={"format": "uri"})
        ]
    ]


def utc_text(moment: datetime) -> str:
    """`moment`, which is UTC, to the second, in the format of every response."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
