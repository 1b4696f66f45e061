"""Tests of targets.imgur.uploader; tests/test_limits.py has those with the whole service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from imageload import errors
from imageload.image import Landed
from imageload.retry import RetryRule
from imageload.targets import Upload, UploadCancelled
from imageload.targets.imgur.uploader import Imgur
from imageload.targets.limits.breaker import Terms
from imageload.targets.limits.quota import Quotas
from imageload.targets.uploads import Uploads
from imgurapi import ImgurAPI
from sandbox.testing import RunningSandbox, running_sandbox
from tests.origin import IMAGES, Origin, Page, answer
from tests.raising import raises_error
from tests.transfers import running_transport
from tests.waiting import PATIENCE

PNG = str(IMAGES / "png-rgb.png")

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]


class Target:
    """An Imgur on a transfer loop of its own, which uploads to `url`."""

    def __init__(self, url: str, run: Run[Any], api: Callable[..., ImgurAPI]) -> None:
        self.url, self.run, self._api = url, run, api

    def imgur(self, *, terms: Terms | None = None, clients: int = 1, **options: Any) -> Imgur:
        """An Imgur with this number of client ids."""
        quotas = Quotas(clients, terms)
        token = options.pop("refresh_token", None)
        ids = ("test", *(f"test{number}" for number in range(2, clients + 1)))
        apis = [
            self._api(client_id, "secret", token, quota=quota)
            for client_id, quota in zip(ids, quotas.each, strict=True)
        ]
        retry = RetryRule(max_tries=1, seconds=0.1, cap_seconds=1.0).wait
        uploads = Uploads(quotas, options.pop("slots", 8), retry=retry)
        return Imgur(apis, uploads, **options)


@contextlib.contextmanager
def target_at(url: str) -> Iterator[Target]:
    """A Target that uploads to `url`."""
    with running_transport() as transport:

        def api(*args: Any, **options: Any) -> ImgurAPI:
            return ImgurAPI(*args, transport=transport, base_url=url, link_base=url, **options)

        async def within(coroutine: Coroutine[Any, Any, T]) -> T:
            async with asyncio.timeout(PATIENCE):
                return await coroutine

        yield Target(url, lambda coroutine: transport.transfers.run(within(coroutine)), api)


@pytest.fixture
def target(sandbox: RunningSandbox) -> Iterator[Target]:
    """A Target that uploads to the sandbox."""
    with target_at(sandbox.url) as running:
        yield running


def upload(number: int = 0, **options: Any) -> Upload:
    """The image of this number."""
    values = {"name": f"image-{number}", "since": time.monotonic(), **options}
    return Upload(path=PNG, **values)


def uploads(imgur: Imgur, count: int, job: str = "job") -> list[asyncio.Task[Landed]]:
    """Start `count` uploads of a job."""
    return [asyncio.create_task(imgur.land(job, upload(number))) for number in range(count)]


async def until(is_so: Callable[[], object]) -> None:
    """Return when the condition is true; polls."""
    while not is_so():
        await asyncio.sleep(0.01)


# Budgets


@pytest.mark.parametrize("clients", [1, 2])
def test_a_backlog_larger_than_the_budget_is_uploaded_over_several_windows(
    tmp_path: Path, clients: int
) -> None:
    limits = {"user_credits": 50, "hour_seconds": 0.6}
    with (
        running_sandbox(tmp_path / "sandbox", **limits) as sandbox,
        target_at(sandbox.url) as target,
    ):
        imgur = target.imgur(terms=Terms(hour=0.6), clients=clients)

        async def run() -> None:
            await asyncio.gather(*(each for job in "abc" for each in uploads(imgur, 5, job)))

        begun = time.monotonic()
        target.run(run())
        windows = 1 + (time.monotonic() - begun) // 0.6
        assert len(sandbox.images()) == 15
        refused = sandbox.stats()["answers"].get("429", 0)
        assert refused <= windows * clients, "at most one in a window of a client id"


def test_an_upload_that_may_not_be_sent_any_more_is_announced_again(
    target: Target, sandbox: RunningSandbox
) -> None:
    imgur, said, allowed = target.imgur(), list[str](), iter([False, True])

    async def announce() -> None:
        said.append("announced")

    def may_send() -> bool:
        assert not sandbox.images(), "it is asked before"
        return next(allowed)

    def retract() -> None:
        said.append("retracted")

    sent = upload(announce=announce, retract=retract, may_send=may_send)
    target.run(imgur.land("job", sent))
    assert said == ["announced", "retracted", "announced"]
    assert len(sandbox.images()) == 1


def test_uploads_that_wait_are_counted_and_neither_announced_nor_sent(tmp_path: Path) -> None:
    with (
        running_sandbox(tmp_path / "sandbox", user_credits=35) as sandbox,
        target_at(sandbox.url) as target,
    ):
        imgur = target.imgur()
        announced, changes = [], []
        imgur.gate.watch(lambda: changes.append(imgur.gate.was_closed))

        async def announce() -> None:
            announced.append(len(sandbox.images()))
            await asyncio.sleep(0.01)

        async def run() -> None:
            tasks = [
                asyncio.create_task(imgur.land("job", upload(n, announce=announce)))
                for n in range(10)
            ]
            await until(lambda: imgur.parked == 7 and not imgur.pool.busy)
            assert imgur.gate.closed is not None
            assert imgur.gate.closed.reason == "user"
            assert imgur.quotas.outage_seconds("uploads") == 0
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert sum(isinstance(each, Landed) for each in ended) == 3
            assert imgur.pool == (8, 0, 0)

        target.run(run())
        assert announced == [0, 1, 1] or announced == [0, 1, 2]
        assert changes == [True]
        assert sandbox.stats()["requests"]["upload"] == 3, "nothing was asked in vain"


def test_a_small_job_shares_the_budget_with_a_large_one(tmp_path: Path) -> None:
    limits = {"user_credits": 100, "hour_seconds": 0.5}
    with (
        running_sandbox(tmp_path / "sandbox", **limits) as sandbox,
        target_at(sandbox.url) as target,
    ):
        imgur = target.imgur(terms=Terms(hour=0.5))

        async def run() -> int:
            large = uploads(imgur, 100, "large")
            await until(lambda: imgur.gate.was_closed)
            before = sum(each.done() for each in large)
            await asyncio.gather(*uploads(imgur, 3, "small"))
            landed = sum(each.done() for each in large)
            for task in large:
                task.cancel()
            return landed - before

        assert target.run(run()) <= 20, "what two windows have room for"


# Refusals and outages


def test_a_block_is_waited_for_and_costs_no_try(target: Target, sandbox: RunningSandbox) -> None:
    imgur = target.imgur(terms=Terms(blocked_wait=0.1))
    sandbox.fault("forbidden", count=3)

    async def run() -> None:
        await asyncio.gather(*uploads(imgur, 20))

    target.run(run())
    assert len(sandbox.images()) == 20
    assert sandbox.stats()["faults_met"]["forbidden"] == 3


def test_an_outage_that_lasts_too_long_fails_those_that_have_waited_as_long(
    target: Target, sandbox: RunningSandbox
) -> None:
    outage = 0.6
    imgur = target.imgur(terms=Terms(blocked_wait=0.05, outage_seconds=outage))
    sandbox.fault("forbidden", count=0)

    async def waited(number: int) -> float:
        """The seconds until it failed."""
        since = time.monotonic()
        with raises_error("upload_blocked"):
            await imgur.land("job", upload(number, since=since))
        return time.monotonic() - since

    async def run() -> None:
        first = asyncio.gather(*(waited(number) for number in range(20)))
        await until(lambda: imgur.quotas.outage_seconds("uploads") > outage / 2)
        late = await waited(20)
        assert min(*await first, late) >= outage
        sandbox.clear_faults()
        patient = {"since": time.monotonic() + PATIENCE}  # the wait has doubled some times
        await asyncio.gather(*(imgur.land("job", upload(n, **patient)) for n in range(20)))
        assert imgur.quotas.outage_seconds("uploads") == 0

    target.run(run())


def test_one_refused_upload_fails_alone(target: Target, sandbox: RunningSandbox) -> None:
    imgur = target.imgur()
    sandbox.fault("file_type", count=1)

    async def run() -> None:
        ended = await asyncio.gather(*uploads(imgur, 10), return_exceptions=True)
        (error,) = [each for each in ended if not isinstance(each, Landed)]
        assert isinstance(error, errors.UploadError)
        assert error.name == "upload_rejected"

    target.run(run())


def imgur_page(status: str, content: object, remaining: int) -> Page:
    """A page that responds like Imgur, with these credits left for one more second."""
    return answer(
        json.dumps(content).encode(),
        status,
        X_RateLimit_UserLimit="500",
        X_RateLimit_UserRemaining=str(remaining),
        X_RateLimit_UserReset="1",
    )


@pytest.mark.parametrize("left", [0, 500])
def test_wrong_credentials_are_checked_until_they_are_corrected(origin: Origin, left: int) -> None:
    link = f"{origin.url}/aB3.png"
    wrong = {"data": {"error": "Invalid client_id"}, "success": False, "status": 403}
    origin.page("/3/upload", imgur_page("403 Forbidden", wrong, left))
    origin.page("/3/credits", imgur_page("200 OK", {"data": {}, "success": True}, 500))
    with target_at(origin.url) as target:
        imgur = target.imgur(terms=Terms(unhinted_wait=0.1))

        async def run() -> Landed:
            (landing,) = uploads(imgur, 1)
            await until(lambda: imgur.gate.was_closed)
            origin.page("/3/upload", imgur_page("200 OK", {"data": {"link": link}}, 490))
            return await landing

        assert target.run(run()) == Landed(link)
        assert origin.requests["/3/credits"] == 1


def test_nothing_is_sent_before_the_limits_are_read(
    target: Target, sandbox: RunningSandbox
) -> None:
    sandbox.settings(unlimited=False)
    imgur = target.imgur()

    async def run() -> None:
        await imgur.ask()
        assert imgur.gate.closed is not None
        assert imgur.gate.closed.reason == "unasked"
        began = time.monotonic()
        await imgur.land("job", upload())
        assert time.monotonic() - began < 9, "it would wait for 10 s in vain"

    target.run(run())
    assert imgur.quotas.budgets()[0].limit is not None


# Lost and cancelled uploads


def test_an_accounts_upload_whose_response_was_lost_is_found_by_its_name(
    target: Target, sandbox: RunningSandbox
) -> None:
    token = sandbox.token(client_id="test")["refresh_token"]
    imgur = target.imgur(anonymous=False, refresh_token=token)
    sandbox.fault("reset_after_body")

    async def run() -> Landed:
        with raises_error("response_lost"):
            await imgur.land("job", upload(7))
        return await imgur.land("job", upload(7, was_lost=True))

    landed = target.run(run())
    assert [image["id"] in landed.link for image in sandbox.images()] == [True]
    assert sandbox.stats()["requests"]["upload"] == 1


def test_a_cancelled_upload_is_a_maybe_duplicate_and_frees_its_slot(
    target: Target, sandbox: RunningSandbox
) -> None:
    imgur = target.imgur(slots=1)
    sandbox.fault("hang")

    async def run() -> None:
        (landing,) = uploads(imgur, 1)
        while sandbox.stats()["requests"].get("upload") != 1:
            await asyncio.sleep(0.01)
        landing.cancel()
        with pytest.raises(UploadCancelled):
            await landing
        await imgur.land("job", upload())

    target.run(run())
    assert imgur.pool == (1, 0, 0)


# Other calls


def test_calls_wait_during_a_block(target: Target, sandbox: RunningSandbox) -> None:
    imgur = target.imgur(terms=Terms(blocked_wait=0.1))

    async def run() -> None:
        landed = await asyncio.gather(*uploads(imgur, 20))
        sandbox.fault("forbidden", match="image", count=2)
        routes = [f"image/{each.deletehash}" for each in landed]
        await asyncio.gather(*(imgur.request("job", "DELETE", route) for route in routes))

    target.run(run())
    assert sandbox.images() == []


def test_a_call_fails_when_an_outage_has_lasted_too_long(
    target: Target, sandbox: RunningSandbox
) -> None:
    imgur = target.imgur(terms=Terms(blocked_wait=0.05, outage_seconds=0.3))
    sandbox.fault("forbidden", match="album", count=0)

    async def run() -> None:
        with raises_error("upload_blocked"):
            await imgur.request("job", "POST", "album", {"title": "t"})

    target.run(run())


def test_no_client_id_is_ever_logged(
    target: Target, sandbox: RunningSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    imgur = target.imgur(terms=Terms(blocked_wait=0.05, unhinted_wait=0.05))
    for fault in ("forbidden", "invalid_client", "429"):
        sandbox.fault(fault)

    async def run() -> None:
        await asyncio.gather(*uploads(imgur, 3))

    target.run(run())
    assert "uploads wait" in caplog.text
    assert "secret" not in caplog.text
