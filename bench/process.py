"""Child processes: started with a clean environment, measured from /proc, always ended.

Each is in a session of its own: Ctrl-C reaches only the benchmark, which then ends them in order,
with all processes that they started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_STOP_SECONDS = 15.0
_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
# The user's proxies and options would change the result.
_FOREIGN = ("IMGUR_", "IMAGELOAD_", "CURL_")


class BenchError(Exception):
    """The reason why there is no result: one sentence."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of some images: wall and CPU seconds (user and system), peak memory in bytes."""

    images: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int

    def after(self, first: Usage) -> Usage:
        """The same images in two passes, `first` and this one; the peak is the larger one."""
        return Usage(
            self.images,
            first.seconds + self.seconds,
            first.cpu_seconds + self.cpu_seconds,
            max(first.peak_bytes, self.peak_bytes),
        )


class Child:
    """A child process for a `with` block, ended at its end; its output goes to `log`."""

    def __init__(self, command: Sequence[object], log: Path, cwd: Path) -> None:
        self._log = log
        self._command = [str(word) for word in command]
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_FOREIGN) and not name.lower().endswith("_proxy")
        }
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=environment,
                start_new_session=True,
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.returncode is not None:
            return
        # Not Popen.terminate: it reaps an ended process, and then its group cannot be killed.
        os.kill(self._process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while not self._has_ended() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _has_ended(self) -> bool:
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, options) is not None

    @property
    def output(self) -> str:
        """Its output so far."""
        return self._log.read_text(errors="replace")

    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far, in steps of the clock tick (10 ms)."""
        return _ticks(_stat(self._process.pid), 11, 13)

    def peak_bytes(self) -> int:
        """Its largest resident set so far (VmHWM); 0 once it has ended."""
        return peak_bytes(self._process.pid)

    def finish(self, images: int, seconds: float) -> Usage:
        """Wait for the end of a process that has just been started; the cost of its `images`.

        Raises BenchError if it fails, or takes more than `seconds`. The peak is read from
        /proc while it runs: the one in its rusage has our own size as a floor (a fork's copy).
        """
        begun, peak = time.monotonic(), 0
        while True:
            peak = max(peak, self.peak_bytes())
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            now = time.monotonic()
            if pid:
                break
            if now - begun > seconds:
                raise BenchError(f"{self._name} did not end within {seconds:g} s.")
            time.sleep(0.005)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode:
            raise BenchError(f"{self._name} failed: {self.output[-500:].strip()}")
        return Usage(images, now - begun, usage.ru_utime + usage.ru_stime, peak)

    @property
    def _name(self) -> str:
        return self._command[0]


def tree_cpu_seconds(pid: int) -> float:
    """User and system time so far of a process, of its children, and of those that have ended."""
    total = _ticks(_stat(pid), 11, 15)
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            fields = _stat(int(folder.name))
            if int(fields[1]) == pid:
                total += _ticks(fields, 11, 13)
    return total


def _stat(pid: int) -> list[str]:
    """The fields of proc(5) from the third on: the name in parentheses may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _ticks(fields: Sequence[str], first: int, end: int) -> float:
    """The seconds in utime, stime, cutime and cstime, which are fields 14 to 17."""
    return sum(map(int, fields[first:end])) * _TICK_SECONDS


def peak_bytes(process: int | str) -> int:
    """The largest resident set (VmHWM) of a process id, or of "self"; 0 once it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
