"""Tests of targets.imgur.quota: no request without room in every budget, holds that end with one
request that goes well, and forecasts that come true.

Nothing here waits: the clock is ours.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter

import pytest

from imageload import errors
from imageload.errors import ImageError, UploadError
from imageload.targets.imgur.budget import BudgetView
from imageload.targets.imgur.quota import UPLOAD_COST, Closed, Meter, Permit, Quota, Terms
from tests.imgur_model import Clock

DAY = 86_400.0
HOUR = 3_600.0

Told = dict[str, float | None]
Triple = tuple[float | None, float | None, float | None]


def told(
    user: Triple | None = None, client: Triple | None = None, posts: Triple | None = None
) -> Told:
    """What an answer tells: the limit, what remains and the seconds to the reset of each."""
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
def quota(clock: Clock) -> Quota:
    """One client id of which nothing is known."""
    return Quota(clock=clock)


@pytest.fixture
def meter(quota: Quota) -> Meter:
    """That of the only client id."""
    return quota.meters[0]


def finish(permit: Permit, found: Told | None = None, error: ImageError | None = None) -> None:
    """The request is over, well or with `error`; its answer told what was `found`."""
    if found is not None:
        permit.learn(found)
    permit.end(error)


def upload(meter: Meter, found: Told | None = None, error: ImageError | None = None) -> None:
    """An upload from its begin to its end."""
    finish(meter.take(UPLOAD_COST, post=True), found, error)


def refusal(meter: Meter, *, post: bool = True) -> UploadError:
    """What stands against an upload, or with `post=False` against a call."""
    with pytest.raises(UploadError) as caught:
        meter.take(UPLOAD_COST, post=True) if post else meter.take()
    return caught.value


def take_all(meter: Meter) -> list[Permit]:
    """As many uploads as may be under way at once."""
    permits: list[Permit] = []
    while len(permits) < 2_000:
        try:
            permits.append(meter.take(UPLOAD_COST, post=True))
        except UploadError:
            break
    return permits


def use_up(meter: Meter) -> int:
    """Upload as many as may be; gives how many."""
    count = 0
    while permits := take_all(meter):
        count += len(permits)
        for permit in permits:
            permit.end(None)
    return count


def wait_for_hold(meter: Meter, clock: Clock) -> float:
    """Let the meter's hold be over; gives how long that took."""
    hold = meter.hold
    assert hold is not None
    seconds = hold.until - clock.now
    clock.now = hold.until
    return seconds


# Room


def test_what_is_known_of_no_budget_lets_pass_as_many_as_may_be_under_way(
    quota: Quota, meter: Meter
) -> None:
    upload(meter)
    assert len(take_all(meter)) == 1_000
    assert quota.seconds_to_open(UPLOAD_COST, post=True) == math.inf


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
    quota: Quota, meter: Meter, found: Told, budget: str, wait: float
) -> None:
    upload(meter, found)
    error = refusal(meter)
    assert isinstance(error, errors.QuotaExceeded)
    assert (error.budget, error.retry_after) == (budget, wait)
    closed = quota.closed(UPLOAD_COST, post=True)
    assert closed is not None
    assert (closed.reason, closed.until, closed.sentence) == (budget, 1_000.0 + wait, error.message)
    assert quota.seconds_to_open(UPLOAD_COST, post=True) == wait


def test_a_call_needs_one_credit_and_no_post(meter: Meter) -> None:
    upload(meter, told((500, 2, HOUR), (12_500, 12_000, DAY), (1_250, 0, HOUR)))
    permits = [meter.take() for _ in range(2)]
    assert refusal(meter, post=False).retry_after is None, "it waits for what is under way"
    for permit in permits:
        permit.end(None)
    assert refusal(meter, post=False).retry_after == HOUR


