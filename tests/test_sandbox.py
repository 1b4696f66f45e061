"""Tests of the sandbox: it responds like Imgur, over real sockets, with real images."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

import pytest
import requests
from PIL import Image, features

from sandbox import Options
from sandbox.__main__ import main
from sandbox.faults import CATALOGUE
from sandbox.limits import Caller, Limits
from sandbox.testing import RunningSandbox, running_sandbox
from tests.waiting import PATIENCE

ROOT = Path(__file__).parent.parent
ANON = {"Authorization": "Client-ID test"}


def picture(kind: str, *, size: tuple[int, int] = (40, 30), seed: int = 0) -> bytes:
    """A small real image of a format, different for each seed."""
    image = Image.new("RGB", size, (seed % 256, seed // 256 % 256, 90))
    image.putpixel((1, 1), (255, 255, 255))
    out = io.BytesIO()
    if kind == "APNG":
        image.save(out, "PNG", save_all=True, append_images=[Image.new("RGB", size, "red")])
    elif kind == "animated GIF":
        image.save(out, "GIF", save_all=True, append_images=[Image.new("RGB", size, "red")])
    else:
        image.save(out, kind)
    return out.getvalue()


PNG = picture("PNG")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    plenty = dict.fromkeys(("user_credits", "account_credits", "client_credits", "posts"), 10**6)
    with running_sandbox(tmp_path_factory.mktemp("sandbox"), **plenty) as running:
        yield running


@pytest.fixture
def sandbox(shared: RunningSandbox) -> Iterator[RunningSandbox]:
    yield shared
    shared.clear_faults()


@pytest.fixture
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


Uploader = Callable[..., requests.Response]


@pytest.fixture
def upload(sandbox: RunningSandbox, http: requests.Session) -> Uploader:
    """Upload as curl does: a multipart file part."""

    def post(content: bytes = PNG, **fields: str) -> requests.Response:
        files = {"image": ("a.png", content, "image/png")}
        return http.post(f"{sandbox.url}/3/image", files=files, data=fields, headers=ANON)

    return post


# ---------------------------------------------------------------- the forms of an upload's body


def _multipart(parts: list[tuple[str, bytes]]) -> tuple[bytes, dict[str, str]]:
    """A multipart body of (header lines without name, content) parts, written by hand."""
    body = b"".join(
        b"--B\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + content + b"\r\n"
        for head, content in parts
    )
    return body + b"--B--\r\n", {"Content-Type": "multipart/form-data; boundary=B"}


B64 = base64.b64encode(PNG)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
IMAGE = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}
FORMS: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "multipart file": ("", *_multipart([('name="image"; filename="x.png"', PNG)])),
    "multipart file named video": ("", *_multipart([('name="video"; filename="x.png"', PNG)])),
    "multipart file of unknown type": (
        "",
        *_multipart([('name="image"; filename="image"\r\nContent-Type: application/unknown', PNG)]),
    ),
    "multipart bytes without filename": ("", *_multipart([('name="image"', PNG)])),
    "multipart base64 text": ("", *_multipart([('name="image"', B64), ('name="type"', b"base64")])),
    "multipart base64 without type": ("", *_multipart([('name="image"', B64)])),
    "urlencoded base64": ("", urlencode({"image": B64, "type": "base64"}).encode(), FORM),
    "urlencoded base64, plus as space": ("", b"type=base64&image=" + B64, FORM),
    "urlencoded base64, wrapped": (
        "",
        urlencode({"image": base64.encodebytes(PNG), "type": "base64"}).encode(),
        FORM,
    ),
    "urlencoded base64, no padding": ("", b"image=" + quote(B64.rstrip(b"=")).encode(), FORM),
    "json": (
        "",
        json.dumps({"image": B64.decode()}).encode(),
        {"Content-Type": "application/json"},
    ),
    "raw image": ("?title=t&description=d", PNG, IMAGE),
    "raw image of another type": ("?type=raw", PNG, {"Content-Type": "image/jpeg"}),
}


@pytest.mark.parametrize("path", ["/3/image", "/3/upload", "/3/upload.json", "/3/image/"])
@pytest.mark.parametrize("form", FORMS)
def test_every_body_form_of_a_real_client_stores_exactly_the_bytes_sent(
    sandbox: RunningSandbox, http: requests.Session, form: str, path: str
) -> None:
    query, body, headers = FORMS[form]
    answer = http.post(f"{sandbox.url}{path}{query}", data=body, headers={**ANON, **headers})
    assert answer.status_code == 200, answer.text
    assert http.get(answer.json()["data"]["link"]).content == PNG


def test_a_form_has_a_plus_to_lose_or_the_sloppy_client_test_tests_nothing() -> None:
    assert b"+" in B64


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/application/x-www-form-urlencoded",  # flameshot's
        "application/x-www-form-urlencoded",  # curl --data-binary
        "application/octet-stream",
    ],
)
def test_raw_bytes_without_the_content_type_of_an_image_are_refused(
    sandbox: RunningSandbox, http: requests.Session, content_type: str | None
) -> None:
    headers = ANON if content_type is None else {**ANON, "Content-Type": content_type}
    answer = http.post(f"{sandbox.url}/3/image", data=PNG, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["data"]["error"] == "No image data was sent to the upload api"


def test_title_and_description_come_from_the_body_or_the_query(
    sandbox: RunningSandbox, http: requests.Session, upload: Uploader
) -> None:
    told = upload(title="Tïtle", description="D & d", name="n.png").json()["data"]
    assert (told["title"], told["description"], told["name"]) == ("Tïtle", "D & d", "n.png")
    url = f"{sandbox.url}/3/image?title=from%20query"
    assert (
        http.post(url, data=PNG, headers={**ANON, **IMAGE}).json()["data"]["title"] == "from query"
    )


def test_an_upload_may_be_put(sandbox: RunningSandbox, http: requests.Session) -> None:
    assert (
        http.put(f"{sandbox.url}/3/image", data=PNG, headers={**ANON, **IMAGE}).status_code == 200
    )


def test_a_chunked_body_is_as_good(sandbox: RunningSandbox, http: requests.Session) -> None:
    answer = http.post(
        f"{sandbox.url}/3/image", data=iter([PNG[:9], PNG[9:]]), headers={**ANON, **IMAGE}
    )
    assert answer.json()["data"]["size"] == len(PNG)


@pytest.mark.parametrize("kind", ["url", ""])
def test_a_url_is_not_fetched_unless_the_option_says_so(
    sandbox: RunningSandbox, http: requests.Session, kind: str
) -> None:
    form = {"image": "http://127.0.0.1:9/a.png", "type": kind}
    answer = http.post(f"{sandbox.url}/3/image", data=form, headers=ANON)
    assert answer.status_code == 400
    assert answer.json()["data"]["error"] == "Invalid URL (http://127.0.0.1:9/a.png)"


def test_with_the_option_a_url_is_fetched(tmp_path: Path, http: requests.Session) -> None:
    with running_sandbox(tmp_path, fetch_urls=True) as running:
        link = http.post(f"{running.url}/3/image", data=PNG, headers={**ANON, **IMAGE}).json()[
            "data"
        ]["link"]
        form = {"image": link, "type": "url"}
        answer = http.post(f"{running.url}/3/upload", data=form, headers=ANON)
        assert answer.json()["data"]["size"] == len(PNG)
        form["image"] = running.url + "/3/credits"
        answer = http.post(f"{running.url}/3/upload", data=form, headers=ANON)
        assert answer.json()["data"]["error"] == f"Invalid URL ({form['image']})"
        assert list(running.stats()["stored"].values()) == [2]


# -------------------------------------------------------------------- accepted and refused bodies


@pytest.mark.parametrize(
    ("kind", "told", "extension"),
    [
        ("JPEG", "image/jpeg", "jpg"),
        ("PNG", "image/png", "png"),
        ("APNG", "image/png", "png"),
        ("GIF", "image/gif", "gif"),
        ("animated GIF", "image/gif", "gif"),
        ("TIFF", "image/tiff", "tiff"),
    ],
)
def test_the_formats_that_imgur_names_are_taken(
    upload: Uploader, kind: str, told: str, extension: str
) -> None:
    seen = upload(picture(kind)).json()["data"]
    assert (seen["type"], seen["width"], seen["height"]) == (told, 40, 30)
    assert seen["link"].endswith(f"{seen['id']}.{extension}")
    assert seen["animated"] == (kind in ("APNG", "animated GIF"))


REFUSED = {
    "webp": picture("WEBP"),
    "bmp": picture("BMP"),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>',
    "html": b"<!DOCTYPE html><html><body>hello</body></html>",
    "text": b"hello world",
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
    "truncated jpeg": picture("JPEG", size=(300, 300))[:-400],
    "truncated png": picture("PNG", size=(300, 300))[:-60],
    "truncated gif": picture("GIF", size=(300, 300))[:100],
    "jpeg signature only": b"\xff\xd8\xff",
    "zeros": bytes(100),
}
if features.check("avif"):
    REFUSED["avif"] = picture("AVIF")


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_upload_has_imgurs_own_message(upload: Uploader, kind: str) -> None:
    answer = upload(REFUSED[kind])
    assert answer.status_code == 400
    assert answer.json() == {
        "status": 400,
        "success": False,
        "data": {
            "error": {
                "code": 1003,
                "message": "File type invalid (1)",
                "type": "ImgurException",
                "exception": [],
            },
            "request": "/3/image",
            "method": "POST",
        },
    }


def test_a_pixel_bomb_is_refused_undecoded(upload: Uploader) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(name + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + name + content + crc

    side = (30_000).to_bytes(4, "big")
    rows = zlib.compress(bytes(30_000 * 100))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", side + side + b"\1\0\0\0\0")
    begin = time.process_time()
    assert upload(bomb + chunk(b"IDAT", rows) + chunk(b"IEND", b"")).status_code == 400
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("body", [b"", b"image=", b"image=&type=base64", b"title=x"])
def test_an_upload_without_a_file_has_its_own_message(
    sandbox: RunningSandbox, http: requests.Session, body: bytes
) -> None:
    answer = http.post(f"{sandbox.url}/3/upload", data=body, headers={**ANON, **FORM})
    assert answer.status_code == 400
    assert answer.json()["data"] == {
        "error": "No image data was sent to the upload api",
        "request": "/3/upload",
        "method": "POST",
    }


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=B", b"--X\r\n\r\n"),
        ("multipart/form-data", b"--B--"),
        ("application/json", b'{"image": '),
        ("application/json", b"[" * 5000),
        ("application/json", b'"image"'),
    ],
)
def test_a_body_broken_in_its_own_form_is_no_image(
    sandbox: RunningSandbox, http: requests.Session, content_type: str, body: bytes
) -> None:
    headers = {**ANON, "Content-Type": content_type}
    answer = http.post(f"{sandbox.url}/3/image", data=body, headers=headers)
    assert answer.json()["data"]["error"] == "No image data was sent to the upload api"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    """A sandbox whose images may have 1000 bytes."""
    with running_sandbox(tmp_path_factory.mktemp("small"), max_image_bytes=1000) as running:
        yield running


OVER_SIZE = {
    "status": 413,
    "success": False,
    "data": {"error": "file is over the size limit", "request": "/3/upload", "method": "POST"},
}


@pytest.mark.parametrize("size", [1001, 50_000, 300_000, 9_000_000])
def test_an_oversize_upload_gets_a_413_it_can_read(
    small: RunningSandbox, http: requests.Session, size: int
) -> None:
    try:
        answer = http.post(f"{small.url}/3/upload", data=bytes(size), headers={**ANON, **IMAGE})
    except requests.ConnectionError:
        assert size == 9_000_000, "only a body far too large may be cut off"
    else:
        assert (answer.status_code, answer.json()) == (413, OVER_SIZE)
    assert small.images() == []


def test_an_oversize_chunked_upload_gets_its_413(
    small: RunningSandbox, http: requests.Session
) -> None:
    chunks = iter([bytes(50_000)] * 4)
    answer = http.post(f"{small.url}/3/upload", data=chunks, headers={**ANON, **IMAGE})
    assert (answer.status_code, answer.json()) == (413, OVER_SIZE)


def test_a_large_upload_with_expect_100_is_refused_at_once(small: RunningSandbox) -> None:
    with socket.create_connection(("127.0.0.1", small.port), PATIENCE) as raw:
        raw.sendall(
            b"POST /3/upload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Client-ID x\r\n"
            b"Expect: 100-continue\r\nContent-Length: 200000\r\n\r\n"
        )
        assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")


# ---------------------------------------------------------------------------- shapes of an answer

KEYS_NOW = (
    "id deletehash account_id account_url ad_type ad_url title description name type width height "
    "size views section vote bandwidth animated favorite in_gallery in_most_viral has_sound is_ad "
    "nsfw link tags datetime mp4 hls"
)
KEYS_BEFORE = (
    "id title description datetime type animated width height size views bandwidth vote favorite "
    "nsfw section account_url account_id is_ad in_most_viral has_sound tags ad_type ad_url edited "
    "in_gallery link deletehash name"
)


def test_an_upload_gets_todays_response_format(upload: Uploader) -> None:
    answer = upload()
    told = answer.json()
    assert list(told) == ["status", "success", "data"]
    assert " ".join(told["data"]) == KEYS_NOW
    assert "\\/" not in answer.text
    assert len(told["data"]["id"]) == 7
    assert len(told["data"]["deletehash"]) == 15
    assert abs(told["data"]["datetime"] - time.time()) < 60
    assert answer.headers["Server"] == "cat factory 1.0"


def test_an_upload_can_get_the_older_response_format(
    sandbox: RunningSandbox, upload: Uploader
) -> None:
    sandbox.fault("old_shape")
    answer = upload()
    assert list(answer.json()) == ["data", "success", "status"]
    assert " ".join(answer.json()["data"]) == KEYS_BEFORE
    assert "http:\\/\\/" in answer.text


def test_xml_is_sent_if_it_is_requested(sandbox: RunningSandbox, http: requests.Session) -> None:
    answer = http.post(f"{sandbox.url}/3/image.xml", data=PNG, headers={**ANON, **IMAGE})
    told = ElementTree.fromstring(answer.content)
    assert told.attrib == {"type": "array", "success": "1", "status": "200"}
    assert http.get(told.findtext("link", "")).content == PNG
    refused = http.post(f"{sandbox.url}/3/image.xml", data=b"webp?", headers={**ANON, **IMAGE})
    told = ElementTree.fromstring(refused.content)
    assert (told.get("success"), told.get("status")) == ("0", "400")
    assert told.findtext("error") == "File type invalid (1)"
    assert told.findtext("request") == "/3/image.xml"


def test_errors_can_be_forced_into_a_200(sandbox: RunningSandbox, http: requests.Session) -> None:
    answer = http.get(f"{sandbox.url}/3/image/nothere?_fake_status=200", headers=ANON)
    assert (answer.status_code, answer.json()["status"]) == (200, 404)


def test_the_api_is_open_to_pages_of_this_machine(
    sandbox: RunningSandbox, http: requests.Session
) -> None:
    origin = {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}
    answer = http.options(f"{sandbox.url}/3/image", headers=origin)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[evil"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example"},  # DNS rebinding
        {"Host": "127.0.0.1.evil.example:8889", "Origin": "http://127.0.0.1.evil.example:8889"},
    ],
)
@pytest.mark.parametrize("path", ["/3/image", "/3/album", "/oauth2/token"])
def test_a_web_page_of_another_site_cannot_use_the_api(
    sandbox: RunningSandbox, http: requests.Session, headers: dict[str, str], path: str
) -> None:
    stored = len(sandbox.images())
    for method in ("POST", "OPTIONS"):
        sent = {**ANON, **IMAGE, **headers}
        answer = http.request(method, sandbox.url + path, data=PNG, headers=sent)
        assert answer.status_code == 403
    assert len(sandbox.images()) == stored


def test_any_web_page_may_show_an_image(http: requests.Session, upload: Uploader) -> None:
    link = upload().json()["data"]["link"]
    headers = {"Origin": "http://forum.example", "Sec-Fetch-Site": "cross-site"}
    assert http.get(link, headers=headers).content == PNG
    assert http.get(link, headers={"Host": "evil.example"}).status_code == 403


def test_a_sandbox_for_other_machines_has_any_name(tmp_path: Path, http: requests.Session) -> None:
    with running_sandbox(tmp_path, address="0.0.0.0") as running:
        headers = {**ANON, **IMAGE, "Host": "imgur.test"}
        answer = http.post(f"{running.url}/3/image", data=PNG, headers=headers)
        assert answer.status_code == 200


def test_an_unknown_method_gets_nginxs_error_page(
    sandbox: RunningSandbox, http: requests.Session
) -> None:
    answer = http.delete(f"{sandbox.url}/3/image", headers=ANON)
    assert answer.status_code == 405
    assert "nginx" in answer.text


def test_an_unknown_endpoint_is_a_404_in_an_envelope(
    sandbox: RunningSandbox, http: requests.Session
) -> None:
    answer = http.get(f"{sandbox.url}/3/gallery/hot", headers=ANON)
    assert (answer.status_code, answer.json()["success"]) == (404, False)


# -------------------------------------------------------------------------------------- credentials


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (None, 401, "Authentication required"),
        ("", 401, "Authentication required"),
        ("Basic dXNlcjpwYXNz", 403, "Malformed auth header"),
        ("nonsense", 403, "Malformed auth header"),
        ("Bearer 0123456789abcdef", 403, "The access token provided is invalid."),
    ],
)
def test_a_request_with_bad_credentials_gets_imgurs_message(
    sandbox: RunningSandbox, http: requests.Session, sent: str | None, status: int, message: str
) -> None:
    headers = {} if sent is None else {"Authorization": sent}
    answer = http.post(f"{sandbox.url}/3/image", data=PNG, headers=headers)
    assert answer.status_code == status
    assert answer.json()["data"]["error"] == message
    assert answer.json()["data"]["method"] == "POST"


@pytest.mark.parametrize("sent", ["Client-ID", "Client-ID ", "client-id \t "])
def test_a_blank_client_id_gets_a_429(
    sandbox: RunningSandbox, http: requests.Session, sent: str
) -> None:
    answer = http.get(f"{sandbox.url}/3/credits", headers={"Authorization": sent})
    assert answer.status_code == 429
    assert answer.json()["errors"][0]["detail"] == "Too Many Requests"


def test_only_listed_client_ids_exist_when_they_are_listed(
    tmp_path: Path, http: requests.Session
) -> None:
    with running_sandbox(tmp_path, client_ids="a, b") as running:
        url = f"{running.url}/3/credits"
        assert http.get(url, headers={"Authorization": "Client-ID b"}).status_code == 200
        answer = http.get(url, headers={"Authorization": "Client-ID c"})
        assert (answer.status_code, answer.json()["data"]["error"]) == (403, "Invalid client_id")


def _refresh(running: RunningSandbox, http: requests.Session, token: str) -> requests.Response:
    form = {
        "refresh_token": token,
        "client_id": "a",
        "client_secret": "s",
        "grant_type": "refresh_token",
    }
    return http.post(f"{running.url}/oauth2/token", data=form)


def test_a_refresh_token_buys_an_access_token(
    sandbox: RunningSandbox, http: requests.Session
) -> None:
    told = _refresh(sandbox, http, "anything").json()
    assert len(told["access_token"]) == 40
    assert (told["token_type"], told["refresh_token"]) == ("bearer", "anything")
    bearer = {"Authorization": f"Bearer {told['access_token']}"}
    answer = http.post(f"{sandbox.url}/3/image", files={"image": ("a.png", PNG)}, headers=bearer)
    seen = answer.json()["data"]
    assert seen["account_id"] == told["account_id"]
    assert (seen["account_url"], seen["name"]) == (told["account_username"], "a.png")


def test_a_refresh_without_the_clients_secret_is_refused(
    sandbox: RunningSandbox, http: requests.Session
) -> None:
    form = {"refresh_token": "r", "client_id": "a", "grant_type": "refresh_token"}
    answer = http.post(f"{sandbox.url}/oauth2/token", data=form)
    assert answer.status_code == 400
    assert answer.json()["data"]["error"] == "The client credentials are invalid"


def test_a_rotated_refresh_token_works_once_and_its_heir_works(
    tmp_path: Path, http: requests.Session
) -> None:
    with running_sandbox(tmp_path, rotate_refresh_tokens=True, refresh_tokens="first") as running:
        heir = _refresh(running, http, "first").json()["refresh_token"]
        again = _refresh(running, http, "first")
        assert again.status_code == 400
        assert again.json()["data"]["error"] == "Invalid refresh token"
        assert _refresh(running, http, "unheard of").status_code == 400
        assert _refresh(running, http, heir).status_code == 200
        assert running.stats()["oauth_refreshes"] == 2


def test_an_expired_access_token_is_invalid(
    sandbox: RunningSandbox, http: requests.Session
) -> None:
    dead = sandbox.token(seconds=-1)["access_token"]
    bearer = {"Authorization": f"Bearer {dead}"}
    answer = http.get(f"{sandbox.url}/3/account/me/images", headers=bearer)
    assert answer.status_code == 403
    assert answer.json()["data"]["error"] == "The access token provided is invalid."


# ---------------------------------------------------------------------------------------- budgets


def test_an_upload_costs_ten_credits_and_a_call_one(tmp_path: Path, http: requests.Session) -> None:
    with running_sandbox(tmp_path) as running:
        answer = http.post(f"{running.url}/3/image", data=PNG, headers={**ANON, **IMAGE})
        assert answer.headers["X-RateLimit-UserLimit"] == "500"
        assert answer.headers["X-RateLimit-UserRemaining"] == "490"
        assert answer.headers["X-RateLimit-UserReset"] == "3600"
        assert answer.headers["X-RateLimit-ClientLimit"] == "12500"
        assert answer.headers["X-RateLimit-ClientRemaining"] == "12490"
        assert answer.headers["X-RateLimit-ClientReset"] == "86400"
        assert answer.headers["X-Post-Rate-Limit-Limit"] == "1250"
        assert answer.headers["X-Post-Rate-Limit-Remaining"] == "1249"
        assert answer.headers["X-Post-Rate-Limit-Reset"] == "3600"
        credit = http.get(f"{running.url}/3/credits", headers=ANON)
        assert "X-Post-Rate-Limit-Limit" not in credit.headers
        told = credit.json()["data"]
        assert (told["UserRemaining"], told["ClientRemaining"]) == (489, 12489)
        assert abs(told["UserReset"] - time.time() - 3600) < 60
        bearer = {"Authorization": f"Bearer {running.token()['access_token']}"}
        assert http.get(f"{running.url}/3/credits", headers=bearer).json()["data"]["UserLimit"] == (
            2000
        )


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"user_credits": 20}, 3),
        ({"client_credits": 20}, 1),
        ({"posts": 2}, 2),
        ({"user_credits": 20}, 4),
    ],
)
def test_a_request_over_any_budget_gets_a_429_in_the_configured_shape(
    tmp_path: Path, http: requests.Session, options: dict[str, int], shape: int
) -> None:
    with running_sandbox(tmp_path, limit_shape=shape, **options) as running:
        answers = [
            http.post(f"{running.url}/3/image", data=PNG, headers={**ANON, **IMAGE})
            for _ in range(3)
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        refusal = answers[-1]
        assert "X-RateLimit-UserRemaining" in refusal.headers
        if shape == 3:
            error = refusal.json()["errors"][0]
            assert (error["code"], error["detail"]) == ("429", "Too Many Requests")
        elif shape == 4:
            assert "Varnish" in refusal.text
        else:
            error = refusal.json()["data"]["error"]
            assert error == "Daily client requests exceeded" or error["code"] == 429
        assert running.stats()["refused_429"] == 1
        assert len(running.images()) == 2


@pytest.mark.parametrize("style", ["epoch", "none"])
def test_the_reset_header_is_an_epoch_or_missing_by_option(
    sandbox: RunningSandbox, upload: Uploader, style: str
) -> None:
    sandbox.settings(reset=style)
    try:
        told = upload().headers.get("X-RateLimit-UserReset")
        assert told is None if style == "none" else abs(float(str(told)) - time.time()) < 3700
    finally:
        sandbox.settings(reset="seconds")


def test_unlimited_names_no_limit_and_refuses_nothing(
    tmp_path: Path, http: requests.Session
) -> None:
    with running_sandbox(tmp_path, unlimited=True, user_credits=100, posts=4) as running:
        answers = [
            http.post(f"{running.url}/3/image", data=PNG, headers={**ANON, **IMAGE})
            for _ in range(6)
        ]
        credit = http.get(f"{running.url}/3/credits", headers=ANON)
        assert {answer.status_code for answer in [*answers, credit]} == {200}
        assert not any("RateLimit" in name for each in [*answers, credit] for name in each.headers)
        assert credit.json()["data"] == {}


def test_a_budget_is_full_again_when_its_window_is_over() -> None:
    now = 1000.0
    limits = Limits(clock=lambda: now)
    options, caller = Options(user_credits=10), Caller("127.0.0.1", "a")
    assert not limits.charge(caller, options, cost=10, post=True).refused
    now += 3599
    refused = limits.charge(caller, options, cost=10, post=True)
    assert refused.refused
    assert refused.user.seconds == 1
    other = Caller("127.0.0.1", "b")
    assert not limits.charge(other, options, cost=10, post=True).refused
    now += 1
    again = limits.charge(caller, options, cost=10, post=True)
    assert not again.refused
    assert again.client.remaining == 12_500 - 20


# ----------------------------------------------------------------------------------------- images


def test_an_image_is_shown_renamed_favoured_and_deleted(
    sandbox: RunningSandbox, http: requests.Session, upload: Uploader
) -> None:
    told = upload().json()["data"]
    by_id, by_hash = (f"{sandbox.url}/3/image/{told[key]}" for key in ("id", "deletehash"))
    assert http.post(by_hash, data={"title": "new"}, headers=ANON).json()["data"] is True
    assert http.post(f"{by_id}/favorite", headers=ANON).status_code == 403
    bearer = {"Authorization": f"Bearer {sandbox.token()['access_token']}"}
    assert http.post(f"{by_id}/favorite", headers=bearer).json()["data"] == "favorited"
    shown = http.get(by_id, headers=ANON)
    assert list(shown.json()) == ["data", "success", "status"]
    seen = shown.json()["data"]
    assert (seen["title"], seen["favorite"], seen["link"]) == ("new", True, told["link"])
    assert "deletehash" not in seen
    assert http.delete(by_id, headers=ANON).status_code == 403
    assert http.delete(by_hash, headers=ANON).json() == {
        "data": True,
        "success": True,
        "status": 200,
    }
    gone = http.get(by_id, headers=ANON)
    assert gone.status_code == 404
    assert gone.json()["data"]["error"] == f"Unable to find an image with the id, {told['id']}"
    assert http.delete(by_hash, headers=ANON).status_code == 404


def test_the_owner_deletes_by_id_and_lists_the_remaining_images(
    tmp_path: Path, http: requests.Session
) -> None:
    with running_sandbox(tmp_path) as running:
        bearer = {"Authorization": f"Bearer {running.token()['access_token']}"}
        ids = [
            http.post(f"{running.url}/3/image", data=PNG, headers={**bearer, **IMAGE}).json()[
                "data"
            ]["id"]
            for _ in range(3)
        ]
        http.post(f"{running.url}/3/image", data=PNG, headers={**ANON, **IMAGE})
        assert http.delete(f"{running.url}/3/image/{ids[1]}", headers=bearer).json()["data"] is True
        url = f"{running.url}/3/account/me/images"
        mine = http.get(url, headers=bearer).json()["data"]
        assert [image["id"] for image in mine] == [ids[2], ids[0]]
        assert "deletehash" in mine[0]
        assert http.get(f"{url}/1", headers=bearer).json()["data"] == []
        assert http.get(url, headers=ANON).status_code == 403


def test_many_uploads_at_once_each_get_their_own_link(
    sandbox: RunningSandbox, http: requests.Session
) -> None:
    before = sandbox.stats()["uploads"]

    def put(seed: int) -> tuple[bytes, str]:
        content = picture("PNG", seed=seed)
        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(f"{sandbox.url}/3/image", data=content, headers={**ANON, **IMAGE})
        return content, answer.json()["data"]["link"]

    with ThreadPoolExecutor(16) as threads:
        put_there = list(threads.map(put, range(100)))
    assert len({link for _, link in put_there}) == 100
    assert all(http.get(link).content == content for content, link in put_there)
    assert sandbox.stats()["uploads"] == before + 100


# ----------------------------------------------------------------------------------------- albums


def test_an_anonymous_album_is_changed_by_its_deletehash(
    sandbox: RunningSandbox, http: requests.Session, upload: Uploader
) -> None:
    first, second = (upload().json()["data"] for _ in range(2))
    albums = f"{sandbox.url}/3/album"
    fields = {"deletehashes": [first["deletehash"]], "title": "trip"}
    made = http.post(albums, json=fields, headers=ANON).json()["data"]
    mine = f"{albums}/{made['deletehash']}"
    more = {"deletehashes[]": (None, second["deletehash"])}
    http.post(f"{mine}/add", files=more, headers=ANON)  # multipart
    third = upload(album=made["deletehash"]).json()["data"]
    shown = http.get(f"{albums}/{made['id']}", headers=ANON).json()["data"]
    assert [i["id"] for i in shown["images"]] == [first["id"], second["id"], third["id"]]
    assert (shown["title"], shown["images_count"], shown["cover"]) == ("trip", 3, first["id"])
    http.put(mine, json={"title": "journey"}, headers=ANON)
    http.delete(f"{mine}/remove_images", params={"ids": first["id"]}, headers=ANON)
    http.delete(f"{sandbox.url}/3/image/{second['deletehash']}", headers=ANON)
    left = http.get(f"{albums}/{made['id']}/images", headers=ANON).json()["data"]
    assert [image["id"] for image in left] == [third["id"]]
    hashes = {"deletehashes": [first["deletehash"], third["deletehash"]]}
    assert http.post(mine, json=hashes, headers=ANON).json()["data"] is True
    shown = http.get(f"{albums}/{made['id']}", headers=ANON).json()["data"]
    assert (shown["title"], shown["images_count"]) == ("journey", 2)
    assert http.delete(f"{albums}/{made['id']}", headers=ANON).status_code == 403
    assert http.delete(mine, headers=ANON).json()["data"] is True
    assert http.get(f"{albums}/{made['id']}", headers=ANON).status_code == 404
    assert http.get(third["link"]).content == PNG


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", ""), ("POST", "/{}"), ("PUT", "/{}"), ("POST", "/{}/add")],
)
def test_an_album_takes_forms_from_accounts_only(
    sandbox: RunningSandbox, http: requests.Session, upload: Uploader, method: str, path: str
) -> None:
    image = upload().json()["data"]
    made = http.post(f"{sandbox.url}/3/album", headers=ANON).json()["data"]
    url = f"{sandbox.url}/3/album{path.format(made['deletehash'])}"
    form = {"deletehashes[]": image["deletehash"]}
    answer = http.request(method, url, data=form, headers=ANON)
    assert (answer.status_code, answer.json()["data"]["error"]) == (400, "Bad Request")
    images = http.get(f"{sandbox.url}/3/album/{made['id']}/images", headers=ANON).json()["data"]
    assert images == []
    bearer = {"Authorization": f"Bearer {sandbox.token()['access_token']}"}
    assert http.request(method, url, data=form, headers=bearer).status_code == 200


def test_json_names_a_list_without_brackets(
    sandbox: RunningSandbox, http: requests.Session, upload: Uploader
) -> None:
    url, fields = (
        f"{sandbox.url}/3/album",
        {"deletehashes[]": [upload().json()["data"]["deletehash"]]},
    )
    made = http.post(url, json=fields, headers=ANON).json()["data"]
    assert http.get(f"{url}/{made['id']}/images", headers=ANON).json()["data"] == []


def test_images_cannot_be_added_to_another_accounts_album(
    sandbox: RunningSandbox, http: requests.Session, upload: Uploader
) -> None:
    made = http.post(f"{sandbox.url}/3/album", headers=ANON).json()["data"]
    before = len(sandbox.images())
    answer = upload(album=made["id"])
    assert answer.status_code == 400
    assert answer.json()["data"]["error"] == (
        f"You are not the owner of album '{made['id']}', which means you can't add images to it. "
        "For anonymous albums, use the album deletehash."
    )
    assert len(sandbox.images()) == before


def test_images_of_another_account_cannot_be_added_to_an_album(
    sandbox: RunningSandbox, http: requests.Session, upload: Uploader
) -> None:
    image_id = upload().json()["data"]["id"]
    answer = http.post(f"{sandbox.url}/3/album", json={"ids": [image_id]}, headers=ANON)
    assert answer.status_code == 400
    assert answer.json()["data"]["error"].startswith("You must own all the image ids to add them")


def test_concurrent_uploads_to_an_album_all_arrive(
    sandbox: RunningSandbox, http: requests.Session, upload: Uploader
) -> None:
    made = http.post(f"{sandbox.url}/3/album", headers=ANON).json()["data"]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: upload(album=made["deletehash"]), range(24)))
    shown = http.get(f"{sandbox.url}/3/album/{made['id']}", headers=ANON).json()["data"]
    assert shown["images_count"] == 24


# ------------------------------------------------------------------------------------- image host


def test_the_host_serves_the_stored_type_under_any_extension(
    http: requests.Session, upload: Uploader
) -> None:
    link = upload().json()["data"]["link"]
    assert http.get(link.replace(".png", ".gifv")).headers["Content-Type"].startswith("text/html")
    for url in (link, link.replace(".png", ".jpg"), link.replace(".png", ".gif")):
        answer = http.get(url)
        assert (answer.content, answer.headers["Content-Type"]) == (PNG, "image/png")
    head = http.head(link)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(PNG))
    assert "max-age" in head.headers["Cache-Control"]
    assert head.headers["X-Content-Type-Options"] == "nosniff"
    fresh = http.get(link, headers={"If-None-Match": head.headers["ETag"]})
    assert (fresh.status_code, fresh.content) == (304, b"")


@pytest.mark.parametrize(
    ("suffix", "size"),
    [
        ("s", (90, 90)),
        ("b", (160, 160)),
        ("t", (160, 120)),
        ("m", (320, 240)),
        ("l", (640, 480)),
        ("h", (1024, 768)),
    ],
)
def test_a_letter_after_the_id_gives_a_jpeg_thumbnail(
    http: requests.Session, upload: Uploader, suffix: str, size: tuple[int, int]
) -> None:
    told = upload(picture("PNG", size=(1600, 1200))).json()["data"]
    url = told["link"].replace(told["id"], told["id"] + suffix)
    for _ in range(2):  # the second comes from the disk
        answer = http.get(url)
        assert answer.headers["Content-Type"] == "image/jpeg"
        with Image.open(io.BytesIO(answer.content)) as image:
            assert (image.format, image.size) == ("JPEG", size)


def test_a_missing_or_deleted_image_redirects_to_removed_png(
    sandbox: RunningSandbox, http: requests.Session, upload: Uploader
) -> None:
    told = upload().json()["data"]
    http.get(told["link"].replace(told["id"], told["id"] + "s"))
    http.delete(f"{sandbox.url}/3/image/{told['deletehash']}", headers=ANON)
    thumbnail = told["link"].replace(told["id"], told["id"] + "s")
    for url in (told["link"], thumbnail, f"{sandbox.url}/abcdefg.png"):
        answer = http.get(url, allow_redirects=False)
        assert (answer.status_code, answer.headers["Location"]) == (
            302,
            f"{sandbox.url}/removed.png",
        )
    with Image.open(io.BytesIO(http.get(told["link"]).content)) as image:
        assert image.size == (161, 81)


def test_a_blocked_region_gets_one_picture_for_every_image(
    sandbox: RunningSandbox, http: requests.Session, upload: Uploader
) -> None:
    link = upload().json()["data"]["link"]
    sandbox.settings(region_blocked=True)
    try:
        answers = [http.get(url) for url in (link, f"{sandbox.url}/abcdefg.jpg")]
    finally:
        sandbox.settings(region_blocked=False)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    with Image.open(io.BytesIO(answers[0].content)) as image:
        assert image.size == (336, 478)
    assert http.get(link).content == PNG


def test_a_missing_image_of_imgurs_own_names_redirects_to_them(
    tmp_path: Path, http: requests.Session
) -> None:
    with running_sandbox(tmp_path, link_base="https://i.imgur.com") as running:
        url = f"{running.url}/abcdefg.png"
        answer = http.get(url, headers={"Host": "i.imgur.com"}, allow_redirects=False)
        assert answer.headers["Location"] == "https://i.imgur.com/removed.png"


def test_by_imgurs_names_only_their_own_part_is_served(
    sandbox: RunningSandbox, http: requests.Session, upload: Uploader
) -> None:
    link = upload().json()["data"]["link"]
    path = link.removeprefix(sandbox.url)
    api, images = {"Host": "api.imgur.com"}, {"Host": "i.imgur.com"}
    assert http.get(link, headers=images).content == PNG
    assert http.get(link, headers={**api, **ANON}).status_code == 404
    answer = http.post(f"{sandbox.url}/3/image", data=PNG, headers={**api, **ANON, **IMAGE})
    assert answer.status_code == 200
    assert http.post(f"{sandbox.url}/3/image", data=PNG, headers=images).status_code == 405
    for host in (api, images):
        answer = http.get(f"{sandbox.url}/sandbox/stats", headers=host, allow_redirects=False)
        assert answer.status_code in (302, 401)
    assert path.count("/") == 1


def test_links_begin_with_the_link_base(tmp_path: Path, http: requests.Session) -> None:
    with running_sandbox(tmp_path, link_base="https://i.imgur.com/") as running:
        told = http.post(f"{running.url}/3/image", data=PNG, headers={**ANON, **IMAGE}).json()[
            "data"
        ]
        assert told["link"] == f"https://i.imgur.com/{told['id']}.png"


# ----------------------------------------------------------------------------------------- faults

ANSWERS = sorted(name for name, known in CATALOGUE.items() if known.get("status"))


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_of_the_catalogue_is_given_once_and_stores_nothing(
    sandbox: RunningSandbox, http: requests.Session, upload: Uploader, name: str
) -> None:
    before, known = len(sandbox.images()), CATALOGUE[name]
    sandbox.fault(name)
    files = {"image": PNG}
    answer = http.post(f"{sandbox.url}/3/image", files=files, headers=ANON, allow_redirects=False)
    assert answer.status_code == known["status"]
    if "body" in known:
        assert answer.text == known["body"]
    assert ("X-RateLimit-UserLimit" in answer.headers) != known.get("edge", False)
    assert {answer.headers.get(name) for name in known.get("headers", {})} == set(
        known.get("headers", {}).values()
    )
    assert len(sandbox.images()) == before
    assert upload().status_code == 200


@pytest.mark.parametrize("shape", [1, 2, 3, 4])
@pytest.mark.parametrize("status", [400, 403, 429, 500, 503])
def test_any_status_can_come_in_any_shape(
    sandbox: RunningSandbox, upload: Uploader, status: int, shape: int
) -> None:
    sandbox.fault(str(status), shape=shape, message="Some words", headers={"Retry-After": "7"})
    answer = upload()
    assert (answer.status_code, answer.headers["Retry-After"]) == (status, "7")
    if shape == 1:
        assert answer.json()["data"]["error"] == "Some words"
    elif shape == 2:
        assert answer.json()["data"]["error"]["code"] == status
    elif shape == 3:
        assert answer.json()["errors"][0]["code"] == str(status)
    else:
        assert answer.text.startswith("<?xml")


def test_an_edge_refusal_names_no_request(sandbox: RunningSandbox, upload: Uploader) -> None:
    sandbox.fault("forbidden")
    assert upload().json()["data"] == {"error": "These actions are forbidden."}


def test_a_refusal_for_speed_has_the_wait_in_its_message(
    sandbox: RunningSandbox, upload: Uploader
) -> None:
    sandbox.fault("too_fast", minutes=12, status=429)
    answer = upload()
    assert answer.status_code == 429
    assert answer.json()["data"]["error"]["message"] == (
        "You are uploading too fast. Please wait 12 more minutes."
    )


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("no_link", None),
        ("foreign_link", "https://example.com/{id}.png"),
        ("http_link", "http://i.imgur.com/{id}.png"),
    ],
)
def test_a_stored_image_can_have_a_bad_link_by_a_fault(
    sandbox: RunningSandbox, upload: Uploader, name: str, link: str | None
) -> None:
    sandbox.fault(name)
    told = upload().json()["data"]
    assert told.get("link") == (link and link.replace("{id}", told["id"]))
    assert sandbox.content(told["id"]) == PNG


def test_rate_headers_can_be_left_out_or_overridden(
    sandbox: RunningSandbox, upload: Uploader
) -> None:
    sandbox.fault("no_rate_headers")
    assert not [name for name in upload().headers if "Rate" in name]
    sandbox.fault("pass", headers={"X-RateLimit-UserRemaining": "3"})
    answer = upload()
    assert (answer.status_code, answer.headers["X-RateLimit-UserRemaining"]) == (200, "3")


@pytest.mark.parametrize(
    ("name", "stored"),
    [("reset_mid_body", 0), ("reset_before_store", 0), ("reset_after_body", 1)],
)
def test_a_reset_stores_the_image_exactly_when_its_name_says_so(
    sandbox: RunningSandbox, upload: Uploader, name: str, stored: int
) -> None:
    content = picture("PNG", seed=1000 + len(name))
    sandbox.fault(name)
    with pytest.raises(requests.ConnectionError):
        upload(content)
    uploads = [image for image in sandbox.images() if image["size"] == len(content)]
    assert sandbox.stats()["faults_met"][name] == 1
    assert sum(sandbox.content(image["id"]) == content for image in uploads) == stored


def test_a_reset_is_a_reset_and_not_an_end(sandbox: RunningSandbox) -> None:
    sandbox.fault("reset_before_store")
    with socket.create_connection(("127.0.0.1", sandbox.port), PATIENCE) as raw:
        raw.sendall(
            b"POST /3/image HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Client-ID x\r\n"
            b"Content-Length: 3\r\n\r\nabc"
        )
        with pytest.raises(ConnectionResetError):
            raw.recv(100)


def test_a_hang_never_answers_and_ends_when_the_client_leaves(
    sandbox: RunningSandbox, http: requests.Session
) -> None:
    sandbox.fault("hang", match="credits")
    with pytest.raises(requests.ReadTimeout):
        http.get(f"{sandbox.url}/3/credits", headers=ANON, timeout=(PATIENCE, 0.2))
    assert http.get(f"{sandbox.url}/3/credits", headers=ANON).status_code == 200


def test_a_sandbox_with_a_hanging_request_still_stops(tmp_path: Path) -> None:
    with running_sandbox(tmp_path) as running:
        running.fault("hang")
        raw = socket.create_connection(("127.0.0.1", running.port), PATIENCE)
        raw.sendall(b"POST /3/image HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        running.wait_for("upload")
    with raw, contextlib.suppress(ConnectionResetError):
        assert raw.recv(100) == b""


def test_a_slow_answer_is_the_correct_response_late(
    sandbox: RunningSandbox, upload: Uploader
) -> None:
    sandbox.fault("slow_answer", seconds=0.3)
    begin = time.monotonic()
    assert upload().status_code == 200
    assert time.monotonic() - begin > 0.29


def test_a_slow_read_takes_the_body_at_its_own_pace(
    sandbox: RunningSandbox, upload: Uploader
) -> None:
    sandbox.fault("slow_read", bytes_per_second=1000)
    begin = time.monotonic()
    assert upload().status_code == 200
    assert time.monotonic() - begin > len(PNG) / 1000


def test_faults_are_met_in_order_by_those_they_match(
    sandbox: RunningSandbox, http: requests.Session, upload: Uploader
) -> None:
    sandbox.fault("503", after=1, count=2)
    sandbox.fault("500", match="GET /3/image")
    assert [upload().status_code for _ in range(4)] == [200, 503, 503, 200]
    assert http.get(f"{sandbox.url}/3/image/abcdefg", headers=ANON).status_code == 500
    sandbox.fault("404", match="link")
    assert http.get(f"{sandbox.url}/abcdefg.png").status_code == 404
    sandbox.fault("400", match="oauth")
    assert _refresh(sandbox, http, "x").status_code == 400


def test_a_count_of_zero_lasts_until_cleared(sandbox: RunningSandbox, upload: Uploader) -> None:
    sandbox.fault("502", count=0)
    assert {upload().status_code for _ in range(5)} == {502}
    sandbox.clear_faults()
    assert upload().status_code == 200


# ---------------------------------------------------------------------------------------- control


def test_the_control_api_is_json_over_http(
    sandbox: RunningSandbox, http: requests.Session, upload: Uploader
) -> None:
    control = f"{sandbox.url}/sandbox"
    told = http.post(f"{control}/faults", json={"fault": "429", "shape": 3, "count": 2})
    assert told.json() == {"queued": ["429"]}
    assert upload().status_code == 429
    assert http.delete(f"{control}/faults").json() == {"queued": []}
    link = upload().json()["data"]["link"]
    images = http.get(f"{control}/images").json()["images"]
    mine = next(image for image in images if image["id"] in link)
    stats = http.get(f"{control}/stats").json()
    assert stats["stored"][mine["sha256"]] >= 1
    assert stats["requests"]["upload"] == sandbox.stats()["requests"]["upload"]
    token = http.post(f"{control}/tokens", json={"seconds": 60}).json()["access_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    assert http.get(f"{sandbox.url}/3/account/me/images", headers=bearer).status_code == 200
    assert http.post(f"{control}/settings", json={"limit_shape": 1}).json() == {"limit_shape": 1}
    assert http.post(f"{control}/settings", json={"limit_shape": 3}).status_code == 200
    waited = http.get(f"{control}/stats", params={"wait": "upload:1", "seconds": "5"})
    assert waited.json()["uploads"] >= 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("faults", '{"fault": "no such fault"}'),
        ("faults", '{"fault": "429", "colour": 1}'),
        ("faults", '{"fault": "429", "count": "two"}'),
        ("faults", '{"fault": "429", "shape": 5}'),
        ("faults", '{"fault": "429", "headers": {"A": 1}}'),
        ("faults", "5"),
        ("faults", "{"),
        ("settings", '{"port": 1}'),
        ("settings", '{"reset": "soon"}'),
        ("settings", '{"posts": "many"}'),
        ("settings", "[]"),
        ("tokens", "5"),
        ("tokens", '{"seconds": "x"}'),
        ("tokens", "{"),
    ],
)
def test_a_bad_control_request_is_a_400_with_a_message(
    sandbox: RunningSandbox, http: requests.Session, path: str, body: str
) -> None:
    answer = http.post(f"{sandbox.url}/sandbox/{path}", data=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}])
def test_the_control_is_not_for_web_pages(
    sandbox: RunningSandbox, http: requests.Session, headers: dict[str, str]
) -> None:
    for path in ("images", "stats"):
        answer = http.get(f"{sandbox.url}/sandbox/{path}", headers=headers)
        assert answer.status_code == 403
        assert "deletehash" not in answer.text


def test_connections_are_counted_once_each(tmp_path: Path, http: requests.Session) -> None:
    with running_sandbox(tmp_path) as running:
        for _ in range(5):
            http.post(f"{running.url}/3/image", data=PNG, headers={**ANON, **IMAGE})
        assert running.stats()["connections"] == 1


# ------------------------------------------------------------------------- as a process of its own


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Start `python -m sandbox`, read its address, and kill it at the end."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "sandbox", "--port=0", f"--dir={tmp_path}", *arguments]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words[:3] == ["sandbox", "listening", "on"]
        return process, words[3]

    yield start
    for process in running:
        process.kill()
        process.communicate()


Launch = Callable[..., tuple[subprocess.Popen[str], str]]


def test_a_link_survives_kill_9_and_a_restart(launch: Launch, http: requests.Session) -> None:
    process, url = launch()
    told = http.post(f"{url}/3/image?title=kept", data=PNG, headers={**ANON, **IMAGE}).json()[
        "data"
    ]
    made = http.post(
        f"{url}/3/album", json={"deletehashes": [told["deletehash"]]}, headers=ANON
    ).json()["data"]
    process.kill()
    process.wait()
    _, url = launch()
    assert http.get(f"{url}/{told['id']}.png").content == PNG
    shown = http.get(f"{url}/3/image/{told['id']}", headers=ANON).json()["data"]
    assert shown["title"] == "kept"
    album = http.get(f"{url}/3/album/{made['id']}/images", headers=ANON).json()["data"]
    assert [image["id"] for image in album] == [told["id"]]
    assert http.delete(f"{url}/3/image/{told['deletehash']}", headers=ANON).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_with_status_0_and_no_output(
    launch: Launch, http: requests.Session, number: signal.Signals
) -> None:
    process, url = launch()
    http.post(f"{url}/3/image", data=PNG, headers={**ANON, **IMAGE})
    process.send_signal(number)
    _, complaint = process.communicate(timeout=PATIENCE)
    assert (process.returncode, complaint) == (0, "")


def test_it_ends_with_its_parent_by_option(launch: Launch) -> None:
    process, _ = launch("--exit-with-parent")
    _, complaint = process.communicate(timeout=PATIENCE)  # closes its standard input
    assert (process.returncode, complaint) == (0, "")


def test_it_does_not_outlive_a_parent_killed_by_kill_9(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'sandbox', '--port=0',"
        f" '--dir', {str(tmp_path)!r}, '--exit-with-parent'], stdin=subprocess.PIPE)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline().startswith("sandbox listening on")
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        assert parent.stdout.read() == ""  # the end comes when the sandbox has closed its output


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-such-option"],
        ["--port=many"],
        ["--port=70000"],
        ["--reset=soon"],
        ["--max-image-bytes=0"],
        ["--cert=only.pem"],
        ["--limit-shape=5"],
    ],
)
def test_a_wrong_option_exits_with_2_and_a_message(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_port_in_use_exits_with_1_and_a_message(sandbox: RunningSandbox, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sandbox", f"--port={sandbox.port}", f"--dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"sandbox cannot serve on 127.0.0.1:{sandbox.port}: ")
    assert done.stderr.count("\n") == 1


def test_help_names_every_option_and_its_reason() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    missing = [name for name in vars(Options()) if f"--{name.replace('_', '-')}" not in done.stdout]
    assert missing == []


def test_damaged_files_of_the_directory_are_left_alone(
    tmp_path: Path, http: requests.Session, caplog: pytest.LogCaptureFixture
) -> None:
    with running_sandbox(tmp_path) as running:
        kept = http.post(f"{running.url}/3/image", data=PNG, headers={**ANON, **IMAGE}).json()[
            "data"
        ]["id"]
    (tmp_path / "broken1.json").write_text("{")
    (tmp_path / "broken2.json").write_text('{"id": "x"}')
    (tmp_path / "orphan1").write_bytes(PNG)
    with running_sandbox(tmp_path) as running:
        assert [image["id"] for image in running.images()] == [kept]
        assert running.stats()["stored"] == {running.images()[0]["sha256"]: 1}
    assert (tmp_path / "broken1.json").exists()
    assert len(caplog.records) == 2


def test_options_that_may_not_change_do_not(sandbox: RunningSandbox) -> None:
    unchangeable: dict[str, Any] = {"dir": "/"}
    with pytest.raises(ValueError, match="dir is not a setting"):
        sandbox.settings(**unchangeable)
