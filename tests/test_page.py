"""Tests of the web page at / in a real Chromium, on a real service with its sandbox."""

import contextlib
import csv
import io
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import (
    APIResponse,
    Browser,
    BrowserContext,
    FilePayload,
    Locator,
    Page,
    Route,
    expect,
)

from imageload.cli.output import write
from sandbox.testing import running_sandbox
from tests.browser import (
    IMAGES,
    JOB_ID,
    JOBS,
    ROOT,
    STREAM,
    Visit,
    found_browser,
    open_context,
    running_browser,
    running_origin,
    running_service,
    visiting,
)
from tests.waiting import PATIENCE


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless browser with an empty profile that resolves only this machine."""
    if found_browser() is None:
        reason = "no browser: apt-get install chromium, or install Google Chrome"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """The URLs of a service and of the sandbox beside it."""
    with running_service(tmp_path_factory.mktemp("sandbox")) as urls:
        yield urls


@pytest.fixture(scope="module")
def gated_origin() -> Iterator[tuple[str, threading.Event]]:
    """The URL of a web server with the files of tests/images, and its gate."""
    with running_origin() as running:
        yield running


@pytest.fixture(scope="module")
def origin(gated_origin: tuple[str, threading.Event]) -> str:
    """The URL of the web server."""
    return gated_origin[0]


@pytest.fixture
def gate(gated_origin: tuple[str, threading.Event]) -> Iterator[threading.Event]:
    """Delays the origin's responses below /gated/ until it is set."""
    _, gate = gated_origin
    gate.clear()
    yield gate
    gate.set()


@pytest.fixture(scope="module")
def context(browser: Browser, origin: str) -> Iterator[BrowserContext]:
    """A context for all visits.

    A page of 127.0.0.1 that stays open keeps the renderer process of this site: to start one, and
    to compile the page's modules in it, takes most of the CPU time of a short visit.
    """
    context = open_context(browser)
    context.new_page().goto(f"{origin}/png-rgb.png")
    yield context
    context.close()


@pytest.fixture
def visit(context: BrowserContext, service: tuple[str, ...]) -> Iterator[Visit]:
    """A visit on a wide screen."""
    with visiting(context, service) as visit:
        yield visit


@pytest.fixture
def lone_visit(browser: Browser, service: tuple[str, ...]) -> Iterator[Visit]:
    """A visit in a context of its own, whose clock and network a test may change."""
    context = open_context(browser)
    with visiting(context, service) as visit:
        yield visit
    context.close()


def image_of(job: Locator, url: str) -> Locator:
    """The row of the image of `url`."""
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

    expect(visit.page.locator("#accepted a")).to_have_attribute("href", f"#{job_id}")
    expect(visit.page.get_by_label("Image URLs")).to_have_value("")
    expect(job.locator("h3")).to_have_text("png-rgb.png")
    expect(job.locator("header .state")).to_have_text("finished, 2 failed")
    bar = job.get_by_label("4 uploaded, 2 failed")
    expect(bar).to_have_js_property("value", 6)
    assert float(bar.evaluate("bar => bar.style.getPropertyValue('--landed')")) == pytest.approx(
        4 / 6
    )
    expect(visit.page.locator("#accepted")).to_contain_text("Complete:")
    expect(job.locator(".source")).to_have_text(
        [*(f"{origin}/{name}" for name in names), not_image, missing]
    )
    for name in names:
        image = image_of(job, f"{origin}/{name}")
        expect(image.locator(".state")).to_have_text("uploaded")
        expect_loaded(image.locator("img"))
        link = image.get_by_role("link")
        expect(link).to_have_attribute("rel", "noopener noreferrer")
        href = link.get_attribute("href")
        assert href == link.inner_text()
        assert requests.get(href, timeout=PATIENCE).headers["Content-Type"].startswith("image/")
    for url, code in ((not_image, "not_image"), (missing, "http_status")):
        image = image_of(job, url)
        expect(image.locator(".state")).to_have_text("failed")
        expect(image.locator(".code")).to_have_text(code)
        expect(image.locator(".reason")).not_to_be_empty()
        expect(image.get_by_role("link")).to_have_count(0)
        expect(image.locator("img")).to_be_hidden()
    expect(job.locator(".reasons li")).to_contain_text(
        ["1 image: The origin sent no image", "1 image: The origin answered 404"]
    )

    job.get_by_label("Show").select_option("not uploaded")
    expect(job.locator(".source")).to_have_text([not_image, missing])
    job.get_by_label("Show").select_option("all images")
    job.get_by_role("button", name="Grid").click()
    tops = job.locator(".image").evaluate_all("all => all.map(e => e.getBoundingClientRect().top)")
    assert tops[0] == tops[1] < tops[-1]
    image = image_of(job, f"{origin}/{names[1]}")
    address = image.locator(".link a").get_attribute("href")
    image.get_by_role("button", name=f"Open {names[1]} large").click()
    dialog = visit.page.get_by_role("dialog", name="The image")
    expect(dialog.locator("img")).to_have_js_property("naturalWidth", 128)
    with visit.page.context.expect_page() as opened:
        dialog.get_by_role("link").click()
    opened.value.wait_for_load_state()
    assert opened.value.url == address
    assert opened.value.evaluate("window.opener") is None
    opened.value.close()
    dialog.get_by_role("button", name="Close").click()
    copy = image.get_by_role("button", name="Copy link")
    copy.scroll_into_view_if_needed()
    place = copy.bounding_box()
    copy.click()
    expect(copy).to_have_text("Copied")
    assert copy.bounding_box() == place
    assert visit.page.evaluate("navigator.clipboard.readText()") == address


