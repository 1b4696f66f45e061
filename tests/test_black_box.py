"""Tests of store.black_box: what is noted stays, whatever becomes of the process."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from imageload.store.black_box import BlackBox
from tests.disks import full, small_disk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.work"


def found_in(path: Path) -> set[tuple[int, int]]:
    """What another BlackBox, opened beside, finds."""
    box = BlackBox(path)
    found = box.found()
    box.close()
    return found


def test_what_is_noted_is_found_until_it_is_erased(path: Path) -> None:
    box = BlackBox(path)
    assert box.found() == set()
    for place in ((1, 0), (1, 1), (2**40, 99_999)):
        box.note(place)
    box.note((1, 0))
    assert found_in(path) == {(1, 0), (1, 1), (2**40, 99_999)}
    box.erase((1, 0))
    box.erase((7, 7))
    assert found_in(path) == {(1, 1), (2**40, 99_999)}
    box.close()
    assert found_in(path) == {(1, 1), (2**40, 99_999)}


def test_a_cleared_box_is_empty_and_takes_notes(path: Path) -> None:
    box = BlackBox(path)
    box.note((1, 0))
    box.clear()
    assert found_in(path) == set()
    box.note((1, 0))
    assert found_in(path) == {(1, 0)}
    box.close()


def test_more_than_it_has_room_for_is_not_noted_and_room_is_used_again(path: Path) -> None:
    box = BlackBox(path)
    for index in range(10_000):
        box.note((1, index))
    assert len(box.found()) == 8_192
    for index in range(10_000):
        box.erase((1, index))
    assert box.found() == set()
    for index in range(8_192):
        box.note((2, index))
    assert len(box.found()) == 8_192
    box.close()


def test_it_is_for_its_owner_alone_also_where_it_was_not(path: Path) -> None:
    path.touch(mode=0o644)
    box = BlackBox(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    box.close()


def test_a_file_of_another_length_is_begun_anew(path: Path) -> None:
    path.write_bytes(b"x" * 100)
    assert found_in(path) == set()


def test_on_a_full_disk_it_is_refused_not_promised(tmp_path: Path) -> None:
    """A hole that cannot be filled would kill the process at the first note, with SIGBUS."""
    with small_disk(tmp_path / "disk", 64) as disk, full(disk), pytest.raises(OSError):
        BlackBox(disk / "journal.work")
