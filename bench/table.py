"""What was measured, as Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from bench.process import Usage


def speed_table(title: str, usages: Mapping[str, Sequence[Usage]], beside: str) -> str:
    """A row for each way: medians over its rounds, and its ratio to the way `beside`.

    A ratio is that of two runs of one round; the median of them, and the least and the largest.
    """
    lines = [
        f"| {title} | images/s | of curl's | CPU per image | peak memory |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, runs in usages.items():
        ratios = [_rate(one) / _rate(two) for one, two in zip(runs, usages[beside], strict=True)]
        ratio = f"{statistics.median(ratios):.2f}"
        if name != beside and len(ratios) > 1:
            ratio += f" ({min(ratios):.2f} to {max(ratios):.2f})"
        rate = statistics.median(map(_rate, runs))
        cpu_ms = statistics.median(1000 * each.cpu_seconds / each.images for each in runs)
        peak_mb = max(each.peak_bytes for each in runs) / 1e6
        lines.append(f"| {name} | {rate:,.0f} | {ratio} | {cpu_ms:.2f} ms | {peak_mb:.0f} MB |")
    return "\n".join(lines)


def ratio_line(name: str, beside: str, usages: Mapping[str, Sequence[Usage]], rounds: int) -> str:
    """How fast `name` is beside another: the mean over the starts, and the median of each."""
    pairs = zip(usages[name], usages[beside], strict=True)
    ratios = [_rate(one) / _rate(two) for one, two in pairs]
    starts = [
        statistics.median(ratios[first : first + rounds]) for first in range(0, len(ratios), rounds)
    ]
    each = ", ".join(f"{ratio:.2f}" for ratio in starts)
    return (
        f"{name}: {statistics.mean(starts):.2f} of the images/s of {beside} "
        f"(by start: {each}; rounds: {min(ratios):.2f} to {max(ratios):.2f})"
    )


def latency_table(rows: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> str:
    """A row for each call: its name, seconds of its answers while idle, and at work."""
    lines = ["| status GETs and POSTs, p50/p99 in ms | idle | at work |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {_spread(idle)} | {_spread(busy)} |" for name, idle, busy in rows]
    return "\n".join(lines)


def _rate(usage: Usage) -> float:
    return usage.images / usage.seconds


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    ordered = sorted(seconds)
    p50, p99 = (1000 * ordered[math.ceil(len(ordered) * part) - 1] for part in (0.5, 0.99))
    return f"{p50:.1f}/{p99:.1f} ({len(ordered):,} of them)"
