"""Tests of the sandbox's refusals: the month of a client id, and those of i.imgur.com."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from sandbox import Options
from sandbox.limits import Budgets, Caller, Limits
from sandbox.testing import RunningSandbox, running_sandbox
from tests.origin import IMAGES

ANON = {"Authorization": "Client-ID test"}
PNG = (IMAGES / "png-palette.png").read_bytes()
CALLER = Caller("192.0.2.1", "test")
DAY, MONTH = 86_400.0, 30 * 86_400.0


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with running_sandbox(tmp_path_factory.mktemp("sandbox"), unlimited=True) as running:
        yield running


def upload(sandbox: RunningSandbox) -> requests.Response:
    headers = {**ANON, "Content-Type": "image/png"}
    return requests.post(f"{sandbox.url}/3/image", data=PNG, headers=headers, timeout=60)


class Days:
    """A sandbox's limits over days, with 20 credits a day."""

    def __init__(self, **options: float) -> None:
        self.now = 0.0
        self.options = Options(client_credits=20, **options)  # type: ignore[arg-type]
        self.limits = Limits(lambda: self.now)

    def upload(self) -> Budgets:
        return self.limits.charge(CALLER, self.options, cost=10, post=True)

    def use_up_a_day(self) -> None:
        """Use up the credits of a day, and let the day pass."""
        assert not self.upload().refused
        assert not self.upload().refused
        assert self.upload().refused
        self.now += DAY


def test_the_fifth_day_that_is_used_up_blocks_a_client_id_for_the_month() -> None:
    days = Days()
    for _ in range(5):
        days.use_up_a_day()
    refused = days.upload()
    assert refused.refused
    assert refused.client.remaining == 0
    days.now = MONTH - 1
    assert days.upload().refused
    days.now = MONTH
    assert not days.upload().refused


def test_a_day_counts_when_its_last_credit_is_spent() -> None:
    days = Days(daily_hits=1)
    assert not days.upload().refused
    assert not days.upload().refused
    days.now = DAY
    assert days.upload().refused


def test_a_day_that_is_not_used_up_does_not_count() -> None:
    days = Days(daily_hits=1)
    for _ in range(9):
        assert not days.upload().refused
        days.now += DAY


def test_no_client_id_is_blocked_for_a_month_without_the_option() -> None:
    days = Days(daily_hits=0)
    for _ in range(7):
        days.use_up_a_day()
    assert not days.upload().refused


def test_a_blocked_client_id_gets_the_429_of_the_daily_limit(tmp_path: Path) -> None:
    options = {"client_credits": 10, "daily_hits": 1, "limit_shape": 1}
    with running_sandbox(tmp_path, **options) as running:
        assert upload(running).status_code == 200
        running.settings(client_credits=1_000)
        refusal = upload(running)
        assert refusal.status_code == 429
        assert refusal.json()["data"]["error"] == "Daily client requests exceeded"
        assert refusal.headers["X-RateLimit-ClientRemaining"] == "0"
        other = {"Authorization": "Client-ID other"}
        assert requests.get(f"{running.url}/3/credits", headers=other, timeout=60).ok


def test_a_data_centre_gets_429_for_every_image_whatever_it_sends(sandbox: RunningSandbox) -> None:
    link = upload(sandbox).json()["data"]["link"]
    sandbox.settings(data_centre=True)
    try:
        answers = [
            requests.get(url, headers={"User-Agent": agent}, timeout=60)
            for url in (link, f"{sandbox.url}/abcdefg.jpg", f"{sandbox.url}/removed.png")
            for agent in ("Mozilla/5.0", "curl/8.0")
        ]
        assert upload(sandbox).status_code == 200, "the API is another host"
    finally:
        sandbox.settings(data_centre=False)
    assert {(answer.status_code, answer.content) for answer in answers} == {(429, b"")}
    assert requests.get(link, timeout=60).content == PNG


@pytest.mark.parametrize(
    ("referer", "status"),
    [
        ("http://127.0.0.1:3000/page", 403),
        ("http://127.0.0.1/", 403),
        ("http://localhost:3000/", 200),
        ("https://blog.example/127.0.0.1", 200),
        ("http://[bad", 200),
    ],
)
def test_a_page_of_127_0_0_1_is_shown_no_image(
    sandbox: RunningSandbox, referer: str, status: int
) -> None:
    link = upload(sandbox).json()["data"]["link"]
    answer = requests.get(link, headers={"Referer": referer}, timeout=60)
    assert (answer.status_code, answer.content) == (status, PNG if status == 200 else b"")
