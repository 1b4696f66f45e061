"""The web pages at / and /docs and their files, under policies that let them ask no other host.

The page at /docs shows /openapi.json with Swagger UI, whose files lie in page/vendor/.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import tornado.web

from imageload.settings import SANDBOX_CLIENT_ID
from imageload.web.base import BaseHandler
from imageload.web.openapi import document

FOLDER = Path(__file__).parent / "page"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_FILES = {path.name: path for path in FOLDER.rglob("*") if path.suffix in _TYPES}


class _HtmlHandler(BaseHandler):
    """A handler that answers a page."""

    is_open = True

    def answer_page(self, page: str, pictures: str) -> None:
        """Answer `page`, which may show pictures of this host and of `pictures`."""
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            f"img-src 'self' {pictures}; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'",
        )
        self.finish(self.packed(page.encode()))


class PageHandler(_HtmlHandler):
    """GET /: the page. Only the host of the links may be asked, and for pictures only."""

    def get(self) -> None:
        """Answer the page, told whether the sandbox answers in place of Imgur."""
        link_base = urlsplit(self.config.imgur_link_base)
        page = (FOLDER / "index.html").read_text(encoding="utf-8")
        mode = "sandbox" if self.config.imgur_client_id == SANDBOX_CLIENT_ID else "imgur"
        page = page.replace('data-mode=""', f'data-mode="{mode}"')
        self.answer_page(page, f"{link_base.scheme}://{link_base.netloc}")


class DocsHandler(_HtmlHandler):
    """GET /docs: /openapi.json to read, and its calls to try."""

    def get(self) -> None:
        """Answer the page; the pictures within Swagger UI's style sheet are data: URLs."""
        self.answer_page((FOLDER / "docs.html").read_text(encoding="utf-8"), "data:")


class PageFileHandler(BaseHandler):
    """GET /page/<name>: a script, a style sheet or a picture of the pages."""

    is_open = True

    async def get(self, name: str) -> None:
        """Answer the file."""
        path = _FILES.get(name)
        if path is None:
            raise tornado.web.HTTPError(404)
        self.set_header("Content-Type", f"{_TYPES[path.suffix]}; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")
        loop = asyncio.get_running_loop()
        await self.finish_large(await loop.run_in_executor(None, path.read_bytes))


class OpenApiHandler(BaseHandler):
    """GET /openapi.json: the description of the whole API (OpenAPI 3.1)."""

    is_open = True

    async def get(self) -> None:
        """Answer the document as it is for this service's options."""
        wants_token = self.front.access.wants_token
        await self.answer_beside(lambda: document(self.config, wants_token=wants_token))
