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

_DELIMITER = re.compile(r"^(--|-{4,}|\.{4,}|\+{4,}|/{4,}|`{3,})[^\S\n]*(\w[^\n`]*)?$", re.MULTILINE)
# An open block, `--`, is code if the lines before it say so.
_STYLED = re.compile(
    r"^\[(source|listing|literal|comment|pass)\b[^\n]{0,500}\][^\S\n]*\n(?:[.\[]\S[^\n]*\n){0,4}+(?=--[^\S\n]*$)",
    re.MULTILINE,
)
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
    start, line, style, blocks = 0, "", "", list[Raw]()
    styles = {styled.end(): styled[1] for styled in _STYLED.finditer(text)}
    for match in _DELIMITER.finditer(text):
        if not line:
            style = styles.get(match.start(), "") if match[1] == "--" else match[1][0]
            start, line = match.end(), match[1] if style else ""
        elif match[1] == line and not match[2]:
            blocks.append(_block(style, start, match.start()))
            line = ""
    if line:
        blocks.append(_block(style, start, len(text)))
    yield from blocks
    for pattern, why in ((_COMMENT, "In a comment."), (_CODE, "In code.")):
        ends = iter([*blocks, Raw(len(text), len(text), "")])
        block = next(ends)
        for match in pattern.finditer(text):
            while block.end < match.start():
                block = next(ends)
            if match.end() <= block.start:
                yield Raw(*match.span(), why)


def _block(style: str, start: int, end: int) -> Raw:
    """The inside of a block; `style` is its name, or the letter of its delimiter."""
    why = "In a comment." if style in ("/", "comment") else "In code."
    return Raw(start, end, why, is_html=style in ("+", "pass"))
