"""Log lines, as text or as JSON (one object a line), with the id of the request.

One template serves both formats: `name=%s` in it becomes a field of that name in JSON, so that
`failed job=%s code=%s` has the fields `job` and `code`. `message` is always the whole text.
"""

from __future__ import annotations

import contextvars
import functools
import json
import logging
import random
import re
import time
from collections.abc import Callable
from typing import Any

import msgspec

from imageload.escapes import escape_controls

_TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s%(request)s"
_DIRECTIVE = re.compile(r"%(?:%|[-#0 +]*\d*(?:\.\d+)?[a-zA-Z])")
_FIELD = re.compile(r"(\w+)=$")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_current_request: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


def set_up_logging(level: str, log_format: str) -> None:
    """Log to stderr from now on; `log_format` is `text` or `json`."""
    # No format has the place of a call, its thread or its process. Without them a line takes 0.6 of
    # the time (https://docs.python.org/3/howto/logging.html#optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(_TEXT))
    handler.addFilter(_add_request)
    logging.basicConfig(level=level, handlers=[handler])


class ErrorCounter(logging.Handler):
    """Calls `count` for each line at the level ERROR or above."""

    def __init__(self, count: Callable[[], object]) -> None:
        super().__init__(logging.ERROR)
        self._count = count

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - the level is enough
        """Called by logging."""
        self._count()


def request_id(proposed: str | None) -> str:
    """`proposed`, the X-Request-ID of a client or proxy, if it is valid; else a new id."""
    if proposed is not None and _REQUEST_ID.fullmatch(proposed):
        return proposed
    return f"{random.getrandbits(64):016x}"


def set_request(name: str) -> None:
    """Add `request=<name>` to the log lines of this task from now on."""
    _current_request.set(name)


def _add_request(record: logging.LogRecord) -> bool:
    name = _current_request.get()
    record.request = f" request={name}" if name else ""
    return True


class TextFormatter(logging.Formatter):
    """Formats a record as one line, and a traceback as more; no text in it can add a line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line, escaped."""
        return escape_controls(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """The traceback, escaped line by line."""
        return "\n".join(map(escape_controls, super().formatException(ei).split("\n")))


class JsonFormatter(logging.Formatter):
    """Formats a record as `time` (RFC 3339, UTC), `level`, `logger`, `message`, and its fields.

    Within a request there is `request`, and with a traceback `exception`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        name = getattr(record, "request", "")
        if name:
            line["request"] = name.partition("=")[2]
        if isinstance(record.args, tuple):
            named = zip(_fields(record.msg), record.args, strict=False)
            line |= {name: _plain(value) for name, value in named if name and name not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        encoded = msgspec.json.encode(line).decode()
        return encoded if encoded.isprintable() else "".join(map(_json_escape, encoded))


@functools.lru_cache(maxsize=1_000)
def _fields(template: object) -> tuple[str, ...]:
    """The field name before each directive of `template`; empty if there is none."""
    text = str(template)
    names = []
    for directive in _DIRECTIVE.finditer(text):
        if directive[0] != "%%":
            found = _FIELD.search(text, 0, directive.start())
            names.append(found[1] if found is not None else "")
    return tuple(names)


def _json_escape(letter: str) -> str:
    """`letter`, or its escape in JSON if it is unprintable."""
    return letter if letter.isprintable() else json.dumps(letter)[1:-1]


def _plain(value: object) -> object:
    return value if isinstance(value, (int, float, str)) else str(value)
