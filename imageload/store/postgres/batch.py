"""What one transaction writes: the images of slices, each under the epoch of its claim."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from imageload.errors import IllegalChange
from imageload.image import Image, Landed
from imageload.job import Snapshot
from imageload.store import Elsewhere
from imageload.store.postgres.connections import Connection
from imageload.store.rows import encode_image, text_of

SLICE = 200
"""Images of a slice, unless it was split."""
HEAD = -1
"""`first` of the slice that is a job's album, purge and callback, and has no image."""


Place = tuple[int, int]


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


class Content(NamedTuple):
    """The bytes and texts of an image: being uploaded in a slice under `epoch`, or `landed`.

    `epoch` is 0 once the upload has failed.
    """

    place: Place
    epoch: int
    landed: Landed | None = None

    @property
    def landed_at(self) -> tuple[str | None, str | None]:
        """Link and deletehash."""
        return (None, None) if self.landed is None else (self.landed.link, self.landed.deletehash)


@dataclass(slots=True, eq=False)
class Claim:
    """The slices of job `number` that `job` has here, by their first image, and their epochs.

    `offset` is the index that the first image of `job` has in the whole job. `is_lost`: another
    node has taken one of them over, so nothing of them is written any more. `heard`: when they were
    last known to be ours, on `time.monotonic`; that holds for `seconds`. Used on the transfer
    loop, but for `is_lost` and `heard`. `asked`: the images whose bytes are at upload here, with
    their keys in the table of contents; `elsewhere`: what other nodes did with these bytes.
    """

    number: int
    offset: int
    images: list[Image]
    slices: dict[int, SliceState]
    is_lost: bool = False
    heard: float = 0.0
    seconds: float = math.inf
    asked: dict[int, bytes] = field(default_factory=dict)
    elsewhere: dict[int, Elsewhere] = field(default_factory=dict)
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


@dataclass(slots=True)
class Batch:
    """Later states of a slice or an image replace earlier ones."""

    images: dict[Place, ImageState] = field(default_factory=dict)
    slices: dict[Place, tuple[SliceState, Claim]] = field(default_factory=dict)
    heads: dict[int, Snapshot] = field(default_factory=dict)
    edits: dict[object, Callable[[Connection], object]] = field(default_factory=dict)
    settings: dict[str, str | None] = field(default_factory=dict)
    contents: dict[bytes, Content] = field(default_factory=dict)
    asks: dict[bytes, tuple[Place, Claim, int]] = field(default_factory=dict)
    """The images whose Uploading is in this batch, by their bytes: slice, claim and index."""
    locks: set[int] = field(default_factory=set)
    """Numbers of jobs that are locked before their slices, as verbs do: `edits` lock them."""

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
            jobs = self.locks | self.heads.keys()
            if jobs:
                connection.execute(_LOCK_JOBS, (sorted(jobs),))
            alive = self._write_slices(connection)
            known = self._write_contents(connection, alive)
            self._write_images(connection, alive, self._links_of(known))
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
        for key, (_, claim, index) in self.asks.items():
            if key in known:
                claim.elsewhere[index] = known[key]
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

    def _write_contents(
        self, connection: Connection, alive: set[Place]
    ) -> Mapping[bytes, Elsewhere]:
        """What other nodes did with the bytes that are asked for; absent: they are ours."""
        ours = [each for each in sorted(self.contents.items()) if each[1].place in alive]
        failed = [(key, *content.place) for key, content in ours if not content.epoch]
        if failed:
            connection.execute(_DELETE_CONTENTS, [*map(list, zip(*failed, strict=True))])
        rows = [
            (key, *content.place, content.epoch, *content.landed_at)
            for key, content in ours
            if content.epoch
        ]
        if not rows:
            return {}
        columns = [*map(list, zip(*rows, strict=True))]
        held = {bytes(key) for (key,) in connection.execute(_WRITE_CONTENTS, columns).fetchall()}
        known = {
            key: Elsewhere(landed)
            for key in self.asks
            if key in held and (landed := self.contents[key].landed) is not None
        }
        others = [key for key in self.asks if key not in held]
        if others:
            found = connection.execute(_READ_CONTENTS, (others,)).fetchall()
            for key, link, deletehash in found:
                landed = None if link is None else Landed(link, deletehash)
                known[bytes(key)] = Elsewhere(landed)
        return known

    def _links_of(self, known: Mapping[bytes, Elsewhere]) -> dict[Place, str]:
        """The links of bytes that are known, by the images that asked for them."""
        asked = ((self.asks[key], found.landed) for key, found in known.items())
        return {
            (claim.number, claim.offset + index): landed.link
            for (_, claim, index), landed in asked
            if landed is not None
        }

    def _write_images(
        self, connection: Connection, alive: set[Place], links: Mapping[Place, str]
    ) -> None:
        """`links`: those that images are about to have, which a purge must see from now on."""
        rows = [
            (
                *place,
                state.version,
                _link_of(state.image, links.get(place)),
                encode_image(state.image),
            )
            for place, state in sorted(self.images.items(), key=lambda pair: pair[0])
            if (place[0], state.first) in alive
        ]
        if rows:
            connection.execute(_WRITE_IMAGES, [*map(list, zip(*rows, strict=True))])


def _link_of(image: Image, coming: str | None) -> str | None:
    """The link in an image's row: `coming`, which it is about to have, or its own."""
    is_at_upload = image.link is None or image.uploading
    return (is_at_upload and coming) or image.link


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
# Rows are locked in the order of their keys, on all nodes. One that another slice of a living node
# is at stays.
_WRITE_CONTENTS = """
    INSERT INTO content AS held (key, job, first, epoch, link, deletehash)
    SELECT * FROM unnest(%s::bytea[], %s::bigint[], %s::int[], %s::bigint[], %s::text[], %s::text[])
    ON CONFLICT (key) DO UPDATE
    SET job = excluded.job, first = excluded.first, epoch = excluded.epoch, link = excluded.link,
        deletehash = excluded.deletehash
    WHERE held.link IS NULL AND (excluded.link IS NOT NULL
        OR (held.job, held.first) = (excluded.job, excluded.first)
        OR NOT EXISTS (SELECT FROM slice WHERE slice.job = held.job AND slice.first = held.first
            AND slice.epoch = held.epoch AND slice.worker IS NOT NULL AND slice.until >= now()))
    RETURNING key"""
_DELETE_CONTENTS = """
    DELETE FROM content WHERE key IN (
        SELECT key FROM unnest(%s::bytea[], %s::bigint[], %s::int[]) AS failed (key, job, first)
        JOIN content USING (key, job, first) WHERE link IS NULL ORDER BY key
        FOR UPDATE OF content)"""
_READ_CONTENTS = "SELECT key, link, deletehash FROM content WHERE key = ANY(%s::bytea[])"
