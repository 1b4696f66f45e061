"""python -m bench: the service end to end, beside curl, rclone and its first version, as Markdown.

nginx on 127.0.0.1 is the origin, and an Imgur that accepts every upload. Every way loads the same
images, in rounds, one way after the other, so that other work of this machine slows all alike:

    origin (nginx) ──► the way ──► Imgur or a bucket (nginx), which reads every byte and counts

It writes to the system's temp folder and to /dev/shm, and leaves nothing there. It asserts no
speed.

    python -m bench                              every part, in some 15 minutes
    python -m bench --only=10MB                  one part
    python -m bench --against=422a9ca            the service beside that commit's, with ratios
    python -m bench --against=422a9ca --only=jobs
    python -m bench --s3                         into a bucket, beside rclone copyurl
    python -m bench --cluster                    one process with SQLite beside nodes on PostgreSQL
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.loads import LOADS
from bench.machine import check, described
from bench.process import BenchError
from bench.s3 import measure_s3
from bench.scale import measure_growth, measure_jobs
from bench.speed import JOURNALED, SERVICE, measure_speed
from bench.trees import ROOT, Candidate, checked_out

_SCALE: Mapping[str, Callable[[argparse.Namespace, Path, Mapping[str, Candidate]], None]] = {
    "jobs": measure_jobs,
    "growth": measure_growth,
}
_PARTS = (*LOADS, *_SCALE)
_PART_AGAINST = "50kB"
_METHOD = ROOT / "bench" / "method.md"


def main(arguments: Sequence[str]) -> int:
    """The process: its exit status, 1 with a sentence if something is missing or failed."""
    options = _parser().parse_args(arguments)
    if options.quick:
        options.starts, options.rounds = 1, 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begun, load = time.monotonic(), os.getloadavg()
    try:
        check()
        _measure(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    machine = described(load, time.monotonic() - begun)
    print(_METHOD.read_text(), "## Machine", "", machine, sep="\n")
    return 0


def _measure(options: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imageload-bench-")))
        if options.s3:
            measure_s3(options, folder)
        elif options.cluster:
            # It needs psycopg, and the others do not.
            from bench.cluster import measure_cluster

            measure_cluster(options, folder)
        else:
            _measure_parts(options, folder, stack)


def _measure_parts(options: argparse.Namespace, folder: Path, stack: contextlib.ExitStack) -> None:
    candidates = {SERVICE: Candidate(ROOT), JOURNALED: Candidate(ROOT, journaled=True)}
    parts = [options.only] if options.only else _PARTS
    if options.against:
        tree = stack.enter_context(checked_out(options.against, folder))
        candidates[options.against] = Candidate(tree)
        candidates[f"{options.against} with a journal"] = Candidate(tree, journaled=True)
        parts = [options.only or _PART_AGAINST]
    for part in parts:
        with tempfile.TemporaryDirectory(prefix=f"{part}-", dir=folder) as place:
            if part in _SCALE:
                _SCALE[part](options, Path(place), candidates)
            else:
                load = LOADS[part].quick() if options.quick else LOADS[part]
                measure_speed(options, Path(place), load, candidates)
        sys.stdout.flush()


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the service end to end beside curl, rclone and its first version.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for name, default, text in (
        ("--starts", 3, "starts of all servers"),
        ("--rounds", 2, "rounds of each start; the tables show medians over all"),
        ("--wide", 16, "images in flight at once; a pool has twice as many slots"),
    ):
        parser.add_argument(name, type=_count, default=default, help=text, metavar="COUNT")
    parser.add_argument("--quick", action="store_true", help="some 60 s, to see that it works")
    parser.add_argument("--only", choices=_PARTS, help="one part", metavar="PART")
    parser.add_argument(
        "--against",
        metavar="COMMIT",
        help="a commit, or the folder of a checkout: its service instead of the other programs, "
        f"with ratios; --only names another part than {_PART_AGAINST}",
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--s3", action="store_true", help="into a bucket, beside rclone copyurl")
    other.add_argument(
        "--cluster", action="store_true", help="one process with SQLite, and nodes on PostgreSQL"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
