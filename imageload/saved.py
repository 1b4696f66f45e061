"""Imgur's budgets, and the refresh token that it issued last, over a restart.

Both are settings of the store.
"""

from __future__ import annotations

import hashlib
import json
import logging

from imageload.store import Store
from imageload.targets.imgur.quota import Quotas

_log = logging.getLogger(__name__)

_BUDGETS = "imgur:budgets"
_TOKEN = "imgur:refresh-token"  # noqa: S105 - the name of a setting


def save_budgets(store: Store, quotas: Quotas, whose: str) -> None:
    """Save the budgets of `quotas`; `whose` names the Imgur, the account and the client ids."""
    store.set_setting(_BUDGETS, json.dumps([_digest(whose), quotas.snapshot()]))


def restore_budgets(store: Store, quotas: Quotas, whose: str) -> bool:
    """Restore the saved budgets if they belong to `whose`; False if not all are known then."""
    try:
        digest, budgets = json.loads(store.get_setting(_BUDGETS) or '["", []]')
        return digest == _digest(whose) and quotas.restore(budgets)
    except (ValueError, TypeError):
        _log.warning("the saved budgets of Imgur cannot be read")
        return False


def save_token(store: Store, given: str, rotated: str) -> None:
    """Save the refresh token that replaced the one that was `given` to the service."""
    store.set_setting(_TOKEN, json.dumps([_digest(given), rotated]))


def current_token(store: Store, given: str) -> str:
    """The newest refresh token that replaced the `given` one; that itself if none did."""
    try:
        digest, rotated = json.loads(store.get_setting(_TOKEN) or "[null, null]")
    except (ValueError, TypeError):
        return given
    return str(rotated) if digest == _digest(given) else given


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
