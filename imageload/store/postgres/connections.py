"""Connections to PostgreSQL, kept for the next use; a broken one is replaced once.

A pool with a back-off of its own kept nodes at 503 for up to 19 s after an outage, so there is
none here: a connection is opened when it is wanted, and the caller gets the error of this attempt.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
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
        self._changed = threading.Condition()
        self._idle: list[Connection] = []
        self._is_closed = False
        self._opening = 0
        self._attempted = 0.0
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
        deadlock. Raises StoreUnavailable.
        """
        while True:
            connection, is_kept = self._take()
            try:
                transact = functools.partial(_transact, connection, work)
                result = repeat_after_deadlocks(transact)
            except UNAVAILABLE as error:
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
        with self._changed:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> tuple[Connection, bool]:
        with self._changed:
            left = self._attempted + self._connect_seconds / 10 - time.monotonic()
            self._changed.wait_for(self._may_take, max(0.0, left))
            if self._idle:
                return self._idle.pop(), True
            if self._last_error is not None and self._opening:
                raise unavailable(self._last_error)
            self._opening += 1
            self._attempted = time.monotonic()
        failed: psycopg.Error | None = None
        try:
            return self.open(), False
        except psycopg.Error as error:
            failed = error
            raise unavailable(error) from error
        finally:
            with self._changed:
                self._opening -= 1
                self._last_error = failed
                self._changed.notify_all()

    def _may_take(self) -> bool:
        """False while another thread tries whether the database is back.

        The others wait a little for it: once it is back, it responds in milliseconds. They do not
        wait for long, as a host that does not respond would hold up every request.
        """
        return bool(self._idle) or self._last_error is None or not self._opening

    def _give_back(self, connection: Connection) -> None:
        with self._changed:
            is_usable = not (connection.broken or connection.closed or self._is_closed)
            if is_usable and len(self._idle) < _KEPT:
                self._idle.append(connection)
                self._changed.notify()
                return
        with contextlib.suppress(psycopg.Error):
            connection.close()


def _transact(connection: Connection, work: Callable[[Connection], T]) -> T:
    with connection.transaction():
        return work(connection)


def repeat_after_deadlocks(transact: Callable[[], T]) -> T:
    """The result of `transact`, which runs a whole transaction.

    PostgreSQL ends a deadlock by undoing one of two transactions, which is then run again.
    """
    for _ in range(_DEADLOCKS):
        with contextlib.suppress(psycopg.errors.DeadlockDetected):
            return transact()
    return transact()


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
