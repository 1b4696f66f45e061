"""Searches and writes documents in child processes.

    await search(...) ── a request (msgpack) ──> worker process: read, find, write
                      <── a response ──

A document of a stranger can make a parser work for long, and parsers are Python: in a thread they
would slow down both event loops. A worker runs at nice 10 and in bounded memory. It is killed when
it has taken the CPU time that its documents may take, and costs their sender only.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from imageload.documents.original import (
    Original,
    Preview,
    Request,
    Result,
    Search,
    Searched,
    Work,
    Write,
)
from imageload.errors import Refused, ResourceError, Shutdown, shutting_down
from imageload.processes.worker import WorkerLost, Workers
from imageload.transport.slots import Pool, Slots

_log = logging.getLogger(__name__)

_WORKERS: Final = 2
_decode = msgspec.msgpack.Decoder(Result).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRules:
    """`seconds`: the CPU time for each MiB, of documents with less for one. `max_memory`: of each
    worker, in bytes.
    """

    seconds: float = 5.0
    max_memory: int = 2**30


Ending = Literal["read", "refused", "cpu", "memory", "killed"]
"""How a request ended: read, refused for what is in it, or ended by a limit or from outside."""
Act = Callable[[Coroutine[Any, Any, Result]], Awaitable[Result]]


class Documents:
    """Two processes that search and write documents. They start when they are needed.

    Keys (callers) share them fairly: one caller has one of them at a time. The methods may be
    awaited on any loop, `close` on the transfer loop only. They raise Refused: `too-complex` if the
    documents take more than they may, `shutting-down`, and `out-of-threads` if no process starts.
    """

    def __init__(self, rules: DocumentRules, act: Act, observe: Callable[[Ending], object]) -> None:
        """`act` awaits a coroutine on the transfer loop; Refused if that has ended. `observe` is
        called with the end of each request.
        """
        self._rules = rules
        self._act = act
        self._observe = observe
        self._is_closed = False
        self._slots = Slots(_WORKERS)
        self._workers = Workers("imageload.documents.worker")

    @property
    def pool(self) -> Pool:
        """How many requests are worked on, and how many wait."""
        return self._slots.pool

    @property
    def pids(self) -> list[int]:
        """The ids of the processes."""
        return self._workers.pids

    async def search(
        self, originals: Sequence[Original], skip: Sequence[str], max_urls: int, key: Hashable
    ) -> list[Searched]:
        """The images of documents, without those of the URLs `skip`.

        Raises Refused (`no-images`, `too-large`, `bad-request`).
        """
        work = Search([*originals], [*skip], max_urls)
        return (await self._ask(work, _size(originals), key)).searched

    async def preview(
        self, originals: Sequence[Original], skip: Sequence[str], key: Hashable
    ) -> bytes:
        """The places of images, and what is ignored, as JSON; raises Refused (`bad-request`)."""
        work = Preview([*originals], [*skip])
        return (await self._ask(work, _size(originals), key)).content

    async def write(
        self,
        original: Original,
        links: Mapping[str, str],
        errors: Mapping[str, str],
        key: Hashable,
    ) -> tuple[bytes, str]:
        """The document with links in place of URLs, and its kind; `errors` are for tables."""
        work = Write(original, {**links}, {**errors})
        # In twice the time of a search a document can be written that was accepted.
        result = await self._ask(work, 2 * _size([original]), key)
        return result.content, result.kind

    async def close(self) -> None:
        """End every process. What is in progress or queued raises Refused (shutting-down)."""
        self._is_closed = True
        await self._workers.close()

    async def _ask(self, work: Work, size: int, key: Hashable) -> Result:
        try:
            return await self._act(self._done(work, size, key))
        except asyncio.CancelledError:
            if self._is_closed:
                raise shutting_down() from None
            raise

    async def _done(self, work: Work, size: int, key: Hashable) -> Result:
        seconds = self._rules.seconds * max(1.0, size / 2**20)
        request = Request(work, seconds, self._rules.max_memory)
        try:
            encoded = await self._slots.run(
                key, lambda: self._workers.ask(msgspec.msgpack.encode(request))
            )
        except WorkerLost as lost:
            self._observe("cpu" if lost.signal == signal.SIGPROF else "killed")
            raise _too_complex(lost.signal, size, seconds) from None
        except ResourceError as error:
            raise Refused("out-of-threads", error.message) from None
        except Shutdown:
            raise shutting_down() from None
        result = _decode(encoded)
        if result.bug:
            raise RuntimeError(f"a document met a bug\n{result.bug}")
        is_too_large = result.slug == "too-complex"
        self._observe("memory" if is_too_large else "refused" if result.slug else "read")
        if result.slug:
            raise Refused(result.slug, result.message)
        return result


def _size(originals: Sequence[Original]) -> int:
    return sum(len(each.content) for each in originals)


def _too_complex(number: int, size: int, seconds: float) -> Refused:
    """The refusal of documents whose worker a signal has ended."""
    _log.warning("a worker for documents was lost signal=%d bytes=%d", number, size)
    if number == signal.SIGPROF:
        reason = f"Reading it took more than {seconds:,.1f} seconds of CPU time"
    else:
        reason = "The process that read it was killed"
    message = f"{reason}. Send less at once, or the image URLs as a list."
    return Refused("too-complex", message)
