"""Tests of faults of origins over real sockets, and the error code of each.

The plain ones stand in test_download.py; here are those of names, connections, TLS and framing.
"""

from __future__ import annotations

import contextlib
import datetime
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pycurl
import pytest
import trustme

from imageload import errors
from tests.downloads import Download, MakeDownload
from tests.folders import filled
from tests.origin import IMAGES, Origin, answer, raw, redirect, running_origin
from tests.waiting import PATIENCE

PNG = (IMAGES / "png-rgb.png").read_bytes()
OK = b"HTTP/1.1 200 OK\r\n"


# --- names and addresses -----------------------------------------------------------------------


@pytest.mark.parametrize("address", ["10.0.0.5", "127.0.0.1", "fd00::1", "169.254.169.254"])
def test_a_name_with_a_private_address_is_blocked(
    origin: Origin, address: str, make_download: MakeDownload
) -> None:
    shown = f"[{address}]" if ":" in address else address
    download = make_download(allow=(), resolve=[f"images.example:{origin.port}:{shown}"])
    error = download.fails_with(
        f"http://images.example:{origin.port}/images/png-rgb.png", "blocked_address"
    )
    assert address not in error.message
    assert origin.connections == 0


def test_a_name_that_resolves_otherwise_at_the_second_connect_is_refused_then(
    make_download: MakeDownload, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: first an address that is allowed, then one that is not."""
    listening = socket.create_server(("127.0.0.2", origin.port))
    name = f"rebind.example:{origin.port}"
    download = make_download(allow=["127.0.0.1"], resolve=[f"{name}:127.0.0.1"])
    transport, perform = download.transport, download.transport.perform

    async def rebind_after(*arguments: Any) -> Any:
        response = await perform(*arguments)
        for exchange in transport._spare:
            exchange.curl.setopt(pycurl.RESOLVE, [f"-{name}", f"{name}:127.0.0.2"])
        return response

    monkeypatch.setattr(transport, "perform", rebind_after)
    origin.page("/first", redirect(f"http://{name}/images/png-rgb.png"))
    with listening:
        listening.setblocking(False)
        download.fails_with(f"http://{name}/first", "blocked_address")
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert origin.connections == 1


def test_the_second_address_is_used_if_the_first_is_dead(
    origin: Origin, make_download: MakeDownload
) -> None:
    name = f"two.example:{origin.port}"
    download = make_download(allow=["127.0.0.0/8"], resolve=[f"{name}:127.0.0.9,127.0.0.1"])
    assert download.arrives(f"http://{name}/images/png-rgb.png") == PNG


def test_a_blocked_address_among_good_ones_is_not_connected_to(
    origin: Origin, make_download: MakeDownload
) -> None:
    name = f"mixed.example:{origin.port}"
    with socket.create_server(("127.0.0.2", origin.port)) as listening:
        listening.setblocking(False)
        download = make_download(resolve=[f"{name}:127.0.0.2,127.0.0.1"])
        assert download.arrives(f"http://{name}/images/png-rgb.png") == PNG
        with pytest.raises(BlockingIOError):
            listening.accept()


@pytest.fixture
def blackhole() -> Iterator[int]:
    """The port of listeners on 127.0.0.1 with a full backlog: a SYN gets no response."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    port = listening.getsockname()[1]
    fillers = []
    for _ in range(64):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
        fillers.append(filler)
    yield port
    for filler in fillers:
        filler.close()
    listening.close()


def test_an_unanswered_connect_ends_at_the_connect_deadline(
    blackhole: int, make_download: MakeDownload
) -> None:
    download = make_download(connect_seconds=0.5)
    begun = time.monotonic()
    download.fails_with(f"http://127.0.0.1:{blackhole}/", "timeout")
    assert time.monotonic() - begun < PATIENCE / 2


def test_two_hundred_addresses_that_drop_packets_share_one_deadline(
    blackhole: int, make_download: MakeDownload
) -> None:
    name = f"many.example:{blackhole}"
    addresses = ",".join(["127.0.0.1"] * 200)
    download = make_download(resolve=[f"{name}:{addresses}"], connect_seconds=0.5)
    begun = time.monotonic()
    download.fails_with(f"http://{name}/", "timeout")
    assert time.monotonic() - begun < PATIENCE / 2


# --- TLS ---------------------------------------------------------------------------------------


class Authority:
    """A certificate authority for the test; `file` is its certificate."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.file = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.file)

    def context(self, *names: str, expired: bool = False) -> ssl.SSLContext:
        """A server's context with a certificate for these names."""
        not_after = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC) if expired else None
        not_before = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC) if expired else None
        certificate = self._ca.issue_cert(*names, not_before=not_before, not_after=not_after)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def test_a_good_certificate_is_good(authority: Authority, make_download: MakeDownload) -> None:
    with running_origin(authority.context("127.0.0.1")) as origin:
        download = make_download(ca_file=authority.file)
        assert download.arrives(origin.image("png-rgb.png")) == PNG


