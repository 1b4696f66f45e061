"""The web page at / and its files, under a policy that lets it ask no other host for anything."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import tornado.web

from imageload.config import SANDBOX_CLIENT_ID
from web.base import BaseHandler

FOLDER = Path(__file__).parent / "page"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_FILES = {path.name: path for path in FOLDER.iterdir() if path.suffix in _TYPES}


class PageHandler(BaseHandler):
    """GET /: the page. Only the host of the links may be asked, and for pictures only."""

    is_open = True

    def get(self) -> None:
        """Answer the page, told whether the sandbox answers in place of Imgur."""
        link_base = urlsplit(self.config.imgur_link_base)
        pictures = f"{link_base.scheme}://{link_base.netloc}"
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            f"img-src 'self' {pictures}; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'",
        )
        page = (FOLDER / "index.html").read_text(encoding="utf-8")
        mode = "sandbox" if self.config.imgur_client_id == SANDBOX_CLIENT_ID else "imgur"
        page = page.replace('data-mode=""', f'data-mode="{mode}"')
        self.finish(self.packed(page.encode()))


class PageFileHandler(BaseHandler):
    """GET /page/<name>: a script, a style sheet or a picture of the page."""

    is_open = True

    def get(self, name: str) -> None:
        """Answer the file."""
        path = _FILES.get(name)
        if path is None:
            raise tornado.web.HTTPError(404)
        self.set_header("Content-Type", f"{_TYPES[path.suffix]}; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")
        self.finish(self.packed(path.read_bytes()))
