"""Tests of targets.limits.budget: the remaining credits, minus those in flight, never exceed
Imgur's count, a new window is full, and forecasts.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageload.targets.limits.budget import Budget, BudgetView, Forecast

HOUR = 3600.0


def user_budget(
    limit: int = 500, remaining: int = 500, reset: float | None = HOUR, *, at: float = 0.0
) -> Budget:
    """A budget with these values from a response at this time."""
    budget = Budget("user", HOUR)
    assert budget.learn(limit, remaining, reset, sent=at, now=at)
    return budget


def test_a_budget_of_which_nothing_is_known_has_room_for_anything() -> None:
    budget = Budget("user", HOUR)
    budget.in_flight = 10_000
    assert budget.blocked_until(10, now=0.0) == 0.0
    assert (budget.limit, budget.remaining, budget.resets_at) == (math.inf,) * 3


def test_requests_in_flight_count_as_spent() -> None:
    budget = user_budget(remaining=100)
    budget.in_flight = 90
    assert budget.blocked_until(10, now=1.0) == 1.0
    assert budget.blocked_until(11, now=1.0) > 1.0
    budget.in_flight = 100
    assert budget.blocked_until(1, now=1.0) > 1.0


def test_a_response_without_the_remaining_credits_sets_only_the_limit() -> None:
    budget = Budget("user", HOUR)
    assert not budget.learn(500, None, 60.0, sent=0.0, now=0.0)
    assert (budget.limit, budget.remaining, budget.resets_at) == (500, math.inf, math.inf)


@pytest.mark.parametrize("limit", [0, -1, None])
def test_a_limit_that_is_none_is_not_believed(limit: int | None) -> None:
    budget = user_budget(limit=500)
    assert budget.learn(limit, 400, HOUR, sent=1.0, now=1.0)
    assert (budget.limit, budget.remaining) == (500, 400)


def test_of_responses_out_of_order_the_fewest_remaining_credits_count() -> None:
    budget = user_budget(remaining=500)
    assert budget.learn(500, 470, 3599.0, sent=1.2, now=2.0)
    assert budget.learn(500, 490, 3599.0, sent=1.0, now=2.1)
    assert budget.learn(500, 480, 3599.0, sent=1.1, now=2.2)
    assert budget.remaining == 470


@given(st.permutations(range(20)))
def test_the_remaining_credits_equal_imgurs_count_in_any_order_of_responses(
    order: list[int],
) -> None:
    budget = user_budget(remaining=500)
    budget.in_flight = 200
    for moment, number in enumerate(order):
        assert budget.learn(500, 490 - 10 * number, HOUR, sent=1.0 + number / 100, now=2.0 + moment)
        budget.in_flight -= 10
        assert budget.remaining - budget.in_flight <= 500 - 200, "never more than is true"
    assert budget.remaining == 300


def test_more_than_was_left_means_a_new_window_if_the_request_was_sent_later() -> None:
    budget = user_budget(remaining=20, reset=1_000.0)
    assert budget.learn(500, 490, HOUR, sent=5.0, now=6.0)
    assert budget.remaining == 490
    assert budget.resets_at == 6.0 + HOUR, "the end of the old window is not that of the new"


def test_a_response_to_a_request_of_the_last_window_changes_nothing() -> None:
    budget = user_budget(remaining=20, reset=1_000.0)
    assert budget.learn(500, 490, HOUR, sent=5.0, now=6.0)
    assert not budget.learn(500, 10, 990.0, sent=4.0, now=7.0)
    assert (budget.remaining, budget.resets_at) == (490, 6.0 + HOUR)


def test_a_window_that_is_over_is_full_again() -> None:
    budget = user_budget(limit=500, remaining=0, reset=60.0)
    assert budget.blocked_until(10, now=59.9) > 59.9
    assert budget.blocked_until(10, now=59.9) == 60.0
    assert budget.blocked_until(500, now=60.0) == 60.0
    assert budget.blocked_until(501, now=60.0) > 60.0
    view = budget.view(60.0)
    assert view.resets_at is None, "the next one begins with the next spending"


def test_without_a_limit_the_remaining_credits_are_unknown_after_a_reset() -> None:
    budget = Budget("user", HOUR)
    assert budget.learn(None, 0, 60.0, sent=0.0, now=0.0)
    assert budget.blocked_until(10, now=1.0) == 60.0
    assert budget.blocked_until(10, now=60.0) == 60.0
    assert budget.view(60.0).remaining is None


def test_a_response_after_the_reset_to_a_request_before_it_is_ignored() -> None:
    budget = user_budget(limit=500, remaining=10, reset=60.0)
    assert not budget.learn(500, 0, 1.0, sent=59.0, now=61.0)
    assert budget.blocked_until(500, now=61.0) == 61.0


def test_the_earliest_reset_time_of_a_window_counts() -> None:
    budget = user_budget(remaining=490, reset=60.0)
    assert budget.learn(500, 480, 60.0, sent=0.2, now=0.8)
    assert budget.resets_at == 60.0, "Imgur rounds up"
    assert budget.learn(500, 470, 59.0, sent=0.9, now=0.95)
    assert budget.resets_at == 59.95


def test_a_constant_reset_header_counts_from_the_windows_first_response() -> None:
    budget = user_budget(remaining=490, reset=HOUR, at=100.0)
    for minute in range(1, 50):
        now = 100.0 + 60.0 * minute
        assert budget.learn(500, 490 - 10 * minute, HOUR, sent=now - 1.0, now=now)
    assert budget.blocked_until(10, now=3_600.0) == 100.0 + HOUR


def test_a_window_without_a_reset_header_has_the_default_length() -> None:
    budget = user_budget(remaining=490, reset=None, at=100.0)
    assert budget.learn(500, 0, None, sent=200.0, now=200.0)
    assert budget.blocked_until(10, now=300.0) == 100.0 + HOUR


def window_after(budget: Budget) -> None:
    """End the budget's window of a minute; the next one has 500 credits."""
    assert budget.learn(500, 0, 60.0, sent=0.0, now=0.0)
    assert budget.blocked_until(10, now=60.0) == 60.0


