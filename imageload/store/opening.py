"""Opens the store of one process: a journal, or nothing that outlives the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from imageload.store import Clock, Restored
from imageload.store.memory import MemoryStore
from imageload.store.sqlite import open_sqlite


def open_store(
    path: str,
    clock: Clock | None = None,
    on_break: Callable[[], object] | None = None,
) -> Restored:
    """The SQLite store in the file `path`, made if it is missing; a MemoryStore if `path` is empty.

    `clock` is called with the seconds that each transaction took, `on_break` if a bug ends the
    thread that writes; both are called on that thread. Raises StoreError.
    """
    if not path:
        return Restored(MemoryStore(), [], was_closed=True, kept={})
    return open_sqlite(Path(path), clock, on_break)
