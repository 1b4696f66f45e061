"""Which node works on which slice: claimed, kept by a heartbeat, taken over, given back, ended.

The slice's row says it, by the server's clock. `claim` raises its epoch, so whatever an earlier
owner still writes is dropped.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from imageload.job import Job
from imageload.store.postgres.batch import HEAD, Claim
from imageload.store.postgres.connections import Connection
from imageload.store.postgres.reading import read_head_of, read_slice, read_whole

Place = tuple[int, int]


class Order(NamedTuple):
    """What users want of a slice: how often its job was cancelled, a purge, a retry."""

    epoch: int
    cancels: int
    purging: bool
    again: str | None


def claim(
    connection: Connection, place: Place, worker: str, seconds: float
) -> tuple[Job, Claim, Order] | None:
    """The slice at `place` as a job, for `worker` to go on with until `seconds` from now.

    None: it has ended, or another worker has it.
    """
    row = connection.execute(_CLAIM, (worker, seconds, *place)).fetchone()
    if row is None:
        return None
    epoch, version, items, cancels, again = row
    head = read_head_of(connection, place[0])
    order = Order(epoch, cancels, head.purging, again)
    if place[1] == HEAD:
        job, found = read_whole(connection, head)
        return job, found, order
    if not head.started:
        connection.execute(_START, (head.number, head.number))
    return *read_slice(connection, head, place[1], epoch, version, bytes(items)), order


def beat(connection: Connection, worker: str, seconds: float) -> dict[Place, Order]:
    """Keep the slices of `worker` for `seconds` more; what it still has, and what is wanted."""
    rows = connection.execute(_BEAT, (seconds, worker)).fetchall()
    return {(number, first): Order(*rest) for number, first, *rest in rows}


def orders(connection: Connection, worker: str) -> dict[Place, Order]:
    """What `beat` gives, without keeping anything."""
    rows = connection.execute(_ORDERS, (worker,)).fetchall()
    return {(number, first): Order(*rest) for number, first, *rest in rows}


def end(connection: Connection, claimed: Claim, first: int) -> bool:
    """The slice has nothing left to do; True if the job's head has, as no slice is open any more.

    The caller then queues the head.
    """
    epoch = claimed.slices[first].epoch
    place = claimed.number, first
    # One after the other for all slices of a job: the last one sees that it is the last.
    connection.execute(_LOCK_JOB, (claimed.number,))
    ended = connection.execute(_END, (*place, epoch)).fetchone()
    if ended is None:
        return False
    return connection.execute(_OPEN_HEAD, (claimed.number,)).fetchone() is not None


def give_back(connection: Connection, claimed: Claim, first: int) -> bool:
    """Let other workers have this slice; False if they have it already."""
    epoch = claimed.slices[first].epoch
    row = connection.execute(_GIVE_BACK, (claimed.number, first, epoch)).fetchone()
    return row is not None


def forgotten(connection: Connection) -> list[tuple[Any, ...]]:
    """Slices that are open, that nobody has, and that no message names."""
    return connection.execute(_FORGOTTEN).fetchall()


_CLAIM = b"""
    UPDATE slice SET epoch = epoch + 1, worker = %s, until = now() + make_interval(secs => %s),
        taken_over = taken_over + (worker IS NOT NULL)::int
    WHERE job = %s AND first = %s AND open AND (worker IS NULL OR until < now())
    RETURNING epoch, version, items, cancels, again"""
_START = b"""
    WITH begun AS (UPDATE job SET started = true WHERE number = %s AND NOT started RETURNING number)
    UPDATE slice SET version = version + 1 WHERE job = %s AND first = -1 AND job IN (
        SELECT number FROM begun)"""
_BEAT = b"""
    UPDATE slice SET until = now() + make_interval(secs => %s) FROM job
    WHERE slice.worker = %s AND job.number = slice.job
    RETURNING slice.job, slice.first, slice.epoch, slice.cancels, job.purging, slice.again"""
_ORDERS = b"""
    SELECT slice.job, slice.first, slice.epoch, slice.cancels, job.purging, slice.again
    FROM slice JOIN job ON job.number = slice.job WHERE slice.worker = %s"""
_LOCK_JOB = b"SELECT FROM job WHERE number = %s FOR UPDATE"
_END = b"""
    UPDATE slice SET open = false, worker = NULL, until = NULL, taken_over = 0
    WHERE job = %s AND first = %s AND epoch = %s AND again IS NULL RETURNING job"""
_OPEN_HEAD = b"""
    UPDATE slice SET open = true FROM job
    WHERE job.number = %s AND slice.job = job.number AND slice.first = -1 AND NOT slice.open
        AND (job.purging OR job.callback::jsonb @> '{"is_told": false, "failure": null}'
            OR job.album::jsonb @> '{"is_open": true}')
        AND NOT EXISTS (SELECT FROM slice AS other WHERE other.job = job.number AND other.open)
    RETURNING slice.job"""
_GIVE_BACK = b"""
    UPDATE slice SET worker = NULL, until = NULL, taken_over = 0
    WHERE job = %s AND first = %s AND epoch = %s RETURNING job"""
_FORGOTTEN = b"""
    SELECT job, first FROM slice
    WHERE open AND (worker IS NULL OR until < now()) AND NOT EXISTS (
        SELECT FROM procrastinate_jobs WHERE status = 'todo'
        AND args = jsonb_build_object('number', slice.job, 'first', slice.first))
    ORDER BY job, first LIMIT 1000"""
