"""The README's pictures of the page: `python -m tests.picture` takes them anew.

It starts the service with its sandbox, gives it a job that ends and one that does not, opens the
page in Chromium, and writes docs/images/page-light.png and page-dark.png.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import Browser

from tests.browser import IMAGES, ROOT, running_browser, running_service, serving
from tests.service import Client

MOST_BYTES = 150_000
IMAGES_IN_VIEW = """() => Promise.all([...document.images]
    .filter(image => !image.complete && image.getBoundingClientRect().top < innerHeight)
    .map(image => new Promise(done => image.addEventListener("load", done))))"""
SITE = "http://photos.example"
PHOTOS = {
    "/puppies.jpg": "jpeg-progressive-large-app13.jpg",
    "/lovebird.jpg": None,  # 404
    "/toucan.png": "png-interlaced-palette.png",
    "/dice.webp": "webp-extended-alpha.webp",
    "/path.avif": "avif-rotated.avif",
}


class Proxy(BaseHTTPRequestHandler):
    """The service's proxy to all origins: it has the photos of `SITE`, and no other."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path not in PHOTOS:
            threading.Event().wait()  # an origin that is slow
        name = PHOTOS.get(path)
        body = (IMAGES / name).read_bytes() if name else b""
        self.send_response(200 if name else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


def post(client: Client, album: str, paths: list[str]) -> str:
    """The jobId of a job with an album for these paths of `SITE`."""
    answer = client.post(json={"album": album, "urls": [SITE + path for path in paths]})
    answer.raise_for_status()
    (job_id,) = answer.json()["jobId"]
    return str(job_id)


def picture(browser: Browser, url: str, *, dark: bool) -> bytes:
    """The page at `url` as a PNG of 256 colours."""
    page = browser.new_page(
        viewport={"width": 1200, "height": 1150}, color_scheme="dark" if dark else "light"
    )
    page.goto(url)
    page.get_by_text(f"{SITE}/toucan.png").wait_for()
    page.evaluate(IMAGES_IN_VIEW)
    shot = page.screenshot()
    page.close()
    file = io.BytesIO()
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(256).save(file, "PNG", optimize=True)
    return file.getvalue()


def main() -> int:
    """Take both pictures."""
    folder = ROOT / "docs" / "images"
    folder.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as sandbox,
        serving(Proxy) as proxy,
        running_service(Path(sandbox), IMAGELOAD_ORIGIN_PROXY=proxy) as urls,
        running_browser() as browser,
    ):
        client = Client(urls[0])
        done = post(client, "Summer", list(PHOTOS))
        client.finish(done)
        post(client, "Autumn", ["/leaves.jpg", "/fog.jpg", "/puppies.jpg"])
        for dark in (False, True):
            taken = picture(browser, f"{urls[0]}/#{done}", dark=dark)
            name = f"page-{'dark' if dark else 'light'}.png"
            (folder / name).write_bytes(taken)
            print(f"docs/images/{name}: {len(taken):,} bytes")
            assert len(taken) < MOST_BYTES, name
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
