"""Random requests over raw sockets, and what may not come of them: a 5xx, or an error in the log.

A request is put together from odd parts, or it is a good one in which bytes are changed. The same
seed gives the same requests.
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import select
import socket
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.service import RunningService
from tests.waiting import wait_until

_ALLOWED = {505}
"""An unknown jobId: the one 5xx of the contract."""

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_SECONDS = 20.0
_THREADS = 8

_METHODS = (b"GET", b"GET", b"HEAD", b"POST", b"POST", b"DELETE", b"OPTIONS", b"PUT", b"BREW", b"")
_PATHS = (
    b"/",
    b"/page/page.js",
    b"/page/../main.py",
    b"/v1/images",
    b"/v1/images/upload",
    b"/v1/images/upload/",
    b"/v1/images/upload/JOB",
    b"/v1/images/upload/:JOB",
    b"/v1/images/upload/unknown",
    b"/v1/images/upload/JOB/images",
    b"/v1/images/upload/JOB/map",
    b"/v1/images/upload/JOB/events",
    b"/v1/images/upload/JOB/retry",
    b"/v1/events",
    b"/v1/quota",
    b"/healthz",
    b"/readyz",
    b"/metrics",
    b"/openapi.json",
    b"/docs",
    b"*",
    b"http://127.0.0.1/healthz",
)
_PIECES = (
    b"",
    b"0",
    b"1",
    b"-1",
    b"9" * 40,
    b"JOB",
    b"JOB:1",
    b"JOB&limit=1",
    b"true",
    b"csv",
    b"failed",
    b"%",
    b"%00",
    b"%0d%0aX: y",
    b"%ff%fe",
    b"%ed%a0%80",
    b"\xe2\x80\xae",
    b"\x85",
    b"\xd9\xa1",
    b"..",
    b";",
    b"?",
    b"#",
    b"x" * 9_000,
)
_PARAMETERS = (b"limit", b"after", b"jobId", b"state", b"purge", b"only", b"format", b"\xff", b"")
_HEADERS = (
    b"Accept",
    b"Authorization",
    b"Connection",
    b"Content-Encoding",
    b"Content-Length",
    b"Content-Type",
    b"Cookie",
    b"Expect",
    b"Host",
    b"Idempotency-Key",
    b"If-None-Match",
    b"Last-Event-ID",
    b"Origin",
    b"Prefer",
    b"Range",
    b"Sec-Fetch-Site",
    b"Transfer-Encoding",
    b"Upgrade",
    b"X-Request-ID",
)
_VALUES = (
    *_PIECES,
    b"*",
    b"*/*;q=nan",
    b"text/csv;q=inf, text/plain",
    b"text/plain; charset=utf-16",
    b"multipart/form-data; boundary=x",
    b"application/x-www-form-urlencoded",
    b"gzip",
    b"chunked",
    b"100-continue",
    b"close",
    b"keep-alive",
    b'W/"JOB-1", "x',
    b"wait=1, wait=" + b"9" * 30,
    b"bytes=0-1",
    b"1-end",
    b"Basic \xff",
    b"same-origin",
    b"null",
    b"[::1]:x",
)
_BODIES = (
    b"",
    b"[]",
    b'["ftp://a.example/"]',
    b'{"urls": [["ftp://a.example/1", null], ["ftp://a.example/2"]], "album": "x"}',
    b'[{"url": "ftp://a.example/", "title": "\\ud83d", "description": "\x85"}]',
    b'{"urls": ["ftp://a.example/"], "callback": "ftp://a.example/", "dedupe": 1}',
    b"ftp://a.example/1, ftp://a.example/2\r\nftp://a.example/3",
    b"a=b&urls=c",
    b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n--x--",
    b"[" * 2_000,
    b"\xff\xfe\x00",
    b"[1e999, -0, 1e-999]",
)


@dataclass
class Outcome:
    """How often each status came (0: none, the connection was closed), and what was wrong."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class _Errors(logging.Handler):
    """Keeps the log's errors and tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.lines.append(logging.Formatter().format(record))


def random_request(chance: random.Random, job_id: str) -> bytes:
    """The bytes of a request, or of something like it."""
    request = _odd_request(chance)
    if chance.random() < 0.4:
        request = _changed(chance, request)
    return request.replace(b"JOB", job_id.encode())


def _odd_request(chance: random.Random) -> bytes:
    body = chance.choice(_BODIES) if chance.random() < 0.5 else b""
    if body and chance.random() < 0.3:
        body = _changed(chance, body)
    target = chance.choice(_PATHS)
    while chance.random() < 0.2:
        target += b"/" + chance.choice(_PIECES)
    separator = b"?"
    while chance.random() < 0.4:
        target += separator + chance.choice(_PARAMETERS) + b"=" + chance.choice(_PIECES)
        separator = b"&"
    lines = [b" ".join((chance.choice(_METHODS), target, b"HTTP/1.1")), b"Host: 127.0.0.1"]
    if body or chance.random() < 0.2:
        lines.append(b"Content-Length: %d" % len(body))
    while chance.random() < 0.5:
        lines.append(chance.choice(_HEADERS) + b": " + chance.choice(_VALUES))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _changed(chance: random.Random, text: bytes) -> bytes:
    """`text` in which some bytes are replaced, added, left out or repeated."""
    found = bytearray(text)
    for _ in range(chance.randint(1, 8)):
        begin = chance.randint(0, len(found))
        end = min(len(found), begin + chance.choice((0, 1, 1, 2, 20)))
        found[begin:end] = chance.choice(
            (chance.randbytes(chance.randint(0, 4)), found[begin:end] * 2, b"\r\n", b"\x00", b"")
        )
    return bytes(found)


def fuzz(service: RunningService, cases: int, *, seed: int) -> Outcome:
    """Send so many random requests, each over a connection of its own."""
    outcome, errors = Outcome(), _Errors()
    job_id = service.submit(["ftp://a.example/"])
    chance = random.Random(seed)
    requests = [random_request(chance, job_id) for _ in range(cases)]
    logging.getLogger().addHandler(errors)
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            for request, statuses in pool.map(lambda each: _send(service.url, each), requests):
                outcome.statuses.update(statuses or [0])
                if [status for status in statuses if status >= 500 and status not in _ALLOWED]:
                    outcome.wrong.append(f"{statuses} for {request[:2_000]!r}")
        limits = service.app.limits
        service.close()
        wait_until(lambda: service.server.connections == 0)
        wait_until(lambda: service.subscribers == 0)
        wait_until(lambda: limits.bytes_left == limits.most_bytes)
    finally:
        logging.getLogger().removeHandler(errors)
    assert service.get("/healthz").status_code == 200
    outcome.wrong += errors.lines
    return outcome


def _send(url: str, request: bytes) -> tuple[bytes, Sequence[int]]:
    """The request, and the statuses of the responses that came first."""
    parts = urlsplit(url)
    received = b""
    with (
        contextlib.suppress(ConnectionError),  # the service closes before all has been sent
        socket.create_connection((parts.hostname or "", parts.port or 0), _SECONDS) as connection,
    ):
        connection.sendall(request)
        while len(received) < 2**20 and (part := connection.recv(2**16)):
            received += part
            # A response that goes on, as an event stream does, is not waited for.
            if _STATUS.match(received) and not select.select([connection], [], [], 0.01)[0]:
                break
    return request, [int(status) for status in _STATUS.findall(received)]
