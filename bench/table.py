"""The measurements as Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from bench.process import Usage

Beside = Mapping[str, str]
"""From a row's name to the name of the row that it is compared with."""


def speed_table(
    title: str, usages: Mapping[str, Sequence[Usage]], beside: Beside, whose: str
) -> str:
    """A row for each way: medians over its rounds, and ratios to `whose` row.

    Shown are the median, the least and the largest. A ratio compares two runs of one round.
    """
    lines = [
        f"| {title} | images/s | of {whose} | CPU per image | of {whose} | peak memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, runs in usages.items():
        others = usages[beside[name]] if name in beside else ()
        rates = [rate_of(each) for each in runs]
        cpu_ms = 1000 * statistics.median(map(_cpu, runs))
        peak_mb = max(each.peak_bytes for each in runs) / 1e6
        lines.append(
            f"| {name} | {_middle(rates)} | {_ratio(rate_of, runs, others)} "
            f"| {cpu_ms:.2f} ms | {_ratio(_cpu, runs, others)} | {peak_mb:.0f} MB |"
        )
    return "\n".join(lines)


def ratio_line(name: str, beside: str, usages: Mapping[str, Sequence[Usage]], rounds: int) -> str:
    """How fast `name` is beside another: the mean over the starts, and the median of each."""
    pairs = zip(usages[name], usages[beside], strict=True)
    ratios = [rate_of(one) / rate_of(two) for one, two in pairs]
    starts = [
        statistics.median(ratios[first : first + rounds]) for first in range(0, len(ratios), rounds)
    ]
    each = ", ".join(f"{ratio:.2f}" for ratio in starts)
    return (
        f"{name}: {statistics.mean(starts):.2f} of the images/s of {beside} "
        f"(by start: {each}; rounds: {min(ratios):.2f} to {max(ratios):.2f})"
    )


def latency_table(
    rows: Mapping[tuple[str, str], tuple[Sequence[float], Sequence[float]]], beside: Beside
) -> str:
    """A row for each (service, call): seconds of its responses while idle, and at work.

    The ratios, p50/p99, are to the same call of the service that it is compared with.
    """
    lines = [
        "| status GETs and POSTs, p50/p99 in ms | idle | ratio | at work | ratio |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for (name, call), both in rows.items():
        others = rows.get((beside.get(name, ""), call), ((), ()))
        cells = [
            cell
            for seconds, other in zip(both, others, strict=True)
            for cell in (_spread(seconds), _spread_ratio(seconds, other))
        ]
        lines.append(f"| {name}: {call} | {' | '.join(cells)} |")
    return "\n".join(lines)


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """p50 and p99, in milliseconds."""
    ordered = sorted(seconds)
    p50, p99 = (1000 * ordered[math.ceil(len(ordered) * part) - 1] for part in (0.5, 0.99))
    return p50, p99


def rate_of(usage: Usage) -> float:
    """Images a second."""
    return usage.images / usage.seconds


def _middle(rates: Sequence[float]) -> str:
    """The median, the least and the largest of some rates."""
    places = 0 if min(rates) >= 100 else 1
    spread = f" ({min(rates):,.{places}f} to {max(rates):,.{places}f})" if len(rates) > 1 else ""
    return f"{statistics.median(rates):,.{places}f}{spread}"


def _cpu(usage: Usage) -> float:
    return usage.cpu_seconds / usage.images


def _ratio(value: Callable[[Usage], float], runs: Sequence[Usage], others: Sequence[Usage]) -> str:
    if not others or others is runs:
        return "1.00" if others else "-"
    # The clock of CPU time ticks every 10 ms, so a short run may have used none.
    ratios = [value(one) / max(value(two), 1e-9) for one, two in zip(runs, others, strict=True)]
    spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.2f}{spread}"


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    p50, p99 = percentiles(seconds)
    return f"{p50:.1f}/{p99:.1f} ({len(seconds):,} of them)"


def _spread_ratio(seconds: Sequence[float], others: Sequence[float]) -> str:
    if not seconds or not others:
        return "-"
    pairs = zip(percentiles(seconds), percentiles(others), strict=True)
    return "/".join(f"{one / two:.2f}" for one, two in pairs)
