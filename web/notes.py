"""What of Imgur outlives the process, as notes in the journal: budgets, and a rotated token."""

from __future__ import annotations

import hashlib
import json
import logging

from imageload.journal import Journal
from imageload.quota import Quota

_log = logging.getLogger(__name__)

_BUDGETS = "imgur:budgets"
_TOKEN = "imgur:refresh-token"  # noqa: S105 - the name of a note


def keep_budgets(journal: Journal, quota: Quota) -> None:
    """Note how the budgets stand."""
    journal.set_note(_BUDGETS, json.dumps(quota.standing()))


def restore_budgets(journal: Journal, quota: Quota) -> bool:
    """Let the budgets stand as they were noted; False where they are not all known then."""
    try:
        return quota.stand(json.loads(journal.note(_BUDGETS) or "[]"))
    except (ValueError, TypeError):
        _log.warning("the note of Imgur's budgets cannot be read")
        return False


def keep_token(journal: Journal, given: str, rotated: str) -> None:
    """Note the refresh token that took the place of the one that was `given` to the service."""
    journal.set_note(_TOKEN, json.dumps([_digest(given), rotated]))


def current_token(journal: Journal, given: str) -> str:
    """The newest refresh token that came of the one that is `given`; that itself if none did."""
    try:
        digest, rotated = json.loads(journal.note(_TOKEN) or "[null, null]")
    except (ValueError, TypeError):
        return given
    return str(rotated) if digest == _digest(given) else given


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
