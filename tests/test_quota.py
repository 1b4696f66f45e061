"""Tests of targets.limits.quota: no request without room in every budget, a backoff that ends with
one request that goes well, and forecasts that come true.

Nothing here waits: the clock is ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections import Counter
from dataclasses import replace

import pytest

from imageload import errors
from imageload.errors import ImageError, UploadError
from imageload.targets.limits import handover
from imageload.targets.limits.breaker import Backoff, Terms
from imageload.targets.limits.budget import BudgetView
from imageload.targets.limits.gate import Gate
from imageload.targets.limits.quota import (
    ALBUM,
    ASKING,
    DELETION,
    UPLOAD,
    Kind,
    Quota,
    Quotas,
    Reservation,
)
from tests.imgur_model import Clock
from tests.waiting import PATIENCE

DAY = 86_400.0
HOUR = 3_600.0

Told = dict[str, float | None]
Triple = tuple[float | None, float | None, float | None]


def told(
    user: Triple | None = None, client: Triple | None = None, posts: Triple | None = None
) -> Told:
    """The budgets in a response: limit, remaining and seconds to the reset of each."""
    found: Told = {}
    for name, triple in (("User", user), ("Client", client), ("Post", posts)):
        if triple is not None:
            keys = (f"{name}Limit", f"{name}Remaining", f"{name}Reset")
            found |= dict(zip(keys, triple, strict=True))
    return found


PLENTY = told((500, 400, HOUR), (12_500, 12_000, DAY), (1_250, 1_200, HOUR))

DOWN = errors.UploadError("unavailable", "Imgur is out of order.")
BLOCK = errors.UploadBlocked("These actions are forbidden.")
UNKNOWN = errors.CredentialsRefused("Imgur does not take the client id.")
RENEWAL = UPLOAD._replace(cost=0, post=False)
TOO_FAST = errors.QuotaExceeded("Too fast.")


def used_up(budget: str, wait: float | None) -> errors.QuotaExceeded:
    """A 429 that names this budget, and when there is more of it."""
    error = errors.QuotaExceeded("Too fast.", status_code=429, retry_after=wait)
    error.budget = budget
    return error


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000.0)


@pytest.fixture
def quotas(clock: Clock) -> Quotas:
    """One client id of which nothing is known."""
    return Quotas(clock=clock)


@pytest.fixture
def quota(quotas: Quotas) -> Quota:
    """That of the only client id."""
    return quotas.each[0]


def finish(
    reservation: Reservation, found: Told | None = None, error: ImageError | None = None
) -> None:
    """End the request, with `error` or without; its response had the budgets `found`."""
    if found is not None:
        reservation.learn(found)
    reservation.end(error)


def upload(quota: Quota, found: Told | None = None, error: ImageError | None = None) -> None:
    """An upload from its begin to its end."""
    finish(quota.try_reserve(UPLOAD), found, error)


def refusal(quota: Quota, *, post: bool = True) -> UploadError:
    """The error that blocks an upload, or a call with `post=False`."""
    with pytest.raises(UploadError) as caught:
        quota.try_reserve(UPLOAD if post else DELETION)
    return caught.value


def seconds_to_open(quotas: Quotas) -> float:
    """How long until an upload may be sent."""
    return quotas.seconds_to_open(quotas.blocked(UPLOAD))


def take_all(quota: Quota) -> list[Reservation]:
    """Reserve as many uploads as are allowed at once."""
    reservations: list[Reservation] = []
    while len(reservations) < 2_000:
        try:
            reservations.append(quota.try_reserve(UPLOAD))
        except UploadError:
            break
    return reservations


def use_up(quota: Quota) -> int:
    """Upload until the quota blocks; return the number of uploads."""
    count = 0
    while reservations := take_all(quota):
        count += len(reservations)
        for reservation in reservations:
            reservation.end()
    return count


def backoff_of(quota: Quota, kind: Kind = UPLOAD) -> Backoff | None:
    """The backoff that is in the way of such a request: the client id's, or the endpoint's."""
    return quota.access.backoff or quota.breakers[kind.endpoint].backoff


def wait_for_backoff(quota: Quota, clock: Clock) -> float:
    """Set the clock to the end of the backoff; return its seconds."""
    backoff = backoff_of(quota)
    assert backoff is not None
    seconds = backoff.blocked_until - clock.now
    clock.now = backoff.blocked_until
    return seconds


# Room


def test_unknown_budgets_allow_the_maximum_of_uploads_in_flight(
    quotas: Quotas, quota: Quota
) -> None:
    upload(quota)
    assert len(take_all(quota)) == 1_000
    assert seconds_to_open(quotas) == math.inf


@pytest.mark.parametrize(
    ("found", "budget", "wait"),
    [
        (told((500, 9, 60.0), (12_500, 12_000, DAY), (1_250, 1_200, HOUR)), "user", 60.0),
        (told((500, 400, 60.0), (12_500, 9, 120.0), (1_250, 1_200, HOUR)), "client", 120.0),
        (told((500, 400, 60.0), (12_500, 12_000, DAY), (1_250, 0, 180.0)), "posts", 180.0),
        (told((500, 0, 60.0), (12_500, 0, DAY), (1_250, 0, HOUR)), "client", DAY),
    ],
)
def test_an_upload_needs_room_in_every_budget(
    quotas: Quotas, quota: Quota, found: Told, budget: str, wait: float
) -> None:
    upload(quota, found)
    error = refusal(quota)
    assert isinstance(error, errors.QuotaExceeded)
    assert (error.budget, error.retry_after) == (budget, wait)
    blocked = quotas.blocked(UPLOAD)
    assert blocked is not None
    assert (blocked.reason, blocked.until, blocked.message) == (
        budget,
        1_000.0 + wait,
        error.message,
    )
    assert seconds_to_open(quotas) == wait


def test_a_call_needs_one_credit_and_no_post(quota: Quota) -> None:
    upload(quota, told((500, 2, HOUR), (12_500, 12_000, DAY), (1_250, 0, HOUR)))
    reservations = [quota.try_reserve(DELETION) for _ in range(2)]
    assert refusal(quota, post=False).retry_after is None, "it waits for what is under way"
    for reservation in reservations:
        reservation.end()
    assert refusal(quota, post=False).retry_after == HOUR


def test_uploads_in_flight_reserve_credits_and_release_them(quota: Quota) -> None:
    upload(quota, told((500, 100, HOUR), (12_500, 12_000, DAY), (1_250, 1_200, HOUR)))
    reservations = take_all(quota)
    assert len(reservations) == 10
    assert refusal(quota).retry_after is None, "something may come back"
    finish(reservations[0], error=errors.UploadError("upload_connect_error", "Nothing was sent."))
    assert len(take_all(quota)) == 1


def test_posts_in_flight_are_counted(quota: Quota) -> None:
    upload(quota, told((500, 400, HOUR), (12_500, 12_000, DAY), (1_250, 3, HOUR)))
    assert len(take_all(quota)) == 3


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (None, 390),
        (errors.UploadError("upload_rejected", "No."), 390),
        (errors.UploadError("response_lost", "Lost."), 390),
        (errors.UploadError("upload_timeout", "Late."), 390),
        (errors.UploadError("server_fault", "Broken."), 390),
        (errors.UploadError("upload_connect_error", "Nobody there."), 400),
        (TOO_FAST, 400),
        (errors.ImageError("disk_error", "The temp file has vanished."), 400),
        (errors.ResourceError("Out of sockets."), 400),
    ],
)
def test_an_upload_without_a_response_is_counted_if_imgur_may_count_it(
    quotas: Quotas, quota: Quota, error: ImageError | None, left: int
) -> None:
    upload(quota, PLENTY)
    upload(quota, error=error)
    assert quotas.budgets()[0].remaining == left


def test_the_headers_of_a_refusal_update_the_budgets(quota: Quota) -> None:
    upload(quota, told((500, 30, HOUR)), errors.UploadError("upload_rejected", "No."))
    assert len(take_all(quota)) == 3


def test_budgets_returns_the_current_state_of_every_budget(
    quotas: Quotas, quota: Quota, clock: Clock
) -> None:
    upload(quota, PLENTY)
    assert quotas.budgets() == [
        BudgetView(1, "user", 500, 400, 1_000.0 + HOUR),
        BudgetView(1, "client", 12_500, 12_000, 1_000.0 + DAY),
        BudgetView(None, "posts", 1_250, 1_200, 1_000.0 + HOUR),
    ]
    clock.now += HOUR
    assert quotas.budgets()[0] == BudgetView(1, "user", 500, 500, None)
    assert quotas.budgets()[1].remaining == 12_000


def test_the_first_post_is_sent_alone(quotas: Quotas, quota: Quota) -> None:
    first = quota.try_reserve(UPLOAD)
    assert refusal(quota).retry_after is None
    assert seconds_to_open(quotas) == math.inf
    finish(first, told((500, 50, HOUR)))
    assert len(take_all(quota)) == 5, "and the others know what it met"


def test_one_upload_confirms_a_new_window_before_the_others_are_sent(
    quota: Quota, clock: Clock
) -> None:
    upload(quota, told((500, 0, 60.0)))
    clock.now += 60.0
    first = quota.try_reserve(UPLOAD)
    assert refusal(quota).retry_after is None
    clock.now += 1.0
    finish(first, told((500, 0, 5.0)), used_up("user", 5.0))
    assert refusal(quota).retry_after == 5.0, "Imgur's clock may go slower than ours"
    clock.now += 5.0
    upload(quota, told((500, 490, 3_600.0)))
    assert len(take_all(quota)) == 49


def test_the_first_post_of_all_client_ids_is_sent_alone(clock: Clock) -> None:
    quotas = Quotas(2, clock=clock)
    first = quotas.each[0].try_reserve(UPLOAD)
    assert refusal(quotas.each[1]).retry_after is None
    quotas.each[1].try_reserve(DELETION).end()
    finish(first, told(posts=(1_250, 1, HOUR)))
    quotas.each[1].try_reserve(UPLOAD)
    assert refusal(quotas.each[0]).retry_after is None


@pytest.mark.parametrize(
    "error",
    [
        TOO_FAST,
        errors.UploadError("upload_connect_error", "Nobody there."),
        errors.UploadError("response_lost", "Lost."),
        errors.UploadError("upload_timeout", "Late."),
        errors.Shutdown("Cancelled."),
        errors.ImageError("disk_error", "The temp file has vanished."),
    ],
)
def test_after_a_first_post_without_information_the_next_post_is_sent_alone(
    quota: Quota, clock: Clock, error: ImageError
) -> None:
    upload(quota, error=error)
    clock.now += 60.0
    quota.try_reserve(UPLOAD)
    assert refusal(quota).retry_after is None


def test_spending_of_other_processes_is_read_from_the_next_response(quota: Quota) -> None:
    upload(quota, told((500, 490, HOUR)))
    upload(quota, told((500, 120, HOUR)))
    assert len(take_all(quota)) == 12


def test_assumed_limits_apply_if_imgur_sends_none(quota: Quota, clock: Clock) -> None:
    quota.assume_limits(50, 71)
    upload(quota)
    assert use_up(quota) == 4, "that was the hour's"
    assert refusal(quota).retry_after == HOUR
    clock.now += HOUR
    assert use_up(quota) == 2, "that was the day's"
    assert refusal(quota).retry_after == DAY - HOUR


def test_assumed_limits_make_a_target_that_names_none_a_limited_one(
    quotas: Quotas, quota: Quota
) -> None:
    quota.assume_limits(None, None)
    assert quotas.is_limited is None
    quota.assume_limits(50, None)
    upload(quota)
    assert quotas.is_limited, "so only the node with the lease uploads"


def test_limits_from_imgur_replace_assumed_limits(quotas: Quotas, quota: Quota) -> None:
    quota.assume_limits(50, 70)
    upload(quota, told((500, 490, 600.0), (12_500, 12_490, DAY)))
    assert [view.remaining for view in quotas.budgets()[:2]] == [490, 12_490]
    assert quotas.budgets()[0].resets_at == 1_600.0


def test_an_assumed_hourly_limit_leaves_the_daily_limit_unknown(
    quotas: Quotas, quota: Quota
) -> None:
    quota.assume_limits(50, None)
    assert [view.limit for view in quotas.budgets()] == [50, None, None]


# 429


@pytest.mark.parametrize(
    ("budget", "wait", "until"),
    [("user", 720.0, 720.0), ("client", None, DAY), ("posts", 30.0, 30.0), ("user", 0.5, 0.5)],
)
def test_a_429_that_names_a_budget_blocks_only_that_budget(
    quotas: Quotas, quota: Quota, budget: str, wait: float | None, until: float
) -> None:
    upload(quota, error=used_up(budget, wait))
    blocked = quotas.blocked(UPLOAD)
    assert blocked is not None
    assert (blocked.reason, blocked.until) == (budget, 1_000.0 + until)
    assert backoff_of(quota) is None, "it is no more than that"


def test_used_up_posts_leave_other_calls_alone(quotas: Quotas, quota: Quota) -> None:
    upload(quota, error=used_up("posts", 30.0))
    assert quotas.blocked(UPLOAD) is not None
    quota.try_reserve(DELETION).end()


def test_the_backoff_after_a_429_without_a_budget_doubles_up_to_an_hour(
    quota: Quota, clock: Clock
) -> None:
    waits = []
    for _ in range(9):
        upload(quota, error=TOO_FAST)
        error = refusal(quota)
        assert isinstance(error, errors.QuotaExceeded)
        assert error.message == "Too fast."
        waits.append(wait_for_backoff(quota, clock))
    assert waits == [60, 120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]
    upload(quota)
    upload(quota, error=TOO_FAST)
    assert wait_for_backoff(quota, clock) == 60, "one that went well, and it begins anew"


@pytest.mark.parametrize("wait", [0.0, -5.0])
def test_a_429_with_a_budget_but_no_time_starts_the_same_backoff(
    quota: Quota, clock: Clock, wait: float
) -> None:
    waits = []
    for _ in range(3):
        upload(quota, told((500, 0, wait)), used_up("user", wait))
        waits.append(wait_for_backoff(quota, clock))
    assert waits == [60, 120, 240], "and not again and again at once"


def test_a_429_to_a_request_of_the_last_window_blocks_nothing(quota: Quota, clock: Clock) -> None:
    upload(quota, told((500, 20, 60.0)))
    clock.now += 59.0
    late = quota.try_reserve(UPLOAD)
    clock.now += 2.0
    finish(late, told((500, 0, HOUR)), used_up("user", HOUR))
    assert backoff_of(quota) is None
    assert use_up(quota) == 50


def test_after_a_429_without_a_budget_the_uploads_in_flight_increase_slowly_from_one(
    quota: Quota, clock: Clock
) -> None:
    upload(quota)
    upload(quota, error=TOO_FAST)
    clock.now += 60.0
    at_once = []
    for _ in range(40):
        reservations = take_all(quota)
        at_once.append(len(reservations))
        for reservation in reservations:
            clock.now += 1.0
            reservation.end()
    assert at_once[:4] == [1, 2, 3, 4], "all that may be at once add one together"
    assert all(after - before in (0, 1) for before, after in itertools.pairwise(at_once))
    assert 30 <= at_once[-1] <= 40


def test_many_429s_of_requests_in_flight_together_start_one_backoff(
    quota: Quota, clock: Clock
) -> None:
    upload(quota)
    for reservation in [quota.try_reserve(UPLOAD) for _ in range(20)]:
        clock.now += 0.125
        finish(reservation, error=TOO_FAST)
    clock.now = 1_000.125
    assert wait_for_backoff(quota, clock) == 60.0


def test_a_429_without_a_budget_is_attributed_to_a_budget_known_to_be_empty(
    quota: Quota, clock: Clock
) -> None:
    upload(quota, told((500, 10, 300.0)))
    upload(quota, told((500, 0, 300.0)), TOO_FAST)
    assert backoff_of(quota) is None
    assert refusal(quota).retry_after == 300.0
    clock.now += 300.0
    assert use_up(quota) == 50


# Backoff


def test_a_block_stops_its_endpoint_for_longer_each_time(quota: Quota, clock: Clock) -> None:
    waits = []
    for _ in range(5):
        upload(quota, error=BLOCK)
        error = refusal(quota)
        assert isinstance(error, errors.UploadBlocked)
        assert error.message == BLOCK.message
        quota.try_reserve(DELETION).end()
        waits.append(wait_for_backoff(quota, clock))
    assert waits == [600, 1_200, 2_400, 3_600, 3_600]


def test_one_probe_decides_after_a_backoff(quotas: Quotas, quota: Quota, clock: Clock) -> None:
    upload(quota)
    upload(quota, error=BLOCK)
    clock.now += 600.0
    assert seconds_to_open(quotas) == 0.0
    probe = quota.try_reserve(UPLOAD)
    assert seconds_to_open(quotas) == math.inf
    assert refusal(quota).retry_after is None
    probe.end()
    assert backoff_of(quota) is None
    assert len(take_all(quota)) == 1_000


def test_a_probe_without_information_is_followed_by_another(quota: Quota, clock: Clock) -> None:
    upload(quota, error=BLOCK)
    clock.now += 600.0
    probe = quota.try_reserve(UPLOAD)
    probe.end(errors.Shutdown("Cancelled."))
    assert backoff_of(quota) is not None
    quota.try_reserve(UPLOAD)


def test_a_rejected_image_ends_a_backoff(quota: Quota, clock: Clock) -> None:
    upload(quota, error=BLOCK)
    clock.now += 600.0
    upload(quota, error=errors.UploadError("upload_rejected", "No image."))
    assert backoff_of(quota) is None


@pytest.mark.parametrize("late", [BLOCK, DOWN, TOO_FAST])
def test_a_late_failure_of_an_earlier_request_does_not_lengthen_a_backoff(
    quota: Quota, clock: Clock, late: UploadError
) -> None:
    upload(quota)
    reservations = [quota.try_reserve(UPLOAD) for _ in range(6)]
    clock.now += 1.0
    reservations.pop().end(BLOCK)
    began = backoff_of(quota)
    for reservation in reservations:
        clock.now += 10.0
        reservation.end(late)
    assert backoff_of(quota) == began == Backoff("blocked", BLOCK.message, 1_001.0, 600.0)


def test_a_late_success_of_an_earlier_request_does_not_end_a_backoff(
    quota: Quota, clock: Clock
) -> None:
    upload(quota)
    early, other = (quota.try_reserve(UPLOAD) for _ in range(2))
    clock.now += 1.0
    early.end(BLOCK)
    other.end()
    assert isinstance(refusal(quota), errors.UploadBlocked)


@pytest.mark.parametrize(
    "trouble",
    [
        DOWN,
        errors.UploadError("upload_connect_error", "Nobody there."),
        errors.UploadError("upload_timeout", "Late."),
        errors.UploadError("response_lost", "Lost."),
    ],
)
def test_three_failures_in_a_row_are_an_outage(
    quota: Quota, clock: Clock, trouble: UploadError
) -> None:
    upload(quota)
    for _ in range(2):
        upload(quota, error=trouble)
        assert backoff_of(quota) is None
    upload(quota, error=trouble)
    error = refusal(quota)
    assert error.name == "unavailable"
    assert error.retry_after == 1.0
    rests = [wait_for_backoff(quota, clock)]
    for _ in range(8):
        upload(quota, error=trouble)
        rests.append(wait_for_backoff(quota, clock))
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize(
    "success",
    [
        None,
        errors.UploadError("upload_rejected", "No."),
        errors.UploadError("server_fault", "Broken."),
    ],
)
def test_a_response_between_failures_resets_their_count(
    quota: Quota, success: UploadError | None
) -> None:
    for error in (DOWN, DOWN, success, DOWN, DOWN):
        upload(quota, error=error)
    assert backoff_of(quota) is None


def test_one_success_after_an_outage_allows_all_uploads_again(quota: Quota, clock: Clock) -> None:
    upload(quota)
    for _ in range(3):
        upload(quota, error=DOWN)
    wait_for_backoff(quota, clock)
    upload(quota)
    assert len(take_all(quota)) == 1_000
    assert backoff_of(quota) is None


def test_wrong_credentials_stop_all_however_long_until_asking_shows_them_right(
    quotas: Quotas, quota: Quota, clock: Clock
) -> None:
    upload(quota, error=UNKNOWN)
    for _ in range(3):
        clock.now += 10_000.0
        assert isinstance(refusal(quota), errors.CredentialsRefused)
        assert seconds_to_open(quotas) == 1.0, "it is not looked at all the time"
    quota.try_reserve(ASKING).end()
    upload(quota)
    assert backoff_of(quota) is None
    assert len(take_all(quota)) == 1_000


def test_reading_the_limits_after_a_refusal_of_the_client_id_allows_one_probe(
    quota: Quota, clock: Clock
) -> None:
    upload(quota, error=UNKNOWN)
    first = wait_for_backoff(quota, clock)
    clock.now -= 0.5
    quota.try_reserve(ASKING).end()
    probe = quota.try_reserve(UPLOAD)
    assert refusal(quota).retry_after is None
    probe.end(UNKNOWN)
    assert wait_for_backoff(quota, clock) == 2 * first, "it is the same trouble yet"


@pytest.mark.parametrize("trouble", [BLOCK, DOWN, TOO_FAST])
@pytest.mark.parametrize("other", [ALBUM, DELETION, ASKING])
def test_a_refusal_concerns_its_endpoint_alone(
    quotas: Quotas, quota: Quota, trouble: UploadError, other: Kind
) -> None:
    upload(quota)
    for _ in range(3):
        if quotas.blocked(other) is None:
            quota.try_reserve(other).end(trouble)
    assert other is ASKING or quotas.blocked(other) is not None
    assert quotas.blocked(UPLOAD) is None
    upload(quota)
    assert other is ASKING or quotas.blocked(other) is not None, "an upload is no probe of it"


def test_a_used_up_budget_and_a_refused_client_id_concern_every_endpoint(
    quotas: Quotas, quota: Quota, clock: Clock
) -> None:
    quota.try_reserve(ALBUM).end(used_up("user", 60.0))
    assert quotas.blocked(UPLOAD) is not None
    clock.now += 60.0
    quota.try_reserve(ALBUM).end(UNKNOWN)
    blocked = quotas.blocked(UPLOAD)
    assert blocked is not None
    assert blocked.reason == "credentials"


def test_a_429_that_names_a_time_and_no_budget_is_waited_out_by_its_endpoint(
    quotas: Quotas, quota: Quota, clock: Clock
) -> None:
    upload(quota)
    for seconds in (720.0, 300.0):
        upload(quota, error=errors.QuotaExceeded("Too fast.", retry_after=seconds))
        assert quotas.blocked(DELETION) is None
        assert wait_for_backoff(quota, clock) == seconds, "and not twice the last wait"
    upload(quota)
    assert len(take_all(quota)) == 1_000, "Imgur said how long, so there is no slow start"


def test_an_endpoint_that_refuses_one_client_id_serves_the_next(clock: Clock) -> None:
    quotas = Quotas(2, clock=clock)
    quotas.each[0].try_reserve(ALBUM).end(BLOCK)
    assert quotas.best(ALBUM) is quotas.each[1]
    assert quotas.outage_seconds("albums") == 0.0
    quotas.each[1].try_reserve(ALBUM).end(BLOCK)
    clock.now += 5.0
    assert quotas.outage_seconds("albums") == 5.0
    assert quotas.outage_seconds("uploads") == 0.0


@pytest.mark.parametrize("trouble", [BLOCK, DOWN])
def test_no_wait_for_a_probe_is_longer_than_the_outage_bound(
    clock: Clock, trouble: UploadError
) -> None:
    quota = Quotas(terms=Terms(outage_seconds=20.0), clock=clock).each[0]
    waits = []
    for _ in range(12):
        upload(quota, error=trouble)
        if backoff_of(quota) is not None:
            waits.append(wait_for_backoff(quota, clock))
    assert max(waits) == waits[-1] == 20.0


# Rejections


def rejection(message: str = "Something new.") -> UploadError:
    """A rejection in words that are not known."""
    return errors.UploadError("unknown_rejection", message, status_code=400)


def send(quota: Quota, content: str, error: ImageError | None = None) -> None:
    """An upload of the image `content`."""
    quota.try_reserve(UPLOAD, content).end(error)


FAULT = errors.UploadError("server_fault", "Imgur failed.", status_code=500)


@pytest.mark.parametrize("error", [rejection(), FAULT])
def test_three_different_images_rejected_alike_are_an_outage_until_one_lands(
    quota: Quota, clock: Clock, error: UploadError
) -> None:
    for content in "ab":
        send(quota, content, error)
        assert backoff_of(quota) is None
    send(quota, "c", error)
    refused = refusal(quota)
    assert (refused.name, refused.retry_after) == ("unavailable", 1.0)
    assert error.message in refused.message
    waits = [wait_for_backoff(quota, clock)]
    for content in "cdecdecd":
        send(quota, content, error)
        waits.append(wait_for_backoff(quota, clock))
    assert waits == [1, 2, 4, 8, 16, 32, 64, 120, 120]
    send(quota, "f")
    assert len(take_all(quota)) == 1_000


@pytest.mark.parametrize(
    "sent",
    [
        [("a", rejection()), ("a", rejection()), ("a", rejection()), ("b", rejection())],
        [("a", rejection()), ("b", rejection()), ("x", None), ("c", rejection()), ("d", FAULT)],
        [("a", rejection("1")), ("b", rejection("2")), ("c", rejection("1")), ("d", FAULT)],
        [(each, errors.UploadError("upload_rejected", "No GIF.")) for each in "abcdef"],
    ],
)
def test_other_rejections_are_about_the_images(
    quota: Quota, sent: list[tuple[str, UploadError | None]]
) -> None:
    for content, error in sent:
        send(quota, content, error)
        assert backoff_of(quota) is None


def test_a_rejection_that_outlasts_a_landing_is_about_the_images(
    quota: Quota, clock: Clock
) -> None:
    for content in "abc":
        send(quota, content, rejection())
    wait_for_backoff(quota, clock)
    send(quota, "good")
    for content in "cdefghijk":
        send(quota, content, rejection())
        assert backoff_of(quota) is None


def test_a_fault_that_an_image_meets_twice_shows_nothing_about_other_images(quota: Quota) -> None:
    send(quota, "a", FAULT)
    send(quota, "good")
    for content in "abc":
        send(quota, content, FAULT)
    assert backoff_of(quota) is None
    send(quota, "d", FAULT)
    assert backoff_of(quota) is not None


def test_an_image_rejected_by_one_client_id_goes_to_the_next(clock: Clock) -> None:
    quotas = Quotas(2, clock=clock)
    for content in "abc":
        send(quotas.each[0], content, rejection())
    assert quotas.best(UPLOAD) is quotas.each[1]
    assert quotas.blocked(UPLOAD) is None


def test_reading_the_limits_with_uploads_in_flight_does_not_end_a_backoff(
    quota: Quota, clock: Clock
) -> None:
    upload(quota)
    question = quota.try_reserve(ASKING)
    clock.now += 1.0
    upload(quota, error=BLOCK)
    question.end()
    assert refusal(quota).retry_after == 600.0


def test_asking_with_wrong_credentials_is_put_off_longer_each_time(
    quota: Quota, clock: Clock
) -> None:
    upload(quota, error=UNKNOWN)
    waits = [wait_for_backoff(quota, clock)]
    for _ in range(7):
        quota.try_reserve(ASKING).end(UNKNOWN)
        waits.append(wait_for_backoff(quota, clock))
    assert waits == [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]


@pytest.mark.parametrize("found", [None, told(user=(500, 0, HOUR))])
def test_reading_the_limits_finds_a_used_up_budget(
    quotas: Quotas, quota: Quota, clock: Clock, found: Told | None
) -> None:
    upload(quota, error=UNKNOWN)
    wait_for_backoff(quota, clock)
    asking = quota.try_reserve(ASKING)
    assert seconds_to_open(quotas) == 1.0, "no thousand looks a second"
    finish(asking, found, used_up("user", 100.0) if found is None else TOO_FAST)
    blocked = quotas.blocked(UPLOAD)
    assert blocked is not None
    assert blocked.reason == "user"
    clock.now += HOUR
    upload(quota)
    assert backoff_of(quota) is None


def test_the_terms_set_the_length_of_backoffs(clock: Clock) -> None:
    terms = Terms(hour=60.0, day=90.0, unhinted_wait=2.0, blocked_wait=3.0)
    for error, wait in ((TOO_FAST, 2.0), (UNKNOWN, 2.0), (BLOCK, 3.0)):
        quota = Quotas(terms=terms, clock=clock).each[0]
        upload(quota, error=error)
        assert refusal(quota).retry_after == wait
    for budget, wait in (("user", 60.0), ("client", 90.0), ("posts", 60.0)):
        quota = Quotas(terms=terms, clock=clock).each[0]
        upload(quota, error=used_up(budget, None))
        assert refusal(quota).retry_after == wait


def test_a_renewal_of_the_token_costs_nothing_and_is_judged_as_an_upload_is(
    quota: Quota, clock: Clock
) -> None:
    upload(quota, told((500, 0, HOUR)))
    quota.try_reserve(RENEWAL).end(UNKNOWN)
    refused = Backoff("credentials", UNKNOWN.message, 1_000.0, 60.0, only_asking=True)
    assert backoff_of(quota) == refused
    with pytest.raises(errors.CredentialsRefused):
        quota.try_reserve(RENEWAL)
    clock.now += 60.0
    quota.try_reserve(RENEWAL._replace(asking=True)).end(UNKNOWN)
    assert backoff_of(quota) == replace(refused, began=1_060.0, wait=120.0)
    assert (quota.user.remaining, quota.user.in_flight) == (0, 0)


def test_nothing_is_sent_before_the_limits_are_read(
    quotas: Quotas, quota: Quota, clock: Clock
) -> None:
    quota.block_until_asked(10.0)
    assert seconds_to_open(quotas) == 10.0
    assert refusal(quota).retry_after == 10.0
    clock.now += 0.1
    finish(quota.try_reserve(ASKING), told((500, 20, HOUR)))
    upload(quota, told((500, 10, HOUR)))
    assert len(take_all(quota)) == 1


def test_uploads_start_if_reading_the_limits_fails_for_long(quota: Quota, clock: Clock) -> None:
    quota.block_until_asked(10.0)
    question = quota.try_reserve(ASKING)
    clock.now += 10.0
    assert refusal(quota).retry_after is None, "one at a time"
    question.end(errors.UploadError("upload_timeout", "Late."))
    wait_for_backoff(quota, clock)
    upload(quota)
    assert backoff_of(quota) is None


def test_reading_the_limits_is_blocked_by_an_empty_budget(quota: Quota) -> None:
    upload(quota, told((500, 0, HOUR)))
    with pytest.raises(errors.QuotaExceeded):
        quota.try_reserve(ASKING)


# Several client ids


def test_the_client_id_with_the_most_room_is_the_next(clock: Clock) -> None:
    quotas = Quotas(3, clock=clock)
    for quota, left in zip(quotas.each, (100, 300, 200), strict=True):
        upload(quota, told((500, left, HOUR), (12_500, 12_000, DAY)))
    order = []
    for _ in range(60):
        quota = quotas.best(UPLOAD)
        quota.try_reserve(UPLOAD)
        order.append(quota.number)
    assert order[:10] == [2] * 10
    assert Counter(order[10:30]) == {2: 10, 3: 10}, "then these two have the same"
    assert sorted(order) == [1] * 10 + [2] * 30 + [3] * 20, "until all of it is under way"
    assert seconds_to_open(quotas) == math.inf


def test_the_day_counts_as_the_hour_does(clock: Clock) -> None:
    quotas = Quotas(2, clock=clock)
    upload(quotas.each[0], told((500, 400, HOUR), (12_500, 50, DAY)))
    upload(quotas.each[1], told((500, 100, HOUR), (12_500, 12_000, DAY)))
    assert quotas.best(UPLOAD) is quotas.each[1]


def test_the_last_credit_of_a_day_is_not_spent(quota: Quota) -> None:
    upload(quota, told((500, 400, HOUR), (12_500, 3, DAY)))
    for _ in range(2):
        finish(quota.try_reserve(DELETION))
    assert refusal(quota, post=False).retry_after == DAY


def use_up_days(quotas: Quotas, clock: Clock, days: int) -> None:
    """Let Imgur say on so many days that the daily credits are used up, twice on each."""
    for _ in range(days):
        for reset in (DAY, DAY - 1):
            with contextlib.suppress(UploadError):
                found = told((500, 400, HOUR), (12_500, 0, reset))
                finish(quotas.each[0].try_reserve(DELETION), found)
        clock.now += DAY


def blocked_reason(quotas: Quotas) -> str:
    blocked = quotas.blocked(UPLOAD)
    assert blocked is not None
    return blocked.reason


@pytest.mark.parametrize(("days", "reason"), [(3, "client"), (4, "month")])
def test_the_fifth_day_that_is_used_up_presumes_a_block_for_the_month(
    quotas: Quotas, quota: Quota, clock: Clock, days: int, reason: str
) -> None:
    use_up_days(quotas, clock, days)
    assert quotas.blocked(UPLOAD) is None, "the next day, it is tried again"
    upload(quota, error=used_up("client", DAY))
    assert blocked_reason(quotas) == reason
    error = refusal(quota)
    assert (error.code, error.retry_after) == ("rate_limited", DAY)
    assert isinstance(error, errors.QuotaExceeded)
    assert error.budget == "client"
    is_said = "the application may be blocked for the rest of the month" in error.message
    assert is_said == (reason == "month")


def test_days_of_more_than_a_month_ago_presume_no_block(
    quotas: Quotas, quota: Quota, clock: Clock
) -> None:
    use_up_days(quotas, clock, 4)
    clock.now += 28 * DAY
    upload(quota, error=used_up("client", DAY))
    assert blocked_reason(quotas) == "client"


def test_days_with_credits_left_presume_no_block(
    quotas: Quotas, quota: Quota, clock: Clock
) -> None:
    for _ in range(9):
        upload(quota, told((500, 400, HOUR), (12_500, 5, DAY)))
        assert blocked_reason(quotas) == "client"
        clock.now += DAY


def test_the_days_are_taken_over_by_the_next_process_and_node(
    quotas: Quotas, quota: Quota, clock: Clock
) -> None:
    use_up_days(quotas, clock, 4)
    restored, other = Quotas(clock=clock), Quotas(clock=clock)
    assert handover.restore(restored, *handover.snapshot(quotas))
    assert handover.take_over(other.each[0], handover.note(quota), 10.0, same_address=True)
    for each in (restored, other):
        upload(each.each[0], error=used_up("client", DAY))
        assert blocked_reason(each) == "month"


def test_a_client_id_that_backs_off_is_passed_over(clock: Clock) -> None:
    quotas = Quotas(2, clock=clock)
    upload(quotas.each[0], error=BLOCK)
    upload(quotas.each[1], told((500, 20, HOUR)))
    assert quotas.blocked(UPLOAD) is None
    assert quotas.best(UPLOAD) is quotas.each[1]


def test_when_all_are_closed_the_first_to_open_is_waited_for(clock: Clock) -> None:
    quotas = Quotas(3, clock=clock)
    upload(quotas.each[0], told((500, 0, 300.0)))
    upload(quotas.each[1], error=BLOCK)
    upload(quotas.each[2], told((500, 0, 200.0)))
    assert seconds_to_open(quotas) == 200.0
    clock.now += 200.0
    assert quotas.best(UPLOAD) is quotas.each[2]


def test_a_client_id_with_wrong_credentials_is_neither_waited_for_nor_reckoned_with(
    clock: Clock,
) -> None:
    quotas = Quotas(2, clock=clock)
    upload(quotas.each[0], told((500, 0, 300.0)))
    upload(quotas.each[1], error=UNKNOWN)
    blocked = quotas.blocked(UPLOAD)
    assert blocked is not None
    assert (blocked.reason, blocked.until) == ("user", clock() + 300.0)
    assert quotas.seconds_for(50) == 300.0
    assert quotas.seconds_for(51) == 300.0 + HOUR


def test_the_posts_of_all_client_ids_are_one_budget(clock: Clock) -> None:
    quotas = Quotas(2, clock=clock)
    upload(quotas.each[0], told((500, 400, HOUR), posts=(1_250, 4, 90.0)))
    upload(quotas.each[1], told((500, 400, HOUR), posts=(1_250, 3, 90.0)))
    reservations = [quotas.best(UPLOAD).try_reserve(UPLOAD) for _ in range(3)]
    for quota in quotas.each:
        assert refusal(quota).retry_after is None
    for reservation in reservations:
        reservation.end()
    assert seconds_to_open(quotas) == 90.0
    assert [view.name for view in quotas.budgets()] == ["user", "client", "user", "client", "posts"]


# Forecasts


@pytest.mark.parametrize(
    ("found", "uploads", "seconds"),
    [
        (PLENTY, 0, 0.0),
        (PLENTY, 40, 0.0),
        (told((500, 100, 60.0)), 11, 60.0),
        (told((500, 100, 60.0)), 60, 60.0),
        (told((500, 100, 60.0)), 61, 60.0 + HOUR),
        (told((500, 100, 60.0)), 10 + 50 * 24, 60.0 + 23 * HOUR),
        (told((500, 495, 60.0)), 50, 60.0),
        (told((500, 400, 60.0), (12_500, 30, DAY)), 4, DAY),
        (told((500, 400, 60.0), (12_500, 91, DAY)), 59, DAY),
        (told((500, 400, 60.0), (12_500, 91, DAY)), 9 + 51, DAY + HOUR),
        (told(posts=(1_250, 3, 90.0)), 1_253, 90.0),
        (told(posts=(1_250, 3, 90.0)), 1_254, 90.0 + HOUR),
        (told((500, 400, HOUR), posts=(7, 0, 90.0)), 8, 90.0 + HOUR),
        (None, 1_000_000, 0.0),
        (told((None, 20, 60.0)), 1_000_000, 60.0),
        (told((5, 5, 60.0)), 1, math.inf),
    ],
)
def test_a_forecast_is_the_time_at_which_the_budgets_have_allowed_the_uploads(
    quotas: Quotas, quota: Quota, found: Told | None, uploads: int, seconds: float
) -> None:
    upload(quota, found)
    assert quotas.seconds_for(uploads) == seconds


def test_a_forecast_counts_uploads_in_flight_as_spent(quotas: Quotas, quota: Quota) -> None:
    upload(quota, told((500, 100, 60.0)))
    for _ in range(4):
        quota.try_reserve(UPLOAD)
    assert quotas.seconds_for(6) == 0.0
    assert quotas.seconds_for(7) == 60.0


def test_uploads_in_flight_beyond_the_budget_are_not_added_to_a_forecast(
    quotas: Quotas, quota: Quota
) -> None:
    upload(quota, told((500, 100, 60.0)))
    reservations = take_all(quota)
    finish(reservations.pop(), told((500, 0, 60.0)), used_up("user", 60.0))
    assert quotas.seconds_for(50) == 60.0
    assert quotas.seconds_for(51) == 60.0 + HOUR


def test_a_forecast_uses_the_window_length_in_imgurs_headers(quotas: Quotas, quota: Quota) -> None:
    upload(quota, told((100, 100, 60.0)))
    assert quotas.seconds_for(31) == 180.0


def test_a_forecast_adds_up_all_client_ids(clock: Clock) -> None:
    quotas = Quotas(2, clock=clock)
    upload(quotas.each[0], told((500, 100, 60.0)))
    upload(quotas.each[1], told((500, 50, 90.0)))
    assert quotas.seconds_for(15) == 0.0
    assert quotas.seconds_for(16) == 60.0
    assert quotas.seconds_for(15 + 50) == 60.0
    assert quotas.seconds_for(15 + 51) == 90.0
    assert quotas.seconds_for(15 + 101) == 60.0 + HOUR


def test_a_forecast_leaves_out_a_client_id_that_never_has_room(clock: Clock) -> None:
    quotas = Quotas(2, clock=clock)
    upload(quotas.each[0], told((5, 5, 60.0)))
    upload(quotas.each[1], told((500, 50, 90.0)))
    assert quotas.seconds_for(55) == 90.0


def test_a_forecast_of_several_client_ids_shares_their_posts(clock: Clock) -> None:
    quotas = Quotas(2, clock=clock)
    for quota in quotas.each:
        upload(quota, told((500, 400, HOUR), posts=(20, 10, 60.0)))
    assert quotas.seconds_for(10) == 0.0
    assert quotas.seconds_for(30) == 60.0
    assert quotas.seconds_for(31) == 60.0 + HOUR


def test_a_forecast_waits_for_a_backoff_too(quotas: Quotas, quota: Quota, clock: Clock) -> None:
    upload(quota, told((500, 100, 60.0)), BLOCK)
    assert [quotas.seconds_for(uploads) for uploads in (1, 10)] == [600.0, 600.0]
    clock.now += 700.0
    assert quotas.seconds_for(10) == 0.0


def test_wrong_credentials_have_no_forecast(quotas: Quotas, quota: Quota) -> None:
    upload(quota, told((500, 100, 60.0)), UNKNOWN)
    assert quotas.seconds_for(1) == math.inf
    assert quotas.seconds_for(0) == 0.0


def test_a_forecast_changes_nothing(quotas: Quotas, quota: Quota) -> None:
    upload(quota, told((500, 100, 60.0), (12_500, 200, DAY), (1_250, 9, HOUR)))
    before = quotas.budgets()
    assert [quotas.seconds_for(500) for _ in range(3)] == [quotas.seconds_for(500)] * 3
    assert quotas.budgets() == before


def test_a_forecast_of_very_many_uploads_is_quick(quotas: Quotas, quota: Quota) -> None:
    upload(quota, told((500, 0, HOUR), (12_500, 0, DAY), (1_250, 0, HOUR)))
    days, hours = 83, 7  # of 24 hours with 50 uploads each
    assert quotas.seconds_for(100_000) == (1 + days) * DAY + hours * HOUR


# Waiting


def test_requests_wait_for_those_in_flight_and_never_for_a_reset() -> None:
    """In any order of ends, no more is in flight than the budgets allow."""
    quotas = Quotas()
    quota = quotas.each[0]
    upload(quota, told((500, 400, HOUR), (12_500, 12_000, DAY), (1_250, 1_200, HOUR)))
    in_flight, most, landed = 0, 0, 0

    async def work() -> None:
        nonlocal in_flight, most, landed
        while True:
            try:
                reservation = await quota.reserve(UPLOAD)
            except errors.QuotaExceeded:
                return
            with reservation:
                in_flight += 1
                most = max(most, landed + in_flight)
                await asyncio.sleep(0)
                in_flight -= 1
                landed += 1

    async def run() -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(work() for _ in range(100)))

    asyncio.run(run())
    assert (landed, most) == (40, 40)
    assert quotas.budgets()[0].remaining == 0


def test_a_request_cancelled_while_it_waits_reserves_nothing(quota: Quota) -> None:
    async def run() -> None:
        probe = quota.try_reserve(UPLOAD)
        waiting = [asyncio.create_task(quota.reserve(UPLOAD)) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        probe.end()
        await asyncio.wait(waiting)
        assert waiting[0].cancelled()
        waiting[1].result().end()

    asyncio.run(run())
    assert quota.user.in_flight == 0
    assert len(take_all(quota)) == 1_000


def test_a_reservation_ends_with_the_error_that_leaves_its_block(
    quotas: Quotas, quota: Quota
) -> None:
    with pytest.raises(errors.UploadBlocked), quota.try_reserve(UPLOAD):
        raise BLOCK
    blocked = quotas.blocked(UPLOAD)
    assert blocked is not None
    assert blocked.reason == "blocked"


# The gate


def test_what_waits_fails_for_an_outage_only_after_a_probe_in_its_own_time(clock: Clock) -> None:
    quotas = Quotas(terms=Terms(outage_seconds=20.0), clock=clock)
    quota, gate = quotas.each[0], Gate(quotas, UPLOAD)
    upload(quota, error=BLOCK)
    since = clock.now + 1.0
    clock.now += 50.0
    gate.raise_long_outage(since)
    assert gate.is_long_outage
    assert gate.seconds_to_retry(since) == 0.0, "it may be the probe"
    upload(quota, error=BLOCK)
    with pytest.raises(errors.UploadBlocked) as caught:
        gate.raise_long_outage(since)
    assert caught.value.max_tries == 1


def test_a_wait_for_credits_that_begins_in_an_outage_fails_nothing(clock: Clock) -> None:
    quotas = Quotas(terms=Terms(outage_seconds=20.0), clock=clock)
    quota, gate = quotas.each[0], Gate(quotas, UPLOAD)
    since = clock.now
    upload(quota, error=BLOCK)
    clock.now += 50.0
    quota.learn({"UserLimit": 500, "UserRemaining": 0, "UserReset": 3600}, clock.now)
    assert gate.closed is not None
    assert gate.closed.reason == "user"
    gate.raise_long_outage(since)
    assert not gate.is_long_outage
    assert gate.seconds_to_next(0) == 3600.0


def test_an_outage_of_albums_leaves_the_gate_of_uploads_open(clock: Clock) -> None:
    quotas = Quotas(clock=clock)
    uploads, albums = Gate(quotas, UPLOAD), Gate(quotas, ALBUM)
    changes: list[str] = []
    uploads.watch(lambda: changes.append("uploads"))
    albums.watch(lambda: changes.append("albums"))
    quotas.each[0].try_reserve(ALBUM).end(BLOCK)
    assert (uploads.seconds_to_next(0), albums.seconds_to_next(0)) == (0.0, 600.0)
    assert uploads.closed is None
    assert albums.closed is not None
    assert changes == ["albums"]
