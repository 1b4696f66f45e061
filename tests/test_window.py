"""Tests of window: which image of a job starts next, and how many are in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from imageload.errors import Failure
from imageload.fetch.hosts import host_of
from imageload.job import Job
from imageload.transport.loop import is_urgent
from imageload.window import StartOrder, Window
from tests.waiting import PATIENCE


def order_of(*hosts: str) -> StartOrder:
    """The order of images at these hosts."""
    order = StartOrder(hosts.__getitem__)
    order.add(range(len(hosts)))
    return order


def drained(order: StartOrder) -> list[int]:
    """The images in the order in which they start."""
    found = []
    while (index := order.next()) is not None:
        found.append(index)
    return found


def test_images_start_in_input_order() -> None:
    order = order_of("a", "b", "a", "c")
    assert drained(order) == [0, 1, 2, 3]
    assert not order


def test_images_of_other_hosts_overtake_images_of_a_waiting_host() -> None:
    order = order_of("a", "a", "b", "a", "c")
    assert order.next() == 0
    order.block("a")
    assert drained(order) == [2, 4]
    assert order
    assert order.unblock("a"), "others are queued behind it"
    assert drained(order) == [1, 3]
    assert not order


def test_one_image_at_a_time_starts_of_a_host_that_waits_again() -> None:
    order = order_of("a", "a", "a")
    started = []
    while (index := order.next()) is not None:
        started.append(index)
        order.block("a")
        assert order.next() is None
        order.unblock("a")
    assert started == [0, 1, 2]


def test_a_host_with_two_waiting_images_is_blocked_until_both_continue() -> None:
    order = order_of("a", "a", "a")
    order.block("a")
    order.block("a")
    assert order.next() is None
    assert not order.unblock("a")
    assert order.next() is None
    assert order.unblock("a")
    assert drained(order) == [0, 1, 2]


def test_an_order_that_is_cleared_has_nothing_left() -> None:
    order = order_of("a", "a", "b")
    order.block("a")
    assert order.next() == 2
    order.clear()
    assert not order
    order.unblock("a")
    assert order.next() is None


def test_each_of_a_hundred_thousand_images_of_a_busy_host_is_read_once() -> None:
    asked = 0

    def host_of_index(_: int) -> str:
        nonlocal asked
        asked += 1
        return "a"

    order = StartOrder(host_of_index)
    order.add(range(100_000))
    order.block("a")
    for _ in range(1_000):
        assert order.next() is None
    assert asked == 100_000


class Stage:
    """A Window whose images wait for the test."""

    def __init__(self, urls: list[str], places: int, *, waits: bool = False) -> None:
        self.job = Job(urls)
        self.at: list[int] = []
        self.waits = waits
        self._let_on: dict[int, asyncio.Event] = {}

        def may_start(window: Window) -> bool:
            return window.places < places

        self.window = Window(self.job, self._load, may_start, host_of)

    async def _load(self, window: Window, index: int) -> None:
        self._let_on[index] = asyncio.Event()
        self.at.append(index)
        if self.waits:
            with window.aside(index, host_of(self.job.image(index).url)):
                await self._let_on[index].wait()
        else:
            await self._let_on[index].wait()

    async def settle(self) -> list[int]:
        """The started images, when no more start."""
        for _ in range(20):
            await asyncio.sleep(0)
        return self.at

    def resume(self, *indexes: int) -> None:
        for index in indexes:
            self._let_on[index].set()


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), PATIENCE))


def test_the_number_of_images_in_flight_is_bounded() -> None:
    async def scene() -> None:
        stage = Stage([f"http://{n}.example/" for n in range(5)], places=2)
        stage.window.add(range(5))
        assert await stage.settle() == [0, 1]
        stage.resume(1)
        assert await stage.settle() == [0, 1, 2]
        stage.resume(0, 2)
        assert await stage.settle() == [0, 1, 2, 3, 4]
        stage.resume(3, 4)
        await stage.window.wait_until_empty()
        assert stage.window.places == 0

    play(scene)


def test_one_image_of_each_host_waits_without_a_place_in_the_window() -> None:
    async def scene() -> None:
        urls = [
            "http://a.example/1",
            "http://a.example/2",
            "http://b.example/",
            "http://c.example/",
        ]
        stage = Stage(urls, places=1, waits=True)
        stage.window.add(range(4))
        assert await stage.settle() == [0, 2, 3]
        stage.resume(0)
        assert await stage.settle() == [0, 2, 3, 1]
        stage.resume(1, 2, 3)
        await stage.window.wait_until_empty()

    play(scene)


def test_a_window_that_is_dropped_and_cancelled_is_soon_empty() -> None:
    async def scene() -> None:
        stage = Stage([f"http://{n}.example/" for n in range(5)], places=2)
        stage.window.add(range(5))
        await stage.settle()
        stage.window.note_sending(1, is_sent=True)
        stage.window.end(None, but_sending=True)
        assert await stage.settle() == [0, 1]
        assert 0 not in stage.window
        assert 1 in stage.window
        stage.window.end(None)
        await stage.window.wait_until_empty()

    play(scene)


def test_an_image_cancelled_before_its_task_starts_leaves_the_window() -> None:
    """Its task never runs, so the cancel ends it like the images that have not started."""

    async def scene() -> None:
        stage = Stage([f"http://{n}.example/" for n in range(2)], places=2)
        stage.window.add(range(2))
        stage.window.end(None)
        assert [n in stage.window for n in range(2)] == [False, False]
        stage.window.add([0])  # a retry, before the cancelled task has ended
        assert await stage.settle() == [0]
        assert 0 in stage.window
        stage.resume(0)
        await stage.window.wait_until_empty()

    play(scene)


def test_an_empty_window_is_not_waited_for() -> None:
    async def scene() -> None:
        stage = Stage([], places=2)
        stage.window.add([])
        await stage.window.wait_until_empty()

    play(scene)


def test_an_upload_that_was_left_to_land_is_cancelled_if_it_waits_for_another_try() -> None:
    async def scene() -> None:
        stage = Stage(["http://a.example/", "http://b.example/"], places=2)
        stage.window.add(range(2))
        await stage.settle()
        for index in range(2):
            stage.window.note_sending(index, is_sent=True)
        stage.window.note_sending(1, is_sent=False)
        await stage.settle()
        assert 1 in stage.window, "nothing was cancelled yet"
        stage.window.end(Failure("cancelled", "Cancelled.", transient=False), but_sending=True)
        stage.window.note_sending(0, is_sent=False)
        await stage.window.wait_until_empty()

    play(scene)


def test_images_that_are_added_later_start_after_the_others() -> None:
    async def scene() -> None:
        stage = Stage([f"http://{n}.example/" for n in range(4)], places=1)
        stage.window.add([2, 3])
        stage.window.add([0])
        for index in (2, 3, 0):
            assert (await stage.settle())[-1] == index
            stage.resume(index)
        await stage.window.wait_until_empty()

    play(scene)


def test_a_window_that_another_task_fills_keeps_its_own_urgency() -> None:
    seen = []

    async def load(window: Window, index: int) -> None:  # noqa: ARG001
        seen.append(is_urgent.get())

    async def scene() -> None:
        windows = []
        for urgent in (True, False):
            is_urgent.set(urgent)
            job = Job([f"https://{n}.example/" for n in range(3)])
            windows.append(Window(job, load, lambda window: not window.places, host_of))
        for urgent, window in zip((False, True), windows, strict=True):
            is_urgent.set(urgent)
            window.add(range(3))
            await window.wait_until_empty()

    play(scene)
    assert seen == [True] * 3 + [False] * 3
