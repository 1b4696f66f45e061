"""Undo: what a job has brought to Imgur is deleted there, image by image, within the quota.

On the job's thread, in place of a Run. An image that another job has too stays on Imgur until
that one is purged as well; from this job's lists it goes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass

from imageload.errors import (
    Failure,
    ImageError,
    NotFoundOnImgur,
    StoreUnavailable,
    UploadError,
)
from imageload.inbox import Inbox
from imageload.job import Change, Job, PurgeBegun, Purged, PurgeEnded, PurgeFailed
from imageload.road import Road, outcome_of
from imageload.targets.imgur.albums import image_name
from imageload.transport.transfer import TransferError

_log = logging.getLogger(__name__)

_DELETED = ImageError("purged", "Deleted from Imgur, as you asked.").failure()
_TAKEN_OFF = ImageError(
    "purged",
    "Taken off this job. It stays on Imgur, for another job has it too; purge that one as well.",
).failure()


@dataclass(frozen=True, slots=True)
class _Result:
    """How the deletion of what is behind a link ended; the album's has no link."""

    link: str | None
    value: object


class Purge:
    """`work` deletes what `job` has completed; `settle` says that it is over."""

    def __init__(
        self,
        road: Road,
        job: Job,
        links_of_others: Callable[[], Set[str]],
        taking_off: AbstractContextManager[object],
    ) -> None:
        """`links_of_others` gives the links that other jobs have.

        `taking_off` is one lock for all purges.
        """
        self._road = road
        self._job = job
        self._links_of_others = links_of_others
        self._taking_off = taking_off
        self._inbox: Inbox[_Result | None] = Inbox()
        self._images: dict[str, list[int]] = {}
        self._ended = PurgeEnded()
        self._stopped = False

    def stop(self) -> None:
        """Make `work` return soon; from any thread."""
        self._stopped = True
        self._inbox.ring()

    def work(self) -> None:
        """Delete the images, and then the album; returns early only after `stop`."""
        if not self._job.summary().purging:
            self._apply(PurgeBegun())
        images = self._job.snapshot().images
        for index, image in enumerate(images):
            if image.link is not None:
                self._images.setdefault(image.link, []).append(index)
        # In this order: from now on no other job takes one of these links over.
        self._road.sharing.forget(self._images.keys())
        with self._taking_off:  # else of two jobs each would leave their images to the other
            try:
                shared = self._images.keys() & self._links_of_others()
            except StoreUnavailable as error:
                self._keep_all(ImageError("disk_error", str(error)))
                return
            for link in shared:
                self._purged(link, _TAKEN_OFF)
        for link, indexes in self._images.items():
            image = images[indexes[0]]
            # A deletehash does whoever asks: the image may be from before an account was used.
            name = image.deletehash or image_name(image, anonymous=self._road.upload.anonymous)
            if name is None:
                gone = UploadError(
                    "upload_rejected",
                    "Imgur gave no deletehash for this image: it cannot be deleted.",
                )
                self._inbox.tell(_Result(link, gone))
            else:
                self._delete(link, f"image/{name}")
        self._hear(len(self._images))
        self._delete_album()

    def settle(self) -> None:
        """Say that it is over; after a stop it is not."""
        if not self._stopped and self._job.summary().purging:
            self._apply(self._ended)

    def _keep_all(self, error: ImageError) -> None:
        """Nothing can be deleted, for it is not known what other jobs have."""
        for link in self._images:
            self._take(_Result(link, error))

    def _delete(self, link: str | None, route: str) -> None:
        upload = self._road.upload

        def done(value: object) -> None:
            self._inbox.tell(_Result(link, value))

        try:
            upload.call(self._job.job_id, lambda: upload.request("DELETE", route), done)
        except RuntimeError:
            done(TransferError("stopped", "nothing is taken any more"))

    def _delete_album(self) -> None:
        album = self._job.summary().album
        if album is not None and album.id is not None and not self._stopped:
            self._delete(None, f"album/{album.deletehash or album.id}")
            self._hear(1)

    def _hear(self, count: int) -> None:
        while count and not self._stopped:
            for result in self._inbox.messages(None):
                if result is not None:
                    count -= 1
                    self._take(result)

    def _take(self, result: _Result) -> None:
        error = outcome_of(result.value) if isinstance(result.value, BaseException) else None
        if isinstance(error, NotFoundOnImgur):
            error = None
        if isinstance(error, ImageError):
            told = self._job.job_id, error.code, error.message
            _log.warning("not deleted job=%s code=%s reason=%s", *told)
        if result.link is None:
            failure = error.failure() if isinstance(error, ImageError) else None
            self._ended = PurgeEnded(album_deleted=failure is None, album_failure=failure)
        elif not isinstance(error, ImageError):
            self._purged(result.link, _DELETED)
        elif not self._stopped:
            for index in self._images[result.link]:
                self._apply(PurgeFailed(index, error.failure()))

    def _purged(self, link: str, failure: Failure) -> None:
        for index in self._images[link]:
            self._apply(Purged(index, failure))
        if failure is _TAKEN_OFF:
            del self._images[link]

    def _apply(self, change: Change) -> None:
        self._road.apply(self._job, change)
