"""JSON as text: how much is in it, before it is decoded, and where it is broken.

Every loop here is over matches of a pattern that reads each byte once, so that other threads can
run between two matches.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_STRING = rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'
_STRINGS = re.compile(_STRING, re.DOTALL)
# Ends outside of strings. So many of them are read in 2 ms.
_PIECE = re.compile(rb'(?:[^"]++|' + _STRING + rb"){1,20000}+", re.DOTALL)
_TOKEN = re.compile(_STRING + rb"|[\[\]{},:]", re.DOTALL)
# Two escapes that are one character; one that is half of a character; any other escape.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)
_LONGEST_KEY = 40
_MOST_LEVELS = 4


Json = bytes | bytearray


class Size(NamedTuple):
    """How many lists a JSON text has, and how many commas between its values."""

    lists: int
    commas: int


def size_of(body: Json, *, lists: int, commas: int) -> Size:
    """The size of the JSON in `body`; it stops counting above the limits `lists` and `commas`."""
    at_most = Size(body.count(b"["), body.count(b","))
    if at_most.lists <= lists and at_most.commas <= commas:
        return at_most
    found_lists = found_commas = 0
    for piece in _PIECE.finditer(body):
        text = _STRINGS.sub(b"", piece[0])
        found_lists += text.count(b"[")
        found_commas += text.count(b",")
        if found_lists > lists or found_commas > commas:
            break
    return Size(found_lists, found_commas)


def half_character(body: Json) -> int | None:
    r"""The offset of the first escape that is half of a character, as \ud83d alone; else None."""
    for escape in _ESCAPE.finditer(body):
        if escape[1] is not None:
            return escape.start()
    return None


def place_of(body: Json, offset: int) -> str:
    """`line 3, column 7`, counted in bytes from 1."""
    line = body.count(b"\n", 0, offset) + 1
    column = offset - body.rfind(b"\n", 0, offset)
    return f"line {line:,}, column {column:,}"


def path_of(body: Json, offset: int) -> str:
    """The value at `offset`, as `urls[3].title`; empty outside of all lists and objects.

    The text before must be JSON. A bare list is named `urls` too.
    """
    path: list[int | str] = []
    is_key = False
    for token in _TOKEN.finditer(body):
        if token.start() >= offset:
            break
        match token[0]:
            case b"[":
                path.append(0)
            case b"{":
                path.append("")
                is_key = True
            case b"]" | b"}":
                if path:
                    path.pop()
                is_key = False
            case b",":
                if path and isinstance(path[-1], int):
                    path[-1] += 1
                is_key = bool(path) and isinstance(path[-1], str)
            case b":":
                is_key = False
            case key if is_key and path:
                path[-1] = key[1:-1][:_LONGEST_KEY].decode("utf-8", errors="replace")
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[:_MOST_LEVELS]]
    is_bare_list = bool(path) and isinstance(path[0], int)
    return ("urls" if is_bare_list else "") + "".join(parts).removeprefix(".")
