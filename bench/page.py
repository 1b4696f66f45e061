"""How smooth the web page is with a job of 10,000 images: `python -m bench.page [--images=10000]`.

Prints, of a real Chromium, the time between two frames while the list and the grid are scrolled, of
a job that runs and of one that has ended; and the CPU time of the page's main thread, which other
work on the machine does not change. Two other pages show what the machine adds, as the service, its
sandbox, the origin and the drawing by software share its cores: one that is not scrolled, and a
control, which has the same rows of the same height with only a number each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import open_context, running_browser, running_origin, running_service, visiting

_MEASURED_MS = 4_000
_PIXELS_PER_FRAME = 120
_MOST_SECONDS = 600
_FRAMES = """async ([list, milliseconds, pixels]) => {
    const deltas = [];
    let [last, down] = [await new Promise(requestAnimationFrame), true];
    for (const end = last + milliseconds; last < end;) {
        if (list) {
            const before = list.scrollTop;
            list.scrollTop += down ? pixels : -pixels;
            if (list.scrollTop === before) down = !down;
        }
        const now = await new Promise(requestAnimationFrame);
        deltas.push(now - last);
        last = now;
    }
    return deltas;
}"""

_CONTROL = """async (count) => {
    const { WindowedList } = await import("/page/window.js");
    const [scroller, list] = [document.createElement("div"), document.createElement("ol")];
    scroller.style.cssText = "height: 600px; overflow-y: auto; background: white";
    list.style.cssText = "position: relative; margin: 0; padding: 0";
    scroller.append(list);
    document.body.replaceChildren(scroller);
    const makeRow = () => {
        const element = document.createElement("li");
        element.style.cssText =
            "position: absolute; inset: 0 0 auto; height: 84px; contain: strict";
        return { element, update: (number) => (element.textContent = String(number)) };
    };
    new WindowedList(scroller, list, { makeRow, recordOf: (index) => index }).resize(count);
}"""


def say_frames(name: str, browser: Browser, page: Page, window: Locator | None = None) -> None:
    """Print a row of the table: of the frames of `page`, while `window` is scrolled."""
    handle = window.element_handle() if window is not None else None
    browser.start_tracing(page=page, categories=["toplevel"])
    deltas: list[float] = page.evaluate(_FRAMES, [handle, _MEASURED_MS, _PIXELS_PER_FRAME])
    tasks = _main_thread_tasks(browser.stop_tracing())
    p99 = statistics.quantiles(deltas, n=100)[98]
    times = statistics.median(deltas), p99, max(deltas), sum(tasks) / len(deltas), max(tasks)
    print(f"| {name} | " + " | ".join(f"{each:.1f} ms" for each in times) + " |", flush=True)


def _main_thread_tasks(trace: bytes) -> list[float]:
    """The CPU milliseconds of each task of the renderers' main threads."""
    events = json.loads(trace)["traceEvents"]
    main = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    return [
        event["tdur"] / 1_000
        for event in events
        if (event["pid"], event["tid"]) in main and event["name"].endswith("::RunTask")
        if "tdur" in event
    ]


def measure(name: str, browser: Browser, control: Page, page: Page, job: Locator) -> None:
    """Scroll the control, the job's list, then its grid."""
    say_frames(f"{name}, control", browser, control, control.locator("div"))
    window, grid = job.locator(".window"), job.get_by_role("button", name="Grid")
    say_frames(f"{name}, list", browser, page, window)
    grid.click()
    say_frames(f"{name}, grid", browser, page, window)
    grid.click()


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    count = parser.parse_args().images
    with contextlib.ExitStack() as stack:
        browser = stack.enter_context(running_browser())
        expect.set_options(timeout=1_000 * _MOST_SECONDS)
        origin, gate = stack.enter_context(running_origin())
        gate.set()
        files = stack.enter_context(tempfile.TemporaryDirectory())
        urls = stack.enter_context(running_service(Path(files)))
        visit = stack.enter_context(visiting(open_context(browser), urls))
        page = visit.page
        print("| a job | frame, median | p99 | longest | CPU a frame | longest task, CPU |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        say_frames("none", browser, page)
        control = stack.enter_context(browser.new_context(viewport=page.viewport_size)).new_page()
        control.goto(f"{urls[0]}/page/page.css")  # a document that has no script of its own
        control.evaluate(_CONTROL, count)
        say_frames("none, control", browser, control, control.locator("div"))
        begun = time.monotonic()
        entries = [f"{origin}/png-rgb.png?{number}" for number in range(count)]
        job = visit.job_of(visit.post(entries, dedupe=False))
        job.locator("summary").click()
        expect(job.locator(".counts")).to_contain_text("uploaded,")
        measure("running", browser, control, page, job)
        expect(job.locator("header .state")).to_have_text("finished")
        ended = time.monotonic() - begun
        measure("finished", browser, control, page, job)
        say_frames("none seen", browser, page.context.new_page())
        print(f"\n{count:,} images in {ended:.0f} s.")


if __name__ == "__main__":
    main()
