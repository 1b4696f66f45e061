"""Parse a request body into named fields and image bytes, in every form that real clients send.

    multipart file part `image` (or `video`)          curl, ShareX, PyImgur, npm imgur
    multipart text, base64                            PicGo 3.1.0
    urlencoded base64                                 imgurpython 1.1.7
    JSON {"image": "<base64>"}                        npm imgur-uploader 4.2.1
    the bare bytes as image/*, names in the query     kusumakarb
    an http URL in place of the bytes                 tremby/imgur.sh

sandbox/picture.py checks whether the bytes are an image.
"""

from __future__ import annotations

import binascii
import json
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from tornado.httputil import HTTPInputError, parse_multipart_form_data

FORM = "application/x-www-form-urlencoded"
IMAGE_FIELDS = ("image", "video")  # `video` is ShareX's name for it
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_ \t\r\n"
_TO_STANDARD = bytes.maketrans(b" -_", b"++/")


@dataclass(frozen=True)
class Form:
    """The fields of one request; each may repeat, as in ids[]=a&ids[]=b."""

    values: dict[str, list[bytes]] = field(default_factory=dict)
    filename: str = ""

    @property
    def size(self) -> int:
        """The bytes of all values."""
        return sum(len(value) for values in self.values.values() for value in values)

    def text(self, name: str, default: str | None = None) -> str | None:
        """The first value of a field as text; the default without such a field."""
        found = self.values.get(name)
        return found[0].decode("utf-8", "replace") if found else default

    def texts(self, *names: str) -> list[str] | None:
        """All values of a list field (ids[]=a or ids=a,b); None without such a field."""
        found = [value for name in names for value in self.values.get(name, [])]
        if not found and not any(name in self.values for name in names):
            return None
        joined = b",".join(found).decode("utf-8", "replace")
        return [item.strip() for item in joined.split(",") if item.strip()]

    def image(self) -> tuple[bytes, str]:
        """(bytes, "") of the image, or (b"", URL) for an image to be fetched."""
        value = next((self.values[name][0] for name in IMAGE_FIELDS if self.values.get(name)), b"")
        kind = (self.text("type") or "").lower()
        if kind == "url" or (
            kind == "" and value[:8].lower().startswith((b"http://", b"https://"))
        ):
            return b"", value.decode("utf-8", "replace").strip()
        if kind in ("file", "raw"):
            return value, ""
        if kind == "base64" or not value[:64].translate(None, _BASE64):
            return _unbase64(value), ""
        return value, ""


def read_form(content_type: str, body: bytes, query: str) -> Form:
    """The fields of a request, from its body and its query; the body has precedence.

    A body is the image itself only if its Content-Type is an image's: since 2024-02 Imgur refuses
    others, such as flameshot's application/application/x-www-form-urlencoded. A body that is broken
    in its own form has no fields.
    """
    values = _urlencoded(query.encode("latin-1", "replace"))
    filename = ""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        sent, filename = _multipart(content_type, body)
    elif media_type == "application/json":
        sent = _json(body)
    elif media_type == FORM:
        sent = _urlencoded(body)
    elif media_type.startswith("image/") and body:
        sent = {"image": [body], "type": [b"raw"]}
    else:
        sent = {}
    return Form({**values, **sent}, filename)


def _multipart(content_type: str, body: bytes) -> tuple[dict[str, list[bytes]], str]:
    boundary = ""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "boundary":
            boundary = value
    values: dict[str, list[bytes]] = {}
    files: dict[str, list[object]] = {}
    try:
        parse_multipart_form_data(boundary.encode(), body, values, files)  # type: ignore[arg-type]
    except (HTTPInputError, ValueError):
        return {}, ""
    filename = ""
    for name, parts in files.items():
        for part in parts:
            values.setdefault(name, []).append(part["body"])  # type: ignore[index]
            filename = filename or str(part["filename"])  # type: ignore[index]
            if name in IMAGE_FIELDS:
                # A file part is the file, unless the form says base64.
                values.setdefault("type", [b"file"])
    return values, filename


def _json(body: bytes) -> dict[str, list[bytes]]:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(parsed, dict):
        return {}
    return {
        name: [_encoded(item) for item in (value if isinstance(value, list) else [value])]
        for name, value in parsed.items()
        if value is not None and not name.endswith("[]")  # that is how forms name a list
    }


def _encoded(value: object) -> bytes:
    return str(value).encode("utf-8", "replace")


def _urlencoded(body: bytes) -> dict[str, list[bytes]]:
    values: dict[str, list[bytes]] = {}
    for pair in body.split(b"&"):
        if pair:
            name, _, value = pair.replace(b"+", b" ").partition(b"=")
            key = unquote_to_bytes(name).decode("utf-8", "replace")
            values.setdefault(key, []).append(_unquoted(value))
    return values


def _unquoted(value: bytes) -> bytes:
    """The value without its percent-escapes.

    The escapes that base64 needs go by bytes.replace: the library's loop takes 400 ms for 9 MB.
    """
    if len(value) > 4096:
        for escape, byte in ((b"%2B", b"+"), (b"%2F", b"/"), (b"%3D", b"="), (b"%0A", b"\n")):
            value = value.replace(escape, byte).replace(escape.lower(), byte)
    return unquote_to_bytes(value)


def _unbase64(value: bytes) -> bytes:
    """The decoded bytes; empty if they are not base64.

    A space stands for the "+" that a sloppy client did not percent-escape. Line breaks and
    missing padding are forgiven, as PHP's base64_decode forgives them.
    """
    packed = value.strip().translate(_TO_STANDARD, b"\t\r\n").rstrip(b"=")
    try:
        return binascii.a2b_base64(packed + b"=" * (-len(packed) % 4))
    except binascii.Error:
        return b""
