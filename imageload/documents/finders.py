"""The finder of each kind of document, and how the kind of a text is judged.

The order of trust: the name that the client gives, a content type that names one kind, the file's
name, `text/plain` (plain text or a list), and the text itself.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator

from imageload.documents import (
    asciidoc,
    bbcode,
    html,
    jsontext,
    lists,
    markdown,
    named,
    org,
    tables,
    wiki,
)
from imageload.documents import text as bare
from imageload.documents.found import Finds
from imageload.documents.kinds import kind_of_name, kind_of_type

FINDERS = {
    "markdown": markdown.find,
    "html": html.find,
    "bbcode": bbcode.find,
    "org": org.find,
    "asciidoc": asciidoc.find,
    "wiki": wiki.find,
    "list": lists.find,
    "text": named.find,
}
"""The finder of each kind that needs nothing but the text and its base."""

_INNER_DEPTH = 3  # a JSON string of JSON of HTML; deeper texts are searched as plain text
_INNER_WORK = 4_000
_INNER_SIZE = 50
"""Texts in strings and cells that are read: so many, and one more for so many characters."""

_HTML_START = re.compile(
    r"\s*(?:<!doctype\s+html|<html\b|<\?xml\b|<rss\b|<feed\b|<svg\b|<urlset\b|<mediawiki\b)", re.I
)
_HTML_TAG = re.compile(
    r"</?(?:[a-z][a-z0-9]{0,9}|[a-z]{1,9}:[a-z]{1,12})(?:\s[^<>]{0,200})?/?>|<(?:img|source|picture)\b",
    re.I,
)
_JSON_START = re.compile(r'\[{0,9}\s*\{\s*"[^"\n]{0,200}"\s*:')  # of JSON that is broken later
_SERIALIZED = re.compile(r"""(?<!\w)s:([0-9]{1,8}):(\\?")""")
_JSON_OPENING = re.compile(r"[\s\ufeff]*(?=[\[{]\s*[\[\]{}\"\w-])")
_JSON = json.JSONDecoder()
_JSON_NEXT = re.compile(r"[\s,]*(?:[\[{]|$)")
_IMG = re.compile(r"\[img\b[^\]\n]{0,200}\]", re.I)
_UID = r"(?::[0-9a-z]{1,10})?"  # of phpBB, also of `[/list:u:1a2b3c4d]`
_IMG_END = re.compile(rf"\[/img{_UID}\]", re.I)
_BBCODE_IMAGE = re.compile(rf"\[/(?:img2?|timg|thumb|url){_UID}\]", re.I)
_BBCODE = re.compile(
    rf"\[/(?:img2?|timg|url|quote|code|size|color|center|list|b|i|u){_UID}{_UID}\]", re.I
)
_MARKDOWN = re.compile(
    r"!\[[^\]\n]{0,300}\](?:\(|\[)|!\[\[|\[[^\[\]\n]{1,300}\]\((?:https?:|/|\.)"
    r"|^ {0,3}#{1,6} \S|^ {0,3}(?:```|~~~)"
    r"|^ {0,3}\[[^\[\]\n]{1,300}\]:[ \t]*\S|\]\[[^\[\]\n]{0,300}\]",
    re.M,
)
_ORG = re.compile(
    r"^[ \t]*#\+(?:title|begin_\w+|attr_\w+|caption|author|html|options|startup)\b|\[\[(?:https?://|file:|\./)[^\[\]\n|]{1,2000}\]\[",
    re.I | re.M,
)
_ASCIIDOC = re.compile(r"\bimage::?[^\s\[\]:][^\s\[\]]{0,2000}+\[", re.M)
_MARKUP = re.compile(r"[<\[{`~]|# ")  # of HTML, JSON, BBCode and Markdown
_SQL = re.compile(r"^[ \t]*(?:insert[ \t]+into|create[ \t]+table)\b", re.I | re.M)
_WIKI = re.compile(
    r"\[\[(?:File|Image|Datei|Fichier|Archivo):|\[\[Image\(|\{\{[ \t]*(?:https?://|:\w)|(?<![\w!])![<>=]?https?://[^\s!]{1,2000}!"
    r"|^h[1-6]\. \S|^\{\{[A-Z][\w ]{1,60}$|'''[^'\n]{1,200}'''|^={2,6}[^=\n]{1,200}={2,6}[ \t]*$|\{(?:code|noformat)\b[^{}\n]{0,200}\}|<nowiki>|\[\[https?://[^\[\]|\n]{1,2000}\|",
    re.M,
)


def kind_of(text: str, content_type: str = "", file_name: str = "") -> str:
    """The kind of a document: one of KINDS."""
    essence = content_type.partition(";")[0].strip().lower()
    named = kind_of_type(essence) or kind_of_name(file_name)
    if named:
        return named
    if essence == "text/plain":
        return "list" if lists.is_list(text) else "text"
    return judged(text)


def judged(text: str) -> str:
    """The kind that a text looks like."""
    if is_json(text):
        return "json"
    if _HTML_START.match(text):
        return "html"
    if lists.is_list(text):
        return "list"
    return _marked(text) or ("list" if lists.is_mostly_list(text) else "text")


