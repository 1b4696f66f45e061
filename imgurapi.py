"""ImgurAPI: imgurpython's ImgurClient over libcurl, within Imgur's rate limits.

    make_request, upload_from_path      block the calling thread, as in imgurpython
        └── request, land               coroutines on the transfer loop
                └── _call               a token that has expired is renewed once
                        └── _attempt    reserve quota, send, learn the limits, check the response

Connections are kept, deadlines hold, and every failure is an ImageError. `upload_from_path` streams
the file as multipart; imgurpython holds it in memory three times and sends a third more. Anonymous
requests stay anonymous; imgurpython repeats a refused anonymous upload as the account.
"""

from __future__ import annotations

import asyncio
import functools
import io
import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import msgspec
from imgurpython import ImgurClient
from imgurpython.client import AuthWrapper

from imageload import errors
from imageload.image import Landed
from imageload.targets import UploadCancelled
from imageload.targets.imgur.answers import ApiResponse, budgets, checked, read_json
from imageload.targets.imgur.bodies import Form, Json, Multipart
from imageload.targets.limits.quota import ASKING, UPLOAD, Kind, Quota, Quotas, kind_of
from imageload.transport.coding import CodingError, coding_of, decoded
from imageload.transport.curl import TransferCancelled, Transport
from imageload.transport.request import Request, Response, Sink, TransferError

_log = logging.getLogger(__name__)

API_URL = "https://api.imgur.com/"
RAPIDAPI_URL = "https://imgur-apiv3.p.rapidapi.com/"
LINK_BASE = "https://i.imgur.com/"

_MAX_RESPONSE_BYTES = 4 * 2**20
_LARGEST_LIMIT = 10**15
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of an image, it becomes a part of URLs
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")  # it becomes a part of a header

# By the kind of a TransferError before the whole body was sent: name in ERRORS, and message.
_ERRORS_BY_KIND = {
    **dict.fromkeys(
        ("dns", "connect", "url"), ("upload_connect_error", "Imgur cannot be reached.")
    ),
    "tls": ("upload_connect_error", "Imgur's certificate is not valid: {detail}."),
    "timeout": ("upload_timeout", "Imgur did not respond in time."),
}


class _Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call to Imgur's API, which may be sent twice: `open_body` opens its body for each."""

    method: str
    route: str
    open_body: Callable[[], Form | Json | Multipart]
    kind: Kind
    anonymous: bool = True
    content: str = ""
    """Identifies the image that it uploads."""
    check: Callable[[ApiResponse], ApiResponse] = checked


class Tokens(Protocol):
    """Where refresh tokens are kept, for a next process and for others."""

    async def newest(self) -> str | None:
        """The newest one; None: it cannot be read now."""

    async def replace(self, rotated: str) -> None:
        """Imgur has replaced it by this one, and takes the one before no more."""


