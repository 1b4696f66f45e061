"""Every failure of an image and every refusal of a request. Nothing here does I/O.

    ImageLoadError
    ├── IllegalChange            a Change that does not fit its image's state: a bug of ours
    ├── StoreError               the store cannot be opened; the service does not start
    ├── KeyUsed                  jobs are stored under this Idempotency-Key already
    ├── Refused                  a request that is not accepted: a row of REFUSALS
    │   └── StoreUnavailable     the store cannot be written or read at the moment
    └── ImageError               ends one image, or one try of it: a row of ERRORS
        ├── Shutdown, DiskFull, ResourceError
        ├── DownloadError        the image did not arrive from its origin
        │   └── InvalidURL, TooLarge
        └── UploadError          the image did not get to the target
            ├── QuotaExceeded, UploadBlocked
            ├── CredentialsRefused
            │   └── BucketRefused
            └── NotFoundOnImgur

Only an error that is caught by its type has a class of its own. Every other error is raised by the
name of its row: `DownloadError("dns_error", "The host's name does not resolve.")`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypedDict, Unpack

import msgspec


class Failure(msgspec.Struct, frozen=True, gc=False):
    """Why an image failed, as its job keeps it: a value, without the exception's traceback."""

    code: str
    message: str
    transient: bool
    status_code: int | None = None


class ImageLoadError(Exception):
    """The root of all errors that this project raises on purpose."""


class IllegalChange(ImageLoadError):
    """A Change that does not fit the state of its image: a bug of ours."""


class StoreError(ImageLoadError):
    """The store cannot be opened; the message says why, and what to do."""


class KeyUsed(ImageLoadError):
    """An earlier POST, maybe on another node, has stored jobs under this Idempotency-Key.

    `fingerprint` is the hash of its body, `job_ids` are its jobs.
    """

    def __init__(self, fingerprint: bytes, job_ids: tuple[str, ...]) -> None:
        super().__init__("this Idempotency-Key has jobs already")
        self.fingerprint = fingerprint
        self.job_ids = job_ids


class Refusal(NamedTuple):
    """How a refused request is answered; `retry_after` in seconds."""

    status: int
    title: str
    retry_after: int | None = None


REFUSALS: Mapping[str, Refusal] = {
    "bad-request": Refusal(400, "Bad request"),
    "unauthorized": Refusal(401, "Unauthorized"),
    "cross-origin": Refusal(403, "Cross-origin request"),
    "no-document": Refusal(404, "No document"),
    "no-check": Refusal(404, "No check"),
    "job-busy": Refusal(409, "Job busy", 5),
    "not-checked": Refusal(409, "Not checked"),
    "too-large": Refusal(413, "Too large"),
    "unsupported-type": Refusal(415, "Unsupported content type"),
    "unknown-host": Refusal(421, "Unknown host"),
    "key-reused": Refusal(422, "Idempotency-Key reused"),
    "no-images": Refusal(422, "No images in the document"),
    "too-complex": Refusal(422, "Document too complex"),
    "no-albums": Refusal(422, "No albums"),
    "backlog-full": Refusal(429, "Backlog full", 30),
    "out-of-room": Refusal(503, "Out of room", 5),
    "out-of-threads": Refusal(503, "Out of threads", 30),
    "out-of-files": Refusal(503, "Out of files", 5),
    "journal-unavailable": Refusal(503, "Journal unavailable", 30),
    "shutting-down": Refusal(503, "Shutting down", 10),
    "too-many-streams": Refusal(503, "Too many streams", 30),
    "unknown-job": Refusal(505, "Unknown job"),
}
"""By slug, which names the problem for programs and is part of the API."""


