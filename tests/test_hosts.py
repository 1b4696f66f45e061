"""Tests of fetch.hosts: slots per host, Retry-After, and the circuit breaker."""

from __future__ import annotations

import asyncio
import unittest.mock
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from imageload.errors import DownloadError
from imageload.fetch.guard import Target, check_url
from imageload.fetch.hosts import HostRules, Hosts, host_of
from tests.timeless import TimelessLoop

RULES = HostRules(
    per_host=2,
    failures=3,
    rest_seconds=0.02,
    longest_rest_seconds=0.02,
    give_up_seconds=0.2,
    max_pause_seconds=0.05,
)
AWAY = DownloadError("connect_error", "The origin does not accept connections.")
BUSY = DownloadError("origin_busy", "The origin answered 503.", status_code=503)
MISSING = DownloadError("http_status", "The origin answered 404.", status_code=404)


def target(url: str = "http://a.example/1") -> Target:
    return check_url(url)


async def fail(hosts: Hosts, times: int, error: DownloadError = AWAY) -> None:
    """Run `count` downloads that fail with `error`."""
    for _ in range(times):
        await hosts.enter(target())
        hosts.leave(target(), error)


def play(hosts: Hosts, scene: Coroutine[Any, Any, None]) -> None:
    """Run `scene` in a time that passes only in its waits; check that nothing waits at the end."""

    async def whole() -> None:
        await scene
        assert not asyncio.all_tasks() - {asyncio.current_task()}

    with asyncio.Runner(loop_factory=TimelessLoop) as runner:
        clock = SimpleNamespace(monotonic=runner.get_loop().time)
        with unittest.mock.patch("imageload.fetch.hosts.time", clock):
            runner.run(whole())
    del hosts


def now() -> float:
    """The time of the scene."""
    return asyncio.get_running_loop().time()


async def ready(task: asyncio.Task[None]) -> bool:
    """True if `task` ends without any time passing."""
    for _ in range(5):
        await asyncio.sleep(0)
    return task.done()


def test_downloads_that_fail_together_open_the_breaker_for_one_rest() -> None:
    hosts = Hosts(HostRules(failures=1, rest_seconds=0.02, longest_rest_seconds=60))

    async def scene() -> None:
        for _ in range(8):
            await hosts.enter(target())
        for _ in range(8):
            hosts.leave(target(), AWAY)
        async with asyncio.timeout(1):
            await hosts.enter(target())
        hosts.leave(target(), None)

    play(hosts, scene())


def test_a_host_has_a_number_of_slots_granted_in_order() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await hosts.enter(target())
        await hosts.enter(target("http://a.example/2"))
        waiting = [asyncio.ensure_future(hosts.enter(target())) for _ in range(2)]
        assert not await ready(waiting[0])
        await hosts.enter(target("http://b.example/"))
        hosts.leave(target(), None)
        assert await ready(waiting[0])
        assert not waiting[1].done()
        hosts.leave(target(), None)
        await waiting[1]
        for url in ("http://a.example/", "http://a.example/", "http://b.example/"):
            hosts.leave(target(url), None)
        assert hosts.in_use == 0

    play(hosts, scene())


def test_spellings_and_ports_of_a_host_share_its_slots() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        spellings = ["http://\uff11.example/", "https://1.EXAMPLE./", "http://1.example:8080/"]
        for url in spellings[:2]:
            await hosts.enter(target(url))
        third = asyncio.ensure_future(hosts.enter(target(spellings[2])))
        assert not await ready(third)
        hosts.leave(target(spellings[0]), None)
        await third
        for url in spellings[1:]:
            hosts.leave(target(url), None)

    play(hosts, scene())


def test_a_wait_that_is_cancelled_takes_no_slot() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        for _ in range(2):
            await hosts.enter(target())
        waiting = asyncio.ensure_future(hosts.enter(target()))
        assert not await ready(waiting)
        waiting.cancel()
        await asyncio.wait([waiting])
        for _ in range(2):
            hosts.leave(target(), None)
        assert hosts.in_use == 0

    play(hosts, scene())


