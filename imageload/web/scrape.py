"""What `/metrics` answers: what was counted, and how things stand when it is asked.

Metrics (counted as it happens) ─┐
requests, cut connections ───────┼─► one registry ─► the text of a scrape
Standing (looked up when asked) ─┘
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import Counter, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from imageload.fetch.tempfiles import TempBytes, TempFiles
from imageload.loader import ImageLoad
from imageload.observers.metrics import Metrics, Phase
from imageload.settings import VERSION
from imageload.store import Store
from imageload.targets.imgur.uploader import Uploads
from imageload.transport.engine import Pool
from imageload.web.changes import Changes
from imageload.web.server.connections import CLOSE_REASONS, CloseReason

_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standing(Collector):
    """How the parts of a service stand, as gauges. Looking takes longer the more jobs there are."""

    image_load: ImageLoad
    uploads: Uploads
    changes: Changes
    journal: Store | None
    files: TempFiles
    temp_bytes: TempBytes
    pools: Mapping[Phase, Callable[[], Pool]]
    connections: Callable[[], int]

    def collect(self) -> Iterator[GaugeMetricFamily | InfoMetricFamily]:
        """Called for each scrape."""
        yield InfoMetricFamily(
            "imageload_build", "The service's version.", value={"version": VERSION}
        )
        yield from self._jobs()
        yield from self._pools()
        yield from self._imgur()
        yield _gauge("imageload_temp_files", "Temp files in use.", self.files.in_use)
        yield _gauge(
            "imageload_temp_bytes", "Bytes of images that wait on disk.", self.temp_bytes.held
        )
        yield _gauge(
            "imageload_journal_failing",
            "1 while the journal cannot be written, and new jobs are refused.",
            self.journal is not None and self.journal.trouble is not None,
        )
        yield _gauge("imageload_event_streams", "Held answers and streams.", self.changes.taken)
        yield _gauge("imageload_connections", "Open connections of clients.", self.connections())

    def _jobs(self) -> Iterator[GaugeMetricFamily]:
        jobs = dict.fromkeys(("pending", "in-progress", "complete"), 0)
        pending = dict.fromkeys(("queued", "downloaded"), 0)
        for job in self.image_load.jobs():
            summary = job.summary()
            jobs[summary.status] += 1
            pending["queued"] += summary.counts["queued"]
            pending["downloaded"] += summary.counts["downloaded"]
        yield _labelled("imageload_jobs", "Jobs in memory, by status.", "status", jobs)
        yield _labelled(
            "imageload_images_pending",
            "Images that have not ended, by state: the backlog.",
            "state",
            pending,
        )

    def _pools(self) -> Iterator[GaugeMetricFamily]:
        pools = {phase: pool() for phase, pool in self.pools.items()}
        for name, text, number in (
            ("slots", "How many images may be in a phase at once.", 0),
            ("slots_in_use", "How many images are in a phase.", 1),
            ("slots_waited_for", "How many images wait for a slot, or for Imgur.", 2),
        ):
            values = {phase: pool[number] for phase, pool in pools.items()}
            yield _labelled(f"imageload_{name}", text, "phase", values)

    def _imgur(self) -> Iterator[GaugeMetricFamily]:
        uploads = self.uploads
        closed = uploads.closed
        yield _gauge(
            "imageload_images_parked", "Images that wait for Imgur to take more.", uploads.parked
        )
        waits = GaugeMetricFamily(
            "imageload_imgur_wait_seconds",
            "How long uploads will wait for Imgur, by reason; absent where they go on.",
            labels=["reason"],
        )
        if closed is not None:
            waits.add_metric([closed.reason], max(0.0, closed.until - time.monotonic()))
        yield waits
        limit, left = (
            GaugeMetricFamily(f"imageload_quota_{name}", text, labels=["client", "budget"])
            for name, text in (
                ("limit", "Imgur's budgets, each whole, by the number of the client id."),
                ("remaining", "What is left of Imgur's budgets."),
            )
        )
        for budget in uploads.quota.budgets():
            values = [str(budget.client or ""), budget.name]
            if budget.limit is not None:
                limit.add_metric(values, budget.limit)
            if budget.remaining is not None:
                left.add_metric(values, budget.remaining)
        yield from (limit, left)


class Scrape:
    """`metrics` with the requests beside them, and with a `standing` once there is one."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = metrics.registry
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._seconds = Histogram(
            "imageload_http_request_seconds",
            "How long answers took, without what a caller wanted to wait.",
            ["route", "method", "status"],
            buckets=_REQUEST_BUCKETS,
            registry=self._registry,
        )
        cuts = Counter(
            "imageload_connections_cut",
            "Connections that the service has ended, by reason.",
            ["reason"],
            registry=self._registry,
        )
        self._cuts = {reason: cuts.labels(reason) for reason in CLOSE_REASONS}

    def add(self, standing: Standing) -> None:
        """Have each scrape look at `standing`."""
        self._registry.register(standing)

    def request_ended(self, route: str, method: str | None, status: int, seconds: float) -> None:
        """A request was answered."""
        known = method if method in _METHODS else "other"
        self._seconds.labels(route, known, str(status)).observe(seconds)

    def connection_closed(self, reason: CloseReason) -> None:
        """Count a connection that the service closed."""
        self._cuts[reason].inc()

    def text(self, accept: str) -> tuple[bytes, str]:
        """The scrape and its content type: OpenMetrics where `accept` wants that. Takes a while."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))


def _labelled(
    name: str, text: str, label: str, values: Mapping[str, float] | Mapping[Phase, int]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    pairs: Iterable[tuple[str, float]] = values.items()
    for value_of_label, value in pairs:
        family.add_metric([value_of_label], value)
    return family
