"""One URL to one temp file, safely: redirects hop by hop, caps as it runs, first bytes judged.

The one thing it leaves behind is the temp file of a Report that it returned; after any error
there is none. The name, the path and the Content-Type of a URL decide nothing.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import urljoin

from imageload import errors
from imageload.fetch import sniff as image
from imageload.fetch.guard import Target, check_url
from imageload.fetch.tempfiles import TempFiles, disk_error
from imageload.job import Report
from imageload.transport.transfer import (
    Exchange,
    Head,
    Request,
    Sink,
    Steps,
    Transfer,
    TransferError,
    run,
)

_WRITE_BYTES = 256 * 2**10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
# Types that Imgur takes come first, so that an origin that negotiates does not answer WebP.
_ACCEPT = (
    "Accept: image/jpeg,image/png,image/apng,image/gif,image/tiff;q=0.9,image/*;q=0.5,*/*;q=0.1"
)

_SAYINGS: Mapping[str, tuple[str, str]] = {
    "url": ("invalid_url", "This does not read as a URL."),
    "dns": ("dns_error", "The host's name does not resolve."),
    "connect": ("connect_error", "The origin does not accept connections."),
    "tls": ("tls_error", "The origin's certificate or TLS handshake is not right"),
    "timeout": ("timeout", "The origin was too slow."),
    "too_large": ("too_large", "The answer's head is larger than any should be."),
    "response": ("bad_response", "What the origin answered is not proper HTTP."),
    "truncated": ("truncated", "The image broke off before its end."),
    "broken": ("connect_error", "The origin closed the connection before it answered."),
}


# By libcurl's own words: which of its three clocks ran out.
_SLOW = (
    ("too slow", "The origin sent too little for too long."),
    ("onnection timed out", "The origin did not take the connection in time."),
    ("SSL connection timeout", "The origin did not finish the TLS handshake in time."),
    ("Resolving timed out", "The host's name did not resolve in time."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one download may take: seconds in all, bytes of body, pixels, redirects.

    With `downgrade` a redirect may lead from https to http.
    """

    seconds: float
    max_bytes: int
    max_pixels: int
    max_redirects: int
    downgrade: bool = False


class Downloader:
    """Downloads a URL to one of `files`.

    Safe in any number of threads. Raises a DownloadError, DiskFull, `disk_error` or
    ResourceError, and Shutdown after the transfer's abort.
    """

    def __init__(self, transfer: Transfer, bounds: Bounds, files: TempFiles) -> None:
        self._transfer = transfer
        self._bounds = bounds
        self._files = files

    def __call__(self, url: str) -> Report:
        """The Report of `url`, whose temp file is now the caller's to give back; blocks."""
        return run(self.steps(url))

    def steps(self, url: str) -> Steps[Report]:
        """The same as Steps, for an engine."""
        target = check_url(url)
        with _Arrival(self._files, self._bounds.max_bytes) as file:
            status = yield from self._follow(target, file)
            report = _judged(file, status, self._bounds)
            file.keep()
        return report

    def _follow(self, target: Target, file: _Arrival) -> Steps[int]:
        deadline = time.monotonic() + self._bounds.seconds
        for hop in range(self._bounds.max_redirects + 1):
            try:
                head = yield from self._hop(target, file, deadline)
            except errors.ImageError as error:
                # Behind a redirect the host that the URL names has answered, whoever has not.
                error.answered = error.answered or hop > 0
                raise
            if head.status not in _REDIRECTS:
                return _accepted(head)
            target = _redirected(target, head, self._bounds)
        raise errors.DownloadError(
            "too_many_redirects",
            f"The origin redirects more than {self._bounds.max_redirects} times.",
        )

    def _hop(self, target: Target, file: _Arrival, deadline: float) -> Steps[Head]:
        if time.monotonic() >= deadline:
            raise errors.DownloadError("timeout", "The origin was too slow over its redirects.")

        def on_head(head: Head) -> Sink | None:
            return file.begin(head) if head.status == 200 else None

        request = Request(url=target.url, fields=(_ACCEPT,), deadline=deadline)
        try:
            head = yield Exchange(self._transfer, request, target.host, on_head)
        except TransferError as error:
            translated = _translated(error)
            translated.answered = error.answered
            raise translated from None
        assert head is not None, "an exchange is answered by a head"
        return head


def _translated(error: TransferError) -> errors.ImageError:
    if error.kind == "stopped":
        return errors.Shutdown("The service stopped before this image was downloaded.")
    if error.kind == "blocked":
        return errors.DownloadError("blocked_address", error.detail)
    if error.kind == "broken" and error.answered:
        return errors.DownloadError("truncated", "The connection broke before the image was whole.")
    if error.kind == "resource":
        return errors.ResourceError("The service is out of sockets for now.")
    name, sentence = _SAYINGS[error.kind]
    if error.kind == "tls":
        sentence = f"{sentence}: {error.detail}."
    elif error.kind == "timeout":
        sentence = next((said for sign, said in _SLOW if sign in error.detail), sentence)
    return errors.DownloadError(name, sentence)


