"""What of Imgur outlives the process, as notes in the journal: budgets, and a rotated token."""

from __future__ import annotations

import hashlib
import json
import logging

from imageload.settings import Config
from imageload.store import Store
from imageload.targets.imgur.quota import Quota

_log = logging.getLogger(__name__)

_BUDGETS = "imgur:budgets"
_TOKEN = "imgur:refresh-token"  # noqa: S105 - the name of a note


def keep_budgets(journal: Store, quota: Quota, config: Config) -> None:
    """Note how the budgets of the client ids, or the account, of `config` stand."""
    journal.set_setting(_BUDGETS, json.dumps([_digest(_whose(config)), quota.standing()]))


def restore_budgets(journal: Store, quota: Quota, config: Config) -> bool:
    """Let the budgets stand as they were noted; False where they are not all known then.

    Those of other client ids, of another account or of another Imgur are not taken for these.
    """
    try:
        whose, standing = json.loads(journal.get_setting(_BUDGETS) or '["", []]')
        return whose == _digest(_whose(config)) and quota.stand(standing)
    except (ValueError, TypeError):
        _log.warning("the note of Imgur's budgets cannot be read")
        return False


def _whose(config: Config) -> str:
    account = "" if config.imgur_anonymous else config.imgur_refresh_token
    ids = [client_id for client_id, _, _ in config.clients]
    return json.dumps([config.imgur_base_url, account, ids])


def keep_token(journal: Store, given: str, rotated: str) -> None:
    """Note the refresh token that took the place of the one that was `given` to the service."""
    journal.set_setting(_TOKEN, json.dumps([_digest(given), rotated]))


def current_token(journal: Store, given: str) -> str:
    """The newest refresh token that came of the one that is `given`; that itself if none did."""
    try:
        digest, rotated = json.loads(journal.get_setting(_TOKEN) or "[null, null]")
    except (ValueError, TypeError):
        return given
    return str(rotated) if digest == _digest(given) else given


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
