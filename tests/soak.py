"""The long versions of some tests.

python -m tests.soak --requests=10000                 tests/test_bad_clients.py, random requests
python -m tests.soak --kills=300                      tests/test_crashes.py
python -m tests.soak --verbs --seconds=120            tests/test_verbs.py, jobs are retired
python -m tests.soak --verbs --seconds=120 --kills    tests/test_verbs.py, with kill -9
python -m tests.soak --verbs --nodes=2                tests/test_verbs.py, requests to nodes in turn
python -m tests.soak --imgur=5000                     tests/test_imgur_fuzz.py, random responses
python -m tests.soak --outages                        tests/test_outages.py, in true seconds
python -m tests.soak --hostile                        tests/test_hostile.py, measured
python -m tests.soak --origins=5000                   tests/test_hostile.py, random responses
python -m tests.soak --cluster                        tests/test_cluster.py, with every fault
python -m tests.soak --cluster-posts                  large POSTs, API processes killed meanwhile
python -m tests.soak --cluster-day --seconds=600      200,000 images, nodes killed meanwhile
python -m tests.soak --s3                             500 images into a bucket, a kill, an undo
python -m tests.soak --notes                          200 notes with 1,000 images, a kill
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import tests.service
from tests import (
    cluster_day,
    cluster_posts,
    faults,
    hostile,
    notes,
    origin_fuzz,
    outages,
    request_fuzz,
    s3_kill,
)
from tests.crashes import killed_again_and_again
from tests.imgur_fuzz import wrong_ends
from tests.service import running_service
from tests.transfers import running_transport
from tests.verbs import walk_with_kills, walk_with_retirement


def main() -> int:
    """Run one of them; its exit status is 1 if anything was lost, wrong, unmarked or left."""
    options = _parser().parse_args()
    print(f"seed {options.seed}")
    if options.outages or options.hostile:
        return 0 if (outages if options.outages else hostile).measure() else 1
    if options.cluster is not None:
        return 0 if faults.measure(options.cluster, options.only, options.old) else 1
    if options.cluster_posts:
        return 0 if cluster_posts.measure(options.cluster_posts, options.seed) else 1
    if options.cluster_day:
        arguments = options.seconds, options.cluster_day, options.seed
        return 0 if cluster_day.measure(*arguments) else 1
    if options.s3:
        return 0 if s3_kill.measure(options.s3) else 1
    if options.notes:
        return 0 if notes.measure(options.notes) else 1
    if options.imgur:
        return _imgur(options)
    with tempfile.TemporaryDirectory() as folder:
        if options.requests:
            return _requests(Path(folder), options)
        if options.origins:
            return _origins(Path(folder), options)
        return _verbs(Path(folder), options) if options.verbs else _kills(Path(folder), options)


def _requests(folder: Path, options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.ERROR)
    with running_service(folder / "t", client_seconds=0.3) as service:
        outcome = request_fuzz.fuzz(service, options.requests, seed=options.seed)
    for status, count in sorted(outcome.statuses.items()):
        print(f"{status or 'closed'}: {count:,}")
    return _print_wrong(outcome.wrong)


def _kills(folder: Path, options: argparse.Namespace) -> int:
    counts = killed_again_and_again(
        folder, options.kills or 300, size=options.size, seed=options.seed
    )
    for name, count in asdict(counts).items():
        print(f"{name:9} {count:>7,}")
    return 1 if counts.lost or counts.wrong or counts.unmarked or counts.left else 0


def _imgur(options: argparse.Namespace) -> int:
    with running_transport() as transport:
        wrong, ends = wrong_ends(transport, options.imgur, seed=options.seed)
    return _print_ends(wrong, ends)


def _origins(folder: Path, options: argparse.Namespace) -> int:
    found = origin_fuzz.fuzz(folder, options.origins, options.seed)
    return _print_ends(found.wrong, found.ends)


def _print_ends(wrong: list[str], ends: Counter[str]) -> int:
    for end, count in ends.most_common():
        print(f"{end:20} {count:>7,}")
    return _print_wrong(wrong)


def _verbs(folder: Path, options: argparse.Namespace) -> int:
    tests.service.nodes = options.nodes
    if options.kills is not None:
        outcome = walk_with_kills(folder, options.seconds, seed=options.seed)
    else:
        outcome = walk_with_retirement(
            folder,
            options.seconds,
            seed=options.seed,
            journal=not (options.memory or options.nodes),
        )
    for (verb, status), count in sorted(outcome.answers.items()):
        print(f"{verb} answered {status}: {count:,}")
    for name, count in outcome.counts.items():
        print(f"{name}: {count:,}")
    return _print_wrong(outcome.wrong)


def _print_wrong(wrong: list[str]) -> int:
    for sentence in wrong[:50]:
        print(f"WRONG: {sentence[:2_000]}")
    print(f"wrong: {len(wrong)}")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=0, help="how many random requests")
    parser.add_argument(
        "--kills", type=int, nargs="?", const=0, help="how many; with --verbs, as many as fit"
    )
    parser.add_argument("--imgur", type=int, default=0, help="how many random responses of Imgur")
    parser.add_argument("--origins", type=int, default=0, help="how many random ones of origins")
    parser.add_argument("--size", type=int, default=50, help="images of a job")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--verbs", action="store_true", help="send random requests")
    parser.add_argument(
        "--seconds", type=float, default=120, help="how long, with --verbs or --cluster-day"
    )
    parser.add_argument("--nodes", type=int, default=0, help="with --verbs: how many on PostgreSQL")
    parser.add_argument("--memory", action="store_true", help="with --verbs: without a journal")
    parser.add_argument("--outages", action="store_true", help="take origins away for 15 s")
    parser.add_argument("--hostile", action="store_true", help="fifty hostile responses at once")
    parser.add_argument(
        "--cluster", type=int, nargs="?", const=10, help="faults of a cluster, how often each"
    )
    parser.add_argument(
        "--cluster-posts", type=int, nargs="?", const=20, help="how many large POSTs"
    )
    parser.add_argument(
        "--cluster-day", type=int, nargs="?", const=cluster_day.IMAGES, help="how many images"
    )
    parser.add_argument("--notes", type=int, nargs="?", const=200, help="how many notes")
    parser.add_argument("--s3", type=int, nargs="?", const=500, help="how many images")
    parser.add_argument(
        "--only", action="append", default=[], help="with --cluster: a fault, as in its table"
    )
    parser.add_argument("--old", type=Path, help="with --cluster: a checkout of another version")
    return parser


if __name__ == "__main__":
    sys.exit(main())
