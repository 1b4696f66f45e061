"""A job's images and their links, and the retry of failed images."""

from __future__ import annotations

import contextlib
import re
from itertools import islice
from typing import get_args

from imageload.errors import Refused
from imageload.image import Image, State
from imageload.job import Only
from imageload.job_json import album_json, image_json, map_csv, map_json, map_lines
from imageload.schemas import ImagesJson, RequeuedJson
from imageload.web.base import LARGE_JOB, BaseHandler, tag_of_job, waiting_of

_MAX_AFTER = 999_999_999
_FORMATS = {"csv": "text/csv", "ndjson": "application/x-ndjson"}


class JobImagesHandler(BaseHandler):
    """GET /v1/images/upload/<jobId>/images: `{"images": [image, ...], "album": ...}`.

    `state` filters; `limit`, and `after` (an image's number, from 1), page.
    """

    async def get(self, job_id: str) -> None:
        """Send one page of images, in the order of the request."""
        job = await self.job(job_id)
        limit = self.count_argument("limit", 1_000, 10_000)
        after = self.count_argument("after", 0, _MAX_AFTER)
        state = self.query("state")
        if state is not None and state not in get_args(State):
            raise Refused("bad-request", f"state must be one of {', '.join(get_args(State))}.")
        snapshot = job.snapshot()
        waiting = waiting_of(self.jobs, snapshot)
        if self.is_known(tag_of_job(snapshot, waiting)):
            return
        numbered = enumerate(islice(snapshot.images, after, None), after + 1)
        found = ((number, image) for number, image in numbered if state in (None, image.state))
        page: list[tuple[int, Image]]
        if len(job) < LARGE_JOB:
            page = list(islice(found, limit + 1))
        else:
            find = self.limits.run_in_thread(lambda: list(islice(found, limit + 1)), "views")
            page = await find
        if len(page) > limit:
            filters = {"state": state} if state else {}
            self.link_next(limit=limit, after=page[limit - 1][0], **filters)

        def view() -> ImagesJson:
            return {
                "images": [image_json(number, image) for number, image in page[:limit]],
                "album": album_json(snapshot.album),
                **waiting,
            }

        await self.send_view(view, is_large=len(page) > LARGE_JOB)


class RetryHandler(BaseHandler):
    """POST /v1/images/upload/<jobId>/retry: try failed images again; `only` chooses."""

    async def post(self, job_id: str) -> None:
        """Send the number of requeued images, which may be 0: 202."""
        job = await self.job(job_id)
        requeued = await self.jobs.act(self.jobs.retry(job, self._only(len(job))))
        response: RequeuedJson = {"job_id": job.job_id, "requeued": requeued}
        self.send_json(response, 202)

    def _only(self, total: int) -> Only:
        only = self.query("only")
        if only is None or only == "transient":
            return only  # type: ignore[return-value]
        if re.fullmatch("[1-9][0-9]{0,8}", only) and int(only) <= total:
            return int(only) - 1
        message = f"only must be transient, or the number of an image, from 1 to {total}."
        raise Refused("bad-request", message)


class MapHandler(BaseHandler):
    """GET /v1/images/upload/<jobId>/map: the link of every completed image by its URL."""

    async def get(self, job_id: str) -> None:
        """Send JSON, or CSV or JSON Lines if `format` or an Accept header prefers it."""
        job = await self.job(job_id)
        wanted = self._wanted()
        if wanted == "csv":
            text = await self.limits.run_in_thread(lambda: map_csv(job.snapshot()), "views")
            self.set_header("Content-Type", "text/csv; charset=utf-8; header=present")
            name = f"imageload-{job.job_id}.csv"
            self.set_header("Content-Disposition", f'attachment; filename="{name}"')
            self.finish(text.encode())
        elif wanted == "ndjson":
            lines = await self.limits.run_in_thread(lambda: map_lines(job.snapshot()), "views")
            self.set_header("Content-Type", _FORMATS["ndjson"])
            self.finish(lines)
        else:
            await self.send_view(lambda: map_json(job.snapshot()), is_large=len(job) >= LARGE_JOB)

    def _wanted(self) -> str:
        """The format to send."""
        self.add_header("Vary", "Accept")
        accept = self.request.headers.get("Accept", "")
        preferred = [name for name, type_ in _FORMATS.items() if prefers(accept, type_)]
        wanted = self.query("format") or next(iter(preferred), "json")
        if wanted not in ("json", *_FORMATS):
            raise Refused("bad-request", "format must be json, csv or ndjson.")
        return wanted


def prefers(accept: str, media_type: str) -> bool:
    """True if an Accept header (RFC 9110, 12.5.1) prefers `media_type` to JSON."""
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weights[name] = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                with contextlib.suppress(ValueError):
                    weights[name] = float(parameter[2:])

    def weight_of(name: str) -> float:
        ranges = (name, f"{name.partition('/')[0]}/*", "*/*")
        return next((weights[found] for found in ranges if found in weights), 0.0)

    return weight_of(media_type) > weight_of("application/json")
