"""Why metadata stays."""

from __future__ import annotations


class NotStripped(Exception):
    """The image has a part that is not understood, so its metadata is not removed."""
