"""The state of one sandbox: options, store, budgets, faults, tokens, counts."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

from .faults import Faults
from .limits import Limits
from .options import Options
from .store import Store
from .tokens import Tokens

LOOP_BYTES = 256 * 1024  # a smaller body is parsed on the loop in under a millisecond

P = ParamSpec("P")
T = TypeVar("T")


class Stats:
    """Counts since the start. Used from the event loop only."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.answers: Counter[int] = Counter()
        self.uploads = 0
        self.connections = 0
        self.refreshes = 0
        self.uploads_now = 0
        self.uploads_at_most = 0
        self._connections: WeakSet[Any] = WeakSet()
        self._moved: list[asyncio.Future[None]] = []

    def request(self, route: str, connection: object) -> None:
        """Count a request, and its connection with its first request."""
        self.requests[route] += 1
        if connection not in self._connections:
            self._connections.add(connection)
            self.connections += 1
        self.move()

    def move(self) -> None:
        """Wake the waiters of `reach`."""
        waiting, self._moved = self._moved, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def reach(self, route: str, count: int) -> None:
        """Return after `count` requests of the route."""
        while self.requests[route] < count:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._moved.append(future)
            await future


class State:
    """The parts of one sandbox. Create it before the event loop runs, close it after."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.link_base = options.link_base.rstrip("/")
        self.store = Store(options.dir)
        self.limits = Limits()
        self.faults = Faults()
        self.tokens = Tokens()
        self.stats = Stats()
        self.closing = asyncio.Event()
        self._pool = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="sandbox")

    async def in_pool(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of blocking work (Pillow, the disk), run in a thread pool."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: work(*args, **kwargs))

    async def off_loop(self, size: int, work: Callable[[], T]) -> T:
        """The result of work that costs time by `size`: small work runs on the loop."""
        return work() if size <= LOOP_BYTES else await self.in_pool(work)

    def close(self) -> None:
        """End the threads; work that has not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
