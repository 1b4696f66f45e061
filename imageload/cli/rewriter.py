"""Rewrites documents: each gets the links of its images in place of their URLs.

    look     every document is shown to the service, which finds its images
    post     a job for each document that has some; so many at a time
    write    a file whose jobs are finished is replaced, copied or printed

It may end anywhere, and goes on when it runs again: the Idempotency-Key of a document is a hash of
its content and its options, so the service gives the same job. A file that was replaced has links,
and the service uploads none of those again.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from imageload.cli import archive
from imageload.cli.client import Client
from imageload.cli.connection import Rejected
from imageload.cli.documents import Source
from imageload.cli.done import Done
from imageload.cli.files import back_up, digest, replacing
from imageload.cli.looking import Looking, Options, Work
from imageload.cli.output import Entry, Record, print_message
from imageload.cli.progress import Progress, follow, poll
from imageload.cli.report import Report

MOST_JOBS = 200
"""Jobs at a time. The service keeps finished ones, 10,000 by default, until they are read."""


class Rewriter:
    """One run. A file that cannot be read, posted or written is in the report as refused."""

    def __init__(self, client: Client, options: Options, report: Report) -> None:
        self._client, self._options, self._report = client, options, report
        self._done = Done(options.output)
        self._waiting: deque[Work] = deque()
        self._running: list[Work] = []
        self._total = 0

    def run(self, sources: Iterable[Source]) -> None:
        """Rewrite all of them. Raises CommandError if the service goes away."""
        works = list(self._new(sources))
        Looking(self._client, self._options, self._report).look(works)
        for work in works:
            if work.lines:
                self._waiting.append(work)
                self._total += sum(map(len, work.lines.values()))
            else:
                self._write(work, {})
        for entries in poll(self._client, self._post_more, self._progress, lambda: self._waiting):
            self._finish(entries)

    def cancel(self) -> None:
        """Cancel the jobs that run, and write what has landed."""
        print_message("Cancelled: images that have not landed fail.")
        self._waiting.clear()
        job_ids = self._job_ids()
        for job_id in job_ids:
            self._client.cancel(job_id)
        if job_ids:
            follow(self._client, job_ids)
            self._finish(self._client.entries(job_ids))

    # Look

    def _new(self, sources: Iterable[Source]) -> Iterator[Work]:
        """The sources but for those that are done, and those that cannot be read."""
        for source in sources:
            try:
                work = Work(source, digest(source.path) if source.path is not None else "")
                is_done = self._done.has(self._key(work), self._place(source))
            except OSError as error:
                self._report.add_error(source.name, error)
                continue
            if is_done:
                self._report.documents += 1
                self._report.done_before += 1
            else:
                yield work

    # Post

    def _post_more(self) -> list[str]:
        """The jobs that run: as many as may, if there are so many."""
        while self._waiting and (not self._running or len(self._job_ids()) < MOST_JOBS):
            work = self._waiting.popleft()
            try:
                self._post(work)
            except (OSError, archive.BadArchive) as error:
                self._report.add_error(work.source.name, error)
                continue
            if work.jobs:
                self._running.append(work)
            else:
                self._write(work, {})
        return self._job_ids()

    def _post(self, work: Work) -> None:
        """Make the jobs of a file's documents. Those of an earlier run retry their failures."""
        for document in work.source.documents(frozenset(work.lines)):
            upload, query = self._options.upload_of(document), self._options.query_of(document)
            sha256 = work.contents[document.number] = hashlib.sha256(document.content).hexdigest()
            base = query.get("base", "")
            key = self._options.key(upload.name, upload.type, base, sha256)
            try:
                job_id, is_earlier = self._client.submit_document(upload, query, key)
            except Rejected as error:
                self._report.add_error(document.name, error)
                continue
            if is_earlier:
                self._client.retry(job_id, only=None)
            work.jobs[document.number] = job_id

    def _job_ids(self) -> list[str]:
        return list(dict.fromkeys(job for work in self._running for job in work.jobs.values()))

    def _progress(self, entries: Sequence[Entry]) -> Progress:
        here = Progress.of(entries)
        done, failed = self._report.replaced + here.done, len(self._report.failed) + here.failed
        return Progress(self._total, done, failed, "replaced")

    # Write

    def _finish(self, entries: Sequence[Entry]) -> None:
        """Write the files whose jobs are finished."""
        by_id = {entry["job_id"]: entry for entry in entries}
        for work in list(self._running):
            jobs = {number: by_id.get(job_id) for number, job_id in work.jobs.items()}
            if not all(entry is not None and entry["finished"] for entry in jobs.values()):
                continue
            self._running.remove(work)
            contents = {number: self._client.document(job) for number, job in work.jobs.items()}
            if self._write(work, contents):
                self._report_on(work, {n: entry for n, entry in jobs.items() if entry is not None})

    def _report_on(self, work: Work, entries: Mapping[int, Entry]) -> None:
        """Report the images of a file that is written, and keep that it is done if none failed."""
        is_done = len(entries) == len(work.lines)
        for number, entry in entries.items():
            failed: list[Record] = []
            if entry["counts"]["failed"]:
                is_done = False
                failed.extend(self._client.records(entry["job_id"], "failed"))
            self._report.add_job(work.names[number], entry, failed, work.lines[number])
        place = self._place(work.source)
        if is_done and place is not None:
            self._done.add(self._key(work), place)

    def _write(self, work: Work, contents: dict[int, bytes]) -> bool:
        """Write a file with these contents of its documents; False if that is not possible."""
        is_new = any(
            hashlib.sha256(content).hexdigest() != work.contents[number]
            for number, content in contents.items()
        )
        try:
            return self._write_to_place(work, contents if is_new else {})
        except (OSError, archive.BadArchive) as error:
            self._report.add_error(work.source.name, error)
            return False

    def _write_to_place(self, work: Work, contents: dict[int, bytes]) -> bool:
        path, place = work.source.path, self._place(work.source)
        if path is not None and digest(path) != work.sha256:
            why = "It has changed meanwhile: run the command again."
            self._report.add_refused(work.source.name, why)
            return False
        if place is None:
            _copy(work.source, contents, sys.stdout.buffer)
            return True
        if self._options.in_place and not contents:
            return True
        if self._options.backup:
            back_up(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place, path) as file:
            _copy(work.source, contents, file)
        return True

    def _place(self, source: Source) -> Path | None:
        """Where a file is written; None: to stdout."""
        if self._options.output is not None:
            return self._options.output / source.place
        # A link stays, and what it leads to is replaced.
        return source.path.resolve() if self._options.in_place and source.path else None

    def _key(self, work: Work) -> str:
        """A hash of all that the copy of a file depends on."""
        return self._options.key(str(work.source.place), work.sha256)


def _copy(source: Source, contents: Mapping[int, bytes], file: BinaryIO) -> None:
    """Write a source with these contents of its documents."""
    if source.path is None:
        file.write(contents.get(0, source.stdin))
    elif source.is_zip and contents:
        archive.write(source.path, contents, file)
    elif contents:
        file.write(contents[0])
    else:
        with source.path.open("rb") as before:
            shutil.copyfileobj(before, file)
