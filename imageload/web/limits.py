"""Dependencies that all requests share: access rules, idempotency keys, memory and threads."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from imageload.errors import shutting_down
from imageload.web.access import Access
from imageload.web.idempotency import IdempotencyKeys

T = TypeVar("T")

Pool = Literal["bodies", "journal", "views"]
"""bodies: large bodies become jobs; journal: small bodies wait for the disk; views: large
responses.

A pool that is full delays only its own kind. Short work is done on the event loop or in its default
threads, maintenance in a thread of its own.
"""

# Bodies and views need the CPU: more threads would only compete with the event loop for the GIL.
# The store writes once in 10 ms for all that wait: two threads would allow 200 POSTs a second.
_THREADS: Mapping[Pool, int] = {"bodies": 2, "journal": 16, "views": 2}


class RequestLimits:
    """Access rules, idempotency keys, memory for bodies, and threads for work off the loop."""

    def __init__(self, access: Access, keys: IdempotencyKeys, most_bytes: int) -> None:
        self.access = access
        self.keys = keys
        self.most_bytes = most_bytes
        """The bytes that all request bodies together may have."""
        self.bytes_left = most_bytes
        """The bytes by which all request bodies together may still grow."""
        self._pools = {
            name: ThreadPoolExecutor(threads, thread_name_prefix=f"web-{name}")
            for name, threads in _THREADS.items()
        }
        self._is_closed = False

    async def run_in_thread(self, work: Callable[[], T], pool: Pool) -> T:
        """The result of `work`, called in a thread of `pool`.

        The log lines of `work` have the request's id. Raises Refused (shutting-down) if `close`
        came before `work` began.
        """
        context = contextvars.copy_context()
        try:
            return await asyncio.wrap_future(self._pools[pool].submit(context.run, work))
        except (RuntimeError, asyncio.CancelledError):
            if self._is_closed:
                raise shutting_down() from None
            raise

    def close(self) -> None:
        """Accept no more jobs. Views are still made."""
        self._is_closed = True
        for name in ("bodies", "journal"):
            self._pools[name].shutdown(wait=False, cancel_futures=True)
