"""Every open connection: how many there may be, and how long a client may make us wait.

    accept ─► idle ──first byte──► head ─► body ─► answering ─► idle ...
               │ idle_seconds        │ patience       │ idle_seconds, while none of it is taken
               └─────────────────────┴──► closed ◄────┘

A new connection starts in `head`: who connects and says nothing is cut as who says it too slowly.
Patience is `client_seconds`; what a client moves gives some of it back. When there are as many
connections as may be, the one that has been longest without a whole request makes way; so
thousands that hold a connection each do not keep others out. Nothing here reads HTTP.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal

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

from imageload.settings import Config
from imageload.web.problems import PROBLEM
from imageload.web.server.file_limit import most_connections

_log = logging.getLogger(__name__)

Phase = Literal["idle", "head", "body", "answering"]
Cut = Literal["too-slow", "made-way", "refused", "idle", "not-reading"]
CUTS: tuple[Cut, ...] = ("too-slow", "made-way", "refused", "idle", "not-reading")
"""Why a connection was ended: its request came too slowly; another one needed its place; there was
no place for it; it was silent between requests; its client does not take the answer."""
_USUAL: tuple[Cut, ...] = ("idle",)

BACKLOG = 1_024
_ACCEPTED_AT_ONCE = 64
_JUDGED_AT_ONCE = 64
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)
_PAUSE_SECONDS = 0.5
_SECONDS_BETWEEN_WARNINGS = 60.0


class ClientStream(tornado.iostream.IOStream):
    """A connection and how far its client has come with its request."""

    def __init__(
        self, connection: socket.socket, on_close: Callable[[ClientStream], None], *, since: float
    ) -> None:
        super().__init__(connection)
        self._on_close = on_close
        self.phase: Phase = "head"
        self.since = since
        self.moved = 0
        self.seen = 0
        self.waited = 0.0

    def enter(self, phase: Phase, now: float) -> None:
        """The request has come this far."""
        self.phase, self.since, self.waited, self.seen = phase, now, 0.0, self.moved

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Called by Tornado."""
        try:
            count = super().read_from_fd(buf)
        finally:
            del buf  # as Tornado's own does: no traceback may hold the view
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

    def close_fd(self) -> None:
        """Called by Tornado, once."""
        self._on_close(self)
        super().close_fd()

    def dismiss(self, answer: bytes = b"") -> None:
        """Close it, with an answer where one can still be sent."""
        if answer and not self.closed() and not self.writing():
            self.write(answer)
        self.close()


