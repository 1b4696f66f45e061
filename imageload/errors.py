"""Every way an image can fail, as a tree.

    ImageLoadError
    ├── IllegalChange            our bug: a Change that the state machine does not know
    ├── JournalError             the journal cannot be used; the service does not start with it
    ├── Refused                  a request that is not taken; nothing was made of it
    │   ├── BadRequest           400: what was sent cannot be read as lists of URLs
    │   ├── Unauthorized         401: no token, or one that we do not know
    │   ├── CrossOrigin          403: a page of another site sends it
    │   ├── TooMany              413: a list or a request past its limit
    │   ├── UnknownHost          421: sent to a name that is not ours
    │   ├── KeyReused            422: an Idempotency-Key that came with another body before
    │   ├── BacklogFull          429: come back later
    │   ├── JobBusy              409: the job is being cancelled or purged
    │   ├── OutOfRoom            503: too many bodies in memory at once
    │   ├── OutOfThreads         503: the system gives no thread to work with
    │   ├── OutOfFiles           503: the system lets no more files be opened
    │   ├── JournalUnavailable   503: the journal cannot be written, or read, for now
    │   └── ShuttingDown         503: the service is about to stop
    └── ImageError               ends one image; becomes a Failure in its job
        ├── InternalError, Poison, Shutdown, Cancelled, Deleted, DiskFull, DiskError, ResourceError
        ├── DownloadError
        │   ├── InvalidURL, BlockedAddress, DnsError, ConnectError, TlsError, TimedOut
        │   ├── TooLarge, TooManyPixels, TooManyRedirects, BadRedirect
        │   ├── HttpStatus (OriginBusy), RemovedAtOrigin, ConversionFailed
        │   ├── BadResponse, Truncated
        │   └── EmptyBody, NotAnImage, UnsupportedType
        └── UploadError
            ├── QuotaExceeded, UploadBlocked, CredentialsRefused
            ├── Unavailable, UploadConnectError, ServerFault
            ├── UploadTimedOut, AnswerLost, BadAnswer
            ├── Rejected, OverSize, NotThere
            └── Parked           a try that does not count: Imgur takes nothing for now

An `ImageError` has a stable `code` (in the API and the log; a bounded set, so a metric may carry
it), a sentence a user can act on, and `transient`: may another try help? Nothing here does I/O.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Failure(msgspec.Struct, frozen=True, gc=False):
    """Why an image failed, as its job keeps it: a value, with no traceback held alive."""

    code: str
    message: str
    transient: bool
    status_code: int | None = None


class ImageLoadError(Exception):
    """The root of what this project raises on purpose."""


class IllegalChange(ImageLoadError):
    """A Change that does not fit the state of its image: a bug of ours."""


class JournalError(ImageLoadError):
    """The journal's file is missing its folder, held by another process, damaged or too new.

    The sentence says which, and what to do.
    """


class Refused(ImageLoadError):
    """A request that is not taken.

    `slug` and `title` name the problem for programs and for people, `status` is its HTTP status.
    """

    slug: ClassVar[str] = "bad-request"
    title: ClassVar[str] = "Bad request"
    status: ClassVar[int] = 400
    retry_after: ClassVar[int | None] = None


class BadRequest(Refused):
    """What was sent cannot be read as one or more lists of URLs."""


class Unauthorized(Refused):
    """The request shows no token that this service knows; `challenge` is its WWW-Authenticate."""

    status = 401
    slug = "unauthorized"
    title = "Unauthorized"

    def __init__(self, message: str, challenge: str) -> None:
        super().__init__(message)
        self.challenge = challenge


class CrossOrigin(Refused):
    """A page of another site makes a browser send this, and that site is not allowed to."""

    status = 403
    slug = "cross-origin"
    title = "Cross-origin request"


class TooMany(Refused):
    """More URLs, lists or bytes in one request than the service takes."""

    status = 413
    slug = "too-large"
    title = "Too large"


class UnknownHost(Refused):
    """The request's Host is none of the service's names."""

    status = 421
    slug = "unknown-host"
    title = "Unknown host"


class KeyReused(Refused):
    """An Idempotency-Key that another body had before."""

    status = 422
    slug = "key-reused"
    title = "Idempotency-Key reused"


class BacklogFull(Refused):
    """Accepting more would only make everybody wait longer."""

    status = 429
    slug = "backlog-full"
    title = "Backlog full"
    retry_after = 30


class JobBusy(Refused):
    """The job is at something that does not go together with what is asked."""

    status = 409
    slug = "job-busy"
    title = "Job busy"
    retry_after = 5


class OutOfRoom(Refused):
    """The bodies of all requests take more memory than they may."""

    status = 503
    slug = "out-of-room"
    title = "Out of room"
    retry_after = 5


class OutOfThreads(Refused):
    """The system gives this process no more threads."""

    status = 503
    slug = "out-of-threads"
    title = "Out of threads"
    retry_after = 30


class OutOfFiles(Refused):
    """The system lets this process open no more files."""

    status = 503
    slug = "out-of-files"
    title = "Out of files"
    retry_after = 5


class JournalUnavailable(Refused):
    """The journal cannot be read for now, or written: a job that it does not hold may get lost."""

    status = 503
    slug = "journal-unavailable"
    title = "Journal unavailable"
    retry_after = 30


class ShuttingDown(Refused):
    """The service is stopping, and takes nothing that it would not finish."""

    status = 503
    slug = "shutting-down"
    title = "Shutting down"
    retry_after = 10


class ImageError(ImageLoadError):
    """Ends one image, or one try of it.

    `retry_after` is how many seconds the other side asked us to wait, if it did.
    `answered` says that the side asked did answer, if only with a head, before it went wrong.
    `max_tries` lowers the number of tries below the general rule where repeating costs something.
    `maybe_landed` says that Imgur may have the image all the same.
    """

    code: ClassVar[str] = "internal_error"
    transient: ClassVar[bool] = False
    max_tries: ClassVar[int | None] = None
    maybe_landed = False

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        retry_after: float | None = None,
        maybe_landed: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.retry_after = retry_after
        if maybe_landed is not None:
            self.maybe_landed = maybe_landed
        self.answered = status_code is not None

    def failure(self) -> Failure:
        """This error as the value a job keeps."""
        return Failure(self.code, self.message, self.transient, self.status_code)


class InternalError(ImageError):
    """A bug of ours hit this image; the log has the traceback."""


class Poison(ImageError):
    """The service has died each time that it was at work on this image."""

    code = "poison"


class Shutdown(ImageError):
    """The service stopped before this image was through."""

    code = "shutdown"
    transient = True


class Cancelled(ImageError):
    """The job was cancelled before this image was through."""

    code = "cancelled"


class Deleted(ImageError):
    """The image had landed, and was deleted from Imgur on request."""

    code = "purged"


class DiskFull(ImageError):
    """No room for the temp file."""

    code = "disk_full"
    transient = True


class DiskError(ImageError):
    """The temp directory cannot be written."""

    code = "disk_error"


class ResourceError(ImageError):
    """This process is out of file descriptors, memory or threads."""

    code = "resource_error"
    transient = True


class DownloadError(ImageError):
    """The image did not arrive from its origin."""


class InvalidURL(DownloadError):
    """The entry is no URL that can be fetched."""

    code = "invalid_url"


class BlockedAddress(DownloadError):
    """The URL leads where the guard lets nobody go."""

    code = "blocked_address"


class DnsError(DownloadError):
    """The origin's name does not resolve."""

    code = "dns_error"
    transient = True
    max_tries = 2


