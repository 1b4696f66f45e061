"""Other ways to carry images: curl, rclone, and the service's first version.

Writing a list of URLs for a program is not counted, its start is.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.loads import Way
from bench.machine import tool
from bench.process import Child, Usage
from bench.servers import AUTHORIZATION, BUCKET
from bench.trees import ROOT

_ROUND_SECONDS = 600.0


class Curl(Way):
    """`curl --parallel` twice: all downloads to files in `folder`, then all uploads of those."""

    def __init__(self, folder: Path, imgur: str, wide: int) -> None:
        self._curl = tool("curl")
        self._folder = folder
        self._imgur = imgur
        self._wide = wide

    def __call__(self, urls: Sequence[str]) -> Usage:
        """Both passes in one Usage."""
        files = self._folder / "files"
        files.mkdir()
        downloads = [[f'url = "{url}"', f'output = "{files / _name(url)}"'] for url in urls]
        uploads = [
            [
                f'url = "{self._imgur}3/upload"',
                f'form = "image=@{files / _name(url)}"',
                f'header = "Authorization: {AUTHORIZATION}"',
                'output = "/dev/null"',
            ]
            for url in urls
        ]
        try:
            first = self._pass(downloads)
            return self._pass(uploads).after(first)
        finally:
            shutil.rmtree(files)

    def _pass(self, transfers: Sequence[Sequence[str]]) -> Usage:
        config = self._folder / "curl.conf"
        # Options of one transfer, so said again for each.
        common = ["silent", "show-error", "fail", "http1.1"]
        blocks = ["\n".join([*transfer, *common]) for transfer in transfers]
        config.write_text("\nnext\n".join(blocks) + "\n")
        command = [self._curl, "--disable", "--parallel", "--parallel-max", str(self._wide)]
        log = self._folder / "curl.log"
        with Child([*command, "--config", config], log, self._folder) as child:
            return child.finish(len(transfers), _ROUND_SECONDS)


class Rclone(Way):
    """`rclone copyurl` of a list of URLs into a bucket, without files."""

    def __init__(self, folder: Path, imgur: str, wide: int) -> None:
        self._folder = folder
        self._command = [
            tool("rclone"),
            "--config=",
            "copyurl",
            f"--transfers={wide}",
            "--s3-provider=Other",
            f"--s3-endpoint={imgur}",
            "--s3-access-key-id=bench",
            "--s3-secret-access-key=bench",
            "--s3-no-head",
            "--s3-no-check-bucket",
            "--urls",
            str(folder / "urls.csv"),
            f":s3:{BUCKET}",
        ]

    def __call__(self, urls: Sequence[str]) -> Usage:
        """One run."""
        with (self._folder / "urls.csv").open("w", newline="") as file:
            csv.writer(file).writerows([url, _name(url)] for url in urls)
        with Child(self._command, self._folder / "rclone.log", self._folder) as child:
            return child.finish(len(urls), _ROUND_SECONDS)


class FirstVersion(Way):
    """`bench.first_version` in a process of its own, for the first `images` of each round."""

    def __init__(self, folder: Path, imgur: str, images: int) -> None:
        self._folder = folder
        self._imgur = imgur
        self._images = images

    def __call__(self, urls: Sequence[str]) -> Usage:
        """The Usage that it reports, which is without its start."""
        some = urls[: self._images]
        urls_file = self._folder / "urls"
        urls_file.write_text("\n".join(some))
        command = [sys.executable, "-m", "bench.first_version", urls_file, self._imgur]
        with Child(command, self._folder / "first_version.log", ROOT) as child:
            child.finish(len(some), _ROUND_SECONDS)
            return Usage(*json.loads(child.output.splitlines()[-1]))


def _name(url: str) -> str:
    return url.rpartition("/")[2]
