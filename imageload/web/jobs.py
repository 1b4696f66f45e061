"""What a job's users see beside its status, and what they do with it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from itertools import islice
from typing import get_args

from imageload.errors import Refused
from imageload.job import State
from imageload.schemas import (
    ImagesJson,
    MapJson,
    RequeuedJson,
    album_json,
    image_json,
    map_csv,
    map_json,
)
from imageload.web.base import BaseHandler, tag_of_job

_DEFAULT_RECORDS = 1_000
_MAX_RECORDS = 10_000
_MAX_AFTER = 999_999_999


class JobImagesHandler(BaseHandler):
    """GET /v1/images/upload/<jobId>/images: `{"images": [record, ...]}`, in input order.

    `state=` filters, `limit=` and `after=` (the number of an image) page.
    """

    async def get(self, job_id: str) -> None:
        """Answer one page of records, and where the next one is."""
        job = self.job(job_id)
        limit = self.count_argument("limit", _DEFAULT_RECORDS, _MAX_RECORDS) or _DEFAULT_RECORDS
        after = self.count_argument("after", 0, _MAX_AFTER) or 0
        state = self.get_query_argument("state", None)
        if state is not None and state not in get_args(State):
            raise Refused("bad-request", f"state is one of {', '.join(get_args(State))}.")
        snapshot = job.snapshot()
        waiting = self.waiting(snapshot)
        if self.is_known(tag_of_job(snapshot, waiting)):
            return
        found = (
            (number, image)
            for number, image in enumerate(islice(snapshot.images, after, None), after + 1)
            if state in (None, image.state)
        )
        page = list(islice(found, limit + 1))
        if len(page) > limit:
            arguments: dict[str, str | int] = {"limit": limit, "after": page[limit - 1][0]}
            self.link_next(**arguments, **({"state": state} if state else {}))
        records = [image for _, image in page[:limit]]

        def view() -> ImagesJson:
            return {
                "images": [image_json(image) for image in records],
                "album": album_json(snapshot.album),
                **waiting,
            }

        await self.answer_of_job(job, view)


class RetryHandler(BaseHandler):
    """POST /v1/images/upload/<jobId>/retry: failed images once more; `only=transient` picks."""

    async def post(self, job_id: str) -> None:
        """Answer how many: 202; 0 where there is none, which is no mistake."""
        job = self.job(job_id)
        only = self.get_query_argument("only", None)
        if only not in (None, "transient"):
            raise Refused("bad-request", "only is transient, or is not there.")
        retry = functools.partial(self.image_load.retry, job, only_transient=only == "transient")
        requeued = await asyncio.get_running_loop().run_in_executor(None, retry)
        answer: RequeuedJson = {"job_id": job.job_id, "requeued": requeued}
        self.answer(answer, 202)


class MapHandler(BaseHandler):
    """GET /v1/images/upload/<jobId>/map: from every completed image's URL to its link."""

    async def get(self, job_id: str) -> None:
        """Answer JSON, or CSV (RFC 4180) by `format=csv` or the Accept field."""
        job = self.job(job_id)
        if self._wants_csv():
            loop = asyncio.get_running_loop()
            text = await loop.run_in_executor(None, lambda: map_csv(job.snapshot()))
            self.set_header("Content-Type", "text/csv; charset=utf-8; header=present")
            name = f"imageload-{job.job_id}.csv"
            self.set_header("Content-Disposition", f'attachment; filename="{name}"')
            await self.finish_large(text.encode())
            return

        def view() -> MapJson:
            return {"job_id": job.job_id, "map": map_json(job.snapshot())}

        await self.answer_of_job(job, view)

    def _wants_csv(self) -> bool:
        wanted = self.get_query_argument("format", None)
        if wanted not in (None, "json", "csv"):
            raise Refused("bad-request", "format is json or csv.")
        self.add_header("Vary", "Accept")
        accept = self.request.headers.get("Accept", "")
        return wanted == "csv" or (wanted is None and prefers(accept, "text/csv"))


def prefers(accept: str, media_type: str) -> bool:
    """Does an Accept field (RFC 9110, 12.5.1) want `media_type` rather than JSON?"""
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                with contextlib.suppress(ValueError):
                    weight = float(parameter[2:])
        weights[name] = weight

    def weight_of(name: str) -> float:
        ranges = (name, f"{name.partition('/')[0]}/*", "*/*")
        return next((weights[found] for found in ranges if found in weights), 0.0)

    return weight_of(media_type) > weight_of("application/json")
