"""What a node shows of the whole cluster: jobs that may have changed, and workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from imageload.job import Snapshot
from imageload.store.postgres.connections import Connection
from imageload.store.postgres.leases import GateWait, Lease, read, wait_of
from imageload.store.postgres.reading import SUMMARIES, summary_of


class Workers(NamedTuple):
    """How many workers live, and why uploads wait on each, by its name; None: they do not.

    `leases`: those of client ids and addresses.
    """

    living: int
    waits: dict[str, GateWait | None]
    leases: list[Lease]


def read_active(connection: Connection, known: Sequence[str], newest: str) -> list[Snapshot]:
    """Jobs that are not retired and are open, or among `known`, or newer than `newest`.

    With no `newest`: all. Oldest first, without their images.
    """
    rows = connection.execute(_ALL if not newest else _ACTIVE, (list(known), newest))
    return [summary_of(row) for row in rows]


def read_workers(connection: Connection, dead_seconds: float, prefix: str) -> Workers:
    """The workers that were heard of in the last `dead_seconds`, by the server's clock.

    `prefix`: of the names of the leases of the target.
    """
    (living,) = connection.execute(_LIVING, (dead_seconds,)).fetchone() or (0,)
    waits, leases, workers = {}, [], f"{prefix}worker/"
    for lease in read(connection, prefix):
        if not lease.name.startswith(workers):
            leases.append(lease)
        elif lease.is_live:
            waits[lease.name.removeprefix(workers)] = wait_of(lease)
    return Workers(living, waits, leases)


def count_parked(connection: Connection) -> int:
    """How many images wait for the target without a worker."""
    (parked,) = connection.execute(_PARKED).fetchone() or (0,)
    return int(parked)


_ALL = SUMMARIES + b" AND (%s::text[], %s::text) IS NOT NULL ORDER BY number"
# A lower number may be committed a little after a higher one.
_ACTIVE = (
    SUMMARIES
    + b""" AND (number IN (SELECT job FROM slice WHERE open) OR id = ANY(%s)
    OR number > (SELECT number - 100 FROM job WHERE id = %s)) ORDER BY number"""
)
_LIVING = b"""
    SELECT count(*) FROM procrastinate_workers
    WHERE last_heartbeat > now() - make_interval(secs => %s)"""
_PARKED = b"""
    SELECT coalesce(sum(count - completed - failed), 0) FROM slice
    WHERE not_before IS NOT NULL AND open AND first >= 0"""
