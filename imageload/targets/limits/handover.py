"""Imgur's limits as one process knows them, handed to the next process or to another node.

    snapshot ─► restore      all client ids, over a restart; moments are epochs
    note ─► take_over        one client id, with its lease; moments are seconds from now

What is handed over is JSON. Whoever goes on with it takes what remains for a guess until Imgur's
next response.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from imageload.targets.limits.budget import BudgetSnapshot
from imageload.targets.limits.quota import Quota, Quotas

_UNKNOWN: BudgetSnapshot = [None] * 3

Hits = Sequence[Sequence[float]]
"""The days on which the daily limit of each client id was hit."""


def snapshot(quotas: Quotas) -> tuple[list[BudgetSnapshot], Hits]:
    """All budgets, and the days on which daily limits were hit."""
    now, epoch = quotas.clock(), time.time()
    budgets = [budget.snapshot(now, epoch) for budget in quotas.all_budgets]
    return budgets, [quota.daily_hits.snapshot(now, epoch) for quota in quotas.each]


def restore(quotas: Quotas, budgets: Sequence[BudgetSnapshot], hits: Hits | None = None) -> bool:
    """Go on with a `snapshot`; False: not all credits are known then.

    Budgets of another number of client ids are ignored. Older versions saved no `hits`. Raises
    TypeError or ValueError if the snapshot is not valid.
    """
    now, epoch = quotas.clock(), time.time()
    if hits is not None:
        for quota, ends in zip(quotas.each, hits, strict=True):
            quota.daily_hits.restore([float(end) for end in ends], now, epoch)
    if len(budgets) != len(quotas.all_budgets):
        return False
    for budget, each in zip(quotas.all_budgets, budgets, strict=True):
        budget.restore(each, now, epoch)
    return quotas.knows_credits


def note(quota: Quota) -> dict[str, Any]:
    """The budgets of one client id, and the days on which its daily limit was hit."""
    now = quota.clock()
    return {
        "budgets": [each.snapshot(now, 0.0) for each in (quota.user, quota.client)],
        "daily_hits": quota.daily_hits.snapshot(now, 0.0),
    }


def take_over(quota: Quota, note: Mapping[str, Any], age: float, *, same_address: bool) -> bool:
    """Go on with a `note` that is `age` seconds old; False: Imgur should be asked.

    An empty note says nothing. Imgur counts the credits of an hour for each address, so the note
    from another one does not have them.
    """
    user, client = note.get("budgets") or (_UNKNOWN, _UNKNOWN)
    now = quota.clock()
    if not same_address:
        user = _UNKNOWN
    for budget, each, assumed in zip(
        (quota.user, quota.client), (user, client), quota.assumed, strict=True
    ):
        budget.restore(each if each[0] is not None else [assumed, assumed, None], now, age)
    if "daily_hits" in note:
        quota.daily_hits.restore(note["daily_hits"], now, age)
    return quota.knows_credits


def note_posts(quotas: Quotas) -> BudgetSnapshot:
    """The budget of POSTs, which all client ids of an address share."""
    return quotas.posts.snapshot(quotas.clock(), 0.0)


def take_over_posts(quotas: Quotas, note: BudgetSnapshot | None, age: float) -> None:
    """Go on with a `note_posts` that is `age` seconds old."""
    quotas.posts.restore(note if note is not None else _UNKNOWN, quotas.clock(), age)
