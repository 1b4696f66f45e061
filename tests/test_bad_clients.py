"""Tests of clients that are slow, endless, malformed or many: they do not hurt others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import tornado.netutil
import tornado.web

from imageload.tuning import Tuning
from imageload.web.server.connections import Server
from tests.request_fuzz import fuzz
from tests.service import ROOT, RunningService, ServiceProcess, running_service
from tests.waiting import PATIENCE, wait_until
from tests.wire import PATH, Wire, post, request

SUITE = sorted((Path(__file__).parent / "corpora/json_test_suite/test_parsing").glob("*.json"))
GOOD = json.dumps(["ftp://a.example/"]).encode()
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit and /proc")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with low limits."""
    folder = tmp_path_factory.mktemp("temp")
    with running_service(folder / "t", max_body_bytes=1_000_000, max_active_jobs=1) as running:
        yield running


@pytest.fixture(autouse=True)
def still_answers(service: RunningService, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check after each test that the service responds at once and has logged no bug."""
    yield
    assert service.get("/healthz").status_code == 200
    assert [r for r in caplog.get_records("call") if r.levelno >= logging.ERROR] == []


@contextlib.contextmanager
def strict(tmp_path: Path, **options: object) -> Iterator[RunningService]:
    """A service with short deadlines."""
    with running_service(tmp_path / "strict", **{"client_seconds": 0.3, **options}) as running:
        yield running


@contextlib.contextmanager
def large_job(service: RunningService, megabytes: int = 12) -> Iterator[str]:
    """The path of a status that fills every buffer between here and there."""
    urls = [f"ftp://a.example/{n}/{'x' * 10_000}" for n in range(100 * megabytes)]
    yield f"{PATH}/{service.submit(urls)}"


# Slow


def test_a_silent_connection_is_closed(tmp_path: Path) -> None:
    with strict(tmp_path) as service, Wire(service.url) as wire:
        assert wire.rest() == b""


def test_headers_that_arrive_too_slowly_are_cut_off(tmp_path: Path) -> None:
    with strict(tmp_path) as service, Wire(service.url) as wire:
        assert wire.drip(b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000) > 0.1
        assert wire.last_answer().problem == "too-slow"


def test_slow_headers_of_a_second_request_are_cut_off(tmp_path: Path) -> None:
    with strict(tmp_path) as service, Wire(service.url) as wire:
        wire.send(request())
        assert wire.answer().status == 200
        wire.drip(b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000)
        assert wire.last_answer().status == 408


@pytest.mark.parametrize(
    "head",
    [
        request("POST", PATH, Content_Length="9999"),
        request("POST", PATH, Transfer_Encoding="chunked"),
    ],
)
def test_a_body_that_arrives_too_slowly_is_cut_off(tmp_path: Path, head: bytes) -> None:
    with strict(tmp_path) as service, Wire(service.url) as wire:
        begun = time.monotonic()
        wire.send(head)
        wire.drip(b"270f\r\n" + b" " * 9_000)
        assert time.monotonic() - begun > 0.1
        assert wire.last_answer().problem == "too-slow"


def test_a_body_at_the_minimum_rate_is_accepted(tmp_path: Path) -> None:
    with strict(tmp_path, client_speed_bytes=1) as service, Wire(service.url) as wire:
        wire.send(request("POST", PATH, Content_Length=str(20 + len(GOOD))))
        assert wire.drip(b" " * 20) > 0.35
        wire.send(GOOD)
        assert wire.answer().status == 202


def test_an_idle_connection_is_closed_after_idle_seconds(tmp_path: Path) -> None:
    with (
        strict(tmp_path, client_seconds=0.1, idle_seconds=1.0) as service,
        Wire(service.url) as wire,
    ):
        begun = time.monotonic()
        wire.send(request())
        assert wire.answer().status == 200
        assert wire.rest() == b""
        assert time.monotonic() - begun > 0.8


def test_a_response_that_the_client_does_not_read_is_cut_off(tmp_path: Path) -> None:
    options = {"client_seconds": PATIENCE, "idle_seconds": 0.5}
    with strict(tmp_path, **options) as service, large_job(service) as path:
        service.close()
        with Wire(service.url, receive_buffer=4_096) as wire:
            wire.send(request(path=path))
            assert wire.socket.recv(1)
            wait_until(lambda: connections(service) == 0)
            assert 0 < len(wire.rest()) < 10_000_000


def test_a_client_that_leaves_during_the_response_logs_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with strict(tmp_path, client_seconds=PATIENCE) as service, large_job(service) as path:
        service.add_landed([f"https://i.imgur.com/{n}{'x' * 1_000}.png" for n in range(12_000)])
        service.close()
        for target in (path, "/v1/images"):
            with Wire(service.url, receive_buffer=4_096) as wire:
                wire.send(request(path=target))
                assert wire.socket.recv(100)
            wait_until(lambda: connections(service) == 0)
        with Wire(service.url) as wire:
            wire.send(post(b"x" * 100_000, Content_Length="9999999999"))
        wait_until(lambda: connections(service) == 0)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# Too much


def test_a_body_over_the_limit_is_refused_before_it_is_sent(service: RunningService) -> None:
    with Wire(service.url) as wire:
        wire.send(request("POST", PATH, Content_Length="1000001"))
        answer = wire.answer()
        assert (answer.status, answer.problem) == (413, "too-large")
        assert answer.fields["connection"] == "close"


def test_a_client_that_sends_a_body_over_the_limit_can_read_the_refusal(
    service: RunningService,
) -> None:
    with Wire(service.url) as wire:
        wire.send(post(b" " * 30_000_000))
        answer = wire.answer()
        assert (answer.status, answer.problem) == (413, "too-large")


@pytest.mark.parametrize("framing", ["declared", "chunked"])
def test_a_client_that_never_stops_sending_is_cut_off(
    service: RunningService, framing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageload.web.bodies._LINGER_SECONDS", 0.2)
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    fields = {"Content_Length": "9" * 15, "Transfer_Encoding": "chunked"}
    field = "Content_Length" if framing == "declared" else "Transfer_Encoding"
    with Wire(service.url) as wire:
        wire.send(request("POST", PATH, None, **{field: fields[field]}))
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begun < PATIENCE:
                wire.send(chunk)
        assert 0.1 < time.monotonic() - begun < PATIENCE


def test_expect_100_continue_is_refused_or_continued(
    service: RunningService,
) -> None:
    with Wire(service.url) as wire:
        wire.send(request("POST", PATH, Content_Length="1000001", Expect="100-continue"))
        assert wire.answer().status == 413
    with Wire(service.url) as wire:
        length = str(len(GOOD))
        wire.send(request("POST", PATH, Content_Length=length, Expect="100-continue"))
        assert wire.answer().status == 100
        wire.send(GOOD)
        assert wire.answer().status == 202


@pytest.mark.parametrize("chunk", [b"10000\r\n" + b" " * 0x10000 + b"\r\n", b"7fffffff\r\n"])
def test_a_chunked_body_over_the_limit_is_refused_while_it_is_sent(
    service: RunningService, chunk: bytes
) -> None:
    with Wire(service.url) as wire:
        wire.send(request("POST", PATH, Transfer_Encoding="chunked") + chunk)
        for _ in range(400):
            wire.send(chunk if len(chunk) > 99 else b" " * 0x10000)
        answer = wire.answer()
        assert (answer.status, answer.problem) == (413, "too-large")
        if len(chunk) > 99:
            wire.send(b"0\r\n\r\n")
            assert wire.rest() == b""
    assert service.get(PATH).json()["jobs"][0]["counts"]["total"] == 1


def test_all_bodies_together_have_a_limit(tmp_path: Path) -> None:
    body = GOOD.ljust(60_000)
    with strict(tmp_path, client_seconds=PATIENCE, max_bodies_bytes=100_000) as service:
        room = service.app.limits
        for ends_well in (True, False):
            with Wire(service.url) as first:
                first.send(post(body)[:-1])
                wait_until(lambda: room.bytes_left == 40_001)
                with Wire(service.url) as second:
                    second.send(post(body)[:-30_000])
                    wait_until(lambda: room.bytes_left < 20_000)
                    second.send(b" " * 30_000)
                    answer = second.last_answer()
                wait_until(lambda: room.bytes_left == 40_001)
                assert (answer.status, answer.problem) == (503, "out-of-room")
                assert answer.fields["retry-after"] == "5"
                if ends_well:
                    first.send(b" ")
                    assert first.answer().status == 202
            wait_until(lambda: room.bytes_left == 100_000)
        assert service.post(data=body).status_code == 202


@pytest.mark.parametrize("earlier_requests", [0, 1])
def test_headers_over_the_limit_are_refused(service: RunningService, earlier_requests: int) -> None:
    with Wire(service.url) as wire:
        for _ in range(earlier_requests):
            wire.send(request())
            assert wire.answer().status == 200
        wire.send(request(X="x" * 70_000))
        answer = wire.last_answer()
        assert (answer.status, answer.problem) == (431, "headers-too-large")


@pytest.mark.parametrize(
    "head",
    [
        request(X="x" * 20_000),
        request(X="x" + "\r\nX: x" * 4_000),
        request(path="/healthz?" + "x" * 20_000),
        b"G" * 20_000,
        request()[:-2] + b"x" * 20_000,
    ],
    ids=["line", "lines", "target", "method", "unfinished"],
)
def test_a_head_over_the_limit_is_refused_in_any_shape(
    service: RunningService, head: bytes
) -> None:
    with Wire(service.url) as wire:
        wire.send(head)
        answer = wire.last_answer()
        assert (answer.status, answer.problem) == (431, "headers-too-large")
        assert answer.body.endswith(b"}\n")
        assert answer.fields["content-length"] == str(len(answer.body))


def test_a_head_up_to_the_limit_is_accepted(service: RunningService) -> None:
    with Wire(service.url) as wire:
        wire.send(request(X="x" * 16_000))
        assert wire.answer().status == 200


def test_a_large_body_delays_no_other_response(tmp_path: Path) -> None:
    body = json.dumps([[f"ftp://a/{n}.{m}" for n in range(9_900)] for m in range(20)]).encode()
    others = 0
    with strict(tmp_path, client_seconds=PATIENCE) as service, Wire(service.url) as poster:
        poster.send(post(body)[:-1])
        assert service.get("/healthz").status_code == 200
        poster.send(body[-1:])
        while not select.select([poster.socket], [], [], 0)[0]:
            assert service.get("/healthz").status_code == 200
            others += 1
        assert poster.answer().status == 202
    # If the event loop read it, at most one other request would be served.
    assert others > 2


# Many


def connections(service: RunningService) -> int:
    """How many connections the service has."""
    return service.server.connections


def open_files() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/dev/fd").iterdir()))


def test_idle_connections_are_evicted_for_new_ones(tmp_path: Path) -> None:
    with (
        strict(tmp_path, client_seconds=PATIENCE, max_connections=50) as service,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(60):
            assert requests.get(f"{service.url}/healthz", timeout=PATIENCE).status_code == 200
        idle = [stack.enter_context(Wire(service.url)) for _ in range(200)]
        assert requests.get(f"{service.url}/healthz", timeout=PATIENCE).status_code == 200
        assert connections(service) <= 50
        assert idle[0].rest() == b""
        idle[-1].send(request())
        assert idle[-1].answer().status == 200


def test_incomplete_requests_are_evicted_if_nothing_is_idle(tmp_path: Path) -> None:
    with (
        strict(tmp_path, client_seconds=PATIENCE, max_connections=2) as service,
        Wire(service.url) as first,
        Wire(service.url) as second,
    ):
        for wire in (first, second):
            wire.send(request("POST", PATH, Content_Length=str(len(GOOD)), Expect="100-continue"))
            assert wire.answer().status == 100
        assert requests.get(f"{service.url}/healthz", timeout=PATIENCE).status_code == 200
        assert first.rest() == b""
        second.send(GOOD)
        assert second.answer().status == 202


def test_a_complete_request_is_never_evicted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        strict(tmp_path, client_seconds=PATIENCE, max_connections=2) as service,
        large_job(service) as path,
        contextlib.ExitStack() as stack,
    ):
        service.close()
        wait_until(lambda: connections(service) == 0)
        for _ in range(2):
            wire = stack.enter_context(Wire(service.url, receive_buffer=4_096))
            wire.send(request(path=path))
            assert wire.socket.recv(1)
        with Wire(service.url) as third:
            answer = third.last_answer()
            assert (answer.status, answer.problem) == (503, "too-many-connections")
            assert answer.fields["retry-after"] == "5"
        before = open_files()
        for _ in range(200):
            with Wire(service.url) as reset:
                linger = struct.pack("ii", 1, 0)  # closing resets the connection
                reset.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        with Wire(service.url) as third:
            assert third.last_answer().status == 503
        assert open_files() <= before
        wire.socket.close()
        wait_until(lambda: connections(service) < 2)
        metrics = requests.get(f"{service.url}/metrics", timeout=PATIENCE).text
        assert 'imageload_connections_cut_total{reason="refused"} 202.0' in metrics
        warned = [r for r in caplog.records if "connections closed" in r.message]
        assert len(warned) < 20, "one line for all that are closed in a minute"


@LINUX
def test_a_process_out_of_files_neither_spins_nor_dies(tmp_path: Path) -> None:
    process = ServiceProcess("--port=0", f"--temp-dir={tmp_path}", "--imgur-client-id=x")
    try:
        pid = process.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        open_files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files + 3, before[1]))
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(Wire(process.url))
            # Those that say nothing make way.
            assert requests.get(f"{process.url}/healthz", timeout=PATIENCE).status_code == 200
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        with Wire(process.url) as wire:
            wire.send(request())
            used = cpu_seconds(pid)
            wire.socket.settimeout(1.2)
            with pytest.raises(TimeoutError):
                wire.answer()
            assert cpu_seconds(pid) - used < 0.5
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            wire.socket.settimeout(PATIENCE)
            assert wire.answer().status == 200
    finally:
        assert process.stop() == 0
    assert len([line for line in process.log if "a connection cannot be accepted" in line]) == 1
    assert len(process.log) < 10


@LINUX
def test_a_request_that_needs_a_file_descriptor_gets_503_without_one(tmp_path: Path) -> None:
    process = ServiceProcess("--port=0", f"--temp-dir={tmp_path}", "--imgur-client-id=x")
    try:
        pid = process.process.pid
        assert process.get("/healthz").status_code == 200  # over a connection that is kept
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)

        def is_refused() -> bool:
            """Again until it is: the service may have closed one since they were listed."""
            taken = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
            first_free = min(set(range(len(taken) + 1)) - taken)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free, before[1]))
            return process.get("/").status_code == 503

        wait_until(is_refused)
        refused = process.get("/")
        assert refused.json()["type"] == "urn:imageload:problem:out-of-files"
        assert refused.headers["Retry-After"] == "5"
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert process.get("/").status_code == 200
    finally:
        assert process.stop() == 0
    assert "Traceback" not in "".join(process.log)


@pytest.mark.parametrize(
    ("files", "most", "streams"), [(4_384, 4_000, 2_000), (1_000, 616, 308), (300, 150, 75)]
)
def test_a_low_limit_of_open_files_lowers_the_limit_of_connections(
    files: int, most: int, streams: int
) -> None:
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}));"
        "from imageload.settings import Settings;"
        "from imageload.tuning import Tuning;"
        "from imageload.web.server.limits import most_connections, most_streams;"
        "most = most_connections(Settings());"
        "print(most, most_streams(most, Tuning()))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == f"{most} {streams}\n"
    assert ("connections" in ended.stderr) is (most < 4_000)


def cpu_seconds(pid: int) -> float:
    """The CPU time that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Malformed


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"urls":' * 100_000,
        b'["\xff"]',
        b'["\xed\xa0\x80"]',
        b'["\\ud800"]',
        b"[NaN]",
        b"[1e999]",
        b"[" + b"9" * 100_000 + b"]",
        b" " * 1_000_000,
        b'["' + b" " * 900_000 + b'"]',
        b"[" + b'"",' * 200_000 + b'""]',
        b'{"urls":["http://a/"],"urls":[]}',
        b"\x00",
        b"\x00" * 1_000,
    ],
    ids=lambda body: repr(body[:12]),
)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_a_body_without_urls_is_a_client_error(
    service: RunningService, body: bytes, content_type: str
) -> None:
    answer = service.post(data=body, headers={"Content-Type": content_type})
    # A body that is not JSON may be text, with URLs that cannot be fetched.
    assert answer.status_code in ((202, 400) if content_type == "text/plain" else (400,))


