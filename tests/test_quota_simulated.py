"""Tests of targets.limits.quota over hours of simulated time, against tests/imgur_model: few 429s,
little of a budget unused, and correct forecasts.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageload.targets.limits.breaker import Terms
from imageload.targets.limits.quota import Quotas
from tests.imgur_model import Clock, Imgur, Resets, Sender

WINDOWS = 4
RESETS = st.sampled_from(["seconds", "epoch", "constant", "none"])


@dataclass(frozen=True, kw_only=True)
class World:
    """The start of a simulation. `latency` is the maximum of one direction, in seconds."""

    seed: int
    hour: float = 60.0
    day: float = 1_440.0
    user: int = 500
    client: int = 12_500
    posts: int = 1_250
    clients: int = 1
    slots: int = 16
    latency: float = 0.5
    resets: Resets = "seconds"

    def begin(self) -> Sender:
        """A Sender with a model of Imgur."""
        clock = Clock(1_000.0 + self.seed % 1_000 / 1_000)
        draw = random.Random(self.seed).uniform
        imgur = Imgur(
            clock=clock,
            hour=self.hour,
            day=self.day,
            user=self.user,
            client=self.client,
            posts=self.posts,
            resets=self.resets,
        )
        return Sender(
            imgur=imgur,
            quotas=Quotas(self.clients, Terms(hour=self.hour, day=self.day), clock),
            clock=clock,
            slots=self.slots,
            latency=lambda: draw(self.latency / 10, self.latency),
        )


def used(sender: Sender, name: str, windows: float) -> float:
    """The share of the budget of `windows` windows that was spent, in whole uploads."""
    window = sender.imgur.window(name, 0 if name == "posts" else 1)
    cost = 1 if name == "posts" else 10
    return window.spent_in_all / (window.limit // cost * cost * windows)


WORLDS = st.builds(
    World,
    seed=st.integers(0, 2**32),
    hour=st.sampled_from([60.0, 600.0, 3_600.0]),
    user=st.sampled_from([30, 105, 500]),
    slots=st.sampled_from([4, 16, 32]),
    latency=st.sampled_from([0.01, 0.2, 0.6]),
    resets=RESETS,
)


@given(WORLDS)
@settings(max_examples=24, deadline=None)
def test_the_whole_user_budget_is_spent_without_a_429(world: World) -> None:
    sender = world.begin()
    sender.run(WINDOWS * world.hour)
    assert sender.refused == []
    assert used(sender, "user", WINDOWS) >= 0.9


@given(WORLDS)
@settings(max_examples=12, deadline=None)
def test_the_whole_daily_budget_is_spent_if_it_is_below_the_sum_of_its_hours(world: World) -> None:
    day = replace(world, day=6 * world.hour, client=4 * world.user - 7)
    sender = day.begin()
    sender.run(3 * day.day)
    assert sender.refused == []
    assert used(sender, "client", 3) >= 0.9


@given(WORLDS, st.sampled_from([1, 2, 3]), st.sampled_from([0.3, 1.0, 3.0]))
@settings(max_examples=24, deadline=None)
def test_uploads_at_random_times_get_at_most_one_429_per_window_and_budget(
    world: World, clients: int, pace: float
) -> None:
    """Costs between a window's true end and the end that we know count in the next window.

    Each budget can cause one 429: each client id has two budgets, and one is shared.
    """
    sender = replace(world, clients=clients, client=3 * world.user, day=5 * world.hour).begin()
    clock, end = sender.clock, sender.clock() + WINDOWS * world.hour
    draw = random.Random(world.seed + 1)
    burst = world.user // 20

    def come() -> None:
        sender.wanted += draw.randint(1, burst)
        if clock() < end:
            apart = world.hour * burst / (world.user / 10 * clients * pace)
            sender.at(clock() + draw.uniform(0, apart), come)

    sender.wanted = 0
    sender.at(clock(), come)
    sender.run(WINDOWS * world.hour)
    assert len(sender.refused) <= (WINDOWS + 1) * (2 * clients + 1)


@given(WORLDS, st.integers(30, 400))
@settings(max_examples=8, deadline=None)
def test_assumed_limits_apply_until_imgur_sends_its_own(world: World, presumed: int) -> None:
    sender = world.begin()
    sender.quotas.each[0].assume_limits(presumed, presumed)
    sender.run(WINDOWS * world.hour)
    assert sender.refused == []
    assert used(sender, "user", WINDOWS) >= 0.9


@given(WORLDS, st.sampled_from([4, 10, 50]))
@settings(max_examples=24, deadline=None)
def test_lost_responses_cause_no_429(world: World, each: int) -> None:
    """One of `each` is lost: in turn a request and a response."""
    sender = replace(world, user=500).begin()
    well = ["answered"] * (each - 1)
    fates = itertools.cycle([*well, "lost", *well, "unsent"])
    sender.fate = lambda: next(fates)
    sender.run(WINDOWS * world.hour)
    assert sender.refused == []


@given(WORLDS, st.sampled_from([1, 2, 3]))
@settings(max_examples=12, deadline=None)
def test_the_whole_post_budget_is_spent_by_any_number_of_client_ids(
    world: World, clients: int
) -> None:
    posts = clients * (world.user // 10) - 1
    sender = replace(world, clients=clients, posts=posts).begin()
    sender.run(WINDOWS * world.hour)
    assert used(sender, "posts", WINDOWS) >= 0.9
    if clients == 1:
        assert sender.refused == []


@given(WORLDS, st.floats(0.1, 3.0))
@settings(max_examples=16, deadline=None)
def test_beside_another_process_each_slot_gets_at_most_one_429_per_window(
    world: World, rate: float
) -> None:
    sender = world.begin()
    clock, end = sender.clock, sender.clock() + WINDOWS * world.hour
    draw = random.Random(world.seed + 1).expovariate

    def other() -> None:
        sender.imgur.answer(1)
        if clock() < end:
            sender.at(clock() + draw(rate * world.user / 10 / world.hour), other)

    sender.at(clock(), other)
    sender.run(WINDOWS * world.hour)
    assert len(sender.refused) <= world.slots * (WINDOWS + 1)
    assert used(sender, "user", WINDOWS) >= 0.9


@given(WORLDS, st.lists(st.floats(0, WINDOWS), max_size=6))
@settings(max_examples=16, deadline=None)
def test_a_window_that_resets_early_causes_at_most_one_429(
    world: World, moments: list[float]
) -> None:
    """A response may look like one of the last window, whose end is then taken for near."""
    sender = world.begin()
    for moment in moments:
        sender.at(sender.clock() + moment * world.hour, sender.imgur.forget)
    sender.run(WINDOWS * world.hour)
    assert len(sender.refused) <= len(moments)
    if world.resets in ("seconds", "epoch"):
        assert used(sender, "user", WINDOWS) >= 0.9


@given(WORLDS, st.integers(1, 100), st.integers(1, 300))
@settings(max_examples=24, deadline=None)
def test_a_forecast_is_within_seconds_of_the_simulated_time(
    world: World, before: int, uploads: int
) -> None:
    swift = replace(world, latency=0.01, day=5 * world.hour, posts=61)
    sender = swift.begin()
    sender.wanted = before
    sender.run(math.inf)
    sender.wanted += uploads
    forecast, began = sender.quotas.seconds_for(uploads), sender.clock()
    sender.run(math.inf)
    assert sender.landed == before + uploads
    late = sender.clock() - began - forecast
    windows = 2 + forecast // world.hour
    assert -2.5 <= late <= 2.5 * windows, "resets are rounded up, and each window begins with one"


@pytest.mark.parametrize("resets", ["seconds", "epoch", "constant", "none"])
def test_a_day_of_imgurs_real_budgets_is_spent(resets: Resets) -> None:
    world = World(seed=1, hour=3_600.0, day=86_400.0, latency=2.0, resets=resets)
    sender = world.begin()
    sender.run(86_400.0)
    assert sender.refused == []
    assert sender.landed == 24 * 50
