"""Albums, titles, accounts, and the map from the old URLs to the new links."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import requests

from sandbox.testing import RunningSandbox
from tests.jobs import all_landed, codes, delete, distinct, retry, urls
from tests.origin import Origin
from tests.service import RunningService, account, running_service, wired
from tests.waiting import PATIENCE, wait_until


def album_of(service: RunningService, job_id: str) -> dict[str, Any]:
    """The album as the images page has it."""
    album: dict[str, Any] = service.get(f"/v1/images/upload/{job_id}/images").json()["album"]
    return album


def images_in(service: RunningService, sandbox: RunningSandbox, job_id: str) -> list[str]:
    """The links of the images in the job's album, in its order, as Imgur shows them."""
    album_id = album_of(service, job_id)["link"].rpartition("/")[2]
    shown = service.session.get(
        f"{sandbox.url}/3/album/{album_id}/images",
        headers={"Authorization": "Client-ID test"},
        timeout=PATIENCE,
    )
    return [image["link"] for image in shown.json()["data"]]


def submit(service: RunningService, **body: Any) -> str:
    """The jobId of a job for `body`."""
    answered = service.post(json=body)
    assert answered.status_code == 202, answered.text
    (job_id,) = answered.json()["jobId"]
    return str(job_id)


# Albums


