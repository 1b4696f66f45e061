"""That an upload begins has to be durable before it does: who waits for that, and how it is hidden.

    the job's thread      `Announcer`: has uploads written down before their turn comes
    the journal's thread  `Announcement.durable`, when one is on the disk
    the engine            `Announcement.hold(go_on)`, when an upload's turn has come

An upload that waits for the disk in its slot keeps others out. So one is announced as soon as those
before it will have landed by the time that this is durable, going by how many did the last time.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

# With 16 slots at one image a second each it is down to half in some ten seconds.
_FADING = 0.995


class Announcement:
    """`ask` is called where the upload's turn comes and nothing has been written down yet."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self.is_made = False
        """It is written down, or on its way to the disk. Set by the job's thread."""
        self.is_durable = False
        self._ask = ask
        self._go_on: Callable[[], object] | None = None
        self._door = threading.Lock()

    def hold(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` when it is durable, which may be at once."""
        with self._door:
            self._go_on = go_on
            is_durable = self.is_durable
        if is_durable:
            go_on()
        elif not self.is_made:
            self._ask()

    def durable(self) -> None:
        """Let what waits go on, and what comes later."""
        with self._door:
            self.is_durable = True
            go_on = self._go_on
        if go_on is not None:
            go_on()


class Announcer:
    """The announcements of one job; all but `durable` of each is its thread's.

    `write` writes down that the upload of an image begins, and calls what it is given when that is
    durable. `ask` is told, by the engine, of an image whose turn has come: then `turned` has to be
    called.
    """

    def __init__(
        self,
        write: Callable[[int, Callable[[], None]], object],
        ask: Callable[[int], object],
    ) -> None:
        self._write = write
        self._ask = ask
        self._waiting: dict[int, Announcement] = {}
        self._landed = self._landed_before = 0
        self._landed_meanwhile = 0.0

    def add(self, index: int) -> Announcement:
        """The announcement of an image that is put in line now."""
        announcement = self._waiting[index] = Announcement(lambda: self._ask(index))
        return announcement

    def make_ahead(self, index: int, *, before: int) -> None:
        """Make that of an image whose turn comes when `before` have landed, if it comes soon."""
        if before < self._landed_meanwhile:
            self._make(index)

    def turned(self, index: int) -> None:
        """An image's turn has come: it is announced, and those whose turn comes meanwhile."""
        self._make(index)
        for following in list(itertools.islice(self._waiting, int(self._landed_meanwhile))):
            self._make(following)

    def landed(self) -> None:
        """An upload has landed."""
        self._landed += 1

    def forget(self, index: int) -> None:
        """An image is not in line any more."""
        self._waiting.pop(index, None)

    def _make(self, index: int) -> None:
        announcement = self._waiting.pop(index, None)
        if announcement is None:
            return

        def durable() -> None:
            # The first of a transaction sees what landed since the last; the others let it fade.
            landed, self._landed_before = self._landed - self._landed_before, self._landed
            self._landed_meanwhile = max(landed, _FADING * self._landed_meanwhile)
            announcement.durable()

        announcement.is_made = True
        self._write(index, durable)
