"""Which worker may use which client id: leases, with the budgets that the next holder goes on with.

    every second ─► renew mine, with their budgets ─► take one more, or let one go, by the share
                 ─► announce why uploads wait here, if they do ─► read the others' notes

Imgur counts by client id and by address, so both have one worker at a time: a worker takes client
ids only while it has the lease of its address (`egress`), where the POSTs are counted. The ids are
spread over the addresses. A target that names no limits needs no lease. docs/decisions/leases.md
has the reasons. A thread of its own, which asks the database only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from imageload.errors import ImageLoadError
from imageload.store.postgres import leases
from imageload.store.postgres.connections import Connection
from imageload.store.postgres.leases import GateWait, Lease, wait_of
from imageload.store.postgres.store import PostgresStore
from imageload.targets import Blocked, Reason, Target
from imageload.targets.limits import handover
from imageload.targets.limits.quota import Quota
from imageload.transport.curl import TransferLoop

_log = logging.getLogger(__name__)

_SENDING_SHARE = 2 / 3
"""Requests begin in this part of a lease's time; those in flight have the rest of it to end."""
_STEPS_PER_LEASE = 30
_LAST_SECONDS = 5.0
UNKNOWING = ("lease", "unasked")
"""Reasons of a node that does not know Imgur's limits: it has no lease, or is about to ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRules:
    """`target` names the Imgur and the account, `clients` the client ids, `egress` the address."""

    target: str
    clients: Sequence[str]
    egress: str
    seconds: float = 30.0


class _Found(NamedTuple):
    """The state that one step has read from the database."""

    is_limited: bool | None
    kept: set[str]
    taken: list[Lease]
    all: list[Lease]


@dataclass(slots=True)
class _Held:
    """The leases of this worker. `leaving`: they are let go once nothing is in flight."""

    names: set[str] = field(default_factory=set)
    leaving: set[str] = field(default_factory=set)


class Leases:
    """The leases of the worker `name`, which uploads to `target`."""

    def __init__(
        self,
        store: PostgresStore,
        name: str,
        rules: LeaseRules,
        target: Target,
        transfers: TransferLoop,
    ) -> None:
        self._store, self._worker, self._rules = store, name, rules
        self._target, self._transfers = target, transfers
        self._prefix = prefix_of(rules.target)
        self._egress = f"{self._prefix}egress/{rules.egress}"
        self._presence = f"{self._prefix}worker/{name}"
        pairs = zip(client_names(rules), target.quotas.each, strict=True)
        self._quotas: dict[str, Quota] = dict(pairs)
        self._held = _Held()
        self._has_taken = False
        self._told: bool | None = None
        self._others: list[Blocked | None] = []
        self._stopping, self._closing = threading.Event(), threading.Event()
        if target.quotas.is_limited is not False:
            for quota in self._quotas.values():
                quota.leased_until = float("-inf")
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    @property
    def others(self) -> list[Blocked | None]:
        """Why uploads wait on each other node that works; None: they do not wait there."""
        return self._others

    def start(self) -> None:
        """Begin to take leases."""
        self._thread.start()

    def stop(self) -> None:
        """Let every lease go, as soon as nothing is in flight."""
        self._stopping.set()

    def close(self, seconds: float) -> bool:
        """Let go the leases that are left; True if the thread has ended."""
        self._stopping.set()
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._has_taken = False
            self._try(self._step)
            if not self._has_taken:
                self._stopping.wait(self._rules.seconds / _STEPS_PER_LEASE)
        for quota in self._quotas.values():
            quota.leased_until = float("-inf")
        deadline = time.monotonic() + _LAST_SECONDS
        while self._is_sending(self._quotas) and time.monotonic() < deadline:
            self._closing.wait(0.05)
        self._try(lambda: self._store.run(self._leave))

    def _try(self, step: Callable[[], object]) -> None:
        try:
            step()
        except ImageLoadError as error:
            _log.debug("no lease is renewed: %s", error)
        except Exception:
            if not self._closing.is_set():  # else the transfer loop may have ended
                _log.exception("a bug in the leases")

    def _step(self) -> None:
        sent = time.monotonic()
        found = self._store.run(self._exchange)
        until = sent + self._rules.seconds * _SENDING_SHARE
        self._has_taken = bool(found.taken)
        self._use(found, until)
        if found.taken:
            taking = self._transfers.submit(self._take_over(found.taken, until))
            taking.result(self._rules.seconds)
            self._held.names |= {lease.name for lease in found.taken}  # else they run out
        self._others = [blocked_of(wait_of(each)) for each in found.all if self._is_other(each)]
        may_send = any(quota.is_leased for quota in self._quotas.values())
        if not self._has_taken:
            if may_send is not self._told:
                self._transfers.loop.call_soon_threadsafe(self._target.reconsider)
            self._told = may_send

    def _use(self, found: _Found, until: float) -> None:
        """Send with the client ids that are still ours, until then."""
        is_free = found.is_limited is False
        lost = self._held.names - found.kept - self._held.leaving
        if lost and not is_free:
            _log.warning("this node has lost leases=%d", len(lost))
        self._held.names = {*found.kept}
        self._held.leaving &= found.kept
        usable = found.kept - self._held.leaving if self._egress in found.kept else set()
        for name, quota in self._quotas.items():
            if is_free:
                quota.leased_until = float("inf")
            else:
                quota.leased_until = until if name in usable else float("-inf")

    def _exchange(self, connection: Connection) -> _Found:
        """The step's transaction."""
        rules, quotas = self._rules, self._target.quotas
        is_limited = leases.is_limited(connection, f"{self._prefix}limited", quotas.is_limited)
        note = self._presence_note()
        leases.announce(connection, self._presence, self._worker, note, rules.seconds)
        kept = leases.renew(connection, self._worker, self._notes(), rules.seconds)
        found = leases.read(connection, self._prefix)
        if is_limited is False:
            self._let_go(connection, kept)
            return _Found(is_limited, set(), [], found)
        taken = []
        if self._egress not in kept:
            self._let_go(connection, kept)  # their POSTs would be counted for another worker
            kept = set()
            taken = self._take(connection, [self._egress])
        if self._egress in kept:
            kept = kept - self._let_go_ended(connection)
            ids = [name for name in self._quotas if name in kept]
            share = self._share(found)
            self._held.leaving = {*ids[share:]}
            if len(ids) < share:
                others = {e.name for e in found if e.is_live and e.worker != self._worker}
                free = [name for name in self._quotas if name not in others | kept]
                taken = self._take(connection, free)
        return _Found(is_limited, kept, taken, found)

    def _share(self, found: Sequence[Lease]) -> int:
        """How many client ids each address has: as many as fit, and all of them in sum."""
        place = f"{self._prefix}egress/"
        egresses = sum(each.is_live and each.name.startswith(place) for each in found)
        return -(-len(self._quotas) // max(1, egresses))

    def _take(self, connection: Connection, names: Sequence[str]) -> list[Lease]:
        """The first of these leases that is free, as a list of one; else none."""
        for name in names:
            lease = leases.take(connection, name, self._worker, self._rules.seconds)
            if lease is not None:
                return [lease]
        return []

    def _let_go(self, connection: Connection, names: set[str]) -> None:
        notes = self._notes(is_last=True)
        leases.let_go(connection, self._worker, {n: notes[n] for n in names if n in notes})

    def _let_go_ended(self, connection: Connection) -> set[str]:
        """Let go the leases beyond the share whose requests have ended."""
        ended = {name for name in self._held.leaving if not self._is_sending([name])}
        self._let_go(connection, ended)
        return ended

    def _leave(self, connection: Connection) -> None:
        self._let_go(connection, self._held.names)
        leases.let_go(connection, self._worker, {self._presence: ""})

    async def _take_over(self, taken: Sequence[Lease], until: float) -> None:
        """Go on with the budgets that the last holders noted."""
        for lease in taken:
            note = json.loads(lease.note) if lease.note else {}
            if lease.name == self._egress:
                handover.take_over_posts(self._target.quotas, note.get("posts"), lease.age)
                _log.info("this node uploads for its address from now on")
                continue
            quota = self._quotas[lease.name]
            same = note.get("egress") == self._rules.egress
            is_known = handover.take_over(quota, note, lease.age, same_address=same)
            quota.leased_until = until
            if is_known and same and note.get("is_last"):
                self._target.reconsider()
            else:
                self._target.ask_for(quota)
            _log.info("this node uploads with client id %d from now on", quota.number)

    def _notes(self, *, is_last: bool = False) -> dict[str, str]:
        """The note of each lease that this worker has; requests in flight count as spent."""
        notes: dict[str, dict[str, Any]] = {}
        for name in self._held.names:
            if name == self._egress:
                notes[name] = {"posts": handover.note_posts(self._target.quotas)}
                continue
            notes[name] = {
                "egress": self._rules.egress,
                **handover.note(self._quotas[name]),
                "is_last": is_last and not self._is_sending([name]),
            }
        return {name: json.dumps(note) for name, note in notes.items()}

    def _is_sending(self, names: Iterable[str]) -> bool:
        return any(self._quotas[name].access.in_flight for name in names)

    def _presence_note(self) -> str:
        closed = self._target.gate.closed
        if closed is None:
            return ""
        wait = GateWait(closed.reason, closed.until - time.monotonic(), closed.message)
        return json.dumps(wait)

    def _is_other(self, lease: Lease) -> bool:
        is_worker = lease.name.startswith(f"{self._prefix}worker/")
        return is_worker and lease.is_live and lease.name != self._presence


def prefix_of(target: str) -> str:
    """The prefix of the names of all leases of a target."""
    return f"imgur/{_digest(target)}/"


def client_names(rules: LeaseRules) -> list[str]:
    """The names of the leases of the client ids."""
    return [f"{prefix_of(rules.target)}client/{_digest(each)}" for each in rules.clients]


def blocked_of(wait: GateWait | None) -> Blocked | None:
    """The wait of another node by this node's clock."""
    if wait is None:
        return None
    return Blocked(cast("Reason", wait.reason), time.monotonic() + wait.seconds, wait.message)


def soonest(waits: Sequence[Blocked | None]) -> Blocked | None:
    """The wait of all nodes together, which is that of the first to go on; None: one does not wait.

    A node that does not know Imgur's limits yet does not count if another node does.
    """
    known = [wait for wait in waits if wait is None or wait.reason not in UNKNOWING] or waits
    if not known or None in known:
        return None
    return min((wait for wait in known if wait is not None), key=lambda wait: wait.until)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
