"""Processes that run the service's code, forked from one that has imported it.

    tests ── a socket ── fork server ── parent ── the service
                                        waits for it, and sends its exit status

A start takes 0.03 s of CPU in place of the 0.4 of `python main.py`, nearly all of them imports. It
differs in nothing else but the command that `ps` shows.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

_ROOT = Path(__file__).parent.parent
_LONGEST_REQUEST = 2**20


class ForkedProcess:
    """A process that executes `source`. It has the methods of Popen that tests use.

    Its stdin is empty, its stdout is that of the fork server, and `stderr` is the end of a pipe.
    """

    def __init__(
        self, source: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.args = [source, *arguments]
        self.returncode: int | None = None
        self._waiting = threading.Lock()
        reading, writing = os.pipe()
        self._parent, theirs = socket.socketpair()
        request = json.dumps([source, arguments, dict(environment)]).encode()
        with theirs, _lock:
            socket.send_fds(_server(), [request], [writing, theirs.fileno()])
        os.close(writing)
        self.stderr = os.fdopen(reading, encoding="utf-8")
        self.pid = self._receive()

    def poll(self) -> int | None:
        """The exit status as in Popen, None: it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit status as in Popen, once it has ended; raises TimeoutExpired."""
        with self._waiting:
            if self.returncode is None:
                self._parent.settimeout(timeout)
                try:
                    self.returncode = self._receive()
                except (TimeoutError, BlockingIOError):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
                self._parent.close()  # the number may now be another process's
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Send the signal, if the process has not been waited for."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _receive(self) -> int:
        number = self._parent.recv(4)
        assert number, "the parent of the process was killed"
        return int.from_bytes(number, "big", signed=True)


_lock = threading.Lock()


@functools.cache
def _server() -> socket.socket:
    """The socket to the fork server of this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__], cwd=_ROOT, stdin=theirs.fileno()
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve() -> None:
    """Fork a process for each request on stdin. Returns in each, once its source is executed."""
    on_ctrl_c = signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = socket.socket(fileno=os.dup(0))
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, 2)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not request:
            return
        if not os.fork():
            break
        for each in descriptors:
            os.close(each)
    requests.close()
    stderr, asking = descriptors
    pid = os.fork()
    if pid:
        os.close(stderr)
        _wait(pid, socket.socket(fileno=asking))
    os.close(asking)
    signal.signal(signal.SIGINT, on_ctrl_c)
    _execute(request, stderr)


def _execute(request: bytes, stderr: int) -> None:
    """Be the process of the request."""
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(stderr, 2)
    os.close(stderr)
    source, arguments, environment = json.loads(request)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    exec(source, {"__name__": "__main__"})


def _wait(pid: int, asking: socket.socket) -> NoReturn:
    """Send the process's number and then its exit status. It is a zombie until that is read."""
    asking.send(pid.to_bytes(4, "big", signed=True))
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    with contextlib.suppress(ConnectionError):
        asking.send(status.to_bytes(4, "big", signed=True))
        asking.recv(1)
    os.waitpid(pid, 0)
    os._exit(0)


if __name__ == "__main__":
    import main  # noqa: F401  # all that a process would import at its start

    _serve()
