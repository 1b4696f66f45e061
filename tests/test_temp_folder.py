"""Tests of fetch.tempfiles.temp_folder: folders of dead processes are removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imageload.fetch.tempfiles import sweep, temp_folder
from tests.service import ROOT

HOLDER = """
import sys
from imageload.fetch.tempfiles import temp_folder
with temp_folder(sys.argv[1]) as folder:
    (folder / "tmp1").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    sys.stdin.read()
"""


def holder(place: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that holds a folder in `place` until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str], *, kill: bool = False) -> None:
    """End it cleanly, or not at all cleanly."""
    if kill:
        process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_folder_is_removed_at_a_clean_exit(tmp_path: Path) -> None:
    process, folder = holder(tmp_path)
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0, "private"
    end(process)
    assert list(tmp_path.iterdir()) == []


def test_the_next_start_removes_the_folders_of_killed_processes_only(
    tmp_path: Path,
) -> None:
    dead, left = holder(tmp_path)
    live, kept = holder(tmp_path)
    end(dead, kill=True)
    assert left.is_dir()
    with temp_folder(str(tmp_path)) as ours:
        assert not left.exists()
        assert (kept / "tmp1").exists()
        assert {*tmp_path.iterdir()} == {ours, kept}
    end(live)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_started_together_have_two_folders(tmp_path: Path) -> None:
    holders = [holder(tmp_path) for _ in range(4)]
    assert len({folder for _, folder in holders}) == 4
    assert all((folder / "tmp1").exists() for _, folder in holders)
    for process, _ in holders:
        end(process)


def test_a_folder_without_a_lock_is_removed_only_when_it_is_old(
    tmp_path: Path,
) -> None:
    young, old = tmp_path / f"imageload-{'a' * 16}", tmp_path / f"imageload-{'b' * 16}"
    for folder in (young, old):
        folder.mkdir()
    os.utime(old, (1_000, 1_000))
    assert sweep(tmp_path) == [old]
    assert young.is_dir()


def test_links_and_other_names_are_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (precious / ".lock").touch()
    (tmp_path / f"imageload-{'a' * 16}").symlink_to(precious)
    (tmp_path / f"imageload-{'b' * 16}").touch()
    inner = tmp_path / f"imageload-{'c' * 16}"
    inner.mkdir()
    (inner / ".lock").symlink_to(precious / ".lock")
    (tmp_path / "other").mkdir()
    assert sweep(tmp_path) == []
    assert (precious / "file").exists()
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("name", ["imageload-bench-0a1b2c3d", "imageload-journal", "imageload-"])
def test_an_old_folder_that_no_process_named_so_is_kept(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / name
    theirs.mkdir()
    (theirs / "journal").touch()
    os.utime(theirs, (1_000, 1_000))
    assert sweep(tmp_path) == []
    assert (theirs / "journal").exists()


def test_links_in_a_dead_folder_are_removed_without_their_targets(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    dead, left = holder(tmp_path)
    (left / "link").symlink_to(precious)
    end(dead, kill=True)
    assert sweep(tmp_path) == [left]
    assert (precious / "file").exists()


def test_a_folder_that_cannot_be_made_raises_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError), temp_folder(str(tmp_path / "missing")):
        pass
