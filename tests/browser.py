"""A real Chromium on the web page at /, of a real service with its sandbox.

    with running_browser() as browser, running_service(folder) as urls:
        with visiting(open_context(browser), urls) as visit:
            visit.upload(url)

A visit fails at its end when the page asked another host for anything, when anything stood in the
console (a violation of the content security policy does), or when a dialog opened.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler
from typing import Any
from urllib.parse import urlsplit

import requests
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Dialog,
    Locator,
    Page,
    Request,
    expect,
    sync_playwright,
)

from tests.service import ServiceProcess
from tests.waiting import PATIENCE

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "tests" / "images"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_MAC_BROWSER = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--process-per-site",
)
JOBS = "/v1/images/upload?limit="
STREAM = "/v1/events"
JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def found_browser() -> str | None:
    """The path of a browser on this machine."""
    found = [path for name in _BROWSERS if (path := shutil.which(name))]
    return next((path for path in [*found, _MAC_BROWSER] if Path(path).exists()), None)


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """A headless browser; all waits for its pages have `PATIENCE`."""
    expect.set_options(timeout=1_000 * PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found_browser(), args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def running_service(
    sandbox_dir: Path, *, port: str = "0", **environment: str
) -> Iterator[tuple[str, ...]]:
    """A process of the service; the URLs of the service and of its sandbox, if it has one."""
    service = ServiceProcess(
        *(f"--port={port}", "--sandbox-port=0", f"--sandbox-dir={sandbox_dir}"),
        "--allow-origin=127.0.0.1",
        environment=environment,
    )
    try:
        started = re.findall(r"http://127\.0\.0\.1:\d+", "".join(service.log))
        yield tuple(reversed(started))
        assert service.stop() == 0, "".join(service.log)
    finally:
        service.stop(signal.SIGKILL)
    assert not [line for line in service.log if " ERROR " in line or "Traceback" in line]


class _OriginHandler(SimpleHTTPRequestHandler):
    """The files of tests/images; below /gated/, only once the gate is open."""

    protocol_version = "HTTP/1.1"
    gate = threading.Event()

    def do_GET(self) -> None:
        if self.path.startswith("/gated/"):
            self.gate.wait(PATIENCE)
            self.path = self.path.removeprefix("/gated")
        super().do_GET()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with contextlib.suppress(ConnectionError):  # a test may end before its image
            super().copyfile(source, outputfile)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@contextlib.contextmanager
def serving(handler: Callable[..., BaseRequestHandler]) -> Iterator[str]:
    """The URL of a web server with this handler."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def running_origin(folder: Path = IMAGES) -> Iterator[tuple[str, threading.Event]]:
    """The URL of a web server with the files of `folder`, and its gate."""
    with serving(partial(_OriginHandler, directory=str(folder))) as url:
        yield url, _OriginHandler.gate


@dataclass
class Visit:
    """An open page, with its requests and console messages."""

    page: Page
    url: str
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def upload(self, *urls: str) -> tuple[str, Locator]:
        """Paste the URLs and press Upload; the new job's id and its place on the page."""
        self.paste("\n".join(urls))
        self.page.get_by_role("button", name="Upload", exact=True).click()
        return self.accepted_job()

    def post(self, entries: list[str], **keys: object) -> str:
        """Post a job outside the page; return its id."""
        url = f"{urlsplit(self.page.url)._replace(path='', fragment='').geturl()}/v1/images/upload"
        answer = requests.post(url, json={"urls": entries, **keys}, timeout=PATIENCE)
        (job_id,) = answer.json()["jobId"]
        return str(job_id)

    def job_of(self, job_id: str) -> Locator:
        """The job's place on the page."""
        return self.page.locator(f"[id='{job_id}']")

    def paste(self, text: str) -> None:
        """Put the text into the box from the clipboard. (`fill` takes 10 s for 1,000 lines.)"""
        self.page.get_by_label("Image URLs").focus()
        self.page.evaluate("text => navigator.clipboard.writeText(text)", text)
        self.page.keyboard.press("ControlOrMeta+V")

    def accepted_job(self) -> tuple[str, Locator]:
        """The id of the one job that was accepted in this visit, and its place on the page."""
        link = self.page.locator("#accepted a")
        expect(link).to_have_attribute("href", JOB_ID)
        job_id = (link.get_attribute("href") or "").removeprefix("#")
        return job_id, self.job_of(job_id)

    def asked(self) -> int:
        """How many requests there were but for pictures."""
        return len(
            [url for url in self.requests if urlsplit(url).path.startswith(("/v1/", "/page"))]
        )

    def is_following(self) -> bool:
        """Whether the last request about jobs, after the stream, was for their list."""
        asked = [url for url in self.requests if STREAM in url or JOBS in url]
        return len(asked) > 1 and JOBS in asked[-1]

    def expect_problem(self, words: str) -> None:
        """Check that a problem with these words was logged, and remove it."""
        assert [problem for problem in self.problems if words in problem], self.problems
        self.problems = [problem for problem in self.problems if words not in problem]


def open_context(browser: Browser) -> BrowserContext:
    """A profile of its own, in which pages may use the clipboard."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    context.set_default_timeout(1_000 * PATIENCE)
    return context


@contextlib.contextmanager
def visiting(
    context: BrowserContext, urls: tuple[str, ...], *, width: int = 1280, dark: bool = False
) -> Iterator[Visit]:
    """Open the service at the first of `urls`; requests to hosts outside `urls` fail the test."""
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme="dark" if dark else "light")
    visit = Visit(page, urls[0])

    def note(request: Request) -> None:
        visit.requests.append(request.url)

    def dismiss(dialog: Dialog) -> None:
        visit.problems.append(dialog.message)
        dialog.dismiss()

    context.on("request", note)
    page.on("console", lambda message: visit.problems.append(message.text))
    page.on("pageerror", lambda error: visit.problems.append(str(error)))
    page.on("dialog", dismiss)
    try:
        page.goto(urls[0])
        yield visit
        if not page.is_closed():
            page.evaluate("localStorage.clear()")
    finally:
        page.close()
        context.remove_listener("request", note)
    assert visit.problems == []
    hosts = {urlsplit(url).netloc for url in visit.requests}
    assert hosts <= {urlsplit(url).netloc for url in urls}