def test_a_job_is_there_as_soon_as_it_is_accepted(lone_visit: Visit, origin: str) -> None:
    visit = lone_visit
    expect(visit.page.locator("#watch")).not_to_be_empty()
    visit.page.clock.install()
    visit.page.clock.pause_at(time.time() + 3_600)
    _, job = visit.upload(f"{origin}/no-such.png")
    expect(job).to_be_visible()


def test_an_image_is_shown_as_it_lands_and_its_row_stays(
    visit: Visit, origin: str, gate: threading.Event
) -> None:
    first, second = f"{origin}/png-rgb.png", f"{origin}/gated/jpeg-baseline.jpg"
    _, job = visit.upload(first, second)
    expect_loaded(image_of(job, first).locator("img"))
    expect(job.locator("header .state")).to_have_text("uploading 1 of 2")
    expect(visit.page).to_have_title("1 of 2 · imageload")
    expect(job.get_by_label("1 uploaded, 1 to go")).to_have_js_property("value", 1)
    expect(image_of(job, second).locator(".state")).to_have_text("queued")
    for row in job.locator(".image").all():
        row.evaluate("row => row.kept = true")

    gate.set()
    expect(job.locator("header .state")).to_have_text("finished")
    expect(visit.page).to_have_title("imageload")
    expect_loaded(image_of(job, second).locator("img"))
    for row in job.locator(".image").all():
        expect(row).to_have_js_property("kept", True)


def test_a_text_without_a_url_shows_a_message_and_is_not_posted(visit: Visit) -> None:
    for text in ("", " \n,, ", "All of this is prose."):
        visit.page.get_by_label("Image URLs").fill(text)
        visit.page.get_by_role("button", name="Upload", exact=True).click()
        alert = visit.page.get_by_role("alert")
        expect(alert).to_have_text("There is no image URL in the form.")
        expect(visit.page.get_by_label("Image URLs")).to_be_focused()
        expect(visit.page.get_by_label("Image URLs")).to_have_value(text)
    assert not [url for url in visit.requests if url.endswith("/v1/images/upload")]


def test_an_unreachable_service_shows_a_message_and_keeps_the_text(
    lone_visit: Visit, origin: str
) -> None:
    visit = lone_visit
    url = f"{origin}/png-rgb.png"
    visit.paste(url)
    visit.page.context.set_offline(True)
    visit.page.get_by_role("button", name="Upload", exact=True).click()
    refused = visit.page.get_by_role("alert")
    expect(refused).to_contain_text("The service cannot be reached")
    expect(visit.page.get_by_label("Image URLs")).to_have_value(url)

    visit.page.context.set_offline(False)
    visit.page.get_by_role("button", name="Upload", exact=True).click()
    expect(refused).to_be_empty()
    expect(visit.accepted_job()[1].locator("header .state")).to_have_text("finished")
    visit.expect_problem("net::ERR_INTERNET_DISCONNECTED")


def test_an_upload_is_not_lost_to_a_search_that_begins_by_itself(visit: Visit, origin: str) -> None:
    page, held = visit.page, list[Route]()
    page.route("**/v1/documents?*", lambda route: held.append(route), times=1)
    with page.expect_request("**/v1/documents?*"):
        page.evaluate(
            """url => {
                const [box, send] = ["urls", "send"].map((id) => document.getElementById(id));
                box.value = url;
                box.dispatchEvent(new Event("input"));
                send.click();
            }""",
            f"{origin}/png-rgb.png",
        )
    with page.expect_request("**/v1/documents?*"):  # all is loaded anew, and searched again
        page.evaluate("window.dispatchEvent(new Event('online'))")
    assert len(held) == 1
    expect(visit.accepted_job()[1].locator("header .state")).to_have_text("finished")


def test_requests_to_an_unreachable_service_back_off(lone_visit: Visit) -> None:
    visit = lone_visit
    watch = visit.page.locator("#watch")
    expect(watch).not_to_be_empty()
    visit.page.clock.install(time=0)
    visit.page.clock.pause_at(1)
    visit.page.context.set_offline(True)
    visit.page.get_by_role("button", name="Refresh").click()
    for seconds in (2, 4, 8, 16, 30):
        expect(watch).to_have_text(f"The service cannot be reached. Trying again in {seconds} s.")
        asked = visit.asked()
        visit.page.clock.run_for(1_000 * seconds - 1)
        assert visit.asked() == asked
        with visit.page.expect_request(f"**{STREAM}"):
            visit.page.clock.run_for(1)
    visit.page.clock.resume()
    visit.page.context.set_offline(False)  # the browser's "online" asks at once
    expect(watch).not_to_contain_text("cannot be reached")
    visit.expect_problem("net::ERR_INTERNET_DISCONNECTED")


def test_hostile_urls_and_links_stay_text(visit: Visit, origin: str) -> None:
    hostile = [
        "http://127.0.0.1:1/<img src=x onerror=alert(1)>\"'",
        "javascript:alert(2)",
        "data:text/html,<script>alert(3)</script>",
        "</bdi></li><script>alert(4)</script>",
        f"{origin}/<svg onload=alert(5)>.png",
    ]
    job = visit.job_of(visit.post(hostile))
    job.locator("summary").click()
    expect(job.locator("header .state")).to_have_text("all 5 failed")
    expect(job.locator(".source")).to_have_text(hostile)
    expect(job.locator(".image .state")).to_have_text(["failed"] * len(hostile))
    expect(job.locator(".image :is(svg, script, a[href], img[src])")).to_have_count(0)

    def answer(route: Route) -> None:
        records = route.fetch().json()
        records["images"][0]["link"] = "javascript:alert(1)//.png"
        route.fulfill(json=records)

    visit.page.route("**/images?*", answer)
    _, job = visit.upload(f"{origin}/png-rgb.png")
    expect(job.locator(".link")).to_have_text("javascript:alert(1)//.png")
    expect(job.locator(".image :is(a[href], img[src])")).to_have_count(0)
    visit.page.unroute_all(behavior="wait")


