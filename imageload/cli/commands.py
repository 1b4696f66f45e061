"""The commands that ask once, or change a job: each takes the arguments, gives the exit status."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from itertools import islice

from imageload.cli import formats, tables
from imageload.cli.follow import follow, records_of
from imageload.cli.printable import printable, tell
from imageload.cli.remote import Remote
from imageload.cli.screen import Progress, open_screen
from imageload.cli.source import Entry, Record
from imageload.cli.uploading import INTERRUPTED, failure_text


def status(arguments: argparse.Namespace) -> int:
    """Print how far the job is, and every failure with its reason."""
    remote = _remote(arguments)
    (entry,) = remote.entries([arguments.job_id])
    if arguments.format == "json":
        print(json.dumps(entry))
        return 0
    _print_lines(tables.of_job(entry))
    if entry["counts"]["failed"]:
        records = records_of(remote, arguments.job_id, tell, patience=0, state="failed")
        _print_lines(map(failure_text, records))
    return 0


def jobs(arguments: argparse.Namespace) -> int:
    """Print the newest jobs."""
    entries = list(islice(_remote(arguments).jobs(first=arguments.limit), arguments.limit))
    if arguments.format == "json":
        print(json.dumps(entries))
    else:
        _print_lines(tables.of_jobs(entries))
    return 0


def links(arguments: argparse.Namespace) -> int:
    """Print the links of a job that have landed so far, or those of all jobs."""
    remote, job_id = _remote(arguments), arguments.job_id
    if job_id is None:
        records: Iterable[Record] = map(_only_a_link, remote.links())
    else:
        records = records_of(remote, job_id, tell, patience=0)
    formats.write(records, arguments.format, sys.stdout)
    return 0


def quota(arguments: argparse.Namespace) -> int:
    """Print what Imgur still allows."""
    state = _remote(arguments).quota()
    if arguments.format == "json":
        print(json.dumps(state))
    else:
        _print_lines(tables.of_quota(state))
    return 0


def retry(arguments: argparse.Namespace) -> int:
    """Have failed images tried again."""
    requeued = _remote(arguments).retry(arguments.job_id, only=arguments.only)
    print(f"{requeued:,} requeued")
    return 0


def cancel(arguments: argparse.Namespace) -> int:
    """End what has not landed."""
    cancelled, _ = _remote(arguments).cancel(arguments.job_id)
    print(f"{cancelled:,} cancelled")
    return 0


def undo(arguments: argparse.Namespace) -> int:
    """Cancel, and delete from Imgur what landed; 0 where nothing of it is left there."""
    remote, job_id = _remote(arguments), arguments.job_id
    cancelled, purging = remote.cancel(job_id, purge=True)
    tell(f"{cancelled:,} cancelled; deleting {purging:,} from Imgur")

    def deleted(entries: Sequence[Entry]) -> Progress:
        left = entries[0]["counts"]["completed"]
        return Progress(purging, max(0, purging - left), done_word="deleted")

    try:
        with open_screen() as screen:
            follow(remote, [job_id], screen, patience=arguments.patience, view=deleted)
        patience = arguments.patience
        kept = list(records_of(remote, job_id, tell, patience=patience, state="completed"))
    except KeyboardInterrupt:
        tell(f"The deletion goes on: {arguments.prog} status {job_id}")
        return INTERRUPTED
    for record in kept:
        error = record["error"] or {"message": "It was not come to."}
        tell(f"not deleted {record['link']} {error['message']}")
    return 1 if kept else 0


def _remote(arguments: argparse.Namespace) -> Remote:
    return Remote(arguments.server, arguments.token)


def _only_a_link(link: str) -> Record:
    return {"url": "", "link": link, "state": "completed", "error": None}


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(printable(line))
