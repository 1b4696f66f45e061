"""Everything wired together: what does the work, and what answers HTTP for it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import certifi
import tornado.netutil
import tornado.web

from imageload.convert.fit import FittingDownloads
from imageload.convert.pool import Converters, Rules
from imageload.fetch.download import Bounds as DownloadBounds
from imageload.fetch.download import Downloader
from imageload.fetch.guard import Guard
from imageload.fetch.hosts import Hosts
from imageload.fetch.tempfiles import TempBytes, TempFiles
from imageload.job import Change, Job
from imageload.loader import ImageLoad, Keep
from imageload.observers.metrics import Metrics
from imageload.observers.webhooks import Callbacks
from imageload.retry import RetryRule
from imageload.road import Road
from imageload.settings import Config
from imageload.sharing import Sharing
from imageload.store import Restored, Store, open_store
from imageload.targets.imgur.quota import Quota, Terms
from imageload.targets.imgur.uploader import Uploads
from imageload.transport.engine import Engine, Way
from imageload.transport.transfer import Bounds, Transfer
from imageload.web.access import Access, read_tokens
from imageload.web.base import BaseHandler, NotFoundHandler, waiting_of
from imageload.web.changes import Changes
from imageload.web.idempotency import IdempotencyKeys
from imageload.web.limits import MemoryLimit, RequestLimits
from imageload.web.notes import current_token, keep_budgets, keep_token, restore_budgets
from imageload.web.scrape import Gauges, Scrape
from imageload.web.server.connections import BACKLOG, Server
from imageload.web.server.limits import most_streams
from imgurapi import ImgurAPI

_log = logging.getLogger(__name__)

_CALLBACK_WAITS = (2, 20, 120)  # times --retry-seconds
# As Node's: a head of 64 kB in tiny fields would hold up the event loop for 60 ms.
_MAX_HEAD_BYTES = 16 * 2**10

Routes = Sequence[tuple[str, type[BaseHandler]]]
"""Paths with `{parameters}`, and what answers there."""

# A jobId may have before it the colon that the first version's documents had.
_PARAMETERS = {"{job_id}": ":?([^/]+)", "{file}": "([a-z0-9_.-]+)"}


class Service:
    """`image_load` does the work, `application` answers HTTP by `routes`, within `limits`.

    `config` names Imgur in full: `imgur_client_id` is set. Temp files go into `temp_dir`.
    """

    def __init__(
        self,
        config: Config,
        temp_dir: Path,
        routes: Routes,
        on_break: Callable[[], object] | None = None,
    ) -> None:
        """`on_break` is called, from a thread, where a bug leaves the service without transfers."""
        self._config = config
        self._engine = Engine(on_break)
        self._transfers = origins, callbacks, imgur = _transfers(config)
        self._metrics = Metrics()
        self._server: Server | None = None
        self._files = files = TempFiles(temp_dir)
        # What is under way may come on top of what is held.
        temp_bytes = TempBytes(config.temp_bytes - config.downloads * config.max_bytes)
        restored = open_store(config.journal, self._metrics.commit_clock)
        self.store = restored.store
        self.journal = self.store if self.store.is_durable else None
        self.uploads = self._ways_to_imgur(imgur)
        self.changes = Changes(most_streams(config), functools.partial(waiting_of, self.uploads))
        self.uploads.watch(self.changes, self.changes.nudge)
        self._downloads = self._fitting_downloads(origins, files)
        self._callbacks = self._telling(callbacks, lambda job, change: road.apply(job, change))
        road = self._road(files, temp_bytes)
        self.image_load = ImageLoad(
            road,
            max_active_jobs=config.max_active_jobs,
            max_waiting_jobs=config.max_waiting_jobs,
            ledger=self.journal,
            keep=Keep(jobs=config.keep_jobs, hours=config.keep_hours),
        )
        self.limits = RequestLimits(
            Access(config, read_tokens(config)),
            IdempotencyKeys(self.image_load.job_list_s),
            MemoryLimit(config.max_bodies_bytes),
        )
        self._scrape = Scrape(self._metrics)
        self._scrape.add(self._gauges(files, temp_bytes))
        self.application = self._application(routes)
        self._begin(restored)

    def _ways_to_imgur(self, imgur: Transfer) -> Uploads:
        config = self._config
        quota, apis = _imgur(config, imgur, self.journal, self._metrics)
        self.imgur = apis[0]
        return Uploads(
            self._engine,
            imgur,
            config.uploads,
            apis=apis,
            quota=quota,
            retry=_retry_rule(config),
            anonymous=config.imgur_anonymous,
            outage_seconds=config.outage_seconds,
            clock=self._metrics.clock("upload"),
        )

    def _road(self, files: TempFiles, temp_bytes: TempBytes) -> Road:
        config = self._config
        recorders = [self.journal.record] if self.journal is not None else []
        return Road(
            download=self._downloads,
            upload=self.uploads,
            retry=_retry_rule(config),
            hosts=Hosts(
                per_host=config.per_host,
                failures=config.host_failures,
                rest_seconds=config.host_rest_seconds,
                max_wait_seconds=config.host_wait_seconds,
            ),
            sharing=Sharing(),
            discard=files.give_back,
            window=config.job_window,
            outage_seconds=config.outage_seconds,
            grace_seconds=config.grace_seconds,
            temp_bytes=temp_bytes,
            # First what is written down, then what is told.
            readers=(*recorders, self._metrics, self.changes, self._callbacks),
            record=self.journal,
        )

    def _telling(self, transfer: Transfer, apply: Callable[[Job, Change], None]) -> Callbacks:
        config = self._config
        return Callbacks(
            self._engine,
            transfer,
            apply,
            seconds=config.callback_seconds,
            waits=[config.retry_seconds * times for times in _CALLBACK_WAITS],
            secret=config.callback_secret,
        )

    def _gauges(self, files: TempFiles, temp_bytes: TempBytes) -> Gauges:
        return Gauges(
            image_load=self.image_load,
            uploads=self.uploads,
            changes=self.changes,
            journal=self.journal,
            files=files,
            temp_bytes=temp_bytes,
            pools={
                "download": lambda: self._downloads.pool,
                "convert": lambda: self._downloads.conversions,
                "upload": lambda: self.uploads.pool,
            },
            connections=lambda: self._server.connections if self._server is not None else 0,
        )

    def _application(self, routes: Routes) -> tornado.web.Application:
        arguments = {
            "image_load": self.image_load,
            "config": self._config,
            "uploads": self.uploads,
            "journal": self.journal,
            "changes": self.changes,
            "scrape": self._scrape,
        }
        return tornado.web.Application(
            [(_pattern(path), handler, {**arguments, "route": path}) for path, handler in routes],
            default_handler_class=NotFoundHandler,
            default_handler_args=arguments,
            log_function=BaseHandler.log,
            limits=self.limits,
        )

    def _begin(self, restored: Restored) -> None:
        """Start the engine, learn how Imgur's budgets stand, and go on with jobs of before."""
        self._engine.start()
        quota = self.uploads.quota
        is_known = self.journal is not None and restore_budgets(self.journal, quota, self._config)
        if not (is_known and restored.was_closed):
            self.uploads.ask()
        self.image_load.restore(restored.jobs)
        self._callbacks.restore(restored.jobs)

    def _fitting_downloads(self, origins: Transfer, files: TempFiles) -> FittingDownloads:
        config = self._config
        bounds = DownloadBounds(
            seconds=config.download_seconds,
            max_bytes=config.max_bytes,
            max_pixels=config.max_pixels,
            max_redirects=config.max_redirects,
            downgrade=config.allow_downgrade,
        )
        downloader = Downloader(origins, bounds, files)
        clock = self._metrics.clock("download")
        way = Way(self._engine.lane(origins, config.downloads, clock=clock), downloader.steps)
        rules = Rules(
            convert=config.convert,
            shrink=config.shrink,
            max_bytes=config.imgur_max_bytes,
            max_pixels=config.max_pixels,
            seconds=config.convert_seconds,
        )
        clock = self._metrics.clock("convert")
        return FittingDownloads(
            way, lambda: Converters(rules, files, workers=config.converters, clock=clock)
        )

    def listen(self) -> tuple[Server, str]:
        """The server, listening on the running event loop, and its URL; OSError if it cannot."""
        config = self._config
        sockets = tornado.netutil.bind_sockets(config.port, config.address or None, backlog=BACKLOG)
        # Handlers bound the bodies, for they can say so; the server would break off.
        self._server = server = Server(
            self.application,
            config=config,
            on_close=self._scrape.connection_closed,
            max_header_size=_MAX_HEAD_BYTES,
            max_body_size=2**62,
        )
        server.add_sockets(sockets)
        host, port = sockets[0].getsockname()[:2]
        return server, f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run_maintenance(self) -> None:
        """Save budgets, retire old jobs, remove old temp files. Blocks: call it in a thread."""
        self._keep_budgets()
        self.image_load.retire()
        self._files.tidy()

    def _keep_budgets(self) -> None:
        if self.journal is not None:
            keep_budgets(self.journal, self.uploads.quota, self._config)

    def close(self, seconds: float, grace: float = 0.0) -> bool:
        """End every job as it stands; True when no thread of ours is left.

        Uploads under way have `grace` seconds to end, and then all has `seconds`. Meanwhile
        requests are answered, and POSTs refused.
        """
        self.limits.close()
        self._callbacks.stop()
        self.image_load.stop()
        self._downloads.stop()
        self.uploads.stop()
        self.image_load.close(grace)
        for transfer in self._transfers:
            transfer.abort()
        ended = self._engine.close(seconds / 2)
        self._downloads.close()
        ended = self.image_load.close(seconds / 2) and ended
        self._keep_budgets()
        return self.store.close(seconds) and ended


