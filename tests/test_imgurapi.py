"""Tests of ImgurAPI against the sandbox and against recording sockets."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imageload import errors
from imageload.image import Landed
from imageload.targets import UploadCancelled
from imageload.targets.limits.quota import Quotas
from imageload.transport.curl import Transport
from imgurapi import ImgurAPI
from sandbox.testing import RunningSandbox, running_sandbox
from tests.origin import IMAGES, Origin, answer
from tests.raising import raises_error
from tests.transfers import running_transport
from tests.waiting import PATIENCE

PNG = IMAGES / "png-rgb.png"


TRANSPORTS: list[Transport] = []


@pytest.fixture(autouse=True)
def transport() -> Iterator[Transport]:
    """The Transport of every `api` of a test."""
    with running_transport() as running:
        TRANSPORTS.append(running)
        yield running
        TRANSPORTS.remove(running)


def api(url: str, **options: Any) -> ImgurAPI:
    """An ImgurAPI for the server at `url`."""
    values = {"link_base": url, "seconds": PATIENCE, **options}
    client_id = values.pop("client_id", "test")
    return ImgurAPI(client_id, transport=TRANSPORTS[-1], base_url=url, **values)


def land(imgur: ImgurAPI, path: Path, *, anonymous: bool = True) -> Landed:
    """Upload the file at `path` by `imgur.land`."""
    return TRANSPORTS[-1].transfers.run(imgur.land(str(path), anonymous=anonymous))


@pytest.fixture
def imgur(sandbox: RunningSandbox) -> ImgurAPI:
    return api(sandbox.url)


def test_making_one_sends_nothing(sandbox: RunningSandbox) -> None:
    api(sandbox.url, client_secret="s", refresh_token="r")
    assert sandbox.stats()["connections"] == 0


def test_a_file_arrives_byte_for_byte(imgur: ImgurAPI, sandbox: RunningSandbox) -> None:
    image = imgur.upload_from_path(str(PNG))
    assert image["type"] == "image/png"
    assert image["link"].startswith(sandbox.url)
    assert sandbox.images()[0]["sha256"] == hashlib.sha256(PNG.read_bytes()).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 2, 70_000, 131_071, 131_072, 131_073, 3_000_000])
def test_a_body_of_any_size_has_the_length_it_declares(tmp_path: Path, size: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    server = _BodyServer()
    try:
        api(server.url).upload_from_path(str(file))
    finally:
        server.close()
    assert file.read_bytes() in server.body
    assert server.body.endswith(b"--\r\n")


def test_titles_are_sent_and_other_keys_are_not(imgur: ImgurAPI) -> None:
    config = {"title": "Ein Titel: ü", "description": "d", "nonsense": "n"}
    image = imgur.upload_from_path(str(PNG), config)
    assert (image["title"], image["description"]) == ("Ein Titel: ü", "d")


def test_the_other_methods_of_imgurpython_work_on_the_same_road(
    imgur: ImgurAPI, sandbox: RunningSandbox
) -> None:
    sandbox.settings(unlimited=False)
    credits_before = imgur.get_credits()
    assert credits_before["UserLimit"] == 500
    image = imgur.upload_from_path(str(PNG))
    found = imgur.get_image(image["id"])
    assert found.link == image["link"]
    assert imgur.delete_image(image["deletehash"]) is True
    assert sandbox.images() == []
    with pytest.raises(errors.NotFoundOnImgur) as caught:
        imgur.get_image(image["id"])
    assert caught.value.status_code == 404


def test_connections_are_kept(imgur: ImgurAPI, sandbox: RunningSandbox) -> None:
    for _ in range(5):
        imgur.upload_from_path(str(PNG))
    assert sandbox.stats()["connections"] == 1


def test_the_budgets_of_each_answer_are_kept(imgur: ImgurAPI, sandbox: RunningSandbox) -> None:
    sandbox.settings(unlimited=False)
    imgur.upload_from_path(str(PNG))
    assert imgur.credits["UserLimit"] == 500
    assert imgur.credits["UserRemaining"] == 490
    assert imgur.credits["ClientLimit"] == 12_500
    assert imgur.credits["PostLimit"] == 1_250
    reset = imgur.credits["UserReset"]
    assert reset is not None
    assert 0 < reset <= 3_600
    sandbox.fault("no_rate_headers")
    imgur.upload_from_path(str(PNG))
    assert imgur.credits["UserRemaining"] == 490, "an answer without budgets says nothing"


def test_a_reset_may_be_an_epoch(tmp_path: Path) -> None:
    with running_sandbox(tmp_path / "s", reset="epoch") as sandbox:
        imgur = api(sandbox.url)
        imgur.upload_from_path(str(PNG))
        reset = imgur.credits["UserReset"]
        assert reset is not None
        assert 0 < reset <= 3_601


def test_an_empty_budget_is_a_quota_error_with_the_time_to_wait(tmp_path: Path) -> None:
    with running_sandbox(tmp_path / "s", user_credits=10) as sandbox:
        imgur = api(sandbox.url)
        imgur.upload_from_path(str(PNG))
        with pytest.raises(errors.QuotaExceeded) as caught:
            imgur.upload_from_path(str(PNG))
        assert caught.value.code == "rate_limited"
        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after <= 3_600


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("429", "rate_limited"),
        ("too_fast", "rate_limited"),
        ("client_daily", "rate_limited"),
        ("forbidden", "upload_blocked"),
        ("over_capacity", "upload_blocked"),
        ("invalid_client", "bad_credentials"),
        ("invalid_token", "bad_credentials"),
        ("file_type", "upload_rejected"),
        ("over_size", "too_large_for_target"),
        ("expectation", "server_fault"),
        ("data_false", "unknown_rejection"),
        ("gateway", "upload_blocked"),
        ("not_uploaded", "server_fault"),
        ("internal", "server_fault"),
        ("varnish", "unavailable"),
        ("bad_gateway", "unavailable"),
        ("kittens", "unavailable"),
        ("captive", "unavailable"),
        ("captive_redirect", "unavailable"),
        ("empty", "response_lost"),
        ("500", "server_fault"),
        ("504", "response_lost"),
        ("success_false", "upload_error"),
        ("data_null", "upload_error"),
        ("no_data", "upload_error"),
        ("body_null", "response_lost"),
        ("number", "response_lost"),
        ("string", "response_lost"),
        ("list", "response_lost"),
        ("errors_array", "upload_error"),
        ("no_link", "upload_error"),
        ("foreign_link", "upload_error"),
        ("http_link", "upload_error"),
    ],
)
def test_every_error_of_imgur_has_an_error_of_ours(
    imgur: ImgurAPI, sandbox: RunningSandbox, fault: str, error: str
) -> None:
    sandbox.fault(fault)
    with raises_error(error) as caught:
        land(imgur, PNG)
    assert "<" not in caught.value.message
    assert sandbox.stats()["requests"]["upload"] == 1, "no second request"
    another = api(sandbox.url)
    assert land(another, PNG).link.startswith(sandbox.url), "and the next one is fine"


@pytest.mark.parametrize("shape", [1, 2, 3, 4])
@pytest.mark.parametrize("status", [400, 429, 500])
def test_all_four_error_shapes_mean_the_same(
    imgur: ImgurAPI, sandbox: RunningSandbox, shape: int, status: int
) -> None:
    kinds = {400: "unknown_rejection", 429: "rate_limited", 500: "server_fault"}
    sandbox.fault(str(status), shape=shape, message="words of Imgur")
    # A page with 400 is that of its edge.
    with raises_error("unavailable" if (status, shape) == (400, 4) else kinds[status]):
        land(imgur, PNG)


def test_a_hanging_imgur_ends_at_the_deadline(sandbox: RunningSandbox) -> None:
    sandbox.fault("hang")
    with raises_error("upload_timeout"):
        land(api(sandbox.url, seconds=1.0), PNG)


def test_an_imgur_that_reads_slowly_ends_at_the_deadline(
    sandbox: RunningSandbox, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    large.write_bytes(PNG.read_bytes() + bytes(8_000_000))
    sandbox.fault("slow_read", bytes_per_second=1_000)
    with raises_error("upload_timeout"):
        land(api(sandbox.url, seconds=1.0), large)


@pytest.mark.parametrize("kept", [False, True])
def test_a_request_whose_response_was_lost_is_not_sent_again(
    imgur: ImgurAPI, sandbox: RunningSandbox, kept: bool
) -> None:
    """libcurl would, on a kept connection: the image would be on Imgur twice."""
    if kept:
        land(imgur, PNG)
    sandbox.fault("reset_after_body")
    with raises_error("response_lost"):
        land(imgur, PNG)
    assert sandbox.stats()["requests"]["upload"] == 1 + kept
    assert len(sandbox.images()) == 1 + kept


@pytest.mark.parametrize("kept", [False, True])
def test_a_connection_broken_in_mid_body_is_no_lost_response(
    imgur: ImgurAPI, sandbox: RunningSandbox, tmp_path: Path, kept: bool
) -> None:
    large = tmp_path / "large"
    large.write_bytes(PNG.read_bytes() + bytes(8_000_000))
    if kept:
        land(imgur, PNG)
    sandbox.fault("reset_mid_body", bytes=100_000)
    with raises_error("upload_connect_error"):
        land(imgur, large)
    assert sandbox.stats()["requests"]["upload"] == 1 + kept


def test_an_imgur_that_is_not_there_is_a_connect_error() -> None:
    with raises_error("upload_connect_error") as caught:
        land(api("http://127.0.0.1:1"), PNG)
    assert caught.value.transient


def test_a_missing_file_is_a_disk_error(imgur: ImgurAPI, tmp_path: Path) -> None:
    with raises_error("disk_error"):
        land(imgur, tmp_path / "gone")


@pytest.fixture
def account(tmp_path: Path) -> Iterator[RunningSandbox]:
    """A sandbox that accepts the refresh token "good"."""
    with running_sandbox(tmp_path / "account", unlimited=True, refresh_tokens="good") as running:
        yield running


def test_an_anonymous_request_stays_anonymous(account: RunningSandbox) -> None:
    """imgurpython sends a refused anonymous upload again as the account."""
    imgur = api(account.url, client_secret="s", refresh_token="good")
    account.fault("invalid_client")
    with pytest.raises(errors.CredentialsRefused):
        imgur.upload_from_path(str(PNG), anon=True)
    assert account.stats()["requests"]["upload"] == 1


def test_an_account_upload_gets_a_token_first_and_renews_it_once(
    account: RunningSandbox,
) -> None:
    imgur = api(account.url, client_secret="s", refresh_token="good")
    image = imgur.upload_from_path(str(PNG), anon=False)
    assert image["account_id"]
    imgur.auth.current_access_token = "run out"
    assert imgur.upload_from_path(str(PNG), anon=False)["account_id"]
    assert account.stats()["oauth_refreshes"] == 2


def test_ten_threads_renew_one_token_once(account: RunningSandbox) -> None:
    imgur = api(account.url, client_secret="s", refresh_token="good")
    imgur.auth.current_access_token = "run out"
    start = threading.Barrier(10)
    landed: list[str] = []

    def upload() -> None:
        start.wait(PATIENCE)
        landed.append(land(imgur, PNG, anonymous=False).link)

    threads = [threading.Thread(target=upload) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(landed) == 10
    assert account.stats()["oauth_refreshes"] == 1


def test_a_bad_refresh_token_is_a_credentials_error(account: RunningSandbox) -> None:
    imgur = api(account.url, client_secret="s", refresh_token="bad")
    with pytest.raises(errors.CredentialsRefused):
        imgur.upload_from_path(str(PNG), anon=False)


def test_a_gateway_gets_its_key(origin: Origin) -> None:
    body = b'{"data":{"UserLimit":500},"success":true,"status":200}'
    origin.page("/3/credits", answer(body))
    assert api(origin.url, rapidapi_key="k").get_credits() == {"UserLimit": 500}
    (head,) = origin.heads
    for field in ("X-Mashape-Key: k", "X-RapidAPI-Key: k", "X-RapidAPI-Host: 127.0.0.1"):
        assert f"\r\n{field}\r\n" in head
    assert "Authorization: Client-ID test" in head


def test_a_proxy_and_a_netrc_of_the_environment_are_not_used(
    imgur: ImgurAPI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b")
    assert imgur.upload_from_path(str(PNG))["id"]


def test_an_endless_response_is_cut_off(origin: Origin) -> None:
    def endless(connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 65_536)

    origin.page("/3/credits", endless)
    with raises_error("upload_error"):
        api(origin.url).get_credits()


def test_a_response_that_a_gateway_compressed_is_read(origin: Origin) -> None:
    body = gzip.compress(b'{"data": {"UserLimit": 7}, "success": true, "status": 200}')
    origin.default = answer(body, Content_Encoding="gzip")
    assert api(origin.url).make_request("GET", "credits") == {"UserLimit": 7}


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", lambda: gzip.compress(bytes(30_000_000))),
        ("gzip", lambda: b"not gzip"),
        ("gzip, gzip", lambda: gzip.compress(gzip.compress(b"{}"))),
        ("deflate", lambda: b""),
        ("br", lambda: b"\x8b"),
    ],
    ids=["bomb", "junk", "twice", "empty", "br"],
)
def test_a_response_that_cannot_be_decoded_is_an_error(
    origin: Origin, coding: str, body: Callable[[], bytes]
) -> None:
    origin.default = answer(body(), Content_Encoding=coding)
    with pytest.raises(errors.UploadError):
        api(origin.url).make_request("GET", "credits")


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    server = _BodyServer(keep=0)
    large = tmp_path / "large"
    large.write_bytes(bytes(20_000_000))
    try:
        tracemalloc.start()
        api(server.url).upload_from_path(str(large))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        server.close()
    assert server.received > 20_000_000
    assert peak < 3_000_000


class _BodyServer:
    """Reads one POST, keeps the first `keep` bytes of its body, and responds like Imgur."""

    def __init__(self, keep: int = 4_000_000) -> None:
        self.head = b""
        self.body = b""
        self._keep = keep
        self.received = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection, connection.makefile("rb") as file:
            length = 0
            for line in iter(file.readline, b"\r\n"):
                self.head += line
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            while self.received < length:
                piece = file.read1(min(65_536, length - self.received))
                if not piece:
                    return
                self.received += len(piece)
                if len(self.body) < self._keep:
                    self.body += piece
            body = b'{"data":{"id":"x"},"success":true,"status":200}'
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def close(self) -> None:
        self._thread.join(PATIENCE)
        self._listening.close()


@pytest.mark.parametrize(
    ("route", "sent", "content_type", "body"),
    [
        (
            "album",
            {"deletehashes": ["a", "b"]},
            "application/json",
            b'{"deletehashes": ["a", "b"]}',
        ),
        ("album/x/add", {"ids": "a,b"}, "application/json", b'{"ids": ["a", "b"]}'),
        ("album/x", {"title": "\u00fc"}, "application/json", b'{"title": "\\u00fc"}'),
        ("comment", {"a": "b c"}, "application/x-www-form-urlencoded", b"a=b+c"),
    ],
)
def test_an_albums_fields_are_sent_as_json_and_others_as_a_form(
    route: str, sent: dict[str, Any], content_type: str, body: bytes
) -> None:
    """Without an account Imgur refuses forms for albums. imgurpython joins ids with commas."""
    server = _BodyServer()
    try:
        api(server.url).make_request("POST", route, sent)
    finally:
        server.close()
    assert f"Content-Type: {content_type}\r\n".encode() in server.head
    assert server.body == body


def test_a_put_has_its_body(origin: Origin) -> None:
    origin.page("/3/gallery/image/x", answer(b'{"data":true,"success":true,"status":200}'))
    assert api(origin.url).make_request("PUT", "gallery/image/x", {"tags": "a"}) is True
    assert "PUT /3/gallery/image/x" in origin.heads[0]
    assert "Content-Length: 6" in origin.heads[0]


def test_budgets_learnt_while_the_limits_are_read_are_kept(
    origin: Origin,
) -> None:
    quotas = Quotas()
    client, quota = api(origin.url, quota=quotas.each[0]), quotas.each[0]

    def credits_page(connection: socket.socket) -> None:
        quota.learn({"UserLimit": 500, "UserRemaining": 380}, time.monotonic())
        body = {"data": {"UserLimit": 500, "UserRemaining": 400}, "success": True, "status": 200}
        page = answer(json.dumps(body).encode(), X_RateLimit_UserRemaining="400")
        page(connection)

    origin.page("/3/credits", credits_page)
    TRANSPORTS[-1].transfers.run(client.ask_credits())
    assert quotas.budgets()[0].remaining == 380, "that was the answer to a later request"


@pytest.mark.parametrize("limit", [10**4_000, 2**70, -(2**70), True, 1.5, "500", None, []])
def test_a_limit_of_any_size_and_type_does_no_harm(origin: Origin, limit: object) -> None:
    body = {"data": {"UserLimit": limit, "UserRemaining": 400, "UserReset": limit}}
    origin.page("/3/credits", answer(json.dumps(body).encode()))
    client = api(origin.url)
    TRANSPORTS[-1].transfers.run(client.ask_credits())
    assert client.quota.user.remaining == 400


@pytest.mark.parametrize(
    ("deletehash", "kept"),
    [
        ("x" * 15, True),
        ("a/b", False),
        ("a\r\nb", False),
        ("\ud800", False),
        ("", False),
        (7, False),
    ],
)
def test_a_deletehash_that_is_none_is_not_kept(
    origin: Origin, deletehash: object, kept: bool
) -> None:
    image = {"link": f"{origin.url}/aB3.png", "deletehash": deletehash}
    origin.page("/3/upload", answer(json.dumps({"data": image, "success": True}).encode()))
    assert land(api(origin.url), PNG).deletehash == (deletehash if kept else None)


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "", "\u00e9", 7, None])
def test_an_access_token_that_is_no_header_is_a_bad_response(origin: Origin, token: object) -> None:
    origin.page("/oauth2/token", answer(json.dumps({"access_token": token}).encode()))
    with raises_error("unavailable"):
        land(api(origin.url, refresh_token="r"), PNG, anonymous=False)
    assert list(origin.requests) == ["/oauth2/token"]


def test_blocking_calls_on_the_transfer_loop_are_refused(
    imgur: ImgurAPI, transport: Transport
) -> None:
    async def block() -> None:
        imgur.get_credits()

    with pytest.raises(RuntimeError, match="await"):
        transport.transfers.run(block())


@pytest.mark.parametrize("whole", [False, True])
def test_a_cancelled_upload_has_a_maybe_duplicate_mark_if_its_body_was_sent(
    imgur: ImgurAPI, sandbox: RunningSandbox, transport: Transport, tmp_path: Path, whole: bool
) -> None:
    large = tmp_path / "large"
    large.write_bytes(PNG.read_bytes() + bytes(8_000_000))
    if whole:
        sandbox.fault("slow_answer", seconds=PATIENCE)
    else:
        sandbox.fault("slow_read", bytes_per_second=1_000)

    def has_arrived() -> bool:
        return bool(sandbox.images() if whole else sandbox.stats()["requests"].get("upload"))

    async def cancelled() -> bool:
        upload = asyncio.create_task(imgur.land(str(PNG if whole else large)))
        while not has_arrived():
            await asyncio.sleep(0.01)
        upload.cancel()
        try:
            await upload
        except UploadCancelled as error:
            return error.maybe_landed
        except asyncio.CancelledError:
            return False
        raise AssertionError("it was cancelled")

    assert transport.transfers.run(cancelled()) is whole
    assert imgur.quota.access.in_flight == 0
