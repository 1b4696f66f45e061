"""What the OpenAPI document says of each path and method."""

from __future__ import annotations

from typing import Any, get_args

from imageload.job import State
from imageload.schemas import (
    AcceptedJson,
    CancelJson,
    HealthJson,
    ImagesJson,
    LinksJson,
    MapJson,
    QuotaJson,
    ReadyJson,
    RequeuedJson,
    StatusJson,
)
from imageload.web.openapi.examples import (
    ALBUM,
    CALLED,
    FAILED_IMAGE,
    GOES_ON,
    IMAGE,
    JOB,
    JOBS_STREAM,
    LINK,
    NOT_READY,
    QUOTA,
    READY,
    STATUS,
    STREAM,
    SUMMARY,
    URLS,
)
from imageload.web.openapi.parts import (
    BODY,
    HELD_NOT_MODIFIED,
    JOB_ID,
    NOT_MODIFIED,
    SCHEMA,
    Operation,
    headers,
    json_of,
    links_to_job,
    parameter,
    refs,
    stream_of,
    text_of,
)

_SIGNED = {
    "webhook-id": "The same for each time that this end of the job is told.",
    "webhook-timestamp": "Seconds since 1970, of this time.",
    "webhook-signature": "Where there is a --callback-secret.",
}
# What a service is sent that asked for it: a request of ours, to it.
_TOLD: dict[str, Any] = {
    "operationId": "jobComplete",
    "summary": "A job has ended.",
    "description": "As Standard Webhooks have it. Sent again, four times in all, where the answer "
    "is 408, 425, 429 or 5xx, or there is none; so perhaps more than once.",
    "parameters": [parameter("header", *each, type="string") for each in _SIGNED.items()],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": SCHEMA.format(name="CalledJson")},
                "examples": {"complete": {"value": CALLED}},
            }
        },
    },
    "responses": {"2XX": {"description": "It was heard."}},
}
# What may keep the service from doing what it is asked, whatever that is.
_BUSY = ("too-large", "out-of-room", "shutting-down")


def operations() -> list[Operation]:
    """Every method of every path, in the order in which they are shown."""
    return [*_jobs(), *_acting(), *_links(), *_events(), *_operating(), *_pages()]


def _jobs() -> list[Operation]:
    held = refs("parameters", "Prefer", "If-None-Match")
    job_id_query = parameter("query", "jobId", "Answer this job's status.", type="string")
    after_job = parameter("query", "after", "The last jobId of the page before.", type="string")
    after_image = parameter(
        "query",
        "after",
        "The number of the last image of the page before.",
        type="integer",
        minimum=1,
        maximum=999_999_999,
    )
    state = parameter("query", "state", "Only images in this state.", enum=[*get_args(State)])
    return [
        Operation(
            path="/v1/images/upload",
            method="post",
            name="postUrls",
            tag="jobs",
            summary="Upload images by their URLs.",
            description="Accepts a job for each list, all or none, and works in the background. "
            "An entry that cannot be fetched refuses nothing: it ends in its job's failed list.",
            parameters=refs("parameters", "Idempotency-Key"),
            body=BODY,
            callbacks={"jobComplete": {"{$request.body#/callback}": {"post": _TOLD}}},
            responses={
                "202": {
                    **json_of(AcceptedJson, "The jobs are on their way.", one={"jobId": [JOB]}),
                    "headers": headers("Location", "Idempotency-Replayed"),
                    "links": links_to_job(),
                }
            },
            problems=(
                "bad-request",
                "key-reused",
                "backlog-full",
                "out-of-threads",
                "journal-unavailable",
                *_BUSY,
            ),
        ),
        Operation(
            path="/v1/images/upload",
            method="get",
            name="listJobs",
            tag="jobs",
            summary="The jobs, newest first; or, with jobId, one job's status.",
            parameters=[job_id_query, *refs("parameters", "limit"), after_job, *held],
            responses={
                "200": {
                    "description": "A page of jobs, or the status.",
                    "headers": headers("ETag", "Link", "Preference-Applied"),
                    "content": {
                        "application/json": {
                            "schema": {
                                "anyOf": [
                                    {"$ref": SCHEMA.format(name="JobsJson")},
                                    {"$ref": SCHEMA.format(name="StatusJson")},
                                ]
                            },
                            "examples": {
                                "jobs": {"value": {"jobs": [SUMMARY]}},
                                "status": {"value": STATUS},
                            },
                        }
                    },
                },
                "304": HELD_NOT_MODIFIED,
            },
            problems=("bad-request", "unknown-job"),
        ),
        Operation(
            path="/v1/images/upload/{job_id}",
            method="get",
            name="getStatus",
            tag="jobs",
            summary="Where every URL of the job is.",
            description="Each URL is in exactly one of the three lists, at every moment.",
            parameters=[*JOB_ID, *held],
            responses={
                "200": {
                    **json_of(StatusJson, "The job.", running=STATUS),
                    "headers": headers("ETag", "Preference-Applied"),
                },
                "304": HELD_NOT_MODIFIED,
            },
            problems=("unknown-job",),
        ),
        Operation(
            path="/v1/images/upload/{job_id}/images",
            method="get",
            name="getImages",
            tag="jobs",
            summary="What became of each image, and why it failed.",
            description="In the order of the input.",
            parameters=[
                *JOB_ID,
                state,
                *refs("parameters", "limit_images"),
                after_image,
                *refs("parameters", "If-None-Match"),
            ],
            responses={
                "200": {
                    **json_of(
                        ImagesJson,
                        "A page of records.",
                        both={"images": [IMAGE, FAILED_IMAGE], "album": ALBUM, **GOES_ON},
                    ),
                    "headers": headers("ETag", "Link"),
                },
                "304": NOT_MODIFIED,
            },
            problems=("bad-request", "unknown-job"),
        ),
    ]


