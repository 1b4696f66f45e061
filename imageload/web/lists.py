"""A POST's body to Orders: the forms that the contract takes, and what is wrong with others.

`Posted` and `Entry` say what is taken, to `read_posted` and to readers of the OpenAPI document.
What an entry says is not judged here: one that is no URL fails by itself, later, in its job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from imageload.errors import InvalidURL, Refused
from imageload.fetch.guard import check_url
from imageload.job import Item
from imageload.lists import split_list
from imageload.loader import Order

_FORMS = 'Send {"urls": ["https://...", ...]}, a bare list of URLs, or several lists in one.'

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# How msgspec ends its sentences: "... - at `$.urls[0][12].title`".
_PLACE = re.compile(r" - at `\$(?:\.urls)?((?:\[\d+\])*)(?:\.(\w+))?`$")

# Longer than any that is read; Imgur does not say what it takes.
Title = Annotated[str, Meta(max_length=1_000)]
Description = Annotated[str, Meta(max_length=10_000)]

# For the document; `check_url` decides, and takes other alphabets too.
_PORT = "[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_CALLBACK = rf"^https?://[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:({_PORT}))?([/?][!-~]*)?$"

_A_URL = {
    "anyOf": [
        {"type": "string", "pattern": r"\S"},
        {"type": "object", "required": ["url"], "properties": {"url": {"pattern": r"\S"}}},
    ]
}
_A_LIST = {"items": {"type": ["string", "object", "null"]}, "contains": _A_URL}
_LISTS = {
    "items": {"type": ["array", "null"], "contains": _A_URL},
    "contains": {"type": "array"},
}


class Entry(msgspec.Struct):
    """An image's URL, with the texts that it gets on Imgur."""

    url: str
    title: Title | None = None
    description: Description | None = None


_OneEntry = str | Entry | None
Urls = Annotated[
    list[_OneEntry | list[_OneEntry]],
    Meta(
        description="URLs, or lists of URLs: a job for each. White space around a URL, blank and "
        "null entries are dropped, and a URL given twice in a list is one image.",
        extra_json_schema={"anyOf": [_A_LIST, _LISTS]},
    ),
]


class Posted(msgspec.Struct):
    """What to upload, and how."""

    urls: Urls
    album: Annotated[
        Title | None,
        Meta(description="The title of the Imgur album that each job's images go into."),
    ] = None
    callback: Annotated[
        Annotated[str, Meta(max_length=2_000, extra_json_schema={"pattern": _CALLBACK})] | None,
        Meta(description="An http or https URL that each job's end is told to, by a POST."),
    ] = None
    title: Annotated[Title | None, Meta(description="Of images that have none of their own.")] = (
        None
    )
    description: Annotated[
        Description | None, Meta(description="Of images that have none of their own.")
    ] = None
    dedupe: Annotated[
        bool,
        Meta(description="false: download and upload images anew whose link is known already."),
    ] = True


Body = Posted | Urls
"""What a POST may have as JSON."""


def read_posted(body: bytes, content_type: str, *, max_urls: int, max_lists: int) -> list[Order]:
    """An Order for each list of URLs in `body`, its entries stripped, once each, in order.

    `text/plain` is one list, separated by newlines and commas; anything else is read as JSON.
    Raises Refused (bad-request, too-large) for the whole of it.
    """
    if content_type.partition(";")[0].strip().lower() == "text/plain":
        posted = Posted([*_split(body)])
    else:
        posted = _posted(_decoded(body))
    lists = _lists(posted.urls)
    if len(lists) > max_lists:
        raise Refused(
            "too-large", f"One request may have {max_lists:,} lists; this one has {len(lists):,}."
        )
    common = Item("", _cleaned_text(posted.title), _cleaned_text(posted.description))
    album = _cleaned_text(posted.album)
    if posted.callback is not None:
        _check_callback(posted.callback)
    several = len(lists) > 1
    return [
        Order(
            items=_cleaned(entries, common, f"List {number}: " if several else "", max_urls),
            dedupe=posted.dedupe,
            album=album,
            callback=posted.callback,
        )
        for number, entries in enumerate(lists)
    ]


def _cleaned_text(text: str | None) -> str | None:
    """`text` without control characters; None where there is none."""
    return (_CONTROLS.sub("", text).strip() or None) if text is not None else None


def _check_callback(url: str) -> None:
    try:
        check_url(url)
    except InvalidURL as error:
        raise Refused("bad-request", f"callback: {error.message}") from None


def _split(body: bytes) -> list[str]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(
            "bad-request", f"The text is not UTF-8: look at byte {error.start}."
        ) from None
    return split_list(text)


def _decoded(body: bytes) -> Any:
    if not body.strip():
        raise Refused("bad-request", f"The body is empty. {_FORMS}")
    try:
        return msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"))
    except msgspec.DecodeError as error:
        raise Refused("bad-request", f"The body is no JSON: {error}. {_FORMS}") from None
    except (RecursionError, UnicodeDecodeError):
        raise Refused("bad-request", f"The body is no JSON that can be read. {_FORMS}") from None


def _posted(value: Any) -> Posted:
    try:
        posted: Posted | list[Any] = msgspec.convert(value, Body)
    except msgspec.ValidationError as error:
        _lists(value.get("urls") if isinstance(value, dict) else value)
        raise Refused("bad-request", _explained(str(error))) from None
    return posted if isinstance(posted, Posted) else Posted(posted)


def _explained(error: str) -> str:
    """What msgspec found wrong, in the words of who sent it."""
    found = _PLACE.search(error)
    numbers = re.findall(r"\d+", found[1]) if found else []
    key = found[2] if found else None
    *in_list, entry = numbers or [None]
    where = "".join(f"List {number}: " for number in in_list)
    if key in (None, "url"):
        return f"{where}Entry {entry} is no text, and no object with a url. {_FORMS}"
    if key == "dedupe":
        return "dedupe is true or false."
    here = f"{where}Entry {entry}: " if numbers else ""
    if " of length <= " in error:
        most = int(error.partition(" of length <= ")[2].split()[0])
        return f"{here}{key} may have {most:,} characters."
    return f"{here}{key} is a text."


def _lists(value: Any) -> list[list[_OneEntry]]:
    """The lists that are in `value`, which is one, or several in one."""
    if not isinstance(value, list):
        raise Refused("bad-request", f"There is no list of URLs in the body. {_FORMS}")
    inner = [entry for entry in value if isinstance(entry, list)]
    if not inner:
        return [value]
    for index, entry in enumerate(value):
        if entry is not None and not isinstance(entry, list):
            raise Refused("bad-request", f"Entry {index} is no list among lists. {_FORMS}")
    return inner


def _cleaned(
    entries: Iterable[_OneEntry], common: Item, where: str, max_urls: int
) -> list[str | Item]:
    items: dict[str, str | Item] = {}
    is_plain = common.title is None and common.description is None
    for entry in entries:
        if entry is None:
            continue
        texts = common
        if isinstance(entry, Entry):
            title, description = _cleaned_text(entry.title), _cleaned_text(entry.description)
            texts = Item("", title or common.title, description or common.description)
            url = entry.url.strip()
        else:
            url = entry.strip()
        if url and url not in items:
            items[url] = url if texts is common and is_plain else texts._replace(url=url)
    if not items:
        raise Refused("bad-request", f"{where}There is no URL in it. {_FORMS}")
    if len(items) > max_urls:
        raise Refused(
            "too-large",
            f"{where}A job may have {max_urls:,} URLs; this has {len(items):,}."
            " Send several lists.",
        )
    return list(items.values())
