"""Tests of convert.memory: what an image needs, and the line of those that wait."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from imageload.convert.memory import Memory, needed_bytes
from imageload.fetch.sniff import read_header
from imageload.image import Report
from tests.origin import IMAGES


@pytest.mark.parametrize(
    ("still", "animated"),
    [
        ("webp-lossy-vp8.webp", "webp-animated.webp"),
        ("webp-extended-alpha.webp", "webp-animated.webp"),
        ("avif-still.avif", "avif-sequence.avif"),
        ("png-rgb.png", "apng-animated.png"),
        ("jpeg-baseline.jpg", "gif-animated.gif"),
    ],
)
def test_an_animation_needs_twice_the_memory_per_pixel(still: str, animated: str) -> None:
    per_pixel = []
    for name in (still, animated):
        path = IMAGES / name
        header = read_header(path)
        assert header is not None
        large = Report(str(path), 200, 0, header.type, 1_000, 1_000, "")
        per_pixel.append(((needed_bytes(large) or 0) - 64 * 2**20) / 10**6)
    assert per_pixel == [22, 46]


def test_an_image_of_unknown_size_may_need_anything() -> None:
    assert needed_bytes(Report("", 200, 0, "image/webp", None, None, "")) is None


def test_memory_is_granted_in_the_order_in_which_it_was_asked_for() -> None:
    """A large request is not overtaken by small ones for ever."""

    async def ask() -> list[str]:
        memory, order = Memory(10), list[str]()

        async def use(name: str, size: int) -> None:
            async with memory.reserve(size):
                order.append(name)

        async with AsyncExitStack() as stack:
            await stack.enter_async_context(memory.reserve(6))
            tasks = [asyncio.create_task(use(*each)) for each in (("large", 8), ("small", 1))]
            await asyncio.sleep(0)
            assert (memory.reserved, memory.waiting) == (6, 2)
        await asyncio.gather(*tasks)
        assert (memory.reserved, memory.waiting) == (0, 0)
        return order

    assert asyncio.run(ask()) == ["large", "small"]


def test_one_that_is_cancelled_while_it_waits_lets_the_next_one_in() -> None:
    async def ask() -> None:
        memory, entered = Memory(10), asyncio.Event()

        async def use(size: int) -> None:
            async with memory.reserve(size):
                entered.set()

        async with memory.reserve(6):
            large, small = (asyncio.create_task(use(size)) for size in (8, 4))
            await asyncio.sleep(0)
            large.cancel()
            await entered.wait()
            await small
            assert (memory.reserved, memory.waiting) == (6, 0)
        assert memory.reserved == 0

    asyncio.run(ask())
