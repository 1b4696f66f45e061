"""Dependencies that all requests share: access rules, idempotency keys, memory and threads."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from imageload.errors import shutting_down
from imageload.web.access import Access
from imageload.web.idempotency import IdempotencyKeys

T = TypeVar("T")

# For work that needs the CPU. More threads would only compete with the event loop for the GIL.
_CPU_THREADS = 2
# For work that waits for the disk. The store writes once in 10 ms for all that wait: two threads
# would allow 200 POSTs a second.
_DISK_THREADS = 16


class RequestLimits:
    """Access rules, idempotency keys, memory for bodies, and threads for work off the loop."""

    def __init__(self, access: Access, keys: IdempotencyKeys, most_bytes: int) -> None:
        self.access = access
        self.keys = keys
        self.most_bytes = most_bytes
        """The bytes that all request bodies together may have."""
        self.bytes_left = most_bytes
        """The bytes by which all request bodies together may still grow."""
        self._cpu = ThreadPoolExecutor(_CPU_THREADS, thread_name_prefix="web-cpu")
        self._disk = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="web-disk")
        self._is_closed = False

    async def run_in_thread(self, work: Callable[[], T], *, needs_cpu: bool = True) -> T:
        """The result of `work`, called in a thread; with `needs_cpu` at most two at once.

        The log lines of `work` have the request's id. Raises Refused (shutting-down) if `close`
        came before `work` began.
        """
        threads = self._cpu if needs_cpu else self._disk
        context = contextvars.copy_context()
        try:
            return await asyncio.wrap_future(threads.submit(context.run, work))
        except (RuntimeError, asyncio.CancelledError):
            if self._is_closed:
                raise shutting_down() from None
            raise

    def close(self) -> None:
        """Begin no more work."""
        self._is_closed = True
        for threads in (self._cpu, self._disk):
            threads.shutdown(wait=False, cancel_futures=True)
