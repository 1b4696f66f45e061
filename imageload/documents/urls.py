"""Judges a URL as it is written in a document. Nothing here does I/O."""

from __future__ import annotations

import re
from urllib.parse import urljoin

MAX_LENGTH = 8_000
"""Characters of a URL; the service fetches no longer one."""

EXTENSION = r"\.(?:jpe?g|jpe|jfif|png|apng|gif|webp|avif|heic|heif|bmp|tiff?|svg|ico|jxl|jp2)"
_IMAGE_PATH = re.compile(EXTENSION + r"(?::(?:large|orig|medium|small)|/revision/.{0,200})?$", re.I)
_QUERY = r"[?&](?:format|fm|ext|output-format)=(?:jpe?g|png|webp|gif|avif)\b"
_IMAGE_QUERY = re.compile(_QUERY, re.I)
MAY_BE_IMAGE = re.compile(rf"{EXTENSION}|{_QUERY}", re.I)
"""Found in every text with a URL that looks like an image."""
_MAY_HAVE_IMAGES = re.compile(rf"[<\[{{\\]|# |data:image/|{MAY_BE_IMAGE.pattern}", re.I)
_OTHER_PATH = re.compile(
    r"\.(?:html?|xhtml|js|mjs|css|json|xml|rss|atom|txt|md|pdf|docx?|xlsx?|zip|gz|tgz|mp[34]|m4[av]|webm"
    r"|og[gv]|mov|avi|wav|woff2?|ttf|otf|eot|wasm)$",
    re.I,
)
# A page about an image: its address ends like an image's.
_PAGE = re.compile(r"^https?://github\.com/[^/]+/[^/]+/blob/|/[A-Z][\w-]*:[^/]+$")
_TEMPLATE = re.compile(r"\{\{|\{%|\$\{|<%|<\?|\{[A-Za-z_$][^{}]{0,99}\}|%[A-Z][A-Z_]{2,40}%")
_HTTP = re.compile(r"https?://[^\s/?#\\]", re.I)
# Most URLs: nothing in them has to be judged or changed.
_PLAIN = re.compile(r"https?://[^\x00-\x20\s/?#\\{<%][^\x00-\x20\s{<%]*", re.I)
_BREAKS = re.compile(r"[\t\r\n]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_REASONS = {
    "data": "A data: URI: this image is in the document itself.",
    "blob": "A blob: URL is known only to the browser that made it.",
    "cid": "A cid: URL is an attachment of an e-mail.",
    "upload": "An upload:// address is known only to the Discourse forum that made it.",
    "javascript": "A javascript: URL is not an image.",
    "file": "A file of somebody's computer cannot be fetched.",
}


def absolute(text: str, base: str) -> tuple[str, str]:
    """(URL, "") for a URL that may be fetched, else ("", why not). No reason: nothing is there.

    A relative URL is resolved with `base`, if there is one. As in browsers, blanks around a URL
    and line ends in it do not count, and a blank in it is percent-encoded.
    """
    if len(text) <= MAX_LENGTH and _PLAIN.fullmatch(text):
        return text, ""
    url = (text if text.isprintable() else _BREAKS.sub("", text)).strip(" \f\x00")
    if not url or url.startswith("#"):
        return "", ""
    scheme = _SCHEME.match(url)
    if scheme and scheme[1].lower() in _REASONS:
        return "", _REASONS[scheme[1].lower()]
    if is_template(url):
        return "", "A template: its value is not in the document."
    if len(url) > MAX_LENGTH:
        return "", f"Longer than {MAX_LENGTH:,} characters."
    if url.startswith("//"):
        url = (base.partition("//")[0] or "https:") + url
    elif not scheme and base:
        try:
            url = urljoin(base, url)
        except ValueError:
            return "", "Not a URL."
    elif not scheme:
        return "", "A relative URL: name the document's own URL as the base."
    if not _HTTP.match(url):
        return "", "Not an http or https URL."
    return url.replace(" ", "%20"), ""


def is_template(text: str) -> bool:
    """Whether the text has a variable that a program fills in."""
    has_mark = "{" in text or "<" in text or "%" in text
    return has_mark and _TEMPLATE.search(text) is not None


def may_have_images(text: str, start: int, end: int) -> bool:
    """Whether something here may be the URL of an image, markup, or an escape."""
    return _MAY_HAVE_IMAGES.search(text, start, end) is not None


def is_image(url: str) -> bool:
    """Whether a URL that stands for itself looks like an image: its path ends like one."""
    path = _path(url)
    is_named = _IMAGE_PATH.search(path) or ("=" in url and _IMAGE_QUERY.search(url))
    return bool(is_named) and _PAGE.search(path) is None


def is_other(url: str) -> bool:
    """Whether a URL in an image's place is clearly something else: a page, a script, a film."""
    return _OTHER_PATH.search(_path(url)) is not None


def _path(url: str) -> str:
    """The URL without its query and its fragment."""
    return url.partition("#")[0].partition("?")[0]