def _retry_rule(config: Config) -> RetryRule:
    return RetryRule(
        max_tries=config.max_tries,
        seconds=config.retry_seconds,
        cap_seconds=config.retry_cap_seconds,
        retry_lost=config.retry_lost,
    )


def _transfers(config: Config) -> tuple[Transfer, Transfer, Transfer]:
    """The one for origins and the one for callbacks are under the guard, that for Imgur is not."""
    ports = [int(port) for port in config.origin_ports]
    guard = Guard(config.allow_origin, config.deny_origin, ports)
    bounds = Bounds(
        connect_seconds=config.connect_seconds,
        low_speed_bytes=config.low_speed_bytes,
        low_speed_seconds=config.low_speed_seconds,
        max_header_bytes=config.max_header_bytes,
        ca_file=config.ca_file or certifi.where(),
    )
    agent, proxy = config.user_agent, config.origin_proxy
    refusal = None if proxy else guard.refusal
    origins = Transfer(bounds, user_agent=agent, refusal=refusal, proxy=proxy)
    # Imgur may think about a large image for a while, and who is called back about what it was
    # told: only the deadline ends these.
    patient = replace(bounds, low_speed_bytes=0)
    callbacks = Transfer(patient, user_agent=agent, refusal=refusal, proxy=proxy)
    imgur = Transfer(patient, user_agent=agent)
    return origins, callbacks, imgur


