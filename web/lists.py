"""A POST's body to lists of URLs: the forms that the contract takes, and what is wrong with others.

What an entry says is not judged here: one that is no URL fails by itself, later, in its job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from imageload.errors import BadRequest, TooMany

_NEWLINE = re.compile(r"[\r\n]+")
# A comma separates where a URL, white space, another comma or the end follows it.
_COMMA = re.compile(r",(?=\s|,|$|[a-z][a-z0-9+.-]*://)", re.IGNORECASE)
_FORMS = 'Send {"urls": ["https://...", ...]}, a bare list of URLs, or several lists in one.'


class Posted(NamedTuple):
    """What a POST asks for: lists of URLs, and whether images that are there already will do."""

    url_lists: list[list[str]]
    dedupe: bool


def read_posted(body: bytes, content_type: str, *, max_urls: int, max_lists: int) -> Posted:
    """The lists of URLs in `body`, each with its entries stripped, once each, in order.

    `text/plain` is one list, separated by newlines and commas; anything else is read as JSON.
    Raises BadRequest, or TooMany, for the whole of it.
    """
    dedupe: Any = True
    if content_type.partition(";")[0].strip().lower() == "text/plain":
        lists: list[Any] = [_split(body)]
    else:
        value = _decoded(body)
        lists = _lists(value)
        dedupe = value.get("dedupe", True) if isinstance(value, dict) else True
    if not isinstance(dedupe, bool):
        raise BadRequest("dedupe is true or false.")
    if len(lists) > max_lists:
        raise TooMany(f"One request may have {max_lists:,} lists; this one has {len(lists):,}.")
    several = len(lists) > 1
    cleaned = [
        _cleaned(urls, f"List {number}: " if several else "", max_urls)
        for number, urls in enumerate(lists)
    ]
    return Posted(cleaned, dedupe)


def _split(body: bytes) -> list[str]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The text is not UTF-8: look at byte {error.start}.") from None
    return [entry for line in _NEWLINE.split(text) for entry in _COMMA.split(line)]


def _decoded(body: bytes) -> Any:
    if not body.strip():
        raise BadRequest(f"The body is empty. {_FORMS}")
    try:
        return msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"))
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is no JSON: {error}. {_FORMS}") from None
    except (RecursionError, UnicodeDecodeError):
        raise BadRequest(f"The body is no JSON that can be read. {_FORMS}") from None


def _lists(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = value.get("urls")
    if not isinstance(value, list):
        raise BadRequest(f"There is no list of URLs in the body. {_FORMS}")
    inner = [entry for entry in value if isinstance(entry, list)]
    if not inner:
        return [value]
    for index, entry in enumerate(value):
        if entry is not None and not isinstance(entry, list):
            raise BadRequest(f"Entry {index} is no list among lists. {_FORMS}")
    return inner


def _cleaned(entries: Iterable[Any], where: str, max_urls: int) -> list[str]:
    urls: dict[str, None] = {}
    for index, entry in enumerate(entries):
        if entry is None:
            continue
        if not isinstance(entry, str):
            raise BadRequest(f"{where}Entry {index} is no text. {_FORMS}")
        if url := entry.strip():
            urls[url] = None
    if not urls:
        raise BadRequest(f"{where}There is no URL in it. {_FORMS}")
    if len(urls) > max_urls:
        raise TooMany(
            f"{where}A job may have {max_urls:,} URLs; this has {len(urls):,}. Send several lists."
        )
    return list(urls)
