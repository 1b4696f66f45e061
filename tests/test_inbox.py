"""Tests of inbox: every message once, in its order, and a reader that wakes."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable

import pytest

from imageload.inbox import Inbox

SOON = 10.0  # seconds: past that the reader has slept through it


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_messages_come_in_the_order_in_which_they_were_left() -> None:
    inbox: Inbox[int] = Inbox()
    for number in range(100):
        inbox.tell(number)
    assert list(inbox.messages(SOON)) == list(range(100))
    assert not inbox


def test_it_is_true_while_there_is_a_message() -> None:
    inbox: Inbox[str] = Inbox()
    assert not inbox
    inbox.tell("x")
    assert inbox
    assert list(inbox.messages(0.0)) == ["x"]
    assert not inbox


def test_without_a_message_the_reader_waits_for_as_long_as_it_said() -> None:
    inbox: Inbox[str] = Inbox()
    began = time.monotonic()
    assert list(inbox.messages(0.05)) == []
    assert 0.05 <= time.monotonic() - began < SOON


def test_a_message_wakes_the_reader() -> None:
    inbox, found = Inbox[str](), list[str]()
    reader = in_thread(lambda: found.extend(inbox.messages(None)))
    inbox.tell("x")
    reader.join(SOON)
    assert found == ["x"]


def test_the_reader_is_woken_again_and_again() -> None:
    inbox, read, found = Inbox[int](), threading.Semaphore(0), list[int]()

    def read_on() -> None:
        while len(found) < 200:
            found.extend(inbox.messages(None))
            read.release()

    in_thread(read_on)
    for number in range(200):
        inbox.tell(number)
        assert read.acquire(timeout=SOON)
        while not inbox and len(found) <= number:
            assert read.acquire(timeout=SOON), "that was a ring too much"
    assert found == list(range(200))


def test_a_ring_wakes_the_reader_without_any_message() -> None:
    inbox, rounds = Inbox[str](), list[list[str]]()
    reader = in_thread(lambda: rounds.append(list(inbox.messages(None))))
    inbox.ring()
    reader.join(SOON)
    assert rounds == [[]]


def test_a_ring_from_before_is_heard_too() -> None:
    inbox: Inbox[str] = Inbox()
    inbox.ring()
    began = time.monotonic()
    assert list(inbox.messages(SOON)) == []
    assert time.monotonic() - began < SOON


def test_the_bell_rings_once_for_all_that_comes_before_it_is_heard() -> None:
    inbox: Inbox[int] = Inbox()
    for number in range(1_000):
        inbox.tell(number)
    assert len(list(inbox.messages(SOON))) == 1_000
    began = time.monotonic()
    assert list(inbox.messages(0.05)) == [], "there is no second bell"
    assert time.monotonic() - began >= 0.05


def test_what_comes_while_it_is_read_is_read_along() -> None:
    inbox, found = Inbox[int](), list[int]()
    inbox.tell(0)
    for number in inbox.messages(SOON):
        found.append(number)
        if number < 10:
            inbox.tell(number + 1)
    assert found == list(range(11))


def test_what_a_reader_left_unread_is_not_waited_for() -> None:
    inbox: Inbox[int] = Inbox()
    for number in range(3):
        inbox.tell(number)
    for _ in inbox.messages(SOON):
        break
    began = time.monotonic()
    assert list(inbox.messages(SOON)) == [1, 2]
    assert time.monotonic() - began < SOON / 2


@pytest.mark.parametrize("writers", [1, 8])
def test_of_what_many_threads_say_nothing_is_lost_or_heard_twice(writers: int) -> None:
    inbox, each = Inbox[tuple[int, int]](), 2_000

    def write(writer: int) -> None:
        for number in range(each):
            inbox.tell((writer, number))

    threads = [in_thread(functools.partial(write, writer)) for writer in range(writers)]
    found: list[tuple[int, int]] = []
    while len(found) < writers * each:
        began = len(found)
        found.extend(inbox.messages(SOON))
        assert len(found) > began or inbox or any(thread.is_alive() for thread in threads)
    for writer in range(writers):
        assert [number for who, number in found if who == writer] == list(range(each))
    assert not inbox
