"""Text from elsewhere, made harmless for a terminal: URLs may carry control characters.

An escape sequence in a URL could move the cursor, rename the window or paint a false link.
"""

from __future__ import annotations

import sys


def printable(text: str) -> str:
    """`text` in one line, with every character that is not to be seen written as its escape."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def tell(text: str) -> None:
    """Write a line for people: to stderr, marked as ours."""
    print(f"imageload: {printable(text)}", file=sys.stderr, flush=True)