def test_every_file_of_the_json_test_suite_is_accepted_or_refused(service: RunningService) -> None:
    taken = []
    for path in SUITE:
        answer = service.post(data=path.read_bytes())
        assert answer.status_code in (202, 400), path.name
        if answer.status_code == 202:
            taken.append(path.name)
    assert len(SUITE) > 300
    assert not [name for name in taken if name.startswith("n_")]
    assert "y_string_simple_ascii.json" in taken


SMUGGLING = {
    "both framings": request("POST", PATH, GOOD, Transfer_Encoding="chunked"),
    "two lengths": post(GOOD, Content_Length=f"5\r\nContent-Length: {len(GOOD)}"),
    "one length twice": post(GOOD, Content_Length=f"{len(GOOD)}\r\nContent-Length: {len(GOOD)}"),
    "a list of lengths": post(GOOD, Content_Length=f"{len(GOOD)}, {len(GOOD)}"),
    "plus": post(GOOD, Content_Length="+2"),
    "minus": post(GOOD, Content_Length="-2"),
    "underscore": post(GOOD, Content_Length="2_0"),
    "hex": post(GOOD, Content_Length="0x14"),
    "no number": post(GOOD, Content_Length=""),
    "superscript": post(GOOD, Content_Length="\xb2"),
    "gzip": request("POST", PATH, Transfer_Encoding="gzip") + GOOD,
    "gzip, chunked": request("POST", PATH, Transfer_Encoding="gzip, chunked"),
    "chunked twice": request("POST", PATH, Transfer_Encoding="chunked, chunked"),
    "xchunked": request("POST", PATH, Transfer_Encoding="xchunked"),
    "folded": request(X="a\r\n b"),
    "space before the colon": b"GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n",
    "no colon": b"GET /healthz HTTP/1.1\r\nHost: a\r\nfoo\r\n\r\n",
    "two hosts": request(Host="127.0.0.1\r\nHost: 127.0.0.1"),
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "a bad host": request(Host="a b"),
    "NUL in a field": request(X="a\x00b"),
    "NUL in a name": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX\x00: b\r\n\r\n",
    "NUL in the target": request(path="/health\x00z"),
    "CR in a field": request(X="a\rb"),
    "a space in the target": request(path="/healthz /x"),
    "no version": b"GET /healthz\r\nHost: a\r\n\r\n",
    "another version": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a bad chunk size": request("POST", PATH, Transfer_Encoding="chunked") + b"5;\r\nhello\r\n",
    "a chunk size with a plus": request("POST", PATH, Transfer_Encoding="chunked") + b"+5\r\n",
    "a chunk without an end": request("POST", PATH, Transfer_Encoding="chunked")
    + b"2\r\n[]GET / HTTP/1.1\r\n",
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_an_ambiguous_request_is_refused(service: RunningService, name: str) -> None:
    with Wire(service.url) as wire:
        wire.send(SMUGGLING[name])
        assert wire.last_answer().status == 400


@pytest.mark.parametrize("method", ["BREW", "TRACE", "CONNECT", "get"])
def test_an_unknown_method_is_405(service: RunningService, method: str) -> None:
    with Wire(service.url) as wire:
        wire.send(request(method, "/healthz"))
        assert wire.answer().status == 405


def test_pipelined_requests_are_answered_in_order(service: RunningService) -> None:
    with Wire(service.url) as wire:
        wire.send(request() + post(GOOD) + request(path="/nothing") + request())
        assert [wire.answer().status for _ in range(4)] == [200, 202, 404, 200]


def test_random_requests_cause_no_error_of_the_service(tmp_path: Path) -> None:
    """`python -m tests.soak --requests` sends more of them."""
    with strict(tmp_path) as fuzzed:
        outcome = fuzz(fuzzed, 400, seed=1)
    assert outcome.wrong == []
    assert {200, 202, 400, 404, 405, 505} <= {*outcome.statuses}


def test_a_response_in_progress_is_sent_before_connections_are_closed() -> None:
    begun, may_respond = asyncio.Event(), asyncio.Event()

    class Slow(tornado.web.RequestHandler):
        async def get(self) -> None:
            begun.set()
            await may_respond.wait()
            self.write("all of it")

    async def stop_in_mid_response() -> str:
        application = tornado.web.Application([("/", Slow)])
        server = Server(application, most=10, tuning=Tuning(), on_close=lambda _: None)
        listening = tornado.netutil.bind_sockets(0, "127.0.0.1")
        server.add_sockets(listening)
        url = f"http://127.0.0.1:{listening[0].getsockname()[1]}/"
        response = asyncio.create_task(asyncio.to_thread(requests.get, url, timeout=PATIENCE))
        await begun.wait()
        server.stop()
        closing = asyncio.create_task(server.close_all_connections())
        await asyncio.sleep(0)
        may_respond.set()
        await closing
        return (await response).text

    assert asyncio.run(stop_in_mid_response()) == "all of it"
