"""Tornado's HTTP server, with limits on connections and on slow clients.

    accept ─► head ─► body ─► responding ─► idle ─► head ...
               │       │          │           └─ idle_seconds
               │       │          └─ idle_seconds without the client reading any of it
               └───────┴─ client_seconds, and a second more for each client_speed_bytes

At the limit of connections, a new one evicts the one that has waited longest for a request, else
the one that has waited longest for the rest of a body. If there is none, the new one gets a 503.
Without a free file descriptor, accepting pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, get_args

import msgspec
import tornado.httpserver
import tornado.iostream
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from imageload.tuning import Tuning
from imageload.web.problems import PROBLEM

_log = logging.getLogger(__name__)

Phase = Literal["idle", "head", "body", "responding"]
CloseReason = Literal["too-slow", "evicted", "refused", "idle", "not-reading"]
CLOSE_REASONS: tuple[CloseReason, ...] = get_args(CloseReason)

BACKLOG = 1_024
_ACCEPTED_AT_ONCE = 64
_MOST_READS = 64
_CHECKED_AT_ONCE = 64
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)
_PAUSE_SECONDS = 0.5
_SECONDS_BETWEEN_WARNINGS = 60.0
_LAST_RESPONSES_SECONDS = 2.0


class ClientStream(tornado.iostream.IOStream):
    """A connection, the phase of its request, and the bytes read and written on it."""

    def __init__(self, connection: socket.socket, on_close: Callable[[ClientStream], None]) -> None:
        super().__init__(connection)
        self._on_close = on_close
        self.phase: Phase = "head"
        self.moved = 0
        self.seen = 0
        self.waited = 0.0

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Called by Tornado."""
        try:
            count = super().read_from_fd(buf)
        finally:
            del buf  # as in Tornado: a traceback must not keep the view
        self.moved += count or 0
        return count

    def write_to_fd(self, data: memoryview) -> int:
        """Called by Tornado."""
        try:
            count = super().write_to_fd(data)
        finally:
            del data
        self.moved += count
        return count

    def close(self, exc_info: Any = False) -> None:
        """Close the connection, with a 431 if Tornado found its head too large."""
        is_in_head = self.phase in ("idle", "head") and not self.closed()
        if is_in_head and isinstance(exc_info, tornado.iostream.UnsatisfiableReadError):
            with contextlib.suppress(OSError):
                self.socket.send(_HEAD_TOO_LARGE)
                for _ in range(_MOST_READS):  # closing with unread data would reset it
                    if not self.socket.recv(2**16):
                        break
        super().close(exc_info)

    def close_fd(self) -> None:
        """Called by Tornado, once."""
        self._on_close(self)
        super().close_fd()


