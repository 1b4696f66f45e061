"""The API on two nodes that get requests in turn: some of its tests, and what only nodes do.

`--nodes=2` runs any other test of the API so: `pytest --nodes=2 tests/test_api.py`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import psycopg
import pytest

import tests.service
from sandbox.testing import RunningSandbox
from tests.events import Subscriber
from tests.origin import Origin
from tests.postgres import emptied_database
from tests.postgres_server import programs, running_postgres
from tests.service import RunningService, assert_problem, running_service
from tests.test_albums import test_an_album_has_the_job_s_images_in_the_order_of_the_input
from tests.test_api import (
    test_completed_and_failed_are_in_the_order_of_the_input,
    test_every_link_of_every_job_is_listed_oldest_job_first,
)
from tests.test_events import (
    test_a_finished_jobs_stream_sends_every_event_and_closes,
    test_a_stream_cut_ten_times_in_mid_job_sends_every_event_once,
    test_the_stream_of_all_jobs_sends_the_progress_of_each,
)
from tests.test_undo import test_a_purge_deletes_every_image_of_the_job_from_imgur
from tests.waiting import wait_until

__all__ = [
    "test_a_finished_jobs_stream_sends_every_event_and_closes",
    "test_a_purge_deletes_every_image_of_the_job_from_imgur",
    "test_a_stream_cut_ten_times_in_mid_job_sends_every_event_once",
    "test_an_album_has_the_job_s_images_in_the_order_of_the_input",
    "test_completed_and_failed_are_in_the_order_of_the_input",
    "test_every_link_of_every_job_is_listed_oldest_job_first",
    "test_the_stream_of_all_jobs_sends_the_progress_of_each",
]

_PRESENCE = """
    INSERT INTO lease (name, worker, until, note, noted)
    VALUES (%s, 'w', now() + interval '1 hour', %s, now())"""


@pytest.fixture(autouse=True)
def nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run services as two nodes."""
    monkeypatch.setattr(tests.service, "nodes", 2)


def test_while_the_database_is_away_requests_get_503_at_once_and_the_first_after_it_is_served(
    origin: Origin, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    found = programs()
    assert found is not None
    with (
        running_postgres(found) as server,
        running_service(tmp_path / "t", store=server.url, imgur_base_url=sandbox.url) as service,
    ):
        hanging = origin.page("/hang", origin.hang)
        job_id = service.submit(["foo", hanging])
        stream = Subscriber(f"{service.url}/v1/images/upload/{job_id}/events")
        events = stream.events()
        assert next(event for event in events if event.name == "image").data["url"] == "foo"
        server.stop()
        for answer in service.get(f"/v1/images/upload/{job_id}"), service.post(json=["foo"]):
            assert_problem(answer, 503, "journal-unavailable")
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.elapsed.total_seconds() < 5
        wait_until(lambda: service.get("/readyz").status_code == 503)
        assert service.get("/readyz").json()["journal"], "the reason"
        server.start()
        wait_until(lambda: service.get("/readyz").status_code == 200)
        origin.released.set()
        with stream:  # as it was opened, before the outage
            ends = [event.data["url"] for event in events if event.name == "image"]
        assert ends == [hanging]
        assert service.status(job_id)["uploaded"]["failed"] == ["foo", hanging]


def test_an_api_node_shows_what_the_workers_wait_for(
    sandbox: RunningSandbox, tmp_path: Path
) -> None:
    with (
        emptied_database() as url,
        running_service(
            tmp_path / "t", store=url, role="api", imgur_base_url=sandbox.url
        ) as service,
    ):
        wait_until(lambda: "No worker" in (service.get("/readyz").json()["reason"] or ""))
        assert service.get("/readyz").status_code == 200
        with psycopg.connect(url, autocommit=True) as connection:
            for number, seconds in enumerate((300.0, 100.0)):
                note = json.dumps(["user", seconds, "Imgur's limit is used up."])
                connection.execute(_PRESENCE, (f"imgur/x/worker/{number}", note))
            wait_until(lambda: service.get("/v1/quota").json()["waiting_for"] == "user")
            assert 'imageload_imgur_wait_seconds{reason="user"}' in service.get("/metrics").text
            connection.execute(_PRESENCE, ("imgur/x/worker/2", ""))  # it goes on
            wait_until(lambda: service.get("/v1/quota").json()["waiting_for"] is None)


def test_a_cancel_on_one_node_is_followed_by_the_other(service: RunningService) -> None:
    job_id = service.submit([f"http://127.0.0.1:1/{number}" for number in range(300)])
    begun = time.monotonic()
    answer = service.session.delete(f"{service.url}/v1/images/upload/{job_id}")
    assert answer.status_code == 202
    status = service.status(job_id)
    assert status["finished"] or time.monotonic() - begun > 2
    assert len(status["uploaded"]["failed"]) == 300 or not status["finished"]
