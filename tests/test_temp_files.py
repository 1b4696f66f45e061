"""Tests of fetch.tempfiles: files are reused, never show old bytes, and are empty when the last is
given back; no job fills the disk for all others.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from pathlib import Path

import pytest

from imageload.fetch.tempfiles import TempBytes, TempFiles
from tests.downloads import Download
from tests.folders import filled
from tests.origin import Origin, answer

MEGABYTE = 2**20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "temp"
    path.mkdir()
    return path


def take(files: TempFiles, content: bytes = b"x") -> str:
    """A file that holds `content` now."""
    descriptor, path = files.take()
    os.write(descriptor, content)
    os.ftruncate(descriptor, len(content))
    os.close(descriptor)
    return path


def names(folder: Path) -> set[str]:
    """The files with a byte in them."""
    return {str(path) for path in filled(folder)}


def all_names(folder: Path) -> set[str]:
    """Those too that have none."""
    return {str(path) for path in folder.iterdir()}


def test_a_taken_file_is_open_empty_and_private(folder: Path) -> None:
    files = TempFiles(folder)
    descriptor, path = files.take()
    status = os.fstat(descriptor)
    assert (status.st_size, stat.S_IMODE(status.st_mode)) == (0, 0o600)
    assert not os.get_inheritable(descriptor)
    assert os.path.samestat(status, Path(path).stat())
    os.close(descriptor)
    files.give_back(path, 0)


def test_a_released_file_is_used_again_while_others_are_in_use(folder: Path) -> None:
    files = TempFiles(folder)
    held, first = take(files), take(files)
    files.give_back(first, 1)
    assert names(folder) == {held, first}
    assert take(files) == first
    other = take(files)
    assert other not in (held, first)
    for path in (held, first, other):
        files.give_back(path, 1)
    assert names(folder) == set()
    assert all_names(folder) == {held, first, other}


@pytest.mark.parametrize(
    ("count", "length", "kept"), [(150, 1, 149), (1_100, 1, 1_024), (150, MEGABYTE, 64)]
)
def test_kept_files_are_bounded_and_emptied_when_the_last_is_released(
    folder: Path, count: int, length: int, kept: int
) -> None:
    files = TempFiles(folder)
    for _ in range(2):
        paths = [take(files) for _ in range(count)]
        assert names(folder) == set(paths)
        assert len(all_names(folder)) == count
        for path in paths[1:]:
            files.give_back(path, length)
        assert paths[0] in names(folder)
        assert len(names(folder)) == kept + 1
        files.give_back(paths[0], 1)
        assert names(folder) == set()
        assert len(all_names(folder)) == min(kept, 128)


def test_a_lone_file_is_emptied_and_used_again(folder: Path) -> None:
    files = TempFiles(folder)
    first = take(files)
    files.give_back(first, 1)
    assert (names(folder), all_names(folder)) == (set(), {first})
    assert take(files) == first
    assert names(folder) == {first}
    files.give_back(first, 1)


def test_a_file_unused_from_one_tidy_to_the_next_is_deleted(folder: Path) -> None:
    files = TempFiles(folder)
    paths = [take(files) for _ in range(5)]
    for path in paths:
        files.give_back(path, 1)
    files.tidy()
    assert all_names(folder) == set(paths), "they may have come just before"
    used = [take(files) for _ in range(2)]
    files.tidy()
    assert all_names(folder) == set(used), "the other three lay there all the time"
    for path in used:
        files.give_back(path, 1)
    files.tidy()
    assert all_names(folder) == set(used)
    files.tidy()
    assert all_names(folder) == set()
    files.give_back(take(files), 1)
    assert len(all_names(folder)) == 1


def test_a_link_in_place_of_an_empty_file_is_not_followed(folder: Path, tmp_path: Path) -> None:
    files, victim = TempFiles(folder), tmp_path / "victim"
    victim.write_text("precious")
    path = take(files)
    Path(path).unlink()
    Path(path).symlink_to(victim)
    files.give_back(path, 1)
    assert victim.read_text() == "precious"
    assert all_names(folder) == set()


def test_a_large_file_is_never_kept(folder: Path) -> None:
    files = TempFiles(folder)
    held, small, large = take(files), take(files), take(files, b"x" * (MEGABYTE + 1))
    files.give_back(large, MEGABYTE + 1)
    assert names(folder) == {held, small}
    files.give_back(small, MEGABYTE)
    assert names(folder) == {held, small}
    files.give_back(held, MEGABYTE + 1)
    assert names(folder) == set(), "the spare one went with the last"


def test_two_files_in_use_are_never_the_same(folder: Path) -> None:
    files = TempFiles(folder)
    in_use: list[str] = []
    for round_of in range(50):
        in_use += [take(files) for _ in range(7)]
        assert len(set(in_use)) == len(in_use)
        for _ in range(6 if round_of % 2 else 4):
            files.give_back(in_use.pop(round_of % len(in_use)), 1)
    for path in in_use:
        files.give_back(path, 1)
    assert names(folder) == set()


def test_a_spare_file_that_has_vanished_is_replaced(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = TempFiles(folder)
    held, spare = take(files), take(files)
    files.give_back(spare, 1)
    Path(spare).unlink()
    fresh = take(files)
    assert names(folder) == {held, fresh}
    assert "a temp file has vanished" in caplog.text
    files.give_back(fresh, 1)
    files.give_back(held, 1)
    assert names(folder) == set()


def test_a_link_in_place_of_a_spare_file_is_not_followed(folder: Path, tmp_path: Path) -> None:
    files = TempFiles(folder)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    held, spare = take(files), take(files)
    files.give_back(spare, 1)
    Path(spare).unlink()
    Path(spare).symlink_to(victim)
    with pytest.raises(OSError):
        files.take()
    assert victim.read_text() == "precious"
    files.give_back(held, 1)


def test_a_file_deleted_while_in_use_can_be_released(folder: Path) -> None:
    files = TempFiles(folder)
    path = take(files)
    Path(path).unlink()
    files.give_back(path, 1)
    assert names(folder) == set()


def test_without_its_folder_it_raises_and_counts_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "temp"
    files = TempFiles(folder)
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            files.take()
    folder.mkdir()
    first, second = take(files), take(files)
    files.give_back(first, 1)
    assert names(folder) == {first, second}
    files.give_back(second, 1)
    assert names(folder) == set(), "the failed ones were not counted as in use"


def test_files_can_be_released_after_their_folder_is_deleted(
    folder: Path,
) -> None:
    files = TempFiles(folder)
    held, spare = take(files), take(files)
    files.give_back(spare, 1)
    for path in (held, spare):
        Path(path).unlink()
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        files.take()
    files.give_back(held, 1)
    folder.mkdir()
    files.give_back(take(files), 1)
    assert names(folder) == set()


def test_a_file_that_cannot_be_deleted_is_logged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = TempFiles(folder)
    path = take(files)
    Path(path).unlink()
    Path(path).mkdir()  # unlink refuses a folder, for root too
    files.give_back(path, 1)
    assert "a temp file cannot be deleted" in caplog.text
    assert path in caplog.text


def png(length: int, fill: bytes) -> bytes:
    """A PNG's head, and as much after it as makes `length` bytes."""
    head = (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x04\x00\x00\x00\x04\x08\x02\x00\x00\x00"
    )
    return head.ljust(length, fill)


