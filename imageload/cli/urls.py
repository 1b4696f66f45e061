"""The body of a POST: URLs, a file or stdin, unchanged if possible; and failed URLs as a file.

A file that begins with `{` or `[` is JSON. Any other file is text: one list of URLs, between
newlines and commas.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imageload.cli.client import Body, Misuse
from imageload.cli.output import Record, print_message
from imageload.lists import split_list

_BOM = b"\xef\xbb\xbf"


def body_of(sources: Sequence[str], options: Mapping[str, Any]) -> Body:
    """The body for the command line's sources: URLs, one FILE, or `-` for stdin.

    `options` are the keys of a POST beside `urls`. Raises Misuse.
    """
    if all("://" in source for source in sources):
        return _as_json(list(sources), options)
    if len(sources) > 1:
        raise Misuse(
            "Give URLs, one FILE, or - for stdin. Several files: `cat FILES | imageload upload -`."
        )
    return as_posted(_read(sources[0]), options)


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
