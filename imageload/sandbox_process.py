"""The sandbox as a child process of the service: start it, read its URL, stop it.

In a checkout the package `sandbox` lies beside `imageload`; a wheel has it inside, as
`imageload.sandbox`. The child holds the other end of a pipe and ends with this process, also when
this process is killed.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from imageload.settings import SANDBOX_CLIENT_ID, Settings

_log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parent
_MODULE = "imageload.sandbox" if (_PACKAGE / "sandbox").is_dir() else "sandbox"


class SandboxError(Exception):
    """The sandbox did not start; it has written the reason to stderr."""


class SandboxProcess:
    """A running sandbox. `url` is its address."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Start the sandbox and wait until it listens. Raises SandboxError if it ends before."""
        command = [sys.executable, "-m", _MODULE, "--exit-with-parent", *arguments]
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            command,
            cwd=_PACKAGE.parent,  # Python looks for the module here first
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the parent only, which then stops the child
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
        """End the sandbox and wait until it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def imgur_or_sandbox(settings: Settings) -> Iterator[Settings]:
    """`settings`, or without a client id one that leads to a sandbox, which runs within the block.

    Raises SandboxError if the sandbox does not start.
    """
    if settings.imgur_client_id:
        yield settings
        return
    folder = Path(settings.sandbox_dir).absolute()
    limits = [] if settings.sandbox_limits else ["--unlimited"]
    sandbox = SandboxProcess(["--port", str(settings.sandbox_port), "--dir", str(folder), *limits])
    _log.info(
        "no IMGUR_CLIENT_ID: the sandbox stands in for Imgur at %s, images in %s",
        sandbox.url,
        folder,
    )
    try:
        yield replace(
            settings,
            imgur_client_id=SANDBOX_CLIENT_ID,
            imgur_base_url=sandbox.url,
            imgur_link_base=sandbox.url,
            imgur_rapidapi_key="",
        )
    finally:
        sandbox.stop()
