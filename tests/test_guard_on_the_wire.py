# mypy: ignore-errors
# ruff: noqa
"""The URL corpus through libcurl: forbidden URLs open no socket, all others do.

Nothing is connected: each socket that libcurl asks for is recorded and refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageload import errors
from imageload.fetch.guard import check_url
from imageload.transport import transfer
from imageload.transport.transfer import TransferError, _Answer
from tests.downloads import Download
from tests.origin import IMAGES, Origin, answer

CORPUS = Path(__file__).parent / "corpora" / "ssrf_urls.tsv"
# "policy" rows where our choice is the other one; test_guard.py has the reasons.
# One address that may be connected to, and one that must not: the first is, the second is not.
MIXED = {293, 295}
OUR_POLICY = {119, 121, 123, 190, 433}


class Row(NamedTuple):
    """A URL, what its name resolves to, and whether it may be fetched."""

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
    """The sockets that libcurl asked for and the guard let pass."""
    asked: list[Any] = []

    def refuse(*arguments: Any) -> None:
        asked.append(arguments)
        raise OSError("the test opens none")

    monkeypatch.setattr("socket.socket", refuse)
    return asked


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: str(row.number))
def test_the_corpus_opens_only_allowed_sockets(tmp_path: Path, opened: list[Any], row: Row) -> None:
    (tmp_path / "temp").mkdir()
    download = Download(tmp_path / "temp", allow=(), resolve=_answers(row), seconds=5)
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
    """The resolver's answers for the row, as libcurl takes them."""
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


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=60).map(lambda line: line + b"\r\n"), max_size=130))
def test_no_head_of_any_bytes_breaks_its_reader(lines: list[bytes]) -> None:
    heads: list[transfer.Head] = []

    def on_head(head: transfer.Head) -> None:
        heads.append(head)

    answer = _Answer(on_head, 4_096)
    for line in [*lines, b"\r\n"]:
        if answer.header(line) == -1:
            assert isinstance(answer.error, TransferError)
            return
    assert len(heads) <= 1


@settings(max_examples=300, deadline=None)
@given(
    st.integers(200, 599),
    st.dictionaries(
        st.from_regex(r"[A-Za-z-]{1,20}", fullmatch=True), st.text("abc /:é", max_size=20)
    ),
)
def test_a_head_is_read_as_it_was_sent(status: int, fields: dict[str, str]) -> None:
    heads: list[transfer.Head] = []
    answer = _Answer(lambda head: heads.append(head), 100_000)
    answer.header(b"HTTP/1.1 %d Whatever\r\n" % status)
    for name, value in fields.items():
        answer.header(f"{name}: {value}\r\n".encode("latin-1"))
    answer.header(b"\r\n")
    (head,) = heads
    assert head.status == status
    expected = {name.lower(): value.strip() for name, value in fields.items()}
    assert head.fields == expected


def test_deny_wins_over_allow(tmp_path: Path, origin: Origin) -> None:
    name = f"images.example:{origin.port}"
    for denied in ("127.0.0.1", "127.0.0.0/8", "images.example"):
        folder = tmp_path / denied.replace("/", "-")
        folder.mkdir()
        download = Download(
            folder, allow=["127.0.0.1"], deny=[denied], resolve=[f"{name}:127.0.0.1"]
        )
        error = download.fails_with(f"http://{name}/images/png-rgb.png", "blocked_address")
        assert "does not fetch from the host" in error.message
    assert origin.connections == 0


@pytest.mark.parametrize(("port", "passes"), [(22, False), (25, False), (80, True), (8080, True)])
def test_ports_below_1024_are_refused_but_for_the_webs(
    tmp_path: Path, opened: list[Any], port: int, passes: bool
) -> None:
    download = Download(tmp_path, allow=(), resolve=[f"images.example:{port}:93.184.216.34"])
    download.fails_with(
        f"http://images.example:{port}/",
        "connect_error" if passes else "blocked_address",
    )
    assert bool(opened) == passes


def test_a_port_may_be_opened_by_an_option(tmp_path: Path, opened: list[Any]) -> None:
    download = Download(
        tmp_path, allow=(), ports=[80, 443, 81], resolve=["images.example:81:93.184.216.34"]
    )
    download.fails_with("http://images.example:81/", "connect_error")
    assert opened


def test_a_proxy_that_was_asked_for_gets_the_request(tmp_path: Path, origin: Origin) -> None:
    body = (IMAGES / "png-rgb.png").read_bytes()
    origin.default = answer(body)
    download = Download(tmp_path, allow=(), proxy=origin.url)
    assert download.arrives("http://images.example/a.png") == body
    assert list(origin.requests) == ["http://images.example/a.png"]
