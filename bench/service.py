"""A running service, measured over HTTP: jobs are posted and followed, every response is timed."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.loads import Way
from bench.poller import Client, Poller
from bench.process import BenchError, Child, Usage
from bench.trees import Candidate, options_of

_START_SECONDS = 30.0
_ROUND_SECONDS = 600.0
_PAUSE = 0.05
_PAUSE_NEAR_THE_END = 0.005
_SMALL_JOB_PAUSE = 0.02
_PENDING_PAUSE = 0.2
_PENDING_A_SECOND = 10_000
_LISTS_OF_A_POST = 1_000
_UPLOAD = "/v1/images/upload"


class _Uploaded(msgspec.Struct):
    pending: list[msgspec.Raw]
    completed: list[str]
    failed: list[str]


class _Status(msgspec.Struct):
    finished: bool
    uploaded: _Uploaded


@dataclass(slots=True)
class Answers:
    """How long a service took to answer, in seconds.

    The GETs are of the job itself and, from a thread beside, of a finished job of one image; both
    also while the service is idle, and POSTs then.
    """

    small_job_seconds: list[float] = field(default_factory=list)
    small_job_idle_seconds: list[float] = field(default_factory=list)
    job_seconds: list[float] = field(default_factory=list)
    job_idle_seconds: list[float] = field(default_factory=list)
    post_idle_seconds: list[float] = field(default_factory=list)


class Service(Way):
    """A running service. `client` sends requests to the first of its processes."""

    def __init__(self, children: Sequence[Child], client: Client, answers: Answers) -> None:
        self._answers = answers
        self._children = children
        self._client = client
        self._small_job_path = ""
        self._job_path = ""

    def warm_up(self, url: str) -> None:
        """Run the job of one image whose status is asked for in every round."""
        self._small_job_path = self._wait_for_end(self.post([[url]]))

    def __call__(self, urls: Sequence[str]) -> Usage:
        """One job: from the POST to the status that says it is finished."""
        self._client.close()  # the service closes one that is idle while others are measured
        with self._measured(len(urls)) as usages:
            (job_id,) = self.post([urls])
            self._job_path = f"{_UPLOAD}?jobId={job_id}"
            uploaded = self._follow(time.monotonic() + _ROUND_SECONDS)
        if len(uploaded.completed) != len(urls):
            text = f"{len(uploaded.failed)} of {len(urls)} images failed in the service: "
            raise BenchError(text + "".join(child.output[-500:] for child in self._children))
        return usages[0]

    def load_all(self, jobs: Sequence[Sequence[str]]) -> Usage:
        """Several jobs, or one that is long: from the first POST until no image is pending.

        Its own status is not asked for: that of 100,000 images has 10 MB.
        """
        with self._measured(sum(map(len, jobs))) as usages:
            for first in range(0, len(jobs), _LISTS_OF_A_POST):
                self.post(jobs[first : first + _LISTS_OF_A_POST])
            deadline = time.monotonic() + _ROUND_SECONDS
            while pending := self.pending():
                if time.monotonic() > deadline:
                    raise BenchError(f"The jobs did not end within {_ROUND_SECONDS:g} s.")
                # The service adds up all jobs for each answer, so it is asked rarely of many.
                near = _PAUSE_NEAR_THE_END + pending / _PENDING_A_SECOND
                time.sleep(_PENDING_PAUSE if len(jobs) > 1 else min(_PENDING_PAUSE, near))
        return usages[0]

    def measure_jobs_of_one(self, urls: Sequence[str]) -> list[float]:
        """Seconds of jobs of one URL, one after the other, from the POST to the end."""
        seconds = []
        for url in urls:
            begun = time.monotonic()
            self._wait_for_end(self.post([[url]]))
            seconds.append(time.monotonic() - begun)
        return seconds

    def measure_idle(self, count: int) -> None:
        """GET the statuses of the small job and of the last large one `count` times each, and POST.

        The URL that is posted may not be fetched, so that nothing is at work meanwhile.
        """
        for path, seconds in (
            (self._small_job_path, self._answers.small_job_idle_seconds),
            (self._job_path, self._answers.job_idle_seconds),
        ):
            for _ in range(count):
                seconds.append(self._client.timed_get(path)[1])
                time.sleep(_PAUSE_NEAR_THE_END)
        for _ in range(count):
            begun = time.monotonic()
            self._client.send("POST", _UPLOAD, b'["ftp://no.image/"]')
            self._answers.post_idle_seconds.append(time.monotonic() - begun)
            time.sleep(_PAUSE_NEAR_THE_END)

    @contextlib.contextmanager
    def _measured(self, images: int) -> Iterator[list[Usage]]:
        """The Usage of a block, as the only entry of a list; the small job is polled meanwhile."""
        usages: list[Usage] = []
        cpu_begun = self._cpu_seconds()
        with Poller(self._client.address, self._small_job_path, _SMALL_JOB_PAUSE) as poller:
            begun = time.monotonic()
            yield usages
            seconds = time.monotonic() - begun
        cpu_seconds = self._cpu_seconds() - cpu_begun
        self._answers.small_job_seconds += poller.seconds
        peak = max(child.peak_bytes() for child in self._children)
        usages.append(Usage(images, seconds, cpu_seconds, peak))

    def _cpu_seconds(self) -> float:
        return sum(child.cpu_seconds() for child in self._children)

    def _follow(self, deadline: float) -> _Uploaded:
        while time.monotonic() < deadline:
            status, seconds = self._status(self._job_path)
            self._answers.job_seconds.append(seconds)
            if status.finished:
                return status.uploaded
            near = len(status.uploaded.pending) * 20 < len(status.uploaded.completed)
            time.sleep(_PAUSE_NEAR_THE_END if near else _PAUSE)
        raise BenchError(f"The service's job did not end within {_ROUND_SECONDS:g} s.")

    def _wait_for_end(self, job_ids: Sequence[str]) -> str:
        """Wait until the only one of these jobs is finished; the path of its status."""
        (job_id,) = job_ids
        path = f"{_UPLOAD}/{job_id}"
        while not self._status(path)[0].finished:
            time.sleep(_PAUSE_NEAR_THE_END)
        return path

    def pending(self) -> int:
        """How many images of all jobs have not ended."""
        return int(json.loads(self._client.send("GET", "/v1/quota"))["pending"])

    def post(self, jobs: Sequence[Sequence[str]]) -> list[str]:
        """The ids of new jobs of these URLs."""
        body = msgspec.json.encode({"urls": jobs, "dedupe": False})
        job_ids: list[str] = json.loads(self._client.send("POST", _UPLOAD, body))["jobId"]
        return job_ids

    def _status(self, path: str) -> tuple[_Status, float]:
        body, seconds = self._client.timed_get(path)
        return msgspec.json.decode(body, type=_Status), seconds


@contextlib.contextmanager
def running_service(
    candidate: Candidate, folder: Path, imgur: str, wide: int, answers: Answers
) -> Iterator[Service]:
    """The service of a checkout until the end of the block, on any free port."""
    journal = folder / "journal"
    store = {"journal": journal, "store": journal} if candidate.journaled else {}
    more = {**store, **candidate.options}
    with running_process(candidate.tree, folder, imgur, wide, more) as child:
        client = Client(address_of(child))
        with contextlib.closing(client):
            yield Service([child], client, answers)


@contextlib.contextmanager
def running_process(
    tree: Path, folder: Path, imgur: str, wide: int, more: Mapping[str, object]
) -> Iterator[Child]:
    """A process of the service of a checkout, with its temp files and its log in `folder`.

    It gets the options that its `--help` lists. A single job gets half of each pool, so the pools
    have twice `wide` slots.
    """
    options: dict[str, object] = {
        "port": 0,
        "allow-origin": "127.0.0.0/8",
        "per-host": 64,
        "imgur-base-url": imgur,
        "imgur-client-id": "bench",
        "downloads": 2 * wide,
        "uploads": 2 * wide,
        "job-window": 4 * wide,
        "temp-dir": folder,
        **more,
    }
    known = options_of(tree)
    if "store" in known:
        options.pop("journal", None)
    command: list[object] = [sys.executable, tree / "main.py"]
    command += [f"--{name}={value}" for name, value in options.items() if name in known]
    with Child(command, folder / "service.log", folder) as child:
        yield child


def address_of(child: Child) -> str:
    """The `host:port` on which a service listens that was just started."""
    deadline = time.monotonic() + _START_SECONDS
    while child.status() is None and time.monotonic() < deadline:
        found = re.search(r"listening on http://([\d.]+:\d+)\s", child.output)
        if found:
            return found[1]
        time.sleep(0.02)
    raise BenchError(f"The service does not start: {child.output[-500:].strip()}")