@pytest.mark.parametrize("fault", ["expired", "wrong host", "unknown authority", "self-signed"])
def test_a_bad_certificate_is_a_tls_error(
    tmp_path: Path, authority: Authority, fault: str, make_download: MakeDownload
) -> None:
    names = ["other.example"] if fault == "wrong host" else ["127.0.0.1"]
    issuer = Authority(tmp_path) if fault in ("unknown authority", "self-signed") else authority
    with running_origin(issuer.context(*names, expired=fault == "expired")) as origin:
        download = make_download(ca_file=authority.file)
        error = download.fails_with(origin.image("png-rgb.png"), "tls_error")
        assert not error.transient
        assert not origin.requests


def test_plain_http_behind_https_is_a_tls_error(download: Download) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def speak() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        download.fails_with(f"https://127.0.0.1:{listening.getsockname()[1]}/", "tls_error")
        thread.join(PATIENCE)


def test_a_missing_handshake_counts_as_connecting(make_download: MakeDownload) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        download = make_download(connect_seconds=0.5)
        begun = time.monotonic()
        download.fails_with(f"https://127.0.0.1:{silent.getsockname()[1]}/", "timeout")
        assert time.monotonic() - begun < PATIENCE / 2


def test_a_redirect_from_https_to_http_is_refused_unless_allowed(
    authority: Authority, origin: Origin, make_download: MakeDownload
) -> None:
    with running_origin(authority.context("127.0.0.1")) as secure:
        url = secure.page("/r", redirect(origin.image("png-rgb.png")))
        make_download(ca_file=authority.file).fails_with(url, "bad_redirect")
        assert origin.connections == 0
        lax = make_download(ca_file=authority.file, downgrade=True)
        assert lax.arrives(url) == PNG


