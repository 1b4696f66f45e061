"""Every link of every job, from any place on: the pages and the stream of GET /v1/images.

A place is `<jobId>:<number of an image, from 1>`. Links of retired jobs come from the store, and
come first: those jobs are the oldest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import dropwhile, islice

import msgspec

from imageload.errors import Refused
from imageload.job import Job
from imageload.registry import Registry
from imageload.store import Store
from imageload.web.problems import unknown_job

_LINKS_AT_ONCE = 2_000


def links_after(place: str | None, registry: Registry, store: Store) -> Iterator[tuple[str, str]]:
    """(place, link) of each link after `place`, or of all links. Reads the disk.

    Raises Refused: bad-request if `place` is malformed, unknown-job if there is no such job.
    """
    job_id, number = _parsed(place) if place is not None else ("", 0)
    jobs: Iterable[Job] = registry.jobs()
    first = next((job for job in jobs if job.job_id == job_id), None)
    if first is not None:
        jobs = dropwhile(lambda job: job is not first, jobs)
    else:
        yield from _stored_links(job_id, number, store, retired_only=registry.has_links)
        number = 0
    for job in jobs:
        images = islice(job.snapshot().images, number, None)
        for of, image in enumerate(images, number + 1):
            if image.link is not None:
                yield f"{job.job_id}:{of}", image.link
        number = 0


def _parsed(place: str) -> tuple[str, int]:
    job_id, _, number = place.partition(":")
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        message = "after is a place from the Link header of the previous page."
        raise Refused("bad-request", message)
    return job_id, int(number)


def _stored_links(
    job_id: str, number: int, store: Store, *, retired_only: bool
) -> Iterator[tuple[str, str]]:
    """The store's links after image `number` of the job; all of them if `job_id` is empty."""
    after = (job_id, number - 1) if job_id else None
    try:
        for found in store.links(after, retired_only=retired_only):
            yield f"{found.job_id}:{found.n + 1}", found.link
    except LookupError:
        raise unknown_job() from None


def encoded_links(links: Iterator[tuple[str, str]]) -> Iterator[bytes]:
    """`{"uploaded": [link, ...]}` in parts, so that a long one is never whole in memory."""
    before = b'{"uploaded":['
    while batch := [link for _, link in islice(links, _LINKS_AT_ONCE)]:
        yield before + msgspec.json.encode(batch)[1:-1]
        before = b","
    yield b"]}\n" if before == b"," else before + b"]}\n"
