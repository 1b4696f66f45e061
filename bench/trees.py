"""Checkouts of the service: this one, and another that it is compared with."""

from __future__ import annotations

import contextlib
import functools
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.process import BenchError

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Candidate:
    """A service to measure: the checkout it is started from, and options to start it with."""

    tree: Path
    journaled: bool = False
    options: Mapping[str, object] = field(default_factory=dict)


@contextlib.contextmanager
def checked_out(name: str, folder: Path) -> Iterator[Path]:
    """The checkout at the path `name`; else that commit, as a git worktree in `folder`.

    Raises BenchError if `name` is neither.
    """
    if (Path(name) / "main.py").is_file():
        yield Path(name).resolve()
        return
    tree = folder / "against"
    _git("worktree", "add", "--detach", "--quiet", str(tree), f"{name}^{{commit}}")
    try:
        yield tree
    finally:
        _git("worktree", "remove", "--force", str(tree))


@functools.cache
def options_of(tree: Path) -> frozenset[str]:
    """The options that `main.py --help` of this checkout lists, without their dashes."""
    command = [sys.executable, str(tree / "main.py"), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tree)
    if shown.returncode:
        raise BenchError(f"main.py --help fails in {tree}: {shown.stderr[-500:].strip()}")
    return frozenset(re.findall(r"--([a-z][a-z0-9-]*)", shown.stdout))


def _git(*arguments: str) -> None:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"git {arguments[0]} {arguments[1]}: {done.stderr.strip()}")