@pytest.mark.parametrize("begin", [lambda _: None, window_after])
def test_one_request_is_sent_alone_at_first_and_after_a_reset(
    begin: Callable[[Budget], None],
) -> None:
    budget = Budget("user", HOUR)
    begin(budget)
    budget.reserve(10, now=61.0)
    assert budget.blocked_until(10, now=61.0) == math.inf, "what it meets, the others learn from"
    assert budget.learn(500, 40, HOUR, sent=61.0, now=62.0)
    budget.release(10, sent=61.0, answered=True)
    for _ in range(4):
        assert budget.blocked_until(10, now=62.0) == 62.0
        budget.reserve(10, now=62.0)
    assert budget.blocked_until(10, now=62.0) > 62.0


def test_a_lone_request_without_a_response_is_followed_by_another() -> None:
    budget = user_budget(remaining=0, reset=60.0)
    for moment in (60.0, 70.0, 80.0):
        assert budget.blocked_until(10, now=moment) == moment
        budget.reserve(10, now=moment)
        assert budget.blocked_until(10, now=moment + 1.0) > moment + 1.0
        budget.release(10, sent=moment, answered=moment == 80.0)
    for _ in range(50):
        assert budget.blocked_until(10, now=81.0) == 81.0, "Imgur tells nothing, but it answers"
        budget.reserve(10, now=81.0)


def test_requests_in_flight_at_the_reset_neither_block_nor_open_the_new_window() -> None:
    budget = user_budget(remaining=100, reset=60.0)
    for _ in range(3):
        budget.reserve(10, now=59.0)
    assert budget.blocked_until(10, now=60.0) == 60.0
    budget.release(10, sent=59.0, answered=True)
    budget.reserve(10, now=60.0)
    budget.release(10, sent=59.5, answered=True)
    assert budget.blocked_until(10, now=61.0) > 61.0
    budget.release(10, sent=60.0, answered=True)
    assert budget.blocked_until(490, now=61.0) == 61.0
    assert budget.blocked_until(491, now=61.0) > 61.0, "one is under way yet"


def test_a_lone_request_that_shows_another_window_ends_the_wait_of_the_others() -> None:
    budget = Budget("user", HOUR)
    budget.limit = budget.remaining = 50
    budget.reserve(10, now=1.0)
    assert budget.learn(500, 490, HOUR, sent=1.0, now=2.0)
    budget.release(10, sent=1.0, answered=True)
    assert budget.blocked_until(490, now=2.0) == 2.0


