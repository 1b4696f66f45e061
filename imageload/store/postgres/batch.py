"""What one transaction writes: the images of slices, each under the epoch of its claim."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from imageload.errors import IllegalChange
from imageload.job import Image, Snapshot
from imageload.store.postgres.connections import Connection
from imageload.store.rows import encode_image, text_of

SLICE = 200
"""Images of a slice, unless it was split."""
HEAD = -1
"""`first` of the slice that is a job's album, purge and callback, and has no image."""


class Counts(NamedTuple):
    """What a slice's row counts of its images."""

    downloaded: int = 0
    completed: int = 0
    failed: int = 0
    maybe_duplicates: int = 0
    downloaded_bytes: int = 0
    uploaded_bytes: int = 0

    def replaced(self, before: Image, after: Image) -> Counts:
        """The counts once `after` has taken the place of `before`."""
        changes = zip(self, _counted(before), _counted(after), strict=True)
        return Counts(*(count - old + new for count, old, new in changes))


def _counted(image: Image) -> tuple[int, ...]:
    return (
        image.state == "downloaded",
        image.state == "completed",
        image.state == "failed",
        image.maybe_duplicate,
        image.downloaded_bytes,
        image.uploaded_bytes,
    )


def counts_of(images: Sequence[Image]) -> Counts:
    """The counts of a slice with these images."""
    return Counts(*map(sum, zip(*map(_counted, images), strict=True))) if images else Counts()


class SliceState(NamedTuple):
    """A slice as its last Change left it."""

    epoch: int
    version: int
    counts: Counts


class ImageState(NamedTuple):
    """An image as its last Change left it, with the slice's version then."""

    image: Image
    version: int
    first: int
    """The first image of its slice."""


@dataclass(slots=True, eq=False)
class Claim:
    """The slices of job `number` that `job` has here, by their first image, and their epochs.

    `offset` is the index that the first image of `job` has in the whole job. `is_lost`: another
    node has taken one of them over, so nothing of them is written any more. `heard`: when they were
    last known to be ours, on `time.monotonic`; that holds for `seconds`. Used on the transfer
    loop, but for `is_lost` and `heard`.
    """

    number: int
    offset: int
    images: list[Image]
    slices: dict[int, SliceState]
    is_lost: bool = False
    heard: float = 0.0
    seconds: float = math.inf
    firsts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.firsts = sorted(self.slices.keys() - {HEAD})

    @property
    def is_ours(self) -> bool:
        """True if no other node can have taken them over by now."""
        return not self.is_lost and time.monotonic() < self.heard + self.seconds

    def changed(self, index: int, image: Image) -> tuple[int, SliceState, ImageState]:
        """Follow a Change that made `image` of the image at `index`.

        Returns the first image of its slice, and both states.
        """
        before, self.images[index] = self.images[index], image
        first = self.first_of(self.offset + index)
        epoch, version, counts = self.slices[first]
        after = SliceState(epoch, version + 1, counts.replaced(before, image))
        self.slices[first] = after
        return first, after, ImageState(image, after.version, first)

    def first_of(self, n: int) -> int:
        """The first image of the slice that has image `n` of the whole job."""
        return self.firsts[bisect_right(self.firsts, n) - 1]

    def head_changed(self) -> SliceState:
        """Follow a Change of the job itself."""
        if HEAD not in self.slices:
            raise IllegalChange("a slice of a job has no album, no purge and no callback")
        epoch, version, counts = self.slices[HEAD]
        self.slices[HEAD] = after = SliceState(epoch, version + 1, counts)
        return after


Place = tuple[int, int]


