"""Faults for the next requests, queued with POST /sandbox/faults.

A fault is a name of the catalogue, or described by fields; fields override those of the name.

    {"fault": "429", "shape": 3, "count": 2}            the next two uploads get this 429
    {"fault": "hang", "match": "credits"}               the next GET /3/credits is never answered
    {"fault": "slow_answer", "seconds": 5, "after": 3}  the fourth upload is slow
    {"fault": "answer", "status": 200, "body": "null"}  a body of any bytes

`match` is a route (upload, image, credits, album, account, oauth, link, page, any) or a part of
"METHOD /path". A request gets the first queued fault that matches.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from .envelope import HTML, JSON, ApiError, Asked, Response, failure, phrase, varnish_page

ROUTES = ("upload", "image", "credits", "album", "account", "oauth", "link", "page", "other")

# Faults of the connection; every other fault is a response.
HANG = "hang"  # reads the body, never answers
RESET_MID_BODY = "reset_mid_body"  # RST after `bytes` of the body
RESET_BEFORE_STORE = "reset_before_store"  # whole body read, RST, nothing stored
RESET_AFTER_BODY = "reset_after_body"  # whole body read, image stored, RST
SLOW_READ = "slow_read"  # reads the body at `bytes_per_second`
SLOW_ANSWER = "slow_answer"  # processes the request, answers `seconds` later
PASS = "pass"  # changes only headers, link, old_shape or rate_headers  # noqa: S105

_CAPTIVE = (
    "<!DOCTYPE html><html><head><title>Sign in to the network</title></head>"
    '<body><form action="/login"><input name="user"></form></body></html>'
)

# Sources: the docstring of sandbox/envelope.py for the shapes, comments here for the rest.
CATALOGUE: dict[str, dict[str, Any]] = {
    HANG: {},
    RESET_MID_BODY: {},
    RESET_BEFORE_STORE: {},
    RESET_AFTER_BODY: {},
    SLOW_READ: {},
    SLOW_ANSWER: {"seconds": 1.0},
    PASS: {},
    "answer": {"status": 500},
    "no_rate_headers": {"rate_headers": False},
    "old_shape": {"old_shape": True},
    # ShareX#7910, #8200: the edge refuses an IP or a country; no rate headers, Retry-After 0.
    "forbidden": {
        "status": 400,
        "message": "These actions are forbidden.",
        "edge": True,
        "headers": {"CDN-Error": "yes", "Retry-After": "0"},
    },
    # 1j01/jspaint#343: in practice a block of the IP or the client id.
    "over_capacity": {
        "status": 403,
        "message": "Imgur is temporarily over capacity. Please try again later.",
        "edge": True,
    },
    # PyImgur#35, EasyImgur#54: also seen with HTTP 429.
    "too_fast": {
        "status": 400,
        "shape": 2,
        "code": 429,
        "message": "You are uploading too fast. Please wait {minutes} more minutes.",
    },
    "file_type": {"status": 400, "shape": 2, "code": 1003, "message": "File type invalid (1)"},
    "over_size": {"status": 413, "message": "file is over the size limit"},  # ShareX#7568
    "invalid_client": {"status": 403, "message": "Invalid client_id"},
    "invalid_token": {"status": 403, "message": "The access token provided is invalid."},
    "client_daily": {"status": 429, "message": "Daily client requests exceeded"},
    # imgurpython#90
    "not_uploaded": {
        "status": 500,
        "shape": 2,
        "code": 1001,
        "kind": "Exception_Logged",
        "message": "File was not uploaded correctly",
    },
    "expectation": {"status": 417, "message": "Internal expectation failed"},  # ShareX#5611
    "internal": {
        "status": 500,
        "body": '{"data":"An error occurred","success":false,"status":500}',
    },
    "data_false": {"status": 400, "body": '{"data":false,"success":false,"status":400}'},
    "varnish": {
        "status": 503,
        "body": varnish_page(503, "client read error").decode(),
        "content_type": HTML,
        "edge": True,
        "headers": {"Retry-After": "0"},
    },
    "bad_gateway": {  # imgurpython#101: nine bytes
        "status": 502,
        "body": "Bad Gatew",
        "content_type": "text/plain",
        "edge": True,
    },
    "kittens": {  # tremby/imgur.sh#23
        "status": 503,
        "body": "<html><body>Imgur overloaded. Hang in there with kittens</body></html>",
        "content_type": HTML,
        "edge": True,
    },
    "gateway": {"status": 403, "body": '{"message":"You are not subscribed to this API."}'},
    "captive": {"status": 200, "body": _CAPTIVE, "content_type": HTML, "edge": True},
    "captive_redirect": {
        "status": 302,
        "body": "",
        "content_type": HTML,
        "edge": True,
        "headers": {"Location": "http://captive.example/login"},
    },
    "no_link": {"link": ""},
    "foreign_link": {"link": "https://example.com/{id}.png"},
    "http_link": {"link": "http://i.imgur.com/{id}.png"},
    "success_false": {
        "status": 200,
        "body": '{"status":200,"success":false,"data":{"error":"Could not process upload!"}}',
    },
    "data_null": {"status": 200, "body": '{"status":200,"success":true,"data":null}'},
    "no_data": {"status": 200, "body": '{"status":200,"success":true}'},
    "body_null": {"status": 200, "body": "null"},
    "number": {"status": 200, "body": "42"},
    "string": {"status": 200, "body": '"ok"'},
    "list": {"status": 200, "body": "[]"},
    "empty": {"status": 200, "body": ""},
    "errors_array": {
        "status": 200,
        "body": '{"errors":[{"id":"legacy-api-sandbox/x-1","code":"500",'
        '"status":"Internal Server Error","detail":"Internal Server Error"}]}',
    },
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault and the requests that get it. Times in seconds, sizes in bytes."""

    fault: str
    match: str = "upload"
    count: int = 1  # number of requests; 0: all, until cleared
    after: int = 0  # matching requests to skip first
    seconds: float = 0.0  # a pause before any answer
    bytes: int = 1  # for reset_mid_body
    bytes_per_second: float = 1000.0  # for slow_read
    status: int = 0  # the response's status; 0: the request is processed
    shape: int = 1
    message: str = ""
    code: int | None = None
    kind: str = "ImgurException"
    minutes: int = 30  # for too_fast
    body: str | None = None  # the body, instead of a shape
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)  # set last: they replace rate headers
    edge: bool = False  # in front of the API: no rate headers, no keys `request` and `method`
    rate_headers: bool = True
    old_shape: bool = False
    link: str | None = None  # replaces the link of a stored image; "": removes it

    def meets(self, route: str, request_line: str) -> bool:
        """Whether the fault applies to the request."""
        if self.match == "any" or self.match == route:
            return True
        return self.match not in ROUTES and self.match in request_line

    def answer(self, asked: Asked) -> Response:
        """The response instead of the processing; the handler sets the headers."""
        if self.body is not None:
            return Response(self.status, self.body.encode(), self.content_type)
        text = (self.message or phrase(self.status)).replace("{minutes}", str(self.minutes))
        error = ApiError(self.status, text, shape=self.shape, code=self.code, kind=self.kind)
        return failure(error, asked)


