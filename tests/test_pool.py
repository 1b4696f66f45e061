"""What imageload.pool promises: shares for all, none for ever, and no wake-up lost."""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from functools import partial

import pytest

from imageload.pool import Pool

Make = Callable[[int], Pool]

# Only ever waited out where something is broken.
PATIENCE = 20.0


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes pools, and closes them at the end of the test."""
    pools: list[Pool] = []

    def make_pool(size: int) -> Pool:
        pools.append(Pool("tests", size))
        return pools[-1]

    yield make_pool
    for pool in pools:
        assert pool.close(PATIENCE)


class Holding:
    """Tasks that say when they run and then hold their thread until released."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.running: queue.SimpleQueue[Hashable] = queue.SimpleQueue()
        self.release = threading.Semaphore(0)

    def submit(self, key: Hashable, count: int = 1) -> None:
        """Put in `count` tasks for `key`."""
        for _ in range(count):
            self.pool.submit(key, partial(self._hold, key))

    def _hold(self, key: Hashable) -> None:
        self.running.put(key)
        assert self.release.acquire(timeout=PATIENCE)

    def next_running(self, count: int) -> Counter[Hashable]:
        """The keys of the next `count` tasks to begin."""
        return Counter(self.running.get(timeout=PATIENCE) for _ in range(count))

    def nothing_begins(self) -> bool:
        """True when tasks of other keys, submitted now, begin while those that wait still do."""
        for key in ("witness 1", "witness 2"):
            passed = threading.Event()
            self.pool.submit(key, passed.set)
            assert passed.wait(PATIENCE)
        return self.running.empty()


def test_every_task_is_run_once(make: Make) -> None:
    pool = make(4)
    done: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(1_000):
        pool.submit("a", partial(done.put, number))
    assert sorted(done.get(timeout=PATIENCE) for _ in range(1_000)) == list(range(1_000))


def test_a_pool_of_one_runs_the_tasks_of_a_key_in_order(make: Make) -> None:
    pool = make(1)
    done: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(100):
        pool.submit("a", partial(done.put, number))
    assert [done.get(timeout=PATIENCE) for _ in range(100)] == list(range(100))


def test_no_more_than_size_tasks_run_at_once(make: Make) -> None:
    pool, before = make(3), threading.active_count()
    holding = Holding(pool)
    for key in range(20):
        holding.submit(key)
    assert sum(holding.next_running(3).values()) == 3
    for _ in range(17):
        assert holding.running.empty()
        assert threading.active_count() == before + 3
        holding.release.release()
        holding.next_running(1)
    holding.release.release(3)


def test_threads_are_started_as_they_are_needed(make: Make) -> None:
    pool, before = make(50), threading.active_count()
    assert threading.active_count() == before
    done = threading.Semaphore(0)
    pool.submit("a", done.release)
    assert done.acquire(timeout=PATIENCE)
    assert threading.active_count() == before + 1
    for _ in range(40):
        pool.submit("a", done.release)
        assert done.acquire(timeout=PATIENCE)
    assert threading.active_count() < before + 40


def test_one_task_passes_ten_thousand_of_another_key(make: Make) -> None:
    pool = make(2)
    holding = Holding(pool)
    holding.submit("large", 10_000)
    assert holding.next_running(1) == {"large": 1}
    passed = threading.Event()
    pool.submit("small", passed.set)
    assert passed.wait(PATIENCE)
    holding.release.release(10_000)


def test_keys_are_served_in_turn(make: Make) -> None:
    pool = make(1)
    holding = Holding(pool)
    holding.submit("first")
    holding.next_running(1)
    for key in ("a", "b", "c"):
        holding.submit(key, 3)
    order = []
    for _ in range(9):
        holding.release.release()
        order.append(holding.running.get(timeout=PATIENCE))
    holding.release.release()
    assert order == ["a", "b", "c"] * 3


@pytest.mark.parametrize(("size", "most"), [(2, 1), (3, 2), (4, 2), (7, 4), (8, 4), (9, 5)])
def test_a_key_alone_holds_at_most_half_of_the_threads_rounded_up(
    make: Make, size: int, most: int
) -> None:
    holding = Holding(make(size))
    holding.submit("a", 3 * size)
    assert holding.next_running(most) == {"a": most}
    assert holding.nothing_begins()
    holding.release.release(3 * size)


def test_a_key_holds_at_most_half_of_what_the_others_leave(make: Make) -> None:
    holding = Holding(make(16))
    for key, most in (("a", 8), ("b", 4), ("c", 2)):
        holding.submit(key, 100)
        assert holding.next_running(most) == {key: most}
        assert holding.nothing_begins()
    holding.release.release(300)


@pytest.mark.parametrize("keys", [1, 2, 3, 4])
def test_keys_that_come_together_leave_a_share_for_the_next(make: Make, keys: int) -> None:
    size, share = 20, 20 // (keys + 1)
    holding = Holding(make(size))
    for _ in range(size):
        for key in range(keys):
            holding.submit(key)
    begun = holding.next_running(keys * share)
    assert set(begun) <= set(range(keys))
    passed = threading.Event()
    holding.pool.submit("next", passed.set)
    assert passed.wait(PATIENCE)
    holding.release.release(keys * size)


def test_what_hung_keys_leave_is_enough_for_a_whole_job(make: Make) -> None:
    pool = make(16)
    holding = Holding(pool)
    for key, most in (("a", 8), ("b", 4), ("c", 2)):
        holding.submit(key, 100)
        holding.next_running(most)
    done = threading.Semaphore(0)
    for _ in range(1_000):
        pool.submit("alive", done.release)
    for _ in range(1_000):
        assert done.acquire(timeout=PATIENCE)
    assert holding.running.empty()
    holding.release.release(300)