class Server(tornado.httpserver.HTTPServer):
    """Tornado's server with at most `most` connections; `on_close` gets each CloseReason."""

    def initialize(  # type: ignore[override]
        self,
        *args: Any,
        most: int,
        tuning: Tuning,
        on_close: Callable[[CloseReason], object],
        **keywords: Any,
    ) -> None:
        """Called by Tornado with the arguments of the constructor."""
        super().initialize(*args, **keywords)
        self.conn_params.header_timeout = None  # `_check` has the deadlines
        self._most = most
        self._seconds = tuning.client_seconds
        self._speed = tuning.client_speed_bytes
        self._idle_seconds = tuning.idle_seconds
        self._interval = min(1.0, tuning.client_seconds / 4, tuning.idle_seconds / 4)
        self._loop = asyncio.get_running_loop()
        self._listening: list[socket.socket] = []
        self._open: set[ClientStream] = set()
        # Connections without a whole request, in the order in which they began to wait.
        self._waiting: dict[ClientStream, None] = {}
        self._on_close = on_close
        self._closed: Counter[CloseReason] = Counter()
        self._warned: dict[str, float] = {}
        self._watching: asyncio.Task[None] | None = None
        self._responded = asyncio.Event()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._open)

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on these non-blocking sockets."""
        for sock in sockets:
            self._listening.append(sock)
            self._loop.add_reader(sock, self._accept, sock)
        if self._watching is None:
            self._watching = self._loop.create_task(self._watch())

    def stop(self) -> None:
        """Stop listening. Open connections stay open, under the same limits."""
        super().stop()
        for sock in self._listening:
            self._loop.remove_reader(sock)
            sock.close()
        self._listening = []

    async def close_all_connections(self) -> None:
        """Close all connections, once the responses in progress are sent or 2 s are over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_RESPONSES_SECONDS):
                while any(stream.phase == "responding" for stream in self._open):
                    self._responded.clear()
                    await self._responded.wait()
        await super().close_all_connections()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, address = sock.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._warn("a connection cannot be accepted: %s", error.strerror)
                if error.errno in _OUT_OF_FILES and self._evict():
                    continue
                # The socket stays readable: without a pause this would spin.
                self._loop.remove_reader(sock)
                self._loop.call_later(_PAUSE_SECONDS, self._resume, sock)
                return
            self._take(connection, address)

    def _resume(self, sock: socket.socket) -> None:
        if sock in self._listening:
            self._loop.add_reader(sock, self._accept, sock)

    def _take(self, connection: socket.socket, address: Any) -> None:
        if len(self._open) >= self._most and not self._evict():
            self._count("refused")
            connection.setblocking(False)
            with connection, contextlib.suppress(OSError):  # the client may have reset it
                connection.send(_FULL)
            return
        stream = ClientStream(connection, self._forget)
        self._open.add(stream)
        self._waiting[stream] = None
        self.handle_stream(stream, address)

    def _evict(self) -> bool:
        """Close the connection that has waited longest; False if every one has a request."""
        if not self._waiting:
            return False
        without_head = (stream for stream in self._waiting if stream.phase != "body")
        self._close(next(without_head, next(iter(self._waiting))), "evicted")
        return True

    def _forget(self, stream: ClientStream) -> None:
        self._open.discard(stream)
        self._waiting.pop(stream, None)
        self._responded.set()

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        """Called by Tornado before it reads a request."""
        stream: ClientStream = request_conn.stream  # type: ignore[attr-defined]
        return _PhaseTracker(self, stream, super().start_request(server_conn, request_conn))

    def enter(self, stream: ClientStream, phase: Phase) -> None:
        """Begin `phase` on `stream`, with the whole of its time."""
        if stream not in self._open:
            return
        stream.phase, stream.waited, stream.seen = phase, 0.0, stream.moved
        self._waiting.pop(stream, None)
        if phase != "responding":
            self._waiting[stream] = None
            self._responded.set()

    async def _watch(self) -> None:
        before = self._loop.time()
        while self._listening or self._open:
            await asyncio.sleep(self._interval)
            now = self._loop.time()
            # A delay of the event loop does not count against the clients.
            passed = min(now - before, 2 * self._interval)
            for number, stream in enumerate(list(self._open), 1):
                self._check(stream, passed)
                if number % _CHECKED_AT_ONCE == 0:
                    await asyncio.sleep(0)  # closing thousands takes a while
            before = now

    def _check(self, stream: ClientStream, passed: float) -> None:
        """Close `stream` if its time is up, `passed` seconds after the last check."""
        if stream.closed():
            return
        moved, stream.seen = stream.moved - stream.seen, stream.moved
        if stream.phase == "idle" and moved:
            self.enter(stream, "head")
            return
        if stream.phase == "responding" and not stream.writing():
            stream.waited = 0.0
            return
        stream.waited = max(0.0, stream.waited + passed - moved / self._speed)
        is_request = stream.phase in ("head", "body")
        if stream.waited <= (self._seconds if is_request else self._idle_seconds):
            return
        if stream.phase == "responding":
            self._close(stream, "not-reading")
        elif is_request and stream.moved:
            self._close(stream, "too-slow", _TOO_SLOW)
        else:  # between requests, or a connection that was never used, as browsers open them
            self._close(stream, "idle")

    def _close(self, stream: ClientStream, reason: CloseReason, response: bytes = b"") -> None:
        if response and not stream.writing():
            stream.write(response)
        stream.close()
        self._count(reason)

    def _count(self, reason: CloseReason) -> None:
        """Count a closed connection, and log the counts."""
        self._on_close(reason)
        if reason == "idle":
            return
        self._closed[reason] += 1
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self._closed.items()))
        if self._warn("connections closed since the last line like this: %s", counts):
            self._closed.clear()

    def _warn(self, message: str, argument: object) -> bool:
        """Log a warning, but each `message` only once a minute: clients cannot fill the log."""
        now = self._loop.time()
        if now - self._warned.get(message, float("-inf")) <= _SECONDS_BETWEEN_WARNINGS:
            return False
        self._warned[message] = now
        _log.warning(message, argument)
        return True


class _PhaseTracker(HTTPMessageDelegate):
    """Passes a request on, reports its phases to the server, rejects ambiguous lengths."""

    def __init__(self, server: Server, stream: ClientStream, inner: HTTPMessageDelegate) -> None:
        self._server = server
        self._stream = stream
        self._inner = inner
        if stream.phase == "responding":
            server.enter(stream, "idle")

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Called by Tornado."""
        if "," in headers.get("Content-Length", ""):  # Tornado joins two headers with a comma
            raise HTTPInputError("more than one Content-Length")
        has_body = headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers
        self._server.enter(self._stream, "body" if has_body else "responding")
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Called by Tornado."""
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        """Called by Tornado when the request is complete."""
        if self._stream.closed():  # the handler has refused the body
            return
        self._server.enter(self._stream, "responding")
        self._inner.finish()

    def on_connection_close(self) -> None:
        """Called by Tornado."""
        self._inner.on_connection_close()


def _final_response(status: str, slug: str, title: str, detail: str, *headers: str) -> bytes:
    """A problem document that is sent without Tornado, on a connection that is then closed."""
    problem = {"type": PROBLEM + slug, "title": title, "status": int(status[:3])}
    body = msgspec.json.encode({**problem, "detail": detail}) + b"\n"
    head = [
        f"HTTP/1.1 {status}",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


_TOO_SLOW = _final_response(
    "408 Request Timeout",
    "too-slow",
    "Too slow",
    "The request did not arrive in time. Send it again, over a faster line or in parts.",
)
_HEAD_TOO_LARGE = _final_response(
    "431 Request Header Fields Too Large",
    "headers-too-large",
    "Headers too large",
    "The request's headers may have 16 kB. Send it again with fewer headers.",
)
_FULL = _final_response(
    "503 Service Unavailable",
    "too-many-connections",
    "Too many connections",
    "All connections are in use. Try again later.",
    "Retry-After: 5",
)
