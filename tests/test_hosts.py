"""Tests of fetch.hosts: slots per host, Retry-After, and the circuit breaker."""

from __future__ import annotations

import asyncio
import unittest.mock
from collections.abc import Coroutine
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from imageload.errors import DownloadError
from imageload.fetch.guard import Target, check_url
from imageload.fetch.hosts import HostRules, Hosts, Visit, host_of
from tests.raising import raises_error
from tests.timeless import TimelessLoop

RULES = HostRules(
    per_host=2,
    failures=3,
    rest_seconds=0.1,
    longest_rest_seconds=0.1,
    give_up_seconds=60,
    max_pause_seconds=0.1,
)
AWAY = DownloadError("connect_error", "The origin does not accept connections.")
BUSY = DownloadError("origin_busy", "The origin answered 503.", status_code=503)
LATER = DownloadError("origin_busy", "Later.", status_code=429, retry_after=3_600)
MISSING = DownloadError("http_status", "The origin answered 404.", status_code=404)


def target(url: str = "http://a.example/1") -> Target:
    return check_url(url)


async def fail(hosts: Hosts, times: int, error: DownloadError = AWAY) -> list[bool]:
    """Run downloads that fail with `error`; whether each was no try."""
    return [hosts.leave(await hosts.enter(target()), error) for _ in range(times)]


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


def start(hosts: Hosts, url: str = "http://a.example/1", **known: Any) -> asyncio.Task[Visit]:
    """A task that enters."""
    return asyncio.ensure_future(hosts.enter(target(url), **known))


async def ready(task: asyncio.Task[Visit]) -> bool:
    """True if `task` ends without any time passing."""
    for _ in range(5):
        await asyncio.sleep(0)
    return task.done()


