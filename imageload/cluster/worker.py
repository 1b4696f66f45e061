"""A node's worker: claims slices, has them loaded, and gives them back.

    message ─► claim ─► ImageLoad.begin_upload, a thread ─► ended, or given back at a stop
                 └───── kept meanwhile by the heartbeat

It runs on an event loop of its own: it must beat while the transfer loop is busy. While the
database is away it takes no more slices.
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
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from imageload.cluster.heartbeat import Heartbeat, SliceAtWork
from imageload.cluster.parking import Parking
from imageload.cluster.queue import Queue
from imageload.errors import ImageError, ImageLoadError
from imageload.job import Job
from imageload.loader import ImageLoad
from imageload.store.postgres.batch import HEAD
from imageload.store.postgres.claims import MOST_TAKEN_OVER, Claimed, Place, Wait
from imageload.store.postgres.store import PostgresStore

_log = logging.getLogger(__name__)

_SWEEP_SECONDS = 2.0
_PARK_SECONDS = 0.25
_POISON = ImageError(
    "poison",
    f"The service died more than {MOST_TAKEN_OVER} times in a row while it was at work on this.",
).failure()

Tell = Callable[[Job], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRules:
    """`at_once`: slices at work. A node without a beat for `dead_seconds` is dead.

    The `name` of a worker is never used again, also not by the next process of its host.
    """

    at_once: int = 64
    dead_seconds: float = 60.0
    name: str = field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    )


class WorkerState(NamedTuple):
    """Counts since the worker was started; `beat_age`: seconds since its last beat."""

    at_work: int
    taken_over: int
    lost: int
    beat_age: float


class Worker:
    """Works on slices until `stop`."""

    def __init__(
        self,
        store: PostgresStore,
        queue: Queue,
        image_load: ImageLoad,
        tell: Tell,
        rules: WorkerRules,
        parking: Parking,
        on_break: Callable[[], object] | None = None,
    ) -> None:
        """`tell`, for the transfer loop, notifies the callback of a job that has ended."""
        self._slices = store.slices
        self._queue = queue
        self._load = image_load
        self._tell = tell
        self._rules = rules
        self._parking = parking
        self._on_break = on_break
        # A place is at work at most once, under one epoch: the Job's id is the place's.
        self._tasks: dict[Place, asyncio.Task[None]] = {}
        self._at_work: dict[Place, SliceAtWork] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._claiming = asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        # Its library reports the end of a message once, and catches no failure of that.
        self._loop.set_exception_handler(_log_stray)
        self._taking: asyncio.Future[None] | None = None
        self._is_stopping = False
        self._taken_over = 0
        self._heartbeat = Heartbeat(
            store, image_load, self._at_work, rules.dead_seconds, self._spawn
        )
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        """Begin to take slices."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more slices; those at work are kept, and given back as their threads end."""
        self._is_stopping = True
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop_taking)

    def close(self, seconds: float) -> bool:
        """Wait until every slice was given back; True if the thread has ended."""
        deadline = time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < deadline:
            self.stop()  # again: a library may have swallowed the cancel
            self._thread.join(0.2)
        return not self._thread.is_alive()

    @property
    def state(self) -> WorkerState:
        """For metrics; any thread may ask."""
        heartbeat = self._heartbeat
        age = time.monotonic() - heartbeat.beaten
        return WorkerState(len(self._at_work), self._taken_over, heartbeat.lost, age)

    def _stop_taking(self) -> None:
        if self._taking is not None and not self._taking.done():
            self._taking.cancel()

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
            self._heartbeat.close()

    async def _work(self) -> None:
        rules = self._rules
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(self._heartbeat.run())
            sweeping = group.create_task(self._sweep())
            parking = group.create_task(self._park())
            take = self._queue.run(
                self._take, at_once=rules.at_once, dead_seconds=rules.dead_seconds
            )
            self._taking = asyncio.ensure_future(take)
            if self._is_stopping:
                self._taking.cancel()
            await asyncio.wait([self._taking])
            if not self._taking.cancelled():
                self._taking.result()  # a bug: it ends only by a cancel
            while tasks := [*self._tasks.values(), *self._others]:
                await asyncio.wait(tasks)
            for each in (keeping, sweeping, parking):
                each.cancel()

    async def _take(self, number: int, first: int) -> None:
        """Work on a slice, if it still has to be and no other worker has it.

        If the queue breaks meanwhile, the slice goes on: its row says that it is ours.
        """
        task = self._begin((number, first))
        if task is not None:
            await asyncio.shield(task)

    def _begin(self, place: Place, *, was_parked: bool = False) -> asyncio.Task[None] | None:
        is_full = len(self._tasks) >= self._rules.at_once
        if self._is_stopping or is_full or place in self._tasks or place in self._at_work:
            return None  # the sweep queues it again, if it has no worker
        task = self._loop.create_task(self._work_on(place, was_parked=was_parked))
        self._tasks[place] = task
        task.add_done_callback(lambda task: self._ended(place, task))
        return task

    def _ended(self, place: Place, task: asyncio.Task[None]) -> None:
        del self._tasks[place]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("a bug ended the work on a slice", exc_info=error)

    async def _work_on(self, place: Place, *, was_parked: bool) -> None:
        try:
            wait = self._parking.wait_before(place[1], self._images_at_work())
            if wait is not None and not was_parked:
                await asyncio.to_thread(self._slices.park, place, wait)
                return
            async with self._claiming:
                claimed = await asyncio.to_thread(self._claim, place)
                if claimed is None:
                    return
                at_work = self._at_work[place] = SliceAtWork(place, claimed.job, claimed.is_suspect)
        except ImageLoadError as error:
            _log.warning("a slice cannot be claimed: %s", error)
            return  # the sweep queues it again
        if claimed.taken_over:
            self._taken_over += 1
            _log.warning("took over job=%s first=%d times=%d", *at_work.names, claimed.taken_over)
        is_loaded = False
        try:
            await self._load_slice(at_work, claimed)
            is_loaded = True
        except (ImageLoadError, asyncio.CancelledError) as error:
            # The transfer loop has ended, or is about to.
            _log.info("left job=%s first=%d reason=%r", *at_work.names, error)
        except Exception:
            _log.exception("the work on a slice broke job=%s first=%d", *at_work.names)
            await asyncio.sleep(_SWEEP_SECONDS)  # it is queued again, maybe to break again
        if place[1] == HEAD and is_loaded:
            # Not here: while a receiver does not respond, other slices may take this one's turn.
            self._spawn(self._tell_and_end(at_work))
        else:
            self._end(at_work)

    async def _tell_and_end(self, at_work: SliceAtWork) -> None:
        try:
            await self._load.act(self._tell(at_work.job))
        except (ImageLoadError, asyncio.CancelledError):
            pass  # the service stops: the callback is left to another node
        finally:
            self._end(at_work)

    def _end(self, at_work: SliceAtWork) -> None:
        del self._at_work[at_work.place]
        self._slices.end(at_work.job, is_over=at_work.job.summary().is_over, wait=at_work.wait)

    def _images_at_work(self) -> int:
        counts = [each.job.summary().counts for each in self._at_work.values()]
        return sum(each["queued"] + each["downloaded"] for each in counts)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    def _claim(self, place: Place) -> Claimed | None:
        # One suspect at a time, so that it does not make suspects of others.
        may_suspect = not any(each.is_suspect for each in list(self._at_work.values()))
        return self._slices.claim(
            place,
            self._rules.name,
            self._rules.dead_seconds,
            may_rescue=self._heartbeat.is_well,
            may_suspect=may_suspect,
        )

    async def _load_slice(self, at_work: SliceAtWork, claimed: Claimed) -> None:
        job = at_work.job
        if claimed.order.is_open:
            await self._heartbeat.follow(job, claimed.order)
        if claimed.is_poisoned:
            await self._load.act(self._load.at_work.fail(job, _POISON))
        await self._in_a_thread(job)

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
        await done.wait()

    async def _sweep(self) -> None:
        """Queue slices without a worker and without a message; tidy up after dead workers."""
        name, dead_seconds, slices = self._rules.name, self._rules.dead_seconds, self._slices
        pause = min(_SWEEP_SECONDS, dead_seconds / 2)
        tidied = time.monotonic()
        while True:
            await asyncio.sleep(pause)
            is_well = self._heartbeat.is_well
            try:
                count = await asyncio.to_thread(
                    slices.queue_forgotten, name, 2 * pause, rescue=is_well
                )
                if is_well and time.monotonic() - tidied > dead_seconds:
                    await asyncio.to_thread(slices.tidy_queue, dead_seconds)
                    tidied = time.monotonic()
            except ImageLoadError as error:
                _log.debug("no sweep: %s", error)
                continue
            if count:
                _log.info("queued again slices=%d", count)

    async def _park(self) -> None:
        """Let slices go that would wait for long, and take such slices back when they need not."""
        told = None
        while True:
            await asyncio.sleep(_PARK_SECONDS)
            for each in list(self._at_work.values()):
                wait = self._parking.wait_of(each.job, each.place[1])
                if wait is not None and each.wait is None:
                    each.wait = wait
                    with contextlib.suppress(ImageLoadError):  # the service stops
                        self._load.submit(self._load.at_work.let_go(each.job))
            try:
                told = await self._update_waits(told)
                wanted = self._parking.wanted(self._images_at_work())
                if wanted is not None and len(self._at_work) < self._rules.at_once:
                    found = await asyncio.to_thread(self._slices.parked, *wanted)
                    if found is not None:
                        self._begin(found, was_parked=True)
            except ImageLoadError as error:
                _log.debug("no look at the slices that wait: %s", error)

    async def _update_waits(self, told: Wait | None) -> Wait | None:
        """Correct the wait in the rows of waiting slices if it has changed; returns it."""
        wait = self._parking.wait_of_all()
        if wait is None or wait.reason is None:
            return None
        wait = wait._replace(seconds=wait.seconds + time.monotonic())  # a moment, to compare
        is_same = told is not None and told.reason == wait.reason
        if told is not None and is_same and abs(told.seconds - wait.seconds) < _SWEEP_SECONDS:
            return told
        left = wait._replace(seconds=wait.seconds - time.monotonic())
        await asyncio.to_thread(self._slices.update_waits, left)
        return wait


def _log_stray(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    _log.warning("the queue: %s", context.get("exception") or context["message"])


async def _end_other_tasks() -> None:
    """Cancel the tasks that are left on this loop, such as the queue's pool of connections.

    Again and again: a pool that is cancelled while it opens lets one of its tasks lose a cancel.
    """
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        ended, _ = await asyncio.wait(tasks, timeout=0.1)
        await asyncio.gather(*ended, return_exceptions=True)
