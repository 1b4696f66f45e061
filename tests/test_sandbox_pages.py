"""Tests of the sandbox's pages: an album and an image, as imgur.com shows them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from sandbox.testing import RunningSandbox, running_sandbox
from tests.origin import IMAGES

ANON = {"Authorization": "Client-ID test"}
HOSTILE = '<script>alert("1")</script>'


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[RunningSandbox]:
    with running_sandbox(tmp_path, unlimited=True) as running:
        yield running


def uploaded(sandbox: RunningSandbox, name: str, **texts: str) -> dict[str, str]:
    files = {"image": (name, (IMAGES / name).read_bytes())}
    url = f"{sandbox.url}/3/image"
    answer = requests.post(url, files=files, data=texts, headers=ANON, timeout=20)
    assert answer.status_code == 200, answer.text
    image: dict[str, str] = answer.json()["data"]
    return image


def made_album(sandbox: RunningSandbox, images: list[dict[str, str]], title: str) -> str:
    body = {"deletehashes": [image["deletehash"] for image in images], "title": title}
    answer = requests.post(f"{sandbox.url}/3/album", json=body, headers=ANON, timeout=20)
    album_id: str = answer.json()["data"]["id"]
    return album_id


def test_the_page_of_an_album_has_its_title_and_its_images_in_order(
    sandbox: RunningSandbox,
) -> None:
    images = [
        uploaded(sandbox, "png-palette.png", title="first & best"),
        uploaded(sandbox, "jpeg-baseline.jpg"),
        uploaded(sandbox, "gif-89a.gif", description="last"),
    ]
    album_id = made_album(sandbox, images[::-1], "Trip")
    page = requests.get(f"{sandbox.url}/a/{album_id}", timeout=20)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "<h1>Trip</h1>" in page.text
    assert "first &amp; best" in page.text
    paths = re.findall(r'src="([^"]+)"', page.text)
    assert [sandbox.url + path for path in paths] == [image["link"] for image in images[::-1]]
    assert all(requests.get(image["link"], timeout=20).ok for image in images)


def test_texts_of_users_are_no_html(sandbox: RunningSandbox) -> None:
    image = uploaded(sandbox, "png-palette.png", title=HOSTILE, description=HOSTILE)
    album_id = made_album(sandbox, [image], HOSTILE)
    for path in (f"/a/{album_id}", f"/{image['id']}"):
        page = requests.get(sandbox.url + path, timeout=20)
        assert "<script" not in page.text
        assert html.escape(HOSTILE) in page.text
        policy = page.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; img-src 'self'; style-src 'sha256-")
        assert "unsafe" not in policy


def test_the_page_of_an_image_shows_it(sandbox: RunningSandbox) -> None:
    image = uploaded(sandbox, "png-palette.png", title="one")
    page = requests.get(f"{sandbox.url}/{image['id']}", timeout=20)
    assert page.status_code == 200
    assert "<title>one</title>" in page.text
    assert f'src="/{image["id"]}.png"' in page.text


@pytest.mark.parametrize("path", ["/a/abcdefg", "/abcdefg"])
def test_a_page_that_does_not_exist_is_a_404_and_no_picture(
    sandbox: RunningSandbox, path: str
) -> None:
    page = requests.get(sandbox.url + path, timeout=20)
    assert (page.status_code, page.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
