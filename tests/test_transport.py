"""Transport and TransferLoop over real sockets: one thread drives many requests at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import resource
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from typing import Any, TypeVar

import pytest

from imageload.transport.curl import TransferCancelled, TransferLoop, Transport
from imageload.transport.request import (
    Body,
    Bounds,
    OnResponse,
    Request,
    Response,
    Sink,
    TransferError,
)
from tests.origin import IMAGES, Origin, answer, raw, reset
from tests.waiting import PATIENCE

PNG = (IMAGES / "png-rgb.png").read_bytes()

# Only ever waited out where something is broken.

T = TypeVar("T")


class Transfers:
    """A running loop, with Transports that end with it."""

    def __init__(self) -> None:
        self.broken = threading.Event()
        self.loop = TransferLoop(self.broken.set)
        self.made: list[Transport] = []
        self.transport = self.make()
        self.loop.start()

    def make(self, **options: Any) -> Transport:
        """One more Transport on the loop."""
        bounds = Bounds(connect_seconds=PATIENCE, low_speed_bytes=0)
        self.made.append(Transport(self.loop, bounds, user_agent="tests", **options))
        return self.made[-1]

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result."""
        return self.loop.submit(coroutine).result(PATIENCE)

    def get(self, url: str) -> tuple[int, bytes]:
        """The status and the body of the response."""
        return self.run(get(self.transport, url))

    def close(self) -> None:
        """End every task, then the connections and the loop."""
        if not self.loop.loop.is_closed():
            self.run(self._close())
        assert self.loop.close(PATIENCE)

    async def _close(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for transport in self.made:
            transport.close()


@pytest.fixture
def transfers() -> Iterator[Transfers]:
    """A running loop; its end leaves no thread of it."""
    before = set(threading.enumerate())
    made = Transfers()
    yield made
    made.close()
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name == "transfers"]


def request(url: str, seconds: float = PATIENCE, **values: Any) -> Request:
    """A GET, or with `body` a POST."""
    return Request(url=url, host="127.0.0.1", deadline=time.monotonic() + seconds, **values)


def post(url: str, body: Body, length: int) -> Request:
    """A POST of `length` bytes."""
    return request(url, method="POST", body=body, body_length=length)


async def get(transport: Transport, url: str) -> tuple[int, bytes]:
    """The status and the body of the response."""
    pieces: list[bytes] = []
    response = await transport.perform(request(url), lambda _: pieces.append)
    return response.status, b"".join(pieces)


async def kind_of(
    transport: Transport, sent: Request, on_response: OnResponse = lambda _: None
) -> str:
    """The kind of the TransferError that the request ends with."""
    try:
        await transport.perform(sent, on_response)
    except TransferError as error:
        return error.kind
    return "answered"


def wait_for_hanging(origin: Origin, count: int) -> None:
    """Return when `count` more requests hang."""
    for _ in range(count):
        assert origin.hanging.acquire(timeout=PATIENCE)


# Many at once


def test_many_requests_run_at_once_on_one_thread(transfers: Transfers, origin: Origin) -> None:
    meet = threading.Barrier(50)

    def together(connection: socket.socket) -> None:
        meet.wait(PATIENCE)  # breaks unless fifty are here at once
        answer(PNG)(connection)

    url = origin.page("/together", together)

    threads: set[int] = set()

    async def one() -> tuple[int, bytes]:
        response = await get(transfers.transport, url)
        threads.add(threading.get_ident())
        return response

    async def all_of_them() -> list[tuple[int, bytes]]:
        return await asyncio.gather(*(one() for _ in range(50)))

    assert transfers.run(all_of_them()) == [(200, PNG)] * 50
    assert len(threads) == 1


@pytest.mark.parametrize("name", ["png-rgb.png", "jpeg-baseline.jpg", "gif-animated.gif"])
def test_a_body_arrives_byte_for_byte(transfers: Transfers, origin: Origin, name: str) -> None:
    assert transfers.get(origin.image(name)) == (200, (IMAGES / name).read_bytes())


def test_a_large_body_arrives_byte_for_byte(transfers: Transfers, origin: Origin) -> None:
    body = bytes(range(256)) * 20_000
    assert transfers.get(origin.page("/large", answer(body))) == (200, body)


