"""The body of a POST of URLs, as Orders: the forms of the contract, and the errors of others.

`UploadRequest` and `Entry` check the JSON, and the OpenAPI document is generated from them. URLs
are not checked here: a bad one fails by itself, later, in its job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from imageload.errors import InvalidURL, Refused
from imageload.fetch.guard import check_url
from imageload.image import Item
from imageload.lists import pieces_of
from imageload.registry import Order
from imageload.web import json_text

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FORMS = 'Send {"urls": ["https://...", ...]}, a bare list of URLs, or several lists in one.'

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# The end of msgspec's messages: "... - at `$.urls[0][12].title`".
_PATH = re.compile(r" - at `\$(?:\.urls)?((?:\[\d+\])*)(?:\.(\w+))?`$")
_BYTE = re.compile(r" \(byte (\d+)\)$")
# Up to this size, anything may be decoded. 32 MB of `[],[],...` would be 1.6 GB of lists.
_SMALL_BODY = 2**20
# URLs, texts, and nulls of one request. So many are decoded in 0.5 s, which holds up other threads,
# and take up to 250 MB as orders.
_MAX_VALUES = 1_000_000

# Longer than any that people read; Imgur does not document its limits.
Title = Annotated[str, Meta(max_length=1_000)]
Description = Annotated[str, Meta(max_length=10_000)]

# For the OpenAPI document. `check_url` decides; it accepts other alphabets too.
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
    """An image's URL, with its title and description on Imgur, and an id of the caller's."""

    url: str
    title: Title | None = None
    description: Description | None = None
    id: Annotated[
        Annotated[str, Meta(max_length=200)] | None,
        Meta(description="Comes back in the image's record, events and map. Need not be unique."),
    ] = None


_OneEntry = str | Entry | None
Urls = Annotated[
    list[_OneEntry | list[_OneEntry]],
    Meta(
        description="URLs, or lists of URLs: one job for each list. White space around a URL, "
        "blank and null entries are dropped, and a URL given twice in a list is one image, but "
        "for entries with different ids.",
        extra_json_schema={"anyOf": [_A_LIST, _LISTS]},
    ),
]


class UploadRequest(msgspec.Struct):
    """The images to upload, and options for all of them."""

    urls: Urls
    album: Annotated[
        Title | None, Meta(description="The title of an Imgur album for each job's images.")
    ] = None
    callback: Annotated[
        Annotated[str, Meta(max_length=2_000, extra_json_schema={"pattern": _CALLBACK})] | None,
        Meta(description="An http or https URL that gets a POST when a job has ended."),
    ] = None
    title: Annotated[
        Title | None, Meta(description="The title of images without one of their own.")
    ] = None
    description: Annotated[
        Description | None, Meta(description="The description of images without their own.")
    ] = None
    dedupe: Annotated[
        bool, Meta(description="false: download and upload images again whose link is known.")
    ] = True


Body = UploadRequest | Urls
"""The JSON of a POST."""
# Made once, here: msgspec 0.22 crashes if two threads are the first to decode a Struct.
_decode_body = msgspec.json.Decoder(Body).decode


def read_orders(
    body: bytes | bytearray, content_type: str, *, max_urls: int, max_lists: int
) -> list[Order]:
    """An Order for each list of URLs in `body`; its URLs are stripped and unique, in order.

    `text/plain` is one list, as `split_list` reads it; everything else is read as JSON. Raises
    Refused (bad-request or too-large) for the whole of it.
    """
    max_values = max(_MAX_VALUES, 4 * max_urls)
    if media_type(content_type) == "text/plain":
        request = UploadRequest([*_split(body, max_values)])
    else:
        request = _decoded(body, max_lists, max_values)
    if len(_lists(request.urls)) > max_lists:
        raise _too_many_lists(max_lists)
    return orders_of(request, max_urls)


def read_options(**options: Any) -> UploadRequest:
    """The options of an UploadRequest, without URLs; raises Refused (bad-request)."""
    try:
        return msgspec.convert({"urls": [], **options}, UploadRequest)
    except msgspec.ValidationError as error:
        raise Refused("bad-request", _explained(str(error))) from None


def orders_of(request: UploadRequest, max_urls: int) -> list[Order]:
    """An Order for each list of URLs; raises Refused."""
    lists = _lists(request.urls)
    if request.callback is not None:
        _check_callback(request.callback)
    common = Item("", _cleaned_text(request.title), _cleaned_text(request.description))
    album = _cleaned_text(request.album)
    several = len(lists) > 1
    return [
        Order(
            items=_items(entries, common, f"List {number}: " if several else "", max_urls),
            dedupe=request.dedupe,
            album=album,
            callback=request.callback,
        )
        for number, entries in enumerate(lists)
    ]


def media_type(content_type: str) -> str:
    """The type in a Content-Type header, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def _split(body: bytes | bytearray, max_values: int) -> list[str]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"The text is not UTF-8: see byte {error.start}."
        raise Refused("bad-request", message) from None
    pieces = pieces_of(text)
    found = [piece for piece in islice(pieces, max_values) if piece]
    if next(pieces, None) is not None:
        raise _too_many_values(max_values)
    return found


