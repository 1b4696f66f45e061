"""The part of ImgurAPI that this package uses: `imgurapi` imports it, and not the other way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

from imageload import errors
from imageload.image import Landed
from imageload.targets.limits.breaker import MESSAGES, Reason
from imageload.targets.limits.quota import Quota

_log = logging.getLogger(__name__)


class Client(Protocol):
    """An ImgurAPI, which documents these."""

    quota: Quota

    async def land(
        self, path: str, texts: Mapping[str, str], *, anonymous: bool, content: str
    ) -> Landed: ...

    async def request(self, method: str, route: str, data: Any, *, anonymous: bool) -> Any: ...

    async def ask_credits(self, *, anonymous: bool) -> None: ...

    async def find(self, name: str) -> Landed | None: ...

    def album_link(self, album_id: str) -> str: ...


async def ask_until_known(client: Client, *, anonymous: bool) -> None:
    """Ask for the limits until Imgur accepts the credentials; raises nothing.

    Any other failure ends the wait, unless the credentials were refused before: uploads will meet
    that failure too.
    """
    quota = client.quota
    while quota.is_leased:
        backoff = quota.access.backoff
        if backoff is not None and backoff.reason == "credentials":
            wait = backoff.blocked_until - time.monotonic()
            await asyncio.sleep(min(max(wait, 0.05), 3600.0))
        try:
            await client.ask_credits(anonymous=anonymous)
        except errors.CredentialsRefused as error:
            option = "IMGUR_CLIENT_ID" if quota.number == 1 else "--client-ids"
            _log.error("client id %d waits, check %s: %s", quota.number, option, error.message)
        except errors.ImageError as error:
            _log.warning("Imgur does not tell its limits yet: %s", error.message)
            if quota.access.backoff is None or quota.access.backoff.reason != "credentials":
                quota.access.end_wait(time.monotonic())  # it may not have been sent
                return
            await asyncio.sleep(min(max(error.retry_after or 0.0, 1.0), 60.0))
        else:
            return


async def ask_what_is_refused(client: Client, *, anonymous: bool) -> None:
    """After a block of uploads: ask for the limits, which tells an id from an address.

    Imgur's edge, which refuses addresses, sends no rate limits; its API, which knows client ids,
    does. Raises nothing.
    """
    breaker = client.quota.breakers["uploads"]
    reason: Reason = "blocked_id"
    try:
        await client.ask_credits(anonymous=anonymous)
    except errors.UploadBlocked as error:
        if error.is_by_edge:
            reason = "blocked_address"
    except errors.CredentialsRefused:
        pass
    except errors.ImageError as error:
        _log.warning("Imgur does not tell what it refuses: %s", error.message)
        return
    breaker.name_block(reason)
    _log.warning("uploads with client id %d are blocked: %s", client.quota.number, MESSAGES[reason])
