"""The candidates of a `srcset`, as the HTML standard parses it (section 4.8.4.2.2)."""

from __future__ import annotations

import re
from typing import NamedTuple


class Candidate(NamedTuple):
    """A URL of a srcset: its span, and its size by width (`900w`) or by density (`2x`)."""

    start: int
    end: int
    width: float = 0
    density: float = 1


_GAP = re.compile(r"[\t\n\f\r ,]*")
_URL = re.compile(r"[^\t\n\f\r ]+")
_DESCRIPTORS = re.compile(r"(?:\([^()]*\)|[^,(])*")
_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([wx])(?![^\s])")
_GLUED = re.compile(r",(?=(?:https?:)?//)")


def candidates(text: str) -> list[Candidate]:
    """The candidates of the text, in their order.

    `a.jpg,b.jpg 2x` is one URL by the standard, for a URL may have commas. A comma directly before
    `https://` separates all the same: such lists are written by mistake, and mean two URLs.
    """
    found: list[Candidate] = []
    at = 0
    while True:
        gap = _GAP.match(text, at)
        url = _URL.match(text, gap.end() if gap else at)
        if not url:
            return found
        start, at = url.span()
        for glued in _GLUED.finditer(text, start + 1, at):
            found.append(Candidate(start, glued.start()))
            start = glued.end()
        end = start + len(text[start:at].rstrip(","))
        if end < at:
            found.append(Candidate(start, end))
            continue
        descriptors = _DESCRIPTORS.match(text, at)
        at = descriptors.end() if descriptors else at
        width, density = 0.0, 1.0
        for number, unit in _SIZE.findall(descriptors[0] if descriptors else ""):
            width, density = (float(number), density) if unit == "w" else (width, float(number))
        found.append(Candidate(start, end, width, density))
        if at < len(text) and text[at] == "(":  # a bracket that is never closed
            return found
