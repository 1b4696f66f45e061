"""Splits HTML and XML into tokens with their offsets, as the HTML standard's tokenizer does.

Tags, comments and text are spans of the source. Nothing is decoded, and no input is an error. Each
character is read once, so the time is linear: a tag that never ends takes the rest of the text, as
in browsers (section 13.2.5 of the HTML standard).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class Attribute(NamedTuple):
    """An attribute: its name in lower case, and the span of its value without the quotes."""

    name: str
    start: int
    end: int


class Token(NamedTuple):
    """`kind`: start, end, text, raw (the text of a script or a style), comment, cdata, unfinished.

    `name` is a tag's name in lower case, and of raw text the name of the element that it is in.
    """

    kind: str
    start: int
    end: int
    name: str = ""
    attributes: tuple[Attribute, ...] = ()


RAW = frozenset({"script", "style", "xmp", "iframe", "noembed", "noframes", "textarea", "title"})
"""Elements whose content is no markup."""

# Tags without attributes that change nothing, and text without a URL before each.
_NAMED = "|".join(sorted({*RAW, "pre", "picture", "source", "img"}))
_UNREAD = re.compile(
    rf"(?:[^<:]*+</?(?!(?:{_NAMED})[\t\n\f\r />])[A-Za-z][A-Za-z0-9]*+[\t\n\f\r ]*+/?>)+",
    re.IGNORECASE,
)
_NAME = re.compile(r"[^\t\n\f\r />]+")
_END_TAG = re.compile(r"</([A-Za-z][^\t\n\f\r />]*)>")
# A start tag as nearly all are written, and one of its attributes.
_WRITTEN = (
    r"[\t\n\f\r ]++([^\t\n\f\r />=\"'\\<]++)"
    r"(?:=(?:\"([^\"]*+)\"|'([^']*+)'|([^\t\n\f\r >\"'\\]++)))?+"
)
_WRITTEN_ATTRIBUTE = re.compile(_WRITTEN)
_WRITTEN_TAG = re.compile(rf"<([A-Za-z][^\t\n\f\r />]*+)((?:{_WRITTEN})*+)[\t\n\f\r ]*+/?>")
_GAP = re.compile(r"[\t\n\f\r /]*")
_ATTRIBUTE = re.compile(r"([^\t\n\f\r />][^\t\n\f\r />=]*)(?:[\t\n\f\r ]*(=)[\t\n\f\r ]*)?")
_ESCAPED_QUOTES = ('\\"', "\\'")  # of HTML in a string of SQL or of a program
_UNQUOTED = re.compile(r"[^\t\n\f\r >]*")
_MARKUP = re.compile(r"<(?=[A-Za-z/!?])")
_COMMENT_END = re.compile(r"--!?>")


def tokens(text: str, is_xml: bool = False) -> Iterator[Token]:
    """The tokens of the text, in its order; of HTML, without those that cannot matter to images."""
    at = 0
    while at < len(text):
        unread = None if is_xml else _UNREAD.match(text, at)
        at = unread.end() if unread else at
        markup = _MARKUP.search(text, at)
        begin = markup.start() if markup else len(text)
        if begin > at:
            yield Token("text", at, begin)
        if not markup:
            return
        token = _tag(text, begin) if text[begin + 1] not in "!?" else _other(text, begin, is_xml)
        yield token
        at = token.end
        if token.kind == "start" and token.name in RAW and not is_xml:
            close = re.compile(rf"</{token.name}(?=[\t\n\f\r />])", re.IGNORECASE).search(text, at)
            end = close.start() if close else len(text)
            yield Token("raw", at, end, token.name)
            at = end


def _other(text: str, begin: int, is_xml: bool) -> Token:
    """A comment, a CDATA section, a declaration or a processing instruction."""
    if text.startswith("<!--", begin):
        if text.startswith((">", "->"), begin + 4):
            return Token("comment", begin, text.index(">", begin) + 1)
        end = _COMMENT_END.search(text, begin + 4)
        return Token("comment", begin, end.end() if end else len(text))
    if is_xml and text.startswith("<![CDATA[", begin):
        stop = text.find("]]>", begin)
        return Token("cdata", begin, len(text) if stop < 0 else stop + 3)
    stop = text.find("?>" if is_xml and text[begin + 1] == "?" else ">", begin)
    return Token("comment", begin, len(text) if stop < 0 else text.index(">", stop) + 1)


def _tag(text: str, begin: int) -> Token:
    """A start tag or an end tag; a comment if it has no name."""
    written = _WRITTEN_TAG.match(text, begin)
    if written:
        found = []
        for each in _WRITTEN_ATTRIBUTE.finditer(text, *written.span(2)):
            group = each.lastindex or 1
            found.append(
                Attribute(
                    each[1].lower(), each.start(group) if group > 1 else each.end(), each.end(group)
                )
            )
        return Token("start", begin, written.end(), written[1].lower(), tuple(found))
    ending = _END_TAG.match(text, begin)
    if ending:
        return Token("end", begin, ending.end(), ending[1].lower())
    is_end = text[begin + 1] == "/"
    at = begin + 1 + is_end
    if not text[at : at + 1].isalpha() or not text[at : at + 1].isascii():
        stop = text.find(">", at)
        return Token("comment", begin, len(text) if stop < 0 else stop + 1)
    name = _NAME.match(text, at)
    assert name
    attributes: list[Attribute] = []
    at = name.end()
    while True:
        gap = _GAP.match(text, at)
        at = gap.end() if gap else at
        if at >= len(text):
            return Token("unfinished", begin, len(text), name[0].lower(), tuple(attributes))
        if text[at] == ">":
            kind = "end" if is_end else "start"
            return Token(kind, begin, at + 1, name[0].lower(), tuple(attributes))
        attribute, at = _attribute(text, at)
        attributes.append(attribute)


def _attribute(text: str, at: int) -> tuple[Attribute, int]:
    """The attribute here, and where it ends. One whose quote is never closed takes the rest."""
    match = _ATTRIBUTE.match(text, at)
    assert match
    name, at = match[1].lower(), match.end()
    if not match[2]:
        return Attribute(name, at, at), match.end(1)
    escaped = text[at : at + 2]
    if escaped in _ESCAPED_QUOTES and (stop := text.find(escaped, at + 2)) >= 0:
        return Attribute(name, at + 2, stop), stop + 2
    quote = text[at : at + 1]
    if quote in ('"', "'"):
        stop = text.find(quote, at + 1)
        if stop < 0:
            return Attribute(name, len(text), len(text)), len(text)
        return Attribute(name, at + 1, stop), stop + 1
    value = _UNQUOTED.match(text, at)
    assert value
    return Attribute(name, at, value.end()), value.end()