async def first_of(tasks: list[asyncio.Task[Visit]]) -> Visit:
    """The Visit of the first task that ends, which is removed from `tasks`; the others wait."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    (task,) = done
    tasks.remove(task)
    return task.result()


# Slots


def test_a_host_has_a_number_of_slots_granted_in_order() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        first = await hosts.enter(target())
        second = await hosts.enter(target("http://a.example/2"))
        waiting = [start(hosts) for _ in range(2)]
        assert not await ready(waiting[0])
        other = await hosts.enter(target("http://b.example/"))
        hosts.leave(first, None)
        assert await ready(waiting[0])
        assert not waiting[1].done()
        hosts.leave(second, None)
        for visit in (await waiting[1], await waiting[0], other):
            hosts.leave(visit, None)
        assert hosts.in_use == 0

    play(hosts, scene())


def test_spellings_and_ports_of_a_host_share_its_slots() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        first = await hosts.enter(target("http://\uff11.example/"))
        second = await hosts.enter(target("https://1.EXAMPLE./"))
        third = start(hosts, "http://1.example:8080/")
        assert not await ready(third)
        hosts.leave(first, None)
        for visit in (second, await third):
            hosts.leave(visit, None)

    play(hosts, scene())


def test_a_wait_that_is_cancelled_takes_no_slot() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        visits = [await hosts.enter(target()) for _ in range(2)]
        waiting = start(hosts)
        assert not await ready(waiting)
        waiting.cancel()
        await asyncio.wait([waiting])
        for visit in visits:
            hosts.leave(visit, None)
        assert hosts.in_use == 0

    play(hosts, scene())


# The breaker


def test_downloads_that_fail_together_open_the_breaker_for_one_rest() -> None:
    hosts = Hosts(HostRules(failures=1, rest_seconds=0.02, longest_rest_seconds=3600))

    async def scene() -> None:
        visits = [await hosts.enter(target()) for _ in range(8)]
        for visit in visits:
            hosts.leave(visit, AWAY)
        hosts.leave(await hosts.enter(target()), None)

    play(hosts, scene())


def test_failures_while_the_breaker_is_open_are_no_tries() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        visits = [await hosts.enter(target()) for _ in range(2)]
        assert [hosts.leave(visit, AWAY) for visit in visits] == [False, False]
        assert await fail(hosts, 3) == [True, True, True]
        hosts.leave(await hosts.enter(target()), None)
        assert await fail(hosts, 1) == [False]

    play(hosts, scene())


@pytest.mark.parametrize("error", [AWAY, BUSY], ids=["no connection", "503"])
def test_failures_in_a_row_open_the_breaker_and_images_wait_for_one_that_probes(
    error: DownloadError,
) -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await fail(hosts, 3, error)
        waiting = [start(hosts) for _ in range(3)]
        assert not any([await ready(each) for each in waiting])
        probe = await first_of(waiting)
        await asyncio.sleep(2 * RULES.rest_seconds)
        assert not any(each.done() for each in waiting), "the others wait for its end"
        hosts.leave(probe, None)
        hosts.leave(await waiting[0], None)
        hosts.leave(await waiting[1], None)
        assert hosts.in_use == 0

    play(hosts, scene())


def test_a_download_that_began_before_the_breaker_opened_lets_no_second_one_probe() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        old = await hosts.enter(target())
        await fail(hosts, 3)
        probe = await hosts.enter(target())
        hosts.leave(old, AWAY)
        waiting = start(hosts)
        await asyncio.sleep(2 * RULES.rest_seconds)
        assert not waiting.done()
        hosts.leave(probe, None)
        hosts.leave(await waiting, None)

    play(hosts, scene())


def test_an_image_that_has_not_failed_probes_before_those_that_have() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await fail(hosts, 3)
        probe = await hosts.enter(target())
        waiting = [start(hosts, has_failed=True) for _ in range(20)]
        waiting.append(start(hosts))
        assert not await ready(waiting[-1])
        hosts.leave(probe, AWAY)
        probe = await first_of(waiting)
        assert not probe.has_failed
        hosts.leave(probe, AWAY)
        probe = await first_of(waiting)
        assert probe.has_failed, "no other is left"
        hosts.leave(probe, None)
        for each in asyncio.as_completed(waiting):
            hosts.leave(await each, None)

    play(hosts, scene())


def test_an_image_that_leaves_the_line_lets_those_probe_that_have_failed() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await fail(hosts, 3)
        probe = await hosts.enter(target())
        fresh, failed = start(hosts), start(hosts, has_failed=True)
        assert not await ready(fresh)
        hosts.leave(probe, AWAY)
        fresh.cancel()
        hosts.leave(await failed, None)
        assert hosts.in_use == 0

    play(hosts, scene())


def test_any_response_resets_the_count_of_failures() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await fail(hosts, 2)
        await fail(hosts, 1, MISSING)
        await fail(hosts, 2)
        hosts.leave(await hosts.enter(target()), None)

    play(hosts, scene())


def test_a_dead_origin_fails_its_images_together_with_the_time_and_its_last_failure() -> None:
    hosts = Hosts(replace(RULES, give_up_seconds=0.2))

    async def scene() -> None:
        await fail(hosts, 3, BUSY)
        tasks = [start(hosts) for _ in range(10)]
        tried = 0
        while pending := [task for task in tasks if not task.done()]:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None:
                    tried += 1
                    hosts.leave(task.result(), BUSY)
        errors = [task.exception() for task in tasks if task.exception() is not None]
        assert len(errors) == 10 - tried
        assert errors
        for error in errors:
            assert isinstance(error, DownloadError)
            assert (error.code, error.status_code) == ("http_status", 503)
            assert error.transient
            assert error.max_tries == 1
            assert "The origin has failed for 0 s." in error.message
            assert BUSY.message in error.message

    play(hosts, scene())


def test_an_image_that_is_asked_for_later_has_the_whole_time() -> None:
    """A retry after an origin was given up, and a new job: both let it be probed."""
    hosts = Hosts(replace(RULES, give_up_seconds=0.2))

    async def scene() -> None:
        await fail(hosts, 3)
        while True:
            try:
                hosts.leave(await hosts.enter(target()), AWAY)
            except DownloadError:
                break
        since = now()
        hosts.leave(await hosts.enter(target(), since=since), None)
        assert hosts.in_use == 0

    play(hosts, scene())


def test_failures_of_an_origin_that_nobody_asked_for_are_forgotten() -> None:
    hosts = Hosts(replace(RULES, give_up_seconds=0.2))

    async def scene() -> None:
        await fail(hosts, 3)
        await asyncio.sleep(0.3)
        assert await fail(hosts, 2) == [False, False]

    play(hosts, scene())


def test_a_success_resets_all_failures_of_an_origin() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await fail(hosts, 3)
        hosts.leave(await hosts.enter(target()), None)
        await fail(hosts, 2)
        visit = await hosts.enter(target())
        hosts.leave(visit, None)
        assert hosts.in_use == 0

    play(hosts, scene())


def test_a_dead_port_does_not_stop_the_others_of_its_host() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await fail(hosts, 3)
        healthy = start(hosts, "http://a.example:8080/")
        assert await ready(healthy)
        hosts.leave(healthy.result(), None)

    play(hosts, scene())


def test_retry_after_is_followed_up_to_a_limit() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        began = now()
        await fail(hosts, 1, LATER)
        hosts.leave(await hosts.enter(target()), None)
        assert now() - began >= 0.9 * RULES.max_pause_seconds

    play(hosts, scene())


def test_an_origin_that_asks_for_a_pause_is_probed_after_it_and_given_up_if_it_asks_again() -> None:
    hosts = Hosts(replace(RULES, failures=2, give_up_seconds=0.01))

    async def scene() -> None:
        visits = [await hosts.enter(target()) for _ in range(2)]
        waiting = [start(hosts) for _ in range(3)]
        assert not any([await ready(each) for each in waiting])
        for visit in visits:
            hosts.leave(visit, LATER)
        hosts.leave(await first_of(waiting), LATER)
        for task in waiting:
            with raises_error("origin_busy"):
                await task

    play(hosts, scene())


def test_an_error_that_is_not_the_origins_is_not_counted() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await fail(hosts, 2)
        hosts.leave(await hosts.enter(target()), asyncio.CancelledError())
        hosts.leave(await hosts.enter(target()), AWAY)
        task = start(hosts)
        assert not await ready(task)
        hosts.leave(await task, None)

    play(hosts, scene())


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://A.example/x", "a.example"),
        ("http://a.example./x", "a.example"),
        ("http://\uff11.b\u00fccher.example/x", "1.xn--bcher-kva.example"),
        ("http://b\u00fccher..example/x", ""),
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
        probe = await hosts.enter(target())
        waiting = start(hosts)
        await asyncio.sleep(2 * RULES.rest_seconds)
        assert not waiting.done()
        hosts.leave(probe, asyncio.CancelledError())
        hosts.leave(await waiting, None)
        assert hosts.in_use == 0

    play(hosts, scene())


def test_a_cancelled_wait_for_the_breaker_leaves_the_queue_empty() -> None:
    hosts = Hosts(RULES)

    async def scene() -> None:
        await fail(hosts, 3)
        waiting = [start(hosts) for _ in range(3)]
        assert not any([await ready(each) for each in waiting])
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        hosts.leave(await hosts.enter(target()), None)
        assert hosts.in_use == 0

    play(hosts, scene())
