"""The commands. Each takes the arguments and returns the exit status.

Ctrl-C ends the following of a job, not the job; with --local it cancels the job.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from imageload.cli import output, urls
from imageload.cli.child import running_service
from imageload.cli.client import Client, Upload
from imageload.cli.connection import Away, CommandError, Misuse
from imageload.cli.output import Entry, Record, print_lines, print_message
from imageload.cli.progress import Progress, follow

INTERRUPTED = 130


def upload(arguments: argparse.Namespace) -> int:
    """Post a list or a document, follow its jobs, print the links. 0 if all images landed."""
    posted = urls.posted(arguments.sources, post_options(arguments))
    _check_writable(arguments.failed_to)
    with opened_client(arguments) as client:
        try:
            if isinstance(posted, Upload):
                key, query = str(uuid.uuid4()), query_of(arguments)
                job_ids = [client.submit_document(posted, query, key)[0]]
            else:
                job_ids = client.submit(posted)
        except KeyboardInterrupt:
            print_message("The service may have accepted the list: see `imageload jobs`.")
            return INTERRUPTED
        if arguments.detach:
            return print_result({"jobId": job_ids}, job_ids, arguments)
        return _follow_and_report(client, job_ids, arguments)


def watch(arguments: argparse.Namespace) -> int:
    """Follow jobs that exist already. 0 if all images landed."""
    _check_writable(arguments.failed_to)
    client = _client(arguments)
    job_ids = list(dict.fromkeys(map(client.find_job, arguments.job_ids)))
    return _follow_and_report(client, job_ids, arguments)


def status(arguments: argparse.Namespace) -> int:
    """Print every failure of the job, by reason, and then its progress."""
    client = _client(arguments)
    job_id = client.find_job(arguments.job_id)
    (entry,) = client.entries([job_id])
    failed = list(client.records(job_id, "failed")) if entry["counts"]["failed"] else []
    lines = chain(output.failure_lines(failed, every_url=True), output.job_lines(entry, failed))
    return print_result(entry, lines, arguments)


def jobs(arguments: argparse.Namespace) -> int:
    """Print the newest jobs."""
    entries = list(islice(_client(arguments).jobs(first=arguments.limit), arguments.limit))
    return print_result(entries, output.jobs_table(entries), arguments)


def links(arguments: argparse.Namespace) -> int:
    """Print the links of a job so far, or of all jobs."""
    records: Iterator[Record]
    if arguments.job_id is None:
        as_landed = {"url": "", "state": "completed", "error": None}
        records = ({**as_landed, "link": link} for link in _client(arguments).links())
    else:
        client, job_id = client_and_job(arguments)
        records = client.records(job_id)
    output.write(records, arguments.format, sys.stdout)
    return 0


def quota(arguments: argparse.Namespace) -> int:
    """Print Imgur's remaining budgets."""
    state = _client(arguments).quota()
    return print_result(state, output.quota_lines(state), arguments)


def retry(arguments: argparse.Namespace) -> int:
    """Retry the job's failed images."""
    client, job_id = client_and_job(arguments)
    requeued = client.retry(job_id, only=arguments.only)
    result = {"job_id": job_id, "requeued": requeued}
    return print_result(result, [f"{output.count_of(requeued, 'image')} tried again"], arguments)


def cancel(arguments: argparse.Namespace) -> int:
    """Cancel the images of the job that have not landed."""
    client, job_id = client_and_job(arguments)
    cancelled, _ = client.cancel(job_id)
    result = {"job_id": job_id, "cancelled": cancelled}
    return print_result(result, [f"{output.count_of(cancelled, 'image')} cancelled"], arguments)


def undo(arguments: argparse.Namespace) -> int:
    """Cancel the job, and delete its images and its album. 0 if none is left."""
    client, job_id = client_and_job(arguments)
    cancelled, purging = client.cancel(job_id, purge=True)
    images = output.count_of(purging, "image")
    if cancelled:
        print_message(f"{output.count_of(cancelled, 'image')} cancelled")
    print_message(f"deleting {images}" if purging else "no image to delete")

    def deleted(entries: Sequence[Entry]) -> Progress:
        left = entries[0]["counts"]["completed"]
        return Progress(purging, max(0, purging - left), done_word="deleted")

    try:
        follow(client, [job_id], deleted)  # an album too, which is no image
        kept = list(client.records(job_id, "completed"))
    except KeyboardInterrupt:
        print_message(f"The deletion continues. See: {arguments.prog} status {job_id}")
        return INTERRUPTED
    result = {"job_id": job_id, "cancelled": cancelled, "purging": purging, "not_deleted": kept}
    print_result(result, (), arguments)
    not_tried = {"code": "", "message": "The deletion was not tried."}
    reasons = ({**record, "error": record["error"] or not_tried} for record in kept)
    for line in output.kept_lines("not deleted", "images", reasons):
        print_message(line)
    if kept:
        print_message(f"{max(0, purging - len(kept)):,} of {images} deleted")
    return 1 if kept else 0