def test_what_is_under_way_takes_its_room_and_gives_it_back(meter: Meter) -> None:
    upload(meter, told((500, 100, HOUR), (12_500, 12_000, DAY), (1_250, 1_200, HOUR)))
    permits = take_all(meter)
    assert len(permits) == 10
    assert refusal(meter).retry_after is None, "something may come back"
    finish(permits[0], error=errors.UploadError("upload_connect_error", "Nothing was sent."))
    assert len(take_all(meter)) == 1


def test_the_posts_under_way_are_counted_too(meter: Meter) -> None:
    upload(meter, told((500, 400, HOUR), (12_500, 12_000, DAY), (1_250, 3, HOUR)))
    assert len(take_all(meter)) == 3


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
def test_what_no_answer_told_of_is_counted_where_imgur_may_count_it(
    quota: Quota, meter: Meter, error: ImageError | None, left: int
) -> None:
    upload(meter, PLENTY)
    upload(meter, error=error)
    assert quota.budgets()[0].remaining == left


def test_a_request_ends_once_however_often_that_is_said(quota: Quota, meter: Meter) -> None:
    upload(meter, PLENTY)
    permit = meter.take(UPLOAD_COST, post=True)
    for _ in range(3):
        permit.end(None)
    assert quota.budgets()[0].remaining == 390
    assert len(take_all(meter)) == 39


def test_what_an_answer_told_counts_also_where_it_is_a_refusal(meter: Meter) -> None:
    upload(meter, told((500, 30, HOUR)), errors.UploadError("upload_rejected", "No."))
    assert len(take_all(meter)) == 3


def test_every_budget_is_shown_as_it_stands(quota: Quota, meter: Meter, clock: Clock) -> None:
    upload(meter, PLENTY)
    assert quota.budgets() == [
        BudgetView(1, "user", 500, 400, 1_000.0 + HOUR),
        BudgetView(1, "client", 12_500, 12_000, 1_000.0 + DAY),
        BudgetView(None, "posts", 1_250, 1_200, 1_000.0 + HOUR),
    ]
    clock.now += HOUR
    assert quota.budgets()[0] == BudgetView(1, "user", 500, 500, None)
    assert quota.budgets()[1].remaining == 12_000


def test_the_first_post_goes_alone(quota: Quota, meter: Meter) -> None:
    first = meter.take(UPLOAD_COST, post=True)
    assert refusal(meter).retry_after is None
    assert quota.seconds_to_open(UPLOAD_COST, post=True) == math.inf
    finish(first, told((500, 50, HOUR)))
    assert len(take_all(meter)) == 5, "and the others know what it met"


def test_a_window_that_is_over_is_not_believed_to_be_before_one_has_seen_it(
    meter: Meter, clock: Clock
) -> None:
    upload(meter, told((500, 0, 60.0)))
    clock.now += 60.0
    first = meter.take(UPLOAD_COST, post=True)
    assert refusal(meter).retry_after is None
    clock.now += 1.0
    finish(first, told((500, 0, 5.0)), used_up("user", 5.0))
    assert refusal(meter).retry_after == 5.0, "Imgur's clock may go slower than ours"
    clock.now += 5.0
    upload(meter, told((500, 490, 3_600.0)))
    assert len(take_all(meter)) == 49


def test_the_first_post_of_all_client_ids_goes_alone(clock: Clock) -> None:
    quota = Quota(2, clock=clock)
    first = quota.meters[0].take(UPLOAD_COST, post=True)
    assert refusal(quota.meters[1]).retry_after is None
    quota.meters[1].take().end(None)
    finish(first, told(posts=(1_250, 1, HOUR)))
    quota.meters[1].take(UPLOAD_COST, post=True)
    assert refusal(quota.meters[0]).retry_after is None


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
def test_after_a_first_post_that_showed_nothing_the_next_is_the_first(
    meter: Meter, clock: Clock, error: ImageError
) -> None:
    upload(meter, error=error)
    clock.now += 60.0
    meter.take(UPLOAD_COST, post=True)
    assert refusal(meter).retry_after is None


