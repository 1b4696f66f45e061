"""Tests of client ids that many workers share: leases, budgets, and slices that wait for Imgur."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from imageload.targets.imgur.uploader import Imgur
from imageload.targets.limits import handover
from imageload.targets.limits.breaker import MESSAGES
from imageload.targets.limits.quota import UPLOAD, Quotas
from imgurapi import ImgurAPI
from sandbox.testing import RunningSandbox, running_sandbox
from tests.jobs import all_landed, codes, urls
from tests.leased_node import LeasedNode
from tests.origin import Origin
from tests.postgres import fresh_database
from tests.postgres_server import programs
from tests.service import Client, RunningService, account, running_service, wired
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.skipif(programs() is None, reason="needs PostgreSQL")

SHORT = {"dead_seconds": 2.0, "lease_seconds": 3.0, "park_seconds": 0.5}
LONG = 10 * PATIENCE
PLENTY = {"user_credits": 10**6, "client_credits": 10**6, "posts": 10**6}


@pytest.fixture
def database() -> str:
    """The URL of an empty database."""
    return fresh_database()


@contextlib.contextmanager
def nodes(
    tmp_path: Path, sandbox: RunningSandbox, database: str, *each: dict[str, Any], **options: Any
) -> Iterator[list[RunningService]]:
    """A node in this process for each of these options."""
    with contextlib.ExitStack() as stack:
        shared = wired(sandbox, store=database, **{**SHORT, **options})
        folders = [tmp_path / f"temp{number}" for number in range(len(each))]
        yield [
            stack.enter_context(running_service(folder, **{**shared, **own}))
            for folder, own in zip(folders, each, strict=True)
        ]


def client_ids(service: RunningService) -> list[int]:
    """The client ids that the node may use now, by number."""
    return [quota.number for quota in service.service.target.quotas.each if quota.is_leased]


def closed_message(service: RunningService) -> str:
    """Why the node itself does not upload; empty if it does."""
    closed = service.service.target.gate.closed
    return "" if closed is None else closed.message


def wait_for_ids(service: RunningService, count: int) -> None:
    """Return when the node may use so many client ids."""
    wait_until(lambda: len(client_ids(service)) == count)


def slices(database: str) -> list[tuple[str | None, float | None]]:
    """For each slice of images that is open: what it waits for, and for how many seconds."""
    statement = """SELECT waits_for, extract(epoch FROM not_before - now())::float8 FROM slice
        WHERE open AND first >= 0 ORDER BY job, first"""
    with psycopg.connect(database) as connection:
        return connection.execute(statement).fetchall()


def is_idle(service: RunningService) -> bool:
    """True if the node has no slice at work and no temp file."""
    node = service.service.node
    assert node is not None
    assert node._worker is not None
    return not node._worker._at_work and not service.temp_files


# Leases


def test_nodes_that_share_a_client_id_meet_no_limit(
    tmp_path: Path, origin: Origin, database: str
) -> None:
    limits = {**PLENTY, "user_credits": 305, "hour_seconds": 3.0}
    with (
        running_sandbox(tmp_path / "sandbox", **limits) as sandbox,
        nodes(tmp_path, sandbox, database, {}, {}, {}, quota_hour_seconds=3.0) as services,
    ):
        jobs = [services[n].submit(urls(origin, 30, f"j{n}"), dedupe=False) for n in range(3)]
        assert all_landed(services[0], jobs)
        assert len([service for service in services if client_ids(service)]) == 1
        assert "429" not in sandbox.stats()["answers"]
        assert sandbox.stats()["requests"]["upload"] == 90


def test_all_nodes_upload_to_a_target_without_limits(
    tmp_path: Path, sandbox: RunningSandbox, database: str
) -> None:
    with nodes(tmp_path, sandbox, database, {}, {}) as services:
        for service in services:
            wait_for_ids(service, 1)
            wait_until(lambda: service.get("/readyz").json()["waiting_for"] is None)  # noqa: B023
        with psycopg.connect(database) as connection:
            held = connection.execute(
                "SELECT name FROM lease WHERE name LIKE '%client%' AND until > now()"
            )
            assert held.fetchall() == []


def test_a_limit_that_one_node_meets_is_known_to_all(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox, database: str
) -> None:
    with nodes(tmp_path, sandbox, database, {}, {}) as services:
        for service in services:
            wait_for_ids(service, 1)
        sandbox.fault("429", rate_headers=False)
        first, second = services
        job_id = first.submit(urls(origin, 1))
        wait_until(lambda: sorted([client_ids(first), client_ids(second)]) == [[], [1]])
        sentence = "A client id belongs to one node at a time, and this node has none"
        (idle,) = [service for service in services if not client_ids(service)]
        wait_until(lambda: sentence in closed_message(idle))
        # Its uploads could go on with the other node, so what that waits for is shown.
        wait_until(lambda: idle.get("/readyz").json()["waiting_for"] == "user")
        wait_until(lambda: idle.get("/v1/quota").json()["waiting_for"] == "user")

        def is_finished() -> bool:
            """True at last; the backoff after the 429, which may begin only now, is ended."""
            for service in services:
                target, loop = service.service.target, service.service.transfers.loop
                loop.call_soon_threadsafe(target.quotas.each[0].breakers["uploads"].close)
                loop.call_soon_threadsafe(target.reconsider)
            return bool(first.status(job_id)["finished"])

        wait_until(is_finished)
        assert all_landed(first, [job_id])


def test_client_ids_are_spread_over_the_addresses(
    tmp_path: Path, origin: Origin, database: str
) -> None:
    ids = {"client_ids": ("two", "three", "four")}
    with running_sandbox(tmp_path / "sandbox", **PLENTY) as sandbox:
        both = {"egress": "a"}, {"egress": "b"}
        with nodes(tmp_path, sandbox, database, *both, **ids) as (first, second):
            wait_until(lambda: len(client_ids(first)) == len(client_ids(second)) == 2)
            assert not {*client_ids(first)} & {*client_ids(second)}
            assert all_landed(first, [first.submit(urls(origin, 30), dedupe=False)])
        with nodes(tmp_path, sandbox, database, {"egress": "c"}, **ids) as (third,):
            wait_until(lambda: len(client_ids(third)) == 4)


def test_nodes_of_one_address_do_not_go_beyond_its_posts_together(
    tmp_path: Path, origin: Origin, database: str
) -> None:
    limits = {**PLENTY, "posts": 20, "hour_seconds": 3.0}
    both = {"egress": "a"}, {"egress": "a"}
    options = {"client_ids": ("two",), "quota_hour_seconds": 3.0}
    with (
        running_sandbox(tmp_path / "sandbox", **limits) as sandbox,
        nodes(tmp_path, sandbox, database, *both, **options) as (first, second),
    ):
        jobs = [first.submit(urls(origin, 15, name), dedupe=False) for name in "ab"]
        assert all_landed(second, jobs)
        assert "429" not in sandbox.stats()["answers"]


def test_a_node_that_stops_lets_its_client_id_go_at_once_with_what_is_left_of_its_budget(
    tmp_path: Path, origin: Origin, database: str
) -> None:
    with running_sandbox(tmp_path / "sandbox", **{**PLENTY, "user_credits": 100}) as sandbox:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(nodes(tmp_path, sandbox, database, {}, lease_seconds=LONG))
            assert all_landed(first[0], [first[0].submit(urls(origin, 5), dedupe=False)])
            others = tmp_path / "others"
            others.mkdir()
            second = nodes(others, sandbox, database, {}, lease_seconds=9.0)
            (service,) = contextlib.ExitStack.enter_context(outer := contextlib.ExitStack(), second)
            assert client_ids(service) == []
        with outer:
            wait_until(lambda: client_ids(service) == [1])
            user = service.service.target.quotas.each[0].user
            assert user.remaining == 100 - 50 - 1, "one credit for the question at the start"
            assert sandbox.stats()["requests"]["credits"] == 1, "and it is not asked again"


def test_a_node_whose_lease_may_have_run_out_sends_nothing(
    tmp_path: Path, origin: Origin, database: str
) -> None:
    with (
        running_sandbox(tmp_path / "sandbox", **PLENTY) as sandbox,
        nodes(tmp_path, sandbox, database, {}) as (service,),
    ):
        assert all_landed(service, [service.submit(urls(origin, 1))])
        with psycopg.connect(database) as connection:
            connection.execute("LOCK TABLE lease")
            wait_until(lambda: client_ids(service) == [])
            job_id = service.submit(urls(origin, 5, "late"), dedupe=False)
            wait_until(lambda: service.get("/readyz").json()["waiting_for"] == "lease")
            assert sandbox.stats()["requests"]["upload"] == 1
        assert all_landed(service, [job_id])


def test_what_was_in_flight_counts_as_spent_for_the_next_holder() -> None:
    found = {"UserLimit": 500, "UserRemaining": 100, "UserReset": 3_000}
    found |= {"ClientLimit": 12_500, "ClientRemaining": 5_000, "ClientReset": 80_000}
    first, second = Quotas().each[0], Quotas().each[0]
    first.learn(found, time.monotonic())
    first.try_reserve(UPLOAD)
    note = handover.note(first)
    assert handover.take_over(second, note, 10.0, same_address=True)
    assert (second.user.remaining, second.client.remaining) == (90, 4_990)
    assert second.user.resets_at == pytest.approx(time.monotonic() + 2_990, abs=5)
    is_known = handover.take_over(second, note, 10.0, same_address=False)
    assert not is_known, "Imgur has to be asked"
    assert second.client.remaining == 4_990


def test_the_kill_of_the_node_with_the_client_id_costs_no_answer_429(
    tmp_path: Path, origin: Origin, database: str
) -> None:
    limits = {**PLENTY, "user_credits": 405, "hour_seconds": 3.0}
    with contextlib.ExitStack() as stack:
        sandbox = stack.enter_context(running_sandbox(tmp_path / "sandbox", **limits))
        options = wired(sandbox, store=database, quota_hour_seconds=3.0, **SHORT)
        running = []
        for _ in range(2):
            running.append(LeasedNode(**options))
            stack.callback(running[-1].stop)
        service = Client(running[0].url)
        job_ids = [service.submit(urls(origin, 30, name), dedupe=False) for name in "ab"]
        sandbox.wait_for("upload", 25)
        with psycopg.connect(database) as connection:
            held = "SELECT worker FROM lease WHERE name LIKE '%client%'"
            (worker,) = connection.execute(held).fetchone() or ("",)
        (holder,) = [node for node in running if f"-{node.pid}-" in worker]
        holder.kill()
        (service,) = [Client(node.url) for node in running if node is not holder]
        assert all_landed(service, job_ids)
        assert "429" not in sandbox.stats()["answers"]
        records = [record for each in job_ids for record in service.records(each).values()]
        marked = [record for record in records if record["maybe_duplicate"]]
        assert len(sandbox.images()) <= 60 + len(marked)


def test_a_refresh_token_that_one_node_was_given_serves_the_others(
    tmp_path: Path, sandbox: RunningSandbox, database: str
) -> None:
    sandbox.settings(rotate_refresh_tokens=True)
    with nodes(tmp_path, sandbox, database, {}, {}, **account(sandbox)) as services:
        for service in services:
            wait_for_ids(service, 1)  # the first has asked for the limits then, with a token
        for service in [*services, *services]:
            target = service.service.target
            assert isinstance(target, Imgur)
            (client,) = target._clients.values()
            assert isinstance(client, ImgurAPI)
            client.auth.current_access_token = None  # as if it had run out
            assert client.make_request("GET", "account/me/images/0") == []
        assert sandbox.stats()["answers"].get("400") is None, "no old token was sent"


# Slices that wait


def test_slices_that_would_wait_for_long_hold_nothing(
    tmp_path: Path, origin: Origin, database: str
) -> None:
    with (
        running_sandbox(tmp_path / "sandbox", **{**PLENTY, "user_credits": 55}) as sandbox,
        nodes(tmp_path, sandbox, database, {}) as (service,),
    ):
        jobs = [service.submit(urls(origin, 20, name), dedupe=False) for name in "ab"]
        wait_until(lambda: [reason for reason, _ in slices(database)] == ["user", "user"])
        wait_until(lambda: is_idle(service))
        for job_id in jobs:
            records = service.records(job_id).values()
            assert {record["state"] for record in records} <= {"queued", "completed"}
        assert sum(len(service.status(each)["uploaded"]["completed"]) for each in jobs) == 5
        wait_until(lambda: service.get("/v1/quota").json()["waiting_for"] == "user")
        assert service.get("/v1/quota").json()["reason"] == MESSAGES["user"]
        assert all(3_000 < (seconds or 0) < 3_700 for _, seconds in slices(database))
        assert sandbox.stats()["requests"]["upload"] == 5


def test_slices_that_wait_go_on_when_the_gate_opens(
    tmp_path: Path, origin: Origin, database: str
) -> None:
    limits = {**PLENTY, "user_credits": 105, "hour_seconds": 2.0}
    with (
        running_sandbox(tmp_path / "sandbox", **limits) as sandbox,
        nodes(tmp_path, sandbox, database, {}, quota_hour_seconds=2.0) as (service,),
    ):
        job_id = service.submit(urls(origin, 25), dedupe=False)
        wait_until(lambda: slices(database)[0][0] == "user")
        assert all_landed(service, [job_id])
        records = service.records(job_id).values()
        assert not any(record["maybe_duplicate"] for record in records)
        assert sandbox.stats()["requests"]["upload"] == 25


def test_slices_that_wait_come_earlier_with_a_node_that_need_not_wait(
    tmp_path: Path, origin: Origin, database: str
) -> None:
    with (
        running_sandbox(tmp_path / "sandbox", **PLENTY) as sandbox,
        contextlib.ExitStack() as rest,
    ):
        with nodes(tmp_path, sandbox, database, {}, blocked_wait_seconds=LONG) as (first,):
            sandbox.fault("forbidden", match="upload", count=0)
            job_id = first.submit(urls(origin, 5), dedupe=False)
            wait_until(lambda: "block" in (dict(slices(database)).popitem()[0] or ""))
            wait_until(lambda: is_idle(first))
            sandbox.clear_faults()
        (second,) = rest.enter_context(nodes(tmp_path, sandbox, database, {}))
        assert all_landed(second, [job_id])


def test_an_outage_that_does_not_end_fails_images_of_slices_that_wait(
    tmp_path: Path, origin: Origin, database: str
) -> None:
    waits = {"blocked_wait_seconds": 0.4, "park_seconds": 0.2, "outage_seconds": 1.5}
    with (
        running_sandbox(tmp_path / "sandbox", **PLENTY) as sandbox,
        nodes(tmp_path, sandbox, database, {}, **waits) as (service,),
    ):
        sandbox.fault("forbidden", match="upload", count=0)
        job_id = service.submit(urls(origin, 5), dedupe=False)
        wait_until(lambda: any(reason for reason, _ in slices(database)))
        service.finish(job_id)
        assert {*codes(service, job_id)} == {"upload_blocked"}