@pytest.mark.parametrize("longer", [5_000, 90_000])
def test_a_shorter_image_after_a_longer_one_shows_none_of_its_bytes(
    folder: Path, origin: Origin, longer: int
) -> None:
    download = Download(folder)
    old, new = png(longer, b"o"), png(300, b"n")
    held = download.call(origin.page("/held", answer(new)))
    first = download.call(origin.page("/old", answer(old)))
    assert Path(first.temp_fn).read_bytes() == old
    download.give_back(first)
    second = download.call(origin.page("/new", answer(new)))
    assert second.temp_fn == first.temp_fn, "the file is used again"
    assert Path(second.temp_fn).read_bytes() == new
    assert second.bytes == 300
    download.give_back(second)
    download.give_back(held)
    assert names(folder) == set()


def test_a_spare_file_that_cannot_be_opened_does_not_stay_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = TempFiles(tmp_path)
    first, second = files.take(), files.take()
    for descriptor, _ in (first, second):
        os.close(descriptor)
    files.give_back(second[1], 0)

    def too_many(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("os.open", too_many)
        with pytest.raises(OSError, match="Too many"):
            files.take()
    assert all_names(tmp_path) == {first[1]}
    files.give_back(first[1], 0)
    assert not names(tmp_path)


def ignore() -> None:
    """A callback for a job that does not wait."""


def fill(temp_bytes: TempBytes, job_id: str, length: int) -> int:
    """Hold files of this length while there is room; return their total bytes."""
    held = 0
    while temp_bytes.has_room(job_id, ignore):
        temp_bytes.resize(job_id, 0, length)
        held += length
    return held


def test_a_job_alone_may_hold_half_of_the_limit() -> None:
    assert fill(TempBytes(1_000), "a", 10) == 500


def test_a_job_may_reserve_half_of_the_remaining_bytes() -> None:
    temp_bytes = TempBytes(1_000)
    assert [fill(temp_bytes, job_id, 1) for job_id in "abcd"] == [500, 250, 125, 63]


def test_a_job_that_holds_nothing_has_room_while_the_largest_image_fits() -> None:
    temp_bytes = TempBytes(1_000, largest=20)
    temp_bytes.resize("large", 0, 970)
    assert not temp_bytes.reserve("large")
    assert temp_bytes.reserve("small")
    assert not temp_bytes.reserve("other")
    assert temp_bytes.held == 990


def test_an_image_larger_than_the_limit_has_room_if_nothing_is_held() -> None:
    temp_bytes = TempBytes(10, largest=20)
    assert temp_bytes.reserve("a")
    assert not temp_bytes.reserve("b")


def test_waiting_images_are_woken_one_by_one_as_room_is_found() -> None:
    async def wait() -> list[str]:
        temp_bytes, order = TempBytes(30, largest=10), list[str]()

        async def take(name: str) -> None:
            while not temp_bytes.reserve(name[0]):
                await temp_bytes.wait(name[0])
            order.append(name)

        assert [temp_bytes.reserve("x") for _ in range(3)] == [True, True, False]
        temp_bytes.resize("x", 0, 10)
        tasks = [asyncio.create_task(take(name)) for name in ("a1", "a2", "b1")]
        await asyncio.sleep(0)
        assert (order, temp_bytes.waiting) == ([], 2)
        tasks[0].cancel()
        for _ in range(2):
            temp_bytes.resize("x", 10, 0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (temp_bytes.held, temp_bytes.waiting) == (30, 0)
        return order

    assert asyncio.run(wait()) == ["a2", "b1"]


def test_without_a_limit_there_is_always_room() -> None:
    temp_bytes = TempBytes()
    temp_bytes.resize("a", 0, 10**15)
    assert temp_bytes.has_room("a", ignore)


def test_released_bytes_make_room_again() -> None:
    temp_bytes = TempBytes(1_000)
    for _ in range(3):
        held = fill(temp_bytes, "a", 100)
        assert held == 500
        for _ in range(5):
            temp_bytes.resize("a", 100, 0)
    assert fill(temp_bytes, "b", 100) == 500, "and nothing of it stays counted"


def test_a_waiting_job_is_woken_once_by_a_release() -> None:
    temp_bytes, woken = TempBytes(1_000), list[str]()
    temp_bytes.resize("b", 0, 10)
    fill(temp_bytes, "a", 100)
    for _ in range(3):
        assert not temp_bytes.has_room("a", lambda: woken.append("a"))
    assert woken == []
    temp_bytes.resize("b", 10, 0)
    assert woken == ["a"]
    temp_bytes.resize("b", 0, 10)
    temp_bytes.resize("b", 10, 0)
    assert woken == ["a"], "who does not ask again does not wait"


def test_a_woken_job_can_reserve_at_once() -> None:
    temp_bytes, found = TempBytes(1_000), list[bool]()
    fill(temp_bytes, "a", 100)
    assert not temp_bytes.has_room("a", lambda: found.append(temp_bytes.has_room("a", ignore)))
    temp_bytes.resize("a", 100, 0)
    assert found == [True]