def _decoded(body: bytes | bytearray, max_lists: int, max_values: int) -> UploadRequest:
    if not body or body.isspace():
        raise Refused("bad-request", f"The body is empty. {_FORMS}")
    is_small = len(body) <= _SMALL_BODY
    if not is_small:
        _check_size(body, max_lists, max_values)
    mark = len(_BYTE_ORDER_MARK) if body.startswith(_BYTE_ORDER_MARK) else 0
    try:
        request: UploadRequest | list[Any] = _decode_body(memoryview(body)[mark:])
    except msgspec.ValidationError as error:
        if is_small:
            _check_form(body[mark:])
        raise Refused("bad-request", _explained(str(error))) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _no_json(body[mark:], error) from None
    return request if isinstance(request, UploadRequest) else UploadRequest(request)


def _check_size(body: bytes | bytearray, max_lists: int, max_values: int) -> None:
    """Refuse more lists and values than are allowed before memory is spent on them."""
    found = json_text.size_of(body, lists=max_lists + 1, commas=max_values)
    if found.lists > max_lists + 1:
        raise _too_many_lists(max_lists)
    if found.commas >= max_values:
        raise _too_many_values(max_values)


def _check_form(body: bytes | bytearray) -> None:
    """Refuse a body that is no JSON, or has no list of URLs, in words about that."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _no_json(body, error) from None
    _lists(value.get("urls") if isinstance(value, dict) else value)


def _no_json(body: bytes | bytearray, error: Exception) -> Refused:
    """The refusal of a body that msgspec cannot decode, with the place and the reason."""
    if isinstance(error, RecursionError):
        message = f"The body is not valid JSON: it is nested too deeply. {_FORMS}"
        return Refused("bad-request", message)
    half = json_text.half_character(body)
    reason, offset = _reason(body, error)
    if half is not None and half <= offset:
        escape = body[half : half + 6].decode("ascii")
        reason = f"{escape} is half of a character, as when a text is cut within an emoji"
        offset = half
    path = json_text.path_of(body, offset)
    where = json_text.place_of(body, offset) + (f", in {path}" if path else "")
    return Refused("bad-request", f"The body is not valid JSON at {where}: {reason}. {_FORMS}")


def _reason(body: bytes | bytearray, error: Exception) -> tuple[str, int]:
    """What is wrong with the JSON, and its offset in `body`."""
    try:
        body.decode()
    except UnicodeDecodeError as broken:
        return "bytes that are not UTF-8", broken.start
    message = str(error).removeprefix("JSON is malformed: ")
    found = _BYTE.search(message)
    if found is None:
        return "the end is missing", len(body)
    return message[: found.start()], min(int(found[1]), len(body))


def _too_many_lists(max_lists: int) -> Refused:
    return Refused("too-large", f"One request may have {max_lists:,} lists. Send several requests.")


def _too_many_values(max_values: int) -> Refused:
    message = f"One request may have {max_values:,} URLs and texts. Send several requests."
    return Refused("too-large", message)


def _explained(error: str) -> str:
    """A message about msgspec's `error` that names the entry, as `urls[3].title`."""
    found = _PATH.search(error)
    numbers, key = (found[1], found[2]) if found else ("", None)
    if key in (None, "url"):
        return f"urls{numbers} is neither a text nor an object with a url. {_FORMS}"
    if key == "dedupe":
        return "dedupe must be true or false."
    name = f"urls{numbers}.{key}" if numbers else key
    if " of length <= " in error:
        most = int(error.partition(" of length <= ")[2].split()[0])
        return f"{name} may have {most:,} characters."
    return f"{name} must be a text."


def _lists(value: Any) -> list[list[_OneEntry]]:
    """The lists in `value`, which is one list, or a list of lists."""
    if not isinstance(value, list):
        raise Refused("bad-request", f"There is no list of URLs in the body. {_FORMS}")
    inner = [entry for entry in value if isinstance(entry, list)]
    if not inner:
        return [value]
    for index, entry in enumerate(value):
        if entry is not None and not isinstance(entry, list):
            message = f"urls[{index}] is not a list, but others are. {_FORMS}"
            raise Refused("bad-request", message)
    return inner


def _check_callback(url: str) -> None:
    try:
        check_url(url)
    except InvalidURL as error:
        raise Refused("bad-request", f"callback: {error.message}") from None


def _cleaned_text(text: str | None) -> str | None:
    """`text` without control characters; None if nothing is left."""
    return (_CONTROLS.sub("", text).strip() or None) if text is not None else None


def _items(
    entries: Iterable[_OneEntry], common: Item, where: str, max_urls: int
) -> list[str | Item]:
    """The images of one list: a URL, or an Item if it has texts or an id.

    `common` has the default texts. An entry is left out if its URL was there with the same id.
    """
    items: dict[str | tuple[str, str], str | Item] = {}
    is_plain = common.title is None and common.description is None
    for entry in entries:
        if entry is None:
            continue
        texts = common
        if isinstance(entry, Entry):
            title, description = _cleaned_text(entry.title), _cleaned_text(entry.description)
            texts = Item("", title or common.title, description or common.description, entry.id)
            url = entry.url.strip()
        else:
            url = entry.strip()
        key = url if texts.id is None else (url, texts.id)
        if url and key not in items:
            items[key] = url if texts is common and is_plain else texts._replace(url=url)
    if not items:
        raise Refused("bad-request", f"{where}There is no URL in it. {_FORMS}")
    if len(items) > max_urls:
        message = f"This has {len(items):,} URLs; a job may have {max_urls:,}. Send several lists."
        raise Refused("too-large", f"{where}{message}")
    return list(items.values())
