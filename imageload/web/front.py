"""What all requests of one service share: who may ask, what came before, and how much at once."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from imageload.errors import Refused
from imageload.web.access import Access
from imageload.web.idempotency import IdempotencyKeys

T = TypeVar("T")

# More would not be faster, for they hold the interpreter, and the event loop waits for each.
_READERS = 2
# These hold nothing while they wait. The journal writes once in 10 ms, for all who wait then: with
# two threads for it there were 190 POSTs a second, which the disk was not to blame for.
_WAITERS = 16


class Room:
    """How many bytes the bodies of all requests may have together: `left` more.

    For one event loop.
    """

    def __init__(self, most: int) -> None:
        self.left = most

    def take(self, count: int) -> bool:
        """Take so many, where there are as many."""
        if count > self.left:
            return False
        self.left -= count
        return True

    def give_back(self, count: int) -> None:
        """Give back what was taken."""
        self.left += count


class Front:
    """`access`, `keys` and `room`, threads that read large bodies, and threads that wait."""

    def __init__(self, access: Access, keys: IdempotencyKeys, room: Room) -> None:
        self.access = access
        self.keys = keys
        self.room = room
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="reader")
        self._waiters = ThreadPoolExecutor(_WAITERS, thread_name_prefix="waiter")
        self._is_closed = False

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` gives, done in one of the few threads that read, for the same request.

        Raises Refused (shutting-down) where it was not begun because of `close`.
        """
        return await self._in(self._readers, work)

    async def wait(self, work: Callable[[], T]) -> T:
        """The same for work that is little but waiting for a disk, in one of many threads."""
        return await self._in(self._waiters, work)

    async def _in(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        context = contextvars.copy_context()
        try:
            return await asyncio.wrap_future(threads.submit(context.run, work))
        except (RuntimeError, asyncio.CancelledError):
            if self._is_closed:
                raise Refused(
                    "shutting-down", "The service is stopping. Send this again later."
                ) from None
            raise

    def close(self) -> None:
        """Begin no more work."""
        self._is_closed = True
        for threads in (self._readers, self._waiters):
            threads.shutdown(wait=False, cancel_futures=True)
