"""URLs of images, and requests about one job, for tests of the whole service."""

from __future__ import annotations

from typing import Any

import requests

from tests.origin import IMAGES, Origin, answer
from tests.service import Client
from tests.waiting import PATIENCE


def urls(origin: Origin, count: int, job: str = "job") -> list[str]:
    """Different URLs of the same image."""
    return [f"{origin.image('png-rgb.png')}?{job}-{number}" for number in range(count)]


def distinct(origin: Origin, count: int, job: str = "d") -> list[str]:
    """URLs of images whose bytes differ."""
    png = (IMAGES / "png-rgb.png").read_bytes()
    return [origin.page(f"/{job}-{n}", answer(png + f"{job}{n}".encode())) for n in range(count)]


def all_landed(service: Client, job_ids: list[str], seconds: float = PATIENCE) -> bool:
    """Whether all images of these jobs are completed once the jobs are finished."""
    lists = [service.finish(job_id, seconds)["uploaded"] for job_id in job_ids]
    return not any(each["failed"] or each["pending"] for each in lists)


def delete(service: Client, job_id: str, query: str = "") -> dict[str, Any]:
    """Cancel the job, or purge it with `?purge=true`; return the counts in the response."""
    answered = service.session.delete(
        f"{service.url}/v1/images/upload/{job_id}{query}", timeout=PATIENCE
    )
    assert answered.status_code == 202, answered.text
    told: dict[str, Any] = answered.json()
    assert told.pop("job_id") == job_id
    return told


def retry(service: Client, job_id: str, query: str = "") -> requests.Response:
    """Retry the job; return the response."""
    return service.session.post(
        f"{service.url}/v1/images/upload/{job_id}/retry{query}", timeout=PATIENCE
    )


def codes(service: Client, job_id: str) -> list[str | None]:
    """The error code of every image, in the order of the input."""
    records = service.records(job_id).values()
    return [each["error"] and each["error"]["code"] for each in records]
