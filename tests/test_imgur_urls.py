"""Tests of fetch.imgur: pages of Imgur as URLs of images, and its placeholders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from imageload.errors import DownloadError
from imageload.fetch.guard import check_url
from imageload.fetch.imgur import PLACEHOLDERS, image_target
from imageload.settings import SANDBOX_CLIENT_ID
from sandbox.testing import RunningSandbox, running_sandbox
from tests.downloads import Download, MakeDownload
from tests.origin import IMAGES, Origin, answer, redirect
from tests.service import running_service, wired
from tests.waiting import PATIENCE

PNG = (IMAGES / "png-palette.png").read_bytes()


@pytest.mark.parametrize(
    ("page", "image"),
    [
        ("https://imgur.com/AbCdEfG", "https://i.imgur.com/AbCdEfG.jpg"),
        ("https://imgur.com/AbCdE", "https://i.imgur.com/AbCdE.jpg"),
        ("https://imgur.com/AbCdEfG/", "https://i.imgur.com/AbCdEfG.jpg"),
        ("https://imgur.com/AbCdEfG?1#0", "https://i.imgur.com/AbCdEfG.jpg"),
        ("https://imgur.com/a-nice-title-AbCdEfG", "https://i.imgur.com/AbCdEfG.jpg"),
        ("https://imgur.com/AbCdEfG.png", "https://i.imgur.com/AbCdEfG.png"),
        ("https://imgur.com/AbCdEfGm.jpg", "https://i.imgur.com/AbCdEfGm.jpg"),
        ("http://www.imgur.com/AbCdEfG", "http://i.imgur.com/AbCdEfG.jpg"),
        ("https://m.imgur.com/AbCdEfG", "https://i.imgur.com/AbCdEfG.jpg"),
        ("https://imgur.io/AbCdEfG", "https://i.imgur.com/AbCdEfG.jpg"),
        ("https://IMGUR.com./AbCdEfG", "https://i.imgur.com/AbCdEfG.jpg"),
        ("https://i.imgur.com/AbCdEfG", "https://i.imgur.com/AbCdEfG.jpg"),
        ("https://i.imgur.com/AbCdEfG.gifv", "https://i.imgur.com/AbCdEfG.gif"),
        ("https://imgur.com/AbCdEfG.GIFV", "https://i.imgur.com/AbCdEfG.gif"),
        ("https://imgur.com:8443/AbCdEfG", "https://i.imgur.com:8443/AbCdEfG.jpg"),
    ],
)
def test_the_page_of_an_image_leads_to_the_image(page: str, image: str) -> None:
    before = check_url(page)
    found = image_target(before)
    assert (found.url, found.host) == (image, "i.imgur.com")
    assert (found.scheme, found.port) == (before.scheme, before.port)
    assert check_url(image) == found


@pytest.mark.parametrize(
    "url",
    [
        "https://i.imgur.com/AbCdEfG.png",
        "https://i.imgur.com/AbCdEfG.png?1",
        "https://i.imgur.io/AbCdEfG.jpg",
        "https://imgur.com/",
        "https://imgur.com/upload",
        "https://imgur.com/privacy",
        "https://imgur.com/download/AbCdEfG",
        "https://imgur.com/AbC",
        "https://imgur.com/AbCdE%46G",
        "https://i.stack.imgur.com/AbCdEfG.png",
        "https://imgur.com.example/AbCdEfG",
        "https://notimgur.com/AbCdEfG",
        "https://images.example/AbCdEfG",
    ],
)
def test_any_other_url_stays_as_it_is(url: str) -> None:
    assert image_target(check_url(url)) == check_url(url)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://imgur.com/a/AbCdEfG", "the page of an Imgur album"),
        ("https://m.imgur.com/a/a-title-AbCdEfG#3", "the page of an Imgur album"),
        ("https://imgur.io/a/AbCdE", "the page of an Imgur album"),
        ("https://imgur.com/gallery/AbCdEfG", "a page of Imgur's gallery"),
        ("https://imgur.com/gallery/a-title-AbCdEfG", "a page of Imgur's gallery"),
        ("https://imgur.com/t/cats/AbCdEfG", "a page of Imgur's gallery"),
        ("https://imgur.com/r/pics/AbCdEfG", "a page of Imgur's gallery"),
    ],
)
def test_a_page_of_several_images_says_what_it_is_and_what_to_do(url: str, kind: str) -> None:
    with pytest.raises(DownloadError) as caught:
        image_target(check_url(url))
    assert caught.value.code == "not_image"
    assert caught.value.message == (
        f"This is {kind}. Open it, and post the addresses of its images, "
        "which begin with https://i.imgur.com/."
    )


def test_a_job_with_pages_of_imgur_uploads_their_images(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    origin.pages["http://i.imgur.com/AbCdEfG.jpg"] = answer(PNG)
    urls = ["http://imgur.com/AbCdEfG", "http://imgur.com/a/AbCdEfG"]
    options = wired(sandbox, origin_proxy=origin.url, imgur_client_id=SANDBOX_CLIENT_ID)
    with running_service(tmp_path / "temp", **options) as service:
        job_id = service.submit(urls)
        status = service.finish(job_id)
        records = service.records(job_id)
    assert len(status["uploaded"]["completed"]) == 1
    assert records[urls[0]]["type"] == "image/png"
    assert records[urls[1]]["error"]["code"] == "not_image"
    assert "the page of an Imgur album" in records[urls[1]]["error"]["message"]
    assert list(origin.requests) == ["http://i.imgur.com/AbCdEfG.jpg"]


@pytest.fixture
def imgur(tmp_path: Path) -> Iterator[RunningSandbox]:
    """A sandbox as i.imgur.com."""
    with running_sandbox(tmp_path / "sandbox", unlimited=True) as running:
        yield running


def at_imgur(sandbox: RunningSandbox, make_download: MakeDownload) -> tuple[Download, str]:
    """A Download for which `sandbox` is i.imgur.com, and what URLs there begin with."""
    name = f"i.imgur.com:{sandbox.port}"
    return make_download(resolve=[f"{name}:127.0.0.1"]), f"http://{name}"


@pytest.mark.parametrize("host", ["i.imgur.com", "imgur.io", "i.imgur.io"])
def test_a_redirect_to_imgurs_placeholder_is_no_image(
    origin: Origin, make_download: MakeDownload, host: str
) -> None:
    hosts = ["images.example", host]
    download = make_download(resolve=[f"{name}:{origin.port}:127.0.0.1" for name in hosts])
    origin.page("/first.jpg", redirect(f"http://{host}:{origin.port}/second.jpg"))
    origin.page("/second.jpg", redirect("/removed.png"))
    origin.page("/removed.png", answer(PNG))
    error = download.fails_with(
        f"http://images.example:{origin.port}/first.jpg", "removed_at_origin"
    )
    assert error.message == "Imgur has removed this image."
    assert origin.requests["/removed.png"] == 0


def test_the_picture_of_a_blocked_region_is_no_image(
    imgur: RunningSandbox, make_download: MakeDownload, monkeypatch: pytest.MonkeyPatch
) -> None:
    download, base = at_imgur(imgur, make_download)
    imgur.settings(region_blocked=True)
    # The sandbox has a picture of its own in place of Imgur's, which is not ours to ship.
    theirs = [error for error in PLACEHOLDERS.values() if error[0] == "refused_at_origin"]
    sent = requests.get(f"{imgur.url}/AbCdEfG.jpg", timeout=PATIENCE).content
    known = dict(zip([hashlib.sha256(sent).hexdigest()], theirs, strict=True))
    monkeypatch.setattr("imageload.fetch.imgur.PLACEHOLDERS", known)
    error = download.fails_with(f"{base}/AbCdEfG.jpg", "refused_at_origin")
    assert "Imgur does not show its images in the region of this server." in error.message
    assert (error.status_code, error.transient) == (200, False)


def test_imgurs_429_to_data_centres_is_an_error_of_its_own_with_a_hint(
    imgur: RunningSandbox, make_download: MakeDownload
) -> None:
    download, base = at_imgur(imgur, make_download)
    imgur.settings(data_centre=True)
    error = download.fails_with(f"{base}/AbCdEfG.jpg", "throttled_at_origin")
    assert (error.code, error.status_code, error.transient) == ("refused_at_origin", 429, True)
    assert "data centres" in error.message
    assert "--origin-proxy" in error.message


@pytest.mark.parametrize(
    ("host", "status", "name", "wait"),
    [
        ("i.imgur.com", "403 Forbidden", "refused_at_origin", None),
        ("imgur.io", "429 Too Many Requests", "throttled_at_origin", 7),
        ("i.imgur.com", "503 Service Unavailable", "origin_busy", 7),
        ("i.imgur.com", "404 Not Found", "http_status", None),
        ("images.example", "429 Too Many Requests", "origin_busy", 7),
        ("images.example", "403 Forbidden", "http_status", None),
    ],
)
def test_only_imgurs_403_and_429_refuse_this_server(
    origin: Origin,
    make_download: MakeDownload,
    host: str,
    status: str,
    name: str,
    wait: float | None,
) -> None:
    download = make_download(resolve=[f"{host}:{origin.port}:127.0.0.1"])
    origin.page("/AbCdEfG.jpg", answer(b"", status, Retry_After="7"))
    error = download.fails_with(f"http://{host}:{origin.port}/AbCdEfG.jpg", name)
    assert error.retry_after == wait


def test_images_that_imgur_refuses_fail_together_when_it_refuses_for_long(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    origin.default = answer(b"", "429 Too Many Requests", Retry_After="0")
    options = wired(sandbox, origin_proxy=origin.url, host_failures=2, host_give_up_seconds=0.2)
    with running_service(tmp_path / "temp", **options, max_tries=1_000) as service:
        job_id = service.submit([f"http://i.imgur.com/AbCdEf{n}.jpg" for n in range(9)])
        service.finish(job_id)
        failures = [record["error"] for record in service.records(job_id).values()]
    assert {failure["code"] for failure in failures} == {"refused_at_origin"}
    for failure in failures:
        assert failure["message"].startswith("The origin has failed for"), "not each by itself"
        assert "--origin-proxy" in failure["message"]


def test_an_operator_names_pictures_that_origins_send_in_place_of_images(
    tmp_path: Path, imgur: RunningSandbox
) -> None:
    imgur.settings(region_blocked=True)
    url = f"{imgur.url}/AbCdEfG.jpg"
    sent = requests.get(url, timeout=PATIENCE).content
    options: dict[str, Any] = wired(imgur)
    with running_service(tmp_path / "temp", **options) as service:
        assert service.finish(service.submit([url]))["uploaded"]["completed"], "it is an image"
    options["reject_sha256"] = (hashlib.sha256(sent).hexdigest().upper(),)
    with running_service(tmp_path / "temp", **options) as service:
        job_id = service.submit([url])
        service.finish(job_id)
        (failed,) = service.records(job_id).values()
    assert failed["error"]["code"] == "removed_at_origin"
    assert "--reject-sha256" in failed["error"]["message"]
