"""A store in PostgreSQL, which many nodes share. Each slice of a job has one node that writes it.

`accept` and `load` give claims on whole jobs, under the epochs that their slices have: `record`
writes for them until a worker claims a slice (`imageload.cluster`).
"""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import psycopg
import psycopg.errors

from imageload.errors import Failure, StoreError
from imageload.job import Change, Job, Mirrored, Snapshot
from imageload.store import Clock, Link, Posted, Totals
from imageload.store.postgres import claims, verbs
from imageload.store.postgres.batch import HEAD, SLICE, Batch, Claim, Counts, SliceState
from imageload.store.postgres.claims import Order, Place, Wait
from imageload.store.postgres.connections import Connection, Connections
from imageload.store.postgres.reading import (
    read_changes,
    read_head,
    read_head_of,
    read_whole,
    summary_of,
)
from imageload.store.postgres.schema import migrate
from imageload.store.postgres.verbs import Done
from imageload.store.rows import PAGE, encode_items, text_of
from imageload.store.writer import Writer

T = TypeVar("T")


class Queue(Protocol):
    """The queue of slices that wait for a node, in the same database."""

    def create(self, connection: Connection) -> None:
        """Make its tables if they are missing."""

    def defer(self, connection: Connection, number: int, firsts: Sequence[int]) -> None:
        """Queue slices of job `number`, in the transaction of `connection`."""


def open_postgres(
    url: str,
    clock: Clock | None,
    on_break: Callable[[], object] | None,
    queue: Queue,
) -> PostgresStore:
    """The store in the database at `url`, whose tables are made if they are missing.

    It restores no jobs: nodes claim what is open. Raises StoreError.
    """
    connections = Connections(url)
    try:
        with connections.open() as connection:
            queue.create(connection)
            migrate(connection)
    except psycopg.Error as error:
        raise StoreError(f"PostgreSQL cannot be used: {str(error).strip()}") from None
    return PostgresStore(connections, clock, on_break, queue)


