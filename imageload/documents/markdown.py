"""Images in Markdown.

The blocks of the text (paragraphs, lists, quotes, tables, code) are markdown-it's, see
`markdown_blocks`; what stands in a paragraph is read by `markdown_inline`.

HTML in Markdown is searched as one text in which everything else is blank, so a `<picture>` may go
over several blocks. Images of code are ignored, and those of places that nobody sees.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import unescape
from typing import Any

from markdown_it.token import Token

from imageload.documents import html, named
from imageload.documents import text as bare
from imageload.documents.found import Finds, Found, Part, decoded, masked, plain
from imageload.documents.markdown_blocks import Span, Tangled, blocks
from imageload.documents.markdown_inline import Inline, inlines
from imageload.documents.markup import pairs
from imageload.documents.urls import absolute, is_image, is_template

# A bracket, an element, or a bare URL, which may have escapes.
_MAY_HAVE_IMAGES = re.compile(r"[\[<&\\]|http|src=", re.IGNORECASE)
_MAY_HAVE_URLS = re.compile(r"[&\\]|http|src=", re.IGNORECASE)
_PARAGRAPH = re.compile(r"[A-Za-z!][^\n\r]*")
_LINE_END = re.compile(r"\r\n")
_LINE_END_OF_MACS = re.compile(r"\r(?!\n)")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_ESCAPES = re.compile(
    r"\\[!-/:-@\[-`{-~]|&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
)
# Code of Jekyll, and comments of MDX.
_LIQUID = re.compile(r"\{%-?[ \t]{0,9}(?P<end>end)?(?P<name>highlight|codeblock)\b[^%\n]{0,200}%\}")
_COMMENT = re.compile(r"(?:(?P<end>\*/\})|\{/\*)(?P<name>)")
_WITH_BLANK = re.compile(
    r"!\[[^\[\]\n]{0,500}\]\([ \t]*([^\s()<>\"'=][^()<>\n]{0,2000} [^()<>\n]{0,2000})\)"
)

_BLOCK_STEPS = 0.13
"""Steps of the parser for each character; a text that needs more is searched as plain text."""


def find(text: str, base: str = "") -> Finds:
    """The images of a Markdown document."""
    if not _MAY_HAVE_IMAGES.search(text):
        return Finds()
    lines = _LINE_END_OF_MACS.sub("\n", text).replace("\0", "\ufffd")
    part = decoded(lines, 0, len(lines), _LINE_END, lambda _: "\n")
    raw = []
    if "{" in part.text:
        raw = [*pairs(part.text, _LIQUID), *pairs(part.text, _COMMENT, "In a comment.")]
    rest = masked(part.text, [(each.start, each.end) for each in raw]) if raw else part.text
    finds = _Reader(rest, base).finds()
    for each in raw:
        finds.add(bare.ignored(part.text[each.start : each.end], each.start, each.why))
    return part.moved(finds, text).in_order()


def is_paragraph(text: str) -> bool:
    """Whether the text is one line and begins no other block: it needs no parser of blocks."""
    return _PARAGRAPH.fullmatch(text) is not None


class _Reader:
    """Reads one text whose line ends are all `\\n`."""

    def __init__(self, text: str, base: str) -> None:
        self.text = text
        self.base = base
        self._lines = [0, *(match.end() for match in re.finditer("\n", text)), len(text) + 1]
        self._environment: dict[str, Any] = {"spans": {}}
        self._used: set[str] = set()
        self._finds = Finds()
        self._html: list[tuple[int, int]] = []
        self._seen: list[tuple[int, int]] = []  # spans of code and of URLs

    def finds(self) -> Finds:
        """The images of the text."""
        for token, cell in _with_places(self._blocks()):
            if token.type == "inline" and _MAY_HAVE_IMAGES.search(token.content):
                self._inline(self._cell(token, cell))
            elif token.type == "html_block":
                self._html_block(token)
            elif token.type in ("fence", "code_block") and token.map:
                start, end = self._lines[token.map[0]], self._lines[token.map[1]] - 1
                self._code(start, end)
        for label, span in self._environment["spans"].items():
            self._take(span, is_marked=label in self._used)
        self._in_html()
        self._written(plain(self.text, 0, len(self.text)), named.front(self.text, self.base))
        rest = masked(self.text, [*self._html, *self._seen])
        self._finds.add(
            bare.ignored(rest, 0, "In a place that is not shown as an image or as text.")
        )
        return self._finds

    def _blocks(self) -> list[Token]:
        """The blocks of the text; none if it is tangled, and then it is searched as plain text."""
        if is_paragraph(self.text):
            paragraph = Token("inline", "", 0, map=[0, 1], content=self.text.strip(" \t"))
            return [paragraph]
        self._environment["steps"] = _BLOCK_STEPS * len(self.text) + 20_000
        try:
            return blocks(self.text, self._environment)
        except Tangled:
            self._finds.ignore(self.text, 0, "Too many lists, quotes or cells to read.")
            self._environment["spans"].clear()
            self._words(plain(self.text, 0, len(self.text)), [])
            return []

    # Places

    def _content(self, token: Token) -> Part:
        """A block's text as the parser has it, and its places: without indents and quote marks."""
        first = token.map[0] if token.map else 0
        copied = self._copied(token.content, self._lines[first], self._lines[first + 1] - 1)
        if copied >= 0:
            return plain(token.content, 0, len(token.content), copied)
        part = Part()
        for index, line in enumerate(_LINE.findall(token.content)):
            start, end = self._lines[first + index], self._lines[first + index + 1] - 1
            source = self.text[start:end]
            body = line.rstrip("\n")
            stripped = body.lstrip(" \t")
            at = source.rfind(stripped) if stripped else -1
            indent = len(body) - len(stripped)
            if at >= 0:
                part.append(body[:indent], start + at, start + at)
                part.append(stripped, start + at, start + at + len(stripped))
            else:
                part.append(body, end, end)
            part.append(line[len(body) :], end, end + 1)
        return part.done()

    def _copied(self, content: str, start: int, end: int) -> int:
        """Where a block's text stands, if it is one piece of the source; -1 if not.

        `start` and `end` are those of its first line.
        """
        if self.text.startswith(content, start):
            return start
        return -1 if "\n" in content else self.text.rfind(content, start, end)

    def _cell(self, token: Token, cell: tuple[int, int] | None) -> Part:
        """The text of a table's cell, or of another block. `cell` is where its search begins."""
        if cell is None:
            return self._content(token)
        line, column = cell
        start = self._lines[line] + column
        written = token.content.replace("|", "\\|")
        at = self.text.find(written, start, self._lines[line + 1])
        if at < 0:  # it was written with an escape that we do not know: nothing can be placed
            part = Part()
            part.append(token.content, start, start)
            return part.done()
        return decoded(self.text, at, at + len(written), re.compile(r"\\\|"), lambda _: "|")

    # HTML

    def _html_block(self, token: Token) -> None:
        start = self._lines[token.map[0]] if token.map else 0
        if self.text.startswith(token.content, start):
            self._add_html(start, start + len(token.content))
        else:
            part = self._content(token)
            for line in re.finditer(r"[^\n]+", part.text):
                self._add_html(*part.span(*line.span()))

    def _add_html(self, start: int, end: int) -> None:
        """Note a span of HTML; one with the span before it, if only white space is between."""
        if self._html:
            first, last = self._html[-1]
            if last <= start and (last == start or self.text[last:start].isspace()):
                self._html[-1] = (first, end)
                return
        self._html.append((start, end))

    def _in_html(self) -> None:
        """The images of all HTML in the text."""
        if self._html:
            outside: list[tuple[int, int]] = []
            at = 0
            for start, end in sorted(self._html):
                outside.append((at, start))
                at = max(at, end)
            outside.append((at, len(self.text)))
            self._finds.add(html.find(masked(self.text, outside), self.base))

    # Images

    def _inline(self, part: Part) -> None:
        """The images of one paragraph, heading or cell."""
        spoken: list[tuple[int, int]] = []
        if any(mark in part.text for mark in ("[", "<", "`")):
            for each in inlines(part.text, self._environment.get("references", ())):
                if each.kind == "label":
                    self._used.add(each.label)
                elif each.start < each.end:
                    spoken.append((each.start, each.end))
                    # Most links are no images: they are not even decoded.
                    written = part.text[each.start : each.end]
                    if each.kind != "link" or is_image(written) or _ESCAPES.search(written):
                        self._one(each, Span(*part.span(each.start, each.end)))
        self._words(part, spoken)

    def _one(self, inline: Inline, span: Span) -> None:
        """Take a thing that is not text; `span` is its place in the source."""
        match inline.kind:
            case "image":
                self._take(span, is_marked=True)
            case "link":
                self._take(span, is_marked=False)
            case "autolink":
                self._take(Span(span.start + 1, span.end - 1), is_marked=False)
            case "html":
                self._add_html(*span)
            case "code":
                self._code(*span)

    def _words(self, part: Part, spoken: Sequence[tuple[int, int]]) -> None:
        """The bare URLs of a text that are not in the spans `spoken`."""
        rest = masked(part.text, spoken) if spoken else part.text
        for match in _WITH_BLANK.finditer(rest):
            start, _ = part.span(*match.span(1))
            _, why = absolute(match[1], self.base) if is_template(match[1]) else ("", "")
            self._finds.ignore(match[1], start, why or "A URL with a blank: write it as <URL>.")
        if not _MAY_HAVE_URLS.search(rest):
            return
        if "&" in rest or "\\" in rest:
            words = decoded(rest, 0, len(rest), _ESCAPES, _meaning)
            finds = words.moved(named.find(words.text, self.base), rest)
        else:
            finds = named.find(rest, self.base)
        self._written(part, finds)

    def _written(self, part: Part, finds: Finds) -> None:
        """Take the finds of a text."""
        moved = part.moved(finds, self.text)
        self._finds.add(moved)
        self._seen += [(each.start, each.end) for each in moved.found]

    def _take(self, span: Span, is_marked: bool) -> None:
        """Take a destination: of an image, or of a link, which counts if it ends like an image."""
        written = self.text[span.start : span.end]
        url, why = absolute(_ESCAPES.sub(_meaning, written), self.base)
        if is_marked or (url and is_image(url)):
            self._seen.append(span)
            if url:
                self._finds.found.append(Found(url, span.start, span.end, written, (destination,)))
            elif why:
                self._finds.ignore(written, span.start, why)

    def _code(self, start: int, end: int) -> None:
        self._seen.append((start, end))
        self._finds.add(bare.ignored(self.text[start:end], start, "In code."))


def _with_places(tokens: list[Token]) -> Iterator[tuple[Token, tuple[int, int] | None]]:
    """Each token, and for a cell of a table its line and where its search begins in this line."""
    line, column = -1, 0
    is_cell = False
    for token in tokens:
        if token.type == "tr_open" and token.map:
            line, column = token.map[0], 0
        is_cell = token.type == "inline" and is_cell
        yield token, (line, column) if is_cell else None
        if is_cell:
            column += 1  # cells are found in their order; a found one is at least this far
        is_cell = token.type in ("td_open", "th_open")


# Escapes


def _meaning(match: re.Match[str]) -> str:
    return match[0][1] if match[0][0] == "\\" else unescape(match[0])


def destination(link: str) -> str:
    """A link as a destination, with or without `<>`, in a table too."""
    link = re.sub(r"[\s<>()\\|]", lambda match: f"%{ord(match[0]):02X}", link)
    return re.sub(r"&(?=#?\w+;)", "&amp;", link)
