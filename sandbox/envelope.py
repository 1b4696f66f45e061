"""The bodies Imgur answers with: two orders of success, four shapes of error, and XML.

The upload service writes {status, success, data} and leaves slashes alone; every older endpoint
writes {data, success, status} and escapes each slash. Errors come in four shapes, all seen in
the wild, and a client must understand each:

    1  {"data": {"error": "<text>", "request": "/3/upload", "method": "POST"}, …}
    2  {"data": {"error": {"code", "message", "type", "exception"}, "request", "method"}, …}
    3  {"errors": [{"id", "code": "429", "status", "detail"}]}              (since 2024)
    4  an HTML page of Varnish or nginx                    (s0hv/rust-imgur-upload#5, #10, #14)
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from http import HTTPStatus
from xml.sax.saxutils import escape

JSON = "application/json"
HTML = "text/html; charset=utf-8"
XML = "text/xml; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """One whole HTTP answer, ready to be sent."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


class ApiError(Exception):
    """A refusal in Imgur's words: HTTP status, sentence, and the shape it is told in.

    `code` and `kind` are shape 2's (kind is its `type`, such as ImgurException).
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        shape: int = 1,
        code: int | None = None,
        kind: str = "ImgurException",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.shape = shape
        self.code = code
        self.kind = kind


@dataclass(frozen=True)
class Asked:
    """What an answer repeats of the request: method, path, and the dialect to answer in."""

    method: str
    path: str
    new_order: bool = False
    xml: bool = False
    edge: bool = False  # an answer of the edge names neither request nor method


def success(payload: object, asked: Asked) -> Answer:
    """200 with the payload as `data`."""
    if asked.xml:
        return Answer(200, _xml(payload, ok=True, status=200), XML)
    return Answer(200, _envelope(payload, ok=True, status=200, new_order=asked.new_order))


def failure(error: ApiError, asked: Asked) -> Answer:
    """The error in its shape. XML has the one shape of its own (shape 1)."""
    if error.shape == 3:
        return Answer(error.status, _shape_3(error), "application/vnd.imgur.v1+json")
    if error.shape == 4:
        return Answer(error.status, varnish_page(error.status, error.message), HTML)
    told: dict[str, object] = {"error": error.message}
    if error.shape == 2 and not asked.xml:
        told["error"] = {
            "code": error.code if error.code is not None else error.status,
            "message": error.message,
            "type": error.kind,
            "exception": [],
        }
    if not asked.edge:
        told |= {"request": asked.path, "method": asked.method}
    if asked.xml:
        return Answer(error.status, _xml(told, ok=False, status=error.status), XML)
    body = _envelope(told, ok=False, status=error.status, new_order=asked.new_order)
    return Answer(error.status, body)


def phrase(status: int) -> str:
    """The reason phrase of a status; never empty."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def varnish_page(status: int, message: str) -> bytes:
    """The page a Varnish edge shows, with its guru meditation."""
    title = escape(f"{status} {message}")
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html>\n<html>\n  <head>\n'
        f"    <title>{title}</title>\n  </head>\n  <body>\n    <h1>Error {title}</h1>\n"
        f"    <p>{escape(message)}</p>\n    <h3>Error 54113</h3>\n    <p>Details: "
        "cache-sandbox-1</p>\n    <hr>\n    <p>Varnish cache server</p>\n  </body>\n</html>\n"
    ).encode()


def nginx_page(status: int, message: str) -> bytes:
    """The page of the nginx before the API."""
    title = escape(f"{status} {message}")
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    ).encode()


def _envelope(payload: object, *, ok: bool, status: int, new_order: bool) -> bytes:
    if new_order:
        whole = {"status": status, "success": ok, "data": payload}
        return json.dumps(whole, separators=(",", ":")).encode()
    whole = {"data": payload, "success": ok, "status": status}
    # A slash in JSON can only stand inside a string, so escaping each one is safe.
    return json.dumps(whole, separators=(",", ":")).replace("/", "\\/").encode()


def _shape_3(error: ApiError) -> bytes:
    token = "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=10))
    told = {
        "id": f"legacy-api-sandbox/{token}-000001",
        "code": str(error.code if error.code is not None else error.status),
        "status": phrase(error.status),
        "detail": error.message,
    }
    return json.dumps({"errors": [told]}, separators=(",", ":")).encode()


def _xml(payload: object, *, ok: bool, status: int) -> bytes:
    kind = ' type="array"' if isinstance(payload, dict) else ""
    text = (
        f'<?xml version="1.0" encoding="utf-8"?>\n<data{kind} success="{int(ok)}"'
        f' status="{status}">{_xml_value(payload)}</data>'
    )
    return text.encode("utf-8", "replace")


def _xml_value(value: object) -> str:
    if isinstance(value, dict):
        return "".join(f"<{name}>{_xml_value(inner)}</{name}>" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return "".join(f"<item>{_xml_value(inner)}</item>" for inner in value)
    if value is None or value is False:
        return "" if value is None else "false"
    # XML 1.0 has no way at all to write a control character.
    shown = "true" if value is True else str(value)
    return escape("".join(c for c in shown if c >= " " or c in "\t\n"))