def test_an_album_has_the_job_s_images_in_the_order_of_the_input(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    pages = distinct(origin, 250)
    job_id = submit(service, urls=[*pages, origin.image("missing.png")], album="All the birds")
    completed = service.finish(job_id)["uploaded"]["completed"]
    assert len(completed) == 250
    assert album_of(service, job_id)["title"] == "All the birds"
    assert images_in(service, sandbox, job_id) == completed
    assert sandbox.stats()["requests"]["album"] == 4, "three to make it, and ours to look"
    (listed,) = service.get("/v1/images/upload").json()["jobs"]
    assert listed["album"] == album_of(service, job_id)


def test_images_of_a_retry_are_in_the_album_in_the_order_of_the_input(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.fault("file_type", after=1)
    job_id = submit(service, urls=distinct(origin, 5), album="Birds")
    service.finish(job_id)
    album = album_of(service, job_id)
    assert retry(service, job_id).json()["requeued"] == 1
    completed = service.finish(job_id)["uploaded"]["completed"]
    assert len(completed) == 5
    assert album_of(service, job_id) == album, "the same one"
    assert images_in(service, sandbox, job_id) == completed


def test_a_failed_album_has_a_reason_and_fails_no_image(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.fault("answer", match="album", status=400, message="No albums today.")
    job_id = submit(service, urls=distinct(origin, 3), album="Birds")
    assert len(service.finish(job_id)["uploaded"]["completed"]) == 3
    album = album_of(service, job_id)
    assert album["link"] is None
    assert album["error"]["code"] == "upload_rejected"
    assert "No albums today." in album["error"]["message"]
    assert retry(service, job_id).json()["requeued"] == 0
    completed = service.finish(job_id)["uploaded"]["completed"]
    assert images_in(service, sandbox, job_id) == completed, "a retry makes it"


@pytest.mark.parametrize("restarts", [False, True])
def test_an_album_that_a_purge_finds_half_filled_is_deleted(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox, restarts: bool
) -> None:
    options = wired(sandbox, store=str(tmp_path / "journal"))
    sandbox.fault("hang", match="/add")
    with running_service(tmp_path / "t", **options) as service:
        job_id = submit(service, urls=distinct(origin, 101), album="Birds")
        sandbox.wait_for("album", 2, seconds=30)
        album_id = album_of(service, job_id)["link"].rpartition("/")[2]
        if not restarts:
            delete(service, job_id, "?purge=true")
            service.finish(job_id)
    if restarts:
        with running_service(tmp_path / "u", **options) as service:
            service.finish(job_id)
            assert album_of(service, job_id)["link"].endswith(album_id), "it is the same one"
            delete(service, job_id, "?purge=true")
            service.finish(job_id)
    shown = requests.get(
        f"{sandbox.url}/3/album/{album_id}",
        headers={"Authorization": "Client-ID test"},
        timeout=10,
    )
    assert shown.status_code == 404
    assert sandbox.images() == []


def test_a_retry_recreates_a_deleted_album(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.fault("file_type")
    job_id = submit(service, urls=distinct(origin, 2), album="Birds")
    service.finish(job_id)
    sandbox.fault("answer", match="album", status=404, message="Unable to find an album")
    retry(service, job_id)
    completed = service.finish(job_id)["uploaded"]["completed"]
    assert len(completed) == 2
    assert images_in(service, sandbox, job_id) == completed


def test_an_album_whose_purge_failed_has_a_reason_and_can_be_purged_again(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    job_id = submit(service, urls=distinct(origin, 2), album="Birds")
    service.finish(job_id)
    sandbox.fault("answer", match="DELETE /3/album", status=400, message="No.")
    delete(service, job_id, "?purge=true")
    service.finish(job_id)
    assert album_of(service, job_id)["error"]["code"] == "upload_rejected"
    delete(service, job_id, "?purge=true")
    service.finish(job_id)
    assert album_of(service, job_id) == {"title": "Birds", "link": None, "error": None}


def test_an_album_waits_for_the_budget_as_the_images_do(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.settings(unlimited=False, user_credits=31, hour_seconds=1.5)
    with running_service(tmp_path / "t", **wired(sandbox, quota_hour_seconds=1.5)) as service:
        job_id = submit(service, urls=distinct(origin, 3), album="Birds")
        completed = service.finish(job_id)["uploaded"]["completed"]
        assert images_in(service, sandbox, job_id) == completed
    assert "429" not in sandbox.stats()["answers"]


def test_a_job_without_an_image_has_no_album(service: RunningService, origin: Origin) -> None:
    job_id = submit(service, urls=[origin.image("missing.png")], album="Birds")
    service.finish(job_id)
    assert album_of(service, job_id) == {"title": "Birds", "link": None, "error": None}


def test_a_cancelled_job_creates_no_album_and_a_purge_deletes_the_album(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    hanging = origin.page("/h", origin.hang)
    cancelled = submit(service, urls=[*distinct(origin, 2), hanging], album="Birds")
    wait_until(lambda: len(service.status(cancelled)["uploaded"]["completed"]) == 2)
    delete(service, cancelled)
    service.finish(cancelled)
    assert album_of(service, cancelled)["error"]["code"] == "cancelled"
    assert "album" not in sandbox.stats()["requests"]
    purged = submit(service, urls=distinct(origin, 2, "two"), album="Bees")
    service.finish(purged)
    album_id = album_of(service, purged)["link"].rpartition("/")[2]
    delete(service, purged, "?purge=true")
    service.finish(purged)
    assert album_of(service, purged) == {"title": "Bees", "link": None, "error": None}
    gone = service.session.get(
        f"{sandbox.url}/3/album/{album_id}",
        headers={"Authorization": "Client-ID test"},
        timeout=PATIENCE,
    )
    assert gone.status_code == 404


# Titles


def test_titles_and_descriptions_arrive_at_imgur(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    one, two = distinct(origin, 2)
    texts = {"title": 'A "bird"; ü\r\n--x', "description": "It\nsings."}
    job_id = submit(service, urls=[{"url": one, **texts}, two], title="For all")
    assert all_landed(service, [job_id])
    found = {(image["title"], image["description"]) for image in sandbox.images()}
    assert found == {('A "bird"; ü\n--x', "It\nsings."), ("For all", None)}
    record = service.records(job_id)[one]
    assert record["title"] == 'A "bird"; ü\n--x'


def test_the_same_bytes_with_another_title_are_uploaded_again(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    (page,) = distinct(origin, 1)
    for title in ("One", "Two", "One"):
        job_id = submit(service, urls=[page], title=title)
        assert all_landed(service, [job_id])
    assert sorted(image["title"] for image in sandbox.images()) == ["One", "Two"]
    assert service.records(job_id)[page]["reused"]


# Accounts


def test_uploads_are_anonymous_without_an_account(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    options = account(sandbox)
    anonymous = {**options, "imgur_anonymous": True}
    with running_service(tmp_path / "a", **wired(sandbox, **anonymous)) as service:
        assert all_landed(service, [service.submit(distinct(origin, 2))])
    assert {image["account"] for image in sandbox.images()} == {None}
    assert "oauth" not in sandbox.stats()["requests"]


def test_an_account_s_images_go_into_its_album_and_are_purged_with_it(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    with running_service(tmp_path / "a", **wired(sandbox, **account(sandbox))) as service:
        job_id = submit(service, urls=distinct(origin, 4), album="Mine")
        completed = service.finish(job_id)["uploaded"]["completed"]
        assert {image["account"] for image in sandbox.images()} != {None}
        assert images_in(service, sandbox, job_id) == completed
        delete(service, job_id, "?purge=true")
        service.finish(job_id)
        assert codes(service, job_id) == ["purged"] * 4
    assert sandbox.images() == []


@pytest.mark.parametrize("was_anonymous", [True, False])
def test_a_purge_deletes_images_uploaded_before_the_account_option_changed(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox, was_anonymous: bool
) -> None:
    options = wired(sandbox, **account(sandbox), store=str(tmp_path / "journal"))
    first = {**options, "imgur_anonymous": was_anonymous}
    with running_service(tmp_path / "a", **first) as service:
        job_id = submit(service, urls=distinct(origin, 4), album="Mine")
        service.finish(job_id)
    with running_service(
        tmp_path / "b", **{**options, "imgur_anonymous": not was_anonymous}
    ) as service:
        delete(service, job_id, "?purge=true")
        service.finish(job_id)
        assert codes(service, job_id) == ["purged"] * 4
        assert service.get("/readyz").json()["waiting_for"] is None
    assert sandbox.images() == []


def test_an_image_of_another_account_stays_and_delays_no_other_deletion(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    job_id = service.submit(distinct(origin, 3))
    service.finish(job_id)
    sandbox.fault("answer", match="DELETE", status=403, message="Unauthorized")
    delete(service, job_id, "?purge=true")
    assert len(service.finish(job_id)["uploaded"]["completed"]) == 1
    assert service.get("/readyz").json()["waiting_for"] is None
    assert all_landed(service, [service.submit(distinct(origin, 3, "more"))])


# The map


@pytest.mark.parametrize(
    ("query", "accept"), [("?format=csv", "*/*"), ("", "text/csv"), ("", "text/csv, */*;q=0.1")]
)
def test_the_map_has_every_url_with_its_link_as_csv(
    service: RunningService, origin: Origin, query: str, accept: str
) -> None:
    pages = [*urls(origin, 3), f'{origin.image("png-rgb.png")}?a="b",c']
    job_id = service.submit([*pages, origin.image("missing.png")], dedupe=False)
    completed = service.finish(job_id)["uploaded"]["completed"]
    answered = service.get(f"/v1/images/upload/{job_id}/map{query}", headers={"Accept": accept})
    assert answered.headers["Content-Type"].startswith("text/csv")
    assert f"{job_id}.csv" in answered.headers["Content-Disposition"]
    rows = list(csv.reader(io.StringIO(answered.text)))
    assert rows == [["url", "link"], *map(list, zip(pages, completed, strict=True))]


@pytest.mark.parametrize(
    ("query", "accept"),
    [("", "*/*"), ("?format=json", "text/csv"), ("", "application/json, text/csv;q=0.5")],
)
def test_the_map_has_every_url_with_its_link_as_json(
    service: RunningService, origin: Origin, query: str, accept: str
) -> None:
    pages = urls(origin, 3)
    job_id = service.submit([*pages, origin.image("missing.png")], dedupe=False)
    completed = service.finish(job_id)["uploaded"]["completed"]
    answered = service.get(f"/v1/images/upload/{job_id}/map{query}", headers={"Accept": accept})
    assert answered.json() == {
        "job_id": job_id,
        "map": dict(zip(pages, completed, strict=True)),
    }
    assert list(answered.json()["map"]) == pages
    assert service.get(f"/v1/images/upload/{job_id}/map?format=xml").status_code == 400
