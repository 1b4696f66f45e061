"""Handlers whose POST makes jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from imageload.errors import Refused
from imageload.job import Job
from imageload.registry import Order, Sender
from imageload.web.base import BaseHandler
from imageload.web.idempotency import checked_key
from imageload.web.limits import Pool


class AcceptHandler(BaseHandler):
    """A handler whose POST makes jobs, with an Idempotency-Key only once."""

    async def accept(
        self,
        orders: Callable[[], Sequence[Order]],
        fingerprint: Callable[[], bytes],
        pool: Pool | None = None,
    ) -> list[str]:
        """Start a job for each of `orders`, or none; returns their ids, and sets response headers.

        `fingerprint` returns a hash of the request. `use_body` calls both, in `pool` if they may
        take long.
        """

        async def start(sender: Sender | None = None) -> list[str]:
            jobs = await self.use_body(lambda: self._upload(orders(), sender), pool)
            job_ids = [job.job_id for job in jobs]
            self.events.touch(job_ids)
            return job_ids

        key = checked_key(self.request.headers.get("Idempotency-Key"))
        if key is None:
            job_ids = await start()
        else:
            caller = self.limits.access.caller(self.request)
            sender = Sender(caller, key, await self.use_body(fingerprint, pool))
            job_ids, is_replay = await self.limits.keys.once(sender, lambda: start(sender))
            if is_replay:
                self.set_header("Idempotency-Replayed", "true")
        if len(job_ids) == 1:
            self.set_header("Location", f"/v1/images/upload/{job_ids[0]}")
        return job_ids

    def _upload(self, orders: Sequence[Order], sender: Sender | None) -> list[Job]:
        if self.target.albums is None and any(order.album is not None for order in orders):
            raise Refused("no-albums", f"There are no albums on {self.target.place}.")
        return self.jobs.upload(orders, sender)
