"""Content codings of responses (RFC 9110, 8.4), with a bound on the work of each step.

Requests ask for none (`Accept-Encoding: identity`), so libcurl decodes nothing: it would do so on
the transfer loop, without a bound, and 100 kB of gzip in gzip are minutes of work. Only gzip and
deflate are decoded, once. A name that is no coding (`UTF-8`, `aws-chunked`) is ignored, and so are
bytes behind the end, both as browsers do.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

_GZIP = frozenset({"gzip", "x-gzip"})
_OTHERS = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})
_OUTPUT_BYTES = 256 * 2**10


class CodingError(Exception):
    """The body cannot be decoded; the message says why."""


class CodingCut(CodingError):
    """The body ends before its coding does."""


def coding_of(content_encoding: str) -> str:
    """The coding that a Content-Encoding names: "gzip", "deflate" or none, which is empty.

    Raises CodingError for one that is not decoded, and for several.
    """
    if not content_encoding:
        return ""
    names = [name.strip().lower() for name in content_encoding.split(",")]
    codings = [name for name in names if name in _GZIP | _OTHERS | {"deflate"}]
    if len(codings) > 1:
        raise CodingError("it has more than one content coding")
    if not codings:
        return ""
    if codings[0] in _OTHERS:
        raise CodingError(f"it is coded as {codings[0]}, which was not asked for")
    return "gzip" if codings[0] in _GZIP else "deflate"


def decoded(pieces: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """The body in `pieces`, decoded, at most 256 kB at a time. Raises CodingError."""
    decoder = None
    for piece in pieces:
        decoder = decoder or zlib.decompressobj(_window_bits(piece, coding))
        rest = piece
        while True:
            try:
                output = decoder.decompress(rest, _OUTPUT_BYTES)
            except zlib.error:
                raise CodingError(f"it is not {coding}, which its headers name") from None
            yield output
            rest = decoder.unconsumed_tail
            if decoder.eof:
                return
            if not rest and len(output) < _OUTPUT_BYTES:
                break
    if decoder is not None:
        raise CodingCut(f"it ends within its {coding} coding")


def _window_bits(first: bytes, coding: str) -> int:
    """For zlib: gzip, or deflate with the header of zlib, or without it, as some servers send."""
    if coding == "gzip":
        return 16 + zlib.MAX_WBITS
    has_header = first[:1] and first[0] & 15 == 8 and int.from_bytes(first[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
