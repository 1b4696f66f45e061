"""Job, Change, Report: the state machine of a list of images.

A `Job` is the one mutable thing, `apply` its one verb, a Change one fact about it:

    queued ──Downloaded──► downloaded ──Uploaded──► completed ──Purged──┐
       └────────Failed────────┴────────► failed ◄──────────────────────┘
                                           └──Requeued──► queued

Every URL is in exactly one state at every moment. A job's images are written by one thread, its
own; any thread may take a snapshot. It never does I/O and knows none of its readers.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from imageload.errors import Failure, IllegalChange

State = Literal["queued", "downloaded", "completed", "failed"]
Status = Literal["pending", "in-progress", "complete"]
STATES: tuple[State, ...] = ("queued", "downloaded", "completed", "failed")


class _Value(msgspec.Struct, frozen=True, gc=False):
    """Compared by its fields and never changed, like a Change, but replaced at every step.

    That takes a Struct 0.1 µs and a frozen dataclass 3, and as none can be in a ring, the garbage
    collector need not look at the images of large jobs. Changes are asked what they are instead,
    and there a Struct is the slower one.
    """


class Item(NamedTuple):
    """One entry of a list: a URL, and the texts that its image gets on Imgur."""

    url: str
    title: str | None = None
    description: str | None = None


class Album(_Value, frozen=True):
    """The album that a job's images go into: what is wanted, and what has become of it.

    `is_open`: it has still to be made, or to take in images. `deletehash` is a secret; an
    account's album has none.
    """

    title: str
    is_open: bool = True
    id: str | None = None
    link: str | None = None
    deletehash: str | None = None
    failure: Failure | None = None


class Callback(_Value, frozen=True):
    """Where a job's end is told: `is_told` it was, or `failure` says why it could not be.

    `url` may carry a secret.
    """

    url: str
    is_told: bool = False
    failure: Failure | None = None

    @property
    def is_open(self) -> bool:
        """Has it still to be told?"""
        return not self.is_told and self.failure is None


class Report(_Value, frozen=True):
    """What is known of an image that was downloaded.

    `temp_fn` is the file's path, empty where another image's file was ours. The other facts are
    of the file as it is uploaded; `converted_from` is the type it came as, if that was another.
    """

    temp_fn: str
    status_code: int
    bytes: int
    type: str
    width: int | None
    height: int | None
    sha256: str
    converted_from: str | None = None


class Landed(_Value, frozen=True):
    """An image on Imgur: its link, and the deletehash that takes it down again (a secret)."""

    link: str
    deletehash: str | None = None


class Image(_Value, frozen=True):
    """One URL of a job and how far it has come.

    `uploading`: an upload of it was begun, so it may be on Imgur. `maybe_duplicate`: the answer to
    an upload was lost, so it may be there once more than its link says. The failure of an image
    that is completed is that of its deletion.
    """

    url: str
    state: State = "queued"
    report: Report | None = None
    link: str | None = None
    deletehash: str | None = None
    failure: Failure | None = None
    attempts: int = 0
    reused: bool = False
    title: str | None = None
    description: str | None = None
    uploading: bool = False
    maybe_duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """The job's thread has begun."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """The image at `index` lies in its temp file, after `attempts` downloads."""

    index: int
    report: Report
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Uploading:
    """An upload of the image at `index` begins: from now on it may be on Imgur."""

    index: int


@dataclass(frozen=True, slots=True)
class NotSent:
    """The upload of the image at `index` that was to begin did not: Imgur knows nothing of it."""

    index: int


@dataclass(frozen=True, slots=True)
class AnswerMissed:
    """The answer to an upload of the image at `index` was lost: it may be on Imgur, unknown."""

    index: int


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The image at `index` is on Imgur; `reused` says that another upload brought it there.

    `deletehash` takes it down again: a secret.
    """

    index: int
    link: str
    deletehash: str | None = None
    attempts: int = 1
    reused: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """The image at `index` will not land. `attempts` counts the tries of the phase that failed."""

    index: int
    failure: Failure
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Requeued:
    """The image at `index`, which had failed, is tried again from the start."""

    index: int


@dataclass(frozen=True, slots=True)
class Purged:
    """The image at `index`, which was completed, is not on Imgur any more, or not ours there.

    `failure` is the reason that is shown from now on.
    """

    index: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class PurgeFailed:
    """The image at `index` could not be deleted from Imgur: it is still there."""

    index: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class PurgeBegun:
    """What the job has brought to Imgur is being deleted there."""


@dataclass(frozen=True, slots=True)
class PurgeEnded:
    """Everything that a purge could do was done.

    With `album_deleted` the album is gone too; `album_failure` is why it is not.
    """

    album_deleted: bool = False
    album_failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class AlbumEnded:
    """What became of the job's album: made or filled (`id`, `link`), or why not (`failure`)."""

    id: str | None = None
    link: str | None = None
    deletehash: str | None = None
    failure: Failure | None = None


