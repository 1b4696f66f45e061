"""A stand-in for Imgur that responds to each whole request with any bytes."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import BinaryIO, NamedTuple


class Received(NamedTuple):
    """A request: its method and path, as in "POST /3/upload", and its body."""

    line: str
    body: bytes


Respond = Callable[[Received], bytes]
"""The bytes of the response; the connection is closed behind them."""


def response(
    body: bytes, status: int = 200, content_type: str = "application/json", **headers: str
) -> bytes:
    """A response with this body."""
    phrase = HTTPStatus(status).phrase
    lines = [f"HTTP/1.1 {status} {phrase}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"Content-Type: {content_type}"] if content_type else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def landed(url: str, name: str) -> bytes:
    """The response to an upload that landed."""
    image = {"id": name, "deletehash": f"{name}hash", "link": f"{url}/{name}.png"}
    return response(json.dumps({"data": image, "success": True, "status": 200}).encode())


def rejected(message: str, status: int = 400) -> bytes:
    """The response to an upload that is rejected in these words."""
    said = {"data": {"error": message}, "success": False, "status": status}
    return response(json.dumps(said).encode(), status)


class ImgurServer:
    """Responds by `respond`, which may be replaced; `received` has the requests so far."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.received: list[Received] = []
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def uploads(self) -> int:
        """How many uploads were received."""
        return sum(each.line == "POST /3/upload" for each in self.received)

    def close(self) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as file:
            request = _read(file)
            if request is not None:
                self.received.append(request)
                connection.sendall(self.respond(request))
                # With unread bytes a close would be a reset.
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)


def _read(file: BinaryIO) -> Received | None:
    first, length = file.readline().decode("latin-1"), 0
    if not first:
        return None
    for line in iter(file.readline, b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        if not line:
            return None
    return Received(first.rpartition(" ")[0], file.read(length))


@contextlib.contextmanager
def imgur_server(respond: Respond) -> Iterator[ImgurServer]:
    """An ImgurServer for the length of a block."""
    server = ImgurServer(respond)
    try:
        yield server
    finally:
        server.close()