def test_of_500_requests_every_one_ends_as_it_should(transfers: Transfers, origin: Origin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    expected = {
        origin.image("png-rgb.png"): "answered",
        origin.image("gif-animated.gif"): "answered",
        origin.image("no-such-file.png"): "answered",
        origin.page("/reset", reset): "broken",
        origin.page("/short", answer(PNG[:50], length=len(PNG))): "truncated",
        origin.page("/text", raw(b"hello\r\n\r\n")): "response",
        origin.page("/silent", lambda connection: connection.close()): "broken",
        nobody: "connect",
        "http://127.0.0.1:99999/": "url",
        "http:///": "url",
    }

    async def one(url: str) -> tuple[str, str]:
        sent = request(url)
        return url, await kind_of(transfers.transport, sent, lambda _: lambda _: None)

    async def all_of_them() -> list[tuple[str, str]]:
        return await asyncio.gather(*(one(url) for url in [*expected] * 50))

    assert Counter(transfers.run(all_of_them())) == dict.fromkeys(expected.items(), 50)


def test_requests_of_many_threads_are_all_answered(transfers: Transfers, origin: Origin) -> None:
    statuses: list[int] = []

    def ask() -> None:
        statuses.extend(transfers.get(origin.image("png-rgb.png"))[0] for _ in range(10))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert statuses == [200] * 80


# Bodies that are sent


def test_the_body_of_a_post_is_sent_as_it_is(transfers: Transfers) -> None:
    got: list[bytes] = []
    body = bytes(range(256)) * 1_000
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_serve_one, args=(listening, len(body), got))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        sent = post(url, io.BytesIO(body), len(body))
        response = transfers.run(transfers.transport.perform(sent, lambda _: None))
        thread.join(PATIENCE)
    assert response.status == 200
    assert b"".join(got).partition(b"\r\n\r\n")[2] == body


def _serve_one(listening: socket.socket, length: int, got: list[bytes]) -> None:
    connection, _ = listening.accept()
    with connection:
        while len(b"".join(got).partition(b"\r\n\r\n")[2]) < length:
            got.append(connection.recv(2**20))
        answer()(connection)


# Exceptions of the caller's own code


@pytest.mark.parametrize("where", ["on_response", "sink"])
def test_an_exception_of_on_response_or_its_sink_is_raised(
    transfers: Transfers, origin: Origin, where: str
) -> None:
    def sink(_: bytes) -> None:
        raise LookupError("sink")

    def on_response(_: Response) -> Sink:
        if where == "on_response":
            raise LookupError("on_response")
        return sink

    sent = request(origin.image("png-rgb.png"))
    with pytest.raises(LookupError, match=where):
        transfers.run(transfers.transport.perform(sent, on_response))
    assert transfers.get(origin.image("png-rgb.png")) == (200, PNG)


def test_an_exception_of_the_reader_of_a_body_is_raised(
    transfers: Transfers, origin: Origin
) -> None:
    class Broken:
        def read(self, _: int, /) -> bytes:
            raise LookupError("the file is gone")

    sent = post(origin.page("/post", answer(b"taken")), Broken(), 10)
    with pytest.raises(LookupError, match="the file is gone"):
        transfers.run(transfers.transport.perform(sent, lambda _: None))


@pytest.mark.parametrize("url", ["http://127.0.0.1/\ud800", "http://127.0.0.1/\x00", "http://"])
def test_a_url_that_libcurl_cannot_take_is_an_error_of_the_kind_url(
    transfers: Transfers, url: str
) -> None:
    assert transfers.run(kind_of(transfers.transport, request(url))) == "url"


def test_the_guard_is_called_before_each_connect(transfers: Transfers, origin: Origin) -> None:
    guarded = transfers.make(refusal=lambda host, address, port: f"not {address}")  # noqa: ARG005
    assert transfers.run(kind_of(guarded, request(origin.image("png-rgb.png")))) == "blocked"
    assert origin.connections == 0


