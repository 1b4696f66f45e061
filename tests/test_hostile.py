"""Responses that are made to do harm: each ends with a code, and other images land."""

from __future__ import annotations

from pathlib import Path

from imageload.errors import image_error_codes
from sandbox.testing import RunningSandbox
from tests.hostile import hostile_pages
from tests.jobs import codes, retry
from tests.origin import Origin
from tests.origin_fuzz import KINDS, fuzz
from tests.service import running_service, wired


def test_hostile_responses_fail_with_a_code_each_and_a_job_beside_them_lands(
    sandbox: RunningSandbox, origin: Origin, tmp_path: Path
) -> None:
    origin.pages = hostile_pages(origin)
    options = wired(sandbox, per_host=64, download_seconds=2.0, max_tries=1)
    with running_service(tmp_path / "t", **options) as service:
        hostile = service.submit([origin.url + path for path in origin.pages])
        good = [f"{origin.image('png-rgb.png')}?{n}" for n in range(50)]
        beside = service.submit(good)
        # A busy machine is too slow for some of them, as their deadline is short.
        while service.finish(beside)["uploaded"]["failed"]:
            assert set(codes(service, beside)) <= {"timeout", None}
            assert retry(service, beside).status_code == 202
        assert len(service.status(beside)["uploaded"]["completed"]) == 50
        service.finish(hostile)
        for url, record in service.records(hostile).items():
            assert record["state"] == "failed", url
            assert record["error"]["code"] in image_error_codes() - {"internal_error"}, url
        assert service.temp_files == []


def test_a_random_response_ends_as_an_image_or_with_a_code(tmp_path: Path) -> None:
    found = fuzz(tmp_path, cases=300, seed=1)
    assert found.wrong == []
    assert found.ends["image"]
    assert len(found.ends) >= len(KINDS)


def test_jobs_of_an_origin_that_hangs_keep_no_other_job_from_starting(
    sandbox: RunningSandbox, origin: Origin, tmp_path: Path
) -> None:
    origin.page("/hang", origin.hang)
    options = wired(sandbox, max_active_jobs=3, per_host=1, download_seconds=3600)
    options["allow_origin"] = ("127.0.0.1", "localhost")
    with running_service(tmp_path / "t", **options) as service:
        for n in range(6):
            service.submit([f"{origin.url}/hang?{n}"])
        assert origin.hanging.acquire(timeout=20)
        good = origin.image("png-rgb.png").replace("127.0.0.1", "localhost")
        assert len(service.finish(service.submit([good]))["uploaded"]["completed"]) == 1
        assert origin.requests.total() == 2
