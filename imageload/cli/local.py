"""The work itself, in this process: `upload --local`, with no server anywhere.

    read_posted ─► ImageLoad.upload ─► Jobs ─► the same JSON views that the HTTP API answers

The one module of the command line that knows the service's own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from imageload import settings
from imageload.cli.printable import tell
from imageload.cli.source import Body, CommandError, Entry, Misuse, Page
from imageload.errors import Refused
from imageload.job import Snapshot
from imageload.sandbox_process import SandboxError
from imageload.schemas import WaitingJson, image_json, summary_json
from imageload.service import Service
from imageload.settings import SANDBOX_CLIENT_ID, Config
from imageload.web.base import moment_text
from imageload.web.lists import read_posted
from main import ROUTES, imgur_or_sandbox

# Beside a service that runs, the sandbox takes another port; and the screen is ours.
_OTHER_DEFAULTS = {"IMAGELOAD_SANDBOX_PORT": "0", "IMAGELOAD_LOG_LEVEL": "ERROR"}
_STOP_SECONDS = 10.0


class Local:
    """A Source whose jobs are done by `service`, and end with this process."""

    outlives_us = False

    def __init__(self, service: Service, config: Config) -> None:
        self._service, self._config = service, config
        self._jobs = service.image_load.job_list_s

    def submit(self, body: Body) -> list[str]:
        """Start the jobs of `body`, which is read as a POST's."""
        config = self._config
        try:
            orders = read_posted(
                body.content,
                body.content_type,
                max_urls=config.max_urls,
                max_lists=config.max_lists,
            )
            jobs = self._service.image_load.upload(orders)
        except Refused as refused:
            kind = Misuse if refused.status < 429 else CommandError
            raise kind(str(refused)) from None
        return [job.job_id for job in jobs]

    def entries(self, job_ids: Sequence[str]) -> list[Entry]:
        """The jobs with these ids."""
        summaries = [self._jobs[job_id].summary() for job_id in job_ids]
        return [{**summary_json(each), **self._waiting(each)} for each in summaries]

    def _waiting(self, job: Snapshot) -> WaitingJson:
        closed = self._service.uploads.closed if job.counts["downloaded"] else None
        return {
            "waiting_until": moment_text(closed.until - time.monotonic()) if closed else None,
            "waiting_for": closed.reason if closed else None,
        }

    def records(self, job_id: str, *, state: str | None = None, after: str | None = None) -> Page:  # noqa: ARG002 - there is one page
        """All of the job's records, on one page."""
        images = self._jobs[job_id].snapshot().images
        found = [image for image in images if state in (None, image.state)]
        return Page([{**image_json(image)} for image in found], None)

    def stop(self) -> None:
        """End every job as it stands: what had not landed fails with the code `shutdown`."""
        self._service.close(_STOP_SECONDS)


@contextlib.contextmanager
def running_locally(service_options: Sequence[str]) -> Iterator[Local]:
    """A Local with these options of `main.py`, and those of the environment.

    Raises CommandError where it cannot work. SIGTERM ends it as tidily as Ctrl-C does.
    """
    config = settings.parse(service_options, {**_OTHER_DEFAULTS, **os.environ})
    logging.basicConfig(level=config.log_level)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with contextlib.ExitStack() as stack:
            folder = tempfile.TemporaryDirectory(prefix="imageload-", dir=config.temp_dir or None)
            temp_dir = Path(stack.enter_context(folder))
            wired = stack.enter_context(imgur_or_sandbox(config))
            if wired.imgur_client_id == SANDBOX_CLIENT_ID:
                tell(
                    "No IMGUR_CLIENT_ID: the sandbox stands in for Imgur, and its links end with "
                    f"this command. The images stay in {config.sandbox_dir}."
                )
            local = Local(_service(wired, temp_dir), wired)
            stack.callback(local.stop)
            yield local
    except SandboxError as error:
        raise CommandError(f"The sandbox cannot start: {error}.") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _service(config: Config, temp_dir: Path) -> Service:
    try:
        return Service(config, temp_dir, ROUTES)
    except ValueError as error:
        raise Misuse(f"--allow-origin and --deny-origin: {error}") from None
