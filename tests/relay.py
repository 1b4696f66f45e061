"""A TCP relay before a server that can be disconnected and reconnected, and counts bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit


class Relay:
    """Listens on `url` and forwards to `target`. `answered` counts the bytes of responses.

    `watch` is called with each chunk of bytes before it is forwarded, and True if it is of a
    response; an OSError that it raises breaks the connection.
    """

    def __init__(self, target: str) -> None:
        self.lead_to(target)
        self._port = 0
        self.answered = 0
        self.watch: Callable[[bytes, bool], object] | None = None
        self.bring_back()
        self.url = f"http://{self.address}"

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port

    @property
    def address(self) -> str:
        """The IP address and the port that it listens on."""
        return f"{self._host}:{self._port}"

    def lead_to(self, target: str) -> None:
        """Forward new connections to `target`."""
        parts = urlsplit(target)
        self._target = (str(parts.hostname), int(parts.port or 80))

    def bring_back(self) -> None:
        """Listen, on the port as before."""
        self._open: set[socket.socket] = set()
        self._listening = self._listen(self._port)
        self._host, self._port = self._listening.getsockname()
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def take_away(self) -> None:
        """Refuse new connections and break open ones."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _listen(self, port: int) -> socket.socket:
        return socket.create_server(("127.0.0.1", port))

    def cut(self) -> None:
        """Hold back every byte; connections stay open."""
        self._passes = threading.Event()
        self.watch = lambda *_: self._passes.wait()

    def join(self) -> None:
        """Bytes pass again, also those that were held back."""
        self.watch = None
        self._passes.set()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listening.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), socket.create_connection(self._target) as far:
            self._open |= {near, far}
            answers = threading.Thread(target=self._hand_on, args=(far, near), daemon=True)
            answers.start()
            self._hand_on(near, far)
            answers.join()

    def _hand_on(self, giver: socket.socket, taker: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := giver.recv(65536):
                is_answer = giver.getpeername() == self._target
                if is_answer:
                    self.answered += len(chunk)
                if self.watch is not None:
                    self.watch(chunk, is_answer)
                taker.sendall(chunk)
        for side in (giver, taker):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def running_relay(target: str) -> Iterator[Relay]:
    """A Relay for the length of a block."""
    relay = Relay(target)
    try:
        yield relay
    finally:
        relay.take_away()
