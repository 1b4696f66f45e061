"""The base of all handlers: a body with a size limit, a fault, a response.

Handlers read the body as a stream (tornado.web.stream_request_body) for two reasons: a client must
get a readable 413 for a body that is too large, where Tornado answers 400 without a message; and
some faults happen while the body arrives.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.web import RequestHandler, stream_request_body

from . import faults
from .access import is_cross_site, is_own_name
from .envelope import HTML, ApiError, Asked, Response, failure, nginx_page, phrase
from .faults import Fault
from .state import State

# A body over the limit is read and dropped up to this many times the limit: a client that is still
# sending then reads the 413 instead of a reset.
DRAINED_CAPS = 8

_PREFLIGHT = Response(
    200,
    b"",
    headers={
        "Access-Control-Allow-Methods": "GET, PUT, POST, PATCH, DELETE, OPTIONS",
        "Access-Control-Allow-Headers": "Authorization, Content-Type, Accept, X-Mashape-Key",
    },
)


def _refusal() -> Response:
    """The sandbox's own response to the web pages of other sites; Imgur has none."""
    error = ApiError(403, "The sandbox does not answer the web pages of other sites.")
    return failure(error, Asked("", "", edge=True))


@stream_request_body
class Handler(RequestHandler):
    """One request. A subclass answers in on_get, on_post, …, each returning an Response."""

    route = "other"
    is_for_other_sites = False
    """Web pages of other sites may send this request, as they may show an image."""

    def initialize(self, state: State) -> None:
        self.state = state
        self.fault: Fault | None = None
        self.body = b""
        self._chunks: list[bytes] = []
        self._received = 0
        self._gone = asyncio.Event()

    @property
    def body_cap(self) -> int:
        """The largest body in bytes: base64 is 4/3 of the image, percent-escaped 1.42 of it."""
        return self.state.options.max_image_bytes * 3 // 2 + 65536

    @property
    def oversize(self) -> bool:
        """Whether the body was over the limit; `body` is then empty."""
        return self._received > self.body_cap

    async def prepare(self) -> None:
        self._is_allowed = self._comes_from_here()
        if self._is_allowed:
            self.state.stats.request(self.route, self.request.server_connection)
            request_line = f"{self.request.method} {self.request.path}"
            self.fault = self.state.faults.take(self.route, request_line)
        declared = self.request.headers.get("Content-Length", "0")
        size = int(declared) if declared.isdigit() else 0
        patient = self.request.headers.get("Expect", "").lower() == "100-continue"
        if size > self.body_cap * (1 if patient else DRAINED_CAPS):
            # The client waits for 100 Continue, or its body is too large to be read and dropped.
            self._received = size
            await self._answer()

    def _comes_from_here(self) -> bool:
        if not is_own_name(self.request.host_name, self.state):
            return False
        return self.is_for_other_sites or not is_cross_site(self.request)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._received += len(chunk)
        if not self.oversize:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()
            if self._received > self.body_cap * DRAINED_CAPS:
                return self._answer()
        if self.fault is not None:
            if self.fault.fault == faults.RESET_MID_BODY and self._received >= self.fault.bytes:
                self._reset()
            elif self.fault.fault == faults.SLOW_READ:
                return self._pause(len(chunk) / self.fault.bytes_per_second)
        return None

    async def respond(self, *_: str | None) -> None:
        """Response a complete request, or apply its fault."""
        if self._connection.stream.closed():
            return
        self.body = b"".join(self._chunks)
        self._chunks.clear()
        name = self.fault.fault if self.fault else ""
        if name == faults.HANG:
            await self._pause(None)
            self._reset()
        elif name in (faults.RESET_BEFORE_STORE, faults.RESET_MID_BODY):
            self._reset()
        else:
            await self._answer()

    get = head = post = put = delete = patch = options = respond

    async def answer(self) -> Response:
        """The response. Never raises for an error of the client."""
        if self.fault is not None and self.fault.status:
            return self.fault.answer(Asked(self.request.method or "", self.request.path, edge=True))
        answer: Response = await self.work()
        return answer

    @property
    def work(self) -> Callable[[], Awaitable[Any]]:
        """The handler's on_get, on_post, … with the arguments of the path."""
        method = getattr(self, f"on_{(self.request.method or '').lower()}")
        return partial(method, *self.path_args)

    def _takes_method(self) -> bool:
        return hasattr(self, f"on_{(self.request.method or '').lower()}")

    async def _answer(self) -> None:
        if not self._is_allowed:
            answer = _refusal()
        elif self.request.method == "OPTIONS":
            answer = _PREFLIGHT
        elif not self._takes_method():
            # nginx, in front of the API, answers with its own page (ShareX#893).
            answer = Response(405, nginx_page(405, "Not Allowed"), HTML)
        else:
            answer = await self.answer()
        if self.fault is not None:
            if self.fault.fault == faults.RESET_AFTER_BODY:
                self._reset()
                return
            await self._pause(self.fault.seconds)
        if not self._connection.stream.closed() and not self._finished:
            self._send(answer)

    def _send(self, answer: Response) -> None:
        self.state.stats.answers[answer.status] += 1
        self.set_status(answer.status, phrase(answer.status))
        self.set_header("Content-Type", answer.content_type)
        wanted = self.fault.headers if self.fault else {}
        for name, value in (answer.headers | wanted).items():
            self.set_header(name, value)
        if self.request.method == "HEAD":
            self.set_header("Content-Length", str(len(answer.body)))
            self.finish()
        elif answer.status in (204, 304):
            self.finish()
        else:
            self.finish(answer.body)

    def set_default_headers(self) -> None:
        self.set_header("Server", "cat factory 1.0")
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("X-Content-Type-Options", "nosniff")

    def write_error(self, status_code: int, **_: Any) -> None:
        """The response to a bug of the sandbox: Imgur's 500, with a string as `data`."""
        body = b'{"data":"An error occurred","success":false,"status":%d}' % status_code
        self._send(Response(status_code, body))

    def on_connection_close(self) -> None:
        self._gone.set()
        super().on_connection_close()

    @property
    def _connection(self) -> HTTP1Connection:
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        return connection

    async def _pause(self, seconds: float | None) -> None:
        """Wait, for ever with None; at most until the client disconnects or the sandbox stops."""
        if seconds is not None and seconds <= 0:
            return
        ends = [asyncio.create_task(e.wait()) for e in (self._gone, self.state.closing)]
        try:
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                task.cancel()

    def _reset(self) -> None:
        """Close with RST (SO_LINGER of 0 seconds), so that the client gets ECONNRESET."""
        self._auto_finish = False
        stream = self._connection.stream
        if not stream.closed():
            linger = struct.pack("ii", 1, 0)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            stream.close()
