"""Tests of targets.imgur.uploader, beside what tests/test_limits.py shows with all the rest."""

from __future__ import annotations

import json
import threading

import pytest

from imageload import errors
from imageload.job import Landed
from imageload.retry import RetryRule
from imageload.road import Upload
from imageload.targets.imgur.quota import Quota, Terms
from imageload.targets.imgur.uploader import Uploads
from imageload.transport.engine import Engine
from imageload.transport.transfer import Bounds, Transfer
from imgurapi import ImgurAPI
from tests.origin import IMAGES, Origin, Page, answer

SOON = 10.0  # seconds: past that nobody asks any more


def imgur(status: str, content: object, remaining: int) -> Page:
    """A page that answers as Imgur does, with so many credits left for a second more."""
    return answer(
        json.dumps(content).encode(),
        status,
        X_RateLimit_UserLimit="500",
        X_RateLimit_UserRemaining=str(remaining),
        X_RateLimit_UserReset="1",
    )


@pytest.mark.parametrize("left", [0, 500])
def test_wrong_credentials_are_asked_about_until_they_are_right_whatever_the_budgets(
    origin: Origin, left: int
) -> None:
    bounds = Bounds(
        connect_seconds=2, low_speed_bytes=1, low_speed_seconds=10, max_header_bytes=65_536
    )
    transfer, engine = Transfer(bounds, user_agent="tests"), Engine()
    quota = Quota(terms=Terms(unhinted_wait=0.1))
    link = f"{origin.url}/aB3.png"
    api = ImgurAPI(
        "id", transfer=transfer, base_url=origin.url, link_base=origin.url, meter=quota.meters[0]
    )
    retry = RetryRule(max_tries=1, seconds=0.1, cap_seconds=1.0)
    uploads = Uploads(engine, transfer, 4, apis=[api], quota=quota, retry=retry)
    wrong = {"data": {"error": "Invalid client_id"}, "success": False, "status": 403}
    origin.page("/3/upload", imgur("403 Forbidden", wrong, left))
    origin.page("/3/credits", imgur("200 OK", {"data": {}, "success": True}, 500))
    engine.start()
    try:
        assert isinstance(outcome(uploads), errors.Deferred)
        origin.page("/3/upload", imgur("200 OK", {"data": {"link": link}}, 490))
        assert outcome(uploads) == Landed(link)
        assert origin.requests["/3/credits"] == 1
    finally:
        engine.close(SOON)


def outcome(uploads: Uploads) -> object:
    """What an upload is told."""
    told: list[object] = []
    ended = threading.Event()

    def done(value: object) -> None:
        told.append(value)
        ended.set()

    uploads.start("job", Upload(path=str(IMAGES / "png-rgb.png"), name="image"), done)
    assert ended.wait(SOON), "it waits for ever"
    return told[0]
