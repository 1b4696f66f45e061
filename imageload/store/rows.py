"""The journal's tables: what is written to them, and Jobs read back.

    job      what was posted, in one row (`items`, JSON), and how the job stands as a whole
    image    an image that has ended, or may be on Imgur; one without a row is queued
    suspect  an open image that was in work when a process died, and how often that was
    note     small texts that outlive the process, by name

A row is the image as it stands, not how it came there: the newest replaces the one before, so there
is no more to read than there is to tell. It knows no files and no threads: everything takes an open
connection, in autocommit mode, and raises sqlite3.Error.
"""

from __future__ import annotations

import functools
import itertools
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from imageload.errors import Failure
from imageload.job import Album, Callback, Image, Item, Job, Report, Snapshot

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
)
"""From each version of the schema to the next. What stands here never changes; more may follow."""

UNWRITABLE = (UnicodeEncodeError, OverflowError)
"""What sqlite3 raises for a text or a number that it cannot store."""

UNREADABLE = (sqlite3.DatabaseError, msgspec.MsgspecError, LookupError, ValueError, TypeError)
"""What reading raises where the file holds what was never written."""

Place = tuple[int, int]
"""An image: the number of its job, and its index there."""

Row = tuple[str | int | None, ...]
_Statement = tuple[str, Sequence[str | int | None]]

_ENDED = ("completed", "failed")
_PAGE = 1_000
# At each statement sqlite3 lets go of the interpreter (twice with executemany, three times with
# execute), which wakes who waits for it, and then has to wait itself.
_ROWS_OF_A_KIND = 64
_LEAST = 8
_STATEMENTS = 100  # sqlite3 keeps 128 prepared

_ADD_JOB = (
    "INSERT INTO job (number, id, created, dedupe, started, album, purging, callback, items) "
    "VALUES (?,?,?,?,?,?,?,?,?)"
)
_BASE = ("job", "n", "state", "attempts", "reused", "uploading", "maybe_duplicate")
_LINK = ("link", "deletehash")
_REPORT = ("status_code", "bytes", "type", "width", "height", "sha256")
_CONVERTED = ("converted_from",)
_FAILURE = ("error_code", "error_message", "error_transient", "error_status_code")
_COLUMNS = (*_BASE, *_LINK, *_REPORT, *_CONVERTED, *_FAILURE)
_HAS_LINK, _HAS_REPORT, _WAS_CONVERTED, _HAS_FAILURE = 1, 2, 4, 8
# The columns that are known of an image, whichever parts it has.
_KINDS = tuple(
    _BASE
    + (_LINK if kind & _HAS_LINK else ())
    + (_REPORT if kind & _HAS_REPORT else ())
    + (_CONVERTED if kind & _WAS_CONVERTED else ())
    + (_FAILURE if kind & _HAS_FAILURE else ())
    for kind in range(16)
)
_ALL = ",".join(f"image.{name}" for name in _COLUMNS)
_DELETE_JOB = (
    "DELETE FROM image WHERE job = (SELECT number FROM job WHERE id = ?)",
    "DELETE FROM suspect WHERE job = (SELECT number FROM job WHERE id = ?)",
    "DELETE FROM job WHERE id = ?",
)
_items = msgspec.json.Decoder(list[str | Item])
_album = msgspec.json.Decoder(Album)
_callback = msgspec.json.Decoder(Callback)


class Link(NamedTuple):
    """An image's link and where it stands: the number of its job (older is less), its index `n`."""

    number: int
    job_id: str
    n: int
    link: str


