"""Request bodies: refused by the head if possible, bounded while they arrive, used off the loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import ClassVar, TypeVar, cast

import tornado.http1connection
import tornado.iostream
import tornado.web

from imageload.errors import Refused
from imageload.store import Store
from imageload.web import logs
from imageload.web.limits import Pool
from imageload.web.problems import ProblemHandler

T = TypeVar("T")

# About 500 URLs, which take 3 ms to become a job.
_LARGE_BODY = 16 * 1_024

_LINGER_SECONDS = 5.0


@tornado.web.stream_request_body
class BodyHandler(ProblemHandler):
    """A handler that collects the request's body in `body`, within the limits of the service."""

    store: Store

    is_open: ClassVar[bool] = False
    """True if the handler needs no token, even if the service has tokens."""

    body: bytearray
    _reserved = 0
    _is_in_use = False

    def prepare(self) -> Awaitable[None] | None:
        """Called by Tornado after the head: refuse what is refused without reading a body."""
        self.body = bytearray()
        logs.set_request(self.request_id)
        length = self.request.headers.get("Content-Length", "0")
        refused = self.limits.access.refusal(self.request, is_open=self.is_open)
        most = self.service_settings.max_body_bytes
        if refused is None and length.isdecimal() and int(length[:19]) > most:
            refused = self._too_large()
        if refused is None:
            return None
        if length == "0" and "Transfer-Encoding" not in self.request.headers:
            body = self.encode_refusal(refused)
            self.set_header("Connection", "close")
            self.finish(body)
            return None
        return self._refuse_body(refused)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Called by Tornado with each part of the body."""
        if len(self.body) + len(chunk) > self.service_settings.max_body_bytes:
            return self._refuse_body(self._too_large())
        if len(chunk) > self.limits.bytes_left:
            message = "The service is handling too many requests. Try again soon."
            return self._refuse_body(Refused("out-of-room", message))
        self.limits.bytes_left -= len(chunk)
        self._reserved += len(chunk)
        self.body += chunk
        return None

    def _too_large(self) -> Refused:
        return Refused(
            "too-large", f"The body may have {self.service_settings.max_body_bytes:,} bytes."
        )

    async def _refuse_body(self, refused: Refused) -> None:
        """Send the response now, and close the connection when the client has read it.

        Closing with unread data would reset the connection, and a client that is still sending
        would not see the response (RFC 9112, 9.6). So its data is read for a while.
        """
        self.body = bytearray()
        self._release()
        body = self.encode_refusal(refused)
        self.set_header("Connection", "close")
        self.set_header("Content-Length", str(len(body)))
        self.write(body)
        logs.set_request(self.request_id)
        self.application.log_request(self)
        stream = self.client_stream
        with contextlib.suppress(tornado.iostream.StreamClosedError, TimeoutError, OSError):
            await self.flush()
            stream.socket.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_LINGER_SECONDS):
                while True:
                    await stream.read_bytes(2**16, partial=True)
                    await asyncio.sleep(0)  # the read may be complete at once, again and again
        stream.close()
        self.on_connection_close()  # ends Tornado's wait for the body

    @property
    def client_stream(self) -> tornado.iostream.IOStream:
        """The client's connection."""
        return cast(tornado.http1connection.HTTP1Connection, self.request.connection).stream

    def _release(self) -> None:
        self.limits.bytes_left += self._reserved
        self._reserved = 0

    def on_finish(self) -> None:
        """Called by Tornado when the response is complete."""
        self._release()

    def on_connection_close(self) -> None:
        """Called by Tornado if the connection closes before that."""
        super().on_connection_close()
        if not self._is_in_use:
            self._release()

    async def use_body(self, work: Callable[[], T], pool: Pool | None = None) -> T:
        """The result of `work`, which uses `body`; in a thread (of `pool`) if it may take long."""
        self._is_in_use = True
        if pool is not None:
            return await self.limits.run_in_thread(work, pool)
        is_large = len(self.body) >= _LARGE_BODY
        if is_large or self.store.is_durable:  # then it waits for the disk
            return await self.limits.run_in_thread(work, "bodies" if is_large else "journal")
        return work()
