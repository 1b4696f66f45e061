"""A job into a bucket, with a kill -9 in its middle: after the restart each image is there once."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests

from tests.origin import IMAGES, Origin, answer, running_origin
from tests.s3_server import Rclone, S3Server, running_s3
from tests.service import ServiceProcess
from tests.waiting import PATIENCE, wait_until

FORMATS = (
    "jpeg-baseline.jpg",
    "jpeg-progressive.jpg",
    "jpeg-cmyk.jpg",
    "png-rgb.png",
    "png-palette.png",
    "apng-animated.png",
    "gif-89a.gif",
    "webp-lossy-vp8.webp",
    "avif-still.avif",
    "heic-still.heic",
    "bmp-v4.bmp",
    "tiff-little-endian.tif",
)


@dataclass(slots=True, kw_only=True)
class Counts:
    """What was seen, in this order."""

    images: int
    puts_at_the_kill: int
    puts_after_the_restart: int = 0
    failed: int = 0
    marked: int = 0
    objects: int = 0
    links: int = 0
    closed_links: int = 0
    """Links that do not open with the bytes that were posted."""
    puts_of_the_same_again: int = 0
    objects_after_one_undo: int = 0
    objects_after_both: int = 0

    def is_right(self) -> bool:
        """Every image is there once, and after the undo none is."""
        wrong = self.failed, self.marked, self.closed_links, self.puts_of_the_same_again
        there = {self.objects, self.links, self.objects_after_one_undo}
        return not any(wrong) and there == {self.images} and not self.objects_after_both


def pictures(origin: Origin, count: int) -> dict[str, bytes]:
    """So many different images of twelve formats, by URL."""
    found = {}
    for number in range(count):
        name = FORMATS[number % len(FORMATS)]
        image = (IMAGES / name).read_bytes() + number.to_bytes(4, "big")
        found[origin.page(f"/{number}-{name}", answer(image))] = image
    return found


def killed_once(folder: Path, s3: S3Server, images: dict[str, bytes]) -> Counts:
    """Load `images` with a kill in the middle, load them again, and undo both jobs."""

    def start() -> ServiceProcess:
        return ServiceProcess(
            "--port=0",
            "--allow-origin=127.0.0.1",
            f"--temp-dir={folder}",
            f"--store={folder / 'journal'}",
            *s3.flags(),
            environment=s3.environment,
        )

    urls, service = [*images], start()
    job_id = service.submit(urls)
    wait_until(lambda: len(s3.sent("PUT")) >= len(urls) // 3)
    service.stop(signal.SIGKILL)
    counts = Counts(images=len(urls), puts_at_the_kill=len(s3.sent("PUT")))
    service = start()
    try:
        _count_first(counts, service, job_id, s3, images)
        puts = len(s3.sent("PUT"))
        again = service.submit(urls)
        service.finish(again)
        counts.puts_of_the_same_again = len(s3.sent("PUT")) - puts
        _undo(service, again)
        counts.objects_after_one_undo = len(s3.objects())
        _undo(service, job_id)
        counts.objects_after_both = len(s3.objects())
    finally:
        service.stop()
    return counts


def _count_first(
    counts: Counts, service: ServiceProcess, job_id: str, s3: S3Server, images: dict[str, bytes]
) -> None:
    status: dict[str, Any] = service.finish(job_id)["uploaded"]
    counts.puts_after_the_restart = len(s3.sent("PUT")) - counts.puts_at_the_kill
    records = service.records(job_id)
    links = _links(records, [*images])
    counts.failed = len(status["failed"])
    counts.marked = sum(record["maybe_duplicate"] for record in records.values())
    counts.objects, counts.links = len(s3.objects()), len({*links.values()})
    with requests.Session() as browser:
        for url, link in links.items():
            shown = browser.get(link, timeout=PATIENCE)
            counts.closed_links += shown.status_code != 200 or shown.content != images[url]


def _links(records: dict[str, dict[str, Any]], urls: Sequence[str]) -> dict[str, str]:
    return {url: records[url]["link"] for url in urls if records[url]["link"] is not None}


def _undo(service: ServiceProcess, job_id: str) -> None:
    url = f"{service.url}/v1/images/upload/{job_id}?purge=true"
    assert service.session.delete(url, timeout=PATIENCE).status_code == 202
    service.finish(job_id)


def measure(size: int) -> bool:
    """Print the Counts of so many images; True if they are right."""
    with tempfile.TemporaryDirectory() as folder, running_origin() as origin:
        (Path(folder) / "rclone").mkdir()
        rclone = Rclone(Path(folder) / "rclone")
        try:
            with running_s3(rclone) as s3:
                counts = killed_once(Path(folder), s3, pictures(origin, size))
        finally:
            rclone.close()
    for name, count in asdict(counts).items():
        print(f"{name:24} {count:>7,}")
    return counts.is_right()
