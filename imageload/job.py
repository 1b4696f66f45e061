"""Job, Change, Report: the state machine of a list of images.

A `Job` is the one mutable value. A Change is one fact about it, and `Job.apply` makes it true:

    queued ──Downloaded──► downloaded ──Uploaded──► completed ──Purged──┐
       └────────Failed────────┴────────► failed ◄──────────────────────┘
                                           └──Requeued──► queued
                 downloaded ──Returned──► queued
                  completed ──Requeued──► queued ──Failed──► completed    (its link was dead)

Every URL is in exactly one state at every moment. One thread at a time applies Changes to a job;
any thread may take a snapshot. This module does no I/O and does not know its observers.
"""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import ClassVar, Literal, NamedTuple

import msgspec
from msgspec.structs import asdict, replace

from imageload.errors import Failure, IllegalChange

State = Literal["queued", "downloaded", "completed", "failed"]
Status = Literal["pending", "in-progress", "complete"]
Only = Literal["transient"] | int | None
"""The failed images to retry: those whose error is transient, the one at an index, or all."""
STATES: tuple[State, ...] = ("queued", "downloaded", "completed", "failed")


class _Value(msgspec.Struct, frozen=True, gc=False):
    """A value compared by its fields, which never changes and is replaced at every step.

    Replacing a Struct takes 0.1 µs, a frozen dataclass 3 µs. No value is part of a reference
    cycle, so the garbage collector skips the images of large jobs (`gc=False`).
    """


class Item(NamedTuple):
    """One entry of a list: a URL, its image's texts on the target, and the caller's `id`."""

    url: str
    title: str | None = None
    description: str | None = None
    id: str | None = None


class Album(_Value, frozen=True):
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


class Callback(_Value, frozen=True):
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


class Report(_Value, frozen=True):
    """The facts about a downloaded image.

    `temp_fn` is the file's path; it is empty if the image shares another image's file. The other
    facts describe the file as it is uploaded; `converted_from` is its original type, if different.
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
    """An image on the target: its link, and the deletehash that deletes it there (a secret)."""

    link: str
    deletehash: str | None = None


class Image(_Value, frozen=True):
    """One URL of a job and its progress.

    `uploading`: an upload of it has begun, so it may be on the target. `maybe_duplicate`: the
    response to an upload was lost, so the target may have a second copy. The failure of a completed
    image is that of its deletion, or of the attempt to replace its dead link. A `link`
    before that is the dead one, which it keeps until it lands again. `version` is the job's at the
    image's last Change. `id` is the caller's; several images may have the same.
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
    version: int = 0
    id: str | None = None

    @property
    def is_lost(self) -> bool:
        """True if its link was found dead, and nothing has replaced it."""
        return self.link is not None and (self.state != "completed" or self.report is None)

    @property
    def downloaded_bytes(self) -> int:
        """The size of its file; 0 before the download."""
        return self.report.bytes if self.report is not None else 0

    @property
    def uploaded_bytes(self) -> int:
        """The size of its file if it was uploaded for this image, else 0."""
        return self.downloaded_bytes if self.state == "completed" and not self.reused else 0


def texts_key(title: str | None, description: str | None) -> str:
    """What tells images of the same bytes apart by their texts; empty without texts."""
    return "" if title is None and description is None else f"\n{title!r}\n{description!r}"


class _Change(msgspec.Struct, frozen=True, gc=False, tag=True, omit_defaults=True):
    """A fact about a job. Its class name is the tag in its encoded form."""


class _ImageChange(_Change, frozen=True):
    """A fact about the image at `index`, whose state must be one of `follows`.

    The other fields of the Change become the image's fields of the same name.
    """

    index: int
    follows: ClassVar[tuple[State, ...]]
    leads_to: ClassVar[State]

    def changed(self, image: Image, version: int) -> Image:
        """`image` after this Change, at the job's `version`."""
        known = asdict(self)
        del known["index"]
        return replace(image, state=self.leads_to, uploading=False, version=version, **known)


class Downloaded(_ImageChange, frozen=True):
    """The image is in its temp file, after `attempts` downloads."""

    report: Report
    attempts: int = 1
    follows, leads_to = ("queued",), "downloaded"


class Uploading(_ImageChange, frozen=True):
    """An upload of the image begins: from now on it may be on the target."""

    follows, leads_to = ("downloaded",), "downloaded"

    def changed(self, image: Image, version: int) -> Image:
        return replace(image, uploading=True, version=version)


class NotSent(_ImageChange, frozen=True):
    """The upload that was to begin was not sent: the image is not on the target."""

    follows, leads_to = ("downloaded",), "downloaded"


class ResponseLost(_ImageChange, frozen=True):
    """The response to an upload was lost: the image may be on the target."""

    follows, leads_to = ("downloaded",), "downloaded"

    def changed(self, image: Image, version: int) -> Image:
        return replace(image, maybe_duplicate=True, version=version)


class Uploaded(_ImageChange, frozen=True):
    """The image is on the target. `reused`: another image's upload brought it there.

    `deletehash` deletes it there: a secret.
    """

    link: str
    deletehash: str | None = None
    attempts: int = 1
    reused: bool = False
    follows, leads_to = ("downloaded",), "completed"


class Failed(_ImageChange, frozen=True):
    """The image has failed. `attempts` counts the tries of the phase that failed.

    An image with a link, which was to replace that, stays completed: the link is all there is.
    """

    failure: Failure
    attempts: int = 1
    follows, leads_to = ("queued", "downloaded"), "failed"

    def changed(self, image: Image, version: int) -> Image:
        failed = super().changed(image, version)
        return failed if image.link is None else replace(failed, state="completed", report=None)


