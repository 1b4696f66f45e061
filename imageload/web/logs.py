"""Log lines as text for people, or as JSON for a collector: one object a line.

A line's template is the one source for both. What it writes as `name=%s` becomes a field of that
name, so `failed job=%s code=%s` is found by `job` and by `code`; `message` is always the whole.
"""

from __future__ import annotations

import functools
import logging
import re
import time
from typing import Any

import msgspec

from imageload.web.request_id import RequestIdFilter

_TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s%(request)s"
_DIRECTIVE = re.compile(r"%(?:%|[-#0 +]*\d*(?:\.\d+)?[a-zA-Z])")
_FIELD = re.compile(r"(\w+)=$")


def set_up_logging(level: str, log_format: str) -> None:
    """Log to stderr from now on, as `text` or as `json`."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT))
    handler.addFilter(RequestIdFilter())
    logging.basicConfig(level=level, handlers=[handler])


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: `time` (RFC 3339, UTC), `level`, `logger`, `message`, fields.

    `request` is there within a request, `exception` where there is a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        request = getattr(record, "request", "")
        if request:
            line["request"] = request.partition("=")[2]
        if isinstance(record.args, tuple):
            named = zip(_fields(record.msg), record.args, strict=False)
            line |= {name: _plain(value) for name, value in named if name and name not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


@functools.lru_cache(maxsize=1_000)
def _fields(template: object) -> tuple[str, ...]:
    """The name before each directive of `template`; empty where there is none."""
    text = str(template)
    names = []
    for directive in _DIRECTIVE.finditer(text):
        if directive[0] != "%%":
            found = _FIELD.search(text, 0, directive.start())
            names.append(found[1] if found is not None else "")
    return tuple(names)


def _plain(value: object) -> object:
    return value if isinstance(value, (int, float, str)) else str(value)