# Deadlines and cancels


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (reset, "broken"),
        (socket.socket.close, "broken"),
        (raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "tls"),
        (raw(bytes([21, 3, 3, 0, 2, 2, 40])), "tls"),
    ],
    ids=["reset", "end of file", "no TLS", "alert"],
)
def test_a_connection_broken_in_its_tls_handshake_differs_from_a_refused_one(
    transfers: Transfers, end: Callable[[socket.socket], object], kind: str
) -> None:
    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(10)
            end(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/"
        assert transfers.run(kind_of(transfers.transport, request(url))) == kind
        thread.join(PATIENCE)


def test_a_deadline_ends_a_request_whose_origin_hangs(transfers: Transfers, origin: Origin) -> None:
    sent = request(origin.page("/hang", origin.hang), seconds=0.3)
    begun = time.monotonic()
    assert transfers.run(kind_of(transfers.transport, sent)) == "timeout"
    assert 0.2 < time.monotonic() - begun < PATIENCE / 2


def test_a_deadline_that_is_over_ends_a_request_at_once(
    transfers: Transfers, origin: Origin
) -> None:
    sent = request(origin.page("/hang", origin.hang), seconds=-1)
    assert transfers.run(kind_of(transfers.transport, sent)) == "timeout"


def test_a_task_that_is_cancelled_ends_at_once_with_the_bytes_that_were_sent(
    transfers: Transfers, origin: Origin
) -> None:
    sent = post(origin.page("/hang", origin.hang), io.BytesIO(b"x" * 1_000), 1_000)

    async def cancelled() -> tuple[int, float]:
        task = asyncio.ensure_future(transfers.transport.perform(sent, lambda _: None))
        while not origin.hanging.acquire(blocking=False):
            await asyncio.sleep(0.01)  # polls
        begun = time.monotonic()
        task.cancel()
        try:
            await task
        except TransferCancelled as error:
            return error.sent_bytes, time.monotonic() - begun
        raise AssertionError("it was not cancelled")

    sent_bytes, seconds = transfers.run(cancelled())
    assert sent_bytes == 1_000
    assert seconds < PATIENCE / 2
    assert transfers.get(origin.image("png-rgb.png")) == (200, PNG)


# Connections


def test_connections_are_kept_between_requests(transfers: Transfers, origin: Origin) -> None:
    for _ in range(20):
        assert transfers.get(origin.image("png-rgb.png")) == (200, PNG)
    assert origin.connections == 1


def test_no_more_connections_are_made_than_there_are_requests_at_once(
    transfers: Transfers, origin: Origin
) -> None:
    async def four_at_once() -> None:
        slots = asyncio.Semaphore(4)

        async def one() -> None:
            async with slots:
                await get(transfers.transport, origin.image("png-rgb.png"))

        await asyncio.gather(*(one() for _ in range(200)))

    transfers.run(four_at_once())
    assert origin.requests["/images/png-rgb.png"] == 200
    assert origin.connections <= 4


def test_two_transports_share_no_connection(transfers: Transfers, origin: Origin) -> None:
    other = transfers.make()
    for _ in range(5):
        transfers.get(origin.image("png-rgb.png"))
        transfers.run(get(other, origin.image("png-rgb.png")))
    assert origin.connections == 2


def test_a_kept_connection_that_the_origin_has_closed_is_replaced(
    transfers: Transfers, origin: Origin
) -> None:
    silent = raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PNG) + PNG)
    for number in range(10):
        # Both close after their response; only one of them says so in its headers.
        url = origin.page(f"/{number}", answer(PNG) if number % 2 else silent)
        assert transfers.get(url) == (200, PNG)


# Descriptors, memory and the CPU


@pytest.mark.parametrize("ends", ["well", "in the sink", "before it is sent"])
def test_a_request_that_has_ended_is_freed_without_the_garbage_collector(
    transfers: Transfers, origin: Origin, ends: str
) -> None:
    class Pieces(list[bytes]):
        """A list that can be weakly referenced."""

    async def of_one() -> weakref.ref[Pieces]:
        pieces = Pieces()

        def take(piece: bytes) -> None:
            pieces.append(piece)
            if ends == "in the sink":
                raise LookupError

        url = "\ud800" if ends == "before it is sent" else origin.image("png-rgb.png")
        with contextlib.suppress(LookupError, TransferError):
            await transfers.transport.perform(request(url), lambda _: take)
        return weakref.ref(pieces)

    gc.disable()
    try:
        assert transfers.run(of_one())() is None
    finally:
        gc.enable()


