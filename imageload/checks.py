"""Checks of a job's links: each landed link is requested once, and the dead ones are kept.

    start ─► a task on the transfer loop ─► Prober, a link at a time in a slot ─► Check ─► the store

The last Check of a job is kept with it in the store. One that runs is in memory only, but a node of
a cluster also stores its progress, so that the other nodes can show it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, get_args

import msgspec

from imageload.errors import ImageError, StoreUnavailable
from imageload.fetch.probe import DEAD, LinkState, Probed, Prober
from imageload.image import Image
from imageload.job import Job
from imageload.store import Store
from imageload.transport.curl import TransferLoop
from imageload.transport.slots import Slots

_log = logging.getLogger(__name__)

_STATES: Sequence[LinkState] = get_args(LinkState)
_PROGRESS_SECONDS = 2.0
_SILENT_SECONDS = 30.0
"""A check of another node that wrote nothing for so long has ended with its node."""
_RETRY_SECONDS = 2.0


class Found(NamedTuple):
    """An image whose link is not alive: its index `n`, and its `version` then."""

    n: int
    version: int
    state: LinkState
    status_code: int | None


class Check(msgspec.Struct, gc=False):
    """A check of a job's links, which were those of `total` images. Moments are seconds since 1970.

    `counts` has the images by the state of their links, so far. `heard`: when a node last wrote
    that it is at work on the check.
    """

    started: float
    total: int
    counts: dict[LinkState, int]
    found: list[Found]
    finished: bool = False
    heard: float = 0.0

    @property
    def checked(self) -> int:
        """How many images were checked."""
        return sum(self.counts.values())

    def dead(self) -> dict[int, int]:
        """The images whose links are dead: their versions then, by index."""
        return {each.n: each.version for each in self.found if each.state in DEAD}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Check).decode


class Checks:
    """The checks of all jobs."""

    def __init__(
        self,
        transfers: TransferLoop,
        store: Store,
        prober: Prober,
        slots: Slots,
        *,
        observe: Callable[[LinkState], object],
        is_shared: bool,
    ) -> None:
        """`slots` bounds the links that are requested at once. `observe` is called with the
        state of each link. `is_shared`: other processes have the store too.
        """
        self._transfers = transfers
        self._store = store
        self._prober = prober
        self._slots = slots
        self._observe = observe
        self._is_shared = is_shared
        self._running: dict[str, Check] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, job: Job) -> Check:
        """Begin a check of `job`, or return the one that runs; for any loop but the transfer loop.

        Raises Refused.
        """
        return await self._transfers.act(self._start(job))

    async def _start(self, job: Job) -> Check:
        if self._is_shared:
            elsewhere = await asyncio.to_thread(self.last, job.job_id)
            if elsewhere is not None and not elsewhere.finished:
                return elsewhere
        running = self._running.get(job.job_id)
        if running is not None:
            return running
        links = _links_of(job)
        total = sum(map(len, links.values()))
        check = Check(time.time(), total, dict.fromkeys(_STATES, 0), [])
        self._running[job.job_id] = check
        try:
            await self._keep_progress(job.job_id, check)
        except BaseException:
            del self._running[job.job_id]
            raise
        task = asyncio.ensure_future(self._run(job.job_id, links, check))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return check

    def last(self, job_id: str) -> Check | None:
        """The last check of a job, which may still run; None without one. Any thread may call it.

        Reads the disk; raises StoreUnavailable.
        """
        running = self._running.get(job_id)
        if running is not None:
            return running
        encoded = self._store.last_check(job_id)
        if encoded is None:
            return None
        check = _decode(encoded)
        is_cut_off = not check.finished and time.time() - check.heard > _SILENT_SECONDS
        return None if is_cut_off else check

    async def _run(
        self, job_id: str, links: Mapping[str, Sequence[tuple[int, Image]]], check: Check
    ) -> None:
        try:
            probing = asyncio.ensure_future(self._probe_all(job_id, links, check))
            try:
                while not (await asyncio.wait([probing], timeout=_PROGRESS_SECONDS))[0]:
                    with contextlib.suppress(StoreUnavailable):  # the result is kept in the end
                        await self._keep_progress(job_id, check)
                probing.result()
            finally:
                probing.cancel()
            counts = " ".join(f"{state}={count}" for state, count in check.counts.items())
            _log.info("checked job=%s %s", job_id, counts)
            await self._keep(job_id, msgspec.structs.replace(check, finished=True))
        except Exception:
            _log.exception("a check broke job=%s", job_id)
        finally:  # from now on it is the store's, as on other nodes
            del self._running[job_id]

    async def _probe_all(
        self, job_id: str, links: Mapping[str, Sequence[tuple[int, Image]]], check: Check
    ) -> None:
        """Request each link, several at the same time."""
        left, since = iter(links.items()), time.monotonic()

        async def work() -> None:
            for link, images in left:
                report = images[0][1].report
                probed = await self._probe(job_id, link, report.bytes if report else None, since)
                check.counts[probed.state] += len(images)
                self._observe(probed.state)
                if probed.state != "alive":
                    check.found += [Found(n, image.version, *probed) for n, image in images]

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._slots.pool.slots, len(links))):
                group.create_task(work())

    async def _probe(self, job_id: str, link: str, length: int | None, since: float) -> Probed:
        try:
            return await self._slots.run(job_id, lambda: self._prober.probe(link, length, since))
        except ImageError as error:  # this process is out of sockets
            _log.warning("a link was not asked for job=%s reason=%s", job_id, error.message)
            return Probed("unreachable")

    async def _keep_progress(self, job_id: str, check: Check) -> None:
        """Keep how far the check is, for other nodes; raises StoreUnavailable."""
        if self._is_shared:
            check.heard = time.time()
            encoded = _encode(msgspec.structs.replace(check, found=[]))
            await asyncio.to_thread(self._store.keep_check, job_id, encoded)

    async def _keep(self, job_id: str, check: Check) -> None:
        """Keep the result, as soon as the store can be written."""
        encoded = _encode(check)
        while True:
            try:
                await asyncio.to_thread(self._store.keep_check, job_id, encoded)
            except StoreUnavailable as error:
                _log.warning("a check is not kept yet job=%s reason=%s", job_id, error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return await self._store.durable()


def _links_of(job: Job) -> Mapping[str, Sequence[tuple[int, Image]]]:
    """The landed links of the job, and the images that have each."""
    links: dict[str, list[tuple[int, Image]]] = {}
    for index, image in enumerate(job.snapshot().images):
        if image.state == "completed" and image.link is not None:
            links.setdefault(image.link, []).append((index, image))
    return links