def _marked(text: str) -> str:
    """The markup, or the table, that the text looks like; "" for none."""
    has_markdown = _MARKDOWN.search(text)
    if _BBCODE.search(text) and (not has_markdown or _BBCODE_IMAGE.search(text)):
        return "bbcode"
    if _ORG.search(text):
        return "org"
    if _ASCIIDOC.search(text):
        return "asciidoc"
    if not has_markdown and not _SQL.search(text) and _is_table(text):
        return "csv"
    if _is_markdown(text):
        return "markdown"
    if _WIKI.search(text):
        return "wiki"
    if _HTML_TAG.search(text):
        return "html"
    return "markdown" if has_markdown else ""


def _is_markdown(text: str) -> bool:
    """Whether a text has marks of Markdown, and is not an HTML element with one by chance."""
    mark = _MARKDOWN.search(text)
    if not mark:
        return False
    is_element = text.lstrip().startswith("<") and text.rstrip().endswith(">")
    return not is_element or mark[0].startswith(("![", "#", "```", "~~~", "]["))


def is_json(text: str) -> bool:
    """Whether the text is JSON, or JSON values one after another; it may be broken inside."""
    begin = _JSON_OPENING.match(text)
    if not begin:
        return False
    try:
        _, end = _JSON.raw_decode(text, begin.end())
    except RecursionError:
        return True
    except ValueError:
        return _JSON_START.match(text, begin.end()) is not None
    return _JSON_NEXT.match(text, end) is not None


def _is_table(text: str) -> bool:
    """Whether the text has rows with the same number of cells, two rows at least."""
    start, delimiter = tables.table_delimiter(text)
    if not delimiter:
        return False
    rows = tables.records(text, delimiter, start)
    next(rows, None)
    second = next(rows, None)
    return second is not None and len(second) > 1


def find_images(
    text: str, kind: str, base: str = "", column: str = "", link_base: str = ""
) -> Finds:
    """The images of a text of this kind."""
    reader = _Reader(_INNER_WORK + int(len(text) / _INNER_SIZE))
    if kind == "csv":
        finds = tables.find(text, base, column, link_base, reader.inner)
    else:
        finds = reader.find(text, kind, base)
    if reader.left < 0:
        finds.ignore(text, 0, "Too many texts in cells or strings to read.")
    return _without_serialized(text, finds)


class _Reader:
    """Reads a document and the texts in its strings and cells, and in those of these texts.

    A text takes some 0.05 ms, however short it is, and blocks of Markdown take more. If there are
    too many texts, the rest of them is searched as plain text.
    """

    def __init__(self, texts: int) -> None:
        self.left = texts
        self._depth = 0

    def find(self, text: str, kind: str, base: str) -> Finds:
        """The images of a text of this kind; a table is searched by the caller."""
        if kind == "json":
            return jsontext.find(text, base, self.inner)
        return FINDERS[kind](text, base).in_order()

    def inner(self, text: str, base: str) -> Finds:
        """The images of a text in a string or a cell."""
        if self.left < 0:
            return _without_serialized(text, bare.find(text))
        kind = inner_kind(text) if self._depth < _INNER_DEPTH else "text"
        if kind != "text":
            has_blocks = kind == "markdown" and not markdown.is_paragraph(text)
            self.left -= 3 if has_blocks else 1
        self._depth += 1
        finds = self.find(text, kind, base)
        self._depth -= 1
        return _without_serialized(text, finds)


def _without_serialized(text: str, finds: Finds) -> Finds:
    """The finds without those in strings that PHP has serialized, as in exports of WordPress.

    Such a string stands behind its length: with a link in it, all of the value would be lost.
    """
    spans = [*_serialized(text)] if finds.found else []
    if not spans:
        return finds
    begins = [start for start, _ in spans]
    kept = Finds([], finds.ignored, finds.cells)
    for each in finds.found:
        before = bisect_right(begins, each.start)
        if before and each.start < spans[before - 1][1]:
            kept.ignore(each.as_written, each.start, "In a string of PHP that has its length.")
        else:
            kept.found.append(each)
    return kept.in_order()


def _serialized(text: str) -> Iterator[tuple[int, int]]:
    """The spans of serialized strings of PHP, in their order."""
    at, missing = 0, set[str]()
    for opening in _SERIALIZED.finditer(text):
        start, closing = opening.end(), opening[2] + ";"
        if start < at or closing in missing:
            continue
        end = start + int(opening[1])
        # The length is that of the bytes before they were escaped.
        if not text.startswith(closing, end):
            end = text.find(closing, start)
        if end < 0:
            missing.add(closing)
            continue
        at = end
        yield start, end


def inner_kind(text: str) -> str:
    """The kind of a text in a string or in a cell: tables and wikis are not looked for."""
    if not _MARKUP.search(text):
        return "text"
    if _HTML_START.match(text):
        return "html"
    if text.lstrip()[:1] in ("{", "[") and is_json(text):
        return "json"
    if _IMG_END.search(text) and _IMG.search(text):
        return "bbcode"
    if _is_markdown(text):
        return "markdown"
    return "html" if _HTML_TAG.search(text) else "text"