def test_what_other_processes_spend_is_seen_in_the_next_answer(meter: Meter) -> None:
    upload(meter, told((500, 490, HOUR)))
    upload(meter, told((500, 120, HOUR)))
    assert len(take_all(meter)) == 12


def test_presumed_budgets_hold_where_imgur_tells_none(meter: Meter, clock: Clock) -> None:
    meter.presume(50, 70)
    upload(meter)
    assert use_up(meter) == 4, "that was the hour's"
    assert refusal(meter).retry_after == HOUR
    clock.now += HOUR
    assert use_up(meter) == 2, "that was the day's"
    assert refusal(meter).retry_after == DAY - HOUR


def test_what_imgur_tells_beats_what_was_presumed(quota: Quota, meter: Meter) -> None:
    meter.presume(50, 70)
    upload(meter, told((500, 490, 600.0), (12_500, 12_490, DAY)))
    assert [view.remaining for view in quota.budgets()[:2]] == [490, 12_490]
    assert quota.budgets()[0].resets_at == 1_600.0


def test_half_a_presumption_leaves_the_other_open(quota: Quota, meter: Meter) -> None:
    meter.presume(50, None)
    assert [view.limit for view in quota.budgets()] == [50, None, None]


# 429


@pytest.mark.parametrize(
    ("budget", "wait", "until"),
    [("user", 720.0, 720.0), ("client", None, DAY), ("posts", 30.0, 30.0), ("user", 0.5, 0.5)],
)
def test_a_429_that_names_a_budget_closes_that_one(
    quota: Quota, meter: Meter, budget: str, wait: float | None, until: float
) -> None:
    upload(meter, error=used_up(budget, wait))
    closed = quota.closed(UPLOAD_COST, post=True)
    assert closed is not None
    assert (closed.reason, closed.until) == (budget, 1_000.0 + until)
    assert meter.hold is None, "it is no more than that"


def test_used_up_posts_leave_other_calls_alone(quota: Quota, meter: Meter) -> None:
    upload(meter, error=used_up("posts", 30.0))
    assert quota.closed(UPLOAD_COST, post=True) is not None
    meter.take().end(None)


def test_the_wait_after_a_429_that_names_nothing_doubles_up_to_an_hour(
    meter: Meter, clock: Clock
) -> None:
    waits = []
    for _ in range(9):
        upload(meter, error=TOO_FAST)
        error = refusal(meter)
        assert isinstance(error, errors.QuotaExceeded)
        assert error.message == "Too fast."
        waits.append(wait_for_hold(meter, clock))
    assert waits == [60, 120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]
    upload(meter)
    upload(meter, error=TOO_FAST)
    assert wait_for_hold(meter, clock) == 60, "one that went well, and it begins anew"


@pytest.mark.parametrize("wait", [0.0, -5.0])
def test_a_429_that_names_a_budget_and_no_time_is_one_that_names_nothing(
    meter: Meter, clock: Clock, wait: float
) -> None:
    waits = []
    for _ in range(3):
        upload(meter, told((500, 0, wait)), used_up("user", wait))
        waits.append(wait_for_hold(meter, clock))
    assert waits == [60, 120, 240], "and not again and again at once"


def test_a_429_to_what_was_sent_in_the_window_before_closes_nothing(
    meter: Meter, clock: Clock
) -> None:
    upload(meter, told((500, 20, 60.0)))
    clock.now += 59.0
    late = meter.take(UPLOAD_COST, post=True)
    clock.now += 2.0
    finish(late, told((500, 0, HOUR)), used_up("user", HOUR))
    assert meter.hold is None
    assert use_up(meter) == 50


