"""Following jobs to their end, also where the service is away for a while.

It asks for the jobs' entries, which are small, every second at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from imageload.cli.printable import by_our_clock
from imageload.cli.screen import Progress, Screen
from imageload.cli.source import Away, Busy, Entry, Record, Source

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_FIRST_AWAY, _LONGEST_AWAY = 0.25, 5.0

_WAITS = {
    "user": "Imgur's hourly budget of this address or account",
    "client": "Imgur's daily budget of the client id",
    "posts": "Imgur's budget of uploads",
    "blocked": "Imgur, which refuses us",
    "unavailable": "Imgur, which is out of order",
    "credentials": "credentials that Imgur takes",
}


def follow(
    source: Source,
    job_ids: Sequence[str],
    screen: Screen,
    *,
    patience: float,
    view: Callable[[Sequence[Entry]], Progress] = Progress.of,
) -> None:
    """Return once the jobs are finished; shows how far they are until then.

    Raises Away where the service gives no answer for `patience` seconds.
    """
    pause, waiting = _FIRST_PAUSE, ""
    while True:
        entries = patiently(lambda: source.entries(job_ids), screen.say, patience=patience)
        finished = all(entry["finished"] for entry in entries)
        was, waiting = waiting, next(filter(None, map(waiting_text, entries)), "")
        screen.show(view(entries), finished=finished, waits=bool(waiting))
        if finished:
            return
        if waiting != was:
            screen.say(waiting or "The wait is over.")
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 1.3)


def waiting_text(entry: Entry) -> str:
    """What the job waits for and until when; empty where it does not wait."""
    what = entry.get("waiting_for")
    if not what:
        return ""
    until = entry.get("waiting_until")
    return (
        f"Waiting for {_WAITS.get(what, what)}{f', until {by_our_clock(until)}' if until else ''}."
    )


def records_of(
    source: Source,
    job_id: str,
    say: Callable[[str], None],
    *,
    patience: float,
    state: str | None = None,
) -> Iterator[Record]:
    """Every record of the job, or those in `state`, in input order."""
    after: str | None = None
    while True:
        start = after
        page = patiently(
            lambda: source.records(job_id, state=state, after=start),  # noqa: B023 - called at once
            say,
            patience=patience,
        )
        yield from page.records
        after = page.after
        if after is None:
            return


def patiently(ask: Callable[[], T], say: Callable[[str], None], *, patience: float) -> T:
    """What `ask` gives; asked again for `patience` seconds while the service is away.

    Says so when it goes and when it is back. Raises the last Away when the time is over.
    """
    deadline: float | None = None
    pause = _FIRST_AWAY
    while True:
        try:
            value = ask()
        except Away as away:
            now = time.monotonic()
            if deadline is None:
                deadline = now + patience
                if patience:
                    say(f"{away} Trying again for {patience:g} s.")
            wait = max(pause, away.retry_after if isinstance(away, Busy) else 0.0)
            if now >= deadline:
                raise
            time.sleep(min(wait, deadline - now))
            pause = min(_LONGEST_AWAY, pause * 1.5)
        else:
            if deadline is not None:
                say("The service answers again.")
            return value
