"""Tests of transport.slots: keys share slots fairly, and every slot is released."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from imageload.errors import DiskFull, ResourceError
from imageload.transport.slots import Slots
from tests.waiting import PATIENCE


class Bench:
    """Work in slots that runs until the test ends it."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.running: list[tuple[str, int]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._let_end: dict[tuple[str, int], asyncio.Event] = {}
        self._added = Counter[str]()

    def add(self, key: str, count: int = 1) -> None:
        """Add `count` pieces of work of `key`."""
        for _ in range(count):
            name = key, self._added[key]
            self._added[key] += 1
            self._let_end[name] = asyncio.Event()
            work = self._work(name)
            self.tasks.append(asyncio.ensure_future(self.slots.run(key, work)))

    def _work(self, name: tuple[str, int]) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            self.running.append(name)
            try:
                await self._let_end[name].wait()
            finally:
                self.running.remove(name)

        return work

    async def settled(self) -> Counter[str]:
        """How much work of each key runs, once nothing more can start."""
        for _ in range(10):
            await asyncio.sleep(0)
        return Counter(key for key, _ in self.running)

    def end(self, *names: tuple[str, int]) -> None:
        """End this work."""
        for name in names:
            self._let_end[name].set()

    async def end_all(self) -> None:
        """End all work, and wait for it."""
        self.end(*self._let_end)
        await asyncio.gather(*self.tasks, return_exceptions=True)