def _accepted(head: Head) -> int:
    if head.status == 200:
        return 200
    if head.status in (204, 205):
        raise errors.DownloadError(
            "empty_body",
            f"The origin answered {head.status} {_phrase(head.status)}.",
            status_code=head.status,
        )
    if not 200 <= head.status <= 599:
        raise errors.DownloadError(
            "bad_response", f"The origin answered with the status {head.status}."
        )
    sentence = f"The origin answered {head.status} {_phrase(head.status)}".rstrip() + "."
    if head.status in _BUSY:
        wait = retry_after(head.fields.get("retry-after"))
        raise errors.DownloadError(
            "origin_busy", sentence, status_code=head.status, retry_after=wait
        )
    raise errors.DownloadError("http_status", sentence, status_code=head.status)


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
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _redirected(target: Target, head: Head, bounds: Bounds) -> Target:
    location = head.fields.get("location", "")
    if not location:
        raise errors.DownloadError(
            "bad_response",
            f"The origin answered {head.status} without saying where to.",
            status_code=head.status,
        )
    # Field values came as latin-1; origins that put UTF-8 there mean it.
    location = location.encode("latin-1").decode("utf-8", errors="replace")
    try:
        following = check_url(urljoin(target.url, location))
    except (errors.InvalidURL, ValueError):
        raise errors.DownloadError(
            "bad_redirect", "The origin redirects to what is no http or https URL."
        ) from None
    if target.scheme == "https" and following.scheme == "http" and not bounds.downgrade:
        raise errors.DownloadError("bad_redirect", "The origin redirects from https to http.")
    if _is_imgur(target.host) and following.url.endswith("/removed.png"):
        raise errors.DownloadError(
            "removed_at_origin", "Imgur has removed this image.", status_code=head.status
        )
    return following


def _is_imgur(host: str) -> bool:
    return host == "imgur.com" or host.endswith(".imgur.com")


def _judged(file: _Arrival, status: int, bounds: Bounds) -> Report:
    if not file.length:
        raise errors.DownloadError(
            "empty_body", "The origin answered 200 with an empty body.", status_code=status
        )
    header, head = file.judge()
    if header is None:
        what = image.describe(head)
        name = "unsupported_type" if image.is_svg(head) else "not_image"
        raise errors.DownloadError(
            name, f"What arrived is no image that Imgur takes: {what}.", status_code=status
        )
    if (header.width or 0) * (header.height or 0) > bounds.max_pixels:
        raise errors.DownloadError(
            "too_many_pixels", f"The image has more than {bounds.max_pixels:,} pixels."
        )
    return Report(
        temp_fn=file.path,
        status_code=status,
        bytes=file.length,
        type=header.type,
        width=header.width,
        height=header.height,
        sha256=file.sha256.hexdigest(),
    )


class _Arrival:
    """An image as it arrives in its temp file; the file goes back unless it was kept.

    What arrives is written and hashed some 256 kB at a time: both give the interpreter away, and
    getting it back costs more than they do.
    """

    def __init__(self, files: TempFiles, max_bytes: int) -> None:
        self._files = files
        self._max_bytes = max_bytes
        self._kept = False
        self._pieces: list[bytes] = []
        self._held = 0
        self._written = 0
        self.length = 0
        self.sha256 = hashlib.sha256()
        try:
            self._descriptor, self.path = files.take()
        except OSError as error:
            raise disk_error(error) from None

    def __enter__(self) -> _Arrival:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        if not self._kept:
            self._files.give_back(self.path, self.length)

    def begin(self, head: Head) -> Sink:
        """What takes the body; raises TooLarge at once where its declared length is."""
        declared = head.fields.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:19]) > self._max_bytes:
            raise self._too_large()
        return self._take

    def judge(self) -> tuple[image.ImageHeader | None, bytes]:
        """What the whole file is, if it is an image, and the bytes it begins with."""
        in_memory = not self._written
        joined = self._write()
        try:
            # Asking is cheap, cutting is not, and most files are new or grow.
            if os.fstat(self._descriptor).st_size > self.length:
                os.ftruncate(self._descriptor, self.length)

            def read(at: int, count: int) -> bytes:
                if in_memory:
                    return joined[at : at + count]
                return os.pread(self._descriptor, count, at) if at < self.length else b""

            header = image.header_of(read, self.length)
            return header, b"" if header else read(0, image.HEAD_BYTES)
        except OSError as error:
            raise disk_error(error) from None

    def keep(self) -> None:
        """Leave the file to the caller."""
        self._kept = True

    def _take(self, piece: bytes) -> None:
        self.length += len(piece)
        if self.length > self._max_bytes:
            raise self._too_large()
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held > _WRITE_BYTES:
            self._write()

    def _write(self) -> bytes:
        joined = b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        self.sha256.update(joined)
        try:
            written = os.write(self._descriptor, joined)
            while written < len(joined):
                written += os.write(self._descriptor, joined[written:])
        except OSError as error:
            raise disk_error(error) from None
        self._written += written
        return joined

    def _too_large(self) -> errors.TooLarge:
        return errors.TooLarge(f"The image is larger than {self._max_bytes:,} bytes.")
