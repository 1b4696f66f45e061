"""What a finder reports, and the one function that replaces it.

A finder never changes text. It reports spans of the source, and `replace` writes links into those
spans. So every other character of the document stays as it is.

Some text is written inside other text: an HTML attribute in a JSON string in a CSV cell. A `Part`
is such an inner text, decoded, and knows the source span of each of its characters. A finder works
on the decoded text, and `Part.moved` translates its results to the source. Each translation adds
the outer text's escape, so a link is escaped from the inside out.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from imageload.documents.urls import absolute, is_other

Escape = Callable[[str], str]
"""Writes a link so that the text around it reads it as this link."""


class Found(NamedTuple):
    """One place of an image: `url` is absolute, `start` and `end` are offsets into the source.

    `as_written` is the source between them. `escapes` are applied to a link in their order.
    """

    url: str
    start: int
    end: int
    as_written: str
    escapes: tuple[Escape, ...] = ()


class Ignored(NamedTuple):
    """Text that looks like an image and is not taken, and why."""

    text: str
    start: int
    why: str


_START = itemgetter(Ignored._fields.index("start"))


class Cell(NamedTuple):
    """Where a row of a table gets the columns `link` and `error` of one URL column.

    They are written from `at` to `until`: an empty span, or that of the two columns of an earlier
    time. `found` are the images of the row's cell, `start` and `end` the offsets of the cell's
    content. A heading has the two names of the columns in `names`.
    """

    at: int
    until: int
    start: int
    end: int
    delimiter: str
    found: tuple[Found, ...] = ()
    names: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Finds:
    """The result of a finder, each list in the order of the source.

    `cells` is for tables: their columns of URLs are kept, and links are written beside them.
    """

    found: list[Found] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)

    def add(self, other: Finds) -> None:
        """Take over the finds of another finder of the same source."""
        self.found.extend(other.found)
        self.ignored.extend(other.ignored)

    def take(self, text: str, start: int, written: str, base: str, escape: Escape) -> None:
        """Take the URL of an image, which is `written` like this here, or report why it is none."""
        url, why = absolute(text, base)
        if url and not is_other(url):
            self.found.append(Found(url, start, start + len(written), written, (escape,)))
        elif why:
            self.ignore(written, start, why)

    def ignore(self, text: str, start: int, why: str) -> None:
        """Report text that is not taken; a long one is cut."""
        self.ignored.append(
            Ignored(text if len(text) <= 200 else text[:199] + "\u2026", start, why)
        )

    def in_order(self) -> Finds:
        """The same finds, sorted, without one that overlaps an earlier one."""
        if len(self.found) < 2 and len(self.ignored) < 2:
            return self
        found: list[Found] = []
        for each in sorted(self.found, key=lambda each: (each.start, -each.end)):
            if not found or each.start >= found[-1].end:
                found.append(each)
        ignored = sorted(dict.fromkeys(self.ignored), key=_START)
        return Finds(found, ignored, self.cells)


class Part:
    """Text taken out of a source and decoded; knows the source span of each character.

    It consists of runs. A run that is as long as its source was copied, character by character;
    with the one before it, it is one run. Any other is an escape and is replaced as a whole.
    """

    def __init__(self) -> None:
        self.text = ""
        self._texts: list[str] = []
        self._size = 0
        self._at: list[int] = []
        self._spans: list[tuple[int, int]] = []
        self._copied = -1  # where a copied run ended last in the source

    def append(self, text: str, start: int, end: int) -> None:
        """Add a run whose source is `start` to `end`."""
        if text:
            is_copied = end - start == len(text)
            if is_copied and start == self._copied:
                self._spans[-1] = (self._spans[-1][0], end)
            else:
                self._at.append(self._size)
                self._spans.append((start, end))
            self._copied = end if is_copied else -1
            self._texts.append(text)
            self._size += len(text)

    def done(self) -> Part:
        """This part, with its `text`."""
        self.text = "".join(self._texts)
        return self

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The source span of the characters from `start` to `end`, at least one."""
        if len(self._spans) == 1 and self._copied >= 0:
            offset = self._spans[0][0]
            return offset + start, offset + end
        return self._place(start)[0], self._place(end - 1)[1]

    def _place(self, index: int) -> tuple[int, int]:
        """The source span of one character."""
        run = bisect_right(self._at, index) - 1
        begin = self._at[run]
        start, end = self._spans[run]
        size = (self._at[run + 1] if run + 1 < len(self._at) else self._size) - begin
        if end - start == size:
            return start + index - begin, start + index - begin + 1
        return start, end

    def moved(self, finds: Finds, source: str, escape: Escape | None = None) -> Finds:
        """Finds in this part's text, as finds in the source."""
        moved = Finds()
        if not finds.found and not finds.ignored:
            return moved
        for each in finds.found:
            start, end = self.span(each.start, each.end)
            escapes = (*each.escapes, escape) if escape else each.escapes
            moved.found.append(Found(each.url, start, end, source[start:end], escapes))
        for ignored in finds.ignored:
            # An ignored text may be empty, or may stand behind the last character.
            at = min(ignored.start, self._size - 1)
            start = self._place(at)[0] if self._size else 0
            moved.ignored.append(Ignored(ignored.text, start, ignored.why))
        return moved


