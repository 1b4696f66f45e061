"""`upload` and `watch`: from a list of URLs to the end of its jobs, and to the links.

Ctrl-C ends the following, not the job, but where the job is done in this very process.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from imageload.cli import formats, posting, tables
from imageload.cli.follow import follow, patiently, records_of
from imageload.cli.printable import tell
from imageload.cli.remote import Remote
from imageload.cli.screen import open_screen
from imageload.cli.source import (
    Away,
    Body,
    CommandError,
    Entry,
    Misuse,
    Record,
    Source,
    Unreachable,
)

INTERRUPTED = 130


def upload(arguments: argparse.Namespace) -> int:
    """Post what the sources name and see it through; 0 where all of it landed."""
    body = posting.body_of(arguments.sources, _post_options(arguments))
    _check_writable(arguments.failed_to)
    with _open_source(arguments) as source:
        try:
            job_ids = _submit(source, body, arguments.patience)
        except KeyboardInterrupt:
            tell("Whether the service took the list is not known: `imageload jobs` shows it.")
            return INTERRUPTED
        if arguments.detach:
            print(*job_ids, sep="\n")
            return 0
        return _see_through(source, job_ids, arguments)


def watch(arguments: argparse.Namespace) -> int:
    """Follow jobs that run already; 0 where all of their images landed."""
    _check_writable(arguments.failed_to)
    job_ids = list(dict.fromkeys(arguments.job_ids))
    return _see_through(Remote(arguments.server, arguments.token), job_ids, arguments)


def _post_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keys of a POST beside `urls` that were asked for."""
    texts = {key: getattr(arguments, key) for key in ("album", "title", "description")}
    options: dict[str, Any] = {key: text for key, text in texts.items() if text is not None}
    return {**options, "dedupe": False} if arguments.no_dedupe else options


@contextlib.contextmanager
def _open_source(arguments: argparse.Namespace) -> Iterator[Source]:
    if not arguments.local:
        yield Remote(arguments.server, arguments.token)
        return
    from imageload.cli.local import running_locally  # the whole service, for this alone

    with running_locally(arguments.service_options) as local:
        yield local


def _submit(source: Source, body: Body, patience: float) -> list[str]:
    """The ids of the new jobs; waits where the service is busy, and never posts twice."""

    def once() -> list[str]:
        try:
            return source.submit(body)
        except Unreachable as error:
            hint = "`make run` starts a service, and --local needs none."
            if error.sent:
                hint = "Whether it took the list is not known: `imageload jobs` shows it."
            raise CommandError(f"{error} {hint}") from None

    return patiently(once, tell, patience=patience)


def _see_through(source: Source, job_ids: Sequence[str], arguments: argparse.Namespace) -> int:
    status = 0
    try:
        try:
            with open_screen() as screen:
                screen.say(f"job {' '.join(job_ids)}")
                follow(source, job_ids, screen, patience=arguments.patience)
        except KeyboardInterrupt:
            if source.outlives_us:
                raise
            tell("Stopping; what has not landed fails.")
            source.stop()
            status = INTERRUPTED
        landed = _report(source, job_ids, arguments)
    except KeyboardInterrupt:
        if source.outlives_us:
            tell(f"The job goes on. {_come_back(job_ids, arguments)}")
        return INTERRUPTED
    except Away as away:
        raise CommandError(f"{away} {_come_back(job_ids, arguments)}") from None
    return status or (0 if landed else 1)


def _come_back(job_ids: Sequence[str], arguments: argparse.Namespace) -> str:
    words = [arguments.prog, "watch", *map(shlex.quote, job_ids)]
    if arguments.server_given:
        words.append(f"--server={shlex.quote(Remote(arguments.server).shown)}")
    return f"Come back with: {' '.join(words)}"


def _report(source: Source, job_ids: Sequence[str], arguments: argparse.Namespace) -> bool:
    """Print the links, list the failures and write them down; True where there are none."""
    failed: list[Record] = []
    formats.write(
        _noting_failed(_all_records(source, job_ids, arguments.patience), failed),
        arguments.format,
        sys.stdout,
    )
    sys.stdout.flush()
    for record in failed:
        tell(failure_text(record))
    if arguments.failed_to:
        Path(arguments.failed_to).write_bytes(posting.list_of(failed))
    entries = patiently(lambda: source.entries(job_ids), tell, patience=arguments.patience)
    return _report_albums(entries) and not failed


def _all_records(source: Source, job_ids: Sequence[str], patience: float) -> Iterator[Record]:
    for job_id in job_ids:
        yield from records_of(source, job_id, tell, patience=patience)


def _noting_failed(records: Iterable[Record], failed: list[Record]) -> Iterator[Record]:
    for record in records:
        if record["state"] == "failed":
            failed.append(record)
        yield record


def failure_text(record: Record) -> str:
    """A failed image in a line: its code, its URL and the reason."""
    error = record["error"]
    return f"failed {error['code']} {record['url']} {error['message']}"


def _report_albums(entries: Sequence[Entry]) -> bool:
    """Say what became of albums; True where none failed."""
    albums = [entry["album"] for entry in entries if entry.get("album")]
    for album in albums:
        tell(tables.album_text(album))
    return not any(album["error"] for album in albums)


def _check_writable(name: str | None) -> None:
    """Find out before the work what would spoil its end; leaves no new file."""
    if name is None:
        return
    path = Path(name)
    try:
        is_new = not path.exists()
        with path.open("ab"):
            pass
        if is_new:
            path.unlink()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file has that name"
        raise Misuse(f"{name} cannot be written: {reason}.") from None
