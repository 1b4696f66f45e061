"""The service: the three handlers of the contract, the one route table, wiring, start and stop.

python3 main.py --help        every option
python3 main.py               on http://127.0.0.1:8888, with the sandbox in place of Imgur
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import itertools
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import msgspec
import tornado.ioloop

from imageload import settings
from imageload.errors import Refused, StoreError
from imageload.fetch.tempfiles import temp_folder
from imageload.job import Job
from imageload.sandbox_process import SandboxError, SandboxProcess
from imageload.schemas import AcceptedJson, CancelJson, JobsJson, LinksJson, summary_json
from imageload.service import Service
from imageload.settings import SANDBOX_CLIENT_ID, Config
from imageload.store.file import check_free
from imageload.web.base import BaseHandler
from imageload.web.events import EventsHandler, JobEventsHandler
from imageload.web.idempotency import checked_key
from imageload.web.jobs import JobImagesHandler, MapHandler, RetryHandler
from imageload.web.lists import read_posted
from imageload.web.logs import set_up_logging
from imageload.web.operations import HealthHandler, MetricsHandler, QuotaHandler, ReadyHandler
from imageload.web.pages import DocsHandler, OpenApiHandler, PageFileHandler, PageHandler
from imageload.web.status import StatusHandler, tag_of_list

_log = logging.getLogger("imageload")

_TEND_SECONDS = 30.0
_COLLECT_EVERY = 20_000
_STOPS = (signal.SIGINT, signal.SIGTERM)


class UploadHandler(StatusHandler):
    """POST /v1/images/upload: lists of URLs in, `{"jobId": [id, ...]}` back; GET: the jobs."""

    async def post(self) -> None:
        """Accept one job for each list in the body, all of them or none: 202, or a problem.

        With an Idempotency-Key that came before: the answer that its first request got.
        """
        key = checked_key(self.request.headers.get("Idempotency-Key"))
        if key is None:
            job_ids = await self._accept()
        else:
            caller = self.front.access.caller(self.request)
            fingerprint = await self.beside(self._fingerprint)
            job_ids, is_replay = await self.front.keys.once(
                (caller, key), fingerprint, self._accept
            )
            if is_replay:
                self.set_header("Idempotency-Replayed", "true")
        if len(job_ids) == 1:
            self.set_header("Location", f"/v1/images/upload/{job_ids[0]}")
        answer: AcceptedJson = {"jobId": job_ids}
        self.answer(answer, 202)

    async def _accept(self) -> list[str]:
        """The ids of the jobs that the body asks for, which are on their way."""
        jobs = await self.beside(self._upload)
        self.changes.accepted(jobs)
        return [job.job_id for job in jobs]

    def _upload(self) -> list[Job]:
        orders = read_posted(
            bytes(self.body),
            self.request.headers.get("Content-Type", ""),
            max_urls=self.config.max_urls,
            max_lists=self.config.max_lists,
        )
        return self.image_load.upload(orders)

    def _fingerprint(self) -> bytes:
        content_type = self.request.headers.get("Content-Type", "")
        return hashlib.sha256(content_type.encode() + b"\n" + self.body).digest()

    async def get(self) -> None:
        """Answer the status of ?jobId=, or without one the jobs, newest first, a page at a time."""
        job_id = self.get_query_argument("jobId", None)
        if job_id is not None:
            await self.answer_status(self.job(job_id.removeprefix(":")))
            return
        limit = self.count_argument("limit", 100, 1_000) or 100
        after = self.get_query_argument("after", None)
        newest_first = reversed(self.image_load.jobs())
        if after is not None:
            last = self.job(after)
            newest_first = itertools.dropwhile(lambda job: job is not last, newest_first)
            next(newest_first)
        page = list(islice(newest_first, limit + 1))
        if len(page) > limit:
            self.link_next(limit=limit, after=page[limit - 1].job_id)
        summaries = [job.summary() for job in page[:limit]]
        waits = [self.waiting(each) for each in summaries]
        tag = tag_of_list(summaries, waits, is_last=len(page) <= limit)
        if not self.is_known(tag):
            pairs = zip(summaries, waits, strict=True)
            jobs: JobsJson = {"jobs": [{**summary_json(each), **wait} for each, wait in pairs]}
            self.answer(jobs)


class JobStatusHandler(StatusHandler):
    """GET /v1/images/upload/<jobId>: where every URL of the job is; 505 for an unknown jobId.

    DELETE: cancel what has not ended; `purge=true` also deletes from Imgur what has landed.
    """

    async def get(self, job_id: str) -> None:
        """Answer the job's three lists; `:<jobId>` is taken too."""
        await self.answer_status(self.job(job_id))

    async def delete(self, job_id: str) -> None:
        """Answer how many images that concerns: 202; it goes on in the background."""
        job = self.job(job_id)
        purge = self.get_query_argument("purge", "false")
        if purge not in ("true", "false"):
            raise Refused("bad-request", "purge is true or false.")
        action = self.image_load.purge if purge == "true" else self.image_load.cancel
        ending = await asyncio.get_running_loop().run_in_executor(None, action, job)
        answer: CancelJson = {
            "job_id": job.job_id,
            "cancelled": ending.cancelled,
            "purging": ending.purging,
        }
        self.answer(answer, 202)