@pytest.mark.parametrize("error", [AWAY, BUSY], ids=["no connection", "503"])
def test_failures_in_a_row_open_the_breaker_and_images_wait_for_one_that_probes(
    error: DownloadError,
) -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await fail(hosts, 3, error)
        waiting = [asyncio.ensure_future(hosts.enter(target())) for _ in range(3)]
        assert not any([await ready(each) for each in waiting])
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        await asyncio.sleep(2 * RULES.rest_seconds)
        assert sum(each.done() for each in waiting) == 1, "the others wait for its end"
        hosts.leave(target(), None)
        await asyncio.sleep(0)
        assert await ready(waiting[1])
        hosts.leave(target(), None)
        await waiting[2]
        hosts.leave(target(), None)

    play(hosts, scene())


def test_any_response_resets_the_count_of_failures() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await fail(hosts, 2)
        await fail(hosts, 1, MISSING)
        await fail(hosts, 2)
        assert await ready(asyncio.ensure_future(hosts.enter(target())))
        hosts.leave(target(), None)

    play(hosts, scene())


def test_a_dead_origin_fails_its_images_together_with_the_time_in_the_message() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        began = now()
        await fail(hosts, 3)
        tasks = [asyncio.ensure_future(hosts.enter(target())) for _ in range(20)]
        tried = 0
        while pending := [task for task in tasks if not task.done()]:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None:
                    tried += 1
                    hosts.leave(target(), AWAY)
        errors = [task.exception() for task in tasks if task.exception() is not None]
        assert 1 <= tried < 20
        assert now() - began < 2 * RULES.give_up_seconds
        for error in errors:
            assert isinstance(error, DownloadError)
            assert error.transient
            assert error.max_tries == 1
            assert "The origin has failed for 0 seconds" in error.message
            assert AWAY.message in error.message

    play(hosts, scene())


def test_a_success_resets_all_failures_of_an_origin() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await fail(hosts, 3)
        await hosts.enter(target())
        hosts.leave(target(), None)
        await fail(hosts, 2)
        assert await ready(asyncio.ensure_future(hosts.enter(target())))
        hosts.leave(target(), None)
        assert hosts.in_use == 0

    play(hosts, scene())


def test_a_dead_port_does_not_stop_the_others_of_its_host() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await fail(hosts, 3)
        healthy = target("http://a.example:8080/")
        assert await ready(asyncio.ensure_future(hosts.enter(healthy)))
        hosts.leave(healthy, None)

    play(hosts, scene())


def test_retry_after_is_kept_up_to_a_limit_and_is_no_failure() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        pause = DownloadError("origin_busy", "Later.", status_code=429, retry_after=3_600)
        await hosts.enter(target())
        hosts.leave(target(), pause)
        began = now()
        await hosts.enter(target())
        assert now() - began == pytest.approx(RULES.max_pause_seconds)
        hosts.leave(target(), None)

    play(hosts, scene())


def test_an_error_that_is_not_the_origins_is_not_counted() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await fail(hosts, 2)
        await hosts.enter(target())
        hosts.leave(target(), asyncio.CancelledError())
        await hosts.enter(target())
        hosts.leave(target(), AWAY)
        task = asyncio.ensure_future(hosts.enter(target()))
        assert not await ready(task)
        await task
        hosts.leave(target(), None)

    play(hosts, scene())


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://A.example/x", "a.example"),
        ("http://a.example./x", "a.example"),
        ("http://[::1]:80/", "::1"),
        ("http://[::1/", ""),
        ("foo", ""),
        ("", ""),
    ],
)
def test_the_host_of_a_url_is_its_name_or_nothing(url: str, host: str) -> None:
    assert host_of(url) == host


def test_a_probe_that_is_cancelled_lets_another_probe() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await fail(hosts, 3)
        await hosts.enter(target())  # the probe
        waiting = asyncio.ensure_future(hosts.enter(target()))
        await asyncio.sleep(2 * RULES.rest_seconds)
        assert not waiting.done()
        hosts.leave(target(), asyncio.CancelledError())
        await waiting
        hosts.leave(target(), None)
        assert hosts.in_use == 0

    play(hosts, scene())


def test_a_cancelled_wait_for_the_breaker_leaves_the_queue_empty() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await fail(hosts, 3)
        waiting = [asyncio.ensure_future(hosts.enter(target())) for _ in range(3)]
        assert not any([await ready(each) for each in waiting])
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        await hosts.enter(target())
        hosts.leave(target(), None)
        assert hosts.in_use == 0

    play(hosts, scene())
