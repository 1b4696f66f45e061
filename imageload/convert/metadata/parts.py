"""A stripped file as parts, so that no byte which is kept is copied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Part(NamedTuple):
    """Bytes of a stripped file, and where in it they begin."""

    at: int
    content: memoryview
    is_in_place: bool
    """The source has the same bytes in the same place."""


class Parts:
    """A stripped file, from its beginning on: ranges of `source` that are kept, and new bytes.

    It begins with the range `kept`, as by `keep`.
    """

    def __init__(self, source: bytes, kept: range = range(0)) -> None:
        self._source = source
        self._parts: list[range | bytes] = []
        self.length = 0
        """The bytes of the stripped file so far."""
        self.keep(kept.start, kept.stop)

    def keep(self, at: int, end: int) -> None:
        """Append the bytes of the source from `at` to `end`, or to its own end."""
        end = min(end, len(self._source))
        self.length += max(0, end - at)
        last = self._parts[-1] if self._parts else None
        if isinstance(last, range) and last.stop == at:
            self._parts[-1] = range(last.start, end)
        elif at < end:
            self._parts.append(range(at, end))

    def add(self, *parts: bytes | Parts) -> None:
        """Append new bytes, and what other parts of the same source have."""
        for part in parts:
            if isinstance(part, bytes):
                self._parts.append(part)
                self.length += len(part)
                continue
            for each in part._parts:
                if isinstance(each, range):
                    self.keep(each.start, each.stop)
                else:
                    self.add(each)

    def __iter__(self) -> Iterator[Part]:
        at, source = 0, memoryview(self._source)
        for part in self._parts:
            if isinstance(part, range):
                yield Part(at, source[part.start : part.stop], part.start == at)
            else:
                yield Part(at, memoryview(part), self._source.startswith(part, at))
            at += len(part)
