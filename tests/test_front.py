"""What all requests share: threads for large bodies, and room for all of them together."""

from __future__ import annotations

import asyncio
import threading

import pytest

from imageload.settings import Config
from imageload.web.access import Access
from imageload.web.front import Front, Room
from imageload.web.idempotency import IdempotencyKeys
from tests.raising import raises_refused


def make_front() -> Front:
    """A Front, for the event loop that runs."""
    return Front(Access(Config(), []), IdempotencyKeys(set()), Room(10))


def test_work_is_done_in_another_thread_and_its_error_is_the_requests() -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    async def run() -> None:
        front = make_front()
        assert await front.run(threading.get_ident) != threading.get_ident()
        with pytest.raises(RuntimeError, match="a bug"):
            await front.run(fail)
        front.close()

    asyncio.run(run())


def test_many_wait_for_a_disk_at_once_while_few_read() -> None:
    async def run() -> None:
        front, meet = make_front(), threading.Barrier(8)
        await asyncio.gather(*(front.wait(lambda: meet.wait(10)) for _ in range(8)))
        front.close()
        with raises_refused("shutting-down"):
            await front.wait(threading.get_ident)

    asyncio.run(run())


def test_what_waits_for_a_thread_when_the_service_stops_is_told_so() -> None:
    async def run() -> None:
        front = make_front()
        begun, go_on = threading.Semaphore(0), threading.Event()

        def hold() -> str:
            begun.release()
            go_on.wait(10)
            return "done"

        held = [asyncio.create_task(front.run(hold)) for _ in range(2)]
        for _ in held:
            assert await asyncio.to_thread(begun.acquire, timeout=10)
        waiting = asyncio.create_task(front.run(hold))
        await asyncio.sleep(0)
        front.close()
        go_on.set()
        assert await asyncio.gather(*held) == ["done", "done"]
        for late in (waiting, front.run(hold)):
            with raises_refused("shutting-down"):
                await late

    asyncio.run(run())


def test_room_is_taken_whole_or_not_at_all() -> None:
    room = Room(10)
    assert room.take(6)
    assert not room.take(5)
    assert room.take(4)
    room.give_back(6)
    assert room.left == 6
