"""Text from outside, made harmless for terminals and logs."""

from __future__ import annotations


def escape_controls(text: str) -> str:
    """`text` on one line, with every unprintable character written as its escape.

    Those are control characters, line separators, and marks that reverse the direction of text.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )
