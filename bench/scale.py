"""How the service scales: one job of many URLs, many jobs of one URL, and both at once."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.loads import counted
from bench.process import BenchError, Usage
from bench.servers import Servers, running_servers
from bench.service import Answers, Service, running_service
from bench.speed import made, made_images, say
from bench.table import percentiles
from bench.trees import Candidate

_BYTES = 2_000
_SIZES = (1_000, 10_000, 100_000)
_MANY = 2_500
_SMALL_JOBS = 100
_QUICK_PART = 50

Run = Sequence[tuple[Usage, Answers]]
Runs = Mapping[str, Run]
Candidates = Mapping[str, Candidate]


def measure_growth(options: argparse.Namespace, folder: Path, candidates: Candidates) -> None:
    """One job of 1,000, 10,000 and 100,000 URLs, each once: is the time of an image the same?"""
    (image,) = made_images(folder, 1, _BYTES)
    sizes = [size // _QUICK_PART for size in _SIZES] if options.quick else _SIZES
    options = argparse.Namespace(**{**vars(options), "starts": 1})
    runs = {
        size: _measured(options, folder, candidates, [[_url(image, n) for n in range(size)]])
        for size in sizes
    }
    least, largest = sizes[0], sizes[-1]
    few, many = runs[sizes[-2]], runs[largest]
    times = " | ".join(f"{size:,}" for size in sizes)
    memory = " | ".join(f"memory at {size:,}" for size in sizes)
    old = " | time, of the old commit's | memory, of the old commit's" * (len(candidates) > 2)
    _print_header(
        f"one job of images of 2 kB | {times} | time of an image at {largest:,}, of {least:,} "
        f"| {memory} | memory a URL | status p99 meanwhile{old}"
    )
    for name in candidates:
        cells = [name, *(f"{_seconds(runs[size][name]):.2f} s" for size in sizes)]
        first = _seconds(runs[least][name]) / least
        cells.append(f"{_seconds(many[name]) / largest / first:.2f}")
        cells += [f"{_peak(runs[size][name]) / 1e6:.0f} MB" for size in sizes]
        grown = (_peak(many[name]) - _peak(few[name])) / (largest - sizes[-2])
        cells += [f"{grown:,.0f} bytes", _p99(many[name])]
        cells += [_ratio(each, many, name) for each in (_seconds, _peak) if old]
        print(f"| {' | '.join(cells)} |")
    print()


def measure_jobs(options: argparse.Namespace, folder: Path, candidates: Candidates) -> None:
    """Jobs of one URL beside one job of as many URLs; a small job beside a job of 100,000."""
    (image,) = made_images(folder, 1, _BYTES)
    count = _MANY // _QUICK_PART if options.quick else _MANY
    one = _measured(options, folder, candidates, [[_url(image, n) for n in range(count)]])
    many = _measured(options, folder, candidates, [[_url(image, n)] for n in range(count)])
    old = " | time, of the old commit's | memory, of the old commit's" * (len(candidates) > 2)
    _print_header(
        f"images of 2 kB, {counted(options.starts, 'start')} | one job of {count:,} "
        f"| {count:,} jobs of one | images/s of these, of the one's "
        "| CPU per image in the one | CPU per job "
        f"| peak memory | status p99 meanwhile{old}"
    )
    for name in candidates:
        parts = [_seconds(o) / _seconds(m) for o, m in _pairs(one[name], many[name])]
        cells = [name, f"{_seconds(one[name]):.2f} s", f"{_seconds(many[name]):.2f} s"]
        cells.append(f"{statistics.median(parts):.2f} ({min(parts):.2f} to {max(parts):.2f})")
        cells += [f"{1000 * _cpu(run[name]) / count:.2f} ms" for run in (one, many)]
        cells += [f"{_peak(many[name]) / 1e6:.0f} MB", _p99(many[name])]
        cells += [_ratio(each, many, name) for each in (_seconds, _peak) if old]
        print(f"| {' | '.join(cells)} |")
    print()
    _measure_small_jobs(options, folder, candidates, image)


def _measure_small_jobs(
    options: argparse.Namespace, folder: Path, candidates: Candidates, image: str
) -> None:
    """Jobs of one URL, alone and beside a job of 100,000, which is not waited for."""
    count = _SMALL_JOBS // 10 if options.quick else _SMALL_JOBS
    alone: dict[str, list[float]] = {name: [] for name in candidates}
    beside: dict[str, list[float]] = {name: [] for name in candidates}
    for start in range(options.starts):
        for number, (name, candidate) in enumerate(candidates.items()):
            work = made(folder / f"small-{start}-{number}")
            with _running(options, work, name, candidate, Answers()) as (servers, service):
                small = servers.urls([_url(image, n) for n in range(count)])
                alone[name] += service.measure_jobs_of_one(small)
                service.post([servers.urls([_url(image, -n) for n in range(1, _SIZES[-1])])])
                beside[name] += service.measure_jobs_of_one(small)
                if not service.pending():
                    raise BenchError("The large job ended before the small ones.")
            say(f"start {start + 1}: {count} small jobs beside a large one by {name}")
    _print_header(
        f"a job of one URL until its end, p50/p99 of {options.starts * count} | alone "
        f"| beside a job of {_SIZES[-1]:,} | ratio"
    )
    for name in candidates:
        times = [percentiles(each[name]) for each in (alone, beside)]
        cells = [f"{p50:.1f}/{p99:.1f} ms" for p50, p99 in times]
        ratio = "/".join(f"{two / one:.2f}" for one, two in zip(*times, strict=True))
        print(f"| {name} | {' | '.join(cells)} | {ratio} |")
    print()


def _measured(
    options: argparse.Namespace,
    folder: Path,
    candidates: Candidates,
    jobs: Sequence[Sequence[str]],
) -> Runs:
    """These jobs by each candidate, in a process of its own: a peak is a process's."""
    runs: dict[str, list[tuple[Usage, Answers]]] = {name: [] for name in candidates}
    images = sum(map(len, jobs))
    for start in range(options.starts):
        for number, (name, candidate) in enumerate(candidates.items()):
            work = made(folder / f"scale-{len(jobs)}-{images}-{start}-{number}")
            answers = Answers()
            with _running(options, work, name, candidate, answers) as (servers, service):
                usage = service.load_all([servers.urls(names) for names in jobs])
                servers.uploads(name, images + 1, _BYTES)
            say(
                f"start {start + 1}: {usage.seconds:.2f} s for {images:,} images "
                f"in {counted(len(jobs), 'job')} by {name}"
            )
            runs[name].append((usage, answers))
    return runs


