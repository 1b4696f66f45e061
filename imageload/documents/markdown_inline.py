"""The images, links, code and HTML of one paragraph, heading or cell of Markdown, with their spans.

The algorithm is that of CommonMark's appendix: brackets wait on a stack for their closing ones, so
each mark is read once and the time is linear. markdown-it tries every bracket from its beginning,
and gives the URL without its place.

Beside CommonMark's forms it reads `![[URL]]` and `![[URL|300]]` of Obsidian, and `![](URL =100x50)`
with a size.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from typing import Literal, NamedTuple

from markdown_it.common.html_re import close_tag, open_tag
from markdown_it.common.utils import normalizeReference

_MARK = re.compile(r"\\.|`+|<(?=[A-Za-z/!?])|!?\[|\]", re.DOTALL)
_OTHER_MARK = re.compile(r"\\.|`+|<(?=[A-Za-z/!?])", re.DOTALL)
_EMBED = re.compile(r"!\[\[((?:[^\[\]\n|#\\]|\\(?!\|)){1,8000}+)(?:\\?[#|][^\[\]\n]{0,1000})?\]\]")
_BARE_TAGS = re.compile(r"(?:<(?:/[A-Za-z][A-Za-z0-9-]*+\s*+|[A-Za-z][A-Za-z0-9-]*+\s*+/?)>)+")
_AUTOLINK = re.compile(r"<([A-Za-z][A-Za-z0-9+.-]{1,31}:[^<>\x00-\x20]*)>")
_TAG = re.compile(f"{open_tag}|{close_tag}")
_RAW_ENDS = (("<!--", "-->"), ("<?", "?>"), ("<![CDATA[", "]]>"))
_SHORT_COMMENT = re.compile(r"<!---?>")
_DECLARATION = re.compile(r"<![A-Za-z]")
_LABEL = re.compile(r"\[((?:[^\[\]\\]++|\\.){0,999})\]", re.DOTALL)
_MOST_LABEL = 999

_MOST_LEVELS = 32  # of brackets in a destination
_PLAIN = r"[^\x00-\x20\x7f\\()]++|\\[^ ]|\\\Z"
_BALANCED = functools.reduce(
    lambda inner, _: rf"(?:{_PLAIN}|\({inner}\))*+", range(_MOST_LEVELS), f"(?:{_PLAIN})*+"
)
_DESTINATION = re.compile(rf"<(?:[^<>\n\\]++|\\.)*+>|(?!<){_BALANCED}|", re.DOTALL)
_SIZE = r"[ \t]+=[0-9]{0,6}%?x?[0-9]{0,6}%?[ \t]*"
_TITLE = (
    r"""[ \t\n]+(?:"(?:[^"\\]++|\\.)*+"|'(?:[^'\\]++|\\.)*+'|\((?:[^()\\]++|\\.)*+\))[ \t\n]*"""
)
_TARGET = re.compile(
    rf"\([ \t\n]*((?>{_DESTINATION.pattern}))(?:{_SIZE}|{_TITLE}|[ \t\n]*)\)", re.DOTALL
)


class Inline(NamedTuple):
    """One thing in a text, and its span; that of an image or a link is the span of its URL.

    An image whose URL is in a definition has its `label` instead, and no span.
    """

    kind: Literal["image", "link", "label", "autolink", "code", "html"]
    start: int
    end: int
    label: str = ""


class _Opening(NamedTuple):
    """A `[` or `![`: where it begins, and how many things were found before it."""

    start: int
    is_image: bool
    found: int


def inlines(text: str, labels: Collection[str]) -> list[Inline]:
    """What stands in the text, in its order; `labels` are the definitions' in normal form."""
    reader = _Reader(text, labels)
    reader.read()
    return reader.found


