"""Asks whether a link still leads to its image, without downloading that.

    alive        the host has the image
    gone         it has not: 404 or 410, or the target says so of a link that is refused
    replaced     it sends a placeholder in place of the image
    refused      it does not serve us, so nothing is known: 401, 403, 429, 451
    unreachable  nothing is known: no response, an error of the server, a broken redirect

HEAD says enough, unless the host does not know it, or the response is short and may be a
placeholder: that is received and judged as a download is. Runs on the transfer loop.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from imageload.errors import DownloadError, InvalidURL
from imageload.fetch import imgur
from imageload.fetch.download import DownloadBounds, translated
from imageload.fetch.guard import Target, check_url
from imageload.fetch.hosts import Hosts
from imageload.fetch.responses import REDIRECTS, check_status, redirected
from imageload.transport.curl import Transport
from imageload.transport.request import Request, Response, Sink, TransferError

LinkState = Literal["alive", "gone", "replaced", "refused", "unreachable"]
DEAD: Set[LinkState] = frozenset(("gone", "replaced"))
"""The states of links that never work again."""

_GONE = frozenset((404, 410))
_REFUSED = frozenset((401, 403, 429, 451))
_WITHOUT_HEAD = frozenset((405, 501))
_PLACEHOLDER_BYTES = 64 * 2**10
"""The placeholders that are known have 503 and 34,641 bytes."""


@dataclass(frozen=True, slots=True)
class OwnLinks:
    """Links to the host of `base` are the target's own.

    An operator has named this host, so it may be on a private network, as the sandbox is. `has`
    says whether the target has the image of a link that is refused; None: not known.
    """

    base: str
    has: Callable[[str], Awaitable[bool | None]]


class Probed(NamedTuple):
    """The state of a link, and the status of the response that says so; None without one."""

    state: LinkState
    status_code: int | None = None


class Prober:
    """Asks for links: those of the target by `own`, a Transport without the guard."""

    def __init__(
        self,
        origins: Transport,
        own: Transport,
        hosts: Hosts,
        bounds: DownloadBounds,
        links: OwnLinks,
    ) -> None:
        self._origins, self._own = origins, own
        self._hosts = hosts
        self._bounds = bounds
        self._has = links.has
        self._own_place = _place_of(links.base)

    async def probe(self, link: str, length: int | None, since: float) -> Probed:
        """The state of `link`, whose image had `length` bytes when it landed; None: unknown.

        A host that fails is waited for as for downloads, counted from `since`, on
        `time.monotonic`. Raises ResourceError.
        """
        is_own = False
        try:
            target = check_url(link)
            is_own = self._is_own(target)
            return Probed("alive", await self._follow(target, length, since))
        except DownloadError as error:
            state = _state_of(error)
            if state == "refused" and is_own and await self._has(link) is False:
                state = "gone"
            return Probed(state, error.status_code)

    async def _follow(self, target: Target, length: int | None, since: float) -> int:
        """The status of the response with the image, at the end of the redirects."""
        for _ in range(self._bounds.max_redirects + 1):
            response = await self._visit(target, "HEAD", since)
            if response.status in _WITHOUT_HEAD or _may_be_placeholder(response, length):
                response = await self._visit(target, "GET", since)
            if response.status not in REDIRECTS:
                return response.status
            target = redirected(target, response, downgrade=self._bounds.downgrade)
            if self._is_own(target) and urlsplit(target.url).path == "/removed.png":
                message = "The image was removed."  # as Imgur says, here by its stand-in
                raise DownloadError("removed_at_origin", message, status_code=response.status)
        raise DownloadError("too_many_redirects", "The host redirects too often.")

    async def _visit(self, target: Target, method: str, since: float) -> Response:
        """The response in a slot of its host; again, while that fails and its breaker is open."""
        has_failed = False
        while True:
            visit = await self._hosts.enter(target, since=since, has_failed=has_failed)
            try:
                response = await self._send(target, method)
            except BaseException as error:
                if not self._hosts.leave(visit, error):
                    raise
                has_failed = True
            else:
                self._hosts.leave(visit, None)
                return response

    async def _send(self, target: Target, method: str) -> Response:
        body = bytearray()

        def on_response(response: Response) -> Sink | None:
            return body.extend if _is_short(response) else None

        request = Request(
            url=target.url,
            host=target.host,
            method=method,
            deadline=time.monotonic() + self._bounds.seconds,
        )
        transport = self._own if self._is_own(target) else self._origins
        try:
            response = await transport.perform(request, on_response)
        except TransferError as error:
            raise translated(error) from None
        if response.status in REDIRECTS or (method == "HEAD" and response.status in _WITHOUT_HEAD):
            return response
        check_status(target, response)
        if method == "GET" and _is_short(response):
            self._check_content(bytes(body), response.status)
        return response

    def _check_content(self, body: bytes, status: int) -> None:
        if not body:
            raise DownloadError("empty_image", "The response is empty.", status_code=status)
        sha256 = hashlib.sha256(body).hexdigest()
        imgur.check_content(sha256)
        if sha256 in self._bounds.rejected:
            message = "The host sent a picture in place of the image, one of --reject-sha256."
            raise DownloadError("removed_at_origin", message, status_code=status)

    def _is_own(self, target: Target) -> bool:
        return (target.host, target.port) == self._own_place


def _state_of(error: DownloadError) -> LinkState:
    status = error.status_code
    if error.name == "removed_at_origin":
        return "replaced"
    if status in _GONE:
        return "gone"
    if error.code == "refused_at_origin" or status in _REFUSED:
        return "refused"
    return "unreachable"


def _place_of(base: str) -> tuple[str, int] | None:
    """Host and port that a URL begins with."""
    try:
        target = check_url(base)
    except InvalidURL:  # the begin of a begin, such as https://
        return None
    return target.host, target.port


def _may_be_placeholder(response: Response, length: int | None) -> bool:
    """True if the image in the response is short, and not as long as ours."""
    is_image = response.status not in REDIRECTS
    return is_image and _is_short(response) and _length_of(response) != length


def _is_short(response: Response) -> bool:
    length = _length_of(response)
    return length is not None and length <= _PLACEHOLDER_BYTES


def _length_of(response: Response) -> int | None:
    declared = response.headers.get("content-length", "")
    return int(declared[:19]) if declared.isascii() and declared.isdigit() else None
