"""Where images go: what an upload needs, whatever the target."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An image to be uploaded.

    `name` is unique, and an account's image is found again by it. `content` is the same for images
    of the same bytes. `was_lost`: the response to an
    earlier upload of it was lost. `since` is when it first waited to be uploaded, on
    `time.monotonic`. `announce` is awaited when it is about to be sent, before it takes a slot;
    `retract` is called if it was not taken then, and waits until it is announced again.
    `may_send` is asked right before it is sent: if it may not be, it is announced again.
    `on_send` is called with True when its sending begins, and with False when that ends.
    """

    path: str
    name: str
    since: float
    content: str = ""
    title: str | None = None
    description: str | None = None
    was_lost: bool = False
    announce: Callable[[], Awaitable[object]] | None = None
    retract: Callable[[], object] = lambda: None
    may_send: Callable[[], bool] = lambda: True
    on_send: Callable[[bool], object] = lambda _: None


class UploadCancelled(asyncio.CancelledError):
    """The task was cancelled after the whole image had been sent: it may be on the target."""

    maybe_landed = True
