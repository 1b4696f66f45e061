"""python -m bench --s3: into a bucket, beside `rclone copyurl`, which streams URLs there.

origin (nginx) ──► the way ──► a bucket (nginx), which reads every byte and counts

The service looks at each image for metadata, and cuts off the zeros behind the pictures that are
loaded: so it hashes each image twice. rclone does neither.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping
from pathlib import Path

from bench.loads import Load, Way
from bench.servers import BUCKET
from bench.service import Answers
from bench.speed import JOURNALED, RCLONE, SERVICE, Start, made, measure, service
from bench.table import ratio_line, speed_table
from bench.trees import ROOT, Candidate
from bench.ways import Rclone

_LOADS = (Load(2_000, 50_000), Load(100, 10_000_000))
AS_IT_IS = "the service with --strip=false"
_SERVICES: Mapping[str, Candidate] = {
    SERVICE: Candidate(ROOT),
    JOURNALED: Candidate(ROOT, journaled=True),
    AS_IT_IS: Candidate(ROOT, options={"strip": "false"}),
}


def measure_s3(options: argparse.Namespace, folder: Path) -> None:
    """Measure and print."""
    for load in _LOADS:
        _measure(options, made(folder / str(load.size)), load.quick() if options.quick else load)


def _measure(options: argparse.Namespace, folder: Path, load: Load) -> None:
    starts = {name: _start(options, candidate) for name, candidate in _SERVICES.items()}
    starts[RCLONE] = lambda work, bucket: contextlib.nullcontext(Rclone(work, bucket, options.wide))
    usages = measure(options, folder, load, starts)
    title = load.title(options.wide, options.starts, options.rounds)
    print(speed_table(title, usages, dict.fromkeys(starts, RCLONE), "rclone's"), end="\n\n")
    for name in _SERVICES:
        print(ratio_line(name, RCLONE, usages, options.rounds), end="\n\n")


def _start(options: argparse.Namespace, candidate: Candidate) -> Start:
    def start(folder: Path, bucket: str) -> contextlib.AbstractContextManager[Way]:
        more = {
            **candidate.options,
            "target": f"s3://{BUCKET}",
            "s3-endpoint": bucket.rstrip("/"),
            "aws-access-key-id": "bench",
            "aws-secret-access-key": "bench",
        }
        there = Candidate(candidate.tree, candidate.journaled, more)
        return service(options, there, Answers())(folder, bucket)

    return start