def test_a_request_without_a_response_is_counted() -> None:
    budget = user_budget(remaining=100)
    budget.spend(10, now=1.0)
    assert budget.remaining == 90


def test_the_first_spending_of_a_full_budget_begins_its_window() -> None:
    budget = user_budget(limit=500, remaining=0, reset=60.0)
    assert budget.blocked_until(10, now=60.0) == 60.0
    budget.spend(10, now=70.0)
    assert (budget.remaining, budget.resets_at) == (490, 70.0 + HOUR)
    budget.spend(10, now=80.0)
    assert budget.resets_at == 70.0 + HOUR


def test_an_unknown_budget_counts_nothing() -> None:
    budget = Budget("user", HOUR)
    budget.spend(10, now=0.0)
    assert (budget.remaining, budget.resets_at) == (math.inf, math.inf)


def test_a_request_counted_without_a_response_stays_counted_until_imgur_confirms_it() -> None:
    budget = user_budget(remaining=100)
    budget.spend(10, now=1.0)
    assert budget.learn(500, 100, HOUR, sent=2.0, now=3.0)
    assert (budget.remaining, budget.resets_at) == (90, HOUR), "it is no new window"
    assert budget.learn(500, 90, HOUR, sent=4.0, now=5.0)
    assert budget.learn(500, 490, HOUR, sent=6.0, now=7.0)
    assert budget.remaining == 490, "now that it is known again, more is news"


def test_a_response_to_an_earlier_request_does_not_confirm_a_later_one() -> None:
    budget = user_budget(remaining=100)
    budget.spend(10, now=2.0)
    assert budget.learn(500, 90, HOUR, sent=1.0, now=3.0)
    assert budget.remaining == 80, "Imgur may have counted the one first, and the other then"
    assert budget.learn(500, 80, HOUR, sent=2.5, now=4.0)
    assert budget.remaining == 80, "this one knows of both"
    assert budget.learn(500, 70, HOUR, sent=2.6, now=5.0)
    assert budget.remaining == 70


@given(st.permutations(range(20)), st.sets(st.integers(0, 19)))
def test_lost_responses_never_leave_more_credits_than_imgur_counts(
    order: list[int], lost: set[int]
) -> None:
    budget = user_budget(remaining=500)
    budget.in_flight = 200
    for moment, number in enumerate(order):
        now = 2.0 + moment
        if number in lost:
            budget.spend(10, now=now)
        else:
            assert budget.learn(500, 490 - 10 * number, HOUR, sent=1.0 + number / 100, now=now)
        budget.in_flight -= 10
        assert budget.blocked_until(301, now) > now
    assert budget.learn(500, 290, HOUR, sent=30.0, now=31.0)
    assert 290 - 10 * len(lost) <= budget.remaining <= 290, "at worst they are counted twice"


def test_a_budget_that_imgur_reports_as_used_up_is_blocked_for_the_time_it_names() -> None:
    budget = user_budget(remaining=100, reset=None)
    budget.empty(720.0, sent=9.0, now=10.0)
    assert budget.blocked_until(1, now=10.0) == 730.0
    assert budget.blocked_until(500, now=730.0) == 730.0


@pytest.mark.parametrize(("reset", "opens"), [(1_000.0, 1_000.0), (None, HOUR)])
def test_a_used_up_budget_without_a_named_time_is_blocked_until_the_windows_end(
    reset: float | None, opens: float
) -> None:
    budget = user_budget(remaining=100, reset=reset)
    budget.empty(None, sent=9.0, now=10.0)
    assert budget.blocked_until(1, now=10.0) == opens


def test_an_unknown_budget_that_is_used_up_is_blocked_for_a_whole_window() -> None:
    budget = Budget("client", 86_400.0)
    budget.empty(None, sent=9.0, now=10.0)
    assert budget.blocked_until(1, now=10.0) == 10.0 + 86_400.0


def test_a_used_up_budget_never_ends_its_window_later() -> None:
    budget = user_budget(remaining=100, reset=1_000.0)
    budget.empty(HOUR, sent=9.0, now=10.0)
    assert budget.blocked_until(1, now=10.0) == 1_000.0, "a reset may be always the same"
    budget.empty(60.0, sent=19.0, now=20.0)
    assert budget.blocked_until(1, now=20.0) == 80.0


