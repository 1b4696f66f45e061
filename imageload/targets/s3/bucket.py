"""Requests to one bucket: signed by libcurl, bodies read from the temp file as they are sent.

put      HEAD, if the image is large: is it there? ─► PUT, unless it is
delete   DELETE
probe    GET of an object that is not there: proves host, bucket, keys, region and clock
look     GET of a link, unsigned, as anybody does
"""

from __future__ import annotations

import email.header
import hashlib
import io
import os
import re
import time
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from imageload import errors
from imageload.fetch.tempfiles import on_file
from imageload.targets import Upload
from imageload.targets.s3.answers import MAX_RESPONSE_BYTES, ApiResponse, checked
from imageload.targets.s3.location import Location
from imageload.transport.curl import Transport
from imageload.transport.request import Request, Response, Signing, Sink, TransferError

LARGE_BYTES = 2**20
"""Images of this size and more are looked up before they are sent (docs/decisions/targets.md)."""

_EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/apng": "png",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/avif": "avif",
    "image/heic": "heic",
    "image/bmp": "bmp",
    "image/tiff": "tif",
}
_NAME = re.compile(r"[0-9a-f]{64}(-[0-9a-f]{16})?\.[a-z]{2,5}")
# AWS allows 2 kB of metadata in all.
_MAX_TITLE = 800
_MAX_DESCRIPTION = 1_000
_PROBE = "imageload-probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """With which requests are signed; `token` comes with temporary keys."""

    key_id: str
    secret: str
    token: str = ""

    def signing(self, region: str) -> Signing:
        """How a Transport signs with them."""
        return Signing(region=region, key_id=self.key_id, secret=self.secret)

    def __repr__(self) -> str:
        return "Keys(...)"


def name_of(upload: Upload) -> str:
    """The object's name: the SHA-256 of the image, and a hash of its texts if it has any."""
    texts = [upload.title, upload.description]
    of_texts = ""
    if texts != [None, None]:
        text = repr(texts).encode("utf-8", "surrogatepass")
        of_texts = "-" + hashlib.sha256(text).hexdigest()[:16]
    return f"{upload.content}{of_texts}.{_EXTENSIONS.get(upload.type, 'img')}"


class Bucket:
    """The objects below the prefix of one bucket."""

    def __init__(
        self,
        location: Location,
        keys: Keys,
        transport: Transport,
        plain: Transport,
        seconds: float,
    ) -> None:
        """`transport` signs with `keys`, `plain` signs nothing; `seconds`: of one request."""
        self.location = location
        self._base, self._host = f"{location.url}/{location.prefix}", location.host
        self._transport, self._plain = transport, plain
        self._seconds = seconds
        self._secrets = tuple(each for each in (keys.key_id, keys.secret, keys.token) if each)
        self._signed = ["x-amz-content-sha256: UNSIGNED-PAYLOAD"]
        if keys.token:
            self._signed.append(f"x-amz-security-token: {keys.token}")

    def link(self, name: str) -> str:
        """The link of an object."""
        return self.location.link_base + name

    def name_in(self, link: str) -> str | None:
        """The name of the object with this link; None: it is none of ours."""
        base, _, name = link.rpartition("/")
        is_ours = f"{base}/" == self.location.link_base and _NAME.fullmatch(name)
        return name if is_ours else None

    async def put(self, name: str, upload: Upload) -> None:
        """Store the image, unless it is there. Raises UploadError, or `disk_error`."""
        if upload.bytes >= LARGE_BYTES and await self._has(name, upload.bytes):
            return
        with _File(upload.path) as file:
            response = await self._send("PUT", name, _headers(upload), file)
        self._check(response)
        await _check_etag(response, upload)

    async def delete(self, name: str) -> None:
        """Delete the object; also if it is not there. Raises UploadError."""
        try:
            self._check(await self._send("DELETE", name), (200, 202, 204))
        except errors.BucketRefused as error:
            if error.name != "access_denied":
                raise
            # Keys that may write and not delete are no reason to end uploads.
            raise errors.UploadError(
                error.name, error.message, status_code=error.status_code
            ) from None

    async def probe(self) -> None:
        """Prove that the bucket takes our requests; raises UploadError if it does not.

        Keys that may not read get `AccessDenied` for an object that is not there: they are known
        then, and the clock and the region are right.
        """
        response = await self._send("GET", _PROBE)
        try:
            self._check(response)
        except errors.BucketRefused as error:
            if error.name != "access_denied" or b"AccessDenied" not in response.body:
                raise
        except errors.UploadError:
            if response.status != 404 or b"NoSuchKey" not in response.body:
                raise

    async def look(self, link: str) -> str | None:
        """Why somebody without keys cannot open this link; None: it opens."""
        request = Request(
            url=link, host=self.location.host, deadline=time.monotonic() + self._seconds
        )
        try:
            response = await self._plain.perform(request, lambda _: None)
        except TransferError as error:
            return str(error)
        return None if response.status == 200 else f"status {response.status}"

    async def has(self, name: str) -> bool | None:
        """Whether the object is there; None: not known.

        Keys that may not list get 403 where it is not, and so do keys that the bucket refuses.
        """
        return {200: True, 404: False}.get((await self._send("HEAD", name)).status)

    async def _has(self, name: str, length: int) -> bool:
        """True if the object is there."""
        response = await self._send("HEAD", name)
        return response.status == 200 and response.headers.get("content-length") == str(length)

    def _check(self, response: ApiResponse, statuses: Container[int] = (200,)) -> None:
        checked(response, statuses, self._secrets)

    async def _send(
        self, method: str, name: str, headers: list[str] | None = None, file: _File | None = None
    ) -> ApiResponse:
        received = io.BytesIO()

        def on_response(_: Response) -> Sink:
            def take(piece: bytes) -> None:
                received.write(piece[: MAX_RESPONSE_BYTES - received.tell()])

            return take

        request = Request(
            url=self._base + name,
            host=self._host,
            method=method,
            headers=(*self._signed, *(headers or [])),
            body=file,
            body_length=file.length if file is not None else 0,
            deadline=time.monotonic() + self._seconds,
        )
        try:
            response = await self._transport.perform(request, on_response)
        except TransferError as error:
            raise _translated(error, request.body_length) from None
        return ApiResponse(response.status, response.headers, received.getvalue())


