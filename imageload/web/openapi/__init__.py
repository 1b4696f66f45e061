"""The OpenAPI 3.1 document: what is said of every path, and all that it refers to.

Schemas are drawn from the types that check requests and fill answers, problems from the errors that
become them, so neither can say what the service does not do.
"""

from __future__ import annotations

from typing import Any

import msgspec

from imageload.schemas import (
    AcceptedJson,
    CalledJson,
    CancelJson,
    HealthJson,
    ImageEventJson,
    ImagesJson,
    JobsJson,
    LinksJson,
    MapJson,
    ProblemJson,
    ProgressEventJson,
    QuotaJson,
    ReadyJson,
    RequeuedJson,
    StatusJson,
)
from imageload.settings import VERSION, Config
from imageload.web.lists import Body
from imageload.web.openapi.parts import (
    HEADERS,
    PARAMETERS,
    REQUEST_ID,
    SCHEMA,
    TAGS,
    Operation,
    Responses,
)
from imageload.web.openapi.paths import operations
from imageload.web.openapi.problems import problem_responses

_SHAPES = (
    Body,
    AcceptedJson,
    CalledJson,
    CancelJson,
    HealthJson,
    ImageEventJson,
    ImagesJson,
    JobsJson,
    LinksJson,
    MapJson,
    ProblemJson,
    ProgressEventJson,
    QuotaJson,
    ReadyJson,
    RequeuedJson,
    StatusJson,
)
_ABOUT = """\
POST a list of image URLs, follow the job, take the links.

Whatever can be asked with GET can be asked with HEAD, and every path answers OPTIONS. Errors are
problem documents (RFC 9457): `type` is for programs, `detail` says what to do. Every answer to a
request that was read has an `X-Request-ID`. Keys that are not described may be added to answers,
and should be ignored."""


def document(config: Config, *, wants_token: bool) -> dict[str, Any]:
    """The document of a service with this `config`; `wants_token`: it has tokens."""
    (body, *_), schemas = msgspec.json.schema_components(_SHAPES, ref_template=SCHEMA)
    paths: dict[str, dict[str, Any]] = {}
    for each in operations():
        paths.setdefault(each.path, {})[each.method] = _operation(each, config, wants_token)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "imageload",
            "version": VERSION,
            "summary": "Put a list of image URLs on Imgur.",
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": TAGS,
        "paths": paths,
        "components": {
            "schemas": {"Body": body, **schemas},
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "One of --api-token or --api-token-file.",
                }
            },
        },
    }


def _operation(of: Operation, config: Config, wants_token: bool) -> dict[str, Any]:
    slugs = [*of.problems, "unknown-host", "too-slow", "too-many-connections", "out-of-files"]
    if wants_token and not of.is_open:
        slugs.append("unauthorized")
    if of.method in ("post", "delete"):
        slugs.append("cross-origin")
    responses: Responses = dict(of.responses)
    for status, problem in problem_responses(slugs, config.unknown_job_status).items():
        own = responses.get(status, {})
        sentences = [each["description"] for each in (own, problem) if "description" in each]
        content = {**own.get("content", {}), **problem["content"]}
        responses[status] = {**problem, "description": " ".join(sentences), "content": content}
    for status, response in responses.items():
        if status != "408":  # sent before the request was read
            named = {**response.get("headers", {}), "X-Request-ID": REQUEST_ID}
            responses[status] = {**response, "headers": named}
    value: dict[str, Any] = {
        "operationId": of.name,
        "tags": [of.tag],
        "summary": of.summary,
        "description": of.description,
        "parameters": of.parameters,
        "responses": dict(sorted(responses.items())),
        "security": [{"token": []}] if wants_token and not of.is_open else [],
    }
    if of.body is not None:
        value["requestBody"] = of.body
    if of.callbacks:
        value["callbacks"] = of.callbacks
    return value
