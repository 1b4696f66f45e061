"""The service for one test, in two forms: in this process, and as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import requests

from imageload.image import Downloaded, Report, Uploaded
from imageload.job import Change, Job
from imageload.sandbox_process import SandboxProcess
from imageload.service import Service
from imageload.settings import Settings
from imageload.store.postgres.connections import Connection
from imageload.store.postgres.store import PostgresStore, open_postgres
from imageload.tuning import Tuning
from imageload.web.app import App
from imageload.web.server.connections import Server
from main import ROUTES
from sandbox.testing import RunningSandbox
from tests.folders import filled
from tests.forks import ForkedProcess
from tests.s3_server import S3Server
from tests.waiting import PATIENCE

ROOT = Path(__file__).parent.parent

T = TypeVar("T")


class Client:
    """An HTTP client of the service at `url`; of several URLs each use gets the next one."""

    def __init__(self, *urls: str) -> None:
        self._urls = itertools.cycle(urls)
        self.session = requests.Session()

    @property
    def url(self) -> str:
        """Where the next request goes."""
        return next(self._urls)

    def get(self, path: str, **keywords: Any) -> requests.Response:
        """GET `path`."""
        return self.session.get(self.url + path, timeout=PATIENCE, **keywords)

    def post(self, **keywords: Any) -> requests.Response:
        """POST to /v1/images/upload."""
        return self.session.post(f"{self.url}/v1/images/upload", timeout=PATIENCE, **keywords)

    def submit(self, urls: list[str], *, dedupe: bool = True) -> str:
        """The jobId of a new job for `urls`."""
        answer = self.post(json={"urls": urls, "dedupe": dedupe})
        assert answer.status_code == 202, answer.text
        (job_id,) = answer.json()["jobId"]
        return str(job_id)

    def status(self, job_id: str) -> dict[str, Any]:
        """The job's status."""
        answer = self.get(f"/v1/images/upload/{job_id}")
        assert answer.status_code == 200, answer.text
        status: dict[str, Any] = answer.json()
        return status

    def records(self, job_id: str) -> dict[str, dict[str, Any]]:
        """The record of every image of the job, by URL."""
        images = self.get(f"/v1/images/upload/{job_id}/images?limit=10000").json()["images"]
        return {image["url"]: image for image in images}

    def finish(self, job_id: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """The job's status once it is finished; polls, as a user does."""
        deadline = time.monotonic() + seconds
        while not (status := self.status(job_id))["finished"]:
            assert time.monotonic() < deadline, f"not finished: {status}"
            time.sleep(0.02)  # polls
        return status

    def close(self) -> None:
        """Close the connections."""
        self.session.close()


class NoQueue:
    """The queue of a store whose jobs no worker gets."""

    def create(self, connection: Connection) -> None:
        """It has no tables."""

    def defer(self, connection: Connection, slices: Mapping[int, Sequence[int]]) -> None:
        """Nobody works on them."""

    def tidy(self, connection: Connection, dead_seconds: float) -> None:
        """It has nothing."""


class RunningService(Client):
    """The service on an event loop in a thread of this process.

    With `other`, another node on the same database, requests go to both in turn.
    """

    def __init__(
        self,
        settings: Settings,
        tuning: Tuning,
        temp_dir: Path,
        sandbox: SandboxProcess | None = None,
        other: RunningService | None = None,
    ) -> None:
        self.temp_dir, self.other = temp_dir, other
        self._queueless: PostgresStore | None = None
        self._settings, self._tuning, self._sandbox = settings, tuning, sandbox
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self.app: App
        self.service: Service
        self.server: Server
        ready: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        url = ready.get(timeout=PATIENCE)
        if isinstance(url, BaseException):
            raise url
        super().__init__(url, *([other.url] if other is not None else []))

    def _run(self, ready: queue.SimpleQueue[str | BaseException]) -> None:
        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            self.app = App(
                self._settings, self.temp_dir, ROUTES, tuning=self._tuning, sandbox=self._sandbox
            )
            self.service = self.app.service
            self.server, url = self.app.listen()
            ready.put(url)
            await self._stop.wait()
            self.server.stop()
            await self.app.events.close()
            await self.server.close_all_connections()

        try:
            asyncio.run(serve())
        except BaseException as error:
            ready.put(error)

    @property
    def subscribers(self) -> int:
        """How many event streams and held responses there are, on all nodes."""
        of_other = self.other.subscribers if self.other is not None else 0
        return self.app.events.subscribers + of_other

    @property
    def temp_files(self) -> list[str]:
        """The names of the files in the temp directory that are not empty."""
        of_other = self.other.temp_files if self.other is not None else []
        return sorted([*(path.name for path in filled(self.temp_dir)), *of_other])

    def on_loop(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `work` on the event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(PATIENCE)

    def add(self, job: Job) -> Job:
        """Add a job that nobody works on: the test applies its Changes, by `apply`."""
        if not self._settings.is_node:
            self.service.image_load.job_list_s[job.job_id] = job
        else:
            self._queueless = self._queueless or open_postgres(
                self._settings.store, None, None, NoQueue()
            )
            self._queueless.accept([job])
            with psycopg.connect(self._settings.store) as connection:
                connection.execute(_TAKE_SLICES, (job.job_id,))
        return job

    def apply(self, job: Job, *changes: Change) -> None:
        """Apply Changes to the job, and publish them."""
        for change in changes:
            job.apply(change)
            if self._queueless is not None:
                self._queueless.record(job, change)
                if len(changes) <= _APART:  # else many of them are one transaction
                    asyncio.run(self._queueless.durable())
            else:
                self.app.events(job, change)
        if self._queueless is not None:
            asyncio.run(self._queueless.durable())

    def add_landed(self, links: list[str]) -> None:
        """Add a job whose images are completed with these links."""
        job = self.add(Job(f"http://a.example/{number}" for number in range(len(links))))
        for index, link in enumerate(links):
            self.apply(job, Downloaded(index, Report("", 200, 9, "image/png", 1, 1, "")))
            self.apply(job, Uploaded(index, link))

    def stop(self) -> None:
        """Stop the service and its threads."""
        self.close()
        if self._queueless is not None:
            self._queueless.close()
        assert self.app.close(PATIENCE), "threads outlive the service"
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


_DEAD_SECONDS = 3.0
_APART = 20
# Under the epoch of the job that `accept` has given a claim on.
_TAKE_SLICES = b"""
    UPDATE slice SET worker = 'a test', until = now() + interval '1 day' FROM job
    WHERE slice.job = job.number AND job.id = %s"""
nodes = 0
"""How many nodes on a new database `running_service` starts if no store is named; 0: no node."""


bucket: S3Server | None = None
"""Where services upload to, in place of what their tests say."""


@contextlib.contextmanager
def running_service(temp_dir: Path, **options: Any) -> Iterator[RunningService]:
    """Run the service in this process, with short waits.

    Each of `options` is a field of Settings or of Tuning, or `sandbox`, the process that the
    settings lead to.
    """
    values: dict[str, Any] = {
        "port": 0,
        "allow_origin": ("127.0.0.1",),
        "retry_seconds": 0.01,
        "retry_cap_seconds": 0.05,
        "host_rest_seconds": 0.05,
        "host_failures": 100,
        "per_host": 32,
        "imgur_client_id": "test",
        # What hangs does not end before a test that waits for it in vain.
        "low_speed_seconds": 10 * PATIENCE,
        "download_seconds": 10 * PATIENCE,
        "upload_seconds": 10 * PATIENCE,
        "convert_seconds": 10 * PATIENCE,
        **options,
    }
    if bucket is not None:
        values = bucket.options(**values)
    tuned = {field.name for field in fields(Tuning)} & values.keys()
    tuning = Tuning(**{name: values.pop(name) for name in tuned})
    sandbox = values.pop("sandbox", None)
    with contextlib.ExitStack() as ends:
        folders = [temp_dir]
        if nodes and "store" not in values:
            from tests.postgres import emptied_database  # `make cluster` has no pytest

            values["store"] = ends.enter_context(emptied_database())
            values.setdefault("dead_seconds", _DEAD_SECONDS)
            folders += [temp_dir.with_name(f"{temp_dir.name}-{n}") for n in range(1, nodes)]
        service = None
        for folder in reversed(folders):
            folder.mkdir(exist_ok=True)
            service = RunningService(Settings(**values), tuning, folder, sandbox, service)
            ends.callback(service.stop)
        assert service is not None
        yield service


MAIN = (sys.executable, "main.py")
SOURCE = "import sys, main; sys.exit(main.main(sys.argv[1:]))"


class ServiceProcess(Client):
    """The service with `arguments` in a process; `log` has its output up to now.

    It is forked from a process that has imported main.py, and executes `source`. `command`: a
    program to start instead, in this `folder` and process `group`; as users do it is MAIN.
    """

    def __init__(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        source: str = SOURCE,
        command: Sequence[str] | None = None,
        folder: Path = ROOT,
        group: int | None = None,
    ) -> None:
        self.log: list[str] = []
        self._listening: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("IMGUR_", "IMAGELOAD_"))}
        # A stop that waits for what hangs takes longer than any test waits.
        whole = {**plain, "IMAGELOAD_GRACE_SECONDS": str(10 * PATIENCE), **(environment or {})}
        self.process: subprocess.Popen[str] | ForkedProcess
        if command is None:
            self.process = ForkedProcess(source, arguments, whole)
        else:
            self.process = subprocess.Popen(
                [*command, *arguments],
                cwd=folder,
                env=whole,
                stderr=subprocess.PIPE,
                text=True,
                process_group=group,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        url = self._listening.get(timeout=PATIENCE)
        assert url is not None, "".join(self.log)
        super().__init__(url)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r"\blistening on (http[^\s\"]+)", line)
            if found is not None:
                self._listening.put(found[1])
        self._listening.put(None)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal; the exit status."""
        self.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            status = self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(PATIENCE)
            assert self.process.stderr is not None
            self.process.stderr.close()
        return status


Start = Callable[..., ServiceProcess]
"""Starts the service with further arguments, on the same journal or on another `journal`."""


@contextlib.contextmanager
def service_processes(folder: Path, sandbox: RunningSandbox) -> Iterator[Start]:
    """Starts services with their journal and temp files in `folder`; kills all at the end."""
    started: list[ServiceProcess] = []
    (folder / "temp").mkdir()

    def start(*arguments: str, journal: Path = folder / "journal") -> ServiceProcess:
        started.append(
            ServiceProcess(
                "--port=0",
                "--allow-origin=127.0.0.1",
                f"--store={journal}",
                f"--temp-dir={folder / 'temp'}",
                f"--imgur-base-url={sandbox.url}",
                f"--imgur-link-base={sandbox.url}",
                *arguments,
                environment={"IMGUR_CLIENT_ID": "test"},
            )
        )
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.stop(signal.SIGKILL)


def assert_problem(answer: requests.Response, status: int, slug: str) -> dict[str, Any]:
    """Return the problem document of the response."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "instance"}
    assert problem["instance"] == f"urn:imageload:request:{answer.headers['X-Request-ID']}"
    assert problem["status"] == status
    assert problem["type"].endswith(f":{slug}")
    assert len(problem["detail"]) > 10
    return problem


def wired(sandbox: RunningSandbox, **options: Any) -> dict[str, Any]:
    """Options for a service that uploads to `sandbox`."""
    return {"imgur_base_url": sandbox.url, "imgur_link_base": sandbox.url, **options}


def account(sandbox: RunningSandbox) -> dict[str, Any]:
    """Options for a service that uploads to an account."""
    return {
        "imgur_anonymous": False,
        "imgur_client_secret": "secret",
        "imgur_refresh_token": sandbox.token(client_id="test")["refresh_token"],
    }
