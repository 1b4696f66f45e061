"""The API on two nodes that get requests in turn: some of its tests, and what only nodes do.

`--nodes=2` runs any other test of the API so: `pytest --nodes=2 tests/test_api.py`.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

import psycopg
import pytest

import tests.service
from imageload.cluster.lease import prefix_of
from imageload.service.target import target_name
from sandbox.testing import RunningSandbox, running_sandbox
from tests.events import Subscriber
from tests.origin import Origin
from tests.postgres import emptied_database
from tests.postgres_server import programs, running_postgres
from tests.service import RunningService, assert_problem, running_service, wired
from tests.test_albums import test_an_album_has_the_job_s_images_in_the_order_of_the_input
from tests.test_api import (
    test_completed_and_failed_are_in_the_order_of_the_input,
    test_every_link_of_every_job_is_listed_oldest_job_first,
)
from tests.test_events import (
    test_a_finished_jobs_stream_sends_every_event_and_closes,
    test_a_stream_cut_ten_times_in_mid_job_sends_every_event_once,
    test_subscribers_get_the_reason_and_the_end_of_a_wait_for_imgur,
    test_the_stream_of_all_jobs_sends_the_progress_of_each,
)
from tests.test_health import (
    test_a_dead_link_is_not_reused_for_the_same_bytes,
    test_images_whose_links_are_dead_land_again_with_new_links,
)
from tests.test_undo import test_a_purge_deletes_every_image_of_the_job_from_imgur
from tests.waiting import wait_until

__all__ = [
    "test_a_dead_link_is_not_reused_for_the_same_bytes",
    "test_a_finished_jobs_stream_sends_every_event_and_closes",
    "test_a_purge_deletes_every_image_of_the_job_from_imgur",
    "test_a_stream_cut_ten_times_in_mid_job_sends_every_event_once",
    "test_an_album_has_the_job_s_images_in_the_order_of_the_input",
    "test_completed_and_failed_are_in_the_order_of_the_input",
    "test_every_link_of_every_job_is_listed_oldest_job_first",
    "test_images_whose_links_are_dead_land_again_with_new_links",
    "test_subscribers_get_the_reason_and_the_end_of_a_wait_for_imgur",
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
        prefix = prefix_of(target_name(service.service._settings))
        with psycopg.connect(url, autocommit=True) as connection:
            for number, seconds in enumerate((300.0, 100.0)):
                note = json.dumps(["user", seconds, "Imgur's limit is used up."])
                connection.execute(_PRESENCE, (f"{prefix}worker/{number}", note))
            wait_until(lambda: service.get("/v1/quota").json()["waiting_for"] == "user")
            assert 'imageload_imgur_wait_seconds{reason="user"}' in service.get("/metrics").text
            connection.execute(_PRESENCE, (f"{prefix}worker/2", ""))  # it goes on
            wait_until(lambda: service.get("/v1/quota").json()["waiting_for"] is None)


def test_every_node_shows_the_limits_as_the_node_that_uploads_knows_them(
    origin: Origin, tmp_path: Path
) -> None:
    limits = {"user_credits": 55, "client_credits": 900, "posts": 700}
    with (
        running_sandbox(tmp_path / "sandbox", **limits) as sandbox,
        emptied_database() as url,
        contextlib.ExitStack() as nodes,
    ):
        api, worker = (
            nodes.enter_context(
                running_service(tmp_path / role, role=role, **wired(sandbox, store=url))
            )
            for role in ("api", "worker")
        )
        urls = [origin.image(name) for name in ("png-rgb.png", "gif-89a.gif", "jpeg-baseline.jpg")]
        urls += [f"{each}?{number}" for number in range(3) for each in urls]
        job_id = api.submit(urls, dedupe=False)
        wait_until(lambda: api.get("/v1/quota").json()["waiting_for"] == "user")
        wait_until(lambda: api.get("/v1/quota").json()["parked"] == 7)
        assert len(api.status(job_id)["uploaded"]["completed"]) == 5

        def limits_of(node: RunningService) -> list[tuple[str, int, int]]:
            budgets = node.get("/v1/quota").json()["budgets"]
            return [(each["budget"], each["limit"], each["remaining"]) for each in budgets]

        wait_until(lambda: limits_of(api) == limits_of(worker))
        quota, shown = api.get("/v1/quota").json(), limits_of(api)
        (user, client, posts) = shown
        assert user[:2] == ("user", 55)
        assert user[2] < 10, "not enough for an upload"
        assert client[:2] == ("client", 900)
        assert 840 < client[2] <= 850
        assert posts[0] == "posts"
        assert quota["pending"] == 7
        (job,) = api.get("/v1/images/upload?limit=1").json()["jobs"]
        assert job["waiting_for"] == "user"
        assert quota["done_at"] > quota["waiting_until"], "seven images need two hours more"
        metrics = api.get("/metrics").text
        assert 'imageload_quota_limit{budget="user",client="1"} 55.0' in metrics
        assert "imageload_images_parked 7.0" in metrics


def test_a_cancel_on_one_node_is_followed_by_the_other(service: RunningService) -> None:
    job_id = service.submit([f"http://127.0.0.1:1/{number}" for number in range(300)])
    begun = time.monotonic()
    answer = service.session.delete(f"{service.url}/v1/images/upload/{job_id}")
    assert answer.status_code == 202
    status = service.status(job_id)
    assert status["finished"] or time.monotonic() - begun > 2
    assert len(status["uploaded"]["failed"]) == 300 or not status["finished"]
