"""The plain-text form of a list of URLs: one URL a line, or commas between URLs.

The service and the command line read lists with `split_list`, so both accept the same text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# URLs may contain commas. A comma is a separator only before white space, another comma, a URL, or
# the end of the line.
_SEPARATOR = re.compile(r"[\r\n]+|,(?=\s|,|$|[a-z][a-z0-9+.-]*://)", re.IGNORECASE)


def split_list(text: str) -> list[str]:
    """The entries of a plain-text list: in order, stripped, without blanks, duplicates kept."""
    return [entry for entry in pieces_of(text) if entry]


def pieces_of(text: str) -> Iterator[str]:
    """The entries of a plain-text list one by one, blank ones too."""
    begin = 0
    for separator in _SEPARATOR.finditer(text):
        yield text[begin : separator.start()].strip()
        begin = separator.end()
    yield text[begin:].strip()
