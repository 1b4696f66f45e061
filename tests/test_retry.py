"""Tests of retry: who is tried again, how often, and after how long."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageload import errors
from imageload.errors import ImageError
from imageload.retry import RetryRule

RULE = RetryRule(max_tries=4, seconds=0.5, cap_seconds=20.0)


KINDS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, ImageError)
]


def tries_in_all(rule: RetryRule, error: ImageError) -> int:
    tries = 1
    while rule.wait(error, tries) is not None:
        tries += 1
    return tries


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_tried_as_often_as_the_table_says(kind: type[ImageError]) -> None:
    own = kind.max_tries or RULE.max_tries
    expected = min(own, RULE.max_tries) if kind.transient else 1
    assert tries_in_all(RULE, kind("What went wrong.")) == expected


@pytest.mark.parametrize(
    ("kind", "tries"),
    [
        (errors.ConnectError, 4),
        (errors.OriginBusy, 4),
        (errors.QuotaExceeded, 4),
        (errors.Unavailable, 4),
        (errors.DnsError, 2),
        (errors.TimedOut, 2),
        (errors.UploadTimedOut, 2),
        (errors.AnswerLost, 2),
        (errors.HttpStatus, 1),
        (errors.NotAnImage, 1),
        (errors.BlockedAddress, 1),
        (errors.Rejected, 1),
        (errors.CredentialsRefused, 1),
        (errors.InternalError, 1),
    ],
)
def test_four_tries_for_what_passes_two_where_they_cost_one_where_they_are_useless(
    kind: type[ImageError], tries: int
) -> None:
    assert tries_in_all(RULE, kind("What went wrong.")) == tries


def test_an_errors_own_number_never_raises_the_rules() -> None:
    once = RetryRule(max_tries=1, seconds=0.5, cap_seconds=20.0)
    assert tries_in_all(once, errors.DnsError("No such host.")) == 1
    assert tries_in_all(once, errors.ConnectError("Refused.")) == 1


@pytest.mark.parametrize(
    ("tries", "step"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (6, 16.0), (7, 20.0), (50, 20.0)]
)
def test_the_wait_is_drawn_from_the_upper_half_of_a_step_that_doubles_to_the_cap(
    tries: int, step: float
) -> None:
    rule = RetryRule(max_tries=100, seconds=0.5, cap_seconds=20.0)
    random.seed(tries)
    waits = [rule.wait(errors.ConnectError("Refused."), tries) or 0.0 for _ in range(500)]
    assert step / 2 <= min(waits) < step * 0.55
    assert step * 0.95 < max(waits) <= step
    assert len({*waits}) > 400


@given(
    tries=st.integers(1, 100),
    seconds=st.floats(0.001, 100),
    cap=st.floats(0.001, 1_000),
    asked=st.none() | st.floats(-10, 10_000),
)
def test_no_wait_is_longer_than_the_cap_or_as_short_as_nothing(
    tries: int, seconds: float, cap: float, asked: float | None
) -> None:
    rule = RetryRule(max_tries=101, seconds=seconds, cap_seconds=cap)
    wait = rule.wait(errors.OriginBusy("503.", retry_after=asked), tries)
    assert wait is not None
    assert 0 < wait <= cap


@pytest.mark.parametrize("tries", [1_024, 1_100, 10**6])
def test_a_thousand_tries_overflow_nothing(tries: int) -> None:
    rule = RetryRule(max_tries=10**9, seconds=0.5, cap_seconds=20.0)
    wait = rule.wait(errors.ConnectError("Refused."), tries)
    assert wait is not None
    assert 10 <= wait <= 20


@pytest.mark.parametrize("tries", [1, 2, 3])
def test_a_wait_that_the_other_side_names_is_kept_exactly(tries: int) -> None:
    assert RULE.wait(errors.OriginBusy("503.", retry_after=7), tries) == 7
    assert RULE.wait(errors.QuotaExceeded("429.", retry_after=0.25), tries) == 0.25


def test_a_wait_that_the_other_side_names_is_cut_at_the_cap() -> None:
    assert RULE.wait(errors.QuotaExceeded("429.", retry_after=3_600), 1) == 20.0


@pytest.mark.parametrize("asked", [0, -1, -0.0])
def test_a_named_wait_of_nothing_is_not_believed(asked: float) -> None:
    wait = RULE.wait(errors.Unavailable("503.", retry_after=asked), 1)
    assert wait is not None
    assert 0.25 <= wait <= 0.5


def test_a_named_wait_buys_no_more_tries() -> None:
    assert RULE.wait(errors.OriginBusy("503.", retry_after=1), 4) is None
    assert RULE.wait(errors.TimedOut("Too slow.", retry_after=1), 2) is None
    assert RULE.wait(errors.HttpStatus("404.", retry_after=1), 1) is None