def _imgur(
    config: Config, transfer: Transfer, journal: Store | None, metrics: Metrics
) -> tuple[Quota, list[ImgurAPI]]:
    """The budgets of every client id, and an ImgurAPI for each; an account has only the first."""
    clients = config.clients if config.imgur_anonymous else config.clients[:1]
    terms = Terms(
        hour=config.quota_hour_seconds,
        day=config.quota_day_seconds,
        unhinted_wait=config.quota_wait_seconds,
        blocked_wait=config.blocked_wait_seconds,
    )
    quota = Quota(len(clients), terms, on_end=metrics.imgur_request_ended)
    token, on_token = config.imgur_refresh_token, None
    if journal is not None and token:
        on_token = functools.partial(keep_token, journal, token)
        token = current_token(journal, token)
    apis = []
    for (client_id, hour, day), meter in zip(clients, quota.meters, strict=True):
        meter.presume(hour, day)
        apis.append(
            ImgurAPI(
                client_id,
                config.imgur_client_secret,
                token or None,
                transfer=transfer,
                base_url=config.imgur_base_url or None,
                rapidapi_key=config.imgur_rapidapi_key or None,
                link_base=config.imgur_link_base,
                seconds=config.upload_seconds,
                meter=meter,
                on_refresh_token=on_token,
            )
        )
    return quota, apis


def _pattern(path: str) -> str:
    for parameter, pattern in _PARAMETERS.items():
        path = path.replace(parameter, pattern)
    return path
