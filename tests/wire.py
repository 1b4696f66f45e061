"""Requests as bytes, for input that no client library sends, and their responses."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.waiting import PATIENCE

PATH = "/v1/images/upload"


@dataclass(frozen=True, slots=True)
class Answer:
    """One response, with `fields` by lower-case name. `ends`: the service closed the connection."""

    status: int
    fields: dict[str, str]
    body: bytes
    ends: bool = False

    @property
    def problem(self) -> str:
        """The slug of the problem document."""
        assert self.fields["content-type"] == "application/problem+json"
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status
        return str(document["type"]).removeprefix("urn:imageload:problem:")


class Wire:
    """A connection to the service at `url`."""

    def __init__(self, url: str, *, receive_buffer: int | None = None) -> None:
        parts = urlsplit(url)
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.connect((parts.hostname, parts.port))
        self._read = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send it all."""
        self.socket.sendall(data)

    def drip(self, data: bytes, seconds: float = PATIENCE) -> float:
        """Send a byte now and then until the service responds or closes; return the seconds."""
        begun = time.monotonic()
        self.socket.settimeout(0.02)  # the pace
        for byte in data:
            assert time.monotonic() - begun < seconds
            try:
                self.socket.sendall(bytes([byte]))
                self._read += self.socket.recv(65536)
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        self.socket.settimeout(PATIENCE)
        return time.monotonic() - begun

    def rest(self) -> bytes:
        """Read until the service closes."""
        with contextlib.suppress(ConnectionError):
            while part := self.socket.recv(2**20):
                self._read += part
        rest, self._read = self._read, b""
        return rest

    def last_answer(self) -> Answer:
        """The only response before the service closes."""
        raw = self.rest()
        head, _, body = raw.partition(b"\r\n\r\n")
        status, fields = _head(head)
        return Answer(status, fields, body, ends=True)

    def answer(self) -> Answer:
        """The next response with a Content-Length."""
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        status, fields = _head(head)
        length = int(fields.get("content-length", "0"))
        while len(self._read) < length:
            self._more()
        body, self._read = self._read[:length], self._read[length:]
        return Answer(status, fields, body)

    def _more(self) -> None:
        part = self.socket.recv(2**20)
        assert part, f"closed after {self._read!r}"
        self._read += part


def _head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), {name.lower(): value for name, value in fields.items()}


def request(
    method: str = "GET", path: str = "/healthz", body: bytes | None = None, **fields: str
) -> bytes:
    """The bytes of a request; `Content_Length=` and others replace the default headers."""
    all_fields = {"Host": "127.0.0.1"}
    if body is not None:
        all_fields["Content-Length"] = str(len(body))
    all_fields |= {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {v}" for name, v in all_fields.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def post(body: bytes, **fields: str) -> bytes:
    """The bytes of a POST of `body`."""
    return request("POST", PATH, body, **fields)
