"""What is new of one job, or of all jobs, as the events that listeners are sent."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping

from imageload.job import (
    CallbackEnded,
    Change,
    Downloaded,
    Failed,
    Job,
    Purged,
    PurgeFailed,
    Requeued,
    Snapshot,
    Uploaded,
)
from imageload.schemas import (
    BytesJson,
    ImageEventJson,
    ProgressEventJson,
    WaitingJson,
    WaitingSummaryJson,
    image_json,
    summary_json,
)
from imageload.web.news import (
    BLOCK_BYTES,
    BLOCK_NEWS,
    SLACK,
    Bell,
    Block,
    Blocks,
    News,
    encode_event,
    place_in,
)

_JOBS_SECONDS = 0.5

Waiting = Callable[[Snapshot], WaitingJson]
"""What a job waits for, if it does: more keys for its `progress` and `job` events."""


class JobFeed:
    """What is new of one job: images that ended, and how far the whole is.

    It begins with a snapshot; from then on every Change must be given to `apply`. It keeps no
    reference to the job, and lives as long as that does.
    """

    def __init__(self, snapshot: Snapshot, blocks: Blocks, waiting: Waiting) -> None:
        self._blocks = blocks
        self._waiting = waiting
        self._token = secrets.token_hex(4)
        self.bell = Bell()
        self.turn = 0
        """Grows whenever something is new."""
        self._born = self._version = self._end = snapshot.version
        images = snapshot.images
        ended = (at for at, image in enumerate(images) if image.state in ("completed", "failed"))
        self.news = News(len(images), ended)
        self._count_bytes(snapshot)
        self.status: tuple[int, asyncio.Future[tuple[Snapshot, bytes]]] | None = None
        """The status that is being made for those who wait for this version."""

    def apply(self, job: Job, change: Change, version: int) -> None:
        """Note `change`, which made the job's version `version`."""
        if version <= self._born:
            return
        self._version = max(self._version, version)
        if not isinstance(change, CallbackEnded):  # no other end, but word of one
            self._end = self._version
        match change:
            case Downloaded() if version > self._counted:
                self._downloaded += change.report.bytes
            case Uploaded():
                self.news.add(change.index)
                report = job.image(change.index).report
                if version > self._counted and report is not None and not change.reused:
                    self._uploaded += report.bytes
            case Failed() | PurgeFailed():
                self.news.add(change.index)
            case Requeued() | Purged():
                self.news.add(change.index)
                if version > self._counted:
                    self._count_bytes(job.snapshot())

    def tell(self) -> int:
        """Wake the listeners, for Changes have been applied; gives how many there were."""
        self.turn += 1
        return self.bell.ring()

    def forget_status(self, made: asyncio.Future[tuple[Snapshot, bytes]]) -> None:
        """It is made, and with those who waited for it."""
        if self.status is not None and self.status[1] is made:
            self.status = None

    def _count_bytes(self, snapshot: Snapshot) -> None:
        reports = [(image, image.report) for image in snapshot.images if image.report is not None]
        self._counted = snapshot.version
        self._downloaded = sum(report.bytes for _, report in reports)
        self._uploaded = sum(
            report.bytes
            for image, report in reports
            if image.state == "completed" and not image.reused
        )

    def block(self, job: Job, place: int) -> Block:
        """The next news behind `place`: some `image` events, or none, and the place behind them."""
        struck, last = self.news.struck, self.news.last
        last = min(last, (max(place, struck) // BLOCK_NEWS + 1) * BLOCK_NEWS)
        if place >= last:
            return b"", place
        key = (self._token, struck, place, last)
        return self._blocks.get(key, lambda: self._encode(job, place, last))

    def _encode(self, job: Job, place: int, last: int) -> Block:
        events: list[bytes] = []
        size = 0
        for number, index in self.news.between(place, last):
            record: ImageEventJson = {"number": index + 1, **image_json(job.image(index))}
            events.append(encode_event("image", record, f"{self._token}-{number}"))
            size += len(events[-1])
            if size >= BLOCK_BYTES:
                return b"".join(events), number
        return b"".join(events), last

    def progress(self, job: Job) -> bytes:
        """How far the job is now: a `progress` event."""
        return self._state("progress", job)

    def progress_of_turn(self, job: Job) -> bytes:
        """The same, encoded once for all who hear of this turn."""
        key = (self._token, "progress", self.turn)
        return self._blocks.get(key, lambda: (self._state("progress", job), 0))[0]

    def complete(self, job: Job) -> bytes:
        """The last event of a job that is finished."""
        end_id = self._end_id()
        key = (self._token, "complete", self.turn, end_id)
        return self._blocks.get(key, lambda: (self._state("complete", job, end_id), 0))[0]

    def _state(self, name: str, job: Job, event_id: str = "") -> bytes:
        sums: BytesJson = {"downloaded": self._downloaded, "uploaded": self._uploaded}
        summary = job.summary()
        state: ProgressEventJson = {
            **summary_json(summary),
            "bytes": sums,
            **self._waiting(summary),
        }
        return encode_event(name, state, event_id)

    def _end_id(self) -> str:
        return f"{self._token}-{self.news.last}-{self._end}"

    def is_complete(self, job: Job) -> bool:
        """Whether the job is finished, and all that led there was applied here."""
        summary = job.summary()
        return summary.finished and summary.version <= self._version

    def place_of(self, event_id: str) -> int:
        """The place of a listener whose last event was this; 0 where the id is none of ours."""
        return place_in(event_id, self._token, self.news.last)

    def has_told_all(self, job: Job, event_id: str) -> bool:
        """Whether the `complete` event with this id is still the last word on the job."""
        return event_id == self._end_id() and self.is_complete(job)


class JobsFeed:
    """What is new of all jobs: for each the number of its last news, in that order.

    News of one job come at most every half second; of a job that is not in `jobs` any more there
    are none.
    """

    def __init__(
        self,
        jobs: Mapping[str, Job],
        existing: Iterable[Job],
        blocks: Blocks,
        waiting: Waiting,
    ) -> None:
        self._jobs = jobs
        self._blocks = blocks
        self._waiting = waiting
        self._token = secrets.token_hex(4)
        self._newest = {job.job_id: number for number, job in enumerate(existing, 1)}
        self.last = len(self._newest)
        self._changed: dict[str, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0
        self.bell = Bell()

    def touch(self, job_id: str) -> None:
        """This job changed; listeners hear of it soon."""
        self._changed[job_id] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(self._next, loop.time()), self.tell)

    def touch_unfinished(self) -> None:
        """Something is new of all jobs that are not finished."""
        # Other threads forget jobs meanwhile. A list of the keys is made in one go; of the items,
        # whose pairs are made one by one, it may not be.
        for job_id in list(self._jobs):
            job = self._jobs.get(job_id)
            if job is not None and not job.summary().finished:
                self.touch(job_id)

    def tell(self) -> None:
        """Wake the listeners: what was touched is news now."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._next = asyncio.get_running_loop().time() + _JOBS_SECONDS
        changed, self._changed = self._changed, {}
        for job_id in changed:
            self._newest.pop(job_id, None)  # to its end
            self.last += 1
            self._newest[job_id] = self.last
        if len(self._newest) > 2 * len(self._jobs) + SLACK:
            self._newest = {key: at for key, at in self._newest.items() if key in self._jobs}
        self.bell.ring()

    def block(self, place: int) -> Block:
        """The next news behind `place`: some `job` events, or none, and the place behind them."""
        if place >= self.last:
            return b"", place
        key = (self._token, place, self.last)
        return self._blocks.get(key, lambda: self._encode(place))

    def _encode(self, place: int) -> Block:
        behind: list[tuple[str, int]] = []
        for job_id, number in reversed(self._newest.items()):
            if number <= place:
                break
            behind.append((job_id, number))
        events: list[bytes] = []
        for job_id, number in behind[: -BLOCK_NEWS - 1 : -1]:
            place = number
            if (job := self._jobs.get(job_id)) is not None:
                summary = job.summary()
                value: WaitingSummaryJson = {
                    **summary_json(summary),
                    **self._waiting(summary),
                }
                events.append(encode_event("job", value, self.id_of(number)))
        return b"".join(events), place if behind else self.last

    def id_of(self, place: int) -> str:
        """The event id of this place."""
        return f"{self._token}-{place}"

    def place_of(self, event_id: str | None) -> int:
        """Where to go on: from now on without an id, from the beginning with one not of ours."""
        return self.last if event_id is None else place_in(event_id, self._token, self.last)
