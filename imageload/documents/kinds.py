"""The kinds of documents: their content types and file names, and what is sought in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Kind(NamedTuple):
    """The first of its content types and of its suffixes are given to a document without them.

    `sought`: what its finder looks for, for people.
    """

    types: Sequence[str]
    suffixes: Sequence[str]
    sought: str


_BARE = "URLs that end like an image (.png, .jpg, ...)"

KINDS: Mapping[str, Kind] = {
    "markdown": Kind(
        ["text/markdown", "text/x-markdown"],
        ["md", "markdown", "mdown", "mkd", "mdx", "qmd", "rmd"],
        f"![](https://...), <img> and {_BARE}",
    ),
    "html": Kind(
        ["text/html", "application/xhtml+xml", "application/xml", "text/xml", "image/svg+xml"],
        ["html", "htm", "xhtml", "xml", "rss", "atom", "svg", "opml"],
        f"<img>, srcset, styles, feeds' enclosures and {_BARE}",
    ),
    "bbcode": Kind(
        ["text/x-bbcode", "text/bbcode"],
        ["bbcode"],
        f"[img]https://...[/img] and {_BARE}",
    ),
    "csv": Kind(
        ["text/csv", "text/tab-separated-values", "application/csv", "application/vnd.ms-excel"],
        ["csv", "tsv", "tab"],
        f"a column of image URLs, {_BARE}; name the column with ?column=NAME",
    ),
    "json": Kind(
        ["application/json", "text/json", "application/x-ndjson", "application/jsonl"],
        ["json", "jsonl", "ndjson", "json5", "geojson", "ipynb", "har", "canvas"],
        f"strings that are {_BARE}, or whose key names an image",
    ),
    "org": Kind(["text/org", "text/x-org"], ["org"], f"[[https://...]] and {_BARE}"),
    "asciidoc": Kind(
        ["text/asciidoc", "text/x-asciidoc"],
        ["adoc", "asciidoc", "asc"],
        f"image::https://...[] and {_BARE}",
    ),
    "wiki": Kind(
        ["text/x-wiki", "text/x-web-textile"],
        ["wiki", "mediawiki", "dokuwiki", "textile", "jira", "confluence"],
        f"{{{{https://...}}}}, !https://...! and {_BARE}",
    ),
    "list": Kind(["text/plain", "text/uri-list"], ["txt", "urls"], "http and https URLs"),
    "text": Kind(["text/plain"], ["txt", "rst"], _BARE),
}
UNSAID = {
    "",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "application/unknown",
}
"""Of clients that do not know the type: curl sends the form's, Tornado's parser "unknown"."""
_PLAIN = {"text/plain", "txt"}  # name no kind: the text is judged
_TYPES = {name: kind for kind, each in KINDS.items() for name in each.types}
_SUFFIXES = {name: kind for kind, each in KINDS.items() for name in each.suffixes}


def kind_of_type(media_type: str) -> str:
    """The kind that a content type without parameters, in lower case, names; "" for none."""
    if media_type.endswith("+json"):
        return "json"
    if media_type.endswith("+xml"):
        return "html"
    return "" if media_type in _PLAIN else _TYPES.get(media_type, "")


def kind_of_name(file_name: str) -> str:
    """The kind that the end of a file's name names; "" for none."""
    _, dot, suffix = file_name.rpartition(".")
    return _SUFFIXES.get(suffix.lower(), "") if dot and suffix.lower() not in _PLAIN else ""
