"""GETs of one path of the service over one kept connection, each timed."""

from __future__ import annotations

import http.client
import threading
import time
from types import TracebackType

from bench.process import BenchError

_SECONDS = 60.0


class Client:
    """One connection to the service at `address`, which is `host:port`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._connection = http.client.HTTPConnection(address, timeout=_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of the answer; raises BenchError where the status is no 2xx."""
        self._connection.request(method, path, body)
        answer = self._connection.getresponse()
        received = answer.read()
        if not 200 <= answer.status < 300:
            raise BenchError(f"{method} {path} was answered {answer.status}: {received[:200]!r}")
        return received

    def is_unchanged(self, path: str, tag: str) -> bool:
        """True if a GET with this ETag is answered 304."""
        self._connection.request("GET", path, headers={"If-None-Match": tag})
        answer = self._connection.getresponse()
        answer.read()
        return answer.status == 304

    def tag(self, path: str) -> str:
        """The ETag of the answer to a GET."""
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        answer.read()
        return answer.headers["ETag"]

    def wait_for_event(self, path: str, name: str) -> None:
        """Read an event stream until its first event of this name."""
        self._connection.request("GET", path, headers={"Accept": "text/event-stream"})
        with self._connection.getresponse() as answer:
            while line := answer.readline():
                if line == f"event: {name}\n".encode():
                    self._connection.close()
                    return
        raise BenchError(f"{path} ended without an event {name}.")

    def timed_get(self, path: str) -> tuple[bytes, float]:
        """The body of the answer to a GET, and the seconds it took until it was whole."""
        begun = time.monotonic()
        body = self.send("GET", path)
        return body, time.monotonic() - begun


class Poller:
    """A thread that GETs `path` every `pause` seconds, for a `with` block.

    `seconds` has how long each took; the block ends with BenchError where one failed.
    """

    def __init__(self, address: str, path: str, pause: float) -> None:
        self.seconds: list[float] = []
        self._client = Client(address)
        self._path = path
        self._pause = pause
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Poller:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(_SECONDS)
        self._client.close()
        if kind is None and self._error is not None:
            raise BenchError(f"A GET of {self._path} failed: {self._error}")

    def _work(self) -> None:
        try:
            while not self._stop.wait(self._pause):
                self.seconds.append(self._client.timed_get(self._path)[1])
        except (OSError, http.client.HTTPException, BenchError) as error:
            self._error = error