def _acting() -> list[Operation]:
    only = parameter(
        "query", "only", "Only images whose error may pass.", type="string", enum=["transient"]
    )
    purge = parameter(
        "query",
        "purge",
        "Also delete from Imgur what has landed, and the album.",
        type="string",
        enum=["true", "false"],
        default="false",
    )
    return [
        Operation(
            path="/v1/images/upload/{job_id}/retry",
            method="post",
            name="retryImages",
            tag="jobs",
            summary="Try failed images again, in the same job.",
            description="Without only=transient also those that were cancelled or purged.",
            parameters=[*JOB_ID, only],
            responses={
                "202": json_of(
                    RequeuedJson, "They are in line again.", three={"job_id": JOB, "requeued": 3}
                )
            },
            problems=("bad-request", "unknown-job", "job-busy", "backlog-full", *_BUSY),
        ),
        Operation(
            path="/v1/images/upload/{job_id}",
            method="delete",
            name="endJob",
            tag="jobs",
            summary="Cancel what has not ended; with purge=true take back what has landed.",
            description="Answered at once; it is done when the job is finished. Done twice, it "
            "does the same.",
            parameters=[*JOB_ID, purge],
            responses={
                "202": json_of(
                    CancelJson,
                    "How many images that concerns.",
                    purged={"job_id": JOB, "cancelled": 0, "purging": 200},
                )
            },
            problems=("bad-request", "unknown-job", *_BUSY),
        ),
    ]


def _links() -> list[Operation]:
    after = parameter(
        "query",
        "after",
        "What the page before says in its Link: a jobId, and the number of an image.",
        type="string",
        pattern="^[0-9a-f-]{36}:[0-9]{1,9}$",
    )
    as_csv = text_of("text/csv", "", f"url,link\r\n{URLS[0]},{LINK}\r\n")
    as_json = json_of(
        MapJson, "What has landed so far.", one={"job_id": JOB, "map": {URLS[0]: LINK}}
    )
    return [
        Operation(
            path="/v1/images",
            method="get",
            name="listLinks",
            tag="links",
            summary="Every link of every job, those of the oldest job first.",
            parameters=[*refs("parameters", "limit_links"), after],
            responses={
                "200": {
                    **json_of(LinksJson, "The links.", one={"uploaded": [LINK]}),
                    "headers": headers("Link"),
                }
            },
            problems=("bad-request", "unknown-job", "journal-unavailable"),
        ),
        Operation(
            path="/v1/images/upload/{job_id}/map",
            method="get",
            name="getMap",
            tag="links",
            summary="From every old URL to its new link.",
            description="JSON; CSV (RFC 4180) by format=csv, or an Accept that prefers text/csv.",
            parameters=[
                *JOB_ID,
                parameter("query", "format", "Beats Accept.", type="string", enum=["json", "csv"]),
            ],
            responses={
                "200": {
                    **as_json,
                    "headers": headers("Content-Disposition"),
                    "content": {**as_json["content"], **as_csv["content"]},
                }
            },
            problems=("bad-request", "unknown-job"),
        ),
    ]


