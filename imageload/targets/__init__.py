"""Where images go: what a target is to the rest of the service, and what an upload needs.

Imgur   images under a limited quota, each upload a new one; albums
S3      a bucket of one's own: an image is one object, however often it is uploaded
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

import msgspec

from imageload.image import Landed
from imageload.targets.limits.breaker import Blocked, Endpoint, Reason, Terms
from imageload.targets.limits.budget import BudgetView
from imageload.targets.limits.gate import Gate
from imageload.targets.limits.quota import Quota, Quotas
from imageload.transport.slots import Pool

__all__ = [
    "Albums",
    "Blocked",
    "BudgetView",
    "Endpoint",
    "Reason",
    "Takes",
    "Target",
    "Terms",
    "Upload",
]


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """An image to be uploaded.

    `name` is unique, and an account's image is found again by it. `content` is the same for images
    of the same bytes: their SHA-256 in hex; `type` and `bytes` are the file's. `was_lost`: the
    response to an earlier upload of it was lost. `since` is when it first waited to be uploaded, on
    `time.monotonic`. `announce` is awaited when it is about to be sent, before it takes a slot;
    `retract` is called if it was not taken then, and waits until it is announced again.
    `may_send` is asked right before it is sent: if it may not be, it is announced again.
    `on_send` is called with True when its sending begins, and with False when that ends.
    """

    path: str
    name: str
    since: float
    content: str = ""
    type: str = ""
    bytes: int = 0
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


class Takes(NamedTuple):
    """What a target takes: images of other types than `refused`, of at most `max_bytes`."""

    refused: Sequence[str] = ()
    max_bytes: int = sys.maxsize


class Albums(Protocol):
    """The albums of a target that has them."""

    anonymous: bool
    """True if images and albums are addressed by their deletehashes, and not by their ids."""

    async def request(
        self, key: str, method: str, route: str, fields: Mapping[str, Any] | None = None
    ) -> Any:
        """The `data` of the target's response, in the turn of the job `key`."""

    def album_link(self, album_id: str) -> str:
        """The page of the album."""


class Target(Protocol):
    """A target of uploads. Imgur and S3 pass the same tests.

    Everything is called on the transfer loop; other threads may read the properties.
    """

    name: str
    """Its name for operators: "imgur", or the bucket's `s3://` URL."""
    place: str
    """How sentences name it: "Imgur" or "the bucket"."""
    link_base: str
    """All of its links begin with this."""
    takes: Takes
    is_repeatable: bool
    """True if the same image, uploaded again, changes nothing."""
    has_budgets: bool
    """True if it limits how much is uploaded, so that budgets are saved, and shared by nodes."""
    strips_metadata: bool
    """True if it removes metadata from uploaded images, so that the service need not."""
    albums: Albums | None
    """None: it has none."""
    quotas: Quotas
    """The breakers of its endpoints, and its budgets, which are infinite without limits."""
    purging: asyncio.Lock
    """Held while a purge finds out which of its images other jobs have too."""

    @property
    def gates(self) -> Mapping[Endpoint, Gate]:
        """Where requests wait while the target accepts none."""

    async def land(self, key: str, upload: Upload) -> Landed:
        """Upload the image in the turn of the job `key`, as soon as the target takes it.

        Nothing else runs on the loop between the end of this and of the coroutine that awaits it.
        Raises an ImageError of this try, or that of an outage which has lasted too long.
        """

    async def delete(self, key: str, landed: Landed) -> None:
        """Delete an image, in the turn of the job `key`; also if it is gone. Raises UploadError."""

    async def has(self, link: str) -> bool | None:
        """Whether it has the image of this link, which it refuses to others; None: not known."""

    def deleting(self, links: Set[str]) -> AbstractAsyncContextManager[object]:
        """Held from before it is looked up which of these links other jobs have, to their deletion.

        No upload lands at one of them meanwhile.
        """

    async def ask(self) -> None:
        """Begin to ask whether the target takes our requests, and for its limits."""

    def ask_for(self, quota: Quota) -> None:
        """Begin to ask for one of `quotas`, which waits for the response."""

    def reconsider(self) -> None:
        """The gate of uploads may have opened or shut without a request."""

    @property
    def gate(self) -> Gate:
        """That of uploads."""

    @property
    def pool(self) -> Pool:
        """How many uploads are in flight, and how many wait for a slot or for the target."""

    @property
    def parked(self) -> int:
        """How many images wait because the target takes no uploads."""

    @property
    def trouble(self) -> str | None:
        """A fault that an operator should mend although uploads go on; None: there is none."""

    def seconds_for(self, uploads: int) -> float:
        """How long so many uploads will take, by the budgets and the average upload."""

    def budgets(self) -> Sequence[BudgetView]:
        """Every budget at this moment; none without limits."""