class ImgurAPI(ImgurClient):
    """An ImgurClient for any number of threads. The constructor sends nothing.

    `credits` has the limits of the last response that named any, as `answers.budgets` reads them.
    When `quota` has no room, QuotaExceeded is raised and nothing is sent.
    """

    def __init__(
        self,
        client_id: str,
        client_secret: str = "",
        refresh_token: str | None = None,
        *,
        transport: Transport,
        base_url: str | None = None,
        rapidapi_key: str | None = None,
        link_base: str = LINK_BASE,
        seconds: float = 120.0,
        quota: Quota | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        """`seconds` is the deadline of each request. `tokens` keeps the refresh tokens that replace
        `refresh_token`, which other processes may do too.
        """
        # Not super().__init__, which sends a request and fails when Imgur does.
        self.client_id = client_id
        self.client_secret = client_secret
        self.auth: Any = (
            AuthWrapper(None, refresh_token, client_id, client_secret) if refresh_token else None
        )
        self.mashape_key = rapidapi_key or None
        self.credits: dict[str, float | None] = {}
        self.quota = quota or Quotas().each[0]
        default = RAPIDAPI_URL if rapidapi_key else API_URL
        self._base_url = (base_url or default).rstrip("/") + "/"
        self._host = urlsplit(self._base_url).hostname or ""
        self._link_base = link_base.rstrip("/") + "/"
        self._link = re.compile(rf"{re.escape(self._link_base)}[A-Za-z0-9_.-]+")
        self._transport = transport
        self._seconds = seconds
        self._renewing = asyncio.Lock()
        self._tokens = tokens

    def make_request(
        self, method: str, route: str, data: Any = None, force_anon: bool = False
    ) -> Any:
        """The `data` of Imgur's response to `route`, or the whole body if it has none.

        `data` goes into the query of a GET or DELETE. For an album it is sent as JSON, because
        Imgur refuses forms there since 2025; else as a form. Blocks; RuntimeError on the transfer
        loop, where `request` is to be awaited. Raises an UploadError.
        """
        call = self.request(method, route, data, anonymous=force_anon)
        return self._transport.transfers.run(call)

    def upload_from_path(
        self, path: str | Path, config: Mapping[str, str] | None = None, anon: bool = True
    ) -> Any:
        """Upload the file at `path`; the image as Imgur describes it (`link`, `id`, ...).

        `config` may have `album`, `name`, `title` and `description`. Blocks, as `make_request`
        does. Raises an UploadError, or `disk_error` if the file cannot be read.
        """
        return self._transport.transfers.run(self._upload(str(path), config or {}, anon))

    async def request(
        self,
        method: str,
        route: str,
        data: Any = None,
        *,
        anonymous: bool = False,
        asking: bool = False,
    ) -> Any:
        """`make_request` as a coroutine. `asking`: send it even during a backoff."""
        about = _about(route)
        method, sent = method.upper(), data or {}
        form = urlencode(sent, doseq=True)
        kind = kind_of(method, route)
        open_body: Callable[[], Form | Json] = functools.partial(Form, form)
        if method in ("GET", "DELETE"):
            route, open_body = (f"{route}?{form}" if form else route), functools.partial(Form, "")
        elif kind.endpoint == "albums":
            open_body = functools.partial(Json, _album_fields(sent))
        call = _Call(
            method=method,
            route=route,
            open_body=open_body,
            kind=ASKING if asking else kind,
            anonymous=anonymous,
            check=lambda response: checked(response, about),
        )
        body = (await self._call(call)).json
        return body.get("data", body)

    async def ask_credits(self, *, anonymous: bool = True) -> None:
        """Ask for the limits, even during a backoff; raises an UploadError."""
        asked = time.monotonic()
        found = await self.request("GET", "credits", anonymous=anonymous, asking=True)
        if isinstance(found, dict):
            read: dict[str, float] = {
                key: value
                for key, value in found.items()
                if isinstance(value, int) and abs(value) < _LARGEST_LIMIT
            }
            for key in read.keys() & {"UserReset", "ClientReset"}:  # always epochs in this body
                read[key] = max(0, read[key] - time.time())
            # RapidAPI's gateway has the limits of its plan, and this body those of Imgur's own API.
            if self.mashape_key is not None and self.quota.assumes_limits:
                return
            if not self.quota.learn(read, asked):
                self.quota.learn_no_limits()

    async def land(
        self,
        path: str,
        texts: Mapping[str, str] | None = None,
        *,
        anonymous: bool = True,
        content: str = "",
    ) -> Landed:
        """Upload the file at `path`. `texts` are the `config` of `upload_from_path`.

        `content` is the same for files of the same bytes; see `breaker.Rejections`.

        A response without a link under the link base is an `upload_error`. UploadCancelled: the
        task was cancelled when the whole file had been sent.
        """
        landed = self._landed(await self._upload(path, texts or {}, anonymous, content))
        if landed is None:
            message = "Imgur took the image and responded without a link to it."
            raise errors.UploadError("upload_error", message)
        return landed

    async def find(self, name: str) -> Landed | None:
        """The account's image of this name, if it is among its newest."""
        images = await self.request("GET", "account/me/images/0")
        for image in images if isinstance(images, list) else []:
            if isinstance(image, dict) and image.get("name") == name:
                return self._landed(image)
        return None

    def _landed(self, image: Any) -> Landed | None:
        """Link and deletehash of an image as Imgur describes it; None without a valid link."""
        link = image.get("link") if isinstance(image, dict) else None
        if not isinstance(link, str) or not self._link.fullmatch(link):
            return None
        deletehash = image.get("deletehash")
        is_name = isinstance(deletehash, str) and _NAME.fullmatch(deletehash)
        return Landed(link, deletehash if is_name else None)

    def album_link(self, album_id: str) -> str:
        """The page of an album: on Imgur, the images' host without the `i.`."""
        return f"{self._link_base.replace('//i.', '//', 1)}a/{album_id}"

    async def _upload(
        self, path: str, config: Mapping[str, str], anonymous: bool, content: str = ""
    ) -> Any:
        texts = {key: config[key] for key in self.allowed_image_fields & {*config}}
        call = _Call(
            method="POST",
            route="upload",
            open_body=lambda: Multipart(path, texts),
            kind=UPLOAD,
            anonymous=anonymous,
            content=content,
        )
        return (await self._call(call)).json.get("data")

    async def _call(self, call: _Call) -> ApiResponse:
        """The response to `call`, sent with a token unless it is anonymous."""
        if self.auth is None or call.anonymous:
            return await self._attempt(call)
        token = self.auth.get_current_access_token()
        if token is not None:
            try:
                return await self._attempt(call, token_may_be_old=True)
            except _TokenExpiredError:
                _log.info("Imgur does not accept the access token any more, it is renewed")
        async with self._renewing:
            if self.auth.get_current_access_token() == token:  # else another call has renewed it
                await self._renew(call.kind)
        return await self._attempt(call)

    async def _attempt(self, call: _Call, *, token_may_be_old: bool = False) -> ApiResponse:
        """Send `call` once, within the quota."""
        with await self.quota.reserve(call.kind, call.content) as reservation:
            response = await self._send(call)
            limits = budgets(response.headers)
            if {*limits.values()} != {None}:
                self.credits = limits
                reservation.learn(limits)
            try:
                return call.check(response)
            except errors.CredentialsRefused:
                if token_may_be_old:
                    raise _TokenExpiredError from None
                raise

    async def _renew(self, kind: Kind) -> None:
        """Get a new access token, and the refresh token that replaces ours, if there is one.

        It costs nothing. It is a part of the request of this `kind`: the same breakers are in its
        way, and its failures count for them.
        """
        if self._tokens is not None:
            self.auth.refresh_token = await self._tokens.newest() or self.auth.refresh_token
        form = {
            "refresh_token": self.auth.get_refresh_token(),
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "grant_type": "refresh_token",
        }
        call = _Call(
            method="POST",
            route="oauth2/token",
            open_body=lambda: Form(urlencode(form)),
            kind=kind._replace(cost=0, post=False),
            check=_checked_token,
        )
        try:
            response = await self._attempt(call)
        except errors.UploadError as error:
            if not error.maybe_landed:
                raise
            # The response that was lost is not that of an upload.
            message = f"The token was not renewed. {error.message}"
            raise errors.UploadError("unavailable", message) from None
        self.auth.current_access_token = response.json["access_token"]
        rotated = response.json.get("refresh_token")
        if _is_token(rotated) and rotated != self.auth.refresh_token:
            self.auth.refresh_token = rotated
            if self._tokens is not None:
                await self._tokens.replace(rotated)

    async def _send(self, call: _Call) -> ApiResponse:
        """Send `call` and read the response, whatever its status."""
        received = io.BytesIO()

        def on_response(_: Response) -> Sink:
            def take(piece: bytes) -> None:
                if received.tell() + len(piece) > _MAX_RESPONSE_BYTES:
                    raise errors.UploadError("upload_error", "Imgur's response is too large.")
                received.write(piece)

            return take

        with call.open_body() as body:
            try:
                response = await self._transport.perform(self._request(call, body), on_response)
            except TransferError as error:
                raise _translated(error, body.length) from None
            except TransferCancelled as cancelled:
                if 0 < body.length <= cancelled.sent_bytes and call.kind is UPLOAD:
                    raise UploadCancelled from None
                raise
        body_read = _decoded(received.getvalue(), response)
        return ApiResponse(response.status, response.headers, read_json(body_read))

    def _request(self, call: _Call, body: Form | Json | Multipart) -> Request:
        headers: dict[str, str] = self.prepare_headers(call.anonymous)
        if self.mashape_key is not None:
            headers |= {"X-RapidAPI-Key": self.mashape_key, "X-RapidAPI-Host": self._host}
        if body.length:
            headers["Content-Type"] = body.media_type
        return Request(
            url=self._base_url + (call.route if "oauth2" in call.route else f"3/{call.route}"),
            host=self._host,
            method=call.method,
            headers=tuple(f"{name}: {value}" for name, value in headers.items()),
            body=body,
            body_length=body.length,
            deadline=time.monotonic() + self._seconds,
        )


class _TokenExpiredError(Exception):
    """Imgur does not accept the access token. It may have expired: no sign of a wrong client id."""


def _about(route: str) -> str:
    """The id or deletehash of the one image or album that `route` is about; empty: none."""
    kind, _, rest = route.partition("/")
    return rest.partition("/")[0] if kind in ("image", "album") else ""


def _album_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` of an album; imgurpython joins ids with commas, JSON has lists."""
    lists = {name: fields[name] for name in ("ids", "deletehashes") if name in fields}
    parted = {
        name: found.split(",") if isinstance(found, str) else found for name, found in lists.items()
    }
    return {**fields, **parted}


def _checked_token(response: ApiResponse) -> ApiResponse:
    """`response` if it has a new access token; raises an UploadError."""
    try:
        checked(response)
    except (errors.QuotaExceeded, errors.UploadBlocked):
        raise
    except errors.UploadError as error:
        if error.target_is_away or response.status not in (400, 401, 403):
            raise
        message = "Imgur does not accept the refresh token."
        raise errors.CredentialsRefused(message, status_code=response.status) from None
    if not _is_token(response.json.get("access_token")):
        message = "Imgur responded to the token's renewal without a token."
        raise errors.UploadError("upload_error", message)
    return response


def _is_token(value: object) -> bool:
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None


def _decoded(body: bytes, response: Response) -> bytes:
    """The body without the gzip or deflate that a gateway added; empty if that cannot be undone."""
    plain = bytearray()
    try:
        coding = coding_of(response.headers.get("content-encoding", ""))
        if not coding:
            return body
        for piece in decoded([body], coding):
            plain += piece
            if len(plain) > _MAX_RESPONSE_BYTES:
                return b""
    except CodingError:
        return b""
    return bytes(plain)


def _translated(error: TransferError, length: int) -> errors.ImageError:
    """The error of a request with a body of `length` that got no complete response."""
    whole_body_sent = 0 < length <= error.sent_bytes
    if error.kind == "resource":
        return errors.ResourceError("The service is out of sockets for now.")
    if error.kind in _ERRORS_BY_KIND:
        name, message = _ERRORS_BY_KIND[error.kind]
        maybe_landed = whole_body_sent and error.kind == "timeout"
        message = message.format(detail=error.detail)
        return errors.UploadError(name, message, maybe_landed=maybe_landed)
    if whole_body_sent:
        message = "Imgur had the image and closed the connection without a response."
        return errors.UploadError("response_lost", message)
    message = "The connection to Imgur broke while the image was sent."
    return errors.UploadError("upload_connect_error", message)
