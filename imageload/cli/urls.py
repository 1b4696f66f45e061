"""What `upload` posts: URLs, a list or a document; and failed URLs as a file.

A list is posted unchanged if possible. It is JSON in a form of the API if it begins with `{` or
`[`, else text: URLs between newlines and commas. A file whose name is that of a document, and which
is no list, is a document, and the service finds its images.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imageload.cli.client import Body, Upload
from imageload.cli.connection import Misuse
from imageload.cli.documents import SUFFIXES, suffix
from imageload.cli.output import Record, print_message
from imageload.lists import split_list

_BOM = b"\xef\xbb\xbf"
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_NAMES_OF_LISTS = frozenset(["txt", "urls"])


def posted(sources: Sequence[str], options: Mapping[str, Any]) -> Body | Upload:
    """What is posted for the command line's sources: URLs, one FILE, or `-` for stdin.

    `options` are the keys of a POST of URLs beside `urls`. Raises Misuse.
    """
    if all("://" in source for source in sources):
        return _as_json(list(sources), options)
    if len(sources) > 1:
        raise Misuse(
            "Give URLs, one FILE, or - for stdin. Several lists: `cat FILES | imageload upload -`."
        )
    content, name = _read(sources[0]), Path(sources[0]).name
    if suffix(name) in SUFFIXES - _NAMES_OF_LISTS and not _is_list(content):
        return Upload(name, content)
    return as_posted(content, options)


def _is_list(content: bytes) -> bool:
    """Whether a file is nothing but URLs, or JSON in a form of a POST of URLs."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return all(map(_URL.fullmatch, split_list(text)))
    if isinstance(value, dict):
        return "urls" in value
    return isinstance(value, list) and all(
        each is None or isinstance(each, str | list) or (isinstance(each, dict) and "url" in each)
        for each in value
    )


def _read(source: str) -> bytes:
    if source == "-":
        if sys.stdin.isatty():
            print_message("Type one URL a line. Ctrl-D ends the list.")
        return sys.stdin.buffer.read()
    try:
        return Path(source).read_bytes()
    except FileNotFoundError:
        raise Misuse(f"There is no file {source}; a URL begins with https:// or http://.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is not a file name"
        raise Misuse(f"{source} cannot be read: {reason}.") from None


def as_posted(content: bytes, options: Mapping[str, Any]) -> Body:
    """The list in `content` with these options; unchanged if there are none."""
    is_json = content.removeprefix(_BOM).lstrip()[:1] in (b"{", b"[")
    if not options:
        return Body(content, "application/json" if is_json else "text/plain; charset=utf-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Misuse(f"The list is not UTF-8: see byte {error.start}.") from None
    if not is_json:
        return _as_json(split_list(text), options)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Misuse(f"The list begins like JSON but is not valid JSON: {error}.") from None
    if isinstance(value, dict):
        return _as_json(value.get("urls"), {**value, **options})
    return _as_json(value, options)


def _as_json(urls: Any, options: Mapping[str, Any]) -> Body:
    return Body(json.dumps({**options, "urls": urls}).encode("ascii"), "application/json")


def list_of(records: Iterable[Record]) -> bytes:
    """The URLs and titles of these images as a file that can be posted again.

    Text if that can express them, else JSON.
    """
    items = [_item(record) for record in records]
    text = "".join(f"{item}\n" for item in items)
    if split_list(text) == items and not text.startswith(("{", "[", "\ufeff")):
        with contextlib.suppress(UnicodeEncodeError):
            return text.encode("utf-8")
    return json.dumps(items, indent=0).encode("ascii") + b"\n"


def _item(record: Record) -> str | dict[str, str]:
    texts = {key: record[key] for key in ("title", "description") if record.get(key)}
    return {"url": record["url"], **texts} if texts else str(record["url"])
