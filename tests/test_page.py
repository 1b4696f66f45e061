"""What the web page at / promises, in a real Chromium, on a real service with its sandbox.

A visit fails at its end when the page asked another host for anything, when anything stood in the
console (a violation of the content security policy does), or when a dialog opened.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import Browser, Dialog, Locator, Page, Route, expect, sync_playwright

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "tests" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MAC_BROWSER = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
JOBS = "/v1/images/upload?limit="
JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless browser with an empty profile, which knows no host but this machine."""
    found = [path for name in BROWSERS if (path := shutil.which(name))]
    path = next((path for path in [*found, MAC_BROWSER] if Path(path).exists()), None)
    if path is None:
        reason = "no browser: apt-get install chromium, or install Google Chrome"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=20_000)  # a busy machine is no reason to fail
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@contextlib.contextmanager
def running_service(sandbox_dir: Path, **environment: str) -> Iterator[tuple[str, ...]]:
    """`main.py` as a process, as the README starts it; the URLs of the service and its sandbox."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("IMGUR_", "IMAGELOAD_"))
    }
    options = ["--port=0", "--sandbox-port=0", f"--sandbox-dir={sandbox_dir}"]
    options += ["--allow-origin=127.0.0.1", "--retry-seconds=0.01"]
    with subprocess.Popen(
        [sys.executable, "main.py", *options],
        cwd=ROOT,
        env=inherited | environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        urls: list[str] = []
        log: list[str] = []
        for line in process.stderr:
            log.append(line)
            urls += re.findall(r"http://127\.0\.0\.1:\d+", line)
            if "listening on" in line:
                break
        else:
            pytest.fail("the service did not start: " + "".join(log))
        reader = threading.Thread(target=log.extend, args=(process.stderr,))
        reader.start()
        try:
            yield tuple(reversed(urls))
        finally:
            process.terminate()
            reader.join()
    assert process.returncode == 0, "".join(log)
    assert not [line for line in log if " ERROR " in line or "Traceback" in line]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """The URLs of a service and of the sandbox beside it."""
    with running_service(tmp_path_factory.mktemp("sandbox")) as urls:
        yield urls


class _OriginHandler(SimpleHTTPRequestHandler):
    """The files of tests/images; below /gated/, only once the gate is open."""

    protocol_version = "HTTP/1.1"
    gate = threading.Event()

    def do_GET(self) -> None:
        if self.path.startswith("/gated/"):
            self.gate.wait(30)
            self.path = self.path.removeprefix("/gated")
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """The URL of a web server with the files of tests/images."""
    handler = partial(_OriginHandler, directory=str(IMAGES))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds back what the origin has below /gated/, until it is set."""
    _OriginHandler.gate.clear()
    yield _OriginHandler.gate
    _OriginHandler.gate.set()


@dataclass
class Visit:
    """The page as somebody sees it, and what it did meanwhile."""

    page: Page
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def upload(self, *urls: str) -> tuple[str, Locator]:
        """Paste the URLs and press Upload; the new job's id and its place on the page."""
        self.paste("\n".join(urls))
        self.page.get_by_role("button", name="Upload").click()
        return self.accepted_job()

    def paste(self, text: str) -> None:
        """Put the text into the box from the clipboard. (`fill` takes 10 s for 1,000 lines.)"""
        self.page.get_by_label("Image URLs").focus()
        self.page.evaluate("text => navigator.clipboard.writeText(text)", text)
        self.page.keyboard.press("ControlOrMeta+V")

    def accepted_job(self) -> tuple[str, Locator]:
        """The id of the one job that was accepted in this visit, and its place on the page."""
        link = self.page.locator("#accepted a")
        expect(link).to_have_text(JOB_ID)
        job_id = link.inner_text()
        return job_id, self.page.locator(f"#job-{job_id}")

    def polls(self) -> int:
        """How often the list of jobs was asked for."""
        return sum(JOBS in url for url in self.requests)

    def expect_problem(self, words: str) -> None:
        """What the browser itself notes in the console when a request fails was meant to be."""
        assert [problem for problem in self.problems if words in problem], self.problems
        self.problems = [problem for problem in self.problems if words not in problem]


