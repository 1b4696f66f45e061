"""Image and its Changes: the state machine of one URL.

    queued ──Downloaded──► downloaded ──Uploaded──► completed ──Purged──┐
       └────────Failed────────┴────────► failed ◄──────────────────────┘
                                           └──Requeued──► queued
                 downloaded ──Returned──► queued
                  completed ──Requeued──► queued ──Failed──► completed    (its link was dead)

Every image is in exactly one state at every moment. A Change is one fact about it; `Job.apply`
makes it true. This module does no I/O.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import ClassVar, Literal, NamedTuple

import msgspec
from msgspec.structs import asdict, replace

from imageload.errors import Failure

State = Literal["queued", "downloaded", "completed", "failed"]
STATES: tuple[State, ...] = ("queued", "downloaded", "completed", "failed")


class Value(msgspec.Struct, frozen=True, gc=False):
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


class Report(Value, frozen=True):
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


class Landed(Value, frozen=True):
    """An image on the target: its link, and the deletehash that deletes it there (a secret)."""

    link: str
    deletehash: str | None = None


class Image(Value, frozen=True):
    """One URL of a job and its progress.

    `uploading`: an upload of it has begun, so it may be on the target. `maybe_duplicate`: the
    response to an upload was lost, so the target may have a second copy. The failure of a completed
    image is that of its deletion, or of the attempt to replace its dead link. An image that is not
    completed has a `link` only if that was found dead: it keeps it until it lands again. `version`
    is the job's at the image's last Change. `id` is the caller's; several images may have the same.
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

    @property
    def is_open(self) -> bool:
        """True while it is on its way to the target."""
        return self.state in ("queued", "downloaded")

    def queued_again(self, version: int) -> Image:
        """The image, to be downloaded again. If an upload had begun, it may be on the target."""
        return Image(
            self.url,
            title=self.title,
            description=self.description,
            link=self.link,
            deletehash=self.deletehash,
            maybe_duplicate=self.maybe_duplicate or self.uploading,
            version=version,
            id=self.id,
        )


def texts_key(title: str | None, description: str | None) -> str:
    """Distinguishes images of the same bytes by their texts; empty without texts."""
    return "" if title is None and description is None else f"\n{title!r}\n{description!r}"


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


class _ImageChange(Value, frozen=True):
    """A fact about the image of a job at `index`, whose state must be one of `follows`.

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

    An image that was to replace its dead link stays completed with that link: it has no other.
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
        return image.queued_again(version)


class Returned(_ImageChange, frozen=True):
    """The image's temp file was given up before its upload: it is to be downloaded again."""

    follows, leads_to = ("downloaded",), "queued"

    def changed(self, image: Image, version: int) -> Image:
        return image.queued_again(version)


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


ImageChange = (
    Downloaded | Uploading | NotSent | ResponseLost | Uploaded
    | Failed | Requeued | Returned | Purged | PurgeFailed
)  # fmt: skip