def _events() -> list[Operation]:
    went_on = refs("parameters", "Last-Event-ID")
    return [
        Operation(
            path="/v1/images/upload/{job_id}/events",
            method="get",
            name="getEvents",
            tag="events",
            summary="The job as it happens.",
            description="`image` (ImageEventJson) for each image that ends, `progress` "
            "(ProgressEventJson) at most ten times a second, `complete` (the same) at the end; "
            "then the stream closes. `shutdown` where the service stops before that.",
            parameters=[*JOB_ID, *went_on],
            responses={
                "200": stream_of("Events, until the job is finished.", STREAM),
                "204": {"description": "The Last-Event-ID was the last: no need to come back."},
            },
            problems=("unknown-job", "too-many-streams", "shutting-down"),
        ),
        Operation(
            path="/v1/events",
            method="get",
            name="listEvents",
            tag="events",
            summary="All jobs as they come along.",
            description="A `job` event (WaitingSummaryJson) when a job is accepted, when it has "
            "changed, at most twice a second, and when it is finished. The stream does not end.",
            parameters=went_on,
            responses={"200": stream_of("Events.", JOBS_STREAM)},
            problems=("too-many-streams", "shutting-down"),
        ),
    ]


def _operating() -> list[Operation]:
    text = 'imageload_images_total{code="",state="completed"} 2.0\n'
    metrics = text_of("text/plain", "Counts, times and levels.", text)
    metrics["content"]["application/openmetrics-text"] = {"schema": {"type": "string"}}
    return [
        Operation(
            path="/v1/quota",
            method="get",
            name="getQuota",
            tag="operating",
            summary="What Imgur still allows, what waits for it, and when all will be done.",
            responses={"200": json_of(QuotaJson, "As things stand.", waiting=QUOTA)},
        ),
        Operation(
            path="/healthz",
            method="get",
            name="getHealth",
            tag="operating",
            summary="That the process answers.",
            responses={"200": json_of(HealthJson, "It does.", ok={"status": "ok"})},
            is_open=True,
        ),
        Operation(
            path="/readyz",
            method="get",
            name="getReadiness",
            tag="operating",
            summary="Whether to send work.",
            responses={
                "200": json_of(ReadyJson, "Uploads go through, now or after a wait.", ready=READY),
                "503": json_of(ReadyJson, "It stops, or somebody must act.", refused=NOT_READY),
            },
            is_open=True,
        ),
        Operation(
            path="/metrics",
            method="get",
            name="getMetrics",
            tag="operating",
            summary="A scrape for Prometheus.",
            description="OpenMetrics where Accept asks for it.",
            responses={"200": metrics},
        ),
    ]


def _pages() -> list[Operation]:
    file = parameter("path", "file", "Its name.", type="string")
    some_file: dict[str, Any] = {"schema": {}}
    return [
        Operation(
            path="/",
            method="get",
            name="getPage",
            tag="pages",
            summary="The web page: paste URLs, press Upload, watch, take the links.",
            responses={"200": text_of("text/html", "The page.")},
            is_open=True,
        ),
        Operation(
            path="/page/{file}",
            method="get",
            name="getPageFile",
            tag="pages",
            summary="A script, a style sheet or a picture of the pages.",
            parameters=[{**file, "example": "page.js"}],
            responses={
                "200": {
                    "description": "The file.",
                    "content": {
                        "text/javascript": some_file,
                        "text/css": some_file,
                        "image/svg+xml": some_file,
                    },
                }
            },
            problems=("not-found",),
            is_open=True,
        ),
        Operation(
            path="/docs",
            method="get",
            name="getDocs",
            tag="pages",
            summary="This document, to read and to try.",
            responses={"200": text_of("text/html", "The page.")},
            is_open=True,
        ),
        Operation(
            path="/openapi.json",
            method="get",
            name="getOpenApi",
            tag="pages",
            summary="This document, for programs.",
            responses={
                "200": {
                    "description": "OpenAPI 3.1.",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                }
            },
            is_open=True,
        ),
    ]
