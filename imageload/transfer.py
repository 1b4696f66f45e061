"""libcurl, one easy handle a thread: one request and its answer, within a deadline and caps.

A `Transfer` serves any number of threads. Each has a handle of its own, kept for its connections:
a keep-alive connection is only ever reused by requests of the same Transfer, so one that was
opened under the guard is not shared with one that was not. Redirects are never followed here,
cookies, netrc, Referer and proxies from the environment never used. What goes wrong is a
`TransferError`, whose `kind` the callers translate to errors of theirs.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import certifi
import pycurl

Kind = Literal[
    "url",
    "blocked",
    "dns",
    "connect",
    "tls",
    "timeout",
    "too_large",
    "response",
    "truncated",
    "broken",
    "resource",
    "file",
    "stopped",
]

# libcurl's error codes, https://curl.se/libcurl/c/libcurl-errors.html
_KINDS: Mapping[int, Kind] = {
    pycurl.E_UNSUPPORTED_PROTOCOL: "response",
    pycurl.E_URL_MALFORMAT: "url",
    pycurl.E_COULDNT_RESOLVE_PROXY: "dns",
    pycurl.E_COULDNT_RESOLVE_HOST: "dns",
    pycurl.E_COULDNT_CONNECT: "connect",
    8: "response",  # CURLE_WEIRD_SERVER_REPLY, a name that pycurl does not have
    pycurl.E_PARTIAL_FILE: "truncated",
    pycurl.E_READ_ERROR: "file",
    pycurl.E_OUT_OF_MEMORY: "resource",
    pycurl.E_OPERATION_TIMEDOUT: "timeout",
    pycurl.E_SSL_CONNECT_ERROR: "tls",
    pycurl.E_ABORTED_BY_CALLBACK: "stopped",
    pycurl.E_GOT_NOTHING: "broken",
    pycurl.E_SEND_ERROR: "broken",
    pycurl.E_SEND_FAIL_REWIND: "broken",
    pycurl.E_RECV_ERROR: "broken",
    pycurl.E_SSL_CERTPROBLEM: "tls",
    pycurl.E_SSL_CIPHER: "tls",
    pycurl.E_PEER_FAILED_VERIFICATION: "tls",
    pycurl.E_BAD_CONTENT_ENCODING: "response",
    pycurl.E_FILESIZE_EXCEEDED: "too_large",
    100: "response",  # CURLE_TOO_LARGE: a single field past libcurl's own limit
}

_DISCARD_BYTES = 16 * 2**10
_BUFFER_BYTES = 128 * 2**10


class TransferError(Exception):
    """A request that got no whole answer.

    `sent_bytes` is how much of the request's body had gone out, `answered` whether the head of
    an answer had come in.
    """

    def __init__(self, kind: Kind, detail: str, *, sent: int = 0, answered: bool = False) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind: Kind = kind
        self.detail = detail
        self.sent_bytes = sent
        self.answered = answered


class Head(NamedTuple):
    """The head of an answer: its status and its fields, names in lower case, the last one kept."""

    status: int
    fields: dict[str, str]


class Body(Protocol):
    """What a request's body is read from."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most `size`; none at the end."""


