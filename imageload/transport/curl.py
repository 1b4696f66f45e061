"""The transfer loop: asyncio in a thread of its own, which drives libcurl's multi interface.

    await transport.perform(request, on_response)
        easy handle ─► multi ─► sockets in one selector ─► asyncio ─► socket_action ─► Response

Each Transport has connections of its own, so a connection that was opened under the guard is
never reused by a request without it. Callbacks of libcurl run on the loop, a few microseconds at
a time; files are written there too, so a slow disk delays transfers, never the HTTP API.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import selectors
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from queue import SimpleQueue
from typing import Any, TypeVar

import pycurl

from imageload.errors import shutting_down
from imageload.transport.loop import is_urgent, new_loop
from imageload.transport.request import (
    Bounds,
    Exchange,
    OnResponse,
    Refusal,
    Request,
    Response,
    Signing,
    TransferError,
)

_log = logging.getLogger(__name__)

T = TypeVar("T")

_BUFFER_BYTES = 512 * 2**10
"""Of a response and of a request's body. Images of 10 MB load a third faster than with 128 kB."""
_NAME_SECONDS = 4
"""How long a resolved name is kept. libcurl keeps a failure half as long: by default 30 seconds, in
which a name that is back would still be dead."""
_LOOKS = 5
"""How often the speed of responses is looked at in the time after which a slow one is ended."""
_SUPPRESS_CONNECT_HEADERS = 265  # a name that pycurl does not have
_EVENTS = {
    pycurl.POLL_IN: selectors.EVENT_READ,
    pycurl.POLL_OUT: selectors.EVENT_WRITE,
    pycurl.POLL_INOUT: selectors.EVENT_READ | selectors.EVENT_WRITE,
}
_ACTIONS = {
    selectors.EVENT_READ: pycurl.CSELECT_IN,
    selectors.EVENT_WRITE: pycurl.CSELECT_OUT,
    selectors.EVENT_READ | selectors.EVENT_WRITE: pycurl.CSELECT_IN | pycurl.CSELECT_OUT,
}


class TransferCancelled(asyncio.CancelledError):
    """The task that awaited a response was cancelled; `sent_bytes` of the body had been sent."""

    def __init__(self, sent_bytes: int) -> None:
        super().__init__()
        self.sent_bytes = sent_bytes


