"""Tests of fetch.imgur: pages of Imgur as URLs of images, and its placeholders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from imageload.errors import DownloadError
from imageload.fetch.guard import check_url
from imageload.fetch.imgur import PLACEHOLDERS, image_target
from sandbox.testing import RunningSandbox
from tests.downloads import MakeDownload
from tests.origin import IMAGES, Origin, answer, redirect
from tests.service import running_service, wired

PNG = (IMAGES / "png-palette.png").read_bytes()
BLOCKED = (
    IMAGES / "png-1-pixel.png"
).read_bytes()  # in place of Imgur's, which is not ours to ship


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
    options = wired(sandbox, origin_proxy=origin.url)
    with running_service(tmp_path / "temp", **options) as service:
        job_id = service.submit(urls)
        status = service.finish(job_id)
        records = service.records(job_id)
    assert len(status["uploaded"]["completed"]) == 1
    assert records[urls[0]]["type"] == "image/png"
    assert records[urls[1]]["error"]["code"] == "not_image"
    assert "the page of an Imgur album" in records[urls[1]]["error"]["message"]
    assert list(origin.requests) == ["http://i.imgur.com/AbCdEfG.jpg"]


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


def test_the_placeholder_of_a_blocked_region_is_no_image(
    origin: Origin, make_download: MakeDownload, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {hashlib.sha256(BLOCKED).hexdigest(): [*PLACEHOLDERS.values()][-1]}
    monkeypatch.setattr("imageload.fetch.imgur.PLACEHOLDERS", known)
    origin.page("/AbCdEfG.jpg", answer(BLOCKED))
    error = make_download().fails_with(f"{origin.url}/AbCdEfG.jpg", "removed_at_origin")
    assert error.message == "Imgur does not show its images in the region of this server."
    assert (error.status_code, error.transient) == (200, False)
