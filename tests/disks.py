"""A disk for one test, small enough to be filled."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.components import real_component


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """Mount a file system of this size at `folder`; skip the test if mounting is not permitted."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k,mode=700", "tmpfs"]
    command = [real_component("mount"), *options, str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        (reason, *_) = mounted.stderr.splitlines()
        pytest.skip(f"needs to mount a file system, to fill it: run as root ({reason})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """Fill the disk of `folder` for the length of a block."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4_096)):
            pass
    yield
    ballast.unlink()
