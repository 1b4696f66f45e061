"""How the service scales: one job of many URLs, and many jobs of one URL."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.process import Usage
from bench.servers import running_servers
from bench.service import Answers, running_service
from bench.speed import made, made_images, say
from bench.table import percentiles
from bench.trees import Candidate

_BYTES = 2_000
_SHORT, _LONG, _MANY = 10_000, 100_000, 10_000
_QUICK = 50

Run = Sequence[tuple[Usage, Answers]]
Runs = Mapping[str, Run]


def measure_long(
    options: argparse.Namespace, folder: Path, candidates: Mapping[str, Candidate]
) -> None:
    """One job of 100,000 URLs beside one of 10,000: is the time of an image the same?"""
    part = _QUICK if options.quick else 1
    short, long = _SHORT // part, _LONG // part
    (image,) = made_images(folder, 1, _BYTES)
    both = {
        count: _measured(options, folder, candidates, image, [count]) for count in (short, long)
    }
    _print_header(
        f"one job of small URLs | {short:,} | {long:,} | time of an image in the long one "
        "| of the old commit's | peak memory | of the old commit's | status p99 | bytes a URL"
    )
    for name in candidates:
        few, many = both[short][name], both[long][name]
        linear = _seconds(many) / long / (_seconds(few) / short)
        print(
            f"| {name} | {_seconds(few):.1f} s | {_seconds(many):.1f} s | {linear:.2f} of linear "
            f"| {_ratio(_seconds, both[long], name)} | {_costs(both[long], name)} "
            f"| {(_peak(many) - _peak(few)) / (long - short):,.0f} |"
        )


def measure_many(
    options: argparse.Namespace, folder: Path, candidates: Mapping[str, Candidate]
) -> None:
    """10,000 jobs of one URL: the time from the first POST to the last end."""
    count = _MANY // _QUICK if options.quick else _MANY
    (image,) = made_images(folder, 1, _BYTES)
    runs = _measured(options, folder, candidates, image, [1] * count)
    _print_header(
        f"{count:,} jobs of one URL | total | of the old commit's | CPU per job "
        "| peak memory | of the old commit's | status p99"
    )
    for name in candidates:
        cpu = statistics.median(usage.cpu_seconds for usage, _ in runs[name])
        print(
            f"| {name} | {_seconds(runs[name]):.1f} s | {_ratio(_seconds, runs, name)} "
            f"| {1000 * cpu / count:.2f} ms | {_costs(runs, name)} |"
        )


def _measured(
    options: argparse.Namespace,
    folder: Path,
    candidates: Mapping[str, Candidate],
    image: str,
    sizes: Sequence[int],
) -> Runs:
    """Jobs of these sizes by each candidate, in a process of its own: a peak is a process's."""
    runs: dict[str, list[tuple[Usage, Answers]]] = {name: [] for name in candidates}
    jobs = [[f"{image}?{n}-{m}" for m in range(size)] for n, size in enumerate(sizes)]
    images = sum(sizes)
    for start in range(options.starts):
        for number, (name, candidate) in enumerate(candidates.items()):
            work = made(folder / f"scale-{images}-{start}-{number}")
            answers = Answers()
            with (
                running_servers(made(work / "nginx"), folder / "images", [name], _BYTES) as servers,
                running_service(
                    candidate, work, servers.origin, servers.imgur(name), options.wide, answers
                ) as service,
            ):
                service.warm_up(image)
                usage = service.load_all(jobs)
                servers.uploads(name, images + 1, _BYTES)
            say(f"start {start + 1}: {usage.seconds:.1f} s for {images:,} images by {name}")
            runs[name].append((usage, answers))
    return runs


def _print_header(columns: str) -> None:
    print(f"| {columns} |", "| --- " + "| ---: " * columns.count("|") + "|", sep="\n")


def _costs(runs: Runs, name: str) -> str:
    """Peak memory, its ratio, and the p99 of the small job's status meanwhile."""
    seconds = [each for _, answers in runs[name] for each in answers.small_job_seconds]
    p99 = f"{percentiles(seconds)[1]:.1f} ms" if seconds else "-"
    return f"{_peak(runs[name]) / 1e6:.0f} MB | {_ratio(_peak, runs, name)} | {p99}"


def _ratio(value: Callable[[Run], float], runs: Runs, name: str) -> str:
    """`value` to that of the old commit, with a journal or without as this candidate."""
    names = [*runs]
    if len(names) < 3:
        return "-"
    other = names[2 + names.index(name) % 2]
    return f"{value(runs[name]) / value(runs[other]):.2f}"


def _seconds(run: Run) -> float:
    return statistics.median(usage.seconds for usage, _ in run)


def _peak(run: Run) -> float:
    return max(usage.peak_bytes for usage, _ in run)
