"""The plain-text form of a list of URLs: one URL a line, or commas between URLs.

The service and the command line read lists with `split_list`, so both accept the same text.
"""

from __future__ import annotations

import re

_NEWLINE = re.compile(r"[\r\n]+")
# URLs may contain commas. A comma is a separator only before white space, another comma, a URL, or
# the end of the line.
_COMMA = re.compile(r",(?=\s|,|$|[a-z][a-z0-9+.-]*://)", re.IGNORECASE)


def split_list(text: str) -> list[str]:
    """The entries of a plain-text list: in order, stripped, without blanks, duplicates kept."""
    entries = (entry.strip() for line in _NEWLINE.split(text) for entry in _COMMA.split(line))
    return [entry for entry in entries if entry]
