"""The metrics of /metrics: counters that grow as things happen, gauges that are read on demand.

Metrics (images) ──────────────┐
Scrape (requests, connections) ┼─► one registry ─► the text of a scrape
Gauges (read for each scrape) ─┘
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client import Counter, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from imageload.errors import StoreUnavailable
from imageload.service import Service
from imageload.settings import VERSION
from imageload.web.events import Events
from imageload.web.limits import RequestLimits
from imageload.web.server.connections import CLOSE_REASONS, CloseReason

_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH")

Label = TypeVar("Label", bound=str)


@dataclass(frozen=True, slots=True, eq=False)
class Gauges(Collector):
    """The state of the service's parts, as gauges. The time grows with the number of jobs."""

    service: Service
    events: Events
    limits: RequestLimits
    connections: Callable[[], int]

    def collect(self) -> Iterator[Metric]:
        """Called for each scrape."""
        yield InfoMetricFamily(
            "imageload_build", "The service's version.", value={"version": VERSION}
        )
        yield from self._jobs()
        yield from self._pools()
        yield from self._imgur()
        service, limits, jobs = self.service, self.limits, self.service.image_load
        is_failing = service.store.trouble is not None
        memory, documents = service.converters.memory, service.documents.pool
        for name, text, value in (
            ("temp_files", "Temp files in use.", service.files.in_use),
            ("temp_bytes", "Bytes of images on disk, and reserved.", service.temp_bytes.held),
            ("jobs_without_temp_bytes", "Jobs that wait for room.", service.temp_bytes.waiting),
            ("convert_bytes", "Memory that is reserved for conversions.", memory.reserved),
            ("convert_bytes_limit", "Memory that all conversions may have.", memory.limit),
            ("conversions_without_memory", "Conversions that wait for memory.", memory.waiting),
            ("journal_failing", "1 while the journal cannot be written.", is_failing),
            ("job_bytes", "Memory of jobs, once their images have ended.", jobs.kept.bytes_held),
            ("job_bytes_limit", "Memory that jobs may take.", jobs.kept.rules.jobs_bytes),
            ("body_bytes", "Request bodies in memory.", limits.most_bytes - limits.bytes_left),
            ("body_bytes_limit", "Request bodies that may be in memory.", limits.most_bytes),
            ("documents_in_progress", "Requests whose documents are read.", documents.busy),
            ("documents_waiting", "Requests whose documents wait for it.", documents.waiting),
            ("event_streams", "Event streams and held responses.", self.events.subscribers),
            ("connections", "Open connections of clients.", self.connections()),
        ):
            yield GaugeMetricFamily(f"imageload_{name}", text, value=float(value))
        yield from self._sandbox()
        yield from self._slices()

    def _slices(self) -> Iterator[Metric]:
        """Of a node in a cluster. While its database is away, only what the node itself knows."""
        node = self.service.node
        if node is None:
            return
        with contextlib.suppress(StoreUnavailable):
            waiting, stuck = node.store.slices.counts()
            for name, text, value in (
                ("waiting", "Slices of jobs, of all nodes, that no living node has.", waiting),
                ("stuck", "Slices of all nodes that were taken over again and again.", stuck),
            ):
                yield GaugeMetricFamily(f"imageload_slices_{name}", text, value=value)
        if node.worker is None:
            return
        claimed, taken_over, lost, beat_age = node.worker
        for name, text, age in (
            ("slices_claimed", "Slices that this node is at.", float(claimed)),
            ("beat_age_seconds", "Time since this node last told that it lives.", beat_age),
        ):
            yield GaugeMetricFamily(f"imageload_{name}", text, value=age)
        for name, text, count in (
            (
                "taken_over",
                "Slices that this node took over from dead ones.",
                taken_over,
            ),
            ("lost", "Slices that another node took over from this one.", lost),
        ):
            yield CounterMetricFamily(f"imageload_slices_{name}", text, value=count)

    def _jobs(self) -> Iterator[GaugeMetricFamily]:
        try:
            totals = self.service.registry.totals()
        except StoreUnavailable:  # the other gauges are wanted all the more
            return
        yield _labelled("jobs", "Jobs in memory, by status.", "status", totals.jobs)
        pending = totals.pending
        yield _labelled("images_pending", "Images that have not ended, by state.", "state", pending)

    def _sandbox(self) -> Iterator[Metric]:
        sandbox = self.service.sandbox
        yield GaugeMetricFamily(
            "imageload_sandbox_failing",
            "1 while the sandbox does not run that this service has started.",
            value=float(sandbox is not None and sandbox.trouble is not None),
        )
        yield CounterMetricFamily(
            "imageload_sandbox_restarts",
            "How often the sandbox was started again.",
            value=sandbox.restarts if sandbox is not None else 0,
        )

    def _pools(self) -> Iterator[GaugeMetricFamily]:
        pools = self.service.pools()
        for number, (name, text) in enumerate(
            (
                ("slots", "How many images may be in a phase at once."),
                ("slots_in_use", "How many images are in a phase."),
                ("slots_waited_for", "How many images wait for a slot, or for the target."),
            )
        ):
            values = {phase: pool[number] for phase, pool in pools.items()}
            yield _labelled(name, text, "phase", values)

    def _imgur(self) -> Iterator[GaugeMetricFamily]:
        registry = self.service.registry
        closed = registry.closed("uploads")
        waits = {closed.reason: max(0.0, closed.until - time.monotonic())} if closed else {}
        with contextlib.suppress(StoreUnavailable):
            parked = registry.parked()
            text = "Images that wait for the target."
            yield GaugeMetricFamily("imageload_images_parked", text, value=parked)
        yield _labelled(
            "imgur_wait_seconds",
            "How long uploads will wait for the target, by reason; absent if they do not.",
            "reason",
            waits,
        )
        for name, text in (
            ("limit", "Imgur's limits, by the number of the client id."),
            ("remaining", "The rest of Imgur's limits."),
        ):
            family = GaugeMetricFamily(f"imageload_quota_{name}", text, labels=["client", "budget"])
            for budget in registry.budgets():
                value = getattr(budget, name)
                if value is not None:
                    family.add_metric([str(budget.client or ""), budget.name], value)
            yield family


class Scrape:
    """The service's metrics, with those of requests and connections, and `gauges`."""

    def __init__(self, gauges: Gauges) -> None:
        self._registry = gauges.service.metrics.registry
        self._registry.register(gauges)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._seconds = Histogram(
            "imageload_http_request_seconds",
            "The duration of requests, without the time that a client asked to wait.",
            ["route", "method", "status"],
            buckets=_REQUEST_BUCKETS,
            registry=self._registry,
        )
        closed = Counter(
            "imageload_connections_cut",
            "Connections that the service has closed, by reason.",
            ["reason"],
            registry=self._registry,
        )
        self._closed = {reason: closed.labels(reason) for reason in CLOSE_REASONS}

    def request_ended(self, route: str, method: str | None, status: int, seconds: float) -> None:
        """Count a request."""
        known = method if method in _METHODS else "other"
        self._seconds.labels(route, known, str(status)).observe(seconds)

    def connection_closed(self, reason: CloseReason) -> None:
        """Count a connection that the service closed."""
        self._closed[reason].inc()

    def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, OpenMetrics if `accept` asks for it. Blocks."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _labelled(name: str, text: str, label: str, values: Mapping[Label, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"imageload_{name}", text, labels=[label])
    for value_of_label, value in values.items():
        family.add_metric([value_of_label], value)
    return family
