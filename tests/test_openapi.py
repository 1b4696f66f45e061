"""Tests of /openapi.json: it describes every route, and responses match it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from imageload.errors import REFUSALS
from imageload.image import State
from imageload.settings import Settings
from imageload.web.intake import read_orders
from imageload.web.openapi import document
from main import ROUTES
from tests.service import RunningService, ServiceProcess

CONFIG = Path(__file__).parent / "schemathesis.toml"
TOKEN = "a-token-of-a-test"

# Not described, for they are HTTP's own, or for browsers.
USUAL_HEADERS = {
    "cache-control",
    "content-length",
    "content-type",
    "cross-origin-resource-policy",
    "date",
    "vary",
    "x-content-type-options",
}


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """The document of a service with the usual options."""
    return document(Settings(), wants_token=False)


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(path, method, operation) of all that there are."""
    for path, item in described["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def test_every_method_of_every_route_is_described_and_nothing_else(
    described: dict[str, Any],
) -> None:
    # A slash at the end is another spelling, and every path has HEAD and OPTIONS.
    there = {
        (path.rstrip("/") or "/", method.lower())
        for path, handler in ROUTES
        for method in ("GET", "POST", "DELETE")
        if method.lower() in {name for each in handler.__mro__[:-1] for name in own(each)}
    }
    assert {(path, method) for path, method, _ in operations(described)} == there


def own(handler: type) -> set[str]:
    """The methods that this class defines; Tornado's own refuse all."""
    return set() if handler.__module__.startswith("tornado") else set(vars(handler))


def test_it_is_a_valid_document_of_openapi_3_1(described: dict[str, Any]) -> None:
    import openapi_spec_validator  # which takes as long as all other imports of this module

    assert described["openapi"] == "3.1.0"
    openapi_spec_validator.validate(described)


def test_every_example_fits_its_schema(described: dict[str, Any]) -> None:
    seen = 0
    for schema, value in examples(described):
        # The schema may refer to the document's components.
        whole = {**schema, "components": described["components"]}
        validator_for(whole, Draft202012Validator)(whole).validate(value)
        seen += 1
    assert seen > 50


