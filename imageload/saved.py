"""Imgur's budgets, and the refresh token that it issued last, over a restart.

Both are settings of the store.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging

from imageload.errors import StoreUnavailable
from imageload.store import Store
from imageload.targets.limits import handover
from imageload.targets.limits.quota import Quotas

_log = logging.getLogger(__name__)

_BUDGETS = "imgur:budgets"
_TOKEN = "imgur:refresh-token"  # noqa: S105 - the name of a setting


def save_budgets(store: Store, quotas: Quotas, whose: str) -> None:
    """Save the budgets of `quotas`; `whose` names the Imgur, the account and the client ids."""
    saved = _digest(whose), *handover.snapshot(quotas)
    store.set_setting(_BUDGETS, json.dumps(saved))


def restore_budgets(store: Store, quotas: Quotas, whose: str) -> bool:
    """Restore the saved budgets if they belong to `whose`; False if not all are known then."""
    try:
        digest, *snapshot = json.loads(store.get_setting(_BUDGETS) or '["", []]')
        return digest == _digest(whose) and handover.restore(quotas, *snapshot)
    except (ValueError, TypeError):
        _log.warning("the saved budgets of Imgur cannot be read")
        return False


class RefreshTokens:
    """The refresh tokens that have replaced the one that was `given` to the service.

    They are settings of the `store`, so all nodes that share it have them.
    """

    def __init__(self, store: Store, given: str) -> None:
        self._store, self._given = store, given

    async def newest(self) -> str | None:
        """The newest one, or the given one if none replaced it; None: it cannot be read now."""
        try:
            text = await asyncio.to_thread(self._store.get_setting, _TOKEN)
            digest, rotated = json.loads(text or "[null, null]")
        except StoreUnavailable:
            return None
        except (ValueError, TypeError):
            return self._given
        return str(rotated) if digest == _digest(self._given) else self._given

    async def replace(self, rotated: str) -> None:
        """Save the token that Imgur takes from now on; returns once it is on disk."""
        self._store.set_setting(_TOKEN, json.dumps([_digest(self._given), rotated]))
        await self._store.durable()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
