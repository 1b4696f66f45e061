"""What every handler shares: who may ask, bounded bodies, answers, paging."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import ClassVar, TypeVar
from urllib.parse import urlencode

import msgspec
import tornado.iostream
import tornado.web

from imageload.errors import Refused
from imageload.job import Job, Snapshot
from imageload.loader import ImageLoad
from imageload.schemas import WaitingJson, utc_text
from imageload.settings import Config
from imageload.store import Store
from imageload.targets.imgur.uploader import Uploads
from imageload.web.changes import Changes
from imageload.web.compress import LARGEST_ON_LOOP, SMALLEST, accepts_gzip, compressed, compressor
from imageload.web.news import Bell
from imageload.web.problems import Problem, ProblemHandler
from imageload.web.request_id import about, enter
from imageload.web.scrape import Scrape

T = TypeVar("T")

_log = logging.getLogger(__name__)

# A job this long is rendered beside the event loop: 1,000 images take some 0.7 ms.
LARGE_JOB = 2_000

# A body this long is read beside the event loop: some 500 URLs, which become a job in 3 ms.
_LARGE_BODY = 16 * 1_024

_DRAIN_SECONDS = 5.0


@tornado.web.stream_request_body
class BaseHandler(ProblemHandler):
    """A handler whose callers are judged and whose body is bounded.

    The body is collected in `body`; one past the limit is answered 413 before it is read.
    """

    is_open: ClassVar[bool] = False
    """Whether it answers without a token too, where others want one."""

    def initialize(
        self,
        image_load: ImageLoad,
        config: Config,
        uploads: Uploads,
        journal: Store | None,
        changes: Changes,
        scrape: Scrape,
        route: str = "other",
    ) -> None:
        """Called by Tornado with the arguments of the route, whose path is `route`."""
        self.scrape = scrape
        self.route = route
        self._held_seconds = 0.0
        self.journal = journal
        self.image_load = image_load
        self.uploads = uploads
        self.config = config
        self.changes = changes
        self.is_gone = False
        """The client has closed the connection."""
        self._wait: asyncio.Future[bool] | None = None
        self.body = bytearray()
        self._room_taken = 0
        self._body_refused = False
        self._at_work = False

    def prepare(self) -> Awaitable[None] | None:
        """Refuse by the head alone what can be, before a body is read."""
        enter(self.request_id)
        refused = self.front.access.refusal(self.request, is_open=self.is_open)
        headers = self.request.headers
        length = headers.get("Content-Length", "0")
        if refused is None and length.isdecimal() and int(length[:19]) > self.config.max_body_bytes:
            refused = self._too_long()
        if refused is None:
            return None
        if length == "0" and "Transfer-Encoding" not in headers:
            self._in_place_of_method(functools.partial(_refuse, refused))
            return None
        return self._refuse_unread(refused)

    def _in_place_of_method(self, work: Callable[..., None]) -> None:
        """Have `work` done once the request is read: what ends sooner loses its connection."""
        setattr(self, str(self.request.method).lower(), work)

    async def _refuse_unread(self, refused: Refused) -> None:
        """Answer now, and take the connection from Tornado, which would break it off.

        What the client still sends is thrown away for a while: with a body unread, closing would
        reset the connection, and a client that is busy sending would never see the answer.
        """
        with contextlib.suppress(tornado.iostream.StreamClosedError):
            await self._answer_early(refused)
            await _drain(self.detach())

    def _answer_early(self, refused: Refused) -> Awaitable[None]:
        body = self._refusal(refused)
        self.set_header("Connection", "close")
        self.set_header("Content-Length", str(len(body)))
        self.write(body)
        with about(self.request_id):
            self.log()
        return self.flush()

    def log(self) -> None:
        """Note that the request was answered, in the log and in a metric."""
        status, request = self.get_status(), self.request
        seconds = request.request_time()
        level = logging.INFO if status >= 400 else logging.DEBUG
        _log.log(level, "%s %s %d %.3f s", request.method, request.path, status, seconds)
        held = min(self._held_seconds, seconds)
        self.scrape.request_ended(self.route, request.method, status, seconds - held)

    def data_received(self, chunk: bytes) -> None:
        """Collect the body, while it is within the limits."""
        if self._body_refused:
            return
        room = self.front.room
        if len(self.body) + len(chunk) > self.config.max_body_bytes:
            self._refuse_rest(self._too_long())
        elif not room.take(len(chunk)):
            self._refuse_rest(
                Refused("out-of-room", "The service holds too many requests. Try again soon.")
            )
        else:
            self._room_taken += len(chunk)
            self.body += chunk

    def _refuse_rest(self, refused: Refused) -> None:
        """Answer amid a body, and read on for a while, for the same reason."""
        self._body_refused = True
        self.body = bytearray()
        self._give_back()
        self._answer_early(refused)
        stream = self.request.connection.stream  # type: ignore[union-attr]
        asyncio.get_running_loop().call_later(_DRAIN_SECONDS, stream.close)
        self._in_place_of_method(lambda *_: self.detach().close())

    def _too_long(self) -> Refused:
        return Refused("too-large", f"The body may have {self.config.max_body_bytes:,} bytes.")

    def _give_back(self) -> None:
        self.front.room.give_back(self._room_taken)
        self._room_taken = 0

    def on_finish(self) -> None:
        """Called by Tornado when the answer is complete."""
        self._give_back()

    def on_connection_close(self) -> None:
        """Called by Tornado when the client has gone before that; ends a wait."""
        self.is_gone = True
        if self._wait is not None:
            _give_up(self._wait)
        if not self._at_work:  # else the body is still in use
            self._give_back()

    async def beside(self, work: Callable[[], T]) -> T:
        """What `work` makes of the body; where that takes long, beside the event loop.

        That is where the body is large, or the work waits for a disk.
        """
        self._at_work = True
        if len(self.body) >= _LARGE_BODY:
            return await self.front.run(work)
        return work() if self.journal is None else await self.front.wait(work)

    def decode_argument(self, value: bytes, name: str | None = None) -> str:  # noqa: ARG002
        """Text of any bytes in a path or query: a malformed jobId is an unknown one, no more."""
        return value.decode("utf-8", errors="replace")

    def compute_etag(self) -> None:
        """No ETag: Tornado's would hash every body whole."""
        return

    def head(self, *path: str) -> Awaitable[None] | None:
        """A GET without its body, where there is a GET."""
        return self.get(*path)

    def options(self, *_: str) -> None:
        """What may be asked of this path, and by which other site's pages."""
        methods = self.allowed_methods()
        self.set_status(204)
        self.set_header("Allow", ", ".join(methods))
        for name, value in self.front.access.preflight_headers(self.request, methods).items():
            self.set_header(name, value)
        self.finish()

    def answer(self, value: object, status: int = 200) -> None:
        """Answer `value` as JSON."""
        self.answer_encoded(msgspec.json.encode(value), status)

    def answer_encoded(self, encoded: bytes, status: int = 200) -> None:
        """Answer JSON that is encoded already."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(self.packed(encoded))

    async def finish_large(self, body: bytes) -> None:
        """`finish` with a body of any size, compressed beside the event loop where it is large."""
        if len(body) > LARGEST_ON_LOOP and self._may_pack():
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(None, compressed, body)
            self.finish(body)
        else:
            self.finish(self.packed(body))

    async def answer_of_job(self, job: Job, view: Callable[[], object]) -> None:
        """Answer `view` as JSON; that of a large job is made beside the event loop."""
        if len(job) < LARGE_JOB:
            self.answer(view())
        else:
            await self.answer_beside(view)

    async def answer_beside(self, view: Callable[[], object]) -> None:
        """Answer `view` as JSON, made beside the event loop."""
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(None, lambda: msgspec.json.encode(view()))
        self.set_header("Content-Type", "application/json")
        await self.finish_large(encoded)

    async def answer_parts(self, parts: Iterable[bytes]) -> None:
        """Answer a body of `parts`, which are sent as they are made, while the client is there."""
        zipped = compressor() if self._may_pack() else None
        with contextlib.suppress(tornado.iostream.StreamClosedError):
            source = iter(parts)
            while part := await self._next(source):
                if zipped is not None:
                    part = zipped.compress(part) + zipped.flush(zlib.Z_SYNC_FLUSH)
                self.write(part)
                await self.flush()
                await asyncio.sleep(0)  # a client that takes all at once is not the only one
            await self.finish(zipped.flush() if zipped is not None else None)

    async def _next(self, parts: Iterator[bytes]) -> bytes:
        """The next part; none at the end. With a journal the disk may be asked for it."""
        if self.journal is None:
            return next(parts, b"")
        # Not behind those who wait until something is written, and also while the service stops.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, next, parts, b"")

    def packed(self, body: bytes) -> bytes:
        """`body` as it is sent: as gzip, where the client takes that and it is quickly done."""
        is_quick = SMALLEST <= len(body) <= LARGEST_ON_LOOP
        return compressed(body) if is_quick and self._may_pack() else body

    def _may_pack(self) -> bool:
        """Whether the client takes gzip; the headers then say that it gets it."""
        self.add_header("Vary", "Accept-Encoding")
        if not accepts_gzip(self.request.headers.get("Accept-Encoding", "")):
            return False
        self.set_header("Content-Encoding", "gzip")
        return True

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

    def waiting(self, job: Snapshot) -> WaitingJson:
        """Until when the job's uploads wait for Imgur, and for which of its limits; None: not."""
        return waiting_of(self.uploads, job)

    def set_tag(self, tag: str) -> None:
        """Give the answer an ETag: a weak one, for its bytes may be compressed or not.

        Caches may keep the answer, but have to ask each time.
        """
        self.set_header("Etag", f'W/"{self.changes.token}-{tag}"')
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
        begun = time.monotonic()
        try:
            return await wait
        finally:
            self._held_seconds += time.monotonic() - begun
            timer.cancel()
            bell.forget(wait)

    def count_argument(self, name: str, default: int | None, most: int) -> int | None:
        """The whole number in the query argument `name`, from 1 to `most`."""
        text = self.get_query_argument(name, None)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
            raise Refused("bad-request", f"{name} is a whole number from 1 to {most:,}.")
        return int(text)

    def link_next(self, **arguments: str | int) -> None:
        """Say where the next page is (RFC 8288)."""
        query = urlencode(arguments)
        self.set_header("Link", f'<{self.request.path}?{query}>; rel="next"')


def _refuse(refused: Refused, *_: str) -> None:
    raise refused


async def _drain(stream: tornado.iostream.IOStream) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while True:
                await stream.read_bytes(2**16, partial=True)
    stream.close()


def waiting_of(uploads: Uploads, job: Snapshot) -> WaitingJson:
    """What a BaseHandler's `waiting` gives, for those who are no handler."""
    # With all downloaded and not finished, an album is made, or a purge is under way.
    waits = job.counts["downloaded"] or not (job.counts["queued"] or job.finished)
    closed = uploads.closed if waits else None
    return {
        "waiting_until": moment_text(closed.until - time.monotonic()) if closed else None,
        "waiting_for": closed.reason if closed else None,
    }


def tag_of_job(job: Snapshot, waiting: WaitingJson | None = None) -> str:
    """What changes whenever the job does, or what it waits for."""
    wait = "" if waiting is None else tag_of_waiting(waiting)
    return f"{job.job_id}-{job.version}{wait}"


def tag_of_waiting(waiting: WaitingJson) -> str:
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

    is_open = True

    def _missing(self, *_: str) -> None:
        raise tornado.web.HTTPError(404)

    get = post = put = patch = delete = options = head = _missing
