"""Checks of a job's links, and loading images again whose links are dead."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import cast

from imageload.checks import Check
from imageload.errors import Refused, shutting_down
from imageload.job import Job
from imageload.schemas import (
    CheckedLinkJson,
    CheckJson,
    LinkCountsJson,
    RequeuedJson,
    utc_text,
)
from imageload.web.base import LARGE_JOB, BaseHandler

_LIMIT = 1_000
_MAX_AFTER = 999_999_999
_UNCHECKED = "This job's links have not been checked. Start a check: POST {}"


class CheckHandler(BaseHandler):
    """POST /v1/images/upload/<jobId>/check: ask for every landed link. GET: the last result.

    `limit`, and `after` (an image's number, from 1), page the links that are not alive.
    """

    async def get(self, job_id: str) -> None:
        """Send the last check, which may still run; 404 if there is none."""
        job = await self.job(job_id)
        limit = self.count_argument("limit", _LIMIT, 10_000)
        after = self.count_argument("after", 0, _MAX_AFTER)
        check = await _last_check(self, job)
        if check is None:
            path = f"/v1/images/upload/{job.job_id}/check"
            raise Refused("no-check", _UNCHECKED.format(path))
        await self._send(job, check, limit, after)

    async def post(self, job_id: str) -> None:
        """Begin a check, and send it: 202. If one runs, it is sent."""
        job = await self.job(job_id)
        if self.jobs.is_closing:
            raise shutting_down()
        self.set_status(202)
        await self._send(job, await self.checks.start(job), _LIMIT, 0)

    async def _send(self, job: Job, check: Check, limit: int, after: int) -> None:
        def view() -> CheckJson:
            return _check_json(job, check, after, limit + 1)

        is_large = len(check.found) > LARGE_JOB
        shown = await self.limits.run_in_thread(view, "views") if is_large else view()
        if len(shown["links"]) > limit:
            del shown["links"][limit:]
            self.link_next(limit=limit, after=shown["links"][-1]["number"])
        self.send_json(shown, self.get_status())


class RehostHandler(BaseHandler):
    """POST /v1/images/upload/<jobId>/rehost: load the images again whose links are dead."""

    async def post(self, job_id: str) -> None:
        """Send the number of requeued images, which may be 0: 202; 409 without a check."""
        job = await self.job(job_id)
        check = await _last_check(self, job)
        if check is None:
            path = f"/v1/images/upload/{job.job_id}/check"
            raise Refused("not-checked", _UNCHECKED.format(path))
        if not check.finished:
            raise Refused("job-busy", "The check of the job's links has not finished.")
        requeued = await self.jobs.act(self.jobs.rehost(job, check.dead()))
        response: RequeuedJson = {"job_id": job.job_id, "requeued": requeued}
        self.send_json(response, 202)


async def _last_check(handler: BaseHandler, job: Job) -> Check | None:
    return await handler.limits.run_in_thread(lambda: handler.checks.last(job.job_id), "views")


def _check_json(job: Job, check: Check, after: int, most: int) -> CheckJson:
    """The check with at most `most` links, those of images after the number `after`."""
    images = job.snapshot().images
    unchanged = (
        (each, image)
        for each in sorted(check.found)
        if each.n >= after and (image := images[each.n]).version == each.version
    )
    links = [
        cast(
            "CheckedLinkJson",
            {
                "number": each.n + 1,
                "url": image.url,
                "link": image.link,
                "state": each.state,
                "status_code": each.status_code,
            },
        )
        for each, image in islice(unchanged, most)
    ]
    return {
        "job_id": job.job_id,
        "started": utc_text(datetime.fromtimestamp(check.started, UTC)),
        "finished": check.finished,
        "total": check.total,
        "checked": check.checked,
        "counts": cast("LinkCountsJson", dict(check.counts)),
        "links": links,
    }
