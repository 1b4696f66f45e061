"""Tests of a bucket as the target: the whole service, with a real S3 server."""

from __future__ import annotations

import hashlib
from pathlib import Path

import requests

from tests.origin import IMAGES, Origin
from tests.s3_server import S3Server
from tests.service import running_service

NAMES = ("avif-still.avif", "webp-lossy-vp8.webp", "heic-still.heic", "bmp-v4.bmp", "png-rgb.png")


def test_images_land_as_they_are_under_their_hash(
    origin: Origin, s3: S3Server, tmp_path: Path
) -> None:
    urls = [origin.image(name) for name in NAMES]
    with running_service(tmp_path / "temp", **s3.options()) as service:
        job_id = service.submit(urls)
        status = service.finish(job_id)
        records = service.records(job_id)
    assert status["uploaded"]["failed"] == []
    for name, url in zip(NAMES, urls, strict=True):
        image = (IMAGES / name).read_bytes()
        assert requests.get(records[url]["link"], timeout=10).content == image
        sha256 = hashlib.sha256(image).hexdigest()
        assert s3.objects()[f"i/{sha256}.{name.rpartition('.')[2]}"] == image
        assert records[url]["converted_from"] is None
