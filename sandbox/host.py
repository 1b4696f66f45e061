"""The image host: /<id>.<ext>, thumbnails, and a redirect to removed.png for what is gone.

Any extension serves the stored type. A letter behind the id asks for a thumbnail, always a JPEG.
A missing or deleted image is a 302, not a 404 (RedditImageGrab#50): a downloader that follows it
has "an image". Not copied: i.imgur.com's 429 for some User-Agents, its HTML for browsers, GIFV.
"""

from __future__ import annotations

from functools import cache

from .envelope import Answer
from .handler import Handler
from .picture import removed_png, thumbnail

FOR_EVER = "public, max-age=31536000"

_FACE = b"""\
This is a sandbox: an Imgur of one's own, for tests and first steps.

POST /3/image      upload, as Imgur's API v3 takes it (Authorization: Client-ID anything)
GET  /<id>.<ext>   an uploaded image; /<id>s, b, t, m, l or h.jpg is a thumbnail of it
"""


class Face(Handler):
    """GET /: what this is."""

    async def on_get(self) -> Answer:
        return Answer(200, _FACE, "text/plain; charset=utf-8")

    on_head = on_get


class Removed(Handler):
    """GET|HEAD /removed.png: what stands for a missing image."""

    async def on_get(self) -> Answer:
        return Answer(200, _removed(), "image/png")

    on_head = on_get


class Link(Handler):
    """GET|HEAD /{id}{thumbnail letter}.{any extension}: the bytes as they were sent."""

    route = "link"

    async def on_get(self, image_id: str, suffix: str | None) -> Answer:
        image = self.state.store.image(image_id)
        if image is None:
            return _gone()
        tag = f'"{image.sha256[:32]}{suffix or ""}"'
        headers = {"Etag": tag, "Cache-Control": FOR_EVER}
        if tag in self.request.headers.get("If-None-Match", ""):
            return Answer(304, b"", image.type, headers)
        if suffix:
            content = await self.state.in_pool(self._thumbnail, image_id, suffix)
        else:
            content = await self.state.in_pool(self.state.store.content, image_id)
        if content is None:
            return _gone()
        return Answer(200, content, "image/jpeg" if suffix else image.type, headers)

    on_head = on_get

    def _thumbnail(self, image_id: str, suffix: str) -> bytes | None:
        """The thumbnail, made now or before. Runs in the pool."""
        made = self.state.store.thumbnail(image_id, suffix)
        if made is None:
            content = self.state.store.content(image_id)
            if content is None:
                return None
            made = thumbnail(content, suffix)
            self.state.store.add_thumbnail(image_id, suffix, made)
        return made

    def compute_etag(self) -> str | None:
        """None: the tag is already set, and hashing the bytes again would cost."""
        return None


class NotHere(Handler):
    """Any other path of the image host: the redirect that a missing image gets."""

    async def on_get(self) -> Answer:
        return _gone()

    on_head = on_get


def _gone() -> Answer:
    return Answer(302, b"", "text/html", {"Location": "/removed.png"})


@cache
def _removed() -> bytes:
    return removed_png()
