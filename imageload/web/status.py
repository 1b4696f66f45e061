"""The status of a job: answered at once, held until the job changes, or not sent again.

    If-None-Match: "<etag>"     the job is as this client knows it: 304
    Prefer: wait=20             hold the answer until it is not, or 20 seconds have passed

A job's ETag is its version, so no body is made or hashed to find out that nothing is new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from imageload.errors import Refused
from imageload.job import Job, Snapshot
from imageload.schemas import WaitingJson, status_json
from imageload.web.base import LARGE_JOB, BaseHandler, tag_of_job, tag_of_waiting
from imageload.web.feeds import JobFeed


class StatusHandler(BaseHandler):
    """A handler that answers the status of a job."""

    async def answer_status(self, job: Job) -> None:
        """Answer 200 or 304, after holding the request for as long as it prefers (RFC 7240)."""
        wait = preferred_wait(self.request.headers.get("Prefer", ""))
        seconds = min(wait, self.config.max_wait_seconds)
        feed = await self._hold(job, seconds) if seconds else None
        if self.is_gone or self.is_known(tag_of_job(job.summary())):
            return
        of, encoded = await encoded_status(job, feed)
        if not self.is_known(tag_of_job(of)):
            self.send_encoded(encoded)

    async def _hold(self, job: Job, seconds: float) -> JobFeed | None:
        """Wait until the job is another than the client knows, or finished, or `seconds` are over.

        Gives what others wait for who wait for the same; None where nobody is held.
        """
        known = job.summary()
        self.set_tag(tag_of_job(known))
        if "If-None-Match" in self.request.headers and not self.check_etag_header():
            return None
        self.set_header("Preference-Applied", f"wait={seconds:g}")
        if known.finished:
            return None
        try:
            with self.changes.place():
                feed = self.changes.feed(job)
                loop = asyncio.get_running_loop()
                until = loop.time() + seconds
                while job.version == known.version:
                    left = until - loop.time()
                    if self.changes.is_closing or not await self.rung(feed.bell, left):
                        break
        except Refused:  # as good is an answer now
            self.clear_header("Preference-Applied")
            return None
        return feed


async def encoded_status(job: Job, feed: JobFeed | None) -> tuple[Snapshot, bytes]:
    """The job and its status as JSON, which is made once for all who have waited for it."""

    def encode() -> tuple[Snapshot, bytes]:
        snapshot = job.snapshot()
        return snapshot, msgspec.json.encode(status_json(snapshot))

    if feed is None and len(job) < LARGE_JOB:
        return encode()
    loop = asyncio.get_running_loop()
    if feed is None:
        return await loop.run_in_executor(None, encode)
    if feed.status is None or feed.status[0] != job.version:
        making = loop.run_in_executor(None, encode)
        feed.status = job.version, making
        making.add_done_callback(lambda _: feed.forget_status(making))
    return await asyncio.shield(feed.status[1])


def preferred_wait(header: str) -> float:
    """The seconds that a Prefer header is willing to wait; 0 where it says nothing of that."""
    for preference in header.split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            value = value.strip()
            if len(value) > 1 and value[0] == value[-1] == '"':
                value = value[1:-1]
            return float(value[:9]) if value.isascii() and value.isdigit() else 0.0
    return 0.0


def tag_of_list(jobs: Sequence[Snapshot], waits: Sequence[WaitingJson], *, is_last: bool) -> str:
    """What changes whenever one of these jobs does, or what it waits for, or which jobs they are.

    Versions only grow, so their sum tells every change of a list that has the same two ends.
    """
    ends = f"{jobs[0].job_id}-{jobs[-1].job_id}" if jobs else ""
    sums = f"{len(jobs)}-{sum(job.version for job in jobs)}{'' if is_last else '-'}"
    return f"{ends}-{sums}{''.join(sorted({tag_of_waiting(each) for each in waits}))}"
