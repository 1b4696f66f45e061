"""What every job's images travel on: the ways to and fro, and the rules that all jobs share."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec

from imageload.announcement import Announcement
from imageload.errors import ImageError, Shutdown
from imageload.fetch.hosts import Hosts
from imageload.fetch.tempfiles import TempBytes
from imageload.job import Change, Job, Landed, Report
from imageload.retry import RetryRule
from imageload.sharing import Sharing
from imageload.transport.transfer import Steps, TransferError

_log = logging.getLogger(__name__)

T_contra = TypeVar("T_contra", contravariant=True)
Reader = Callable[[Job, Change], None]
Done = Callable[[object], None]


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """An image to be uploaded: its file and its texts on Imgur.

    `name` is its own, by which an account's image is found again. `was_lost`: the answer to an
    upload of it was.
    """

    path: str
    name: str
    title: str | None = None
    description: str | None = None
    was_lost: bool = False
    announcement: Announcement | None = None
    """What has to be durable before it is sent."""


class Record(Protocol):
    """What is written down of jobs, so that a restart goes on with them."""

    def when_durable(self, done: Callable[[], None], /, *, hurry: bool = True) -> None:
        """Call `done`, from any thread, once all Changes that were applied so far are durable.

        Nothing is written down sooner for what is in no `hurry`.
        """


class Travel(Protocol[T_contra]):
    """A way for images that many use at once: downloads, or uploads."""

    @property
    def slots(self) -> int:
        """How many are under way at most, over all jobs."""

    def start(self, key: str, argument: T_contra, done: Done, /) -> None:
        """Take `argument` (a URL, an Upload) along in its turn among those of other keys.

        `done`, which must be quick, is told a Report or a Landed, or the exception in its place.
        Raises RuntimeError where nothing is taken any more.
        """

    def cancel(self, key: str, /) -> None:
        """End what `key` has waiting or under way, soon, as TransferError `stopped`."""


class ImgurTravel(Travel[Upload], Protocol):
    """The way to Imgur, which takes no uploads at times, and has calls beside them."""

    @property
    def is_parked(self) -> bool:
        """Do uploads wait for Imgur?"""

    @property
    def outage(self) -> tuple[float, ImageError] | None:
        """The block or the outage that they wait for, after its seconds so far."""

    def unqueue(self, key: str, /) -> None:
        """End what `key` has waiting, soon; what is under way goes on."""

    @property
    def anonymous(self) -> bool:
        """Are the images nobody's, and addressed by their deletehashes?"""

    def album_link(self, album_id: str, /) -> str:
        """Where an album is seen."""

    def watch(self, watcher: object, wake: Callable[[], object], /) -> None:
        """Have `wake` called when they begin to, go on, or wait for something else."""

    def unwatch(self, watcher: object, /) -> None:
        """Take that back."""

    def request(
        self, method: str, route: str, fields: Mapping[str, Any] | None = None, /
    ) -> Steps[Any]:
        """Steps of one call to Imgur, to what it answers."""

    def call(self, key: str, steps: Callable[[], Steps[Any]], done: Done, /) -> None:
        """Do such Steps; `done` is told what they return, or raise."""

    def cancel_calls(self, key: str, /) -> None:
        """End what `key` has of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """What every job's images travel on: shared by all jobs, safe in all threads."""

    download: Travel[str]
    upload: ImgurTravel
    retry: RetryRule
    hosts: Hosts
    sharing: Sharing
    discard: Callable[[str, int], None]
    """Told the path and length of a temp file that is not needed any more."""
    window: int
    outage_seconds: float = math.inf
    """How long an image waits for an Imgur that is out of order, or refuses us."""
    grace_seconds: float = 0.0
    """How long uploads under way may take to end when the service stops."""
    temp_bytes: TempBytes = field(default_factory=TempBytes)
    readers: tuple[Reader, ...] = ()
    record: Record | None = None

    def apply(self, job: Job, change: Change) -> None:
        """Make `change` true of `job`, and tell who reads Changes."""
        job.apply(change)
        for reader in self.readers:
            try:
                reader(job, change)
            except Exception:
                _log.exception("a reader of changes raised job=%s", job.job_id)


def outcome_of(value: object) -> Report | Landed | ImageError:
    """What came of a travel, with bugs and a stop as errors of the image too."""
    if isinstance(value, (Report, Landed, ImageError)):
        return value
    if isinstance(value, TransferError) and value.kind == "stopped":
        return Shutdown("The service stopped before this image was through.")
    error = value if isinstance(value, BaseException) else None
    _log.error("an image met a bug: %r", value, exc_info=error)
    return ImageError("internal_error", f"A bug in the service: {type(value).__name__}.")
