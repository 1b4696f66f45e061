"""A node in a process of its own, with short waits: `python -m tests.leased_node '{options}'`.

The options are those of tests.service.running_service. It prints its URL, and stops when its
standard input ends.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.service import ROOT, running_service
from tests.waiting import PATIENCE


class LeasedNode:
    """A running node; `url` is where it listens."""

    program = ("-m", "tests.leased_node")

    def __init__(self, **options: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *self.program, json.dumps(options)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "the node did not start"

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._end()

    def stop(self) -> None:
        """Stop it well, if it still runs."""
        assert self._process.stdin is not None
        if self._process.poll() is None:
            self._process.stdin.close()
        self._end()

    def _end(self) -> None:
        self._process.wait(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def main() -> None:
    """Run the node."""
    options = json.loads(sys.argv[1])
    logging.basicConfig(level=options.pop("log", "ERROR"), format="%(asctime)s %(message)s")
    for name in ("allow_origin", "client_ids"):
        if name in options:
            options[name] = tuple(options[name])
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(Path(folder) / "temp", **options) as service,
    ):
        print(service.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
