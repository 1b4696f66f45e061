"""Tests of Imgur's limits: backlogs larger than budgets, refusals, outages, lost responses."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from imageload.targets.imgur.uploader import Imgur
from sandbox.testing import RunningSandbox, running_sandbox
from tests.imgur_server import Received, imgur_server, landed, rejected, response
from tests.jobs import all_landed, codes, distinct, urls
from tests.origin import IMAGES, Origin
from tests.service import RunningService, running_service, wired
from tests.waiting import PATIENCE, wait_until

PNG = "png-rgb.png"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


# Budgets


@pytest.mark.parametrize(
    ("budget", "limits"),
    [
        ("user", {"user_credits": 60, "hour_seconds": 1.5}),
        ("user", {"user_credits": 60, "hour_seconds": 1.5, "reset": "none"}),
        ("client", {"client_credits": 60, "day_seconds": 1.5}),
        ("posts", {"posts": 6, "hour_seconds": 1.5}),
    ],
)
def test_a_backlog_larger_than_a_budget_is_uploaded(
    tmp_path: Path, origin: Origin, budget: str, limits: dict[str, Any]
) -> None:
    plenty = {"user_credits": 100_000, "client_credits": 100_000, "posts": 100_000}
    lengths = {"quota_hour_seconds": 1.5, "quota_day_seconds": 1.5}
    begun = time.monotonic()
    with (
        running_sandbox(tmp_path / "sandbox", **{**plenty, **limits}) as sandbox,
        running_service(tmp_path / "temp", **wired(sandbox, **lengths)) as service,
    ):
        jobs = [service.submit(urls(origin, 5, name), dedupe=False) for name in "abc"]
        quotas: list[dict[str, Any]] = []

        def is_waiting() -> bool:
            quotas.append(service.get("/v1/quota").json())
            return bool(quotas[-1]["waiting_for"] == budget and quotas[-1]["parked"] > 0)

        wait_until(is_waiting)
        quota = quotas[-1]
        assert quota["waiting_until"] <= quota["done_at"]
        (empty,) = [each for each in quota["budgets"] if each["budget"] == budget]
        assert empty["remaining"] < 10 if budget != "posts" else empty["remaining"] == 0
        assert empty["resets_at"] is not None
        assert all_landed(service, jobs)
        windows = 1 + (time.monotonic() - begun) // 1.5
        assert sandbox.stats()["answers"].get("429", 0) <= windows, "at most one in a window"
        for job_id in jobs:
            assert {each["attempts"] for each in service.records(job_id).values()} == {1}
        assert service.temp_files == []


def test_a_job_that_waits_for_a_budget_shows_its_name_and_the_end_of_the_wait(
    tmp_path: Path, origin: Origin
) -> None:
    with (
        running_sandbox(tmp_path / "sandbox", user_credits=35) as sandbox,
        running_service(tmp_path / "temp", **wired(sandbox)) as service,
    ):
        job_id = service.submit(urls(origin, 10), dedupe=False)
        images = f"/v1/images/upload/{job_id}/images"
        wait_until(lambda: service.get(images).json()["waiting_for"] == "user")
        wait_until(lambda: service.get("/v1/quota").json()["parked"] == 7)
        (listed,) = service.get("/v1/images/upload").json()["jobs"]
        assert listed["waiting_for"] == "user"
        assert listed["waiting_until"] == service.get(images).json()["waiting_until"]
        assert listed["waiting_until"].endswith("Z")
        assert (listed["status"], listed["counts"]["completed"]) == ("in-progress", 3)
        status = service.status(job_id)
        assert set(status) == {"job_id", "created", "finished", "status", "uploaded"}
        done_at = service.get("/v1/quota").json()["done_at"]
        assert done_at > listed["waiting_until"], "two hours more"
        assert sandbox.stats()["requests"]["upload"] == 3, "nothing was asked in vain"


def test_a_429_without_any_hint_parks_and_is_no_attempt(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    for shape in (1, 2, 3, 4):
        sandbox.fault("429", shape=shape, rate_headers=False, after=shape)
    with running_service(tmp_path / "temp", **wired(sandbox, quota_wait_seconds=0.1)) as service:
        job_id = service.submit(urls(origin, 30), dedupe=False)
        assert all_landed(service, [job_id])
        assert {each["attempts"] for each in service.records(job_id).values()} == {1}
    assert sandbox.stats()["answers"]["429"] == 4
    assert sandbox.stats()["requests"]["upload"] == 34


def test_an_image_that_was_refused_and_waits_is_no_duplicate_after_a_crash(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.fault("429", rate_headers=False, count=0)
    options = wired(sandbox, store=str(tmp_path / "journal"))
    with running_service(tmp_path / "temp", **options) as service:
        job_id = service.submit(urls(origin, 3), dedupe=False)
        wait_until(lambda: service.get("/v1/quota").json()["parked"] == 3)
        job = service.service.image_load.job_list_s[job_id]
        wait_until(lambda: not any(job.image(n).uploading for n in range(3)))
        assert sandbox.stats()["faults_met"]["429"] >= 1


def test_the_client_id_with_room_uploads(tmp_path: Path, origin: Origin) -> None:
    with (
        running_sandbox(tmp_path / "sandbox", user_credits=101) as sandbox,
        running_service(
            tmp_path / "temp", **wired(sandbox, client_ids=("two", "three=50/1000"))
        ) as service,
    ):
        job_id = service.submit(urls(origin, 30), dedupe=False)
        assert all_landed(service, [job_id])
        budgets = service.get("/v1/quota").json()["budgets"]
        user = {each["client"]: each["remaining"] for each in budgets if each["budget"] == "user"}
        assert user == {1: 0, 2: 0, 3: 0}
        assert "429" not in sandbox.stats()["answers"]
        assert "two" not in service.get("/v1/quota").text


def test_while_uploads_wait_downloads_run_ahead_as_far_as_the_disk_may_be_used(
    tmp_path: Path, origin: Origin
) -> None:
    size = (IMAGES / PNG).stat().st_size
    disk = {"downloads": 2, "max_bytes": 2 * size, "temp_bytes": 44 * size, "job_window": 4}
    with (
        running_sandbox(tmp_path / "sandbox", user_credits=35) as sandbox,
        running_service(tmp_path / "temp", **wired(sandbox, **disk)) as service,
    ):
        job_id = service.submit(urls(origin, 100), dedupe=False)
        # A lone job has half of the bytes besides the two downloads in flight: 40 / 2.
        wait_until(lambda: service.get("/v1/quota").json()["parked"] >= 20)
        other = service.submit(urls(origin, 1, "other"), dedupe=False)
        wait_until(
            lambda: service.records(other)[urls(origin, 1, "other")[0]]["state"] == "downloaded"
        )
        assert service.get("/v1/quota").json()["parked"] <= 23
        assert sum(path.stat().st_size for path in service.temp_dir.iterdir()) <= 44 * size
        assert service.get("/v1/images/upload?limit=1").json()["jobs"][0]["job_id"] == other
        assert service.status(job_id)["status"] == "in-progress"


# Refusals and outages


def test_a_temporary_block_loses_no_image_and_gets_few_requests(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    with running_service(tmp_path / "temp", **wired(sandbox, blocked_wait_seconds=0.2)) as service:
        assert all_landed(service, [service.submit(urls(origin, 1, "first"))])
        sandbox.fault("forbidden", count=0)
        job_id = service.submit(urls(origin, 60), dedupe=False)
        wait_until(lambda: "forbidden" in (service.get("/v1/quota").json()["reason"] or ""))
        wait_until(lambda: sandbox.stats()["faults_met"].get("forbidden", 0) > 3)
        sandbox.clear_faults()
        assert all_landed(service, [job_id])
        assert {each["attempts"] for each in service.records(job_id).values()} == {1}
    # All that were in flight at once, and one for each wait.
    assert sandbox.stats()["faults_met"]["forbidden"] <= 40


def test_a_temporary_outage_loses_no_image(tmp_path: Path, origin: Origin) -> None:
    with running_sandbox(tmp_path / "sandbox", unlimited=True) as sandbox:
        port, base = sandbox.port, sandbox.url
        with running_service(tmp_path / "temp", **wired(sandbox)) as service:
            job_ids = [service.submit(urls(origin, 400), dedupe=False)]
            sandbox.wait_for("upload", 50)
            sandbox.stop()
            wait_until(lambda: service.get("/v1/quota").json()["waiting_for"] == "unavailable")
            job_ids.append(service.submit(urls(origin, 1, "one"), dedupe=False))
            with running_sandbox(tmp_path / "sandbox", unlimited=True, port=port) as again:
                assert again.url == base
                assert all_landed(service, job_ids)
                records = service.records(job_ids[0]).values()
                sure = [each for each in records if not each["maybe_duplicate"]]
                kept = [image["id"] for image in again.images()]
                assert len(kept) <= 401 + len(records) - len(sure)
                assert {each["link"].rpartition("/")[2][:7] for each in records} <= set(kept)


def test_an_outage_that_does_not_end_fails_images_with_its_reason(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.fault("forbidden", count=0)
    rest = {"blocked_wait_seconds": 0.05, "outage_seconds": 1.0}
    with running_service(tmp_path / "temp", **wired(sandbox, **rest)) as service:
        job_id = service.submit(urls(origin, 50), dedupe=False)
        service.finish(job_id)
        codes = {each["error"]["code"] for each in service.records(job_id).values()}
        assert codes == {"upload_blocked"}
        assert service.temp_files == []
        sandbox.clear_faults()
        wait_until(lambda: service.get("/v1/quota").json()["waiting_for"] is None)
        retried = service.session.post(
            f"{service.url}/v1/images/upload/{job_id}/retry?only=transient", timeout=PATIENCE
        )
        assert retried.json()["requeued"] == 50
        assert all_landed(service, [job_id])


def test_the_wait_for_a_budget_is_no_outage_however_long(tmp_path: Path, origin: Origin) -> None:
    limits = {"user_credits": 60, "hour_seconds": 2.5}
    wait = {"quota_hour_seconds": 2.5, "outage_seconds": 0.5, "blocked_wait_seconds": 0.05}
    with (
        running_sandbox(tmp_path / "sandbox", **limits) as sandbox,
        running_service(tmp_path / "temp", **wired(sandbox, **wait)) as service,
    ):
        job_id = service.submit(urls(origin, 13), dedupe=False)
        wait_until(lambda: service.get("/v1/quota").json()["waiting_for"] == "user")
        begun, began_work = time.monotonic(), time.process_time()
        threading.Event().wait(1.0)  # most of the hour, and nothing is to be done
        work = time.process_time() - began_work
        assert work < 0.5 * (time.monotonic() - begun), "nobody spins"
        wait_until(lambda: len(service.status(job_id)["uploaded"]["completed"]) > 6)
        sandbox.fault("forbidden", count=2)
        assert all_landed(service, [job_id])


def test_wrong_credentials_defer_all_uploads_until_they_are_corrected(
    tmp_path: Path, origin: Origin
) -> None:
    with (
        running_sandbox(tmp_path / "sandbox", unlimited=True, client_ids="another") as sandbox,
        running_service(tmp_path / "temp", **wired(sandbox, quota_wait_seconds=0.1)) as service,
    ):
        wait_until(lambda: service.get("/readyz").status_code == 503)
        answer = service.get("/readyz").json()
        assert (answer["status"], answer["waiting_for"]) == ("not ready", "credentials")
        assert service.get("/healthz").status_code == 200
        job_id = service.submit(urls(origin, 40), dedupe=False)
        wait_until(lambda: service.get("/v1/quota").json()["parked"] == 40)
        assert sandbox.stats()["requests"].get("upload", 0) == 0
        sandbox.settings(client_ids="test")
        assert all_landed(service, [job_id])
        assert service.get("/readyz").json()["status"] == "ready"


# Refusals of one endpoint

REFUSALS = [
    {"status": 403, "shape": 1},
    {"status": 429, "shape": 3, "rate_headers": False},
    {"status": 417, "message": "Internal expectation failed"},
    {"status": 500, "message": "Internal Server Error"},
    {"status": 503, "edge": True},
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal["status"])
def test_uploads_go_on_while_imgur_refuses_albums(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox, refusal: dict[str, Any]
) -> None:
    sandbox.fault(match="album", count=0, **refusal)
    waits = {"outage_seconds": 0.5, "blocked_wait_seconds": 0.1, "quota_wait_seconds": 0.1}
    with running_service(tmp_path / "temp", **wired(sandbox, **waits)) as service:
        for each in range(3):
            answer = service.post(json={"urls": urls(origin, 2, f"a{each}"), "album": "Birds"})
            (job_id,) = answer.json()["jobId"]
            sandbox.wait_for("album", each + 1)
            plain = service.submit(urls(origin, 5, f"plain{each}"), dedupe=False)
            assert all_landed(service, [plain, job_id])
            (job,) = [
                job
                for job in service.get("/v1/images/upload").json()["jobs"]
                if job["job_id"] == job_id
            ]
            assert job["album"]["error"]["code"] in (
                "upload_blocked",
                "rate_limited",
                "upload_error",
            )
        assert service.get("/readyz").json()["waiting_for"] is None


def test_a_job_whose_album_waits_says_so(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.fault(match="album", status=403, count=0)
    with running_service(tmp_path / "temp", **wired(sandbox, blocked_wait_seconds=0.5)) as service:
        answer = service.post(json={"urls": urls(origin, 1), "album": "Birds"})
        (job_id,) = answer.json()["jobId"]

        def waits_for() -> object:
            return service.get("/v1/images/upload").json()["jobs"][0]["waiting_for"]

        wait_until(lambda: waits_for() == "blocked")
        assert service.get("/v1/quota").json()["waiting_for"] is None, "uploads do not wait"
        sandbox.clear_faults()
        service.finish(job_id)
        assert waits_for() is None


@pytest.mark.parametrize(
    ("fields", "reason", "sentence"),
    [
        ({"match": "upload", "status": 403}, "blocked_id", "Imgur refuses this client id."),
        ({"match": "any", "status": 403}, "blocked_id", "Imgur refuses this client id."),
        ({"match": "any", "status": 403, "edge": True}, "blocked_address", "this address."),
        ({"fault": "forbidden", "match": "any"}, "blocked_address", "this address."),
    ],
)
def test_a_block_says_if_it_concerns_the_client_id_or_the_address(
    tmp_path: Path,
    origin: Origin,
    sandbox: RunningSandbox,
    fields: dict[str, Any],
    reason: str,
    sentence: str,
) -> None:
    sandbox.settings(unlimited=False)  # that limits are named tells the API from its edge
    with running_service(tmp_path / "temp", **wired(sandbox, blocked_wait_seconds=0.3)) as service:
        assert all_landed(service, [service.submit(urls(origin, 1, "first"))])
        asked = sandbox.stats()["requests"]["credits"]
        fields = dict(fields)
        sandbox.fault(fields.pop("fault", "answer"), count=0, **fields)
        job_id = service.submit(urls(origin, 5), dedupe=False)
        jobs = "/v1/images/upload"

        def is_said() -> bool:
            ready = service.get("/readyz").json()
            return ready["waiting_for"] == reason and sentence in ready["reason"]

        wait_until(is_said)
        wait_until(lambda: service.get(jobs).json()["jobs"][0]["waiting_for"] == reason)
        refused = sandbox.stats()["requests"]["upload"]
        sandbox.wait_for("upload", refused + 1)
        wait_until(is_said)
        assert sandbox.stats()["requests"]["credits"] == asked + 1, "it is asked once"
        sandbox.clear_faults()
        assert all_landed(service, [job_id])


def test_a_client_id_that_is_refused_after_a_block_is_asked_about_until_it_is_accepted(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    waits = {"blocked_wait_seconds": 0.2, "quota_wait_seconds": 0.2}
    with running_service(tmp_path / "temp", **wired(sandbox, **waits)) as service:
        assert all_landed(service, [service.submit(urls(origin, 1, "first"))])
        sandbox.fault("over_capacity")
        sandbox.fault("invalid_client", match="credits", count=3)
        job_id = service.submit(urls(origin, 5), dedupe=False)
        wait_until(lambda: service.get("/readyz").json()["waiting_for"] == "credentials")
        assert all_landed(service, [job_id])


# Rejections of every image


def test_a_rejection_that_hits_every_image_is_waited_out(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.fault(match="upload", status=400, message="Something new.", count=0)
    with running_service(tmp_path / "temp", **wired(sandbox)) as service:
        job_id = service.submit(distinct(origin, 40), dedupe=False)
        wait_until(lambda: "Something new." in (service.get("/readyz").json()["reason"] or ""))
        sandbox.clear_faults()
        uploaded = service.finish(job_id)["uploaded"]
    assert len(uploaded["completed"]) == 38
    assert len(uploaded["failed"]) == 2, "those before the third"


def test_a_rejection_that_hits_every_image_for_too_long_fails_them_with_its_sentence(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.fault(match="upload", status=400, message="Something new.", count=0)
    with running_service(tmp_path / "temp", **wired(sandbox, outage_seconds=0.5)) as service:
        job_id = service.submit(distinct(origin, 40), dedupe=False)
        assert len(service.finish(job_id)["uploaded"]["failed"]) == 40
        errors = [each["error"] for each in service.records(job_id).values()]
        assert all("Something new." in error["message"] for error in errors)


def test_images_that_imgur_really_rejects_delay_no_other_job_for_long(
    tmp_path: Path, origin: Origin
) -> None:
    """In words that nobody knows. They end once others land, though most were not sent before."""
    numbers = itertools.count()

    def respond(request: Received) -> bytes:
        if b"bad" in request.body:
            return rejected("Something new.")
        return landed(imgur.url, f"a{next(numbers)}")

    with imgur_server(respond) as imgur:
        options = {"imgur_base_url": imgur.url, "imgur_link_base": imgur.url, "uploads": 1}
        with running_service(tmp_path / "temp", **options) as service:
            bad = service.submit(distinct(origin, 100, "bad"), dedupe=False)
            wait_until(lambda: service.get("/readyz").json()["waiting_for"] == "unavailable")
            good = service.submit(distinct(origin, 5, "good"), dedupe=False)
            assert all_landed(service, [good])
            assert len(service.finish(bad)["uploaded"]["failed"]) == 100
            assert set(codes(service, bad)) == {"upload_rejected"}
        assert imgur.uploads() < 120, "few were sent twice"


# Answers that are lost


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"42", b'"ok"', b'{"data":{"id":"aB3","li', b'{"data":"\xff\xfe"}', None],
)
def test_an_image_whose_response_is_no_object_is_sent_once_more_and_marked(
    tmp_path: Path, origin: Origin, body: bytes | None
) -> None:
    def respond(request: Received) -> bytes:
        if request.line != "POST /3/upload" or imgur.uploads() > 1:
            return landed(imgur.url, "aB3")
        return NO_CONTENT if body is None else response(body)

    with imgur_server(respond) as imgur:
        options = {"imgur_base_url": imgur.url, "imgur_link_base": imgur.url}
        with running_service(tmp_path / "temp", **options) as service:
            job_id = service.submit(urls(origin, 1))
            assert all_landed(service, [job_id])
            (record,) = service.records(job_id).values()
            assert (record["attempts"], record["maybe_duplicate"]) == (2, True)
            assert imgur.uploads() == 2
            imgur.respond = lambda _: response(b"null")
            job_id = service.submit(distinct(origin, 1), dedupe=False)
            assert codes_after(service, job_id) == ["upload_error"]
            assert imgur.uploads() == 4, "once more at most"


def codes_after(service: RunningService, job_id: str) -> list[str | None]:
    """The error codes of the job's images once it is finished."""
    service.finish(job_id)
    return codes(service, job_id)


