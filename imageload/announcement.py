"""That an upload begins has to be durable before it does: who waits for that, and how it is hidden.

    the job's thread      `Announcer`: has uploads written down before their turn comes
    the journal's thread  `Announcement.durable`, when one is on the disk
    the engine            `Announcement.hold(go_on)`, when an upload's turn has come

An upload that waits for the disk in its slot keeps others out. So one is announced as soon as those
before it will have landed by the time that this is durable, going by how many did the last time.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

# With 16 slots at one image a second each it is down to half in some ten seconds.
_FADING = 0.995


class Announcement:
    """That of one image. `ask` is called where its turn comes and nothing is written down yet."""

    __slots__ = ("_ask", "_go_on", "index", "is_durable", "is_made")

    def __init__(self, index: int, ask: Callable[[int], object]) -> None:
        self.index = index
        self.is_made = False
        """It is written down, or on its way to the disk. Set by the job's thread."""
        self.is_durable = False
        self._ask = ask
        self._go_on: Callable[[], object] | None = None

    def hold(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` when it is durable, which may be at once; twice, if both happen together."""
        # First this, then that, and in `durable` the other way round: one of the two sees both.
        self._go_on = go_on
        if self.is_durable:
            go_on()
        elif not self.is_made:
            self._ask(self.index)

    def durable(self) -> None:
        """Let what waits go on, and what comes later."""
        self.is_durable = True
        if self._go_on is not None:
            self._go_on()


class Announcer:
    """The announcements of one job; all but `durable` of each is its thread's.

    `write` writes down that the upload of an image begins; False where it does not any more.
    `when_durable` calls what it is given when all that was written is durable: it is asked by
    `flush`, once for many. `ask` is told, by the engine, of an image whose turn has come: then
    `turned` has to be called.
    """

    def __init__(
        self,
        write: Callable[[int], bool],
        when_durable: Callable[[Callable[[], None]], object],
        ask: Callable[[int], object],
    ) -> None:
        self._write = write
        self._when_durable = when_durable
        self._ask = ask
        self._waiting: dict[int, Announcement] = {}
        self._made: list[Announcement] = []
        self._landed = self._landed_before = 0
        self._landed_meanwhile = 0.0

    def add(self, index: int) -> Announcement:
        """The announcement of an image that is put in line now."""
        announcement = self._waiting[index] = Announcement(index, self._ask)
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

    def flush(self) -> None:
        """Let those that were made since the last time go on when they are durable."""
        if self._made:
            made, self._made = self._made, []
            self._when_durable(functools.partial(self._durable, made))

    def landed(self) -> None:
        """An upload has landed."""
        self._landed += 1

    def forget(self, index: int) -> None:
        """An image is not in line any more."""
        self._waiting.pop(index, None)

    def _make(self, index: int) -> None:
        announcement = self._waiting.pop(index, None)
        if announcement is not None and self._write(index):
            announcement.is_made = True
            self._made.append(announcement)

    def _durable(self, made: Sequence[Announcement]) -> None:
        # The first of a transaction sees what landed since the last; the others let it fade.
        landed, self._landed_before = self._landed - self._landed_before, self._landed
        self._landed_meanwhile = max(landed, _FADING ** len(made) * self._landed_meanwhile)
        for announcement in made:
            announcement.durable()
