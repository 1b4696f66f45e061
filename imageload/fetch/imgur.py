"""Imgur as an origin: the images of its pages, and the pictures that it sends in place of images.

Users have the address of a page (imgur.com/<id>) where the image's is wanted (i.imgur.com/<id>.jpg,
whose extension Imgur ignores). Nothing here does I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from imageload.errors import DownloadError
from imageload.fetch.guard import Target

_REMOVED = "Imgur has removed this image."

PLACEHOLDERS: Mapping[str, str] = {
    # removed.png, 161 x 81, 503 bytes
    "9b5936f4006146e4e1e9025b474c02863c0b5614132ad40db4b925a10e8bfbb9": _REMOVED,
    # "Content not viewable in your region", 336 x 478, 34,641 bytes; sent with a 200 since 2025-09
    "faa24ec881e6040655c187a681d6dc496eb8aa41e1bd0652a180b3a40b457187": (
        "Imgur does not show its images in the region of this server."
    ),
}
"""What Imgur means by each picture that it sends in place of an image, by SHA-256."""

_HOSTS = re.compile(r"(?:(i|m|www)\.)?imgur\.(?:com|io)")
_FILE = re.compile(r"/([0-9A-Za-z]{5,8})\.(\w{1,5})")  # an eighth character selects a thumbnail
_IMAGE = re.compile(r"/(?:[\w-]+-)?([0-9A-Za-z]{5,7})/?")
_ALBUM = re.compile(r"/a/.+")
_GALLERY = re.compile(r"/(?:gallery|t|r|topic|user)/.+")
_NO_IMAGE = re.compile(
    r"/(?:about|account|gallery|memegen|privacy|random|rules|search|signin|store|topics|upload)/?"
)

_ADVICE = "Open it, and post the addresses of its images, which begin with https://i.imgur.com/."


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
        raise DownloadError("removed_at_origin", _REMOVED, status_code=status)


def check_content(sha256: str) -> None:
    """Raises DownloadError `removed_at_origin` if the file is one of Imgur's placeholders."""
    meaning = PLACEHOLDERS.get(sha256)
    if meaning is not None:
        raise DownloadError("removed_at_origin", meaning, status_code=200)


def _image(target: Target, name: str) -> Target:
    port = urlsplit(target.url).port
    authority = "i.imgur.com" if port is None else f"i.imgur.com:{port}"
    return replace(target, url=f"{target.scheme}://{authority}/{name}", host="i.imgur.com")