class ConnectError(DownloadError):
    """No connection to the origin, or it broke before an answer."""

    code = "connect_error"
    transient = True


class TlsError(DownloadError):
    """The origin's certificate or handshake is not to be trusted."""

    code = "tls_error"


class TimedOut(DownloadError):
    """The origin took longer than a deadline allows."""

    code = "timeout"
    transient = True
    max_tries = 2


class TooLarge(DownloadError):
    """More bytes than an image may have."""

    code = "too_large"


class TooManyPixels(DownloadError):
    """More pixels than an image may have."""

    code = "too_many_pixels"


class TooManyRedirects(DownloadError):
    """A chain of redirects past the limit."""

    code = "too_many_redirects"


class BadRedirect(DownloadError):
    """A redirect to something that is no http or https URL."""

    code = "bad_redirect"


class HttpStatus(DownloadError):
    """The origin answered with a status other than 200."""

    code = "http_status"


class OriginBusy(HttpStatus):
    """The origin answered with a status that passes: 408, 425, 429, 500, 502, 503, 504."""

    transient = True


class BadResponse(DownloadError):
    """What the origin sent is not HTTP as the RFCs have it."""

    code = "bad_response"


class Truncated(DownloadError):
    """The body ended before its declared length."""

    code = "truncated"
    transient = True


