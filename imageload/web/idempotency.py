"""Idempotency-Key: a POST that is sent again, because its response was lost, makes no second job.

A key belongs to the first body that came with it, as long as one of that POST's jobs is known. So
there are never more keys than jobs. Keys are in memory: a restart forgets them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Container, Sized
from dataclasses import dataclass, field
from typing import Protocol

from imageload.errors import Refused

_MAX_LENGTH = 255
_KEY = re.compile(r"[!-~]+")

Key = tuple[str, str]
"""The caller and the header's value: two callers may use the same value."""


class JobIds(Container[str], Sized, Protocol):
    """The ids of the known jobs."""


@dataclass(slots=True)
class _Accepted:
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
    """The keys of accepted POSTs, with their jobs. For one event loop."""

    def __init__(self, known: JobIds) -> None:
        self._known = known
        self._accepted: dict[Key, _Accepted] = {}

    def __len__(self) -> int:
        return len(self._accepted)

    async def once(
        self, key: Key, fingerprint: bytes, accept: Callable[[], Awaitable[list[str]]]
    ) -> tuple[list[str], bool]:
        """The ids of the jobs of `key`, and True if they are those of an earlier request.

        `accept` makes the jobs; of two concurrent requests only one calls it, and the other gets
        its result or its error. After an error the key is free again. Raises Refused (key-reused)
        if the key came with another `fingerprint` before.
        """
        earlier = self._accepted.get(key)
        if earlier is not None and not self._has_expired(earlier):
            if earlier.fingerprint != fingerprint:
                message = "This Idempotency-Key was used with another body. Use a new key."
                raise Refused("key-reused", message)
            return await asyncio.shield(earlier.job_ids), True
        accepted = self._accepted[key] = _Accepted(fingerprint)
        try:
            job_ids = await accept()
        except BaseException as error:
            del self._accepted[key]
            accepted.job_ids.set_exception(error)
            accepted.job_ids.exception()  # mark it as retrieved: there may be no other request
            raise
        accepted.job_ids.set_result(job_ids)
        self._forget_expired()
        return job_ids, False

    def _has_expired(self, accepted: _Accepted) -> bool:
        return accepted.job_ids.done() and not any(
            job_id in self._known for job_id in accepted.job_ids.result()
        )

    def _forget_expired(self) -> None:
        """Forget the oldest keys if they have expired, and all expired ones if need be."""
        while self._accepted and self._has_expired(next(iter(self._accepted.values()))):
            del self._accepted[next(iter(self._accepted))]
        if len(self._accepted) > len(self._known):
            keys = [key for key, each in self._accepted.items() if self._has_expired(each)]
            for key in keys:
                del self._accepted[key]
