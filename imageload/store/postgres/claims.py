"""Which node works on which slice: claimed, kept by a heartbeat, taken over, given back, ended.

The slice's row says it, by the server's clock. `claim` raises its epoch, so whatever an earlier
owner still writes is dropped. Orders are what users want of a slice that some node has: they stay
in its row until they were followed, also by the next owner.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from imageload.job import Job, Only
from imageload.store.postgres.batch import HEAD, Claim, counts_of
from imageload.store.postgres.connections import Connection
from imageload.store.postgres.reading import read_head_of, read_slice, read_whole
from imageload.store.rows import encode_items

Place = tuple[int, int]

MOST_TAKEN_OVER = 3
"""A slice that is taken over more often kills its workers: it is split, or its one image fails."""


class Wait(NamedTuple):
    """What slices wait for, and for how many seconds as far as is known.

    `is_outage`: images fail in the end if it does not end.
    """

    reason: str | None
    seconds: float
    is_outage: bool = False


class SliceOrder(NamedTuple):
    """What users want of a slice: how often its job was cancelled, a purge, a retry."""

    cancels: int = 0
    purging: bool = False
    again: str | None = None

    @property
    def is_open(self) -> bool:
        """True if something is to be done."""
        return self.cancels > 0 or self.again is not None

    @property
    def retries(self) -> list[Only]:
        """The retries to do, in order; an index is that in the slice."""
        words = (self.again or "").split()
        return [
            None if word == "all" else "transient" if word == "transient" else int(word)
            for word in words
        ]

    def again_of(self, start: int, count: int) -> str | None:
        """The retries of `count` images of the slice, from the one at `start` on."""
        words = []
        for word in (self.again or "").split():
            if not word.isdigit():
                words.append(word)
            elif start <= int(word) < start + count:
                words.append(str(int(word) - start))
        return " ".join(words) or None


class Claimed(NamedTuple):
    """A slice as a job to go on with; `taken_over`: how often nodes died with it, in a row."""

    job: Job
    claim: Claim
    order: SliceOrder
    taken_over: int

    @property
    def is_suspect(self) -> bool:
        """True if it may be the reason why nodes die."""
        return self.taken_over >= MOST_TAKEN_OVER

    @property
    def is_poisoned(self) -> bool:
        """True if it has killed too many nodes."""
        return self.taken_over > MOST_TAKEN_OVER


def claim(
    connection: Connection,
    place: Place,
    worker: str,
    seconds: float,
    *,
    may_rescue: bool = True,
    may_suspect: bool = True,
) -> Claimed | None:
    """The slice at `place` as a job, for `worker` to go on with until `seconds` from now.

    None: it has ended, or another worker has it. A slice of a worker that seems dead is taken only
    if `may_rescue`, one that may be the reason why nodes die only if `may_suspect`.
    """
    number, first = place
    # The job before its slices, as all transactions lock them.
    is_first = connection.execute(_LOCK_NEW_JOB, (number,)).fetchone() is not None
    terms = worker, seconds, *place, may_rescue, may_suspect, MOST_TAKEN_OVER
    row = connection.execute(_CLAIM, terms).fetchone()
    if row is None:
        return None
    epoch, version, items, cancels, again, taken_over, waited = row
    if is_first and first != HEAD:
        connection.execute(_START, (number,))
        connection.execute(_HEAD_CHANGED, (number,))
    head = read_head_of(connection, number)
    order = SliceOrder(cancels, head.purging, again)
    if first == HEAD:
        return Claimed(*read_whole(connection, head), order, taken_over)
    job, found = read_slice(connection, head, first, epoch, version, bytes(items))
    job.waiting_since = None if waited is None else time.monotonic() - waited
    return Claimed(job, found, order, taken_over)


def split(connection: Connection, claimed: Claimed) -> Sequence[int]:
    """Make two free slices of one that was claimed; their first images, which the caller queues.

    Half of them has the image that kills nodes, and the other half goes on without it. Both have
    the orders that were not followed.
    """
    number, images, order = claimed.claim.number, claimed.claim.images, claimed.order
    first, state = next(iter(claimed.claim.slices.items()))
    half = (len(images) + 1) // 2
    for start, some in ((0, images[:half]), (half, images[half:])):
        taken_over = MOST_TAKEN_OVER if len(some) > 1 else 0
        packed = zlib.compress(encode_items(some), 1)
        orders = order.cancels, order.again_of(start, len(some))
        columns = packed, state.version + 1, taken_over, *orders, *counts_of(some)
        slice_ = number, first + start, state.epoch, len(some)
        connection.execute(_PUT_PART, (*slice_, *columns))
    return [first, first + half]


def beat(
    connection: Connection, mine: Sequence[tuple[int, int, int]], seconds: float | None
) -> dict[Place, SliceOrder]:
    """Those of `mine` (job, first, epoch) that no other node has taken over, with their orders.

    They are kept for `seconds` more; None: only look.
    """
    columns = [list(column) for column in zip(*mine, strict=True)] or [[], [], []]
    if seconds is None:
        rows = connection.execute(_ORDERS, columns).fetchall()
    else:
        rows = connection.execute(_BEAT, (*columns, seconds)).fetchall()
    return {(number, first): SliceOrder(*rest) for number, first, *rest in rows}


def end(connection: Connection, claimed: Claim, first: int) -> list[int]:
    """The slice has nothing left to do; the slices of its job that are to be queued.

    That is itself if a retry was ordered meanwhile, or the job's head if no slice is open any more.
    The caller holds the lock of the job's row, so that the last of its slices sees that it is.
    """
    epoch = claimed.slices[first].epoch
    ended = connection.execute(_END, (claimed.number, first, epoch)).fetchone()
    if ended is None:
        return []
    if ended[0]:
        return [first]
    opened = connection.execute(_OPEN_HEAD, (claimed.number,)).fetchone()
    return [] if opened is None else [HEAD]


def give_back(
    connection: Connection, claimed: Claim, first: int, wait: Wait | None = None
) -> list[int]:
    """Let other workers have this slice; the slices that are to be queued.

    With a `wait` that is none: it is not queued, but taken when the wait is over.
    """
    epoch = claimed.slices[first].epoch
    columns = wait is not None, *_wait_columns(wait), claimed.number, first, epoch
    row = connection.execute(_GIVE_BACK, columns).fetchone()
    return [] if row is None or wait is not None else [first]


def park(connection: Connection, place: Place, wait: Wait) -> None:
    """Have a slice that no worker has wait, without a message that names it."""
    connection.execute(_PARK, (*_wait_columns(wait), *place))


def update_waits(connection: Connection, wait: Wait) -> None:
    """All slices of images that wait for the target now wait for this."""
    connection.execute(_UPDATE_WAITS, (wait.seconds, wait.reason))


def parked(
    connection: Connection, firsts: tuple[int, int], waited_seconds: float = 0.0
) -> Place | None:
    """A slice that waits for the target: the first slices of jobs come first.

    Its first image is one of `firsts` (from, to); it has waited for so long in an outage.
    """
    columns = *firsts, waited_seconds, waited_seconds
    return connection.execute(_PARKED, columns).fetchone()


def _wait_columns(wait: Wait | None) -> tuple[Any, ...]:
    if wait is None:
        return None, None, False
    return wait.seconds, wait.reason, wait.is_outage


def follow(connection: Connection, claimed: Claim, first: int, order: SliceOrder) -> None:
    """The order was followed."""
    epoch = claimed.slices[first].epoch
    connection.execute(_FOLLOWED, (order.cancels, order.again, claimed.number, first, epoch))


def forgotten(connection: Connection, *, rescue: bool) -> list[Place]:
    """Slices that are open, that nobody has, and that no message names.

    With `rescue`, those of nodes that seem dead too.
    """
    rows = connection.execute(_FORGOTTEN, (rescue,)).fetchall()
    return [(number, first) for number, first in rows]


class SliceCounts(NamedTuple):
    """Slices of all nodes: those that no living node has, and those that may kill nodes."""

    waiting: int
    stuck: int


def count(connection: Connection) -> SliceCounts:
    """How many slices wait, and how many are stuck."""
    return SliceCounts(*connection.execute(_COUNT, (MOST_TAKEN_OVER,)).fetchone() or (0, 0))


_WAITS = """not_before = now() + make_interval(secs => %s), waits_for = %s,
        waits_since = CASE WHEN %s THEN coalesce(waits_since, now()) ELSE waits_since END"""
_CLAIM = b"""
    UPDATE slice SET epoch = epoch + 1, worker = %s, until = now() + make_interval(secs => %s),
        version = version + (not_before IS NOT NULL)::int,
        taken_over = taken_over + (worker IS NOT NULL)::int, not_before = NULL, waits_for = NULL
    WHERE job = %s AND first = %s AND open AND (worker IS NULL OR %s AND until < now())
        AND (%s OR taken_over + (worker IS NOT NULL)::int < %s)
    RETURNING epoch, version, items, cancels, again, taken_over,
        extract(epoch FROM now() - waits_since)::float8"""
_LOCK_NEW_JOB = b"SELECT FROM job WHERE number = %s AND NOT started FOR NO KEY UPDATE"
_START = b"UPDATE job SET started = true WHERE number = %s"
_HEAD_CHANGED = b"UPDATE slice SET version = version + 1 WHERE job = %s AND first = -1"
_PUT_PART = b"""
    INSERT INTO slice (job, first, epoch, count, items, version, taken_over, cancels, again,
        downloaded, completed, failed, maybe_duplicates, downloaded_bytes, uploaded_bytes)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (job, first) DO UPDATE SET worker = NULL, until = NULL, count = excluded.count,
        items = excluded.items, version = excluded.version, taken_over = excluded.taken_over,
        cancels = excluded.cancels, again = excluded.again,
        downloaded = excluded.downloaded, completed = excluded.completed, failed = excluded.failed,
        maybe_duplicates = excluded.maybe_duplicates,
        downloaded_bytes = excluded.downloaded_bytes, uploaded_bytes = excluded.uploaded_bytes"""
# Locked in one order, as the Writer of the same node locks them too.
_BEAT = b"""
    WITH mine AS (
        SELECT slice.job, slice.first FROM slice
        JOIN unnest(%s::bigint[], %s::int[], %s::bigint[]) AS mine (job, first, epoch)
            ON (slice.job, slice.first, slice.epoch) = (mine.job, mine.first, mine.epoch)
        ORDER BY slice.job, slice.first FOR NO KEY UPDATE OF slice)
    UPDATE slice SET until = now() + make_interval(secs => %s) FROM mine, job
    WHERE (slice.job, slice.first) = (mine.job, mine.first) AND job.number = slice.job
    RETURNING slice.job, slice.first, slice.cancels, job.purging, slice.again"""
_ORDERS = b"""
    SELECT slice.job, slice.first, slice.cancels, job.purging, slice.again
    FROM slice JOIN unnest(%s::bigint[], %s::int[], %s::bigint[]) AS mine (job, first, epoch)
        ON (slice.job, slice.first, slice.epoch) = (mine.job, mine.first, mine.epoch)
    JOIN job ON job.number = slice.job"""
_END = b"""
    UPDATE slice SET open = again IS NOT NULL, worker = NULL, until = NULL, taken_over = 0,
        cancels = 0
    WHERE job = %s AND first = %s AND epoch = %s RETURNING open"""
_OPEN_HEAD = b"""
    UPDATE slice SET open = true FROM job
    WHERE job.number = %s AND slice.job = job.number AND slice.first = -1 AND NOT slice.open
        AND (job.purging OR job.callback::jsonb @> '{"is_told": false, "failure": null}'
            OR job.album::jsonb @> '{"is_open": true}')
        AND NOT EXISTS (SELECT FROM slice AS other WHERE other.job = job.number AND other.open)
    RETURNING slice.job"""
_GIVE_BACK = f"""
    UPDATE slice SET worker = NULL, until = NULL, taken_over = 0,
        version = version + %s::int, {_WAITS}
    WHERE job = %s AND first = %s AND epoch = %s RETURNING job""".encode()  # noqa: S608 - columns
# The new epoch fences off a batch that is written again as its response was lost.
_PARK = f"""
    UPDATE slice SET epoch = epoch + (worker IS NULL)::int,
        version = version + (worker IS NULL AND not_before IS NULL)::int, {_WAITS}
    WHERE job = %s AND first = %s AND open AND (worker IS NULL OR until < now())""".encode()  # noqa: S608 - columns
_UPDATE_WAITS = b"""
    WITH waiting AS (
        SELECT job, first FROM slice WHERE not_before IS NOT NULL AND open AND first >= 0
        ORDER BY job, first FOR NO KEY UPDATE SKIP LOCKED)
    UPDATE slice SET not_before = now() + make_interval(secs => %s), waits_for = %s FROM waiting
    WHERE (slice.job, slice.first) = (waiting.job, waiting.first)"""
_PARKED = b"""
    SELECT job, first FROM slice
    WHERE not_before IS NOT NULL AND open AND (worker IS NULL OR until < now())
        AND first BETWEEN %s AND %s
        AND (%s = 0 OR waits_since < now() - make_interval(secs => %s))
    ORDER BY first, job LIMIT 1"""
_FOLLOWED = b"""
    UPDATE slice SET cancels = greatest(0, cancels - %s),
        again = nullif(regexp_replace(again, '^' || coalesce(%s::text, '') || '( |$)', ''), '')
    WHERE job = %s AND first = %s AND epoch = %s"""
_FORGOTTEN = b"""
    SELECT job, first FROM slice
    WHERE open AND (worker IS NULL OR %s AND until < now()) AND not_before IS NULL AND NOT EXISTS (
        SELECT FROM procrastinate_jobs WHERE status = 'todo'
        AND args = jsonb_build_object('number', slice.job, 'first', slice.first))
    ORDER BY job, first LIMIT 1000"""
_COUNT = b"""
    SELECT count(*) FILTER (WHERE worker IS NULL OR until < now()),
        count(*) FILTER (WHERE taken_over > %s)
    FROM slice WHERE open"""
