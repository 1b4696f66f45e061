"""An origin for downloads over raw sockets, whose pages may send any bytes.

`/images/<name>` is a file of tests/images. Other paths are looked up in `pages`: a page gets the
connection after the request's head was read, and writes whatever bytes it likes.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.waiting import PATIENCE

IMAGES = Path(__file__).parent / "images"

Page = Callable[[socket.socket], None]


def answer(
    body: bytes = b"", status: str = "200 OK", length: int | None = None, **fields: str
) -> Page:
    """A page that sends this response and closes; `length` replaces the true Content-Length."""
    declared = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {declared}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return raw(head + body)


def raw(sent: bytes) -> Page:
    """A page that sends these bytes, and closes."""
    return lambda connection: connection.sendall(sent)


def redirect(location: str, status: str = "302 Found", body: bytes = b"") -> Page:
    """A page that redirects to `location`."""
    return answer(body, status, Location=location)


def reset(connection: socket.socket) -> None:
    """A page that breaks the connection with an RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Origin:
    """A server on 127.0.0.1 for one test. `requests` counts paths, `connections` connections."""

    def __init__(
        self, context: ssl.SSLContext | None = None, *, address: str = "127.0.0.1"
    ) -> None:
        self._context = context
        self.pages: dict[str, Page] = {}
        self.default: Page | None = None
        """The page for paths that are neither pages nor images."""
        self.requests: Counter[str] = Counter()
        self.heads: list[str] = []
        self.connections = 0
        self.released = threading.Event()
        """Set at the end of the test; ends `hang`."""
        self.hanging = threading.Semaphore(0)
        """Released once for each request that hangs."""
        self._lock = threading.Lock()
        self._listening = socket.create_server((address, 0), backlog=1024)
        self._open: set[socket.socket] = set()
        self.port: int = self._listening.getsockname()[1]
        self.url = f"{'https' if context else 'http'}://{address}:{self.port}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def image(self, name: str) -> str:
        """The URL of a file of tests/images."""
        return f"{self.url}/images/{name}"

    def page(self, path: str, page: Page) -> str:
        """Add `page` at `path`; return its URL."""
        self.pages[path] = page
        return self.url + path

    def hang(self, connection: socket.socket) -> None:
        """A page that never responds."""
        self.hanging.release()
        self.released.wait(2 * PATIENCE)
        connection.close()

    def close(self) -> None:
        """Close all connections and stop."""
        self.released.set()
        # close() alone would leave accept() waiting.
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            still_open = list(self._open)
        for connection in still_open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError as error:
                if error.errno == errno.EMFILE:  # a test takes the descriptors away for a moment
                    continue
                return
            with self._lock:
                self.connections += 1
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
        with connection, contextlib.suppress(OSError):
            file = connection.makefile("rb")
            while head := _read_head(file):
                path = head.split(" ", 2)[1]
                with self._lock:
                    self.requests[path] += 1
                    self.heads.append(head)
                page = self.pages.get(path.partition("?")[0], self.default)
                if page is not None:
                    page(connection)
                    break
                connection.sendall(_image(path))
        with self._lock:
            self._open.discard(connection)


def _read_head(file: object) -> str:
    lines: list[str] = []
    for line in iter(file.readline, b""):  # type: ignore[attr-defined]
        if line == b"\r\n":
            break
        lines.append(line.decode("latin-1"))
    return "".join(lines)


def _image(path: str) -> bytes:
    name = path.partition("?")[0].removeprefix("/images/")
    file = IMAGES / name
    if not path.startswith("/images/") or not file.is_file():
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope"
    body = file.read_bytes()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@contextlib.contextmanager
def running_origin(context: ssl.SSLContext | None = None) -> Iterator[Origin]:
    """An Origin for the length of a block, over TLS with a `context`."""
    origin = Origin(context)
    try:
        yield origin
    finally:
        origin.close()
