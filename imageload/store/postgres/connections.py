"""Connections to PostgreSQL, kept for the next use; a broken one is replaced once.

A pool with a back-off of its own kept nodes at 503 for up to 19 s after an outage, so there is
none here: a connection is opened when it is wanted, and an error is the caller's at once.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import psycopg
import psycopg.errors

from imageload.errors import StoreUnavailable

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]

UNAVAILABLE = (psycopg.OperationalError, psycopg.InternalError)
"""Raised without a bug of ours: it is away, full, overloaded, damaged, or a standby."""

_KEPT = 8
_DEADLOCKS = 5
_SETTINGS = (
    "-c statement_timeout=60s -c lock_timeout=15s -c idle_in_transaction_session_timeout=15s"
)
"""A node that is stopped amid a transaction must not block the node that takes its work over."""


class Connections:
    """Connections to the database at `url`. Any thread may call it."""

    def __init__(self, url: str, connect_seconds: int = 5) -> None:
        self._url = url
        self._connect_seconds = connect_seconds
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._is_closed = False
        self._opening = 0
        self._last_error: psycopg.Error | None = None

    def open(self) -> Connection:
        """A new connection in autocommit mode; raises psycopg.OperationalError."""
        return psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=self._connect_seconds,
            options=_SETTINGS,
            application_name="imageload",
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=15_000,
        )

    def run(self, work: Callable[[Connection], T]) -> T:
        """The result of `work`, called with a connection inside one transaction.

        It is called again if a kept connection turns out to be broken, also if only the response
        to the commit was lost: done twice, it must do the same. It is also called again after a
        deadlock, which PostgreSQL ends by undoing one of two transactions. Raises StoreUnavailable.
        """
        deadlocks = 0
        while True:
            connection, is_kept = self._take()
            try:
                with connection.transaction():
                    result = work(connection)
            except UNAVAILABLE as error:
                if isinstance(error, psycopg.errors.DeadlockDetected) and deadlocks < _DEADLOCKS:
                    deadlocks += 1
                    self._give_back(connection)
                    continue
                is_broken = connection.closed
                self._give_back(connection)
                if is_kept and is_broken:
                    continue
                raise unavailable(error) from error
            except BaseException:
                self._give_back(connection)
                raise
            self._give_back(connection)
            return result

    def close(self) -> None:
        """Close the connections: those in use as they are given back."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> tuple[Connection, bool]:
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
            if self._last_error is not None and self._opening:
                # One thread at a time finds out whether it is back: a host that does not answer
                # would hold up every request.
                raise unavailable(self._last_error)
            self._opening += 1
        failed: psycopg.Error | None = None
        try:
            return self.open(), False
        except psycopg.Error as error:
            failed = error
            raise unavailable(error) from error
        finally:
            with self._lock:
                self._opening -= 1
                self._last_error = failed

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            is_usable = not (connection.broken or connection.closed or self._is_closed)
            if is_usable and len(self._idle) < _KEPT:
                self._idle.append(connection)
                return
        with contextlib.suppress(psycopg.Error):
            connection.close()


def unavailable(error: psycopg.Error) -> StoreUnavailable:
    """The refusal of a request that needs the database."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return StoreUnavailable(f"PostgreSQL cannot be used now: {reason}. Send this again in a while.")


@contextlib.contextmanager
def advisory_lock(connection: Connection, number: int) -> Iterator[None]:
    """Hold the database's lock of this number until the end."""
    connection.execute("SELECT pg_advisory_lock(%s)", (number,))
    try:
        yield
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", (number,))
