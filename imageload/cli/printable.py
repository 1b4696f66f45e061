"""Text from elsewhere, made fit for a terminal: URLs may carry control characters.

An escape sequence in a URL could move the cursor, rename the window or paint a false link.
"""

from __future__ import annotations

import sys
from datetime import datetime


def printable(text: str) -> str:
    """`text` in one line, with every character that is not to be seen written as its escape."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def by_our_clock(text: str) -> str:
    """A moment of an answer by the clock of whoever reads it; its day where that is not today."""
    moment = datetime.fromisoformat(text).astimezone()
    is_today = moment.date() == datetime.now().astimezone().date()
    return f"{moment:%H:%M:%S %Z}" if is_today else f"{moment:%Y-%m-%d %H:%M:%S %Z}"


def tell(text: str) -> None:
    """Write a line for people: to stderr, marked as ours."""
    print(f"imageload: {printable(text)}", file=sys.stderr, flush=True)
