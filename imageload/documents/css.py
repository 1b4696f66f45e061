"""Images in CSS: `url(...)` and the strings of `image-set(...)`. tinycss2 parses it."""

from __future__ import annotations

import re
from typing import Any

import tinycss2

from imageload.documents.found import Finds, decoded

_MAY_HAVE_IMAGES = re.compile(r"url\(|image-set\(|\\", re.IGNORECASE)
# Rules and declarations that need no parser, as most `style` attributes are.
_SIMPLE_URL = re.compile(
    r"""(?<![\w#\0-])url\((?:"([^"\\\x00-\x1f]*)"|'([^'\\\x00-\x1f]*)'|([^\x00-\x20\x7f\\"'()\s]*))\)""",
    re.IGNORECASE,
)
_BETWEEN = r"""[^\\"'@()\r\f]*"""
_SIMPLE = re.compile(rf"{_BETWEEN}(?:{_SIMPLE_URL.pattern}{_BETWEEN})*", re.IGNORECASE)
_LINE_ENDS = re.compile(r"\r\n|\r|\f")
_OPENING = re.compile(r"url\([ \n\t]*", re.IGNORECASE)
_UNQUOTED = re.compile(r"(?:\\[0-9A-Fa-f]{1,6}[ \n\t]?|\\.|[^\\)\n\t ])*", re.DOTALL)
_STRINGS = {
    '"': re.compile(r'(?:\\.|[^\\"\n])*', re.DOTALL),
    "'": re.compile(r"(?:\\.|[^\\'\n])*", re.DOTALL),
}
_IMAGE_SETS = {"image-set", "-webkit-image-set"}
# Rules whose URLs are style sheets, fonts and the pages that a sheet is for.
_NO_IMAGES = {"import", "font-face", "namespace", "document"}


def find(text: str, base: str = "") -> Finds:
    """The images of a style sheet or of a `style` attribute."""
    if not _MAY_HAVE_IMAGES.search(text):
        return Finds()
    if "/*" not in text and _SIMPLE.fullmatch(text):
        return _simple(text, base)
    part = decoded(text, 0, len(text), _LINE_ENDS, lambda _: "\n")
    css = part.text
    finds = Finds()
    lines = [0, *(match.end() for match in re.finditer("\n", css))]
    left: list[tuple[Any, bool]] = [(tinycss2.parse_component_value_list(css), False)]
    while left:
        nodes, is_set = left.pop()
        is_skipped = False
        for node in nodes:
            if node.type == "at-keyword":
                is_skipped = node.lower_value in _NO_IMAGES
            elif node == ";":
                is_skipped = False
            elif is_skipped:
                is_skipped = node.type != "{} block"
            elif node.type == "url" or (node.type == "string" and is_set):
                _add(finds, css, lines[node.source_line - 1] + node.source_column - 1, base)
            elif node.type == "function":
                is_url = node.lower_name == "url"
                left.append((node.arguments, is_url or node.lower_name in _IMAGE_SETS))
            elif node.type.endswith("block"):
                left.append((node.content, False))
    return part.moved(finds.in_order(), text)


def _simple(text: str, base: str) -> Finds:
    """The images of a text that `_SIMPLE` matches."""
    finds = Finds()
    for match in _SIMPLE_URL.finditer(text):
        group = match.lastindex or 0
        escape = url_escape if group == 3 else string_escape
        finds.take(match[group], match.start(group), match[group], base, escape)
    return finds


def _add(finds: Finds, css: str, at: int, base: str) -> None:
    """The URL that is written here, as `url(...)` or as a string."""
    opening = _OPENING.match(css, at)
    at = opening.end() if opening else at
    quote = css[at : at + 1]
    is_string = quote in _STRINGS
    match = (_STRINGS[quote] if is_string else _UNQUOTED).match(css, at + is_string)
    if not match:
        return
    inner = decoded(css, *match.span(), _ESCAPE, _meaning)
    escape = string_escape if is_string else url_escape
    finds.take(inner.text, match.start(), match[0], base, escape)


_ESCAPE = re.compile(r"\\(?:([0-9A-Fa-f]{1,6})[ \n\t]?|\n|(.))", re.DOTALL)


def _meaning(match: re.Match[str]) -> str:
    if match[1]:
        code = int(match[1], 16)
        return chr(code) if 0 < code < 0x110000 else "\ufffd"
    return match[2] or ""


def url_escape(link: str) -> str:
    """A link in `url(...)` without quotes."""
    return re.sub(r"""[\s"'()\\]""", lambda match: f"\\{match[0]}", link)


def string_escape(link: str) -> str:
    """A link in a string."""
    return re.sub(r"""["'\\]""", lambda match: f"\\{match[0]}", link)