@pytest.mark.parametrize("wait", [None, 1.0, HOUR])
def test_a_refusal_of_a_request_before_the_reset_does_not_block_the_new_window(
    wait: float | None,
) -> None:
    budget = user_budget(limit=500, remaining=10, reset=60.0)
    budget.empty(wait, sent=59.0, now=61.0)
    assert budget.blocked_until(500, now=61.0) == 61.0


def test_a_budget_blocked_only_by_requests_in_flight_has_no_opening_time() -> None:
    budget = user_budget(remaining=100)
    budget.in_flight = 100
    assert budget.blocked_until(10, now=1.0) == math.inf
    budget.in_flight = 90
    assert budget.blocked_until(10, now=1.0) == 1.0


def test_a_limit_too_small_for_the_cost_never_opens() -> None:
    budget = user_budget(limit=5, remaining=5, reset=60.0)
    assert budget.blocked_until(10, now=0.0) == 60.0
    assert budget.blocked_until(10, now=60.0) == math.inf


def test_the_length_of_a_window_is_learnt_from_a_fresh_one() -> None:
    budget = Budget("user", HOUR)
    assert budget.learn(500, 250, 30.0, sent=0.0, now=0.0)
    assert budget.window == HOUR, "that is what was left of an old one"
    assert budget.learn(500, 490, 60.0, sent=40.0, now=40.0)
    assert budget.window == 60.0
    assert budget.learn(500, 100, 70.0, sent=41.0, now=41.0)
    assert budget.window == 70.0, "it is at least as long as there is left of it"


def test_rounding_by_imgur_makes_no_window_longer() -> None:
    budget = Budget("user", HOUR)
    assert budget.learn(500, 499, 6.0, sent=0.0, now=0.0)
    assert budget.learn(500, 499, 6.9, sent=0.1, now=0.1)
    assert budget.window == 6.0, "of two hints at one end the earlier counts"
    assert budget.learn(500, 100, 6.9, sent=0.2, now=0.2)
    assert budget.window == 6.0


def test_a_window_with_little_spending_is_not_taken_for_a_shorter_one() -> None:
    budget = Budget("user", HOUR)
    assert budget.learn(500, 499, HOUR, sent=0.0, now=0.0)
    assert budget.learn(500, 498, 600.0, sent=3_000.0, now=3_000.0)
    assert budget.window == HOUR


def test_a_view_shows_a_window_that_is_over_as_over() -> None:
    budget = user_budget(limit=500, remaining=3, reset=60.0)
    assert budget.view(59.0) == BudgetView(None, "user", 500, 3, 60.0)
    assert budget.view(60.0) == BudgetView(None, "user", 500, 500, None)


def test_a_forecast_uses_the_remaining_credits_first_and_then_the_limit() -> None:
    budget = user_budget(limit=500, remaining=35, reset=60.0)
    budget.in_flight = 10
    forecast = Forecast(budget, 10, 0.0)
    assert forecast.fits(0.0) == 2
    forecast.spend(2, 0.0)
    assert forecast.fits(59.9) == 0
    assert forecast.fits(60.0) == 50
    forecast.spend(50, 60.0)
    assert (forecast.fits(60.0), forecast.resets_at) == (0, 60.0 + HOUR)


def test_a_forecast_of_an_overdrawn_budget_fits_nothing() -> None:
    budget = user_budget(remaining=0, reset=60.0)
    budget.in_flight = 150
    forecast = Forecast(budget, 10, 0.0)
    assert forecast.fits(59.9) == 0
    assert forecast.fits(60.0) == 50


def test_a_forecast_of_an_unknown_budget_fits_everything() -> None:
    forecast = Forecast(Budget("posts", HOUR), 1, 0.0)
    assert forecast.fits(0.0) == math.inf
    forecast.spend(1_000_000, 0.0)
    assert forecast.fits(0.0) == math.inf


def test_a_forecast_takes_nothing_from_the_budget() -> None:
    budget = user_budget(remaining=100)
    Forecast(budget, 10, 0.0).spend(10, 0.0)
    assert budget.remaining == 100
