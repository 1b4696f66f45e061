"""Job, Change, Report: the state machine of a list of images, and its JSON views.

A `Job` is the one mutable thing, `apply` its one verb, a Change one fact about it:

    queued ──Downloaded──► downloaded ──Uploaded──► completed
       └────────Failed────────┴────────► failed ──Requeued──► queued

Every URL is in exactly one state at every moment. A job is written by one thread, its own;
any thread may take a snapshot. It never does I/O and knows none of its readers.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from imageload.errors import Failure, IllegalChange

State = Literal["queued", "downloaded", "completed", "failed"]
Status = Literal["pending", "in-progress", "complete"]
STATES: tuple[State, ...] = ("queued", "downloaded", "completed", "failed")


@dataclass(frozen=True, slots=True)
class Report:
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


@dataclass(frozen=True, slots=True)
class Landed:
    """An image on Imgur: its link, and the deletehash that takes it down again (a secret)."""

    link: str
    deletehash: str | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """One URL of a job and how far it has come."""

    url: str
    state: State = "queued"
    report: Report | None = None
    link: str | None = None
    deletehash: str | None = None
    failure: Failure | None = None
    attempts: int = 0
    reused: bool = False


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


Change = Started | Downloaded | Uploaded | Failed | Requeued


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job as it was at one moment. Two snapshots of one `version` are equal."""

    job_id: str
    created: datetime
    version: int
    started: bool
    images: Sequence[Image]
    counts: dict[State, int]

    @property
    def finished(self) -> bool:
        """True when nothing more will happen."""
        return not self.counts["queued"] and not self.counts["downloaded"]

    @property
    def status(self) -> Status:
        """The job's status word, as the contract has it."""
        if self.finished:
            return "complete"
        return "in-progress" if self.started else "pending"


class Job:
    """A list of URLs on its way to Imgur.

    With `dedupe` an image that another job brings or brought over is not brought again.
    """

    def __init__(
        self, urls: Iterable[str], job_id: str | None = None, *, dedupe: bool = True
    ) -> None:
        self.job_id = job_id or str(uuid.uuid4())
        self.dedupe = dedupe
        self.created = datetime.now(UTC).replace(microsecond=0)
        self._lock = threading.Lock()
        self._images = [Image(url) for url in urls]
        self._counts: dict[State, int] = dict.fromkeys(STATES, 0)
        self._counts["queued"] = len(self._images)
        self._started = False
        self._version = 0

    def __len__(self) -> int:
        return len(self._images)

    def apply(self, change: Change) -> None:
        """Make `change` true, in constant time; raises IllegalChange where it does not fit."""
        with self._lock:
            if isinstance(change, Started):
                if self._started:
                    raise IllegalChange(f"{change} in a job that had started")
                self._started = True
            else:
                if not 0 <= change.index < len(self._images):
                    raise IllegalChange(f"there is no image {change.index}")
                before = self._images[change.index]
                after = _changed(before, change)
                self._images[change.index] = after
                self._counts[before.state] -= 1
                self._counts[after.state] += 1
            self._version += 1

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
        counts = dict(self._counts)
        return Snapshot(self.job_id, self.created, self._version, self._started, images, counts)


def _changed(image: Image, change: Downloaded | Uploaded | Failed | Requeued) -> Image:
    match change, image.state:
        case Downloaded(), "queued":
            return replace(
                image, state="downloaded", report=change.report, attempts=change.attempts
            )
        case Uploaded(), "downloaded":
            return replace(
                image,
                state="completed",
                link=change.link,
                deletehash=change.deletehash,
                attempts=change.attempts,
                reused=change.reused,
            )
        case Failed(), "queued" | "downloaded":
            return replace(image, state="failed", failure=change.failure, attempts=change.attempts)
        case Requeued(), "failed":
            return Image(image.url)
    raise IllegalChange(f"{type(change).__name__} does not follow {image.state}")


def status_json(snapshot: Snapshot) -> dict[str, Any]:
    """The answer of GET /v1/images/upload/<jobId>, as the v1 contract has it."""
    pending: list[dict[str, Any]] = []
    completed: list[str | None] = []
    failed: list[str] = []
    for image in snapshot.images:
        if image.state == "completed":
            completed.append(image.link)
        elif image.state == "failed":
            failed.append(image.url)
        else:
            report = image.report
            pending.append(
                {
                    "status_code": report.status_code if report else None,
                    "url": image.url,
                    "temp_fn": (report.temp_fn or None) if report else None,
                }
            )
    return {
        "job_id": snapshot.job_id,
        "created": _utc(snapshot.created),
        "finished": snapshot.finished,
        "status": snapshot.status,
        "uploaded": {"pending": pending, "completed": completed, "failed": failed},
    }


def summary_json(snapshot: Snapshot) -> dict[str, Any]:
    """A job in the list of jobs: what it is and how many of its images are where."""
    counts = snapshot.counts
    return {
        "job_id": snapshot.job_id,
        "created": _utc(snapshot.created),
        "status": snapshot.status,
        "finished": snapshot.finished,
        "counts": {
            "total": sum(counts.values()),
            "pending": counts["queued"] + counts["downloaded"],
            "completed": counts["completed"],
            "failed": counts["failed"],
        },
    }


def image_json(image: Image) -> dict[str, Any]:
    """One record of GET /v1/images/upload/<jobId>/images. Never the deletehash."""
    report, failure = image.report, image.failure
    return {
        "url": image.url,
        "state": image.state,
        "link": image.link,
        "error": {"code": failure.code, "message": failure.message} if failure else None,
        "status_code": report.status_code if report else failure and failure.status_code,
        "attempts": image.attempts,
        "bytes": report and report.bytes,
        "type": report and report.type,
        "width": report and report.width,
        "height": report and report.height,
        "sha256": report and report.sha256,
        "converted_from": report and report.converted_from,
        "reused": image.reused,
    }


def _utc(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
