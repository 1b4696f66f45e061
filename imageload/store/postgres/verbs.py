"""Cancel, purge, retry and rehost of a job, on any node: one transaction each.

Slices that no node has are taken, and changed here by the same Changes as on their worker. A slice
that some node has gets an order in its row, which its worker or the next one follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from imageload.errors import Failure, Refused, not_finished
from imageload.image import Failed, Requeued, ResponseLost
from imageload.job import AlbumEnded, AlbumReopened, Change, Job, Only, PurgeBegun, Snapshot
from imageload.store.postgres.batch import HEAD, Batch, Claim
from imageload.store.postgres.connections import Connection
from imageload.store.postgres.leaving import forget
from imageload.store.postgres.reading import read_head, read_whole


class Done(NamedTuple):
    """What a verb did: how many images it concerns, and the slices that are to be queued."""

    number: int
    before: Snapshot
    images: int
    queue: Sequence[int]


@dataclass(slots=True)
class Locked:
    """A job whose row is locked, and its slices that no node has (`free`), under a new epoch."""

    connection: Connection
    job: Job
    claim: Claim
    free: set[int]
    batch: Batch

    def apply(self, change: Change) -> None:
        """Make `change` true of the job, in `batch`."""
        self.job.apply(change)
        index = getattr(change, "index", None)
        if index is None:
            self.batch.slices[self.claim.number, HEAD] = self.claim.head_changed(), self.claim
            self.batch.heads[self.claim.number] = self.job.summary()
        else:
            first, state, image = self.claim.changed(index, self.job.image(index))
            self.batch.slices[self.claim.number, first] = state, self.claim
            self.batch.images[self.claim.number, index] = image

    def is_free(self, index: int) -> bool:
        """True if no node has the slice of this image."""
        return self.claim.first_of(index) in self.free


def lock(connection: Connection, job_id: str) -> Locked:
    """Lock the job; raises LookupError."""
    if connection.execute(_LOCK, (job_id,)).fetchone() is None:
        raise LookupError(job_id)
    head = read_head(connection, job_id)
    assert head is not None, "its row is locked"
    free = {first for (first,) in connection.execute(_TAKE_FREE, (head.number,)).fetchall()}
    job, claim = read_whole(connection, head)
    return Locked(connection, job, claim, free, Batch())


def cancel(locked: Locked, failure: Failure, *, purge: bool) -> Done:
    """End what is open, and with `purge` begin to delete what has landed."""
    before = locked.job.summary()
    images = locked.job.snapshot().images
    open_ = [n for n, image in enumerate(images) if image.is_open]
    has_album = before.album is not None and before.album.id is not None
    if purge and not before.purging and (before.counts["completed"] or has_album or open_):
        locked.apply(PurgeBegun())
    for n in open_:
        if locked.is_free(n):
            if images[n].uploading:  # the node that began it is dead
                locked.apply(ResponseLost(n))
            locked.apply(Failed(n, failure, 0))
    if before.album is not None and before.album.is_open and HEAD in locked.free:
        locked.apply(AlbumEnded(failure=failure))
    locked.batch.write(locked.connection)
    number = locked.claim.number
    if locked.job.summary().purging and not before.purging:
        locked.connection.execute(_TAKE_HEAD, (number,))
    free = sorted(locked.free)
    locked.connection.execute(_CANCEL_TAKEN, (number, free))
    locked.connection.execute(_CLOSE_FREE, (number, [first for first in free if first != HEAD]))
    opened = locked.connection.execute(_OPEN_HEAD, (number,)).fetchone()
    return Done(number, before, len(open_), [HEAD] if opened else [])


def retry(locked: Locked, only: Only) -> Done:
    """Load the failed images again that `only` chooses; raises Refused during a purge."""
    job = locked.job
    before = job.summary()
    failed = job.failed(only)
    album = before.album
    album_failed = album is not None and album.failure is not None and not album.is_open
    queue: Sequence[int] = ()
    if failed or album_failed:
        if before.purging:
            raise Refused("job-busy", "The job is being purged. Send this again in a while.")
        queue = _load_again(locked, failed, again=_order(locked, only))
    return Done(locked.claim.number, before, len(failed), queue)


def _order(locked: Locked, only: Only) -> str:
    """The order to a node that has a slice: `all`, `transient`, or an index in its slice."""
    if isinstance(only, int):
        return str(only - locked.claim.first_of(only))
    return only or "all"


def rehost(locked: Locked, dead: Mapping[int, int]) -> Done:
    """Load images again whose links are dead, by index and version.

    Raises Refused unless the job is finished, and no node has a slice of these images.
    """
    job = locked.job
    before = job.summary()
    lost = job.completed_at(dead)
    if not before.finished or not all(map(locked.is_free, lost)):
        raise not_finished()
    queue: Sequence[int] = ()
    if lost:
        forget(locked.connection, {link for n in lost if (link := job.image(n).link)})
        queue = _load_again(locked, lost)
    return Done(locked.claim.number, before, len(lost), queue)


def _load_again(locked: Locked, indexes: Sequence[int], *, again: str = "all") -> Sequence[int]:
    """Load images again; without any, make the album again. The slices that are to be queued.

    `again` is the order to nodes that have slices of them.
    """
    number = locked.claim.number
    firsts = {locked.claim.first_of(n) for n in indexes}
    for n in indexes:
        if locked.is_free(n):
            locked.apply(Requeued(n))
    if not indexes:
        locked.apply(AlbumReopened())
    locked.batch.write(locked.connection)
    queue = sorted(firsts) or [HEAD]  # a message about a slice that is at work does no harm
    # Its node knows nothing of this end of the job.
    locked.connection.execute(_TAKE_HEAD, (number,))
    if indexes:
        locked.connection.execute(_REOPEN_HEAD, (number,))
    taken = sorted(firsts - locked.free)
    locked.connection.execute(_AGAIN, (again, number, taken))
    locked.connection.execute(_OPEN, (number, sorted(set(queue) - set(taken))))
    return queue


# No stronger lock: nodes that write images of the job meanwhile would wait, and so would we for
# them.
_LOCK = b"SELECT FROM job WHERE id = %s FOR NO KEY UPDATE"
# The new epoch fences off what an earlier owner has not written yet.
_TAKE_FREE = b"""
    WITH free AS (
        SELECT job, first FROM slice WHERE job = %s AND worker IS NULL
        ORDER BY first FOR UPDATE SKIP LOCKED)
    UPDATE slice SET epoch = epoch + 1 FROM free
    WHERE (slice.job, slice.first) = (free.job, free.first) RETURNING slice.first"""
_TAKE_HEAD = b"""
    UPDATE slice SET open = false, epoch = epoch + 1, version = version + 1, worker = NULL,
        until = NULL, cancels = 0, taken_over = 0
    WHERE job = %s AND first = -1"""
_REOPEN_HEAD = b"""
    UPDATE job SET album = (album::jsonb || '{"is_open": true}')::text,
        callback = (callback::jsonb || '{"is_told": false, "failure": null}')::text
    WHERE number = %s"""
# Also those whose row another transaction held a moment ago: whoever has them next follows.
_CANCEL_TAKEN = b"""
    WITH taken AS (
        SELECT job, first FROM slice WHERE job = %s AND open AND first <> ALL(%s)
        ORDER BY first FOR UPDATE)
    UPDATE slice SET cancels = cancels + 1, again = NULL FROM taken
    WHERE (slice.job, slice.first) = (taken.job, taken.first)"""
_CLOSE_FREE = b"""
    UPDATE slice SET open = false, cancels = 0, again = NULL
    WHERE job = %s AND first = ANY(%s) AND open"""
_OPEN_HEAD = b"""
    UPDATE slice SET open = true FROM job
    WHERE job.number = %s AND slice.job = job.number AND slice.first = -1 AND NOT slice.open
        AND (job.purging OR job.callback::jsonb @> '{"is_told": false, "failure": null}')
        AND NOT EXISTS (SELECT FROM slice AS other WHERE other.job = job.number AND other.open)
    RETURNING slice.job"""
_OPEN = b"UPDATE slice SET open = true WHERE job = %s AND first = ANY(%s)"
_AGAIN = b"""
    UPDATE slice SET open = true, again = concat_ws(' ', again, %s::text)
    WHERE job = %s AND first = ANY(%s)"""
