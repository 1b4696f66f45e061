"""A pool of threads shared by many jobs, in which none can take the place of all others.

Tasks wait in one queue a key (a job's id), and the queues are served in turn, so a job of one URL
never waits behind ten thousand of another. A key may hold at most half of the threads that the
others leave, rounded up: n busy keys end up with 1/(n+1) of the pool each, and the last share is
free for whoever comes next, even while every origin of the others hangs.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable

_log = logging.getLogger(__name__)

Task = Callable[[], None]


class Pool:
    """`size` daemon threads that run tasks. A task reports its own outcome; it should not raise."""

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._changed = threading.Condition()
        self._queues: dict[Hashable, deque[Task]] = {}
        self._running: dict[Hashable, int] = {}
        self._busy = 0
        self._waiting = 0
        self._closed = False
        self._threads: list[threading.Thread] = []

    def submit(self, key: Hashable, task: Task) -> None:
        """Run `task` in its turn; raises RuntimeError after `close`.

        Threads are started as they are needed, up to the pool's size. RuntimeError also where the
        system gives no first thread; later ones are done without.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError(f"the {self._name} pool is closed")
            if len(self._threads) < min(self._size, self._busy + self._waiting + 1):
                self._start_thread()
            self._queues.setdefault(key, deque()).append(task)
            self._waiting += 1
            self._changed.notify()

    def close(self, seconds: float) -> bool:
        """Drop what waits, let what runs end for `seconds`; True when every thread has ended."""
        with self._changed:
            self._closed = True
            self._queues.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(seconds)
        return not any(thread.is_alive() for thread in self._threads)

    def _start_thread(self) -> None:
        number = len(self._threads) + 1
        thread = threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
            _log.warning("no more threads to be had pool=%s size=%d", self._name, number - 1)
            self._size = number - 1
            return
        self._threads.append(thread)

    def _work(self) -> None:
        while True:
            with self._changed:
                while (key := self._next_key()) is None:
                    if self._closed:
                        return
                    self._changed.wait()
                task = self._take(key)
                if self._next_key() is not None:
                    # One wakes the next, and only while there is work that may be done: waking
                    # all of them for every task costs more than the task.
                    self._changed.notify()
            try:
                task()
            except BaseException:
                _log.exception("a task of the pool raised pool=%s", self._name)
            del task
            with self._changed:
                self._give_back(key)

    def _next_key(self) -> Hashable | None:
        for key in self._queues:
            running = self._running.get(key, 0)
            left_by_others = self._size - self._busy + running
            if running < (left_by_others + 1) // 2:
                return key
        return None

    def _take(self, key: Hashable) -> Task:
        queue = self._queues.pop(key)
        task = queue.popleft()
        if queue:
            self._queues[key] = queue  # at the end of the turn again
        self._running[key] = self._running.get(key, 0) + 1
        self._waiting -= 1
        self._busy += 1
        return task

    def _give_back(self, key: Hashable) -> None:
        self._busy -= 1
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]
