"""One URL to one temp file, safely: redirects hop by hop, caps as it runs, first bytes judged.

The one thing it leaves behind is the temp file of a Report that it returned; after any error
there is none. The name, the path and the Content-Type of a URL decide nothing.
"""

from __future__ import annotations

import email.utils
import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urljoin

from imageload import errors, image
from imageload.guard import Target, check_url
from imageload.job import Report
from imageload.transfer import Head, Request, Sink, Transfer, TransferError

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
# Types that Imgur takes come first, so that an origin that negotiates does not answer WebP.
_ACCEPT = (
    "Accept: image/jpeg,image/png,image/apng,image/gif,image/tiff;q=0.9,image/*;q=0.5,*/*;q=0.1"
)

_SAYINGS: Mapping[str, tuple[Callable[[str], errors.ImageError], str]] = {
    "url": (errors.InvalidURL, "This does not read as a URL."),
    "dns": (errors.DnsError, "The host's name does not resolve."),
    "connect": (errors.ConnectError, "The origin does not accept connections."),
    "tls": (errors.TlsError, "The origin's certificate or TLS handshake is not right"),
    "timeout": (errors.TimedOut, "The origin was too slow."),
    "too_large": (errors.TooLarge, "The answer's head is larger than any should be."),
    "response": (errors.BadResponse, "What the origin answered is not proper HTTP."),
    "truncated": (errors.Truncated, "The image broke off before its end."),
    "broken": (errors.ConnectError, "The origin closed the connection before it answered."),
    "resource": (errors.ResourceError, "The service is out of sockets for now."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one download may take: seconds in all, bytes of body, redirects."""

    seconds: float
    max_bytes: int
    max_redirects: int


class Downloader:
    """Called with a URL, downloads it to a file in `temp_dir` and gives its Report.

    Safe in any number of threads. Raises a DownloadError, DiskFull, DiskError or
    ResourceError, and Shutdown after the transfer's abort.
    """

    def __init__(self, transfer: Transfer, bounds: Bounds, temp_dir: Path) -> None:
        self._transfer = transfer
        self._bounds = bounds
        self._temp_dir = temp_dir

    def __call__(self, url: str) -> Report:
        """The Report of `url`, whose temp file is now the caller's to delete."""
        target = check_url(url)
        with _TempFile(self._temp_dir, self._bounds.max_bytes) as file:
            status = self._follow(target, file)
            report = _judged(file, status)
            file.keep()
        return report

    def _follow(self, target: Target, file: _TempFile) -> int:
        deadline = time.monotonic() + self._bounds.seconds
        for _ in range(self._bounds.max_redirects + 1):
            head = self._hop(target, file, deadline)
            if head.status not in _REDIRECTS:
                return _accepted(head)
            target = _redirected(target, head)
        raise errors.TooManyRedirects(
            f"The origin redirects more than {self._bounds.max_redirects} times."
        )

    def _hop(self, target: Target, file: _TempFile, deadline: float) -> Head:
        if time.monotonic() >= deadline:
            raise errors.TimedOut("The origin was too slow over its redirects.")

        def on_head(head: Head) -> Sink | None:
            return file.begin(head) if head.status == 200 else None

        request = Request(url=target.url, fields=(_ACCEPT,), deadline=deadline)
        try:
            return self._transfer.perform(request, target.host, on_head)
        except TransferError as error:
            raise _translated(error) from None


def _translated(error: TransferError) -> errors.ImageError:
    if error.kind == "stopped":
        return errors.Shutdown("The service stopped before this image was downloaded.")
    if error.kind == "blocked":
        return errors.BlockedAddress(error.detail)
    if error.kind == "broken" and error.answered:
        return errors.Truncated("The connection broke before the image was whole.")
    kind, sentence = _SAYINGS[error.kind]
    if error.kind == "tls":
        sentence = f"{sentence}: {error.detail}."
    return kind(sentence)


def _accepted(head: Head) -> int:
    if head.status == 200:
        return 200
    if head.status == 204:
        raise errors.EmptyBody("The origin answered 204 No Content.", status_code=204)
    if not 200 <= head.status <= 599:
        raise errors.BadResponse(f"The origin answered with the status {head.status}.")
    sentence = f"The origin answered {head.status} {_phrase(head.status)}".rstrip() + "."
    if head.status in _BUSY:
        wait = retry_after(head.fields.get("retry-after"))
        raise errors.OriginBusy(sentence, status_code=head.status, retry_after=wait)
    raise errors.HttpStatus(sentence, status_code=head.status)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def retry_after(value: str | None) -> float | None:
    """Seconds from now that a Retry-After field asks for (RFC 9110, 10.2.3); None if unreadable."""
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _redirected(target: Target, head: Head) -> Target:
    location = head.fields.get("location", "")
    if not location:
        raise errors.BadResponse(
            f"The origin answered {head.status} without saying where to.", status_code=head.status
        )
    # Field values came as latin-1; origins that put UTF-8 there mean it.
    location = location.encode("latin-1").decode("utf-8", errors="replace")
    try:
        return check_url(urljoin(target.url, location))
    except (errors.InvalidURL, ValueError):
        raise errors.BadRedirect("The origin redirects to what is no http or https URL.") from None


def _judged(file: _TempFile, status: int) -> Report:
    if not file.length:
        raise errors.EmptyBody("The origin answered 200 with an empty body.", status_code=status)
    header = image.read_header(file.path)
    if header is None:
        head = file.first_bytes()
        what = image.describe(head)
        kind = errors.UnsupportedType if image.is_svg(head) else errors.NotAnImage
        raise kind(f"What arrived is no image that Imgur takes: {what}.", status_code=status)
    return Report(
        temp_fn=str(file.path),
        status_code=status,
        bytes=file.length,
        type=header.type,
        width=header.width,
        height=header.height,
        sha256=file.sha256.hexdigest(),
    )


class _TempFile:
    """A file being downloaded to; gone at the end of its block unless it was kept."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept = False
        try:
            self._descriptor, path = tempfile.mkstemp(dir=folder)
        except OSError as error:
            raise _disk_error(error) from None
        self.path = Path(path)
        self.length = 0
        self.sha256 = hashlib.sha256()

    def __enter__(self) -> _TempFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        if not self._kept:
            self.path.unlink(missing_ok=True)

    def begin(self, head: Head) -> Sink:
        """What takes the body; raises TooLarge at once where its declared length is."""
        declared = head.fields.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:19]) > self._max_bytes:
            raise self._too_large()
        return self._write

    def _write(self, piece: bytes) -> None:
        self.length += len(piece)
        if self.length > self._max_bytes:
            raise self._too_large()
        self.sha256.update(piece)
        try:
            written = os.write(self._descriptor, piece)
            while written < len(piece):
                written += os.write(self._descriptor, piece[written:])
        except OSError as error:
            raise _disk_error(error) from None

    def _too_large(self) -> errors.TooLarge:
        return errors.TooLarge(f"The image is larger than {self._max_bytes:,} bytes.")

    def first_bytes(self) -> bytes:
        """What the file begins with, as far as that decides its type."""
        return os.pread(self._descriptor, image.HEAD_BYTES, 0)

    def keep(self) -> None:
        """Leave the file to the caller."""
        self._kept = True


def _disk_error(error: OSError) -> errors.ImageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.DiskFull("The disk of the service is full.")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return errors.ResourceError("The service is out of file descriptors for now.")
    return errors.DiskError(f"The temp file cannot be written: {os.strerror(error.errno or 0)}.")
