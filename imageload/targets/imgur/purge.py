"""Undo: delete from Imgur the images and the album that a job has there, within the quota.

An image that another job has too stays on Imgur until that job is purged as well; it only leaves
this job's lists.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Set

from imageload.errors import Failure, ImageError, NotFoundOnImgur, StoreUnavailable, UploadError
from imageload.job import Change, Image, Job, PurgeBegun, Purged, PurgeEnded, PurgeFailed
from imageload.targets.imgur.albums import image_name
from imageload.targets.imgur.uploader import CALL_SLOTS, Imgur

_log = logging.getLogger(__name__)

_DELETED = ImageError("purged", "Deleted from Imgur, as you asked.").failure()
_TAKEN_OFF = ImageError(
    "purged",
    "Removed from this job. It stays on Imgur because another job has it too: purge that job also.",
).failure()

LinksOfOthers = Callable[[Job], Awaitable[Set[str]]]
"""The links of this job that other jobs have too; raises StoreUnavailable."""


async def purge(
    job: Job,
    imgur: Imgur,
    apply: Callable[[Job, Change], object],
    *,
    links_of_others: LinksOfOthers,
    forget: Callable[[Set[str]], object],
) -> None:
    """Delete what `job` has on Imgur: PurgeBegun, a Purged or PurgeFailed each, PurgeEnded.

    `forget` makes the dedupe forget these links. If the task is cancelled, PurgeEnded is not
    applied, and another `purge` goes on after a restart.
    """
    if not job.summary().purging:
        apply(job, PurgeBegun())
    ended = PurgeEnded()
    try:
        if await _purge_images(job, imgur, apply, links_of_others, forget):
            ended = await _delete_album(job, imgur)
    except Exception:
        _log.exception("a bug ended a purge job=%s", job.job_id)
    apply(job, ended)


async def _purge_images(
    job: Job,
    imgur: Imgur,
    apply: Callable[[Job, Change], object],
    links_of_others: LinksOfOthers,
    forget: Callable[[Set[str]], object],
) -> bool:
    """Delete the images that only `job` has; False if the store cannot list the others'."""
    images = job.snapshot().images
    indexes: dict[str, list[int]] = {}
    for index, image in enumerate(images):
        if image.link is not None:
            indexes.setdefault(image.link, []).append(index)

    def finish(link: str, failure: Failure, *, purged: bool) -> None:
        for index in indexes[link]:
            apply(job, Purged(index, failure) if purged else PurgeFailed(index, failure))

    forget(indexes.keys())  # first: from now on no other job reuses one of these links
    async with imgur.purging:  # or of two jobs with an image, each would leave it to the other
        try:
            shared = indexes.keys() & await links_of_others(job)
        except StoreUnavailable as error:
            for link in indexes:
                finish(link, ImageError("disk_error", str(error)).failure(), purged=False)
            return False
        for link in shared:
            finish(link, _TAKEN_OFF, purged=True)
    own = {link: images[indexes[link][0]] for link in indexes if link not in shared}
    await _delete_images(job.job_id, imgur, own, finish)
    return True


async def _delete_images(
    job_id: str, imgur: Imgur, images: Mapping[str, Image], finish: Callable[..., None]
) -> None:
    """Delete the image of each link, a few at once, and `finish` each."""
    left = iter(images.items())

    async def work() -> None:
        for link, image in left:
            # A deletehash is enough: the image may be older than the account that is used now.
            name = image.deletehash or image_name(image, anonymous=imgur.anonymous)
            failure = await _failure_of(job_id, imgur, f"image/{name}" if name else None)
            finish(link, failure or _DELETED, purged=failure is None)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(CALL_SLOTS, len(images))):
            group.create_task(work())


async def _delete_album(job: Job, imgur: Imgur) -> PurgeEnded:
    album = job.summary().album
    if album is None or album.id is None:
        return PurgeEnded()
    failure = await _failure_of(job.job_id, imgur, f"album/{album.deletehash or album.id}")
    return PurgeEnded(album_deleted=failure is None, album_failure=failure)


async def _failure_of(job_id: str, imgur: Imgur, route: str | None) -> Failure | None:
    """Delete `route`; why it could not be deleted. None: it is gone."""
    try:
        if route is None:
            message = "Imgur gave no deletehash for this image: it cannot be deleted."
            raise UploadError("upload_rejected", message)
        await imgur.request(job_id, "DELETE", route)
    except NotFoundOnImgur:
        return None
    except ImageError as error:
        _log.warning("not deleted job=%s code=%s reason=%s", job_id, error.code, error.message)
        return error.failure()
    return None