@dataclass(slots=True)
class Batch:
    """What is written at once, or not at all. Of two values for one thing the later one counts."""

    jobs: list[Row] = field(default_factory=list)
    heads: dict[int, Row] = field(default_factory=dict)
    images: dict[Place, Image] = field(default_factory=dict)
    retired: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    notes: dict[str, str | None] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many rows it is about."""
        parts = (self.jobs, self.heads, self.images, self.retired, self.deleted, self.notes)
        return sum(map(len, parts))

    def write(self, connection: sqlite3.Connection) -> None:
        """Write all of it in one transaction, which is durable when this returns."""
        images = self._image_statements()
        if len(images) == 1 and len(self) == len(self.images):
            statement, values = images[0]
            connection.executemany(statement, [values])  # a transaction by itself
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._write_rows(connection, images)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def drop_unwritable(self, connection: sqlite3.Connection) -> list[Place]:
        """Leave out the images that SQLite cannot take, which is a bug of ours; their places."""
        dropped = []
        for place, image in list(self.images.items()):
            row = _image_row(place, image)[1]
            try:
                connection.execute(f"SELECT {_marks(row)}", row)
            except UNWRITABLE:
                del self.images[place]
                dropped.append(place)
        return dropped

    def _image_statements(self) -> list[_Statement]:
        """What makes the rows of the images anew, many with one statement.

        Few enough that they are soon prepared, for to prepare one takes SQLite longer than to do
        it: of each kind there are 8, 16, 32 or 64, and what is left over are rows of a job 0, which
        is not there.
        """
        kinds: dict[int, list[Row]] = {}
        for place, image in self.images.items():
            kind, row = _image_row(place, image)
            kinds.setdefault(kind, []).append(row)
        statements: list[_Statement] = []
        for first in range(0, max(map(len, kinds.values()), default=0), _ROWS_OF_A_KIND):
            counts: list[tuple[int, int]] = []
            values: list[str | int | None] = []
            for kind, rows in kinds.items():
                some = rows[first : first + _ROWS_OF_A_KIND]
                if not some:
                    continue
                left_over = max(_LEAST, 1 << (len(some) - 1).bit_length()) - len(some)
                counts.append((kind, len(some) + left_over))
                values.extend(itertools.chain.from_iterable(some))
                values.extend(itertools.repeat(0, left_over * len(_KINDS[kind])))
            statements.append((_put_images(tuple(counts)), values))
        return statements

    def _write_rows(self, connection: sqlite3.Connection, images: Sequence[_Statement]) -> None:
        def write(statement: str, rows: Collection[Sequence[str | int | None]]) -> None:
            if rows:
                connection.executemany(statement, rows)

        write(_ADD_JOB, self.jobs)
        write(
            "UPDATE job SET started = ?, album = ?, purging = ?, callback = ? WHERE number = ?",
            self.heads.values(),
        )
        for statement, values in images:
            write(statement, [values])
        write("UPDATE job SET retired = 1 WHERE id = ?", [(job_id,) for job_id in self.retired])
        for statement in _DELETE_JOB:
            write(statement, [(job_id,) for job_id in self.deleted])
        kept = [(name, value) for name, value in self.notes.items() if value is not None]
        write("INSERT OR REPLACE INTO note (name, value) VALUES (?,?)", kept)
        gone = [(name,) for name, value in self.notes.items() if value is None]
        write("DELETE FROM note WHERE name = ?", gone)


def job_row(number: int, job: Job) -> Row:
    """The row of a new job."""
    snapshot = job.snapshot()
    items = [
        image.url
        if image.title is None and image.description is None
        else Item(image.url, image.title, image.description)
        for image in snapshot.images
    ]
    created = int(snapshot.created.timestamp())
    text = msgspec.json.encode(items).decode()
    return number, job.job_id, created, job.dedupe, *_standing(snapshot), text


def head_row(number: int, job: Job) -> Row:
    """What may change in the row of a job."""
    return *_standing(job.summary()), number


def _standing(snapshot: Snapshot) -> tuple[bool, str | None, bool, str | None]:
    return snapshot.started, _text(snapshot.album), snapshot.purging, _text(snapshot.callback)


def _text(value: Album | Callback | None) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _image_row(place: Place, image: Image) -> tuple[int, Row]:
    """Which of the _KINDS an image's row is of, and what is known of it; it is the hot path.

    A NULL or a bool takes sqlite3 ten times as long to bind as a text or an int: measured, rows of
    all 20 columns took 12 µs each, where these take 4 to 5.
    """
    kind = 0
    row: Row = (
        *place,
        image.state,
        image.attempts,
        int(image.reused),
        int(image.uploading),
        int(image.maybe_duplicate),
    )
    if image.link is not None:
        kind += _HAS_LINK
        row += (image.link, image.deletehash)
    # Before the image has ended its report is of no use: the temp file goes with the process.
    if image.report is not None and image.state in _ENDED:
        kind += _HAS_REPORT
        row += _report_row(image.report)
        if image.report.converted_from is not None:
            kind += _WAS_CONVERTED
            row += (image.report.converted_from,)
    if image.failure is not None:
        kind += _HAS_FAILURE
        row += _failure_row(image.failure)
    return kind, row


@functools.lru_cache(_STATEMENTS)
def _put_images(counts: tuple[tuple[int, int], ...]) -> str:
    """The statement that makes so many rows of each kind anew. A job that was deleted gets none."""
    rows = []
    for kind, count in counts:
        known = ("?" if name in _KINDS[kind] else "NULL" for name in _COLUMNS)
        rows += [f"({','.join(known)})"] * count
    return (
        f"INSERT OR REPLACE INTO image ({','.join(_COLUMNS)}) "  # noqa: S608  # names from above
        f"SELECT * FROM (VALUES {','.join(rows)}) "
        "WHERE EXISTS (SELECT 1 FROM job WHERE number = column1)"
    )


def _marks(row: Sequence[object]) -> str:
    return ",".join(f"?{number + 1}" for number in range(len(row)))


def _report_row(report: Report) -> Row:
    return (
        report.status_code,
        report.bytes,
        report.type,
        report.width,
        report.height,
        report.sha256,
    )


def _failure_row(failure: Failure) -> Row:
    return failure.code, failure.message, int(failure.transient), failure.status_code


def jobs(
    connection: sqlite3.Connection, where: str = "NOT retired", *arguments: str
) -> Iterator[tuple[int, Job]]:
    """The jobs `where`, each with its number, oldest first. Raises one of UNREADABLE."""
    heads = connection.execute(
        f"""SELECT number, id, created, dedupe, started, album, purging, callback, items FROM job
            WHERE {where} ORDER BY number""",  # noqa: S608  # no input of anybody's
        arguments,
    )
    rows = connection.execute(
        f"""SELECT {_ALL} FROM job CROSS JOIN image ON image.job = job.number
            WHERE {where} ORDER BY job.number, image.n""",  # noqa: S608  # no input of anybody's
        arguments,
    )
    groups = itertools.groupby(rows, itemgetter(0))
    group = next(groups, None)
    for number, job_id, created, dedupe, started, album, purging, callback, items in heads:
        known: dict[int, Any] = {}
        if group is not None and group[0] == number:
            known = {row[1]: row for row in group[1]}
            group = next(groups, None)
        job = Job.restored(
            [_image(item, known.get(n)) for n, item in enumerate(_items.decode(items))],
            job_id,
            created=datetime.fromtimestamp(created, UTC),
            dedupe=bool(dedupe),
            started=bool(started),
            album=None if album is None else _album.decode(album),
            purging=bool(purging),
            callback=None if callback is None else _callback.decode(callback),
        )
        yield number, job


def _image(item: str | Item, row: Any) -> Image:
    url, title, description = (item, None, None) if isinstance(item, str) else item
    if row is None:
        return Image(url, title=title, description=description)
    (_, _, state, attempts, reused, uploading, maybe_duplicate, link, deletehash,
     status_code, length, kind, width, height, sha256, converted_from,
     code, message, transient, error_status_code) = row  # fmt: skip
    return Image(
        url,
        state,
        None
        if kind is None
        else Report("", status_code, length, kind, width, height, sha256, converted_from),
        link,
        deletehash,
        None if code is None else Failure(code, message, bool(transient), error_status_code),
        attempts,
        bool(reused),
        title,
        description,
        bool(uploading),
        bool(maybe_duplicate),
    )


def links(connection: sqlite3.Connection, after: Place, *, retired_only: bool) -> list[Link]:
    """The first 1,000 links after the image at `after`, oldest job first."""
    rows = connection.execute(
        f"""SELECT image.job, job.id, image.n, image.link
            FROM image CROSS JOIN job ON job.number = image.job
            WHERE (image.job, image.n) > (?, ?) AND image.link IS NOT NULL
              AND job.retired >= ?
            ORDER BY image.job, image.n LIMIT {_PAGE}""",  # noqa: S608  # a number
        (*after, retired_only),
    )
    return [Link(*row) for row in rows]


def notes(connection: sqlite3.Connection) -> dict[str, str]:
    """Every note, by name."""
    return dict(connection.execute("SELECT name, value FROM note").fetchall())


def last_number(connection: sqlite3.Connection) -> int:
    """The number of the newest job; 0 without any."""
    (number,) = connection.execute("SELECT coalesce(max(number), 0) FROM job").fetchone()
    return int(number)


def count_deaths(connection: sqlite3.Connection, places: Collection[Place]) -> None:
    """A process died while the images at `places` were in work. Those that ended are cleared."""
    connection.executemany(
        """INSERT INTO suspect SELECT ?1, ?2, 1 WHERE EXISTS (SELECT 1 FROM job WHERE number = ?1)
           ON CONFLICT DO UPDATE SET deaths = deaths + 1""",
        places,
    )
    connection.execute(
        """DELETE FROM suspect WHERE EXISTS (
               SELECT 1 FROM image WHERE image.job = suspect.job AND image.n = suspect.n
               AND image.state IN ('completed', 'failed'))"""
    )


def deaths(connection: sqlite3.Connection) -> dict[str, dict[int, int]]:
    """How many processes died while an image was in work, by jobId and index."""
    found: dict[str, dict[int, int]] = {}
    for job_id, index, count in connection.execute(
        "SELECT job.id, n, deaths FROM suspect JOIN job ON job.number = suspect.job"
    ):
        found.setdefault(job_id, {})[index] = count
    return found


def readable(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many jobs and how many links of a damaged file can be read, from the front."""
    counts = []
    for query in ("SELECT items FROM job NOT INDEXED", "SELECT link FROM image WHERE link > ''"):
        count = 0
        try:
            for _ in connection.execute(query):
                count += 1
        except UNREADABLE:
            pass
        counts.append(count)
    return counts[0], counts[1]