@contextlib.contextmanager
def visiting(
    browser: Browser, urls: tuple[str, ...], *, width: int = 1280, dark: bool = False
) -> Iterator[Visit]:
    """A visit to the service at the first of `urls`; no other host than theirs may be asked."""
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if dark else "light",
        permissions=["clipboard-read", "clipboard-write"],
    )
    page = context.new_page()
    visit = Visit(page)

    def dismiss(dialog: Dialog) -> None:
        visit.problems.append(dialog.message)
        dialog.dismiss()

    context.on("request", lambda request: visit.requests.append(request.url))
    page.on("console", lambda message: visit.problems.append(message.text))
    page.on("pageerror", lambda error: visit.problems.append(str(error)))
    page.on("dialog", dismiss)
    page.goto(urls[0])
    yield visit
    context.close()
    assert visit.problems == []
    hosts = {urlsplit(url).netloc for url in visit.requests}
    assert hosts <= {urlsplit(url).netloc for url in urls}


@pytest.fixture
def visit(browser: Browser, service: tuple[str, ...]) -> Iterator[Visit]:
    """A visit on a wide screen."""
    with visiting(browser, service) as visit:
        yield visit


def image_of(job: Locator, url: str) -> Locator:
    """The row of the image that came from `url`."""
    return job.locator(".image").filter(has=job.page.get_by_text(url, exact=True))


def expect_loaded(thumbnail: Locator) -> None:
    """The browser has the thumbnail's pixels: a square of 160."""
    expect(thumbnail).to_be_visible()
    thumbnail.scroll_into_view_if_needed()
    expect(thumbnail).to_have_js_property("complete", True)
    expect(thumbnail).to_have_js_property("naturalWidth", 160)


def test_a_pasted_list_ends_as_thumbnails_and_reasons(visit: Visit, origin: str) -> None:
    names = ["png-rgb.png", "jpeg-baseline.jpg", "gif-animated.gif", "tiff-multi-page.tif"]
    not_image = f"{origin}/not-images/page.html"
    missing = f"{origin}/no-such.png"
    job_id, job = visit.upload(*(f"{origin}/{name}" for name in names), not_image, missing)

    expect(visit.page.locator("#accepted")).to_contain_text(f"jobId: {job_id}")
    expect(visit.page.get_by_label("Image URLs")).to_have_value("")
    expect(job.locator("h3")).to_have_text(f"Job {job_id}")
    expect(job.locator("header .state")).to_have_text("complete")
    expect(job.get_by_label("4 completed, 2 failed")).to_have_js_property("value", 6)
    expect(visit.page.locator("#accepted")).to_contain_text("Complete.")
    expect(job.locator(".source")).to_have_text(
        [*(f"{origin}/{name}" for name in names), not_image, missing]
    )
    for name in names:
        image = image_of(job, f"{origin}/{name}")
        expect(image.locator(".state")).to_have_text("completed")
        expect_loaded(image.locator("img"))
        link = image.get_by_role("link")
        expect(link).to_have_attribute("rel", "noopener noreferrer")
        href = link.get_attribute("href")
        assert href == link.inner_text()
        assert requests.get(href, timeout=10).content == (IMAGES / name).read_bytes()
    for url, code in ((not_image, "not_image"), (missing, "http_status")):
        image = image_of(job, url)
        expect(image.locator(".state")).to_have_text("failed")
        expect(image.locator(".reason code")).to_have_text(code)
        expect(image.locator(".reason span")).not_to_be_empty()
        expect(image.get_by_role("link")).to_have_count(0)
        expect(image.locator("img")).to_be_hidden()


def test_a_link_opens_in_a_tab_that_cannot_reach_back(visit: Visit, origin: str) -> None:
    _, job = visit.upload(f"{origin}/png-rgb.png")
    link = job.locator(".image").get_by_role("link")
    with visit.page.context.expect_page() as opened:
        link.click()
    opened.value.wait_for_load_state()
    assert opened.value.url == link.get_attribute("href")
    assert opened.value.evaluate("window.opener") is None


def test_an_image_is_shown_as_it_lands_and_its_row_stays(
    visit: Visit, origin: str, gate: threading.Event
) -> None:
    first, second = f"{origin}/png-rgb.png", f"{origin}/gated/jpeg-baseline.jpg"
    _, job = visit.upload(first, second)
    expect_loaded(image_of(job, first).locator("img"))
    expect(job.locator("header .state")).to_have_text("in-progress")
    expect(job.get_by_label("1 completed, 1 pending")).to_have_js_property("value", 1)
    expect(image_of(job, second).locator(".state")).to_have_text("queued")
    for row in job.locator(".image").all():
        row.evaluate("row => row.kept = true")

    gate.set()
    expect(job.locator("header .state")).to_have_text("complete")
    expect_loaded(image_of(job, second).locator("img"))
    for row in job.locator(".image").all():
        expect(row).to_have_js_property("kept", True)


