"""The checks after a walk of random requests: every image is accounted for, nothing is left.

An image in the sandbox is accounted for if a job's link names it, or if an image with these bytes
is marked `maybe_duplicate`: its response was lost, or its upload was cut off by a cancel. The marks
of retired jobs are those that were seen before. Without a journal a job's links are retired with
it, and its images are not accounted for.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import requests

from sandbox.testing import RunningSandbox
from tests.contract import Contract
from tests.service import Client
from tests.verbs_walk import JOBS, PNG, Pages, Story
from tests.waiting import PATIENCE

_BUG = re.compile(r"Traceback|\bbug\b", re.IGNORECASE)
_SETTLED_SECONDS = 150.0
# A deletion is written within 0.1 s; a busy machine is given more.
_UNWRITTEN_SECONDS = 1.0
_RETRY_SECONDS = 5.0


class Audit:
    """`count` adds a message to `wrong` for each inconsistency."""

    def __init__(
        self,
        story: Story,
        client: Client,
        sandbox: RunningSandbox,
        pages: Pages,
        hook: Contract,
        *,
        journaled: bool,
    ) -> None:
        self.wrong = story.wrong
        self.counts: Counter[str] = Counter()
        self._story = story
        self._client = client
        self._sandbox = sandbox
        self._pages = pages
        self._hook = hook
        self._journaled = journaled
        self._summaries: dict[str, dict[str, Any]] = {}
        self._records: dict[str, list[dict[str, Any]]] = {}

    def count(self) -> None:
        """Wait until all jobs are finished, and count."""
        self._await_the_end()
        self._check_retired()
        for job_id, summary in self._summaries.items():
            self._records[job_id] = [*self._client.records(job_id).values()]
            self._check_lists(job_id, summary)
            self._check_album(job_id, summary)
        self._check_links()
        self._check_images()
        self._check_callbacks()
        self._check_temp_files()
        self.counts["kills"] = len(self._story.kills)

    def check_log(self, lines: Sequence[str]) -> None:
        """Check that no log line reports a bug."""
        self.wrong += [f"logged: {line.strip()}" for line in lines if _BUG.search(line)]

    def _await_the_end(self) -> None:
        deadline = time.monotonic() + _SETTLED_SECONDS
        while True:
            self._summaries = {each["job_id"]: each for each in listed_jobs(self._client)}
            open_jobs = [each for each in self._summaries.values() if not is_settled(each)]
            if not open_jobs:
                break
            if time.monotonic() > deadline:
                self.wrong += [f"does not end: {each}" for each in open_jobs]
                break
            time.sleep(0.1)  # polls
        self.counts["jobs"] = len(self._summaries)

    def _check_retired(self) -> None:
        """Each job that was accepted is there, or was retired and stays so."""
        story = self._story
        retired = [job_id for job_id in story.urls if job_id not in self._summaries]
        self.counts["retired jobs"] = len(retired)
        if story.kills and retired:
            self.wrong.append(f"lost jobs: {retired}")
        self.wrong += [f"was unknown once: {job_id}" for job_id in story.unknown - {*retired}]

    def _check_lists(self, job_id: str, summary: dict[str, Any]) -> None:
        """Every URL is in exactly one list, in the order of the input, and the counts agree."""
        records = self._records[job_id]
        self.counts["images"] += len(records)
        status = self._client.status(job_id)
        lists, counts = status["uploaded"], summary["counts"]
        urls = self._story.urls.get(job_id, [record["url"] for record in records])
        sizes = {name: len(lists[name]) for name in ("pending", "completed", "failed")}
        self.counts += Counter({name: size for name, size in sizes.items() if size})
        states = {
            "completed": [r["link"] for r in records if r["state"] == "completed"],
            "failed": [r["url"] for r in records if r["state"] == "failed"],
        }
        marked = sum(record["maybe_duplicate"] for record in records)
        self.counts["maybe duplicate"] += marked
        if not (
            [record["url"] for record in records] == urls
            and lists == {"pending": [], **states}
            and counts == {"total": len(urls), **sizes, "maybe_duplicate": marked}
            and all((r["link"] is not None) == (r["state"] == "completed") for r in records)
            and all(r["error"] is not None for r in records if r["state"] == "failed")
        ):
            self.wrong.append(f"lists do not add up: {status} {summary} {records}")

    def _check_album(self, job_id: str, summary: dict[str, Any]) -> None:
        album = summary["album"]
        purged = any(purged_id == job_id for _, purged_id in self._story.purges)
        if album and summary["counts"]["completed"] and not purged:
            if not (album["link"] or album["error"]):
                self.wrong.append(f"an album without an end: {summary}")
            elif album["link"] and requests.get(album["link"], timeout=PATIENCE).status_code != 200:
                self.wrong.append(f"an album that does not open: {summary}")

    def _check_links(self) -> None:
        """Behind each link is the image that its URL gave."""
        stored = {image["id"]: image["sha256"] for image in self._sandbox.images()}
        with requests.Session() as session:
            for job_id, records in self._records.items():
                for record in records:
                    if record["link"] is None:
                        continue
                    sha256 = stored.get(_id_of(record["link"]))
                    if sha256 is None and self._may_be_purged(record["url"]):
                        continue
                    opened = session.get(record["link"], timeout=PATIENCE).content
                    if not (
                        sha256 == record["sha256"]
                        and opened == PNG
                        and record["url"] in self._pages.urls_of[sha256]
                    ):
                        self.wrong.append(f"a link without its image: {job_id} {record}")

    def _may_be_purged(self, url: str) -> bool:
        """Whether a job with this URL was being purged at a kill, before that was durable."""
        return any(
            url in self._story.urls.get(job_id, ())
            for kill in self._story.kills
            for moment, job_id in self._story.purges
            if moment < kill < moment + _UNWRITTEN_SECONDS
        )

    def _check_images(self) -> None:
        """Each image in the sandbox is named by a link, or its like is marked."""
        links = self._client.get("/v1/images").json()["uploaded"]
        named = Counter(map(_id_of, links))
        excused = {*self._story.marked, *self._urls_of_unseen_jobs()}
        for records in self._records.values():
            excused.update(record["url"] for record in records if record["maybe_duplicate"])
        images = self._sandbox.images()
        self.counts["stored"] = len(images)
        for image in images:
            if image["id"] in named:
                continue
            self.counts["stored, named by no job"] += 1
            if not self._pages.urls_of[image["sha256"]] & excused:
                urls = self._pages.urls_of[image["sha256"]]
                jobs = [each for each in self._story.urls if urls & {*self._story.urls[each]}]
                self.wrong.append(f"an image that no job names and none marks: {image} {jobs}")

    def _urls_of_unseen_jobs(self) -> Iterator[str]:
        """The URLs of retired jobs whose last marks were not seen, or whose links are forgotten."""
        for job_id in self._story.urls.keys() - self._summaries.keys():
            ended = self._story.ended.get(job_id)
            retried = self._story.retried.get(job_id, 0.0)
            if not self._journaled or ended is None or retried + _RETRY_SECONDS > ended:
                self.counts["retired jobs whose end was not seen"] += 1
                yield from self._story.urls[job_id]

    def _check_callbacks(self) -> None:
        """Each end has a callback, and the last callback matches the job."""
        told: dict[str, tuple[int, dict[str, Any]]] = {}
        for number, asked in enumerate(list(self._hook.asked), 1):
            data = json.loads(asked.body)["data"]
            told[data["job_id"]] = number, data
        self.counts["callbacks"] = len(self._hook.asked)
        for job_id, calls in self._story.called_after.items():
            number, data = told.get(job_id, (0, {}))
            if number <= calls:
                self.wrong.append(f"an end that was not told: {job_id}")
            summary = self._summaries.get(job_id)
            if summary and not self._is_as_told(summary, data):
                self.wrong.append(f"told otherwise than it is: {data} {summary}")

    def _is_as_told(self, summary: dict[str, Any], data: dict[str, Any]) -> bool:
        return bool(summary["callback"]["told"] and data.get("counts") == summary["counts"])

    def _check_temp_files(self) -> None:
        """No temp file is in use, and no byte is reserved; polls, for files go a moment later."""
        deadline = time.monotonic() + 10
        while True:
            metrics = self._client.get("/metrics").text
            found = dict(re.findall(r"^(imageload_temp_(?:bytes|files)) (\S+)$", metrics, re.M))
            if {name: float(value) for name, value in found.items()} == {
                "imageload_temp_bytes": 0.0,
                "imageload_temp_files": 0.0,
            }:
                return
            if time.monotonic() > deadline:
                self.wrong.append(f"temp files are in use: {found}")
                return
            time.sleep(0.1)  # polls


def listed_jobs(client: Client) -> list[dict[str, Any]]:
    """The summary of every job."""
    found: list[dict[str, Any]] = []
    page = client.get(f"{JOBS}?limit=1000")
    while True:
        found += page.json()["jobs"]
        if "next" not in page.links:
            return found
        page = client.get(page.links["next"]["url"])


def is_settled(summary: dict[str, Any]) -> bool:
    """Whether the job is finished and its callback received or given up."""
    callback = summary["callback"]
    return bool(summary["finished"] and (callback is None or callback["told"] or callback["error"]))


def _id_of(link: str) -> str:
    return link.rpartition("/")[2].partition(".")[0]
