"""The handler that all others extend: looking up jobs, sending JSON, ETags, waiting, paging."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
import tornado.iostream
import tornado.web

from imageload.errors import Refused
from imageload.job import Job, Snapshot
from imageload.registry import Registry
from imageload.schemas import WaitingJson, utc_text
from imageload.service import Service
from imageload.settings import Settings
from imageload.tuning import Tuning
from imageload.web.bodies import BodyHandler
from imageload.web.events import Events
from imageload.web.problems import unknown_job
from imageload.web.scrape import Scrape

_log = logging.getLogger(__name__)

T = TypeVar("T")

# The JSON of a job of so many images is made in a thread: that of 1,000 takes 0.7 ms.
LARGE_JOB = 2_000


class BaseHandler(BodyHandler):
    """A handler with the parts of the service, and the methods that several handlers need."""

    def initialize(
        self,
        service: Service,
        service_settings: Settings,
        tuning: Tuning,
        events: Events,
        scrape: Scrape,
        route: str = "other",
    ) -> None:
        """Called by Tornado with the arguments of the route, whose path is `route`."""
        self.jobs, self.target = service.registry, service.target
        self.store, self.sandbox = service.store, service.sandbox
        self.checks = service.checks
        self.documents = service.documents
        self.scrape = scrape
        self.route = route
        self._held_seconds = 0.0
        self.service_settings = service_settings
        self.tuning = tuning
        self.events = events
        self._work: asyncio.Future[Any] | None = None
        self.is_gone = False
        """True if the client has closed the connection."""
        self.changed = asyncio.Event()
        """Set when the job that the request waits for has changed, or the client has left."""

    @property
    def caller(self) -> str:
        """A name for the caller: a digest of its token, else its IP address."""
        return self.limits.access.caller(self.request) or str(self.request.remote_ip)

    def log(self) -> None:
        """Log the request and count its duration, without the time it was held on purpose."""
        status, request = self.get_status(), self.request
        seconds = request.request_time()
        level = logging.INFO if status >= 400 else logging.DEBUG
        _log.log(level, "%s %s %d %.3f s", request.method, request.path, status, seconds)
        held = min(self._held_seconds, seconds)
        self.scrape.request_ended(self.route, request.method, status, seconds - held)

    def on_connection_close(self) -> None:
        """Called by Tornado if the client leaves before the response is complete; ends a wait."""
        super().on_connection_close()
        self.is_gone = True
        self.changed.set()
        if self._work is not None:
            self._work.cancel()

    def decode_argument(self, value: bytes, name: str | None = None) -> str:  # noqa: ARG002
        """Called by Tornado to decode paths and queries: a malformed jobId is an unknown one."""
        return value.decode("utf-8", errors="replace")

    def compute_etag(self) -> None:
        """Called by Tornado; None: its ETag would be a hash of the whole body."""
        return

    def head(self, *path: str) -> Awaitable[None] | None:
        """The response to GET, without its body."""
        return self.get(*path)

    def options(self, *_: str) -> None:
        """The methods of this path, and the CORS headers of a preflight."""
        methods = self.allowed_methods()
        self.set_status(204)
        self.set_header("Allow", ", ".join(methods))
        for name, value in self.limits.access.preflight_headers(self.request, methods).items():
            self.set_header(name, value)
        self.finish()

    async def job(self, job_id: str) -> Job:
        """The job with this id; raises Refused (unknown-job) if there is none."""
        job = await self.jobs.find(job_id)
        if job is None:
            raise unknown_job()
        return job

    # Sending

    def send_json(self, value: object, status: int = 200) -> None:
        """Send `value` as JSON."""
        self.set_status(status)
        self.send_encoded(msgspec.json.encode(value))

    def send_encoded(self, encoded: bytes) -> None:
        """Send JSON that is encoded already, and a line feed: a terminal's prompt follows it."""
        self.set_header("Content-Type", "application/json")
        self.write(encoded)
        self.finish(b"\n")

    async def send_view(self, view: Callable[[], object], *, is_large: bool) -> None:
        """Send the result of `view` as JSON."""
        if is_large:
            encoded = self.limits.run_in_thread(lambda: msgspec.json.encode(view()), "views")
            self.send_encoded(await encoded)
        else:
            self.send_json(view())

    async def send_parts(self, parts: Iterator[bytes]) -> None:
        """Send a body of `parts`, which may come from the disk, until the client leaves."""
        with contextlib.suppress(tornado.iostream.StreamClosedError):
            while part := await self.limits.run_in_thread(lambda: next(parts, b""), "views"):
                self.write(part)
                await self.flush()
            await self.finish()

    # ETags and waiting

    def set_tag(self, tag: str) -> None:
        """Set a weak ETag (a proxy may compress the body); caches must revalidate."""
        self.set_header("Etag", f'W/"{tag}"')
        self.set_header("Cache-Control", "private, no-cache")

    def is_known(self, tag: str) -> bool:
        """Set the ETag; if the client has this version, send 304 and return True."""
        self.set_tag(tag)
        if not self.check_etag_header():
            return False
        self.set_status(304)
        self.finish()
        return True

    async def wait_for_change(self, seconds: float) -> bool:
        """Wait until `changed` is set; False if `seconds` pass or the client leaves first."""
        begun = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.changed.wait()
        self._held_seconds += time.monotonic() - begun
        return self.changed.is_set() and not self.is_gone

    async def until_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is cancelled if the client leaves; then raises Finish."""
        task = asyncio.ensure_future(work)
        self._work = task
        try:
            if self.is_gone:
                task.cancel()
            return await task
        except asyncio.CancelledError:
            if not self.is_gone:
                raise
            raise tornado.web.Finish from None
        finally:
            self._work = None

    # The query

    def query(self, name: str) -> str | None:
        """The query argument `name`, or None; raises Refused (bad-request) if it is there twice."""
        values = self.request.query_arguments.get(name, [])
        if len(values) > 1:
            raise Refused("bad-request", f"The query has {name} {len(values)} times.")
        return self.decode_argument(values[0], name) if values else None

    def flag(self, name: str, *, default: bool) -> bool:
        """The query argument `name`: true or false; `default` if it is missing."""
        text = self.query(name)
        if text not in (None, "true", "false"):
            raise Refused("bad-request", f"{name} must be true or false.")
        return default if text is None else text == "true"

    def count_argument(self, name: str, default: int, most: int) -> int:
        """The query argument `name`: a number from 1 to `most`; `default` if it is missing."""
        text = self.query(name)
        if text is None:
            return default
        is_number = text.isascii() and text.isdigit() and len(text) <= len(str(most))
        if not (is_number and 1 <= int(text) <= most):
            raise Refused("bad-request", f"{name} must be a whole number from 1 to {most:,}.")
        return int(text)

    def link_next(self, **arguments: str | int) -> None:
        """Set the Link header to the next page (RFC 8288)."""
        query = urlencode(arguments)
        self.set_header("Link", f'<{self.request.path}?{query}>; rel="next"')


def waiting_of(jobs: Registry, job: Snapshot) -> WaitingJson:
    """The time until which the job waits for the target, and the reason."""
    closed = None
    if job.counts["downloaded"] or job.parked:
        closed = jobs.closed("uploads")
    elif not (job.counts["queued"] or job.finished):
        closed = jobs.closed("deletions" if job.purging else "albums")
    return {
        "waiting_until": moment_text(closed.until - time.monotonic()) if closed else None,
        "waiting_for": closed.reason if closed else None,
    }


def tag_of_job(job: Snapshot, waiting: WaitingJson | None = None) -> str:
    """A tag that changes when the job does, or `waiting`."""
    wait = "" if waiting is None else tag_of_waiting(waiting)
    return f"{job.job_id}-{job.version}{wait}"


def tag_of_waiting(waiting: WaitingJson) -> str:
    """A tag that changes when `waiting` does."""
    return "".join(f"-{text}" for text in waiting.values() if text)


def moment_text(seconds: float) -> str:
    """The time `seconds` from now, rounded up, in the format of every response."""
    return utc_text(datetime.now(UTC) + timedelta(seconds=seconds + 1))


class NotFoundHandler(BaseHandler):
    """Any method on a path that does not exist: 404."""

    is_open = True

    def _missing(self, *_: str) -> None:
        raise tornado.web.HTTPError(404)

    get = post = put = patch = delete = options = head = _missing