# Pasted text


A, B, C = "https://a.example/a.jpg", "http://b.example/b_(1).PNG?w=1&h=2", "https://c.example/c"


def test_an_odd_anchor_is_an_unknown_job(visit: Visit) -> None:
    expect(visit.page.locator("#watch")).not_to_be_empty()
    for anchor in ("%", "%E0%A4%A", "%00", "..", "x" * 50_000, "a/b?c"):
        visit.page.locator("#refused").evaluate("element => element.replaceChildren()")
        visit.page.evaluate("anchor => { location.hash = anchor; }", anchor)
        expect(visit.page.get_by_role("alert")).to_contain_text("There is no job")
    visit.page.reload()
    expect(visit.page.get_by_role("alert")).to_contain_text("There is no job a/b?c")


def test_the_line_that_counts_the_urls_moves_nothing(visit: Visit) -> None:
    button = visit.page.get_by_role("button", name="Upload", exact=True)
    before = button.bounding_box()
    visit.paste(f"{A}\n{B}")
    expect(visit.page.locator("#found")).to_have_text("2 images in this list.")
    assert button.bounding_box() == before


def test_a_readme_is_previewed_and_comes_back_with_links_of_the_ticked_images(
    visit: Visit, origin: str
) -> None:
    badge, photo, left = (f"{origin}/{name}" for name in ("a.svg", "png-rgb.png", "gif-89a.gif"))
    readme = f"""# Birds

[![build]({badge})](https://ci.example/birds) and `![]({photo})`

<p align="center"><img src='{photo}?w=1&amp;h=2' alt="A bird"></p>

![gif]({left}) is animated. ![logo](docs/logo.png)
"""
    page = visit.page
    visit.paste(readme)
    expect(page.locator("#found")).to_have_text("3 images in this Markdown.")
    where = [re.compile(rf"line {number}$") for number in (3, 5, 7)]
    expect(page.locator(".found .where")).to_have_text(where)
    page.locator("#preview summary").click()
    expect(page.locator("#preview li")).to_contain_text([photo, "docs/logo.png"])
    page.get_by_label("a.svg").uncheck()
    expect(page.locator("#preview .choice")).to_have_text("2 of 3 images")
    page.keyboard.press("Control+Enter")
    _, job = visit.accepted_job()
    expect(page.get_by_role("button", name="Upload", exact=True)).to_be_focused()
    expect(job.locator("h3")).to_have_text("pasted.md")
    expect(job.get_by_label("2 uploaded")).to_be_visible()
    photo_link, left_link = job.locator(".link").all_inner_texts()
    job.get_by_role("button", name="Copy the document").click()
    expect(job.get_by_role("status")).to_have_text("pasted.md copied.")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == readme.replace(f"{photo}?w=1&amp;h=2", photo_link).replace(left, left_link)
    with page.expect_download() as download:
        job.get_by_role("button", name="Save it").click()
    assert download.value.suggested_filename == "pasted.md"
    assert download.value.path().read_text() == copied


def test_files_are_previewed_together_and_become_a_job_each(visit: Visit, origin: str) -> None:
    page = visit.page
    table = f"name,image\nBird,{origin}/png-rgb.png\n".encode()
    file: FilePayload = {"name": "list.csv", "mimeType": "text/csv", "buffer": table}
    page.get_by_label("Choose files").set_input_files(file)
    expect(page.locator("#found")).to_have_text("1 image in this table.")
    dropped = page.evaluate(
        """texts => {
            const data = new DataTransfer();
            const type = "text/plain";
            for (const text of texts) data.items.add(new File([text], "urls.txt", { type }));
            data.items.add(new File(["x"], "cat.png", { type: "image/png" }));
            const options = { dataTransfer: data, bubbles: true, cancelable: true };
            const footer = document.querySelector("footer");
            const events = ["dragover", "drop"].map((name) => new DragEvent(name, options));
            return events.map((event) => footer.dispatchEvent(event));
        }""",
        [f"{origin}/jpeg-baseline.jpg\n{origin}/png-rgb.png", "Nothing."],
    )
    assert dropped == [False, False]  # else the browser would leave the page for the file
    expect(page.get_by_role("alert")).to_contain_text("cat.png is an image on this device")
    expect(page.locator("#found")).to_have_text("2 images in 3 documents. None in urls.txt.")
    expect(page.locator(".found .where").first).to_contain_text(
        "list.csv, line 2, and 1 more place"
    )
    expect(page.locator("#files li")).to_have_count(3)
    page.get_by_role("button", name="Remove urls.txt").last.click()
    expect(page.locator("#found")).to_have_text("2 images in 2 documents.")
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("#accepted p")).to_have_text(
        [
            re.compile("Complete: list.csv: 1 uploaded"),
            re.compile("Complete: urls.txt: 2 uploaded"),
        ]
    )
    expect(page.locator("#files li")).to_have_count(0)


