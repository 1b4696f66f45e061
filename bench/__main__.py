"""python -m bench: the service end to end, beside curl and its first version, as Markdown tables.

nginx on 127.0.0.1 is the origin, and an Imgur that accepts every upload. Every way loads the same
images, in rounds, one way after the other, so that other work of this machine slows all alike:

    origin (nginx) ──► the way: temp files ──► Imgur (nginx), which reads every byte and counts

It writes to the system's temp folder and leaves nothing there. It asserts no speed.

    python -m bench --against 422a9ca            the service beside that commit's, with ratios
    python -m bench --against 422a9ca --long     one job of 100,000 URLs, and one of 10,000
    python -m bench --against 422a9ca --many     10,000 jobs of one URL
    python -m bench --s3                         into a bucket, beside rclone copyurl
    python -m bench --cluster                    one process with SQLite beside nodes on PostgreSQL
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.process import BenchError
from bench.s3 import measure_s3
from bench.scale import measure_long, measure_many
from bench.speed import JOURNALED, SERVICE, measure_speed, tools
from bench.trees import ROOT, Candidate, checked_out


def main(arguments: Sequence[str]) -> int:
    """The process: its exit status, 1 with a sentence if something is missing or failed."""
    options = _parser().parse_args(arguments)
    if options.quick:
        options.images, options.first_version_images = 200, 40
        options.starts, options.rounds = 1, 2
    if options.starts is None:
        options.starts = 1 if options.long or options.many else 5
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        _measure(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    return 0


def _measure(options: argparse.Namespace) -> None:
    nginx, curl = tools()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imageload-bench-")))
        if options.s3:
            measure_s3(options, folder)
        elif options.cluster:
            # It needs psycopg, and the others do not.
            from bench.cluster import measure_cluster

            measure_cluster(options, folder)
        else:
            _measure_service(options, folder, stack)
    print("", _machine(nginx, curl), sep="\n")


def _measure_service(
    options: argparse.Namespace, folder: Path, stack: contextlib.ExitStack
) -> None:
    candidates = {SERVICE: Candidate(ROOT), JOURNALED: Candidate(ROOT, journaled=True)}
    if options.against:
        tree = stack.enter_context(checked_out(options.against, folder))
        candidates[options.against] = Candidate(tree)
        candidates[f"{options.against} with a journal"] = Candidate(tree, journaled=True)
    if options.long:
        measure_long(options, folder, candidates)
    elif options.many:
        measure_many(options, folder, candidates)
    else:
        measure_speed(options, folder, candidates)


def _machine(nginx: str, curl: str) -> str:
    """One line on where this ran: cores, kernel, versions."""
    versions = [
        subprocess.run(command, capture_output=True, text=True, check=False)
        for command in ([nginx, "-v"], [curl, "--version"])
    ]
    nginx_version = versions[0].stderr.strip().rpartition("/")[2]
    curl_version = versions[1].stdout.split()[1]
    load = "/".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        f"{os.cpu_count()} cores (load {load} at the end), Linux {platform.release()}, "
        f"Python {platform.python_version()}, nginx {nginx_version}, curl {curl_version}"
    )


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
        ("--starts", None, "starts of all servers; 5, or 1 with --long and --many"),
        ("--rounds", 3, "rounds of each start; the tables show medians over all"),
        ("--wide", 16, "images in flight at once; a pool has twice as many slots"),
        ("--first-version-images", 200, "images a round by the first version, which is slow"),
    ):
        parser.add_argument(name, type=_count, default=default, help=text, metavar="COUNT")
    parser.add_argument(
        "--quick", action="store_true", help="some 10 s: 200 images, to see that it works"
    )
    parser.add_argument(
        "--against",
        metavar="COMMIT",
        help="a commit, or the folder of a checkout: its service instead of curl, with ratios",
    )
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--long", action="store_true", help="one job of 100,000 URLs, and of 10,000")
    scale.add_argument("--many", action="store_true", help="10,000 jobs of one URL")
    scale.add_argument("--s3", action="store_true", help="into a bucket, beside rclone copyurl")
    scale.add_argument(
        "--cluster", action="store_true", help="one process with SQLite, and nodes on PostgreSQL"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
