"""A PostgreSQL server of our own in a folder, for tests and trials.

It is Debian's (`apt-get install postgresql`). It does not run as root, and listens on 127.0.0.1
only. It ends, and its folder goes, with the process that started it, also if that is killed: a
shell waits for the end of a pipe.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.waiting import PATIENCE

# The process may be killed at any moment, also while `initdb` writes to the folder.
_CLEANUP = """
read -r _
for _ in 1 2 3 4 5 6 7 8 9 10; do
    if [ -s "$0/data/postmaster.pid" ]; then
        kill -QUIT "$(head -n 1 "$0/data/postmaster.pid")" && sleep 0.1
    fi
    rm -rf "$0" && break
    sleep 0.5
done 2>/dev/null
"""
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "autovacuum_naptime": "5s",
}
template: Path | None = None
"""Where the first server's new files are copied to, and those of others from: a tenth of the CPU
time of `initdb`. Several processes may name the same. None: each server makes its own.
"""


def programs() -> Path | None:
    """The folder with `postgres` and `initdb`; None if PostgreSQL is not installed."""
    named = shutil.which("postgres")
    found = [Path(named)] if named else sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].resolve().parent if found else None


class PostgresServer:
    """A server whose files are in `folder`; `url` is that of its database `postgres`."""

    def __init__(self, folder: Path, programs: Path, port: int | None = None) -> None:
        self.port = port or _free_port()
        self._folder, self._programs = folder, programs
        self._user = server_user()
        self._process: subprocess.Popen[bytes] | None = None
        self._make_data()

    @property
    def data(self) -> Path:
        """The folder of the databases."""
        return self._folder / "data"

    @property
    def url(self) -> str:
        """The URL of the database `postgres`, as user `imageload`."""
        return f"postgresql://imageload@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """The number of the server's first process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = [f"-c{name}={value}" for name, value in _OPTIONS.items()]
        folder = f"-cunix_socket_directories={self._folder}"
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self._programs / "postgres"),
                    f"-D{self.data}",
                    f"-p{self.port}",
                    folder,
                    *options,
                ],
                user=self._user,
                cwd="/",
                stdout=log,
                stderr=log,
            )
        self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port), retry=True)

    def stop(self, mode: str = "immediate") -> None:
        """Stop it: `fast`, or `immediate`, as if it had crashed."""
        if self._process is not None:
            with contextlib.suppress(subprocess.CalledProcessError):
                self._run("pg_ctl", "stop", "-w", "-D", str(self.data), "-m", mode)
            self._process.wait(PATIENCE)
            self._process = None

    def _make_data(self) -> None:
        with contextlib.ExitStack() as ends:
            if template is not None:
                lock = ends.enter_context(Path(f"{template}.lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
                if template.exists():
                    _copy(template, self.data)
                    return
            self._run("initdb", "-A", "trust", "-U", "imageload", "-D", str(self.data), "--no-sync")
            if template is not None:
                part = template.with_suffix(".part")
                shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
                _copy(self.data, part)
                part.rename(template)

    def _run(self, program: str, *arguments: str, retry: bool = False) -> None:
        command = [str(self._programs / program), *arguments]
        while True:
            done = subprocess.run(
                command, user=self._user, cwd="/", capture_output=True, timeout=PATIENCE
            )
            if not retry or not done.returncode:
                break
            assert self._process is not None
            assert self._process.poll() is None, "PostgreSQL has ended"
        done.check_returncode()


def _copy(folder: Path, new: Path) -> None:
    """Copy a folder with the owner and the mode of each file."""
    subprocess.run(["cp", "-a", folder, new], check=True)


def server_user() -> str | None:
    """The user who the server runs as, None: our own."""
    return "postgres" if os.geteuid() == 0 else None


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder of the server's user. At the end, also at ours, a server in it is killed."""
    folder = Path(tempfile.mkdtemp(prefix="imageload-postgres-"))
    user = server_user()
    if user is not None:
        shutil.chown(folder, user)
    cleanup = subprocess.Popen(
        ["sh", "-c", _CLEANUP, str(folder)],
        user=user,
        cwd="/",
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
    )
    try:
        yield folder
    finally:
        cleanup.communicate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_postgres(programs: Path, port: int | None = None) -> Iterator[PostgresServer]:
    """A server in a temporary folder."""
    with _folder() as folder:
        server = PostgresServer(folder, programs, port)
        try:
            server.start()
            yield server
        finally:
            server.stop()