def test_what_the_service_refuses_is_told_in_its_words(visit: Visit) -> None:
    visit.page.get_by_label("Image URLs").fill(" \n,, ")
    with visit.page.expect_response("**/v1/images/upload") as answered:
        visit.page.get_by_role("button", name="Upload").click()
    problem = answered.value.json()
    alert = visit.page.get_by_role("alert")
    expect(alert).to_contain_text(problem["title"])
    expect(alert).to_contain_text(problem["detail"])
    expect(visit.page.get_by_label("Image URLs")).to_have_value(" \n,, ")
    expect(visit.page.locator("#accepted")).to_be_empty()
    visit.expect_problem("status of 400 (Bad Request)")


def test_a_service_out_of_reach_is_told_and_nothing_typed_is_lost(
    visit: Visit, origin: str
) -> None:
    url = f"{origin}/png-rgb.png"
    visit.paste(url)
    visit.page.context.set_offline(True)
    visit.page.get_by_role("button", name="Upload").click()
    refused = visit.page.get_by_role("alert")
    expect(refused).to_contain_text("The service cannot be reached")
    expect(visit.page.get_by_label("Image URLs")).to_have_value(url)

    visit.page.context.set_offline(False)
    visit.page.get_by_role("button", name="Upload").click()
    expect(refused).to_be_empty()
    expect(visit.accepted_job()[1].locator("header .state")).to_have_text("complete")
    visit.expect_problem("net::ERR_INTERNET_DISCONNECTED")


def test_it_asks_a_service_that_does_not_answer_less_and_less(visit: Visit) -> None:
    watch = visit.page.locator("#watch")
    expect(watch).not_to_be_empty()
    visit.page.clock.install(time=0)
    visit.page.clock.pause_at(1)
    visit.page.context.set_offline(True)
    visit.page.get_by_role("button", name="Refresh").click()
    for seconds in (2, 4, 8, 16, 30):
        asked = visit.polls()
        expect(watch).to_have_text(f"The service cannot be reached: asking again in {seconds} s.")
        visit.page.clock.run_for(1_000 * seconds - 1)
        assert visit.polls() == asked
        with visit.page.expect_request(f"**{JOBS}*"):
            visit.page.clock.run_for(1)
    visit.page.context.set_offline(False)  # the browser's "online" asks at once
    expect(watch).not_to_contain_text("cannot be reached")
    visit.expect_problem("net::ERR_INTERNET_DISCONNECTED")


def test_hostile_urls_stay_text(visit: Visit, origin: str) -> None:
    hostile = [
        "http://127.0.0.1:1/<img src=x onerror=alert(1)>\"'",
        "javascript:alert(2)",
        "data:text/html,<script>alert(3)</script>",
        "</bdi></li><script>alert(4)</script>",
        f"{origin}/<svg onload=alert(5)>.png",
    ]
    _, job = visit.upload(*hostile)
    expect(job.locator("header .state")).to_have_text("complete")
    expect(job.locator(".source")).to_have_text(hostile)
    expect(job.locator(".image .state")).to_have_text(["failed"] * len(hostile))
    expect(job.locator(".image :is(svg, script, a[href], img[src])")).to_have_count(0)


def test_a_link_that_is_not_of_the_web_is_text_only(visit: Visit, origin: str) -> None:
    def answer(route: Route) -> None:
        records = route.fetch().json()
        records["images"][0]["link"] = "javascript:alert(1)//.png"
        route.fulfill(json=records)

    visit.page.route("**/images?*", answer)
    _, job = visit.upload(f"{origin}/png-rgb.png")
    expect(job.locator(".link")).to_have_text("javascript:alert(1)//.png")
    expect(job.locator(".image :is(a[href], img[src])")).to_have_count(0)
    visit.page.unroute_all(behavior="wait")


def test_a_job_of_hundreds_is_shown_whole_and_a_larger_one_on_request(visit: Visit) -> None:
    entries = [f"no-url-{number}" for number in range(1_203)]
    job_id, job = visit.upload(*entries)
    images = job.locator(".image")
    expect(job.locator("header .state")).to_have_text("complete")
    visit.page.goto(f"{visit.page.url}#job-{job_id}")
    visit.page.reload()
    expect(images).to_have_count(1_000)
    more = job.locator("button")
    expect(more).to_have_text("Show 203 more of 203")
    more.click()
    expect(images).to_have_count(1_203)
    expect(more).to_be_hidden()
    assert job.locator(".source").all_text_contents() == entries
    expect(job.locator(".reason code", has_text="invalid_url")).to_have_count(1_203)