def test_a_file_that_is_added_while_an_upload_is_sent_stays_for_the_next(
    visit: Visit, origin: str
) -> None:
    page, held = visit.page, list[Route]()
    page.route("**/v1/images/upload", lambda route: held.append(route), times=1)
    visit.paste(f"{origin}/png-rgb.png")
    with page.expect_request("**/v1/images/upload"):
        page.get_by_role("button", name="Upload", exact=True).click()
    text = f"![]({origin}/jpeg-baseline.jpg)".encode()
    page.locator("#file").set_input_files(
        {"name": "late.md", "mimeType": "text/plain", "buffer": text}
    )
    held[0].continue_()
    visit.accepted_job()
    expect(page.get_by_label("Image URLs")).to_have_value("")
    expect(page.locator("#files li")).to_contain_text("late.md")
    expect(page.locator("#found")).to_have_text("1 image in this Markdown.")


def test_only_what_was_typed_last_is_searched_and_nothing_for_an_empty_box(visit: Visit) -> None:
    page, box = visit.page, visit.page.get_by_label("Image URLs")
    held: list[Route] = []
    page.route("**/v1/documents?*", lambda route: held.append(route), times=1)
    with page.expect_event("requestfailed") as aborted:
        with page.expect_request("**/v1/documents?*"):
            box.fill(A)
        box.fill(f"{A}\n{B}")
    assert aborted.value.failure == "net::ERR_ABORTED"
    expect(page.locator("#found")).to_have_text("2 images in this list.")
    assert len(held) == 1
    asked = visit.asked()
    box.fill(" \n")
    expect(page.locator("#found")).to_be_empty()
    expect(page.locator("#preview")).to_be_hidden()
    assert visit.asked() == asked


def test_an_entry_of_a_pasted_list_that_is_no_url_fails_in_the_job(
    visit: Visit, origin: str
) -> None:
    visit.paste(f"{origin}/png-rgb.png\nno-url\n{origin}/gif-89a.gif")
    expect(visit.page.locator("#found")).to_have_text(
        "2 images in this list. 1 entry is no URL, and will fail."
    )
    visit.page.get_by_label("gif-89a.gif").uncheck()
    visit.page.get_by_role("button", name="Upload", exact=True).click()
    _, job = visit.accepted_job()
    expect(job.locator(".source")).to_have_text([f"{origin}/png-rgb.png", "no-url"])
    expect(job.locator(".code")).to_have_text(["", "invalid_url"])
    expect(job.get_by_role("button", name="Copy the document")).to_be_hidden()


def test_pictures_copied_or_dragged_out_of_a_page_give_their_urls(visit: Visit) -> None:
    page, box = visit.page, visit.page.get_by_label("Image URLs")
    html = f'<p>Two: <img src="{A}"> <a href="{C}"><img src="{B.replace("&", "&amp;")}"></a></p>'
    copy = """([html, text]) => navigator.clipboard.write([new ClipboardItem({
        "text/html": new Blob([html], { type: "text/html" }),
        "text/plain": new Blob([text], { type: "text/plain" }),
    })])"""
    box.focus()
    page.evaluate(copy, [html, "Two:"])
    page.keyboard.press("ControlOrMeta+V")
    expect(box).to_have_value(f"{A}\n{B}")

    box.fill("")
    page.evaluate(copy, [html, f"My list: {C}"])
    page.keyboard.press("ControlOrMeta+V")
    expect(box).to_have_value(f"My list: {C}")

    box.fill("")
    page.evaluate(
        """([html, url]) => {
            const data = new DataTransfer();
            data.setData("text/uri-list", url);
            data.setData("text/html", html);
            data.items.add(new File(["x"], "a.jpg", { type: "image/jpeg" }));
            const options = { dataTransfer: data, bubbles: true, cancelable: true };
            document.getElementById("urls").dispatchEvent(new DragEvent("drop", options));
        }""",
        [f'<img src="{A}">', C],
    )
    expect(box).to_have_value(A)

    page.evaluate(
        """() => {
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File(["x"], "screenshot.png", { type: "image/png" }));
            const options = { clipboardData, bubbles: true, cancelable: true };
            document.getElementById("urls").dispatchEvent(new ClipboardEvent("paste", options));
        }"""
    )
    expect(page.get_by_role("alert")).to_contain_text("screenshot.png is an image on this device")


# Actions on a job


