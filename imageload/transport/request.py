"""One HTTP request over libcurl and its response, within a deadline and size limits.

An `Exchange` prepares its easy handle for each request and reads the result; `curl.py` drives it.
Redirects are never followed here; cookies, netrc, Referer and proxies from the environment are
never used.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import certifi
import msgspec
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
    pycurl.E_GOT_NOTHING: "broken",
    pycurl.E_SEND_ERROR: "broken",
    pycurl.E_SEND_FAIL_REWIND: "broken",
    pycurl.E_RECV_ERROR: "broken",
    pycurl.E_SSL_CERTPROBLEM: "tls",
    pycurl.E_SSL_CIPHER: "tls",
    pycurl.E_PEER_FAILED_VERIFICATION: "tls",
    pycurl.E_BAD_CONTENT_ENCODING: "response",  # an unknown Transfer-Encoding
    pycurl.E_FILESIZE_EXCEEDED: "too_large",
    100: "response",  # CURLE_TOO_LARGE: a single header past libcurl's own limit
}

_BODILESS = ("GET", "HEAD", "DELETE")
_DISCARD_BYTES = 16 * 2**10
_RESOLVER_FILES = 3  # descriptors that libcurl 8.23 opens to resolve a name


class TransferError(Exception):
    """A request without a complete response.

    `sent_bytes` of the request's body were sent; `answered`: the response's headers had arrived.
    """

    def __init__(
        self, kind: Kind, detail: str, *, sent_bytes: int = 0, answered: bool = False
    ) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind: Kind = kind
        self.detail = detail
        self.sent_bytes = sent_bytes
        self.answered = answered


class Response(NamedTuple):
    """Status and headers of a response: names in lower case.

    The last of equal names is kept; several of Content-Encoding are joined.
    """

    status: int
    headers: dict[str, str]


class Body(Protocol):
    """The body of a request."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most `size`; empty at the end."""


Refusal = Callable[[str, str, int], str | None]
"""Called with (host, address, port) before each connect; returns the reason to refuse it."""
Sink = Callable[[bytes], object]
"""Called with each piece of a response's body, as it came: its content coding is not decoded."""
OnResponse = Callable[[Response], Sink | None]
"""Called with the response before its body. None: the body is not wanted, and the connection is
closed if the body is long."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request. A `body` is read once, as it is sent, and has `body_length` bytes."""

    url: str
    host: str
    """The host that is passed to the guard."""
    method: str = "GET"
    headers: tuple[str, ...] = ()
    body: Body | None = None
    body_length: int = 0
    deadline: float
    """When the response must be complete, on `time.monotonic`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """Keys with which requests are signed, as S3 wants it (AWS Signature Version 4)."""

    region: str
    key_id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits of every request of a Transport: times in seconds, sizes in bytes."""

    connect_seconds: float = 5.0
    low_speed_bytes: int = 1_000
    """A response slower than this over `low_speed_seconds`, counted from its first byte, is ended;
    0: never."""
    low_speed_seconds: float = 15.0
    max_header_bytes: int = 64 * 2**10
    ca_file: str = field(default_factory=certifi.where)


