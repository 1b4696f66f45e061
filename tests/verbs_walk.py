"""Random requests at random jobs from eight threads, and a note of every response."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.contract import Contract
from tests.origin import IMAGES, Origin, Page, answer, raw
from tests.service import Client
from tests.waiting import PATIENCE

JOBS = "/v1/images/upload"
THREADS = 8
PNG = (IMAGES / "png-palette.png").read_bytes()
_MOST_PENDING = 300

# How often each is sent, and the statuses that are no mistake. 505: the job has been retired.
_VERBS: dict[str, tuple[int, set[int]]] = {
    "post": (30, {202, 429}),
    "retry": (20, {202, 409, 429, 505}),
    "cancel": (8, {202, 505}),
    "purge": (8, {202, 505}),
    "status": (15, {200, 505}),
    "images": (10, {200, 505}),
    "links": (2, {200, 505}),
    "check": (3, {202, 505}),
    "checked": (3, {200, 404, 505}),
    "rehost": (3, {202, 409, 429, 505}),
    "events": (5, {200, 204, 505}),
}


class Pages:
    """An origin's pages: good, slow, failing and mislabelled ones. Thread-safe."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._lock = threading.Lock()
        self._count = 0
        self._recent: list[str] = []
        self.urls_of: defaultdict[str, set[str]] = defaultdict(set)
        """From the SHA-256 of bytes that may be served to the URLs that serve them."""

    def url(self, chance: random.Random) -> str:
        """A new URL mostly, or one that was given before."""
        with self._lock:
            if self._recent and chance.random() < 0.25:
                return chance.choice(self._recent[-200:])
            self._count += 1
            number = self._count
        path = f"/{number}.png"
        page = self._page(path, number, chance)
        url = self._origin.page(path, page) if page is not None else f"ftp://no.image/{number}"
        with self._lock:
            self._recent.append(url)
        return url

    def _page(self, path: str, number: int, chance: random.Random) -> Page | None:
        """The page of `path`; None for a URL that may not be fetched."""
        # One in ten has the bytes of another URL. The sandbox cuts the number off, as Imgur does.
        body = PNG + (number - number % 10 // 9).to_bytes(4, "big")
        good = answer(body)
        with self._lock:
            self.urls_of[_sha256(body)].add(self._origin.url + path)
        kinds: dict[str, tuple[int, Page | None]] = {
            "good": (60, good),
            "slow": (12, _slow(good, self._origin.released, chance.uniform(0.05, 0.6))),
            "late": (6, _after_failures(good, 5)),
            "flaky": (6, _after_failures(good, 1)),
            "missing": (5, answer(status="404 Not Found")),
            "busy": (3, answer(status="503 Service Unavailable")),
            "cut": (3, answer(body, length=len(body) + 100)),
            "text": (2, answer(b"<html>no image</html>", Content_Type="image/png")),
            "nonsense": (1, raw(b"no HTTP at all\r\n\r\n")),
            "scheme": (2, None),
        }
        (page,) = chance.choices(
            [page for _, page in kinds.values()], [weight for weight, _ in kinds.values()]
        )
        return page


def _slow(page: Page, released: threading.Event, seconds: float) -> Page:
    def wait(connection: socket.socket) -> None:
        released.wait(seconds)
        page(connection)

    return wait


def _after_failures(page: Page, failures: int) -> Page:
    """`page`, after `count` responses of 500."""
    left = iter(range(failures))
    failure = answer(status="500 Internal Server Error")
    return lambda connection: (page if next(left, None) is None else failure)(connection)


@dataclass(slots=True)
class Story:
    """The requests of the walk and their responses."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    """(verb, status) of every response."""
    jobs: list[str] = field(default_factory=list)
    urls: dict[str, list[str]] = field(default_factory=dict)
    """The URLs of each job that was accepted."""
    unknown: set[str] = field(default_factory=set)
    """Jobs that were answered 505 once."""
    called_after: dict[str, int] = field(default_factory=dict)
    """Jobs with a callback, and how often it had been called when their last end was asked for."""
    marked: set[str] = field(default_factory=set)
    """URLs of images that were `maybe_duplicate` in some job."""
    ended: dict[str, float] = field(default_factory=dict)
    """When a job was seen at its end, with its marks (time.monotonic())."""
    retried: dict[str, float] = field(default_factory=dict)
    """When a retry of a job was sent last."""
    purges: list[tuple[float, str]] = field(default_factory=list)
    """When a purge of which job was sent (time.monotonic())."""
    kills: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Messages about responses that must not occur."""


class Walk:
    """The eight threads. `client` is the service's; with `may_break` connections may break.

    Of a client of several nodes, each request goes to the next one.
    """

    def __init__(
        self, client: Client, pages: Pages, hook: Contract, seed: int, *, may_break: bool = False
    ) -> None:
        self.story = Story()
        self.client = client
        self._may_break = may_break
        self._pages = pages
        self._hook = hook
        self._seed = seed
        self._full = threading.Event()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(THREADS)]
        self._threads.append(threading.Thread(target=self._watch_backlog))

    def __enter__(self) -> Walk:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        chance = random.Random(f"{self._seed}-{number}")
        weights = [weight for weight, _ in _VERBS.values()]
        with requests.Session() as session:
            while not self._stop.wait(chance.uniform(0, 0.01)):
                (verb,) = chance.choices([*_VERBS], weights)
                try:
                    self._do(verb, chance, session)
                except requests.RequestException as error:
                    if not self._may_break:
                        self.story.wrong.append(f"{verb}: {error!r}")

    def _watch_backlog(self) -> None:
        """Have nothing posted while too many images wait: the walk is about order, not load."""
        while not self._stop.wait(0.1):
            try:
                pending = requests.get(f"{self.client.url}/v1/quota", timeout=PATIENCE).json()[
                    "pending"
                ]
            except requests.RequestException:
                continue
            (self._full.set if pending > _MOST_PENDING else self._full.clear)()

    def _do(self, verb: str, chance: random.Random, session: requests.Session) -> None:
        if verb == "post":
            if not self._full.is_set():
                self._post(chance, session)
            return
        if not self.story.jobs:
            return
        # The newest are at work, others wait to be retired, some are retired.
        (newest,) = chance.choices([6, 30, 80, 10_000], [40, 30, 25, 5])
        job_id = chance.choice(self.story.jobs[-newest:])
        path = f"{JOBS}/{job_id}"
        match verb:
            case "retry":
                query = chance.choice(["", "?only=transient", "?only=1"])
                self._requeue(verb, job_id, query, session)
            case "rehost":
                self._requeue(verb, job_id, "", session)
            case "check":
                self._send(verb, "POST", f"{path}/check", session, job_id)
            case "checked":
                self._send(verb, "GET", f"{path}/check", session, job_id)
            case "cancel":
                self._send(verb, "DELETE", path, session, job_id)
            case "purge":
                self.story.purges.append((time.monotonic(), job_id))
                self._send(verb, "DELETE", f"{path}?purge=true", session, job_id)
            case "status":
                self._status(job_id, session)
            case "images":
                state = chance.choice(["", "?state=failed", "?limit=2&after=1"])
                self._send(verb, "GET", f"{path}/images{state}", session, job_id)
            case "links":
                self._send(verb, "GET", "/v1/images", session)
            case "events":
                self._events(job_id, session)

    def _post(self, chance: random.Random, session: requests.Session) -> None:
        pages = self._pages
        lists = [
            list(dict.fromkeys(pages.url(chance) for _ in range(chance.randint(1, 10))))
            for _ in range(chance.choice([1, 1, 1, 2, 3]))
        ]
        body: dict[str, Any] = {"urls": lists, "dedupe": chance.random() < 0.7}
        if chance.random() < 0.2:
            body["album"] = "An album"
        if chance.random() < 0.4:
            body["callback"] = f"{self._hook.url}/hook"
        calls = len(self._hook.asked)
        accepted = self._send("post", "POST", JOBS, session, json=body)
        if accepted.status_code != 202:
            return
        for job_id, urls in zip(accepted.json()["jobId"], lists, strict=True):
            self.story.urls[job_id] = urls
            if "callback" in body:
                self.story.called_after[job_id] = calls
            self.story.jobs.append(job_id)

    def _requeue(self, verb: str, job_id: str, query: str, session: requests.Session) -> None:
        calls = len(self._hook.asked)
        self.story.retried[job_id] = time.monotonic()
        retried = self._send(verb, "POST", f"{JOBS}/{job_id}/{verb}{query}", session, job_id)
        # A kill within 0.1 s takes the retry back.
        if retried.status_code == 202 and retried.json()["requeued"] and not self._may_break:
            told = self.story.called_after
            if job_id in told:
                told[job_id] = max(told[job_id], calls)

    def _status(self, job_id: str, session: requests.Session) -> None:
        found = self._send("status", "GET", f"{JOBS}/{job_id}", session, job_id)
        if found.status_code == 200:
            status = found.json()
            count = sum(map(len, status["uploaded"].values()))
            if count != len(self.story.urls[job_id]):
                self.story.wrong.append(f"a status with {count} URLs: {status}")
            if status["finished"] != (status["status"] == "complete"):
                self.story.wrong.append(f"a status that contradicts itself: {status}")

    def _events(self, job_id: str, session: requests.Session) -> None:
        """Listen to some events, and leave."""
        path = f"{JOBS}/{job_id}/events"
        stream = self._send("events", "GET", path, session, job_id, stream=True)
        with stream:
            for _ in zip(range(20), stream.iter_lines(), strict=False):
                if self._stop.is_set():
                    return

    def _send(
        self,
        verb: str,
        method: str,
        path: str,
        session: requests.Session,
        job_id: str | None = None,
        **keywords: Any,
    ) -> requests.Response:
        """Send it, and note the response; a status that is a mistake is noted as wrong."""
        response = session.request(method, self.client.url + path, timeout=PATIENCE, **keywords)
        status = response.status_code
        self.story.answers[verb, status] += 1
        if status not in _VERBS[verb][1]:
            self.story.wrong.append(f"{method} {path} was answered {status}: {response.text}")
        if status == 505 and job_id is not None:
            self.story.unknown.add(job_id)
        return response


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