@contextlib.contextmanager
def opened_client(arguments: argparse.Namespace) -> Iterator[Client]:
    """A client of the service, which is started for the block with --local."""
    if not arguments.local:
        yield _client(arguments)
        return
    with running_service(arguments.service_options, arguments.token) as (url, token):
        yield Client(url, token, arguments.patience)


def client_and_job(arguments: argparse.Namespace) -> tuple[Client, str]:
    """A client, and the id of the job that JOBID means: a message says it unless it was given."""
    client = _client(arguments)
    job_id = client.find_job(arguments.job_id)
    if job_id != arguments.job_id:
        print_message(f"job {job_id}")
    return client, job_id


def _client(arguments: argparse.Namespace) -> Client:
    return Client(arguments.server, arguments.token, arguments.patience)


def print_result(value: Any, lines: Iterable[str], arguments: argparse.Namespace) -> int:
    """Print the JSON `value` or its `lines`, by --format. 0."""
    if arguments.format == "json":
        print(json.dumps(value))
    else:
        print_lines(lines)
    return 0


def post_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keys of a POST of URLs beside `urls`."""
    texts = {key: getattr(arguments, key) for key in ("album", "title", "description")}
    options: dict[str, Any] = {key: text for key, text in texts.items() if text is not None}
    return {**options, "dedupe": False} if arguments.no_dedupe else options


def query_of(arguments: argparse.Namespace) -> dict[str, str]:
    """The same options as the query of a POST of documents."""
    options = post_options(arguments)
    return {**options, "dedupe": "false"} if "dedupe" in options else options


def _follow_and_report(
    client: Client, job_ids: Sequence[str], arguments: argparse.Namespace
) -> int:
    status = 0
    come_back = "" if arguments.local else _come_back(client, job_ids, arguments)
    try:
        try:
            print_message(f"job {' '.join(job_ids)}")
            follow(client, job_ids)
        except KeyboardInterrupt:
            if not arguments.local:
                raise
            status = INTERRUPTED
            _cancel_all(client, job_ids)
        landed = _report(client, job_ids, arguments)
    except KeyboardInterrupt:
        if come_back:
            print_message(f"The job continues. {come_back}")
        return INTERRUPTED
    except Away as away:
        raise CommandError(f"{away} {come_back}".strip()) from None
    return status or (0 if landed else 1)


def _cancel_all(client: Client, job_ids: Sequence[str]) -> None:
    """Cancel the jobs and wait until they are finished."""
    print_message("Cancelled: images that have not landed fail.")
    for job_id in job_ids:
        client.cancel(job_id)
    follow(client, job_ids)


def _come_back(client: Client, job_ids: Sequence[str], arguments: argparse.Namespace) -> str:
    words = [arguments.prog, "watch", *map(shlex.quote, job_ids)]
    if arguments.server_given:
        words.append(f"--server={shlex.quote(client.shown)}")
    return f"Come back with: {' '.join(words)}"


def _report(client: Client, job_ids: Sequence[str], arguments: argparse.Namespace) -> bool:
    """Print the links, failures and albums, and save the failures. True if there are none.

    After failures and albums the sum comes last, where it can be seen.
    """
    failed: list[Record] = []

    def records() -> Iterator[Record]:
        for record in chain.from_iterable(map(client.records, job_ids)):
            if record["state"] == "failed":
                failed.append(record)
            yield record

    output.write(records(), arguments.format, sys.stdout)
    sys.stdout.flush()
    for line in output.failure_lines(failed):
        print_message(line)
    if arguments.failed_to:
        Path(arguments.failed_to).write_bytes(urls.list_of(failed))
    entries = client.entries(job_ids)
    albums = [entry["album"] for entry in entries if entry.get("album")]
    for album in albums:
        print_message(output.album_text(album))
    if failed or albums:
        print_message(str(Progress.of(entries)))
    return not failed and not any(album["error"] for album in albums)


def _check_writable(name: str | None) -> None:
    """Create the file, if there is a name, so that a wrong name fails now. Raises Misuse."""
    try:
        if name is not None:
            Path(name).open("ab").close()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is not a file name"
        raise Misuse(f"{name} cannot be written: {reason}.") from None
