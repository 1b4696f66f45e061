"""Nodes on one PostgreSQL beside one process with SQLite, all on this machine.

Each cluster has a PostgreSQL of its own, so that its CPU time is its own. The nodes share the
machine's cores with it, with the origin and with Imgur: a second worker shows what it costs, not
what it brings on a machine of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from bench.loads import Load, Way
from bench.poller import Client
from bench.process import BenchError, Child, Usage, tree_cpu_seconds
from bench.servers import running_servers
from bench.service import Answers, Service, address_of, running_process
from bench.speed import Start, made, made_images, measure, say
from bench.speed import service as service_of
from bench.table import percentiles, ratio_line, speed_table
from bench.trees import ROOT, Candidate
from imageload.cluster.node import Node
from imageload.image import Downloaded, Report, Uploaded, Uploading
from imageload.job import Change, Job, Started
from imageload.store import Store
from imageload.store.opening import open_store
from tests.postgres_server import PostgresServer, programs, running_postgres

SQLITE = "one process, SQLite"
ONE = "1 API node, 1 worker, PostgreSQL"
TWO = "1 API node, 2 workers, PostgreSQL"
_WORKERS = {ONE: 1, TWO: 2}

_LOAD = Load(2_000, 50_000)
_UPLOAD = "/v1/images/upload"
_SMALL_BYTES = 2_000
_POSTED, _POSTS = 10_000, 20
_LONG, _GETS, _NODES = 100_000, 20, 5
_SHORT_JOBS = 100
_PAUSE = 0.05
_BATCH = 500
_END_SECONDS = 300.0
_TABLES = ("job", "slice", "image", "content", "procrastinate_jobs", "procrastinate_events")


@dataclass(slots=True)
class _Times:
    """Seconds of calls."""

    posts: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    unchanged: list[float] = field(default_factory=list)
    short_jobs: list[float] = field(default_factory=list)
    bytes_per_url: float = 0.0


class _Cluster(Way):
    """A service of some nodes. `server_cpu` gets the server's CPU seconds per image."""

    def __init__(self, service: Service, server: PostgresServer, server_cpu: list[float]) -> None:
        self._service, self._server, self._server_cpu = service, server, server_cpu

    def warm_up(self, url: str) -> None:
        """Load one image."""
        self._service.warm_up(url)

    def __call__(self, urls: Sequence[str]) -> Usage:
        """One job."""
        begun = tree_cpu_seconds(self._server.pid)
        usage = self._service(urls)
        self._server_cpu.append((tree_cpu_seconds(self._server.pid) - begun) / usage.images)
        return usage


def measure_cluster(options: argparse.Namespace, folder: Path) -> None:
    """Measure and print."""
    load = _LOAD.quick() if options.quick else _LOAD
    server_cpu: dict[str, list[float]] = {way: [] for way in _WORKERS}
    starts: dict[str, Start] = {
        SQLITE: service_of(options, Candidate(ROOT, journaled=True), Answers())
    }
    for way, workers in _WORKERS.items():
        starts[way] = functools.partial(_cluster, options, workers, server_cpu[way])
    usages = measure(options, folder, load, starts)
    title = load.title(options.wide, options.starts, options.rounds)
    print(speed_table(title, usages, dict.fromkeys(starts, SQLITE), "SQLite's"), end="\n\n")
    for way, seconds in server_cpu.items():
        print(f"PostgreSQL's CPU per image: {1000 * statistics.median(seconds):.2f} ms: {way}")
    for way in _WORKERS:
        print(ratio_line(way, SQLITE, usages, options.rounds))
    print()
    _print_times(options, _measured_times(options, folder))


@contextlib.contextmanager
def _cluster(
    options: argparse.Namespace, workers: int, server_cpu: list[float], folder: Path, imgur: str
) -> Iterator[Way]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_running_server())
        children = [
            stack.enter_context(_node(options, made(folder / str(n)), imgur, server, role))
            for n, role in enumerate(["api", *["worker"] * workers])
        ]
        client = stack.enter_context(contextlib.closing(Client(address_of(children[0]))))
        for child in children:
            address_of(child)
        yield _Cluster(Service(children, client, Answers()), server, server_cpu)


@contextlib.contextmanager
def _running_server() -> Iterator[PostgresServer]:
    found = programs()
    if found is None:
        raise BenchError("PostgreSQL not found. On Debian or Ubuntu: apt install postgresql")
    with running_postgres(found) as server:
        yield server


def _node(
    options: argparse.Namespace, folder: Path, imgur: str, server: PostgresServer, role: str
) -> contextlib.AbstractContextManager[Child]:
    more = {"role": role, "store": server.url}
    return running_process(ROOT, folder, imgur, options.wide, more)


