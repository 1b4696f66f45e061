"""Imgur's response bodies: two key orders of success, four shapes of error, and XML.

The upload service writes {status, success, data} and does not escape slashes; older endpoints write
{data, success, status} and escape each slash. Errors have four shapes, all reported by users, and
a client must understand each:

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
class Response:
    """A whole HTTP response."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


class ApiError(Exception):
    """An error with Imgur's message: HTTP status, message, shape.

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
    """The parts of a request that its response needs: method, path, and format."""

    method: str
    path: str
    new_order: bool = False
    xml: bool = False
    edge: bool = False  # a response of the edge has no keys `request` and `method`


def success(payload: object, asked: Asked) -> Response:
    """200 with the payload as `data`."""
    if asked.xml:
        return Response(200, _xml(payload, ok=True, status=200), XML)
    return Response(200, _envelope(payload, ok=True, status=200, new_order=asked.new_order))


def failure(error: ApiError, asked: Asked) -> Response:
    """The error in its shape; XML has shape 1 only."""
    if error.shape == 3:
        return Response(error.status, _shape_3(error), "application/vnd.imgur.v1+json")
    if error.shape == 4:
        return Response(error.status, varnish_page(error.status, error.message), HTML)
    detail: dict[str, object] = {"error": error.message}
    if error.shape == 2 and not asked.xml:
        detail["error"] = {
            "code": error.code if error.code is not None else error.status,
            "message": error.message,
            "type": error.kind,
            "exception": [],
        }
    if not asked.edge:
        detail |= {"request": asked.path, "method": asked.method}
    if asked.xml:
        return Response(error.status, _xml(detail, ok=False, status=error.status), XML)
    body = _envelope(detail, ok=False, status=error.status, new_order=asked.new_order)
    return Response(error.status, body)


def phrase(status: int) -> str:
    """The reason phrase of a status; never empty."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def varnish_page(status: int, message: str) -> bytes:
    """The page a Varnish edge shows, with its Guru Meditation."""
    title = escape(f"{status} {message}")
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html>\n<html>\n  <head>\n'
        f"    <title>{title}</title>\n  </head>\n  <body>\n    <h1>Error {title}</h1>\n"
        f"    <p>{escape(message)}</p>\n    <h3>Error 54113</h3>\n    <p>Details: "
        "cache-sandbox-1</p>\n    <hr>\n    <p>Varnish cache server</p>\n  </body>\n</html>\n"
    ).encode()


def nginx_page(status: int, message: str) -> bytes:
    """The page of the nginx in front of the API."""
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
    # In JSON, slashes occur only inside strings, so escaping each is safe.
    return json.dumps(whole, separators=(",", ":")).replace("/", "\\/").encode()


def _shape_3(error: ApiError) -> bytes:
    token = "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=10))
    detail = {
        "id": f"legacy-api-sandbox/{token}-000001",
        "code": str(error.code if error.code is not None else error.status),
        "status": phrase(error.status),
        "detail": error.message,
    }
    return json.dumps({"errors": [detail]}, separators=(",", ":")).encode()


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
    # XML 1.0 cannot represent control characters.
    shown = "true" if value is True else str(value)
    return escape("".join(c for c in shown if c >= " " or c in "\t\n"))
