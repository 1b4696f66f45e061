"""libcurl: one request and its answer, within a deadline and caps.

A `Transfer` prepares an easy handle for a request and reads what came of it. Who drives the handle
is open: `perform` does it in the calling thread and blocks; an Engine drives many at once. What
takes several requests is written once for both, as Steps: a generator that yields an `Exchange`
and is sent its Head, or has its TransferError thrown in.

A keep-alive connection is only ever reused by requests of the same Transfer, so one that was
opened under the guard is not shared with one that was not. Redirects are never followed here;
cookies, netrc, Referer and proxies from the environment never used.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import certifi
import pycurl

T = TypeVar("T")

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

_MAX_FIELDS = 100  # as many as http.client takes
_DISCARD_BYTES = 16 * 2**10
_BUFFER_BYTES = 128 * 2**10
_RESOLVER_FILES = 3  # as many as it opens to look up a name, seen with libcurl 8.23


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


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request of Steps, on its way over `transfer`. `host` is whom the guard is asked about.

    `on_head` gets the head before the body and returns what takes the body's pieces, decoded;
    None: the body is not wanted, and the connection is dropped if it is long. What `on_head` or
    its sink raises is thrown into the Steps.
    """

    transfer: Transfer
    request: Request
    host: str
    on_head: Callable[[Head], Sink | None]


@dataclass(frozen=True, slots=True)
class Pause:
    """Steps that want to go on in so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Until:
    """Steps that want to go on when what `begin` is given is called, from any thread.

    Called again, it does nothing.
    """

    begin: Callable[[Callable[[], None]], object]


Steps = Generator[Exchange | Pause | Until, Head | None, T]


def run(steps: Steps[T]) -> T:
    """What `steps` return, done in the calling thread; what they raise passes through."""
    try:
        wanted = next(steps)
        while True:
            if isinstance(wanted, Pause):
                time.sleep(wanted.seconds)
                wanted = steps.send(None)
                continue
            if isinstance(wanted, Until):
                event = threading.Event()
                wanted.begin(event.set)
                event.wait()
                wanted = steps.send(None)
                continue
            try:
                head = wanted.transfer.perform(wanted)
            except Exception as error:  # the steps decide what it means
                wanted = steps.throw(error)
            else:
                wanted = steps.send(head)
    except StopIteration as stop:
        result: T = stop.value
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a Transfer allows: times in seconds, sizes in bytes. Each is an option in config.py."""

    connect_seconds: float
    low_speed_bytes: int
    low_speed_seconds: float
    max_header_bytes: int
    ca_file: str = field(default_factory=certifi.where)


