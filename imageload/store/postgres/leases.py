"""Names that one worker has at a time, by the server's clock, each with a note for the next holder.

A lease that was let go has no worker. Whether uploads need one at all is a setting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from imageload.store.postgres.connections import Connection


class Lease(NamedTuple):
    """A name and its holder; `note` is what the holder last wrote, `age` seconds ago."""

    name: str
    worker: str
    is_live: bool
    note: str
    age: float


class GateWait(NamedTuple):
    """Why uploads wait on a node, and for how many seconds more."""

    reason: str
    seconds: float
    message: str


def wait_of(lease: Lease) -> GateWait | None:
    """Why uploads wait on a worker, by what it last announced; None: they do not wait."""
    if not lease.note:
        return None
    reason, seconds, message = json.loads(lease.note)
    return GateWait(reason, max(0.0, seconds - lease.age), message)


def renew(
    connection: Connection, worker: str, notes: Mapping[str, str], seconds: float
) -> set[str]:
    """Keep the leases of `worker` for `seconds` more, and write their notes; which it still has."""
    columns = seconds, [*notes], [*notes.values()], worker
    return {name for (name,) in connection.execute(_RENEW, columns).fetchall()}


def take(connection: Connection, name: str, worker: str, seconds: float) -> Lease | None:
    """The lease with the note of its last holder, if no other worker has it."""
    row = connection.execute(_TAKE.encode(), (name, worker, seconds)).fetchone()
    return None if row is None else Lease(*row)


def let_go(connection: Connection, worker: str, notes: Mapping[str, str]) -> None:
    """Let others take these leases of `worker` at once, with their last notes."""
    connection.execute(_LET_GO, ([*notes], [*notes.values()], worker))


def announce(connection: Connection, name: str, worker: str, note: str, seconds: float) -> None:
    """Write a lease that only this worker ever has; those of workers long dead are deleted."""
    connection.execute(_ANNOUNCE, (name, worker, seconds, note))
    connection.execute(_DELETE_OLD, (name.rpartition("/")[0] + "/",))


def read(connection: Connection, prefix: str) -> list[Lease]:
    """The leases whose names begin so."""
    return [Lease(*row) for row in connection.execute(_READ, (prefix,)).fetchall()]


def is_limited(connection: Connection, name: str, found: bool | None) -> bool | None:
    """Whether a target has limits, as all nodes know it; `found` is what this node has found.

    A limit that one node has seen counts for all, and for good.
    """
    if found is not None:
        connection.execute(_FOUND, (name, str(found)))
    row = connection.execute(_LIMITED, (name,)).fetchone()
    return None if row is None else row[0] == "True"


_COLUMNS = """lease.name, lease.worker, lease.until > now(), coalesce(lease.note, ''),
    coalesce(extract(epoch FROM now() - lease.noted), 0)::float8"""
_RENEW = b"""
    UPDATE lease SET until = now() + make_interval(secs => %s), note = new.note, noted = now()
    FROM unnest(%s::text[], %s::text[]) AS new (name, note)
    WHERE lease.name = new.name AND lease.worker = %s RETURNING lease.name"""
_TAKE = f"""
    INSERT INTO lease (name, worker, until) VALUES (%s, %s, now() + make_interval(secs => %s))
    ON CONFLICT (name) DO UPDATE SET worker = excluded.worker, until = excluded.until
    WHERE lease.until <= now() OR lease.worker = excluded.worker
    RETURNING {_COLUMNS}"""  # noqa: S608 - names
_LET_GO = b"""
    UPDATE lease SET worker = '', until = now(), note = new.note, noted = now()
    FROM unnest(%s::text[], %s::text[]) AS new (name, note)
    WHERE lease.name = new.name AND lease.worker = %s"""
_ANNOUNCE = b"""
    INSERT INTO lease (name, worker, until, note, noted)
    VALUES (%s, %s, now() + make_interval(secs => %s), %s, now())
    ON CONFLICT (name) DO UPDATE
    SET until = excluded.until, note = excluded.note, noted = excluded.noted"""
_DELETE_OLD = b"""
    DELETE FROM lease WHERE starts_with(name, %s) AND until < now() - interval '1 hour'"""
_READ = f"SELECT {_COLUMNS} FROM lease WHERE starts_with(name, %s) ORDER BY name".encode()  # noqa: S608 - names
_FOUND = b"""
    INSERT INTO setting (name, value) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE
    SET value = excluded.value WHERE setting.value = 'False' AND excluded.value = 'True'"""
_LIMITED = b"SELECT value FROM setting WHERE name = %s"
