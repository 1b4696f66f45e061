"""How the service scales: one job of many URLs, and many jobs of one URL."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.process import Usage
from bench.servers import running_servers
from bench.service import Answers, running_service
from bench.speed import made, made_images, say, uploads_seen
from bench.table import percentiles
from bench.trees import Candidate

_BYTES = 2_000
_SHORT, _LONG, _MANY = 10_000, 100_000, 10_000
_QUICK = 50

Runs = Mapping[str, Sequence[tuple[Usage, Answers]]]


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
    print(
        f"| one job of small URLs | {short:,} | {long:,} | time of an image in the long one "
        "| of the old commit's | peak memory | bytes a URL | of the old commit's | status p99 |",
        "| --- " + "| ---: " * 8 + "|",
        sep="\n",
    )
    for name in candidates:
        few, many = both[short][name], both[long][name]
        linear = _median_seconds(many) / long / (_median_seconds(few) / short)
        grown = max(each.peak_bytes for each, _ in many) - max(each.peak_bytes for each, _ in few)
        other = _other(name, candidates)
        print(
            f"| {name} | {_median_seconds(few):.1f} s | {_median_seconds(many):.1f} s "
            f"| {linear:.2f} of linear | {_seconds_ratio(both[long], name, other)} "
            f"| {max(each.peak_bytes for each, _ in many) / 1e6:.0f} MB "
            f"| {grown / (long - short):,.0f} | {_peak_ratio(both[long], name, other)} "
            f"| {_p99(many)} |"
        )


def measure_many(
    options: argparse.Namespace, folder: Path, candidates: Mapping[str, Candidate]
) -> None:
    """10,000 jobs of one URL: the time from the first POST to the last end."""
    count = _MANY // _QUICK if options.quick else _MANY
    (image,) = made_images(folder, 1, _BYTES)
    runs = _measured(options, folder, candidates, image, [1] * count)
    print(
        f"| {count:,} jobs of one URL | total | of the old commit's | CPU per job | peak memory "
        "| of the old commit's | status p99 |",
        "| --- " + "| ---: " * 6 + "|",
        sep="\n",
    )
    for name in candidates:
        other = _other(name, candidates)
        cpu = statistics.median(each.cpu_seconds for each, _ in runs[name])
        print(
            f"| {name} | {_median_seconds(runs[name]):.1f} s "
            f"| {_seconds_ratio(runs, name, other)} | {1000 * cpu / count:.2f} ms "
            f"| {max(each.peak_bytes for each, _ in runs[name]) / 1e6:.0f} MB "
            f"| {_peak_ratio(runs, name, other)} | {_p99(runs[name])} |"
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
                uploads_seen(servers, name, images + 1, _BYTES)
            say(f"start {start + 1}: {usage.seconds:.1f} s for {images:,} images by {name}")
            runs[name].append((usage, answers))
    return runs


def _other(name: str, candidates: Mapping[str, Candidate]) -> str:
    """The candidate that this one is compared with: the old commit's, with a journal or without."""
    names = [*candidates]
    return names[2 + names.index(name) % 2] if len(names) > 2 else ""


def _median_seconds(runs: Sequence[tuple[Usage, Answers]]) -> float:
    return statistics.median(usage.seconds for usage, _ in runs)


def _seconds_ratio(runs: Runs, name: str, other: str) -> str:
    if not other:
        return "-"
    return f"{_median_seconds(runs[name]) / _median_seconds(runs[other]):.2f}"


def _peak_ratio(runs: Runs, name: str, other: str) -> str:
    if not other:
        return "-"
    mine, theirs = (max(usage.peak_bytes for usage, _ in runs[each]) for each in (name, other))
    return f"{mine / theirs:.2f}"


def _p99(runs: Sequence[tuple[Usage, Answers]]) -> str:
    seconds = [each for _, answers in runs for each in answers.small_job_seconds]
    return f"{percentiles(seconds)[1]:.1f} ms" if seconds else "-"