class UploadLinks(BaseHandler):
    """GET /v1/images: `{"uploaded": [link, ...]}`, every link of every job, oldest job first."""

    async def get(self) -> None:
        """Stream all of the links, or the page that `limit` and `after` name."""
        limit = self.count_argument("limit", None, 100_000)
        after = self.get_query_argument("after", None)
        links = self._links(after)
        loop = asyncio.get_running_loop()
        self.set_header("Content-Type", "application/json")
        if limit is not None:
            page = await loop.run_in_executor(None, lambda: list(islice(links, limit + 1)))
            if len(page) > limit:
                self.link_next(limit=limit, after=page[limit - 1][0])
            answer: LinksJson = {"uploaded": [link for _, link in page[:limit]]}
            self.answer(answer)
            return
        await self.answer_parts(_parts(link for _, link in links))

    def _links(self, after: str | None) -> Iterator[tuple[str, str]]:
        """(place, link) of every link behind the place `after`, which is `<jobId>:<number>`.

        Those of jobs that have left memory come from the journal, and first: they are the oldest.
        """
        jobs: Iterator[Job] = iter(self.image_load.jobs())
        done, last = 0, None
        if after is not None:
            job_id, _, number = after.partition(":")
            if not (number.isascii() and number.isdigit()):
                raise Refused(
                    "bad-request", "after is what the Link header of the page before has."
                )
            done = int(number[:9])
            last = self.image_load.job_list_s.get(job_id)
        if last is not None:
            jobs = itertools.dropwhile(lambda job: job is not last, jobs)
        else:
            yield from self._retired_links(after, done)
            done = 0
        for job in jobs:
            images = job.snapshot().images
            for number_of, image in enumerate(islice(images, done, None), done + 1):
                if image.link is not None:
                    yield f"{job.job_id}:{number_of}", image.link
            done = 0

    def _retired_links(self, after: str | None, done: int) -> Iterator[tuple[str, str]]:
        if self.journal is None:
            if after is not None:
                self.job(after.partition(":")[0])
            return
        place = (0, -1)
        if after is not None:
            job = self.journal.load(after.partition(":")[0])
            if job is None:
                raise self.unknown_job()
            place = self.journal.number(job), done - 1
        for found in self.journal.links(place, retired_only=True):
            yield f"{found.job_id}:{found.n + 1}", found.link


def _parts(links: Iterator[str]) -> Iterator[bytes]:
    """`{"uploaded": [link, ...]}`, some thousands at a time."""
    before = b'{"uploaded":['
    while batch := list(islice(links, 2_000)):
        yield before + msgspec.json.encode(batch)[1:-1]
        before = b","
    yield b"]}" if before == b"," else before + b"]}"


