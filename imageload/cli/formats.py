"""Links as text to paste somewhere, and records as text for programs.

`csv` and `json` have a line or an object for every image, failed ones too, the others a line for
each link. All are in input order.
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO
from urllib.parse import unquote, urlsplit

from imageload.cli.printable import printable
from imageload.cli.source import Record

_BREAKS_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\[]<>`"})
_BREAKS_A_LINK = str.maketrans({c: f"%{ord(c):02X}" for c in " ()<>[]\"'"})


def write(records: Iterable[Record], form: str, stream: TextIO) -> None:
    """Write what `form` has to say of `records`; harmless where `stream` is a terminal."""
    safe = printable if stream.isatty() else str
    for line in FORMATS[form](records):
        print(safe(line), file=stream)


def _text(records: Iterable[Record]) -> Iterator[str]:
    return (record["link"] for record in records if record["link"])


def _markdown(records: Iterable[Record]) -> Iterator[str]:
    for record in records:
        if record["link"]:
            name = _name(record).translate(_BREAKS_MARKDOWN)
            yield f"![{name}]({record['link'].translate(_BREAKS_A_LINK)})"


def _bbcode(records: Iterable[Record]) -> Iterator[str]:
    return (f"[img]{link.translate(_BREAKS_A_LINK)}[/img]" for link in _text(records))


def _html(records: Iterable[Record]) -> Iterator[str]:
    for record in records:
        if record["link"]:
            yield f'<img src="{html.escape(record["link"])}" alt="{html.escape(_name(record))}">'


def _csv(records: Iterable[Record]) -> Iterator[str]:
    yield _row("url", "link", "error")
    for record in records:
        error = record["error"]["code"] if record["error"] else ""
        yield _row(record["url"], record["link"] or "", error)


def _row(*values: str) -> str:
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
    """What stands for the image where it cannot be seen: its title, or its file's name."""
    title = record.get("title")
    if not title:
        try:
            path = urlsplit(record["url"] or record["link"]).path
            title = unquote(path.rpartition("/")[2])
        except ValueError:
            title = ""
    return " ".join(title.split()) or "image"


FORMATS: dict[str, Callable[[Iterable[Record]], Iterator[str]]] = {
    "text": _text,
    "markdown": _markdown,
    "bbcode": _bbcode,
    "html": _html,
    "csv": _csv,
    "json": _json,
}
