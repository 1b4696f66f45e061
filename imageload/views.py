"""How a job looks as JSON: the status of the contract, and what goes beyond. It shows no secret."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from typing import Any

from imageload.errors import Failure
from imageload.job import Album, Image, Snapshot


def status_json(snapshot: Snapshot) -> dict[str, Any]:
    """The answer of GET /v1/images/upload/<jobId>, as the v1 contract has it."""
    pending: list[dict[str, Any]] = []
    completed: list[str | None] = []
    failed: list[str] = []
    for image in snapshot.images:
        if image.state == "completed":
            completed.append(image.link)
        elif image.state == "failed":
            failed.append(image.url)
        else:
            report = image.report
            pending.append(
                {
                    "status_code": report.status_code if report else None,
                    "url": image.url,
                    "temp_fn": (report.temp_fn or None) if report else None,
                }
            )
    return {
        "job_id": snapshot.job_id,
        "created": utc_text(snapshot.created),
        "finished": snapshot.finished,
        "status": snapshot.status,
        "uploaded": {"pending": pending, "completed": completed, "failed": failed},
    }


def summary_json(snapshot: Snapshot) -> dict[str, Any]:
    """A job in the list of jobs: what it is and how many of its images are where."""
    counts = snapshot.counts
    return {
        "job_id": snapshot.job_id,
        "created": utc_text(snapshot.created),
        "status": snapshot.status,
        "finished": snapshot.finished,
        "counts": {
            "total": sum(counts.values()),
            "pending": counts["queued"] + counts["downloaded"],
            "completed": counts["completed"],
            "failed": counts["failed"],
            "maybe_duplicate": snapshot.maybe_duplicates,
        },
        "album": album_json(snapshot.album),
    }


def album_json(album: Album | None) -> dict[str, Any] | None:
    """A job's album as its users see it. Never the deletehash."""
    if album is None:
        return None
    return {"title": album.title, "link": album.link, "error": _error_json(album.failure)}


def _error_json(failure: Failure | None) -> dict[str, str] | None:
    return {"code": failure.code, "message": failure.message} if failure else None


def image_json(image: Image) -> dict[str, Any]:
    """One record of GET /v1/images/upload/<jobId>/images. Never the deletehash."""
    report, failure = image.report, image.failure
    return {
        "url": image.url,
        "state": image.state,
        "link": image.link,
        "error": _error_json(failure),
        "status_code": report.status_code if report else failure and failure.status_code,
        "attempts": image.attempts,
        "bytes": report and report.bytes,
        "type": report and report.type,
        "width": report and report.width,
        "height": report and report.height,
        "sha256": report and report.sha256,
        "converted_from": report and report.converted_from,
        "reused": image.reused,
        "maybe_duplicate": image.maybe_duplicate,
        "title": image.title,
        "description": image.description,
    }


def map_json(snapshot: Snapshot) -> dict[str, str]:
    """From every completed image's URL to its link, in the order of the input."""
    return {image.url: image.link for image in snapshot.images if image.link is not None}


def map_csv(snapshot: Snapshot) -> str:
    """The same as CSV (RFC 4180), with a header line."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(("url", "link"))
    rows.writerows(map_json(snapshot).items())
    return text.getvalue()


def utc_text(moment: datetime) -> str:
    """`moment`, which is UTC, to the second, as all of our answers write it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
