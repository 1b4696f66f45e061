"""Images in Org: `[[URL]]` and `[[page][URL]]`, bare URLs, and exported HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator

from imageload.documents import markup
from imageload.documents.found import Finds
from imageload.documents.markup import Markup, Raw

_BLOCK = re.compile(
    r"^[ \t]*#\+(?:begin|(?P<end>end))_(?P<name>src|example|comment|export)\b[^\n]*", re.I | re.M
)
_HTML = re.compile(r"^[ \t]*#\+html:([^\n]*)|@@html:([^\n@]{0,8000})@@", re.I | re.M)
_LINE = re.compile(r"^[ \t]*(?:# [^\n]*|#\+(?!html|begin|end)\w+:[^\n]*|: [^\n]*)", re.I | re.M)
_VERBATIM = re.compile(r"(?<![^\s({'\"-])([=~])(?=\S)([^\n=~]{1,500})\1(?![\w])")
_LINK = (
    r"\[\[((?:https?:|file:|attachment:|\.{0,2}/|[\w.-]+/)[^\[\]\n]{1,8000}|[^\[\]\n:*#]{1,500})\]"
)
ORG = Markup(images=(), links=(re.compile(_LINK), re.compile(r"\]\[([^\[\]\n]{1,8000})\]\]")))


def find(text: str, base: str = "") -> Finds:
    """The images of an Org document."""
    return markup.find(text, base, ORG, _raw(text))


def _raw(text: str) -> Iterator[Raw]:
    for block in markup.pairs(text, _BLOCK):
        # The line of the opening ends directly before the block's span.
        line = text[text.rfind("\n", 0, block.start) + 1 : block.start].split()
        is_html = [word.lower() for word in line[:2]] == ["#+begin_export", "html"]
        yield block._replace(is_html=is_html)
    for match in _HTML.finditer(text):
        group = 1 if match[1] is not None else 2
        yield Raw(*match.span(group), "", is_html=True)
    for match in _LINE.finditer(text):
        is_code = match[0].lstrip().startswith(":")
        if is_code or match[0].lstrip().startswith("# "):
            yield Raw(*match.span(), "In code." if is_code else "In a comment.")
    for match in _VERBATIM.finditer(text):
        yield Raw(*match.span(2), "In code.")
