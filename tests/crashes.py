"""Kill a service with -9 at random moments and count lost and duplicate images."""

from __future__ import annotations

import contextlib
import hashlib
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from sandbox.testing import RunningSandbox, running_sandbox
from tests.origin import IMAGES, Origin, answer, running_origin
from tests.service import ServiceProcess

_PNG = (IMAGES / "png-palette.png").read_bytes()
_LONGEST_LIFE_SECONDS = 1.5


@dataclass(slots=True)
class Counts:
    """The counts at the end. `lost`, `wrong`, `unmarked` and `left` must be 0."""

    kills: int = 0
    jobs: int = 0
    images: int = 0
    lost: int = 0
    """Images of accepted jobs that are not completed."""
    wrong: int = 0
    """Links to other bytes."""
    marked: int = 0
    """Images marked as maybe duplicates."""
    twice: int = 0
    """Images that are on Imgur twice."""
    unmarked: int = 0
    """Images that are on Imgur twice without a mark."""
    left: int = 0
    """Files and folders in the temp directory at the end."""


class Crashes:
    """Jobs of `size` images for services that are killed, one after the other."""

    def __init__(self, folder: Path, sandbox: RunningSandbox, origin: Origin, size: int) -> None:
        self.counts = Counts()
        self._folder = folder
        self._sandbox = sandbox
        self._origin = origin
        self._size = size
        self._jobs: dict[str, list[str]] = {}
        self._sha256s: dict[str, str] = {}
        self._temp = folder / "temp"
        self._temp.mkdir()

    def kill_one(self, chance: random.Random) -> None:
        """Start a service, post jobs, and kill it at a random moment."""
        service = self._start()
        life = threading.Timer(
            chance.uniform(0, _LONGEST_LIFE_SECONDS), service.process.send_signal, [signal.SIGKILL]
        )
        life.start()
        with contextlib.suppress(requests.RequestException):
            while True:
                urls = self._new_urls()
                self._jobs[service.submit(urls, dedupe=False)] = urls
                self.counts.jobs += 1
                time.sleep(chance.uniform(0, 0.4))  # so that they meet it at different work
        life.join()
        service.stop(signal.SIGKILL)
        self.counts.kills += 1

    def finish(self, seconds: float) -> Counts:
        """Finish all jobs in a last service, and count."""
        service = self._start()
        try:
            for job_id in self._jobs:
                service.finish(job_id, seconds)
            images = self._sandbox.images()
            stored = Counter(image["sha256"] for image in images)
            by_id = {image["id"]: image["sha256"] for image in images}
            for job_id, urls in self._jobs.items():
                self._count(service.records(job_id), urls, stored, by_id)
        finally:
            assert service.stop() == 0, "".join(service.log)
        self.counts.left = sum(path.is_file() for path in self._temp.rglob("*"))
        return self.counts

    def _start(self) -> ServiceProcess:
        return ServiceProcess(
            "--port=0",
            "--allow-origin=127.0.0.1",
            "--per-host=32",
            f"--store={self._folder / 'journal'}",
            f"--temp-dir={self._temp}",
            f"--imgur-base-url={self._sandbox.url}",
            f"--imgur-link-base={self._sandbox.url}",
            environment={"IMGUR_CLIENT_ID": "test"},
        )

    def _new_urls(self) -> list[str]:
        urls = []
        for _ in range(self._size):
            body = _PNG + len(self._sha256s).to_bytes(4, "big")
            url = self._origin.page(f"/{len(self._sha256s)}.png", answer(body))
            self._sha256s[url] = hashlib.sha256(body).hexdigest()
            urls.append(url)
        return urls

    def _count(
        self,
        records: dict[str, dict[str, Any]],
        urls: list[str],
        stored: Counter[str],
        by_id: dict[str, str],
    ) -> None:
        counts = self.counts
        counts.images += len(urls)
        for url in urls:
            record, sha256 = records[url], self._sha256s[url]
            counts.lost += record["state"] != "completed"
            counts.marked += record["maybe_duplicate"]
            if record["link"] is not None:
                image_id = record["link"].rpartition("/")[2].partition(".")[0]
                counts.wrong += by_id.get(image_id) != sha256
            counts.twice += stored[sha256] > 1
            counts.unmarked += stored[sha256] > 1 and not record["maybe_duplicate"]


def killed_again_and_again(folder: Path, kills: int, *, size: int = 50, seed: int = 0) -> Counts:
    """Return the Counts after at least `kills` kills at moments derived from `seed`."""
    chance = random.Random(seed)
    with (
        running_origin() as origin,
        running_sandbox(folder / "sandbox", unlimited=True) as sandbox,
    ):
        crashes = Crashes(folder, sandbox, origin, size)
        # A slow machine accepts no job in a short life.
        while crashes.counts.kills < kills or not crashes.counts.jobs:
            crashes.kill_one(chance)
        return crashes.finish(60 + kills)
