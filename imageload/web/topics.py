"""The events of one job, or of all jobs, since version N, as server-sent events.

An event's id is the job's version, or on a node the Change's place in the order that the database
gives to all Changes. So a client resumes after it on any process that has the job.
A topic stores numbers only: an event is encoded when it is sent, from the image as it is then, and
the same bytes go to all subscribers. For Tornado's loop; this module knows no HTTP.
"""

from __future__ import annotations

import asyncio
import re
import time
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

import msgspec

from imageload.image import Failed, Purged, PurgeFailed, Requeued, Uploaded
from imageload.job import CallbackEnded, Change, Job, Mirrored, Snapshot
from imageload.job_json import image_json, summary_json
from imageload.registry import Summarized
from imageload.schemas import ProgressEventJson, WaitingJson, WaitingSummaryJson

_ALL_JOBS_SECONDS = 0.5

# A client that reads nothing costs one block: so many bytes and one event, or so many events.
_BLOCK_BYTES = 64 * 2**10
_BLOCK_EVENTS = 128
_CACHED_BLOCKS = 8
_SLACK = 1_024

_ENDED = ("completed", "failed")
_EVENT_ID = re.compile(r"(\d{1,18})(-end)?", re.ASCII)

K = TypeVar("K")

Waiting = Callable[[Snapshot], WaitingJson]
"""Returns what a job's uploads wait for, for its `progress`, `complete` and `job` events."""


Sent = tuple[bytes, int, bool]
"""Encoded events, the position after them, and True if they are the last ones."""


class Topic(Generic[K]):
    """The changes since version N, and the subscribers that are notified of more.

    A change is a key and its version. A key that changes again has only its last change here. A
    subscriber's position is the version up to which it has been sent everything.
    """

    def __init__(self) -> None:
        self.version = 0
        """The version of the last change."""
        self.subscribers: set[asyncio.Event] = set()
        self.blocks: dict[tuple[int, bool], Sent] = {}
        """Results of `next` since the last change: for subscribers at the same position."""
        self._replace({})

    def _replace(self, newest: dict[K, int]) -> None:
        """Forget all changes but these: the newest version of each key."""
        self._newest = newest
        # These two also have older changes of the same keys, until those are the majority.
        self._keys = sorted(newest, key=newest.__getitem__)
        self._versions = array("Q", map(newest.__getitem__, self._keys))

    def add(self, key: K, version: int) -> None:
        """`key` changed at `version`, which is greater than all before."""
        self._versions.append(version)
        self._keys.append(key)
        self._newest[key] = version
        if len(self._keys) > 2 * len(self._newest) + _SLACK:
            self._replace(self._newest)

    def since(self, position: int) -> Iterator[tuple[K, int]]:
        """The changes after `position`, oldest first; O(log n) to the first."""
        for at in range(bisect_right(self._versions, position), len(self._versions)):
            key, version = self._keys[at], self._versions[at]
            if self._newest[key] == version:
                yield key, version

    def notify(self) -> int:
        """Set every subscriber's event; returns their number."""
        self.blocks.clear()
        for changed in self.subscribers:
            changed.set()
        return len(self.subscribers)

    def position(self, event_id: str) -> int:
        """The position after the event with this id; 0, the start, if it is unknown or ahead."""
        found = _EVENT_ID.fullmatch(event_id)
        version = int(found[1]) if found is not None else 0
        return version if version <= self.version else 0

    def next(self, position: int, *, is_notified: bool) -> Sent:
        """The events to send to a subscriber at `position`, at most one block.

        `is_notified`: the subscriber was notified since its last call.
        """
        key = position, is_notified
        if key not in self.blocks:
            if len(self.blocks) >= _CACHED_BLOCKS:
                self.blocks.clear()
            self.blocks[key] = self.encode_next(position, is_notified=is_notified)
        return self.blocks[key]

    def encode_next(self, position: int, *, is_notified: bool) -> Sent:  # noqa: ARG002
        """The result of `next`."""
        return *self.encode_block(position), False

    def encode_block(self, position: int) -> tuple[bytes, int]:
        """(encoded events, position after them)."""
        events: list[bytes] = []
        size = 0
        for key, version in self.since(position):
            if event := self.encode(key, version):
                events.append(event)
                size += len(event)
            if size >= _BLOCK_BYTES or len(events) == _BLOCK_EVENTS:
                return b"".join(events), version
        return b"".join(events), max(position, self.version)

    def encode(self, key: K, version: int) -> bytes:
        """The event for the change of `key` at `version`; empty if there is nothing to send."""
        raise NotImplementedError


