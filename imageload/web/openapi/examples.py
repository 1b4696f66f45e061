"""What requests and answers look like, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

JOB = "4227cacf-2ee1-4b52-b231-110304c4e203"
URLS = [
    "https://www.python.org/static/img/python-logo.png",
    "https://www.gnu.org/graphics/gnu-head.jpg",
]
LINK = "https://i.imgur.com/zxtczst.png"
CREATED, LATER = "2026-11-22T20:37:16Z", "2026-11-22T21:37:16Z"

BODIES: dict[str, dict[str, Any]] = {
    "a list": {"value": {"urls": URLS}},
    "a bare list": {"value": URLS},
    "several jobs": {"value": {"urls": [URLS[:1], URLS[1:]]}},
    "a callback": {"value": {"urls": URLS, "callback": "https://app.example/told"}},
    "an album with titles": {
        "value": {
            "album": "Logos",
            "title": "From the net",
            "urls": [URLS[0], {"url": URLS[1], "title": "A head", "description": "Of a gnu."}],
        }
    },
}

ALBUM = {"title": "Logos", "link": "https://imgur.com/a/3LuFX8Y", "error": None}
GOES_ON = {"waiting_until": None, "waiting_for": None}
SUMMARY = {
    "job_id": JOB,
    "created": CREATED,
    "status": "complete",
    "finished": True,
    "counts": {"total": 2, "pending": 0, "completed": 1, "failed": 1, "maybe_duplicate": 0},
    "album": ALBUM,
    "callback": {"host": "app.example", "told": True, "error": None},
    **GOES_ON,
}
CALLED = {
    "type": "job.complete",
    "timestamp": LATER,
    "data": {name: value for name, value in SUMMARY.items() if name not in GOES_ON},
}
STATUS = {
    "job_id": JOB,
    "created": CREATED,
    "finished": False,
    "status": "in-progress",
    "uploaded": {
        "pending": [{"status_code": 200, "url": URLS[0], "temp_fn": "/srv/imageload/tmp45tw5jyr"}],
        "completed": [LINK],
        "failed": [URLS[1]],
    },
}
IMAGE = {
    "url": URLS[0],
    "state": "completed",
    "link": LINK,
    "error": None,
    "status_code": 200,
    "attempts": 1,
    "bytes": 15_770,
    "type": "image/png",
    "width": 290,
    "height": 82,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "converted_from": None,
    "reused": False,
    "maybe_duplicate": False,
    "title": "A logo",
    "description": None,
}
FAILED_IMAGE = {
    **IMAGE,
    "url": URLS[1],
    "state": "failed",
    "link": None,
    "error": {"code": "http_status", "message": "The origin answered 404 Not Found."},
    "status_code": 404,
    **dict.fromkeys(("bytes", "type", "width", "height", "sha256", "title")),
}
QUOTA = {
    "waiting_until": LATER,
    "waiting_for": "user",
    "reason": "Imgur's hourly credits of this address and client id are used up.",
    "parked": 11,
    "pending": 11,
    "done_at": LATER,
    "budgets": [
        {"client": 1, "budget": "user", "limit": 500, "remaining": 9, "resets_at": LATER},
    ],
}
READY = {"status": "ready", "waiting_for": None, "reason": None, "journal": None}
NOT_READY = {
    "status": "not ready",
    "waiting_for": "credentials",
    "reason": "Imgur does not take the client id.",
    "journal": None,
}

STREAM = """\
retry: 2000

event: progress
data: {"job_id":"4227cacf-2ee1-4b52-b231-110304c4e203","status":"in-progress","finished":false}

event: image
id: 9b1f03aa-1
data: {"number":2,"url":"https://www.gnu.org/graphics/gnu-head.jpg","state":"failed"}

event: complete
id: 9b1f03aa-1-6
data: {"job_id":"4227cacf-2ee1-4b52-b231-110304c4e203","status":"complete","finished":true}

"""
JOBS_STREAM = """\
retry: 2000

id: 61d0e2b4-17

event: job
id: 61d0e2b4-18
data: {"job_id":"4227cacf-2ee1-4b52-b231-110304c4e203","status":"pending","finished":false}

"""
