"""The web pages at / and /docs, and their files.

Their content security policies allow no other host but the links', for pictures. /docs shows
/openapi.json with Swagger UI, whose files are in page/vendor/.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import tornado.web

from imageload.web.base import BaseHandler
from imageload.web.openapi import document

FOLDER = Path(__file__).parent / "page"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_FILES = {path.name: path for path in FOLDER.rglob("*") if path.suffix in _TYPES}


class _HtmlHandler(BaseHandler):
    """A handler that sends a page."""

    is_open = True

    def send_page(self, page: str, pictures: str) -> None:
        """Send `page`, which may show pictures of the service and of `pictures` (CSP sources)."""
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            f"img-src 'self' {pictures}; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'",
        )
        self.finish(page)


class PageHandler(_HtmlHandler):
    """GET /: the web page."""

    def get(self) -> None:
        """Send the page, with a mark if the sandbox stands in for Imgur."""
        link_base = urlsplit(self.target.link_base)
        page = (FOLDER / "index.html").read_text(encoding="utf-8")
        mode = "sandbox" if self.service_settings.is_sandbox else self.target.name.partition(":")[0]
        page = page.replace('data-mode=""', f'data-mode="{mode}"')
        self.send_page(page, f"{link_base.scheme}://{link_base.netloc}")


class DocsHandler(_HtmlHandler):
    """GET /docs: /openapi.json to read, with forms to try its calls."""

    def get(self) -> None:
        """Send the page. Swagger UI's style sheet has pictures as data: URLs."""
        self.send_page((FOLDER / "docs.html").read_text(encoding="utf-8"), "data:")


class PageFileHandler(BaseHandler):
    """GET /page/<name>: a script, style sheet or picture of the pages."""

    is_open = True

    async def get(self, name: str) -> None:
        """Send the file; 404 if there is none."""
        path = _FILES.get(name)
        if path is None:
            raise tornado.web.HTTPError(404)
        self.set_header("Content-Type", f"{_TYPES[path.suffix]}; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")
        self.finish(await asyncio.to_thread(path.read_bytes))


class OpenApiHandler(BaseHandler):
    """GET /openapi.json: the description of the API (OpenAPI 3.1)."""

    is_open = True

    async def get(self) -> None:
        """Send the document for the options of this service."""
        wants_token = self.limits.access.wants_token
        value = await asyncio.to_thread(document, self.service_settings, wants_token=wants_token)
        self.send_json(value)
