"""python -m bench: the service end to end, beside curl and its first version, as Markdown tables.

nginx on 127.0.0.1 is the origin and, always saying yes, Imgur. Every way loads the same images,
in rounds, one way after the other, so that what else this machine does hits them alike:

    origin (nginx) ──► the way: temp files ──► Imgur (nginx), which reads every byte and counts

It writes to the system's temp folder and leaves nothing there. It asserts no speed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from bench.images import make_images
from bench.process import BenchError, Usage
from bench.servers import Servers, find_nginx, running_servers
from bench.table import latency_table, ratio_line, speed_table
from bench.ways import ROOT, Answers, Curl, FirstVersion, Service, running_service

SERVICE = "the service"
JOURNALED = "the service with a journal"
CURL = "`curl --parallel`: a download pass, an upload pass"
FIRST_VERSION = "the first version: urllib and imgurpython, one at a time"

_IDLE_GETS = 200

Way = Callable[[Sequence[str]], Usage]


def main(arguments: Sequence[str]) -> int:
    """The process: its exit status, 1 with a sentence where something is missing or failed."""
    options = _parser().parse_args(arguments)
    if options.quick:
        options.images, options.first_version_images = 200, 40
        options.starts, options.rounds = 1, 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        measure(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    return 0


def measure(options: argparse.Namespace) -> None:
    """Measure and print; raises BenchError."""
    tools = _tools()
    trees = {SERVICE: ROOT, JOURNALED: ROOT}
    trees |= {f"the service in {tree}": Path(tree).resolve() for tree in options.against}
    answers = {name: Answers() for name in trees}
    usages: dict[str, list[Usage]] = {name: [] for name in (*trees, CURL, FIRST_VERSION)}
    seen: dict[str, Counter[str]] = {name: Counter() for name in usages}
    with tempfile.TemporaryDirectory(prefix="imageload-bench-") as name:
        folder = Path(name)
        names = _images(_made(folder / "images"), options.images, options.bytes)
        for start in range(options.starts):
            _say(f"start {start + 1}")
            work = _made(folder / f"start-{start}")
            runs, uploads = _measure_start(options, tools, work, names, trees, answers)
            for way in usages:
                usages[way] += runs[way]
                seen[way] += uploads[way]
    _print_tables(options, usages, answers)
    for way, counts in seen.items():
        print(
            f"uploads seen: {counts['uploads']:,}, bytes {counts['bytes']:,}, "
            f"over {counts['connections']:,} connections: {way}"
        )
    print("", _machine(*tools), sep="\n")


def _measure_start(
    options: argparse.Namespace,
    tools: tuple[str, str],
    folder: Path,
    names: Sequence[str],
    trees: Mapping[str, Path],
    answers: Mapping[str, Answers],
) -> tuple[dict[str, list[Usage]], dict[str, Counter[str]]]:
    """All rounds by services and servers that are started for them, and what each Imgur saw.

    How fast a process is beside another of the same program is settled at its start, by up to a
    tenth: which of nginx's workers has which connection, where its memory lies.
    """
    nginx, curl = tools
    images = folder.parent / "images"
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(
            running_servers(
                nginx,
                _made(folder / "nginx"),
                images,
                [*trees, CURL, FIRST_VERSION],
                options.bytes,
            )
        )
        services: dict[str, Service] = {}
        for number, (name, tree) in enumerate(trees.items()):
            temp_dir = _made(folder / f"service-{number}")
            ends = servers.origin, servers.imgur(name)
            journal = folder / "journal" if name == JOURNALED else None
            services[name] = stack.enter_context(
                running_service(tree, temp_dir, *ends, options.wide, answers[name], journal)
            )
            services[name].warm_up(names[0])
        work, origin = _made(folder / "work"), servers.origin
        ways: dict[str, Way] = {
            **services,
            CURL: Curl(curl, work, origin, servers.imgur(CURL), options.wide),
            FIRST_VERSION: FirstVersion(work, origin, servers.imgur(FIRST_VERSION)),
        }
        usages = _rounds(ways, names, options.first_version_images, options.rounds)
        for service in services.values():
            service.measure_idle(_IDLE_GETS)
        return usages, _uploads_seen(servers, usages, services.keys(), options.bytes)


def _tools() -> tuple[str, str]:
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


def _images(folder: Path, count: int, size: int) -> list[str]:
    _say(f"making {count:,} images of {size:,} bytes")
    try:
        return make_images(folder, count, size)
    except ValueError as error:
        raise BenchError(f"--bytes: {error}.") from None


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _rounds(
    ways: Mapping[str, Way], names: Sequence[str], first_version_images: int, rounds: int
) -> dict[str, list[Usage]]:
    """Every way's Usage in each round; each round begins with another way."""
    usages: dict[str, list[Usage]] = {name: [] for name in ways}
    for number in range(rounds):
        first = number % len(ways)
        for name in [*ways][first:] + [*ways][:first]:
            count = first_version_images if name == FIRST_VERSION else len(names)
            usage = ways[name](names[:count])
            usages[name].append(usage)
            _say(f"round {number + 1}: {usage.images / usage.seconds:7,.0f} images/s by {name}")
    return usages