def on_a_loop(slots: Slots, play: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    """Do `play`; afterwards no slot is taken and nothing waits."""

    async def whole() -> None:
        bench = Bench(slots)
        await play(bench)
        await bench.end_all()
        assert slots.pool.busy == 0
        assert slots.pool.waiting == 0

    asyncio.run(whole())


@pytest.mark.parametrize(("slots", "most"), [(1, 1), (2, 1), (3, 2), (4, 2), (8, 4), (32, 16)])
def test_a_key_alone_holds_at_most_half_of_the_slots_rounded_up(slots: int, most: int) -> None:
    async def play(bench: Bench) -> None:
        bench.add("a", 40)
        assert await bench.settled() == {"a": most}

    on_a_loop(Slots(slots), play)


def test_a_key_holds_at_most_half_of_the_slots_that_the_others_leave() -> None:
    async def play(bench: Bench) -> None:
        for key in "abcdef":
            bench.add(key, 40)
            await bench.settled()
        assert await bench.settled() == {"a": 16, "b": 8, "c": 4, "d": 2, "e": 1, "f": 1}

    on_a_loop(Slots(32), play)


@pytest.mark.parametrize("keys", [2, 3, 7])
def test_busy_keys_end_up_with_equal_shares_and_leave_one_for_the_next(keys: int) -> None:
    async def play(bench: Bench) -> None:
        for key in range(keys):
            bench.add(str(key), 500)
        for _ in range(200):
            running = await bench.settled()
            bench.end(*bench.running[: len(bench.running) // 4 + 1])
        running = await bench.settled()
        share = 32 / (keys + 1)
        assert all(
            math.floor(share) - 1 <= held <= math.ceil(share) + 1 for held in running.values()
        )
        bench.add("late")
        assert (await bench.settled())["late"] == 1

    on_a_loop(Slots(32), play)


def test_the_work_of_a_key_starts_in_order_and_keys_take_turns() -> None:
    async def play(bench: Bench) -> None:
        bench.add("a", 3)
        bench.add("b", 3)
        order = []
        while await bench.settled():
            order += bench.running
            bench.end(*bench.running)
        assert order == [("a", 0), ("a", 1), ("b", 0), ("a", 2), ("b", 1), ("b", 2)]

    on_a_loop(Slots(1), play)


def test_work_passes_ten_thousand_of_another_key() -> None:
    async def play(bench: Bench) -> None:
        bench.add("large", 10_000)
        await bench.settled()
        bench.add("small")
        assert (await bench.settled())["small"] == 1

    on_a_loop(Slots(8), play)


def test_work_cancelled_in_the_queue_or_in_its_slot_releases_everything() -> None:
    async def play(bench: Bench) -> None:
        bench.add("a", 6)
        await bench.settled()
        bench.tasks[1].cancel()  # in its slot
        bench.tasks[4].cancel()  # in the line
        await bench.settled()
        assert [name for _, name in bench.running] == [0, 2]
        bench.tasks[0].cancel()
        bench.tasks[3].cancel()  # granted, and cancelled before it ran
        assert [name for _, name in bench.running] == [0, 2]
        await bench.settled()
        assert [name for _, name in bench.running] == [2, 5]
        await asyncio.wait([bench.tasks[n] for n in (0, 1, 3, 4)])

    on_a_loop(Slots(4), play)


def test_a_gate_that_is_closed_lets_nothing_start_until_it_opens() -> None:
    seconds = [math.inf]

    async def play(bench: Bench) -> None:
        bench.add("a", 2)
        assert not await bench.settled()
        assert bench.slots.pool.waiting == 2
        seconds[0] = 0.0
        bench.slots.reconsider()
        assert await bench.settled() == {"a": 2}

    on_a_loop(Slots(4, gate=lambda: seconds[0]), play)


def test_a_gate_with_a_time_is_checked_again_then() -> None:
    answers = iter([0.01, 0.01, 0.01])

    async def play(bench: Bench) -> None:
        bench.add("a")
        async with asyncio.timeout(PATIENCE):
            while not bench.running:
                await asyncio.sleep(0.001)  # polls

    on_a_loop(Slots(4, gate=lambda: next(answers, 0.0)), play)


def test_a_lack_of_resources_halves_the_slots_and_success_restores_them() -> None:
    sizes: list[int] = []
    slots = Slots(4, on_resize=sizes.append)

    async def full_disk() -> None:
        raise DiskFull("The disk is full.")

    async def nothing() -> None:
        return None

    async def play(_: Bench) -> None:
        with pytest.raises(DiskFull):
            await slots.run("a", full_disk)
        assert slots.pool.slots == 2
        for _n in range(2 + 3):
            await slots.run("a", nothing)
        assert sizes == [2, 3, 4]

    on_a_loop(slots, play)


def test_work_that_lacks_descriptors_waits_for_others_to_end_and_is_done_again() -> None:
    tries = []

    async def lacking(bench: Bench) -> str:
        tries.append(len(bench.running))
        if bench.running:
            raise ResourceError("The service is out of sockets for now.")
        return "done"

    async def play(bench: Bench) -> None:
        bench.add("a")
        await bench.settled()
        second = asyncio.ensure_future(bench.slots.run("b", lambda: lacking(bench)))
        await bench.settled()
        assert tries
        assert not second.done()
        bench.end(("a", 0))
        assert await second == "done"

    on_a_loop(Slots(4), play)


def test_work_that_lacks_descriptors_alone_fails() -> None:
    async def lacking() -> None:
        raise ResourceError("The service is out of sockets for now.")

    async def play(bench: Bench) -> None:
        with pytest.raises(ResourceError):
            await bench.slots.run("a", lacking)

    on_a_loop(Slots(4), play)


def test_the_seconds_of_each_work_and_each_new_number_of_slots_are_reported() -> None:
    seconds: list[float] = []
    sizes: list[int] = []
    slots = Slots(4, clock=seconds.append, on_resize=sizes.append)

    async def fail() -> None:
        raise DiskFull("The disk is full.")

    async def scene() -> None:
        with pytest.raises(DiskFull):
            await slots.run("a", fail)
        for _ in range(5):
            await slots.run("a", lambda: asyncio.sleep(0))

    asyncio.run(scene())
    assert len(seconds) == 6
    assert sizes == [2, 3, 4]


def test_work_that_raises_releases_its_slot_and_the_next_starts() -> None:
    slots = Slots(1)

    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError("a bug")

    async def scene() -> None:
        ended = await asyncio.gather(
            *(slots.run("a", fail) for _ in range(3)), return_exceptions=True
        )
        assert [type(each) for each in ended] == [LookupError] * 3
        assert slots.pool == (1, 0, 0)

    asyncio.run(scene())
