"""Builds the parts of the service and connects them. Knows no HTTP server."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import certifi

from imageload import saved
from imageload.checks import Checks
from imageload.convert.pool import NEEDS, Converters
from imageload.convert.pool import Rules as ConversionRules
from imageload.dedupe import Dedupe
from imageload.documents.pool import Documents
from imageload.documents.pool import Rules as DocumentRules
from imageload.errors import StoreError
from imageload.fetch.download import DownloadBounds, Downloader
from imageload.fetch.guard import Guard
from imageload.fetch.hosts import HostRules, Hosts
from imageload.fetch.probe import OwnLinks, Prober
from imageload.fetch.spool import Spool
from imageload.fetch.tempfiles import TempBytes, TempFiles
from imageload.image import Report
from imageload.job import Change, Job
from imageload.jobs import WindowRules
from imageload.loader import Capacity, ImageLoad
from imageload.observers.metrics import Metrics, Phase
from imageload.observers.webhooks import WebhookRules, Webhooks
from imageload.options import location
from imageload.pipeline import AlbumLinks, Observer, Pipeline
from imageload.registry import Registry, Watch
from imageload.retry import RetryRule
from imageload.sandbox_process import SandboxProcess
from imageload.settings import SANDBOX_CLIENT_ID, Settings
from imageload.store import Store, open_store
from imageload.targets import Takes, Target
from imageload.targets.imgur.albums import album_links
from imageload.targets.imgur.breaker import Terms
from imageload.targets.imgur.quota import Quotas
from imageload.targets.imgur.uploader import Imgur
from imageload.targets.s3.bucket import Bucket, Keys
from imageload.targets.s3.target import S3
from imageload.targets.uploads import Uploads
from imageload.transport.curl import TransferLoop, Transport
from imageload.transport.request import Bounds
from imageload.transport.slots import Pool, Slots
from imageload.tuning import Tuning
from imgurapi import ImgurAPI

if TYPE_CHECKING:
    from imageload.cluster.lease import LeaseRules
    from imageload.cluster.node import Node

_CALLBACK_WAITS = (2, 20, 120)  # times `retry_seconds`
_S3_LONGEST_WAIT_SECONDS = 60.0


class Service:
    """The parts of one service; `image_load` takes the jobs.

    `settings` name Imgur in full: `imgur_client_id` is set. Temp files go into `temp_dir`. With a
    journal, those of its open images are used that are there; all others there are deleted.
    """

    def __init__(
        self,
        settings: Settings,
        temp_dir: Path,
        *,
        tuning: Tuning | None = None,
        observers: Iterable[Observer] = (),
        on_break: Callable[[], object] | None = None,
        sandbox: SandboxProcess | None = None,
        watch: Watch | None = None,
    ) -> None:
        """`observers` are called with every Change, on the transfer loop, once it is recorded.

        `on_break` is called, on another thread, when a bug ends a thread that the service needs.
        `sandbox` is the one that `settings` lead to, if this service started it. `watch` knows
        the jobs that have listeners, which a node follows.
        """
        tuning = tuning or Tuning()
        self._settings, self._tuning, self.sandbox = settings, tuning, sandbox
        self.metrics = Metrics()
        self.transfers = TransferLoop(on_break)
        # Before the journal is opened, as they raise ValueError if an option is wrong.
        self._transports = _transports(settings, tuning, self.transfers)
        origins, callbacks, *of_target = self._transports
        self._webhooks = Webhooks(callbacks, _webhook_rules(settings, tuning), self._apply)
        self.node = None
        was_closed = True
        if settings.is_node:
            self.node = _node(settings, self.metrics, on_break)
            self.store: Store = self.node.store
            self._restored_jobs: list[Job] = []
            kept: Mapping[Job, Mapping[int, Report]] = {}
        else:
            restored = open_store(settings.store, self.metrics.commit_clock, on_break)
            self.store, self._restored_jobs, was_closed, kept = restored
        self.files = TempFiles(temp_dir)
        # Copies that are being converted come on top: --imgur-max-bytes for each of two workers.
        self.temp_bytes = TempBytes(settings.temp_bytes, settings.max_bytes)
        spool = Spool(self.files, self.temp_bytes, kept)
        self.target = _target(settings, tuning, of_target, self.store, self.metrics)
        self._knows_budgets = True  # on a node, they come with the leases
        if not self.target.has_budgets:
            self._knows_budgets = False
        elif self.node is None:
            is_known = saved.restore_budgets(self.store, self.target.quotas, _whose(settings))
            self._knows_budgets = is_known and was_closed
        self._downloads = Slots(
            settings.downloads,
            clock=self.metrics.clock("download"),
            on_resize=lambda slots: origins.keep_connections(2 * slots),
        )
        conversion = _conversion_rules(settings, tuning, self.target)
        clock = self.metrics.clock("convert")
        self.converters = Converters(conversion, self.files, workers=tuning.converters, clock=clock)
        hosts, bounds = Hosts(_host_rules(settings, tuning)), _download_bounds(settings, tuning)
        own_links = OwnLinks(self.target.link_base, self.target.has)
        self.checks = Checks(
            self.transfers,
            self.store,
            Prober(origins, of_target[0], hosts, bounds, own_links),
            Slots(tuning.check_slots),
            observe=self.metrics.link_checked,
            is_shared=settings.is_node,
        )
        self.documents = Documents(
            _document_rules(tuning), self.transfers.act, self.metrics.document_ended
        )
        self._pipeline = Pipeline(
            downloader=Downloader(origins, bounds, self.files),
            downloads=self._downloads,
            converters=self.converters,
            target=self.target,
            hosts=hosts,
            # The sandbox has none of Imgur's albums.
            album_links=_album_links(settings, self.target),
            dedupe=Dedupe(keeps_links=not settings.is_node),
            retry=_retry_rule(settings, tuning),
            files=self.files,
            temp_bytes=self.temp_bytes,
            spool=spool,
            store=self.store,
            observers=(self.store.record, spool, self.metrics, *observers, self._webhooks),
        )
        window = tuning.job_window or settings.downloads + settings.uploads
        self.image_load = ImageLoad(
            self.transfers,
            self._pipeline,
            WindowRules(places=window, downloads=settings.downloads),
            Capacity(
                max_active_jobs=settings.max_active_jobs,
                max_waiting_jobs=tuning.max_waiting_jobs,
                keep_jobs=settings.keep_jobs,
                jobs_bytes=settings.jobs_bytes,
                keep_hours=tuning.keep_hours,
            ),
        )
        self.registry: Registry = self.image_load
        if self.node is not None:
            from imageload.cluster.mirror import MirrorRules

            rules = MirrorRules(
                most_bytes=settings.jobs_bytes,
                dead_seconds=settings.dead_seconds,
                leases=_lease_rules(settings, tuning),
                terms=self.target.quotas.terms,
                has_budgets=self.target.has_budgets,
                own_closed=self.image_load.closed,
            )
            self.registry = self.node.mirror(observers, watch, rules)

    def start(self) -> None:
        """Start the transfer loop, ask the target, and go on with the jobs of before."""
        self.transfers.start()
        if not self._knows_budgets:
            self.transfers.run(self.target.ask())
        jobs, self._restored_jobs = self._restored_jobs, []
        self.image_load.restore(jobs)
        self.transfers.loop.call_soon_threadsafe(self._webhooks.restore, jobs)
        if self.node is not None:
            rules, seconds = _lease_rules(self._settings, self._tuning), self._tuning.park_seconds
            tell, target, transfers = self._webhooks.tell, self.target, self.transfers
            self.node.start(self.image_load, tell, target, transfers, rules, seconds)

    def pools(self) -> dict[Phase, Pool]:
        """How full each phase of the pipeline is."""
        return {
            "download": self._downloads.pool,
            "convert": self.converters.pool,
            "upload": self.target.pool,
        }

    def run_maintenance(self) -> None:
        """To be called now and then, from another thread; blocks."""
        self._save_budgets()
        if self.node is not None:
            self.node.retire(self._settings.keep_jobs, self._tuning.keep_hours)
        self.transfers.run(self._retire_and_tidy())

    async def _retire_and_tidy(self) -> None:
        await self.image_load.retire()
        self.files.tidy()

    def close(self, seconds: float, grace_seconds: float = 0.0) -> bool:
        """End every job as it stands; True when no thread of ours is left.

        Uploads that are being sent have `grace_seconds` to land, and then everything has `seconds`.
        """
        self.registry.is_closing = True
        if self.node is not None:
            self.node.stop()
        self.transfers.loop.call_soon_threadsafe(self._webhooks.stop)
        ended = self.image_load.close(seconds / 2, grace_seconds)
        self.transfers.run(self._close_transfers())
        ended = self.transfers.close(seconds / 2) and ended
        if self.node is not None:
            ended = self.node.close(seconds) and ended
        self._save_budgets()
        self.files.close()  # before the journal, whose next process has the same folder
        return self.store.close(seconds) and ended

    async def _close_transfers(self) -> None:
        await self.converters.close()
        await self.documents.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for transport in self._transports:
            transport.close()

    def _save_budgets(self) -> None:
        if self.node is None and self.target.has_budgets:
            saved.save_budgets(self.store, self.target.quotas, _whose(self._settings))

    def _apply(self, job: Job, change: Change) -> None:
        self._pipeline.apply(job, change)


def _node(settings: Settings, metrics: Metrics, on_break: Callable[[], object] | None) -> Node:
    """Raises StoreError, also if the extra `cluster` is not installed."""
    try:
        from imageload.cluster.node import Node
        from imageload.cluster.worker import WorkerRules
    except ModuleNotFoundError as error:
        raise StoreError(
            f"--store=postgresql://... needs the module {error.name}: install the extra "
            "`cluster` (in a checkout: pip install '.[cluster]')."
        ) from None
    rules = None
    if settings.role != "api":
        rules = WorkerRules(at_once=settings.max_active_jobs, dead_seconds=settings.dead_seconds)
    return Node(settings.store, rules, metrics.commit_clock, on_break)


def _transports(settings: Settings, tuning: Tuning, transfers: TransferLoop) -> list[Transport]:
    """For origins and callbacks, under the guard, and for the target, without it.

    A bucket has two: one signs requests.
    """
    guard = Guard(settings.allow_origin, settings.deny_origin, tuning.origin_ports)
    bounds = Bounds(
        connect_seconds=tuning.connect_seconds,
        low_speed_bytes=tuning.low_speed_bytes,
        low_speed_seconds=tuning.low_speed_seconds,
        max_header_bytes=tuning.max_header_bytes,
        ca_file=tuning.ca_file or os.environ.get("SSL_CERT_FILE") or certifi.where(),
    )
    # A target may think about a large image for a while, and so may the receiver of a callback:
    # their deadlines alone end these requests.
    patient = replace(bounds, low_speed_bytes=0)
    agent, proxy = settings.user_agent, settings.origin_proxy
    refusal = None if proxy else guard.refusal
    made = [
        Transport(transfers, bounds, user_agent=agent, refusal=refusal, proxy=proxy),
        Transport(transfers, patient, user_agent=agent, refusal=refusal, proxy=proxy),
        Transport(transfers, patient, user_agent=agent),
    ]
    if settings.is_s3:
        signing = _keys(settings).signing(settings.s3_region)
        made.append(Transport(transfers, patient, user_agent=agent, signing=signing))
    return made


def _target(
    settings: Settings,
    tuning: Tuning,
    transports: Sequence[Transport],
    store: Store,
    metrics: Metrics,
) -> Target:
    """Raises ValueError if an option is wrong."""
    if settings.is_s3:
        plain, signed = transports
        return _s3(settings, tuning, plain, signed, metrics)
    (plain,) = transports
    return _imgur(settings, tuning, plain, store, metrics)


def _s3(
    settings: Settings, tuning: Tuning, plain: Transport, signed: Transport, metrics: Metrics
) -> S3:
    """The bucket."""
    terms = Terms(
        unhinted_wait=tuning.bucket_wait_seconds,
        longest_wait=_S3_LONGEST_WAIT_SECONDS,
        outage_seconds=settings.outage_seconds,
        lease_seconds=tuning.lease_seconds,
        throttled="throttled",
        place="The bucket's service",
    )
    quotas = Quotas(1, terms, on_end=metrics.target_request_ended)
    return S3(
        Bucket(location(settings), _keys(settings), signed, plain, settings.upload_seconds),
        _uploads(settings, tuning, signed, quotas, metrics),
    )


def _uploads(
    settings: Settings, tuning: Tuning, transport: Transport, quotas: Quotas, metrics: Metrics
) -> Uploads:
    return Uploads(
        quotas,
        settings.uploads,
        retry=_retry_rule(settings, tuning).wait,
        clock=metrics.clock("upload"),
        on_resize=lambda slots: transport.keep_connections(2 * slots),
    )


def _keys(settings: Settings) -> Keys:
    return Keys(
        key_id=settings.aws_access_key_id,
        secret=settings.aws_secret_access_key,
        token=settings.aws_session_token,
    )


def _imgur(
    settings: Settings, tuning: Tuning, transport: Transport, store: Store, metrics: Metrics
) -> Imgur:
    """Imgur with a client for each client id."""
    ids = _clients(settings)
    terms = Terms(
        hour=tuning.quota_hour_seconds,
        day=tuning.quota_day_seconds,
        unhinted_wait=tuning.quota_wait_seconds,
        blocked_wait=tuning.blocked_wait_seconds,
        outage_seconds=settings.outage_seconds,
        lease_seconds=tuning.lease_seconds,
    )
    quotas = Quotas(len(ids), terms, on_end=metrics.target_request_ended)
    given = settings.imgur_refresh_token
    clients = []
    for (client_id, hour, day), quota in zip(ids, quotas.each, strict=True):
        quota.assume_limits(hour, day)
        client = ImgurAPI(
            client_id,
            settings.imgur_client_secret,
            given or None,
            transport=transport,
            base_url=settings.imgur_base_url or None,
            rapidapi_key=settings.imgur_rapidapi_key or None,
            link_base=settings.imgur_link_base,
            seconds=settings.upload_seconds,
            quota=quota,
            tokens=saved.RefreshTokens(store, given),
        )
        clients.append(client)
    return Imgur(
        clients,
        _uploads(settings, tuning, transport, quotas, metrics),
        anonymous=settings.imgur_anonymous,
        takes=Takes(tuple(NEEDS), settings.imgur_max_bytes),
        link_base=settings.imgur_link_base,
    )


def _whose(settings: Settings) -> str:
    """Names the Imgur, the account and the client ids, with limits, that saved budgets belong to.

    The sandbox with Imgur's limits and the one without them are two.
    """
    return json.dumps([target_name(settings), settings.clients])


def is_sandbox(settings: Settings) -> bool:
    """True if the sandbox stands in for Imgur."""
    return settings.imgur_client_id == SANDBOX_CLIENT_ID


def _album_links(settings: Settings, target: Target) -> AlbumLinks | None:
    """How the pipeline asks for an album; None: the target cannot tell of albums of others."""
    albums = target.albums
    if albums is None or is_sandbox(settings):
        return None
    return lambda job_id, name: album_links(functools.partial(albums.request, job_id), name)


def target_name(settings: Settings) -> str:
    """Names the Imgur and the account, or the bucket."""
    if settings.is_s3:
        return json.dumps([settings.s3_endpoint, settings.target])
    account = "" if settings.imgur_anonymous else settings.imgur_refresh_token
    is_limited = is_sandbox(settings) and settings.sandbox_limits
    return json.dumps([settings.imgur_base_url, account, is_limited])


def _clients(settings: Settings) -> list[tuple[str, int | None, int | None]]:
    """The client ids that are used; an account has only the first."""
    return settings.clients if settings.imgur_anonymous else settings.clients[:1]


def _lease_rules(settings: Settings, tuning: Tuning) -> LeaseRules:
    from imageload.cluster.lease import LeaseRules

    return LeaseRules(
        target=target_name(settings),
        clients=[""] if settings.is_s3 else [client_id for client_id, _, _ in _clients(settings)],
        egress=settings.egress or socket.gethostname(),
        seconds=tuning.lease_seconds,
    )


def _conversion_rules(settings: Settings, tuning: Tuning, target: Target) -> ConversionRules:
    """Converts and strips as the target needs it, and more if the options say so."""
    takes = target.takes
    return ConversionRules(
        needs=tuple(NEEDS) if settings.convert else takes.refused,
        convert=settings.convert is not False,
        shrink=settings.shrink,
        strip=settings.strip == "true" or (settings.strip == "auto" and not target.strips_metadata),
        must_strip=settings.strip == "true",
        max_bytes=settings.imgur_max_bytes if settings.shrink else takes.max_bytes,
        max_pixels=tuning.max_pixels,
        max_memory=settings.convert_bytes,
        seconds=tuning.convert_seconds,
    )


def _document_rules(tuning: Tuning) -> DocumentRules:
    return DocumentRules(
        seconds=tuning.document_seconds,
        max_memory=tuning.document_bytes,
    )


def _download_bounds(settings: Settings, tuning: Tuning) -> DownloadBounds:
    return DownloadBounds(
        seconds=settings.download_seconds,
        max_bytes=settings.max_bytes,
        max_pixels=tuning.max_pixels,
        max_redirects=tuning.max_redirects,
        downgrade=tuning.allow_downgrade,
        rejected=frozenset(digest.lower() for digest in settings.reject_sha256),
    )


def _host_rules(settings: Settings, tuning: Tuning) -> HostRules:
    return HostRules(
        per_host=settings.per_host,
        failures=tuning.host_failures,
        rest_seconds=tuning.host_rest_seconds,
        give_up_seconds=tuning.host_give_up_seconds,
        max_pause_seconds=tuning.host_wait_seconds,
    )


def _retry_rule(settings: Settings, tuning: Tuning) -> RetryRule:
    return RetryRule(
        max_tries=settings.max_tries,
        seconds=tuning.retry_seconds,
        cap_seconds=tuning.retry_cap_seconds,
        retry_lost=settings.retry_lost,
    )


def _webhook_rules(settings: Settings, tuning: Tuning) -> WebhookRules:
    return WebhookRules(
        seconds=tuning.callback_seconds,
        waits=[tuning.retry_seconds * times for times in _CALLBACK_WAITS],
        secret=settings.callback_secret,
    )