class Requeued(_ImageChange, frozen=True):
    """The image, which had failed or whose link is dead, is tried again from the start."""

    follows, leads_to = ("failed", "completed"), "queued"

    def changed(self, image: Image, version: int) -> Image:
        return _queued_again(image, version)


class Returned(_ImageChange, frozen=True):
    """The image's temp file was given up before its upload: it is to be downloaded again."""

    follows, leads_to = ("downloaded",), "queued"

    def changed(self, image: Image, version: int) -> Image:
        return _queued_again(image, version)


class Purged(_ImageChange, frozen=True):
    """The image, which was completed, was deleted from the target or is no longer ours there.

    `failure` is the reason shown from now on.
    """

    failure: Failure
    follows, leads_to = ("completed",), "failed"

    def changed(self, image: Image, version: int) -> Image:
        gone = replace(image, link=None, deletehash=None, reused=False)
        return super().changed(gone, version)


class PurgeFailed(_ImageChange, frozen=True):
    """The image could not be deleted from the target: it is still there."""

    failure: Failure
    follows, leads_to = ("completed",), "completed"


class Started(_Change, frozen=True):
    """Work on the job has begun."""


class PurgeBegun(_Change, frozen=True):
    """The deletion of the job's images from the target begins."""


class PurgeEnded(_Change, frozen=True):
    """The purge has ended.

    With `album_deleted` the album was deleted too; `album_failure` says why it was not.
    """

    album_deleted: bool = False
    album_failure: Failure | None = None


class AlbumMade(_Change, frozen=True):
    """The job's album is on Imgur; it may still be filled, and a purge can delete it."""

    id: str
    link: str
    deletehash: str | None = None


class AlbumEnded(_Change, frozen=True):
    """The job's album is complete, is not needed, or failed (`failure`)."""

    failure: Failure | None = None


class AlbumReopened(_Change, frozen=True):
    """The album, which had failed, is tried again."""


class CallbackEnded(_Change, frozen=True):
    """The callback was called, or could not be (`failure`).

    `version` is the job's version at the end that was reported: if the job has changed since, its
    next end is still to be reported.
    """

    version: int
    failure: Failure | None = None


class Mirrored(_Change, frozen=True):
    """Another node has changed the job: these images, and everything but images, are so now."""

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
ImageChange = (
    Downloaded | Uploading | NotSent | ResponseLost | Uploaded
    | Failed | Requeued | Returned | Purged | PurgeFailed
)  # fmt: skip
Change = JobChange | ImageChange

encode_change = msgspec.msgpack.Encoder().encode
"""The bytes (msgpack) of a Change. `decode_change` reads them, and raises MsgspecError."""
decode_change = msgspec.msgpack.Decoder(Change).decode


class Snapshot(_Value, frozen=True):
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
    """True if images wait for the target that are queued again meanwhile, as no node has them."""
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
        """Itself: who wants a job's summary may have this in place of the Job."""
        return self

    @property
    def status(self) -> Status:
        """The job's status word, as the contract has it."""
        if self.finished:
            return "complete"
        return "in-progress" if self.started else "pending"


_IMAGE_BYTES = 700
"""The memory of an image beside its URL and texts, once it is on the target."""


def memory_of(items: Iterable[str | Item | Image]) -> int:
    """The bytes of memory that images with these URLs and texts take in a job."""
    held = 0
    for item in items:
        if isinstance(item, str):
            held += sys.getsizeof(item) + _IMAGE_BYTES
            continue
        held += sys.getsizeof(item.url) + _IMAGE_BYTES
        texts = item.title, item.description, item.id
        held += sum(sys.getsizeof(text) for text in texts if text)
    return held


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
        """About the memory that the job takes, when all of its images are on the target.

        With that of its document, if that is in memory.
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
        """Since when its images have waited out an outage of the target, on `time.monotonic`, if
        that began before the job came here."""
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

        With `settled` nothing of it changes, since other nodes work on it. Then the version of an
        image is its place in the order of all Changes in the database, not the job's version; and
        up to the place `settled` all are known: what is written later comes after it. Without it,
        an unfinished job starts again, and so does each image that has not ended: its temp file is
        gone, and if its upload had begun it may be on the target. Such a reset is one Change: the
        job's version rises by one, and its open images have that version.
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
                _queued_again(image, job._version) if image.state in _OPEN else image
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
        """False for a job on other nodes if one of its Changes may get an earlier one."""
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
        """The completed images that are still as at these versions, by index."""
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


_OPEN: tuple[State, ...] = ("queued", "downloaded")
_JOB_CHANGES = frozenset(JobChange.__args__)
_BEGINS_AGAIN = frozenset((Requeued, PurgeBegun, AlbumReopened))
"""After one of these the job ends once more, so its callback is called once more."""


def _purged(album: Album, change: PurgeEnded) -> Album:
    if change.album_deleted:
        return Album(album.title, is_open=False)
    return replace(album, failure=change.album_failure or album.failure)


def _queued_again(image: Image, version: int) -> Image:
    return Image(
        image.url,
        title=image.title,
        description=image.description,
        link=image.link,
        deletehash=image.deletehash,
        maybe_duplicate=image.maybe_duplicate or image.uploading,
        version=version,
        id=image.id,
    )
