"""What a person sees while a job runs, on stderr: a live bar on a terminal, plain lines elsewhere.

The bar is drawn by rich, from the extra `cli`; without it, there are lines on a terminal too.
Colours are rich's affair: none with NO_COLOR.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple, Protocol

from imageload.cli.printable import printable, tell
from imageload.cli.source import Entry

LINE_SECONDS = 5.0
"""A plain line tells of progress at most this often: pipes end in logs."""


class Progress(NamedTuple):
    """How far some images have come, all in all."""

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


class Screen(Protocol):
    """Shows how far it is, and says in a line what else there is to say."""

    def show(self, progress: Progress, *, finished: bool, waits: bool = False) -> None:
        """Show `progress`; `waits`: nothing will come of it for a while."""

    def say(self, text: str) -> None:
        """Say `text`, which stays."""


class Lines:
    """Plain lines: when it begins, now and then, and when it ends."""

    def __init__(self) -> None:
        self._shown: tuple[Progress, bool] | None = None
        self._next = 0.0

    def show(
        self,
        progress: Progress,
        *,
        finished: bool,
        waits: bool = False,  # noqa: ARG002 - a line has said so
    ) -> None:
        """Write a line where there is news and the last one is some time ago."""
        now = time.monotonic()
        if self._shown != (progress, finished) and (finished or now >= self._next):
            self._shown, self._next = (progress, finished), now + LINE_SECONDS
            self.say(str(progress))

    def say(self, text: str) -> None:
        """Write a line."""
        tell(text)


class Bar:
    """A live bar; what is said stands above it."""

    def __init__(self) -> None:
        """Raises ImportError without rich."""
        from rich import console, progress  # a second's fraction that lines need not wait for

        self._bar = progress.Progress(
            progress.BarColumn(complete_style="green", finished_style="green"),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.description}", markup=False, style="red"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[left]}", markup=False, style="cyan"),
            console=console.Console(stderr=True, highlight=False),
        )
        self._task = self._bar.add_task("", total=None, left="")

    def show(self, progress: Progress, *, finished: bool, waits: bool = False) -> None:
        """Move the bar. How long it takes can be said only while it moves."""
        self._bar.update(
            self._task,
            total=progress.total,
            completed=progress.done + progress.failed,
            description=f"{progress.failed:,} failed" if progress.failed else "",
        )
        seconds = self._bar.tasks[0].time_remaining
        left = f"{timedelta(seconds=round(seconds))} left" if seconds else ""
        left = "" if finished else "waiting" if waits else left
        self._bar.update(self._task, left=left, refresh=True)

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        self._bar.console.print(f"imageload: {printable(text)}", markup=False, soft_wrap=True)

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


@contextlib.contextmanager
def open_screen() -> Iterator[Screen]:
    """The screen that stderr allows."""
    bar: Bar | None = None
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb"):
        with contextlib.suppress(ImportError):
            bar = Bar()
    if bar is None:
        yield Lines()
        return
    with bar:
        yield bar
