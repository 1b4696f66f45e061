"""Images in JSON, JSON Lines, and JSON with comments.

RFC 8259 has quotes around strings and nowhere else, so strings are found without a full parser: no
depth is too deep, and a document that is broken somewhere still has its images.

A string is an image if it is a URL and looks like one, or if the key that leads to it says so
(`"thumbnailUrl"`, `"images": [...]`, `"image": {"url": ...}`), or the type of its object
(`{"type": "image", "src": ...}`). A string that is a text itself
(HTML, Markdown, JSON) is searched as such.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from imageload.documents.found import Finds, Found, decoded
from imageload.documents.urls import (
    MAY_BE_IMAGE,
    absolute,
    is_image,
    is_other,
    is_template,
    may_have_images,
)

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
    external file data attributes asset fields fullsize
""",
    )
)
# Of an object that says itself that it is an image: `{"type": "image", "src": "https://..."}`.
_TYPE_KEY = re.compile(
    r"[@_]{0,2}(?:(?:mime|media|content|block|node|file)?[-_]?type|typename|kind|mime|block_?name|tag(?:name)?)",
    re.IGNORECASE,
)
_TYPES = frozenset({"image", "img", "photo", "picture", "screenshot", "thumbnail"})
_PART_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    url uri urls src source sources original file files image value
    data attrs attributes props external asset fields media preview previews
""",
    )
)
_PAGE_WORDS = frozenset(
    {"page", "html", "link", "profile", "author", "user", "text", "api", "license", "expanded"}
)
_PARTS = 5  # objects and lists between an image's object and its URL


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
    may_be_image = MAY_BE_IMAGE.search(text) or text.startswith("data:image/")
    if not string.is_image and not may_be_image:
        return "", ""
    url, why = absolute(text, base if string.is_image or is_image(text) else "")
    if url:
        is_taken = not is_other(url) and (string.is_image or is_image(url))
        return (url if is_taken and "//" in url else ""), ""
    looks_like_one = is_image(text) or text.startswith("data:image/")
    return "", why if looks_like_one or (string.is_image and is_template(text)) else ""


def strings(text: str) -> Iterator[String]:
    """The strings of the text that may be images, in their order, keys too."""
    reader = _Reader()
    for token in _TOKEN.finditer(text):
        letter = token[0][0]
        if letter in "{[":
            reader.open(is_list=letter == "[")
        elif letter in "}]":
            reader.close()
        elif letter == ",":
            reader.end_value()
        elif letter == '"':
            is_key = _KEY.match(text, token.end()) is not None
            reader.add(token[1], token.span(1), is_key=is_key)
    yield from reader.judged()


class _Scope:
    """An object or a list: how its key judged it, and whether its type is that of an image."""

    def __init__(self, outer: _Scope | None, key: str, *, is_list: bool, is_named: bool) -> None:
        self.outer = outer
        self.key = key
        self.is_list = is_list
        self.is_named = is_named
        self.is_typed = False
        self.has_page = False


class _Reader:
    """Follows the brackets and the keys of a text, and judges its strings at its end.

    Only then the types of all objects are known: `{"src": "https://...", "type": "image"}`.
    """

    def __init__(self) -> None:
        self._scope = _Scope(None, "", is_list=False, is_named=False)
        self._key: str | None = None
        self._is_named = False  # whether the key of the next value names an image
        self._last = ""  # the string before, in a list: `["image", {"src": "https://..."}]`
        self._strings: list[tuple[String, _Scope, str]] = []
        self._has_types = False

    def open(self, *, is_list: bool) -> None:
        """An object or a list begins."""
        is_named = self._scope.is_named if self._key is None else self._is_named
        scope = _Scope(self._scope, self._key or "", is_list=is_list, is_named=is_named)
        if self._last in _TYPES and self._scope.is_list and not is_list:
            self._has_types = scope.is_typed = True
        self._scope = scope
        self._is_named, self._key, self._last = is_named and is_list, None, ""

    def close(self) -> None:
        """An object or a list ends."""
        self._scope = self._scope.outer or self._scope
        self.end_value()

    def end_value(self) -> None:
        """A comma, or the end of an object or a list."""
        self._is_named, self._key = self._scope.is_named, None

    def add(self, text: str, span: tuple[int, int], *, is_key: bool) -> None:
        """A key, or a string that is a value."""
        scope = self._scope
        if is_key:
            if "/" in text:
                self._strings.append((String(*span, True, False), scope, ""))
            self._is_named, self._key = names_image(text, scope.is_named), text
            scope.has_page = scope.has_page or text == "expanded_url"
            return
        key = self._key or (scope.key if scope.is_list else "")
        if self._is_named or "/" in text or (key and "." in text):
            self._strings.append((String(*span, False, self._is_named), scope, key))
        self._last = text[:20].lower()
        if self._key and _TYPE_KEY.fullmatch(self._key) and _is_type(text):
            self._has_types = scope.is_typed = True

    def judged(self) -> Iterator[String]:
        """The strings, judged by the types of their objects too."""
        for string, scope, key in self._strings:
            if self._has_types and key and not string.is_image:
                yield string._replace(is_image=_leads_to_url(key) and _is_typed(scope))
            else:
                yield string


def _is_typed(scope: _Scope) -> bool:
    """Whether this is an object of an image, or a part of one."""
    for _ in range(_PARTS):
        if scope.is_typed:
            return not scope.has_page
        if scope.outer is None or (scope.key and not _leads_to_url(scope.key)):
            return False
        if not scope.key and not scope.outer.is_list:
            return False
        scope = scope.outer
    return False


def _leads_to_url(key: str) -> bool:
    """Whether this key of an object of an image has the image's URL, or a part with it."""
    words = _words(key)
    return bool(_PART_WORDS & words) and not _PAGE_WORDS & words


def _is_type(text: str) -> bool:
    """Whether this type is that of an image: `image`, `IMAGE`, `simpleImage`, `image/png`."""
    words = _words(text)
    return bool(_TYPES & words) and not {"caption", "text", "link"} & words


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORDS.findall(text[:100])}


def names_image(key: str, is_inside: bool = False) -> bool:
    """Whether the value of this key is an image's URL, or leads to one."""
    words = _words(key)
    if {"alt", "width", "height", "size", "type", "id", "caption", "title", "name"} & words:
        return False
    return bool(_IMAGE_WORDS & words) or (is_inside and bool(_URL_WORDS & words))


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
