"""The queue of slices that wait for a node: Procrastinate's, in the same PostgreSQL.

A message names a slice that may be claimed. The owner of a slice is in the slice's row
(`imageload.store.postgres.claims`), so a message that is lost or delivered twice does no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import procrastinate
import psycopg
from procrastinate.jobs import DEFAULT_QUEUE
from procrastinate.jobs import Job as Message
from procrastinate.schema import SchemaManager

from imageload.store.postgres.batch import HEAD, SLICE
from imageload.store.postgres.connections import Connection, advisory_lock

_log = logging.getLogger(__name__)
# It logs each message at INFO, and its outages with tracebacks: we say both.
logging.getLogger("procrastinate").setLevel(logging.CRITICAL)
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)

_TASK = "imageload.slice"
_LOCK = 0x696D6C71
_AGAIN_SECONDS = 0.5
Handler = Callable[[int, int], Awaitable[None]]
"""Called with a job's number and the first image of its slice."""


class Queue:
    """Messages about slices. `defer` may be called from any thread."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._deferring = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())

    def create(self, connection: Connection) -> None:
        """Make the queue's tables if they are missing; nodes that start together take turns."""
        with advisory_lock(connection, _LOCK), connection.transaction():
            row = connection.execute("SELECT to_regclass('procrastinate_jobs')").fetchone()
            if row is None or row[0] is None:
                # Without arguments: psycopg then sends the statements as they are.
                connection.execute(SchemaManager.get_schema().encode())

    def defer(self, connection: Connection, slices: Mapping[int, Sequence[int]]) -> None:
        """Queue slices of jobs, by their numbers, in the transaction of `connection`.

        The first slice of any job comes before the second of any other. Raises psycopg.Error.
        """
        messages = [
            Message(
                queue=DEFAULT_QUEUE,
                priority=-(first // SLICE) if first != HEAD else 1,
                lock=None,
                queueing_lock=None,
                task_name=_TASK,
                task_kwargs={"number": number, "first": first},
            )
            for number, firsts in slices.items()
            for first in firsts
        ]
        try:
            if messages:
                self._deferring.job_manager.batch_defer_jobs(messages, connection=connection)
        except procrastinate.exceptions.ConnectorException as error:
            # As from any other statement in this transaction.
            raise error.__cause__ or error from None

    def tidy(self, connection: Connection, dead_seconds: float) -> None:
        """Delete dead workers, and messages in hand whose worker is gone.

        A message stays in hand when its worker dies, or could not report its end.
        """
        connection.execute(_PRUNE, (dead_seconds,))
        connection.execute(_DELETE_STALE, (dead_seconds,))

    async def run(self, handler: Handler, *, at_once: int, dead_seconds: float) -> None:
        """Call `handler` for each message, `at_once` at the same time, until it is cancelled.

        Procrastinate's worker ends when it has been without a server for some time: then it is
        started again.
        """
        while True:
            connector = procrastinate.PsycopgConnector(
                conninfo=self._url,
                min_size=1,
                max_size=4,
                reconnect_timeout=5.0,
                timeout=min(5.0, dead_seconds),
            )
            app = procrastinate.App(connector=connector)
            app.task(name=_TASK)(handler)
            try:
                async with app.open_async():
                    await app.run_worker_async(
                        concurrency=at_once,
                        delete_jobs="always",
                        fetch_job_polling_interval=1.0,
                        install_signal_handlers=False,
                        shutdown_graceful_timeout=1.0,
                        stalled_worker_timeout=dead_seconds,
                        update_heartbeat_interval=max(0.2, dead_seconds / 6),
                    )
            except (
                procrastinate.exceptions.ProcrastinateException,
                psycopg.Error,
                OSError,
            ) as error:
                _log.warning("the queue cannot be read now: %s", error.__cause__ or error)
            await asyncio.sleep(_AGAIN_SECONDS)


_PRUNE = b"SELECT procrastinate_prune_stalled_workers_v1(%s)"
_DELETE_STALE = b"""
    DELETE FROM procrastinate_jobs WHERE status = 'doing' AND NOT EXISTS (
        SELECT FROM procrastinate_events WHERE job_id = procrastinate_jobs.id
        AND type = 'started' AND at > now() - make_interval(secs => %s)
    ) AND NOT EXISTS (
        SELECT FROM slice WHERE job = (args->>'number')::bigint AND first = (args->>'first')::int
        AND worker IS NOT NULL AND until >= now())"""
