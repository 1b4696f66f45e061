"""A Travel out of a call that blocks, for tests that hand in their downloads and uploads."""

from __future__ import annotations

import threading
from collections.abc import Callable

from imageload.fair import FairQueue
from imageload.transfer import TransferError

Call = Callable[[str], object]
Done = Callable[[object], None]


class Threads:
    """At most `slots` threads at `call`; each goes on to what waits, and ends when nothing does."""

    def __init__(self, call: Call, slots: int, name: str = "travel") -> None:
        self.slots = slots
        self._call = call
        self._name = name
        self._lock = threading.Lock()
        self._queue: FairQueue[tuple[str, Done]] = FairQueue(slots)
        self._threads: list[threading.Thread] = []
        self._closed = False

    def start(self, key: str, argument: str, done: Done) -> None:
        """Call with `argument` in its turn, and tell `done` the result or the exception."""
        with self._lock:
            if self._closed:
                raise RuntimeError("nothing is taken any more")
            self._queue.put(key, (argument, done))
            self._start_waiting()

    def close(self, seconds: float) -> bool:
        """Stop what waits, let what runs end; True when no thread is left after `seconds`."""
        with self._lock:
            self._closed = True
            waiting = self._queue.clear()
            threads = list(self._threads)
        for _, done in waiting:
            done(TransferError("stopped", "closed"))
        for thread in threads:
            thread.join(seconds)
        return not any(thread.is_alive() for thread in threads)

    def _start_waiting(self) -> None:
        while (found := self._queue.take()) is not None:
            thread = threading.Thread(target=self._work, args=found, name=self._name, daemon=True)
            thread.start()
            self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]

    def _work(self, key: str, item: tuple[str, Done]) -> None:
        found: tuple[object, tuple[str, Done]] | None = (key, item)
        while found is not None:
            key_of, (argument, done) = found
            try:
                outcome = self._call(argument)
            except BaseException as error:  # it is the outcome
                outcome = error
            with self._lock:
                self._queue.give_back(key_of)
            done(outcome)
            del outcome
            with self._lock:
                found = self._queue.take()
                self._start_waiting()
