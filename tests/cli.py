"""The command line for one test: in this process, in a pipe, or on a terminal of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from imageload.__main__ import main
from tests.service import RunningService
from tests.waiting import PATIENCE

ROOT = Path(__file__).parent.parent

# Runs `python -m imageload` with stdin as its controlling terminal.
_ON_A_TERMINAL = (
    "import fcntl, runpy, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "runpy.run_module('imageload', run_name='__main__', alter_sys=True)"
)


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Its stdout."""
        return self.out.splitlines()


Cli = Callable[..., Ended]


@pytest.fixture
def bare_cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in this process."""
    monkeypatch.setenv("NO_COLOR", "1")  # from 3.14 on, help has colours
    for name in ("IMAGELOAD_SERVER", "IMAGELOAD_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        try:
            status = main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return Ended(status, shown.out, shown.err)

    return run


@pytest.fixture
def cli(bare_cli: Cli, service: RunningService, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command for `service`."""
    monkeypatch.setenv("IMAGELOAD_SERVER", service.url)
    return bare_cli


class Command:
    """A running `python -m imageload`. `shown` is its stderr, or the output on its terminal."""

    def __init__(self, process: subprocess.Popen[bytes], reading: int) -> None:
        self.process = process
        self._reading = reading
        self._shown = b""
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def shown(self) -> str:
        """Everything up to now."""
        return self._shown.decode("utf-8")

    def wait_for(self, text: str, seconds: float = PATIENCE) -> None:
        """Return once `text` was shown."""
        with self._news:
            there = self._news.wait_for(lambda: text in self.shown or self._ended, seconds)
        assert there, self.shown
        assert text in self.shown, self.shown

    def end(self, seconds: float = PATIENCE) -> int:
        """Its exit status, once it has ended and all that it showed is read."""
        status = self.process.wait(seconds)
        self._reader.join(PATIENCE)
        return status

    def output(self) -> str:
        """Read its stdout, a pipe, to the end."""
        assert self.process.stdout is not None
        return self.process.stdout.read().decode("utf-8")

    def interrupt(self) -> None:
        """Send SIGINT to its process group, as a shell does at Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def press(self, keys: bytes) -> None:
        """Press these on its terminal."""
        os.write(self._reading, keys)

    def _read(self) -> None:
        # A terminal whose last user is gone answers with an error.
        with contextlib.suppress(OSError):
            while chunk := os.read(self._reading, 65536):
                with self._news:
                    self._shown += chunk
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


def _environment(more: dict[str, str]) -> dict[str, str]:
    ours = ("IMGUR_", "IMAGELOAD_", "NO_COLOR", "FORCE_COLOR", "COLUMNS")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**plain, "TERM": "xterm-256color", **more}


@contextlib.contextmanager
def in_a_pipe(*arguments: str, stdin: bytes = b"", **environment: str) -> Iterator[Command]:
    """The command with stdout and stderr in pipes."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A job in a shell's background ignores Ctrl-C, and so would our child.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "imageload", *arguments],
        cwd=ROOT,
        env=_environment(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdin as feed:
        feed.write(stdin)
    try:
        with process.stdout, process.stderr:
            command = Command(process, process.stderr.fileno())
            yield command
            command.end()
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def on_a_terminal(*arguments: str, **environment: str) -> Iterator[Command]:
    """The command on a terminal of 24 lines of 120."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", _ON_A_TERMINAL, *arguments],
        cwd=ROOT,
        env=_environment(environment),
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    os.close(its)
    try:
        command = Command(process, ours)
        yield command
        command.end()
    finally:
        process.kill()
        process.wait()
        os.close(ours)
