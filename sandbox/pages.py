"""The pages of an album and of an image, as imgur.com has them: plain HTML without scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape

from .envelope import HTML, Response
from .host import Host
from .picture import EXTENSIONS
from .store import StoredImage

_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 2rem 0; }
img { max-width: 100%; height: auto; display: block; }
h1, h2, p { overflow-wrap: anywhere; white-space: pre-line; }
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; img-src 'self'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class AlbumPage(Host):
    """GET /a/{id}: the album's title and its images, in order."""

    route = "page"

    async def on_get(self, album_id: str) -> Response:
        album = self.state.store.album(album_id)
        if album is None:
            return _page(404, "There is no such album", None, ())
        images = [self.state.store.image(image_id) for image_id in album.images]
        shown = [image for image in images if image is not None]
        return _page(200, album.title or "Untitled album", album.description, shown)

    on_head = on_get


class ImagePage(Host):
    """GET /{id}: the image with its title and description."""

    route = "page"

    async def on_get(self, image_id: str) -> Response:
        image = self.state.store.image(image_id)
        if image is None:
            return _page(404, "There is no such image", None, ())
        return _page(200, image.title or "Untitled image", None, [image])

    on_head = on_get


def _page(
    status: int, title: str, description: str | None, images: Sequence[StoredImage]
) -> Response:
    head = escape(title)
    text = f"<p>{escape(description)}</p>" if description else ""
    count = f"{len(images)} image{'' if len(images) == 1 else 's'}"
    body = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{head}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{head}</h1>\n{text}\n{''.join(map(_figure, images))}</main>\n"
        f"<footer>{count}. This is the sandbox, which stands in for Imgur.</footer>\n"
        "</body>\n</html>\n"
    )
    return Response(status, body.encode("utf-8", "replace"), HTML, _HEADERS)


def _figure(image: StoredImage) -> str:
    """The image; its path leads to this server whatever links begin with."""
    title = escape(image.title or image.name or f"Image {image.id}")
    parts = [escape(text) for text in (image.title, image.description) if text]
    caption = f"<figcaption>{'<br>'.join(parts)}</figcaption>" if parts else ""
    return (
        f'<figure><img src="/{image.id}.{EXTENSIONS[image.type]}" alt="{title}"'
        f' width="{image.width}" height="{image.height}">{caption}</figure>\n'
    )