def test_after_a_429_that_names_nothing_one_goes_at_a_time_and_slowly_more(
    meter: Meter, clock: Clock
) -> None:
    upload(meter)
    upload(meter, error=TOO_FAST)
    clock.now += 60.0
    at_once = []
    for _ in range(40):
        permits = take_all(meter)
        at_once.append(len(permits))
        for permit in permits:
            clock.now += 1.0
            permit.end(None)
    assert at_once[:4] == [1, 2, 3, 4], "all that may be at once add one together"
    assert all(after - before in (0, 1) for before, after in itertools.pairwise(at_once))
    assert 30 <= at_once[-1] <= 40


def test_many_429s_of_requests_that_were_under_way_together_are_one(
    meter: Meter, clock: Clock
) -> None:
    upload(meter)
    for permit in [meter.take(UPLOAD_COST, post=True) for _ in range(20)]:
        clock.now += 0.125
        finish(permit, error=TOO_FAST)
    clock.now = 1_000.125
    assert wait_for_hold(meter, clock) == 60.0


def test_a_429_without_a_name_is_explained_by_a_budget_that_is_known_to_be_empty(
    meter: Meter, clock: Clock
) -> None:
    upload(meter, told((500, 10, 300.0)))
    upload(meter, told((500, 0, 300.0)), TOO_FAST)
    assert meter.hold is None
    assert refusal(meter).retry_after == 300.0
    clock.now += 300.0
    assert use_up(meter) == 50


# Holds


def test_a_block_holds_all_and_longer_each_time(meter: Meter, clock: Clock) -> None:
    waits = []
    for _ in range(5):
        upload(meter, error=BLOCK)
        error = refusal(meter)
        assert isinstance(error, errors.UploadBlocked)
        assert error.message == BLOCK.message
        assert isinstance(refusal(meter, post=False), errors.UploadBlocked), "calls too"
        waits.append(wait_for_hold(meter, clock))
    assert waits == [600, 1_200, 2_400, 3_600, 3_600]


def test_when_a_hold_is_over_one_request_goes_and_decides(
    quota: Quota, meter: Meter, clock: Clock
) -> None:
    upload(meter)
    upload(meter, error=BLOCK)
    clock.now += 600.0
    assert quota.seconds_to_open(UPLOAD_COST, post=True) == 0.0
    probe = meter.take(UPLOAD_COST, post=True)
    assert quota.seconds_to_open(UPLOAD_COST, post=True) == math.inf
    assert refusal(meter).retry_after is None
    probe.end(None)
    assert meter.hold is None
    assert len(take_all(meter)) == 1_000


def test_a_probe_that_says_nothing_of_imgur_lets_another_go(meter: Meter, clock: Clock) -> None:
    upload(meter, error=BLOCK)
    clock.now += 600.0
    probe = meter.take(UPLOAD_COST, post=True)
    probe.end(errors.Shutdown("Cancelled."))
    assert meter.hold is not None
    meter.take(UPLOAD_COST, post=True)


def test_an_image_that_imgur_does_not_want_shows_that_it_works(meter: Meter, clock: Clock) -> None:
    upload(meter, error=BLOCK)
    clock.now += 600.0
    upload(meter, error=errors.UploadError("upload_rejected", "No image."))
    assert meter.hold is None


@pytest.mark.parametrize("late", [BLOCK, DOWN, TOO_FAST])
def test_what_was_sent_before_a_hold_and_fails_later_does_not_lengthen_it(
    meter: Meter, clock: Clock, late: UploadError
) -> None:
    upload(meter)
    permits = [meter.take(UPLOAD_COST, post=True) for _ in range(6)]
    clock.now += 1.0
    permits.pop().end(BLOCK)
    began = meter.hold
    for permit in permits:
        clock.now += 10.0
        permit.end(late)
    assert meter.hold == began == Closed("blocked", 1_601.0, BLOCK.message)


