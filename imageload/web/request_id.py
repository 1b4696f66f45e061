"""A name for every request: in its answer, in its problem document, in every log line about it.

A proxy before us may have named it already (X-Request-ID); then that is its name.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import random
import re
from collections.abc import Iterator

_TAKEN = re.compile(r"[A-Za-z0-9._-]{1,64}")

_current: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


def request_id(proposed: str | None) -> str:
    """`proposed`, where it is up to 64 of letters, digits and ._-, else a new one."""
    if proposed is not None and _TAKEN.fullmatch(proposed):
        return proposed
    return f"{random.getrandbits(64):016x}"


def enter(name: str) -> None:
    """From here on, what this task logs belongs to the request `name`."""
    _current.set(name)


@contextlib.contextmanager
def about(name: str) -> Iterator[None]:
    """What is logged within belongs to the request `name`."""
    token = _current.set(name)
    try:
        yield
    finally:
        _current.reset(token)


class RequestIdFilter(logging.Filter):
    """Gives every log record `request`: ` request=<id>`, or nothing outside of a request."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Take every record."""
        name = _current.get()
        record.request = f" request={name}" if name else ""
        return True
