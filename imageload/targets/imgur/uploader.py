"""Imgur as a target: uploads within its limits, and other calls beside them.

Albums and deletions have gates of their own: Imgur refuses one endpoint and serves the others. Runs
on the transfer loop; other threads may read the properties.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Any

from imageload import errors
from imageload.image import Landed
from imageload.targets import Albums, Takes, Upload
from imageload.targets.imgur.albums import image_name
from imageload.targets.imgur.client import Client, ask_until_known, ask_what_is_refused
from imageload.targets.limits.breaker import Rejections
from imageload.targets.limits.budget import BudgetView
from imageload.targets.limits.quota import UPLOAD, Kind, Quota, kind_of
from imageload.targets.uploads import QueuedTarget, Uploads

Ask = Callable[..., Awaitable[None]]

_ASK_SECONDS = 10.0


class Imgur(QueuedTarget):
    """Uploads and calls of all jobs. `clients` has one client for each of its quotas."""

    name = "imgur"
    place = "Imgur"
    is_repeatable = False
    has_budgets = True
    strips_metadata = True
    trouble: str | None = None

    def __init__(
        self,
        clients: Sequence[Client],
        uploads: Uploads,
        *,
        anonymous: bool = True,
        takes: Takes | None = None,
        link_base: str = "",
    ) -> None:
        super().__init__(uploads)
        self.anonymous = anonymous
        self.takes = takes or Takes()
        self.link_base = link_base
        self.albums: Albums | None = self
        self._clients = {client.quota.number: client for client in clients}
        self._asking: dict[int, asyncio.Task[None]] = {}

    async def land(self, key: str, upload: Upload) -> Landed:
        """`Target.land`."""
        return await self._uploads.land(key, upload, self._send)

    async def request(
        self, key: str, method: str, route: str, fields: Mapping[str, Any] | None = None
    ) -> Any:
        """The `data` of Imgur's response; waits while Imgur accepts no requests."""
        kind = kind_of(method, route)
        client = self._client(kind)

        async def call() -> Any:
            nonlocal client
            client = self._client(kind)
            return await client.request(method, route, fields, anonymous=self.anonymous)

        return await self._uploads.call(
            key, kind, call, lambda error: self._is_refused_as_a_whole(client, kind, error)
        )

    async def delete(self, key: str, landed: Landed) -> None:
        """`Target.delete`; upload_rejected if the image has no deletehash."""
        # A deletehash is enough: the image may be older than the account that is used now.
        name = landed.deletehash or image_name(landed, anonymous=self.anonymous)
        if name is None:
            message = "Imgur gave no deletehash for this image: it cannot be deleted."
            raise errors.UploadError("upload_rejected", message)
        with contextlib.suppress(errors.NotFoundOnImgur):
            await self.request(key, "DELETE", f"image/{name}")

    async def has(self, link: str) -> bool | None:  # noqa: ARG002
        """`Target.has`: to us Imgur shows no more than to others."""
        return None

    def deleting(self, links: Set[str]) -> contextlib.nullcontext[None]:  # noqa: ARG002
        """`Target.deleting`: no two uploads have one link."""
        return contextlib.nullcontext()

    async def ask(self) -> None:
        """Begin to ask for the limits of each client id; uploads wait for the response."""
        for client in self._clients.values():
            self.ask_for(client.quota)

    def ask_for(self, quota: Quota) -> None:
        """Begin to ask for the limits of one client id, which waits for the response."""
        quota.block_until_asked(_ASK_SECONDS)
        self._ask(self._clients[quota.number])

    def album_link(self, album_id: str) -> str:
        """The page of the album."""
        return next(iter(self._clients.values())).album_link(album_id)

    def budgets(self) -> Sequence[BudgetView]:
        """`Target.budgets`."""
        return self.quotas.budgets()

    async def _send(self, upload: Upload) -> Landed | None:
        client = self._client(UPLOAD)
        if upload.was_lost and not self.anonymous:
            # If the account cannot be read, the image is sent again: it is marked already.
            with contextlib.suppress(errors.UploadError):
                found = await client.find(upload.name)
                if found is not None:
                    return found
        texts = {"title": upload.title, "description": upload.description}
        if not self.anonymous:
            texts["name"] = upload.name
        config = {name: text for name, text in texts.items() if text is not None}
        if not upload.may_send():
            return None
        try:
            return await client.land(
                upload.path, config, anonymous=self.anonymous, content=upload.content
            )
        except errors.UploadError as error:
            if self._is_refused_as_a_whole(client, UPLOAD, error):
                return None
            raise

    def _client(self, kind: Kind) -> Client:
        return self._clients[self.quotas.best(kind).number]

    def _is_refused_as_a_whole(self, client: Client, kind: Kind, error: errors.UploadError) -> bool:
        """True if any other request of this kind would have failed too, and may succeed later."""
        breaker = client.quota.breakers[kind.endpoint]
        if isinstance(error, errors.CredentialsRefused):
            self._ask(client)
            return True
        if isinstance(error, errors.UploadBlocked):
            if kind is UPLOAD and error.answered and not breaker.is_block_asked:
                breaker.is_block_asked = True
                self._ask(client, ask_what_is_refused)
            return True
        if isinstance(error, errors.QuotaExceeded):
            return True
        # With a `max_tries` of its own, Imgur may have received the image: that counts as a try.
        is_down = error.target_is_away and error.max_tries is None
        return breaker.backoff is not None and (is_down or error.name in Rejections.NAMES)

    def _ask(self, client: Client, ask: Ask = ask_until_known) -> None:
        number = client.quota.number
        if number not in self._asking:
            self._asking[number] = asyncio.ensure_future(self._ask_and_forget(client, ask))

    async def _ask_and_forget(self, client: Client, ask: Ask) -> None:
        try:
            await ask(client, anonymous=self.anonymous)
        finally:
            del self._asking[client.quota.number]
            self.reconsider()
        backoff = client.quota.access.backoff
        if ask is not ask_until_known and backoff is not None and backoff.only_asking:
            self._ask(client)  # the client id was refused meanwhile
