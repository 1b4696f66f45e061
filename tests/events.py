"""A subscriber of an event stream, like a browser's EventSource, over a plain socket."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.waiting import PATIENCE


class Event(NamedTuple):
    """One server-sent event; `id` is the last id sent, as in a browser."""

    name: str
    id: str
    data: Any


class Subscriber:
    """An open stream, for a `with` block. `last_id` is the id to resume after."""

    def __init__(
        self, url: str, last_id: str | None = None, *, receive_buffer: int | None = None
    ) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self.last_id = last_id
        self.received = 0
        self._connection = http.client.HTTPConnection(
            address.hostname, address.port, timeout=PATIENCE
        )
        self._socket = socket.socket()
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(PATIENCE)
        self._socket.connect((address.hostname, address.port))
        self._connection.sock = self._socket
        headers = {"Accept": "text/event-stream"}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        self._connection.request("GET", address.path, headers=headers)
        self.answer = self._connection.getresponse()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.answer.close()
        self._connection.close()

    def cut(self) -> None:
        """Break the connection with an RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def events(self) -> Iterator[Event]:
        """Yield complete events until the stream ends."""
        fields: dict[str, str] = {}
        for line in self._lines():
            name, _, value = line.partition(":")
            if line:
                fields[name] = value.removeprefix(" ")
                continue
            self.last_id = fields.get("id", self.last_id)
            if "data" in fields:
                data = json.loads(fields["data"])
                yield Event(fields.get("event", "message"), self.last_id or "", data)
            fields = {}

    def until(self, name: str, count: int = 1) -> list[Event]:
        """The events up to the `count`th of this name; AssertionError if the stream ends first."""
        found: list[Event] = []
        for event in self.events():
            found.append(event)
            count -= event.name == name
            if not count:
                return found
        raise AssertionError(f"no more {name} in {found}")

    def comment(self) -> str:
        """The next comment; raises AssertionError if the stream ends first."""
        for line in self._lines():
            if line.startswith(":"):
                return line[1:].strip()
        raise AssertionError("no more comments")

    def _lines(self) -> Iterator[str]:
        while True:
            try:
                line = self.answer.readline()
            except (http.client.HTTPException, ConnectionError):
                return
            self.received += len(line)
            if not line.endswith(b"\n"):
                return
            yield line.decode("utf-8").rstrip("\n")
