"""Turns of origin hosts: slots in the order of asking, pauses, and the breaker."""

from __future__ import annotations

import threading
import time

import pytest

from imageload.errors import DownloadError
from imageload.fetch.backlog import Backlog, host_of
from imageload.fetch.hosts import Busy, Down, Go, Hosts, Wait


def hosts(**values: float) -> Hosts:
    """Hosts with numbers that make no test wait."""
    return Hosts(
        per_host=int(values.get("per_host", 2)),
        failures=int(values.get("failures", 3)),
        rest_seconds=values.get("rest_seconds", 60.0),
        max_wait_seconds=values.get("max_wait_seconds", 60.0),
    )


class Line:
    """What stands in line: notes how it was woken."""

    def __init__(self) -> None:
        self.woken: list[tuple[str, bool]] = []

    def __call__(self, host: str, granted: bool) -> None:
        self.woken.append((host, granted))


def test_a_host_has_so_many_slots_and_no_more() -> None:
    turns = hosts(per_host=2)
    line = Line()
    assert turns.ask("a", line) == Go()
    assert turns.ask("a", line) == Go()
    assert turns.ask("a", line) == Busy()
    assert turns.ask("b", line) == Go(), "another host has its own"


def test_a_slot_goes_to_who_asked_first() -> None:
    turns = hosts(per_host=1)
    first, second, third = Line(), Line(), Line()
    assert turns.ask("a", first) == Go()
    assert turns.ask("a", second) == Busy()
    assert turns.ask("a", third) == Busy()
    turns.done("a", None)
    assert second.woken == [("a", True)]
    assert third.woken == []
    assert turns.ask("a", first) == Busy(), "behind the third"
    turns.release("a")
    assert third.woken == [("a", True)]
    turns.done("a", None)
    assert first.woken == [("a", True)]
    turns.done("a", None)
    assert turns.ask("a", first) == Go()


@pytest.mark.parametrize(
    "error",
    [
        DownloadError("connect_error", "x."),
        DownloadError("dns_error", "x."),
        DownloadError("timeout", "x."),
    ],
)
def test_a_host_that_fails_again_and_again_is_let_alone(error: DownloadError) -> None:
    turns, line = hosts(failures=3, per_host=10), Line()
    for _ in range(3):
        assert turns.ask("a", line) == Go()
        turns.done("a", error)
    turn = turns.ask("a", line)
    assert isinstance(turn, Down)
    assert turn.error.transient
    assert turn.error.retry_after == pytest.approx(60, abs=1)
    assert turns.ask("b", line) == Go()


def test_any_answer_at_all_breaks_the_row_of_failures() -> None:
    turns, line = hosts(failures=2), Line()
    for error in (
        DownloadError("connect_error", "x."),
        DownloadError("http_status", "x.", status_code=404),
        DownloadError("connect_error", "x."),
    ):
        assert turns.ask("a", line) == Go()
        turns.done("a", error)
    assert turns.ask("a", line) == Go()
    turns.done("a", DownloadError("not_image", "x.", status_code=200))
    assert turns.ask("a", line) == Go()


def test_after_its_rest_one_download_tries_the_host() -> None:
    turns, line = hosts(failures=1, rest_seconds=0.01), Line()
    assert turns.ask("a", line) == Go()
    turns.done("a", DownloadError("connect_error", "x."))
    deadline = time.monotonic() + 5
    while isinstance(turns.ask("a", line), Down):
        assert time.monotonic() < deadline
    other = Line()
    assert turns.ask("a", other) == Busy(), "the try is under way"
    turns.done("a", DownloadError("connect_error", "x."))
    assert other.woken == [("a", False)], "it failed: ask again, and be told"
    deadline = time.monotonic() + 5
    while isinstance(turns.ask("a", line), Down):
        assert time.monotonic() < deadline
    assert turns.ask("a", other) == Busy()
    turns.done("a", None)
    assert other.woken[1:] == [("a", True)], "it went well: go on"
    assert turns.ask("a", line) == Go(), "with all its slots"


def test_a_pause_that_a_host_asks_for_is_kept_within_bounds() -> None:
    turns, line = hosts(max_wait_seconds=30), Line()
    assert turns.ask("a", line) == Go()
    begun = time.monotonic()
    turns.done("a", DownloadError("origin_busy", "x.", status_code=429, retry_after=9_999))
    turn = turns.ask("a", line)
    assert isinstance(turn, Wait)
    assert turn.until - begun == pytest.approx(30, abs=1)
    assert turns.ask("b", line) == Go(), "and only that host waits"


def test_a_pause_sends_those_in_line_to_wait() -> None:
    turns, first, second = hosts(per_host=1), Line(), Line()
    assert turns.ask("a", first) == Go()
    assert turns.ask("a", second) == Busy()
    turns.done("a", DownloadError("origin_busy", "x.", status_code=503, retry_after=10))
    assert second.woken == [("a", False)]


def test_hosts_that_are_done_with_are_forgotten() -> None:
    turns, line = hosts(), Line()
    for number in range(1_000):
        assert turns.ask(f"h{number}", line) == Go()
        turns.done(f"h{number}", None)
    assert turns.in_use == 0


