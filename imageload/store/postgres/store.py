"""A store in PostgreSQL, which many nodes share. Each slice of a job has one node that writes it.

`accept` and `load` give claims on whole jobs, under the epochs that their slices have: `record`
writes for them until a worker claims a slice (`imageload.cluster`).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Protocol, TypeVar

import psycopg

from imageload.errors import Failure, StoreError
from imageload.job import Change, Job, Mirrored, Snapshot
from imageload.store import Clock, Link, Posted, Totals
from imageload.store.postgres import accepting, claims, leaving, reading, verbs
from imageload.store.postgres.batch import HEAD, Batch, Claim
from imageload.store.postgres.claims import Order, Place, Wait
from imageload.store.postgres.connections import UNAVAILABLE, Connection, Connections
from imageload.store.postgres.schema import migrate
from imageload.store.postgres.verbs import Done
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
            encoding = connection.info.parameter_status("server_encoding")
            if encoding != "UTF8":
                raise StoreError(
                    f"The database has the encoding {encoding}, and must have UTF8: "
                    "createdb --encoding=UTF8 --template=template0"
                )
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
        self.lock = threading.Lock()
        self.unwritten_settings: dict[str, str | None] = {}

    def new_batch(self) -> Batch:
        """An empty batch."""
        return Batch()

    def write(self, batch: Batch) -> None:
        """Write `batch`; a transaction whose commit got no response is written again."""
        if self._connection is None or self._connection.closed:
            self._connection = self._connections.open()
        try:
            batch.write(self._connection)
        except UNAVAILABLE:
            self._connection.close()
            raise
        with self.lock:
            for name, value in batch.settings.items():
                if self.unwritten_settings.get(name) is value:  # no other came meanwhile
                    self.unwritten_settings.pop(name, None)

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
            return accepting.insert(connection, jobs, posted, self._defer)

        self._claims.update(zip(jobs, self._connections.run(insert), strict=True))

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

    # Jobs that leave

    def retire(self, job_ids: Iterable[str]) -> None:
        gone = list(job_ids)
        self._connections.run(lambda connection: leaving.retire(connection, gone))

    def retire_finished(self, keep_jobs: int, keep_hours: float) -> int:
        """Retire the oldest finished jobs of all nodes that are more, or older, than are kept.

        At most 1,000; how many they are. Blocks; raises StoreUnavailable.
        """
        keep = keep_jobs, 3_600 * keep_hours
        return self._connections.run(lambda connection: leaving.retire_finished(connection, *keep))

    def delete(self, job_ids: Iterable[str]) -> None:
        gone = list(job_ids)
        self._connections.run(lambda connection: leaving.delete(connection, gone))

    def links_to_leave(self, job_id: str, links: Set[str]) -> set[str]:
        some = sorted(links)
        return self._connections.run(
            lambda connection: leaving.links_to_leave(connection, job_id, some)
        )

    # Reading

    def load(self, job_id: str) -> Job | None:
        def read(connection: Connection) -> tuple[Job, Claim] | None:
            connection.execute(reading.ONE_MOMENT)
            head = reading.read_head(connection, job_id)
            return None if head is None else reading.read_whole(connection, head)

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
            connection.execute(reading.ONE_MOMENT)
            head = reading.read_head_of(connection, claim.number)
            known = {first: state.version for first, state in claim.slices.items()}
            return reading.read_changes(connection, known, head)

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
        found = self._connections.run(lambda connection: reading.read_versions(connection, ids))
        return {job: found.get(job.job_id) for job in jobs}

    def totals(self) -> Totals:
        """How many jobs and images there are that have not ended, and jobs that have."""
        return Totals.of(self._connections.run(reading.read_summaries))

    def newest(self, before: str | None, limit: int) -> list[Snapshot]:
        """Summaries of jobs that are not retired, newest first, older than the job `before`.

        Raises LookupError.
        """
        return self._connections.run(
            lambda connection: reading.read_newest(connection, before, limit)
        )

    def links(
        self, after: tuple[str, int] | None = None, *, retired_only: bool = False
    ) -> Iterator[Link]:
        place = 0, -1
        if after is not None:
            job_id, n = after
            head = self._connections.run(lambda connection: reading.read_head(connection, job_id))
            if head is None:
                raise LookupError(job_id)
            place = head.number, n
        while True:
            page = self._connections.run(
                lambda connection: reading.read_links(connection, place, retired_only)  # noqa: B023
            )
            if not page:
                return
            yield from (Link(*link) for _, *link in page)
            place = page[-1][0], page[-1][2]

    # Settings

    def get_setting(self, name: str) -> str | None:
        with self._database.lock:
            unwritten = self._database.unwritten_settings
            if name in unwritten:
                return unwritten[name]
        return self._connections.run(lambda connection: reading.read_setting(connection, name))

    def set_setting(self, name: str, value: str | None) -> None:
        with self._database.lock:
            self._database.unwritten_settings[name] = value
        self._writer.put(lambda batch: batch.settings.update({name: value}))

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


_POSTED = b"SELECT fingerprint, job_ids FROM posted WHERE caller = %s AND key = %s"
_CLEAR_AGAIN = b"UPDATE slice SET again = NULL WHERE job = %s AND first = %s AND epoch = %s"