def test_the_response_of_a_proxy_to_connect_is_not_the_origins(
    authority: Authority, origin: Origin, make_download: MakeDownload
) -> None:
    context = authority.context("images.example")

    def tunnel(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(10_000)
            answer(b"gone", "404 Not Found")(secure)

    origin.default = tunnel
    download = make_download(ca_file=authority.file, proxy=origin.url)
    error = download.fails_with("https://images.example/a.png", "http_status")
    assert error.status_code == 404
    assert list(origin.requests) == ["images.example:443"]


def test_imgurs_own_placeholder_is_no_image(
    authority: Authority, make_download: MakeDownload
) -> None:
    with running_origin(authority.context("i.imgur.com")) as imgur:
        name = f"i.imgur.com:{imgur.port}"
        resolve = [f"{name}:127.0.0.1"]
        imgur.page("/gone.jpg", redirect(f"https://{name}/removed.png"))
        imgur.page("/removed.png", answer(PNG))
        download = make_download(ca_file=authority.file, resolve=resolve)
        download.fails_with(f"https://{name}/gone.jpg", "removed_at_origin")


# --- framing -----------------------------------------------------------------------------------


def forever(head: bytes, again: bytes, every: float = 0.0) -> Callable[[Origin], str]:
    """A page that sends `head`, then `again` forever, at once or every `every` seconds."""

    def put(origin: Origin) -> str:
        def page(connection: socket.socket) -> None:
            connection.sendall(head)
            while not (every and origin.released.wait(every)):
                connection.sendall(again)

        return origin.page("/forever", page)

    return put


def once(sent: bytes) -> Callable[[Origin], str]:
    """A page that sends these bytes and closes."""
    return lambda origin: origin.page("/once", raw(sent))


def bomb(head: bytes) -> Callable[[Origin], str]:
    """A page that sends `head`, and 30 MB that were compressed once for each `gzip` in it."""

    def put(origin: Origin) -> str:
        body = bytes(30_000_000)
        for _ in range(head.count(b"gzip")):
            body = gzip.compress(body)
        return once(head + body)(origin)

    return put


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
FAULTS: dict[str, tuple[Callable[[Origin], str], str]] = {
    "drip-headers": (forever(OK, b"X", 0.1), "timeout"),
    "drip-chunked": (forever(CHUNKED, b"1\r\nx\r\n", 0.1), "timeout"),
    "slow-after-headers": (
        forever(OK + b"\r\n", b"", 60),
        "timeout",
    ),
    "chunked-endless": (
        forever(CHUNKED, b"10000\r\n" + bytes(65_536) + b"\r\n"),
        "too_large",
    ),
    "chunked-trailers-endless": (
        forever(CHUNKED + b"1\r\nx\r\n0\r\n", b"X-T: " + b"t" * 1000 + b"\r\n"),
        "too_large",
    ),
    "chunk-size-line-endless": (forever(CHUNKED, b"1" * 65_536), "bad_response"),
    "chunk-size-no-number": (once(CHUNKED + b"zz\r\nabc\r\n"), "bad_response"),
    "chunked-cut": (once(CHUNKED + b"ff\r\nabc"), "truncated"),
    "cl-lies-short": (once(OK + b"Content-Length: 10\r\n\r\n" + PNG[:71]), "not_image"),
    "cl-not-a-number": (
        once(OK + b"Content-Length: banana\r\n\r\nnothing like an image"),
        "bad_response",
    ),
    "cl-negative": (
        once(OK + b"Content-Length: -5\r\n\r\nnothing like an image"),
        "bad_response",
    ),
    "unknown-transfer-encoding": (
        once(OK + b"Transfer-Encoding: gzip\r\n\r\n" + gzip.compress(b"abc")),
        "bad_response",
    ),
    "bad-brotli": (
        once(OK + b"Content-Encoding: br\r\n\r\n" + b"\xff" * 100),
        "bad_response",
    ),
    "gzip-in-gzip-bomb": (bomb(OK + b"Content-Encoding: gzip, gzip\r\n\r\n"), "bad_response"),
    "redirect-gzip-bomb": (
        bomb(b"HTTP/1.1 302 Found\r\nLocation: /images/none.png\r\nContent-Encoding: gzip\r\n\r\n"),
        "http_status",
    ),
    "status-000": (once(b"HTTP/1.1 000 Zero\r\nContent-Length: 0\r\n\r\n"), "bad_response"),
    "status-205": (once(b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n"), "empty_body"),
    "headers-5000": (once(OK + b"X: y\r\n" * 9_000 + b"\r\n"), "bad_response"),
    "header-70k": (once(OK + b"X: " + b"y" * 70_000 + b"\r\n\r\n"), "bad_response"),
    "header-200k": (once(OK + b"X: " + b"y" * 200_000 + b"\r\n\r\n"), "bad_response"),
    "headers-6MB": (
        once(OK + (b"X: " + b"y" * 65_000 + b"\r\n") * 98 + b"\r\n"),
        "too_large",
    ),
    "header-endless": (forever(OK + b"X: ", b"y" * 65_536), "bad_response"),
    "garbage-line": (once(b"\x00\xff\x00\xff\r\n\r\n"), "bad_response"),
    "body-html-as-png": (
        once(OK + b"Content-Type: image/png\r\n\r\n<html><body>gone</body></html>"),
        "not_image",
    ),
    "two-bytes-bm": (once(OK + b"\r\nBM"), "not_image"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_framing_ends_with_its_code(
    make_download: MakeDownload, origin: Origin, fault: str
) -> None:
    put, error = FAULTS[fault]
    download = make_download(seconds=0.5 if error == "timeout" else PATIENCE)
    # Of work, and not of time, which a busy machine needs more of.
    begun = time.process_time()
    download.fails_with(put(origin), error)
    assert time.process_time() - begun < 4
    download.be_patient()
    assert download.arrives(origin.image("png-rgb.png")) == PNG, "the next one is served right"


def test_chunked_wins_over_a_length_beside_it(download: Download, origin: Origin) -> None:
    body = b"%x\r\n" % len(PNG) + PNG + b"\r\n0\r\n\r\n"
    head = OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert download.arrives(origin.page("/a", raw(head + body))) == PNG


@pytest.mark.parametrize(
    "field",
    [
        b"X: \xff\xfe",
        b"X: a\x00b",
        b"no colon at all",
        b"X: a\r\n folded",
        b": nameless",
        b"X" * 300,
    ],
)
def test_odd_headers_are_ignored_or_refused(
    download: Download, origin: Origin, field: bytes
) -> None:
    head = OK + field + b"\r\nContent-Length: %d\r\n\r\n" % len(PNG)
    url = origin.page("/a", raw(head + PNG))
    try:
        assert download.arrives(url) == PNG
    except errors.DownloadError as error:
        if error.code != "bad_response":
            raise
        assert not filled(download.temp_dir)


@pytest.mark.parametrize("location", ["/images/png-rgb.png?a b", "/images/png-rgb.png?ü"])
def test_a_location_with_blanks_or_foreign_letters_is_followed(
    download: Download, origin: Origin, location: str
) -> None:
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
    page = raw(head + location.encode("utf-8") + b"\r\n\r\n")
    assert download.arrives(origin.page("/a", page)) == PNG


def test_an_unrequested_response_is_not_taken_for_the_next(
    download: Download, origin: Origin
) -> None:
    """A page that sends two responses to one request."""
    good = OK + b"Content-Length: %d\r\n\r\n" % len(PNG) + PNG
    bad = OK + b"Content-Length: 4\r\n\r\nevil"

    def page(connection: socket.socket) -> None:
        connection.sendall(good + bad)
        connection.recv(10_000)

    poisoned = origin.page("/poison", page)
    assert download.arrives(poisoned) == PNG
    assert download.arrives(origin.image("png-rgb.png")) == PNG


@pytest.mark.parametrize(
    "path",
    ["/../../etc/x.png", "/%2e%2e/%2e%2e/etc/passwd", "/a%00.png", "/CON.png", "/" + "x" * 300],
)
def test_the_temp_files_name_does_not_depend_on_the_url(
    download: Download, origin: Origin, path: str
) -> None:
    origin.default = answer(PNG)
    report = download.call(origin.url + path)
    assert Path(report.temp_fn).parent == download.temp_dir
    assert Path(report.temp_fn).name.startswith("tmp")


def test_tls_that_drips_ends_at_the_connect_deadline(make_download: MakeDownload) -> None:
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            connection, _ = listening.accept()
            record = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc" + bytes(1_000)
            with connection, contextlib.suppress(OSError):
                for byte in record:
                    if ended.wait(0.1):
                        return
                    connection.sendall(bytes([byte]))

        thread = threading.Thread(target=drip)
        thread.start()
        begun = time.monotonic()
        error = _error_of(
            make_download(connect_seconds=0.5), f"https://127.0.0.1:{listening.getsockname()[1]}/"
        )
        assert error.code in ("timeout", "tls_error")
        assert time.monotonic() - begun < PATIENCE / 2
        ended.set()
        thread.join(PATIENCE)


def _error_of(download: Download, url: str) -> errors.ImageError:
    with pytest.raises(errors.ImageError) as caught:
        download.call(url)
    return caught.value


def test_each_timeout_has_its_own_message(
    origin: Origin, blackhole: int, make_download: MakeDownload
) -> None:
    download = make_download(connect_seconds=0.5)
    connecting = _error_of(download, f"http://127.0.0.1:{blackhole}/")
    whole = _error_of(make_download(seconds=1.0), origin.page("/h", origin.hang))
    assert connecting.message == "The origin did not take the connection in time."
    assert whole.message == "The origin was too slow."


def test_an_origin_that_is_slow_to_begin_has_the_whole_time(
    origin: Origin, make_download: MakeDownload
) -> None:
    """The bound on slow responses starts with the first byte."""

    def late(connection: socket.socket) -> None:
        origin.released.wait(0.8)
        answer(PNG)(connection)

    download = make_download(seconds=20, low_speed_seconds=0.3)
    assert download.arrives(origin.page("/late", late)) == PNG


def test_a_response_that_stops_ends_before_the_deadline(
    origin: Origin, make_download: MakeDownload
) -> None:
    def stop(connection: socket.socket) -> None:
        connection.sendall(OK + b"Content-Length: 5000\r\n\r\n" + PNG[:9])
        origin.hang(connection)

    download = make_download(seconds=3600, low_speed_seconds=0.1)
    error = download.fails_with(origin.page("/stop", stop), "timeout")
    assert error.message == "The origin sent too little for too long."
