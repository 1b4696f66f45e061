"""Which node works on which slice: claimed, kept by a heartbeat, taken over, given back, ended.

The slice's row says it, by the server's clock. `claim` raises its epoch, so whatever an earlier
owner still writes is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from imageload.job import Job
from imageload.store.postgres.batch import HEAD, Claim
from imageload.store.postgres.connections import Connection
from imageload.store.postgres.reading import read_head_of, read_slice, read_whole

Place = tuple[int, int]


class Wait(NamedTuple):
    """What slices wait for, and for how many seconds as far as is known.

    `is_outage`: images fail in the end if it does not end.
    """

    reason: str | None
    seconds: float
    is_outage: bool = False


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
    epoch, version, items, cancels, again, waited = row
    head = read_head_of(connection, place[0])
    order = Order(epoch, cancels, head.purging, again)
    if place[1] == HEAD:
        job, found = read_whole(connection, head)
        return job, found, order
    if not head.started:
        connection.execute(_START, (head.number, head.number))
    job, found = read_slice(connection, head, place[1], epoch, version, bytes(items))
    job.waiting_since = None if waited is None else time.monotonic() - waited
    return job, found, order


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


def give_back(connection: Connection, claimed: Claim, first: int, wait: Wait | None = None) -> bool:
    """Let other workers have this slice, if there is a `wait`: after it.

    False if they have it already.
    """
    epoch = claimed.slices[first].epoch
    columns = *_wait_columns(wait), claimed.number, first, epoch
    return connection.execute(_GIVE_BACK, columns).fetchone() is not None


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


def waits(connection: Connection, job_ids: Sequence[str]) -> list[tuple[Any, ...]]:
    """For each job with slices that wait for the target: its id, why, and for how many seconds."""
    return connection.execute(_WAITING, ([*job_ids],)).fetchall()


def _wait_columns(wait: Wait | None) -> tuple[Any, ...]:
    if wait is None:
        return None, None, False
    return wait.seconds, wait.reason, wait.is_outage


def forgotten(connection: Connection) -> list[tuple[Any, ...]]:
    """Slices that are open, that nobody has, and that no message names."""
    return connection.execute(_FORGOTTEN).fetchall()


_WAITS = """not_before = now() + make_interval(secs => %s), waits_for = %s,
        waits_since = CASE WHEN %s THEN coalesce(waits_since, now()) ELSE waits_since END"""
_CLAIM = b"""
    UPDATE slice SET epoch = epoch + 1, worker = %s, until = now() + make_interval(secs => %s),
        taken_over = taken_over + (worker IS NOT NULL)::int, not_before = NULL, waits_for = NULL
    WHERE job = %s AND first = %s AND open AND (worker IS NULL OR until < now())
    RETURNING epoch, version, items, cancels, again,
        extract(epoch FROM now() - waits_since)::float8"""
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
_GIVE_BACK = f"""
    UPDATE slice SET worker = NULL, until = NULL, taken_over = 0, {_WAITS}
    WHERE job = %s AND first = %s AND epoch = %s RETURNING job""".encode()  # noqa: S608 - columns
_PARK = f"""
    UPDATE slice SET {_WAITS} WHERE job = %s AND first = %s AND open
        AND (worker IS NULL OR until < now())""".encode()  # noqa: S608 - columns
_UPDATE_WAITS = b"""
    UPDATE slice SET not_before = now() + make_interval(secs => %s), waits_for = %s
    WHERE not_before IS NOT NULL AND open AND first >= 0"""
_PARKED = b"""
    SELECT job, first FROM slice
    WHERE not_before IS NOT NULL AND open AND (worker IS NULL OR until < now())
        AND first BETWEEN %s AND %s
        AND (%s = 0 OR waits_since < now() - make_interval(secs => %s))
    ORDER BY first, job LIMIT 1"""
_WAITING = b"""
    SELECT DISTINCT ON (job.id) job.id, waits_for,
        greatest(extract(epoch FROM not_before - now()), 0)::float8
    FROM slice JOIN job ON job.number = slice.job
    WHERE job.id = ANY(%s) AND open AND not_before IS NOT NULL AND waits_for IS NOT NULL
    ORDER BY job.id, not_before"""
_FORGOTTEN = b"""
    SELECT job, first FROM slice
    WHERE open AND (worker IS NULL OR until < now()) AND not_before IS NULL AND NOT EXISTS (
        SELECT FROM procrastinate_jobs WHERE status = 'todo'
        AND args = jsonb_build_object('number', slice.job, 'first', slice.first))
    ORDER BY job, first LIMIT 1000"""