@dataclass(slots=True)
class Batch:
    """Later states of a slice or an image replace earlier ones."""

    images: dict[Place, ImageState] = field(default_factory=dict)
    slices: dict[Place, tuple[SliceState, Claim]] = field(default_factory=dict)
    heads: dict[int, Snapshot] = field(default_factory=dict)
    edits: dict[object, Callable[[Connection], object]] = field(default_factory=dict)
    settings: dict[str, str | None] = field(default_factory=dict)
    locks: set[int] = field(default_factory=set)
    """Numbers of jobs that are locked before their slices: `edits` lock them."""

    def __len__(self) -> int:
        """How much there is to write."""
        images = len(self.images) + len(self.slices) + len(self.heads)
        return images + len(self.edits) + len(self.settings)

    def drop_new(self) -> None:
        """Leave the new jobs out: they are written elsewhere."""

    def write(self, connection: Connection) -> None:
        """Write all of it in one transaction, or in that of the connection if it is in one.

        Claims whose slices another node has taken over are marked as lost, and not written.
        """
        begun = time.monotonic()
        with connection.transaction():
            if self.locks:
                connection.execute(_LOCK_JOBS, (sorted(self.locks),))
            alive = self._write_slices(connection)
            self._write_images(connection, alive)
            for number, job in self.heads.items():
                if (number, HEAD) in alive:
                    album, callback = text_of(job.album), text_of(job.callback)
                    columns = job.started, job.purging, job.purging, album, callback, number
                    connection.execute(_WRITE_HEAD, columns)
            for edit in self.edits.values():
                edit(connection)
            for name, value in self.settings.items():
                if value is None:
                    connection.execute(_DELETE_SETTING, (name,))
                else:
                    connection.execute(_SET_SETTING, (name, value))
        for place, (_, claim) in self.slices.items():
            if place in alive:
                claim.heard = max(claim.heard, begun)
            else:
                claim.is_lost = True

    def _write_slices(self, connection: Connection) -> set[Place]:
        """The slices that are still claimed under the epochs of their states."""
        if not self.slices:
            return set()
        # In one order on all nodes, so that no two of them wait for each other.
        places = sorted(self.slices)
        states = [self.slices[place][0] for place in places]
        columns = [
            [number for number, _ in places],
            [first for _, first in places],
            [state.epoch for state in states],
            [state.version for state in states],
            *map(list, zip(*(state.counts for state in states), strict=True)),
        ]
        alive = connection.execute(_WRITE_SLICES, columns).fetchall()
        return {(number, first) for number, first in alive}

    def _write_images(self, connection: Connection, alive: set[Place]) -> None:
        rows = [
            (number, n, state.version, state.image.link, encode_image(state.image))
            for (number, n), state in sorted(self.images.items(), key=lambda pair: pair[0])
            if (number, state.first) in alive
        ]
        if rows:
            connection.execute(_WRITE_IMAGES, [*map(list, zip(*rows, strict=True))])


# No stronger lock: the images of a job that other nodes write refer to its row.
_LOCK_JOBS = "SELECT FROM job WHERE number = ANY(%s) ORDER BY number FOR NO KEY UPDATE"
_WRITE_SLICES = """
    UPDATE slice SET version = new.version, downloaded = new.downloaded,
        completed = new.completed, failed = new.failed,
        maybe_duplicates = new.maybe_duplicates, downloaded_bytes = new.downloaded_bytes,
        uploaded_bytes = new.uploaded_bytes
    FROM unnest(%s::bigint[], %s::int[], %s::bigint[], %s::bigint[], %s::int[], %s::int[],
        %s::int[], %s::int[], %s::bigint[], %s::bigint[]) AS new (job, first, epoch, version,
        downloaded, completed, failed, maybe_duplicates, downloaded_bytes, uploaded_bytes)
    WHERE slice.job = new.job AND slice.first = new.first AND slice.epoch = new.epoch
    RETURNING slice.job, slice.first"""
_WRITE_IMAGES = """
    INSERT INTO image (job, n, version, link, record)
    SELECT * FROM unnest(%s::bigint[], %s::int[], %s::bigint[], %s::text[], %s::bytea[])
    ON CONFLICT (job, n) DO UPDATE
    SET version = excluded.version, link = excluded.link, record = excluded.record,
        changed = pg_current_xact_id()"""
_WRITE_HEAD = b"""
    UPDATE job SET started = %s, purging = %s, leaving = leaving AND %s, album = %s, callback = %s
    WHERE number = %s"""
_SET_SETTING = b"""
    INSERT INTO setting (name, value) VALUES (%s, %s)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value"""
_DELETE_SETTING = b"DELETE FROM setting WHERE name = %s"
