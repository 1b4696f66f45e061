"""One URL to one temp file, against a real origin on the wire, good and bad."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import random
import socket
import time
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from imageload.fetch.download import Hop
from imageload.fetch.guard import check_url
from imageload.fetch.responses import retry_after
from tests.downloads import Download, MakeDownload
from tests.folders import filled
from tests.origin import IMAGES, Origin, answer, raw, redirect, reset
from tests.raising import raises_error
from tests.waiting import PATIENCE

PNG = (IMAGES / "png-rgb.png").read_bytes()


@pytest.mark.parametrize("chunk_bytes", [500, 100_000, 1_000_000])
def test_a_large_image_arrives_byte_for_byte_in_chunks_of_any_size(
    make_download: MakeDownload, origin: Origin, chunk_bytes: int
) -> None:
    content = PNG + random.Random(chunk_bytes).randbytes(700_000)
    chunks = [content[at : at + chunk_bytes] for at in range(0, len(content), chunk_bytes)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
    page = origin.page("/a", raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body))
    report = make_download(max_bytes=1_000_000).call(page)
    assert Path(report.temp_fn).read_bytes() == content
    assert report.sha256 == hashlib.sha256(content).hexdigest()
    assert report.bytes == len(content)


def test_the_rest_of_a_write_that_was_cut_short_is_written(
    make_download: MakeDownload, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_some(descriptor: int, pieces: list[bytes]) -> int:
        return os.write(descriptor, b"".join(pieces)[:70_001])

    monkeypatch.setattr("os.writev", write_some)
    content = PNG + random.Random(1).randbytes(700_000)
    download = make_download(max_bytes=1_000_000)
    assert download.arrives(origin.page("/a", answer(content))) == content


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("jpeg-baseline.jpg", "image/jpeg"),
        ("png-rgb.png", "image/png"),
        ("apng-animated.png", "image/apng"),
        ("gif-animated.gif", "image/gif"),
        ("webp-animated.webp", "image/webp"),
        ("bmp-v5.bmp", "image/bmp"),
        ("tiff-big-endian.tif", "image/tiff"),
        ("avif-still.avif", "image/avif"),
        ("heic-still.heic", "image/heic"),
    ],
)
def test_an_image_arrives_byte_for_byte_with_its_report(
    download: Download, origin: Origin, name: str, kind: str
) -> None:
    report = download.call(origin.image(name))
    content = (IMAGES / name).read_bytes()
    assert Path(report.temp_fn).read_bytes() == content
    assert Path(report.temp_fn).parent == download.temp_dir
    assert (report.status_code, report.type, report.bytes) == (200, kind, len(content))
    assert report.sha256 == hashlib.sha256(content).hexdigest()
    assert report.width
    assert report.height


def test_the_first_bytes_decide_not_the_name_or_the_content_type(
    download: Download, origin: Origin
) -> None:
    url = origin.page("/a.txt", answer(PNG, Content_Type="text/html"))
    assert download.arrives(url) == PNG
    page = b"<!DOCTYPE html><title>Not found</title>"
    dressed = origin.page("/b.jpg", answer(page, Content_Type="image/jpeg"))
    error = download.fails_with(dressed, "not_image")
    assert "HTML" in error.message


def test_a_drawing_is_named_as_a_type_that_imgur_does_not_take(
    download: Download, origin: Origin
) -> None:
    download.fails_with(origin.image("not-images/drawing.svg"), "unsupported_type")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x4f\xff\x51\0\x2f", "JPEG 2000"),
        (b"II\xbc\x01", "JPEG XR"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"\0\0\x01\0\x02\0\x10\x10", "icon"),
        (b"qoif\0\0\0\x10\0\0\0\x10\x04\0", "QOI"),
    ],
)
def test_an_image_of_a_type_that_is_not_converted_is_named(
    download: Download, origin: Origin, head: bytes, name: str
) -> None:
    url = origin.page("/a", answer(head + bytes(100)))
    assert name in download.fails_with(url, "unsupported_type").message


@pytest.mark.parametrize(
    "name", sorted(p.name for p in (IMAGES / "not-images").iterdir() if "drawing" not in p.name)
)
def test_a_body_that_is_no_image_is_refused(download: Download, origin: Origin, name: str) -> None:
    kind = "empty_image" if name == "empty" else "not_image"
    download.fails_with(origin.image(f"not-images/{name}"), kind)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 304, 300, 305, 207, 226, 416])
def test_a_status_without_the_image_fails_with_that_status(
    download: Download, origin: Origin, status: int
) -> None:
    url = origin.page("/a.png", answer(b"" if status == 304 else PNG, f"{status} Whatever"))
    error = download.fails_with(url, "http_status")
    assert error.status_code == status
    assert str(status) in error.message
    assert not error.transient


@pytest.mark.parametrize(
    "status", [408, 420, 425, 429, 500, 502, 503, 504, 507, 509, 520, 524, 527, 529, 530, 598, 599]
)
def test_a_status_that_passes_may_be_tried_again(
    download: Download, origin: Origin, status: int
) -> None:
    url = origin.page("/a.png", answer(b"busy", f"{status} Busy", Retry_After="7"))
    error = download.fails_with(url, "origin_busy")
    assert (error.code, error.status_code, error.transient) == ("http_status", status, True)
    assert error.retry_after == 7


@pytest.mark.parametrize("status", [201, 202, 203, 206])
def test_other_successes_carry_the_image(download: Download, origin: Origin, status: int) -> None:
    report = download.call(origin.page("/a.png", answer(PNG, f"{status} Whatever")))
    assert (report.status_code, report.bytes) == (status, len(PNG))
    download.give_back(report)


def test_a_206_is_the_image_only_if_it_is_whole(download: Download, origin: Origin) -> None:
    def ranged(path: str, content_range: str) -> str:
        return origin.page(path, answer(PNG, "206 Partial Content", Content_Range=content_range))

    for n, whole in enumerate([f"bytes 0-{len(PNG) - 1}/{len(PNG)}", "bytes 0-9/*", "all of it"]):
        assert download.arrives(ranged(f"/{n}", whole)) == PNG
    for n, part in enumerate(["bytes 0-99/100000", "bytes 1-9/10", "bytes 7-99/*"]):
        error = download.fails_with(ranged(f"/part/{n}", part), "http_status")
        assert (error.status_code, error.transient) == (206, False)
        assert "only a part" in error.message


def test_a_200_without_a_byte_is_tried_once_more(download: Download, origin: Origin) -> None:
    error = download.fails_with(origin.page("/empty", answer(b"")), "empty_image")
    assert (error.code, error.transient, error.max_tries) == ("empty_body", True, 2)


def test_a_204_is_an_empty_body(download: Download, origin: Origin) -> None:
    page = raw(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    download.fails_with(origin.page("/a", page), "empty_body")


def test_redirects_are_followed_relative_and_absolute(download: Download, origin: Origin) -> None:
    origin.page("/5/x", redirect(origin.image("png-rgb.png"), "308 Permanent Redirect"))
    origin.page("/4", redirect("5/x#fragment", "307 Temporary Redirect"))
    origin.page("/3", redirect("?q=1", "303 See Other"))
    origin.page("/2", redirect(f"//{origin.url.removeprefix('http://')}/4", "302 Found"))
    url = origin.page("/1", redirect("/2", "301 Moved Permanently"))
    assert download.call(url).bytes == len(PNG)


@pytest.mark.parametrize(
    "location",
    [
        b"\\images\\png-rgb.png",
        b"/images\\png-rgb.png?a\\b",
        b"/images/png-rgb.png?f\xfcr",
        b"/images/png-rgb.png?\x89\xe6\x91\x9c",
        "/images/png-rgb.png?für".encode(),
    ],
    ids=["backslashes", "backslash in a query", "Latin-1", "Shift-JIS", "UTF-8"],
)
def test_a_location_is_read_as_browsers_do(
    download: Download, origin: Origin, location: bytes
) -> None:
    page = raw(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")
    assert download.arrives(origin.page("/r", page)) == PNG
    (path,) = (path for path in origin.requests if path.startswith("/images/"))
    query = location.partition(b"?")[2]
    assert unquote_to_bytes(path.partition("?")[2]) == query


def test_the_sixth_redirect_is_one_too_many(download: Download, origin: Origin) -> None:
    url = origin.page("/loop", redirect("/loop"))
    download.fails_with(url, "too_many_redirects")
    assert origin.requests["/loop"] == 6


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://x/",
        "data:image/png,x",
        "http://[::1/",
        "http://127.0.0.1:99999/",
        "http://u:p@127.0.0.1/",
    ],
)
def test_a_redirect_to_a_url_that_may_not_be_fetched_is_refused(
    download: Download, origin: Origin, location: str
) -> None:
    download.fails_with(origin.page("/r", redirect(location)), "bad_redirect")


def test_a_redirect_without_a_place_is_a_bad_response(download: Download, origin: Origin) -> None:
    download.fails_with(origin.page("/r", answer(status="302 Found")), "bad_response")
    download.fails_with(origin.page("/e", redirect("")), "bad_response")


@pytest.mark.parametrize(
    "target", ["http://127.0.0.2:{port}/", "http://169.254.169.254/", "http://[::1]:{port}/"]
)
def test_a_redirect_to_a_private_address_makes_no_connection(
    download: Download, origin: Origin, target: str
) -> None:
    listening = socket.create_server(("127.0.0.2", 0))
    with listening:
        listening.setblocking(False)
        location = target.format(port=listening.getsockname()[1])
        download.fails_with(origin.page("/r", redirect(location)), "blocked_address")
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_a_redirects_body_is_not_read(download: Download, origin: Origin) -> None:
    sent = 0

    def page(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /images/png-rgb.png\r\n")
        connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + bytes(65_536) + b"\r\n")
            sent += 65_536

    assert download.call(origin.page("/r", page)).bytes == len(PNG)
    assert sent < 50_000_000


def test_a_declared_size_past_the_cap_is_refused_before_the_body(
    download: Download, origin: Origin
) -> None:
    def page(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        origin.hang(connection)

    download.fails_with(origin.page("/big", page), "too_large")


def test_the_size_limit_counts_received_bytes(download: Download, origin: Origin) -> None:
    exact = PNG + bytes(100_000 - len(PNG))
    assert download.arrives(origin.page("/exact", answer(exact))) == exact
    download.fails_with(origin.page("/more", answer(exact + b"x")), "too_large")

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(bytes(65_536))

    download.fails_with(origin.page("/endless", endless), "too_large")


def test_an_unrequested_compression_is_decoded_within_the_size_limit(
    download: Download, origin: Origin
) -> None:
    packed = gzip.compress(PNG)
    assert download.arrives(origin.page("/a", answer(packed, Content_Encoding="gzip"))) == PNG
    bomb = gzip.compress(bytes(30_000_000))
    download.fails_with(origin.page("/b", answer(bomb, Content_Encoding="gzip")), "too_large")
    junk = origin.page("/c", answer(b"junk", Content_Encoding="gzip"))
    error = download.fails_with(junk, "bad_response")
    assert error.message == (
        "The origin's response cannot be decoded: it is not gzip, which its headers name."
    )
    assert not error.transient
    assert all("Accept-Encoding: identity" in head for head in origin.heads)


@pytest.mark.parametrize(
    "before", ["", "HTTP/1.1 103 Early Hints\r\ncontent-encoding: gzip\r\n\r\n"]
)
@pytest.mark.parametrize("coding", ["gzip, gzip", "gzip\r\nContent-Encoding: gzip"])
def test_several_compressions_are_refused(
    download: Download, origin: Origin, before: str, coding: str
) -> None:
    """Gzip in gzip in gzip makes minutes of work of 100 kB, and an empty file."""
    response = f"{before}HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\n\r\n".encode()
    twice = gzip.compress(gzip.compress(PNG))
    download.fails_with(origin.page("/twice", raw(response + twice)), "bad_response")


@pytest.mark.parametrize(
    "coding",
    ["identity", "", "UTF-8", "binary", "aws-chunked", "null", "none", "image/png", "a, b, c"],
)
def test_a_content_encoding_that_is_no_coding_is_ignored(
    download: Download, origin: Origin, coding: str
) -> None:
    assert download.arrives(origin.page("/a", answer(PNG, Content_Encoding=coding))) == PNG
    packed = answer(gzip.compress(PNG), Content_Encoding=f"{coding}, gzip")
    assert download.arrives(origin.page("/b", packed)) == PNG


@pytest.mark.parametrize("coding", ["br", "zstd", "compress"])
def test_a_coding_that_was_not_asked_for_is_named(
    download: Download, origin: Origin, coding: str
) -> None:
    url = origin.page("/a", answer(PNG, Content_Encoding=coding))
    assert f"coded as {coding}" in download.fails_with(url, "bad_response").message


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress(PNG) + b"bytes behind it"),
        ("x-gzip", gzip.compress(PNG)),
        ("deflate", zlib.compress(PNG)),
        ("deflate", zlib.compress(PNG)[2:-4]),
    ],
    ids=["bytes behind", "x-gzip", "deflate", "raw deflate"],
)
def test_forms_of_compression_are_decoded_as_browsers_do(
    download: Download, origin: Origin, coding: str, packed: bytes
) -> None:
    assert download.arrives(origin.page("/a", answer(packed, Content_Encoding=coding))) == PNG


def test_a_compressed_body_that_ends_early_is_truncated(download: Download, origin: Origin) -> None:
    packed = gzip.compress(PNG)[:-20]
    url = origin.page("/a", answer(packed, Content_Encoding="gzip"))
    assert download.fails_with(url, "truncated").transient


def test_blocks_of_nothing_hold_up_no_other_download(download: Download, origin: Origin) -> None:
    """Each empty deflate block is work and gives no byte; a decoder on the loop would stop it."""
    empty_blocks = b"\0\0\0\xff\xff" * 15_000
    url = origin.page("/a", answer(gzip.compress(b"")[:10] + empty_blocks, Content_Encoding="gzip"))
    download.fails_with(url, "truncated")
    assert download.arrives(origin.image("png-rgb.png")) == PNG


def test_a_body_that_ends_early_is_truncated(download: Download, origin: Origin) -> None:
    page = answer(PNG[:1000], length=len(PNG))
    assert download.fails_with(origin.page("/a", page), "truncated").transient

    def broken(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + PNG[:500])
        reset(connection)

    download.fails_with(origin.page("/b", broken), "truncated")


def test_an_origin_that_closes_or_refuses_the_connection_is_a_connect_error(
    download: Download, origin: Origin
) -> None:
    assert download.fails_with(origin.page("/a", reset), "connect_error").transient
    download.fails_with(origin.page("/b", raw(b"")), "connect_error")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    download.fails_with(f"http://127.0.0.1:{port}/", "connect_error")


def test_a_name_that_does_not_resolve_is_a_dns_error(download: Download) -> None:
    download.fails_with("http://no-such-host.invalid/a.png", "dns_error")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 200_000,
    ],
)
def test_a_response_that_is_not_http_is_a_bad_response(
    download: Download, origin: Origin, sent: bytes
) -> None:
    download.fails_with(origin.page("/a", raw(sent)), "bad_response")


def test_endless_headers_are_cut_off(download: Download, origin: Origin) -> None:
    def fields(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"X-More: of the same\r\n" * 100)

    def promises(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    download.fails_with(origin.page("/a", fields), "too_large")
    download.fails_with(origin.page("/b", promises), "too_large")


def test_a_hanging_origin_ends_at_the_deadline(make_download: MakeDownload, origin: Origin) -> None:
    download = make_download(seconds=0.5)
    begun = time.monotonic()
    error = download.fails_with(origin.page("/a", origin.hang), "timeout")
    assert error.transient
    assert time.monotonic() - begun > 0.45


def test_a_dripping_origin_ends_at_the_same_deadline(
    make_download: MakeDownload, origin: Origin
) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        while not origin.released.wait(0.1):
            connection.sendall(b"x")

    begun = time.monotonic()
    make_download(seconds=0.5).fails_with(origin.page("/a", drip), "timeout")
    assert time.monotonic() - begun < PATIENCE / 2


def test_redirects_share_one_deadline(make_download: MakeDownload, origin: Origin) -> None:
    def slow(connection: socket.socket) -> None:
        origin.released.wait(0.4)
        redirect("/slow")(connection)

    # With a deadline for each it would end with too_many_redirects.
    make_download(seconds=1.0).fails_with(origin.page("/slow", slow), "timeout")


def test_a_download_that_is_cancelled_leaves_no_file(download: Download, origin: Origin) -> None:
    def hang_halfway(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + PNG[:50])
        origin.hang(connection)

    target = check_url(origin.page("/a", hang_halfway))
    cancelled = download.transfers.submit(download.downloader.fetch(Hop(target)))
    assert origin.hanging.acquire(timeout=PATIENCE)
    cancelled.cancel()
    download.arrives(origin.image("png-rgb.png"))
    assert not filled(download.temp_dir)


def test_connections_are_kept_between_images(download: Download, origin: Origin) -> None:
    for _ in range(5):
        download.arrives(origin.image("png-rgb.png"))
    assert origin.connections == 1


def test_an_origin_gets_no_header_about_us(download: Download, origin: Origin) -> None:
    url = origin.page("/c", answer(PNG, Set_Cookie="a=b"))
    for _ in range(2):
        assert download.arrives(url) == PNG
    names = {line.partition(":")[0] for head in origin.heads for line in head.splitlines()[1:]}
    assert names == {"Host", "User-Agent", "Accept", "Accept-Encoding"}


def test_a_proxy_in_the_environment_is_not_used(
    download: Download, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert download.call(origin.image("png-rgb.png")).bytes == len(PNG)


def test_private_addresses_are_blocked_unless_they_are_allowed(
    origin: Origin, make_download: MakeDownload
) -> None:
    strict = make_download(allow=())
    for url in (
        origin.image("png-rgb.png"),
        "http://[::1]:80/",
        "http://0x7f.1/",
        "http://10.0.0.1/",
    ):
        strict.fails_with(url, "blocked_address")
    strict.fails_with("http://localhost/", "blocked_address")
    assert origin.connections == 0


def test_a_full_disk_and_a_lost_directory_have_their_own_codes(
    download: Download, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    download.temp_dir.rmdir()
    with raises_error("disk_error"):
        download.call(origin.image("png-rgb.png"))
    download.temp_dir.mkdir()

    def no_room(_descriptor: int, _pieces: list[bytes]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.writev", no_room)
    download.fails_with(origin.image("png-rgb.png"), "disk_full")


def test_retry_after_is_read_in_seconds_and_as_a_date() -> None:
    assert retry_after("120") == 120
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert retry_after(soon) == pytest.approx(60, abs=3)
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    assert retry_after(past) == 0
    for junk in (None, "", "soon", "-5", "1.5", "²", "Mon, 99 Foo"):
        assert retry_after(junk) is None
    for far in ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "9" * 400):
        assert retry_after(far) in (None, 999_999_999)
