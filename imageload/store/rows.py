"""The tables of a store, and how Jobs become rows and are read back. No files, no threads.

    job      a job as a whole; `retired` ones are not restored
    items    the URLs, texts and ids that were posted, as JSON
    image    an image that has ended, or whose upload has begun; an image without a row is queued
    setting  texts, by name
    posted   Idempotency-Keys
    document what a job came from, until the job is retired
    checked  the result of the last check of a job's links, until the job is retired

A row is the image as it is, not its history, so there is never more to read than there is to show.
The statements are SQLite's and PostgreSQL's (which writes `%s` for `?`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import astuple

from imageload.errors import Failure
from imageload.image import Image, Item, Report, State
from imageload.job import Album, Callback, Job, Snapshot

MIGRATIONS = (
    """
    CREATE TABLE job (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, created INTEGER NOT NULL,
        dedupe INTEGER NOT NULL, started INTEGER NOT NULL, album TEXT,
        retired INTEGER NOT NULL DEFAULT 0, items TEXT NOT NULL
    );
    CREATE INDEX job_kept ON job (number) WHERE NOT retired;
    CREATE TABLE image (
        job INTEGER NOT NULL, n INTEGER NOT NULL, state TEXT NOT NULL, link TEXT, deletehash TEXT,
        attempts INTEGER NOT NULL, reused INTEGER NOT NULL,
        uploading INTEGER NOT NULL, maybe_duplicate INTEGER NOT NULL,
        status_code INTEGER, bytes INTEGER, type TEXT, width INTEGER, height INTEGER,
        sha256 TEXT, converted_from TEXT,
        error_code TEXT, error_message TEXT, error_transient INTEGER, error_status_code INTEGER,
        PRIMARY KEY (job, n)
    ) WITHOUT ROWID;
    CREATE TABLE suspect (
        job INTEGER NOT NULL, n INTEGER NOT NULL, deaths INTEGER NOT NULL,
        PRIMARY KEY (job, n)
    ) WITHOUT ROWID;
    CREATE TABLE note (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    """,
    "ALTER TABLE job ADD COLUMN purging INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE job ADD COLUMN callback TEXT",
    """
    CREATE TABLE items (job INTEGER PRIMARY KEY, items TEXT NOT NULL);
    INSERT INTO items SELECT number, items FROM job;
    ALTER TABLE job RENAME TO old_job;
    DROP INDEX job_kept;
    CREATE TABLE job (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, created INTEGER NOT NULL,
        dedupe INTEGER NOT NULL, started INTEGER NOT NULL, version INTEGER NOT NULL,
        album TEXT, purging INTEGER NOT NULL, callback TEXT,
        retired INTEGER NOT NULL DEFAULT 0
    );
    INSERT INTO job SELECT number, id, created, dedupe, started, 1, album, purging, callback,
        retired FROM old_job;
    DROP TABLE old_job;
    CREATE INDEX job_kept ON job (number) WHERE NOT retired;
    ALTER TABLE image RENAME TO old_image;
    CREATE TABLE image (
        job INTEGER NOT NULL, n INTEGER NOT NULL, version INTEGER NOT NULL, link TEXT,
        record BLOB NOT NULL, PRIMARY KEY (job, n)
    ) WITHOUT ROWID;
    INSERT INTO image SELECT job, n, n + 1, link, record_of_version_3(
        state, attempts, reused, uploading, maybe_duplicate, deletehash, status_code, bytes, type,
        width, height, sha256, converted_from, error_code, error_message, error_transient,
        error_status_code) FROM old_image;
    DROP TABLE old_image;
    DROP TABLE suspect;
    ALTER TABLE note RENAME TO setting;
    CREATE TABLE posted (
        caller TEXT NOT NULL, key TEXT NOT NULL, fingerprint BLOB NOT NULL, job_ids TEXT NOT NULL,
        PRIMARY KEY (caller, key)
    ) WITHOUT ROWID;
    """,
    "CREATE TABLE document (job INTEGER PRIMARY KEY, content BLOB NOT NULL)",
    "CREATE TABLE checked (job INTEGER PRIMARY KEY, result BLOB NOT NULL)",
    "ALTER TABLE job ADD COLUMN document TEXT",
)
"""From each version of the SQLite schema to the next. Existing entries never change."""

Value = str | int | bytes | None
Row = tuple[Value, ...]
Place = tuple[int, int]
"""An image: the number of its job, and its index there. Older jobs have smaller numbers."""

PAGE = 1_000

ADD_JOB = (
    "INSERT INTO job (number, id, created, dedupe, document, started, version, album, purging, "
    "callback) VALUES (?,?,?,?,?,?,?,?,?,?)"
)
ADD_ITEMS = "INSERT INTO items (job, items) VALUES (?,?)"
ADD_DOCUMENT = "INSERT INTO document (job, content) VALUES (?,?)"
DOCUMENT = "SELECT content FROM document JOIN job ON job.number = document.job WHERE job.id = ?"
KEEP_CHECK = (
    "INSERT INTO checked (job, result) SELECT number, ? FROM job WHERE id = ? AND NOT retired "
    "ON CONFLICT (job) DO UPDATE SET result = excluded.result"
)
CHECK = "SELECT result FROM checked JOIN job ON job.number = checked.job WHERE job.id = ?"
SET_HEAD = (
    "UPDATE job SET started = ?, version = ?, album = ?, purging = ?, callback = ? WHERE number = ?"
)
# The process before may have shown versions that it did not write: no version means two states.
SKIP_VERSIONS = "UPDATE job SET version = version + 1000000000"
# Differs from one start to the next if any image has gone further meanwhile.
PROGRESS = "SELECT count(*), coalesce(sum(version % 1000000000), 0) FROM image"
CRASH_SETTINGS = "SELECT name, value FROM setting WHERE name LIKE 'journal:%'"
STARTED = "SELECT number FROM job WHERE started AND NOT retired ORDER BY number"
SET_NOT_STARTED = "UPDATE job SET started = 0 WHERE number = ?"
_DELETE_DOCUMENT = "DELETE FROM document WHERE job = (SELECT number FROM job WHERE id = ?)"
_DELETE_CHECK = "DELETE FROM checked WHERE job = (SELECT number FROM job WHERE id = ?)"
RETIRE = ("UPDATE job SET retired = 1 WHERE id = ?", _DELETE_DOCUMENT, _DELETE_CHECK)
NUMBER = "SELECT number FROM job WHERE id = ?"
DELETE_JOB = (
    "DELETE FROM image WHERE job = (SELECT number FROM job WHERE id = ?)",
    "DELETE FROM items WHERE job = (SELECT number FROM job WHERE id = ?)",
    _DELETE_DOCUMENT,
    _DELETE_CHECK,
    "DELETE FROM job WHERE id = ?",
)
SET_SETTING = (
    "INSERT INTO setting (name, value) VALUES (?,?) "
    "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
DELETE_SETTING = "DELETE FROM setting WHERE name = ?"
ADD_POSTED = (
    "INSERT INTO posted (caller, key, fingerprint, job_ids) VALUES (?,?,?,?) "
    "ON CONFLICT (caller, key) DO UPDATE "
    "SET fingerprint = excluded.fingerprint, job_ids = excluded.job_ids"
)
DELETE_POSTED = "DELETE FROM posted WHERE caller = ? AND key = ?"
LINKS = f"""
    SELECT image.job, job.id, image.n, image.link
    FROM image CROSS JOIN job ON job.number = image.job
    WHERE (image.job, image.n) > (?, ?) AND image.link IS NOT NULL AND job.retired >= ?
    ORDER BY image.job, image.n LIMIT {PAGE}"""  # noqa: S608 - a number
HEADS = """
    SELECT number, id, created, dedupe, started, version, album, purging, callback, document,
        items.items
    FROM job LEFT JOIN items ON items.job = number WHERE {} ORDER BY number"""
IMAGES = """
    SELECT image.job, n, image.version, link, record
    FROM job CROSS JOIN image ON image.job = job.number WHERE {} ORDER BY image.job, n"""

_MULTIROW = 64
ENDED = ("completed", "failed")


class _Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the column `record` has of an image, as an array in msgpack.

    `report` has a Report's fields without the first; `failure` has a Failure's.
    """

    state: State
    attempts: int
    deletehash: str | None
    reused: bool
    uploading: bool
    maybe_duplicate: bool
    report: tuple[int, int, str, int | None, int | None, str, str | None] | None
    failure: tuple[str, str, bool, int | None] | None
    temp_fn: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode
decode_items = msgspec.json.Decoder(list[str | Item]).decode
"""The items that `encode_items` encoded."""
_album = msgspec.json.Decoder(Album)
_callback = msgspec.json.Decoder(Callback)


@functools.cache
def put_images(count: int) -> str:
    """The statement that writes `count` image rows. The rows of a deleted job are left out."""
    rows = ",".join(["(?,?,?,?,?)"] * count)
    return (
        "INSERT INTO image (job, n, version, link, record) "  # noqa: S608 - no input
        f"SELECT * FROM (VALUES {rows}) AS new "
        "WHERE EXISTS (SELECT 1 FROM job WHERE number = column1) "
        "ON CONFLICT (job, n) DO UPDATE "
        "SET version = excluded.version, link = excluded.link, record = excluded.record"
    )


def image_statements(rows: Sequence[Row]) -> Iterator[tuple[str, list[Value]]]:
    """Statements that write `rows`, up to 64 with each.

    Few statements, as SQLite's module gives up the interpreter's lock at each of them, and of few
    sizes, so that they stay prepared: the last row is repeated up to a power of two.
    """
    for first in range(0, len(rows), _MULTIROW):
        some = rows[first : first + _MULTIROW]
        count = 1 << (len(some) - 1).bit_length()
        padding = itertools.repeat(some[-1], count - len(some))
        yield put_images(count), list(itertools.chain.from_iterable((*some, *padding)))


def job_rows(number: int, job: Job) -> tuple[Row, Row]:
    """The rows of a new job: for ADD_JOB, and for ADD_ITEMS."""
    snapshot = job.snapshot()
    created = int(snapshot.created.timestamp())
    head = (number, job.job_id, created, job.dedupe, job.document, *_head(snapshot))
    return head, (number, encode_items(snapshot.images).decode())


def encode_items(images: Iterable[Image]) -> bytes:
    """The URLs, texts and ids of images, as JSON."""
    return msgspec.json.encode([_item(image) for image in images])


def _item(image: Image) -> str | tuple[str | None, ...]:
    """An entry of `items`: versions that know no ids read all entries but those with one."""
    if image.id is not None:
        return image.url, image.title, image.description, image.id
    if image.title is None and image.description is None:
        return image.url
    return image.url, image.title, image.description


def head_row(number: int, job: Job) -> Row:
    """The row for SET_HEAD."""
    return *_head(job.summary()), number


def _head(job: Snapshot) -> Row:
    return job.started, job.version, text_of(job.album), job.purging, text_of(job.callback)


def text_of(value: Album | Callback | None) -> str | None:
    """The column of an album or a callback."""
    return None if value is None else msgspec.json.encode(value).decode()


def image_row(place: Place, image: Image) -> Row:
    """The row of an image. Raises UnicodeEncodeError or OverflowError if it cannot be stored."""
    (image.link or "").encode()
    return *place, image.version, image.link, encode_image(image)


def encode_image(image: Image) -> bytes:
    """The column `record` of an image."""
    report, failure = image.report, image.failure
    record = (
        image.state,
        image.attempts,
        image.deletehash,
        image.reused,
        image.uploading,
        image.maybe_duplicate,
        report and astuple(report)[1:],
        failure and astuple(failure),
        report.temp_fn if report is not None and image.state not in ENDED else "",
    )
    return _encode(record)


def record_of_version_3(
    state: str, attempts: int, reused: int, uploading: int, maybe_duplicate: int,
    deletehash: str | None, *rest: Any,
) -> bytes:  # fmt: skip
    """The column `record` of an image that version 3 kept in twenty columns."""
    report, (code, message, transient, status_code) = rest[:7], rest[7:]
    failure = None if code is None else (code, message, bool(transient), status_code)
    flags = bool(reused), bool(uploading), bool(maybe_duplicate)
    known = None if report[2] is None else report
    return _encode((state, attempts, deletehash, *flags, known, failure))


class ReadJob(NamedTuple):
    """A job, its number, and the Reports of its images that had their temp files, by index."""

    job: Job
    number: int
    kept: dict[int, Report]


def read_jobs(heads: Iterable[Any], images: Iterable[Any]) -> Iterator[ReadJob]:
    """The jobs of the rows that HEADS and IMAGES gave for one condition."""
    groups = itertools.groupby(images, itemgetter(0))
    group = next(groups, None)
    for (
        number, job_id, created, dedupe, started, version, album, purging, callback, document,
        items,
    ) in heads:  # fmt: skip
        known: dict[int, Any] = {}
        if group is not None and group[0] == number:
            known = {row[1]: row for row in group[1]}
            group = next(groups, None)
        newest = max(version, *(row[2] for row in known.values()), 0)
        listed = enumerate(decode_items(items))
        images_read = [read_image(item, known.get(n), newest) for n, item in listed]
        job = Job.restored(
            images_read,
            job_id,
            created=datetime.fromtimestamp(created, UTC),
            dedupe=bool(dedupe),
            started=bool(started),
            album=read_album(album),
            purging=bool(purging),
            callback=read_callback(callback),
            version=newest,
            document=document,
        )
        kept = {
            n: image.report
            for n, image in enumerate(images_read)
            if image.state == "downloaded" and image.report is not None
        }
        yield ReadJob(job, number, kept)


def read_album(text: str | None) -> Album | None:
    """The album in a column."""
    return None if text is None else _album.decode(text)


def read_callback(text: str | None) -> Callback | None:
    """The callback in a column."""
    return None if text is None else _callback.decode(text)


def read_image(item: str | Item, row: Any, newest: int) -> Image:
    """An image, of its `row` or None. Without a row it may have been downloaded until now."""
    url, title, description, id_ = Item(item) if isinstance(item, str) else item
    if row is None:
        return Image(url, title=title, description=description, version=newest, id=id_)
    _, _, version, link, encoded = row
    record = _decode(encoded)
    return Image(
        url,
        record.state,
        None if record.report is None else Report(record.temp_fn, *record.report),
        link,
        record.deletehash,
        None if record.failure is None else Failure(*record.failure),
        record.attempts,
        record.reused,
        title,
        description,
        record.uploading,
        record.maybe_duplicate,
        version,
        id_,
    )