class Server(tornado.httpserver.HTTPServer):
    """Tornado's server, with bounds for its connections. It listens where `add_sockets` says."""

    def initialize(  # type: ignore[override]
        self, *args: Any, config: Config, on_cut: Callable[[Cut], object], **keywords: Any
    ) -> None:
        """Called by Tornado with the arguments of the constructor."""
        super().initialize(*args, **keywords)
        self.conn_params.header_timeout = None  # `_judge` has deadlines, and needs no timers
        self.most = most_connections(config)
        self._seconds = config.client_seconds
        self._speed = config.client_speed_bytes
        self._idle_seconds = config.idle_seconds
        self._every = min(1.0, config.client_seconds / 4, config.idle_seconds / 4)
        self._loop = asyncio.get_running_loop()
        self._listening: list[socket.socket] = []
        self._open: set[ClientStream] = set()
        # In the order in which they began to wait for a request, and for its body.
        self._silent: dict[ClientStream, None] = {}
        self._sending: dict[ClientStream, None] = {}
        self._warned = float("-inf")
        self._on_cut = on_cut
        self._cuts: Counter[Cut] = Counter()
        self._told_of_cuts = float("-inf")
        self._watching: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    # Accepting

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on these, which are non-blocking."""
        for sock in sockets:
            self._listening.append(sock)
            self._loop.add_reader(sock, self._accept, sock)
        if self._watching is None:
            self._watching = self._loop.create_task(self._watch())

    def stop(self) -> None:
        """Listen no more. What is open stays open, and under the same rules."""
        super().stop()
        for sock in self._listening:
            self._loop.remove_reader(sock)
            sock.close()
        self._listening = []

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, address = sock.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._warn(error)
                if error.errno in _OUT_OF_FILES and self._make_way():
                    continue
                # The socket stays readable: asking again at once would spin.
                self._loop.remove_reader(sock)
                self._loop.call_later(_PAUSE_SECONDS, self._resume, sock)
                return
            self._take(connection, address)

    def _warn(self, error: OSError) -> None:
        now = self._loop.time()
        if now - self._warned > _SECONDS_BETWEEN_WARNINGS:
            self._warned = now
            _log.warning("a connection cannot be accepted: %s", error.strerror)

    def _resume(self, sock: socket.socket) -> None:
        if sock in self._listening:
            self._loop.add_reader(sock, self._accept, sock)

    def _take(self, connection: socket.socket, address: Any) -> None:
        if len(self._open) >= self.most and not self._make_way():
            connection.setblocking(False)
            connection.send(_FULL)
            connection.close()
            self._note("refused")
            return
        stream = ClientStream(connection, self._gone, since=self._loop.time())
        self._open.add(stream)
        self._silent[stream] = None
        self.handle_stream(stream, address)

    def _make_way(self) -> bool:
        for waiting in (self._silent, self._sending):
            if waiting:
                self._cut(next(iter(waiting)), "made-way")
                return True
        return False

    def _gone(self, stream: ClientStream) -> None:
        self._open.discard(stream)
        self._silent.pop(stream, None)
        self._sending.pop(stream, None)

    # How far a request has come

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        """Called by Tornado when it begins to wait for a request."""
        stream: ClientStream = request_conn.stream  # type: ignore[attr-defined]
        return _Followed(self, stream, super().start_request(server_conn, request_conn))

    def enter(self, stream: ClientStream, phase: Phase) -> None:
        """The request on `stream` has come this far."""
        if stream not in self._open:
            return
        self._silent.pop(stream, None)
        self._sending.pop(stream, None)
        stream.enter(phase, self._loop.time())
        if phase == "body":
            self._sending[stream] = None
        elif phase != "answering":
            self._silent[stream] = None

    # Patience

    async def _watch(self) -> None:
        before = self._loop.time()
        while self._listening or self._open:
            await asyncio.sleep(self._every)
            now = self._loop.time()
            # A loop that was held up is no client's fault.
            passed = min(now - before, 2 * self._every)
            for number, stream in enumerate(list(self._open), 1):
                self._judge(stream, now, passed)
                if number % _JUDGED_AT_ONCE == 0:
                    await asyncio.sleep(0)  # closing thousands takes a while
            before = now

    def _judge(self, stream: ClientStream, now: float, passed: float) -> None:
        if stream.closed():
            return
        moved, stream.seen = stream.moved - stream.seen, stream.moved
        if stream.phase == "idle":
            if moved:
                self.enter(stream, "head")
            elif now - stream.since > self._idle_seconds:
                self._cut(stream, "idle")
            return
        if stream.phase == "answering" and not stream.writing():
            stream.waited = 0.0
            return
        stream.waited = max(0.0, stream.waited + passed - moved / self._speed)
        if stream.phase == "answering":
            if stream.waited > self._idle_seconds:
                self._cut(stream, "not-reading")
        elif stream.waited > self._seconds:
            # A browser that connects ahead of its need says nothing.
            reason: Cut = "too-slow" if stream.moved else "idle"
            self._cut(stream, reason, _TOO_SLOW if stream.moved else b"")

    # What was cut

    def _cut(self, stream: ClientStream, reason: Cut, answer: bytes = b"") -> None:
        stream.dismiss(answer)
        self._note(reason)

    def _note(self, reason: Cut) -> None:
        """Count it; the log tells of many with one line a minute, lest clients fill it."""
        self._on_cut(reason)
        if reason not in _USUAL:
            self._cuts[reason] += 1
        now = self._loop.time()
        if self._cuts and now - self._told_of_cuts > _SECONDS_BETWEEN_WARNINGS:
            self._told_of_cuts = now
            told = ", ".join(f"{name} {count}" for name, count in sorted(self._cuts.items()))
            _log.warning("connections were cut since the last line like this: %s", told)
            self._cuts.clear()


class _Followed(HTTPMessageDelegate):
    """Tells the server how far a request has come; refuses what may be read in two ways."""

    def __init__(self, server: Server, stream: ClientStream, inner: HTTPMessageDelegate) -> None:
        self._server = server
        self._stream = stream
        self._inner = inner
        if stream.phase == "answering":
            server.enter(stream, "idle")

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """The head is there."""
        if "," in headers.get("Content-Length", ""):  # two fields are one, with a comma
            raise HTTPInputError("more than one Content-Length")
        has_body = headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers
        self._server.enter(self._stream, "body" if has_body else "answering")
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """A part of the body is there."""
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        """The whole request is there."""
        if self._stream.phase != "answering":
            self._server.enter(self._stream, "answering")
        self._inner.finish()

    def on_connection_close(self) -> None:
        """It broke off."""
        self._inner.on_connection_close()


def _last_answer(status: str, slug: str, title: str, detail: str, *fields: str) -> bytes:
    """An answer with a problem document that is sent past Tornado, and ends the connection."""
    problem = {"type": PROBLEM + slug, "title": title, "status": int(status[:3])}
    body = msgspec.json.encode({**problem, "detail": detail})
    head = [
        f"HTTP/1.1 {status}",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *fields,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


_TOO_SLOW = _last_answer(
    "408 Request Timeout",
    "too-slow",
    "Too slow",
    "The request did not come in time. Send it again, over a faster line or in parts.",
)
_FULL = _last_answer(
    "503 Service Unavailable",
    "too-many-connections",
    "Too many connections",
    "Every connection that the service may have is at work. Try again in a while.",
    "Retry-After: 5",
)
