"""ImgurAPI: imgurpython's ImgurClient on libcurl, and what Imgur's answers mean.

Every ImgurClient method rides on `make_request`, which is ours: connections are kept, deadlines
hold, and what goes wrong is an UploadError. `upload_from_path` streams the file as multipart,
where imgurpython holds it in memory three times over and sends a third more. What is asked for
anonymously stays anonymous: imgurpython sends a refused anonymous upload again as the account.
"""

from __future__ import annotations

import functools
import io
import itertools
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from imgurpython import ImgurClient
from imgurpython.client import AuthWrapper

from imageload import errors
from imageload.fetch.tempfiles import disk_error
from imageload.job import Landed
from imageload.targets.imgur.answers import Answer, budgets, checked, read_json
from imageload.targets.imgur.quota import CALL_COST, UPLOAD_COST, Meter, Permit, Quota
from imageload.transport.transfer import (
    Body,
    Exchange,
    Head,
    Pause,
    Request,
    Sink,
    Steps,
    Transfer,
    TransferError,
    run,
)

_log = logging.getLogger(__name__)

API_URL = "https://api.imgur.com/"
RAPIDAPI_URL = "https://imgur-apiv3.p.rapidapi.com/"
LINK_BASE = "https://i.imgur.com/"

_MAX_ANSWER_BYTES = 4 * 2**20
_REFRESH_PAUSE_SECONDS = 0.05
_TURN_PAUSE_SECONDS = 0.02
# A secret of this process: who writes an image's bytes cannot end the part it stands in.
_BOUNDARY = secrets.token_hex(16)
_numbers = itertools.count()


