"""A server of prepared API responses, for states that a real service reaches slowly."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from tests.waiting import PATIENCE

JOB = "4227cacf-2ee1-4b52-b231-110304c4e203"


class Asked(NamedTuple):
    """A received request."""

    target: str
    headers: Message
    body: bytes


class Contract:
    """A server at `url`. `answers` maps "METHOD /path" to its next responses (status, JSON).

    The last answer stays. `asked` has every request.
    """

    def __init__(self) -> None:
        self.answers: dict[str, deque[tuple[int, Any]]] = {}
        self.asked: list[Asked] = []
        contract = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                contract.answer(self)

            do_GET = do_POST = do_DELETE = _answer

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def put(self, target: str, *values: Any, status: int = 200) -> None:
        """Add responses to "METHOD /path", sent one after the other."""
        self.answers.setdefault(target, deque()).extend((status, value) for value in values)

    def put_job(self, *states: dict[str, Any]) -> None:
        """Add states of the job JOB, sent one after the other."""
        plain = {
            "job_id": JOB,
            "created": "2026-11-22T20:37:16Z",
            "status": "in-progress",
            "finished": False,
            "counts": {"total": 2, "pending": 2, "completed": 0, "failed": 0},
        }
        self.put("GET /v1/images/upload", *({"jobs": [{**plain, **state}]} for state in states))

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Send the response to one request."""
        length = int(handler.headers.get("Content-Length", 0))
        target = f"{handler.command} {handler.path}"
        self.asked.append(Asked(target, handler.headers, handler.rfile.read(length)))
        found = self.answers.get(target) or self.answers.get(target.partition("?")[0])
        status, value = (found.popleft() if len(found) > 1 else found[0]) if found else (404, {})
        body = json.dumps(value).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE)


@contextlib.contextmanager
def running_contract() -> Iterator[Contract]:
    """A Contract for the length of a block."""
    contract = Contract()
    try:
        yield contract
    finally:
        contract.close()