def examples(part: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """(schema, example) of every media type and parameter within `part`."""
    if isinstance(part, list):
        for each in part:
            yield from examples(each)
    elif isinstance(part, dict):
        if isinstance(part.get("schema"), dict):
            found = part.get("examples", {})
            yield from ((part["schema"], example["value"]) for example in found.values())
            if "example" in part:
                yield part["schema"], part["example"]
        for each in part.values():
            yield from examples(each)


def test_every_response_with_content_but_a_file_has_an_example(described: dict[str, Any]) -> None:
    for path, method, operation in operations(described):
        for status, response in operation["responses"].items():
            content = response.get("content", {})
            if operation["tags"] != ["pages"] or int(status) >= 400:
                assert not content or list(examples(content)), (path, method, status)


def test_every_problem_is_described() -> None:
    text = json.dumps(document(Settings(), wants_token=True))
    found = re.findall(
        r'urn:imageload:problem:([a-z-]+)", "status": (\d+), "title": "([^"]+)"', text
    )
    others = {
        "not-found",
        "too-slow",
        "headers-too-large",
        "too-many-connections",
    }
    shown = {each for each in found if each[0] not in others}
    assert shown == {(slug, str(row.status), row.title) for slug, row in REFUSALS.items()}


def test_the_states_of_an_image_are_those_of_a_job(described: dict[str, Any]) -> None:
    parameters = described["paths"]["/v1/images/upload/{job_id}/images"]["get"]["parameters"]
    (state,) = [each for each in parameters if each.get("name") == "state"]
    assert state["schema"]["enum"] == [*get_args(State)]


def test_an_unknown_job_has_the_status_of_the_option() -> None:
    chosen = document(Settings(unknown_job_status=404), wants_token=False)
    responses = chosen["paths"]["/v1/images/upload/{job_id}"]["get"]["responses"]
    assert "404" in responses
    assert "505" not in responses


def test_a_status_with_two_meanings_is_described_with_both(described: dict[str, Any]) -> None:
    not_ready = described["paths"]["/readyz"]["get"]["responses"]["503"]
    assert set(not_ready["content"]) == {"application/json", "application/problem+json"}


def problems(response: dict[str, Any]) -> set[str]:
    """The problems of this response, without those of all requests."""
    content = response["content"]["application/problem+json"]
    return {*content["examples"]} - {"too-many-connections", "out-of-files"}


def test_each_method_has_its_problems_and_no_others(
    described: dict[str, Any],
) -> None:
    paths = described["paths"]
    job, events = "/v1/images/upload/{job_id}", {"too-many-streams", "shutting-down"}
    busy = {"out-of-room", "shutting-down"}
    assert "429" not in paths[job]["delete"]["responses"], "a full backlog keeps no cancel waiting"
    assert problems(paths[job]["delete"]["responses"]["503"]) == busy
    assert problems(paths[f"{job}/retry"]["post"]["responses"]["503"]) == busy
    assert problems(paths[f"{job}/events"]["get"]["responses"]["503"]) == events
    assert problems(paths["/v1/events"]["get"]["responses"]["503"]) == events


def test_the_pattern_of_a_callback_allows_ports_and_queries(described: dict[str, Any]) -> None:
    whole = {"$ref": "#/components/schemas/Body", "components": described["components"]}
    for callback in ("http://app.example:12345/told", "https://app.example?key=1"):
        body = {"urls": ["http://a.example/"], "callback": callback}
        Draft202012Validator(whole).validate(body)
        read_orders(json.dumps(body).encode(), "", max_urls=1, max_lists=1)


def test_the_headers_of_answers_are_described(
    service: RunningService, described: dict[str, Any]
) -> None:
    job_id = service.submit(["ftp://no.example/"])
    service.finish(job_id)
    path = "/v1/images/upload/{job_id}"
    here = path.format(job_id=job_id)
    tag = service.get(here).headers["ETag"]
    for of, answer in (
        (path, service.get(here, headers={"Prefer": "wait=1"})),
        (path, service.get(here, headers={"If-None-Match": tag, "Prefer": "wait=1"})),
        (f"{path}/map", service.get(f"{here}/map?format=csv")),
        (f"{path}/images", service.get(f"{here}/images")),
    ):
        response = described["paths"][of]["get"]["responses"][str(answer.status_code)]
        there = {name.lower() for name in response["headers"]} | USUAL_HEADERS
        assert {name.lower() for name in answer.headers} <= there, (of, answer.status_code)


def test_the_challenge_for_a_token_is_described() -> None:
    for _, _, operation in operations(document(Settings(), wants_token=True)):
        if operation["security"]:
            assert "WWW-Authenticate" in operation["responses"]["401"]["headers"]


def test_operations_require_a_token_if_the_service_has_tokens() -> None:
    with_tokens = document(Settings(), wants_token=True)
    wanted = {
        (path, method): bool(operation["security"])
        for path, method, operation in operations(with_tokens)
    }
    assert wanted["/v1/images/upload", "post"]
    assert not wanted["/healthz", "get"]
    for path, method, operation in operations(with_tokens):
        assert ("401" in operation["responses"]) == wanted[path, method]


def test_the_document_needs_no_token(service: RunningService) -> None:
    answer = service.get("/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["info"]["title"] == "imageload"


@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    service = ServiceProcess(
        "--port=0",
        "--sandbox-port=0",
        f"--sandbox-dir={tmp_path / 'sandbox'}",
        f"--temp-dir={tmp_path}",
        "--deny-origin=0.0.0.0/0,::/0",
        f"--store={tmp_path / 'journal'}",
        environment={"IMAGELOAD_API_TOKEN": TOKEN},
    )
    try:
        asked = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", f"--config-file={CONFIG}", "run"),
                f"{service.url}/openapi.json",
                *("--header", f"Authorization: Bearer {TOKEN}"),
            ],
            cwd=tmp_path,
            env={**os.environ, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        assert service.stop() == 0, "".join(service.log)
    assert asked.returncode == 0, asked.stdout[-5_000:] + asked.stderr[-1_000:]
    assert int(re.findall(r"(\d+) passed", asked.stdout)[-1]) > 300, asked.stdout
    assert not [line for line in service.log if " ERROR " in line or "Traceback" in line]
