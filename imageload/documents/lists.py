"""Plain lists of URLs: one a line, or several with separators between them.

Between two URLs may stand a line end, a comma, a blank, a tab, `;` or `|`. URLs may contain commas,
so a comma separates only before a URL, white space, another comma or the end. The other separators
separate before a URL only. Lines that begin with `#` are comments. `<>`, quotes, and invisible
characters around a URL are not part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from imageload.documents import text as bare
from imageload.documents.found import Finds, Found
from imageload.documents.urls import EXTENSION, absolute

_SCHEME = r"[a-z][a-z0-9+.-]{0,30}://"
_OPENING = r"[<\"'\u201c\u200b\ufeff]*"
# The pattern begins with one character, so a run of separators is not tried from each of them.
_SEPARATOR = re.compile(
    rf"[\r\n]+|,+(?=\s|,|$|{_OPENING}{_SCHEME})|(?<![ \t;|])[ \t;|]{{1,200}}(?={_OPENING}{_SCHEME})"
    rf"|[;|](?=[ \t]*(?:[\r\n]|$))",
    re.IGNORECASE,
)
_GLUED = re.compile(EXTENSION + r"(?=https?://)", re.IGNORECASE)
_AROUND = " \t\f\v\u00a0\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\x00"
_PAIRS = {"<": ">", '"': '"', "'": "'", "\u201c": "\u201d", "`": "`"}
_MARKUP = re.compile(r"[\s\[\](){}<>\"|;,]")
_BLANK = re.compile(r"\s")
_BULLET = re.compile(r"[-*+\u2022]|\d{1,6}[.)]")


class Entry(NamedTuple):
    """An entry of a list, with its span; it may be no URL."""

    text: str
    start: int
    end: int


def split_list(text: str) -> list[str]:
    """The entries of a plain-text list: in order, without blanks and comments, duplicates kept."""
    return [entry.text for entry in entries(text)]


def entries(text: str) -> Iterator[Entry]:
    """The entries of a plain-text list one by one, without blank ones and comments."""
    begin = 0
    is_comment = False
    is_first = True  # of its line
    for separator in _separators(text):
        start, end = _trimmed(text, begin, separator[0])
        is_comment = (is_comment and not is_first) or (
            is_first and text.startswith("#", start, end)
        )
        is_bullet = text.startswith(" ", separator[0]) and _BULLET.fullmatch(text, start, end)
        if start < end and not is_comment and not is_bullet:
            yield Entry(text[start:end], start, end)
        begin = separator[1]
        is_first = separator[1] > separator[0] and text[separator[0]] in "\r\n"


def _separators(text: str) -> Iterator[tuple[int, int]]:
    """The spans of the separators, and the end of the text."""
    glued = [cut.end() for cut in _GLUED.finditer(text)]
    glued.reverse()
    for separator in _SEPARATOR.finditer(text):
        while glued and glued[-1] <= separator.start():
            yield glued[-1], glued.pop()
        yield separator.span()
    while glued:
        yield glued[-1], glued.pop()
    yield len(text), len(text)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space, quotes, angle brackets and invisible characters around it."""
    if text[start:end].isalnum():
        return start, end
    start, end = _without(text, start, end)
    while end - start > 1 and _PAIRS.get(text[start]) == text[end - 1]:
        start, end = _without(text, start + 1, end - 1)
    return start, end


def _without(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start] in _AROUND:
        start += 1
    while start < end and text[end - 1] in _AROUND:
        end -= 1
    return start, end


def find(text: str, base: str = "") -> Finds:
    """The URLs of a list, each an image. An entry that is none is ignored, with its reason."""
    finds = Finds()
    begin = 0
    for entry in entries(text):
        if entry.start - begin > 1:
            _comments(finds, text, begin, entry.start)
        begin = entry.end
        url, why = _judge(entry.text, base)
        if url:
            finds.found.append(Found(url, entry.start, entry.end, entry.text))
        elif why:
            finds.ignore(entry.text, entry.start, why)
    _comments(finds, text, begin, len(text))
    return finds


def _judge(text: str, base: str) -> tuple[str, str]:
    """(URL, "") of an entry, or ("", why it is none)."""
    if not text.isalnum() and _BLANK.search(text):
        return "", "More than one word: is a separator missing?"
    if not base and "/" not in text:
        return "", "Not a URL."
    url, why = absolute(text, base)
    return url, why if url or "/" in text else "Not a URL."


def _comments(finds: Finds, text: str, start: int, end: int) -> None:
    if text.find("#", start, end) >= 0:
        finds.add(bare.ignored(text[start:end], start, "In a comment."))


def is_mostly_list(text: str) -> bool:
    """Whether each line is one word without markup, or URLs, and some are URLs."""
    some = False
    for line in text.splitlines():
        for entry in split_list(line):
            is_url = re.match(r"https?://\S+$", entry, re.IGNORECASE) is not None
            is_word = entry == line.strip(_AROUND) and not _MARKUP.search(entry)
            if not (is_url or is_word):
                return False
            some = some or is_url
    return some


def is_list(text: str) -> bool:
    """Whether the text has nothing but URLs and comments."""
    some = False
    for entry in entries(text):
        if not re.match(r"https?://\S+$", entry.text, re.IGNORECASE):
            return False
        some = True
    return some
