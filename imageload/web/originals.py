"""The body of a POST of documents, and a document as it is stored with its job."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

import msgspec
from tornado.httputil import (
    HTTPFile,
    HTTPInputError,
    ParseMultipartConfig,
    parse_multipart_form_data,
)

from imageload.documents import Document, Finds, read_document
from imageload.documents.kinds import named_kind
from imageload.errors import Refused
from imageload.web.intake import media_type

MOST_PARTS = 100
_MULTIPART = "multipart/form-data"
_BOUNDARY = re.compile(r""";\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))""", re.IGNORECASE)
_HEADER_VALUE = re.compile(r"[ -~]{0,255}")
# Of clients that do not know the type: curl sends the form's, Tornado's parser "unknown".
_UNSAID = (
    "",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "application/unknown",
)
# The type and the file's suffix of a document that came without.
_TYPES = {
    "markdown": ("text/markdown", "md"),
    "html": ("text/html", "html"),
    "bbcode": ("text/x-bbcode", "bbcode"),
    "csv": ("text/csv", "csv"),
    "json": ("application/json", "json"),
    "org": ("text/org", "org"),
    "asciidoc": ("text/asciidoc", "adoc"),
    "wiki": ("text/x-wiki", "wiki"),
    "list": ("text/plain", "txt"),
    "text": ("text/plain", "txt"),
}


class Original(msgspec.Struct, array_like=True, frozen=True):
    """A document as it was posted, and what its finder is called with.

    Its content type names its kind, also if that was judged. The target's links began with
    `link_base` then; "" for documents of older versions.
    """

    content: bytes
    content_type: str
    file_name: str = ""
    base: str = ""
    column: str = ""
    link_base: str = ""

    def read(self) -> Document:
        """The document; the same at every time."""
        return read_document(self.content, self.content_type, self.file_name)

    def find(self, document: Document) -> Finds:
        """The places of images in it, those that are links of the target too."""
        return document.find(self.base, self.column, self.link_base)

    def is_link(self, url: str) -> bool:
        """Whether this is a link of the target: nothing needs to be uploaded."""
        return bool(self.link_base) and url.startswith(self.link_base)

    def encoded(self) -> bytes:
        """For the store."""
        return zlib.compress(msgspec.msgpack.encode(self), 1)


_decode = msgspec.msgpack.Decoder(Original).decode


def decode_original(encoded: bytes) -> Original:
    """The Original that was encoded."""
    return _decode(zlib.decompress(encoded))


def suffix_of(kind: str) -> str:
    """The end of a file's name for a document of this kind."""
    return _TYPES[kind][1]


def read_originals(
    body: bytes, content_type: str, base: str = "", column: str = "", link_base: str = ""
) -> list[tuple[Original, Document]]:
    """The documents of a body, in order. Raises Refused: bad-request or unsupported-type."""
    if media_type(content_type) == _MULTIPART:
        files = _files(body, content_type)
    else:
        files = [HTTPFile(filename="", body=body, content_type=content_type)]
    where = [f"Document {n}: " if len(files) > 1 else "" for n, _ in enumerate(files, 1)]
    read = [_read(file, column, at) for file, at in zip(files, where, strict=True)]
    return [
        (Original(file.body, type_, file.filename, base, column, link_base), document)
        for file, (type_, document) in zip(files, read, strict=True)
    ]


def _read(file: HTTPFile, column: str, where: str) -> tuple[str, Document]:
    """The content type of a file, judged if it came without one, and its document."""
    if not file.body or file.body.isspace():
        message = "The document is empty. Send it as the body, or as files of a form."
        raise Refused("bad-request", f"{where}{message}")
    content_type = file.content_type.strip()
    if not _HEADER_VALUE.fullmatch(content_type):
        raise Refused("bad-request", f"{where}The content type is malformed.")
    type_ = media_type(content_type)
    if not (type_ in _UNSAID or type_.startswith("text/") or named_kind(type_)):
        message = f"{type_} is no document with image URLs that is read here. Send text: Markdown, "
        message += "HTML, BBCode, CSV, JSON or plain text, with its content type or without one."
        raise Refused("unsupported-type", f"{where}{message}")
    document = read_document(file.body, content_type, file.filename)
    if type_ in _UNSAID:
        content_type, _ = _TYPES[document.kind]
        if document.encoding == "utf-8":
            content_type += "; charset=utf-8"
    if column and document.kind != "csv":
        message = f"column is for tables, and this was read as {document.kind}."
        raise Refused("bad-request", f"{where}{message}")
    return content_type, document


class _InOrder(dict[str, list[HTTPFile]]):
    """One list for the files of all fields: their order is that of the form."""

    def setdefault(self, name: str, default: list[HTTPFile] | None = None) -> list[HTTPFile]:  # noqa: ARG002
        return super().setdefault("", default or [])


def _files(body: bytes, content_type: str) -> list[HTTPFile]:
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        raise Refused("bad-request", "The content type of the form has no boundary.")
    files, fields = _InOrder(), dict[str, list[bytes]]()
    config = ParseMultipartConfig(max_parts=MOST_PARTS + 1)  # it counts the text before the first
    try:
        mark = (boundary[1] or boundary[2]).encode("ascii")
        parse_multipart_form_data(mark, body, fields, files, config=config)
    except (HTTPInputError, UnicodeError) as error:
        message = f"The form cannot be read: {error}. It may have {MOST_PARTS} files."
        raise Refused("bad-request", message) from None
    for name in fields:
        message = f"The field {name[:100]!r} is no file. Options are query arguments."
        raise Refused("bad-request", message)
    found = [*files.get("", ())]
    if not found:
        raise Refused("bad-request", "The form has no file. Send documents as its files.")
    return found


def disposition(file_name: str) -> str:
    """The value of a Content-Disposition header that saves a file under this name (RFC 6266)."""
    name = "".join(_printable(re.split(r"[/\\]", file_name)[-1]))[:200].strip(" .") or "document"
    plain = re.sub(r"[^A-Za-z0-9 ._()+-]", "_", name)
    if plain == name:
        return f'attachment; filename="{name}"'
    encoded = "".join(
        letter if re.match(r"[A-Za-z0-9._-]", letter) else _percent(letter) for letter in name
    )
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"


def _printable(text: str) -> Iterator[str]:
    return (letter for letter in text if letter.isprintable())


def _percent(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "replace"))
