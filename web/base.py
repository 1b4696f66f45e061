"""What every handler shares: problem documents, bounded bodies, JSON answers, paging.

An error is always an RFC 9457 problem document: never a traceback, never HTML.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import msgspec
import tornado.iostream
import tornado.web

from imageload.config import Config
from imageload.errors import BadRequest, Refused, TooMany
from imageload.job import Job, Snapshot
from imageload.journal import Journal
from imageload.loader import ImageLoad
from imageload.uploads import Uploads
from imageload.views import utc_text
from web.changes import Changes
from web.news import Bell

_log = logging.getLogger(__name__)

PROBLEM = "urn:imageload:problem:"

# A job this long is rendered beside the event loop: 1,000 images take some 0.7 ms.
LARGE_JOB = 10_000

_DRAIN_SECONDS = 5.0


class Problem(tornado.web.HTTPError):
    """An answer that is a problem document: `slug` for programs, the rest for people."""

    def __init__(self, status: int, slug: str, title: str, detail: str) -> None:
        super().__init__(status)
        self.slug, self.title, self.detail = slug, title, detail


@tornado.web.stream_request_body
class BaseHandler(tornado.web.RequestHandler):
    """A handler whose errors are problem documents and whose body is bounded.

    The body is collected in `body`; one past the limit is answered 413 before it is read.
    """

    def initialize(
        self,
        image_load: ImageLoad,
        config: Config,
        uploads: Uploads,
        journal: Journal | None,
        changes: Changes,
    ) -> None:
        """Called by Tornado with the arguments of the route."""
        self.journal = journal
        self.image_load = image_load
        self.uploads = uploads
        self.config = config
        self.changes = changes
        self.is_gone = False
        """The client has closed the connection."""
        self._wait: asyncio.Future[bool] | None = None
        self.body = bytearray()

    def set_default_headers(self) -> None:
        """Called by Tornado before anything else is set."""
        self.clear_header("Server")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")

    async def prepare(self) -> None:
        """Refuse a declared body that is too long, before it is read."""
        length = self.request.headers.get("Content-Length", "")
        if length.isascii() and length.isdigit() and int(length[:19]) > self.config.max_body_bytes:
            await self._refuse_unread(
                TooMany(f"The body may have {self.config.max_body_bytes:,} bytes.")
            )

    async def _refuse_unread(self, refused: Refused) -> None:
        """Answer now, and take the connection from Tornado, which would break it off.

        What the client still sends is thrown away for a while: with a body unread, closing would
        reset the connection, and a client that is busy sending would never see the answer.
        """
        body = self._problem(refused.status, refused.slug, refused.title, str(refused))
        self.set_header("Connection", "close")
        self.set_header("Content-Length", str(len(body)))
        self.write(body)
        await self.flush()
        stream = self.detach()
        _log.info("%s %s %d", self.request.method, self.request.path, refused.status)
        with contextlib.suppress(tornado.iostream.StreamClosedError, TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while True:
                    await stream.read_bytes(2**16, partial=True)
        stream.close()

    def decode_argument(self, value: bytes, name: str | None = None) -> str:  # noqa: ARG002
        """Text of any bytes in a path or query: a malformed jobId is an unknown one, no more."""
        return value.decode("utf-8", errors="replace")

    def data_received(self, chunk: bytes) -> None:
        """Collect the body; one of undeclared length is cut off by the server at its limit."""
        self.body += chunk

    def compute_etag(self) -> None:
        """No ETag: Tornado's would hash every body whole."""
        return

    def head(self, *path: str) -> Awaitable[None] | None:
        """A GET without its body, where there is a GET."""
        return self.get(*path)

    def answer(self, value: object, status: int = 200) -> None:
        """Answer `value` as JSON."""
        self.answer_encoded(msgspec.json.encode(value), status)

    def answer_encoded(self, encoded: bytes, status: int = 200) -> None:
        """Answer JSON that is encoded already."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(encoded)

    async def answer_of_job(self, job: Job, view: Callable[[], object]) -> None:
        """Answer `view` as JSON; that of a large job is made beside the event loop."""
        if len(job) < LARGE_JOB:
            self.answer(view())
            return
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(None, lambda: msgspec.json.encode(view()))
        self.answer_encoded(encoded)

    def job(self, job_id: str) -> Job:
        """The job with this id; a Problem `unknown-job` where there is none."""
        job = self.image_load.job_list_s.get(job_id)
        if job is None:
            raise self.unknown_job()
        return job

    def unknown_job(self) -> Problem:
        """What to raise where a jobId is not known."""
        return Problem(
            self.config.unknown_job_status,
            "unknown-job",
            "Unknown job",
            "There is no job with this jobId. Ids are those that a POST has answered; finished "
            "jobs are known until --keep-jobs or --keep-hours retire them, and without a journal "
            "until the service restarts.",
        )

    def waiting(self, job: Snapshot) -> dict[str, str | None]:
        """Until when the job's uploads wait for Imgur, and for which of its limits; None: not."""
        return waiting_of(self.uploads, job)

    def set_tag(self, tag: str) -> None:
        """Give the answer an ETag: a strong one, for its bytes are the same as long as `tag` is.

        Caches may keep the answer, but have to ask each time.
        """
        self.set_header("Etag", f'"{self.changes.token}-{tag}"')
        self.set_header("Cache-Control", "private, no-cache")

    def is_known(self, tag: str) -> bool:
        """`set_tag`; True where the client has it already, and a 304 has been answered."""
        self.set_tag(tag)
        if not self.check_etag_header():
            return False
        self.set_status(304)
        self.finish()
        return True

    async def rung(self, bell: Bell, seconds: float) -> bool:
        """Wait for `bell`; False where `seconds` pass, or the client goes, before it rings."""
        if self.is_gone:
            return False
        wait = self._wait = bell.wait()
        timer = asyncio.get_running_loop().call_later(seconds, _give_up, wait)
        try:
            return await wait
        finally:
            timer.cancel()
            bell.forget(wait)

    def on_connection_close(self) -> None:
        """End a wait, for the client has gone; called by Tornado."""
        super().on_connection_close()
        self.is_gone = True
        if self._wait is not None:
            _give_up(self._wait)

    def count_argument(self, name: str, default: int | None, most: int) -> int | None:
        """The whole number in the query argument `name`, from 1 to `most`."""
        text = self.get_query_argument(name, None)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
            raise BadRequest(f"{name} is a whole number from 1 to {most:,}.")
        return int(text)

    def link_next(self, **arguments: str | int) -> None:
        """Say where the next page is (RFC 8288)."""
        query = urlencode(arguments)
        self.set_header("Link", f'<{self.request.path}?{query}>; rel="next"')

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer what went wrong as a problem document; called by Tornado."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, Refused):
            slug, title, detail = error.slug, error.title, str(error)
            status_code = error.status
            if error.retry_after is not None:
                self.set_header("Retry-After", str(error.retry_after))
        elif isinstance(error, Problem):
            slug, title, detail = error.slug, error.title, error.detail
        else:
            slug, title, detail = self._plain_problem(status_code)
        if self.request.method not in self.SUPPORTED_METHODS:
            self.set_header("Connection", "close")  # Tornado will not read its body
        self.finish(self._problem(status_code, slug, title, detail))

    def _problem(self, status: int, slug: str, title: str, detail: str) -> bytes:
        self.set_status(status)
        self.set_header("Content-Type", "application/problem+json")
        body = {"type": PROBLEM + slug, "title": title, "status": status, "detail": detail}
        return msgspec.json.encode(body)

    def _plain_problem(self, status: int) -> tuple[str, str, str]:
        phrase = http.HTTPStatus(status).phrase
        slug = phrase.lower().replace(" ", "-")
        if status == 405:
            allowed = ", ".join(self.allowed_methods())
            self.set_header("Allow", allowed)
            return slug, phrase, f"This path takes {allowed or 'no method'}."
        if status == 404:
            return slug, phrase, "There is nothing at this path; the README lists what there is."
        if status >= 500:
            return slug, phrase, "A bug in the service; its log has more."
        return slug, phrase, "The request is not as this path takes it."

    def allowed_methods(self) -> list[str]:
        """The methods that this handler takes."""
        own = [m for m in ("GET", "POST", "DELETE") if self._takes(m.lower())]
        return ["GET", "HEAD", *own[1:]] if "GET" in own else own

    def _takes(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(tornado.web.RequestHandler, method)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log a bug with its traceback, and nothing of what a client did wrong; by Tornado."""
        if not isinstance(value, (Refused, tornado.web.HTTPError)):
            _log.error("a request met a bug path=%s", self.request.path, exc_info=(typ, value, tb))


def waiting_of(uploads: Uploads, job: Snapshot) -> dict[str, str | None]:
    """What a BaseHandler's `waiting` gives, for those who are no handler."""
    # With all downloaded and not finished, an album is made, or a purge is under way.
    waits = job.counts["downloaded"] or not (job.counts["queued"] or job.finished)
    closed = uploads.closed if waits else None
    return {
        "waiting_until": moment_text(closed.until - time.monotonic()) if closed else None,
        "waiting_for": closed.reason if closed else None,
    }


def tag_of_job(job: Snapshot, waiting: Mapping[str, str | None] | None = None) -> str:
    """What changes whenever the job does, or what it waits for."""
    return f"{job.job_id}-{job.version}{tag_of_waiting(waiting or {})}"


def tag_of_waiting(waiting: Mapping[str, str | None]) -> str:
    """What changes whenever these do."""
    return "".join(f"-{text}" for text in waiting.values() if text)


def moment_text(seconds: float) -> str:
    """The moment in so many seconds, rounded up, as all of our answers write it."""
    return utc_text(datetime.now(UTC) + timedelta(seconds=seconds + 1))


def _give_up(wait: asyncio.Future[bool]) -> None:
    if not wait.done():
        wait.set_result(False)


class NotFoundHandler(BaseHandler):
    """Any method on a path that does not exist: 404 as a problem document."""

    def _missing(self, *_: str) -> None:
        raise tornado.web.HTTPError(404)

    get = post = put = patch = delete = options = head = _missing
