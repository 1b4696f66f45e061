"""A document as bytes: read, searched, and written with links, byte for byte the same elsewhere."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote

import webencodings

from imageload.documents.finders import find_images, kind_of
from imageload.documents.found import Finds, replace

_BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_UNITS = {"utf-16-le": 2, "utf-16-be": 2, "utf-32-le": 4, "utf-32-be": 4}
_CHARSET = re.compile(r"""charset\s*=\s*["']?([^\s"';]{1,40})""", re.IGNORECASE)
_DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?([\w.:-]{1,40})""", re.IGNORECASE)
_HEAD = 1_024  # bytes in which HTML and XML declare their encoding
_SAMPLE = 16_384  # bytes from which an undeclared encoding is judged
_ASCII = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True)
class Document:
    """A document: its text and its kind, and what it takes to write the text as the same bytes.

    `bom` and `tail` are bytes around the text: a byte order mark, and half a character at the end.
    """

    text: str
    kind: str
    encoding: str = "utf-8"
    bom: bytes = b""
    tail: bytes = b""

    def find(self, base: str = "", column: str = "", link_base: str = "") -> Finds:
        """The document's images, and what looks like one and is not taken.

        Relative URLs are resolved with `base`. `column` names a table's column of URLs. Links begin
        with `link_base`: by it a table is known that has its links already.
        """
        return find_images(self.text, self.kind, base, column, link_base)

    def replaced(
        self, finds: Finds, links: Mapping[str, str], errors: Mapping[str, str] | None = None
    ) -> bytes:
        """The document with links in place of URLs; `links` is by the URLs of `finds`.

        URLs without a link stay. `errors`, by URL, are for the column `error` of a table.
        """
        ascii_links = {
            url: link if link == url else quote(link, safe=_ASCII) for url, link in links.items()
        }
        return (
            self.bom
            + _encode(replace(self.text, finds, ascii_links, errors), self.encoding)
            + self.tail
        )

    def line(self, offset: int) -> int:
        """The number of the line at this offset of the text, from 1."""
        return bisect_left(self._line_ends, offset + 1) + 1

    @cached_property
    def _line_ends(self) -> list[int]:
        return [match.end() for match in re.finditer(r"\r\n?|\n", self.text)]


def read_document(
    data: bytes, content_type: str | None = None, file_name: str | None = None
) -> Document:
    """The document of these bytes; every sequence of bytes is one.

    Its encoding is what a byte order mark, the content type or the document says, and is judged
    otherwise. It is kept only if it gives back the same bytes; bytes that it lacks survive.
    """
    bom, encoding = next(((mark, name) for mark, name in _BOMS if data.startswith(mark)), (b"", ""))
    body = data[len(bom) :]
    for name in [encoding] if encoding else _encodings(body, content_type or ""):
        size = len(body) - len(body) % _UNITS.get(name, 1)
        try:
            text = body[:size].decode(name, _errors(name))
            is_lossless = _encode(text, name) == body[:size]
        except (UnicodeError, LookupError):
            continue
        if is_lossless:
            kind = kind_of(text, content_type or "", file_name or "")
            return Document(text, kind, name, bom, body[size:])
    text = body.decode("utf-8", "surrogateescape")
    return Document(text, kind_of(text, content_type or "", file_name or ""), "utf-8", bom)


def _encodings(body: bytes, content_type: str) -> Iterator[str]:
    """The encodings that the bytes may have, the likeliest first."""
    said = _CHARSET.search(content_type)
    if said:
        yield from _known(said[1])
    sample = body[:_SAMPLE]
    if b"\0" in sample:
        yield from _wide(sample)
    try:
        body.decode("utf-8")
        yield "utf-8"
    except UnicodeDecodeError:
        pass
    declared = _DECLARED.search(body[:_HEAD])
    if declared:
        yield from _known(declared[1].decode("ascii"))
    import charset_normalizer  # a tenth of the start of a worker, and hardly ever needed

    judged = charset_normalizer.from_bytes(sample).best()
    if judged and judged.encoding != "ascii":
        yield from _known(judged.encoding)


def _known(label: str) -> Iterator[str]:
    """The codec of an encoding of the web (encoding.spec.whatwg.org); others are ignored."""
    encoding = webencodings.lookup(label.replace("_", "-"))
    if encoding is not None:
        yield encoding.codec_info.name


def _wide(sample: bytes) -> Iterator[str]:
    """UTF-16 without a byte order mark: every second byte of Latin text is 0."""
    half = len(sample) // 2
    if sample[1::2].count(0) > 0.4 * half:
        yield "utf-16-le"
    elif sample[0::2].count(0) > 0.4 * half:
        yield "utf-16-be"


def _errors(encoding: str) -> str:
    return "surrogatepass" if encoding in _UNITS else "surrogateescape"


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding, _errors(encoding))
