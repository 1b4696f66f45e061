"""The service: the three handlers of the contract, the one route table, wiring, start and stop.

python3 main.py --help        every option
python3 main.py               on http://127.0.0.1:8888, with the sandbox in place of Imgur
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import certifi
import msgspec
import tornado.httpserver
import tornado.netutil
import tornado.web

from imageload import config as options
from imageload.config import SANDBOX_CLIENT_ID, Config
from imageload.download import Bounds as DownloadBounds
from imageload.download import Downloader
from imageload.errors import BadRequest
from imageload.guard import Guard
from imageload.job import Job, status_json, summary_json
from imageload.loader import ImageLoad
from imageload.pool import Pool
from imageload.retry import RetryRule
from imageload.run import Road
from imageload.transfer import Bounds, Transfer
from imgurapi import ImgurAPI
from sandbox.child import SandboxError, SandboxProcess
from web.base import BaseHandler, NotFoundHandler
from web.jobs import JobImagesHandler
from web.lists import read_url_lists
from web.operations import HealthHandler
from web.page_handler import PageFileHandler, PageHandler

_log = logging.getLogger("imageload")


class UploadHandler(BaseHandler):
    """POST /v1/images/upload: lists of URLs in, `{"jobId": [id, ...]}` back; GET: the jobs."""

    def post(self) -> None:
        """Accept one job for each list in the body, all of them or none: 202, or a problem."""
        url_lists = read_url_lists(
            bytes(self.body),
            self.request.headers.get("Content-Type", ""),
            max_urls=self.config.max_urls,
            max_lists=self.config.max_lists,
        )
        job_ids = [job.job_id for job in self.image_load.upload(url_lists)]
        if len(job_ids) == 1:
            self.set_header("Location", f"/v1/images/upload/{job_ids[0]}")
        self.answer({"jobId": job_ids}, 202)

    async def get(self) -> None:
        """Answer the status of ?jobId=, or without one the jobs, newest first, a page at a time."""
        job_id = self.get_query_argument("jobId", None)
        if job_id is not None:
            job = self.job(job_id.removeprefix(":"))
            await self.answer_of_job(job, lambda: status_json(job.snapshot()))
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
        self.answer({"jobs": [summary_json(job.summary()) for job in page[:limit]]})


class JobStatusHandler(BaseHandler):
    """GET /v1/images/upload/<jobId>: where every URL of the job is; 505 for an unknown jobId."""

    async def get(self, job_id: str) -> None:
        """Answer the job's three lists; `:<jobId>` is taken too."""
        job = self.job(job_id)
        await self.answer_of_job(job, lambda: status_json(job.snapshot()))


class UploadLinks(BaseHandler):
    """GET /v1/images: `{"uploaded": [link, ...]}`, every link of every job, oldest job first."""

    async def get(self) -> None:
        """Stream all of the links, or the page that `limit` and `after` name."""
        limit = self.count_argument("limit", None, 100_000)
        after = self.get_query_argument("after", None)
        links = self._links(after)
        self.set_header("Content-Type", "application/json")
        if limit is not None:
            page = list(islice(links, limit + 1))
            if len(page) > limit:
                self.link_next(limit=limit, after=page[limit - 1][0])
            self.answer({"uploaded": [link for _, link in page[:limit]]})
            return
        self.write(b'{"uploaded":[')
        separator = b""
        while batch := [link for _, link in islice(links, 2_000)]:
            self.write(separator + msgspec.json.encode(batch)[1:-1])
            separator = b","
            await self.flush()
        await self.finish(b"]}")

    def _links(self, after: str | None) -> Iterator[tuple[str, str]]:
        """(place, link) of every link behind the place `after`, which is `<jobId>:<number>`."""
        jobs: Iterator[Job] = iter(self.image_load.jobs())
        done = 0
        if after is not None:
            job_id, _, number = after.partition(":")
            last = self.job(job_id)
            if not (number.isascii() and number.isdigit()):
                raise BadRequest("after is what the Link header of the page before has.")
            done = int(number[:9])
            jobs = itertools.dropwhile(lambda job: job is not last, jobs)
        for job in jobs:
            images = job.snapshot().images
            for number_of, image in enumerate(islice(images, done, None), done + 1):
                if image.link is not None:
                    yield f"{job.job_id}:{number_of}", image.link
            done = 0


ROUTES: tuple[tuple[str, type[BaseHandler]], ...] = (
    (r"/", PageHandler),
    (r"/page/([a-z0-9_.-]+)", PageFileHandler),
    (r"/v1/images", UploadLinks),
    (r"/v1/images/upload/?", UploadHandler),
    (r"/v1/images/upload/:?([^/]+)/images", JobImagesHandler),
    (r"/v1/images/upload/:?([^/]+)", JobStatusHandler),
    (r"/healthz", HealthHandler),
)


