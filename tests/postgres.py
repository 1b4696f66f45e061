"""Databases for tests: on the server of DATABASE_URL, or on one of the test process's own."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.components import missing
from tests.disks import small_disk
from tests.postgres_server import programs, running_postgres, server_user


@functools.cache
def _server_url() -> str:
    """The URL of a server for the tests of this process."""
    given = os.environ.get("DATABASE_URL")
    if given:
        return given
    found = programs()
    if found is None:
        missing("PostgreSQL", "postgresql, or set DATABASE_URL")
    running = contextlib.ExitStack()
    atexit.register(running.close)
    return running.enter_context(running_postgres(found)).url


def fresh_database(options: str = "") -> str:
    """The URL of a new, empty database, on DATABASE_URL or a server of this process's own."""
    name = f"imageload_{uuid.uuid4().hex}"
    with psycopg.connect(_server_url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} {options}".encode())
    base, _, _ = _server_url().partition("?")
    return f"{base.rpartition('/')[0]}/{name}"


_lent: list[str] = []


@contextlib.contextmanager
def emptied_database() -> Iterator[str]:
    """The URL of a database without rows, for one caller at a time.

    It is used again, and then has its tables already: 10 ms instead of 300.
    """
    url = _lent.pop() if _lent else fresh_database()
    with psycopg.connect(url, autocommit=True) as connection, connection.transaction():
        for (table,) in connection.execute(_TABLES).fetchall():
            connection.execute(f"DELETE FROM {table}".encode())
    yield url
    _lent.append(url)


_TABLES = b"""
    SELECT tablename FROM pg_tables
    WHERE schemaname = 'public' AND tablename <> 'imageload_schema'"""


@contextlib.contextmanager
def database_on_a_small_disk(kilobytes: int) -> Iterator[tuple[str, Path]]:
    """The URL of a new database, and the folder where its disk is mounted.

    The test is skipped if mounting is not permitted, or the server is not ours.
    """
    if os.environ.get("DATABASE_URL"):
        pytest.skip("needs a disk of the server, which is not this test's")
    parent = Path(tempfile.mkdtemp(prefix="imageload-disk-"))
    parent.chmod(0o755)
    name = f"imageload_{uuid.uuid4().hex}"
    try:
        with small_disk(parent / "disk", kilobytes) as disk:
            space = disk / "space"
            space.mkdir()
            disk.chmod(0o755)
            user = server_user()
            if user is not None:
                shutil.chown(space, user)
            with psycopg.connect(_server_url(), autocommit=True) as connection:
                connection.execute(f"CREATE TABLESPACE {name} LOCATION '{space}'".encode())
                url = fresh_database(f"TABLESPACE {name}")
                try:
                    yield url, disk
                finally:
                    base = url.rpartition("/")[2]
                    connection.execute(f"DROP DATABASE {base} WITH (FORCE)".encode())
                    connection.execute(f"DROP TABLESPACE {name}".encode())
    finally:
        shutil.rmtree(parent, ignore_errors=True)