ROUTES: tuple[tuple[str, type[BaseHandler]], ...] = (
    ("/", PageHandler),
    ("/page/{file}", PageFileHandler),
    ("/v1/images", UploadLinks),
    ("/v1/images/upload", UploadHandler),
    ("/v1/images/upload/", UploadHandler),
    ("/v1/images/upload/{job_id}/images", JobImagesHandler),
    ("/v1/images/upload/{job_id}/retry", RetryHandler),
    ("/v1/images/upload/{job_id}/map", MapHandler),
    ("/v1/images/upload/{job_id}/events", JobEventsHandler),
    ("/v1/images/upload/{job_id}", JobStatusHandler),
    ("/v1/events", EventsHandler),
    ("/v1/quota", QuotaHandler),
    ("/healthz", HealthHandler),
    ("/readyz", ReadyHandler),
    ("/metrics", MetricsHandler),
    ("/openapi.json", OpenApiHandler),
    ("/docs", DocsHandler),
)


async def serve(config: Config, temp_dir: Path) -> int:
    """Run the service until SIGTERM or Ctrl-C; a second one ends the process at once.

    Gives the exit status: 1 where a bug ended the service, for whoever restarts it.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in _STOPS:
        loop.add_signal_handler(number, on_signal)
    broken = asyncio.Event()

    def on_break() -> None:
        loop.call_soon_threadsafe(broken.set)
        loop.call_soon_threadsafe(stop.set)

    # A journal of 100,000 jobs takes seconds to read, in which signals must be heard.
    service = await loop.run_in_executor(None, Service, config, temp_dir, ROUTES, on_break)
    _relieve_collector()
    server, url = service.listen()
    tending = tornado.ioloop.PeriodicCallback(
        lambda: loop.run_in_executor(None, service.tend), _TEND_SECONDS * 1_000
    )
    tending.start()
    _log.info("listening on %s", url)
    if service.front.access.is_open_to_all:
        _log.warning("whoever reaches this address can make the service fetch: see --api-token")
    await stop.wait()
    tending.stop()
    _log.info("stopping, uploads under way have %.0f s", config.grace_seconds)
    if not await loop.run_in_executor(None, service.close, 10.0, config.grace_seconds):
        _log.warning("the service stopped before all of it was at its end")
    server.stop()
    await service.changes.close()
    await server.close_all_connections()
    return 1 if broken.is_set() else 0


@contextlib.contextmanager
def imgur_or_sandbox(config: Config) -> Iterator[Config]:
    """`config` as it is where a client id is set; else with a sandbox beside us in Imgur's place.

    Raises SandboxError where the sandbox does not start.
    """
    if config.imgur_client_id:
        yield config
        return
    folder = Path(config.sandbox_dir).absolute()
    limits = [] if config.sandbox_limits else ["--unlimited"]
    sandbox = SandboxProcess(["--port", str(config.sandbox_port), "--dir", str(folder), *limits])
    _log.info(
        "no IMGUR_CLIENT_ID: the sandbox stands in for Imgur at %s, images in %s",
        sandbox.url,
        folder,
    )
    try:
        yield replace(
            config,
            imgur_client_id=SANDBOX_CLIENT_ID,
            imgur_base_url=sandbox.url,
            imgur_link_base=sandbox.url,
            imgur_rapidapi_key="",
        )
    finally:
        sandbox.stop()


def _relieve_collector() -> None:
    """Have what is there by now looked at no more, and what comes less often.

    Nothing of an image is in a ring, but every 700 new objects the garbage collector looked for
    one: 1.5 to 2.5 % of the time at 2,500 images/s.
    """
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)


def _raise_descriptor_limit() -> None:
    """Take as many descriptors as the system allows: the soft limit is for users of select(2)."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "no limit" and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _end_early(*_: object) -> None:
    """A signal before there is anything to stop: what was begun is taken back on the way out."""
    sys.exit(0)


def main(arguments: Sequence[str], *, program: str = "main.py") -> int:
    """The process: its exit status. Options are in `imageload.settings`.

    `program` is the name of the command in help and error messages.
    """
    for number in _STOPS:
        signal.signal(number, _end_early)
    config = settings.parse(arguments, os.environ, program=program)
    _raise_descriptor_limit()
    set_up_logging(config.log_level, config.log_format)
    try:
        if config.journal:  # or the sandbox would say first that its port is taken
            check_free(Path(config.journal))
        with temp_folder(config.temp_dir) as temp_dir, imgur_or_sandbox(config) as wired:
            return asyncio.run(serve(wired, temp_dir))
    except (OSError, SandboxError, StoreError) as error:
        print(f"{program}: the service cannot start: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"{program}: --allow-origin and --deny-origin: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
