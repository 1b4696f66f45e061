"""The tables in PostgreSQL, and their migrations.

    job      a job as a whole; `caller` and `key`: the Idempotency-Key it came with; `leaving`: its
             purge has chosen which links stay on the target
    slice    images `first` to `first + count` of a job, or with `first` -1 the job's album and
             callback; `open`: it has work, which the node `worker` does until `until`; `cancels`
             and `again` are what users want of a slice that some node has; one that waits for the
             target, without a worker, has `not_before`, when it may go on as far as is known, and
             what it `waits_for`; `waits_since` is the begin of an outage that it waits out
    image    an image that is no longer as it was posted; a queued one has no row
    content  bytes and texts of images: where they landed, or the slice that is at their upload
    posted   Idempotency-Keys
    document what a job came from, until the job is retired
    checked  the result of the last check of a job's links, until the job is retired
    setting  texts, by name
    lease    names that one worker has at a time, each with a note for its next holder

`epoch` rises each time that a slice gets another worker; every write to a slice names the epoch
under which it was begun, so a worker that was taken over writes nothing. A slice's `version` rises
with each of its Changes, and when it begins or ceases to wait without a worker. A job's version is
the sum of its slices' versions, so the workers of one job never wait for each other's row.
`changed` is the transaction that wrote an image last: it gives the events of a job one order, which
is the same on all nodes.
"""

from __future__ import annotations

from imageload.store.postgres.connections import Connection, advisory_lock

MIGRATIONS = (
    """
    CREATE TABLE job (
        number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        created BIGINT NOT NULL,
        dedupe BOOLEAN NOT NULL,
        total INTEGER NOT NULL,
        started BOOLEAN NOT NULL DEFAULT false,
        purging BOOLEAN NOT NULL DEFAULT false,
        album TEXT,
        callback TEXT,
        retired BOOLEAN NOT NULL DEFAULT false,
        leaving BOOLEAN NOT NULL DEFAULT false,
        caller TEXT,
        key TEXT
    );
    CREATE INDEX job_kept ON job (number) WHERE NOT retired;
    CREATE TABLE slice (
        job BIGINT NOT NULL REFERENCES job ON DELETE CASCADE,
        first INTEGER NOT NULL,
        count INTEGER NOT NULL,
        items BYTEA NOT NULL,
        open BOOLEAN NOT NULL DEFAULT true,
        epoch BIGINT NOT NULL DEFAULT 0,
        worker TEXT,
        until TIMESTAMPTZ,
        taken_over INTEGER NOT NULL DEFAULT 0,
        cancels INTEGER NOT NULL DEFAULT 0,
        again TEXT,
        version BIGINT NOT NULL DEFAULT 0,
        downloaded INTEGER NOT NULL DEFAULT 0,
        completed INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0,
        maybe_duplicates INTEGER NOT NULL DEFAULT 0,
        downloaded_bytes BIGINT NOT NULL DEFAULT 0,
        uploaded_bytes BIGINT NOT NULL DEFAULT 0,
        PRIMARY KEY (job, first)
    ) WITH (fillfactor = 70);
    CREATE INDEX slice_open ON slice (job, first) WHERE open;
    CREATE TABLE image (
        job BIGINT NOT NULL REFERENCES job ON DELETE CASCADE,
        n INTEGER NOT NULL,
        version BIGINT NOT NULL,
        link TEXT,
        record BYTEA NOT NULL,
        PRIMARY KEY (job, n)
    ) WITH (autovacuum_vacuum_scale_factor = 0.05);
    CREATE INDEX image_link ON image USING hash (link) WHERE link IS NOT NULL;
    CREATE TABLE content (
        key BYTEA PRIMARY KEY,
        link TEXT NOT NULL,
        deletehash TEXT
    );
    CREATE INDEX content_link ON content USING hash (link);
    CREATE TABLE posted (
        caller TEXT NOT NULL,
        key TEXT NOT NULL,
        fingerprint BYTEA NOT NULL,
        job_ids TEXT[] NOT NULL,
        PRIMARY KEY (caller, key)
    );
    CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE lease (
        name TEXT PRIMARY KEY,
        worker TEXT NOT NULL,
        until TIMESTAMPTZ NOT NULL
    );
    """,
    """
    ALTER TABLE lease ADD note TEXT, ADD noted TIMESTAMPTZ;
    ALTER TABLE slice ADD not_before TIMESTAMPTZ, ADD waits_for TEXT,
        ADD waits_since TIMESTAMPTZ;
    CREATE INDEX slice_parked ON slice (first, job) WHERE not_before IS NOT NULL;
    ALTER TABLE content ALTER link DROP NOT NULL, ADD job BIGINT, ADD first INTEGER,
        ADD epoch BIGINT;
    ALTER TABLE image ADD changed XID8 NOT NULL DEFAULT pg_current_xact_id();
    """,
    """
    CREATE TABLE document (
        job BIGINT PRIMARY KEY REFERENCES job ON DELETE CASCADE,
        content BYTEA NOT NULL
    );
    """,
    """
    CREATE TABLE checked (
        job BIGINT PRIMARY KEY REFERENCES job ON DELETE CASCADE,
        result BYTEA NOT NULL
    );
    """,
    "ALTER TABLE job ADD document TEXT, ADD first_url TEXT",
)
"""From each version of the schema to the next. Existing entries never change.

They only add, so that nodes of two versions can run side by side during an upgrade.
"""

_LOCK = 0x696D6C64
_VERSION_TABLE = "CREATE TABLE IF NOT EXISTS imageload_schema (version INTEGER NOT NULL)"


def migrate(connection: Connection) -> None:
    """Bring the tables to this program's version; nodes that start together take turns."""
    with advisory_lock(connection, _LOCK), connection.transaction():
        connection.execute(_VERSION_TABLE)
        row = connection.execute("SELECT version FROM imageload_schema").fetchone()
        found = 0 if row is None else int(row[0])
        for statements in MIGRATIONS[found:]:
            connection.execute(statements.encode())
        if row is None:
            connection.execute("INSERT INTO imageload_schema VALUES (%s)", (len(MIGRATIONS),))
        elif found < len(MIGRATIONS):
            connection.execute("UPDATE imageload_schema SET version = %s", (len(MIGRATIONS),))
