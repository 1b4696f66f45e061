"""A folder of notes of every kind with many images, that is rewritten with a kill -9 in its middle.

What each note must become is written down with it, so nothing here asks the finder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import requests

from sandbox.testing import RunningSandbox, running_sandbox
from tests.cli import Command, in_a_pipe
from tests.origin import IMAGES, Origin, answer, running_origin
from tests.service import Client, service_processes
from tests.waiting import PATIENCE, wait_until

_FORMATS = ("png-rgb.png", "jpeg-baseline.jpg", "png-palette.png", "gif-89a.gif")
_PER_NOTE = 5

Text = Callable[[Sequence[str], Sequence[str]], str]
"""The text of a note: with its URLs where there are links, and what a table adds."""


def _table(delimiter: str) -> Text:
    def text(shown: Sequence[str], urls: Sequence[str]) -> str:
        added = [
            f"{delimiter}{link}{delimiter}" if link != url else ""
            for link, url in zip(shown, urls, strict=True)
        ]
        heading = f"{delimiter}link{delimiter}error" if any(added) else ""
        rows = [
            f'{number}{delimiter}{url}{more}{delimiter}"Größe ""{number}""{delimiter} ü"\r\n'
            for number, (url, more) in enumerate(zip(urls, added, strict=True))
        ]
        return f"sku{delimiter}image{heading}{delimiter}title\r\n" + "".join(rows)

    return text


def _lines(form: str, before: str = "", after: str = "") -> Text:
    """A note with each URL in `form`; `{0}` is the URL, `{1}` stays an URL."""

    def text(shown: Sequence[str], urls: Sequence[str]) -> str:
        lines = [form.format(*pair) for pair in zip(shown, urls, strict=True)]
        return before + "".join(lines) + after

    return text


KINDS: dict[str, tuple[Text, str]] = {
    "a.md": (_lines("![é]({0}) and `{1}`\n\n", "# Übung\r\n"), "utf-8"),
    "b.html": (
        _lines('<p><img alt="ä" src="{0}"></p>\n<!-- {1} -->\n', "<!DOCTYPE html>\n"),
        "utf-8-sig",
    ),
    "c.csv": (_table(";"), "utf-8"),
    "d.bbcode": (_lines("[img]{0}[/img] [code]{1}[/code]\n"), "utf-8"),
    "e.json": (_lines('{{"photo": "{0}", "ä": 1}}\n'), "utf-8"),
    "f.org": (_lines("[[{0}]] ={1}=\n", "#+title: Vögel\n"), "utf-16"),
    "g.adoc": (_lines("image::{0}[Alt]\n\n", "= Vögel\n\n"), "utf-8"),
    "h.wiki": (_lines("{{{{{0}?200|Vogel}}}}\n"), "utf-8"),
    "i.txt": (_lines("siehe {0}, schön\n"), "latin-1"),
    "j.tsv": (_table("\t"), "utf-8"),
}
"""The name of a note of each kind, its text and its encoding."""


@dataclass(frozen=True)
class Note:
    """A note in a folder and its images."""

    path: Path
    kind: str
    urls: Sequence[str]

    def content(self, links: dict[str, str]) -> bytes:
        """The note with these links, by URL."""
        text, encoding = KINDS[self.kind]
        return text([links.get(url, url) for url in self.urls], self.urls).encode(encoding)


def make_notes(folder: Path, origin: Origin, count: int) -> list[Note]:
    """So many notes in folders of `folder`, each with five images that nothing else has."""
    notes = []
    for number in range(count):
        kind = [*KINDS][number % len(KINDS)]
        urls = []
        for image in range(number * _PER_NOTE, (number + 1) * _PER_NOTE):
            name = _FORMATS[image % len(_FORMATS)]
            content = (IMAGES / name).read_bytes() + image.to_bytes(4, "big")
            urls.append(origin.page(f"/{image}-{name}", answer(content)))
        path = folder / f"{number // 50}" / "notes" / f"{number}-{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        notes.append(Note(path, kind, urls))
        path.write_bytes(notes[-1].content({}))
    return notes


@dataclass(slots=True, kw_only=True)
class Counts:
    """What was seen."""

    notes: int
    images: int
    rewritten_at_the_kill: int = 0
    jobs: int = 0
    uploads: int = 0
    distinct_links: int = 0
    closed_links: int = 0
    """Links that do not open."""
    wrong_notes: int = 0
    """Notes that differ from what they must be, and backups that differ from what was there."""
    other_files: int = 0
    changed_by_a_third_run: int = 0
    uploads_of_a_third_run: int = 0

    def is_right(self) -> bool:
        """Only URLs have changed, each image is on the sandbox once, and the rest is nothing."""
        each_once = {self.images} == {self.uploads, self.distinct_links}
        wrong = self.closed_links, self.wrong_notes, self.other_files
        third = self.changed_by_a_third_run, self.uploads_of_a_third_run
        is_middle = 0 < self.rewritten_at_the_kill < self.notes
        return each_once and is_middle and self.jobs == self.notes and not any(wrong + third)


def rewritten_with_a_kill(
    folder: Path, origin: Origin, sandbox: RunningSandbox, service: Client, count: int
) -> Counts:
    """Rewrite so many notes in `folder`, kill the command in the middle, and run it twice more.

    Three of the notes have an image that its origin does not send before the kill.
    """
    notes = make_notes(folder, origin, count)
    before = {note.path: note.path.read_bytes() for note in notes}
    held = [notes[n].urls[0].removeprefix(origin.url) for n in (0, count // 2, count - 1)]
    pages = {path: origin.pages[path] for path in held}
    origin.pages.update(dict.fromkeys(held, origin.hang))

    def rewritten() -> int:
        return sum(path.read_bytes() != old for path, old in before.items())

    with _command(folder, service) as command:
        wait_until(lambda: rewritten() > count // 3, 10 * PATIENCE)
        command.process.kill()
        command.end()
    counts = Counts(notes=count, images=count * _PER_NOTE, rewritten_at_the_kill=rewritten())
    origin.pages.update(pages)
    origin.released.set()
    with _command(folder, service) as command:
        assert command.end(10 * PATIENCE) == 0, command.shown
    jobs = service.get("/v1/images/upload?limit=1000").json()["jobs"]
    counts.jobs, counts.uploads = len(jobs), len(sandbox.images())
    links = _links(service, [job["job_id"] for job in jobs])
    counts.distinct_links = len({*links.values()})
    with requests.Session() as browser:
        shown = (browser.get(link, timeout=PATIENCE) for link in links.values())
        counts.closed_links = sum(each.status_code != 200 for each in shown)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for note in notes:
        backup = note.path.with_name(note.path.name + ".bak")
        counts.wrong_notes += after.pop(note.path) != note.content(links)
        counts.wrong_notes += after.pop(backup, b"") != before[note.path]
    counts.other_files = len(after)
    _run_again(folder, service, sandbox, counts)
    return counts


def _run_again(folder: Path, service: Client, sandbox: RunningSandbox, counts: Counts) -> None:
    """A third run: everything is done already."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with _command(folder, service) as command:
        assert command.end(PATIENCE) == 0, command.shown
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    counts.changed_by_a_third_run = len(dict(before.items() ^ after.items()))
    counts.uploads_of_a_third_run = len(sandbox.images()) - counts.uploads


def _command(folder: Path, service: Client) -> AbstractContextManager[Command]:
    return in_a_pipe("rewrite", str(folder), "--in-place", "--backup", f"--server={service.url}")


def _links(service: Client, job_ids: Sequence[str]) -> dict[str, str]:
    records = [record for job_id in job_ids for record in service.records(job_id).values()]
    return {record["url"]: record["link"] for record in records}


def measure(count: int) -> bool:
    """Print the Counts of so many notes; True if they are right."""
    with tempfile.TemporaryDirectory() as name, running_origin() as origin:
        folder = Path(name)
        (folder / "notes").mkdir()
        with (
            running_sandbox(folder / "sandbox", unlimited=True) as sandbox,
            service_processes(folder, sandbox) as start,
        ):
            counts = rewritten_with_a_kill(folder / "notes", origin, sandbox, start(), count)
    for name, number in asdict(counts).items():
        print(f"{name:24} {number:>7,}")
    return counts.is_right()
