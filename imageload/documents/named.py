"""Images that a program shows by the name before their URL: in shortcodes, components, directives.

`{{< figure src="URL" >}}` of Hugo, `{% include image.html url="URL" %}` of Jekyll,
`[image src="URL"]` of WordPress, `<Image src={"URL"}/>` of MDX, `.. image:: URL` of
reStructuredText, `{img src=URL}` of Tiki, `\\includegraphics{URL}` of LaTeX, and the keys of front
matter. A URL that ends like an image is found without a name; the URLs here may end otherwise.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator

from imageload.documents import text as bare
from imageload.documents.found import Finds
from imageload.documents.jsontext import names_image
from imageload.documents.urls import EXTENSION

_HTTP = r"https?://[^\s\"'`<>{}\[\]]{1,8000}"
_URL = rf"({_HTTP}|[^\s\"'`<>{{}}\[\]=:]{{1,500}}{EXTENSION}(?=[\s\"'`<>{{}}\[\]]|$))"
_IMAGE = r"[\w./-]{0,40}(?:figure|image|img|picture|photo|thumb)[\w./-]{0,40}"
_KEY = r"[^{}\[\]<>\n]{0,500}?\b(?:src|url|image|source|path)[ \t]*[=:][ \t]*"
_HINT = re.compile(r"(?:src|url|image|source|path)[ \t]*[=:]|\{\{[<%]|\{%|\}|::", re.IGNORECASE)
_NAMED = re.compile(
    rf"(?:(?:\{{\{{[<%]|\{{%|\{{|\[|:::)-?[ \t]*(?:include\w*[ \t]+)?{_IMAGE}{_KEY}[\"'`]?{_URL}"
    rf"|(?:\{{\{{[<%]|\{{%)-?[ \t]*{_IMAGE}(?:[ \t]+\w+)?[ \t]+[\"'`]?({_HTTP})"
    rf"|<(?:\w[\w.]{{0,40}})?im(?:g|age)\w{{0,40}}\b[^<>]{{0,1000}}?"
    rf"\bsrc=(?:\{{[ \t]*)?[\"'`]?{_URL}"
    rf"|^[ \t]*\.\.[ \t]+(?:\|[^|\n]{{1,100}}\|[ \t]+)?(?:image|figure|thumbnail)::[ \t]*{_URL}"
    rf"|\\includegraphics\*?[ \t]*(?:\[[^\[\]\n]{{0,500}}\])?\{{{_URL}\}}"
    rf"|\{{(?:figure|image)\}}[ \t]+{_URL})",
    re.IGNORECASE | re.MULTILINE,
)
_ESCAPE = re.compile(r"\\([_%#&~])")  # of Markdown and LaTeX
_FRONT = re.compile(r"\s{0,9}(---|\+\+\+)[ \t]*\n(.{0,20000}?)^\1[ \t]*$", re.DOTALL | re.MULTILINE)
_ENTRY = re.compile(
    rf"^[ \t]*(?:-[ \t]+)?(?:[\"']?([\w.-]{{1,60}})[\"']?[ \t]*(?::(?=\s)|=))?"
    rf"[ \t]*(?:\[?[\"']?({_HTTP}))?",
    re.MULTILINE,
)


def find(text: str, base: str = "") -> Finds:
    """The images of plain text: bare URLs, and those with a name."""
    finds = bare.find(text)
    if not _HINT.search(text):
        return finds
    starts = [each.start for each in finds.found]
    named = Finds()
    for match in _NAMED.finditer(text):
        start, end = match.span(match.lastindex or 0)
        before = bisect_left(starts, end) - 1
        if before < 0 or finds.found[before].end <= start:
            _take(named, text[start:end], start, base)
    finds.add(named)
    return finds.in_order()


def front(text: str, base: str = "") -> Finds:
    """The images of the front matter of a page: YAML between `---`, or TOML between `+++`."""
    finds = Finds()
    matter = _FRONT.match(text)
    for url, start in _entries(text, *matter.span(2)) if matter else ():
        _take(finds, url, start, base)
    return finds


def _entries(text: str, start: int, end: int) -> Iterator[tuple[str, int]]:
    """The URLs behind a key that names an image, and those of its list; with their offsets."""
    is_named = False
    for match in _ENTRY.finditer(text, start, end):
        if match[1]:
            is_named = names_image(match[1])
        if match[2] and is_named:
            yield match[2], match.start(2)


def _take(finds: Finds, written: str, start: int, base: str) -> None:
    finds.take(_ESCAPE.sub(r"\1", written), start, written, base, percent_encode)


def percent_encode(link: str) -> str:
    """A link without characters that markup reads."""
    return re.sub(r"[\s<>\[\]{}|!]", lambda match: f"%{ord(match[0]):02X}", link)
