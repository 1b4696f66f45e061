"""New jobs: all that one POST makes is one transaction, with its key and its messages."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

from imageload.errors import KeyUsed
from imageload.image import Image
from imageload.job import Job
from imageload.store import Posted
from imageload.store.postgres.batch import HEAD, SLICE, Claim, Counts, SliceState
from imageload.store.postgres.connections import Connection
from imageload.store.rows import encode_items, text_of

Defer = Callable[[Connection, Mapping[int, Sequence[int]]], object]
"""Queues slices of jobs: the first images of the slices by the number of their job."""


def insert(
    connection: Connection,
    jobs: Sequence[Job],
    posted: Posted | None,
    documents: Mapping[str, bytes],
    defer: Defer,
) -> list[Claim]:
    """Insert the jobs, their slices, documents, messages and key; the claims on them.

    Raises KeyUsed if jobs are kept under the key. It changes nothing if the same jobs were inserted
    by an earlier transaction, whose response was lost.
    """
    if posted is not None:
        _insert_key(connection, posted)
    images = [list(job.snapshot().images) for job in jobs]
    is_new, numbers = _insert_jobs(connection, jobs, posted)
    if is_new:
        _insert_slices(connection, dict(zip(numbers, images, strict=True)))
        for number, job in zip(numbers, jobs, strict=True):
            if job.job_id in documents:
                connection.execute(_INSERT_DOCUMENT, (number, documents[job.job_id]))
        firsts = [range(0, len(some), SLICE) for some in images]
        defer(connection, dict(zip(numbers, firsts, strict=True)))
    new = SliceState(0, 0, Counts())
    return [
        Claim(number, 0, some, dict.fromkeys((HEAD, *range(0, len(some), SLICE)), new))
        for number, some in zip(numbers, images, strict=True)
    ]


def keep_check(connection: Connection, job_id: str, check: bytes) -> None:
    """Keep the result of the last check of a job's links, unless the job is retired or deleted."""
    connection.execute(_KEEP_CHECK, (check, job_id))


def _insert_key(connection: Connection, posted: Posted) -> None:
    """Of two transactions with one key, the second waits here for the end of the first."""
    row = connection.execute(_INSERT_KEY, (*posted[:3], list(posted.job_ids))).fetchone()
    assert row is not None, "it inserts or updates"
    fingerprint, job_ids = bytes(row[0]), tuple(row[1])
    if job_ids != posted.job_ids:
        raise KeyUsed(fingerprint, job_ids)


def _insert_jobs(
    connection: Connection, jobs: Sequence[Job], posted: Posted | None
) -> tuple[bool, Sequence[int]]:
    """The jobs' numbers; False if they were there."""
    caller, key = posted[:2] if posted is not None else (None, None)
    summaries = [job.summary() for job in jobs]
    columns = [
        [job.job_id for job in jobs],
        [int(job.created.timestamp()) for job in jobs],
        [job.dedupe for job in jobs],
        [len(job) for job in jobs],
        [text_of(summary.album) for summary in summaries],
        [text_of(summary.callback) for summary in summaries],
        [job.document for job in jobs],
        [summary.first_url for summary in summaries],
    ]
    inserted = connection.execute(_INSERT_JOBS, (caller, key, *columns)).rowcount
    found = connection.execute(_NUMBERS, (columns[0],)).fetchall()
    return inserted > 0, [number for (number,) in found]


def _insert_slices(connection: Connection, jobs: dict[int, list[Image]]) -> None:
    rows: list[tuple[int, int, int, bytes]] = []
    for number, images in jobs.items():
        rows.append((number, HEAD, 0, b""))
        for first in range(0, len(images), SLICE):
            some = images[first : first + SLICE]
            rows.append((number, first, len(some), zlib.compress(encode_items(some), 1)))
    connection.execute(_INSERT_SLICES, [*map(list, zip(*rows, strict=True))])


# The row that is there already stays as it is, is locked, and comes back.
_INSERT_KEY = b"""
    INSERT INTO posted (caller, key, fingerprint, job_ids) VALUES (%s, %s, %s, %s)
    ON CONFLICT (caller, key) DO UPDATE SET key = posted.key
    RETURNING fingerprint, job_ids"""
_INSERT_JOBS = b"""
    INSERT INTO job (caller, key, id, created, dedupe, total, album, callback, document, first_url)
    SELECT %s, %s, id, created, dedupe, total, album, callback, document, first_url
    FROM unnest(%s::text[], %s::bigint[], %s::boolean[], %s::int[], %s::text[], %s::text[],
        %s::text[], %s::text[]) WITH ORDINALITY
        AS new (id, created, dedupe, total, album, callback, document, first_url, place)
    ORDER BY place ON CONFLICT (id) DO NOTHING"""
_NUMBERS = b"SELECT number FROM job WHERE id = ANY(%s) ORDER BY number"
_INSERT_DOCUMENT = b"INSERT INTO document (job, content) VALUES (%s, %s)"
# The job's row is locked, so that it is not retired or deleted meanwhile.
_KEEP_CHECK = b"""
    INSERT INTO checked (job, result)
    SELECT number, %s FROM job WHERE id = %s AND NOT retired FOR KEY SHARE
    ON CONFLICT (job) DO UPDATE SET result = excluded.result"""
_INSERT_SLICES = b"""
    INSERT INTO slice (job, first, count, items, open)
    SELECT job, first, count, items, first >= 0
    FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::bytea[])
        AS new (job, first, count, items)"""