class _File:
    """The body of a PUT: a file of a length that is known."""

    def __init__(self, path: str) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise errors.disk_error(error) from None
        self.length = self._left = os.fstat(self._descriptor).st_size

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most `size`."""
        piece = os.read(self._descriptor, min(size, self._left))
        if not piece and self._left:
            raise errors.ImageError("disk_error", "The temp file has become shorter.")
        self._left -= len(piece)
        return piece


def _headers(upload: Upload) -> list[str]:
    """The headers of an image's PUT."""
    headers = [
        f"Content-Type: {upload.type or 'application/octet-stream'}",
        "Cache-Control: public, max-age=31536000, immutable",
    ]
    if upload.title:
        headers.append(f"x-amz-meta-title: {_cut(upload.title, _MAX_TITLE)}")
    if upload.description:
        headers.append(f"x-amz-meta-description: {_cut(upload.description, _MAX_DESCRIPTION)}")
    return headers


def _cut(text: str, most: int) -> str:
    """The beginning of a text as the value of a header of at most so many bytes."""
    # A character has up to eight bytes in such a value.
    cuts = (_header_text(text[:length]) for length in (most, most // 8))
    return next((value for value in cuts if len(value) <= most), "")


def _header_text(text: str) -> str:
    """A text as the value of a header: one line, beyond ASCII as RFC 2047, which S3 documents."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if line.isascii() and not line.startswith("=?"):
        return line
    known = line.encode("utf-8", "replace").decode()
    return email.header.Header(known, "utf-8").encode(linesep="")


async def _check_etag(response: ApiResponse, upload: Upload) -> None:
    """Raise `server_fault` unless the response proves that the bucket has all bytes.

    An object that is encrypted with a key of AWS KMS has an ETag that is no MD5.
    """
    etag = response.headers.get("etag", "").removeprefix("W/").strip('"').lower()
    if not etag:
        message = "The bucket's service said that it has the image, without an ETag."
        raise errors.UploadError("server_fault", message, status_code=response.status)
    encryption = response.headers.get("x-amz-server-side-encryption", "AES256")
    is_md5 = re.fullmatch(r"[0-9a-f]{32}", etag) and encryption == "AES256"
    if is_md5 and etag != await on_file(upload.bytes, lambda: _md5(upload.path)):
        message = "The bucket's ETag is not that of the image: it was damaged on its way."
        raise errors.UploadError("server_fault", message, status_code=response.status)


def _md5(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise errors.disk_error(error) from None


def _translated(error: TransferError, length: int) -> errors.ImageError:
    """The error of a request with a body of `length` that got no complete response."""
    match error.kind:
        case "resource":
            return errors.ResourceError("The service is out of sockets for now.")
        case "dns" | "connect" | "url":
            message = "The bucket's service cannot be reached: check --s3-endpoint."
            return errors.UploadError("upload_connect_error", message)
        case "tls":
            message = f"The certificate of the bucket's service is not valid: {error.detail}."
            return errors.UploadError("upload_connect_error", message)
        case "timeout":
            message = "The bucket's service did not respond in time (--upload-seconds)."
            return errors.UploadError("upload_timeout", message)
    if 0 < length <= error.sent_bytes:
        message = "The bucket's service had the image and closed the connection without a response."
        return errors.UploadError("unavailable", message)
    message = "The connection to the bucket's service broke."
    return errors.UploadError("upload_connect_error", message)