def test_failed_images_are_retried_links_copied_and_all_is_undone(
    visit: Visit, tmp_path: Path
) -> None:
    page = visit.page
    (tmp_path / "a b.png").write_bytes((IMAGES / "png-rgb.png").read_bytes() + b"once")
    with running_origin(tmp_path) as (base, _):
        page.locator(".texts summary").click()
        page.get_by_label("Album").fill("Birds")
        page.get_by_label("Title of every image").fill("A [bird]")
        _, job = visit.upload(*(f"{base}/{name}.png" for name in ("a%20b", "late", "later")))
        expect(job.get_by_label("1 uploaded, 2 failed")).to_be_visible()
        expect(job.locator(".album a")).to_have_attribute("href", re.compile("/a/"))

        (tmp_path / "late.png").write_bytes((IMAGES / "png-rgb.png").read_bytes() + b"late")
        job.get_by_role("button", name="Retry", exact=True).click()
        expect(job.get_by_role("status")).to_have_text(
            "2 images would fail again: see the reasons for what to do first."
        )
        job.get_by_label("Show").select_option("not uploaded")
        retry = job.get_by_role("button", name="Retry: later.png")
        (tmp_path / "later.png").write_bytes((IMAGES / "png-rgb.png").read_bytes() + b"later")
        retry.focus()
        page.keyboard.press("Enter")
        expect(job.get_by_role("status")).to_have_text("later.png is tried again.")
        expect(job.get_by_label("2 uploaded, 1 failed")).to_be_visible()
        expect(job.locator(".window")).to_be_focused()  # the button that was is gone
        job.get_by_label("Show").select_option("all images")
        job.get_by_role("button", name="Retry anyway").click()
        expect(job.get_by_role("status")).to_have_text("1 image is tried again.")
        expect(job.get_by_label("3 uploaded")).to_be_visible()
        expect(job.get_by_role("button", name="Retry")).to_be_hidden()

    expect(job.locator(".link")).to_have_count(3)
    links = job.locator(".link").all_inner_texts()
    for form, line in (
        ("text", links[0]),
        ("Markdown", f"![A \\[bird\\]]({links[0]})"),
        ("BBCode", f"[img]{links[0]}[/img]"),
        ("HTML", f'<img src="{links[0]}" alt="A [bird]">'),
        ("CSV, old and new", f"url,link\n{base}/a%20b.png,{links[0]}"),
    ):
        job.get_by_label("Links as").select_option(form)
        job.locator(".copy").click()
        expect(job.get_by_role("status")).to_have_text("3 links copied.")
        expect(job.locator(".copy")).to_have_text("Copied")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith(line + "\n")
        assert links[1] in copied

    job.get_by_role("button", name="Delete…").click()
    dialog = page.get_by_role("dialog", name=re.compile("Delete this job.s images"))
    expect(dialog).to_contain_text("3 images will be deleted from Imgur")
    expect(dialog.get_by_role("button", name="Keep them")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(job.get_by_role("button", name="Delete…")).to_be_focused()
    assert requests.get(links[0], timeout=PATIENCE).status_code == 200
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Delete 3 images").click()
    expect(job.get_by_label("3 deleted")).to_be_visible()
    expect(job.locator("header .state")).to_have_text("deleted from Imgur")
    expect(job.get_by_role("status")).to_have_text("3 images deleted from Imgur.")
    expect(job).to_be_focused()  # the button that was is gone
    expect(job.locator(".image .state")).to_have_text(["deleted"] * 3)
    assert all("removed" in requests.get(link, timeout=PATIENCE).url for link in links)


def test_a_job_is_cancelled(visit: Visit, origin: str, gate: threading.Event) -> None:
    _, job = visit.upload(f"{origin}/png-rgb.png", f"{origin}/gated/jpeg-baseline.jpg")
    expect(job.get_by_label("1 uploaded, 1 to go")).to_be_visible()
    job.get_by_role("button", name="Cancel").focus()
    visit.page.keyboard.press("Enter")
    expect(job.get_by_role("status")).to_have_text("1 image cancelled.")
    expect(job.get_by_label("1 uploaded, 1 cancelled")).to_be_visible()
    expect(job.locator("header .state")).to_have_text("cancelled")
    expect(job.locator(".image .state")).to_have_text(["uploaded", "cancelled"])
    expect(job.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(job).to_be_focused()  # or the next Tab would begin at the top of the page
    gate.set()
    job.get_by_role("button", name="Upload the rest").click()
    expect(job.locator("header .state")).to_have_text("finished")


def test_an_end_that_was_asked_for_is_no_failure(visit: Visit) -> None:
    asked = """async (jobs) => {
        const { reasonsOf, stateOf } = await import("/page/words.js");
        return jobs.map(([completed, codes]) => {
            const [failed, total] = [codes.length, completed + codes.length];
            const reasons = reasonsOf(codes.map((code) => ({ error: { code, message: "" } })));
            return stateOf({ finished: true, counts: { total, completed, failed } }, reasons).text;
        });
    }"""
    jobs = {
        "finished": [2, []],
        "cancelled": [2, ["cancelled"]],
        "cancelled, 1 failed": [2, ["cancelled", "timeout"]],
        "finished, 1 failed": [1, ["timeout"]],
        "failed": [0, ["timeout"]],
        "deleted from Imgur": [0, ["purged", "purged", "timeout"]],
        "1 deleted from Imgur": [1, ["purged"]],
    }
    assert visit.page.evaluate(asked, list(jobs.values())) == list(jobs)


def test_links_are_copied_as_the_command_line_prints_them(visit: Visit) -> None:
    records: list[dict[str, Any]] = [
        {"url": "https://a.example/p/a%20b.png", "link": "https://i.imgur.com/a.png"},
        {"url": "https://a.example/<x>", "link": "https://i.imgur.com/b.png", "title": "<i> & [b]"},
        {"url": 'https://a.example/%ff,"', "link": "https://i.imgur.com/c(1).png"},
        {"url": "https://a.example/", "link": "https://i.imgur.com/d.png", "title": " two\nlines "},
        {"url": "https://a.example/failed", "link": None},
    ]
    whole = [{"title": None, "error": None, **record} for record in records]
    asked = "([f, r]) => import('/page/links.js').then(links => links.linksAs(f, r))"
    for form in ("text", "markdown", "bbcode", "html"):
        printed = io.StringIO()
        write(whole, form, printed)
        assert visit.page.evaluate(asked, [form, whole]) == printed.getvalue()
    rows = list(csv.reader(io.StringIO(visit.page.evaluate(asked, ["csv", whole]))))
    assert rows == [["url", "link"], *([r["url"], r["link"]] for r in records if r["link"])]


def test_links_are_shown_in_a_dialog_if_the_clipboard_is_refused(visit: Visit, origin: str) -> None:
    _, job = visit.upload(f"{origin}/png-rgb.png")
    expect(job.locator(".link")).to_have_text(re.compile("^http"))
    link = job.locator(".link").inner_text()
    visit.page.evaluate("void (navigator.clipboard.writeText = () => Promise.reject(Error()))")
    job.get_by_role("button", name="Copy", exact=True).click()
    dialog = visit.page.get_by_role("dialog", name="Copy the text")
    box = dialog.get_by_role("textbox")
    expect(box).to_have_value(f"{link}\n")
    assert box.evaluate("box => box.selectionEnd") == len(link) + 1
    visit.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


# Events


def test_the_page_reconnects_after_a_restart_of_the_service(
    context: BrowserContext, tmp_path: Path, origin: str
) -> None:
    options = {"IMAGELOAD_STORE": str(tmp_path / "journal")}
    with contextlib.ExitStack() as stack:
        with running_service(tmp_path / "s", **options) as urls:
            visit = stack.enter_context(visiting(context, urls))
            job_id = visit.post([f"{origin}/png-rgb.png"])
            watch = visit.page.locator("#watch")
            expect(watch).to_have_text("The job has finished.")
        expect(watch).to_contain_text("Trying again")
        port = str(urlsplit(urls[0]).port)
        with running_service(tmp_path / "s", **options, port=port):
            expect(watch).to_have_text("The job has finished.")
            expect(visit.job_of(job_id).locator("header .state")).to_have_text("finished")
            visit.page.close()
        visit.problems = [each for each in visit.problems if "net::ERR_" not in each]


def test_a_job_that_waits_for_imgur_shows_the_reason_and_the_end_of_the_wait(
    context: BrowserContext, tmp_path: Path, origin: str
) -> None:
    with (
        running_sandbox(tmp_path / "s", user_credits=31) as sandbox,
        running_service(
            tmp_path / "x",
            IMGUR_CLIENT_ID="x",
            IMGUR_BASE_URL=sandbox.url,
            IMGUR_LINK_BASE=sandbox.url,
        ) as urls,
        visiting(context, (*urls, sandbox.url), width=360, dark=True) as visit,
    ):
        entries = [f"{origin}/png-rgb.png?{number}" for number in range(5)]
        job = visit.job_of(visit.post(entries, dedupe=False))
        expect(job.locator(".waiting")).to_have_text(
            re.compile("Imgur.s hourly credits are used up. The job continues by itself.")
        )
        state = re.compile(r"waiting for Imgur until (\d+:\d\d\s[AP]M)")
        expect(job.locator("header .state")).to_have_text(state)
        expect(visit.page.locator("#limits")).to_contain_text("2 images wait for Imgur.")
        (clock,) = state.findall(job.locator("header .state").inner_text())
        expect(visit.page.locator("#limits")).to_contain_text(f"All will be uploaded by {clock}.")
        expect(visit.page.locator(".budget").first).to_contain_text("no more images until")
        expect(visit.page).to_have_title("waiting for Imgur, 3 of 5 · imageload")
        expect(visit.page.get_by_text("IMGUR_CLIENT_ID")).to_be_hidden()
        visit.post([f"{entry}&more" for entry in entries], dedupe=False)
        expect(visit.page.locator("#limits")).to_contain_text("7 images wait for Imgur.")
        job.locator("summary").click()
        expect_loaded(job.locator("img:not([hidden])").first)  # whichever has landed
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 360


# Accessibility


def expect_no_violations(page: Page) -> None:
    """Check that axe-core finds no violation in the current page, of its jobs in the first two."""
    if page.evaluate("!window.axe"):
        page.evaluate(
            (ROOT / "tests/vendor/axe-core-4.14.1/axe.min.js").read_text(encoding="utf-8")
        )
    asked = "axe.run({ exclude: ['.job:nth-child(n + 3)'] }, { resultTypes: ['violations'] })"
    results = page.evaluate(asked)
    violations = {
        each["id"]: [node["html"] for node in each["nodes"]] for each in results["violations"]
    }
    assert violations == {}


def test_axe_finds_nothing_wrong_before_during_and_after_a_job(
    visit: Visit, origin: str, gate: threading.Event
) -> None:
    page = visit.page

    def check(width: int, scheme: Literal["light", "dark"]) -> None:
        page.set_viewport_size({"width": 360, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        expect_no_violations(page)

    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.get_by_role("alert")).not_to_be_empty()
    check(360, "light")
    images = [f"{origin}/{name}" for name in ("png-rgb.png", "no-such.png", "gated/gif-89a.gif")]
    visit.paste(" and ".join([*(f"![a]({image})" for image in images), "![](page.png)"]))
    page.locator(".texts summary").click()
    expect(page.locator(".found")).to_have_count(3)
    page.locator("#preview summary").click()
    check(1280, "dark")
    page.get_by_role("button", name="Upload", exact=True).click()
    _, job = visit.accepted_job()
    expect(job.get_by_label("1 uploaded, 1 failed, 1 to go")).to_be_visible()
    expect_loaded(job.locator("img").first)
    check(360, "dark")
    gate.set()
    job.scroll_into_view_if_needed()
    expect(job.get_by_label("2 uploaded, 1 failed")).to_be_visible()
    expect(page.locator("#accepted")).to_contain_text("Complete:")
    check(1280, "light")
    job.get_by_role("button", name="Grid").click()
    job.get_by_role("button", name="Delete…").click()
    expect(page.get_by_role("dialog", name=re.compile("Delete this job.s images"))).to_be_visible()
    check(360, "dark")


def wait_for_order(rows: Locator) -> None:
    """Wait until the rows of a list that was scrolled are in the order in which they are read."""
    is_ordered = """list => [...list.children].every((row) => !row.nextSibling
        || Number(row.ariaPosInSet) < Number(row.nextSibling.ariaPosInSet))"""
    rows.page.wait_for_function(is_ordered, arg=rows.locator("xpath=..").first.element_handle())


def test_of_ten_thousand_images_only_those_in_view_are_there(visit: Visit) -> None:
    entries = [f"no-url-{number}" for number in range(10_000)]
    job = visit.job_of(visit.post(entries))
    job.locator("summary").click()
    images = job.locator(".image")
    expect(job.locator("header .state")).to_have_text("all 10,000 failed")
    expect(images.first).to_contain_text("no-url-0")
    assert images.count() < 60
    window = job.locator(".window")
    for part, number in ((0.5, 5_000), (1.0, 9_999), (0.0, 0)):
        window.evaluate("(w, part) => { w.scrollTop = part * w.scrollHeight }", part)
        row = images.filter(has=visit.page.get_by_text(f"no-url-{number}", exact=True))
        expect(row).to_be_visible()
        expect(row.locator(".code")).to_have_text("invalid_url")
        expect(row).to_have_attribute("aria-posinset", str(number + 1))
        expect(row).to_have_attribute("aria-setsize", "10000")
        assert images.count() < 60
        wait_for_order(images)
    job.get_by_role("region", name="Images of no-url-0").focus()
    visit.page.keyboard.press("End")
    expect(images.get_by_text("no-url-9999", exact=True).last).to_be_visible()


def test_a_row_with_the_focus_keeps_it_while_others_are_scrolled_past_it(visit: Visit) -> None:
    visit.paste("\n".join(f"![](http://127.0.0.1/{number}.png)" for number in range(200)))
    window, rows = visit.page.locator("#preview .window"), visit.page.locator(".found")
    expect(rows.first).to_be_visible()
    window.evaluate("window => { window.scrollTop = window.scrollHeight }")
    last = visit.page.get_by_label("199.png")
    last.focus()
    window.evaluate("window => { window.scrollTop = 0 }")
    expect(visit.page.get_by_text("0.png", exact=True)).to_be_visible()
    wait_for_order(rows)
    expect(rows.first).to_have_attribute("aria-posinset", "1")
    expect(last).to_be_focused()


def test_an_idle_page_sends_no_requests(lone_visit: Visit, origin: str) -> None:
    visit = lone_visit
    visit.upload(f"{origin}/png-rgb.png")
    expect(visit.page.locator("#accepted")).to_contain_text("Complete:")
    expect(visit.page.locator("#watch")).to_contain_text("finished.")
    visit.page.wait_for_load_state()
    visit.page.clock.install()
    asked = visit.asked()
    visit.page.clock.run_for(50_000)
    visit.page.evaluate("fetch('/healthz')")
    assert (
        visit.asked() - asked <= 1
    )  # the list, once more, where the job was met before its answer


def test_the_page_works_on_a_phone_and_with_a_keyboard(
    context: BrowserContext, service: tuple[str, ...], origin: str
) -> None:
    with visiting(context, service, width=360, dark=True) as visit:
        page = visit.page
        box = page.get_by_label("Image URLs")
        while not box.evaluate("box => box === document.activeElement"):
            page.keyboard.press("Tab")
        page.keyboard.insert_text(f"{origin}/png-rgb.png, {origin}/{'x' * 300}")
        page.keyboard.press("Tab")
        expect(page.locator(".texts summary")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Upload", exact=True)).to_be_focused()
        page.keyboard.press("Enter")
        job_id, job = visit.accepted_job()
        expect(job.locator(".image .state")).to_have_text(["uploaded", "failed"])
        expect(job.locator("progress")).to_be_in_viewport()
        scroll_width = page.evaluate("document.documentElement.scrollWidth")
        assert scroll_width == 360
        expect(page.locator("#accepted")).to_contain_text("Complete:")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Shift+Tab")
        page.keyboard.insert_text(f"{origin}/png-rgb.png")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#accepted a")).not_to_have_attribute("href", f"#{job_id}")


def test_the_page_says_where_images_go(visit: Visit) -> None:
    sandbox = visit.page.get_by_role("complementary", name="Sandbox")
    expect(sandbox).to_contain_text("Nothing is sent to Imgur")
    expect(sandbox).to_contain_text("IMGUR_CLIENT_ID")

    def answer(route: Route) -> None:
        page = route.fetch()
        route.fulfill(response=page, body=page.text().replace('mode="sandbox"', 'mode="s3"'))

    visit.page.route(visit.url, answer)
    visit.page.reload()
    expect(visit.page.get_by_text("get links in the bucket")).to_be_visible()
    expect(sandbox).to_be_hidden()
    expect(visit.page.locator("header .imgur")).to_be_hidden()
    waits = {"finished": False, "waiting_for": "unavailable", "counts": {}}
    words = visit.page.evaluate(
        """async (job) => {
            const { stateOf, waitOf } = await import("/page/words.js");
            return [stateOf(job).text, waitOf(job)];
        }""",
        waits,
    )
    assert words == [
        "waiting for the bucket",
        "The bucket is down, or cannot be reached. The job continues by itself.",
    ]
    visit.page.unroute_all(behavior="wait")


def test_the_api_is_read_and_tried_on_a_page_of_its_own(
    context: BrowserContext, service: tuple[str, ...]
) -> None:
    with visiting(context, (f"{service[0]}/docs", *service)) as visit:
        operations = visit.page.locator(".opblock")
        described = requests.get(f"{service[0]}/openapi.json", timeout=PATIENCE).json()["paths"]
        expect(operations).to_have_count(sum(len(item) for item in described.values()))
        post = visit.page.locator("#operations-jobs-postUrls")
        post.locator(".opblock-summary-control").click()
        post.locator("textarea").fill('["ftp://a.example/"]')
        post.get_by_role("button", name="Execute").click()
        answer = post.locator(".live-responses-table .response").first
        expect(answer).to_contain_text("202")
        expect(answer).to_contain_text(JOB_ID)
        expect(visit.page.locator(".back")).to_have_attribute("href", "/")


def test_a_token_is_asked_for_first_and_a_refusal_is_shown(
    context: BrowserContext, origin: str, tmp_path: Path
) -> None:
    with (
        running_service(
            tmp_path, IMAGELOAD_API_TOKEN="right-token", IMAGELOAD_MAX_URLS="2"
        ) as urls,
        visiting(context, urls, width=375) as visit,
    ):
        page, url = visit.page, f"{origin}/png-rgb.png"
        token = page.get_by_label("This service needs a token")
        expect(token).to_be_focused()
        expect(page.get_by_label("Image URLs")).to_be_hidden()
        expect_no_violations(page)
        token.fill("wrong-token")
        page.keyboard.press("Enter")
        expect(page.locator("#token-refused")).to_have_text("The service does not know this token.")
        token.fill("right-token")
        page.get_by_role("button", name="Continue").click()
        expect(token).to_be_hidden()
        expect(page.get_by_label("Image URLs")).to_be_focused()
        expect(page.locator("#watch")).to_have_text("No job yet.")
        page.get_by_role("button", name="Try an example").click()
        expect(page.locator("#found")).to_have_text("2 images in this Markdown.")

        page.get_by_label("Image URLs").fill("")
        text = "\n".join(f"https://a.example/{number}" for number in range(3))
        visit.paste(text)
        with page.expect_response("**/v1/images/upload") as answered:
            page.get_by_role("button", name="Upload", exact=True).click()
        problem = answered.value.json()
        refused = page.locator("#refused")
        expect(refused).to_contain_text(problem["title"])
        expect(refused).to_contain_text(problem["detail"])
        expect(refused).to_be_in_viewport(ratio=1)
        expect(page.get_by_label("Image URLs")).to_have_value(text)
        visit.expect_problem("status of 413")

        page.get_by_label("Image URLs").fill(url)
        page.get_by_role("button", name="Upload", exact=True).click()
        _, job = visit.accepted_job()
        expect(refused).to_be_empty()
        expect(job.locator("header .state")).to_have_text("finished")
        expect_loaded(job.locator(".image img"))

        page.reload()
        expect(job.locator("header .state")).to_have_text("finished")
        expect(token).to_be_hidden()
        assert page.evaluate("localStorage.length") == 0
        assert not [request for request in visit.requests if "-token" in request]
        visit.expect_problem("status of 401 (Unauthorized)")


def test_a_list_that_arrives_late_takes_back_no_event(
    visit: Visit, origin: str, gate: threading.Event
) -> None:
    page = visit.page
    expect(page.locator("#watch")).not_to_be_empty()
    held: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        held.append((route, route.fetch()))  # the job is not finished in it
        gate.set()

    page.route(f"**{JOBS}*", hold, times=1)
    _, job = visit.upload(f"{origin}/gated/jpeg-baseline.jpg?late")
    state = job.locator("header .state")
    expect(state).to_have_text("finished")
    ((route, late),) = held
    with page.expect_response(f"**{JOBS}*"):
        route.fulfill(response=late)
    page.evaluate("fetch('/healthz')")
    expect(state).to_have_text("finished")


# Last, as later visits would show all of its jobs


def test_jobs_beyond_the_fifty_shown_are_counted_found_and_linked(
    context: BrowserContext, visit: Visit, service: tuple[str, ...], origin: str
) -> None:
    job_id = visit.post([f"{origin}/png-rgb.png?far"])
    requests.post(f"{service[0]}/v1/images/upload", json=[["no-url"]] * 55, timeout=PATIENCE)
    total = len(requests.get(f"{service[0]}/v1/images/upload?limit=1000").json()["jobs"])
    page = visit.page
    expect(page.locator("#watch")).to_have_text(f"All {total} jobs have finished.")
    expect(page.locator(".job")).to_have_count(50)
    older = page.get_by_role("button", name=f"Show older jobs ({total - 50} more job")
    page.get_by_label("Search jobs").fill("PNG-rgb.png?far")
    expect(page.locator(".job")).to_have_count(1)
    expect(older).to_be_hidden()
    visit.job_of(job_id).get_by_role("button", name="Hide").click()
    expect(page.locator(".job")).to_have_count(0)
    expect(page.locator("#nothing")).to_contain_text("No job with “PNG-rgb.png?far” in its title")
    expect(page.get_by_role("button", name="Show 1 hidden")).to_be_focused()
    page.get_by_label("Search jobs").fill("")
    page.get_by_role("button", name="Show 1 hidden").click()
    held: list[Route] = []
    page.route("**/images?*state=failed", lambda route: held.append(route))
    with page.expect_request("**/images?*state=failed"):
        older.hover()
    page.mouse.down()
    assert held
    for route in held:
        route.continue_()
    page.unroute_all(behavior="wait")
    expect(page.locator(".job").last.locator(".reasons")).to_be_visible()
    page.mouse.up()  # on the same button, though the cards above it have grown
    visit.job_of(job_id).get_by_role("button", name="Unhide").click()
    expect(page.locator("#hidden")).to_be_hidden()

    with visiting(context, (f"{service[0]}/#{job_id}", *service[1:])) as other:
        job = other.job_of(job_id)
        expect_loaded(job.locator("img"))
        expect(other.page.locator(".job")).to_have_count(51)
        expect(job).to_be_in_viewport()
        expect(job).to_be_focused()
        newest = other.page.locator(".job").first
        newest.locator(".job-link").click()
        expect(newest).to_be_focused()
        expect(newest.locator(".code")).to_have_text("invalid_url")