Refusal = Callable[[str, str, int], str | None]
Sink = Callable[[bytes], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. A `body` is read once, as it is sent, and has `body_length` bytes."""

    url: str
    method: str = "GET"
    fields: tuple[str, ...] = ()
    body: Body | None = None
    body_length: int = 0
    deadline: float
    """On `time.monotonic`: when the answer must be whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a Transfer allows: times in seconds, sizes in bytes. Each is an option in config.py."""

    connect_seconds: float
    low_speed_bytes: int
    low_speed_seconds: float
    max_header_bytes: int
    ca_file: str = field(default_factory=certifi.where)


class _Exchange:
    """What the callbacks of one request share. libcurl swallows their exceptions: `error` keeps
    the first, which then wins over the code that libcurl makes of it."""

    def __init__(self, on_head: Callable[[Head], Sink | None], max_header_bytes: int) -> None:
        self.head: Head | None = None
        self.error: Exception | None = None
        self.done = False
        self._on_head = on_head
        self._sink: Sink | None = None
        self._header_bytes_left = max_header_bytes
        self._discard_bytes_left = _DISCARD_BYTES
        self._status = 0
        self._fields: dict[str, str] = {}

    def header(self, line: bytes) -> int | None:
        self._header_bytes_left -= len(line)
        if self._header_bytes_left < 0:
            return self.fail(TransferError("too_large", "the head of the answer never ends"))
        if line.startswith(b"HTTP/"):
            status = line.split(None, 2)[1:2]
            self._status = int(status[0]) if status and status[0].isdigit() else 0
            self._fields = {}
        elif line.strip():
            name, _, value = line.decode("latin-1").partition(":")
            self._fields[name.strip().lower()] = value.strip()
        elif self.head is None and self._status >= 200:
            return self._begin_body()
        return None

    def _begin_body(self) -> int | None:
        self.head = Head(self._status, self._fields)
        try:
            self._sink = self._on_head(self.head)
        except Exception as error:  # perform raises it again
            return self.fail(error)
        return None

    def write(self, piece: bytes) -> int | None:
        if self._sink is None:
            self._discard_bytes_left -= len(piece)
            if self._discard_bytes_left < 0:
                self.done = True
                return -1
            return None
        try:
            self._sink(piece)
        except Exception as error:  # perform raises it again
            return self.fail(error)
        return None

    def fail(self, error: Exception) -> int:
        """Keep `error`, and give libcurl the sign to stop."""
        self.error = self.error or error
        return -1


class Transfer:
    """Requests over libcurl, from any thread. `abort` ends those under way, within a second."""

    def __init__(self, bounds: Bounds, *, user_agent: str, refusal: Refusal | None = None) -> None:
        self._bounds = bounds
        self._user_agent = user_agent
        self._refusal = refusal
        self._local = threading.local()
        self._stopped = False

    def abort(self) -> None:
        """End every request under way, and every one to come, as `stopped`."""
        self._stopped = True

    def perform(self, request: Request, host: str, on_head: Callable[[Head], Sink | None]) -> Head:
        """Send `request` and read its answer; gives the head when all of the body was taken.

        `on_head` gets the head before the body and returns what takes the body's pieces, decoded;
        None: the body is not wanted, and the connection is dropped if it is long. What `on_head`
        or its sink raises passes through. Raises TransferError.
        """
        curl = self._handle()
        exchange = _Exchange(on_head, self._bounds.max_header_bytes)
        gate = _Gate(host, self._refusal)
        self._set_up(curl, request, exchange, gate)
        try:
            curl.perform()
        except pycurl.error as error:
            if exchange.error is not None:
                raise exchange.error from None
            if exchange.done and exchange.head is not None:
                return exchange.head
            raise self._translate(curl, error, exchange, gate) from None
        finally:
            curl.reset()
            gate.close()
        if exchange.head is None or exchange.head.status > 599:
            raise TransferError("response", "the answer has no status")
        return exchange.head

    def _handle(self) -> pycurl.Curl:
        curl: pycurl.Curl | None = getattr(self._local, "curl", None)
        if curl is None:
            curl = self._local.curl = pycurl.Curl()
        return curl

    def _set_up(
        self, curl: pycurl.Curl, request: Request, exchange: _Exchange, gate: _Gate
    ) -> None:
        bounds = self._bounds
        left_ms = max(1, int((request.deadline - time.monotonic()) * 1000))
        for option, value in (
            (pycurl.URL, request.url),
            (pycurl.NOSIGNAL, 1),
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
            (pycurl.HTTP09_ALLOWED, 0),
            (pycurl.PROXY, ""),
            (pycurl.CAINFO, bounds.ca_file),
            (pycurl.TIMEOUT_MS, left_ms),
            (pycurl.CONNECTTIMEOUT_MS, min(left_ms, int(bounds.connect_seconds * 1000))),
            (pycurl.LOW_SPEED_LIMIT, bounds.low_speed_bytes),
            (pycurl.LOW_SPEED_TIME, max(1, round(bounds.low_speed_seconds))),
            (pycurl.BUFFERSIZE, _BUFFER_BYTES),
            (pycurl.USERAGENT, self._user_agent),
            (pycurl.ACCEPT_ENCODING, ""),
            # An empty Expect: libcurl would wait a second for 100 Continue before a large body.
            (pycurl.HTTPHEADER, ["Accept-Encoding: identity", "Expect:", *request.fields]),
            (pycurl.HEADERFUNCTION, exchange.header),
            (pycurl.WRITEFUNCTION, exchange.write),
            (pycurl.OPENSOCKETFUNCTION, gate.open_socket),
            (pycurl.NOPROGRESS, 0),
            (pycurl.XFERINFOFUNCTION, self._progress),
        ):
            curl.setopt(option, value)
        if request.method == "POST":
            # Read by a callback that cannot go back, so that libcurl does not quietly send a
            # body a second time when a kept connection breaks: it might be there twice then.
            curl.setopt(pycurl.POST, 1)
            curl.setopt(pycurl.POSTFIELDSIZE_LARGE, request.body_length)
            curl.setopt(pycurl.UPLOAD_BUFFERSIZE, _BUFFER_BYTES)
            curl.setopt(pycurl.READFUNCTION, _reader(request, exchange))
        elif request.method != "GET":
            curl.setopt(pycurl.CUSTOMREQUEST, request.method)

    def _progress(self, *_: object) -> int:
        return 1 if self._stopped else 0

    def _translate(
        self, curl: pycurl.Curl, error: pycurl.error, exchange: _Exchange, gate: _Gate
    ) -> TransferError:
        code: int
        detail: str
        code, detail = error.args  # type: ignore[misc]  # the stub says Exception has no args
        kind = _KINDS.get(code, "tls" if "SSL" in detail or "certificate" in detail else "broken")
        if kind == "connect" and gate.out_of_resources:
            kind = "resource"
        elif kind == "connect" and gate.refused and not gate.admitted:
            kind, detail = "blocked", gate.refused
        elif code == pycurl.E_RECV_ERROR and not curl.getinfo(pycurl.OS_ERRNO):
            # The connection held: what came over it is not HTTP (a chunk size that never ends).
            kind = "response"
        sent = int(curl.getinfo(pycurl.SIZE_UPLOAD_T))
        return TransferError(kind, detail, sent=sent, answered=exchange.head is not None)


class _Gate:
    """libcurl's open-socket callback for one request: asks the guard about every connect."""

    def __init__(self, host: str, refusal: Refusal | None) -> None:
        self.refused: str | None = None
        self.admitted = False
        self.out_of_resources = False
        self._host = host
        self._refusal = refusal
        self._opened: list[socket.socket] = []

    def close(self) -> None:
        """Close our ends: pycurl works on duplicates of what `open_socket` returns."""
        for opened in self._opened:
            opened.close()

    def open_socket(self, _purpose: int, address: Any) -> Any:
        family, kind, protocol, name = address
        if family not in (socket.AF_INET, socket.AF_INET6):
            return pycurl.SOCKET_BAD
        if self._refusal is not None:
            refused = self._refusal(self._host, _text(name[0]), name[1])
            if refused is not None:
                self.refused = refused
                return pycurl.SOCKET_BAD
        self.admitted = True
        try:
            opened = socket.socket(family, kind, protocol)
        except OSError as error:
            self.out_of_resources = error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS)
            return pycurl.SOCKET_BAD
        self._opened.append(opened)
        return opened


def _reader(request: Request, exchange: _Exchange) -> Callable[[int], bytes | int]:
    def read(size: int) -> bytes | int:
        try:
            return request.body.read(size) if request.body is not None else b""
        except Exception as error:  # perform raises it again
            exchange.fail(error)
            return pycurl.READFUNC_ABORT

    return read


def _text(address: str | bytes) -> str:
    return address.decode("ascii") if isinstance(address, bytes) else address
