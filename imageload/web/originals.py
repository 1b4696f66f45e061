"""The body of a POST of documents, and the name of a document that is sent."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tornado.httputil import (
    HTTPFile,
    HTTPInputError,
    ParseMultipartConfig,
    parse_multipart_form_data,
)

from imageload.documents.kinds import UNSAID, kind_of_type
from imageload.documents.original import Original
from imageload.errors import Refused
from imageload.web.intake import media_type

MOST_PARTS = 100
_MULTIPART = "multipart/form-data"
_BOUNDARY = re.compile(r""";\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))""", re.IGNORECASE)
_HEADER_VALUE = re.compile(r"[ -~]{0,255}")


def read_originals(
    body: bytes, content_type: str, base: str = "", column: str = "", link_base: str = ""
) -> tuple[list[Original], list[str]]:
    """The documents of a body, in order, and the URLs of images to skip.

    Raises Refused: bad-request or unsupported-type.
    """
    skip: list[str] = []
    if media_type(content_type) == _MULTIPART:
        files, skip = _files(body, content_type)
    else:
        files = [HTTPFile(filename="", body=body, content_type=content_type)]
    where = [f"Document {n}: " if len(files) > 1 else "" for n, _ in enumerate(files, 1)]
    types = [_checked_type(file, at) for file, at in zip(files, where, strict=True)]
    originals = [
        Original(file.body, type_, file.filename, base, column, link_base)
        for file, type_ in zip(files, types, strict=True)
    ]
    return originals, skip


def _checked_type(file: HTTPFile, where: str) -> str:
    """The content type of a file that may be a document."""
    if not file.body or file.body.isspace():
        message = "The document is empty. Send it as the body, or as files of a form."
        raise Refused("bad-request", f"{where}{message}")
    content_type = file.content_type.strip()
    if not _HEADER_VALUE.fullmatch(content_type):
        raise Refused("bad-request", f"{where}The content type is malformed.")
    type_ = media_type(content_type)
    if not (type_ in UNSAID or type_.startswith("text/") or kind_of_type(type_)):
        message = f"The service does not read documents of the type {type_}. Send text: Markdown, "
        message += "HTML, BBCode, CSV, JSON or plain text, with its content type or without one."
        raise Refused("unsupported-type", f"{where}{message}")
    return content_type


class _InOrder(dict[str, list[HTTPFile]]):
    """One list for the files of all fields: their order is that of the form."""

    def setdefault(self, name: str, default: list[HTTPFile] | None = None) -> list[HTTPFile]:  # noqa: ARG002
        return super().setdefault("", default or [])


def _files(body: bytes, content_type: str) -> tuple[list[HTTPFile], list[str]]:
    """The files of a form, and the lines of its fields `skip`."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        raise Refused("bad-request", "The content type of the form has no boundary.")
    files, fields = _InOrder(), dict[str, list[bytes]]()
    # It counts the text before the first.
    config = ParseMultipartConfig(max_parts=MOST_PARTS + 1)
    try:
        mark = (boundary[1] or boundary[2]).encode("ascii")
        parse_multipart_form_data(mark, body, fields, files, config=config)
    except (HTTPInputError, UnicodeError) as error:
        message = f"The form cannot be read: {error}. It may have {MOST_PARTS} files and fields."
        raise Refused("bad-request", message) from None
    skip = b"\n".join(fields.pop("skip", []))
    for name in fields:
        message = f"The field {name[:100]!r} is not a file. Options are query arguments."
        raise Refused("bad-request", message)
    found = [*files.get("", ())]
    if not found:
        raise Refused("bad-request", "The form has no file. Send documents as its files.")
    lines = skip.decode("utf-8", "replace").splitlines()
    return found, [line.strip() for line in lines if line.strip()]


def cleaned_name(file_name: str) -> str:
    """A file's name without folders and characters that nobody sees, at most 200 characters."""
    return "".join(_printable(re.split(r"[/\\]", file_name)[-1]))[:200].strip(" .")


def disposition(file_name: str) -> str:
    """The value of a Content-Disposition header that saves a file under this name (RFC 6266)."""
    name = cleaned_name(file_name) or "document"
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
