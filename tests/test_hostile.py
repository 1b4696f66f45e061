"""Responses that are made to do harm: each ends with a code, and other images land."""

from __future__ import annotations

from pathlib import Path

from imageload.errors import image_error_codes
from sandbox.testing import RunningSandbox
from tests.fuzz import KINDS, fuzz
from tests.hostile import hostile_pages
from tests.origin import Origin
from tests.service import running_service, wired


def test_hostile_responses_fail_with_a_code_each_and_a_job_beside_them_lands(
    sandbox: RunningSandbox, origin: Origin, tmp_path: Path
) -> None:
    origin.pages = hostile_pages(origin)
    options = wired(sandbox, per_host=64, download_seconds=2.0, max_tries=1)
    with running_service(tmp_path / "t", **options) as service:
        hostile = service.submit([origin.url + path for path in origin.pages])
        good = [f"{origin.image('png-rgb.png')}?{n}" for n in range(50)]
        assert len(service.finish(service.submit(good))["uploaded"]["completed"]) == 50
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
