"""The store: jobs, and other data that must outlive the process.

    memory.py      MemoryStore: keeps nothing beyond the process
    sqlite.py      SqliteStore: the journal, a SQLite file
    postgres/      PostgresStore: many nodes share it

`accept` writes new jobs down, `record` every Change that `Job.apply` made, and `durable` waits
until all of it is on disk. The next process gets the same jobs from `opening.open_store`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import NamedTuple, Protocol

from imageload.image import Landed, Report, State
from imageload.job import Change, Job, Snapshot, Status

Clock = Callable[[float], object]

NONE: Mapping[str, bytes] = MappingProxyType({})


class Link(NamedTuple):
    """The link of image `n` of a job."""

    job_id: str
    n: int
    link: str


class Posted(NamedTuple):
    """A POST with an Idempotency-Key: its sender, its key, and the jobs that were made of it.

    `fingerprint` is a hash of its body.
    """

    caller: str
    key: str
    fingerprint: bytes
    job_ids: tuple[str, ...]


class Elsewhere(NamedTuple):
    """Another image of the same bytes: `landed`, or None while another node is at its upload."""

    landed: Landed | None


class Totals(NamedTuple):
    """Jobs by status, and images that have not ended by state."""

    jobs: dict[Status, int]
    pending: dict[State, int]

    @classmethod
    def of(cls, jobs: Iterable[Snapshot]) -> Totals:
        """The totals of these jobs."""
        totals = cls(
            {"pending": 0, "in-progress": 0, "complete": 0}, {"queued": 0, "downloaded": 0}
        )
        for job in jobs:
            status = job.status
            totals.jobs[status] += 1
            if status != "complete":  # most are, and have none
                for state in totals.pending:
                    totals.pending[state] += job.counts[state]
        return totals


class Store(Protocol):
    """Stores jobs. MemoryStore and SqliteStore pass the same tests.

    Any thread may call any method, except `durable`, which is awaited on the transfer loop.
    """

    is_durable: bool
    """True if the store outlives the process."""
    keeps_files: bool
    """True if the next process on the store finds the temp files of this one, see `keep`."""

    def accept(
        self,
        jobs: Sequence[Job],
        *,
        posted: Posted | None = None,
        documents: Mapping[str, bytes] = NONE,
        seconds: float = 5.0,
    ) -> None:
        """Store new jobs and their Idempotency-Key, all or none; durable when it returns.

        `documents`: what jobs came from, by their ids, as the caller has encoded it. They are kept
        until their jobs are retired or deleted.

        No Change of the jobs may have been applied yet. Blocks for up to `seconds`, so never call
        it on an event loop. Raises StoreUnavailable, and KeyUsed if the key is kept for an earlier
        POST; then nothing was stored. Of several calls with one key, on any node, one succeeds.
        PostgreSQL alone: if its response to the commit is lost, StoreUnavailable is raised though
        the jobs exist; a client that repeats its POST with an Idempotency-Key gets their ids.
        """

    def document(self, job_id: str) -> bytes | None:
        """The document of a job; None without one. Reads the disk; raises StoreUnavailable."""

    def keep_check(self, job_id: str, check: bytes) -> None:
        """Keep the result of the last check of a job's links, as the caller has encoded it.

        It replaces an earlier one, and is kept until the job is retired or deleted. Jobs that the
        store does not have are ignored. Blocks for a moment; raises StoreUnavailable.
        """

    def last_check(self, job_id: str) -> bytes | None:
        """What `keep_check` kept last; None: nothing. Reads the disk; raises StoreUnavailable."""

    def posted(self, caller: str, key: str) -> Posted | None:
        """The accepted POST with this key. It is kept until all its jobs are retired or deleted."""

    def record(self, job: Job, change: Change) -> None:
        """Record that `change` was applied to `job`: an observer, which takes a few µs.

        It must be called before the next Change of the job is applied. Jobs that the store does
        not have are ignored.
        """

    def keep(self, job: Job, index: int) -> None:
        """Record which temp file a downloaded image has, so that the next process finds it.

        Only with `keeps_files`. It is durable soon, like a recorded Change.
        """

    async def durable(self, job: Job | None = None) -> None:
        """Return once all that was recorded so far is on disk; at once if it is already.

        With `job` it waits also until the job is known to be this process's (see `is_ours`). If
        another node has taken the job over, that never comes true: cancel the call.
        """

    def is_ours(self, job: Job) -> bool:
        """True if no other process works on the job, by the last heartbeat.

        Check it right before an upload is sent.
        """

    def elsewhere(self, job: Job, index: int) -> Elsewhere | None:
        """What other nodes did with the bytes of an image, as its durable Uploading found it.

        None: upload it. Always None for a job without dedupe, and in a store of one process.
        """

    def retire(self, job_ids: Iterable[str]) -> None:
        """Drop jobs from the list of jobs; their links stay listed."""

    def delete(self, job_ids: Iterable[str]) -> None:
        """Delete the jobs, their links and their deletehashes."""

    def load(self, job_id: str) -> Job | None:
        """The job, even if it is retired; None if the store does not have it.

        Its Changes may be recorded from then on. Reads the disk; raises StoreUnavailable.
        """

    def links(
        self, after: tuple[str, int] | None = None, *, retired_only: bool = False
    ) -> Iterator[Link]:
        """The links of all jobs, or of the retired ones, oldest job first.

        They start after image `after[1]` of job `after[0]`. Reads the disk page by page; raises
        StoreUnavailable, and LookupError if the store does not have the job.
        """

    def links_to_leave(self, job_id: str, links: Set[str]) -> set[str]:
        """The links of a job under purge that must stay, because other jobs have them too.

        SQLite looks at retired jobs only, as the others are in memory; PostgreSQL at all. Reads the
        disk; raises StoreUnavailable.
        """

    def get_setting(self, name: str) -> str | None:
        """The text stored under `name`."""

    def set_setting(self, name: str, value: str | None) -> None:
        """Store a text, which may be a secret; None deletes it."""

    @property
    def trouble(self) -> str | None:
        """Why the store cannot be written at the moment; None if it can."""

    def close(self, seconds: float = 10.0) -> bool:
        """Write what is left, for up to `seconds`, and close; True if everything is on disk."""


class Restored(NamedTuple):
    """An opened store and its jobs that are not retired, oldest first.

    `was_closed`: the process before this one closed the store, or there was none. `kept`: the
    Reports of images that had their temp files then, by job and index; now they are queued.
    """

    store: Store
    jobs: list[Job]
    was_closed: bool
    kept: dict[Job, dict[int, Report]]