ImageChange = (
    Downloaded
    | Uploading
    | NotSent
    | AnswerMissed
    | Uploaded
    | Failed
    | Requeued
    | Purged
    | PurgeFailed
)


@dataclass(frozen=True, slots=True)
class AlbumReopened:
    """The album, which had failed, is tried again."""


@dataclass(frozen=True, slots=True)
class CallbackEnded:
    """The job's end was told to its callback, or why it could not be (`failure`).

    `version` is the job's at that end: where it has gone on since, there is another end to tell.
    """

    version: int
    failure: Failure | None = None


JobChange = Started | AlbumEnded | AlbumReopened | PurgeBegun | PurgeEnded | CallbackEnded
Change = JobChange | ImageChange


class Snapshot(_Value, frozen=True):
    """A job as it was at one moment. Two snapshots of one `version` are equal."""

    job_id: str
    created: datetime
    version: int
    started: bool
    images: Sequence[Image]
    counts: dict[State, int]
    maybe_duplicates: int = 0
    album: Album | None = None
    purging: bool = False
    callback: Callback | None = None

    @property
    def finished(self) -> bool:
        """True when nothing more will happen."""
        if self.counts["queued"] or self.counts["downloaded"] or self.purging:
            return False
        return self.album is None or not self.album.is_open

    @property
    def status(self) -> Status:
        """The job's status word, as the contract has it."""
        if self.finished:
            return "complete"
        return "in-progress" if self.started else "pending"


