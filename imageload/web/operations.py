"""What those who operate the service ask it: is it alive, is it ready, what may it still upload."""

from __future__ import annotations

import asyncio
import math
import time

from imageload.schemas import BudgetJson, HealthJson, QuotaJson, ReadyJson
from imageload.targets.imgur.budget import BudgetView
from imageload.web.base import BaseHandler, moment_text


class HealthHandler(BaseHandler):
    """GET /healthz: 200 and `{"status": "ok"}` as long as the process answers at all."""

    is_open = True

    def get(self) -> None:
        """Answer that we live."""
        answer: HealthJson = {"status": "ok"}
        self.answer(answer)


class ReadyHandler(BaseHandler):
    """GET /readyz: 200 where work may be sent; 503 while stopping, or where somebody must act."""

    is_open = True

    def get(self) -> None:
        """Answer whether to send us work, and how Imgur takes it."""
        closed = self.uploads.closed
        is_stopping = self.image_load.is_closing
        trouble = self.journal.trouble if self.journal is not None else None
        is_ready = not (is_stopping or trouble) and (
            closed is None or closed.reason != "credentials"
        )
        answer: ReadyJson = {
            "status": "stopping" if is_stopping else "ready" if is_ready else "not ready",
            "waiting_for": closed.reason if closed else None,
            "reason": closed.sentence if closed else None,
            "journal": trouble,
        }
        self.answer(answer, 200 if is_ready else 503)


class MetricsHandler(BaseHandler):
    """GET /metrics: a scrape for Prometheus, in its text format or as OpenMetrics."""

    async def get(self) -> None:
        """Answer what was counted and how things stand."""
        accept = self.request.headers.get("Accept", "")
        loop = asyncio.get_running_loop()
        text, content_type = await loop.run_in_executor(None, self.scrape.text, accept)
        self.set_header("Content-Type", content_type)
        await self.finish_large(text)


class QuotaHandler(BaseHandler):
    """GET /v1/quota: Imgur's budgets, what waits for them, and when all of it will be done."""

    async def get(self) -> None:
        """Answer how things stand."""
        await self.answer_beside(self._view)

    def _view(self) -> QuotaJson:
        closed = self.uploads.closed
        summaries = [job.summary().counts for job in self.image_load.jobs()]
        pending = sum(counts["queued"] + counts["downloaded"] for counts in summaries)
        seconds = self.uploads.seconds_for(pending)
        return {
            "waiting_until": moment_text(closed.until - time.monotonic()) if closed else None,
            "waiting_for": closed.reason if closed else None,
            "reason": closed.sentence if closed else None,
            "parked": self.uploads.parked,
            "pending": pending,
            "done_at": None if seconds == math.inf else moment_text(seconds),
            "budgets": [_budget_json(budget) for budget in self.uploads.quota.budgets()],
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
