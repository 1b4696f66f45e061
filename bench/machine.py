"""The machine: its programs, its file systems, and a paragraph about it for the report."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.process import BenchError
from bench.trees import ROOT

_SHARED_MEMORY = Path("/dev/shm")
_ROOM = 1.2
_INSTALL = {
    "nginx": "On Debian or Ubuntu: apt install nginx-light",
    "curl": "On Debian or Ubuntu: apt install curl",
    "rclone": "pip install -r requirements-dev.txt",
}


def tool(name: str) -> str:
    """The path of a program, also beside this Python, and in sbin, where Debian puts nginx.

    Raises BenchError if there is none.
    """
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    folders += ["/usr/sbin", "/usr/local/sbin", "/sbin"]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        raise BenchError(f"{name} not found. {_INSTALL[name]}")
    return found


def check() -> None:
    """Raise BenchError where this machine cannot measure."""
    if not Path("/proc/self/status").exists():
        raise BenchError("CPU time and memory are read from /proc, so this needs Linux.")
    for name in _INSTALL:
        tool(name)


def memory_folder(size: int) -> Path | None:
    """A folder in memory with room for `size` bytes; None if this machine has none."""
    if file_system(_SHARED_MEMORY) != "tmpfs":
        return None
    has_room = shutil.disk_usage(_SHARED_MEMORY).free > _ROOM * size
    return _SHARED_MEMORY if has_room else None


def file_system(folder: Path) -> str:
    """The type of the file system that `folder` is on, as mount(8) names it."""
    found, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        place, name = line.split()[1:3]
        if folder.is_relative_to(place) and len(place) >= len(found):
            found, kind = place, name
    return kind


def described(begun: tuple[float, float, float], seconds: float) -> str:
    """Where this ran: the commit, the machine, the load before (`begun`) and after, versions."""
    loads = ["/".join(f"{each:.1f}" for each in load) for load in (begun, os.getloadavg())]
    version = {
        name: _output(tool(name), option)
        for name, option in (("nginx", "-v"), ("curl", "--version"), ("rclone", "version"))
    }
    commit = _output("git", "-C", str(ROOT), "describe", "--always", "--dirty").strip()
    temp = Path(tempfile.gettempdir())
    return (
        f"Commit {commit or 'unknown'}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, "
        f"{seconds / 60:.1f} minutes. {os.cpu_count()} cores, load {loads[0]} before and "
        f"{loads[1]} after, Linux {platform.release()}, files on {file_system(temp)}, "
        f"Python {platform.python_version()}, nginx {version['nginx'].strip().rpartition('/')[2]}, "
        f"curl {version['curl'].split()[1]}, rclone {version['rclone'].split()[1].strip('v')}."
    )


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode else done.stdout + done.stderr
