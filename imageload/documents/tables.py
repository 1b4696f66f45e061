"""Image URLs in CSV and TSV: their columns are found or named.

A column with cells that are URLs of images is kept as it is, and gets the columns `link` and
`error` after it (see `found.replace`). URLs within other text, such as a cell of HTML, are replaced
where they stand.

The standard's csv module knows no offsets, so the cells are found here, by RFC 4180 and as csv
reads them; a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from imageload.documents import text as bare
from imageload.documents.found import Cell, Finds, Found, Part, decoded, plain
from imageload.documents.jsontext import Inner, names_image
from imageload.documents.lists import entries
from imageload.documents.urls import (
    EXTENSION,
    MAY_BE_IMAGE,
    absolute,
    is_image,
    is_other,
    may_have_images,
)

DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r"sep=([,;\t|])\r?\n", re.IGNORECASE)
_QUOTE = re.compile('""')
_ROWS_TO_JUDGE = 30
_JUDGED = 100_000  # characters


class Value(NamedTuple):
    """A cell: the span of its content, without its quotes, and of all of it."""

    start: int
    end: int
    outer_end: int
    is_quoted: bool


def find(
    text: str,
    base: str = "",
    column: str = "",
    link_base: str = "",
    inner: Inner | None = None,
) -> Finds:
    """The images of a table. `column` names the one column of URLs; else they are found.

    Every http URL of a named column is an image. `inner` finds the images of a cell that is a text.
    A table may have the columns `link` and `error` of an earlier time, whose links begin with
    `link_base`: its rows with a link and without an error are done.
    """
    start, delimiter = table_delimiter(text)
    rows = list(records(text, delimiter, start))
    finds = Finds()
    if not rows:
        return finds
    names = [_content(text, cell).strip() for cell in rows[0]]
    if column:
        if column not in names:
            finds.ignore(
                column, 0, f"There is no column of this name; there are: {', '.join(names[:20])}."
            )
            return finds
        columns = {names.index(column)}
        is_heading = True
    else:
        is_heading = not any(_is_url(name) for name in names)
        columns = _url_columns(text, rows, names if is_heading else [], base)
    filled = _filled(text, rows, names if is_heading else [], columns, link_base)
    results = {index + after for index in filled for after in (1, 2)}
    columns -= results
    if is_heading:
        names += [""] * (max(columns, default=0) + 1 - len(names))
        titles = _titles([names[index] for index in sorted(columns)])
        for index, title in zip(sorted(columns), titles, strict=True):
            if index not in filled and index < len(rows[0]):
                cell = rows[0][index]
                at = cell.outer_end
                finds.cells.append(Cell(at, at, cell.start, cell.end, delimiter, names=title))
    for number, row in enumerate(rows):
        # A row that ends before a column gets no new cells: they would stand in the wrong column.
        is_searched = _has_any(text, row[0].start, row[-1].outer_end)
        for index in range(len(row)) if is_searched else sorted(columns):
            if index >= len(row):
                break
            if index not in columns:
                if index not in results:
                    _other_cell(finds, text, row[index], base, inner)
            elif number or not is_heading:
                after = row[index + 1 : index + 3] if index in filled else []
                if not _is_done(text, after):
                    _url_cell(finds, text, [row[index], *after], base, delimiter)
    return finds.in_order()


def _url_cell(finds: Finds, text: str, cells: list[Value], base: str, delimiter: str) -> None:
    """A cell of a column of URLs, and those of its link and error, if they are there already."""
    cell, until = cells[0], cells[-1].outer_end
    found = tuple(_cell_urls(finds, text, cell, base))
    finds.found.extend(found)
    finds.cells.append(Cell(cell.outer_end, until, cell.start, cell.end, delimiter, found))


def _filled(
    text: str, rows: list[list[Value]], names: list[str], columns: set[int], link_base: str
) -> set[int]:
    """The columns of URLs that are followed by the columns `link` and `error` of an earlier time.

    They have these names, or the table has no heading; and every link is one, or a URL that stayed.
    """
    filled: set[int] = set()
    for index in sorted(columns) if link_base else ():
        if {index - 1, index - 2} & filled:
            continue
        name = "".join(names[index : index + 1])
        titles = ("link", "error"), (f"{name}_link", f"{name}_error")
        if names and tuple(names[index + 1 : index + 3]) not in titles:
            continue
        body = [row for row in rows[bool(names) :] if len(row) > index + 1]
        links = [_texts(text, row[index + 1]) for row in body]
        has_links = any(each.startswith(link_base) for link in links for each in link)
        if (names or has_links) and all(
            each.startswith(link_base) or each in _texts(text, row[index])
            for row, link in zip(body, links, strict=True)
            for each in link
        ):
            filled.add(index)
    return filled


def _texts(text: str, cell: Value) -> list[str]:
    """The entries of a cell."""
    return [entry.text for entry in entries(_content(text, cell))]


def _is_done(text: str, results: list[Value]) -> bool:
    """Whether a row has a link, and no error."""
    values = [text[cell.start : cell.end].strip() for cell in results]
    return bool(values and values[0]) and not any(values[1:])


def table_delimiter(text: str) -> tuple[int, str]:
    """Where the table begins, and what stands between its cells; "" if it is no table.

    The delimiter is the one that splits the first rows into the same number of cells, of at least
    two. `sep=;` in the first line, as Excel writes it, says so.
    """
    said = _SEPARATOR.match(text)
    if said:
        return said.end(), said[1]
    best = (0.0, 0, "")
    for delimiter in DELIMITERS:
        if delimiter not in text[:_JUDGED]:
            continue
        judged = records(text[:_JUDGED], delimiter)
        sizes = [len(row) for row in islice(judged, _ROWS_TO_JUDGE)]
        if len(text) > _JUDGED and len(sizes) > 1:
            sizes = sizes[:-1]
        if sizes and sizes[0] > 1:
            equal = sum(size == sizes[0] for size in sizes) / len(sizes)
            best = max(best, (equal, sizes[0], delimiter))
    return 0, best[2] if best[0] >= 0.8 else ""


def records(text: str, delimiter: str, at: int = 0) -> Iterator[list[Value]]:
    """The rows of a table; blank lines are none."""
    while line := _LINE.search(text, at):
        at, end = line.span()
        if text.find('"', at, end) >= 0:
            row, at = _row(text, delimiter, at)
            yield row
            continue
        row = []
        for piece in line[0].split(delimiter) if delimiter else [line[0]]:
            stop = at + len(piece)
            row.append(Value(at, stop, stop, False))
            at = stop + 1
        at = end
        yield row


def _row(text: str, delimiter: str, at: int) -> tuple[list[Value], int]:
    """The row that begins here, and where it ends. A quote that is never closed takes the rest."""
    row: list[Value] = []
    unquoted = re.compile(rf"[^{re.escape(delimiter)}\r\n]*")
    while True:
        is_quoted = text.startswith('"', at)
        content = (_INSIDE if is_quoted else unquoted).match(text, at + is_quoted)
        stop = end = content.end() if content else at
        if is_quoted and stop < len(text):
            rest = unquoted.match(text, stop + 1)
            end = rest.end() if rest else stop
        row.append(Value(at + is_quoted, stop, end, is_quoted))
        if not delimiter or not text.startswith(delimiter, end):
            return row, end
        at = end + 1


_LINE = re.compile(r"[^\r\n]+")
_INSIDE = re.compile(r'[^"]*(?:""[^"]*)*')


def _content(text: str, cell: Value) -> str:
    """The content of a cell."""
    content = text[cell.start : cell.end]
    return content.replace('""', '"') if cell.is_quoted else content


def _value(text: str, cell: Value) -> Part:
    """The content of a cell, with its places."""
    if not cell.is_quoted:
        return plain(text, cell.start, cell.end)
    return decoded(text, cell.start, cell.end, _QUOTE, lambda _: '"')


def _is_url(value: str) -> bool:
    return value.lower().startswith(("http://", "https://", "//"))


def _url_columns(text: str, rows: list[list[Value]], names: list[str], base: str) -> set[int]:
    """The columns with a cell that is nothing but URLs of images.

    A URL that does not look like an image counts where the column's name says so.
    """
    columns: set[int] = set()
    named = {index for index, name in enumerate(names) if name and names_image(name)}
    for row in rows[bool(names) :]:
        if not _has_any(text, row[0].start, row[-1].outer_end):
            continue
        for index, cell in enumerate(row):
            if index in columns or not _has_any(text, cell.start, cell.end):
                continue
            is_named = index in named
            is_likely = is_named or MAY_BE_IMAGE.search(text, cell.start, cell.end)
            if not is_likely or not (base or text.find("//", cell.start, cell.end) >= 0):
                continue
            values = _texts(text, cell)
            urls = [absolute(value, base if is_image(value) else "")[0] for value in values]
            if urls and all(url and (is_image(url) or is_named) for url in urls):
                columns.add(index)
    return columns


def _titles(names: list[str]) -> list[tuple[str, str]]:
    """The names of the new columns, for each column of URLs."""
    if len(names) == 1:
        return [("link", "error")]
    return [(f"{name}_link", f"{name}_error") for name in names]


def _cell_urls(finds: Finds, text: str, cell: Value, base: str) -> Iterator[Found]:
    """The URLs of a cell in a column of URLs; what is no URL is ignored with its reason."""
    part = _value(text, cell)
    for entry in entries(part.text):
        start, end = part.span(entry.start, entry.end)
        url, why = absolute(entry.text, base)
        if url and not is_other(url):
            yield Found(url, start, end, text[start:end], (_in_quotes,) if cell.is_quoted else ())
        elif why or url:
            finds.ignore(entry.text, start, why or "A URL that is not an image's.")


def _other_cell(finds: Finds, text: str, cell: Value, base: str, inner: Inner | None) -> None:
    """A cell of another column: its text may have images."""
    place = cell.start, cell.end
    if not _has_any(text, *place) or not may_have_images(text, *place):
        return
    part = _value(text, cell)
    if is_image(part.text) and not re.search(r"\s", part.text):
        _, why = absolute(part.text, "")
        if why:
            finds.ignore(part.text, cell.start, why)
            return
    if "(http" in part.text and _ATTACHMENTS.fullmatch(part.text):
        found = Finds(
            [Found(each[1], *each.span(1), "") for each in _ATTACHMENT.finditer(part.text)]
        )
    else:
        found = inner(part.text, base) if inner else bare.find(part.text)
    finds.add(part.moved(found, text, _in_quotes if cell.is_quoted else None))


# Of an absolute URL, escaped or not, or what a relative one ends like. Other relative URLs stand
# in an attribute, in CSS, in brackets, or behind a key.
_MARK = re.compile(rf"//|\\/|&[#A-Za-z]|{EXTENSION}", re.IGNORECASE)
# Airtable's attachments: "a.png (https://...),b.png (https://...)".
_ATTACHMENT = re.compile(
    rf"[^\n]{{1,300}}?{EXTENSION} \((https?://[^()\s,\"]{{1,4000}})\)(?:, ?|$)", re.IGNORECASE
)
_ATTACHMENTS = re.compile(rf"(?:{_ATTACHMENT.pattern})++", re.IGNORECASE)
_IN_ELEMENT = re.compile(r"[=(]")
_AROUND = re.compile(r"[\[{=]")
_IN_RELATIVE = re.compile(r"[./]")
_SHORTEST = 3  # characters: //a


def _has_any(text: str, start: int, end: int) -> bool:
    """Whether something stands here that may be an image: a URL, or an element with one."""
    if end - start < _SHORTEST:
        return False
    if _MARK.search(text, start, end):
        return True
    if text.find("<", start, end) >= 0 and _IN_ELEMENT.search(text, start, end):
        return True
    has_dot = _IN_RELATIVE.search(text, start, end)
    return has_dot is not None and _AROUND.search(text, start, end) is not None


def _in_quotes(link: str) -> str:
    """A link in a cell with quotes."""
    return link.replace('"', '""')
