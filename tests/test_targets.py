"""Tests that every target passes: Imgur, as the sandbox plays it, and a bucket, a real S3 server.

Tests of what only one of them does are in tests/test_uploads.py and tests/test_s3.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from imageload.errors import ImageError, UploadError
from imageload.image import Landed
from imageload.targets import UploadCancelled
from sandbox.testing import RunningSandbox
from tests.s3_server import S3Server
from tests.targets import (
    PICTURE,
    ImgurPlace,
    Running,
    S3Place,
    running_bucket,
    running_imgur,
    upload,
)
from tests.waiting import PATIENCE

ONE_SECOND = 1.0
LIES = [
    *(pytest.param("imgur", lie, id=f"imgur-{lie}") for lie in ImgurPlace.lies),
    *(pytest.param("s3", lie, id=f"s3-{lie}") for lie in S3Place.lies),
]


@pytest.fixture(params=["imgur", "s3"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which target it is."""
    return str(request.param)


@pytest.fixture
def seconds() -> float:
    """The deadline of a request."""
    return PATIENCE


@pytest.fixture
def running(request: pytest.FixtureRequest, kind: str, seconds: float) -> Iterator[Running]:
    """The target of the test."""
    if kind == "imgur":
        sandbox: RunningSandbox = request.getfixturevalue("sandbox")
        with running_imgur(sandbox, seconds) as imgur:
            yield imgur
    else:
        server: S3Server = request.getfixturevalue("s3")
        with running_bucket(server, seconds) as bucket:
            yield bucket


def test_the_link_of_an_image_gives_its_bytes(running: Running) -> None:
    landed = running.land()
    assert landed.link.startswith(running.target.link_base)
    assert requests.get(landed.link, timeout=PATIENCE).content.startswith(b"\x89PNG")


def test_an_image_that_lands_again_is_one_image_where_a_repeated_upload_is_harmless(
    running: Running,
) -> None:
    links = {running.land().link for _ in range(3)}
    assert len(links) == running.place.stored() == (1 if running.target.is_repeatable else 3)


def test_a_deleted_image_is_gone_and_may_be_deleted_again(running: Running) -> None:
    landed = running.land()
    for _ in range(2):
        running.run(running.target.delete("job", landed))
        assert running.place.stored() == 0
        shown = requests.get(landed.link, timeout=PATIENCE, allow_redirects=False)
        assert shown.status_code in (302, 404)


def test_an_image_of_another_target_is_not_deleted(running: Running) -> None:
    foreign = Landed("http://elsewhere.example/i/0.png")
    with pytest.raises(UploadError) as caught:
        running.run(running.target.delete("job", foreign))
    assert caught.value.code == "upload_rejected"


def test_a_throttled_upload_waits_and_lands(running: Running) -> None:
    running.place.throttle()
    running.place.throttle()
    running.land()
    assert running.place.stored() == 1
    assert running.target.gate.closed is None


def test_an_upload_waits_while_the_credentials_are_refused_and_lands_when_they_are_not(
    running: Running,
) -> None:
    running.place.refuse()
    reasons = _reasons(running)
    running.land()
    assert reasons[0] == "credentials"
    assert running.place.stored() == 1


def test_after_three_faults_in_a_row_uploads_wait_for_the_target(running: Running) -> None:
    for _ in range(3):
        running.place.fail()
    reasons = _reasons(running)

    async def land() -> list[Landed]:
        names = ("png-rgb.png", "png-palette.png", "png-rgba.png")
        return await asyncio.gather(*(_patient(running, PICTURE.with_name(n)) for n in names))

    assert len({landed.link for landed in running.run(land())}) == 3
    assert reasons[0] == "unavailable"


async def _patient(running: Running, path: Path) -> Landed:
    """Land as the pipeline does, which tries again after an error that is transient."""
    while True:
        try:
            return await running.target.land("job", upload(path))
        except ImageError as error:
            if not error.transient:
                raise


def _reasons(running: Running) -> list[str]:
    """What uploads wait for from now on, one after the other."""
    reasons: list[str] = []

    def note() -> None:
        closed = running.target.gate.closed
        if closed is not None:
            reasons.append(closed.reason)

    running.target.gate.watch(note)
    return reasons


def test_a_reset_after_the_body_is_an_error_that_another_try_ends(running: Running) -> None:
    running.place.reset()
    error = running.error()
    assert error.code == "upload_error"
    assert error.transient
    assert error.maybe_landed is not running.target.is_repeatable
    running.land()
    assert running.place.stored() == (1 if running.target.is_repeatable else 2)


@pytest.mark.parametrize("seconds", [ONE_SECOND])
def test_an_upload_without_a_response_ends_at_its_deadline(running: Running) -> None:
    running.place.hang()
    error = running.error()
    assert error.code == "upload_timeout"
    assert error.maybe_landed is not running.target.is_repeatable


@pytest.mark.parametrize(("kind", "lie"), LIES)
def test_a_200_that_does_not_prove_the_upload_is_a_failure(running: Running, lie: str) -> None:
    running.place.lie(lie)
    error = running.error()
    assert error.code == "upload_error"
    assert running.place.stored() == 0
    running.land()
    assert running.place.stored() == 1


def test_an_upload_is_cancelled_while_it_waits_for_its_response(
    running: Running,
) -> None:
    running.place.hang()

    async def cancel() -> BaseException | None:
        begun = asyncio.Event()
        upload_ = upload(on_send=lambda is_sent: begun.set() if is_sent else None)
        task = asyncio.create_task(running.target.land("job", upload_))
        await begun.wait()
        while not running.place.is_hanging():
            await asyncio.sleep(0.005)
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        return result if isinstance(result, BaseException) else None

    cancelled = running.run(cancel())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert not (running.target.is_repeatable and isinstance(cancelled, UploadCancelled))


def test_what_uploads_wait_for_is_said(running: Running) -> None:
    target = running.target
    assert (target.parked, target.gate.closed, target.trouble) == (0, None, None)
    assert target.pool.busy == 0
    assert target.seconds_for(1_000) >= 0
