"""A job's images as one album on Imgur, in the order of the input; and the images of any album."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from imageload import errors
from imageload.image import Image, Landed
from imageload.job import AlbumMade, Snapshot

_IMAGES_AT_ONCE = 100  # 100 deletehashes have some 2 kB

Request = Callable[[str, str, dict[str, Any]], Awaitable[Any]]
"""Called with method, route and fields; the `data` of Imgur's response."""


async def make_album(
    request: Request,
    job: Snapshot,
    link_of: Callable[[str], str],
    on_made: Callable[[AlbumMade], object],
    *,
    anonymous: bool,
) -> None:
    """Make the album of `job`, or replace its images; `link_of` gives the link of an album's id.

    Anonymous images and albums are addressed by their deletehashes, an account's by their ids.
    Without an image no album is made. `on_made` is called before the album is filled: one that
    could not be filled is kept, so that a retry fills it and a purge deletes it. Raises what
    `request` raises.
    """
    album = job.album
    assert album is not None, "the job wants an album"
    key = "deletehashes" if anonymous else "ids"
    batches = _batches(dict.fromkeys(_names(job.images, anonymous=anonymous)))
    first = next(batches, None)
    if first is None:
        return
    name = album.deletehash or album.id
    if name is not None:
        try:
            await request("POST", f"album/{name}", {key: first})
        except errors.NotFoundOnImgur:  # somebody has deleted it meanwhile
            name = None
    if name is None:
        found = await request("POST", "album", {"title": album.title, key: first})
        album_id, deletehash = _text(found, "id"), _text(found, "deletehash")
        if album_id is None or (anonymous and deletehash is None):
            message = "Imgur made an album and responded without its id."
            raise errors.UploadError("upload_error", message)
        on_made(AlbumMade(album_id, link_of(album_id), deletehash))
        name = deletehash or album_id
    for batch in batches:
        await request("POST", f"album/{name}/add", {key: batch})


async def album_links(request: Callable[[str, str], Awaitable[Any]], name: str) -> list[str] | None:
    """The links of the images of the album `name`, in order; None: Imgur shows no such album.

    Videos are left out. Raises what `request` raises, which is called with method and route.
    """
    try:
        found = await request("GET", f"album/{name}/images")
    except errors.NotFoundOnImgur:
        return None
    except errors.UploadError as error:
        if error.name == "upload_rejected":  # it is private
            return None
        raise
    images = (
        [image for image in found if isinstance(image, dict)] if isinstance(found, list) else []
    )
    links = (i.get("link") for i in images if not str(i.get("type")).startswith("video/"))
    return [link for link in links if isinstance(link, str)]


def image_name(image: Image | Landed, *, anonymous: bool) -> str | None:
    """How Imgur addresses a completed image of ours: by its deletehash, or the id in its link."""
    if anonymous or image.link is None:
        return image.deletehash
    return image.link.rpartition("/")[2].partition(".")[0]


def _names(images: Iterable[Image], *, anonymous: bool) -> Iterator[str]:
    for image in images:
        is_there = image.state == "completed" and not image.is_lost
        name = image_name(image, anonymous=anonymous) if is_there else None
        if name is not None:
            yield name


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    left = iter(names)
    while batch := list(itertools.islice(left, _IMAGES_AT_ONCE)):
        yield batch


def _text(made: object, key: str) -> str | None:
    value = made.get(key) if isinstance(made, dict) else None
    is_name = isinstance(value, str) and value.isascii() and value.isalnum()
    return value if is_name else None
