"""Tests of transport.turns: which tasks are resumed at which turn of the loop."""

from __future__ import annotations

import asyncio

from imageload.transport.turns import Turns


class Clock:
    """Stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def put(turns: Turns[int], job: str, count: int) -> list[asyncio.Future[int]]:
    """Futures of a job, whose results wait to be set."""
    futures = [asyncio.get_running_loop().create_future() for _ in range(count)]
    for number, future in enumerate(futures):
        turns.put(job, future, number)
    return futures


def done(futures: list[asyncio.Future[int]]) -> int:
    """How many have their results, which are in order."""
    found = [number for number, future in enumerate(futures) if future.done()]
    assert [futures[number].result() for number in found] == found == list(range(len(found)))
    return len(found)


def test_all_tasks_are_resumed_at_once() -> None:
    async def steps() -> None:
        turns = Turns[int]()
        futures = put(turns, "large", 100)
        turns.resume()
        assert done(futures) == 100

    asyncio.run(steps())


def test_short_turns_resume_two_tasks_of_each_job() -> None:
    async def steps() -> None:
        turns = Turns[int](Clock())
        turns.shorten()
        large = put(turns, "large", 5)
        small = put(turns, "small", 1)
        turns.resume()
        assert (done(large), done(small)) == (2, 1)
        late = put(turns, "late", 1)
        turns.resume()  # they are resumed with the others
        assert done(late) == 0
        await asyncio.sleep(0)
        assert (done(large), done(late)) == (4, 1)
        await asyncio.sleep(0)
        assert done(large) == 5

    asyncio.run(steps())


def test_turns_are_short_for_a_quarter_of_a_second() -> None:
    async def steps() -> None:
        clock = Clock()
        turns = Turns[int](clock)
        turns.shorten()
        clock.now = 0.2
        futures = put(turns, "large", 9)
        turns.resume()
        assert done(futures) == 2
        clock.now = 0.25
        await asyncio.sleep(0)
        assert done(futures) == 9

    asyncio.run(steps())


def test_a_task_that_was_cancelled_is_passed_over() -> None:
    async def steps() -> None:
        turns = Turns[int]()
        first, second = put(turns, "job", 2)
        first.cancel()
        turns.resume()
        assert first.cancelled()
        assert second.result() == 1

    asyncio.run(steps())
