"""URLs copied from the source of a page, where & is written as &amp;."""

from __future__ import annotations

import socket

import pytest

from tests.origin import IMAGES, Origin, answer
from tests.service import RunningService

PNG = (IMAGES / "png-rgb.png").read_bytes()


def signed(origin: Origin, *, entities: bool, status: str = "403 Forbidden") -> None:
    """Let `/signed` serve an image only if its query is written so."""

    def page(connection: socket.socket) -> None:
        is_escaped = "&amp;" in origin.heads[-1].split()[1]
        (answer(PNG) if is_escaped == entities else answer(b"no", status))(connection)

    origin.page("/signed", page)


def test_an_escaped_url_that_fails_is_fetched_without_its_entities(
    service: RunningService, origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    signed(origin, entities=False)
    url = f"{origin.url}/signed?a=1&amp;b=2&amp;c=3"
    job_id = service.submit([url])
    assert len(service.finish(job_id)["uploaded"]["completed"]) == 1
    assert service.records(job_id)[url]["state"] == "completed"
    assert [*origin.requests] == ["/signed?a=1&amp;b=2&amp;c=3", "/signed?a=1&b=2&c=3"]
    assert "downloaded with & in place of &amp;" in caplog.text


def test_an_escaped_url_that_works_is_fetched_as_it_is(
    service: RunningService, origin: Origin
) -> None:
    signed(origin, entities=True)
    job_id = service.submit([f"{origin.url}/signed?a=1&amp;b=2"])
    assert len(service.finish(job_id)["uploaded"]["completed"]) == 1
    assert [*origin.requests] == ["/signed?a=1&amp;b=2"]


def test_an_escaped_url_that_fails_both_ways_has_the_error_of_the_first(
    service: RunningService, origin: Origin
) -> None:
    origin.page("/signed", answer(b"no", "410 Gone"))
    url = f"{origin.url}/signed?a=1&amp;b=2"
    job_id = service.submit([url])
    service.finish(job_id)
    record = service.records(job_id)[url]
    assert (record["error"]["code"], record["status_code"]) == ("http_status", 410)
    assert origin.requests.total() == 2
