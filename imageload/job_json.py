"""A job as the HTTP API shows it: in the JSON of `imageload.schemas`, and as CSV.

Handlers and webhooks send these. No secret (a deletehash, a callback's URL) is in any of them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec

from imageload.errors import Failure
from imageload.image import Image
from imageload.job import Album, Callback, Snapshot
from imageload.schemas import (
    AlbumJson,
    CallbackJson,
    EntryJson,
    ErrorJson,
    ImageJson,
    MapJson,
    PendingJson,
    StatusJson,
    SummaryJson,
    utc_text,
)


def status_json(snapshot: Snapshot) -> StatusJson:
    """The response of GET /v1/images/upload/<jobId>."""
    pending: list[PendingJson] = []
    completed: list[str] = []
    failed: list[str] = []
    for image in snapshot.images:
        if image.state == "completed":
            completed.append(image.link or "")
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


def summary_json(snapshot: Snapshot) -> SummaryJson:
    """A job without its images: its state, counts, album and callback."""
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
        "callback": _callback_json(snapshot.callback),
        "document": snapshot.document,
        "first_url": snapshot.first_url,
    }


def album_json(album: Album | None) -> AlbumJson | None:
    """A job's album, without its deletehash."""
    if album is None:
        return None
    return {"title": album.title, "link": album.link, "error": _error_json(album.failure)}


def _callback_json(callback: Callback | None) -> CallbackJson | None:
    if callback is None:
        return None
    return {
        "host": urlsplit(callback.url).hostname or "",
        "told": callback.is_told,
        "error": _error_json(callback.failure),
    }


def _error_json(failure: Failure | None) -> ErrorJson | None:
    return {"code": failure.code, "message": failure.message} if failure else None


def image_json(number: int, image: Image) -> ImageJson:
    """The image at the position `number` of its job, without its deletehash."""
    report, failure = image.report, image.failure
    status_code = failure.status_code if failure else None
    return {
        "number": number,
        "id": image.id,
        "url": image.url,
        "state": image.state,
        "link": image.link,
        "error": _error_json(failure),
        "status_code": report.status_code if report else status_code,
        "attempts": image.attempts,
        "bytes": report.bytes if report else None,
        "type": report.type if report else None,
        "width": report.width if report else None,
        "height": report.height if report else None,
        "sha256": report.sha256 if report else None,
        "converted_from": report.converted_from if report else None,
        "reused": image.reused,
        "maybe_duplicate": image.maybe_duplicate,
        "title": image.title,
        "description": image.description,
    }


def entry_json(image: Image) -> EntryJson:
    """An image by its id."""
    error = _error_json(image.failure)
    return {"id": image.id, "url": image.url, "link": image.link, "error": error}


def entries_json(snapshot: Snapshot) -> Iterator[EntryJson]:
    """The images that have an id, in the order of the request."""
    return (entry_json(image) for image in snapshot.images if image.id is not None)


def map_json(snapshot: Snapshot) -> MapJson:
    """The link of every completed image by its URL, in the order of the request."""
    images = snapshot.images
    links = {image.url: image.link for image in images if image.link is not None}
    response: MapJson = {"job_id": snapshot.job_id, "map": links}
    if entries := list(entries_json(snapshot)):
        response["entries"] = entries
    return response


def map_csv(snapshot: Snapshot) -> str:
    """The completed images as CSV (RFC 4180) with a header line; the ids are the last column."""
    text = io.StringIO()
    rows = csv.writer(text)
    landed = [image for image in snapshot.images if image.link is not None]
    if any(image.id is not None for image in snapshot.images):
        rows.writerow(("url", "link", "id"))
        rows.writerows((image.url, image.link, image.id) for image in landed)
    else:
        rows.writerow(("url", "link"))
        rows.writerows({image.url: image.link for image in landed}.items())
    return text.getvalue()


def map_lines(snapshot: Snapshot) -> bytes:
    """Every image of the job, those without a link too, as a line of JSON each."""
    return msgspec.json.Encoder().encode_lines([entry_json(image) for image in snapshot.images])
