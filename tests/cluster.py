"""A cluster on this machine: API and worker processes, a PostgreSQL, the sandbox and an origin.

`make cluster` (python -m tests.cluster) shows one at work: it prints what to type in another
terminal, until Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import requests

from imageload.fetch.tempfiles import sweep
from imageload.sandbox_process import SandboxProcess
from tests.disks import small_disk
from tests.pictures import Pictures, running_pictures
from tests.postgres_server import PostgresServer, programs, running_postgres, server_user
from tests.relay import Relay
from tests.service import MAIN, ServiceProcess
from tests.waiting import PATIENCE

_DISK_KILOBYTES = 200_000
_NO_POSTGRES = """\
PostgreSQL is not installed. On Debian: apt-get install postgresql
(`make cluster` starts a server of its own in a temporary folder.)"""
_GUIDE = """
{images:,} images of {seconds:g} s each are ready to be loaded. In another terminal:

  # a job, posted to one API process
  ID=$(curl -s {first}/v1/images/upload -d @{urls} | cut -d'"' -f4); echo $ID

  # its state, and its events, from the other one
  curl -s '{second}/v1/images/upload?limit=1'
  curl -sN {second}/v1/images/upload/$ID/events

  # kill a worker amid its work: after {dead:g} s the others take its images over
  kill -9 {worker}

  # all links
  curl -s {second}/v1/images

Ctrl-C ends it all.
"""


class Stored(NamedTuple):
    """The SHA-256 of each stored image by its id, and how many images have it."""

    sha256s: dict[str, str]
    times: Counter[str]


class Cluster:
    """Nodes on the PostgreSQL `server`, which upload to `sandbox`. `folder` has their temp files.

    `apis` and `workers` have the nodes that were not removed, `relay` is before PostgreSQL.
    """

    def __init__(
        self, folder: Path, server: PostgresServer, sandbox: SandboxProcess, options: Sequence[str]
    ) -> None:
        self.server, self.sandbox = server, sandbox
        self.apis: list[ServiceProcess] = []
        self.workers: list[ServiceProcess] = []
        self.relay: Relay | None = None
        self._mounted = contextlib.ExitStack()
        self._disk: Path | None = None
        self.folder, self._options = folder, options
        self._temp = folder / "temp"
        self._temp.mkdir()
        # Every node is in this shell's process group, which ends with us, also if we are killed.
        self._group = subprocess.Popen(
            ["sh", "-c", "trap '' INT TERM; read -r _; kill -9 0"],
            stdin=subprocess.PIPE,
            process_group=0,
        )

    def start(self, role: str, *arguments: str, **keywords: Any) -> ServiceProcess:
        """Start a node; `keywords` are those of ServiceProcess."""
        environment = {"IMGUR_CLIENT_ID": "test", **keywords.pop("environment", {})}
        node = ServiceProcess(
            "--port=0",
            f"--role={role}",
            f"--store={self.server.url}",
            "--allow-origin=127.0.0.1",
            "--per-host=32",
            "--grace-seconds=10",
            f"--temp-dir={self._temp}",
            f"--imgur-base-url={self.sandbox.url}",
            f"--imgur-link-base={self.sandbox.url}",
            *self._options,
            *arguments,
            environment=environment,
            group=self._group.pid,
            **{"command": MAIN, **keywords},
        )
        (self.apis if role == "api" else self.workers).append(node)
        return node

    def start_all(self, roles: Sequence[str]) -> None:
        """Start a node of each role, at the same time."""
        with ThreadPoolExecutor(len(roles) or 1) as starter:
            for _ in starter.map(self.start, roles):
                pass

    def start_behind(self, relay: Callable[[str], Relay]) -> ServiceProcess:
        """Start a worker that reaches PostgreSQL by a new `relay`, which replaces the last one."""
        if self.relay is not None:
            self.relay.take_away()
        self.relay = relay(self.server.url)
        url = self.server.url.replace(f"127.0.0.1:{self.server.port}", self.relay.address)
        return self.start("worker", f"--store={url}")

    def table_disk(self) -> Path:
        """The small disk of the tables, which are moved there at first. Needs root."""
        if self._disk is None:
            folder = self.server.data.parent / "disk"
            disk = self._mounted.enter_context(small_disk(folder, _DISK_KILOBYTES))
            disk.chmod(0o755)
            space = disk / "space"
            space.mkdir()
            shutil.chown(space, server_user() or os.geteuid())
            self.query(f"CREATE TABLESPACE small LOCATION '{space}'")
            for kind in ("TABLE", "INDEX"):
                self.query(f"ALTER {kind} ALL IN TABLESPACE pg_default SET TABLESPACE small")
            self._disk = disk
        return self._disk

    def kill(self, *nodes: ServiceProcess) -> None:
        """Kill these nodes with -9."""
        for node in nodes:
            node.process.kill()
        self.remove(*nodes)

    def remove(self, *nodes: ServiceProcess) -> None:
        """These nodes have ended, or will at once."""
        for node in nodes:
            (self.apis if node in self.apis else self.workers).remove(node)
            node.stop(signal.SIGKILL)

    def query(self, statement: str, *columns: object) -> list[tuple[Any, ...]]:
        """The rows of a query, asked of PostgreSQL directly, as soon as it responds."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with psycopg.connect(self.server.url, autocommit=True) as connection:
                    cursor = connection.execute(statement.encode(), columns)
                    return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, "PostgreSQL does not respond"
                time.sleep(0.1)

    def places_of(self, node: ServiceProcess) -> set[tuple[int, int]]:
        """The slices that this worker has, as (job's number, first image)."""
        pattern = f"%-{node.process.pid}-%"
        rows = self.query("SELECT job, first FROM slice WHERE worker LIKE %s AND open", pattern)
        return {(number, first) for number, first in rows}

    def stored(self) -> Stored:
        """What the sandbox has stored."""
        response = requests.get(f"{self.sandbox.url}/sandbox/images", timeout=PATIENCE)
        sha256s = {image["id"]: image["sha256"] for image in response.json()["images"]}
        return Stored(sha256s, Counter(sha256s.values()))

    def temp_files(self) -> list[Path]:
        """Files with bytes in the nodes' temp folders."""
        sweep(self._temp)  # as the next node would, for those that were killed
        return [path for path in self._temp.rglob("*") if path.is_file() and path.stat().st_size]

    def stop(self) -> None:
        """Stop all nodes with SIGTERM; raises AssertionError if one does not end well."""
        nodes = [*self.apis, *self.workers]
        for node in nodes:
            if node.process.poll() is None:
                node.process.terminate()
        statuses = [node.process.wait(PATIENCE) for node in nodes]
        logs = ["".join(node.log[-20:]) for node in nodes]
        self.remove(*nodes)
        assert not any(statuses), (statuses, logs)
        sweep(self._temp)  # as the next node would, for those that were killed
        assert list(self._temp.iterdir()) == []

    def close(self) -> None:
        """Kill what is left."""
        self.kill(*self.apis, *self.workers)
        if self.relay is not None:
            self.relay.take_away()
        self._mounted.close()
        self._group.communicate()