class _Answer:
    """What the callbacks of one request share. libcurl swallows their exceptions: `error` keeps
    the first, which then wins over the code that libcurl makes of it."""

    def __init__(self, on_head: Callable[[Head], Sink | None], max_header_bytes: int) -> None:
        self.head: Head | None = None
        self.error: Exception | None = None
        self.done = False
        self._on_head = on_head
        self._sink: Sink | None = None
        self._max_header_bytes = self._header_bytes_left = max_header_bytes
        self._discard_bytes_left = _DISCARD_BYTES
        self._lines: list[bytes] = []

    def header(self, line: bytes) -> int | None:
        """libcurl's header callback: the status line, each field, and the empty line."""
        self._header_bytes_left -= len(line)
        if self._header_bytes_left < 0 or len(self._lines) > _MAX_FIELDS + 1:
            return self.fail(_bad_head(len(line), self._max_header_bytes, len(self._lines)))
        if self.head is not None:
            return None  # a trailer: counted, and of no use
        if line not in (b"\r\n", b"\n"):
            self._lines.append(line)
            return None
        lines, self._lines = self._lines, []
        status = lines[0].split(None, 2)[1:2] if lines and lines[0].startswith(b"HTTP/") else []
        number = int(status[0]) if status and status[0].isdigit() else 0
        if number < 200:
            return None  # an interim answer
        fields: dict[str, str] = {}
        for text in lines[1:]:
            name, _, value = text.decode("latin-1").partition(":")
            fields[name.strip().lower()] = value.strip()
        self.head = Head(number, fields)
        return self._begin_body(self.head)

    def _begin_body(self, head: Head) -> int | None:
        try:
            self._sink = self._on_head(head)
        except Exception as error:  # perform raises it again
            return self.fail(error)
        return None

    def write(self, piece: bytes) -> int | None:
        """libcurl's write callback: a piece of the body."""
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
    """Requests under one set of rules: bounds, a guard, an agent's name."""

    def __init__(
        self,
        bounds: Bounds,
        *,
        user_agent: str,
        refusal: Refusal | None = None,
        proxy: str = "",
        resolve: Sequence[str] = (),
    ) -> None:
        """`refusal` is asked about every connect; with a `proxy` there is only the one to it.

        `resolve` has answers in place of the resolver's, as libcurl's RESOLVE takes them.
        """
        self.resolve = tuple(resolve)
        self._bounds = bounds
        self._refusal = refusal
        self._local = threading.local()
        self._stopped = False
        self._constant: tuple[tuple[int, Any], ...] = (
            (pycurl.NOSIGNAL, 1),
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
            (pycurl.HTTP09_ALLOWED, 0),
            # pycurl takes text only where it is ASCII: paths and names may have umlauts.
            (pycurl.PROXY, proxy.encode()),
            (pycurl.CAINFO, os.fsencode(bounds.ca_file)),
            (pycurl.LOW_SPEED_LIMIT, bounds.low_speed_bytes),
            (pycurl.LOW_SPEED_TIME, max(1, round(bounds.low_speed_seconds))),
            (pycurl.BUFFERSIZE, _BUFFER_BYTES),
            (pycurl.UPLOAD_BUFFERSIZE, _BUFFER_BYTES),
            (pycurl.USERAGENT, user_agent.encode()),
            (pycurl.ACCEPT_ENCODING, ""),
        )

    def abort(self) -> None:
        """End every `perform` under way, within a second, and every one to come, as `stopped`."""
        self._stopped = True

    def perform(self, exchange: Exchange) -> Head:
        """Do `exchange` in this thread; its Head when all of the body was taken.

        Raises TransferError, and what the exchange's `on_head` or its sink raises.
        """
        curl: pycurl.Curl | None = getattr(self._local, "curl", None)
        if curl is None:
            curl = self._local.curl = self.handle()
        curl.setopt(pycurl.NOPROGRESS, 0)
        curl.setopt(pycurl.XFERINFOFUNCTION, self._progress)
        prepared = self.prepare(curl, exchange)
        try:
            curl.perform()
        except pycurl.error as error:
            code, detail = error.args  # type: ignore[misc]  # the stub says it has none
            return prepared.finish(code, detail)
        else:
            return prepared.finish(0, "")
        finally:
            prepared.close()

    def handle(self) -> pycurl.Curl:
        """A new easy handle with everything set that is the same for all requests."""
        curl = pycurl.Curl()
        for option, value in self._constant:
            curl.setopt(option, value)
        return curl

    def prepare(self, curl: pycurl.Curl, exchange: Exchange) -> Prepared:
        """Set `curl` up for `exchange`; the caller drives it and then asks for the end."""
        request = exchange.request
        answer = _Answer(exchange.on_head, self._bounds.max_header_bytes)
        gate = _Gate(exchange.host, self._refusal)
        left_ms = max(1, int((request.deadline - time.monotonic()) * 1000))
        setopt = curl.setopt
        setopt(pycurl.URL, request.url)
        setopt(pycurl.TIMEOUT_MS, left_ms)
        setopt(pycurl.CONNECTTIMEOUT_MS, min(left_ms, int(self._bounds.connect_seconds * 1000)))
        # An empty Expect: libcurl would wait a second for 100 Continue before a large body.
        setopt(pycurl.HTTPHEADER, ["Accept-Encoding: identity", "Expect:", *request.fields])
        setopt(pycurl.HEADERFUNCTION, answer.header)
        setopt(pycurl.WRITEFUNCTION, answer.write)
        setopt(pycurl.OPENSOCKETFUNCTION, gate.open_socket)
        setopt(pycurl.SOCKOPTFUNCTION, gate.take_socket)
        if self.resolve:
            setopt(pycurl.RESOLVE, list(self.resolve))
        if request.method not in ("GET", "DELETE"):
            # Read by a callback that cannot go back, so that libcurl does not quietly send a
            # body a second time when a kept connection breaks: it might be there twice then.
            setopt(pycurl.POST, 1)
            setopt(pycurl.POSTFIELDSIZE_LARGE, request.body_length)
            setopt(pycurl.READFUNCTION, _reader(request, answer))
        else:
            setopt(pycurl.HTTPGET, 1)
        if request.method in ("GET", "POST"):
            curl.unsetopt(pycurl.CUSTOMREQUEST)
        else:
            setopt(pycurl.CUSTOMREQUEST, request.method)
        return Prepared(curl, answer, gate)

    def _progress(self, *_: object) -> int:
        return 1 if self._stopped else 0


