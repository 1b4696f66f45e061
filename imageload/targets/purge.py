"""Undo: delete from the target the images and the album that a job has there.

An image that another job has too stays there until that job is purged as well; it only leaves this
job's lists.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Set

from imageload.errors import Failure, ImageError, NotFoundOnImgur, StoreUnavailable
from imageload.image import Image, Landed, Purged, PurgeFailed
from imageload.job import Change, Job, PurgeBegun, PurgeEnded
from imageload.targets import Target
from imageload.targets.uploads import CALL_SLOTS

_log = logging.getLogger(__name__)

LinksOfOthers = Callable[[Job], Awaitable[Set[str]]]
"""The links of this job that other jobs have too; raises StoreUnavailable."""


async def purge(
    job: Job,
    target: Target,
    apply: Callable[[Job, Change], object],
    *,
    links_of_others: LinksOfOthers,
    forget: Callable[[Set[str]], object],
) -> None:
    """Delete what `job` has on the target: PurgeBegun, a Purged or PurgeFailed each, PurgeEnded.

    `forget` makes the dedupe forget these links. If the task is cancelled, PurgeEnded is not
    applied, and another `purge` goes on after a restart.
    """
    if not job.summary().purging:
        apply(job, PurgeBegun())
    ended = PurgeEnded()
    try:
        if await _purge_images(job, target, apply, links_of_others, forget):
            ended = await _delete_album(job, target)
    except Exception:
        _log.exception("a bug ended a purge job=%s", job.job_id)
    apply(job, ended)


async def _purge_images(
    job: Job,
    target: Target,
    apply: Callable[[Job, Change], object],
    links_of_others: LinksOfOthers,
    forget: Callable[[Set[str]], object],
) -> bool:
    """Delete the images that only `job` has; False if the store cannot list those of others."""
    images = job.snapshot().images
    indexes: dict[str, list[int]] = {}
    for index, image in enumerate(images):
        if image.link is not None:
            indexes.setdefault(image.link, []).append(index)

    def finish(link: str, failure: Failure, *, purged: bool) -> None:
        for index in indexes[link]:
            apply(job, Purged(index, failure) if purged else PurgeFailed(index, failure))

    forget(indexes.keys())  # first: from now on no other job reuses one of these links
    async with target.deleting(indexes.keys()):
        async with target.purging:  # or of two jobs with an image, each would leave it to the other
            try:
                shared = indexes.keys() & await links_of_others(job)
            except StoreUnavailable as error:
                for link in indexes:
                    finish(link, ImageError("disk_error", str(error)).failure(), purged=False)
                return False
            for link in shared:
                finish(link, _taken_off(target), purged=True)
        own = {link: images[indexes[link][0]] for link in indexes if link not in shared}
        await _delete_images(job.job_id, target, own, finish)
    return True


async def _delete_images(
    job_id: str, target: Target, images: Mapping[str, Image], finish: Callable[..., None]
) -> None:
    """Delete the image of each link, a few at once, and `finish` each."""
    left = iter(images.items())
    deleted = ImageError("purged", f"Deleted from {target.place}, as you asked.").failure()

    async def work() -> None:
        for link, image in left:
            failure = await _failure_of(
                job_id, target.delete(job_id, Landed(link, image.deletehash))
            )
            finish(link, failure or deleted, purged=failure is None)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(CALL_SLOTS, len(images))):
            group.create_task(work())


async def _delete_album(job: Job, target: Target) -> PurgeEnded:
    album = job.summary().album
    if album is None or album.id is None:
        return PurgeEnded()
    if target.albums is None:
        message = f"The album is not on {target.place}, where images go now: it was not deleted."
        return PurgeEnded(album_failure=ImageError("upload_rejected", message).failure())
    route = f"album/{album.deletehash or album.id}"
    failure = await _failure_of(job.job_id, target.albums.request(job.job_id, "DELETE", route))
    return PurgeEnded(album_deleted=failure is None, album_failure=failure)


async def _failure_of(job_id: str, deletion: Awaitable[object]) -> Failure | None:
    """Why it could not be deleted; None: it is gone."""
    try:
        await deletion
    except NotFoundOnImgur:
        return None
    except ImageError as error:
        _log.warning("not deleted job=%s code=%s reason=%s", job_id, error.code, error.message)
        return error.failure()
    return None


def _taken_off(target: Target) -> Failure:
    message = (
        f"Removed from this job. It stays on {target.place} because another job has it too: purge "
        "that job also."
    )
    return ImageError("purged", message).failure()
