"""What a job's users see beside its status: the record of every image."""

from __future__ import annotations

from itertools import islice
from typing import get_args

from imageload.errors import BadRequest
from imageload.job import State
from imageload.views import image_json
from web.base import BaseHandler

_DEFAULT_RECORDS = 1_000
_MAX_RECORDS = 10_000


class JobImagesHandler(BaseHandler):
    """GET /v1/images/upload/<jobId>/images: `{"images": [record, ...]}`, in input order.

    `state=` filters, `limit=` and `after=` (the number of an image) page.
    """

    async def get(self, job_id: str) -> None:
        """Answer one page of records, and where the next one is."""
        job = self.job(job_id)
        limit = self.count_argument("limit", _DEFAULT_RECORDS, _MAX_RECORDS) or _DEFAULT_RECORDS
        after = self.count_argument("after", 0, len(job)) or 0
        state = self.get_query_argument("state", None)
        if state is not None and state not in get_args(State):
            raise BadRequest(f"state is one of {', '.join(get_args(State))}.")
        images = job.snapshot().images
        found = (
            (number, image)
            for number, image in enumerate(islice(images, after, None), after + 1)
            if state in (None, image.state)
        )
        page = list(islice(found, limit + 1))
        if len(page) > limit:
            arguments: dict[str, str | int] = {"limit": limit, "after": page[limit - 1][0]}
            self.link_next(**arguments, **({"state": state} if state else {}))
        records = [image for _, image in page[:limit]]
        await self.answer_of_job(job, lambda: {"images": [image_json(image) for image in records]})
