"""Images in JSON, JSON Lines, and JSON with comments.

RFC 8259 has quotes around strings and nowhere else, so strings are found without a full parser: no
depth is too deep, and a document that is broken somewhere still has its images.

A string is an image if it is a URL and looks like one, or if the key that leads to it says so
(`"thumbnailUrl"`, `"images": [...]`, `"image": {"url": ...}`). A string that is a text itself
(HTML, Markdown, JSON) is searched as such.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from imageload.documents.found import Finds, Found, decoded
from imageload.documents.urls import absolute, is_image, is_other, is_template, may_have_images

Inner = Callable[[str, str], Finds]
"""Finds the images of a text inside of this one, given the text and its base."""

_TOKEN = re.compile(r'"((?:[^"\\\n]|\\[^\n])*)"?|[{}\[\],]|//[^\n"]*')
_MARKS = ("://", "<", "](", r":\/\/")  # of texts with images in them
_WORDS_OR_TAG = re.compile(r"\s|<")
_KEY = re.compile(r"[ \t\r\n]*:")
_ESCAPE = re.compile(
    r'\\(?:u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|["\\/bfnrt])'
)
_MEANINGS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_IMAGE_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    image images img imgs photo photos picture pictures pic pics
    thumbnail thumbnails thumb thumbs avatar icon logo cover poster banner
    screenshot screenshots artwork favicon sprite
""",
    )
)
_URL_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    url uri href src source link original orig full large
    medium small content contents default raw regular standard resolutions high
    low display media value sizes urls variants formats versions
""",
    )
)


class String(NamedTuple):
    """A string of the document: the span between its quotes, and whether its key names an image."""

    start: int
    end: int
    is_key: bool
    is_image: bool


def find(text: str, base: str = "", inner: Inner | None = None) -> Finds:
    """The images of a JSON document, of JSON Lines, or of any text with JSON strings."""
    finds = Finds()
    for each in strings(text):
        if not each.is_image and (
            text.find("/", each.start, each.end) < 0
            or not may_have_images(text, each.start, each.end)
        ):
            continue
        part = decoded(text, each.start, each.end, _ESCAPE, _meaning)
        url, why = _judge(part.text, base, each)
        if url and each.is_key:
            finds.ignore(part.text, each.start, "A key: only values are replaced.")
        elif url:
            written = text[each.start : each.end]
            escape = json_escape_slashes if r"\/" in written else json_escape
            finds.found.append(Found(url, each.start, each.end, written, (escape,)))
        elif why:
            finds.ignore(part.text, each.start, why)
        elif inner and not each.is_key and any(mark in part.text for mark in _MARKS):
            escape = json_escape_slashes if r"\/" in text[each.start : each.end] else json_escape
            finds.add(part.moved(inner(part.text, base), text, escape))
    return finds.in_order()


def _judge(text: str, base: str, string: String) -> tuple[str, str]:
    """(URL, "") of a string that is an image's URL; ("", why) of one that only looks like it."""
    if not text or text != text.strip() or _WORDS_OR_TAG.search(text) or len(text) > 100_000:
        return "", ""
    url, why = absolute(text, base if string.is_image or is_image(text) else "")
    if url:
        is_taken = not is_other(url) and (string.is_image or is_image(url))
        return (url if is_taken and "//" in url else ""), ""
    looks_like_one = is_image(text) or text.startswith("data:image/")
    return "", why if looks_like_one or (string.is_image and is_template(text)) else ""


def strings(text: str) -> Iterator[String]:
    """The strings of the text in their order, keys too."""
    inside = [False]  # whether each open list or object was named as an image
    named = False
    has_own_key = False
    for token in _TOKEN.finditer(text):
        letter = token[0][0]
        if letter in "{[":
            inside.append(named if has_own_key else inside[-1])
            named, has_own_key = inside[-1] and letter == "[", False
        elif letter in "}]":
            if len(inside) > 1:
                inside.pop()
            named, has_own_key = inside[-1], False
        elif letter == ",":
            named, has_own_key = inside[-1], False
        elif letter == '"':
            if _KEY.match(text, token.end()):
                yield String(*token.span(1), True, False)
                named, has_own_key = names_image(token[1], inside[-1]), True
            else:
                yield String(*token.span(1), False, named)


def names_image(key: str, is_inside: bool = False) -> bool:
    """Whether the value of this key is an image's URL, or leads to one."""
    words = [word.lower() for word in _WORDS.findall(key[:100])]
    if {"alt", "width", "height", "size", "type", "id", "caption", "title", "name"} & {*words}:
        return False
    return bool(_IMAGE_WORDS & {*words}) or (is_inside and bool(_URL_WORDS & {*words}))


def _meaning(match: re.Match[str]) -> str:
    escape = match[0]
    if escape[1] != "u":
        return _MEANINGS.get(escape[1], escape[1])
    codes = [int(code, 16) for code in escape[2:].split("\\u")]
    if len(codes) == 2:
        return chr(0x10000 + ((codes[0] & 0x3FF) << 10) + (codes[1] & 0x3FF))
    return chr(codes[0])


def json_escape(link: str) -> str:
    """A link in a JSON string."""
    return re.sub(r'["\\\x00-\x1f]', lambda match: f"\\u{ord(match[0]):04x}", link)


def json_escape_slashes(link: str) -> str:
    """A link in a JSON string that has `\\/` for `/`, as PHP writes it."""
    return json_escape(link).replace("/", r"\/")
