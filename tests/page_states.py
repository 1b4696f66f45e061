"""Pictures of the web page in each of its states: python -m tests.page_states DIR.

Each state is there wide and narrow, in light and in dark: DIR/<state>-<width>-<light or dark>.png.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, expect

from sandbox.testing import running_sandbox
from tests.browser import (
    Visit,
    open_context,
    running_browser,
    running_origin,
    running_service,
    visiting,
)

README = """# Birds

[![build]({0}/a.svg)](https://ci.example/birds) and `![]({0}/png-rgb.png)`

<p align="center"><img src="{0}/png-rgb.png?w=1&amp;h=2" alt="A bird"></p>

![gif]({0}/gif-89a.gif) is animated. ![logo](docs/logo.png)
"""
GOOD = ("png-rgb.png", "jpeg-baseline.jpg", "gif-animated.gif", "gif-89a.gif")


def take(page: Page, folder: Path, state: str) -> None:
    """Save the page as it is now in four forms."""
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            page.screenshot(path=folder / f"{state}-{width}-{scheme}.png", full_page=True)
    page.set_viewport_size({"width": 1280, "height": 800})


def show_form_and_ends(visit: Visit, origin: str, gate: threading.Event, folder: Path) -> None:
    """All states of a service whose Imgur is well."""
    page = visit.page
    expect(page.locator("#watch")).to_have_text("No job yet.")
    take(page, folder, "empty")
    visit.paste(README.format(origin))
    expect(page.locator(".found")).to_have_count(3)
    page.get_by_label("a.svg").uncheck()
    take(page, folder, "found")
    page.locator("#urls").fill("")
    good = [f"{origin}/{name}" for name in GOOD]
    gated = [f"{origin}/gated/png-rgb.png?{number}" for number in range(36)]
    gate.clear()
    job = visit.job_of(visit.post([*good, *gated], dedupe=False))
    job.locator("summary").click()
    expect(job.locator(".counts")).to_have_text("4 uploaded, 36 to go")
    take(page, folder, "uploading")
    job.get_by_role("button", name="Cancel").click()
    expect(job.locator("header .state")).to_have_text("cancelled")
    gate.set()
    take(page, folder, "cancelled")
    job.get_by_role("button", name="Hide").click()
    bad = [f"{origin}/no-such.png", f"{origin}/not-images/page.html", "no-url", "ftp://a.example/"]
    for state, urls in (("mixed", [*good, *bad, *bad]), ("failed", bad)):
        job = visit.job_of(
            visit.post(urls, album="Birds of a feather" if state == "mixed" else None)
        )
        job.locator("summary").click()
        expect(job.locator(".reasons li").first).to_be_visible()
        take(page, folder, state)
        if state == "mixed":
            job.get_by_role("button", name="Grid").click()
            take(page, folder, "grid")
        job.get_by_role("button", name="Hide").click()
    job = visit.job_of(visit.post(good))
    job.get_by_role("button", name="Delete…").click()
    take(page, folder, "delete")
    page.get_by_role("button", name="Delete 4 images").click()
    expect(job.locator("header .state")).to_have_text("deleted from Imgur")
    take(page, folder, "deleted")
    page.context.set_offline(True)
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator("#watch")).to_contain_text("cannot be reached")
    take(page, folder, "down")


@contextlib.contextmanager
def services(**environment: str) -> Iterator[tuple[str, ...]]:
    """A service with files of its own."""
    with (
        tempfile.TemporaryDirectory() as files,
        running_service(Path(files), **environment) as urls,
    ):
        yield urls


def main(folder: Path) -> None:
    """Take all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        browser = stack.enter_context(running_browser())
        origin, gate = stack.enter_context(running_origin())
        gate.set()
        with services() as urls, visiting(open_context(browser), urls) as visit:
            show_form_and_ends(visit, origin, gate, folder)
            visit.problems.clear()
        with (
            services(IMAGELOAD_API_TOKEN="x") as urls,
            visiting(open_context(browser), urls) as visit,
        ):
            expect(visit.page.locator("#token")).to_be_focused()
            take(visit.page, folder, "token")
            visit.problems.clear()
        with (
            tempfile.TemporaryDirectory() as files,
            running_sandbox(Path(files), user_credits=31) as sandbox,
            services(IMGUR_CLIENT_ID="x", IMGUR_BASE_URL=sandbox.url,
                     IMGUR_LINK_BASE=sandbox.url) as urls,
            visiting(open_context(browser), (*urls, sandbox.url)) as visit,
        ):  # fmt: skip
            entries = [f"{origin}/png-rgb.png?{number}" for number in range(5)]
            job = visit.job_of(visit.post(entries, dedupe=False))
            expect(job.locator(".waiting")).to_be_visible()
            expect(visit.page.locator("#limits")).to_contain_text("2 images wait for Imgur.")
            expect(visit.page.locator(".budget").first).to_contain_text("no more images")
            take(visit.page, folder, "waiting")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
