"""Answers as gzip, for clients that ask for it: a status of 100,000 images shrinks to a tenth.

Small answers are compressed where they stand; what would hold up the event loop is not, unless a
thread does it: zlib lets other threads run meanwhile.
"""

from __future__ import annotations

import re
import zlib

# Below this the head is most of the answer.
SMALLEST = 1_024
# This much takes some 2 ms.
LARGEST_ON_LOOP = 256 * 1_024

_LEVEL = 1  # a third of level 6's time, for a fifth more bytes
_GZIP_BITS = 31

_GZIP = re.compile(r"(?:^|,)\s*(?:x-)?gzip\s*(?:;\s*q=([01](?:\.[0-9]{0,3})?)\s*)?(?=,|$)", re.I)


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether the header asks for gzip (RFC 9110, 12.5.3); `*` alone does not."""
    found = _GZIP.search(accept_encoding)
    return found is not None and (found[1] is None or float(found[1]) > 0)


def compressed(body: bytes) -> bytes:
    """`body` as gzip."""
    stream = compressor()
    return stream.compress(body) + stream.flush()


def compressor() -> zlib._Compress:
    """For a body in parts: after each, `flush(zlib.Z_SYNC_FLUSH)`; at its end, `flush()`."""
    return zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_BITS)
