"""Tests of transport.slots: shares for all, none for ever, and no item lost."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Hashable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from imageload.transport.fair import FairQueue


def put(queue: FairQueue[int], key: Hashable, count: int = 1) -> None:
    """Stand `count` items, numbered from 0, in the line of `key`."""
    for number in range(count):
        queue.put(key, number)


def take_all(queue: FairQueue[int]) -> Counter[Hashable]:
    """How many items of each key there are slots for now; they are taken."""
    taken: Counter[Hashable] = Counter()
    while (found := queue.take()) is not None:
        taken[found[0]] += 1
    return taken


def test_an_empty_queue_has_nothing_to_give() -> None:
    queue: FairQueue[int] = FairQueue(4)
    assert queue.take() is None
    assert queue.clear() == []


def test_an_item_comes_with_its_key() -> None:
    queue: FairQueue[str] = FairQueue(4)
    queue.put("a", "item")
    assert queue.take() == ("a", "item")
    assert queue.take() is None


def test_the_items_of_a_key_come_in_order() -> None:
    queue: FairQueue[int] = FairQueue(1)
    put(queue, "a", 100)
    for number in range(100):
        assert queue.take() == ("a", number)
        assert queue.take() is None
        queue.give_back("a")


def test_keys_are_served_in_turn() -> None:
    queue: FairQueue[int] = FairQueue(1)
    for key in ("a", "b", "c"):
        put(queue, key, 3)
    order = []
    while (found := queue.take()) is not None:
        order.append(found)
        queue.give_back(found[0])
    assert order == [(key, number) for number in range(3) for key in ("a", "b", "c")]


def test_a_key_that_comes_late_waits_for_one_turn_and_not_for_a_whole_line() -> None:
    queue: FairQueue[int] = FairQueue(1)
    put(queue, "large", 10_000)
    assert queue.take() == ("large", 0)
    put(queue, "small")
    queue.give_back("large")
    assert queue.take() == ("large", 1)
    queue.give_back("large")
    assert queue.take() == ("small", 0)


@pytest.mark.parametrize(
    ("slots", "most"), [(1, 1), (2, 1), (3, 2), (4, 2), (7, 4), (8, 4), (9, 5), (32, 16)]
)
def test_a_key_alone_holds_at_most_half_of_the_slots_rounded_up(slots: int, most: int) -> None:
    queue: FairQueue[int] = FairQueue(slots)
    put(queue, "a", 3 * slots)
    assert take_all(queue) == {"a": most}


def test_a_key_holds_at_most_half_of_what_the_others_leave() -> None:
    queue: FairQueue[int] = FairQueue(32)
    held = []
    for key in range(8):
        put(queue, key, 100)
        held.append(take_all(queue)[key])
    assert held == [16, 8, 4, 2, 1, 1, 0, 0], "six keys that hang fill 32 slots"


@pytest.mark.parametrize("keys", [1, 2, 3, 4, 9])
def test_keys_that_are_busy_together_have_an_equal_share_each_and_leave_one_for_the_next(
    keys: int,
) -> None:
    slots, share = 60, 60 // (keys + 1)
    queue: FairQueue[int] = FairQueue(slots)
    for key in range(keys):
        put(queue, key, slots)
    assert take_all(queue) == dict.fromkeys(range(keys), share)
    put(queue, "next")
    assert take_all(queue) == {"next": 1}


def test_a_key_that_hung_alone_shrinks_to_its_share_as_it_gives_back() -> None:
    queue: FairQueue[int] = FairQueue(30)
    put(queue, "a", 1_000)
    put(queue, "b", 1_000)
    held = take_all(queue)
    assert held == {"a": 10, "b": 10}
    put(queue, "c", 1_000)
    held += take_all(queue)
    assert held["c"] == 5, "half of what the others left"
    for _ in range(100):
        for key in ("a", "b"):
            queue.give_back(key)
            held[key] -= 1
            held += take_all(queue)
    assert held["c"] >= 7
    assert max(held.values()) - min(held.values()) <= 2


def test_what_is_given_back_may_be_taken_by_two_keys_at_once() -> None:
    queue: FairQueue[int] = FairQueue(12)
    for _ in range(4):
        for key in ("a", "b"):
            put(queue, key)
            assert take_all(queue) == {key: 1}
    put(queue, "b")
    put(queue, "a")
    assert queue.take() is None, "both are at their share"
    queue.give_back("a")
    assert take_all(queue) == {"a": 1, "b": 1}


def test_a_key_that_gave_all_back_has_a_full_share_again() -> None:
    queue: FairQueue[int] = FairQueue(8)
    for _ in range(3):
        put(queue, "a", 4)
        assert take_all(queue) == {"a": 4}
        for _ in range(4):
            queue.give_back("a")


def test_what_hung_keys_leave_is_enough_for_a_whole_job() -> None:
    queue: FairQueue[int] = FairQueue(16)
    for key in ("a", "b", "c"):
        put(queue, key, 100)
        take_all(queue)
    put(queue, "alive", 1_000)
    for number in range(1_000):
        assert queue.take() == ("alive", number)
        queue.give_back("alive")


def test_clear_gives_what_waits_once_and_leaves_what_is_held() -> None:
    queue: FairQueue[int] = FairQueue(2)
    put(queue, "a", 3)
    put(queue, "b", 2)
    assert queue.take() == ("a", 0)
    assert sorted(queue.clear()) == [0, 1, 1, 2]
    assert queue.clear() == []
    assert queue.take() is None
    queue.give_back("a")
    put(queue, "a", 1)
    assert queue.take() == ("a", 0)


def test_a_hundred_thousand_items_of_one_key_cost_no_square() -> None:
    queue: FairQueue[int] = FairQueue(32)
    put(queue, "a", 100_000)
    for number in range(100_000):
        assert queue.take() == ("a", number)
        queue.give_back("a")


class Walk(RuleBasedStateMachine):
    """Any order of put, take and give_back, beside a model of lists."""

    KEYS = st.integers(0, 5)

    def __init__(self) -> None:
        super().__init__()
        self.slots = 7
        self.queue: FairQueue[int] = FairQueue(self.slots)
        self.waiting: dict[Hashable, deque[int]] = {}
        self.held: Counter[Hashable] = Counter()
        self.number = 0

    @rule(key=KEYS, count=st.integers(1, 12))
    def put_some(self, key: int, count: int) -> None:
        for _ in range(count):
            self.queue.put(key, self.number)
            self.waiting.setdefault(key, deque()).append(self.number)
            self.number += 1

    @rule()
    def take_one(self) -> None:
        found = self.queue.take()
        if found is None:
            for key, line in self.waiting.items():
                assert not line or self._is_at_its_share(key), "it could have had a slot"
            return
        key, item = found
        assert not self._is_at_its_share(key)
        assert self.waiting[key].popleft() == item, "in order, and never twice"
        self.held[key] += 1

    @precondition(lambda self: self.held.total() > 0)
    @rule(choice=st.integers(0, 99))
    def give_one_back(self, choice: int) -> None:
        held = [*self.held.elements()]
        key = held[choice % len(held)]
        self.queue.give_back(key)
        self.held[key] -= 1

    @rule()
    def clear(self) -> None:
        cleared = [number for line in self.waiting.values() for number in line]
        assert sorted(self.queue.clear()) == sorted(cleared)
        self.waiting.clear()

    @invariant()
    def no_more_is_held_than_there_are_slots(self) -> None:
        assert self.held.total() <= self.slots

    def _is_at_its_share(self, key: Hashable) -> bool:
        left_by_others = self.slots - self.held.total() + self.held[key]
        return self.held[key] >= math.ceil(left_by_others / 2)

    def teardown(self) -> None:
        """Whoever waits is served in the end."""
        for key in self.held.elements():
            self.queue.give_back(key)
        while (found := self.queue.take()) is not None:
            assert self.waiting[found[0]].popleft() == found[1]
            self.queue.give_back(found[0])
        assert not any(self.waiting.values())


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
