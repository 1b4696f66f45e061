"""Jobs and slices of jobs, read from the tables."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, NamedTuple

from imageload.image import Image, State
from imageload.job import Job, Mirrored, Snapshot
from imageload.store.postgres.batch import HEAD, Claim, Counts, SliceState, counts_of
from imageload.store.postgres.connections import Connection
from imageload.store.rows import PAGE, decode_items, read_album, read_callback, read_image

_HEADS = """
    SELECT number, id, created, dedupe, total, started, purging, album, callback, document
    FROM job WHERE {}"""
_IS_PARKED = "not_before IS NOT NULL AND open AND first >= 0"
_SLICES = f"""
    SELECT first, {_IS_PARKED}, items, epoch, version, downloaded, completed, failed,
        maybe_duplicates, downloaded_bytes, uploaded_bytes
    FROM slice WHERE job = %s ORDER BY first""".encode()  # noqa: S608 - an expression
# Places of images in the order of their last Changes: by transaction, then by number. A row of a
# later transaction than this one was restored from a dump.
_PLACE = """
    CASE WHEN changed < pg_snapshot_xmax(pg_current_snapshot())
    THEN changed::text::bigint << 20 ELSE 0 END + (n & 1048575)"""
_IMAGES = f"""
    SELECT job, n, {_PLACE}, link, record FROM image
    WHERE job = %s AND n >= %s AND n < %s ORDER BY n"""  # noqa: S608 - an expression
_SETTLED = b"SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::bigint << 20) - 1"
ONE_MOMENT = b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
"""What is read in this transaction is of one moment."""
_VERSIONS = f"SELECT first, version, {_IS_PARKED} FROM slice WHERE job = %s".encode()  # noqa: S608
_ITEMS = b"SELECT items FROM slice WHERE job = %s AND first = %s"
_CHANGED = f"""
    SELECT job, n, {_PLACE}, link, record FROM image
    WHERE job = %s AND n >= %s AND n < %s AND version > %s ORDER BY n""".encode()  # noqa: S608
_JOB_VERSIONS = b"""
    SELECT job.id, sum(slice.version)::bigint FROM job JOIN slice ON slice.job = job.number
    WHERE job.id = ANY(%s) GROUP BY job.id"""
SUMMARIES = f"""
    SELECT job.id, created, started, purging, album, callback, document, first_url, total, sums.*
    FROM job, LATERAL (
        SELECT bool_or({_IS_PARKED}), sum(version)::bigint, sum(downloaded)::int,
            sum(completed)::int, sum(failed)::int,
            sum(maybe_duplicates)::int, sum(downloaded_bytes)::bigint, sum(uploaded_bytes)::bigint
        FROM slice WHERE slice.job = job.number) AS sums
    WHERE NOT retired""".encode()  # noqa: S608 - an expression
_NEWEST = SUMMARIES + b" AND number < %s ORDER BY number DESC LIMIT %s"
_LINKS = f"""
    SELECT image.job, job.id, image.n, image.link
    FROM image JOIN job ON job.number = image.job
    WHERE (image.job, image.n) > (%s, %s) AND image.link IS NOT NULL AND job.retired >= %s
    ORDER BY image.job, image.n LIMIT {PAGE}""".encode()  # noqa: S608 - a number
_DOCUMENT = b"SELECT content FROM document JOIN job ON job.number = document.job WHERE id = %s"
_CHECK = b"SELECT result FROM checked JOIN job ON job.number = checked.job WHERE id = %s"
_SETTING = b"SELECT value FROM setting WHERE name = %s"


class Head(NamedTuple):
    """A row of `job`."""

    number: int
    job_id: str
    created: int
    dedupe: bool
    total: int
    started: bool
    purging: bool
    album: str | None
    callback: str | None
    document: str | None


def read_head(connection: Connection, job_id: str) -> Head | None:
    """The row of the job with this id."""
    if "\0" in job_id:  # PostgreSQL has no such text
        return None
    row = connection.execute(_HEADS.format("id = %s").encode(), (job_id,)).fetchone()
    return None if row is None else Head(*row)


def read_head_of(connection: Connection, number: int) -> Head:
    """The row of the job with this number."""
    row = connection.execute(_HEADS.format("number = %s").encode(), (number,)).fetchone()
    if row is None:
        raise LookupError(number)
    return Head(*row)


def read_whole(connection: Connection, head: Head) -> tuple[Job, Claim]:
    """The job as it is, and a claim on it under the epochs of now."""
    slices = connection.execute(_SLICES, (head.number,)).fetchall()
    newest = sum(version for _, _, _, _, version, *_ in slices)
    rows = _image_rows(connection, head.number, 0, head.total)
    images: list[Image] = []
    states: dict[int, SliceState] = {}
    for first, _, packed, epoch, version, *counts in slices:
        images += _images(first, packed, rows)
        states[first] = SliceState(epoch, version, Counts(*counts))
    job = Job.restored(
        images,
        head.job_id,
        created=datetime.fromtimestamp(head.created, UTC),
        dedupe=head.dedupe,
        started=head.started,
        album=read_album(head.album),
        purging=head.purging,
        callback=read_callback(head.callback),
        version=newest,
        settled=_read_settled(connection),
        parked=any(is_parked for _, is_parked, *_ in slices),
        document=head.document,
    )
    return job, Claim(head.number, 0, images, states)


def read_changes(
    connection: Connection, known: Mapping[int, int], head: Head, *, is_settled: bool
) -> tuple[Mirrored, dict[int, int]] | None:
    """What has changed in a job since its slices had these versions, and their versions now.

    None: nothing has, and the job is settled.
    """
    found = connection.execute(_VERSIONS, (head.number,)).fetchall()
    versions: dict[int, int] = {first: version for first, version, _ in found}
    if versions == known and is_settled:
        return None
    newest = sum(versions.values())
    images: dict[int, Image] = {}
    for first, version in versions.items():
        seen = known.get(first, -1)  # -1: it was split from another
        if first != HEAD and version != seen:
            (packed,) = connection.execute(_ITEMS, (head.number, first)).fetchone() or (b"",)
            items = decode_items(zlib.decompress(packed))
            changed = (head.number, first, first + len(items), seen)
            for row in connection.execute(_CHANGED, changed).fetchall():
                images[row[1]] = read_image(items[row[1] - first], row, 0)
    change = Mirrored(
        images,
        head.started,
        head.purging,
        read_album(head.album),
        read_callback(head.callback),
        newest,
        _read_settled(connection),
        any(is_parked for _, _, is_parked in found),
    )
    return change, versions


def _read_settled(connection: Connection) -> int:
    """The place up to which no image can get an earlier Change any more: see `Job.restored`."""
    (settled,) = connection.execute(_SETTLED).fetchone() or (0,)
    return int(settled)


def read_slice(
    connection: Connection, head: Head, first: int, epoch: int, version: int, packed: bytes
) -> tuple[Job, Claim]:
    """A slice of a job, as a job of its own that has to go on, and the claim on it."""
    items = decode_items(zlib.decompress(packed))
    rows = _image_rows(connection, head.number, first, first + len(items))
    images = list(_images(first, packed, rows))
    state = SliceState(epoch, version, counts_of(images))
    claim = Claim(head.number, first, images, {first: state})
    job = Job.restored(
        images,
        f"{head.job_id}/{first}",
        created=datetime.fromtimestamp(head.created, UTC),
        dedupe=head.dedupe,
        started=True,
        version=version,
    )
    return job, claim


def _image_rows(
    connection: Connection, number: int, first: int, end: int
) -> Mapping[int, Sequence[Any]]:
    found = connection.execute(_IMAGES.encode(), (number, first, end)).fetchall()
    return dict(zip(map(itemgetter(1), found), found, strict=True))


def _images(first: int, packed: bytes, rows: Mapping[int, Sequence[Any]]) -> Iterator[Image]:
    """The images of a slice; their `version` is their place among the Changes of all jobs."""
    if first == HEAD:
        return
    for n, item in zip(itertools.count(first), decode_items(zlib.decompress(packed)), strict=False):
        yield read_image(item, rows.get(n), 0)


def read_versions(connection: Connection, job_ids: Sequence[str]) -> dict[str, int]:
    """The versions of these jobs, by id."""
    return dict(connection.execute(_JOB_VERSIONS, (job_ids,)).fetchall())


def read_summaries(connection: Connection) -> list[Snapshot]:
    """All jobs that are not retired, without their images."""
    return [summary_of(row) for row in connection.execute(SUMMARIES)]


def read_newest(connection: Connection, before: str | None, limit: int) -> list[Snapshot]:
    """Jobs that are not retired, newest first, older than the job `before`; or LookupError."""
    number = 2**62
    if before is not None:
        head = read_head(connection, before)
        if head is None:
            raise LookupError(before)
        number = head.number
    return [summary_of(row) for row in connection.execute(_NEWEST, (number, limit))]


def read_links(
    connection: Connection, after: tuple[int, int], retired_only: bool
) -> list[tuple[Any, ...]]:
    """Links after an image of a job, by its number: (number of the job, its id, index, link)."""
    return connection.execute(_LINKS, (*after, retired_only)).fetchall()


def read_document(connection: Connection, job_id: str) -> bytes | None:
    """What the job with this id came from."""
    row = connection.execute(_DOCUMENT, (job_id,)).fetchone()
    return None if row is None else bytes(row[0])


def read_check(connection: Connection, job_id: str) -> bytes | None:
    """The result of the last check of the links of the job with this id."""
    row = connection.execute(_CHECK, (job_id,)).fetchone()
    return None if row is None else bytes(row[0])


def read_setting(connection: Connection, name: str) -> str | None:
    """The text stored under `name`."""
    row = connection.execute(_SETTING, (name,)).fetchone()
    return None if row is None else str(row[0])


def summary_of(row: Sequence[Any]) -> Snapshot:
    """A job without its images, of its row and the sums of its slices."""
    job_id, created, started, purging, album, callback, document, first_url, total, *sums = row
    parked, version, *counts = sums
    downloaded, completed, failed, maybe_duplicates, downloaded_bytes, uploaded_bytes = counts
    states: dict[State, int] = {
        "queued": total - downloaded - completed - failed,
        "downloaded": downloaded,
        "completed": completed,
        "failed": failed,
    }
    return Snapshot(
        job_id,
        datetime.fromtimestamp(created, UTC),
        version,
        started,
        (),
        states,
        downloaded_bytes,
        uploaded_bytes,
        maybe_duplicates,
        read_album(album),
        purging,
        read_callback(callback),
        parked=parked,
        document=document,
        first_url=first_url,
    )
