"""A URL as it may stand in a log line."""

from __future__ import annotations

import codecs
from urllib.parse import urlsplit

codecs.lookup("unicode_escape")  # is read from a file, and once there may be no descriptor for it


def loggable(url: str) -> str:
    """`url` as it may stand in a log: no query, no user name, no fragment, no control characters.

    The parts left out carry tokens; what is left is cut at 200 characters.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(unreadable)"
    host = parts.netloc.rpartition("@")[2]
    if ":" in host and "@" in url and "@" not in parts.netloc:
        return "(unreadable)"  # a password with a slash in it
    # Where there is no host, what looks like a path may begin with a name and a password.
    path = parts.path if host else parts.path.rpartition("@")[2]
    if parts.scheme in ("http", "https"):
        path = f"{parts.scheme}://{host}{path}"
    return path.encode("unicode_escape").decode("ascii")[:200]
