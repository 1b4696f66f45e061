"""Jobs and quotas in lines for people; programs ask for `--format=json`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from imageload.cli.follow import waiting_text
from imageload.cli.printable import by_our_clock
from imageload.cli.source import Entry


def of_job(entry: Entry) -> Iterator[str]:
    """A job in a few lines."""
    counts = entry["counts"]
    yield f"job {entry['job_id']}, created {by_our_clock(entry['created'])}: {entry['status']}"
    yield (
        f"{counts['completed']:,} of {counts['total']:,} landed, {counts['failed']:,} failed, "
        f"{counts['pending']:,} pending"
    )
    if counts.get("maybe_duplicate"):
        yield f"{counts['maybe_duplicate']:,} may be on Imgur twice"
    if waiting := waiting_text(entry):
        yield waiting
    if album := entry.get("album"):
        yield album_text(album)


def album_text(album: dict[str, Any]) -> str:
    """What has become of an album."""
    error, link = album["error"], album["link"]
    return f"album {album['title']!r}: {error['message'] if error else link or 'not made yet'}"


def of_jobs(entries: Sequence[Entry]) -> Iterator[str]:
    """A line for each job, under a heading."""
    row = "{:36}  {:20}  {:11}  {:>7}  {:>7}  {:>7}".format
    yield row("JOB", "CREATED", "STATUS", "LANDED", "FAILED", "TOTAL")
    for entry in entries:
        counts = [entry["counts"][name] for name in ("completed", "failed", "total")]
        yield row(entry["job_id"], entry["created"], entry["status"], *counts)


def of_quota(state: dict[str, Any]) -> Iterator[str]:
    """What waits, and a line for each of Imgur's budgets."""
    yield waiting_text(state) or "Nothing keeps uploads waiting."
    if state.get("reason"):
        yield f"Imgur's reason: {state['reason']}"
    done_at = state["pending"] and state["done_at"]
    done = f"; all done at {by_our_clock(done_at)}" if done_at else ""
    yield f"{state['pending']:,} images pending, {state['parked']:,} of them parked{done}"
    row = "{:>6}  {:7}  {:>9}  {:>7}  {}".format
    yield row("CLIENT", "BUDGET", "REMAINING", "LIMIT", "RESETS")
    for budget in state["budgets"]:
        names = ("client", "budget", "remaining", "limit", "resets_at")
        yield row(*("-" if budget[name] is None else str(budget[name]) for name in names))