def read_fault(given: object) -> Fault:
    """The fault that a JSON object describes. Raises ValueError with the reason."""
    if not isinstance(given, dict):
        raise ValueError("a fault is a JSON object")
    name = str(given.get("fault", "answer"))
    if re.fullmatch(r"[2-5]\d\d", name):
        # Since 2024 a 429 has shape 3; any other status has shape 1.
        known: dict[str, Any] = {"status": int(name), "shape": 3 if name == "429" else 1}
    elif name in CATALOGUE:
        known = CATALOGUE[name]
    else:
        raise ValueError(f"unknown fault {name!r}; known: {', '.join(CATALOGUE)}, or a status")
    for key, value in given.items():
        if key not in _TYPES:
            raise ValueError(f"unknown field {key!r}; known: {', '.join(_TYPES)}")
        if not isinstance(value, _TYPES[key]):
            raise ValueError(f"{key} must not be {value!r}")
    fault = Fault(**{**known, **given, "fault": name})
    if fault.shape not in (1, 2, 3, 4) or (fault.status and not 200 <= fault.status <= 599):
        raise ValueError("shape must be 1 to 4, status 200 to 599")
    if any(not isinstance(value, str) for value in fault.headers.values()):
        raise ValueError("headers must be strings")
    return fault


_KINDS: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "int | None": (int, type(None)),
    "str | None": (str, type(None)),
    "dict[str, str]": dict,
}
_TYPES = {f.name: _KINDS[str(f.type)] for f in fields(Fault)}


class Faults:
    """The queue of faults. Used from the event loop only."""

    def __init__(self) -> None:
        self._queue: list[list[Any]] = []  # [fault, requests to skip, requests left]
        self.met: Counter[str] = Counter()

    def add(self, fault: Fault) -> None:
        """Queue one fault."""
        self._queue.append([fault, fault.after, fault.count or -1])

    def clear(self) -> None:
        """Drop every queued fault."""
        self._queue.clear()

    def queued(self) -> list[str]:
        """The names of the queued faults."""
        return [entry[0].fault for entry in self._queue]

    def take(self, route: str, request_line: str) -> Fault | None:
        """The fault for this request, counted; None without one."""
        for entry in self._queue:
            fault: Fault = entry[0]
            if not fault.meets(route, request_line):
                continue
            if entry[1]:
                entry[1] -= 1
                continue
            entry[2] -= 1
            if entry[2] == 0:
                self._queue.remove(entry)
            self.met[fault.fault] += 1
            return fault
        return None
