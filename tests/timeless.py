"""An event loop whose time passes only in waits, and at once: timers without a machine's speed."""

from __future__ import annotations

import asyncio
from typing import Any


class TimelessLoop(asyncio.SelectorEventLoop):
    """While anything is ready to run its time stands still; then it jumps to the next timer.

    For coroutines that wait only for each other and for timers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 1_000.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def jump(timeout: float | None = None) -> Any:
            if timeout is None:
                raise RuntimeError("all wait, and no timer will wake any")
            self._now += max(0.0, timeout)
            return select(0)

        selector.select = jump

    def time(self) -> float:
        """The time of its timers."""
        return self._now
