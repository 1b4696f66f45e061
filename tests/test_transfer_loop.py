"""Tests of transport.loop: which of the tasks that are ready go first."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

from imageload.transport.loop import UrgentFirstLoop, is_urgent
from tests.waiting import PATIENCE


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `scene` on the loop."""
    loop = UrgentFirstLoop()
    try:
        loop.run_until_complete(asyncio.wait_for(scene(), PATIENCE))
    finally:
        loop.close()


def start(log: list[str], name: str, steps: int, *, urgent: bool = False) -> asyncio.Task[None]:
    """A task that logs `name` at each of its steps."""

    async def work() -> None:
        for _ in range(steps):
            log.append(name)
            await asyncio.sleep(0)

    context = copy_context()
    context.run(is_urgent.set, urgent)
    return asyncio.get_running_loop().create_task(work(), context=context)


def test_an_urgent_task_needs_no_turns_of_others_that_are_ready() -> None:
    async def scene() -> None:
        log: list[str] = []
        others = [start(log, f"other {n}", 2) for n in range(20)]
        urgent = start(log, "urgent", 5, urgent=True)
        await asyncio.gather(*others, urgent)
        assert log[:5] == ["urgent"] * 5
        assert log[5:] == 2 * [f"other {n}" for n in range(20)]

    play(scene)


def test_others_go_on_while_an_urgent_task_is_ready_all_the_time() -> None:
    async def scene() -> None:
        log: list[str] = []
        long = start(log, "urgent", 100_000, urgent=True)
        await start(log, "other", 100)
        assert 1_000 < log.count("urgent") < 10_000
        long.cancel()
        await asyncio.wait([long])

    play(scene)


def test_calls_from_other_threads_go_first_and_in_order() -> None:
    async def scene() -> None:
        log: list[str] = []
        others = [start(log, "other", 2) for _ in range(5)]
        loop = asyncio.get_running_loop()

        def call() -> None:
            for n in range(3):
                loop.call_soon_threadsafe(log.append, f"call {n}")

        thread = threading.Thread(target=call)
        thread.start()
        thread.join(PATIENCE)
        await asyncio.gather(*others)
        assert log == ["call 0", "call 1", "call 2"] + ["other"] * 10

    play(scene)


def test_a_socket_that_is_ready_goes_before_tasks_that_are() -> None:
    async def scene() -> None:
        log: list[str] = []
        loop = asyncio.get_running_loop()
        reader, writer = socket.socketpair()
        with reader, writer:
            writer.send(b"received")
            loop.add_reader(reader, lambda: log.append(reader.recv(9).decode()))
            await asyncio.gather(*[start(log, "other", 2) for _ in range(5)])
            loop.remove_reader(reader)
        assert log == ["received"] + ["other"] * 10

    play(scene)