def test_a_share_grows_when_another_key_is_through(make: Make) -> None:
    holding = Holding(make(8))
    holding.submit("a", 4)
    holding.next_running(4)
    holding.submit("b", 8)
    assert holding.next_running(2) == {"b": 2}
    holding.release.release(2)
    # Whichever two ended, b may have more threads now, and a has no tasks left.
    assert set(holding.next_running(1)) == {"b"}
    holding.release.release(10)


def test_one_end_that_lets_two_keys_on_wakes_a_thread_for_each(make: Make) -> None:
    pool = make(12)
    a, b, all_threads = Holding(pool), Holding(pool), Holding(pool)
    for key in range(12):
        all_threads.submit(key)
    all_threads.next_running(12)
    all_threads.release.release(12)
    for _ in range(4):
        a.submit("a")
        a.next_running(1)
        b.submit("b")
        b.next_running(1)
    # Both are at their share now. It is b's turn when a task of a ends, and then a has room too.
    b.submit("b")
    a.submit("a")
    assert a.nothing_begins()
    assert b.running.empty()
    a.release.release()
    b.next_running(1)
    a.next_running(1)
    a.release.release(4)
    b.release.release(5)


def test_a_task_that_raises_is_logged_and_its_thread_goes_on(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    pool, before = make(1), threading.active_count()

    def raise_it(error: BaseException) -> None:
        raise error

    for error in (ValueError("one"), KeyError("two"), SystemExit(3)):
        pool.submit("a", partial(raise_it, error))
    done = threading.Event()
    pool.submit("a", done.set)
    assert done.wait(PATIENCE)
    assert threading.active_count() == before + 1
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info and record.exc_info[0] for record in logged] == [
        ValueError,
        KeyError,
        SystemExit,
    ]
    assert all("pool=tests" in record.getMessage() for record in logged)


def test_a_closed_pool_takes_nothing(make: Make) -> None:
    pool = make(2)
    assert pool.close(PATIENCE)
    with pytest.raises(RuntimeError, match="the tests pool is closed"):
        pool.submit("a", lambda: None)


def test_close_drops_what_waits_and_lets_what_runs_end(make: Make) -> None:
    pool, before = make(2), threading.active_count()
    holding = Holding(pool)
    holding.submit("a")
    holding.next_running(1)
    holding.submit("a", 5)
    assert not pool.close(0.01)  # it is still held
    holding.release.release()
    assert pool.close(PATIENCE)
    assert threading.active_count() == before
    assert holding.running.empty()


def test_close_waits_for_what_runs(make: Make) -> None:
    pool = make(1)
    begun, release = threading.Event(), threading.Event()
    order: queue.SimpleQueue[str] = queue.SimpleQueue()

    def task() -> None:
        begun.set()
        assert release.wait(PATIENCE)
        order.put("the task ended")

    def close() -> None:
        assert pool.close(PATIENCE)
        order.put("close returned")

    pool.submit("a", task)
    assert begun.wait(PATIENCE)
    closing = threading.Thread(target=close)
    closing.start()
    assert order.empty()
    release.set()
    closing.join(PATIENCE)
    assert [order.get(timeout=PATIENCE) for _ in range(2)] == ["the task ended", "close returned"]


def test_close_ends_threads_that_have_nothing_to_do(make: Make) -> None:
    pool, before = make(8), threading.active_count()
    holding = Holding(pool)
    holding.submit("a", 4)
    holding.next_running(4)
    assert threading.active_count() >= before + 4
    holding.release.release(4)
    assert pool.close(PATIENCE)
    assert threading.active_count() == before


def test_a_pool_without_a_first_thread_says_so_and_keeps_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make(2)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            pool.submit("a", pytest.fail)
    done = threading.Event()
    pool.submit("a", done.set)
    assert done.wait(PATIENCE)


def test_a_pool_does_without_the_threads_that_the_system_does_not_give(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool, before = make(8), threading.active_count()
    holding = Holding(pool)
    holding.submit("a")
    holding.next_running(1)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    holding.submit("a", 3)
    assert threading.active_count() == before + 1
    assert "no more threads" in caplog.text
    for _ in range(3):
        holding.release.release()
        holding.next_running(1)
    holding.release.release()


def no_thread(_: threading.Thread) -> None:
    """What Thread.start does where the system is out of threads."""
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("keys", [1, 2, 7, 40])
def test_no_task_is_forgotten_however_they_come(make: Make, size: int, keys: int) -> None:
    """Bursts with idle moments between them, from several threads: a lost wake-up would hang."""
    pool = make(size)
    done = threading.Semaphore(0)

    def burst(turn: int) -> None:
        for number in range(40):
            pool.submit((turn + number) % keys, done.release)

    for turn in range(15):
        submitters = [threading.Thread(target=burst, args=(turn + each,)) for each in range(2)]
        for submitter in submitters:
            submitter.start()
        for _ in range(80):
            assert done.acquire(timeout=PATIENCE)
        for submitter in submitters:
            submitter.join()
    assert not done.acquire(blocking=False)


def test_a_task_may_submit_the_next(make: Make) -> None:
    pool, done = make(4), threading.Semaphore(0)

    def chain(key: int, left: int) -> None:
        if left:
            pool.submit(key, partial(chain, key, left - 1))
        else:
            done.release()

    for key in range(20):
        pool.submit(key, partial(chain, key, 50))
    for _ in range(20):
        assert done.acquire(timeout=PATIENCE)