class ImgurAPI(ImgurClient):
    """An ImgurClient that any number of threads may use. Making one sends nothing.

    `credits` has the budgets of the last answer that named any; see `budgets`. What is asked, is
    asked within the budgets of `meter`: where they have no room, QuotaExceeded is raised unasked.
    """

    def __init__(
        self,
        client_id: str,
        client_secret: str = "",
        refresh_token: str | None = None,
        *,
        transfer: Transfer,
        base_url: str | None = None,
        rapidapi_key: str | None = None,
        link_base: str = LINK_BASE,
        seconds: float = 120.0,
        meter: Meter | None = None,
        on_refresh_token: Callable[[str], object] | None = None,
    ) -> None:
        """`on_refresh_token` is told a refresh token that takes the place of the one before."""
        # Not super().__init__: it asks for the credits at once, and fails where Imgur does.
        self.client_id = client_id
        self.client_secret = client_secret
        self.auth: Any = (
            AuthWrapper(None, refresh_token, client_id, client_secret) if refresh_token else None
        )
        self.mashape_key = rapidapi_key or None
        self.credits: dict[str, float | None] = {}
        self.meter = meter or Quota().meters[0]
        default = RAPIDAPI_URL if rapidapi_key else API_URL
        self._base_url = (base_url or default).rstrip("/") + "/"
        self._host = urlsplit(self._base_url).hostname or ""
        self._link_base = link_base.rstrip("/") + "/"
        self._transfer = transfer
        self._seconds = seconds
        self._refreshing = threading.Lock()
        self._on_refresh_token = on_refresh_token

    def make_request(
        self, method: str, route: str, data: Any = None, force_anon: bool = False
    ) -> Any:
        """The `data` of Imgur's answer to `route`, or all of the answer where it has none.

        `data` goes into the query of a GET or DELETE, else into a form. Raises an UploadError.
        """
        return run(self.request(method, route, data, force_anon=force_anon))

    def request(
        self,
        method: str,
        route: str,
        data: Any = None,
        *,
        force_anon: bool = False,
        asking: bool = False,
    ) -> Steps[Any]:
        """`make_request` as Steps. `asking`: it is to find out whether Imgur takes requests."""
        method, form = method.upper(), urlencode(data or {}, doseq=True)
        if method in ("GET", "DELETE"):
            url, body = (f"{route}?{form}" if form else route), b""
        else:
            url, body = route, form.encode()
        media_type = "application/x-www-form-urlencoded" if body else None

        def send() -> Steps[Answer]:
            return self._send(method, url, io.BytesIO(body), len(body), media_type, force_anon)

        is_upload = method == "POST" and route in ("upload", "image")

        def take() -> Permit:
            cost = UPLOAD_COST if is_upload else CALL_COST
            return self.meter.take(cost, post=method == "POST", asking=asking)

        check = functools.partial(checked, about=_about(route))
        answer = yield from self._authorized(send, take, force_anon, asking=asking, check=check)
        if isinstance(answer.json, dict) and "data" in answer.json:
            return answer.json["data"]
        return answer.json

    def ask_credits(self, *, anonymous: bool = True) -> Steps[None]:
        """Ask for the budgets, whatever stands against it; raises the UploadError that it meets."""
        asked = time.monotonic()
        found = yield from self.request("GET", "credits", force_anon=anonymous, asking=True)
        if isinstance(found, dict):
            now = time.time()
            read: dict[str, float] = {
                key: value for key, value in found.items() if isinstance(value, int)
            }
            for key in ("UserReset", "ClientReset"):  # epochs in this body, as ever
                if key in read:
                    read[key] = max(0, read[key] - now)
            self.meter.learn(read, asked)

    def upload_from_path(
        self, path: str | Path, config: Mapping[str, str] | None = None, anon: bool = True
    ) -> Any:
        """Upload the file at `path`; gives the image as Imgur describes it (`link`, `id`, ...).

        `config` may have `album`, `name`, `title` and `description`. Raises an UploadError, or
        `disk_error` where the file cannot be read.
        """
        return run(self._upload(str(path), config, anon))

    def _upload(self, path: str, config: Mapping[str, str] | None, anon: bool) -> Steps[Any]:
        fields = {key: (config or {})[key] for key in self.allowed_image_fields & {*(config or ())}}

        def send() -> Steps[Answer]:
            with _Multipart(path, fields) as form:
                length, media_type = form.length, form.media_type
                return (yield from self._send("POST", "upload", form, length, media_type, anon))

        def take() -> Permit:
            return self.meter.take(UPLOAD_COST, post=True)

        answer = yield from self._authorized(send, take, anon)
        return answer.json.get("data")

    def land(
        self, path: str, *, anonymous: bool = True, config: Mapping[str, str] | None = None
    ) -> Steps[Landed]:
        """Steps that upload the file at `path`: its link, which is under the link base.

        `config` is that of `upload_from_path`. An answer without such a link is an `upload_error`:
        it is never handed on.
        """
        landed = self.landed((yield from self._upload(path, config, anonymous)))
        if landed is None:
            raise errors.UploadError(
                "upload_error", "Imgur took the image and answered without a link to it."
            )
        return landed

    def landed(self, image: Any) -> Landed | None:
        """The link and deletehash of an image as Imgur describes it; None without a good link."""
        link = image.get("link") if isinstance(image, dict) else None
        if not isinstance(link, str) or not _is_link(link, self._link_base):
            return None
        deletehash = image.get("deletehash")
        return Landed(link, deletehash if isinstance(deletehash, str) else None)

    def album_link(self, album_id: str) -> str:
        """Where an album is seen: beside the images, on Imgur on the host without the `i.`."""
        return f"{self._link_base.replace('//i.', '//', 1)}a/{album_id}"

    def _authorized(
        self,
        send: Callable[[], Steps[Answer]],
        take: Callable[[], Permit],
        force_anon: bool,
        *,
        asking: bool = False,
        check: Callable[[Answer], Answer] = checked,
    ) -> Steps[Answer]:
        """The answer of `send`; an account's token that has run out is renewed once."""
        if self.auth is None or force_anon:
            return (yield from self._permitted(send, take, check=check))
        token = self.auth.get_current_access_token()
        if token is not None:
            try:
                return (yield from self._permitted(send, take, check=check, token_may_be_old=True))
            except _OldToken:
                _log.info("Imgur does not take the access token any more, it is renewed")
        yield from self._refresh(token, asking=asking)
        return (yield from self._permitted(send, take, check=check))

    def _permitted(
        self,
        send: Callable[[], Steps[Answer]],
        take: Callable[[], Permit],
        *,
        token_may_be_old: bool = False,
        check: Callable[[Answer], Answer] = checked,
    ) -> Steps[Answer]:
        """The answer of `send`, checked, and what it tells of the budgets taken in."""
        permit = yield from self._taken(take)
        try:
            answer = yield from send()
            permit.learn(budgets(answer.fields))
            answer = check(answer)
        except BaseException as error:
            if token_may_be_old and isinstance(error, errors.CredentialsRefused):
                permit.end(_OldToken())
                raise _OldToken from None
            permit.end(error)
            raise
        permit.end(None)
        return answer

    def _taken(self, take: Callable[[], Permit]) -> Steps[Permit]:
        """The Permit, after those that are under way where these have to show something first."""
        while True:
            try:
                return take()
            except errors.UploadError as error:
                if error.retry_after is not None:
                    raise
            yield Pause(_TURN_PAUSE_SECONDS)

    def _refresh(self, stale: str | None, *, asking: bool) -> Steps[None]:
        """Get a new access token in place of `stale`; one renewal serves all who want it."""
        while self.auth.get_current_access_token() == stale:
            # Not held across a yield for its own sake: whoever cannot have it comes back.
            if self._refreshing.acquire(blocking=False):
                try:
                    if self.auth.get_current_access_token() == stale:
                        yield from self._renew(asking=asking)
                finally:
                    self._refreshing.release()
                return
            yield Pause(_REFRESH_PAUSE_SECONDS)

    def _renew(self, *, asking: bool) -> Steps[None]:
        """Ask for a new access token, and for whatever takes the refresh token's place.

        It costs nothing, and needs a Permit all the same: what stands against uploads stands
        against it, and what it meets counts as what an upload meets.
        """
        body = urlencode(
            {
                "refresh_token": self.auth.get_refresh_token(),
                "client_id": self.client_id,
                "client_secret": self.client_secret,
                "grant_type": "refresh_token",
            }
        ).encode()

        def send() -> Steps[Answer]:
            form, media_type = io.BytesIO(body), "application/x-www-form-urlencoded"
            return self._send("POST", "oauth2/token", form, len(body), media_type, True)

        def take() -> Permit:
            return self.meter.take(0, asking=asking)

        try:
            answer = yield from self._permitted(send, take, check=_renewed)
        except errors.UploadError as error:
            if not error.maybe_landed:
                raise
            # What was lost is the answer to this, not to an upload.
            raise errors.UploadError(
                "unavailable", f"The token was not renewed. {error.message}"
            ) from None
        self.auth.current_access_token = answer.json["access_token"]
        rotated = answer.json.get("refresh_token")
        if isinstance(rotated, str) and rotated and rotated != self.auth.refresh_token:
            self.auth.refresh_token = rotated
            if self._on_refresh_token is not None:
                self._on_refresh_token(rotated)

    def _send(
        self,
        method: str,
        route: str,
        body: Body,
        length: int,
        media_type: str | None,
        force_anon: bool,
    ) -> Steps[Answer]:
        received = io.BytesIO()

        def on_head(_: Head) -> Sink:
            def take(piece: bytes) -> None:
                if received.tell() + len(piece) > _MAX_ANSWER_BYTES:
                    raise errors.UploadError("upload_error", "Imgur's answer never ends.")
                received.write(piece)

            return take

        fields = [f"{name}: {value}" for name, value in self._fields(force_anon).items()]
        if media_type:
            fields.append(f"Content-Type: {media_type}")
        request = Request(
            url=self._base_url + (route if "oauth2" in route else f"3/{route}"),
            method=method,
            fields=tuple(fields),
            body=body,
            body_length=length,
            deadline=time.monotonic() + self._seconds,
        )
        try:
            head = yield Exchange(self._transfer, request, self._host, on_head)
        except TransferError as error:
            raise _translated(error, length) from None
        assert head is not None, "an exchange is answered by a head"
        budgets_now = budgets(head.fields)
        if any(value is not None for value in budgets_now.values()):
            self.credits = budgets_now
        return Answer(head.status, head.fields, read_json(received.getvalue()))

    def _fields(self, force_anon: bool) -> dict[str, str]:
        fields: dict[str, str] = self.prepare_headers(force_anon)
        if self.mashape_key is not None:
            fields |= {"X-RapidAPI-Key": self.mashape_key, "X-RapidAPI-Host": self._host}
        return fields