def _uploads_seen(
    servers: Servers,
    usages: Mapping[str, Sequence[Usage]],
    warmed_up: Collection[str],
    image_bytes: int,
) -> dict[str, Counter[str]]:
    """What the Imgur of each way saw; raises BenchError where something is missing."""
    counts: dict[str, Counter[str]] = {}
    for name, runs in usages.items():
        expected = sum(usage.images for usage in runs) + (name in warmed_up)
        seen = servers.uploads(name, expected)
        if seen.count != expected or seen.bytes < expected * image_bytes:
            raise BenchError(
                f"Imgur saw {seen.count:,} uploads, {seen.bytes:,} bytes, of the {expected:,} "
                f"of {image_bytes:,} bytes by {name}."
            )
        counts[name] = Counter(uploads=seen.count, bytes=seen.bytes, connections=seen.connections)
    return counts


def _print_tables(
    options: argparse.Namespace,
    usages: Mapping[str, Sequence[Usage]],
    answers: Mapping[str, Answers],
) -> None:
    title = (
        f"{options.images:,} images of {options.bytes / 1000:g} kB, "
        f"{options.wide} wide, {options.starts} starts of {options.rounds} rounds"
    )
    print(speed_table(title, usages, CURL), end="\n\n")
    print(ratio_line(JOURNALED, SERVICE, usages, options.rounds), end="\n\n")
    rows = [
        row
        for name, took in answers.items()
        for row in (
            (
                f"{name}: a finished job of one image",
                took.small_job_idle_seconds,
                took.small_job_seconds,
            ),
            (
                f"{name}: the job of {options.images:,} itself",
                took.job_idle_seconds,
                took.job_seconds,
            ),
            (f"{name}: POST of a job of one URL", took.post_idle_seconds, ()),
        )
    ]
    print(latency_table(rows), end="\n\n")


def _machine(nginx: str, curl: str) -> str:
    """One line on what this ran on: cores, kernel, versions."""
    versions = [
        subprocess.run(command, capture_output=True, text=True, check=False)
        for command in ([nginx, "-v"], [curl, "--version"])
    ]
    nginx_version = versions[0].stderr.strip().rpartition("/")[2]
    curl_version = versions[1].stdout.split()[1]
    return (
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, "
        f"nginx {nginx_version}, curl {curl_version}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the service end to end beside curl and its first version.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for name, default, text in (
        ("--images", 2_000, "images a round, by the service and by curl"),
        ("--bytes", 50_000, "bytes of each image"),
        ("--starts", 5, "starts of all servers, for one may be faster than another"),
        ("--rounds", 3, "rounds of each start; what is shown are medians over all"),
        ("--wide", 16, "images under way at once; a pool has twice as many threads"),
        ("--first-version-images", 200, "images a round by the first version, which is slow"),
    ):
        parser.add_argument(name, type=_count, default=default, help=text, metavar="COUNT")
    parser.add_argument(
        "--quick", action="store_true", help="some 10 s: 200 images, to see that it works"
    )
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="FOLDER",
        help="another checkout, whose service is one more row; may be repeated",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
