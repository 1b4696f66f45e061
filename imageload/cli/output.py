"""Text of the command line: links in six formats, tables, and messages.

`csv` and `json` list every image, failed ones too; the other formats list links. The order is that
of the input. URLs may hold control characters, which could move the cursor or fake a link, so a
terminal gets them escaped.
"""

from __future__ import annotations

import csv
import html
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, TextIO
from urllib.parse import unquote, urlsplit

from imageload.escapes import escape_controls

Entry = dict[str, Any]
"""A job as in the list of jobs."""

Record = dict[str, Any]
"""An image as in the images page."""

_MARKDOWN_ESCAPES = str.maketrans({c: f"\\{c}" for c in "\\[]<>`"})
_LINK_ESCAPES = str.maketrans({c: f"%{ord(c):02X}" for c in " ()<>[]\"'"})
_LISTED_OF_A_REASON = 3

WAITS = {
    "user": "Imgur's hourly budget of this address or account",
    "client": "Imgur's daily budget of the client id",
    "month": "Imgur, which may have blocked the client id for the rest of the month",
    "posts": "Imgur's budget of uploads",
    "blocked": "Imgur, which has blocked this address or client id",
    "blocked_id": "Imgur, which refuses this client id",
    "blocked_address": "Imgur, which refuses this address",
    "unavailable": "the target, which is unavailable",
    "credentials": "valid credentials",
    "unasked": "Imgur's limits, which the service is asking for",
    "throttled": "the target, which accepts fewer requests at the moment",
    "lease": "a client id, which another node has at the moment",
}
"""How users read each reason of a wait."""


def local_time(text: str) -> str:
    """An RFC 3339 time in the local time zone, with its date unless that is today."""
    moment = datetime.fromisoformat(text).astimezone()
    is_today = moment.date() == datetime.now().astimezone().date()
    return f"{moment:%H:%M:%S %Z}" if is_today else f"{moment:%Y-%m-%d %H:%M:%S %Z}"


def print_message(text: str) -> None:
    """Write a line to stderr that begins with our name."""
    print(f"imageload: {escape_controls(text)}", file=sys.stderr, flush=True)


def print_lines(lines: Iterable[str]) -> None:
    """Write lines to stdout, escaped."""
    for line in lines:
        print(escape_controls(line))


def count_of(number: int, thing: str) -> str:
    """A number of things: `1 image`, `2 images`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


# links


def write(records: Iterable[Record], form: str, stream: TextIO) -> None:
    """Write `records` in the format `form`, escaped if `stream` is a terminal."""
    safe = escape_controls if stream.isatty() else str
    for line in FORMATS[form](records):
        print(safe(line), file=stream)


def _landed(text: Callable[[Record], str]) -> Callable[[Iterable[Record]], Iterator[str]]:
    """The `text` of each image that has a link."""
    return lambda records: (text(record) for record in records if record["link"])


def _markdown(record: Record) -> str:
    name = _name(record).translate(_MARKDOWN_ESCAPES)
    return f"![{name}]({record['link'].translate(_LINK_ESCAPES)})"


def _bbcode(record: Record) -> str:
    return f"[img]{record['link'].translate(_LINK_ESCAPES)}[/img]"


def _html(record: Record) -> str:
    return f'<img src="{html.escape(record["link"])}" alt="{html.escape(_name(record))}">'


def _csv(records: Iterable[Record]) -> Iterator[str]:
    yield _csv_row("url", "link", "error")
    for record in records:
        error = record["error"]["code"] if record["error"] else ""
        yield _csv_row(record["url"], record["link"] or "", error)


def _csv_row(*values: str) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def _json(records: Iterable[Record]) -> Iterator[str]:
    before = "["
    for record in records:
        yield before + json.dumps(record)
        before = ","
    yield "]" if before == "," else "[]"


def _name(record: Record) -> str:
    """The image's alternative text: its title, else its file name."""
    title = record.get("title")
    if not title:
        try:
            path = urlsplit(record["url"] or record["link"]).path
            title = unquote(path.rpartition("/")[2])
        except ValueError:
            title = ""
    return " ".join(title.split()) or "image"


FORMATS: dict[str, Callable[[Iterable[Record]], Iterator[str]]] = {
    "text": _landed(itemgetter("link")),
    "markdown": _landed(_markdown),
    "bbcode": _landed(_bbcode),
    "html": _landed(_html),
    "csv": _csv,
    "json": _json,
}


# failures


_ASKED_FOR = {"cancelled": "cancelled", "purged": "deleted"}
"""By their code, the images that failed as somebody wanted it: with the web page's words."""