def _measured_times(options: argparse.Namespace, folder: Path) -> Mapping[str, _Times]:
    """Response times of one process and of a cluster, one after the other."""
    part = 50 if options.quick else 1
    (image,) = made_images(made(folder / "small"), 1, _SMALL_BYTES)
    work = made(folder / "times")
    images = folder / "small" / "images"
    times = {SQLITE: _Times(), ONE: _Times()}
    with running_servers(made(work / "nginx"), images, [*times], _SMALL_BYTES) as servers:
        (url,) = servers.urls([image])
        journal = made(work / "sqlite") / "journal"
        restored = open_store(str(journal))
        path = _fill(restored.store, _LONG // part)
        times[SQLITE].bytes_per_url = journal.stat().st_size / (_LONG // part)
        imgur = servers.imgur(SQLITE)
        with running_process(ROOT, journal.parent, imgur, options.wide, {"store": journal}) as one:
            _measure_calls(times[SQLITE], address_of(one), path, url)
            _measure_posts(times[SQLITE], address_of(one), url, part)
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(_running_server())
            path = _fill(Node(server.url, rules=None).store, _LONG // part)
            times[ONE].bytes_per_url = _table_bytes(server) / (_LONG // part)
            nodes = iter([made(work / f"node-{n}") for n in range(2 + _NODES)])

            def node(role: str) -> str:
                started = _node(options, next(nodes), servers.imgur(ONE), server, role)
                return address_of(stack.enter_context(started))

            address = node("api")
            _measure_posts(times[ONE], address, url, part)
            node("worker")
            _measure_calls(times[ONE], address, path, url)
            for _ in range(_NODES):
                with contextlib.closing(Client(node("api"))) as client:
                    times[ONE].cold.append(client.timed_get(path)[1])
    return times


def _fill(store: Store, count: int) -> str:
    """Store a finished job, in batches as a worker writes them; the path of its status."""
    say(f"storing a job of {count:,} images")
    urls = [f"https://images.example/2026/11/holidays/{n:012}.jpg" for n in range(count)]
    job = Job(urls, dedupe=False)

    def apply(*changes: Change) -> None:
        for change in changes:
            job.apply(change)
            store.record(job, change)

    store.accept([job], seconds=60.0)
    apply(Started())
    for first in range(0, count, _BATCH):
        batch = range(first, min(count, first + _BATCH))
        for n in batch:
            report = Report(f"/tmp/{n}", 200, 50_000, "image/jpeg", 640, 480, f"{n:064x}")
            apply(Downloaded(n, report), Uploading(n))
        asyncio.run(store.durable())
        apply(*(Uploaded(n, f"https://i.imgur.com/{n:07}.jpg", f"{n:015}") for n in batch))
        asyncio.run(store.durable())
    if not store.close(60.0):
        raise BenchError("A job of the benchmark could not be stored.")
    return f"{_UPLOAD}/{job.job_id}"


def _measure_calls(times: _Times, address: str, path: str, url: str) -> None:
    """Time the status of the long job, which is at `path`, and jobs of one image."""
    with contextlib.closing(Client(address)) as client:
        times.cold.append(client.timed_get(path)[1])
        tag = client.tag(path)
        for _ in range(_GETS):
            times.warm.append(client.timed_get(path)[1])
            begun = time.monotonic()
            if not client.is_unchanged(path, tag):
                raise BenchError("A status that has not changed was not answered 304.")
            times.unchanged.append(time.monotonic() - begun)
        for n in range(_SHORT_JOBS):
            begun = time.monotonic()
            client.wait_for_event(f"{_post(client, [f'{url}?{n}'])[0]}/events", "complete")
            times.short_jobs.append(time.monotonic() - begun)


def _measure_posts(times: _Times, address: str, url: str, part: int) -> None:
    """Time POSTs, and cancel their jobs; a worker would compete with the next POST."""
    urls = [f"{url}?{n}" for n in range(_POSTED // part)]
    with contextlib.closing(Client(address)) as client:
        for _ in range(_POSTS):
            path, seconds = _post(client, urls)
            times.posts.append(seconds)
            client.send("DELETE", path)
            _wait_for_end(client)


def _post(client: Client, urls: Sequence[str]) -> tuple[str, float]:
    """The path of a new job's status, and the seconds of its POST."""
    body = json.dumps({"urls": urls, "dedupe": False}).encode()
    begun = time.monotonic()
    answer = client.send("POST", _UPLOAD, body)
    return f"{_UPLOAD}/{json.loads(answer)['jobId'][0]}", time.monotonic() - begun


def _wait_for_end(client: Client) -> None:
    """Wait until the newest job is finished."""
    deadline = time.monotonic() + _END_SECONDS
    while True:
        (job,) = json.loads(client.send("GET", f"{_UPLOAD}?limit=1"))["jobs"]
        if job["finished"]:
            return
        if time.monotonic() > deadline:
            raise BenchError("A job did not end.")
        time.sleep(_PAUSE)


def _table_bytes(server: PostgresServer) -> int:
    """The size of the tables with their indexes, after the space of old rows was freed."""
    total = 0
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("VACUUM")
        for table in _TABLES:
            row = connection.execute("SELECT pg_total_relation_size(%s)", (table,)).fetchone()
            assert row is not None
            say(f"{table}: {row[0]:,} bytes")
            total += row[0]
    return total


def _print_times(options: argparse.Namespace, times: Mapping[str, _Times]) -> None:
    part = 50 if options.quick else 1
    print("| p50/p99 in ms | " + " | ".join(times) + " |", "| --- | ---: | ---: |", sep="\n")
    rows: Mapping[str, Callable[[_Times], Sequence[float]]] = {
        f"POST of {_POSTED // part:,} URLs": lambda each: each.posts,
        f"status of {_LONG // part:,}, the first of a node": lambda each: each.cold,
        "again": lambda each: each.warm,
        "with its ETag, 304": lambda each: each.unchanged,
        "a job of one image, from its POST to its `complete` event": lambda each: each.short_jobs,
    }
    for title, values in rows.items():
        cells = ("{:.1f}/{:.1f}".format(*percentiles(values(each))) for each in times.values())
        print(f"| {title} | {' | '.join(cells)} |")
    cells = (f"{each.bytes_per_url:,.0f} bytes" for each in times.values())
    print(f"| on disk, a completed URL | {' | '.join(cells)} |")
