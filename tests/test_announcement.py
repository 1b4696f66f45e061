"""When it is written down that an upload begins: before its turn comes, and for few more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from imageload.announcement import Announcement, Announcer


class Disk:
    """What was written down, and is durable when the test says so."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.asked: list[int] = []
        self.ended: set[int] = set()
        self.flush: Callable[[], None]
        self._durable: list[Callable[[], None]] = []

    def write(self, index: int) -> bool:
        """Note it, unless it has ended."""
        if index in self.ended:
            return False
        self.written.append(index)
        return True

    def when_durable(self, done: Callable[[], None]) -> None:
        """Note what to call."""
        self._durable.append(done)

    def sync(self) -> None:
        """All that was written is durable."""
        self.flush()
        durable, self._durable = self._durable, []
        for each in durable:
            each()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def announcer(disk: Disk) -> Announcer:
    announcer = Announcer(disk.write, disk.when_durable, disk.asked.append)
    disk.flush = announcer.flush
    return announcer


def held(announcement: Announcement) -> list[str]:
    """Hold the announcement; what this gives says later whether it went on."""
    gone_on: list[str] = []
    announcement.hold(lambda: gone_on.append("on"))
    return gone_on


def test_an_upload_goes_on_when_it_is_durable_that_it_begins(
    disk: Disk, announcer: Announcer
) -> None:
    announcement = announcer.add(0)
    announcer.make_ahead(0, before=-1)
    gone_on = held(announcement)
    assert gone_on == []
    disk.sync()
    assert gone_on == ["on"]
    assert disk.asked == []


def test_an_upload_whose_turn_comes_later_than_that_goes_on_at_once(
    disk: Disk, announcer: Announcer
) -> None:
    announcement = announcer.add(0)
    announcer.make_ahead(0, before=-1)
    disk.sync()
    assert announcement.is_durable
    assert held(announcement) == ["on"]


def test_an_upload_whose_turn_comes_unannounced_is_announced_then(
    disk: Disk, announcer: Announcer
) -> None:
    announcement = announcer.add(7)
    announcer.make_ahead(7, before=0)
    assert disk.written == []
    gone_on = held(announcement)
    assert disk.asked == [7]
    announcer.turned(7)
    assert disk.written == [7]
    disk.sync()
    assert gone_on == ["on"]


def test_as_many_are_announced_ahead_as_landed_while_the_last_was_written_down(
    disk: Disk, announcer: Announcer
) -> None:
    announcer.add(0)
    announcer.make_ahead(0, before=-1)
    for _ in range(3):
        announcer.landed()
    disk.sync()
    for index in range(1, 7):
        announcer.add(index)
        announcer.make_ahead(index, before=index - 1)
    assert disk.written == [0, 1, 2, 3]
    announcer.turned(4)
    assert disk.written == [0, 1, 2, 3, 4, 5, 6]


def test_what_landed_before_the_next_were_announced_counts_too(
    disk: Disk, announcer: Announcer
) -> None:
    """Else all are announced when all have landed, and nothing is done while the disk works."""
    announcer.add(0)
    announcer.make_ahead(0, before=-1)
    disk.sync()
    for _ in range(3):
        announcer.landed()
    announcer.add(1)
    announcer.make_ahead(1, before=-1)
    disk.sync()
    for index in range(2, 7):
        announcer.add(index)
        announcer.make_ahead(index, before=index - 2)
    assert disk.written == [0, 1, 2, 3, 4]


def test_of_an_imgur_that_takes_nothing_meanwhile_nothing_is_announced_ahead(
    disk: Disk, announcer: Announcer
) -> None:
    for index in range(3):
        announcer.add(index)
        announcer.make_ahead(index, before=index)
    announcer.turned(0)
    disk.sync()
    announcer.turned(1)
    assert disk.written == [0, 1]


def test_what_has_left_the_line_is_not_announced(disk: Disk, announcer: Announcer) -> None:
    for index in range(2):
        announcer.add(index)
    announcer.forget(0)
    for index in range(2):
        announcer.turned(index)
    assert disk.written == [1]


def test_an_upload_that_has_ended_meanwhile_never_goes_on(disk: Disk, announcer: Announcer) -> None:
    announcements = [announcer.add(index) for index in range(2)]
    gone_on = [held(announcement) for announcement in announcements]
    disk.ended.add(0)
    for index in range(2):
        announcer.turned(index)
    disk.sync()
    assert gone_on == [[], ["on"]]


def test_what_is_announced_after_a_flush_goes_on_with_the_next(
    disk: Disk, announcer: Announcer
) -> None:
    first, second = (held(announcer.add(index)) for index in range(2))
    announcer.turned(0)
    announcer.flush()
    announcer.turned(1)
    disk.flush = lambda: None
    disk.sync()
    assert (first, second) == (["on"], [])
    announcer.flush()
    disk.sync()
    assert second == ["on"]
