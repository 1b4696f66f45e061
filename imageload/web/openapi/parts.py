"""What the operations of the OpenAPI document share: parameters, headers, bodies, examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from imageload.web.openapi.examples import BODIES, JOB, URLS

SCHEMA = "#/components/schemas/{name}"
REQUEST_ID = {"$ref": "#/components/headers/X-Request-ID"}

Responses = dict[str, dict[str, Any]]

TAGS = [
    {"name": "jobs", "description": "Lists of URLs, and what becomes of them."},
    {"name": "links", "description": "What has landed."},
    {"name": "events", "description": "What happens, as it happens (server-sent events)."},
    {"name": "operating", "description": "How the service is, and what Imgur still allows."},
    {"name": "pages", "description": "For people, and this document."},
]

HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {
        "description": "The request's name, in the log too. One that the client sends is kept.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
    },
    "Retry-After": {
        "description": "Seconds after which to come back.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "ETag": {
        "description": "The version of what is answered: for If-None-Match.",
        "schema": {"type": "string"},
    },
    "Location": {
        "description": "Where the job's status is, if there is one job.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Idempotency-Replayed": {
        "description": "true: this is the answer that an earlier request with the key got.",
        "schema": {"const": "true"},
    },
    "Link": {
        "description": 'Where the next page is (RFC 8288): `<...>; rel="next"`.',
        "schema": {"type": "string"},
    },
    "Preference-Applied": {
        "description": "That the wait was granted, and its length.",
        "schema": {"type": "string", "examples": ["wait=20"]},
    },
    "Content-Disposition": {
        "description": "Of CSV: the name of a file to save it in.",
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {
        "description": "That a bearer token is wanted, or that the one shown is not known.",
        "schema": {"type": "string", "examples": ['Bearer realm="imageload"']},
    },
}


def parameter(where: str, name: str, description: str, **schema: Any) -> dict[str, Any]:
    """A parameter that stands in the path, the query or the head; one in the path must be there."""
    is_path = {"required": True} if where == "path" else {}
    return {"in": where, "name": name, "description": description, **is_path, "schema": schema}


PARAMETERS: dict[str, dict[str, Any]] = {
    "job_id": {
        **parameter("path", "job_id", "A jobId that a POST has answered.", type="string"),
        "example": JOB,
    },
    "limit": parameter(
        "query",
        "limit",
        "How many jobs a page has.",
        type="integer",
        minimum=1,
        maximum=1_000,
        default=100,
    ),
    "limit_images": parameter(
        "query",
        "limit",
        "How many images a page has.",
        type="integer",
        minimum=1,
        maximum=10_000,
        default=1_000,
    ),
    "limit_links": parameter(
        "query",
        "limit",
        "How many links a page has; without it there is one page with all.",
        type="integer",
        minimum=1,
        maximum=100_000,
    ),
    "If-None-Match": parameter(
        "header", "If-None-Match", "An ETag: 304 if nothing is new since then.", type="string"
    ),
    "Prefer": {
        **parameter(
            "header",
            "Prefer",
            "`wait=N` (RFC 7240): hold the answer until the job is another "
            "than the If-None-Match says, or than it is now; at most N seconds.",
            type="string",
        ),
        "examples": {"now": {"value": "wait=0"}, "held": {"value": "wait=20"}},
    },
    "Last-Event-ID": parameter(
        "header",
        "Last-Event-ID",
        "The id of the last event that was heard: go on behind it.",
        type="string",
    ),
    "Idempotency-Key": parameter(
        "header",
        "Idempotency-Key",
        "Any word of your own: the same POST sent again with it makes no second job.",
        type="string",
        pattern="^[!-~]{1,255}$",
    ),
}


def refs(kind: str, *names: str) -> list[dict[str, str]]:
    """Where the components of these names are."""
    return [{"$ref": f"#/components/{kind}/{name}"} for name in names]


def headers(*names: str) -> dict[str, dict[str, str]]:
    """A response's headers of these names."""
    return dict(zip(names, refs("headers", *names), strict=True))


JOB_ID = refs("parameters", "job_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. `problems` are the slugs of those that not every operation has."""

    path: str
    method: str
    name: str
    tag: str
    summary: str
    description: str = ""
    parameters: list[dict[str, Any]] = field(default_factory=list)
    body: dict[str, Any] | None = None
    responses: Responses
    callbacks: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    is_open: bool = False
    """Answered without a token too."""


def json_of(shape: Any, description: str, **examples: Any) -> dict[str, Any]:
    """A response that is JSON of this shape."""
    content: dict[str, Any] = {"schema": {"$ref": SCHEMA.format(name=shape.__name__)}}
    if examples:
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"description": description, "content": {"application/json": content}}


def text_of(media_type: str, description: str, example: str | None = None) -> dict[str, Any]:
    """A response that is text of another type."""
    content: dict[str, Any] = {"schema": {"type": "string"}}
    if example is not None:
        content["example"] = example
    return {"description": description, "content": {media_type: content}}


def stream_of(description: str, example: str) -> dict[str, Any]:
    """A response that is an event stream; OpenAPI 3.1 has no schema for its events."""
    content = {"text/event-stream": {"schema": {}, "example": example}}
    return {"description": description, "content": content}


NOT_MODIFIED = {"description": "Nothing is new.", "headers": headers("ETag")}
HELD_NOT_MODIFIED = {**NOT_MODIFIED, "headers": headers("ETag", "Preference-Applied")}
BODY = {
    "required": True,
    "description": "JSON is taken with any content type but text/plain; curl -d sends a form's.",
    "content": {
        "application/json": {
            "schema": {"$ref": SCHEMA.format(name="Body")},
            "examples": BODIES,
        },
        "text/plain": {
            "schema": {
                "type": "string",
                "pattern": "[^\\s,]",
                "description": "URLs, parted by newlines, or by commas before the next URL.",
            },
            "example": "\n".join(URLS),
        },
    },
}


def links_to_job() -> dict[str, Any]:
    """Where a jobId that was just made leads."""
    names = ("getStatus", "getImages", "getMap", "getEvents", "retryImages", "endJob")
    parameters = {"job_id": "$response.body#/jobId/0"}
    return {name: {"operationId": name, "parameters": parameters} for name in names}
