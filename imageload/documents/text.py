"""Bare image URLs in plain text of any script.

A URL in text is an image if its path ends like one. It ends before white space, before
punctuation of any script that is not ASCII (fullwidth commas, closing quotes), before
invisible characters such as U+200B, and before the punctuation of the sentence around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from imageload.documents.found import Finds, Found
from imageload.documents.urls import EXTENSION, MAY_BE_IMAGE, absolute, is_image

# ASCII as RFC 3986 has it; letters, digits and marks of every other script; brackets in pairs, as
# in `?size[0]=1`. Marks are listed, because \w does not include them.
_MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u064b-\u065f\u0900-\u0903\u093a-\u094f"
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u3099\u309a"
)
_URL = re.compile(
    r"https?://(?:[!#$%&'()*+,\-./0-9:;=?@A-Z_a-z~]|[^\W\x00-\x7f]|["
    + _MARKS
    + r"]|\[[\w.:-]{1,40}\])+",
    re.IGNORECASE,
)
# Two URLs without a blank between them, and text of another script right behind an image's path.
_CUT = re.compile(
    r"[,;]+(?=https?://)|(?<=[a-z0-9])(?=[^\x00-\x7f])|(?<=[a-z0-9])(?=https?://)", re.IGNORECASE
)
_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_ENDS_LIKE_IMAGE = re.compile(EXTENSION + r"$", re.IGNORECASE)
_BRACKET = re.compile(r"[()]")
_AROUND = frozenset(".,;:!?*_~'&")


def find(text: str, base: str = "") -> Finds:  # noqa: ARG001 - every finder is called alike
    """The bare image URLs of the text."""
    finds = Finds()
    if not MAY_BE_IMAGE.search(text):
        return finds
    for start, end in bare_urls(text):
        url, why = absolute(text[start:end], "")
        if url and is_image(url):
            finds.found.append(Found(url, start, end, text[start:end]))
        elif why and is_image(text[start:end]):
            finds.ignore(text[start:end], start, why)
    return finds


def ignored(text: str, start: int, why: str) -> Finds:
    """The bare image URLs of a text that is not taken; `start` is its offset in the source."""
    finds = Finds()
    for each in find(text).found if "://" in text else ():
        finds.ignore(each.as_written, start + each.start, why)
    return finds


def bare_urls(text: str) -> Iterator[tuple[int, int]]:
    """The span of each http and https URL of the text, in time linear to its length."""
    for run in _URL.finditer(text):
        cuts = (
            cut.start() for cut in _CUT.finditer(text, run.start() + 8, run.end()) if _cuts(cut)
        )
        start, stop = run.start(), run.start()
        while start >= 0:
            while stop <= start:
                stop = next(cuts, run.end())
            end = _end(text, start, stop)
            yield start, end
            following = _SCHEME.search(text, end, run.end())
            start = following.start() if following else -1


def _cuts(cut: re.Match[str]) -> bool:
    """Whether a URL ends here: before another URL, or behind an image's path."""
    at = cut.start()
    return bool(cut[0]) or bool(_ENDS_LIKE_IMAGE.search(cut.string, max(0, at - 6), at))


def _end(text: str, start: int, stop: int) -> int:
    """Where the URL from `start` ends: before an unpaired bracket or the sentence's end."""
    if text[start - 1 : start] == "'":
        quote = text.find("'", start, stop)
        stop = stop if quote < 0 else quote
    depth = 0
    for bracket in _BRACKET.finditer(text, start, stop):
        depth += 1 if bracket[0] == "(" else -1
        if depth < 0:
            stop = bracket.start()
            break
    while stop > start + 8 and (text[stop - 1] in _AROUND or (depth > 0 and text[stop - 1] == "(")):
        depth -= text[stop - 1] == "("
        stop -= 1
    return stop