def test_no_slot_is_lost_or_made_under_many_threads() -> None:
    turns = hosts(per_host=3)
    running, most, lock = 0, 0, threading.Lock()

    def visit() -> None:
        nonlocal running, most
        for _ in range(200):
            granted = threading.Event()

            def wake(_host: str, _granted: bool, event: threading.Event = granted) -> None:
                event.set()

            turn = turns.ask("a", wake)
            if isinstance(turn, Busy):
                assert granted.wait(10)
            with lock:
                running += 1
                most = max(most, running)
            with lock:
                running -= 1
            turns.done("a", None)

    threads = [threading.Thread(target=visit) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert most <= 3
    assert turns.in_use == 0


URLS = [
    "http://a/1",
    "http://a/2",
    "http://a/3",
    "http://b/1",
    "nonsense",
    "http://[::1",
    "http://c/",
]


def backlog_of(urls: list[str], turns: Hosts, line: Line) -> Backlog:
    """A backlog of all of `urls`."""
    return Backlog(urls, range(len(urls)), turns, line)


def test_a_backlog_has_only_the_images_that_are_fresh_and_those_that_come_again() -> None:
    backlog = Backlog(URLS, [1, 3], hosts(), Line())
    backlog.again(4, 0.0)
    found = [backlog.next() for _ in range(4)]
    assert sorted(each[0] for each in found if each) == [1, 3, 4]
    assert found[3] is None


def test_a_backlog_that_is_cleared_has_nothing_and_gives_its_grants_back() -> None:
    turns, line, other = hosts(per_host=1), Line(), Line()
    backlog = backlog_of(URLS[:3], turns, line)
    assert backlog.next() == (0, None)
    assert backlog.next() is None
    backlog.again(0, 0.0)
    backlog.clear()
    assert not backlog
    assert backlog.next() is None
    assert turns.ask("a", other) == Busy()
    turns.done("a", None)
    assert line.woken == [("a", True)]
    backlog.awake("a", granted=True)
    backlog.return_grants()
    assert other.woken == [("a", True)]


def test_a_backlog_gives_images_in_order_as_far_as_hosts_allow() -> None:
    turns, line = hosts(per_host=2), Line()
    backlog = backlog_of(URLS, turns, line)
    given = []
    while (found := backlog.next()) is not None:
        assert found[1] is None
        given.append(found[0])
    assert given == [0, 1, 3, 4, 5, 6], "the third of host a waits, and stops nobody"
    assert backlog
    turns.done("a", None)
    assert line.woken == [("a", True)]
    backlog.awake("a", granted=True)
    assert backlog.next() == (2, None)
    assert backlog.next() is None
    assert not backlog


def test_an_image_of_a_host_that_is_down_comes_with_its_failure() -> None:
    turns, line = hosts(failures=1), Line()
    assert turns.ask("a", line) == Go()
    turns.done("a", DownloadError("connect_error", "x."))
    backlog = backlog_of(URLS[:4], turns, line)
    ends = [backlog.next() for _ in range(4)]
    assert sorted(end[0] for end in ends if end) == [0, 1, 2, 3]
    assert {end[0] for end in ends if end and end[1] is not None} == {0, 1, 2}


def test_a_host_that_pauses_is_asked_again_when_its_time_has_come() -> None:
    turns, line = hosts(max_wait_seconds=0.02), Line()
    assert turns.ask("a", line) == Go()
    turns.done("a", DownloadError("origin_busy", "x.", status_code=429, retry_after=10))
    backlog = backlog_of(URLS[:1], turns, line)
    assert backlog.next() is None
    wait = backlog.seconds_to_next()
    assert wait is not None
    assert wait <= 0.02
    deadline = time.monotonic() + 5
    while (found := backlog.next()) is None:
        assert time.monotonic() < deadline
    assert found == (0, None)


def test_a_grant_that_is_not_used_goes_to_the_next_in_line() -> None:
    turns, line, other = hosts(per_host=1), Line(), Line()
    backlog = backlog_of(URLS[:2], turns, line)
    assert backlog.next() == (0, None)
    assert backlog.next() is None
    assert turns.ask("a", other) == Busy()
    turns.done("a", None)
    backlog.awake("a", granted=True)
    backlog.return_grants()
    assert other.woken == [("a", True)]


def test_a_hundred_thousand_urls_of_one_busy_host_cost_no_square() -> None:
    turns, line = hosts(per_host=1), Line()
    urls = [f"http://a/{n}" for n in range(100_000)]
    backlog = backlog_of(urls, turns, line)
    for number in range(100_000):
        assert backlog.next() == (number, None)
        turns.release("a")
    assert not backlog


def test_a_host_that_answered_is_not_blamed_for_what_came_after() -> None:
    turns, line = hosts(failures=1), Line()
    for _ in range(5):
        error = DownloadError("timeout", "x.")
        error.answered = True
        assert turns.ask("a", line) == Go()
        turns.done("a", error)
    assert turns.ask("a", line) == Go()


def test_a_dot_at_the_end_makes_no_second_host() -> None:
    assert host_of("http://images.example./a") == host_of("http://images.example/a")
