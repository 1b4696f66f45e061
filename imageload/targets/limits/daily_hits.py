"""On how many days the daily limit of a client id was hit: Imgur blocks an application for it.

"If the daily limit is hit five times in a month, then the app will be blocked for the rest of the
month" (Imgur's API page). Imgur does not say when a month begins, nor answer differently afterwards
than on a day whose credits are used up. So a block is only presumed, after five days in the last
thirty. Written on the transfer loop; other threads may read. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST_HITS = 5
_MONTH = 30 * 86_400.0


class DailyHits:
    """The days of the last month whose credits were used up. Moments are of the caller's clock."""

    def __init__(self, day: float) -> None:
        """`day` is the length of a day."""
        self._day = day
        self._ends: list[float] = []

    def note(self, ends: float, now: float) -> None:
        """The daily limit was hit, on a day that lasts until about `ends`. A day counts once."""
        # Imgur rounds the end of a day, so one day may seem to have two.
        if not self._ends or ends - self._ends[-1] >= self._day / 2:
            self._ends = [*self._recent(now), ends]

    def presume_block(self, now: float) -> bool:
        """True if Imgur may have blocked the client id for the rest of the month."""
        return len(self._recent(now)) >= MOST_HITS

    def snapshot(self, now: float, epoch: float) -> list[float]:
        """For `restore`; `epoch` is `now` by the clock of the snapshot."""
        return [end - now + epoch for end in self._recent(now)]

    def restore(self, snapshot: Sequence[float], now: float, epoch: float) -> None:
        """Go on with a `snapshot`; `epoch` is `now` by the snapshot's clock."""
        self._ends = [end - epoch + now for end in snapshot]

    def _recent(self, now: float) -> list[float]:
        return [end for end in self._ends if now < end + _MONTH]