class Prepared:
    """A handle on its way: what it was prepared with, and what comes of it."""

    def __init__(self, curl: pycurl.Curl, answer: _Answer, gate: _Gate) -> None:
        self.curl = curl
        self._answer = answer
        self._gate = gate

    def finish(self, code: int, detail: str) -> Head:
        """The Head, once libcurl has ended the handle with `code`; raises as `perform` does."""
        answer = self._answer
        if code:
            if answer.error is not None:
                raise answer.error
            if not (answer.done and answer.head is not None):
                raise self._translate(code, detail)
        if answer.head is None or answer.head.status > 599:
            raise TransferError("response", "the answer has no status")
        return answer.head

    def stopped(self, detail: str) -> TransferError:
        """The error of a request that is ended before libcurl has: it knows how much was sent."""
        sent = int(self.curl.getinfo(pycurl.SIZE_UPLOAD_T))
        answered = self._answer.head is not None
        return TransferError("stopped", detail, sent=sent, answered=answered)

    def close(self) -> None:
        """Let go of what only this request needed."""
        self._gate.close()

    def _translate(self, code: int, detail: str) -> TransferError:
        answer, gate, curl = self._answer, self._gate, self.curl
        kind = _KINDS.get(code, "tls" if "SSL" in detail or "certificate" in detail else "broken")
        if _lacked_descriptors(kind, gate):
            kind = "resource"
        elif kind == "connect" and gate.refused and not gate.admitted:
            kind, detail = "blocked", gate.refused
        elif code == pycurl.E_RECV_ERROR and not curl.getinfo(pycurl.OS_ERRNO):
            # The connection held: what came over it is not HTTP (a chunk size that never ends).
            kind = "response"
        sent = int(curl.getinfo(pycurl.SIZE_UPLOAD_T))
        return TransferError(kind, detail, sent=sent, answered=answer.head is not None)


class _Gate:
    """libcurl's open-socket callback for one request: asks the guard about every connect.

    pycurl works on a duplicate of what `open_socket` returns, and has it when `take_socket` is
    called. Where it could not have one that does not happen, and libcurl says that nobody answered.
    """

    def __init__(self, host: str, refusal: Refusal | None) -> None:
        self.refused: str | None = None
        self.admitted = False
        self._none_left = False
        self._host = host
        self._refusal = refusal
        self._opened: list[socket.socket] = []

    @property
    def out_of_resources(self) -> bool:
        """Whether a connect came to nothing for want of descriptors."""
        return self._none_left or bool(self._opened)

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
            refused = self._refusal(self._host, _text(name[0]), name[1])
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


def _reader(request: Request, answer: _Answer) -> Callable[[int], bytes | int]:
    def read(size: int) -> bytes | int:
        try:
            return request.body.read(size) if request.body is not None else b""
        except Exception as error:  # perform raises it again
            answer.fail(error)
            return pycurl.READFUNC_ABORT

    return read


def _lacked_descriptors(kind: Kind, gate: _Gate) -> bool:
    if kind == "connect":
        return gate.out_of_resources
    return kind == "dns" and not _can_open(_RESOLVER_FILES)


def _can_open(count: int) -> bool:
    """Whether so many descriptors more may be had."""
    with contextlib.ExitStack() as opened:
        try:
            for _ in range(count):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return False
    return True


def _bad_head(line: int, most: int, fields: int) -> TransferError:
    if line > most or fields > _MAX_FIELDS + 1:
        return TransferError("response", "too long a field, or too many")
    return TransferError("too_large", "the head of the answer never ends")


def _text(address: str | bytes) -> str:
    return address.decode("ascii") if isinstance(address, bytes) else address
