"""The service: the three handlers of the contract, the one route table, wiring, start and stop.

python3 main.py --help        every option
python3 main.py               on http://127.0.0.1:8888, with the sandbox in place of Imgur
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import hashlib
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import tornado.ioloop

from imageload import options
from imageload.errors import StoreError
from imageload.fetch.spool import spool_folder
from imageload.fetch.tempfiles import temp_folder
from imageload.job_json import summary_json
from imageload.registry import Order
from imageload.sandbox_process import SandboxError, SandboxProcess, imgur_or_sandbox
from imageload.schemas import AcceptedJson, CancelJson, JobsJson, LinksJson
from imageload.settings import Settings
from imageload.store.file import check_free
from imageload.web.accept import AcceptHandler
from imageload.web.app import App
from imageload.web.base import BaseHandler, waiting_of
from imageload.web.checks import CheckHandler, RehostHandler
from imageload.web.documents import DocumentsHandler, JobDocumentHandler
from imageload.web.intake import media_type, read_orders
from imageload.web.jobs import JobImagesHandler, MapHandler, RetryHandler
from imageload.web.links import encoded_links, links_after
from imageload.web.logs import ErrorCounter, set_up_logging
from imageload.web.operations import HealthHandler, MetricsHandler, QuotaHandler, ReadyHandler
from imageload.web.pages import DocsHandler, OpenApiHandler, PageFileHandler, PageHandler
from imageload.web.problems import unknown_job
from imageload.web.status import StatusHandler, tag_of_list
from imageload.web.streams import EventsHandler, JobEventsHandler

_log = logging.getLogger("imageload")

_MAINTENANCE_SECONDS = 30.0
_CLOSE_SECONDS = 10.0
_COLLECT_EVERY = 20_000  # new objects
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class UploadHandler(AcceptHandler, StatusHandler):
    """POST /v1/images/upload: lists of URLs -> 202 `{"jobId": [id, ...]}`. GET: the jobs."""

    async def post(self) -> None:
        """Accept one job for each list in the body, or none; with Idempotency-Key only once."""
        response: AcceptedJson = {"jobId": await self.accept(self._orders, self._fingerprint)}
        self.send_json(response, 202)

    def _orders(self) -> list[Order]:
        return read_orders(
            self.body,
            self.request.headers.get("Content-Type", ""),
            max_urls=self.service_settings.max_urls,
            max_lists=self.tuning.max_lists,
        )

    def _fingerprint(self) -> bytes:
        content_type = media_type(self.request.headers.get("Content-Type", ""))
        fingerprint = hashlib.sha256(content_type.encode() + b"\n")
        fingerprint.update(self.body)
        return fingerprint.digest()

    async def get(self) -> None:
        """Send the status of the job `jobId`, or a page of jobs, newest first."""
        job_id = self.query("jobId")
        if job_id is not None:
            await self.answer_status(await self.job(job_id.removeprefix(":")))
            return
        limit = self.count_argument("limit", 100, 1_000)
        after = self.query("after")
        try:
            page = await self.jobs.newest(after, limit + 1)
        except LookupError:
            raise unknown_job() from None
        if len(page) > limit:
            self.link_next(limit=limit, after=page[limit - 1].job_id)
        summaries = page[:limit]
        waits = [waiting_of(self.jobs, each) for each in summaries]
        if not self.is_known(tag_of_list(summaries, waits, is_last=len(page) <= limit)):
            pairs = zip(summaries, waits, strict=True)
            jobs: JobsJson = {"jobs": [{**summary_json(each), **wait} for each, wait in pairs]}
            self.send_json(jobs)


class JobStatusHandler(StatusHandler):
    """GET /v1/images/upload/<jobId> -> the job's three lists of URLs. DELETE: cancel or purge."""

    async def get(self, job_id: str) -> None:
        """Send the status; 505 if the jobId is unknown."""
        await self.answer_status(await self.job(job_id))

    async def delete(self, job_id: str) -> None:
        """Cancel the job; with `purge=true` also delete its images from Imgur: 202, counts."""
        job = await self.job(job_id)
        action = self.jobs.purge if self.flag("purge", default=False) else self.jobs.cancel
        result = await self.jobs.act(action(job))
        response: CancelJson = {
            "job_id": job.job_id,
            "cancelled": result.cancelled,
            "purging": result.purging,
        }
        self.send_json(response, 202)


class UploadLinks(BaseHandler):
    """GET /v1/images -> `{"uploaded": [link, ...]}`: all links, those of the oldest job first."""

    async def get(self) -> None:
        """Stream all links, or send the page of `limit` and `after`."""
        limit = self.count_argument("limit", 0, 100_000)
        after = self.query("after")
        links = links_after(after, self.jobs, self.store)
        self.set_header("Content-Type", "application/json")
        if not limit:
            await self.send_parts(encoded_links(links))
            return
        read = self.limits.run_in_thread(lambda: list(islice(links, limit + 1)), "views")
        page = await read
        if len(page) > limit:
            self.link_next(limit=limit, after=page[limit - 1][0])
        response: LinksJson = {"uploaded": [link for _, link in page[:limit]]}
        self.send_json(response)


