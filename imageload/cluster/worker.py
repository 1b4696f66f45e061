"""A node's worker: claims slices, has them loaded, and gives them back.

    message ─► claim ─► ImageLoad.begin_upload, a thread ─► ended, or given back at a stop
                 └───── every beat: keep it · follow a cancel, purge, retry · lost ─► leave it

It runs on an event loop of its own: it must beat while the transfer loop is busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from imageload.cluster.parking import Parking
from imageload.cluster.queue import Queue
from imageload.errors import ImageLoadError
from imageload.job import Job
from imageload.loader import ImageLoad
from imageload.store.postgres.claims import Order, Place, Wait
from imageload.store.postgres.store import PostgresStore

_log = logging.getLogger(__name__)

T = TypeVar("T")

_ORDERS_SECONDS = 0.25
_SWEEP_SECONDS = 2.0
_PARK_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRules:
    """`at_once`: slices at work. A node that was not heard of for `dead_seconds` is dead."""

    at_once: int = 64
    dead_seconds: float = 60.0
    most_taken_over: int = 3


@dataclass(slots=True)
class _AtWork:
    job: Job
    order: Order
    wait: Wait | None = None
    """What it is let go for."""


class Worker:
    """Works on slices until `stop`."""

    def __init__(
        self,
        store: PostgresStore,
        queue: Queue,
        image_load: ImageLoad,
        rules: WorkerRules,
        name: str,
        parking: Parking,
        on_break: Callable[[], object] | None = None,
    ) -> None:
        self.name = name
        self._parking = parking
        self._store = store
        self._queue = queue
        self._load = image_load
        self._rules = rules
        self._on_break = on_break
        self._at_work: dict[Place, _AtWork] = {}
        self._loop = asyncio.new_event_loop()
        self._main: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._well_since = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        """Begin to take slices."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more slices; those at work end when ImageLoad is closed."""
        self._is_stopping = True
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._cancel)

    def close(self, seconds: float) -> bool:
        """Give back what is still here; True if the thread has ended."""
        deadline = time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < deadline:
            self.stop()  # again: a library may have swallowed the cancel
            self._thread.join(0.2)
        return not self._thread.is_alive()

    def _cancel(self) -> None:
        if self._main is not None and not self._main.done():
            self._main.cancel()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._work())
        except Exception:
            _log.exception("a bug ended the worker")
            if self._on_break is not None:
                self._on_break()
        finally:
            self._loop.run_until_complete(_end_other_tasks())
            self._loop.close()

    async def _work(self) -> None:
        self._main = asyncio.current_task()
        if self._is_stopping:
            return
        rules = self._rules
        queue = self._queue.run(
            self._load_slice, at_once=rules.at_once, dead_seconds=rules.dead_seconds
        )
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.TaskGroup() as group:
                group.create_task(queue)
                group.create_task(self._beat())
                group.create_task(self._sweep())
                group.create_task(self._park(group))

    async def _load_slice(self, number: int, first: int, *, was_parked: bool = False) -> None:
        """Load a slice, if it still has to be and no other worker has it."""
        place = number, first
        if self._is_stopping or place in self._at_work:
            return
        try:
            wait = self._parking.wait_before(first, self._images_at_work())
            if wait is not None and not was_parked:
                await asyncio.to_thread(self._store.park, place, wait)
                return
            claimed = await asyncio.to_thread(
                self._store.claim, place, self.name, self._rules.dead_seconds
            )
        except ImageLoadError as error:
            _log.warning("a slice cannot be claimed: %s", error)
            return  # the sweep queues it again
        if claimed is None:
            return
        job, order = claimed
        self._at_work[place] = at_work = _AtWork(job, order)
        try:
            await self._in_a_thread(job)
        finally:
            del self._at_work[place]
            self._store.end(job, is_over=not self._is_stopping, wait=at_work.wait)

    def _images_at_work(self) -> int:
        counts = [at_work.job.summary().counts for at_work in self._at_work.values()]
        return sum(each["queued"] + each["downloaded"] for each in counts)

    async def _park(self, group: asyncio.TaskGroup) -> None:
        """Let slices go that would wait for long, and take such slices back when they need not."""
        parking, told = self._parking, None
        while True:
            await asyncio.sleep(_PARK_SECONDS)
            try:
                for place, at_work in dict(self._at_work).items():
                    wait = parking.wait_of(at_work.job, place[1])
                    if wait is not None and at_work.wait is None:
                        at_work.wait = wait
                        self._load.submit(self._load.at_work.let_go(at_work.job))
                told = await self._update_waits(told)
                wanted = parking.wanted(self._images_at_work())
                if wanted is not None and len(self._at_work) < self._rules.at_once:
                    found = await asyncio.to_thread(self._store.parked, *wanted)
                    if found is not None:
                        group.create_task(self._load_slice(*found, was_parked=True))
            except ImageLoadError as error:
                _log.debug("no look at the slices that wait: %s", error)

    async def _update_waits(self, told: Wait | None) -> Wait | None:
        """Correct what waiting slices show, if it is not what it was; returns it."""
        wait = self._parking.wait_of_all()
        if wait is None or wait.reason is None:
            return None
        wait = wait._replace(seconds=wait.seconds + time.monotonic())  # a moment, to compare
        is_same = told is not None and told.reason == wait.reason
        if told is not None and is_same and abs(told.seconds - wait.seconds) < _SWEEP_SECONDS:
            return told
        left = wait._replace(seconds=wait.seconds - time.monotonic())
        await asyncio.to_thread(self._store.update_waits, left)
        return wait

    async def _in_a_thread(self, job: Job) -> None:
        """`begin_upload` in a thread of the job's own, until it returns."""
        done = asyncio.Event()

        def run() -> None:
            try:
                self._load.begin_upload(job)
            finally:
                self._loop.call_soon_threadsafe(done.set)

        name = f"job-{job.job_id[:8]}"
        threading.Thread(target=run, name=name, daemon=True).start()
        while not done.is_set():  # a cancel of this task does not end the thread
            with contextlib.suppress(asyncio.CancelledError):
                await done.wait()

    async def _beat(self) -> None:
        """Keep our slices, and follow what users want of them."""
        beaten = 0.0
        while True:
            await asyncio.sleep(_ORDERS_SECONDS)
            is_beat = time.monotonic() - beaten > self._rules.dead_seconds / 6
            seconds = self._rules.dead_seconds if is_beat else None
            if not self._at_work and not is_beat:
                continue
            sent = time.monotonic()
            before = dict(self._at_work)
            try:
                orders = await asyncio.to_thread(self._store.beat, self.name, seconds)
            except ImageLoadError as error:
                self._well_since = time.monotonic()
                _log.debug("no beat: %s", error)
                continue
            if is_beat:
                beaten = sent
            for place, at_work in before.items():
                order = orders.get(place)
                if order is None or order.epoch != at_work.order.epoch:
                    if self._at_work.get(place) is at_work:
                        self._leave(at_work.job)
                elif order != at_work.order:
                    await self._follow(at_work, order)

    def _leave(self, job: Job) -> None:
        _log.warning("another node took over job=%s", job.job_id)
        self._store.lose(job)
        self._load.submit(self._load.at_work.leave(job))

    async def _follow(self, at_work: _AtWork, order: Order) -> None:
        """Do what users want of a slice since the last order."""
        job, before, at_work.order = at_work.job, at_work.order, order
        at = self._load.at_work
        if order.cancels > before.cancels:
            await self._on_transfer_loop(at.cancel(job))
        if order.again is not None:
            only = order.again == "transient"
            await self._on_transfer_loop(at.requeue(job, only_transient=only))
            await asyncio.to_thread(self._store.clear_again, job)

    async def _on_transfer_loop(self, action: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(self._load.submit(action))

    async def _sweep(self) -> None:
        """Queue slices that nobody has and no message names."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            # After an outage the living first say that they live.
            if time.monotonic() - self._well_since < self._rules.dead_seconds:
                continue
            try:
                count = await asyncio.to_thread(self._store.queue_forgotten)
            except ImageLoadError:
                continue
            if count:
                _log.info("queued again slices=%d", count)


def worker_name() -> str:
    """A name that no other worker has, also not the next process of this host."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


async def _end_other_tasks() -> None:
    """Cancel what is left on this loop, such as the queue's pool of connections."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
