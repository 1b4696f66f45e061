"""A POST's body to Orders: the forms that the contract takes, and what is wrong with others.

What an entry says is not judged here: one that is no URL fails by itself, later, in its job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from imageload.errors import BadRequest, TooMany
from imageload.job import Item
from imageload.loader import Order

_NEWLINE = re.compile(r"[\r\n]+")
# A comma separates where a URL, white space, another comma or the end follows it.
_COMMA = re.compile(r",(?=\s|,|$|[a-z][a-z0-9+.-]*://)", re.IGNORECASE)
_FORMS = 'Send {"urls": ["https://...", ...]}, a bare list of URLs, or several lists in one.'


# Longer than any that is read; Imgur does not say what it takes.
_LONGEST = {"album": 1_000, "title": 1_000, "description": 10_000}
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def read_posted(body: bytes, content_type: str, *, max_urls: int, max_lists: int) -> list[Order]:
    """An Order for each list of URLs in `body`, its entries stripped, once each, in order.

    `text/plain` is one list, separated by newlines and commas; anything else is read as JSON.
    Raises BadRequest, or TooMany, for the whole of it.
    """
    keys: dict[str, Any] = {}
    if content_type.partition(";")[0].strip().lower() == "text/plain":
        lists: list[Any] = [_split(body)]
    else:
        value = _decoded(body)
        lists = _lists(value)
        keys = value if isinstance(value, dict) else {}
    dedupe = keys.get("dedupe", True)
    if not isinstance(dedupe, bool):
        raise BadRequest("dedupe is true or false.")
    if len(lists) > max_lists:
        raise TooMany(f"One request may have {max_lists:,} lists; this one has {len(lists):,}.")
    album = _text(keys, "album", "")
    common = Item("", _text(keys, "title", ""), _text(keys, "description", ""))
    several = len(lists) > 1
    return [
        Order(
            items=_cleaned(entries, common, f"List {number}: " if several else "", max_urls),
            dedupe=dedupe,
            album=album,
        )
        for number, entries in enumerate(lists)
    ]


def _text(keys: dict[str, Any], name: str, where: str) -> str | None:
    """The text under `name`, without control characters; None where there is none."""
    text = keys.get(name)
    if text is None:
        return None
    if not isinstance(text, str):
        raise BadRequest(f"{where}{name} is a text.")
    text = _CONTROLS.sub("", text).strip()
    if len(text) > _LONGEST[name]:
        raise BadRequest(f"{where}{name} may have {_LONGEST[name]:,} characters.")
    return text or None


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


def _cleaned(entries: Iterable[Any], common: Item, where: str, max_urls: int) -> list[str | Item]:
    items: dict[str, str | Item] = {}
    is_plain = common.title is None and common.description is None
    for index, entry in enumerate(entries):
        if entry is None:
            continue
        texts = common
        if isinstance(entry, dict):
            here = f"{where}Entry {index}: "
            title, description = _text(entry, "title", here), _text(entry, "description", here)
            texts = Item("", title or common.title, description or common.description)
            url = entry.get("url")
        else:
            url = entry
        if not isinstance(url, str):
            raise BadRequest(f"{where}Entry {index} is no text, and no object with a url. {_FORMS}")
        url = url.strip()
        if url and url not in items:
            items[url] = url if texts is common and is_plain else texts._replace(url=url)
    if not items:
        raise BadRequest(f"{where}There is no URL in it. {_FORMS}")
    if len(items) > max_urls:
        raise TooMany(
            f"{where}A job may have {max_urls:,} URLs; this has {len(items):,}. Send several lists."
        )
    return list(items.values())
