"""The URL corpus through libcurl: forbidden URLs open no socket, all others do.

Nothing is connected: each socket that libcurl asks for is recorded and refused.
"""

from __future__ import annotations

import json
import socket
import string
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pycurl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageload import errors
from imageload.fetch.guard import check_url
from imageload.transport.request import (
    Bounds,
    Exchange,
    OnResponse,
    Request,
    Response,
    TransferError,
)
from tests.downloads import MakeDownload
from tests.origin import IMAGES, Origin, answer

CORPUS = Path(__file__).parent / "corpora" / "ssrf_urls.tsv"
# "policy" rows where our choice is the other one; test_guard.py has the reasons.
# One address that may be connected to, and one that must not: the first is, the second is not.
MIXED = {293, 295}
OUR_POLICY = {119, 121, 123, 176, 190, 433}


class Row(NamedTuple):
    """A URL, the addresses of its name, and whether it may be fetched."""

    number: int
    allowed: bool
    url: str
    addresses: list[str]


def rows() -> Iterator[Row]:
    """The corpus, without names that resolve to nothing: they cannot be connected to."""
    for line in CORPUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(("#", "id\t")):
            continue
        number, verdict, _, _, url, resolves_to, *_ = line.split("\t")
        if resolves_to in ("NXDOMAIN", "EMPTY", "TIMEOUT", "not-an-ip"):
            continue
        addresses = [] if resolves_to == "-" else resolves_to.split(",")
        allowed = (verdict == "allow") != (int(number) in OUR_POLICY)
        yield Row(int(number), allowed, json.loads(url), addresses)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The sockets that libcurl opened with the guard's permission."""
    asked: list[Any] = []
    real = socket.socket

    def refuse(*arguments: Any, **options: Any) -> socket.socket:
        if threading.current_thread().name != "transfers":
            return real(*arguments, **options)
        asked.append(arguments)
        raise OSError("the test opens none")

    monkeypatch.setattr("socket.socket", refuse)
    return asked


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: str(row.number))
def test_the_corpus_opens_only_allowed_sockets(
    opened: list[Any], row: Row, make_download: MakeDownload
) -> None:
    download = make_download(allow=(), resolve=_answers(row))
    with pytest.raises(errors.ImageError) as caught:
        download.call(row.url)
    if row.number in MIXED:
        assert len(opened) == 1
    elif row.allowed:
        assert opened, caught.value.message
        assert caught.value.code == "connect_error"
    else:
        assert not opened
        assert caught.value.code in ("blocked_address", "invalid_url", "dns_error")


def _answers(row: Row) -> list[str]:
    """The addresses of the row in the format of libcurl's RESOLVE."""
    if not row.addresses:
        return []
    try:
        target = check_url(row.url)
    except errors.InvalidURL:
        return []
    port = target.url.split("/")[2].removeprefix(target.host).removeprefix(":")
    port = port if port.isdigit() else {"http": "80", "https": "443"}[target.scheme]
    shown = ",".join(f"[{a}]" if ":" in a else a for a in row.addresses)
    return [f"{target.host}:{port}:{shown}"]


_CURL = pycurl.Curl()


def _exchange(on_response: OnResponse, max_header_bytes: int) -> Exchange:
    """An Exchange that is not sent."""
    request = Request(url="http://a.example/", host="a.example", deadline=0.0)
    exchange = Exchange(_CURL, Bounds(max_header_bytes=max_header_bytes), None)
    exchange.begin(request, on_response)
    return exchange


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=60).map(lambda line: line + b"\r\n"), max_size=130))
def test_no_bytes_break_the_reader_of_headers(lines: list[bytes]) -> None:
    responses: list[Response] = []
    exchange = _exchange(responses.append, 4_096)
    for line in [*lines, b"\r\n"]:
        if exchange._take_header(line) == -1:
            assert isinstance(exchange._error, TransferError)
            return
    assert len(responses) <= 1


@settings(max_examples=100, deadline=None)
@given(
    st.integers(200, 599),
    st.dictionaries(
        st.text(f"{string.ascii_letters}-", min_size=1, max_size=20),
        st.text("abc /:é", max_size=20),
    ),
)
def test_headers_are_read_as_they_were_sent(status: int, headers: dict[str, str]) -> None:
    responses: list[Response] = []
    exchange = _exchange(responses.append, 100_000)
    exchange._take_header(b"HTTP/1.1 %d Whatever\r\n" % status)
    for name, value in headers.items():
        exchange._take_header(f"{name}: {value}\r\n".encode("latin-1"))
    exchange._take_header(b"\r\n")
    (response,) = responses
    assert response.status == status
    assert response.headers == {name.lower(): value.strip() for name, value in headers.items()}


def test_deny_wins_over_allow(origin: Origin, make_download: MakeDownload) -> None:
    name = f"images.example:{origin.port}"
    for denied in ("127.0.0.1", "127.0.0.0/8", "images.example"):
        download = make_download(allow=["127.0.0.1"], deny=[denied], resolve=[f"{name}:127.0.0.1"])
        error = download.fails_with(f"http://{name}/images/png-rgb.png", "blocked_address")
        assert "does not fetch from the host" in error.message
    assert origin.connections == 0


@pytest.mark.parametrize(("port", "passes"), [(22, False), (25, False), (80, True), (8080, True)])
def test_ports_below_1024_are_refused_but_for_the_webs(
    opened: list[Any], port: int, passes: bool, make_download: MakeDownload
) -> None:
    download = make_download(allow=(), resolve=[f"images.example:{port}:93.184.216.34"])
    download.fails_with(
        f"http://images.example:{port}/",
        "connect_error" if passes else "blocked_address",
    )
    assert bool(opened) == passes


def test_a_port_may_be_opened_by_an_option(opened: list[Any], make_download: MakeDownload) -> None:
    download = make_download(
        allow=(), ports=[80, 443, 81], resolve=["images.example:81:93.184.216.34"]
    )
    download.fails_with("http://images.example:81/", "connect_error")
    assert opened


def test_a_configured_proxy_gets_the_request(origin: Origin, make_download: MakeDownload) -> None:
    body = (IMAGES / "png-rgb.png").read_bytes()
    origin.default = answer(body)
    download = make_download(allow=(), proxy=origin.url)
    assert download.arrives("http://images.example/a.png") == body
    assert list(origin.requests) == ["http://images.example/a.png"]
