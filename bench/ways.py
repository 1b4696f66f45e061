"""The ways to put images on Imgur that are compared: the service, curl, the first version.

Each is called with file names of the origin and gives the Usage of one round.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import msgspec

from bench.poller import Client, Poller
from bench.process import BenchError, Child, Usage
from bench.servers import AUTHORIZATION

ROOT = Path(__file__).resolve().parent.parent

_START_SECONDS = 30.0
_ROUND_SECONDS = 600.0
_PAUSE = 0.05
_PAUSE_NEAR_THE_END = 0.005
_SMALL_JOB_PAUSE = 0.02


class Curl:
    """`curl --parallel` twice: all downloads to files, then all uploads of those files."""

    def __init__(self, curl: str, folder: Path, origin: str, imgur: str, wide: int) -> None:
        self._curl = curl
        self._folder = folder
        self._origin = origin
        self._imgur = imgur
        self._wide = wide

    def __call__(self, names: Sequence[str]) -> Usage:
        """Both passes in one Usage; starting curl twice is counted, writing its config is not."""
        files = self._folder / "files"
        files.mkdir()
        downloads = [
            [f'url = "{self._origin}{name}"', f'output = "{files / name}"'] for name in names
        ]
        uploads = [
            [
                f'url = "{self._imgur}3/upload"',
                f'form = "image=@{files / name}"',
                f'header = "Authorization: {AUTHORIZATION}"',
                'output = "/dev/null"',
            ]
            for name in names
        ]
        try:
            first = self._pass(downloads)
            return self._pass(uploads).after(first)
        finally:
            shutil.rmtree(files)

    def _pass(self, transfers: Sequence[Sequence[str]]) -> Usage:
        config = self._folder / "curl.conf"
        # Options of one transfer, so said again for each.
        common = ["silent", "show-error", "fail", "http1.1"]
        blocks = ["\n".join([*transfer, *common]) for transfer in transfers]
        config.write_text("\nnext\n".join(blocks) + "\n")
        command = [self._curl, "--disable", "--parallel", "--parallel-max", str(self._wide)]
        log = self._folder / "curl.log"
        with Child([*command, "--config", config], log, self._folder) as child:
            return child.finish(len(transfers), _ROUND_SECONDS)


class FirstVersion:
    """`bench.first_version` in a process of its own."""

    def __init__(self, folder: Path, origin: str, imgur: str) -> None:
        self._folder = folder
        self._origin = origin
        self._imgur = imgur

    def __call__(self, names: Sequence[str]) -> Usage:
        """What it says of itself: its start is not counted."""
        urls_file = self._folder / "urls"
        urls_file.write_text("\n".join(self._origin + name for name in names))
        command = [sys.executable, "-m", "bench.first_version", urls_file, self._imgur]
        with Child(command, self._folder / "first_version.log", ROOT) as child:
            child.finish(len(names), _ROUND_SECONDS)
            return Usage(*json.loads(child.output.splitlines()[-1]))


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

    The GETs are those of the job itself and, from a thread beside, those of a finished job of one
    image; both also while the service is idle, and POSTs then.
    """

    small_job_seconds: list[float] = field(default_factory=list)
    small_job_idle_seconds: list[float] = field(default_factory=list)
    job_seconds: list[float] = field(default_factory=list)
    job_idle_seconds: list[float] = field(default_factory=list)
    post_idle_seconds: list[float] = field(default_factory=list)


class Service:
    """A running service; a job each round, followed by its status over HTTP."""

    def __init__(self, child: Child, address: str, origin: str, answers: Answers) -> None:
        self._answers = answers
        self._child = child
        self._origin = origin
        self._address = address
        self._client = Client(address)
        self._small_job_path = ""
        self._job_path = ""

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()

    def warm_up(self, name: str) -> None:
        """Run the job of one image whose status is asked for in every round."""
        self._small_job_path = f"/v1/images/upload/{self._post([name])}"
        while not self._status(self._small_job_path)[0].finished:
            time.sleep(_PAUSE_NEAR_THE_END)

    def __call__(self, names: Sequence[str]) -> Usage:
        """One job: from the POST to the status that says it is finished."""
        cpu_begun = self._child.cpu_seconds()
        with Poller(self._address, self._small_job_path, _SMALL_JOB_PAUSE) as poller:
            begun = time.monotonic()
            self._job_path = f"/v1/images/upload?jobId={self._post(names)}"
            uploaded = self._follow(begun + _ROUND_SECONDS)
            seconds = time.monotonic() - begun
        cpu_seconds = self._child.cpu_seconds() - cpu_begun
        self._answers.small_job_seconds += poller.seconds
        if len(uploaded.completed) != len(names):
            text = f"{len(uploaded.failed)} of {len(names)} images failed in the service: "
            raise BenchError(text + self._child.output[-500:])
        return Usage(len(names), seconds, cpu_seconds, self._child.peak_bytes())

    def measure_idle(self, count: int) -> None:
        """GET the statuses of the small job and of the last large one `count` times each, and POST.

        What is posted has no image, so that nothing is at work meanwhile.
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
            self._client.send("POST", "/v1/images/upload", b'["ftp://no.image/"]')
            self._answers.post_idle_seconds.append(time.monotonic() - begun)
            time.sleep(_PAUSE_NEAR_THE_END)

    def _follow(self, deadline: float) -> _Uploaded:
        while time.monotonic() < deadline:
            status, seconds = self._status(self._job_path)
            self._answers.job_seconds.append(seconds)
            if status.finished:
                return status.uploaded
            near = len(status.uploaded.pending) * 20 < len(status.uploaded.completed)
            time.sleep(_PAUSE_NEAR_THE_END if near else _PAUSE)
        raise BenchError(f"The service's job did not end within {_ROUND_SECONDS:g} s.")

    def _post(self, names: Sequence[str]) -> str:
        urls = [self._origin + name for name in names]
        body = msgspec.json.encode({"urls": urls, "dedupe": False})
        answer = json.loads(self._client.send("POST", "/v1/images/upload", body))
        return str(answer["jobId"][0])

    def _status(self, path: str) -> tuple[_Status, float]:
        body, seconds = self._client.timed_get(path)
        return msgspec.json.decode(body, type=_Status), seconds


@contextlib.contextmanager
def running_service(
    tree: Path,
    folder: Path,
    origin: str,
    imgur: str,
    wide: int,
    answers: Answers,
    journal: Path | None = None,
) -> Iterator[Service]:
    """The service of the checkout `tree` until the end of the block, on any free port.

    A single job gets half of each pool, so the pools have twice `wide` threads.
    """
    command = [
        sys.executable,
        tree / "main.py",
        "--port=0",
        "--allow-origin=127.0.0.1",
        "--per-host=64",
        f"--imgur-base-url={imgur}",
        "--imgur-client-id=bench",
        f"--downloads={2 * wide}",
        f"--uploads={2 * wide}",
        f"--job-window={4 * wide}",
        f"--temp-dir={folder}",
    ]
    if journal is not None:
        command.append(f"--journal={journal}")
    with Child(command, folder / "service.log", folder) as child:
        address = _address(child)
        with Service(child, address, origin, answers) as service:
            yield service


def _address(child: Child) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while child.status() is None and time.monotonic() < deadline:
        found = re.search(r"listening on http://([\d.]+:\d+)\s", child.output)
        if found:
            return found[1]
        time.sleep(0.02)
    raise BenchError(f"The service does not start: {child.output[-500:].strip()}")
