"""Tests of web.limits: threads for work off the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from imageload.errors import Refused
from imageload.settings import Settings
from imageload.store.memory import MemoryStore
from imageload.web.access import Access
from imageload.web.idempotency import IdempotencyKeys
from imageload.web.limits import RequestLimits
from tests.waiting import PATIENCE


def make_limits() -> RequestLimits:
    """RequestLimits for the running event loop."""
    return RequestLimits(Access(Settings(), []), IdempotencyKeys(MemoryStore()), 10)


def test_work_runs_in_another_thread_and_its_error_is_raised_to_the_request() -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    async def run() -> None:
        limits = make_limits()
        assert await limits.run_in_thread(threading.get_ident) != threading.get_ident()
        with pytest.raises(RuntimeError, match="a bug"):
            await limits.run_in_thread(fail)
        limits.close()

    asyncio.run(run())


def test_many_requests_wait_for_the_disk_at_once() -> None:
    async def run() -> None:
        limits, meet = make_limits(), threading.Barrier(8)
        await asyncio.gather(
            *(limits.run_in_thread(lambda: meet.wait(PATIENCE), needs_cpu=False) for _ in range(8))
        )
        limits.close()
        with pytest.raises(Refused, match="stopping"):
            await limits.run_in_thread(threading.get_ident, needs_cpu=False)

    asyncio.run(run())


def test_work_that_waits_for_a_thread_when_the_service_stops_is_refused() -> None:
    async def run() -> None:
        limits = make_limits()
        begun, go_on = threading.Semaphore(0), threading.Event()

        def hold() -> str:
            begun.release()
            go_on.wait(PATIENCE)
            return "done"

        held = [asyncio.create_task(limits.run_in_thread(hold)) for _ in range(2)]
        for _ in held:
            assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE)
        waiting = asyncio.create_task(limits.run_in_thread(hold))
        await asyncio.sleep(0)
        limits.close()
        go_on.set()
        assert await asyncio.gather(*held) == ["done", "done"]
        for late in (waiting, limits.run_in_thread(hold)):
            with pytest.raises(Refused) as caught:
                await late
            assert caught.value.slug == "shutting-down"

    asyncio.run(run())
