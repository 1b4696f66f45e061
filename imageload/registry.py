"""The jobs as the HTTP API sees them: how it orders jobs, finds them and acts on them.

`loader.ImageLoad` is the Registry of one machine, `cluster.mirror.Mirror` that of a node.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from imageload.image import Item
from imageload.job import Job, Only, Snapshot
from imageload.jobs import CancelResult
from imageload.store import Totals
from imageload.targets import Blocked, BudgetView, Endpoint

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One job as a client asks for it: a list of URLs or Items, and how they are treated.

    `document`: the text that it comes from, for the store to keep, and the name of its file.
    """

    items: Sequence[str | Item]
    dedupe: bool = True
    album: str | None = None
    callback: str | None = None
    document: bytes | None = None
    document_name: str | None = None


def jobs_of(orders: Iterable[Order]) -> tuple[list[Job], dict[str, bytes]]:
    """A Job for each order, and the documents by the jobs' ids."""
    jobs, documents = [], {}
    for each in orders:
        job = Job(each.items, dedupe=each.dedupe, album=each.album, callback=each.callback)
        job.document = each.document_name
        jobs.append(job)
        if each.document is not None:
            documents[job.job_id] = each.document
    return jobs, documents


class Sender(NamedTuple):
    """The caller of a POST, its Idempotency-Key, and a hash of its body."""

    caller: str
    key: str
    fingerprint: bytes


class Summarized(Protocol):
    """A job, or a summary of one."""

    def summary(self) -> Snapshot:
        """The job without its images."""


class Watch(Protocol):
    """Which jobs have listeners: a Registry that follows other nodes asks for their Changes.

    Its methods are called on the API's loop.
    """

    def watched(self) -> list[Job]:
        """The jobs with listeners."""

    @property
    def watches_all(self) -> bool:
        """True if a client listens to all jobs."""

    def touch(self, job_ids: Iterable[str]) -> None:
        """Notify listeners to all jobs of changes of these."""

    def notify(self) -> None:
        """Notify all listeners: jobs wait for something else, or no longer."""


class Registry(Protocol):
    """The jobs as the HTTP API sees them: an ImageLoad's, or those of many nodes.

    `cancel`, `purge`, `retry` and `rehost` are passed to `act`, which awaits them on the right
    loop.
    """

    is_closing: bool
    has_links: bool
    """True if `jobs` has the links of all jobs that are not retired; else the store has them."""
    workers: int | None
    """How many nodes work on jobs; None: this process does, and there are no others."""

    @property
    def listed(self) -> Mapping[str, Summarized]:
        """Jobs by id, oldest first; on a node, as they were at the last `look`."""

    @property
    def trouble(self) -> str | None:
        """Why the jobs cannot be read or written at the moment."""

    def upload(self, orders: Sequence[Order], sender: Sender | None = None) -> list[Job]:
        """Make a Job of each order, all or none; blocks. Raises Refused."""

    async def find(self, job_id: str) -> Job | None:
        """The job as it is now, or None."""

    async def newest(self, after: str | None, limit: int) -> list[Snapshot]:
        """Summaries of jobs, newest first, older than the job `after`; raises LookupError."""

    async def run(self) -> None:
        """Follow other nodes, on the loop of the API, until it is cancelled."""

    async def look(self) -> None:
        """Bring `listed` up to date, for a new listener to all jobs."""

    def closed(self, endpoint: Endpoint) -> Blocked | None:
        """Why requests of this kind wait for the target, on all nodes, and until when."""

    def parked(self) -> int:
        """How many images wait because the target takes no uploads; may block."""

    def budgets(self) -> Sequence[BudgetView]:
        """The limits of the target, on all nodes; none without limits."""

    def seconds_for(self, uploads: int) -> float:
        """How long so many uploads will take; inf: unknown."""

    def jobs(self) -> list[Job]:
        """Jobs whose links the store does not list, oldest first."""

    def totals(self) -> Totals:
        """How many jobs and images there are; may block."""

    def cancel(self, job: Job) -> Coroutine[Any, Any, CancelResult]:
        """Fail open images as `cancelled`; returns how many were open."""

    def purge(self, job: Job) -> Coroutine[Any, Any, CancelResult]:
        """`cancel`, and delete the job's images from the target."""

    def retry(self, job: Job, only: Only = None) -> Coroutine[Any, Any, int]:
        """Load again the failed images that `only` chooses; returns how many."""

    def rehost(self, job: Job, dead: Mapping[int, int]) -> Coroutine[Any, Any, int]:
        """Load again images whose links are dead, by index and version; returns how many."""

    async def act(self, action: Coroutine[Any, Any, T]) -> T:
        """The result of a `cancel`, a `purge`, a `retry` or a `rehost`."""