@contextlib.contextmanager
def running_cluster(
    folder: Path,
    *options: str,
    apis: int = 2,
    workers: int = 3,
    sandbox_options: Sequence[str] = ("--port=0", "--unlimited"),
) -> Iterator[Cluster]:
    """A cluster whose nodes have `options`. PostgreSQL must be installed."""
    found = programs()
    assert found is not None, _NO_POSTGRES
    sandbox = SandboxProcess([*sandbox_options, f"--dir={folder / 'sandbox'}"])
    try:
        with running_postgres(found) as server:
            cluster = Cluster(folder, server, sandbox, options)
            try:
                cluster.start_all(["api"] * apis + ["worker"] * workers)
                yield cluster
            finally:
                cluster.close()
    finally:
        sandbox.stop()


def main() -> int:
    """Show a cluster until Ctrl-C. Unknown options go to all nodes."""
    options, others = _parser().parse_known_args()
    if programs() is None:
        print(_NO_POSTGRES, file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imageload-cluster-")))
        pictures = stack.enter_context(running_pictures(options.image_seconds))
        print(f"starting {options.apis} API and {options.workers} worker processes ...")
        cluster = stack.enter_context(
            running_cluster(
                folder,
                f"--dead-seconds={options.dead_seconds}",
                *others,
                apis=options.apis,
                workers=options.workers,
            )
        )
        stack.callback(print, "\nstopping ...")
        _explain(cluster, pictures, folder, options)
        _watch(cluster)
    return 0


def _explain(
    cluster: Cluster, pictures: Pictures, folder: Path, options: argparse.Namespace
) -> None:
    urls = folder / "urls.json"
    urls.write_text(json.dumps(pictures.urls(range(options.images))))
    folder.chmod(0o755)
    print(f"PostgreSQL  {cluster.server.url}")
    print(f"sandbox     {cluster.sandbox.url}")
    for api in cluster.apis:
        print(f"API         {api.url}  process {api.process.pid}")
    for worker in cluster.workers:
        print(f"worker      {worker.url}  process {worker.process.pid}")
    guide = _GUIDE.format(
        images=options.images,
        seconds=options.image_seconds,
        first=cluster.apis[0].url,
        second=cluster.apis[-1].url,
        urls=urls,
        dead=options.dead_seconds,
        worker=cluster.workers[0].process.pid,
    )
    print(guide, flush=True)


def _watch(cluster: Cluster) -> None:
    """Say when a node ends, until Ctrl-C."""
    while True:
        for node in [*cluster.apis, *cluster.workers]:
            status = node.process.poll()
            if status is not None:
                how = f"by signal {-status}" if status < 0 else f"with status {status}"
                print(f"process {node.process.pid} has ended {how}", flush=True)
                cluster.remove(node)
        time.sleep(0.2)  # polls


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make cluster",
        description="Run a cluster on this machine until Ctrl-C. Other options go to its nodes.",
        allow_abbrev=False,
    )
    parser.add_argument("--apis", type=int, default=2, help="how many API processes")
    parser.add_argument("--workers", type=int, default=3, help="how many workers")
    parser.add_argument("--images", type=int, default=5_000, help="how many images to offer")
    parser.add_argument("--image-seconds", type=float, default=0.5, help="how long each download")
    parser.add_argument("--dead-seconds", type=float, default=8.0, help="see docs/options.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
