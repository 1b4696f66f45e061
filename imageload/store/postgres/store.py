"""A store in PostgreSQL, which many nodes share. Each slice of a job has one node that writes it.

`accept` and `load` give claims on whole jobs, under the epochs that their slices have: `record`
writes for them until a worker claims a slice (`imageload.cluster`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import TypeVar

import psycopg

from imageload.errors import Failure, StoreError
from imageload.image import Landed, ResponseLost, Uploaded, Uploading, texts_key
from imageload.job import Change, Job, Mirrored, Only, Snapshot
from imageload.store import NONE, Clock, Elsewhere, Link, Posted, Totals
from imageload.store.postgres import accepting, leaving, overview, reading, verbs
from imageload.store.postgres.batch import HEAD, Batch, Claim, Content, Counts, SliceState
from imageload.store.postgres.claims import Place
from imageload.store.postgres.connections import (
    Connection,
    Connections,
    repeat_after_deadlocks,
)
from imageload.store.postgres.overview import Workers
from imageload.store.postgres.schema import migrate
from imageload.store.postgres.slices import Queue, Slices
from imageload.store.postgres.verbs import Done
from imageload.store.writer import Writer

_log = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_SECONDS = 0.05


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
        """Write `batch`; a transaction whose commit got no response is written again.

        A connection that still works is kept: while the disk is full, no other can be opened.
        """
        if self._connection is None or self._connection.closed:
            self._connection = self._connections.open()
        connection = self._connection
        repeat_after_deadlocks(lambda: batch.write(connection))
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
    keeps_files = False  # another node may go on with the job, and has another disk

    def __init__(
        self,
        connections: Connections,
        clock: Clock | None,
        on_break: Callable[[], object] | None,
        queue: Queue,
    ) -> None:
        self._connections = connections
        self._queue = queue
        self._database = Database(connections)
        self._writer = Writer(self._database, clock, on_break)
        self._claims: weakref.WeakKeyDictionary[Job, Claim] = weakref.WeakKeyDictionary()
        self.slices = Slices(connections, queue, self._writer, self._claims)
        self._is_closed = False

    def accept(
        self,
        jobs: Sequence[Job],
        *,
        posted: Posted | None = None,
        documents: Mapping[str, bytes] = NONE,
        seconds: float = 5.0,
    ) -> None:
        milliseconds = max(1, int(seconds * 1000))

        def insert(connection: Connection) -> list[Claim]:
            connection.execute(f"SET LOCAL statement_timeout = {milliseconds}".encode())
            return accepting.insert(connection, jobs, posted, documents, self._queue.defer)

        self._claims.update(zip(jobs, self._connections.run(insert), strict=True))

    def document(self, job_id: str) -> bytes | None:
        return self._connections.run(lambda connection: reading.read_document(connection, job_id))

    def keep_check(self, job_id: str, check: bytes) -> None:
        self._connections.run(lambda connection: accepting.keep_check(connection, job_id, check))

    def last_check(self, job_id: str) -> bytes | None:
        return self._connections.run(lambda connection: reading.read_check(connection, job_id))

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
            content = _content_of(job, change, claim, (number, first), state.epoch)

            def put(batch: Batch) -> None:
                batch.slices[number, first] = state, claim
                batch.images[place] = image
                if content is not None:
                    key, value = content
                    before = batch.contents.get(key)
                    if before is None or before.landed is None:
                        batch.contents[key] = value
                    if value.epoch and value.landed is None:
                        batch.asks[key] = (number, first), claim, index

            self._writer.put(put)
        if HEAD in claim.slices and (index is None or job.summary().album is not None):
            self._record_head(job, claim)

    def keep(self, job: Job, index: int) -> None:
        pass

    def _record_head(self, job: Job, claim: Claim) -> None:
        state, now = claim.head_changed(), job.summary()

        def put(batch: Batch) -> None:
            batch.slices[claim.number, HEAD] = state, claim
            batch.heads[claim.number] = now

        self._writer.put(put)

    async def durable(self, job: Job | None = None) -> None:
        while True:
            await self._writer.durable()
            if job is None or self.is_ours(job):
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def elsewhere(self, job: Job, index: int) -> Elsewhere | None:
        claim = self._claims.get(job)
        return None if claim is None else claim.elsewhere.get(index)

    def is_ours(self, job: Job) -> bool:
        claim = self._claims.get(job)
        return claim is None or claim.is_ours

    def cancel(self, job_id: str, failure: Failure, *, purge: bool = False) -> Done:
        """End what is open in a job on any node; raises LookupError, StoreUnavailable."""
        return self._do(job_id, lambda locked: verbs.cancel(locked, failure, purge=purge))

    def retry(self, job_id: str, only: Only = None) -> Done:
        """Load the failed images again that `only` chooses.

        Raises Refused, LookupError, StoreUnavailable.
        """
        return self._do(job_id, lambda locked: verbs.retry(locked, only))

    def rehost(self, job_id: str, dead: Mapping[int, int]) -> Done:
        """Load images again whose links are dead, by index and version; raises as `retry`."""
        return self._do(job_id, lambda locked: verbs.rehost(locked, dead))

    def _do(self, job_id: str, verb: Callable[[verbs.Locked], Done]) -> Done:
        def run(connection: Connection) -> Done:
            done = verb(verbs.lock(connection, job_id))
            self._queue.defer(connection, {done.number: done.queue})
            return done

        return self._connections.run(run)

    def run(self, work: Callable[[Connection], T]) -> T:
        """The result of `work`, called with a connection in a transaction of its own.

        It may be called twice, so it has no other effects. Blocks; raises StoreUnavailable.
        """
        return self._connections.run(work)

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
            return reading.read_changes(connection, known, head, is_settled=job.is_settled)

        found = self._connections.run(read)
        if found is None:
            return None
        change, versions = found
        for first, version in versions.items():
            known = claim.slices.get(first, SliceState(0, 0, Counts()))
            claim.slices[first] = known._replace(version=version)
        return change

    def versions(self, jobs: Sequence[Job]) -> dict[Job, int | None]:
        """The versions that these jobs have now; None: a job was deleted."""
        ids = [job.job_id for job in jobs]
        found = self._connections.run(lambda connection: reading.read_versions(connection, ids))
        return {job: found.get(job.job_id) for job in jobs}

    def active(self, known: Sequence[str], newest: str) -> list[Snapshot]:
        """Jobs that are open, or among `known`, or newer than `newest`; all if that is empty."""
        return self._connections.run(lambda c: overview.read_active(c, known, newest))

    def workers(self, dead_seconds: float, prefix: str) -> Workers:
        """The workers of all nodes, for the target whose leases begin so.

        Raises StoreUnavailable.
        """
        return self._connections.run(lambda c: overview.read_workers(c, dead_seconds, prefix))

    def count_parked(self) -> int:
        """How many images wait for the target without a worker; raises StoreUnavailable."""
        return self._connections.run(overview.count_parked)

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


def _content_of(
    job: Job, change: Change, claim: Claim, place: Place, epoch: int
) -> tuple[bytes, Content] | None:
    """What a Change of an image says of its bytes, and their key; None: nothing."""
    if not job.dedupe:
        return None
    index: int = change.index  # type: ignore[union-attr]
    if type(change) is Uploading:
        image = job.image(index)
        assert image.report is not None, "it was downloaded"
        text = image.report.sha256 + texts_key(image.title, image.description)
        key = claim.asked[index] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        claim.elsewhere.pop(index, None)
        return key, Content(place, epoch)
    if type(change) is ResponseLost or (asked := claim.asked.pop(index, None)) is None:
        return None
    found = claim.elsewhere.pop(index, None)
    if found is not None:
        return None
    if type(change) is Uploaded:
        return asked, Content(place, epoch, Landed(change.link, change.deletehash))
    return asked, Content(place, 0)


_POSTED = b"SELECT fingerprint, job_ids FROM posted WHERE caller = %s AND key = %s"