class TransferLoop:
    """An asyncio loop in a thread. Every coroutine that touches a Job runs on it."""

    loop: asyncio.AbstractEventLoop
    """There is one from `start` on."""

    def __init__(self, on_break: Callable[[], object] | None = None) -> None:
        """`on_break` is called, on the loop, when a bug leaves transfers without an end."""
        self.on_break = on_break
        self._waiting: set[SimpleQueue[Any]] = set()
        self._thread = threading.Thread(target=self._run, name="transfers", daemon=True)

    def start(self) -> None:
        """Start the thread; RuntimeError if the system has no thread left."""
        self.loop = new_loop()
        try:
            self._thread.start()
        except RuntimeError:
            self.loop.close()
            raise

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `coroutine` on the loop, from another thread.

        Raises Refused (shutting-down) after `close`.
        """
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError:
            coroutine.close()
            raise shutting_down() from None

    async def act(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of `coroutine`, as `submit` runs it, for another loop."""
        return await asyncio.wrap_future(self.submit(coroutine))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of `coroutine`, run on the loop while the calling thread waits.

        Raises CancelledError (of `concurrent.futures`) and RuntimeError if the loop ends before.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("the transfer loop cannot wait for itself: await the coroutine")
        # It costs less than a Future of `concurrent.futures`.
        ended: SimpleQueue[asyncio.Task[T] | None] = SimpleQueue()

        def start() -> None:
            is_urgent.set(True)  # until the coroutine says otherwise
            self.loop.create_task(coroutine).add_done_callback(ended.put)

        self._waiting.add(ended)
        try:
            self.loop.call_soon_threadsafe(start)
            task = ended.get()
            if task is None:
                raise RuntimeError("the transfer loop has ended")
        except RuntimeError:
            coroutine.close()
            raise
        finally:
            self._waiting.discard(ended)
        try:
            return task.result()
        except asyncio.CancelledError:
            raise CancelledError from None

    def close(self, seconds: float = 5.0) -> bool:
        """Cancel every task and end the thread; True if it has ended after `seconds`."""
        if self._thread.ident is None:
            return True
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            try:
                self.loop.run_until_complete(self._end_tasks())
            finally:
                self.loop.close()
                for ended in list(self._waiting):
                    ended.put(None)

    async def _end_tasks(self) -> None:
        """Cancel every task, also after a bug in the loop: threads wait for them."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.loop.shutdown_asyncgens()


class Transport:
    """HTTP requests under one set of rules: limits, a guard, a user agent, a proxy."""

    def __init__(
        self,
        transfers: TransferLoop,
        bounds: Bounds,
        *,
        user_agent: str,
        refusal: Refusal | None = None,
        proxy: str = "",
        resolve: Sequence[str] = (),
        signing: Signing | None = None,
    ) -> None:
        """`refusal` is asked before every connect; with a `proxy`, that is the one to the proxy.

        `resolve` replaces the resolver's answers, in the form of libcurl's RESOLVE option. With
        `signing` every request is signed.
        """
        self.transfers = transfers
        self._bounds = bounds
        self._refusal = refusal
        self._spare: list[Exchange] = []
        self._driver: _Driver | None = None
        self._kept_connections = 64
        self._constant: tuple[tuple[int, Any], ...] = (
            (pycurl.NOSIGNAL, 1),
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
            (pycurl.HTTP09_ALLOWED, 0),
            # As bytes: pycurl takes text only if it is ASCII.
            (pycurl.PROXY, proxy.encode()),
            # Otherwise the response to a CONNECT would be taken for the origin's.
            (_SUPPRESS_CONNECT_HEADERS, 1),
            (pycurl.CONNECTTIMEOUT_MS, int(bounds.connect_seconds * 1000)),
            (pycurl.CAINFO, os.fsencode(bounds.ca_file)),
            (pycurl.BUFFERSIZE, _BUFFER_BYTES),
            (pycurl.UPLOAD_BUFFERSIZE, _BUFFER_BYTES),
            (pycurl.DNS_CACHE_TIMEOUT, _NAME_SECONDS),
            (pycurl.USERAGENT, user_agent.encode()),
            *(((pycurl.RESOLVE, list(resolve)),) if resolve else ()),
            *(_signed(signing) if signing is not None else ()),
        )
        self._spare.append(self._exchange())  # a wrong option shows at the start

    def keep_connections(self, count: int) -> None:
        """Keep at most `count` idle connections open."""
        self._kept_connections = count
        if self._driver is not None:
            self._driver.multi.setopt(pycurl.M_MAXCONNECTS, count)

    async def perform(self, request: Request, on_response: OnResponse) -> Response:
        """Send `request`; the response, once `on_response`'s sink has got its whole body.

        Raises TransferError, what `on_response` or its sink raises, and TransferCancelled if the
        task is cancelled.
        """
        try:
            if self._driver is None:
                period = self._bounds.low_speed_seconds if self._bounds.low_speed_bytes else 0.0
                self._driver = _Driver(self.transfers, self._kept_connections, period)
            driver = self._driver
            exchange = self._spare.pop() if self._spare else self._exchange()
        except (pycurl.error, OSError) as error:
            raise TransferError("resource", str(error)) from None
        try:
            exchange.begin(request, on_response)
            ended = driver.add(exchange)
        except (pycurl.error, UnicodeError, TypeError, ValueError) as error:
            exchange.end()
            self._spare.append(exchange)
            raise TransferError("url", str(error)) from None
        try:
            code, detail = await ended
            return exchange.result(code, detail)
        except asyncio.CancelledError:
            raise TransferCancelled(exchange.sent_bytes) from None
        finally:
            driver.remove(exchange)
            exchange.end()
            self._spare.append(exchange)

    def close(self) -> None:
        """Close every connection; on the loop, when no request is in flight."""
        for exchange in self._spare:
            exchange.curl.close()
        self._spare.clear()
        if self._driver is not None:
            self._driver.close()
            self._driver = None

    def _exchange(self) -> Exchange:
        """A new easy handle with every option that is the same for all requests."""
        curl = pycurl.Curl()
        for option, value in self._constant:
            curl.setopt(option, value)
        return Exchange(curl, self._bounds, self._refusal)


def _signed(signing: Signing) -> tuple[tuple[int, Any], ...]:
    return (
        (pycurl.AWS_SIGV4, f"aws:amz:{signing.region}:s3"),
        # Apart, as a key in USERPWD would end at its first colon.
        (pycurl.USERNAME, signing.key_id),
        (pycurl.PASSWORD, signing.secret),
    )


class _Driver:
    """One multi handle on the loop.

    Its sockets are in a selector of its own, whose descriptor is the one that asyncio watches:
    the loop wakes once for many ready sockets, and a socket that comes or goes costs no asyncio
    handle.
    """

    def __init__(self, transfers: TransferLoop, kept_connections: int, slow_seconds: float) -> None:
        """Responses are ended that are too slow for `slow_seconds`; 0: none is."""
        self._transfers = transfers
        self._loop = transfers.loop
        self._selector = selectors.DefaultSelector()
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._timer_is_urgent = False
        self._in_flight: dict[pycurl.Curl, tuple[Exchange, asyncio.Future[tuple[int, str]]]] = {}
        self._look_seconds = slow_seconds / _LOOKS
        self._look: asyncio.TimerHandle | None = None
        self.multi = pycurl.CurlMulti()
        self.multi.setopt(pycurl.M_MAXCONNECTS, kept_connections)
        self.multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self.multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        # With no task's context: libcurl sets timers in it for all requests.
        contextvars.Context().run(self._loop.add_reader, self._fileno(), self._on_ready)

    def _fileno(self) -> int:
        # Epoll and kqueue, so Linux and macOS: both have a descriptor that can be polled itself.
        return int(self._selector.fileno())

    def add(self, exchange: Exchange) -> asyncio.Future[tuple[int, str]]:
        """Start the prepared handle; the Future gives libcurl's (code, detail) at its end."""
        curl = exchange.curl
        self.multi.add_handle(curl)
        if self._timer is not None and is_urgent.get() and not self._timer_is_urgent:
            self._timer.cancel()  # it is behind all that is ready
            self._schedule()
        ended: asyncio.Future[tuple[int, str]] = self._loop.create_future()
        self._in_flight[curl] = exchange, ended
        if self._look is None and self._look_seconds:
            self._look = self._loop.call_later(self._look_seconds, self._end_slow)
        return ended

    def remove(self, exchange: Exchange) -> None:
        """Take the handle out, whether it has ended or not."""
        del self._in_flight[exchange.curl]
        self.multi.remove_handle(exchange.curl)

    def _end_slow(self) -> None:
        """End the responses that are too slow, and look again while there are any requests."""
        now = time.monotonic()
        for curl, (exchange, _) in self._in_flight.items():
            if exchange.is_too_slow(now):
                self._end(curl, pycurl.E_OPERATION_TIMEDOUT, "too slow")
        self._look = None
        if self._in_flight:
            self._look = self._loop.call_later(self._look_seconds, self._end_slow)

    def close(self) -> None:
        self._loop.remove_reader(self._fileno())
        for timer in (self._timer, self._look):
            if timer is not None:
                timer.cancel()
        self.multi.close()
        self._selector.close()

    def _watch(self, what: int, number: int, _multi: object, _data: object) -> None:
        try:
            if what == pycurl.POLL_REMOVE:
                self._selector.unregister(number)
            elif what in _EVENTS:
                self._selector.register(number, _EVENTS[what])
        except KeyError:
            if what != pycurl.POLL_REMOVE:  # it is registered for other events
                self._selector.modify(number, _EVENTS[what])

    def _set_timer(self, milliseconds: int) -> None:
        if milliseconds < 0:
            self._timer_at = 0.0
            return
        at = time.monotonic() + milliseconds / 1000
        self._timer_at = at
        if self._timer is not None:
            if isinstance(self._timer, asyncio.TimerHandle) and self._timer.when() > at:
                self._timer.cancel()
            else:
                return  # it comes earlier, and looks then
        self._schedule()

    def _schedule(self) -> None:
        self._timer_is_urgent = is_urgent.get()
        if self._timer_at <= time.monotonic():
            self._timer = self._loop.call_soon(self._on_timer)
        else:
            self._timer = self._loop.call_at(self._timer_at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._timer_at:
            return
        if self._timer_at > time.monotonic():
            self._schedule()
            return
        self._timer_at = 0.0
        self._act(((pycurl.SOCKET_TIMEOUT, 0),))

    def _on_ready(self) -> None:
        self._act([(key.fd, _ACTIONS[mask]) for key, mask in self._selector.select(0)])

    def _act(self, actions: Iterable[tuple[int, int]]) -> None:
        """Have libcurl work on these sockets, and end what it has ended."""
        try:
            for number, action in actions:
                self.multi.socket_action(number, action)
            left = 1
            while left:
                left, well, badly = self.multi.info_read()
                for curl in well:
                    self._end(curl, 0, "")
                for curl, code, detail in badly:
                    self._end(curl, code, detail)
        except Exception:
            _log.exception("the transfer loop broke")
            if self._transfers.on_break is not None:
                self._transfers.on_break()

    def _end(self, curl: pycurl.Curl, code: int, detail: str) -> None:
        """End a handle with libcurl's `code`."""
        _, ended = self._in_flight[curl]
        if not ended.done():
            ended.set_result((code, detail))