class _Reader:
    def __init__(self, text: str, labels: Collection[str]) -> None:
        self.found: list[Inline] = []
        self._text = text
        self._labels = labels
        self._open: list[_Opening] = []
        self._in_link = 0  # so many of the open brackets can be no link: one is in them
        self._ticks: dict[int, list[int]] | None = None  # begins of backticks by their number
        self._next: dict[str, int] = {}  # where each mark was found last

    def read(self) -> None:
        """Find everything."""
        text, at = self._text, 0
        may_have_labels = self._labels or "![[" in text
        last = text.rfind("]" if may_have_labels else "](")  # brackets behind it are text
        while mark := (_MARK if at <= last else _OTHER_MARK).search(text, at):
            start, at = mark.span()
            match text[start]:
                case "[":
                    self._open.append(_Opening(start, False, len(self.found)))
                case "]":
                    at = self._close(start)
                case "`":
                    at = self._code(start, at)
                case "<":
                    at = self._element(start)
                case "!":
                    at = self._image(start, at)

    def _code(self, start: int, end: int) -> int:
        size = end - start
        if self._ticks is None:
            self._ticks = {}
            for run in reversed([*re.finditer("`+", self._text)]):
                self._ticks.setdefault(len(run[0]), []).append(run.start())
        closes = self._ticks.get(size, [])
        while closes and closes[-1] < end:
            closes.pop()
        if not closes:
            return end
        end = closes.pop() + size
        self.found.append(Inline("code", start, end))
        return end

    def _element(self, start: int) -> int:
        tags = _BARE_TAGS.match(self._text, start)
        if tags:
            self.found.append(Inline("html", start, tags.end()))
            return tags.end()
        link = _AUTOLINK.match(self._text, start)
        end = link.end() if link else self._html_end(start)
        if end < 0:
            return start + 1
        self.found.append(Inline("autolink" if link else "html", start, end))
        return end

    def _html_end(self, start: int) -> int:
        """Where the HTML that begins here ends; -1 if it is none."""
        if self._text[start + 1 : start + 2] not in ("!", "?"):
            tag = _TAG.match(self._text, start) if self._end_of(">", start) >= 0 else None
            return tag.end() if tag else -1
        short = _SHORT_COMMENT.match(self._text, start)
        if short:
            return short.end()
        for opening, ending in _RAW_ENDS:
            if self._text.startswith(opening, start):
                return self._end_of(ending, start + len(opening))
        return self._end_of(">", start) if _DECLARATION.match(self._text, start) else -1

    def _end_of(self, ending: str, at: int) -> int:
        """Where the next `ending` ends; -1 for none. No character is searched twice."""
        begin = self._next.get(ending, -1)
        if begin < at:
            begin = self._text.find(ending, at)
            self._next[ending] = begin = begin if begin >= 0 else len(self._text)
        return begin + len(ending) if begin < len(self._text) else -1

    # Brackets

    def _image(self, start: int, end: int) -> int:
        embed = _EMBED.match(self._text, start)
        if embed:
            self.found.append(Inline("image", *embed.span(1)))
            return embed.end()
        self._open.append(_Opening(start, True, len(self.found)))
        return end

    def _close(self, close: int) -> int:
        """Read what a `]` ends; returns where to go on."""
        if not self._open:
            return close + 1
        opening = self._open.pop()
        may_be_link = len(self._open) >= self._in_link
        self._in_link = min(self._in_link, len(self._open))
        found = self._target(opening, close, may_be_link=may_be_link)
        if found is None:
            return close + 1
        inline, end = found
        if inline.kind == "link":
            self._in_link = len(self._open)
            self.found.append(inline)
        else:  # of the text in place of an image nothing is shown
            self.found[opening.found :] = [inline]
        return end

    def _target(
        self, opening: _Opening, close: int, *, may_be_link: bool
    ) -> tuple[Inline, int] | None:
        """The image or the link between these brackets, and where all of it ends."""
        is_inline = self._text.startswith("(", close + 1)
        inline = target(self._text, close + 1) if is_inline else None
        if inline and (opening.is_image or may_be_link):
            return Inline("image" if opening.is_image else "link", *inline[0]), inline[1]
        if opening.is_image and is_inline:
            # As in markdown-it, its `!` is text then.
            opening = _Opening(opening.start + 1, False, opening.found)
        if not self._labels or not (opening.is_image or may_be_link):
            return None
        label, end = self._label(opening.start + 1 + opening.is_image, close)
        if label not in self._labels:
            return None
        if opening.is_image:
            return Inline("label", close, close, label), end
        return Inline("link", close, close), end

    def _label(self, start: int, close: int) -> tuple[str, int]:
        """The label of `[text][label]`, `[label][]` or `[label]`, and where all of it ends."""
        said = _LABEL.match(self._text, close + 1)
        end = said.end() if said else close + 1
        if said and said[1]:
            return normalizeReference(said[1]), end
        is_label = close - start <= _MOST_LABEL
        return normalizeReference(self._text[start:close]) if is_label else "", end


def target(text: str, at: int) -> tuple[tuple[int, int], int] | None:
    """The span of the URL in `(URL "title")` here, and where the bracket ends."""
    found = _TARGET.match(text, at)
    if not found:
        return None
    begin, end = found.span(1)
    is_bracketed = end > begin and text[begin] == "<"
    return (begin + is_bracketed, end - is_bracketed), found.end()


def destination_end(text: str, at: int) -> int:
    """Where the destination that begins here ends; `at` if none does."""
    found = _DESTINATION.match(text, at)
    return found.end() if found else at
