"""Tests of pages of Imgur's albums and gallery as URLs: an album of one image is that image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from imageload.errors import DownloadError
from imageload.fetch.guard import check_url
from imageload.fetch.imgur import Album, album_of, only_image
from sandbox.testing import RunningSandbox
from tests.imgur_server import ImgurServer, Received, imgur_server, landed, rejected, response
from tests.origin import IMAGES, Origin, answer
from tests.service import RunningService, running_service, wired
from tests.waiting import PATIENCE

ANON = {"Authorization": "Client-ID somebody"}
NAMES = ("png-palette.png", "png-rgb.png", "jpeg-gray.jpg")


def make_album(sandbox: RunningSandbox, *names: str) -> tuple[str, list[str]]:
    """An album of these files, made by somebody else: its id, and the links of its images."""
    images = []
    for name in names:
        sent = (IMAGES / name).read_bytes()
        files = {"image": (name, sent)}
        made = requests.post(f"{sandbox.url}/3/image", files=files, headers=ANON, timeout=PATIENCE)
        images.append(made.json()["data"])
    body = {"deletehashes": [image["deletehash"] for image in images]}
    made = requests.post(f"{sandbox.url}/3/album", json=body, headers=ANON, timeout=PATIENCE)
    return made.json()["data"]["id"], [image["link"] for image in images]


@pytest.fixture
def service(tmp_path: Path, sandbox: RunningSandbox) -> Iterator[RunningService]:
    with running_service(tmp_path / "temp", **wired(sandbox, blocked_wait_seconds=0.1)) as running:
        yield running


def load(service: RunningService, url: str) -> dict[str, Any]:
    """The record of the only image of a finished job."""
    job_id = service.submit([url], dedupe=False)
    service.finish(job_id)
    (record,) = service.records(job_id).values()
    return record


@pytest.mark.parametrize(
    ("url", "album"),
    [
        ("https://imgur.com/a/AbCdEfG", Album("AbCdEfG", False)),
        ("https://m.imgur.com/a/a-title-AbCdE#3", Album("AbCdE", False)),
        ("https://imgur.io/a/AbCdEfG/", Album("AbCdEfG", False)),
        ("https://imgur.com/a/t%C3%AFtle-AbCdEfG?x=1", Album("AbCdEfG", False)),
        ("https://imgur.com/gallery/AbCdEfG", Album("AbCdEfG", True)),
        ("https://imgur.com/gallery/a-nice-title-AbCdEfG", Album("AbCdEfG", True)),
        ("https://imgur.com/t/cats/AbCdEfG", Album("AbCdEfG", True)),
        ("https://imgur.com/r/pics/AbCdEfG", Album("AbCdEfG", True)),
        ("https://imgur.com/gallery/hot", None),
        ("https://imgur.com/gallery/hot/viral", None),
        ("https://imgur.com/user/somebody/posts", None),
        ("https://imgur.com/AbCdEfG", None),
        ("https://images.example/a/AbCdEfG", None),
    ],
)
def test_the_page_of_an_album_has_its_id(url: str, album: Album | None) -> None:
    assert album_of(check_url(url)) == album


def test_an_album_of_one_image_is_that_image(
    service: RunningService, sandbox: RunningSandbox
) -> None:
    album, links = make_album(sandbox, "png-rgb.png")
    for page in (f"a/{album}", f"a/a-title-{album}", f"gallery/{album}", f"t/cats/{album}"):
        record = load(service, f"http://imgur.com/{page}")
        assert (record["state"], record["type"]) == ("completed", "image/png")
        assert record["link"] not in links, "it is an image of ours"


@pytest.mark.parametrize("names", [NAMES, ()])
def test_an_album_of_another_number_of_images_names_them(
    service: RunningService, sandbox: RunningSandbox, names: tuple[str, ...]
) -> None:
    album, links = make_album(sandbox, *names)
    error = load(service, f"http://imgur.com/a/{album}")["error"]
    assert error["code"] == "not_image"
    if not names:
        assert error["message"] == "This Imgur album has no images."
        return
    assert error["message"] == (
        "This Imgur album has 3 images, and a URL stands for one. Post the addresses of those that "
        f"you want: {', '.join(links)}."
    )


def test_of_a_large_album_the_first_images_are_named() -> None:
    target = check_url("https://imgur.com/a/AbCdEfG")
    links = [f"https://i.imgur.com/{number:07}.png" for number in range(500)]
    with pytest.raises(DownloadError, match=r"0000019\.png and 480 more\.$"):
        only_image(target, Album("AbCdEfG", False), links)


def test_an_album_that_imgur_does_not_show_says_so(service: RunningService) -> None:
    error = load(service, "http://imgur.com/a/AbCdEfG")["error"]
    assert error["code"] == "removed_at_origin"
    assert "no such album any more, or its owner keeps it private" in error["message"]


def test_a_page_of_the_gallery_that_is_no_album_is_an_image(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    png = (IMAGES / "png-rgb.png").read_bytes()
    origin.pages["http://i.imgur.com/AbCdEfG.jpg"] = answer(png)
    options = wired(sandbox, origin_proxy=origin.url)
    with running_service(tmp_path / "temp", **options) as service:
        assert load(service, "http://imgur.com/gallery/a-cat-AbCdEfG")["state"] == "completed"


def test_an_album_is_asked_for_again_when_imgur_serves_albums(
    service: RunningService, sandbox: RunningSandbox
) -> None:
    album, _ = make_album(sandbox, "png-rgb.png")
    asked = sandbox.stats()["requests"]["album"]
    sandbox.fault("over_capacity", match="album", count=2)
    assert load(service, f"http://imgur.com/a/{album}")["state"] == "completed"
    assert sandbox.stats()["requests"]["album"] == asked + 3


def test_a_private_album_and_videos_are_no_images(tmp_path: Path, origin: Origin) -> None:
    def respond(request: Received) -> bytes:
        match request.line:
            case "GET /3/album/private/images":
                return rejected("Unauthorized", 403)
            case "GET /3/album/mixed12/images":
                found = [
                    {"type": "video/mp4", "link": "https://i.imgur.com/video12.mp4"},
                    {"type": "image/png", "link": origin.image("png-rgb.png")},
                    "nonsense",
                ]
                body = {"data": found, "success": True, "status": 200}
                return response(json.dumps(body).encode())
            case "POST /3/upload":
                return landed(imgur.url, "AbCdEfG")
        return rejected("Nothing here", 404)

    imgur: ImgurServer
    with imgur_server(respond) as imgur:
        options = {"imgur_base_url": imgur.url, "imgur_link_base": imgur.url}
        with running_service(tmp_path / "temp", **options) as service:
            private = load(service, "http://imgur.com/a/private")
            mixed = load(service, "http://imgur.com/a/mixed12")
    assert private["error"]["code"] == "removed_at_origin"
    assert mixed["state"] == "completed"
