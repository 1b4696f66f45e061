"""One thread that drives all transfers at once, with libcurl's multi interface.

    submit(key, steps, done) ─► FairQueue ─► slot ─► steps ─► Exchange ─► multi ─┐
                                                       ▲                        │ Head, or an error
                                                       └────────────────────────┘
                                                       └─► done(outcome)

Each `Lane` is a Transfer with slots and connections of its own: downloads, uploads. The Steps run
here, a few microseconds at a time; they write their files here too, so a disk that stalls holds
up transfers, but never the API. `done` is called here and must be quick.

Why not a thread for each transfer: some twenty callbacks an image then fight for the interpreter.
Measured on two cores, 2,000 images of 50 kB: 0.6 ms of CPU an image this way, 1.6 that way
(docs/decisions/engine.md).
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import logging
import math
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pycurl

from imageload.errors import DiskFull, ResourceError
from imageload.transport.fair import FairQueue
from imageload.transport.transfer import (
    Exchange,
    Pause,
    Prepared,
    Steps,
    Transfer,
    TransferError,
    Until,
)

_log = logging.getLogger(__name__)

Done = Callable[[Any], None]
"""Told what Steps returned, or the exception that they raised."""

_LAST_SECONDS = 1.0  # for the thread to close what it has, once all were told

_EVENTS = {
    pycurl.POLL_IN: selectors.EVENT_READ,
    pycurl.POLL_OUT: selectors.EVENT_WRITE,
    pycurl.POLL_INOUT: selectors.EVENT_READ | selectors.EVENT_WRITE,
}


@dataclass(slots=True)
class _Task:
    key: Hashable
    make: Callable[[], Steps[Any]]
    done: Done
    steps: Steps[Any] | None = None
    prepared: Prepared | None = None
    begun: float = 0.0


class Pool(NamedTuple):
    """How many slots something has by now, how many of them are taken, and how many wait."""

    slots: int
    busy: int
    waiting: int


class Lane:
    """The slots, connections and waiting tasks of one Transfer.

    All but `submit`, `cancel` and `waiting` is its engine's. A key that is alone may use half of
    the `slots`, see FairQueue. Before a task gets one, `gate` is asked in how many seconds it may
    go: 0 is now, inf is when another has ended. What waits there holds no slot and no connection.
    `clock` is told how many seconds each was in its slot.
    """

    def __init__(
        self,
        engine: Engine,
        transfer: Transfer,
        slots: int,
        gate: Callable[[], float] | None,
        clock: Callable[[float], object] | None,
    ) -> None:
        self.transfer = transfer
        self.slots = slots
        self.gate = gate
        self.clock = clock
        self.opens_at: float | None = None
        self._engine = engine
        self.queue: FairQueue[_Task] = FairQueue(slots)
        self._multi: pycurl.CurlMulti | None = None
        self.spare: list[pycurl.Curl] = []
        self.under_way: dict[pycurl.Curl, _Task] = {}
        self.timer: float | None = None
        self._well = 0
        self._set_slots(slots)

    @property
    def multi(self) -> pycurl.CurlMulti:
        """libcurl's handle, made when it is first needed, for it takes two descriptors.

        Raises pycurl.error where there are none.
        """
        if self._multi is None:
            self._multi = pycurl.CurlMulti()
            self._multi.setopt(pycurl.M_MAXCONNECTS, 2 * self.queue.slots)
            self._engine.drive(self, self._multi)
        return self._multi

    def close(self) -> None:
        """Let go of libcurl's handles."""
        for curl in self.spare:
            curl.close()
        if self._multi is not None:
            self._multi.close()

    def submit(self, key: Hashable, make: Callable[[], Steps[Any]], done: Done) -> None:
        """Have the Steps that `make` gives done in their turn; from any thread.

        Raises RuntimeError after the engine's `close`.
        """
        self._engine.submit(self, _Task(key, make, done))

    def cancel(self, key: Hashable, *, under_way: bool = True) -> None:
        """End what waits, or is under way too, under `key` as `stopped`, soon; from any thread."""
        self._engine.cancel(_Cancel(self, key, under_way))

    def drain(self, *, under_way: bool) -> None:
        """End all that waits, or is under way too, as `stopped`, soon; from any thread."""
        self._engine.cancel(_Cancel(self, None, under_way))

    @property
    def waiting(self) -> int:
        """How many tasks wait for their turn."""
        return len(self.queue)

    @property
    def pool(self) -> Pool:
        """How full it is."""
        return Pool(self.queue.slots, self.queue.busy, len(self.queue))

    def give_back(self, task: _Task, outcome: object) -> None:
        """Free the slot of a task that ended.

        Where it ended for want of descriptors, memory or disk there are half as many slots from
        now on, and one more each time that so many have ended otherwise.
        """
        self.queue.give_back(task.key)
        if self.clock is not None:
            self.clock(time.monotonic() - task.begun)
        if isinstance(outcome, (ResourceError, DiskFull)):
            self._set_slots(max(1, self.queue.slots // 2))
        elif self.queue.slots < self.slots:
            self._well += 1
            if self._well >= self.queue.slots:
                self._set_slots(self.queue.slots + 1)

    def _set_slots(self, slots: int) -> None:
        self.queue.slots, self._well = slots, 0
        if self._multi is not None:
            # Connections that are kept hold descriptors as well.
            self._multi.setopt(pycurl.M_MAXCONNECTS, 2 * slots)


@dataclass(frozen=True, slots=True)
class _Cancel:
    """What is not wanted any more in `lane`: that of `key`, or of all."""

    lane: Lane
    key: Hashable | None
    under_way: bool

    def concerns(self, task: _Task) -> bool:
        return self.under_way and (self.key is None or task.key == self.key)


@dataclass(frozen=True, slots=True)
class Way:
    """A Lane with the Steps that travel on it: what a Run starts images on."""

    lane: Lane
    steps: Callable[[str], Steps[Any]]

    @property
    def slots(self) -> int:
        """How many are under way at most, over all jobs."""
        return self.lane.slots

    def start(self, key: str, argument: str, done: Done) -> None:
        """Do the Steps of `argument` in their turn, as `Lane.submit` says."""
        self.lane.submit(key, functools.partial(self.steps, argument), done)

    def cancel(self, key: str) -> None:
        """End what `key` has here, as `Lane.cancel` says."""
        self.lane.cancel(key)


class Engine:
    """The thread and its loop. `lane` makes a Lane for a Transfer; then `start`."""

    def __init__(self, on_break: Callable[[], object] | None = None) -> None:
        """`on_break` is called where a bug ends the thread: nothing travels any more then."""
        self._on_break = on_break
        self._told = threading.Event()
        self._lanes: list[Lane] = []
        self._selector = selectors.DefaultSelector()
        self._watched: set[int] = set()
        self._new: deque[tuple[Lane, _Task]] = deque()
        self._cancels: deque[_Cancel] = deque()
        self._pauses: list[tuple[float, int, Lane, _Task]] = []
        self._until: dict[int, tuple[Lane, _Task]] = {}
        self._called: deque[int] = deque()
        self._numbers = itertools.count()
        self._outcomes: list[tuple[Done, Any]] = []
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._lock = threading.Lock()
        self._asleep = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def lane(
        self,
        transfer: Transfer,
        slots: int,
        gate: Callable[[], float] | None = None,
        clock: Callable[[float], object] | None = None,
    ) -> Lane:
        """A Lane for `transfer`; before `start`."""
        lane = Lane(self, transfer, slots, gate, clock)
        lane.spare.append(transfer.handle())  # what is wrong with its options, shows at the start
        self._lanes.append(lane)
        return lane

    def drive(self, lane: Lane, multi: pycurl.CurlMulti) -> None:
        """Have libcurl tell what `multi`, which is the lane's, waits for."""
        multi.setopt(
            pycurl.M_SOCKETFUNCTION,
            lambda what, number, _multi, _data: self._watch(lane, what, number),
        )
        multi.setopt(pycurl.M_TIMERFUNCTION, lambda ms: _set_timer(lane, ms))

    def start(self) -> None:
        """Begin; RuntimeError where the system gives no thread."""
        self._thread.start()

    def submit(self, lane: Lane, task: _Task) -> None:
        """Hand `task` over; from any thread."""
        with self._lock:
            if self._stopped:
                raise RuntimeError("the engine is closed")
            self._new.append((lane, task))
            asleep, self._asleep = self._asleep, False
        if asleep:
            self._wake()

    def cancel(self, cancel: _Cancel) -> None:
        """End what `cancel` names; from any thread."""
        with self._lock:
            if self._stopped:
                return
            self._cancels.append(cancel)
        self._wake()

    def close(self, seconds: float) -> bool:
        """End everything that waits or is under way as `stopped`; True when all were told.

        The thread may stay for a while where libcurl waits for a name that is being resolved.
        """
        with self._lock:
            self._stopped = True
        self._wake()
        if self._thread.ident is None:
            self._end_all()
        told = self._told.wait(seconds)
        if self._thread.ident is not None:
            self._thread.join(_LAST_SECONDS)
        return told

    def _wake(self) -> None:
        try:
            self._wake_writer.send(b"x")
        except BlockingIOError:
            pass  # it has been woken often enough
        except OSError:
            _log.debug("the engine is gone")

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._take_in()
                for lane in self._lanes:
                    self._start_waiting(lane)
                self._tell_outcomes()
                self._wait()
        except Exception:
            _log.exception("the engine broke")
            if self._on_break is not None:
                self._on_break()
        finally:
            self._end_all()

    def _take_in(self) -> None:
        while self._new:
            lane, task = self._new.popleft()
            lane.queue.put(task.key, task)
        while self._called:
            found = self._until.pop(self._called.popleft(), None)
            if found is not None:
                self._resume(*found, None, None)
        while self._cancels:
            self._cancel(self._cancels.popleft())

    def _cancel(self, cancel: _Cancel) -> None:
        lane = cancel.lane
        stopped = TransferError("stopped", "what asked for it does not want it any more")
        waiting = lane.queue.clear() if cancel.key is None else lane.queue.drop(cancel.key)
        self._outcomes.extend((task.done, stopped) for task in waiting)
        for curl, task in [each for each in lane.under_way.items() if cancel.concerns(each[1])]:
            del lane.under_way[curl]
            assert task.prepared is not None, "what is under way was prepared"
            error = task.prepared.stopped(stopped.detail)
            lane.multi.remove_handle(curl)
            task.prepared.close()
            lane.spare.append(curl)
            self._end(lane, task, _stopped_end(task, error))
        kept = []
        for pause in self._pauses:
            if pause[2] is lane and cancel.concerns(pause[3]):
                self._end(lane, pause[3], _stopped_end(pause[3], stopped))
            else:
                kept.append(pause)
        heapq.heapify(kept)
        self._pauses = kept
        for number, (of, task) in list(self._until.items()):
            # What waits for a word has sent nothing yet: it is as good as waiting for its turn.
            if of is lane and (cancel.key is None or task.key == cancel.key):
                del self._until[number]
                self._end(lane, task, _stopped_end(task, stopped))

    def _start_waiting(self, lane: Lane) -> None:
        lane.opens_at = None
        while len(lane.queue):
            seconds = lane.gate() if lane.gate is not None else 0.0
            if seconds > 0:
                lane.opens_at = time.monotonic() + seconds
                return
            found = lane.queue.take()
            if found is None:
                return
            task = found[1]
            task.begun = time.monotonic()
            try:
                task.steps = task.make()
                wanted = next(task.steps)
            except StopIteration as stop:
                self._end(lane, task, stop.value)
            except BaseException as error:  # the steps' own failure is their outcome
                self._end(lane, task, error)
            else:
                self._go_on(lane, task, wanted)

    def _wait(self) -> None:
        """Sleep until something happens, and let libcurl have it."""
        with self._lock:
            self._asleep = not (self._new or self._called or self._stopped)
        ready = self._selector.select(self._seconds_to_sleep())
        self._asleep = False
        for key, mask in ready:
            if key.data is None:
                _drain(self._wake_reader)
                continue
            events = (pycurl.CSELECT_IN if mask & selectors.EVENT_READ else 0) | (
                pycurl.CSELECT_OUT if mask & selectors.EVENT_WRITE else 0
            )
            key.data.multi.socket_action(key.fd, events)
        now = time.monotonic()
        for lane in self._lanes:
            if lane.timer is not None and lane.timer <= now:
                lane.timer = None
                lane.multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
            self._collect(lane)
        while self._pauses and self._pauses[0][0] <= now:
            _, _, lane, task = heapq.heappop(self._pauses)
            self._resume(lane, task, None, None)

    def _seconds_to_sleep(self) -> float | None:
        if self._new or self._called or self._stopped:
            return 0
        timers = [(lane.timer, lane.opens_at) for lane in self._lanes]
        moments = [moment for pair in timers for moment in pair if moment not in (None, math.inf)]
        if self._pauses:
            moments.append(self._pauses[0][0])
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _watch(self, lane: Lane, what: int, number: int) -> None:
        if what == pycurl.POLL_REMOVE:
            if number in self._watched:
                self._watched.remove(number)
                self._selector.unregister(number)
            return
        events = _EVENTS.get(what)
        if events is None:
            return
        if number in self._watched:
            self._selector.modify(number, events, lane)
        else:
            self._selector.register(number, events, lane)
            self._watched.add(number)

    def _collect(self, lane: Lane) -> None:
        """Take what libcurl has ended."""
        while lane.under_way:
            left, well, badly = lane.multi.info_read()
            for curl in well:
                self._ended(lane, curl, 0, "")
            for curl, code, detail in badly:
                self._ended(lane, curl, code, detail)
            if not left:
                return

    def _ended(self, lane: Lane, curl: pycurl.Curl, code: int, detail: str) -> None:
        task = lane.under_way.pop(curl)
        prepared, task.prepared = task.prepared, None
        assert prepared is not None, "what is under way was prepared"
        head, error = None, None
        try:
            head = prepared.finish(code, detail)
        except Exception as raised:  # the steps decide what it means
            error = raised
        lane.multi.remove_handle(curl)
        prepared.close()
        lane.spare.append(curl)
        self._resume(lane, task, head, error)

    def _resume(self, lane: Lane, task: _Task, head: Any, error: Exception | None) -> None:
        assert task.steps is not None, "what goes on has begun"
        try:
            wanted = task.steps.send(head) if error is None else task.steps.throw(error)
        except StopIteration as stop:
            self._end(lane, task, stop.value)
        except BaseException as raised:  # the steps' own failure is their outcome
            self._end(lane, task, raised)
        else:
            self._go_on(lane, task, wanted)

    def _call(self, number: int) -> None:
        """Let the Steps go on that wait for this; from any thread."""
        with self._lock:
            if self._stopped:
                return
            self._called.append(number)
            asleep, self._asleep = self._asleep, False
        if asleep:
            self._wake()

    def _go_on(self, lane: Lane, task: _Task, wanted: Exchange | Pause | Until) -> None:
        if isinstance(wanted, Until):
            number = next(self._numbers)
            self._until[number] = lane, task
            wanted.begin(functools.partial(self._call, number))
            return
        if isinstance(wanted, Pause):
            moment = time.monotonic() + wanted.seconds
            heapq.heappush(self._pauses, (moment, next(self._numbers), lane, task))
            return
        try:
            multi = lane.multi
        except pycurl.error as error:
            self._resume(lane, task, None, TransferError("resource", str(error)))
            return
        try:
            curl = lane.spare.pop() if lane.spare else lane.transfer.handle()
            task.prepared = lane.transfer.prepare(curl, wanted)
            multi.add_handle(curl)
        except Exception as error:  # a URL that libcurl cannot even be told
            self._resume(lane, task, None, TransferError("url", str(error)))
            return
        lane.under_way[curl] = task

    def _end(self, lane: Lane, task: _Task, outcome: Any) -> None:
        lane.give_back(task, outcome)
        if isinstance(outcome, ResourceError) and lane.queue.busy:
            # Those that are under way have what it lacks, and will give it back: no try is lost.
            lane.queue.put(task.key, _Task(task.key, task.make, task.done))
            return
        self._outcomes.append((task.done, outcome))

    def _tell_outcomes(self) -> None:
        """Tell who waits, many at once: each word wakes a thread, which then wants our turn."""
        outcomes, self._outcomes = self._outcomes, []
        for done, outcome in outcomes:
            try:
                done(outcome)
            except BaseException:
                _log.exception("who waited for a transfer raised")

    def _end_all(self) -> None:
        """Stop whatever is left, each by its own way out: files are closed and deleted."""
        with self._lock:
            self._stopped = True
        self._take_in()
        stopped = TransferError("stopped", "the engine was closed")
        for lane in self._lanes:
            for curl, task in lane.under_way.items():
                assert task.prepared is not None, "what is under way was prepared"
                error = task.prepared.stopped(stopped.detail)
                with contextlib.suppress(pycurl.error):
                    lane.multi.remove_handle(curl)
                task.prepared.close()
                self._outcomes.append((task.done, _stopped_end(task, error)))
            lane.under_way.clear()
            self._outcomes.extend((task.done, stopped) for task in lane.queue.clear())
        paused = [task for _, _, _, task in self._pauses]
        for task in [*paused, *(task for _, task in self._until.values())]:
            self._outcomes.append((task.done, _stopped_end(task, stopped)))
        self._tell_outcomes()
        self._told.set()
        for lane in self._lanes:
            lane.close()
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()


def _stopped_end(task: _Task, stopped: TransferError) -> object:
    """How `task` ends that is told to stop: by its own way out, which closes its files."""
    assert task.steps is not None, "what goes on has begun"
    try:
        task.steps.throw(stopped)
    except StopIteration as stop:
        return stop.value
    except BaseException as raised:  # the steps' own failure is their outcome
        return raised
    task.steps.close()
    return stopped


def _set_timer(lane: Lane, milliseconds: int) -> None:
    lane.timer = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000


def _drain(reader: socket.socket) -> None:
    try:
        while len(reader.recv(4096)) == 4096:
            pass
    except BlockingIOError:
        pass