ROUTES: tuple[tuple[str, type[BaseHandler]], ...] = (
    ("/", PageHandler),
    ("/page/{file}", PageFileHandler),
    ("/v1/images", UploadLinks),
    ("/v1/images/upload", UploadHandler),
    ("/v1/images/upload/", UploadHandler),
    ("/v1/documents", DocumentsHandler),
    ("/v1/images/upload/{job_id}/document", JobDocumentHandler),
    ("/v1/images/upload/{job_id}/images", JobImagesHandler),
    ("/v1/images/upload/{job_id}/retry", RetryHandler),
    ("/v1/images/upload/{job_id}/check", CheckHandler),
    ("/v1/images/upload/{job_id}/rehost", RehostHandler),
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


async def serve(settings: Settings, temp_dir: Path, sandbox: SandboxProcess | None = None) -> int:
    """Run the service until SIGTERM or Ctrl-C; a second signal ends the process at once.

    `sandbox` is the one that `settings` lead to. Returns the exit status: 1 if a bug ended the
    service, so that a supervisor restarts it.
    """
    loop = asyncio.get_running_loop()
    stop, broken = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    def on_break() -> None:
        loop.call_soon_threadsafe(broken.set)
        loop.call_soon_threadsafe(stop.set)

    def on_thread_error(error: threading.ExceptHookArgs) -> None:
        name = error.thread.name if error.thread else "?"
        told = error.exc_type, error.exc_value or error.exc_type(), error.exc_traceback
        _log.critical("a bug ended a thread, so the service stops thread=%s", name, exc_info=told)
        on_break()

    threading.excepthook = on_thread_error
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal)
    # In a thread, so that signals are handled: reading 100,000 jobs takes seconds.
    app = await asyncio.to_thread(
        App, settings, temp_dir, ROUTES, on_break=on_break, sandbox=sandbox
    )
    logging.getLogger().addHandler(ErrorCounter(app.service.metrics.error_logged))
    _tune_collector()
    try:
        server, url = app.listen()
    except OSError:
        await asyncio.to_thread(app.close, _CLOSE_SECONDS, settings.grace_seconds)
        raise
    thread = ThreadPoolExecutor(1, thread_name_prefix="maintenance")
    maintain = functools.partial(loop.run_in_executor, thread, app.service.run_maintenance)
    maintenance = tornado.ioloop.PeriodicCallback(maintain, _MAINTENANCE_SECONDS * 1_000)
    maintenance.start()
    _log.info("listening on %s", url)
    if app.limits.access.is_open_to_all:
        _log.warning("other machines can use the service without a token: see --api-token")
    await stop.wait()
    maintenance.stop()
    _log.info("stopping, current uploads have %.0f s to end", settings.grace_seconds)
    _exit_after(settings.grace_seconds + 2 * _CLOSE_SECONDS)
    try:
        if not await asyncio.to_thread(app.close, _CLOSE_SECONDS, settings.grace_seconds):
            _log.warning("the service stopped before all of its threads had ended")
    except Exception:
        _log.exception("the service could not be closed")
        broken.set()
    server.stop()
    await app.events.close()
    await server.close_all_connections()
    return 1 if broken.is_set() else 0


def _exit_after(seconds: float) -> None:
    """End the process after so long if it still runs: a thread that the stop waits for may hang."""

    def give_up() -> None:
        _log.critical("the service has not stopped within %.0f s, so it is ended", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()


def _tune_collector() -> None:
    """Exclude the objects of the start from garbage collection, and collect less often.

    An image makes no reference cycles, but a collection at every 700 new objects took 1.5 to
    2.5 % of the time at 2,500 images/s.
    """
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)


def _raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard limit; the low one is for select(2)."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # on macOS the hard limit can be too high
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _temp_dir(settings: Settings) -> contextlib.AbstractContextManager[Path]:
    """The folder for temp files; a journal's outlives the process."""
    if settings.store and not settings.is_node:
        return contextlib.nullcontext(spool_folder(settings.store, settings.temp_dir))
    return temp_folder(settings.temp_dir)


def _exit(*_: object) -> None:
    """Handle a signal during the start; `finally` blocks undo what was begun."""
    sys.exit(0)


def _reason(error: Exception, settings: Settings) -> str:
    """Why the service cannot start, and for a port that is in use, what to do."""
    if isinstance(error, SandboxError):
        return f"the sandbox {error}. If its port is in use, --sandbox-port sets another one."
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port {settings.port} is in use. --port sets another one."
    return str(error)


def main(arguments: Sequence[str], *, program: str = "main.py") -> int:
    """Run the service; returns the exit status. Options are in `imageload.options`.

    `program` is the name of the command in help and error messages.
    """
    for number in _STOP_SIGNALS:
        signal.signal(number, _exit)
    settings = options.parse(arguments, os.environ, program=program)
    _raise_descriptor_limit()
    set_up_logging(settings.log_level, settings.log_format)
    try:
        if settings.store and not settings.is_node:
            # Before the sandbox, whose port would be taken too.
            check_free(Path(settings.store))
        with _temp_dir(settings) as temp_dir, imgur_or_sandbox(settings) as wired:
            return asyncio.run(serve(wired[0], temp_dir, wired[1]))
    except (OSError, SandboxError, StoreError) as error:
        print(f"{program}: the service cannot start: {_reason(error, settings)}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
