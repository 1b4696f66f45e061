"""Other ways to put images on Imgur: curl, and the service's first version.

Each is called with file names of the origin and returns the Usage of one round.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.process import Child, Usage
from bench.servers import AUTHORIZATION
from bench.trees import ROOT

_ROUND_SECONDS = 600.0


class Curl:
    """`curl --parallel` twice: all downloads to files, then all uploads of those files."""

    def __init__(self, curl: str, folder: Path, origin: str, imgur: str, wide: int) -> None:
        self._curl = curl
        self._folder = folder
        self._origin = origin
        self._imgur = imgur
        self._wide = wide

    def __call__(self, names: Sequence[str]) -> Usage:
        """Both passes in one Usage; starting curl twice is counted, writing its config is not."""
        files = self._folder / "files"
        files.mkdir()
        downloads = [
            [f'url = "{self._origin}{name}"', f'output = "{files / name}"'] for name in names
        ]
        uploads = [
            [
                f'url = "{self._imgur}3/upload"',
                f'form = "image=@{files / name}"',
                f'header = "Authorization: {AUTHORIZATION}"',
                'output = "/dev/null"',
            ]
            for name in names
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


class FirstVersion:
    """`bench.first_version` in a process of its own."""

    def __init__(self, folder: Path, origin: str, imgur: str) -> None:
        self._folder = folder
        self._origin = origin
        self._imgur = imgur

    def __call__(self, names: Sequence[str]) -> Usage:
        """What it says of itself: its start is not counted."""
        urls_file = self._folder / "urls"
        urls_file.write_text("\n".join(self._origin + name for name in names))
        command = [sys.executable, "-m", "bench.first_version", urls_file, self._imgur]
        with Child(command, self._folder / "first_version.log", ROOT) as child:
            child.finish(len(names), _ROUND_SECONDS)
            return Usage(*json.loads(child.output.splitlines()[-1]))
