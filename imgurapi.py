"""ImgurAPI: imgurpython's ImgurClient on libcurl, and what Imgur's answers mean.

Every ImgurClient method rides on `make_request`, which is ours: connections are kept, deadlines
hold, and what goes wrong is an UploadError. `upload_from_path` streams the file as multipart,
where imgurpython holds it in memory three times over and sends a third more. What is asked for
anonymously stays anonymous: imgurpython sends a refused anonymous upload again as the account.
"""

from __future__ import annotations

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
from imageload.answers import Answer, budgets, checked, read_json
from imageload.job import Landed
from imageload.transfer import (
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
# A secret of this process: who writes an image's bytes cannot end the part it stands in.
_BOUNDARY = secrets.token_hex(16)
_numbers = itertools.count()


class ImgurAPI(ImgurClient):
    """An ImgurClient that any number of threads may use. Making one sends nothing.

    `credits` has the budgets of the last answer that named any; see `budgets`.
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
    ) -> None:
        # Not super().__init__: it asks for the credits at once, and fails where Imgur does.
        self.client_id = client_id
        self.client_secret = client_secret
        self.auth: Any = (
            AuthWrapper(None, refresh_token, client_id, client_secret) if refresh_token else None
        )
        self.mashape_key = rapidapi_key or None
        self.credits: dict[str, int | None] = {}
        default = RAPIDAPI_URL if rapidapi_key else API_URL
        self._base_url = (base_url or default).rstrip("/") + "/"
        self._host = urlsplit(self._base_url).hostname or ""
        self._link_base = link_base.rstrip("/") + "/"
        self._transfer = transfer
        self._seconds = seconds
        self._refreshing = threading.Lock()

    def make_request(
        self, method: str, route: str, data: Any = None, force_anon: bool = False
    ) -> Any:
        """The `data` of Imgur's answer to `route`, or all of the answer where it has none.

        `data` goes into the query of a GET or DELETE, else into a form. Raises an UploadError.
        """
        method, form = method.upper(), urlencode(data or {}, doseq=True)
        if method in ("GET", "DELETE"):
            url, body = (f"{route}?{form}" if form else route), b""
        else:
            url, body = route, form.encode()
        media_type = "application/x-www-form-urlencoded" if body else None

        def send() -> Steps[Answer]:
            return self._send(method, url, io.BytesIO(body), len(body), media_type, force_anon)

        answer = run(self._authorized(send, force_anon))
        if isinstance(answer.json, dict) and "data" in answer.json:
            return answer.json["data"]
        return answer.json

    def upload_from_path(
        self, path: str | Path, config: Mapping[str, str] | None = None, anon: bool = True
    ) -> Any:
        """Upload the file at `path`; gives the image as Imgur describes it (`link`, `id`, ...).

        `config` may have `album`, `name`, `title` and `description`. Raises an UploadError, or
        DiskError where the file cannot be read.
        """
        return run(self._upload(str(path), config, anon))

    def _upload(self, path: str, config: Mapping[str, str] | None, anon: bool) -> Steps[Any]:
        fields = {key: (config or {})[key] for key in self.allowed_image_fields & {*(config or ())}}

        def send() -> Steps[Answer]:
            with _Multipart(path, fields) as form:
                length, media_type = form.length, form.media_type
                return (yield from self._send("POST", "upload", form, length, media_type, anon))

        answer = yield from self._authorized(send, anon)
        return answer.json.get("data")

    def land(self, path: str, *, anonymous: bool = True) -> Steps[Landed]:
        """Steps that upload the file at `path`: its link, which is under the link base.

        An answer without such a link is a BadAnswer: it is never handed on.
        """
        image = yield from self._upload(path, None, anonymous)
        link = image.get("link") if isinstance(image, dict) else None
        if not isinstance(link, str) or not _is_link(link, self._link_base):
            raise errors.BadAnswer("Imgur took the image and answered without a link to it.")
        deletehash = image.get("deletehash")
        return Landed(link, deletehash if isinstance(deletehash, str) else None)

    def _authorized(self, send: Callable[[], Steps[Answer]], force_anon: bool) -> Steps[Answer]:
        """The answer of `send`; an account's token that has run out is renewed once."""
        if self.auth is None or force_anon:
            return checked((yield from send()))
        token = self.auth.get_current_access_token()
        if token is not None:
            try:
                return checked((yield from send()))
            except errors.CredentialsRefused:
                _log.info("Imgur does not take the access token any more, it is renewed")
        yield from self._refresh(token)
        return checked((yield from send()))

    def _refresh(self, stale: str | None) -> Steps[None]:
        """Get a new access token in place of `stale`; one renewal serves all who want it."""
        while self.auth.get_current_access_token() == stale:
            # Not held across a yield for its own sake: whoever cannot have it comes back.
            if self._refreshing.acquire(blocking=False):
                try:
                    if self.auth.get_current_access_token() == stale:
                        yield from self._renew()
                finally:
                    self._refreshing.release()
                return
            yield Pause(_REFRESH_PAUSE_SECONDS)

    def _renew(self) -> Steps[None]:
        """Ask for a new access token, and for whatever takes the refresh token's place."""
        body = urlencode(
            {
                "refresh_token": self.auth.get_refresh_token(),
                "client_id": self.client_id,
                "client_secret": self.client_secret,
                "grant_type": "refresh_token",
            }
        ).encode()
        answer = yield from self._send(
            "POST",
            "oauth2/token",
            io.BytesIO(body),
            len(body),
            "application/x-www-form-urlencoded",
            True,
        )
        if answer.status in (400, 401, 403):
            raise errors.CredentialsRefused("Imgur does not take the refresh token.")
        answer = checked(answer)
        token = answer.json.get("access_token")
        if not isinstance(token, str):
            raise errors.BadAnswer("Imgur answered the token's renewal without a token.")
        self.auth.current_access_token = token
        self.auth.refresh_token = answer.json.get("refresh_token") or self.auth.refresh_token

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
                    raise errors.BadAnswer("Imgur's answer never ends.")
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
            raise errors.DiskError(f"The temp file cannot be read: {error.strerror}.") from None
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
                raise errors.DiskError("The temp file has become shorter.")
            self._file_left -= len(found)
            piece += found
        if not self._file_left and len(piece) < size:
            room = size - len(piece)
            piece, self._after = piece + self._after[:room], self._after[room:]
        return piece


def _is_link(link: str, base: str) -> bool:
    return link.startswith(base) and re.fullmatch(r"[\w.-]+", link.removeprefix(base)) is not None


def _translated(error: TransferError, length: int) -> errors.ImageError:
    """What a request without a whole answer means. `length` is that of its body."""
    whole_body_sent = length > 0 and error.sent_bytes >= length
    match error.kind:
        case "stopped":
            return errors.Shutdown("The service stopped before this image was uploaded.")
        case "resource":
            return errors.ResourceError("The service is out of sockets for now.")
        case "timeout":
            return errors.UploadTimedOut("Imgur did not answer in time.")
        case "dns" | "connect" | "url":
            return errors.UploadConnectError("Imgur cannot be reached.")
        case "tls":
            return errors.UploadError(f"Imgur's certificate is not right: {error.detail}.")
        case _ if whole_body_sent:
            return errors.AnswerLost("Imgur had the image and closed without an answer.")
    return errors.UploadConnectError("The connection to Imgur broke while the image was sent.")