def test_what_was_sent_before_a_hold_and_goes_well_does_not_end_it(
    meter: Meter, clock: Clock
) -> None:
    upload(meter)
    early, other = (meter.take(UPLOAD_COST, post=True) for _ in range(2))
    clock.now += 1.0
    early.end(BLOCK)
    other.end(None)
    assert isinstance(refusal(meter), errors.UploadBlocked)


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
    meter: Meter, clock: Clock, trouble: UploadError
) -> None:
    upload(meter)
    for _ in range(2):
        upload(meter, error=trouble)
        assert meter.hold is None
    upload(meter, error=trouble)
    error = refusal(meter)
    assert error is not None
    assert error.name == "unavailable"
    assert error.retry_after == 1.0
    rests = [wait_for_hold(meter, clock)]
    for _ in range(8):
        upload(meter, error=trouble)
        rests.append(wait_for_hold(meter, clock))
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize(
    "success",
    [
        None,
        errors.UploadError("upload_rejected", "No."),
        errors.UploadError("server_fault", "Broken."),
    ],
)
def test_an_answer_between_failures_breaks_their_row(
    meter: Meter, success: UploadError | None
) -> None:
    for error in (DOWN, DOWN, success, DOWN, DOWN):
        upload(meter, error=error)
    assert meter.hold is None


def test_one_that_goes_well_after_an_outage_lets_all_go_again(meter: Meter, clock: Clock) -> None:
    upload(meter)
    for _ in range(3):
        upload(meter, error=DOWN)
    wait_for_hold(meter, clock)
    upload(meter)
    assert len(take_all(meter)) == 1_000
    assert meter.hold is None


def test_wrong_credentials_hold_all_however_long_until_asking_shows_them_right(
    quota: Quota, meter: Meter, clock: Clock
) -> None:
    upload(meter, error=UNKNOWN)
    for _ in range(3):
        clock.now += 10_000.0
        assert isinstance(refusal(meter), errors.CredentialsRefused)
        assert quota.seconds_to_open(UPLOAD_COST, post=True) == 1.0, (
            "it is not looked at all the time"
        )
    meter.take(asking=True).end(None)
    upload(meter)
    assert meter.hold is None
    assert len(take_all(meter)) == 1_000


@pytest.mark.parametrize("trouble", [UNKNOWN, BLOCK, DOWN])
def test_who_is_told_the_limits_may_send_one_upload_which_decides(
    meter: Meter, clock: Clock, trouble: UploadError
) -> None:
    while meter.hold is None:
        upload(meter, error=trouble)
    first = wait_for_hold(meter, clock)
    clock.now -= 0.5
    meter.take(asking=True).end(None)
    probe = meter.take(UPLOAD_COST, post=True)
    assert refusal(meter).retry_after is None
    probe.end(trouble)
    assert wait_for_hold(meter, clock) == 2 * first, "it is the same trouble yet"


def test_asking_while_uploads_are_under_way_does_not_end_their_hold(
    meter: Meter, clock: Clock
) -> None:
    upload(meter)
    question = meter.take(asking=True)
    clock.now += 1.0
    upload(meter, error=BLOCK)
    question.end(None)
    assert refusal(meter).retry_after == 600.0


def test_asking_with_wrong_credentials_is_put_off_longer_each_time(
    meter: Meter, clock: Clock
) -> None:
    upload(meter, error=UNKNOWN)
    waits = [wait_for_hold(meter, clock)]
    for _ in range(7):
        meter.take(asking=True).end(UNKNOWN)
        waits.append(wait_for_hold(meter, clock))
    assert waits == [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]


@pytest.mark.parametrize("found", [None, told(user=(500, 0, HOUR))])
def test_who_asks_and_is_told_of_a_used_up_budget_is_known(
    quota: Quota, meter: Meter, clock: Clock, found: Told | None
) -> None:
    upload(meter, error=UNKNOWN)
    wait_for_hold(meter, clock)
    asking = meter.take(asking=True)
    assert quota.seconds_to_open(UPLOAD_COST, post=True) == 1.0, "no thousand looks a second"
    finish(asking, found, used_up("user", 100.0) if found is None else TOO_FAST)
    closed = quota.closed(UPLOAD_COST, post=True)
    assert closed is not None
    assert closed.reason == "user"
    clock.now += HOUR
    upload(meter)
    assert meter.hold is None


