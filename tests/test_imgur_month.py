"""Tests of a client id that Imgur may have blocked for the rest of the month, on the wire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandbox.testing import running_sandbox
from tests.imgur_server import ImgurServer, Received, imgur_server, rejected, response
from tests.jobs import all_landed, distinct, urls
from tests.origin import Origin
from tests.postgres import fresh_database
from tests.postgres_server import programs
from tests.service import RunningService, running_service, wired
from tests.waiting import wait_until

SENTENCE = (
    "Imgur's daily credits of this client id were used up on five days of the last month: "
    "the application may be blocked for the rest of the month."
)
DAYS = 5


def options(imgur: ImgurServer, **more: Any) -> dict[str, Any]:
    """Those of a service that uploads to `imgur`, whose days are short."""
    return {"imgur_base_url": imgur.url, "quota_day_seconds": 0.1, **more}


class UsedUp:
    """Says that the daily credits are used up: of short days, and at last of a long one."""

    def __init__(self) -> None:
        self.uploads = 0

    def __call__(self, request: Received) -> bytes:
        if request.line != "POST /3/upload":
            return rejected("Nothing here", 404)
        self.uploads += 1
        body = b'{"errors":[{"code":"429","detail":"Too Many Requests"}]}'
        left = {"X_RateLimit_ClientLimit": "12500", "X_RateLimit_ClientRemaining": "0"}
        if self.uploads >= DAYS:
            left["X_RateLimit_ClientReset"] = "3600"
        return response(body, 429, **left)


def wait_until_blocked(service: RunningService) -> None:
    """Return when everything that tells why uploads wait tells of the month."""
    wait_until(lambda: service.get("/readyz").json()["waiting_for"] == "month")
    ready, quota = service.get("/readyz"), service.get("/v1/quota").json()
    assert ready.status_code == 200, "the id may be served next month, or by another node"
    assert (ready.json()["reason"], quota["reason"]) == (SENTENCE, SENTENCE)
    assert quota["waiting_for"] == "month"
    jobs = "/v1/images/upload"
    wait_until(lambda: service.get(jobs).json()["jobs"][0]["waiting_for"] == "month")


def test_the_fifth_day_without_credits_is_said_and_kept_over_a_restart(
    tmp_path: Path, origin: Origin
) -> None:
    answers = UsedUp()
    with imgur_server(answers) as imgur:
        stored = options(imgur, store=str(tmp_path / "journal"))
        with running_service(tmp_path / "temp", **stored) as service:
            service.submit(urls(origin, 1))
            wait_until_blocked(service)
        with running_service(tmp_path / "temp", **stored) as service:
            wait_until_blocked(service)
    assert answers.uploads == DAYS


def test_the_daily_limit_is_not_hit_by_a_backlog_of_days(tmp_path: Path, origin: Origin) -> None:
    # A credit for the question at the start, and two uploads, would be all of a day's.
    limits = {"client_credits": 21, "day_seconds": 0.5, "daily_hits": 1}
    with (
        running_sandbox(tmp_path / "sandbox", **limits) as sandbox,
        running_service(tmp_path / "temp", **wired(sandbox, quota_day_seconds=0.5)) as service,
    ):
        assert all_landed(service, [service.submit(distinct(origin, 4))])
        assert "429" not in sandbox.stats()["answers"]


@pytest.mark.skipif(programs() is None, reason="needs PostgreSQL")
def test_the_next_node_of_a_client_id_knows_of_its_days(tmp_path: Path, origin: Origin) -> None:
    answers = UsedUp()
    with imgur_server(answers) as imgur:
        shared = options(imgur, store=fresh_database(), lease_seconds=3.0, park_seconds=10_000.0)
        with running_service(tmp_path / "temp", **shared) as service:
            service.submit(urls(origin, 1))
            wait_until_blocked(service)
        with running_service(tmp_path / "temp", **shared) as service:
            wait_until_blocked(service)
    assert answers.uploads == DAYS
