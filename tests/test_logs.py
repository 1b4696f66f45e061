"""Tests of web.logs: lines as text and as JSON."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from imageload.web.logs import JsonFormatter, TextFormatter
from tests.service import ServiceProcess
from tests.wire import Wire


def line_of(template: str, *args: object, **extra: Any) -> dict[str, Any]:
    record = logging.LogRecord("a.b", logging.WARNING, "f", 1, template, args, None)
    vars(record).update(extra)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_named_values_are_json_keys() -> None:
    line = line_of("failed job=%s code=%s in %.1f s, %d%% of images=%d", "a b", "dns", 1.5, 7, 3)
    assert line["message"] == "failed job=a b code=dns in 1.5 s, 7% of images=3"
    assert {name: line[name] for name in ("job", "code", "images")} == {
        "job": "a b",
        "code": "dns",
        "images": 3,
    }
    assert (line["level"], line["logger"]) == ("WARNING", "a.b")


def test_a_line_never_breaks() -> None:
    line = line_of("reason=%s", ValueError('a\n"b" \ud800'.encode("utf-8", "replace").decode()))
    assert line["reason"].startswith('a\n"b"')
    assert line_of("no argument %s")["message"] == "no argument %s"


def test_a_name_never_replaces_a_standard_field() -> None:
    assert line_of("level=%s message=%s", "x", "y")["level"] == "WARNING"


def test_the_request_and_a_traceback_are_json_keys() -> None:
    try:
        raise RuntimeError("lost")
    except RuntimeError:
        line = line_of("it broke", request=" request=abc", exc_info=sys.exc_info())
    assert line["request"] == "abc"
    assert line["exception"].endswith("RuntimeError: lost")


def test_the_service_logs_json_with_the_option() -> None:
    service = ServiceProcess("--port=0", "--log-format=json", environment={"IMGUR_CLIENT_ID": "x"})
    try:
        answer = service.post(json=["ftp://no.example/"], headers={"X-Request-ID": "mine"})
        (job_id,) = answer.json()["jobId"]
        service.finish(job_id)
    finally:
        service.stop()
    lines = [json.loads(line) for line in service.log]
    (accepted,) = [line for line in lines if line["message"].startswith("accepted")]
    assert (accepted["job"], accepted["urls"], accepted["request"]) == (job_id, 1, "mine")
    (failed,) = [line for line in lines if line["message"].startswith("failed")]
    assert (failed["job"], failed["code"]) == (job_id, "invalid_url")


HOSTILE = "a\r\nb\x1b[31m\x85c\x9b2J\u2028d\u202ee\u2066f\x7f"
"""A new line, an escape sequence, C1 controls, a line separator, marks of direction."""
ESCAPED = r"a\r\nb\x1b[31m\x85c\x9b2J\u2028d\u202ee\u2066f\x7f"


def test_unprintable_characters_are_escaped_in_text() -> None:
    record = logging.LogRecord("a.b", logging.WARNING, "f", 1, "reason=%s", (HOSTILE,), None)
    assert TextFormatter("%(levelname)s %(message)s").format(record) == f"WARNING reason={ESCAPED}"


def test_unprintable_characters_are_escaped_in_a_traceback() -> None:
    try:
        raise RuntimeError(HOSTILE)
    except RuntimeError:
        record = logging.LogRecord("a.b", logging.ERROR, "f", 1, "it broke", (), sys.exc_info())
    line, *traceback = TextFormatter("%(message)s").format(record).split("\n")
    assert line == "it broke"
    assert all(part.isprintable() for part in traceback)


def test_unprintable_characters_are_escaped_in_json_and_kept() -> None:
    record = logging.LogRecord("a.b", logging.WARNING, "f", 1, "reason=%s", (HOSTILE,), None)
    text = JsonFormatter().format(record)
    assert text.isprintable()
    assert json.loads(text)["reason"] == HOSTILE


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_a_client_sends_is_escaped_in_the_log(log_format: str) -> None:
    hostile = "/\x85\x9b2J%0aWARNING".encode("latin-1") + "\u202e\u2028".encode()
    service = ServiceProcess(
        "--port=0", f"--log-format={log_format}", environment={"IMGUR_CLIENT_ID": "x"}
    )
    try:
        with Wire(service.url) as wire:
            wire.send(b"GET " + hostile + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert wire.answer().status == 404
        answer = service.post(json=["ftp://a.example/\x85\u202e"])
        service.finish(answer.json()["jobId"][0])
    finally:
        service.stop()
    assert [line for line in service.log if not line.removesuffix("\n").isprintable()] == []
    assert [line for line in service.log if " 404 " in line]
