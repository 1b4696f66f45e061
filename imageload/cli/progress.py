"""Follow jobs until they are finished, and show their progress on stderr.

It polls the small entries of the jobs, at most once a second. A terminal gets a live bar, drawn by
rich (the extra `cli`); without rich, and in a pipe, there are plain lines.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

from imageload.cli.client import Client
from imageload.cli.output import Entry, print_message, waiting_text

LINE_SECONDS = 5.0
"""The shortest time between two plain lines of progress."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0


class Progress(NamedTuple):
    """The number of images that are done, over all jobs followed."""

    total: int
    done: int
    failed: int = 0
    done_word: str = "landed"

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Progress:
        """The sum over these jobs."""
        names = ("total", "completed", "failed")
        return cls(*(sum(entry["counts"][name] for entry in entries) for name in names))

    def __str__(self) -> str:
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{self.done:,} of {self.total:,} {self.done_word}{failed}"


class Lines:
    """Plain lines: at the beginning, every LINE_SECONDS at most, and at the end."""

    def __init__(self) -> None:
        self._shown: tuple[Progress, bool] | None = None
        self._next = 0.0

    def show(self, progress: Progress, *, finished: bool, waits: bool) -> None:  # noqa: ARG002
        """Write a line if progress has changed and the last line is old enough."""
        now, shown = time.monotonic(), (progress, finished)
        if progress.total and self._shown != shown and (finished or now >= self._next):
            self._shown, self._next = shown, now + LINE_SECONDS
            print_message(str(progress))


class Bar:
    """A live bar. It is shown while `bar` is open; messages appear above it."""

    def __init__(self) -> None:
        """Raises ImportError without rich."""
        from rich import console, progress  # imported here: it takes part of a second

        self.bar = progress.Progress(
            progress.BarColumn(complete_style="green", finished_style="green"),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.description}", markup=False, style="red"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[left]}", markup=False, style="cyan"),
            console=console.Console(stderr=True, highlight=False),
        )
        self._task = self.bar.add_task("", total=None, left="")

    def show(self, progress: Progress, *, finished: bool, waits: bool) -> None:
        """Move the bar, with an estimate of the time left unless the jobs wait for Imgur."""
        self.bar.update(
            self._task,
            total=progress.total,
            completed=progress.done + progress.failed,
            description=f"{progress.failed:,} failed" if progress.failed else "",
        )
        seconds = self.bar.tasks[0].time_remaining
        left = f"{timedelta(seconds=round(seconds))} left" if seconds else ""
        left = "" if finished else "waiting" if waits else left
        self.bar.update(self._task, left=left, refresh=True)


@contextlib.contextmanager
def open_screen() -> Iterator[Lines | Bar]:
    """A Bar if stderr is a terminal and rich is installed, else Lines."""
    bar: Bar | None = None
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb"):
        with contextlib.suppress(ImportError):
            bar = Bar()
    if bar is None:
        yield Lines()
        return
    with bar.bar:
        yield bar


def follow(
    client: Client,
    job_ids: Sequence[str],
    view: Callable[[Sequence[Entry]], Progress] = Progress.of,
) -> None:
    """Show the jobs' progress until all are finished. Raises Away if the service goes away."""
    for entries in poll(client, lambda: job_ids, view):
        if all(entry["finished"] for entry in entries):
            return


def poll(
    client: Client,
    job_ids: Callable[[], Sequence[str]],
    view: Callable[[Sequence[Entry]], Progress],
    more: Callable[[], object] = lambda: False,
) -> Iterator[Sequence[Entry]]:
    """The entries of the jobs, again and again, and their progress on stderr.

    `job_ids` is called each time; it ends when there are none. `more` is true if others follow
    these. Raises Away if the service goes away.
    """
    pause, waiting = _FIRST_PAUSE, ""
    with open_screen() as screen:
        asked = job_ids()
        while asked:
            entries = client.entries(asked)
            finished = all(entry["finished"] for entry in entries) and not more()
            was, waiting = waiting, next(filter(None, map(waiting_text, entries)), "")
            screen.show(view(entries), finished=finished, waits=bool(waiting))
            yield entries
            if waiting != was:
                print_message(waiting or "The wait is over.")
            asked = job_ids()
            if asked:
                time.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 1.3)
