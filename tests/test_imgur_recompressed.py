"""Tests of images that Imgur stores as others than were sent: JPEGs in place of PNGs, upright."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from PIL import Image

from sandbox.testing import RunningSandbox
from tests.jobs import all_landed, delete
from tests.origin import IMAGES, Origin, answer
from tests.service import account, running_service, wired
from tests.waiting import PATIENCE, wait_until


def large_png() -> bytes:
    """1.1 MB of random pixels."""
    out = io.BytesIO()
    pixels = random.Random(1).randbytes(3 * 600 * 600)
    Image.frombytes("RGB", (600, 600), pixels).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("picture", "extension"),
    [
        (large_png, "jpg"),
        ((IMAGES / "tiff-rgb-big-endian.tif").read_bytes, "png"),
        ((IMAGES / "jpeg-exif-orientation-rectangle.jpg").read_bytes, "jpg"),
    ],
)
def test_the_link_is_that_of_imgur_whatever_it_has_made_of_the_image(
    tmp_path: Path,
    origin: Origin,
    sandbox: RunningSandbox,
    picture: Callable[[], bytes],
    extension: str,
) -> None:
    sent = picture()
    sandbox.settings(recompress=True)
    url = origin.page("/image", answer(sent))
    again = origin.page("/again", answer(sent))
    options = wired(sandbox, max_bytes=2_000_000)
    with running_service(tmp_path / "temp", **options) as service:
        job_id = service.submit([url])
        assert all_landed(service, [job_id])
        (record,) = service.records(job_id).values()
        assert record["bytes"] == len(sent), "of the image as it was downloaded"
        stored = requests.get(record["link"], timeout=PATIENCE)
        assert record["link"].endswith(f".{extension}")
        assert stored.content != sent
        assert (
            Image.open(io.BytesIO(stored.content)).format
            == {"png": "PNG", "jpg": "JPEG"}[extension]
        )
        other = service.submit([again])
        assert all_landed(service, [other])
        (reused,) = service.records(other).values()
        assert (reused["link"], reused["reused"]) == (record["link"], True)
        assert service.get("/v1/images").json()["uploaded"].count(record["link"]) == 2
        delete(service, job_id, "?purge=true")
        delete(service, other, "?purge=true")
        wait_until(lambda: not sandbox.images())


def test_an_accounts_lost_image_is_found_although_it_was_recompressed(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.settings(recompress=True)
    sandbox.fault("reset_after_body", match="upload")
    tiff = (IMAGES / "tiff-rgb-big-endian.tif").read_bytes()
    with running_service(tmp_path / "temp", **wired(sandbox, **account(sandbox))) as service:
        job_id = service.submit([origin.page("/image", answer(tiff))])
        assert all_landed(service, [job_id])
        (record,) = service.records(job_id).values()
    (image,) = sandbox.images()
    assert record["link"].endswith(f"/{image['id']}.png")