@contextmanager
def _running(
    options: argparse.Namespace, work: Path, name: str, candidate: Candidate, answers: Answers
) -> Iterator[tuple[Servers, Service]]:
    """A service and its servers; `work` is a new folder beside the images."""
    images = work.parent / "images"
    with running_servers(made(work / "nginx"), images, [name], _BYTES) as servers:
        sink = servers.imgur(name)
        with running_service(candidate, work, sink, options.wide, answers) as service:
            (url,) = servers.urls([next(images.iterdir()).name])
            service.warm_up(url)
            yield servers, service


def _url(image: str, number: int) -> str:
    """The name of `image` as another file: nginx sends the same one."""
    return f"{image}?{number}"


def _print_header(columns: str) -> None:
    print(f"| {columns} |", "| --- " + "| ---: " * columns.count(" | ") + "|", sep="\n")


def _pairs(one: Run, other: Run) -> Iterator[tuple[Run, Run]]:
    """The runs of both in each start."""
    return (([a], [b]) for a, b in zip(one, other, strict=True))


def _ratio(value: Callable[[Run], float], runs: Runs, name: str) -> str:
    """`value` to that of the old commit, with a journal or without as this candidate."""
    names = [*runs]
    other = names[2 + names.index(name) % 2]
    return f"{value(runs[name]) / value(runs[other]):.2f}"


def _p99(run: Run) -> str:
    seconds = [each for _, answers in run for each in answers.small_job_seconds]
    return f"{percentiles(seconds)[1]:.1f} ms" if seconds else "-"


def _seconds(run: Run) -> float:
    return statistics.median(usage.seconds for usage, _ in run)


def _cpu(run: Run) -> float:
    return statistics.median(usage.cpu_seconds for usage, _ in run)


def _peak(run: Run) -> float:
    return max(usage.peak_bytes for usage, _ in run)