class Exchange:
    """The easy handle `curl`, and the one request at a time that it sends.

    It is kept for the next request: most options of the handle, and all callbacks, stay the same.
    libcurl discards the exceptions of callbacks, so the first is kept, and `result` raises it
    instead of the error that libcurl reports.
    """

    def __init__(self, curl: pycurl.Curl, bounds: Bounds, refusal: Refusal | None) -> None:
        self.curl = curl
        self._bounds = bounds
        self._slow_bytes = bounds.low_speed_bytes * bounds.low_speed_seconds
        self._connecting = _Connecting(refusal)
        # Those of the handle, which has none yet.
        self._method = ""
        self._headers: tuple[str, ...] | None = None
        curl.setopt(pycurl.HEADERFUNCTION, self._take_header)
        curl.setopt(pycurl.WRITEFUNCTION, self._take_body)
        # It cannot rewind: libcurl must not silently send a body a second time when a kept
        # connection breaks, since the image might be stored twice.
        curl.setopt(pycurl.READFUNCTION, self._read_body)
        curl.setopt(pycurl.OPENSOCKETFUNCTION, self._connecting.open_socket)
        curl.setopt(pycurl.SOCKOPTFUNCTION, self._connecting.take_socket)

    def begin(self, request: Request, on_response: OnResponse) -> None:
        """Prepare the handle; raises what pycurl raises for a URL or a header that is not valid."""
        self._request = request
        self._on_response = on_response
        self._connecting.begin(request.host)
        self._response: Response | None = None
        self._error: Exception | None = None
        self._has_enough = False
        self._sink: Sink | None = None
        self._discard_bytes_left = _DISCARD_BYTES
        self._lines: list[bytes] = []
        self._header_bytes = self._body_bytes = 0
        self._slow_since: float | None = None
        self._received_then = 0
        self._prepare()

    def _prepare(self) -> None:
        request, setopt = self._request, self.curl.setopt
        setopt(pycurl.URL, request.url)
        setopt(pycurl.TIMEOUT_MS, max(1, int((request.deadline - time.monotonic()) * 1000)))
        if request.headers != self._headers:
            # An empty Expect: libcurl would wait a second for 100 Continue before a large body.
            headers = ["Accept-Encoding: identity", "Expect:", *request.headers]
            setopt(pycurl.HTTPHEADER, headers)
            self._headers = request.headers
        if request.method != self._method:
            self._set_method(request.method)
        if request.method not in _BODILESS:
            setopt(pycurl.POSTFIELDSIZE_LARGE, request.body_length)

    def _set_method(self, method: str) -> None:
        setopt = self.curl.setopt
        if method == "HEAD":
            setopt(pycurl.NOBODY, 1)
        elif method not in _BODILESS:
            setopt(pycurl.POST, 1)
        else:
            setopt(pycurl.HTTPGET, 1)
        if method in ("GET", "HEAD", "POST"):
            self.curl.unsetopt(pycurl.CUSTOMREQUEST)
        else:
            setopt(pycurl.CUSTOMREQUEST, method)
        self._method = method

    def is_too_slow(self, now: float) -> bool:
        """True if the response was slower than the bound allows; to be asked now and then.

        libcurl's own bound counts from the start, and so ends an origin that is slow to begin.
        """
        received = self._header_bytes + self._body_bytes
        since = self._slow_since
        if since is None or received - self._received_then >= self._slow_bytes:
            self._slow_since, self._received_then = (now if received else None), received
            return False
        return now - since >= self._bounds.low_speed_seconds

    @property
    def sent_bytes(self) -> int:
        """The bytes of the request's body that were sent so far."""
        return int(self.curl.getinfo(pycurl.SIZE_UPLOAD_T))

    def result(self, code: int, detail: str) -> Response:
        """The response, once libcurl has ended the handle with `code`.

        Raises TransferError, and the first exception that a callback raised.
        """
        if code:
            if self._error is not None:
                raise self._error
            if not (self._has_enough and self._response is not None):
                raise self._translated(code, detail)
        if self._response is None or self._response.status > 599:
            raise TransferError("response", "the response has no status")
        return self._response

    def end(self) -> None:
        """Close sockets that libcurl has not taken, and forget the request.

        An error too: its traceback has the pieces of the body.
        """
        self._connecting.close()
        del self._request, self._on_response, self._response, self._sink, self._error

    def _take_header(self, line: bytes) -> int | None:
        self._header_bytes += len(line)
        if len(line) > 2 and self._header_bytes <= self._bounds.max_header_bytes:
            self._lines.append(line)
            return None
        return self._end_headers(line)

    def _end_headers(self, line: bytes) -> int | None:
        if self._header_bytes > self._bounds.max_header_bytes:
            return self._fail(self._headers_error(len(line)))
        if self._response is not None:
            return None  # a trailer: counted, not used
        if line not in (b"\r\n", b"\n"):
            self._lines.append(line)
            return None
        lines, self._lines = self._lines, []
        response = _parsed(lines)
        if response.status < 200:
            return None  # an interim response
        self._response = response
        try:
            self._sink = self._on_response(response)
        except Exception as error:  # `result` raises it again
            return self._fail(error)
        return None

    def _headers_error(self, line_bytes: int) -> TransferError:
        if line_bytes > self._bounds.max_header_bytes:
            return TransferError("response", "a header is too long")
        return TransferError("too_large", "the response's headers never end")

    def _take_body(self, piece: bytes) -> int | None:
        self._body_bytes += len(piece)
        if self._sink is None:
            self._discard_bytes_left -= len(piece)
            if self._discard_bytes_left < 0:
                self._has_enough = True
                return -1
            return None
        try:
            self._sink(piece)
        except Exception as error:  # `result` raises it again
            return self._fail(error)
        return None

    def _read_body(self, size: int) -> bytes | int:
        body = self._request.body
        try:
            return body.read(size) if body is not None else b""
        except Exception as error:  # `result` raises it again
            self._fail(error)
            return pycurl.READFUNC_ABORT

    def _fail(self, error: Exception) -> int:
        """Keep `error`, and return the value that makes libcurl stop."""
        self._error = self._error or error
        return -1

    def _translated(self, code: int, detail: str) -> TransferError:
        connecting, curl = self._connecting, self.curl
        kind = _KINDS.get(code, "tls" if "SSL" in detail or "certificate" in detail else "broken")
        if connecting.lacked_descriptors(kind):
            kind = "resource"
        elif kind == "connect" and connecting.refused and not connecting.admitted:
            kind, detail = "blocked", connecting.refused
        elif kind == "tls" and (curl.getinfo(pycurl.OS_ERRNO) or "unexpected eof" in detail):
            kind = "broken"  # the connection broke within the handshake: no fault of a certificate
        elif code == pycurl.E_RECV_ERROR and not curl.getinfo(pycurl.OS_ERRNO):
            # The connection held, so its bytes are not HTTP (a chunk size that never ends).
            kind = "response"
        answered = self._response is not None
        return TransferError(kind, detail, sent_bytes=self.sent_bytes, answered=answered)


