"""A Travel out of a call that blocks, for tests that hand in their downloads and uploads."""

from __future__ import annotations

import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from imageload.errors import ImageError
from imageload.road import Travel, Upload
from imageload.transport.fair import FairQueue
from imageload.transport.transfer import Steps, TransferError, run

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

    def cancel(self, key: str) -> None:
        """Stop what waits under `key`; what runs is let run."""
        with self._lock:
            waiting = self._queue.drop(key)
        for _, done in waiting:
            done(TransferError("stopped", "cancelled"))

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


class ToImgur:
    """The way to Imgur for tests in which it takes everything: uploads on `travel`, by path.

    `is_parked` is the test's to set, and `answer` what every other call to Imgur is answered with.
    """

    anonymous = True
    outage: tuple[float, ImageError] | None = None

    def __init__(self, travel: Travel[str], answer: Callable[[str, str], Any] | None = None):
        self.slots = travel.slots
        self.is_parked = False
        self.unqueued = 0
        self._parked: list[tuple[str, Done]] = []
        self._lock = threading.Lock()
        self._line: deque[tuple[str, Upload, Done]] = deque()
        self._held: dict[int, tuple[str, Upload, Done]] = {}
        self._busy = 0
        self._numbers = itertools.count()
        self._travel = travel
        self._answer = answer
        self._watchers: dict[object, Callable[[], object]] = {}

    def start(self, key: str, upload: Upload, done: Done) -> None:
        """Take the upload's file along; what comes while uploads wait, waits.

        What has to be announced takes one of `slots` first, and is held there.
        """
        if self.is_parked:
            self._parked.append((key, done))
        elif upload.announcement is None:
            self._travel.start(key, upload.path, done)
        else:
            with self._lock:
                self._line.append((key, upload, done))
            self._take_turns()

    def _take_turns(self) -> None:
        while True:
            with self._lock:
                if not self._line or self._busy >= self.slots:
                    return
                self._busy += 1
                number = next(self._numbers)
                _, upload, _ = self._held[number] = self._line.popleft()
            assert upload.announcement is not None
            upload.announcement.hold(functools.partial(self._go_on, number))

    def _go_on(self, number: int) -> None:
        """It is durable that this upload begins, if it is still wanted."""
        held = self._held.pop(number, None)
        if held is not None:
            key, upload, done = held
            self._travel.start(key, upload.path, functools.partial(self._end, done))

    def _end(self, done: Done, value: object) -> None:
        with self._lock:
            self._busy -= 1
        done(value)
        self._take_turns()

    def stop(self) -> None:
        """End what waits to be announced: it has not begun."""
        for key in {key for key, _, _ in [*self._line, *self._held.values()]}:
            self.unqueue(key)

    def cancel(self, key: str) -> None:
        """Stop what waits under `key`."""
        self.unqueue(key)
        self._travel.cancel(key)

    def unqueue(self, key: str) -> None:
        """Stop what waits under `key`."""
        self.unqueued += 1
        parked, self._parked = self._parked, []
        self._parked = [each for each in parked if each[0] != key]
        for of, done in parked:
            if of == key:
                done(TransferError("stopped", "unqueued"))
        with self._lock:
            line, self._line = self._line, deque(each for each in self._line if each[0] != key)
        for of, _, done in line:
            if of == key:
                done(TransferError("stopped", "unqueued"))
        for number, (of, _, done) in list(self._held.items()):
            if of == key and self._held.pop(number, None) is not None:
                self._end(done, TransferError("stopped", "unqueued"))

    def park(self, outage: tuple[float, ImageError] | None = None) -> None:
        """Let uploads wait from now on, for a budget or an outage, and say so."""
        self.is_parked, self.outage = True, outage
        for wake in list(self._watchers.values()):
            wake()

    def watch(self, watcher: object, wake: Callable[[], object]) -> None:
        """Note who is told."""
        self._watchers[watcher] = wake

    def unwatch(self, watcher: object) -> None:
        """And who is not any more."""
        self._watchers.pop(watcher, None)

    def album_link(self, album_id: str) -> str:
        """Where an album is seen."""
        return f"https://imgur.com/a/{album_id}"

    def request(
        self, method: str, route: str, fields: Mapping[str, Any] | None = None
    ) -> Steps[Any]:
        """One call, which the test answers."""
        assert self._answer is not None, f"{method} {route} {fields}"
        return self._answer(method, route)
        yield

    def call(self, key: str, steps: Callable[[], Steps[Any]], done: Done) -> None:  # noqa: ARG002
        """Do `steps` at once."""
        try:
            outcome: object = run(steps())
        except Exception as error:
            outcome = error
        done(outcome)

    def cancel_calls(self, key: str) -> None:
        """There is nothing under way."""