def test_a_page_in_place_of_the_response_is_a_gateways_and_no_lost_response(
    tmp_path: Path, origin: Origin
) -> None:
    page = response(b"<html>Log in</html>", content_type="text/html; charset=utf-8")
    with imgur_server(lambda _: page) as imgur:
        options = {"imgur_base_url": imgur.url, "imgur_link_base": imgur.url}
        with running_service(tmp_path / "temp", **options) as service:
            job_id = service.submit(urls(origin, 1))
            wait_until(lambda: service.get("/readyz").json()["waiting_for"] == "unavailable")
            imgur.respond = lambda _: landed(imgur.url, "aB3")
            assert all_landed(service, [job_id])
            (record,) = service.records(job_id).values()
            assert not record["maybe_duplicate"]


def test_a_job_posted_after_an_outage_lands_though_the_outage_was_long(
    tmp_path: Path, origin: Origin
) -> None:
    """The next probe may be later than the job's own time would allow."""
    page = response(b"<html>Sorry</html>", content_type="text/html")
    with imgur_server(lambda _: page) as imgur:
        options = {"imgur_base_url": imgur.url, "imgur_link_base": imgur.url}
        with running_service(tmp_path / "t", outage_seconds=1.0, **options) as service:
            lost = service.submit(urls(origin, 2, "lost"), dedupe=False)
            assert set(codes_after(service, lost)) == {"upload_error"}
            imgur.respond = lambda _: landed(imgur.url, "aB3")
            late = service.submit(urls(origin, 5, "late"), dedupe=False)
            assert all_landed(service, [late])