class _Connecting:
    """libcurl's open-socket callback: asks the guard about every connect of a request.

    pycurl works on a duplicate of the socket that `open_socket` returns, and has made it when
    `take_socket` is called. If it could not be made, `take_socket` is not called, and libcurl
    reports a failed connect.
    """

    def __init__(self, refusal: Refusal | None) -> None:
        self._refusal = refusal
        self._opened: list[socket.socket] = []

    def begin(self, host: str) -> None:
        """The next connects are those of a request to `host`."""
        self.refused: str | None = None
        self.admitted = False
        self._none_left = False
        self._host = host

    def lacked_descriptors(self, kind: Kind) -> bool:
        """True if a transfer failed, with an error of this `kind`, for lack of descriptors."""
        if kind == "connect":
            return self._none_left or bool(self._opened)
        return kind == "dns" and not _can_open(_RESOLVER_FILES)

    def close(self) -> None:
        """Close our ends."""
        for opened in self._opened:
            opened.close()
        self._opened.clear()

    def take_socket(self, _descriptor: int, _purpose: int) -> int:
        self.close()
        return pycurl.SOCKOPT_OK

    def open_socket(self, _purpose: int, address: Any) -> Any:
        family, kind, protocol, name = address
        if family not in (socket.AF_INET, socket.AF_INET6):
            return pycurl.SOCKET_BAD
        if self._refusal is not None:
            text = name[0].decode("ascii") if isinstance(name[0], bytes) else name[0]
            refused = self._refusal(self._host, text, name[1])
            if refused is not None:
                self.refused = refused
                return pycurl.SOCKET_BAD
        self.admitted = True
        try:
            opened = socket.socket(family, kind, protocol)
        except OSError as error:
            self._none_left = error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS)
            return pycurl.SOCKET_BAD
        self._opened.append(opened)
        return opened


def _parsed(lines: Sequence[bytes]) -> Response:
    """The response with this status line and these headers; status 0 if the first is none."""
    first, *rest = lines or [b""]
    status = first.split(None, 2)[1:2] if first.startswith(b"HTTP/") else []
    number = int(status[0]) if status and status[0].isdigit() else 0
    headers: dict[str, str] = {}
    for line in rest:
        name, colon, value = line.decode("latin-1").partition(":")
        if colon:
            name, value = name.strip().lower(), value.strip()
            if name == "content-encoding" and name in headers:
                value = f"{headers[name]}, {value}"
            headers[name] = value
    return Response(number, headers)


def _can_open(count: int) -> bool:
    """True if so many descriptors more can be opened."""
    with contextlib.ExitStack() as opened:
        try:
            for _ in range(count):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return False
    return True
