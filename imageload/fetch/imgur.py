"""Imgur as an origin: the images of its pages, and what it sends in place of images.

Users have the address of a page (imgur.com/<id>) where the image's is wanted (i.imgur.com/<id>.jpg,
whose extension Imgur ignores). Imgur shows its images to browsers, and refuses them to servers: to
data centres with 429 whatever they send, to some countries with a picture that says so, in a 200.
That picture is known by its SHA-256 alone, which more than ten public repositories name: nothing
else in the response tells it from an image. If Imgur draws another one, --reject-sha256 names it.
Nothing here does I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from imageload.errors import DownloadError
from imageload.fetch.guard import Target, check_url

_REMOVED = "removed_at_origin", "Imgur has removed this image."
_HINT = (
    "Retry later. If that does not help, post another address of the image, or let the service "
    "download through a proxy elsewhere (--origin-proxy)."
)

PLACEHOLDERS: Mapping[str, tuple[str, str]] = {
    # removed.png, 161 x 81, 503 bytes
    "9b5936f4006146e4e1e9025b474c02863c0b5614132ad40db4b925a10e8bfbb9": _REMOVED,
    # "Content not viewable in your region", 336 x 478, 34,641 bytes; sent with a 200 since 2025-09
    "faa24ec881e6040655c187a681d6dc496eb8aa41e1bd0652a180b3a40b457187": (
        "refused_at_origin",
        f"Imgur does not show its images in the region of this server. {_HINT}",
    ),
}
"""The error that each picture stands for that Imgur sends in place of an image, by SHA-256."""

_REFUSALS: Mapping[int, tuple[str, str]] = {
    403: ("refused_at_origin", f"Imgur refuses this image to this server (403). {_HINT}"),
    429: (
        "throttled_at_origin",
        "Imgur answers 429: it refuses its images to many data centres, whatever they send. "
        f"{_HINT}",
    ),
}

_HOSTS = re.compile(r"(?:(i|m|www)\.)?imgur\.(?:com|io)")
_FILE = re.compile(r"/([0-9A-Za-z]{5,8})\.(\w{1,5})")  # an eighth character selects a thumbnail
_IMAGE = re.compile(r"/(?:[\w-]+-)?([0-9A-Za-z]{5,7})/?")
_ALBUM = re.compile(r"/a/.+")
_GALLERY = re.compile(r"/(?:gallery|t|r|topic|user)/.+")
_ALBUM_ID = re.compile(r"/(a|gallery|(?:t|r|topic)/[^/]+)/(?:[^/]+-)?([0-9A-Za-z]{5,7})/?")
_NO_IMAGE = re.compile(
    r"/(?:about|account|gallery|memegen|privacy|random|rules|search|signin|store|topics|upload)/?"
)

_ADVICE = "Open it, and post the addresses of its images, which begin with https://i.imgur.com/."
_MOST_NAMED = 20  # images of an album, in an error message


class Album(NamedTuple):
    """An album by its page. `may_be_image`: it may be an image of the gallery instead."""

    id: str
    may_be_image: bool


def album_of(target: Target) -> Album | None:
    """The album whose page `target` is; None: it is none, or its address has no id."""
    found = _ALBUM_ID.fullmatch(urlsplit(target.url).path)
    if found is None or not _HOSTS.fullmatch(target.host):
        return None
    return Album(found[2], may_be_image=found[1] != "a")


def only_image(target: Target, album: Album, links: Sequence[str] | None) -> Target:
    """Where the only image of `album` is, whose page is `target`.

    `links` are those of its images; None: Imgur shows no such album. Raises DownloadError
    `removed_at_origin` if there is none, and `not_image` if it has not exactly one image.
    """
    if links is None:
        if album.may_be_image:
            return _image(target, f"{album.id}.jpg")
        message = "Imgur has no such album any more, or its owner keeps it private."
        raise DownloadError("removed_at_origin", message)
    if len(links) == 1:
        return check_url(links[0])
    if not links:
        raise DownloadError("not_image", "This Imgur album has no images.")
    more = len(links) - _MOST_NAMED
    raise DownloadError(
        "not_image",
        f"This Imgur album has {len(links)} images, and a URL stands for one. Post the addresses "
        f"of those that you want: {', '.join(links[:_MOST_NAMED])}"
        + (f" and {more} more." if more > 0 else "."),
    )


def image_target(target: Target) -> Target:
    """Where the image of an Imgur page is; any other `target` as it is.

    Raises DownloadError `not_image` for the page of an album or of the gallery.
    """
    found = _HOSTS.fullmatch(target.host)
    if found is None:
        return target
    path = urlsplit(target.url).path
    if file := _FILE.fullmatch(path):
        is_video_page = file[2].lower() == "gifv"
        if found[1] == "i" and not is_video_page:
            return target
        return _image(target, f"{file[1]}.{'gif' if is_video_page else file[2]}")
    if _ALBUM.fullmatch(path):
        raise DownloadError("not_image", f"This is the page of an Imgur album. {_ADVICE}")
    if _GALLERY.fullmatch(path):
        raise DownloadError("not_image", f"This is a page of Imgur's gallery. {_ADVICE}")
    image = _IMAGE.fullmatch(path)
    if image is None or _NO_IMAGE.fullmatch(path):
        return target
    return _image(target, f"{image[1]}.jpg")


def check_redirect(target: Target, status: int) -> None:
    """Raises DownloadError `removed_at_origin` if a redirect to `target` says so."""
    if _HOSTS.fullmatch(target.host) and urlsplit(target.url).path == "/removed.png":
        raise DownloadError(*_REMOVED, status_code=status)


def check_content(sha256: str) -> None:
    """Raises a DownloadError if the file is one of Imgur's placeholders."""
    found = PLACEHOLDERS.get(sha256)
    if found is not None:
        raise DownloadError(*found, status_code=200)


def refusal(target: Target, status: int) -> tuple[str, str] | None:
    """The error's name and message if `target` is Imgur's, and refuses images so; else None."""
    return _REFUSALS.get(status) if _HOSTS.fullmatch(target.host) else None


def _image(target: Target, name: str) -> Target:
    port = urlsplit(target.url).port
    authority = "i.imgur.com" if port is None else f"i.imgur.com:{port}"
    return target._replace(url=f"{target.scheme}://{authority}/{name}", host="i.imgur.com")