def test_how_long_is_waited_is_said_by_the_terms(clock: Clock) -> None:
    terms = Terms(hour=60.0, day=90.0, unhinted_wait=2.0, blocked_wait=3.0)
    for error, wait in ((TOO_FAST, 2.0), (UNKNOWN, 2.0), (BLOCK, 3.0)):
        meter = Quota(terms=terms, clock=clock).meters[0]
        upload(meter, error=error)
        assert refusal(meter).retry_after == wait
    for budget, wait in (("user", 60.0), ("client", 90.0), ("posts", 60.0)):
        meter = Quota(terms=terms, clock=clock).meters[0]
        upload(meter, error=used_up(budget, None))
        assert refusal(meter).retry_after == wait


def test_a_renewal_of_the_token_costs_nothing_and_is_judged_as_an_upload_is(
    meter: Meter, clock: Clock
) -> None:
    upload(meter, told((500, 0, HOUR)))
    meter.take(0).end(UNKNOWN)
    assert meter.hold == Closed("credentials", 1_060.0, UNKNOWN.message)
    with pytest.raises(errors.CredentialsRefused):
        meter.take(0)
    clock.now += 60.0
    meter.take(0, asking=True).end(UNKNOWN)
    assert meter.hold == Closed("credentials", 1_180.0, UNKNOWN.message)
    assert (meter.user.remaining, meter.user.in_flight) == (0, 0)


def test_nothing_is_sent_before_imgur_was_asked(quota: Quota, meter: Meter, clock: Clock) -> None:
    meter.hold_until_asked(10.0)
    assert quota.seconds_to_open(UPLOAD_COST, post=True) == 10.0
    assert refusal(meter).retry_after == 10.0
    clock.now += 0.1
    finish(meter.take(asking=True), told((500, 20, HOUR)))
    upload(meter, told((500, 10, HOUR)))
    assert len(take_all(meter)) == 1


def test_where_asking_gets_no_answer_it_is_not_waited_for_for_ever(
    meter: Meter, clock: Clock
) -> None:
    meter.hold_until_asked(10.0)
    question = meter.take(asking=True)
    clock.now += 10.0
    assert refusal(meter).retry_after is None, "one at a time"
    question.end(errors.UploadError("upload_timeout", "Late."))
    wait_for_hold(meter, clock)
    upload(meter)
    assert meter.hold is None


def test_asking_is_within_the_budgets_all_the_same(meter: Meter) -> None:
    upload(meter, told((500, 0, HOUR)))
    with pytest.raises(errors.QuotaExceeded):
        meter.take(asking=True)


# Several client ids


def test_the_client_id_with_the_most_room_is_the_next(clock: Clock) -> None:
    quota = Quota(3, clock=clock)
    for meter, left in zip(quota.meters, (100, 300, 200), strict=True):
        upload(meter, told((500, left, HOUR), (12_500, 12_000, DAY)))
    order = []
    for _ in range(60):
        meter = quota.best(UPLOAD_COST, post=True)
        meter.take(UPLOAD_COST, post=True)
        order.append(meter.number)
    assert order[:10] == [2] * 10
    assert Counter(order[10:30]) == {2: 10, 3: 10}, "then these two have the same"
    assert sorted(order) == [1] * 10 + [2] * 30 + [3] * 20, "until all of it is under way"
    assert quota.seconds_to_open(UPLOAD_COST, post=True) == math.inf


def test_the_day_counts_as_the_hour_does(clock: Clock) -> None:
    quota = Quota(2, clock=clock)
    upload(quota.meters[0], told((500, 400, HOUR), (12_500, 50, DAY)))
    upload(quota.meters[1], told((500, 100, HOUR), (12_500, 12_000, DAY)))
    assert quota.best(UPLOAD_COST, post=True) is quota.meters[1]


