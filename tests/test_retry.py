"""Tests of retry: the number of tries and the waits between them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageload import errors
from imageload.errors import ImageError
from imageload.retry import RetryRule

RULE = RetryRule(max_tries=4, seconds=0.5, cap_seconds=20.0)


def tries_in_all(rule: RetryRule, error: ImageError) -> int:
    tries = 1
    while rule.wait(error, tries) is not None:
        tries += 1
    return tries


@pytest.mark.parametrize("name", errors.ERRORS)
def test_every_error_is_tried_as_often_as_the_table_says(name: str) -> None:
    row = errors.ERRORS[name]
    own = row.max_tries or RULE.max_tries
    expected = min(own, RULE.max_tries) if row.transient else 1
    assert tries_in_all(RULE, ImageError(name, "What went wrong.")) == expected


@pytest.mark.parametrize(
    ("name", "tries"),
    [
        ("connect_error", 4),
        ("origin_busy", 4),
        ("rate_limited", 4),
        ("unavailable", 4),
        ("dns_error", 3),
        ("timeout", 2),
        ("upload_timeout", 2),
        ("response_lost", 2),
        ("http_status", 1),
        ("not_image", 1),
        ("blocked_address", 1),
        ("upload_rejected", 1),
        ("bad_credentials", 1),
        ("internal_error", 1),
    ],
)
def test_the_number_of_tries_depends_on_the_error(name: str, tries: int) -> None:
    assert tries_in_all(RULE, ImageError(name, "What went wrong.")) == tries


def test_an_errors_own_number_never_raises_the_rules() -> None:
    once = RetryRule(max_tries=1, seconds=0.5, cap_seconds=20.0)
    assert tries_in_all(once, errors.DownloadError("dns_error", "No such host.")) == 1
    assert tries_in_all(once, errors.DownloadError("connect_error", "Refused.")) == 1


@pytest.mark.parametrize(
    ("tries", "step"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (6, 16.0), (7, 20.0), (50, 20.0)]
)
def test_the_wait_is_drawn_from_the_upper_half_of_a_step_that_doubles_to_the_cap(
    tries: int, step: float
) -> None:
    rule = RetryRule(max_tries=100, seconds=0.5, cap_seconds=20.0)
    random.seed(tries)
    waits = [
        rule.wait(errors.DownloadError("connect_error", "Refused."), tries) or 0.0
        for _ in range(500)
    ]
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
    wait = rule.wait(errors.DownloadError("origin_busy", "503.", retry_after=asked), tries)
    assert wait is not None
    assert 0 < wait <= cap


@pytest.mark.parametrize("tries", [1_024, 1_100, 10**6])
def test_a_thousand_tries_overflow_nothing(tries: int) -> None:
    rule = RetryRule(max_tries=10**9, seconds=0.5, cap_seconds=20.0)
    wait = rule.wait(errors.DownloadError("connect_error", "Refused."), tries)
    assert wait is not None
    assert 10 <= wait <= 20


@pytest.mark.parametrize("tries", [1, 2, 3])
def test_a_wait_that_the_other_side_names_is_kept_exactly(tries: int) -> None:
    assert RULE.wait(errors.DownloadError("origin_busy", "503.", retry_after=7), tries) == 7
    assert RULE.wait(errors.QuotaExceeded("429.", retry_after=0.25), tries) == 0.25


def test_a_wait_that_the_other_side_names_is_cut_at_the_cap() -> None:
    assert RULE.wait(errors.QuotaExceeded("429.", retry_after=3_600), 1) == 20.0


@pytest.mark.parametrize("asked", [0, -1, -0.0])
def test_a_named_wait_of_nothing_is_not_believed(asked: float) -> None:
    wait = RULE.wait(errors.UploadError("unavailable", "503.", retry_after=asked), 1)
    assert wait is not None
    assert 0.25 <= wait <= 0.5


def test_a_named_wait_buys_no_more_tries() -> None:
    assert RULE.wait(errors.DownloadError("origin_busy", "503.", retry_after=1), 4) is None
    assert RULE.wait(errors.DownloadError("timeout", "Too slow.", retry_after=1), 2) is None
    assert RULE.wait(errors.DownloadError("http_status", "404.", retry_after=1), 1) is None
