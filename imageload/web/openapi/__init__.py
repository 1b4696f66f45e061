"""The OpenAPI 3.1 document of the service.

openapi.json has every path, in OpenAPI's own words, with two extensions that are replaced here:
`x-problems` names the problems of an operation (the table is at the end of the file), and
`x-open` marks operations that need no token. The schemas come from the types in use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, is_typeddict

import msgspec

from imageload import schemas
from imageload.settings import VERSION, Settings
from imageload.web.intake import Body
from imageload.web.problems import PROBLEM

_FILE = Path(__file__).with_name("openapi.json")
_BEFORE_REQUEST = ("too-slow", "headers-too-large", "too-many-connections")
_EVERYWHERE = ("unknown-host", "out-of-files", *_BEFORE_REQUEST)
_HEADERS = {
    "401": "WWW-Authenticate",
    "409": "Retry-After",
    "429": "Retry-After",
    "503": "Retry-After",
}
_INSTANCE = "urn:imageload:request:5f0c6d1e0b7a4c39"

Json = dict[str, Any]


def document(settings: Settings, *, wants_token: bool) -> Json:
    """The document for a service with these `settings`; `wants_token`: it requires a token."""
    document: Json = msgspec.json.decode(_FILE.read_bytes())
    document["info"]["version"] = VERSION
    document["components"]["schemas"] = _schemas()
    problems = document.pop("x-problems")
    problems["unknown-job"]["status"] = settings.unknown_job_status
    for path in document["paths"].values():
        for method, operation in path.items():
            slugs = [*operation.pop("x-problems", ()), *_EVERYWHERE]
            is_open = operation.pop("x-open", False)
            operation["security"] = [{"token": []}] if wants_token and not is_open else []
            if operation["security"]:
                slugs.append("unauthorized")
            if method in ("post", "delete"):
                slugs.append("cross-origin")
            _add_problems(operation["responses"], {slug: problems[slug] for slug in slugs})
            for status, response in operation["responses"].items():
                if status not in ("408", "431"):  # sent before the request has an id
                    _add_header(response, "X-Request-ID")
    return document


def _schemas() -> Json:
    types = [Body, *(each for each in vars(schemas).values() if is_typeddict(each))]
    (body, *_), named = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    return {"Body": body, **named}


def _add_problems(responses: Json, problems: Json) -> None:
    """Add to each status in `responses` the problems that have it, an example for each."""
    for slug, problem in problems.items():
        status, title = str(problem["status"]), problem["title"]
        response = responses.setdefault(status, {"description": "", "content": {}})
        content = response["content"].setdefault(
            "application/problem+json",
            {"schema": {"$ref": "#/components/schemas/ProblemJson"}, "examples": {}},
        )
        value = {"type": PROBLEM + slug, **problem}
        if slug not in _BEFORE_REQUEST:
            value["instance"] = _INSTANCE
        content["examples"][slug] = {"summary": title, "value": value}
        response["description"] = f"{response['description']} {title}.".strip()
        if status in _HEADERS:
            _add_header(response, _HEADERS[status])


def _add_header(response: Json, name: str) -> None:
    response.setdefault("headers", {})[name] = {"$ref": f"#/components/headers/{name}"}