@pytest.mark.parametrize("fault", ["reset_after_body", "504"])
def test_an_image_whose_response_was_lost_is_uploaded_again_and_marked(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox, fault: str
) -> None:
    sandbox.fault(fault, count=2)
    with running_service(tmp_path / "temp", **wired(sandbox)) as service:
        job_id = service.submit(urls(origin, 20), dedupe=False)
        assert all_landed(service, [job_id])
        marked = [each for each in service.records(job_id).values() if each["maybe_duplicate"]]
        assert [each["attempts"] for each in marked] == [2, 2]
        (listed,) = service.get("/v1/images/upload").json()["jobs"]
        assert listed["counts"]["maybe_duplicate"] == 2
    assert sandbox.stats()["requests"]["upload"] == 22


def test_an_image_whose_response_was_lost_is_not_uploaded_again_if_that_is_off(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.fault("reset_after_body", count=2)
    with running_service(tmp_path / "temp", **wired(sandbox, retry_lost=False)) as service:
        job_id = service.submit(urls(origin, 20), dedupe=False)
        assert len(service.finish(job_id)["uploaded"]["failed"]) == 2
        marked = [each for each in service.records(job_id).values() if each["maybe_duplicate"]]
        assert [(each["state"], each["attempts"]) for each in marked] == [("failed", 1)] * 2
        assert {each["error"]["code"] for each in marked} == {"upload_error"}
    assert sandbox.stats()["requests"]["upload"] == 20


def test_an_account_s_lost_upload_is_found_and_not_sent_again(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    account = {
        "imgur_anonymous": False,
        "imgur_client_secret": "secret",
        "imgur_refresh_token": sandbox.token(client_id="test")["refresh_token"],
    }
    sandbox.fault("reset_after_body", count=2)
    with running_service(tmp_path / "temp", **wired(sandbox, **account)) as service:
        job_id = service.submit(urls(origin, 20), dedupe=False)
        assert all_landed(service, [job_id])
        assert service.get("/v1/images/upload").json()["jobs"][0]["counts"]["maybe_duplicate"] == 2
    assert len(sandbox.images()) == 20
    assert {image["account"] for image in sandbox.images()} != {None}
    assert sandbox.stats()["requests"]["upload"] == 20
    assert sandbox.stats()["requests"]["account"] == 2


def test_ten_uploads_with_a_token_that_ran_out_cause_one_refresh(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.settings(token_seconds=1, rotate_refresh_tokens=True)
    account = {
        "imgur_anonymous": False,
        "imgur_client_secret": "secret",
        "imgur_refresh_token": sandbox.token(client_id="test")["refresh_token"],
    }
    with running_service(tmp_path / "temp", **wired(sandbox, **account)) as service:
        assert all_landed(service, [service.submit(urls(origin, 1, "first"))])
        refreshes = sandbox.stats()["requests"]["oauth"]
        threading.Event().wait(1.1)  # the token's lifetime; its end sends no event
        sandbox.settings(token_seconds=3_600)
        assert all_landed(service, [service.submit(urls(origin, 10), dedupe=False)])
        assert sandbox.stats()["requests"]["oauth"] == refreshes + 1


def with_account(sandbox: RunningSandbox) -> dict[str, Any]:
    """Options for a service that uploads to an account of `sandbox`."""
    return {
        "imgur_anonymous": False,
        "imgur_client_secret": "secret",
        "imgur_refresh_token": sandbox.token(client_id="test")["refresh_token"],
    }


def only_client(service: RunningService) -> Any:
    """The ImgurAPI of a service with one client id."""
    target = service.service.target
    assert isinstance(target, Imgur)
    (client,) = target._clients.values()
    return client


@pytest.mark.parametrize("fault", ["503", "reset_before_store", "forbidden"])
def test_without_an_access_token_uploads_wait_and_few_requests_for_one_are_sent(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox, fault: str
) -> None:
    options = {**with_account(sandbox), "blocked_wait_seconds": 0.2}
    with running_service(tmp_path / "temp", **wired(sandbox, **options)) as service:
        assert all_landed(service, [service.submit(urls(origin, 1, "first"))])
        only_client(service).auth.current_access_token = "run out"
        sandbox.fault(fault, match="oauth", count=0)
        job_id = service.submit(urls(origin, 20), dedupe=False)
        reasons = ("blocked", "blocked_address") if fault == "forbidden" else ("unavailable",)
        wait_until(lambda: service.get("/v1/quota").json()["waiting_for"] in reasons)
        wait_until(lambda: sum(sandbox.stats()["faults_met"].values()) >= 4)
        sandbox.clear_faults()
        assert all_landed(service, [job_id])
        records = service.records(job_id).values()
        assert max(each["attempts"] for each in records) <= 2
        assert not any(each["maybe_duplicate"] for each in records), "no upload was lost"
    assert sum(sandbox.stats()["faults_met"].values()) <= 6


def test_requests_for_a_first_access_token_back_off(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    options = with_account(sandbox)
    sandbox.fault("503", match="oauth", count=5)
    with running_service(tmp_path / "temp", **wired(sandbox, **options)) as service:
        job_id = service.submit(urls(origin, 40), dedupe=False)
        wait_until(lambda: service.get("/v1/quota").json()["waiting_for"] == "unavailable")
        assert all_landed(service, [job_id])
    assert sandbox.stats()["requests"]["oauth"] == 6


def test_a_refused_refresh_token_is_sent_once(
    tmp_path: Path, origin: Origin, sandbox: RunningSandbox
) -> None:
    options = with_account(sandbox)
    with running_service(tmp_path / "temp", **wired(sandbox, **options)) as service:
        assert all_landed(service, [service.submit(urls(origin, 1, "first"))])
        only_client(service).auth.current_access_token = "run out"
        sandbox.fault("answer", match="oauth", status=400, message="Invalid refresh token", count=0)
        service.submit(urls(origin, 40), dedupe=False)
        wait_until(lambda: service.get("/v1/quota").json()["parked"] == 40)
        assert service.get("/readyz").json()["waiting_for"] == "credentials"
        backoff = service.service.target.quotas.each[0].access.backoff
        assert backoff is not None
        assert backoff.blocked_until < time.monotonic() + 60, (
            "the first wait, and not one that doubled"
        )
        assert sandbox.stats()["faults_met"]["answer"] == 1