class Service:
    """Everything wired together: `image_load` does the work, `application` answers HTTP.

    `config` names Imgur in full: `imgur_client_id` is set. Temp files go into `temp_dir`.
    """

    def __init__(self, config: Config, temp_dir: Path) -> None:
        guard = Guard(config.allow_origin)
        bounds = Bounds(
            connect_seconds=config.connect_seconds,
            low_speed_bytes=config.low_speed_bytes,
            low_speed_seconds=config.low_speed_seconds,
            max_header_bytes=config.max_header_bytes,
            ca_file=config.ca_file or certifi.where(),
        )
        agent = config.user_agent
        origins = Transfer(bounds, user_agent=agent, refusal=guard.refusal)
        # Imgur may think about a large image for a while: only the deadline ends an upload.
        imgur = Transfer(replace(bounds, low_speed_bytes=0), user_agent=agent)
        self._transfers = (origins, imgur)
        self.imgur = ImgurAPI(
            config.imgur_client_id,
            config.imgur_client_secret,
            config.imgur_refresh_token or None,
            transfer=imgur,
            base_url=config.imgur_base_url or None,
            rapidapi_key=config.imgur_rapidapi_key or None,
            link_base=config.imgur_link_base,
            seconds=config.upload_seconds,
        )
        download_bounds = DownloadBounds(
            seconds=config.download_seconds,
            max_bytes=config.max_bytes,
            max_redirects=config.max_redirects,
        )
        road = Road(
            download=Downloader(origins, download_bounds, temp_dir),
            upload=functools.partial(self.imgur.land, anonymous=config.imgur_anonymous),
            downloads=Pool("download", config.downloads),
            uploads=Pool("upload", config.uploads),
            retry=RetryRule(
                max_tries=config.max_tries,
                seconds=config.retry_seconds,
                cap_seconds=config.retry_cap_seconds,
            ),
            window=config.job_window,
        )
        self.image_load = ImageLoad(
            road,
            max_active_jobs=config.max_active_jobs,
            max_waiting_jobs=config.max_waiting_jobs,
        )
        arguments = {"image_load": self.image_load, "config": config}
        self.application = tornado.web.Application(
            [(path, handler, arguments) for path, handler in ROUTES],
            default_handler_class=NotFoundHandler,
            default_handler_args=arguments,
            log_function=_log_request,
        )
        self._config = config

    def listen(self) -> tuple[tornado.httpserver.HTTPServer, str]:
        """The server, listening on the running event loop, and its URL; OSError if it cannot."""
        config = self._config
        sockets = tornado.netutil.bind_sockets(config.port, config.address or None)
        server = tornado.httpserver.HTTPServer(
            self.application,
            max_body_size=config.max_body_bytes,
            max_header_size=64 * 2**10,
            idle_connection_timeout=75,
            body_timeout=60,
        )
        server.add_sockets(sockets)
        host, port = sockets[0].getsockname()[:2]
        return server, f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self, seconds: float) -> bool:
        """End every transfer and job as it stands; True when no thread of ours is left."""
        for transfer in self._transfers:
            transfer.abort()
        return self.image_load.close(seconds)


def _log_request(handler: tornado.web.RequestHandler) -> None:
    status, request = handler.get_status(), handler.request
    level = logging.INFO if status >= 400 else logging.DEBUG
    seconds = request.request_time()
    _log.log(level, "%s %s %d %.3f s", request.method, request.path, status, seconds)


async def serve(config: Config, temp_dir: Path) -> None:
    """Run the service until SIGTERM or Ctrl-C; a second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    service = Service(config, temp_dir)
    server, url = service.listen()
    _log.info("listening on %s", url)
    await stop.wait()
    _log.info("stopping")
    server.stop()
    if not await loop.run_in_executor(None, service.close, 10.0):
        _log.warning("threads were still at work when the service stopped")
    await server.close_all_connections()


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


def main(arguments: Sequence[str]) -> int:
    """The process: its exit status. Options are in `imageload.config`."""
    config = options.parse(arguments, os.environ)
    logging.basicConfig(
        level=config.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    try:
        temp_dir = Path(tempfile.mkdtemp(prefix="imageload-", dir=config.temp_dir or None))
    except OSError as error:
        print(f"main.py: no temp files can be written: {error}", file=sys.stderr)
        return 1
    try:
        with imgur_or_sandbox(config) as wired:
            asyncio.run(serve(wired, temp_dir))
    except (OSError, SandboxError) as error:
        print(f"main.py: the service cannot start: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"main.py: --allow-origin: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
