"""Health, readiness, metrics and Imgur's limits."""

from __future__ import annotations

import asyncio
import math
import time

from imageload.schemas import BudgetJson, HealthJson, QuotaJson, ReadyJson
from imageload.targets.limits.budget import BudgetView
from imageload.web.base import BaseHandler, moment_text

_NO_WORKER = "No worker is alive: jobs are accepted, and wait for one."


class HealthHandler(BaseHandler):
    """GET /healthz: 200 and `{"status": "ok"}` while the process answers."""

    is_open = True

    def get(self) -> None:
        """Send the status."""
        response: HealthJson = {"status": "ok"}
        self.send_json(response)


class ReadyHandler(BaseHandler):
    """GET /readyz: 200 if the service takes jobs; 503 if it stops or an operator has to act."""

    is_open = True

    def get(self) -> None:
        """Send the status, and why uploads wait, or the store or the sandbox fails."""
        closed = self.jobs.closed("uploads")
        is_stopping = self.jobs.is_closing
        trouble = self.jobs.trouble or self.store.trouble
        sandbox_trouble = self.sandbox.trouble if self.sandbox is not None else None
        is_refused = closed is not None and closed.reason == "credentials"
        is_ready = not (is_stopping or trouble or sandbox_trouble or is_refused)
        response: ReadyJson = {
            "status": "stopping" if is_stopping else "ready" if is_ready else "not ready",
            "waiting_for": closed.reason if closed else None,
            "reason": closed.message if closed else _NO_WORKER if self.jobs.workers == 0 else None,
            "journal": trouble,
            "sandbox": sandbox_trouble,
            "target": self.target.trouble,
        }
        self.send_json(response, 200 if is_ready else 503)


class MetricsHandler(BaseHandler):
    """GET /metrics: the metrics, in Prometheus' text format or as OpenMetrics."""

    async def get(self) -> None:
        """Send the metrics in the format of the Accept header."""
        accept = self.request.headers.get("Accept", "")
        text, content_type = await asyncio.to_thread(self.scrape.text, accept)
        self.set_header("Content-Type", content_type)
        self.finish(text)


class QuotaHandler(BaseHandler):
    """GET /v1/quota: Imgur's limits, the images that wait for them, the estimated end."""

    async def get(self) -> None:
        """Send the limits."""
        self.send_json(await asyncio.to_thread(self._view))

    def _view(self) -> QuotaJson:
        closed = self.jobs.closed("uploads")
        pending = sum(self.jobs.totals().pending.values())
        seconds = self.jobs.seconds_for(pending)
        return {
            "waiting_until": moment_text(closed.until - time.monotonic()) if closed else None,
            "waiting_for": closed.reason if closed else None,
            "reason": closed.message if closed else None,
            "parked": self.jobs.parked(),
            "pending": pending,
            "done_at": None if seconds == math.inf else moment_text(seconds),
            "target": self.target.name,
            "link_base": self.target.link_base,
            "budgets": [_budget_json(budget) for budget in self.jobs.budgets()],
        }


def _budget_json(budget: BudgetView) -> BudgetJson:
    resets = budget.resets_at
    return {
        "client": budget.client,
        "budget": budget.name,
        "limit": budget.limit,
        "remaining": budget.remaining,
        "resets_at": None if resets is None else moment_text(resets - time.monotonic()),
    }
