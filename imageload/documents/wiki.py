"""Images in wiki markup: MediaWiki, DokuWiki, Confluence and Jira, Textile and Redmine.

Their forms do not collide, so one module reads them all. Files that a wiki keeps itself
(`[[File:a.png]]`, `{{:wiki:a.png}}`) have no URL in the text, and are named as ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from imageload.documents import markup
from imageload.documents.found import Finds
from imageload.documents.markup import Markup, Raw
from imageload.documents.urls import EXTENSION

_TAGS = "nowiki|pre|syntaxhighlight|source|code|file|notextile|html|php|math"
_TAG = re.compile(rf"<(?P<end>/)?(?P<name>{_TAGS})\b[^<>\n]{{0,500}}>", re.IGNORECASE)
_BRACE = re.compile(r"\{(?P<name>code|noformat)(?:[:|][^{}\n]{0,500})?\}", re.IGNORECASE)
_PERCENT = re.compile(r"(?P<name>%%)")
_COMMENT = re.compile(r"(?:(?P<end>-->)|<!--)(?P<name>)")
# DokuWiki takes what follows the last question mark for the size, if it looks like one.
_PARAMETER = r"(?:\d{1,5}(?:x\d{1,5})?(?!\d)|nolink|direct|linkonly|nocache|recache|cache)"
_PARAMETERS = rf"(?:\?(?:{_PARAMETER}(?:&{_PARAMETER}){{0,8}})?)?"
WIKI = Markup(
    images=(
        re.compile(
            r"\{\{[ \t]*(https?://[^{}|\s]{1,4000}?)"
            + _PARAMETERS
            + r"[ \t]*(?:\|[^{}\n]{0,1000})?\}\}",
            re.IGNORECASE,
        ),
        re.compile(
            r"(?<![\w!])!(?:[<>=]|\{[^{}\n]{0,200}\}|\([^()\n]{0,200}\)){0,3}(https?://[^\s!|()]{1,4000})"
            r"(?:\|[^!\n]{0,500}|\([^()!\n]{0,500}\))?!",
            re.IGNORECASE,
        ),
        re.compile(
            r"\|[ \t]*(?:image|logo|cover|photo|picture|screenshot)\w{0,20}[ \t]*=[ \t]*(https?://[^\s|{}\[\]]{1,4000})",
            re.IGNORECASE,
        ),
        re.compile(r"\[\[Image\((https?://[^\s,()\[\]]{1,4000})", re.IGNORECASE),  # of Trac
    ),
    links=(re.compile(r"\[\[?(https?://[^\s|\[\]]{1,4000})", re.IGNORECASE),),
    local=(
        re.compile(
            r"\[\[((?:File|Image|Datei|Bild|Fichier|Archivo|Imagen|Immagine|Bestand|\u0424\u0430\u0439\u043b"
            r"|\u30d5\u30a1\u30a4\u30eb|\u6587\u4ef6|\u6a94\u6848):[^\[\]|\n]{1,500})",
            re.IGNORECASE,
        ),
        re.compile(r"\{\{[ \t]*(:?[\w.:-]{1,300}" + EXTENSION + r")[?| \t}]", re.IGNORECASE),
        re.compile(r"(?<![\w!])!([\w .-]{1,200}" + EXTENSION + r")[|!]", re.IGNORECASE),
    ),
)


def find(text: str, base: str = "") -> Finds:
    """The images of a page in wiki markup."""
    return markup.find(text, base, WIKI, _raw(text))


def _raw(text: str) -> Iterator[Raw]:
    for pattern in (_TAG, _BRACE, _PERCENT):
        yield from markup.pairs(text, pattern)
    yield from markup.pairs(text, _COMMENT, "In a comment.")
