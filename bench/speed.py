"""Images a second, CPU an image and response times, in rounds: one way after the other."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.images import make_images
from bench.latent import running_latent_servers
from bench.loads import Load, Way
from bench.machine import memory_folder
from bench.process import Usage
from bench.servers import Servers, running_servers
from bench.service import Answers, Service, running_service
from bench.table import latency_table, rate_of, ratio_line, speed_table
from bench.trees import Candidate
from bench.ways import Curl, FirstVersion, Rclone

SERVICE = "the service"
JOURNALED = "the service with a journal"
CURL = "`curl --parallel` in two passes, files on disk"
CURL_IN_MEMORY = "`curl --parallel` in two passes, files in memory"
RCLONE = "`rclone copyurl` into a bucket, no files"
FIRST_VERSION = "the first version: urllib and imgurpython, one at a time"

_IDLE_GETS = 100

Start = Callable[[Path, str], AbstractContextManager[Way]]
"""Called with a new folder and the URL of an Imgur; gives a way to load images."""
Usages = Mapping[str, Sequence[Usage]]
"""The cost of each way in each round."""


def measure_speed(
    options: argparse.Namespace, folder: Path, load: Load, candidates: Mapping[str, Candidate]
) -> None:
    """Measure and print. The first two candidates are this tree's; others are an old commit's.

    Without others, the other ways are measured beside them.
    """
    answers = {name: Answers() for name in candidates}
    theirs = list(candidates)[2:]
    starts = {
        name: service(options, candidate, answers[name]) for name, candidate in candidates.items()
    }
    if not theirs:
        starts |= _others(options.wide, load)
    usages = measure(options, folder, load, starts)
    beside = {name: theirs[n % 2] if theirs else CURL_IN_MEMORY for n, name in enumerate(starts)}
    title = load.title(options.wide, options.starts, options.rounds)
    whose = "the old commit's" if theirs else "curl's in memory"
    print(speed_table(title, usages, beside, whose), end="\n\n")
    if not theirs and CURL_IN_MEMORY not in usages:
        print(f"No row has {CURL_IN_MEMORY}: /dev/shm is no tmpfs, or too small.", end="\n\n")
    pairs = [(JOURNALED, SERVICE), *((name, beside[name]) for name in candidates if theirs)]
    for name, other in pairs:
        if name != other:
            print(ratio_line(name, other, usages, options.rounds), end="\n\n")
    if load.is_late:
        print(_beside_bounds(load, options.wide, usages), end="\n\n")
    if load.has_statuses:
        print(_latencies(load, answers, beside), end="\n\n")


def service(options: argparse.Namespace, candidate: Candidate, answers: Answers) -> Start:
    """Starts the service of a checkout."""
    return lambda folder, imgur: running_service(candidate, folder, imgur, options.wide, answers)


def measure(
    options: argparse.Namespace, folder: Path, load: Load, starts: Mapping[str, Start]
) -> Usages:
    """Every way's cost in every round; each round begins with another way.

    How fast a process is beside another of the same program is settled at its start, by up to a
    tenth: which of nginx's workers has which connection, where its memory lies. So all are started
    several times.
    """
    names = made_images(folder, load.images, load.size)
    usages: dict[str, list[Usage]] = {name: [] for name in starts}
    for number in range(options.starts):
        say(f"start {number + 1}")
        work = made(folder / f"start-{number}")
        with (
            _running(load, made(work / "servers"), folder / "images", [*starts]) as servers,
            contextlib.ExitStack() as stack,
        ):
            ways = {
                name: stack.enter_context(start(made(work / str(n)), servers.imgur(name)))
                for n, (name, start) in enumerate(starts.items())
            }
            urls = servers.urls(names)
            for way in ways.values():
                way.warm_up(urls[0])
            runs = _rounds(options.rounds, ways, urls)
            for name, way in ways.items():
                if load.has_statuses and isinstance(way, Service):
                    way.measure_idle(_IDLE_GETS)
                usages[name] += runs[name]
                uploads = 1 + sum(usage.images for usage in runs[name])
                say(servers.uploads(name, uploads, load.size))
    return usages


def _running(
    load: Load, folder: Path, images: Path, ways: Sequence[str]
) -> AbstractContextManager[Servers]:
    if load.is_late:
        late = load.origin_seconds, load.sink_seconds
        return running_latent_servers(folder, images, ways, *late)
    return running_servers(folder, images, ways, load.size, load.hosts)


def _rounds(rounds: int, ways: Mapping[str, Way], urls: Sequence[str]) -> Usages:
    usages: dict[str, list[Usage]] = {name: [] for name in ways}
    for number in range(rounds):
        first = number % len(ways)
        for name in [*ways][first:] + [*ways][:first]:
            usage = ways[name](urls)
            usages[name].append(usage)
            say(f"round {number + 1}: {rate_of(usage):9,.1f} images/s by {name}")
    return usages


def _others(wide: int, load: Load) -> dict[str, Start]:
    """The other ways to load images, as far as this machine has room for them."""
    starts: dict[str, Start] = {}
    memory = memory_folder(load.images * load.size)
    if memory is not None:
        starts[CURL_IN_MEMORY] = lambda _, imgur: _curl_in(memory, imgur, wide)
    starts[CURL] = lambda folder, imgur: contextlib.nullcontext(Curl(folder, imgur, wide))
    starts[RCLONE] = lambda folder, imgur: contextlib.nullcontext(Rclone(folder, imgur, wide))
    some = load.first_version_images
    starts[FIRST_VERSION] = lambda folder, imgur: contextlib.nullcontext(
        FirstVersion(folder, imgur, some)
    )
    return starts


@contextlib.contextmanager
def _curl_in(memory: Path, imgur: str, wide: int) -> Iterator[Way]:
    with tempfile.TemporaryDirectory(prefix="imageload-bench-", dir=memory) as folder:
        yield Curl(Path(folder), imgur, wide)


def _beside_bounds(load: Load, wide: int, usages: Usages) -> str:
    at_once, in_turn = load.bounds(wide)
    lines = [
        f"The servers' times allow {at_once:.0f} images/s with {wide} downloads and {wide} uploads "
        f"at once, as the service has them, and {in_turn:.0f} with two passes, or with one slot "
        "for a download and its upload. Of these:",
        "",
    ]
    for name, runs in usages.items():
        rate = statistics.median(map(rate_of, runs))
        lines.append(f"- {name}: {rate / at_once:.2f}, {rate / in_turn:.2f}")
    return "\n".join(lines)


def _latencies(load: Load, answers: Mapping[str, Answers], beside: Mapping[str, str]) -> str:
    rows: dict[tuple[str, str], tuple[Sequence[float], Sequence[float]]] = {}
    for name, took in answers.items():
        small = took.small_job_idle_seconds, took.small_job_seconds
        rows[name, "a finished job of one image"] = small
        rows[name, f"the job of {load.images:,} itself"] = (
            took.job_idle_seconds,
            took.job_seconds,
        )
        rows[name, "POST of a job of one URL"] = (took.post_idle_seconds, ())
    return latency_table(rows, beside)


def made_images(folder: Path, count: int, size: int) -> list[str]:
    """The names of so many images of so many bytes, made in `folder`/images."""
    say(f"making {count:,} images of {size:,} bytes")
    return make_images(made(folder / "images"), count, size)


def made(folder: Path) -> Path:
    """`folder`, which is new."""
    folder.mkdir()
    return folder


def say(text: str) -> None:
    """Print progress on standard error."""
    print(text, file=sys.stderr, flush=True)
