"""The sandbox as a child process of the service: started, watched, started again, and stopped.

In a checkout the package `sandbox` lies beside `imageload`; a wheel has it inside, as
`imageload.sandbox`. The child holds the other end of a pipe and ends with this process, also when
this process is killed.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from imageload.settings import SANDBOX_CLIENT_ID, Settings

_log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parent
_MODULE = "imageload.sandbox" if (_PACKAGE / "sandbox").is_dir() else "sandbox"


class SandboxError(Exception):
    """The sandbox did not start; it has written the reason to stderr."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRules:
    """How the sandbox is watched, in seconds.

    It has `start` to listen, and `answer` to respond to a request that is sent every `probe`.
    The first wait before another start is `wait`; it doubles up to `longest_wait`, and is short
    again after the sandbox has run for as long.
    """

    start: float = 30.0
    probe: float = 10.0
    answer: float = 30.0
    wait: float = 0.5
    longest_wait: float = 30.0


class SandboxProcess:
    """A sandbox that runs until `stop`. Any thread may read the attributes."""

    def __init__(self, arguments: Sequence[str], rules: WatchRules | None = None) -> None:
        """Start the sandbox and wait until it listens. Raises SandboxError if it does not."""
        self._rules = rules or WatchRules()
        self._stopping, self._stop = os.pipe()  # readable when the sandbox is to stop
        self._child = _Child([*arguments], self._rules.start, self._stopping)
        self.url = self._child.url
        """Its address, the same after every start."""
        self._arguments = [*arguments, f"--port={urlsplit(self.url).port}"]
        self.trouble: str | None = None
        """Why the sandbox does not run at the moment; None: it runs."""
        self.restarts = 0
        """How often it has been started again."""
        self._thread = threading.Thread(target=self._watch, name="sandbox", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The id of the process that runs, or ran last."""
        return self._child.pid

    def stop(self) -> None:
        """End the sandbox and wait until it has ended. To be called once."""
        os.close(self._stop)
        self._thread.join()
        os.close(self._stopping)

    def _watch(self) -> None:
        starts = 0
        while (fault := self._fault()) is not None:
            starts = 0 if self._child.age > self._rules.longest_wait else starts
            while fault is not None:
                self.trouble = f"The sandbox {fault}."
                wait = min(self._rules.wait * 2 ** min(starts, 20), self._rules.longest_wait)
                _log.warning("the sandbox %s; it is started again in %.1f s", fault, wait)
                if _readable([self._stopping], wait):
                    return
                starts += 1
                fault = self._start_again()

    def _fault(self) -> str | None:
        """What has happened to the sandbox, as soon as something has; None: `stop` was called."""
        while True:
            readable = _readable([self._child.output, self._stopping], self._rules.probe)
            if self._stopping in readable:
                self._child.end()
                return None
            if readable:
                if not self._child.read():
                    return self._child.end()
                continue
            if not self._child.responds(self._rules.answer):
                self._child.kill()
                return f"did not respond for {self._rules.answer:g} s"

    def _start_again(self) -> str | None:
        """Start the sandbox; the reason if it does not start."""
        try:
            self._child = _Child(self._arguments, self._rules.start, self._stopping)
        except SandboxError as error:
            return str(error)
        except OSError as error:
            return f"cannot be started: {error}"
        self.trouble = None
        self.restarts += 1
        _log.info("the sandbox runs again at %s", self.url)
        return None


class _Child:
    """One process of the sandbox."""

    def __init__(self, arguments: Sequence[str], seconds: float, stopping: int) -> None:
        """Start it and wait until it listens, or `stopping` is readable; raises SandboxError."""
        command = [sys.executable, "-m", _MODULE, "--exit-with-parent", *arguments]
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            command,
            cwd=_PACKAGE.parent,  # Python looks for the module here first
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the parent only, which then stops the child
        )
        assert self._process.stdout is not None
        self.output = self._process.stdout.fileno()
        """Readable when the process has written something, or has ended."""
        self.pid = self._process.pid
        self._began = time.monotonic()
        try:
            line = self._first_line(seconds, stopping)
        except BaseException:
            self.end()
            raise
        if line is None:
            self.kill()
            raise SandboxError(f"did not listen within {seconds:g} s")
        if not line:
            raise SandboxError(self.end())
        self.url = line.split()[-1]

    def _first_line(self, seconds: float, stopping: int) -> str | None:
        """What it writes first; "" if it ends before; None: `seconds` are over, or stopping."""
        line, until = b"", self._began + seconds
        while not line.endswith(b"\n"):
            left = max(0.0, until - time.monotonic())
            if _readable([self.output, stopping], left) != [self.output]:
                return None
            piece = self.read()
            if not piece:
                return ""
            line += piece
        return line.decode()

    @property
    def age(self) -> float:
        """The seconds since the start."""
        return time.monotonic() - self._began

    def responds(self, seconds: float) -> bool:
        """False if a request gets no response in time. Any other failure says nothing."""
        address = urlsplit(self.url)
        client = http.client.HTTPConnection(address.hostname or "", address.port, timeout=seconds)
        try:
            client.request("HEAD", "/")
            client.getresponse()
        except TimeoutError:
            return False
        except (OSError, http.client.HTTPException):  # this process may be out of descriptors
            return True
        finally:
            client.close()
        return True

    def read(self) -> bytes:
        """What it has written; empty if it has ended."""
        return os.read(self.output, 4096)

    def kill(self) -> None:
        """End the process without waiting for it to end itself."""
        self._process.kill()
        self.end()

    def end(self) -> str:
        """End the process and wait until it has ended; how it did. May be called twice."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            status = process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        process.stdout.close()
        return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def _readable(descriptors: list[int], seconds: float) -> list[int]:
    """Those of `descriptors` that are readable, as soon as one is, at most after `seconds`."""
    poll = select.poll()  # unlike select(), for descriptors above 1,023 too
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(seconds * 1_000)]


@contextlib.contextmanager
def imgur_or_sandbox(settings: Settings) -> Iterator[tuple[Settings, SandboxProcess | None]]:
    """`settings`, or, with no client id and no bucket, some that lead to a sandbox, and that one.

    The sandbox runs within the block. Raises SandboxError if it does not start.
    """
    if settings.imgur_client_id or settings.is_s3:
        yield settings, None
        return
    folder = Path(settings.sandbox_dir).absolute()
    limits = [] if settings.sandbox_limits else ["--unlimited"]
    sandbox = SandboxProcess([f"--port={settings.sandbox_port}", f"--dir={folder}", *limits])
    _log.info(
        "no IMGUR_CLIENT_ID: the sandbox stands in for Imgur at %s, images in %s",
        sandbox.url,
        folder,
    )
    try:
        yield (
            replace(
                settings,
                imgur_client_id=SANDBOX_CLIENT_ID,
                imgur_base_url=sandbox.url,
                imgur_link_base=sandbox.url,
                imgur_rapidapi_key="",
            ),
            sandbox,
        )
    finally:
        sandbox.stop()