class _OldToken(Exception):
    """Imgur does not take the access token, which says nothing of us: it may have run out."""


class _Multipart:
    """A multipart/form-data body (RFC 7578) with one file, read from the disk as it is sent."""

    def __init__(self, path: str, fields: Mapping[str, str]) -> None:
        boundary = f"{_BOUNDARY}{next(_numbers):012x}"
        self.media_type = f"multipart/form-data; boundary={boundary}"
        texts = {"type": "file", **fields}
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in texts.items()
        )
        head += (
            f"--{boundary}\r\n"
            'Content-Disposition: form-data; name="image"; filename="image"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise disk_error(error) from None
        self._file_left = os.fstat(self._descriptor).st_size
        self._before = head.encode()
        self._after = f"\r\n--{boundary}--\r\n".encode()
        self.length = len(self._before) + self._file_left + len(self._after)

    def __enter__(self) -> _Multipart:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read(self, size: int, /) -> bytes:
        """The next bytes of the body, at most `size`, as many as there are in one go."""
        piece, self._before = self._before[:size], self._before[size:]
        if self._file_left and len(piece) < size:
            found = os.read(self._descriptor, min(self._file_left, size - len(piece)))
            if not found:
                raise errors.ImageError("disk_error", "The temp file has become shorter.")
            self._file_left -= len(found)
            piece += found
        if not self._file_left and len(piece) < size:
            room = size - len(piece)
            piece, self._after = piece + self._after[:room], self._after[room:]
        return piece


def _about(route: str) -> str:
    """The id or deletehash of the image or album that `route` leads to; empty: to none."""
    kind, _, rest = route.partition("/")
    return rest.partition("/")[0] if kind in ("image", "album") else ""


def _renewed(answer: Answer) -> Answer:
    """`answer` if it renews a token; else raises the UploadError that it means."""
    try:
        checked(answer)
    except (errors.QuotaExceeded, errors.UploadBlocked):
        raise
    except errors.UploadError:
        if answer.status not in (400, 401, 403):
            raise
        sentence = "Imgur does not take the refresh token."
        raise errors.CredentialsRefused(sentence, status_code=answer.status) from None
    if not isinstance(answer.json.get("access_token"), str):
        raise errors.UploadError(
            "upload_error", "Imgur answered the token's renewal without a token."
        )
    return answer


def _is_link(link: str, base: str) -> bool:
    return link.startswith(base) and re.fullmatch(r"[\w.-]+", link.removeprefix(base)) is not None


def _translated(error: TransferError, length: int) -> errors.ImageError:
    """What a request without a whole answer means. `length` is that of its body."""
    whole_body_sent = length > 0 and error.sent_bytes >= length
    match error.kind:
        case "stopped":
            sentence = "The upload was stopped before Imgur had answered."
            return errors.Shutdown(sentence, maybe_landed=whole_body_sent)
        case "resource":
            return errors.ResourceError("The service is out of sockets for now.")
        case "timeout":
            sentence = "Imgur did not answer in time."
            return errors.UploadError("upload_timeout", sentence, maybe_landed=whole_body_sent)
        case "dns" | "connect" | "url":
            return errors.UploadError("upload_connect_error", "Imgur cannot be reached.")
        case "tls":
            return errors.UploadError(
                "upload_connect_error", f"Imgur's certificate is not right: {error.detail}."
            )
        case _ if whole_body_sent:
            return errors.UploadError(
                "response_lost", "Imgur had the image and closed without an answer."
            )
    return errors.UploadError(
        "upload_connect_error", "The connection to Imgur broke while the image was sent."
    )