class EmptyBody(DownloadError):
    """An answer without a single byte of image."""

    code = "empty_body"


class NotAnImage(DownloadError):
    """The first bytes are those of something else."""

    code = "not_image"


class RemovedAtOrigin(DownloadError):
    """Imgur's own placeholder in place of an image that is gone."""

    code = "removed_at_origin"


class ConversionFailed(DownloadError):
    """A picture of a type that Imgur does not take, which could not be made one that it does."""

    code = "conversion_failed"


class UnsupportedType(DownloadError):
    """A picture, of a kind that Imgur does not take."""

    code = "unsupported_type"


class UploadError(ImageError):
    """The image did not get to Imgur."""

    code = "upload_error"


class QuotaExceeded(UploadError):
    """Imgur's rate limit: 429, or "uploading too fast" in another dress; or ours before it.

    `budget` is the one that ran out, where that is known: "user", "client" or "posts".
    """

    code = "rate_limited"
    transient = True
    budget: str | None = None


class UploadBlocked(UploadError):
    """Imgur refuses this address, country or client id: no image of ours will pass for now."""

    code = "upload_blocked"
    transient = True


class CredentialsRefused(UploadError):
    """Imgur does not know the client id or the token."""

    code = "bad_credentials"


class Unavailable(UploadError):
    """Imgur, or something on the way to it, is out of order for now, whatever the image."""

    transient = True


class UploadConnectError(UploadError):
    """No connection to Imgur, or it broke before the whole image was sent."""

    code = "upload_connect_error"
    transient = True


class ServerFault(UploadError):
    """Imgur broke down over this request (500); another image may pass."""

    transient = True


class UploadTimedOut(UploadError):
    """Imgur took longer than the upload deadline."""

    code = "upload_timeout"
    transient = True
    max_tries = 2


class AnswerLost(UploadError):
    """The whole image was sent and no answer came back: it may be on Imgur, or not."""

    transient = True
    max_tries = 2
    maybe_landed = True


class BadAnswer(UploadError):
    """Imgur answered with something that carries no link we can hand out."""

    maybe_landed = True


class Rejected(UploadError):
    """Imgur looked at this image and does not want it."""

    code = "upload_rejected"


class OverSize(UploadError):
    """Imgur finds the image too large."""

    code = "too_large"


class NotThere(UploadError):
    """Imgur has no such image or album (any more)."""

    code = "not_on_imgur"


class Parked(UploadError):
    """Imgur takes nothing for now, for a reason that is not the image's: it stands in line again.

    Never ends an image, and does not count as a try.
    """


def image_error_codes() -> frozenset[str]:
    """Every code that an image's error can have."""
    codes: set[str] = set()
    kinds: list[type[ImageError]] = [ImageError]
    while kinds:
        kind = kinds.pop()
        codes.add(kind.code)
        kinds.extend(kind.__subclasses__())
    return frozenset(codes)
