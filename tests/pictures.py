"""An origin with as many distinct images as are wanted: `/<number>.png` is picture `number`.

It keeps connections open, so that it serves thousands of images/s from one thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Iterator, Sequence

from tests.origin import IMAGES
from tests.waiting import PATIENCE

_PNG = (IMAGES / "png-palette.png").read_bytes()
_HEAD_END = b"\r\n\r\n"


def sha256_of(number: int) -> str:
    """The SHA-256 of picture `number`."""
    return hashlib.sha256(_picture(number)).hexdigest()


def _picture(number: int) -> bytes:
    return _PNG + number.to_bytes(4, "big")


class Pictures:
    """The origin at `url`. It waits `delay` seconds before each response."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="pictures", daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def urls(self, numbers: Sequence[int]) -> list[str]:
        """The URLs of these pictures."""
        return [f"{self.url}/{number}.png" for number in numbers]

    def close(self) -> None:
        """Stop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        listen = self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1024)
        server = self._loop.run_until_complete(listen)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.close()


class _Connection(asyncio.Protocol):
    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while _HEAD_END in self._received:
            head, _, self._received = self._received.partition(_HEAD_END)
            path, _, _ = head.split(b" ", 2)[1].partition(b"?")
            number = int(path.strip(b"/").removesuffix(b".png"))
            loop = asyncio.get_running_loop()
            loop.call_later(self._pictures.delay, self._respond, _picture(number))

    def _respond(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d" % len(body)
        self._transport.write(head + _HEAD_END + body)


@contextlib.contextmanager
def running_pictures(delay: float = 0.0) -> Iterator[Pictures]:
    """The origin until the end of a block."""
    pictures = Pictures(delay)
    try:
        yield pictures
    finally:
        pictures.close()