def test_a_client_id_that_is_held_is_passed_over(clock: Clock) -> None:
    quota = Quota(2, clock=clock)
    upload(quota.meters[0], error=BLOCK)
    upload(quota.meters[1], told((500, 20, HOUR)))
    assert quota.closed(UPLOAD_COST, post=True) is None
    assert quota.best(UPLOAD_COST, post=True) is quota.meters[1]


def test_when_all_are_closed_the_first_to_open_is_waited_for(clock: Clock) -> None:
    quota = Quota(3, clock=clock)
    upload(quota.meters[0], told((500, 0, 300.0)))
    upload(quota.meters[1], error=BLOCK)
    upload(quota.meters[2], told((500, 0, 200.0)))
    assert quota.seconds_to_open(UPLOAD_COST, post=True) == 200.0
    clock.now += 200.0
    assert quota.best(UPLOAD_COST, post=True) is quota.meters[2]


def test_a_client_id_with_wrong_credentials_is_neither_waited_for_nor_reckoned_with(
    clock: Clock,
) -> None:
    quota = Quota(2, clock=clock)
    upload(quota.meters[0], told((500, 0, 300.0)))
    upload(quota.meters[1], error=UNKNOWN)
    closed = quota.closed(UPLOAD_COST, post=True)
    assert closed is not None
    assert (closed.reason, closed.until) == ("user", clock() + 300.0)
    assert quota.seconds_for(50) == 300.0
    assert quota.seconds_for(51) == 300.0 + HOUR


def test_the_posts_of_all_client_ids_are_one_budget(clock: Clock) -> None:
    quota = Quota(2, clock=clock)
    upload(quota.meters[0], told((500, 400, HOUR), posts=(1_250, 4, 90.0)))
    upload(quota.meters[1], told((500, 400, HOUR), posts=(1_250, 3, 90.0)))
    permits = [quota.best(UPLOAD_COST, post=True).take(UPLOAD_COST, post=True) for _ in range(3)]
    for meter in quota.meters:
        assert refusal(meter).retry_after is None
    for permit in permits:
        permit.end(None)
    assert quota.seconds_to_open(UPLOAD_COST, post=True) == 90.0
    assert [view.name for view in quota.budgets()] == ["user", "client", "user", "client", "posts"]


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
        (told((500, 400, 60.0), (12_500, 90, DAY)), 59, DAY),
        (told((500, 400, 60.0), (12_500, 90, DAY)), 9 + 51, DAY + HOUR),
        (told(posts=(1_250, 3, 90.0)), 1_253, 90.0),
        (told(posts=(1_250, 3, 90.0)), 1_254, 90.0 + HOUR),
        (told((500, 400, HOUR), posts=(7, 0, 90.0)), 8, 90.0 + HOUR),
        (None, 1_000_000, 0.0),
        (told((None, 20, 60.0)), 1_000_000, 60.0),
        (told((5, 5, 60.0)), 1, math.inf),
    ],
)
def test_a_forecast_is_when_the_budgets_have_let_so_many_pass(
    quota: Quota, meter: Meter, found: Told | None, uploads: int, seconds: float
) -> None:
    upload(meter, found)
    assert quota.seconds_for(uploads) == seconds


def test_a_forecast_counts_what_is_under_way_as_spent(quota: Quota, meter: Meter) -> None:
    upload(meter, told((500, 100, 60.0)))
    for _ in range(4):
        meter.take(UPLOAD_COST, post=True)
    assert quota.seconds_for(6) == 0.0
    assert quota.seconds_for(7) == 60.0


def test_what_is_under_way_beyond_the_budget_is_not_added_to_a_forecast(
    quota: Quota, meter: Meter
) -> None:
    upload(meter, told((500, 100, 60.0)))
    permits = take_all(meter)
    finish(permits.pop(), told((500, 0, 60.0)), used_up("user", 60.0))
    assert quota.seconds_for(50) == 60.0
    assert quota.seconds_for(51) == 60.0 + HOUR