class Refused(ImageLoadError):
    """A request that is not accepted; it had no effect.

    `slug` is a key of REFUSALS; `headers` are added to those of the response.
    """

    def __init__(self, slug: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.slug = slug
        self.status, self.title, self.retry_after = REFUSALS[slug]
        self.headers = headers or {}


def shutting_down() -> Refused:
    """The refusal of a request that would begin something while the service stops."""
    return Refused("shutting-down", "The service is stopping. Send this again in a while.")


def not_finished() -> Refused:
    """The refusal of a request that needs a finished job."""
    return Refused("job-busy", "The job has not finished. Send this again when it has.")


class StoreUnavailable(Refused):
    """The store cannot be written or read at the moment."""

    def __init__(self, message: str) -> None:
        super().__init__("journal-unavailable", message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How an error is treated.

    `code`: its word in the API, the log and the metric; the row's name if empty.
    `transient`: another try may succeed.
    `max_tries`: fewer tries than the general rule allows, because repeating costs something.
    `maybe_landed`: the target may have the image all the same.
    `host_is_away`: the origin's host gives no response at all.
    `target_is_away`: any other request to the target would fail too.
    """

    code: str = ""
    transient: bool = False
    max_tries: int | None = None
    maybe_landed: bool = False
    host_is_away: bool = False
    target_is_away: bool = False


ERRORS: Mapping[str, Rule] = {
    # The service
    "internal_error": Rule(),  # a bug; the log has the traceback
    "poison": Rule(),  # the process died at each try of this image
    "shutdown": Rule(transient=True),
    "cancelled": Rule(),
    "purged": Rule(),
    "disk_full": Rule(transient=True),
    "disk_error": Rule(),
    "resource_error": Rule(transient=True),  # out of file descriptors, memory or processes
    # The download
    "invalid_url": Rule(),
    "blocked_address": Rule(),
    "dns_error": Rule(transient=True, max_tries=3, host_is_away=True),
    "connect_error": Rule(transient=True, host_is_away=True),
    "tls_error": Rule(),
    "timeout": Rule(transient=True, max_tries=2, host_is_away=True),
    "too_large": Rule(),
    "too_many_pixels": Rule(),
    "too_many_redirects": Rule(),
    "bad_redirect": Rule(),
    "http_status": Rule(),
    "origin_busy": Rule(code="http_status", transient=True),  # 429, 503 and their like
    "bad_response": Rule(),
    "truncated": Rule(transient=True),
    "empty_body": Rule(),  # 204 and 205
    "empty_image": Rule(code="empty_body", transient=True, max_tries=2),  # 200, and no bytes
    "not_image": Rule(),
    "removed_at_origin": Rule(),
    "refused_at_origin": Rule(),  # Imgur shows its images, but not to this server
    "throttled_at_origin": Rule(code="refused_at_origin", transient=True),  # with 429
    "unsupported_type": Rule(),
    "conversion_failed": Rule(),
    "metadata_kept": Rule(),
    # The upload
    "rate_limited": Rule(transient=True),
    "upload_blocked": Rule(transient=True),  # Imgur refuses this address, country or client id
    "bad_credentials": Rule(),
    "access_denied": Rule(),  # these four: of a bucket, until an operator acts
    "clock_skew": Rule(),
    "no_bucket": Rule(),
    "wrong_region": Rule(),
    "upload_rejected": Rule(),
    "unknown_rejection": Rule(code="upload_rejected"),  # in words that say no known reason
    "too_large_for_target": Rule(code="too_large"),
    "not_on_imgur": Rule(),
    "upload_connect_error": Rule(transient=True, target_is_away=True),
    "upload_timeout": Rule(transient=True, max_tries=2, target_is_away=True),
    "upload_error": Rule(maybe_landed=True),  # a response without a usable link
    "server_fault": Rule(code="upload_error", transient=True),  # 500, for this request
    "unavailable": Rule(code="upload_error", transient=True, target_is_away=True),
    "response_lost": Rule(
        code="upload_error", transient=True, max_tries=2, maybe_landed=True, target_is_away=True
    ),
}


class Known(TypedDict, total=False):
    """Facts about a failure; `retry_after` in seconds, as the other side asked for."""

    status_code: int | None
    retry_after: float | None
    maybe_landed: bool


class ImageError(ImageLoadError):
    """Ends one image, or one try of it. `name` is a key of ERRORS, `message` is for users."""

    def __init__(self, name: str, message: str, **known: Unpack[Known]) -> None:
        super().__init__(message)
        rule = ERRORS[name]
        self.name = name
        self.message = message
        self.status_code = known.get("status_code")
        self.retry_after = known.get("retry_after")
        self.answered = self.status_code is not None  # headers came before the failure
        self.code = rule.code or name
        self.transient = rule.transient
        self.max_tries = rule.max_tries
        self.maybe_landed = known.get("maybe_landed", rule.maybe_landed)
        self.host_is_away = rule.host_is_away
        self.target_is_away = rule.target_is_away

    def failure(self) -> Failure:
        """This error as the value that a job keeps."""
        return Failure(self.code, self.message, self.transient, self.status_code)


class DownloadError(ImageError):
    """The image did not arrive from its origin."""


class UploadError(ImageError):
    """The image did not get to the target."""


class _OfOneRow(ImageError):
    """An error that is caught by its type: its class says the row."""

    row: ClassVar[str]

    def __init__(self, message: str, **known: Unpack[Known]) -> None:
        super().__init__(self.row, message, **known)


class Shutdown(_OfOneRow):
    """The service stopped before this image was finished."""

    row = "shutdown"


class DiskFull(_OfOneRow):
    """There is no room for the temp file."""

    row = "disk_full"


class ResourceError(_OfOneRow):
    """This process is out of file descriptors, memory or threads."""

    row = "resource_error"


class InvalidURL(_OfOneRow, DownloadError):
    """The entry is not a URL that can be fetched."""

    row = "invalid_url"


class TooLarge(_OfOneRow, DownloadError):
    """The image has more bytes than it may have."""

    row = "too_large"


class QuotaExceeded(_OfOneRow, UploadError):
    """A rate limit is reached, as Imgur says, or by our count of its budgets."""

    row = "rate_limited"
    budget: str | None = None  # the exhausted one, if known: "user", "client" or "posts"


class UploadBlocked(_OfOneRow, UploadError):
    """Imgur refuses this address, country or client id, whatever the image."""

    row = "upload_blocked"
    is_by_edge = False  # the response came from in front of Imgur's API


class CredentialsRefused(_OfOneRow, UploadError):
    """Imgur does not accept the client id or the token."""

    row = "bad_credentials"


class BucketRefused(CredentialsRefused):
    """The bucket takes nothing of ours until an operator acts; `name` is a key of ERRORS."""

    def __init__(self, name: str, message: str, **known: Unpack[Known]) -> None:
        ImageError.__init__(self, name, message, **known)


class NotFoundOnImgur(_OfOneRow, UploadError):
    """Imgur has no such image or album (any more)."""

    row = "not_on_imgur"


def image_error_codes() -> frozenset[str]:
    """Every code that an image's error can have."""
    return frozenset(rule.code or name for name, rule in ERRORS.items())


def disk_error(error: OSError) -> ImageError:
    """The error of an image whose temp file cannot be made, written or read."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("The disk of the service is full.")
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN):
        return ResourceError("The service is out of file descriptors or memory for now.")
    return ImageError("disk_error", f"A temp file cannot be used: {os.strerror(error.errno or 0)}.")
