"""Downloads that are converted where Imgur does not accept them, for callers with callbacks.

Runs the Converters on an asyncio loop in a thread of its own, until downloads run on one too.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future

from imageload import errors
from imageload.convert.pool import Converters
from imageload.job import Report
from imageload.transport.engine import Pool, Way

_log = logging.getLogger(__name__)

Done = Callable[[object], None]


class FittingDownloads:
    """Downloads on `way`; `converters` makes the Converters when the loop runs."""

    def __init__(self, way: Way, converters: Callable[[], Converters]) -> None:
        self.slots = way.slots
        self._way = way
        self._closed = False
        self._lock = threading.Lock()
        self._conversions: dict[Future[Report], tuple[str, Done]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="convert", daemon=True)
        self._thread.start()
        self._converters = converters()

    def start(self, key: str, url: str, done: Done) -> None:
        """Download `url` in its turn; `done` gets the Report, or the error."""

        def downloaded(value: object) -> None:
            if isinstance(value, Report) and self._converters.is_needed(value):
                self._convert(key, value, done)
            else:
                done(value)

        self._way.start(key, url, downloaded)

    @property
    def pool(self) -> Pool:
        """How many downloads are in progress, and how many wait for a slot."""
        return self._way.lane.pool

    @property
    def conversions(self) -> Pool:
        """How many conversions are in progress, and how many wait for a process."""
        return Pool(*self._converters.pool)

    def cancel(self, key: str) -> None:
        """End the downloads and conversions of `key` soon."""
        self._way.cancel(key)
        self._cancel(key)

    def stop(self) -> None:
        """End all downloads and conversions soon."""
        self._way.lane.drain(under_way=True)
        self._cancel(None)

    def close(self) -> None:
        """End conversions with Shutdown, and the thread: after the engine."""
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        await self._converters.close()
        while len(others := asyncio.all_tasks(self._loop)) > 1:
            await asyncio.wait(others - {asyncio.current_task()})

    def _convert(self, key: str, report: Report, done: Done) -> None:
        future = asyncio.run_coroutine_threadsafe(
            self._converters.if_needed(report, key), self._loop
        )
        with self._lock:
            self._conversions[future] = (key, done)
        future.add_done_callback(self._ended)

    def _ended(self, future: Future[Report]) -> None:
        with self._lock:
            _, done = self._conversions.pop(future)
        try:
            outcome: object = future.result()
        except CancelledError:
            outcome = errors.Shutdown("This image is no longer wanted.")
        except Exception as error:  # passed on, like every result
            outcome = error
        try:
            done(outcome)
        except Exception:
            _log.exception("a callback for a conversion raised")

    def _cancel(self, key: str | None) -> None:
        with self._lock:
            unwanted = [
                future for future, (owner, _) in self._conversions.items() if key in (None, owner)
            ]
        for future in unwanted:
            # Behind the task's first step: a task cancelled before it would not give its file back.
            self._loop.call_soon_threadsafe(self._loop.call_soon, future.cancel)
