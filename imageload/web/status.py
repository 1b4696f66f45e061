"""The status of a job: sent at once, held until the job changes, or not sent again.

    If-None-Match: "<etag>"     304 if the job has not changed
    Prefer: wait=20             wait up to 20 seconds for a change, then respond

A job's ETag is its version, so a 304 needs no body.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import msgspec

from imageload.errors import Refused
from imageload.job import Job, Snapshot
from imageload.job_json import status_json
from imageload.schemas import WaitingJson
from imageload.web.base import LARGE_JOB, BaseHandler, tag_of_job, tag_of_waiting
from imageload.web.limits import RequestLimits
from imageload.web.topics import JobEvents

_WAIT = re.compile(r'(?:^|,)\s*wait\s*=\s*("?)(\d+)\1\s*(?:[;,]|$)', re.ASCII | re.IGNORECASE)


class StatusHandler(BaseHandler):
    """A handler that responds with the status of a job."""

    async def answer_status(self, job: Job) -> None:
        """Respond 200 or 304, after the wait that the request prefers (RFC 7240)."""
        wait = preferred_wait(self.request.headers.get("Prefer", ""))
        seconds = min(wait, self.tuning.max_wait_seconds)
        topic = await self._hold(job, seconds) if seconds else None
        if self.is_gone or self.is_known(tag_of_job(job.summary())):
            return
        snapshot, encoded = await encoded_status(job, topic, self.limits)
        if not self.is_known(tag_of_job(snapshot)):
            self.send_encoded(encoded)

    async def _hold(self, job: Job, seconds: float) -> JobEvents | None:
        """Wait until the job differs from the version that the client knows, at most `seconds`.

        Returns the job's events, or None without a wait: the job is finished or differs already,
        or too many requests are held.
        """
        known = job.summary()
        self.set_tag(tag_of_job(known))
        if "If-None-Match" in self.request.headers and not self.check_etag_header():
            return None
        self.set_header("Preference-Applied", f"wait={seconds:g}")
        if known.finished:
            return None
        topic = self.events.of_job(job)
        try:
            with self.events.subscribe(topic, self.changed):
                await self._wait_while(job, known.version, seconds)
        except Refused:
            self.clear_header("Preference-Applied")
            return None
        return topic

    async def _wait_while(self, job: Job, version: int, seconds: float) -> None:
        """Wait while the job has this version, at most `seconds`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while job.version == version and not self.events.is_closing:
            self.changed.clear()
            if not await self.wait_for_change(until - loop.time()):
                return


async def encoded_status(
    job: Job, topic: JobEvents | None, limits: RequestLimits
) -> tuple[Snapshot, bytes]:
    """The job and its status as JSON, encoded once for all requests that waited on `topic`."""

    def encode() -> tuple[Snapshot, bytes]:
        snapshot = job.snapshot()
        return snapshot, msgspec.json.encode(status_json(snapshot))

    is_large = len(job) >= LARGE_JOB
    if topic is None:
        return await limits.run_in_thread(encode, "views") if is_large else encode()
    version = job.version
    encoding = topic.statuses.get(version)
    if encoding is None:
        threads = limits.run_in_thread(encode, "views") if is_large else asyncio.to_thread(encode)
        encoding = topic.statuses[version] = asyncio.ensure_future(threads)
        encoding.add_done_callback(lambda _: topic.statuses.pop(version))
    return await asyncio.shield(encoding)


def preferred_wait(header: str) -> float:
    """The seconds in a Prefer header's `wait` preference; 0 without one."""
    found = _WAIT.search(header)
    return float(found[2].lstrip("0")[:9] or 0) if found is not None else 0.0


def tag_of_list(jobs: Sequence[Snapshot], waits: Sequence[WaitingJson], *, is_last: bool) -> str:
    """A tag that changes with the jobs, their versions, and the limits that they wait for.

    Versions only grow, so their sum changes with every Change of a job between the same two ends.
    """
    ends = f"{jobs[0].job_id}-{jobs[-1].job_id}" if jobs else ""
    sums = f"{len(jobs)}-{sum(job.version for job in jobs)}{'' if is_last else '-'}"
    return f"{ends}-{sums}{''.join(sorted({tag_of_waiting(each) for each in waits}))}"
