"""Tests of transport.engine: one thread drives many transfers at once, over real sockets;
every task is told how it ended, once, and nothing is left when the engine is closed.
"""

from __future__ import annotations

import logging
import queue
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from imageload import errors
from imageload.job import Report
from imageload.transport.engine import Engine, Lane, Way
from imageload.transport.transfer import (
    Bounds,
    Exchange,
    Head,
    Pause,
    Request,
    Sink,
    Steps,
    Transfer,
    TransferError,
    Until,
)
from tests.downloads import Download, filled
from tests.origin import IMAGES, Origin, answer, raw, reset

PNG = (IMAGES / "png-rgb.png").read_bytes()

# Only ever waited out where something is broken.
PATIENCE = 20.0

Make = Callable[[], Engine]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes engines that are started by the test; its end leaves no thread of theirs."""
    before = set(threading.enumerate())
    engines: list[Engine] = []

    def make_engine() -> Engine:
        engines.append(Engine())
        return engines[-1]

    yield make_engine
    for engine in engines:
        assert engine.close(PATIENCE)
    assert not [t for t in set(threading.enumerate()) - before if t.name == "engine"]


@pytest.fixture
def engine(make: Make) -> Engine:
    return make()


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Download]:
    """A Downloader that gives an origin more time than any test takes; no file is left of it."""
    folder = tmp_path / "patient"
    folder.mkdir()
    yield Download(folder, seconds=60)
    assert not filled(folder)


class Ends:
    """How tasks ended, in the order in which that was told."""

    def __init__(self, lane: Lane, download: Download) -> None:
        self._lane = lane
        self._download = download
        self._told: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def submit(self, key: Hashable, url: str, count: int = 1) -> None:
        """Have `url` downloaded `count` times for `key`."""
        for _ in range(count):
            self.follow(key, partial(self._download.call.steps, url))

    def follow(self, key: Hashable, make: Callable[[], Steps[Any]]) -> None:
        """Have the steps that `make` gives done for `key`."""
        self._lane.submit(key, make, self._told.put)

    def next(self, count: int = 1) -> list[Any]:
        """The next `count` ends; the files of Reports are given back."""
        ends = [self._told.get(timeout=PATIENCE) for _ in range(count)]
        for end in ends:
            if isinstance(end, Report):
                self._download.give_back(end)
        return ends

    def one(self) -> Any:
        """The next end."""
        return self.next()[0]

    @property
    def empty(self) -> bool:
        """True where nothing else was told."""
        return self._told.empty()


class Held:
    """A page whose visitors are counted and held until they are let on; then they get an image."""

    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)
        self.present = 0
        self.most = 0
        self._lock = threading.Lock()
        self._let_on = threading.Semaphore(0)

    def __call__(self, connection: socket.socket) -> None:
        with self._lock:
            self.present += 1
            self.most = max(self.most, self.present)
        self.arrived.release()
        assert self._let_on.acquire(timeout=PATIENCE)
        with self._lock:
            self.present -= 1
        answer(PNG)(connection)

    def wait_for(self, count: int) -> None:
        """Return when so many more visitors are here."""
        for _ in range(count):
            assert self.arrived.acquire(timeout=PATIENCE)

    def let_on(self, count: int) -> None:
        """Let so many visitors on, those to come included."""
        self._let_on.release(count)


def wait_for_hanging(origin: Origin, count: int) -> None:
    """Return when so many more visitors hang."""
    for _ in range(count):
        assert origin.hanging.acquire(timeout=PATIENCE)


def exchange(
    download: Download,
    url: str,
    on_head: Callable[[Head], Sink | None] = lambda _: None,
    **values: Any,
) -> Exchange:
    """A request for `url` over the transfer of `download`."""
    request = Request(url=url, deadline=time.monotonic() + PATIENCE, **values)
    return Exchange(download.transfer, request, "127.0.0.1", on_head)


# Many at once


def test_many_downloads_run_at_once_on_one_thread(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    held = Held()
    url = origin.page("/held", held)
    ends = Ends(engine.lane(patient.transfer, 100), patient)
    engine.start()
    ends.submit("a", url, 50)
    held.wait_for(50)
    assert held.present == 50
    assert [thread.name for thread in threading.enumerate()].count("engine") == 1
    held.let_on(50)
    assert {type(end) for end in ends.next(50)} == {Report}


def test_an_image_arrives_byte_for_byte(engine: Engine, patient: Download, origin: Origin) -> None:
    lane = engine.lane(patient.transfer, 4)
    engine.start()
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for name in ("png-rgb.png", "jpeg-baseline.jpg", "gif-animated.gif"):
        lane.submit("a", partial(patient.call.steps, origin.image(name)), told.put)
        report = told.get(timeout=PATIENCE)
        assert Path(report.temp_fn).read_bytes() == (IMAGES / name).read_bytes()
        patient.give_back(report)


def test_the_slots_of_a_lane_are_never_exceeded(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    held = Held()
    url = origin.page("/held", held)
    ends = Ends(engine.lane(patient.transfer, 4), patient)
    engine.start()
    for key in range(8):
        ends.submit(key, url, 10)
    held.wait_for(4)
    held.let_on(80)
    assert {type(end) for end in ends.next(80)} == {Report}
    assert held.most == 4
    assert origin.requests["/held"] == 80


def test_one_lane_that_is_full_holds_up_no_other(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    url = origin.page("/hang", origin.hang)
    hanging = Ends(engine.lane(patient.transfer, 2), patient)
    alive = Ends(engine.lane(patient.transfer, 2), patient)
    engine.start()
    for key in range(5):
        hanging.submit(key, url, 5)
    wait_for_hanging(origin, 2)
    alive.submit("a", origin.image("png-rgb.png"), 20)
    assert {type(end) for end in alive.next(20)} == {Report}
    assert hanging.empty
    assert engine.close(PATIENCE)


def test_keys_share_a_lane_while_their_origins_hang(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    ends = Ends(engine.lane(patient.transfer, 16), patient)
    engine.start()
    for key, share in (("a", 8), ("b", 4), ("c", 2)):
        ends.submit(key, origin.page(f"/{key}", origin.hang), 100)
        wait_for_hanging(origin, share)
    ends.submit("alive", origin.image("png-rgb.png"), 50)
    assert {type(end) for end in ends.next(50)} == {Report}
    assert (origin.requests["/a"], origin.requests["/b"], origin.requests["/c"]) == (8, 4, 2)
    assert engine.close(PATIENCE)


def test_a_task_passes_ten_thousand_of_another_key(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    ends = Ends(engine.lane(patient.transfer, 2), patient)
    engine.start()
    ends.submit("large", origin.page("/hang", origin.hang), 10_000)
    wait_for_hanging(origin, 1)
    ends.submit("small", origin.image("png-rgb.png"))
    assert isinstance(ends.one(), Report)
    assert engine.close(PATIENCE)


def test_of_500_tasks_every_one_ends_as_it_should(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    expected: dict[str, str] = {
        origin.image("png-rgb.png"): "downloaded",
        origin.image("jpeg-baseline.jpg"): "downloaded",
        origin.image("gif-animated.gif"): "downloaded",
        origin.image("no-such-file.png"): "http_status",
        origin.page("/text", answer(b"hello")): "not_image",
        origin.page("/reset", reset): "connect_error",
        origin.page("/short", answer(PNG[:50], length=len(PNG))): "truncated",
        origin.page("/large", answer(length=10**9)): "too_large",
        nobody: "connect_error",
        "ftp://127.0.0.1/": "invalid_url",
    }
    lane = engine.lane(patient.transfer, 32)
    engine.start()
    told: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def tell(url: str, end: object) -> None:
        told.put((url, end))

    for number, url in enumerate([*expected] * 50):
        steps = partial(patient.call.steps, url)
        lane.submit(number % 7, steps, partial(tell, url))
    ends = Counter[tuple[str, str]]()
    for _ in range(500):
        url, end = told.get(timeout=PATIENCE)
        is_report = isinstance(end, Report)
        ends[url, "downloaded" if is_report else end.name] += 1
        if is_report:
            patient.give_back(end)
    assert ends == dict.fromkeys(expected.items(), 50)
    assert told.empty()


# What is told


def returns(value: object) -> Steps[object]:
    """Steps that are at their end at once."""
    return value
    yield


def raises(error: BaseException) -> Steps[object]:
    """Steps that raise before they ask for anything."""
    raise error
    yield


def raises_later(error: BaseException) -> Steps[object]:
    """Steps that raise after they have asked for something."""
    yield Pause(0)
    raise error


def test_done_is_told_what_the_steps_return(engine: Engine, patient: Download) -> None:
    ends = Ends(engine.lane(patient.transfer, 2), patient)
    engine.start()
    for value in (1, "text", None):
        ends.follow("a", partial(returns, value))
        assert ends.one() == value


@pytest.mark.parametrize("steps", [raises, raises_later])
@pytest.mark.parametrize("error", [KeyError("a bug"), SystemExit(3), KeyboardInterrupt()])
def test_done_is_told_what_the_steps_raise_and_the_engine_goes_on(
    engine: Engine,
    patient: Download,
    steps: Callable[[BaseException], Steps[object]],
    error: BaseException,
) -> None:
    ends = Ends(engine.lane(patient.transfer, 2), patient)
    engine.start()
    for _ in range(5):
        ends.follow("a", partial(steps, error))
        assert ends.one() is error
    ends.follow("a", partial(returns, 1))
    assert ends.one() == 1


def test_done_is_told_when_the_steps_cannot_even_be_made(engine: Engine, patient: Download) -> None:
    def make_none() -> Steps[object]:
        raise LookupError("no steps")

    ends = Ends(engine.lane(patient.transfer, 2), patient)
    engine.start()
    ends.follow("a", make_none)
    assert isinstance(ends.one(), LookupError)


def test_a_done_that_raises_is_logged_and_hurts_nobody(
    engine: Engine, patient: Download, caplog: pytest.LogCaptureFixture
) -> None:
    def raise_it(_: object) -> None:
        raise ValueError("I do not want to know")

    lane = engine.lane(patient.transfer, 2)
    ends = Ends(lane, patient)
    engine.start()
    for _ in range(10):
        lane.submit("a", partial(returns, 1), raise_it)
    ends.follow("a", partial(returns, 2))
    assert ends.one() == 2
    logged = [r for r in caplog.records if r.name == "imageload.transport.engine"]
    assert [r.levelno for r in logged] == [logging.ERROR] * 10


def test_a_done_may_submit_the_next(engine: Engine, patient: Download, origin: Origin) -> None:
    lane = engine.lane(patient.transfer, 2)
    last: queue.SimpleQueue[int] = queue.SimpleQueue()

    def again(left: int, report: Report) -> None:
        patient.give_back(report)
        if left:
            lane.submit("a", partial(patient.call.steps, url), partial(again, left - 1))
        else:
            last.put(left)

    url = origin.image("png-rgb.png")
    engine.start()
    lane.submit("a", partial(patient.call.steps, url), partial(again, 30))
    assert last.get(timeout=PATIENCE) == 0
    assert origin.requests["/images/png-rgb.png"] == 31


def test_a_way_brings_its_argument_to_its_steps(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    way = Way(engine.lane(patient.transfer, 6), patient.call.steps)
    engine.start()
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    way.start("a", origin.image("png-rgb.png"), told.put)
    report = told.get(timeout=PATIENCE)
    assert report.bytes == len(PNG)
    assert way.slots == 6
    patient.give_back(report)


# Steps and their exchanges


def test_steps_get_the_head_and_their_sink_the_body(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    def steps() -> Steps[tuple[int, bytes]]:
        pieces: list[bytes] = []
        head = yield exchange(patient, origin.image("png-rgb.png"), lambda _: pieces.append)
        assert head is not None
        return head.status, b"".join(pieces)

    ends = Ends(engine.lane(patient.transfer, 2), patient)
    engine.start()
    ends.follow("a", steps)
    assert ends.one() == (200, PNG)


@pytest.mark.parametrize("where", ["on_head", "sink"])
def test_what_on_head_or_its_sink_raises_is_thrown_into_the_steps(
    engine: Engine, patient: Download, origin: Origin, where: str
) -> None:
    def sink(_: bytes) -> None:
        raise LookupError("sink")

    def on_head(_: Head) -> Sink:
        if where == "on_head":
            raise LookupError("on_head")
        return sink

    def steps() -> Steps[tuple[str, int]]:
        try:
            yield exchange(patient, origin.image("png-rgb.png"), on_head)
        except LookupError as error:
            head = yield exchange(patient, origin.image("gif-animated.gif"))
            assert head is not None
            return error.args[0], head.status
        raise AssertionError("nothing was thrown")

    ends = Ends(engine.lane(patient.transfer, 2), patient)
    engine.start()
    ends.follow("a", steps)
    assert ends.one() == (where, 200)


def test_what_the_reading_of_a_body_raises_is_thrown_into_the_steps(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    class Broken:
        def read(self, _: int, /) -> bytes:
            raise LookupError("the file is gone")

    def steps() -> Steps[None]:
        url = origin.page("/post", answer(b"taken"))
        yield exchange(patient, url, method="POST", body=Broken(), body_length=10)

    ends = Ends(engine.lane(patient.transfer, 2), patient)
    engine.start()
    ends.follow("a", steps)
    assert isinstance(ends.one(), LookupError)


def test_a_url_that_libcurl_cannot_be_told_is_an_error_of_the_kind_url(
    engine: Engine, patient: Download
) -> None:
    def steps() -> Steps[str]:
        try:
            yield exchange(patient, "http://127.0.0.1/\ud800")
        except TransferError as error:
            return error.kind
        return "none"

    ends = Ends(engine.lane(patient.transfer, 2), patient)
    engine.start()
    ends.follow("a", steps)
    assert ends.one() == "url"


def test_steps_that_pause_go_on_after_it_and_hold_up_nobody(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    def steps(seconds: float) -> Steps[float]:
        begun = time.monotonic()
        head = yield Pause(seconds)
        assert head is None
        return time.monotonic() - begun

    ends = Ends(engine.lane(patient.transfer, 8), patient)
    engine.start()
    ends.follow("a", partial(steps, 0.2))
    ends.follow("a", partial(steps, 0.05))
    ends.submit("b", origin.image("png-rgb.png"))
    first, second, third = ends.next(3)
    assert isinstance(first, Report)
    assert 0.05 <= second < third
    assert third >= 0.2


def test_a_deadline_ends_a_task_whose_origin_hangs(
    engine: Engine, download: Download, origin: Origin
) -> None:
    ends = Ends(engine.lane(download.transfer, 8), download)
    engine.start()
    begun = time.monotonic()
    ends.submit("a", origin.page("/hang", origin.hang), 4)  # its Downloader allows 1.5 seconds
    assert {end.name for end in ends.next(4)} == {"timeout"}
    assert 1.4 < time.monotonic() - begun < 5
    assert not filled(download.temp_dir)


# Connections


def test_connections_are_kept_between_tasks(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    ends = Ends(engine.lane(patient.transfer, 8), patient)
    engine.start()
    for number in range(20):
        ends.submit(number % 3, origin.image("png-rgb.png"))
        assert isinstance(ends.one(), Report)
    assert origin.connections == 1


def test_no_more_connections_are_made_than_there_are_tasks_at_once(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    ends = Ends(engine.lane(patient.transfer, 8), patient)
    engine.start()
    ends.submit("a", origin.image("png-rgb.png"), 200)
    assert {type(end) for end in ends.next(200)} == {Report}
    assert origin.connections <= 4


def test_two_lanes_share_no_connection(engine: Engine, patient: Download, origin: Origin) -> None:
    lanes = [Ends(engine.lane(patient.transfer, 8), patient) for _ in range(2)]
    engine.start()
    for _ in range(5):
        for ends in lanes:
            ends.submit("a", origin.image("png-rgb.png"))
            assert isinstance(ends.one(), Report)
    assert origin.connections == 2


def test_a_kept_connection_that_the_origin_closed_is_made_up_for(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    ends = Ends(engine.lane(patient.transfer, 8), patient)
    engine.start()
    silent = raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PNG) + PNG)
    for number in range(10):
        # Both close after their answer; only one of them says so in its head.
        ends.submit("a", origin.page(f"/{number}", answer(PNG) if number % 2 else silent))
        assert isinstance(ends.one(), Report)


# Waking


def test_a_task_wakes_an_engine_that_sleeps(engine: Engine, patient: Download) -> None:
    ends = Ends(engine.lane(patient.transfer, 8), patient)
    engine.start()
    for number in range(2_000):  # it falls asleep after each
        ends.follow("a", partial(returns, number))
        assert ends.one() == number


def test_an_idle_engine_costs_no_time(engine: Engine, patient: Download, origin: Origin) -> None:
    ends = Ends(engine.lane(patient.transfer, 8), patient)
    engine.start()
    ends.submit("a", origin.image("png-rgb.png"))
    assert isinstance(ends.one(), Report)
    ends.submit("a", origin.page("/hang", origin.hang))
    wait_for_hanging(origin, 1)
    begun = time.process_time()
    origin.released.wait(0.5)
    assert time.process_time() - begun < 0.25
    assert engine.close(PATIENCE)


def test_nothing_is_lost_when_many_threads_submit_in_bursts(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    ends = Ends(engine.lane(patient.transfer, 16), patient)
    engine.start()

    def burst(number: int) -> None:
        for turn in range(25):
            ends.follow(number, partial(returns, (number, turn)))
            ends.follow(number, partial(raises_later, LookupError(number)))
        ends.submit(number, origin.image("png-rgb.png"), 2)

    for _ in range(12):
        threads = [threading.Thread(target=burst, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        told = Counter(type(end).__name__ for end in ends.next(8 * 52))
        assert told == {"tuple": 200, "LookupError": 200, "Report": 16}
        for thread in threads:
            thread.join(PATIENCE)
    assert ends.empty


def test_what_was_submitted_before_the_start_is_done(engine: Engine, patient: Download) -> None:
    ends = Ends(engine.lane(patient.transfer, 2), patient)
    for number in range(10):
        ends.follow("a", partial(returns, number))
    engine.start()
    assert ends.next(10) == [*range(10)]


# The end


def test_close_ends_what_is_under_way_and_what_waits_within_a_second(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    """Downloads under way end in the Shutdown that their steps make of it."""
    lane = engine.lane(patient.transfer, 8)
    ends = Ends(lane, patient)
    engine.start()
    ends.submit("a", origin.page("/hang", origin.hang), 50)
    wait_for_hanging(origin, 4)
    assert len(list(patient.temp_dir.iterdir())) == 4
    begun = time.monotonic()
    assert engine.close(PATIENCE)
    assert time.monotonic() - begun < 1
    told = Counter(type(end).__name__ for end in ends.next(50))
    assert told == {"Shutdown": 4, "TransferError": 46}
    assert ends.empty
    assert not [thread for thread in threading.enumerate() if thread.name == "engine"]
    assert not filled(patient.temp_dir)


def test_close_throws_stopped_into_steps_wherever_they_are(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    begun = threading.Semaphore(0)

    def steps(wanted: Callable[[], Exchange | Pause]) -> Steps[str]:
        try:
            begun.release()
            yield wanted()
        except TransferError as error:
            return f"cleaned up after {error.kind}"
        return "not stopped"

    url = origin.page("/hang", origin.hang)
    ends = Ends(engine.lane(patient.transfer, 8), patient)
    engine.start()
    ends.follow("a", partial(steps, lambda: exchange(patient, url)))
    ends.follow("a", partial(steps, lambda: Pause(3_600)))
    for _ in range(2):
        assert begun.acquire(timeout=PATIENCE)
    wait_for_hanging(origin, 1)
    assert engine.close(PATIENCE)
    assert ends.next(2) == ["cleaned up after stopped"] * 2


def test_what_never_began_ends_as_stopped(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    ends = Ends(engine.lane(patient.transfer, 1), patient)
    engine.start()
    ends.submit("a", origin.page("/hang", origin.hang))
    wait_for_hanging(origin, 1)
    for number in range(20):
        ends.follow(number, partial(raises, AssertionError("begun")))
    assert engine.close(PATIENCE)
    told = ends.next(21)
    assert [end.kind for end in told if isinstance(end, TransferError)] == ["stopped"] * 20


def test_steps_that_ask_for_more_after_stopped_are_closed(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    closed = threading.Event()

    def stubborn() -> Steps[None]:
        try:
            while True:
                try:
                    yield exchange(patient, url)
                except TransferError:
                    yield Pause(0)
        finally:
            closed.set()

    url = origin.page("/hang", origin.hang)
    ends = Ends(engine.lane(patient.transfer, 2), patient)
    engine.start()
    ends.follow("a", stubborn)
    wait_for_hanging(origin, 1)
    assert engine.close(PATIENCE)
    assert closed.is_set()
    assert ends.one().kind == "stopped"


def test_a_done_that_raises_at_the_end_hurts_nobody(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    def raise_it(_: object) -> None:
        raise ValueError("I do not want to know")

    url = origin.page("/hang", origin.hang)
    lane = engine.lane(patient.transfer, 4)
    ends = Ends(lane, patient)
    engine.start()
    for _ in range(4):
        lane.submit("a", partial(patient.call.steps, url), raise_it)
        ends.submit("b", url)
    wait_for_hanging(origin, 2)
    assert engine.close(PATIENCE)
    assert len(ends.next(4)) == 4


def test_steps_that_end_the_process_at_the_end_hurt_nobody(
    engine: Engine, patient: Download, origin: Origin
) -> None:
    def leaving() -> Steps[None]:
        try:
            yield exchange(patient, url)
        except TransferError:
            raise SystemExit(3) from None

    url = origin.page("/hang", origin.hang)
    ends = Ends(engine.lane(patient.transfer, 8), patient)
    engine.start()
    ends.follow("a", leaving)
    wait_for_hanging(origin, 1)
    ends.submit("b", url, 3)
    assert engine.close(PATIENCE)
    assert len(ends.next(4)) == 4


def test_a_closed_engine_takes_nothing(engine: Engine, patient: Download) -> None:
    ends = Ends(engine.lane(patient.transfer, 2), patient)
    engine.start()
    assert engine.close(PATIENCE)
    assert engine.close(PATIENCE), "a second time does no harm"
    with pytest.raises(RuntimeError, match="the engine is closed"):
        ends.follow("a", partial(returns, 1))
    assert ends.empty


def test_every_task_is_told_once_or_refused_while_the_engine_is_closed(
    make: Make, patient: Download
) -> None:
    for _ in range(20):
        engine = make()
        told, taken = Counter[int](), set[int]()
        lane = engine.lane(patient.transfer, 4)
        engine.start()

        def submit(
            first: int, lane: Lane = lane, taken: set[int] = taken, told: Counter[int] = told
        ) -> None:
            def tell(number: int, _: object) -> None:
                told[number] += 1

            for number in range(first, first + 50):
                try:
                    lane.submit(first, partial(returns, number), partial(tell, number))
                except RuntimeError:
                    return
                taken.add(number)

        threads = [threading.Thread(target=submit, args=(100 * each,)) for each in range(4)]
        for thread in threads:
            thread.start()
        assert engine.close(PATIENCE)
        for thread in threads:
            thread.join(PATIENCE)
        assert told == dict.fromkeys(taken, 1)


def _never_begun() -> Steps[None]:
    yield Pause(0)


def test_an_engine_that_breaks_says_so(
    patient: Download, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = threading.Event()
    engine = Engine(broken.set)
    lane = engine.lane(patient.transfer, 4)

    def bug() -> None:
        raise RuntimeError("a bug in the loop")

    monkeypatch.setattr(lane.queue, "take", bug)
    lane.submit("key", lambda: _never_begun(), lambda _: None)
    engine.start()
    assert broken.wait(PATIENCE)
    assert engine.close(PATIENCE)
    assert "a bug in the loop" in caplog.text


def test_a_want_of_descriptors_halves_the_slots_which_come_back_one_by_one(engine: Engine) -> None:
    bounds = Bounds(
        connect_seconds=1, low_speed_bytes=1, low_speed_seconds=1, max_header_bytes=65_536
    )
    lane = engine.lane(Transfer(bounds, user_agent="tests"), 8)
    ended: queue.SimpleQueue[object] = queue.SimpleQueue()
    slots = []

    def steps(error: Exception | None) -> Steps[None]:
        yield Pause(0)
        if error is not None:
            raise error

    def one(error: Exception | None = None) -> None:
        lane.submit("key", partial(steps, error), ended.put)
        ended.get(timeout=PATIENCE)
        slots.append(lane.queue.slots)

    engine.start()
    for error in (errors.ResourceError("x."), errors.DiskFull("x."), errors.DiskFull("x.")):
        one(error)
    one(errors.DiskFull("x."))
    for _ in range(1 + 2 + 3 + 4 + 5 + 6 + 7 + 5):
        one()
    assert slots[:5] == [4, 2, 1, 1, 2]
    assert slots[6:10] == [3, 3, 3, 4]
    assert slots[-1] == max(slots) == 8


def test_a_want_of_descriptors_beside_others_is_waited_out_and_told_to_nobody(
    engine: Engine, patient: Download
) -> None:
    lane = engine.lane(patient.transfer, 8)
    ended: queue.SimpleQueue[object] = queue.SimpleQueue()
    go_on: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    tries = []

    def holds() -> Steps[str]:
        yield Until(go_on.put)
        return "held"

    def lacks() -> Steps[str]:
        tries.append(lane.queue.slots)
        yield Pause(0)
        if lane.queue.busy > 1:
            raise errors.ResourceError("No descriptor.")
        return "had"

    engine.start()
    lane.submit("other", holds, ended.put)
    let_on = go_on.get(timeout=PATIENCE)
    lane.submit("key", lacks, ended.put)
    while lane.pool.slots > 1:
        assert ended.empty()
    let_on()
    assert [ended.get(timeout=PATIENCE) for _ in range(2)] == ["held", "had"]
    assert tries == [8, 4, 2, 2]  # one more again, for the other has ended well


def test_a_lane_that_gets_no_descriptors_blames_no_url_and_has_them_later(
    engine: Engine, download: Download, origin: Origin
) -> None:
    def kind() -> Steps[str]:
        request = Request(url=origin.image("png-rgb.png"), deadline=time.monotonic() + PATIENCE)
        try:
            yield Exchange(download.transfer, request, "127.0.0.1", lambda _: None)
        except TransferError as error:
            return error.kind
        return "answered"

    ends = Ends(engine.lane(download.transfer, 2), download)
    engine.start()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        ends.follow("job", kind)
        assert ends.one() == "resource"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    ends.follow("job", kind)
    assert ends.one() == "answered"
