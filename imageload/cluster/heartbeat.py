"""Keeps the slices at work: beats, follows their orders, and leaves those that were lost.

    every beat ─► kept ─► an order: cancel, purge, retry ─► `follow`
                  └─► lost: another node took over ─► left as it stands

While the database is away the slices are kept, until another node has taken them over. Runs on the
worker's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from imageload.errors import ImageLoadError
from imageload.job import Job
from imageload.loader import ImageLoad
from imageload.store.postgres.claims import Place, SliceOrder, Wait
from imageload.store.postgres.store import PostgresStore

_log = logging.getLogger(__name__)

_ORDERS_SECONDS = 0.25


@dataclass(slots=True, eq=False)
class SliceAtWork:
    """A slice that is at work on this node."""

    place: Place
    job: Job
    is_suspect: bool
    is_left: bool = False
    is_following: bool = False
    wait: Wait | None = None
    """The wait for which it is let go."""

    @property
    def names(self) -> tuple[str, int]:
        """The job's id and the slice's first image, for the log."""
        return self.job.job_id.partition("/")[0], self.place[1]


class Heartbeat:
    """Keeps the slices of `at_work`, which the worker adds to and takes from."""

    def __init__(
        self,
        store: PostgresStore,
        image_load: ImageLoad,
        at_work: Mapping[Place, SliceAtWork],
        dead_seconds: float,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """`spawn` runs a coroutine, for whose end the worker waits before it ends."""
        self._store, self._load = store, image_load
        self._at_work = at_work
        self._dead_seconds = dead_seconds
        self._spawn = spawn
        self._thread = ThreadPoolExecutor(1, "beat")  # never behind claims that wait
        self._well_since = self.beaten = time.monotonic()
        self.lost = 0
        """How many slices other nodes have taken over."""

    @property
    def is_well(self) -> bool:
        """False for some time after an outage, in which other living workers beat again."""
        return time.monotonic() - self._well_since >= self._dead_seconds

    async def run(self) -> None:
        """Keep the slices until it is cancelled."""
        dead_seconds, beaten = self._dead_seconds, 0.0
        while True:
            await asyncio.sleep(min(_ORDERS_SECONDS, dead_seconds / 12))
            is_beat = time.monotonic() - beaten > dead_seconds / 6
            slices = list(self._at_work.values())
            if slices or is_beat:
                sent = time.monotonic()
                try:
                    await self._beat(slices, dead_seconds if is_beat else None)
                except ImageLoadError as error:
                    self._well_since = time.monotonic()
                    _log.debug("no beat: %s", error)
                else:
                    if is_beat:
                        beaten = self.beaten = sent
            for each in list(self._at_work.values()):
                if not each.is_left and self._store.slices.is_lost(each.job):
                    self._leave(each)

    async def _beat(self, slices: Sequence[SliceAtWork], seconds: float | None) -> None:
        jobs, loop = [each.job for each in slices], asyncio.get_running_loop()
        beat = loop.run_in_executor(self._thread, self._store.slices.beat, jobs, seconds)
        orders = await beat
        for each in slices:
            order = orders.get(each.job)
            if order is not None and order.is_open and not each.is_following:
                each.is_following = True
                self._spawn(self._try_follow(each, order))

    def _leave(self, at_work: SliceAtWork) -> None:
        _log.warning("another node took over job=%s first=%d", *at_work.names)
        at_work.is_left = True
        self.lost += 1
        with contextlib.suppress(ImageLoadError):  # the service stops, and leaves it anyway
            self._load.submit(self._load.at_work.leave(at_work.job))

    async def _try_follow(self, at_work: SliceAtWork, order: SliceOrder) -> None:
        try:
            await self.follow(at_work.job, order)
        except ImageLoadError as error:  # the next owner follows
            _log.info("not followed job=%s first=%d reason=%s", *at_work.names, error)
        except Exception:
            _log.exception("a bug kept an order from its end job=%s first=%d", *at_work.names)
        finally:
            at_work.is_following = False

    async def follow(self, job: Job, order: SliceOrder) -> None:
        """Follow a cancel, a purge or a retry of a slice."""
        at = self._load.at_work
        if order.cancels:
            await self._load.act(at.cancel(job, may_land=order.purging))
        for only in order.retries:
            await self._load.act(at.requeue(job, only))
        self._store.slices.followed(job, order)
        await self._load.act(self._store.durable())  # or the next beat sees it again

    def close(self) -> None:
        """Beat no more; a beat that is under way goes on."""
        self._thread.shutdown(wait=False)