def test_a_lack_of_descriptors_is_of_the_kind_resource_and_passes(
    transfers: Transfers, origin: Origin
) -> None:
    sent = request(origin.image("png-rgb.png"))
    transfers.get(origin.page("/first", answer(PNG)))  # the loop has its own descriptors
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert transfers.run(kind_of(transfers.transport, sent)) == "resource"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert transfers.get(origin.image("png-rgb.png")) == (200, PNG)


def test_a_transport_that_gets_no_descriptors_at_its_first_request_has_them_later(
    transfers: Transfers, origin: Origin
) -> None:
    sent = request(origin.image("png-rgb.png"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert transfers.run(kind_of(transfers.transport, sent)) == "resource"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert transfers.get(origin.image("png-rgb.png")) == (200, PNG)


def test_an_idle_loop_costs_no_cpu(transfers: Transfers, origin: Origin) -> None:
    transfers.get(origin.image("png-rgb.png"))
    hanging = transfers.loop.submit(
        transfers.transport.perform(request(origin.page("/hang", origin.hang)), lambda _: None)
    )
    wait_for_hanging(origin, 1)
    begun = time.process_time()
    origin.released.wait(0.5)
    assert time.process_time() - begun < 0.25
    hanging.cancel()


# The loop's own ends


def test_the_result_and_the_exception_of_a_coroutine_reach_another_thread(
    transfers: Transfers,
) -> None:
    async def fail() -> None:
        raise LookupError("a bug")

    assert transfers.loop.run(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(LookupError, match="a bug"):
        transfers.loop.run(fail())


def test_a_cancelled_task_raises_in_the_thread_that_waits(transfers: Transfers) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(CancelledError):
        transfers.loop.run(cancelled())


def test_a_thread_that_waits_is_released_when_the_loop_ends(transfers: Transfers) -> None:
    raised: list[BaseException] = []
    begun = asyncio.Event()

    async def too_late() -> None:
        begun.set()
        await asyncio.Event().wait()

    def wait() -> None:
        try:
            transfers.loop.run(too_late())
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=wait, daemon=True)

    async def last() -> None:
        try:
            await asyncio.Event().wait()
        finally:  # the loop has cancelled every task, and so never cancels `too_late`
            thread.start()
            await begun.wait()

    transfers.loop.submit(last())
    assert transfers.loop.close(PATIENCE)
    thread.join(PATIENCE)
    assert [str(error) for error in raised] == ["the transfer loop has ended"]


def test_the_loop_refuses_to_wait_for_itself(transfers: Transfers) -> None:
    async def wait_for_itself() -> None:
        transfers.loop.run(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="await the coroutine"):
        transfers.run(wait_for_itself())


def test_close_ends_every_request_at_once(transfers: Transfers, origin: Origin) -> None:
    url = origin.page("/hang", origin.hang)
    ended: list[BaseException] = []

    async def one() -> None:
        try:
            await transfers.transport.perform(request(url), lambda _: None)
        except BaseException as error:
            ended.append(error)
            raise

    for _ in range(5):
        transfers.loop.submit(one())
    wait_for_hanging(origin, 5)
    begun = time.monotonic()
    assert transfers.loop.close(PATIENCE)
    assert time.monotonic() - begun < PATIENCE / 2
    assert [type(error) for error in ended] == [TransferCancelled] * 5


def test_a_closed_loop_takes_nothing_and_may_be_closed_again(transfers: Transfers) -> None:
    assert transfers.loop.close(PATIENCE)
    assert transfers.loop.close(PATIENCE)
    with pytest.raises(RuntimeError):
        transfers.loop.run(asyncio.sleep(0))


def test_a_loop_that_was_never_started_may_be_closed() -> None:
    assert TransferLoop().close(PATIENCE)


def test_a_bug_in_the_driver_calls_on_break(
    transfers: Transfers,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    transfers.get(origin.image("png-rgb.png"))
    driver = transfers.transport._driver
    assert driver is not None

    def bug(*_: object) -> None:
        raise RuntimeError("a bug in the driver")

    monkeypatch.setattr(driver, "_end", bug)
    hanging = transfers.loop.submit(get(transfers.transport, origin.image("png-rgb.png")))
    assert transfers.broken.wait(PATIENCE)
    assert "a bug in the driver" in caplog.text
    hanging.cancel()
