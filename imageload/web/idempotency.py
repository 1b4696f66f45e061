"""A POST that is sent again because its answer was lost makes no second job: Idempotency-Key.

A key belongs to the first body that came with it, for as long as one of that POST's jobs is known.
So there are never more keys than jobs. A restart forgets them.
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
"""Who sends it, and what was sent: the same word from two callers is two keys."""


class Jobs(Container[str], Sized, Protocol):
    """The jobIds that are known."""


@dataclass(slots=True)
class _Accepted:
    fingerprint: bytes
    job_ids: asyncio.Future[list[str]] = field(default_factory=asyncio.Future)


def checked_key(header: str | None) -> str | None:
    """The Idempotency-Key that a request has; raises Refused if it is not one."""
    if header is None:
        return None
    if len(header) > _MAX_LENGTH or not _KEY.fullmatch(header):
        raise Refused(
            "bad-request",
            f"Idempotency-Key has 1 to {_MAX_LENGTH} visible ASCII characters, and no space.",
        )
    return header


class IdempotencyKeys:
    """What was made of the POSTs that had a key. For one event loop."""

    def __init__(self, known: Jobs) -> None:
        self._known = known
        self._accepted: dict[Key, _Accepted] = {}

    def __len__(self) -> int:
        return len(self._accepted)

    async def once(
        self, key: Key, fingerprint: bytes, accept: Callable[[], Awaitable[list[str]]]
    ) -> tuple[list[str], bool]:
        """The jobIds that `accept` gives, and whether it did so for an earlier request.

        Of two requests at once one calls `accept`, the other waits for it, and shares its
        refusal too; a refused request leaves no key. Raises Refused (key-reused) if the key came
        with a body of another `fingerprint` before.
        """
        there = self._living(key)
        if there is not None:
            if there.fingerprint != fingerprint:
                raise Refused(
                    "key-reused",
                    "This Idempotency-Key came with another body before. Make a new one.",
                )
            return await asyncio.shield(there.job_ids), True
        mine = self._accepted[key] = _Accepted(fingerprint)
        try:
            job_ids = await accept()
        except BaseException as error:
            del self._accepted[key]
            mine.job_ids.set_exception(error)
            mine.job_ids.exception()  # nobody else may be waiting for it
            raise
        mine.job_ids.set_result(job_ids)
        self._forget()
        return job_ids, False

    def _living(self, key: Key) -> _Accepted | None:
        accepted = self._accepted.get(key)
        if accepted is not None and self._is_over(accepted):
            del self._accepted[key]
            return None
        return accepted

    def _is_over(self, accepted: _Accepted) -> bool:
        if not accepted.job_ids.done():
            return False
        return not any(job_id in self._known for job_id in accepted.job_ids.result())

    def _forget(self) -> None:
        """Jobs are forgotten oldest first, mostly, so the first keys go with them."""
        while self._accepted and self._is_over(next(iter(self._accepted.values()))):
            del self._accepted[next(iter(self._accepted))]
        if len(self._accepted) > len(self._known):
            over = [key for key, accepted in self._accepted.items() if self._is_over(accepted)]
            for key in over:
                del self._accepted[key]
