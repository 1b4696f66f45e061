"""The problems as the OpenAPI document shows them: one answer a status, an example each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from imageload import errors
from imageload.web.changes import TooManyStreams
from imageload.web.openapi.parts import headers
from imageload.web.problems import PROBLEM

_Problem = tuple[int, str, str]
"""Status, title, and the sentence of the example."""

_CLASSES: tuple[tuple[type[errors.Refused], str], ...] = (
    (errors.BadRequest, "limit is a whole number from 1 to 1,000."),
    (errors.Unauthorized, "This service wants a token: send Authorization: Bearer <token>."),
    (errors.CrossOrigin, "A page of another site sent this."),
    (errors.JobBusy, "The job is being purged. Try again when that is over."),
    (errors.TooMany, "A job may have 100,000 URLs; this has 123,456. Send several lists."),
    (errors.UnknownHost, "This service does not answer to the name evil.example."),
    (errors.KeyReused, "This Idempotency-Key came with another body before. Make a new."),
    (errors.BacklogFull, "1,000 jobs wait already. Try again in a while."),
    (errors.OutOfRoom, "The service holds too many requests. Try again soon."),
    (errors.OutOfFiles, "The service may open no more files for now. Ask again in a while."),
    (errors.OutOfThreads, "The system gives the service no thread. Try again in a while."),
    (errors.JournalUnavailable, "The journal cannot be written: the disk is full."),
    (errors.ShuttingDown, "The service is stopping. Send this again later."),
    (TooManyStreams, "100 event streams are open already. Try again in a while."),
)
_PROBLEMS: dict[str, _Problem] = {
    "not-found": (404, "Not Found", "There is nothing at this path; the README lists what is."),
    "too-slow": (408, "Too slow", "The request did not come in time. Send it again."),
    "too-many-connections": (
        503,
        "Too many connections",
        "Every connection that the service may have is at work. Try again in a while.",
    ),
    **{each.slug: (each.status, each.title, detail) for each, detail in _CLASSES},
}
_COMES_BACK = frozenset({409, 429, 503})
_NAMELESS = frozenset({"too-slow", "too-many-connections"})
"""Answered before a request was read."""


def problem_responses(slugs: Iterable[str], unknown_job_status: int) -> dict[str, dict[str, Any]]:
    """For each status of these problems the answer that has them."""
    unknown = unknown_job_status, "Unknown job", "There is no job with this jobId."
    problems = {**_PROBLEMS, "unknown-job": unknown}
    responses: dict[str, dict[str, Any]] = {}
    for slug in slugs:
        status, title, detail = problems[slug]
        response = responses.setdefault(str(status), _response(status))
        content = response["content"]["application/problem+json"]
        content["examples"][slug] = {"summary": title, "value": _value(slug, status, title, detail)}
    for response in responses.values():
        examples = response["content"]["application/problem+json"]["examples"].values()
        response["description"] = "; ".join(example["summary"] for example in examples) + "."
    return responses


def _response(status: int) -> dict[str, Any]:
    content = {"schema": {"$ref": "#/components/schemas/ProblemJson"}, "examples": {}}
    response: dict[str, Any] = {"content": {"application/problem+json": content}}
    if status in _COMES_BACK:
        response["headers"] = headers("Retry-After")
    elif status == errors.Unauthorized.status:
        response["headers"] = headers("WWW-Authenticate")
    return response


def _value(slug: str, status: int, title: str, detail: str) -> dict[str, Any]:
    problem = {"type": PROBLEM + slug, "title": title, "status": status, "detail": detail}
    if slug in _NAMELESS:
        return problem
    return {**problem, "instance": "urn:imageload:request:5f0c6d1e0b7a4c39"}
