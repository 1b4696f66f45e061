"""The sandbox as a child process of another program: started, waited for, stopped.

The child ends with its parent, also where that is killed: it holds the other end of a pipe.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class SandboxError(Exception):
    """The sandbox did not start; its own words are on stderr."""


class SandboxProcess:
    """`python -m sandbox` beside this process. `url` is where it listens."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Start it and wait until it listens; raises SandboxError where it does not."""
        command = [sys.executable, "-m", "sandbox", "--exit-with-parent", *arguments]
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            command,
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which then stops us
        )
        assert self._process.stdout is not None
        try:
            words = self._process.stdout.readline().split()
        except BaseException:
            self.stop()
            raise
        if not words:
            self.stop()
            raise SandboxError(f"the sandbox ended with status {self._process.wait()}")
        self.url = words[-1]

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
