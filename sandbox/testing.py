"""A sandbox for one test, on a free port in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from .app import Sandbox
from .control import counts
from .faults import read_fault
from .options import Options

T = TypeVar("T")

START_SECONDS = 30.0


class RunningSandbox:
    """A running sandbox and its control. Methods may be called from any thread."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sandbox-loop", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._stopped: asyncio.Event
        self._sandbox: Sandbox
        self.url = ""

    def start(self) -> None:
        """Listen and set `url`."""
        self._thread.start()
        if not self._ready.wait(START_SECONDS):
            raise TimeoutError("the sandbox did not start")
        if self._failed is not None:
            raise self._failed

    def stop(self) -> None:
        """Close every connection and end the thread. May be called twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(START_SECONDS)

    @property
    def port(self) -> int:
        """The port of `url`."""
        return int(self.url.rpartition(":")[2])

    def stats(self) -> dict[str, Any]:
        """The JSON of GET /sandbox/stats."""
        return self._ask(lambda: counts(self._sandbox.state))

    def images(self) -> list[dict[str, Any]]:
        """The list of GET /sandbox/images."""
        return self._ask(lambda: [asdict(i) for i in self._sandbox.state.store.images()])

    def content(self, image_id: str) -> bytes | None:
        """The stored bytes of an image."""
        return self._sandbox.state.store.content(image_id)

    def fault(self, name: str = "answer", **fields: Any) -> None:
        """Queue a fault, as POST /sandbox/faults does."""
        fault = read_fault({"fault": name, **fields})
        self._ask(lambda: self._sandbox.state.faults.add(fault))

    def clear_faults(self) -> None:
        """Drop every queued fault."""
        self._ask(self._sandbox.state.faults.clear)

    def settings(self, **changes: Any) -> None:
        """Change options while it runs, as POST /sandbox/settings does."""
        state = self._sandbox.state
        changed = state.options.changed(changes)
        self._ask(lambda: setattr(state, "options", changed))

    def token(self, *, client_id: str = "sandbox", seconds: float = 3600.0) -> dict[str, Any]:
        """A valid access token and refresh token."""
        return self._ask(lambda: self._sandbox.state.tokens.issue(client_id, seconds))

    def wait_for(self, route: str, count: int = 1, *, seconds: float = 60.0) -> None:
        """Return after `count` requests of a route. Raises TimeoutError."""
        reach = self._sandbox.state.stats.reach(route, count)
        self._await(asyncio.wait_for(reach, seconds))

    def _ask(self, question: Callable[[], T]) -> T:
        async def ask() -> T:
            return question()

        return self._await(ask())

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failed = error
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._sandbox = Sandbox(self._options)
        try:
            await self._sandbox.start()
            self.url = self._sandbox.url
            self._ready.set()
            await self._stopped.wait()
        finally:
            await self._sandbox.stop()


@contextmanager
def running_sandbox(directory: Path, **options: Any) -> Iterator[RunningSandbox]:
    """A sandbox on a free port of 127.0.0.1 that keeps its images in `directory`.

    `options` are fields of sandbox.Options, such as user_credits=30.
    """
    running = RunningSandbox(Options(**{"port": 0, "dir": directory, **options}))
    running.start()
    try:
        yield running
    finally:
        running.stop()
