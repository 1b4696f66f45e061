"""Images in markup without a parser for Python: patterns for images, and spans of code to leave.

Org, AsciiDoc and wikis use it. Each of their patterns is bounded, and spans of code come from one
pass over the text, so the time is linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from imageload.documents import html, named
from imageload.documents import text as bare
from imageload.documents.found import Finds, Found, masked, plain
from imageload.documents.named import percent_encode
from imageload.documents.urls import absolute, is_image


class Raw(NamedTuple):
    """A span that is no markup: code, a comment, or HTML."""

    start: int
    end: int
    why: str
    is_html: bool = False


@dataclass(frozen=True, slots=True)
class Markup:
    """The forms of one markup. Group 1 of each pattern is a URL as it is written.

    A match without it is text that is read once, because no image can begin in it.
    `images` show what they name, `links` only if it ends like an image. `local` are files of the
    wiki itself, which are named as ignored.
    """

    images: tuple[re.Pattern[str], ...]
    links: tuple[re.Pattern[str], ...] = ()
    local: tuple[re.Pattern[str], ...] = ()


def find(text: str, base: str, markup: Markup, raw: Iterable[Raw]) -> Finds:
    """The images of a text, its bare image URLs too, and those of the HTML in it."""
    finds = Finds()
    seen: list[tuple[int, int]] = []
    for each in raw:
        seen.append((each.start, each.end))
        if each.is_html:
            part = plain(text, each.start, each.end)
            if "<" in part.text or "://" in part.text:
                finds.add(part.moved(html.find(part.text, base), text))
        else:
            finds.add(bare.ignored(text[each.start : each.end], each.start, each.why))
    rest = masked(text, seen)
    for pattern in (*markup.images, *markup.links):
        for match in pattern.finditer(rest):
            if match[1] is None:
                continue
            written = match[1].strip()
            start = match.start(1) + match[1].index(written)
            url, why = absolute(written, base)
            if url and (pattern in markup.images or is_image(url)):
                found = Found(url, start, start + len(written), written, (percent_encode,))
                finds.found.append(found)
                seen.append((start, start + len(written)))
            elif why and (pattern in markup.images or is_image(written)):
                finds.ignore(written, start, why)
    for pattern in markup.local:
        for match in pattern.finditer(rest):
            finds.ignore(match[1], match.start(1), "A file of the wiki: it has no URL here.")
    finds.add(named.find(masked(text, seen), base))
    return finds.in_order()


def pairs(text: str, opening: re.Pattern[str], why: str = "In code.") -> Iterator[Raw]:
    """The spans between an opening and the next closing mark of the same name.

    A match of `opening` has the group `name`, and the group `end` where it closes. Marks that are
    alike have no group `end`: each second one closes.
    """
    marks = list(opening.finditer(text))
    has_ends = "end" in opening.groupindex
    following: dict[str, int] = {}
    ends = [-1] * len(marks)
    for index in range(len(marks) - 1, -1, -1):
        name = marks[index]["name"].lower()
        ends[index] = following.get(name, -1)
        if not has_ends or marks[index]["end"]:
            following[name] = index
    at = 0
    for index, mark in enumerate(marks):
        if mark.start() < at or ends[index] < 0 or (has_ends and mark["end"]):
            continue
        close = marks[ends[index]]
        if mark.end() < close.start():
            yield Raw(mark.end(), close.start(), why)
        at = close.end()
