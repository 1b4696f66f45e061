"""Images in AsciiDoc: `image::URL[]`, `image:URL[]`, posters, bare URLs, and passed HTML.

A relative image is resolved with `:imagesdir:`, if that is a URL, before the document's base.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from imageload.documents import markup
from imageload.documents.found import Finds
from imageload.documents.markup import Markup, Raw
from imageload.documents.urls import absolute

_DELIMITER = re.compile(r"^(-{4,}|\.{4,}|\+{4,}|/{4,}|`{3,})[^\S\n]*(\w[^\n`]*)?$", re.MULTILINE)
_COMMENT = re.compile(r"^//(?!/)[^\n]*", re.MULTILINE)
_CODE = re.compile(r"`[^`\n]{1,500}`")
_FOLDER = re.compile(r"^:imagesdir:[ \t]+(https?://\S{1,2000})[ \t]*$", re.MULTILINE)
ASCIIDOC = Markup(
    images=(
        re.compile(r"\bimage::?(?:([^\s\[\]:][^\[\]\n]*+)\[|[^\[\]\n]*+)"),
        re.compile(
            r"\bvideo::[^\[\]\n]{1,2000}\[[^\[\]\n]{0,500}?\bposter=\"?([^\"\],\n]{1,2000})"
        ),
    ),
    links=(
        re.compile(r"\blink:([^\s\[\]]{1,8000})\["),
        re.compile(r"\blink=\"?([^\"\],\s]{1,8000})"),
    ),
)


def find(text: str, base: str = "") -> Finds:
    """The images of an AsciiDoc document."""
    folder = _FOLDER.search(text)
    if folder:
        url, _ = absolute(folder[1], base)
        base = url.rstrip("/") + "/" if url else base
    return markup.find(text, base, ASCIIDOC, _raw(text))


def _raw(text: str) -> Iterator[Raw]:
    """Delimited blocks, which end with the line that they begin with, comments, and code."""
    start, line, blocks = 0, "", []
    for match in _DELIMITER.finditer(text):
        if not line:
            start, line = match.end(), match[1]
        elif match[1] == line and not match[2]:
            blocks.append(_block(line, start, match.start()))
            line = ""
    if line:
        blocks.append(_block(line, start, len(text)))
    yield from blocks
    for pattern, why in ((_COMMENT, "In a comment."), (_CODE, "In code.")):
        ends = iter([*blocks, Raw(len(text), len(text), "")])
        block = next(ends)
        for match in pattern.finditer(text):
            while block.end < match.start():
                block = next(ends)
            if match.end() <= block.start:
                yield Raw(*match.span(), why)


def _block(line: str, start: int, end: int) -> Raw:
    why = "In a comment." if line[0] == "/" else "In code."
    return Raw(start, end, why, is_html=line[0] == "+")
