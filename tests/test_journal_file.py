"""Tests of store.file: one process at a time, every version that ever was, and a
file that cannot be read is reported, never emptied.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imageload.errors import StoreError
from imageload.image import Downloaded, Item, Uploaded, Uploading
from imageload.job import Job
from imageload.job_json import image_json
from imageload.store import file as journal_file
from imageload.store.file import JournalFile
from imageload.store.opening import open_store
from imageload.store.rows import MIGRATIONS
from tests.disks import small_disk
from tests.journals import (
    SECRET,
    after_a_restart,
    fail,
    finish,
    job_of,
    link,
    opened,
    record,
    report,
    restored_from,
    shown,
)
from tests.waiting import PATIENCE

ROOT = Path(__file__).parent.parent
OLD = Path(__file__).parent / "old_journals"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def filled(path: Path) -> list[Job]:
    """A journal with a bit of everything, closed; its jobs."""
    jobs = [Job(["https://a.example/ü.png", Item("b", "A bird", "It sings.")]), job_of(30)]
    jobs += [job_of(3_000), job_of(2)]
    with opened(path) as (journal, _):
        journal.accept(jobs)
        finish(journal, jobs[1])
        fail(journal, jobs[3])
        for index in range(1_500):
            changes = Downloaded(index, report(index)), Uploading(index)
            record(journal, jobs[2], *changes, Uploaded(index, link(index), SECRET))
        journal.set_setting("token", "t0k3n")
    return jobs


def refused(path: Path) -> str:
    """The message with which the journal file is refused."""
    with pytest.raises(StoreError) as error:
        open_store(str(path))
    return str(error.value)


# One process at a time

HOLDER = """
import sys
from pathlib import Path
from imageload.store.opening import open_store
journal = open_store(sys.argv[1]).store
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_with_the_id_of_the_first(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        assert f"held by process {holder.pid}." in refused(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait(PATIENCE)
    assert restored_from(path).jobs == []


def test_one_process_cannot_open_it_twice_and_can_again_when_it_closed_it(path: Path) -> None:
    with opened(path):
        assert f"held by process {os.getpid()}." in refused(path)
    assert restored_from(path).was_closed


def test_every_transaction_is_on_the_disk_before_it_counts(path: Path) -> None:
    """No killed process can show it, a power cut would: without FULL it may lose the last ones."""
    file = JournalFile(path)
    settings = ("journal_mode", "wal"), ("synchronous", 2), ("fullfsync", 1), ("secure_delete", 2)
    for name, value in settings:
        assert file.connection.execute(f"PRAGMA {name}").fetchone() == (value,)
    file.close()


# Files that cannot be a journal


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert f"is not there: {tmp_path / 'no'}." in refused(tmp_path / "no" / "journal")
    assert not (tmp_path / "no").exists()


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    assert "is a folder. Name a file." in refused(tmp_path / "journal")


def test_a_journal_on_a_disk_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1_024) as disk:
        restored_from(disk / "journal")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert "Read-only file system" in refused(disk / "journal")


@pytest.mark.parametrize("ending", ["", ".lock"])
def test_a_journal_that_may_not_be_written_is_refused(ending: str) -> None:
    """To a process that is not root's: to root nothing is closed."""
    program = """if True:
        import os, sys
        from pathlib import Path
        from imageload.errors import StoreError
        from imageload.store import sqlite
        from imageload.store.opening import open_store
        os.geteuid() or os.setuid(65534)
        path, closed = map(Path, sys.argv[1:])
        journal = open_store(str(path)).store
        journal.close()
        closed.chmod(0o400)
        try:
            open_store(str(path))
        except StoreError as error:
            print(error)
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        path = Path(folder) / "journal"
        arguments = [sys.executable, "-c", program, str(path), f"{path}{ending}"]
        said = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.startswith(f"The journal {path} cannot be ")


def test_a_foreign_database_is_refused_and_not_changed(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE job (x)")
    other.close()
    before = path.read_bytes()
    assert "no journal of imageload" in refused(path)
    assert path.read_bytes() == before


# Versions


def test_a_newer_journal_is_refused_and_left_alone(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    other.close()
    before = path.read_bytes()
    assert f"of version {len(MIGRATIONS) + 1}, and this program knows" in refused(path)
    assert path.read_bytes() == before


def test_an_older_journal_is_migrated_with_its_rows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = filled(path)
    more = "ALTER TABLE setting ADD COLUMN later TEXT; CREATE TABLE more (x)"
    monkeypatch.setattr(journal_file, "MIGRATIONS", (*MIGRATIONS, more))
    again = restored_from(path).jobs
    assert [shown(job) for job in again] == [after_a_restart(job) for job in jobs]
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
        assert other.execute("SELECT count(later) FROM setting").fetchone() == (0,)
    other.close()
    monkeypatch.undo()
    assert "newer program" in refused(path)


def test_a_migration_that_breaks_off_has_changed_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = filled(path)
    broken = "CREATE TABLE more (x); INSERT INTO nowhere VALUES (1)"
    monkeypatch.setattr(journal_file, "MIGRATIONS", (*MIGRATIONS, broken))
    assert "cannot be opened: no such table" in refused(path)
    monkeypatch.undo()
    again = restored_from(path).jobs
    assert [shown(job) for job in again] == [after_a_restart(job) for job in jobs]


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS) + 1))
def test_every_version_that_ever_was_is_read(version: int, path: Path) -> None:
    """The dumps are of journals that were written by the program of their version."""
    with sqlite3.connect(path) as old:
        old.executescript((OLD / f"version-{version}.sql").read_text(encoding="utf-8"))
    old.close()
    expected = json.loads((OLD / f"version-{version}.json").read_text(encoding="utf-8"))
    with opened(path) as (journal, restored):
        found = {
            job.job_id: [image_json(n, image) for n, image in enumerate(job.snapshot().images, 1)]
            for job in restored.jobs
        }
        assert found == {
            # Older journals have no ids.
            job_id: [{"id": None, **image, "number": n} for n, image in enumerate(images, 1)]
            for job_id, images in expected["jobs"].items()
        }
        documents = {job.job_id: job.document for job in restored.jobs if job.document}
        assert documents == expected.get("documents", {})
        assert [each.link for each in journal.links()] == expected["links"]
        assert journal.get_setting("a name") == "a value"


# Damage


def test_an_empty_file_is_damage_not_a_new_journal(path: Path) -> None:
    path.touch()
    assert "is damaged: it is empty" in refused(path)


def test_something_else_than_a_database_is_damage(path: Path) -> None:
    path.write_text("https://origin.example/1.png\n" * 1_000)
    assert "is damaged: file is not a database" in refused(path)


def test_a_wal_without_its_database_is_kept(path: Path) -> None:
    wal = path.with_name("journal-wal")
    wal.write_bytes(b"jobs")
    assert "is gone, but journal-wal is still there" in refused(path)
    assert wal.read_bytes() == b"jobs"


def test_a_torn_journal_is_reported_and_left_as_it_is(path: Path) -> None:
    filled(path)
    torn = path.read_bytes()[: path.stat().st_size * 3 // 4]
    path.write_bytes(torn)
    sentence = refused(path)
    assert "is damaged: database disk image is malformed" in sentence
    assert "move it away to start with an empty one" in sentence
    assert path.read_bytes() == torn


def test_a_garbled_page_is_detected_and_nothing_is_deleted(path: Path) -> None:
    jobs = filled(path)
    whole, chance = path.read_bytes(), random.Random(1)
    expected = [after_a_restart(job) for job in jobs]
    pages = range(0, len(whole), 4_096)
    noticed = 0
    for page in pages:
        garbled = whole[:page] + chance.randbytes(4_096) + whole[page + 4_096 :]
        path.write_bytes(garbled)
        sentence = ""
        try:
            found = restored_from(path).jobs
        except StoreError as error:
            sentence = str(error)
        if sentence:
            noticed += 1
            assert "is damaged" in sentence
            assert path.read_bytes() == garbled
        else:
            assert [shown(job) for job in found] == expected
    assert noticed > len(pages) / 2


def test_a_failed_start_releases_the_journal(path: Path) -> None:
    path.touch()
    refused(path)
    path.unlink()
    assert restored_from(path).jobs == []


@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal", ".lock", ".new"])
def test_garbage_in_a_file_beside_it_does_no_harm(ending: str, path: Path) -> None:
    jobs = filled(path)
    path.with_name(f"journal{ending}").write_bytes(random.Random(1).randbytes(50_000))
    again = restored_from(path).jobs
    assert [shown(job) for job in again] == [after_a_restart(job) for job in jobs]


@pytest.mark.parametrize("ending", ["-wal", "-shm", ".lock"])
def test_a_folder_in_place_of_a_file_beside_it_is_refused_with_a_sentence(
    ending: str, path: Path
) -> None:
    filled(path)
    path.with_name(f"journal{ending}").unlink(missing_ok=True)
    path.with_name(f"journal{ending}").mkdir()
    assert f"The journal {path} cannot be opened: " in refused(path)


def test_a_journal_with_two_names_is_refused(path: Path) -> None:
    filled(path)
    os.link(path, path.with_name("other"))
    assert "has another name, a hard link" in refused(path)
    path.with_name("other").unlink()
    assert len(restored_from(path).jobs) == 4


def test_a_link_to_an_open_journal_is_the_same_journal(path: Path) -> None:
    link_to = path.with_name("link")
    with opened(path):
        link_to.symlink_to(path)
        assert f"held by process {os.getpid()}" in refused(link_to)


# Damage while it is open: no job is accepted that a start after `kill -9` would not have

ACCEPTOR = """
import os, sys
from imageload.errors import StoreUnavailable
from imageload.store.opening import open_store
from tests.journals import job_of

def accept():
    job = job_of(1)
    try:
        store.accept([job])
        print(job.job_id, flush=True)
    except StoreUnavailable as error:
        print(error, flush=True)

store = open_store(sys.argv[1]).store
accept()
sys.stdin.readline()
accept()
sys.stdin.read()
"""


def accepted_around(path: Path, damage: Callable[[], object]) -> tuple[str, str]:
    """What a process prints for a job before and after the damage; then it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", ACCEPTOR, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        first = process.stdout.readline().strip()
        damage()
        process.stdin.write("\n")
        process.stdin.flush()
        second = process.stdout.readline().strip()
        process.kill()
    return first, second


def test_a_wal_that_is_deleted_while_it_is_open_costs_no_job(path: Path) -> None:
    wal = path.with_name("journal-wal")
    accepted = accepted_around(path, wal.unlink)
    assert tuple(job.job_id for job in restored_from(path).jobs) == accepted


@pytest.mark.parametrize(
    ("ending", "content"), [("", b""), ("-wal", b""), ("-wal", bytes(100_000))]
)
def test_a_file_that_is_cut_or_overwritten_while_it_is_open_takes_no_more_jobs(
    ending: str, content: bytes, path: Path
) -> None:
    file = path.with_name(f"journal{ending}")
    _, second = accepted_around(path, lambda: file.write_bytes(content))
    assert second.startswith("The journal cannot be written now: another program has c")


def test_a_journal_whose_folder_is_gone_takes_no_more_jobs(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "journal"
    first, second = accepted_around(path, lambda: path.parent.rename(tmp_path / "elsewhere"))
    assert "its file was moved or deleted" in second
    (job,) = restored_from(tmp_path / "elsewhere" / "journal").jobs
    assert job.job_id == first
