"""python -m bench.journal: what the journal costs at work, and how long a restart with it takes.

At work: one job's thread records the Changes of images at a steady pace, each image waits until its
upload's begin is durable, and other threads have jobs accepted meanwhile. Restart: a journal of
finished jobs is opened by a fresh process. It writes to the system's temp folder, or to --dir, and
leaves nothing there. It asserts no speed.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from imageload.job import Change, Downloaded, Job, Report, Started, Uploaded, Uploading
from imageload.store.sqlite import Journal, open_journal

_IMAGES_OF_A_JOB = 10
_KEPT = 10_000
_WIDE = 16


def main(arguments: Sequence[str]) -> int:
    """The process: its exit status."""
    options = _parser().parse_args(arguments)
    if options.restart:
        print(_restart(Path(options.restart)))
        return 0
    with tempfile.TemporaryDirectory(prefix="imageload-bench-", dir=options.dir) as folder:
        print("| the journal | measured |", "| --- | --- |", sep="\n")
        for row in _at_work(Path(folder) / "work", options.images, options.rate):
            print(f"| {row} |", flush=True)
        for jobs in options.jobs:
            path = Path(folder) / f"{jobs}-jobs"
            print(f"| {_filled(path, jobs)} |", flush=True)
            print(f"| restart with {jobs:,} jobs of 10 | {_restarted(path)} |", flush=True)
            if jobs > _KEPT:
                _retire_old(path)
                print(f"| the same, all but {_KEPT:,} retired | {_restarted(path)} |", flush=True)
    return 0


def _at_work(path: Path, images: int, rate: int) -> Iterator[str]:
    """One job of so many `images`, at so many a second."""
    journal, _ = open_journal(path)
    (thread,) = [each for each in threading.enumerate() if each.name == "journal"]
    assert thread.ident is not None
    clock = time.pthread_getcpuclockid(thread.ident)
    job = Job([f"https://origin.example/images/{index:07}.png" for index in range(images)])
    journal.accept([job])
    accepts: list[float] = []
    poster = threading.Thread(target=_post, args=(journal, images / rate, accepts))
    poster.start()
    before, began = time.clock_gettime(clock), time.perf_counter()
    in_caller, waits = _load(journal, job, rate)
    seconds = time.perf_counter() - began
    in_thread = time.clock_gettime(clock) - before
    poster.join()
    journal.close()
    yield f"images/s | {images / seconds:,.0f}"
    yield f"CPU of an image in its job's thread | {1e6 * in_caller / images:.0f} µs"
    yield f"CPU of an image in the journal's thread | {1e6 * in_thread / images:.0f} µs"
    yield f"an upload waits for its turn, p50/p99 | {_spread(waits)}"
    yield f"a POST of one job waits, p50/p99 | {_spread(accepts)}"


def _load(journal: Journal, job: Job, rate: int) -> tuple[float, list[float]]:
    """CPU seconds that recording took this thread, and how long each upload waited."""
    waits: list[float] = []
    cpu, began = 0.0, time.perf_counter()

    def told_at(moment: float) -> None:
        waits.append(time.perf_counter() - moment)

    for index in range(len(job) + _WIDE):
        time.sleep(max(0.0, began + index / rate - time.perf_counter()))
        changes: list[Change] = []
        if index < len(job):
            changes += [Downloaded(index, _report(index)), Uploading(index)]
        if index >= _WIDE:
            changes.append(_uploaded(index - _WIDE))
        for change in changes:
            job.apply(change)
        start = time.thread_time()
        if index < len(job):
            journal.working(job, index)
        for change in changes:
            journal.record(job, change)
        if index < len(job):
            journal.when_durable(partial(told_at, time.perf_counter()))
        cpu += time.thread_time() - start
    return cpu, waits


def _post(journal: Journal, seconds: float, accepts: list[float]) -> None:
    """Have some ten jobs a second accepted, and note how long each took."""
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        journal.accept([_job(0)])
        accepts.append(time.perf_counter() - began)
        time.sleep(0.1)


def _filled(path: Path, count: int) -> str:
    """A journal of so many finished jobs, and how long they took to write."""
    began = time.perf_counter()
    journal, _ = open_journal(path)
    for first in range(0, count, 500):
        jobs = [_job(number) for number in range(first, min(count, first + 500))]
        journal.accept(jobs, seconds=60)
        for job in jobs:
            job.apply(Started())
            journal.record(job, Started())
            for index in range(len(job)):
                for change in (Downloaded(index, _report(index)), _uploaded(index)):
                    job.apply(change)
                    journal.record(job, change)
    assert journal.close(60)
    seconds, megabytes = time.perf_counter() - began, path.stat().st_size / 1e6
    return f"{count:,} jobs of 10 written at once | {seconds:.1f} s, {megabytes:.0f} MB on disk"


def _retire_old(path: Path) -> None:
    journal, restored = open_journal(path)
    journal.retire(job.job_id for job in restored.jobs[:-_KEPT])
    assert journal.close(60)


def _restarted(path: Path) -> str:
    """What a fresh process says of opening the journal."""
    command = [sys.executable, "-m", "bench.journal", "--restart", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _restart(path: Path) -> str:
    """What opening the journal takes this process."""
    before = _resident_bytes()
    began, cpu = time.perf_counter(), time.process_time()
    journal, restored = open_journal(path)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    grown = _resident_bytes() - before
    assert restored.was_closed
    began = time.perf_counter()
    count = sum(1 for _ in journal.links())
    listed = time.perf_counter() - began
    journal.close()
    return (
        f"{seconds:.2f} s ({cpu:.2f} s of CPU), {grown / 1e6:,.0f} MB of memory; "
        f"its {count:,} links from disk: {listed:.2f} s"
    )


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _job(number: int) -> Job:
    first = number * _IMAGES_OF_A_JOB
    return Job(
        [f"https://origin.example/images/{first + n:07}.png" for n in range(_IMAGES_OF_A_JOB)]
    )


def _report(index: int) -> Report:
    return Report(f"/tmp/x/tmp{index:016x}", 200, 50_000, "image/png", 640, 480, f"{index:064x}")


def _uploaded(index: int) -> Uploaded:
    return Uploaded(index, f"https://i.imgur.com/{index:07}.png", f"{index:015}")


def _spread(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    p50, p99 = (1000 * ordered[math.ceil(len(ordered) * part) - 1] for part in (0.5, 0.99))
    return f"{p50:.1f}/{p99:.1f} ms ({len(ordered):,})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.journal",
        description="Measure the journal at work, and restarts with it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=6_000, help="images of the job at work")
    parser.add_argument("--rate", type=int, default=1_200, help="images a second")
    parser.add_argument(
        "--jobs", type=int, nargs="*", default=[10_000], help="finished jobs to restart with"
    )
    parser.add_argument("--dir", help="a folder on the disk to measure")
    parser.add_argument("--restart", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
