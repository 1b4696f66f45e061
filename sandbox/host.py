"""The image host: /<id>.<ext>, thumbnails, and a redirect to removed.png for missing images.

Any extension serves the stored type. A letter after the id selects a thumbnail, always a JPEG.
A missing or deleted image is a 302, not a 404 (RedditImageGrab#50): a downloader that follows it
gets an image. A page at http://127.0.0.1 that names itself as the Referer gets a 403
(laragon#258, anki#2234); one at http://localhost gets the image. Data centres get a 429 whatever
they send (ecency/imagehoster#62), here with --data-centre. The bodies of both are empty, as the
403 that secretpuppies#61 captured. Not copied: i.imgur.com's 429 for some User-Agents, and its HTML
for browsers.
"""

from __future__ import annotations

from functools import cache
from urllib.parse import urlsplit

from .envelope import Response
from .handler import Handler
from .picture import placeholder, thumbnail

FOR_EVER = "public, max-age=31536000"

_FACE = b"""\
This is a sandbox: a stand-in for Imgur, for tests and first steps.

POST /3/image      upload, as Imgur's API v3 takes it (Authorization: Client-ID anything)
GET  /<id>.<ext>   an uploaded image; /<id>s, b, t, m, l or h.jpg is a thumbnail of it
GET  /<id>         the page of an image
GET  /a/<id>       the page of an album
"""


class Host(Handler):
    """Base of the image host's handlers: any web page may show an image."""

    is_for_other_sites = True

    def gone(self) -> Response:
        """The response for a missing image: a redirect to a picture, absolute as Imgur's."""
        location = f"{self.state.link_base}/removed.png"
        return Response(302, b"", "text/html", {"Location": location})


class ImageHost(Host):
    """Base of the handlers of i.imgur.com's images."""

    async def answer(self) -> Response:
        """The response, unless Imgur refuses this client."""
        if self.fault is None or not self.fault.status:
            if self.state.options.data_centre:
                return _refused(429)
            if _is_at_127_0_0_1(self.request.headers.get("Referer", "")):
                return _refused(403)
        return await super().answer()


class Face(Host):
    """GET /: a description."""

    async def on_get(self) -> Response:
        return Response(200, _FACE, "text/plain; charset=utf-8")

    on_head = on_get


class Removed(ImageHost):
    """GET|HEAD /removed.png: the picture for missing images."""

    async def on_get(self) -> Response:
        return Response(200, _removed(), "image/png")

    on_head = on_get


class Link(ImageHost):
    """GET|HEAD /{id}{thumbnail letter}.{any extension}: the image."""

    route = "link"

    async def on_get(self, image_id: str, suffix: str | None) -> Response:
        if self.state.options.region_blocked:
            return Response(200, _blocked(), "image/png")
        image = self.state.store.image(image_id)
        if image is None:
            return self.gone()
        tag = f'"{image.sha256[:32]}{suffix or ""}"'
        headers = {"Etag": tag, "Cache-Control": FOR_EVER}
        if tag in self.request.headers.get("If-None-Match", ""):
            return Response(304, b"", image.type, headers)
        if suffix:
            content = await self.state.in_pool(self._thumbnail, image_id, suffix)
        else:
            content = await self.state.in_pool(self.state.store.content, image_id)
        if content is None:
            return self.gone()
        return Response(200, content, "image/jpeg" if suffix else image.type, headers)

    on_head = on_get

    def _thumbnail(self, image_id: str, suffix: str) -> bytes | None:
        """The thumbnail, new or stored. Runs in the thread pool."""
        made = self.state.store.thumbnail(image_id, suffix)
        if made is None:
            content = self.state.store.content(image_id)
            if content is None:
                return None
            made = thumbnail(content, suffix)
            self.state.store.add_thumbnail(image_id, suffix, made)
        return made

    def compute_etag(self) -> str | None:
        """None: the tag is set already, without hashing the bytes again."""
        return None


class NotHere(ImageHost):
    """Any other path of the image host: the redirect that a missing image gets."""

    async def on_get(self) -> Response:
        return self.gone()

    on_head = on_get


def _refused(status: int) -> Response:
    return Response(status, b"", "", {"Retry-After": "0"})


def _is_at_127_0_0_1(url: str) -> bool:
    try:
        return urlsplit(url).hostname == "127.0.0.1"
    except ValueError:
        return False


@cache
def _removed() -> bytes:
    return placeholder(161, 81)  # JDim#1433


@cache
def _blocked() -> bytes:
    """The picture that Imgur serves in blocked regions, whatever the id, with a 200."""
    return placeholder(336, 478)
