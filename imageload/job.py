"""Job, its Changes and its Snapshot: a list of images on its way to the target.

A `Job` is the one mutable value. A Change is one fact about it, or about one of its images
(`imageload.image`), and `Job.apply` makes it true. One thread at a time applies Changes to a job;
any thread may take a snapshot. This module does no I/O and does not know its observers.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from msgspec.structs import asdict, replace

from imageload.errors import Failure, IllegalChange
from imageload.image import STATES, Image, ImageChange, Item, Requeued, State, Value, memory_of

Status = Literal["pending", "in-progress", "complete"]
Only = Literal["transient"] | int | None
"""The failed images to retry: those whose error is transient, the one at an index, or all."""


class Album(Value, frozen=True):
    """The album for a job's images: the title wanted, and the result.

    `is_open`: the album must still be made, or still takes images. `deletehash` is a secret; an
    account's album has none.
    """

    title: str
    is_open: bool = True
    id: str | None = None
    link: str | None = None
    deletehash: str | None = None
    failure: Failure | None = None


class Callback(Value, frozen=True):
    """The URL that is called when a job ends. `is_told`: it was called; `failure`: it cannot be.

    `url` may contain a secret.
    """

    url: str
    is_told: bool = False
    failure: Failure | None = None

    @property
    def is_open(self) -> bool:
        """True while the call is still to be made."""
        return not self.is_told and self.failure is None


class Started(Value, frozen=True):
    """Work on the job has begun."""


class PurgeBegun(Value, frozen=True):
    """The deletion of the job's images from the target begins."""


class PurgeEnded(Value, frozen=True):
    """The purge has ended.

    With `album_deleted` the album was deleted too; `album_failure` says why it was not.
    """

    album_deleted: bool = False
    album_failure: Failure | None = None


class AlbumMade(Value, frozen=True):
    """The job's album is on Imgur; it may still be filled, and a purge can delete it."""

    id: str
    link: str
    deletehash: str | None = None


class AlbumEnded(Value, frozen=True):
    """The job's album is complete, is not needed, or failed (`failure`)."""

    failure: Failure | None = None


class AlbumReopened(Value, frozen=True):
    """The album, which had failed, is tried again."""


class CallbackEnded(Value, frozen=True):
    """The callback was called, or could not be (`failure`).

    `version` is the job's version at the end that was reported: if the job has changed since, its
    next end is still to be reported.
    """

    version: int
    failure: Failure | None = None


class Mirrored(Value, frozen=True):
    """Another node has changed the job.

    `images` has the images that have changed, by index; the other fields are the job's.
    """

    images: dict[int, Image]
    started: bool
    purging: bool
    album: Album | None
    callback: Callback | None
    version: int
    settled: int
    parked: bool = False


JobChange = (
    Started
    | AlbumMade
    | AlbumEnded
    | AlbumReopened
    | PurgeBegun
    | PurgeEnded
    | CallbackEnded
    | Mirrored
)
Change = JobChange | ImageChange


class Snapshot(Value, frozen=True):
    """A job as it was at one moment. Two snapshots of one `version` are equal."""

    job_id: str
    created: datetime
    version: int
    started: bool
    images: Sequence[Image]
    counts: dict[State, int]
    downloaded_bytes: int = 0
    uploaded_bytes: int = 0
    maybe_duplicates: int = 0
    album: Album | None = None
    purging: bool = False
    callback: Callback | None = None
    settled: int | None = None
    """Of a job on another node: see `Job.restored`."""
    parked: bool = False
    """True if images wait for the target on no node; they are queued again meanwhile."""
    document: str | None = None
    """The file name of the document that the job came from."""
    first_url: str | None = None

    @property
    def finished(self) -> bool:
        """True when nothing more will happen."""
        if self.counts["queued"] or self.counts["downloaded"] or self.purging:
            return False
        return self.album is None or not self.album.is_open

    @property
    def is_over(self) -> bool:
        """True if it has finished and its callback was notified."""
        return self.finished and (self.callback is None or not self.callback.is_open)

    def summary(self) -> Snapshot:
        """Itself, so that a Snapshot may stand for a Job whose summary is wanted."""
        return self

    @property
    def status(self) -> Status:
        """The job's status word, as the contract has it."""
        if self.finished:
            return "complete"
        return "in-progress" if self.started else "pending"