def test_it_asks_again_only_while_something_is_unfinished(
    visit: Visit, origin: str, gate: threading.Event
) -> None:
    visit.page.clock.install()
    visit.page.reload()
    watch = visit.page.locator("#watch")
    visit.upload(f"{origin}/gated/png-rgb.png")
    expect(watch).to_contain_text("1 job is unfinished")
    with visit.page.expect_request(f"**{JOBS}*"):
        visit.page.clock.fast_forward(1_000)

    gate.set()
    expect(watch).to_have_text("Every job is complete.")
    asked = visit.polls()
    visit.page.clock.run_for(120_000)
    visit.page.evaluate("fetch('/healthz')")
    assert visit.polls() == asked


def test_an_answer_that_is_slow_is_waited_for_not_asked_for_again(visit: Visit) -> None:
    expect(visit.page.locator("#watch")).not_to_be_empty()
    visit.page.clock.install()
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        held.append(route)

    visit.page.route(f"**{JOBS}*", hold_the_first)
    asked = visit.polls()
    with visit.page.expect_request(f"**{JOBS}*"):
        visit.page.get_by_role("button", name="Refresh").click()
    visit.page.get_by_role("button", name="Refresh").click()
    visit.page.clock.run_for(20_000)
    visit.page.evaluate("fetch('/healthz')")
    assert visit.polls() == asked + 1
    with visit.page.expect_response(f"**{JOBS}*"), visit.page.expect_request(f"**{JOBS}*"):
        held[0].continue_()
    visit.page.unroute_all(behavior="wait")


def test_a_phone_and_a_keyboard_are_enough(
    browser: Browser, service: tuple[str, ...], origin: str
) -> None:
    with visiting(browser, service, width=360, dark=True) as visit:
        page = visit.page
        box = page.get_by_label("Image URLs")
        while not box.evaluate("box => box === document.activeElement"):
            page.keyboard.press("Tab")
        page.keyboard.insert_text(f"{origin}/png-rgb.png, {origin}/{'x' * 300}")
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Upload")).to_be_focused()
        page.keyboard.press("Enter")
        job_id, job = visit.accepted_job()
        expect(job.locator(".image .state")).to_have_text(["completed", "failed"])
        scroll_width = page.evaluate("document.documentElement.scrollWidth")
        assert scroll_width == 360
        expect(page.locator("#accepted")).to_contain_text("Complete.")
        page.keyboard.press("Shift+Tab")
        page.keyboard.insert_text(f"{origin}/png-rgb.png")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#accepted a")).not_to_have_text(job_id)


def test_the_page_says_whether_the_sandbox_answers(
    browser: Browser, visit: Visit, tmp_path: Path
) -> None:
    sandbox = visit.page.get_by_role("complementary", name="Sandbox")
    expect(sandbox).to_contain_text("Nothing goes to Imgur")
    expect(sandbox).to_contain_text("IMGUR_CLIENT_ID")
    with (
        running_service(tmp_path, IMGUR_CLIENT_ID="never-used") as urls,
        visiting(browser, urls) as other,
    ):
        expect(other.page.locator("#watch")).to_have_text("No job yet. Paste some URLs above.")
        expect(other.page.get_by_text("IMGUR_CLIENT_ID")).to_be_hidden()


def test_a_service_that_wants_a_token_is_shown_one(
    browser: Browser, origin: str, tmp_path: Path
) -> None:
    with (
        running_service(tmp_path, IMAGELOAD_API_TOKEN="right-token") as urls,
        visiting(browser, urls) as visit,
    ):
        page, url = visit.page, f"{origin}/png-rgb.png"
        token = page.get_by_label("This service answers to those who have a token")
        expect(token).to_be_focused()
        expect(page.locator("#watch")).to_have_text("Unauthorized")
        visit.paste(url)
        page.get_by_role("button", name="Upload").click()
        expect(page.locator("#refused")).to_contain_text("Unauthorized")
        expect(page.get_by_label("Image URLs")).to_have_value(url)

        token.fill("wrong-token")
        page.keyboard.press("Enter")
        expect(page.locator("#token-refused")).to_have_text(
            "The token is none that this service knows."
        )
        token.fill("right-token")
        page.get_by_role("button", name="Use it").click()
        expect(token).to_be_hidden()
        expect(page.locator("#watch")).to_have_text("No job yet. Paste some URLs above.")
        expect(page.locator("#refused")).to_be_empty()
        page.get_by_role("button", name="Upload").click()
        _, job = visit.accepted_job()
        expect(job.locator("header .state")).to_have_text("complete")
        expect_loaded(job.locator(".image img"))

        page.reload()
        expect(job.locator("header .state")).to_have_text("complete")
        expect(token).to_be_hidden()
        assert page.evaluate("localStorage.length") == 0
        assert not [request for request in visit.requests if "-token" in request]
        visit.expect_problem("status of 401 (Unauthorized)")