class Job:
    """A list of URLs on its way to Imgur.

    With `dedupe` an image that another job brings or brought over is not brought again. With
    `album`, a title, the images that land go into one album. Its end is told to the URL `callback`.
    """

    def __init__(
        self,
        urls: Iterable[str | Item],
        job_id: str | None = None,
        *,
        dedupe: bool = True,
        album: str | None = None,
        callback: str | None = None,
        created: datetime | None = None,
    ) -> None:
        self.job_id = job_id or str(uuid.uuid4())
        self.dedupe = dedupe
        self.created = created or datetime.now(UTC).replace(microsecond=0)
        self._lock = threading.Lock()
        self._images = [_queued(Item(url) if isinstance(url, str) else url) for url in urls]
        self._counts: dict[State, int] = dict.fromkeys(STATES, 0)
        self._counts["queued"] = len(self._images)
        self._maybe_duplicates = 0
        self._album = Album(album) if album is not None else None
        self._callback = Callback(callback) if callback is not None else None
        self._started = False
        self._purging = False
        self._version = 0

    @classmethod
    def restored(
        cls,
        images: Iterable[Image],
        job_id: str,
        *,
        created: datetime,
        dedupe: bool = True,
        started: bool = False,
        album: Album | None = None,
        purging: bool = False,
        callback: Callback | None = None,
    ) -> Job:
        """The job as it was when the process that worked on it ended; at version 0.

        What had not ended begins again, for its temp file is gone, and so does a job that had not
        finished; where an upload had begun, the image may be on Imgur already.
        """
        job = cls((), job_id, dedupe=dedupe, created=created)
        job._images = [
            image if image.state in ("completed", "failed") else _begun_again(image)
            for image in images
        ]
        for image in job._images:
            job._counts[image.state] += 1
            job._maybe_duplicates += image.maybe_duplicate
        job._album = album
        job._callback = callback
        job._purging = purging
        job._started = started and job.summary().finished
        return job

    def __len__(self) -> int:
        return len(self._images)

    def apply(self, change: Change) -> None:
        """Make `change` true, in constant time; raises IllegalChange where it does not fit."""
        with self._lock:
            match change:
                case Downloaded() | Uploading() | Uploaded():  # first, for these come all the time
                    self._apply_to_image(change)
                case Started():
                    if self._started:
                        raise IllegalChange(f"{change} in a job that had started")
                    self._started = True
                case PurgeBegun() | PurgeEnded():
                    begun = isinstance(change, PurgeBegun)
                    if begun is self._purging:
                        raise IllegalChange(f"{change} where that is so already")
                    self._purging = begun
                    if isinstance(change, PurgeEnded) and self._album is not None:
                        self._album = _purged(self._album, change)
                case AlbumReopened():
                    if self._album is None or self._album.is_open:
                        raise IllegalChange("AlbumReopened in a job whose album is open, or none")
                    self._album = replace(self._album, is_open=True, failure=None)
                case AlbumEnded():
                    self._end_album(change)
                case CallbackEnded():
                    self._end_callback(change)
                case _:
                    self._apply_to_image(change)
            if self._callback and isinstance(change, (Requeued, PurgeBegun, AlbumReopened)):
                self._callback = Callback(self._callback.url)  # the job will end anew
            self._version += 1

    def _apply_to_image(self, change: ImageChange) -> None:
        if not 0 <= change.index < len(self._images):
            raise IllegalChange(f"there is no image {change.index}")
        before = self._images[change.index]
        after = _changed(before, change)
        self._images[change.index] = after
        self._counts[before.state] -= 1
        self._counts[after.state] += 1
        self._maybe_duplicates += after.maybe_duplicate - before.maybe_duplicate
        if self._album is not None and isinstance(change, Requeued):
            self._album = replace(self._album, is_open=True)

    def _end_album(self, change: AlbumEnded) -> None:
        if self._album is None or not self._album.is_open:
            raise IllegalChange("AlbumEnded in a job that waits for no album")
        old = self._album
        self._album = Album(
            old.title,
            is_open=False,
            id=change.id or old.id,
            link=change.link or old.link,
            deletehash=change.deletehash or old.deletehash,
            failure=change.failure,
        )

    def _end_callback(self, change: CallbackEnded) -> None:
        if self._callback is None:
            raise IllegalChange("CallbackEnded in a job that has no callback")
        if change.version != self._version:
            return
        told = change.failure is None
        self._callback = Callback(self._callback.url, is_told=told, failure=change.failure)

    @property
    def callback(self) -> Callback | None:
        """Where its end is told."""
        return self._callback

    @property
    def started(self) -> bool:
        """Has its thread begun, now or ever?"""
        return self._started

    def image(self, index: int) -> Image:
        """The image at `index` as it is now."""
        return self._images[index]

    @property
    def version(self) -> int:
        """How many Changes were applied."""
        return self._version

    def snapshot(self) -> Snapshot:
        """The whole job at this moment; costs one copy of a list of references."""
        with self._lock:
            return self._view(tuple(self._images))

    def summary(self) -> Snapshot:
        """The job at this moment without its images: constant time however large it is."""
        with self._lock:
            return self._view(())

    def _view(self, images: Sequence[Image]) -> Snapshot:
        return Snapshot(
            self.job_id,
            self.created,
            self._version,
            self._started,
            images,
            dict(self._counts),
            self._maybe_duplicates,
            self._album,
            self._purging,
            self._callback,
        )


def _queued(item: Item) -> Image:
    return Image(item.url, title=item.title, description=item.description)


def _purged(album: Album, change: PurgeEnded) -> Album:
    if change.album_deleted:
        return Album(album.title, is_open=False)
    return replace(album, failure=change.album_failure or album.failure)


def _begun_again(image: Image) -> Image:
    queued = _queued(Item(image.url, image.title, image.description))
    return replace(queued, maybe_duplicate=image.maybe_duplicate or image.uploading)


def _changed(image: Image, change: ImageChange) -> Image:
    match change, image.state:
        case Downloaded(), "queued":
            return replace(
                image, state="downloaded", report=change.report, attempts=change.attempts
            )
        case Uploading(), "downloaded":
            return image if image.uploading else replace(image, uploading=True)
        case NotSent(), "downloaded":
            return replace(image, uploading=False)
        case AnswerMissed(), "downloaded":
            return replace(image, maybe_duplicate=True)
        case Uploaded(), "downloaded":
            return replace(
                image,
                state="completed",
                link=change.link,
                deletehash=change.deletehash,
                attempts=change.attempts,
                reused=change.reused,
                uploading=False,
            )
        case Failed(), "queued" | "downloaded":
            return replace(
                image,
                state="failed",
                failure=change.failure,
                attempts=change.attempts,
                uploading=False,
            )
        case Requeued(), "failed":
            queued = _queued(Item(image.url, image.title, image.description))
            return replace(queued, maybe_duplicate=image.maybe_duplicate)
        case Purged(), "completed":
            return replace(
                image,
                state="failed",
                failure=change.failure,
                link=None,
                deletehash=None,
                reused=False,
            )
        case PurgeFailed(), "completed":
            return replace(image, failure=change.failure)
    raise IllegalChange(f"{type(change).__name__} does not follow {image.state}")
