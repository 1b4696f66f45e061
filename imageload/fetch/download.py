"""Downloads one URL to one temp file, safely.

Redirects are followed hop by hop, each under the guard; size and time are limited while the body
arrives; the first bytes decide whether it is an image. After any error no temp file is left. The
URL's name, its path and its Content-Type decide nothing.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from imageload import errors
from imageload.fetch import imgur
from imageload.fetch import sniff as image
from imageload.fetch.guard import Target
from imageload.fetch.responses import REDIRECTS, SUCCESSES, check_status, redirected
from imageload.fetch.tempfiles import TempFiles, in_thread
from imageload.image import Report
from imageload.transport.coding import CodingCut, CodingError, coding_of, decoded
from imageload.transport.curl import Transport
from imageload.transport.request import Request, Response, Sink, TransferError

_WRITE_BYTES = 256 * 2**10
_READ_BYTES = 64 * 2**10
_MAX_PIECES = 64  # that are written as they are; to join so many small ones costs less
# Types that Imgur takes come first, so that an origin that negotiates does not answer WebP.
_ACCEPT = (
    "Accept: image/jpeg,image/png,image/apng,image/gif,image/tiff;q=0.9,image/*;q=0.5,*/*;q=0.1"
)

_ERRORS_BY_KIND: Mapping[str, tuple[str, str]] = {
    "url": ("invalid_url", "This is not a valid URL."),
    "dns": ("dns_error", "The host's name does not resolve."),
    "connect": ("connect_error", "The origin does not accept connections."),
    "tls": ("tls_error", "The origin's certificate or TLS handshake is not valid"),
    "timeout": ("timeout", "The origin was too slow."),
    "too_large": ("too_large", "The headers of the origin's response are too large."),
    "response": ("bad_response", "The origin's response is not valid HTTP."),
    "truncated": ("truncated", "The response ended before the image was complete."),
    "broken": ("connect_error", "The origin closed the connection before it answered."),
}
# Parts of libcurl's message after a timeout, which say what was too slow.
_SLOW = (
    ("too slow", "The origin sent too little for too long."),
    ("onnection timed out", "The origin did not take the connection in time."),
    ("SSL connection timeout", "The origin did not finish the TLS handshake in time."),
    ("Resolving timed out", "The host's name did not resolve in time."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadBounds:
    """Limits of one download: seconds in all, bytes of body, pixels, redirects.

    With `downgrade` a redirect may lead from https to http.
    """

    seconds: float = 60.0
    max_bytes: int = 20 * 2**20
    max_pixels: int = 100_000_000
    max_redirects: int = 5
    downgrade: bool = False
    rejected: frozenset[str] = frozenset()
    """SHA-256s of pictures that origins send in place of an image."""


class Hop(NamedTuple):
    """The next request of a download: its target, and the redirects and seconds before it."""

    target: Target
    redirects: int = 0
    seconds: float = 0.0


class Downloader:
    """Downloads URLs to temp files."""

    def __init__(self, transport: Transport, bounds: DownloadBounds, files: TempFiles) -> None:
        self._transport = transport
        self._bounds = bounds
        self._files = files

    async def fetch(self, hop: Hop) -> Report | Hop:
        """The Report of the image at `hop`, or the Hop that follows a redirect to another origin.

        The temp file of a Report is the caller's to give back. Raises DownloadError, DiskFull,
        ResourceError, and ImageError `disk_error`.
        """
        with _Arrival(self._files, self._bounds.max_bytes) as file:
            found = await self._follow(hop, file)
            if isinstance(found, Hop):
                return found
            coding = _coding(found)
            if coding:
                return await self._decoded(file, coding, found.status)
            return _judged(file, self._bounds, found.status)

    async def _decoded(self, coded: _Arrival, coding: str, status: int) -> Report:
        """The Report of the content of `coded`, which is decoded into a file of its own."""
        with _Arrival(self._files, self._bounds.max_bytes) as file:
            try:
                await in_thread(lambda: coded.decode_into(file, coding))
            except CodingError as error:
                raise _undecodable(error, status) from None
            return _judged(file, self._bounds, status)

    async def _follow(self, hop: Hop, file: _Arrival) -> Response | Hop:
        """Receive the response at the end of the redirects; a Hop if they leave the origin.

        Another origin has slots and a breaker of its own, so the caller waits for it.
        """
        target, begun = hop.target, time.monotonic()
        deadline = begun + self._bounds.seconds - hop.seconds
        for redirects in range(hop.redirects, self._bounds.max_redirects + 1):
            try:
                response = await self._hop(target, file, deadline)
            except errors.ImageError as error:
                # A redirect is a response: this origin works.
                error.answered = error.answered or redirects > hop.redirects
                raise
            if response.status not in REDIRECTS:
                check_status(target, response)
                return response
            target = redirected(target, response, downgrade=self._bounds.downgrade)
            if (target.host, target.port) != (hop.target.host, hop.target.port):
                return Hop(target, redirects + 1, hop.seconds + time.monotonic() - begun)
        raise errors.DownloadError(
            "too_many_redirects",
            f"The origin redirects more than {self._bounds.max_redirects} times.",
        )

    async def _hop(self, target: Target, file: _Arrival, deadline: float) -> Response:
        if time.monotonic() >= deadline:
            raise errors.DownloadError("timeout", "The origin was too slow over its redirects.")

        def on_response(response: Response) -> Sink | None:
            return file.begin(response) if response.status in SUCCESSES else None

        request = Request(url=target.url, host=target.host, headers=(_ACCEPT,), deadline=deadline)
        try:
            return await self._transport.perform(request, on_response)
        except TransferError as error:
            raise translated(error) from None


def translated(error: TransferError) -> errors.ImageError:
    """The error of an image whose request had no complete response."""
    found = _translated(error)
    found.answered = error.answered
    return found


def _translated(error: TransferError) -> errors.ImageError:
    if error.kind == "blocked":
        return errors.DownloadError("blocked_address", error.detail)
    if error.kind == "broken" and error.answered:
        return errors.DownloadError("truncated", "The connection broke before the image was whole.")
    if error.kind == "resource":
        return errors.ResourceError("The service is out of sockets for now.")
    name, message = _ERRORS_BY_KIND[error.kind]
    if error.kind == "tls":
        message = f"{message}: {error.detail}."
    elif error.kind == "timeout":
        message = next((said for sign, said in _SLOW if sign in error.detail), message)
    return errors.DownloadError(name, message)


def _coding(response: Response) -> str:
    """The coding of its body, empty without one; raises DownloadError for one we do not decode."""
    try:
        return coding_of(response.headers.get("content-encoding", ""))
    except CodingError as error:
        raise _undecodable(error, response.status) from None


def _undecodable(error: CodingError, status: int) -> errors.DownloadError:
    name = "truncated" if isinstance(error, CodingCut) else "bad_response"
    message = f"The origin's response cannot be decoded: {error}."
    return errors.DownloadError(name, message, status_code=status)


def _judged(file: _Arrival, bounds: DownloadBounds, status: int) -> Report:
    """The Report of the image in `file`, which is kept; raises DownloadError if it is none."""
    if not file.length:
        message = f"The origin answered {status} with an empty body."
        raise errors.DownloadError("empty_image", message, status_code=status)
    header, head = file.judge()
    if header is None:
        name = "unsupported_type" if image.is_other_image(head) else "not_image"
        message = f"The origin sent no image that Imgur takes: {image.describe(head)}."
        raise errors.DownloadError(name, message, status_code=status)
    if (header.width or 0) * (header.height or 0) > bounds.max_pixels:
        raise errors.DownloadError(
            "too_many_pixels", f"The image has more than {bounds.max_pixels:,} pixels."
        )
    sha256 = file.sha256.hexdigest()
    imgur.check_content(sha256)
    if sha256 in bounds.rejected:
        message = "The origin sent a picture in place of the image, one of --reject-sha256."
        raise errors.DownloadError("removed_at_origin", message, status_code=status)
    file.is_kept = True
    return Report(
        temp_fn=file.path,
        status_code=status,
        bytes=file.length,
        type=header.type,
        width=header.width,
        height=header.height,
        sha256=sha256,
    )


class _Arrival:
    """An image as it arrives in its temp file; the file is given back unless it `is_kept`.

    It is written some 256 kB at a time, in the pieces in which libcurl gives it: joining them first
    costs more than hashing each.
    """

    def __init__(self, files: TempFiles, max_bytes: int) -> None:
        self._files = files
        self._max_bytes = max_bytes
        self.is_kept = False
        """The file is left to the caller."""
        self.length = 0
        self._pieces: list[bytes] = []
        self._written = 0
        self.sha256 = hashlib.sha256()
        try:
            self._descriptor, self.path = files.take()
        except OSError as error:
            raise errors.disk_error(error) from None

    def __enter__(self) -> _Arrival:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        if not self.is_kept:
            self._files.give_back(self.path, self.length)

    def begin(self, response: Response) -> Sink:
        """The Sink of the body; raises TooLarge if the declared length is too large."""
        declared = response.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:19]) > self._max_bytes:
            raise self._too_large()
        return self._take

    def decode_into(self, other: _Arrival, coding: str) -> None:
        """Write the content, decoded, into `other`; for a thread. Raises CodingError."""
        self._write()
        starts = range(0, self.length, _READ_BYTES)
        pieces = (os.pread(self._descriptor, _READ_BYTES, at) for at in starts)
        try:
            for piece in decoded(pieces, coding):
                other._take(piece)
        except OSError as error:
            raise errors.disk_error(error) from None

    def judge(self) -> tuple[image.ImageHeader | None, bytes]:
        """The header of the image, and no bytes; or None, and the first bytes of the file."""
        whole = b""
        if not self._written:
            whole = b"".join(self._pieces)
            self._pieces = [whole]
        self._write()
        try:
            # fstat is cheap, ftruncate is not, and most files are new or grow.
            if os.fstat(self._descriptor).st_size > self.length:
                os.ftruncate(self._descriptor, self.length)

            def read(at: int, count: int) -> bytes:
                if whole:
                    return whole[at : at + count]
                return os.pread(self._descriptor, count, at) if at < self.length else b""

            header = image.header_of(read, self.length)
            return header, b"" if header else read(0, image.HEAD_BYTES)
        except OSError as error:
            raise errors.disk_error(error) from None

    def _take(self, piece: bytes) -> None:
        self.length += len(piece)
        if self.length > self._max_bytes:
            raise self._too_large()
        self._pieces.append(piece)
        if self.length - self._written > _WRITE_BYTES:
            self._write()

    def _write(self) -> None:
        pieces, self._pieces = self._pieces, []
        if len(pieces) > _MAX_PIECES:
            pieces = [b"".join(pieces)]
        for piece in pieces:
            self.sha256.update(piece)
        try:
            _write_all(self._descriptor, pieces)
        except OSError as error:
            raise errors.disk_error(error) from None
        self._written = self.length

    def _too_large(self) -> errors.TooLarge:
        return errors.TooLarge(f"The image is larger than {self._max_bytes:,} bytes.")


def _write_all(descriptor: int, pieces: list[bytes]) -> None:
    """Write the pieces one after the other; raises OSError."""
    left = sum(map(len, pieces))
    while left:
        left -= os.writev(descriptor, pieces)
        pieces = [b"".join(pieces)[-left:]] if left else []