class Database:
    """Where the Writer of a PostgresStore writes."""

    name = "database"
    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._connection: Connection | None = None

    def new_batch(self) -> Batch:
        """An empty batch."""
        return Batch()

    def write(self, batch: Batch) -> None:
        """Write `batch`; a transaction whose commit got no response is written again."""
        if self._connection is None or self._connection.closed:
            self._connection = self._connections.open()
        try:
            batch.write(self._connection)
        except psycopg.OperationalError:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close its connection."""
        if self._connection is not None:
            self._connection.close()


class PostgresStore:
    """Writes the slices of jobs that this node has. Made by `open_postgres`."""

    is_durable = True

    def __init__(
        self,
        connections: Connections,
        clock: Clock | None,
        on_break: Callable[[], object] | None,
        queue: Queue,
    ) -> None:
        self._connections = connections
        self._defer = queue.defer
        self._database = Database(connections)
        self._writer = Writer(self._database, clock, on_break)
        self._claims: weakref.WeakKeyDictionary[Job, Claim] = weakref.WeakKeyDictionary()
        self._is_closed = False

    def accept(
        self,
        jobs: Sequence[Job],
        *,
        posted: Posted | None = None,
        seconds: float = 5.0,
    ) -> None:
        milliseconds = max(1, int(seconds * 1000))

        def insert(connection: Connection) -> list[Claim]:
            connection.execute(f"SET LOCAL statement_timeout = {milliseconds}".encode())
            if posted is not None:
                columns = *posted[:3], list(posted.job_ids)
                connection.execute(_ADD_POSTED, columns)
            return [self._insert(connection, job) for job in jobs]

        inserted = self._connections.run(insert)
        self._claims.update(zip(jobs, inserted, strict=True))

    def _insert(self, connection: Connection, job: Job) -> Claim:
        snapshot = job.snapshot()
        created = int(snapshot.created.timestamp())
        columns = (
            job.job_id,
            created,
            job.dedupe,
            len(job),
            text_of(snapshot.album),
            text_of(snapshot.callback),
        )
        (number,) = connection.execute(_ADD_JOB, columns).fetchone() or (0,)
        images = list(snapshot.images)
        firsts = range(0, len(images), SLICE)
        packed = [zlib.compress(encode_items(images[n : n + SLICE]), 1) for n in firsts]
        lengths = [min(SLICE, len(images) - n) for n in firsts]
        connection.execute(_ADD_SLICES, (number, [*firsts], lengths, packed))
        connection.execute(_ADD_HEAD, (number,))
        self._defer(connection, number, [*firsts])
        state = SliceState(0, 0, Counts())
        return Claim(number, 0, images, dict.fromkeys((HEAD, *firsts), state))

    def posted(self, caller: str, key: str) -> Posted | None:
        def read(connection: Connection) -> Posted | None:
            row = connection.execute(_POSTED, (caller, key)).fetchone()
            return None if row is None else Posted(caller, key, bytes(row[0]), tuple(row[1]))

        return self._connections.run(read)

    def record(self, job: Job, change: Change) -> None:
        claim = self._claims.get(job)
        if claim is None or claim.is_lost:
            return
        number, index = claim.number, getattr(change, "index", None)
        if index is not None:
            first, state, image = claim.changed(index, job.image(index))
            place = number, claim.offset + index

            def put(batch: Batch) -> None:
                batch.slices[number, first] = state, claim
                batch.images[place] = image

            self._writer.put(put)
        if HEAD in claim.slices and (index is None or job.summary().album is not None):
            self._record_head(job, claim)

    def _record_head(self, job: Job, claim: Claim) -> None:
        state, now = claim.head_changed(), job.summary()

        def put(batch: Batch) -> None:
            batch.slices[claim.number, HEAD] = state, claim
            batch.heads[claim.number] = now

        self._writer.put(put)

    async def durable(self) -> None:
        await self._writer.durable()

    # Claims, for the worker of `imageload.cluster`

    def claim(self, place: Place, worker: str, seconds: float) -> tuple[Job, Order] | None:
        """The slice at `place` as a job to load, which is this worker's for `seconds`; or None.

        Raises StoreUnavailable.
        """

        def run(connection: Connection) -> tuple[Job, Claim, Order] | None:
            return claims.claim(connection, place, worker, seconds)

        found = self._connections.run(run)
        if found is None:
            return None
        job, claim, order = found
        self._claims[job] = claim
        return job, order

    def beat(self, worker: str, seconds: float | None) -> dict[Place, Order]:
        """The slices that `worker` has, and what is wanted of them; kept for `seconds` more."""

        def run(connection: Connection) -> dict[Place, Order]:
            if seconds is None:
                return claims.orders(connection, worker)
            return claims.beat(connection, worker, seconds)

        return self._connections.run(run)

    def park(self, place: Place, wait: Wait) -> None:
        """Have a slice that no worker has wait; raises StoreUnavailable, as those below do."""
        self.run(lambda connection: claims.park(connection, place, wait))

    def parked(self, least: int, most: int, waited_seconds: float) -> Place | None:
        """A slice that waits, whose first image is from `least` to `most`.

        It has waited for `waited_seconds` in an outage.
        """
        return self.run(lambda c: claims.parked(c, (least, most), waited_seconds))

    def waits(self, job_ids: Sequence[str]) -> dict[str, Wait]:
        """What slices of these jobs wait for without a worker, those that go on first."""
        rows = self.run(lambda connection: claims.waits(connection, job_ids))
        return {job_id: Wait(reason, seconds) for job_id, reason, seconds in rows}

    def update_waits(self, wait: Wait) -> None:
        """All slices that wait now wait for this."""
        self.run(lambda connection: claims.update_waits(connection, wait))

    def lose(self, job: Job) -> None:
        """Write nothing more of this slice: another node has it."""
        claim = self._claims.get(job)
        if claim is not None:
            claim.is_lost = True

    def end(self, job: Job, *, is_over: bool, wait: Wait | None = None) -> None:
        """The slice has nothing left to do, or (`is_over` is False) others may go on with it.

        With a `wait` for the target: after that. It is written after all that was recorded of it.
        """
        claim = self._claims[job]
        first = HEAD if HEAD in claim.slices else claim.offset

        def edit(connection: Connection) -> None:
            if is_over and job.summary().finished:
                if claims.end(connection, claim, first):
                    self._defer(connection, claim.number, [HEAD])
            elif claims.give_back(connection, claim, first, wait) and wait is None:
                self._defer(connection, claim.number, [first])

        self._writer.put(lambda batch: batch.edits.update({claim: edit}))

    def clear_again(self, job: Job) -> None:
        """The order to load images of this slice again was followed."""
        claim = self._claims[job]
        place = claim.number, claim.offset, claim.slices[claim.offset].epoch
        clear: Callable[[Connection], object] = lambda c: c.execute(_CLEAR_AGAIN, place)  # noqa: E731
        self._writer.put(lambda batch: batch.edits.update({("again", place): clear}))

    def cancel(self, job_id: str, failure: Failure, *, purge: bool = False) -> Done:
        """End what is open in a job on any node; raises LookupError, StoreUnavailable."""
        return self._do(job_id, lambda locked: verbs.cancel(locked, failure, purge=purge))

    def retry(self, job_id: str, *, only_transient: bool) -> Done:
        """Load failed images again; raises Refused, LookupError, StoreUnavailable."""
        return self._do(job_id, lambda locked: verbs.retry(locked, only_transient=only_transient))

    def _do(self, job_id: str, verb: Callable[[verbs.Locked], Done]) -> Done:
        def run(connection: Connection) -> Done:
            done = verb(verbs.lock(connection, job_id))
            self._defer(connection, done.number, done.queue)
            return done

        return self._connections.run(run)

    def run(self, work: Callable[[Connection], T]) -> T:
        """The result of `work`, called with a connection in a transaction of its own.

        It may be called twice, so it has no other effects. Blocks; raises StoreUnavailable.
        """
        return self._connections.run(work)

    def queue_forgotten(self) -> int:
        """Queue the slices that nobody has and no message names; how many they are."""

        def run(connection: Connection) -> int:
            places = claims.forgotten(connection)
            for number, first in places:
                self._defer(connection, number, [first])
            return len(places)

        return self._connections.run(run)

    def retire(self, job_ids: Iterable[str]) -> None:
        self._edit(_RETIRE, list(job_ids))

    def delete(self, job_ids: Iterable[str]) -> None:
        self._edit(_DELETE, list(job_ids))

    def _edit(self, statement: bytes, job_ids: list[str]) -> None:
        def edit(connection: Connection) -> None:
            connection.execute(statement, (job_ids,))
            connection.execute(_DELETE_POSTED)

        self._writer.put(lambda batch: batch.edits.update({(statement, *job_ids): edit}))

    def load(self, job_id: str) -> Job | None:
        def read(connection: Connection) -> tuple[Job, Claim] | None:
            connection.execute(b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            head = read_head(connection, job_id)
            return None if head is None else read_whole(connection, head)

        found = self._connections.run(read)
        if found is None:
            return None
        job, self._claims[job] = found
        return job

    def changes(self, job: Job) -> Mirrored | None:
        """What other nodes have changed in a job that `load` gave; None: nothing.

        The caller applies it before it asks again.
        """
        claim = self._claims[job]

        def read(connection: Connection) -> tuple[Mirrored, dict[int, int]] | None:
            connection.execute(b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            head = read_head_of(connection, claim.number)
            known = {first: state.version for first, state in claim.slices.items()}
            return read_changes(connection, known, head)

        found = self._connections.run(read)
        if found is None:
            return None
        change, versions = found
        for first, version in versions.items():
            claim.slices[first] = claim.slices[first]._replace(version=version)
        return change

    def versions(self, jobs: Sequence[Job]) -> dict[Job, int | None]:
        """The versions that these jobs have now; None: a job was deleted."""
        ids = [job.job_id for job in jobs]
        rows = self._connections.run(lambda c: c.execute(_JOB_VERSIONS, (ids,)).fetchall())
        found: dict[str, int] = dict(rows)
        return {job: found.get(job.job_id) for job in jobs}

    def totals(self) -> Totals:
        """How many jobs and images there are that have not ended, and jobs that have."""
        rows = self._connections.run(lambda c: c.execute(_TOTALS).fetchall())
        return Totals.of(map(summary_of, rows))

    def newest(self, before: str | None, limit: int) -> list[Snapshot]:
        """Summaries of jobs that are not retired, newest first, older than the job `before`.

        Raises LookupError.
        """

        def read(connection: Connection) -> list[Snapshot]:
            number = 2**62
            if before is not None:
                head = read_head(connection, before)
                if head is None:
                    raise LookupError(before)
                number = head.number
            rows = connection.execute(_NEWEST, (number, limit)).fetchall()
            return [summary_of(row) for row in rows]

        return self._connections.run(read)

    def links(
        self, after: tuple[str, int] | None = None, *, retired_only: bool = False
    ) -> Iterator[Link]:
        place = 0, -1
        if after is not None:
            job_id, n = after
            head = self._connections.run(lambda connection: read_head(connection, job_id))
            if head is None:
                raise LookupError(job_id)
            place = head.number, n
        while True:
            columns = *place, retired_only
            page = self._connections.run(lambda c: c.execute(_LINKS, columns).fetchall())  # noqa: B023
            if not page:
                return
            yield from (Link(*link) for _, *link in page)
            place = page[-1][0], page[-1][2]

    def get_setting(self, name: str) -> str | None:
        row = self._connections.run(
            lambda connection: connection.execute(_SETTING, (name,)).fetchone()
        )
        return None if row is None else str(row[0])

    def set_setting(self, name: str, value: str | None) -> None:
        def edit(connection: Connection) -> None:
            if value is None:
                connection.execute(_DELETE_SETTING, (name,))
            else:
                connection.execute(_SET_SETTING, (name, value))

        self._writer.put(lambda batch: batch.edits.update({("setting", name): edit}))

    @property
    def trouble(self) -> str | None:
        return self._writer.trouble

    def close(self, seconds: float = 10.0) -> bool:
        if self._is_closed:
            return True
        self._is_closed = True
        left = self._writer.close(seconds)
        if left is not None:
            self._database.close()
        self._connections.close()
        return left == 0


_ADD_JOB = b"""
    INSERT INTO job (id, created, dedupe, total, album, callback)
    VALUES (%s, %s, %s, %s, %s, %s) RETURNING number"""
_ADD_SLICES = b"""
    INSERT INTO slice (job, first, count, items)
    SELECT %s, * FROM unnest(%s::int[], %s::int[], %s::bytea[])"""
_ADD_HEAD = b"INSERT INTO slice (job, first, count, items, open) VALUES (%s, -1, 0, '', false)"
_ADD_POSTED = b"INSERT INTO posted (caller, key, fingerprint, job_ids) VALUES (%s, %s, %s, %s)"
_POSTED = b"SELECT fingerprint, job_ids FROM posted WHERE caller = %s AND key = %s"
_RETIRE = b"UPDATE job SET retired = true WHERE id = ANY(%s)"
_DELETE = b"DELETE FROM job WHERE id = ANY(%s)"
_DELETE_POSTED = b"""
    DELETE FROM posted WHERE NOT EXISTS (
        SELECT FROM job WHERE id = ANY(posted.job_ids) AND NOT retired)"""
_JOB_VERSIONS = b"""
    SELECT job.id, sum(slice.version)::bigint FROM job JOIN slice ON slice.job = job.number
    WHERE job.id = ANY(%s) GROUP BY job.id"""
_SUMMARIES = b"""
    SELECT job.id, created, started, purging, album, callback, total, sums.*
    FROM job, LATERAL (
        SELECT sum(version)::bigint, sum(downloaded)::int, sum(completed)::int, sum(failed)::int,
            sum(maybe_duplicates)::int, sum(downloaded_bytes)::bigint, sum(uploaded_bytes)::bigint
        FROM slice WHERE slice.job = job.number) AS sums
    WHERE NOT retired"""
_NEWEST = _SUMMARIES + b" AND number < %s ORDER BY number DESC LIMIT %s"
_TOTALS = _SUMMARIES
_SETTING = b"SELECT value FROM setting WHERE name = %s"
_SET_SETTING = b"""
    INSERT INTO setting (name, value) VALUES (%s, %s)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value"""
_CLEAR_AGAIN = b"UPDATE slice SET again = NULL WHERE job = %s AND first = %s AND epoch = %s"
_DELETE_SETTING = b"DELETE FROM setting WHERE name = %s"
_LINKS = f"""
    SELECT image.job, job.id, image.n, image.link
    FROM image JOIN job ON job.number = image.job
    WHERE (image.job, image.n) > (%s, %s) AND image.link IS NOT NULL AND job.retired >= %s
    ORDER BY image.job, image.n LIMIT {PAGE}""".encode()  # noqa: S608 - a number
