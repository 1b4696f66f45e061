"""Builds the parts of the service and connects them. Knows no HTTP server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import certifi

from imageload import saved
from imageload.checks import Checks
from imageload.convert.pool import Converters
from imageload.dedupe import Dedupe
from imageload.documents.pool import Documents
from imageload.errors import StoreError
from imageload.fetch.download import Downloader
from imageload.fetch.guard import Guard
from imageload.fetch.hosts import Hosts
from imageload.fetch.probe import OwnLinks, Prober
from imageload.fetch.spool import Spool
from imageload.fetch.tempfiles import TempBytes, TempFiles
from imageload.image import Report
from imageload.job import Change, Job
from imageload.loader import ImageLoad
from imageload.observers.metrics import Metrics, Phase
from imageload.observers.webhooks import Webhooks
from imageload.pipeline import Observer, Pipeline
from imageload.registry import Registry, Watch
from imageload.sandbox_process import SandboxProcess
from imageload.service.rules import (
    capacity,
    conversion_rules,
    document_rules,
    download_bounds,
    host_rules,
    retention,
    retry_rule,
    webhook_rules,
    window_rules,
)
from imageload.service.target import album_links_of, budgets_key, keys, lease_rules, make_target
from imageload.settings import Settings
from imageload.store import Store
from imageload.store.opening import open_store
from imageload.transport.curl import TransferLoop, Transport
from imageload.transport.request import Bounds
from imageload.transport.slots import Pool, Slots
from imageload.tuning import Tuning

if TYPE_CHECKING:
    from imageload.cluster.node import Node


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
        self._webhooks = Webhooks(callbacks, webhook_rules(settings, tuning), self._apply)
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
        self.target = make_target(settings, tuning, of_target, self.store, self.metrics)
        self._knows_budgets = True  # on a node, they come with the leases
        if not self.target.has_budgets:
            self._knows_budgets = False
        elif self.node is None:
            is_known = saved.restore_budgets(self.store, self.target.quotas, budgets_key(settings))
            self._knows_budgets = is_known and was_closed
        self._downloads = Slots(
            settings.downloads,
            clock=self.metrics.clock("download"),
            on_resize=lambda slots: origins.keep_connections(2 * slots),
        )
        conversion = conversion_rules(settings, tuning, self.target)
        clock = self.metrics.clock("convert")
        self.converters = Converters(conversion, self.files, workers=tuning.converters, clock=clock)
        hosts, bounds = Hosts(host_rules(settings, tuning)), download_bounds(settings, tuning)
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
            document_rules(tuning), self.transfers.act, self.metrics.document_ended
        )
        self._pipeline = Pipeline(
            downloader=Downloader(origins, bounds, self.files),
            downloads=self._downloads,
            converters=self.converters,
            target=self.target,
            hosts=hosts,
            # The sandbox has none of Imgur's albums.
            album_links=album_links_of(settings, self.target),
            dedupe=Dedupe(keeps_links=not settings.is_node),
            retry=retry_rule(settings, tuning),
            files=self.files,
            temp_bytes=self.temp_bytes,
            spool=spool,
            store=self.store,
            observers=(self.store.record, spool, self.metrics, *observers, self._webhooks),
        )
        self.image_load = ImageLoad(
            self.transfers,
            self._pipeline,
            window_rules(settings, tuning),
            capacity(settings, tuning),
            retention(settings, tuning),
        )
        self.registry: Registry = self.image_load
        if self.node is not None:
            from imageload.cluster.mirror import MirrorRules

            rules = MirrorRules(
                most_bytes=settings.jobs_bytes,
                dead_seconds=settings.dead_seconds,
                leases=lease_rules(settings, tuning),
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
            rules, seconds = lease_rules(self._settings, self._tuning), self._tuning.park_seconds
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
            saved.save_budgets(self.store, self.target.quotas, budgets_key(self._settings))

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
        signing = keys(settings).signing(settings.s3_region)
        made.append(Transport(transfers, patient, user_agent=agent, signing=signing))
    return made
