"""Images a second, CPU an image and response times, in rounds: one way after the other."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.images import make_images
from bench.process import BenchError, Usage
from bench.servers import Servers, find_nginx, running_servers
from bench.service import Answers, Service, running_service
from bench.table import latency_table, ratio_line, speed_table
from bench.trees import Candidate
from bench.ways import Curl, FirstVersion

SERVICE = "the service"
JOURNALED = "the service with a journal"
CURL = "`curl --parallel`: a download pass, an upload pass"
FIRST_VERSION = "the first version: urllib and imgurpython, one at a time"

_IDLE_GETS = 200

Way = Callable[[Sequence[str]], Usage]


def measure_speed(
    options: argparse.Namespace, folder: Path, candidates: Mapping[str, Candidate]
) -> None:
    """Measure and print. The first two candidates are this tree's; others are an old commit's.

    Without others, curl and the first version are measured beside them.
    """
    names = made_images(folder, options.images, options.bytes)
    ours, theirs = list(candidates)[:2], list(candidates)[2:]
    ways = [*candidates] if theirs else [*candidates, CURL, FIRST_VERSION]
    beside = {name: theirs[n % 2] if theirs else CURL for n, name in enumerate(ways)}
    answers = {name: Answers() for name in candidates}
    usages: dict[str, list[Usage]] = {name: [] for name in ways}
    seen: list[str] = []
    for start in range(options.starts):
        say(f"start {start + 1}")
        work = made(folder / f"start-{start}")
        with _start(options, work, names, candidates, ways, answers) as (servers, called):
            runs = _rounds(called, names, options)
            for name in candidates:
                service = called[name]
                assert isinstance(service, Service)
                service.measure_idle(_IDLE_GETS)
            for way in ways:
                usages[way] += runs[way]
                images = sum(usage.images for usage in runs[way]) + (way in candidates)
                seen.append(servers.uploads(way, images, options.bytes))
    title = (
        f"{options.images:,} images of {options.bytes / 1000:g} kB, "
        f"{options.wide} wide, {options.starts} starts of {options.rounds} rounds"
    )
    print(
        speed_table(title, usages, beside, "the old commit's" if theirs else "curl's"), end="\n\n"
    )
    pairs = [(JOURNALED, SERVICE), *((name, beside[name]) for name in ours if theirs)]
    for name, other in pairs:
        print(ratio_line(name, other, usages, options.rounds), end="\n\n")
    print(_latencies(options, answers, beside), end="\n\n")
    print("\n".join(seen))


@contextlib.contextmanager
def _start(
    options: argparse.Namespace,
    folder: Path,
    names: Sequence[str],
    candidates: Mapping[str, Candidate],
    ways: Sequence[str],
    answers: Mapping[str, Answers],
) -> Iterator[tuple[Servers, dict[str, Way]]]:
    """Servers, and all ways to load images, that are started for some rounds.

    How fast a process is beside another of the same program is settled at its start, by up to a
    tenth: which of nginx's workers has which connection, where its memory lies.
    """
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(
            running_servers(made(folder / "nginx"), folder.parent / "images", ways, options.bytes)
        )
        called: dict[str, Way] = {}
        for number, (name, candidate) in enumerate(candidates.items()):
            ends = servers.origin, servers.imgur(name)
            temp_dir = made(folder / f"service-{number}")
            service = stack.enter_context(
                running_service(candidate, temp_dir, *ends, options.wide, answers[name])
            )
            service.warm_up(names[0])
            called[name] = service
        if CURL in ways:
            work, origin = made(folder / "work"), servers.origin
            called[CURL] = Curl(tools()[1], work, origin, servers.imgur(CURL), options.wide)
            called[FIRST_VERSION] = FirstVersion(work, origin, servers.imgur(FIRST_VERSION))
        yield servers, called


def _rounds(
    ways: Mapping[str, Way], names: Sequence[str], options: argparse.Namespace
) -> dict[str, list[Usage]]:
    """Every way's Usage in each round; each round begins with another way."""
    usages: dict[str, list[Usage]] = {name: [] for name in ways}
    for number in range(options.rounds):
        first = number % len(ways)
        for name in [*ways][first:] + [*ways][:first]:
            count = options.first_version_images if name == FIRST_VERSION else len(names)
            usage = ways[name](names[:count])
            usages[name].append(usage)
            say(f"round {number + 1}: {usage.images / usage.seconds:7,.0f} images/s by {name}")
    return usages


def _latencies(
    options: argparse.Namespace, answers: Mapping[str, Answers], beside: Mapping[str, str]
) -> str:
    rows: dict[tuple[str, str], tuple[Sequence[float], Sequence[float]]] = {}
    for name, took in answers.items():
        small = took.small_job_idle_seconds, took.small_job_seconds
        rows[name, "a finished job of one image"] = small
        rows[name, f"the job of {options.images:,} itself"] = (
            took.job_idle_seconds,
            took.job_seconds,
        )
        rows[name, "POST of a job of one URL"] = (took.post_idle_seconds, ())
    return latency_table(rows, beside)


def tools() -> tuple[str, str]:
    """The paths of nginx and curl; raises BenchError where this machine cannot measure."""
    if not Path("/proc/self/status").exists():
        raise BenchError("CPU time and memory are read from /proc, so this needs Linux.")
    nginx, curl = find_nginx(), shutil.which("curl")
    if nginx is None or curl is None:
        missing = " and ".join(
            name for name, path in (("nginx", nginx), ("curl", curl)) if path is None
        )
        raise BenchError(f"{missing} not found. On Debian or Ubuntu: apt install nginx-light curl")
    return nginx, curl


def made_images(folder: Path, count: int, size: int) -> list[str]:
    """The names of so many images of so many bytes, made in `folder`/images."""
    say(f"making {count:,} images of {size:,} bytes")
    try:
        return make_images(made(folder / "images"), count, size)
    except ValueError as error:
        raise BenchError(f"--bytes: {error}.") from None


def made(folder: Path) -> Path:
    """`folder`, which is new."""
    folder.mkdir()
    return folder


def say(text: str) -> None:
    """Print progress on standard error."""
    print(text, file=sys.stderr, flush=True)
