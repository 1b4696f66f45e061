"""Idempotency-Key: a POST that is sent again, because its response was lost, makes no second job.

A key belongs to the first body that came with it, until the store forgets that POST's jobs. The
store has the keys of accepted POSTs, on all nodes; those of this process's POSTs in progress are in
memory.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from imageload.errors import KeyUsed, Refused
from imageload.registry import Sender
from imageload.store import Posted, Store

_MAX_LENGTH = 255
_KEY = re.compile(r"[!-~]+")


@dataclass(slots=True)
class _InProgress:
    fingerprint: bytes
    job_ids: asyncio.Future[list[str]] = field(default_factory=asyncio.Future)


def checked_key(header: str | None) -> str | None:
    """The Idempotency-Key of a request; raises Refused (bad-request) if it is malformed."""
    if header is None:
        return None
    if len(header) > _MAX_LENGTH or not _KEY.fullmatch(header):
        message = f"Idempotency-Key has 1 to {_MAX_LENGTH} visible ASCII characters, and no space."
        raise Refused("bad-request", message)
    return header


class IdempotencyKeys:
    """Lets each key make its jobs only once. For one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._in_progress: dict[tuple[str, str], _InProgress] = {}

    async def once(
        self, sender: Sender, accept: Callable[[], Awaitable[list[str]]]
    ) -> tuple[list[str], bool]:
        """The ids of the sender's jobs, and True if they are those of an earlier request.

        `accept` makes the jobs and stores `sender` with them. Of two concurrent requests only one
        calls it, and the other gets its result or its error. After an error the key is free again.
        Raises Refused (key-reused) if the key came with another body before.
        """
        key = sender.caller, sender.key
        earlier = self._in_progress.get(key)
        if earlier is not None:
            _check_same(earlier.fingerprint, sender)
            return await asyncio.shield(earlier.job_ids), True
        in_progress = self._in_progress[key] = _InProgress(sender.fingerprint)
        try:
            job_ids, is_replay = await self._stored_or(accept, sender)
        except BaseException as error:
            in_progress.job_ids.set_exception(error)
            in_progress.job_ids.exception()  # mark it as retrieved: there may be no other request
            raise
        else:
            in_progress.job_ids.set_result(job_ids)
            return job_ids, is_replay
        finally:
            del self._in_progress[key]

    async def _stored_or(
        self, accept: Callable[[], Awaitable[list[str]]], sender: Sender
    ) -> tuple[list[str], bool]:
        """The ids that the store has under the sender's key and True, or those of `accept`."""
        # In a thread: a database may be asked.
        posted = await asyncio.to_thread(self._store.posted, sender.caller, sender.key)
        if posted is None:
            try:
                return await accept(), False
            except KeyUsed as used:  # another node has stored it meanwhile
                posted = Posted(*sender[:2], used.fingerprint, used.job_ids)
        _check_same(posted.fingerprint, sender)
        return [*posted.job_ids], True


def _check_same(fingerprint: bytes, sender: Sender) -> None:
    if fingerprint != sender.fingerprint:
        message = "This Idempotency-Key was used with another body. Use a new key."
        raise Refused("key-reused", message)