class Job:
    """A list of URLs on its way to the target.

    With `dedupe` an image that another job uploads is not uploaded again. With `album`, a title,
    the uploaded images go into one album. `callback` is the URL that is called when the job ends.
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
        items = (Item(url) if isinstance(url, str) else url for url in urls)
        self._images = [
            Image(item.url, title=item.title, description=item.description, id=item.id)
            for item in items
        ]
        self.memory_bytes = memory_of(self._images)
        """About the memory that the job takes once all of its images are on the target.

        Its document is included if it is in memory.
        """
        self._counts: dict[State, int] = dict.fromkeys(STATES, 0)
        self._counts["queued"] = len(self._images)
        self._downloaded_bytes = self._uploaded_bytes = 0
        self._maybe_duplicates = 0
        self._album = Album(album) if album is not None else None
        self._callback = Callback(callback) if callback is not None else None
        self.document: str | None = None
        """The file name of the document that it came from; set before anybody else sees it."""
        self._started = False
        self._purging = False
        self._version = 0
        self._summary: Snapshot | None = None
        self.waiting_since: float | None = None
        """When its images began to wait for the end of an outage of the target, on
        `time.monotonic`; None: not before the job came to this process."""
        self._settled: int | None = None
        self._last_place = 0
        self._parked = False

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
        version: int = 0,
        settled: int | None = None,
        parked: bool = False,
        document: str | None = None,
    ) -> Job:
        """The job as a process that ended left it, at `version`.

        Without `settled` an unfinished job starts again, and so does each image that has not ended:
        its temp file is gone, and if its upload had begun it may be on the target. This reset is
        one Change: the job's version rises by one, and its open images have that version.

        With `settled` other nodes work on the job, and nothing of it changes here. The version of
        an image is then not the job's, but the place of its last Change in the order of all Changes
        in the database. All Changes up to the place `settled` are known; later ones come after it.
        """
        job = cls((), job_id, dedupe=dedupe, created=created)
        job._album, job._callback, job._purging = album, callback, purging
        job._parked = parked
        job.document = document
        job._images = list(images)
        job.memory_bytes = memory_of(job._images)
        for image in job._images:
            job._counts[image.state] += 1
        job._started, job._version = started, version
        job._settled = settled
        job._last_place = max((image.version for image in job._images), default=0)
        is_unfinished = settled is None and not job._view(()).finished
        if is_unfinished and (started or job._counts["downloaded"]):
            job._started = False
            job._version += 1
            job._images = [
                image.queued_again(job._version) if image.is_open else image
                for image in job._images
            ]
            job._counts["queued"] += job._counts["downloaded"]
            job._counts["downloaded"] = 0
        job._maybe_duplicates = sum(image.maybe_duplicate for image in job._images)
        job._downloaded_bytes = sum(image.downloaded_bytes for image in job._images)
        job._uploaded_bytes = sum(image.uploaded_bytes for image in job._images)
        return job

    def __len__(self) -> int:
        return len(self._images)

    def apply(self, change: Change) -> None:
        """Make `change` true, in constant time; raises IllegalChange if it does not fit."""
        with self._lock:
            # By type: `match` costs 0.15 µs for each class of Struct that is not the one.
            if type(change) in _JOB_CHANGES:
                self._apply_to_job(change)  # type: ignore[arg-type]
            else:
                self._apply_to_image(change)  # type: ignore[arg-type]
            self._summary = None
            if self._callback and type(change) in _BEGINS_AGAIN:
                self._callback = Callback(self._callback.url)
            self._version = change.version if type(change) is Mirrored else self._version + 1

    def _apply_to_image(self, change: ImageChange) -> None:
        if not 0 <= change.index < len(self._images):
            raise IllegalChange(f"there is no image {change.index}")
        before = self._images[change.index]
        if before.state not in change.follows:
            raise IllegalChange(f"{type(change).__name__} does not follow {before.state}")
        self._replace(change.index, change.changed(before, self._version + 1))
        if self._album is not None and type(change) is Requeued:
            self._album = replace(self._album, is_open=True)

    def _replace(self, index: int, after: Image) -> None:
        before, self._images[index] = self._images[index], after
        self._counts[before.state] -= 1
        self._counts[after.state] += 1
        if after.state != before.state:
            self._downloaded_bytes += after.downloaded_bytes - before.downloaded_bytes
            self._uploaded_bytes += after.uploaded_bytes - before.uploaded_bytes
        self._maybe_duplicates += after.maybe_duplicate - before.maybe_duplicate

    def _apply_to_job(self, change: JobChange) -> None:
        match change:
            case Started():
                if self._started:
                    raise IllegalChange("Started in a job that had started")
                self._started = True
            case PurgeBegun() | PurgeEnded():
                begins = isinstance(change, PurgeBegun)
                if begins is self._purging:
                    raise IllegalChange(f"{change} in a job whose purging is {self._purging}")
                self._purging = begins
                if isinstance(change, PurgeEnded) and self._album is not None:
                    self._album = _purged(self._album, change)
            case AlbumReopened():
                if self._album is None or self._album.is_open:
                    raise IllegalChange("AlbumReopened in a job whose album is open, or none")
                self._album = replace(self._album, is_open=True, failure=None)
            case AlbumMade() | AlbumEnded():
                self._change_album(change)
            case CallbackEnded():
                self._end_callback(change)
            case Mirrored():
                for index, image in change.images.items():
                    self._replace(index, image)
                    self._last_place = max(self._last_place, image.version)
                self._settled = change.settled
                self._started, self._purging = change.started, change.purging
                self._album, self._callback = change.album, change.callback
                self._parked = change.parked

    def _change_album(self, change: AlbumMade | AlbumEnded) -> None:
        if self._album is None or not self._album.is_open:
            raise IllegalChange(f"{type(change).__name__} in a job that waits for no album")
        ended = isinstance(change, AlbumEnded)
        self._album = replace(self._album, is_open=not ended, **asdict(change))

    def _end_callback(self, change: CallbackEnded) -> None:
        if self._callback is None:
            raise IllegalChange("CallbackEnded in a job that has no callback")
        if change.version != self._version:
            return
        told = change.failure is None
        self._callback = Callback(self._callback.url, is_told=told, failure=change.failure)

    @property
    def callback(self) -> Callback | None:
        """The URL that is called when the job ends, and the result."""
        return self._callback

    @property
    def is_settled(self) -> bool:
        """False for a job on other nodes if an unknown Change may come before a known one."""
        return self._settled is None or self._last_place <= self._settled

    @property
    def started(self) -> bool:
        """True once work on the job has begun."""
        return self._started

    def image(self, index: int) -> Image:
        """The image at `index` as it is now."""
        return self._images[index]

    def failed(self, only: Only = None) -> list[int]:
        """The failed images that `only` chooses, by index."""
        return [
            index
            for index, image in enumerate(self.snapshot().images)
            if image.state == "failed"
            and image.failure is not None
            and (only in (None, index) or (only == "transient" and image.failure.transient))
        ]

    def completed_at(self, versions: Mapping[int, int]) -> list[int]:
        """The completed images that still have these versions, by index."""
        return [
            index
            for index, version in sorted(versions.items())
            if (image := self._images[index]).state == "completed" and image.version == version
        ]

    @property
    def version(self) -> int:
        """Rises by one with every Change, also over restarts. No two states share a version."""
        return self._version

    def snapshot(self) -> Snapshot:
        """The whole job at this moment; costs one copy of a list of references."""
        with self._lock:
            return self._view(tuple(self._images))

    def summary(self) -> Snapshot:
        """The job at this moment without its images: constant time, however large it is."""
        with self._lock:
            if self._summary is None:  # most jobs of a list have not changed since the last look
                self._summary = self._view(())
            return self._summary

    def _view(self, images: Sequence[Image]) -> Snapshot:
        return Snapshot(
            job_id=self.job_id,
            created=self.created,
            version=self._version,
            started=self._started,
            images=images,
            counts=dict(self._counts),
            downloaded_bytes=self._downloaded_bytes,
            uploaded_bytes=self._uploaded_bytes,
            maybe_duplicates=self._maybe_duplicates,
            album=self._album,
            purging=self._purging,
            callback=self._callback,
            settled=self._settled,
            parked=self._parked,
            document=self.document,
            first_url=self._images[0].url if self._images else None,
        )


_JOB_CHANGES = frozenset(JobChange.__args__)
_BEGINS_AGAIN = frozenset((Requeued, PurgeBegun, AlbumReopened))
"""After one of these the job will end again, so its callback is called again."""


def _purged(album: Album, change: PurgeEnded) -> Album:
    if change.album_deleted:
        return Album(album.title, is_open=False)
    return replace(album, failure=change.album_failure or album.failure)