def failure_lines(failed: Iterable[Record], *, every_url: bool = False) -> Iterator[str]:
    """Failures by reason. A reason of more than three images is one line, and three of the URLs.

    With `every_url` all URLs follow it. Cancelled and deleted images come last, as such.
    """
    by_word: dict[str, list[tuple[tuple[str, str], str]]] = {"failed": []}
    for record in failed:
        code, message = _reason(record["error"])
        word = _ASKED_FOR.get(code, "failed")
        reason = (code if word == "failed" else "", message)
        by_word.setdefault(word, []).append((reason, record["url"]))
    for word, reasons in by_word.items():
        yield from lines_by_reason(word, "images", reasons, every=every_url)


def kept_lines(word: str, things: str, kept: Iterable[Record]) -> Iterator[str]:
    """Links that stay, by the reason of their `error`, and `word`, as `not deleted`."""
    reasons = ((_reason(record["error"]), record["link"]) for record in kept)
    return lines_by_reason(word, things, reasons)


def _reason(error: dict[str, Any]) -> tuple[str, str]:
    return error["code"], error["message"]


def lines_by_reason(
    word: str, things: str, found: Iterable[tuple[tuple[str, str], str]], *, every: bool = False
) -> Iterator[str]:
    """Things to which `word` applies, each with its reason: (code, message), by reason.

    A reason of more than three is one line, and three of them, or `every` one.
    """
    by_reason: dict[tuple[str, str], list[str]] = {}
    for reason, thing in found:
        by_reason.setdefault(reason, []).append(thing)
    for (code, message), all_of_it in by_reason.items():
        said = f"{word} {code}".rstrip()
        if len(all_of_it) <= _LISTED_OF_A_REASON:
            yield from (f"{said} {thing} {message}" for thing in all_of_it)
            continue
        yield f"{len(all_of_it):,} {things} {said}: {message}"
        listed = len(all_of_it) if every else _LISTED_OF_A_REASON
        yield from (f"    {thing}" for thing in all_of_it[:listed])
        if listed < len(all_of_it):
            yield f"    and {len(all_of_it) - listed:,} more"


# jobs and quota


def waiting_text(entry: Entry) -> str:
    """What the job waits for and until when; empty if it does not wait."""
    reason = entry.get("waiting_for")
    if not reason:
        return ""
    until = f", until {local_time(entry['waiting_until'])}" if entry["waiting_until"] else ""
    return f"Waiting for {WAITS.get(reason, reason)}{until}."


def job_lines(entry: Entry, failed: Iterable[Record]) -> Iterator[str]:
    """A job in a few lines; its counts are the last one. `failed`: its failed images' records."""
    counts = entry["counts"]
    yield f"job {entry['job_id']}, created {local_time(entry['created'])}: {entry['status']}"
    if waiting := waiting_text(entry):
        yield waiting
    if album := entry.get("album"):
        yield album_text(album)
    if counts.get("maybe_duplicate"):
        yield f"{count_of(counts['maybe_duplicate'], 'image')} may be on Imgur twice"
    ends = Counter(_ASKED_FOR.get(record["error"]["code"], "failed") for record in failed)
    words = [word for word in ("failed", *_ASKED_FOR.values()) if ends[word]] or ["failed"]
    said = ", ".join(f"{ends[word]:,} {word}" for word in words)
    yield (
        f"{counts['completed']:,} of {counts['total']:,} landed, {said}, "
        f"{counts['pending']:,} pending"
    )


def album_text(album: dict[str, Any]) -> str:
    """An album's title, and its link or its error."""
    error, link = album["error"], album["link"]
    return f"album {album['title']!r}: {error['message'] if error else link or 'not created yet'}"


def jobs_table(entries: Sequence[Entry]) -> Iterator[str]:
    """A heading, and a line for each job."""
    row = "{:36}  {:20}  {:11}  {:>7}  {:>7}  {:>7}".format
    yield row("JOB", "CREATED", "STATUS", "LANDED", "FAILED", "TOTAL")
    for entry in entries:
        counts = [entry["counts"][name] for name in ("completed", "failed", "total")]
        yield row(entry["job_id"], entry["created"], entry["status"], *counts)


def quota_lines(state: dict[str, Any]) -> Iterator[str]:
    """The current wait, the pending images, and a line for each of Imgur's budgets."""
    yield waiting_text(state) or "Uploads are not waiting."
    if state.get("reason"):
        yield f"Reason: {state['reason']}"
    pending = state["pending"]
    done_at = pending and state["done_at"]
    images = f"{count_of(pending, 'image')} pending"
    done = f"; all done at {local_time(done_at)}" if done_at else ""
    yield f"{images}, {state['parked']:,} of them downloaded and waiting{done}"
    row = "{:>6}  {:7}  {:>9}  {:>7}  {}".format
    yield row("CLIENT", "BUDGET", "REMAINING", "LIMIT", "RESETS")
    for budget in state["budgets"]:
        names = ("client", "budget", "remaining", "limit", "resets_at")
        yield row(*("-" if budget[name] is None else str(budget[name]) for name in names))