def plain(source: str, start: int, end: int, offset: int = 0) -> Part:
    """A part that is written as it is; `offset` is that of `source` in its own source."""
    part = Part()
    part.append(source[start:end], offset + start, offset + end)
    return part.done()


def decoded(
    source: str,
    start: int,
    end: int,
    escape: re.Pattern[str],
    meaning: Callable[[re.Match[str]], str],
) -> Part:
    """A part in which each match of `escape` is written for its `meaning`."""
    part = Part()
    at = start
    for match in escape.finditer(source, start, end):
        text = meaning(match)
        if text != match[0]:
            part.append(source[at : match.start()], at, match.start())
            part.append(text, match.start(), match.end())
            at = match.end()
    part.append(source[at:end], at, end)
    return part.done()


def masked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """`text` with blanks in place of these spans: offsets and lines stay as they are."""
    pieces: list[str] = []
    at = 0
    for start, end in sorted(spans):
        begin = max(at, start)
        if begin < end:
            pieces += [text[at:begin], _blank(text[begin:end])]
            at = end
    return "".join([*pieces, text[at:]])


_LINE = re.compile(r"[^\r\n]+")


def _blank(text: str) -> str:
    if "\n" in text or "\r" in text:
        return _LINE.sub(lambda line: " " * len(line[0]), text)
    return " " * len(text)


def replace(
    text: str,
    finds: Finds,
    links: Mapping[str, str],
    errors: Mapping[str, str] | None = None,
) -> str:
    """`text` with the link of each found URL that has one in `links`; all else stays.

    A table's columns of URLs are kept. They get two columns more, `link` and `error`; `errors` has
    a sentence for each URL that failed. Without links and errors nothing is added.
    """
    writes = [
        (each.start, each.end, written(each, links[each.url]))
        for each in finds.found
        if each.url in links
    ]
    if finds.cells and (links or errors):
        kept = {each for cell in finds.cells for each in cell.found}
        writes = [
            (each.start, each.end, written(each, links[each.url]))
            for each in finds.found
            if each.url in links and each not in kept
        ]
        for cell in finds.cells:
            columns = _columns(text, cell, links, errors or {})
            if cell.at == cell.until or any(columns):
                written_as = "".join(
                    cell.delimiter + quoted(each, cell.delimiter) for each in columns
                )
                writes.append((cell.at, cell.until, written_as))
    pieces: list[str] = []
    at = 0
    for start, end, link in sorted(writes, key=lambda write: write[:2]):
        pieces += [text[at:start], link]
        at = end
    return "".join([*pieces, text[at:]])


def written(found: Found, link: str) -> str:
    """The link as it is written in the place of `found`."""
    if link == found.url:
        return found.as_written
    for escape in found.escapes:
        link = escape(link)
    return link


def _columns(
    text: str, cell: Cell, links: Mapping[str, str], errors: Mapping[str, str]
) -> tuple[str, str]:
    """A row's link and error. Several links stand as their URLs stand in the cell."""
    if cell.names is not None:
        return cell.names
    landed = Finds([each for each in cell.found if each.url in links])
    moved = [
        Found(each.url, each.start - cell.start, each.end - cell.start, each.as_written)
        for each in landed.found
    ]
    link = replace(text[cell.start : cell.end], Finds(moved), links) if moved else ""
    reasons = [errors[each.url] for each in cell.found if each.url in errors]
    return link.replace('""', '"'), "; ".join(dict.fromkeys(reasons))


def quoted(value: str, delimiter: str) -> str:
    """A value as a cell of a table (RFC 4180)."""
    if any(letter in value for letter in (delimiter, '"', "\r", "\n")):
        return '"' + value.replace('"', '""') + '"'
    return value