class JobEvents(Topic[int]):
    """The events of one job. It is kept as long as the job is, and does not keep the job alive."""

    def __init__(self, job: Job, waiting: Waiting) -> None:
        super().__init__()
        self._job = weakref.ref(job)
        self._waiting = waiting
        self._end_version = 0
        self._seen = 0
        """The job's newest version that has arrived here."""
        self._is_mirrored = False
        self._unsettled: dict[int, int] = {}
        """Changed images, by index, whose place in the order may still get others before it."""
        self.statuses: dict[int, asyncio.Future[tuple[Snapshot, bytes]]] = {}
        """The statuses that are being encoded, by version; see `status.encoded_status`."""

    def load(self, snapshot: Snapshot) -> None:
        """Start with the images that have ended. Takes O(n log n): 50 ms for 100,000 images."""
        self.version = self._end_version = self._seen = snapshot.version
        images = enumerate(snapshot.images)
        ended = {n: image.version for n, image in images if image.state in _ENDED}
        if (settled := snapshot.settled) is not None:
            self.version = settled
            self._is_mirrored = True
            # Images that are queued again are events for those who know of their failure.
            again = (n for n, image in enumerate(snapshot.images) if image.state == "queued")
            ended |= {n: place for n in again if (place := snapshot.images[n].version)}
            self._unsettled = {n: place for n, place in ended.items() if place > settled}
            ended = {n: place for n, place in ended.items() if place <= settled}
            self._end_version = max(ended.values(), default=0)
        self._replace(ended)

    def apply(self, change: Change, version: int) -> None:
        """Log `change`, which made the job's version `version`."""
        if isinstance(change, Mirrored):
            self._apply_mirrored(change)
            return
        if version <= self.version:  # the snapshot was later
            return
        self.version = self._seen = version
        if not isinstance(change, CallbackEnded):  # it reports an end, and is not another one
            self._end_version = version
        if isinstance(change, (Uploaded, Failed, Requeued, Purged, PurgeFailed)):
            self.add(change.index, version)

    def _apply_mirrored(self, change: Mirrored) -> None:
        self._seen = max(self._seen, change.version)
        for index, image in change.images.items():
            is_event = image.state in _ENDED or index in self._newest or index in self._unsettled
            if is_event and image.version > self._newest.get(index, 0):
                self._unsettled[index] = image.version
        settled = [(at, n) for n, at in self._unsettled.items() if at <= change.settled]
        for place, index in sorted(settled):
            del self._unsettled[index]
            self.add(index, place)
            self._end_version = place
        self.version = max(self.version, change.settled)

    def position(self, event_id: str) -> int:
        """As in any topic, but an id of another node may be ahead: this node will follow."""
        found = _EVENT_ID.fullmatch(event_id)
        if self._is_mirrored and found is not None:
            return int(found[1])
        return super().position(event_id)

    def is_end(self, event_id: str) -> bool:
        """True if this is the id of the `complete` event, and the job is still at that end."""
        return event_id == self._end_id() and self._is_complete(self._current_job().summary())

    def encode_next(self, position: int, *, is_notified: bool) -> Sent:
        """`image` events, then `complete` if that is all, else `progress` if `is_notified`."""
        events, position = self.encode_block(position)
        summary = self._current_job().summary()
        if position >= self.version and self._is_complete(summary):
            end = _event("complete", self._encoded_state(summary), self._end_id())
            return events + end, position, True
        if is_notified:
            events += _event("progress", self._encoded_state(summary))
        return events, position, False

    def progress(self) -> bytes:
        """A `progress` event."""
        return _event("progress", self._encoded_state(self._current_job().summary()))

    def encode(self, key: int, version: int) -> bytes:
        """The `image` event of the image at `key`; none if a later one is not settled yet."""
        if key in self._unsettled:
            return b""
        image = self._current_job().image(key)
        record = image_json(key + 1, image)
        return _event("image", msgspec.json.encode(record), str(version))

    def _current_job(self) -> Job:
        job = self._job()
        if job is None:
            raise ReferenceError("a subscriber must keep its job")
        return job

    def _end_id(self) -> str:
        return f"{self._end_version}-end"

    def _is_complete(self, summary: Snapshot) -> bool:
        """True if the job is finished and its last Change has arrived here."""
        return summary.finished and summary.version <= self._seen and not self._unsettled

    def _encoded_state(self, summary: Snapshot) -> bytes:
        state: ProgressEventJson = {
            **summary_json(summary),
            "bytes": {
                "downloaded": summary.downloaded_bytes,
                "uploaded": summary.uploaded_bytes,
            },
            **self._waiting(summary),
        }
        return msgspec.json.encode(state)


class AllJobsEvents(Topic[str]):
    """A `job` event when a job changes, at most every half second for each job.

    A version here is the moment of the change in microseconds since 1970, so it also rises over
    restarts. A job that is no longer in `jobs` has no events.
    """

    def __init__(self, jobs: Mapping[str, Summarized], waiting: Waiting) -> None:
        super().__init__()
        self._jobs = jobs
        self._waiting = waiting
        self._changed: dict[str, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_flush = 0.0
        self._log_changes(list(jobs))

    def touch(self, job_id: str) -> None:
        """This job has changed: notify within half a second."""
        self._changed[job_id] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(self._next_flush, loop.time()), self.flush)

    def touch_unfinished(self) -> None:
        """All jobs that are not finished wait for something new."""
        for job in list(self._jobs.values()):  # a copy, for other threads remove jobs
            summary = job.summary()
            if not summary.finished:
                self.touch(summary.job_id)

    def flush(self) -> None:
        """Log the jobs that have changed, and notify."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._next_flush = asyncio.get_running_loop().time() + _ALL_JOBS_SECONDS
        changed, self._changed = self._changed, {}
        self._log_changes(changed)
        if len(self._newest) > 2 * len(self._jobs) + _SLACK:
            newest = self._newest.items()
            self._replace({job_id: version for job_id, version in newest if job_id in self._jobs})
        self.notify()

    def encode(self, key: str, version: int) -> bytes:
        """The `job` event of the job with this id."""
        job = self._jobs.get(key)
        if job is None:
            return b""
        summary = job.summary()
        value: WaitingSummaryJson = {**summary_json(summary), **self._waiting(summary)}
        return _event("job", msgspec.json.encode(value), str(version))

    def _log_changes(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            self.version = max(self.version + 1, time.time_ns() // 1_000)
            self.add(job_id, self.version)


def _event(name: str, encoded: bytes, event_id: str = "") -> bytes:
    """One server-sent event; `encoded` is JSON, which has no line breaks."""
    head = f"event: {name}\nid: {event_id}\n" if event_id else f"event: {name}\n"
    return b"%sdata: %s\n\n" % (head.encode("ascii"), encoded)