def test_a_forecast_knows_the_length_of_windows_as_imgur_shows_it(
    quota: Quota, meter: Meter
) -> None:
    upload(meter, told((100, 100, 60.0)))
    assert quota.seconds_for(31) == 180.0


def test_a_forecast_adds_up_all_client_ids(clock: Clock) -> None:
    quota = Quota(2, clock=clock)
    upload(quota.meters[0], told((500, 100, 60.0)))
    upload(quota.meters[1], told((500, 50, 90.0)))
    assert quota.seconds_for(15) == 0.0
    assert quota.seconds_for(16) == 60.0
    assert quota.seconds_for(15 + 50) == 60.0
    assert quota.seconds_for(15 + 51) == 90.0
    assert quota.seconds_for(15 + 101) == 60.0 + HOUR


def test_a_forecast_leaves_out_a_client_id_that_never_has_room(clock: Clock) -> None:
    quota = Quota(2, clock=clock)
    upload(quota.meters[0], told((5, 5, 60.0)))
    upload(quota.meters[1], told((500, 50, 90.0)))
    assert quota.seconds_for(55) == 90.0


def test_a_forecast_of_several_client_ids_shares_their_posts(clock: Clock) -> None:
    quota = Quota(2, clock=clock)
    for meter in quota.meters:
        upload(meter, told((500, 400, HOUR), posts=(20, 10, 60.0)))
    assert quota.seconds_for(10) == 0.0
    assert quota.seconds_for(30) == 60.0
    assert quota.seconds_for(31) == 60.0 + HOUR


def test_a_forecast_waits_for_a_hold_too(quota: Quota, meter: Meter, clock: Clock) -> None:
    upload(meter, told((500, 100, 60.0)), BLOCK)
    assert [quota.seconds_for(uploads) for uploads in (1, 10)] == [600.0, 600.0]
    clock.now += 700.0
    assert quota.seconds_for(10) == 0.0


def test_there_is_no_forecast_while_the_credentials_are_wrong(quota: Quota, meter: Meter) -> None:
    upload(meter, told((500, 100, 60.0)), UNKNOWN)
    assert quota.seconds_for(1) == math.inf
    assert quota.seconds_for(0) == 0.0


def test_a_forecast_changes_nothing(quota: Quota, meter: Meter) -> None:
    upload(meter, told((500, 100, 60.0), (12_500, 200, DAY), (1_250, 9, HOUR)))
    before = quota.budgets()
    assert [quota.seconds_for(500) for _ in range(3)] == [quota.seconds_for(500)] * 3
    assert quota.budgets() == before


def test_a_forecast_of_very_many_takes_no_long_reckoning(quota: Quota, meter: Meter) -> None:
    upload(meter, told((500, 0, HOUR), (12_500, 0, DAY), (1_250, 0, HOUR)))
    days, hours = 83, 7  # of 24 hours with 50 uploads each
    assert quota.seconds_for(100_000) == (1 + days) * DAY + hours * HOUR


# Threads


def test_many_threads_together_never_have_more_under_way_than_there_is_room_for() -> None:
    quota = Quota()
    meter = quota.meters[0]
    upload(meter, told((500, 400, HOUR), (12_500, 12_000, DAY), (1_250, 1_200, HOUR)))
    door, under_way, most, landed = threading.Lock(), 0, 0, 0

    def work() -> None:
        nonlocal under_way, most, landed
        while True:
            try:
                permit = meter.take(UPLOAD_COST, post=True)
            except errors.QuotaExceeded as error:
                if error.retry_after is not None:
                    return
                continue
            with door:
                under_way += 1
                most = max(most, landed + under_way)
            with door:
                under_way -= 1
                landed += 1
            permit.end(None)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert (landed, most) == (40, 40)
    assert quota.budgets()[0].remaining == 0
