"""Imgur's limits as the whole cluster has them, for the API: from the notes of the leases.

A node shows them whether it uploads or not. Used on Tornado's loop; other threads may read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from imageload.cluster.lease import LeaseRules, client_names, prefix_of
from imageload.store.postgres.leases import Lease
from imageload.targets.limits import handover
from imageload.targets.limits.breaker import Terms
from imageload.targets.limits.budget import BudgetView
from imageload.targets.limits.quota import Quotas


class Budgets:
    """The budgets of each client id, as the node that uploads with it noted them last."""

    def __init__(self, rules: LeaseRules, terms: Terms) -> None:
        self.prefix = prefix_of(rules.target)
        self._quotas = Quotas(len(rules.clients), terms)
        self._by_name = dict(zip(client_names(rules), self._quotas.each, strict=True))

    def learn(self, leases: Sequence[Lease]) -> None:
        """Take in the notes of `leases`. Of several addresses, one has the POSTs that are shown."""
        for lease in leases:
            note = json.loads(lease.note) if lease.note else {}
            quota = self._by_name.get(lease.name)
            if quota is not None and "budgets" in note:
                handover.take_over(quota, note, lease.age, same_address=True)
            elif "posts" in note:
                handover.take_over_posts(self._quotas, note["posts"], lease.age)

    def views(self) -> Sequence[BudgetView]:
        """Every budget at this moment."""
        return self._quotas.budgets()

    def seconds_for(self, uploads: int) -> float:
        """How long so many uploads will take at least; inf: no limit is known."""
        known = any(view.limit is not None for view in self.views())
        return self._quotas.seconds_for(uploads) if known or not uploads else math.inf
