"""Tests of /metrics: right numbers, bounded labels, and the names in dashboards and documents."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from imageload.errors import image_error_codes
from sandbox.testing import RunningSandbox, running_sandbox
from tests.origin import Origin
from tests.postgres import fresh_database
from tests.service import RunningService, running_service
from tests.waiting import PATIENCE
from tests.wire import Wire

ROOT = Path(__file__).parent.parent
PATH = "/v1/images/upload"
PNG = "png-rgb.png"


class Scrape(dict[str, list[tuple[dict[str, str], float]]]):
    """The samples of a scrape by name."""

    def __init__(self, service: RunningService) -> None:
        super().__init__()
        answer = service.get("/metrics")
        assert answer.status_code == 200
        self.text = answer.text
        self.families: dict[str, str] = {}
        for family in text_string_to_metric_families(answer.text):
            self.families[family.name] = family.documentation
            for sample in family.samples:
                self.setdefault(sample.name, []).append((sample.labels, sample.value))

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of `name` that have these labels."""
        found = [value for own, value in self[name] if labels.items() <= own.items()]
        assert found, (name, labels)
        return sum(found)


def test_images_are_counted_by_their_end(service: RunningService, origin: Origin) -> None:
    good = [f"{origin.image(PNG)}?{number}" for number in range(3)]
    bad = [f"{origin.url}/gone", f"{origin.url}/gone?2", "ftp://no.example/"]
    job_id = service.submit([*good, *bad])
    status = service.finish(job_id)["uploaded"]
    scrape = Scrape(service)
    assert scrape.value("imageload_images_total", state="completed") == 3
    assert scrape.value("imageload_images_total", state="failed") == len(status["failed"]) == 3
    codes = [each["error"]["code"] for each in service.records(job_id).values() if each["error"]]
    for code in codes:
        counted = scrape.value("imageload_images_total", state="failed", code=code)
        assert counted == codes.count(code)
    # Three of the same bytes: one is uploaded, the others take its link.
    assert scrape.value("imageload_images_reused_total") == 2
    size = len(requests.get(good[0], timeout=PATIENCE).content)
    assert scrape.value("imageload_downloaded_bytes_total") == 3 * size
    assert scrape.value("imageload_uploaded_bytes_total") == size
    assert scrape.value("imageload_phase_seconds_count", phase="upload") == 1
    assert scrape.value("imageload_phase_seconds_count", phase="download") >= 5
    assert scrape.value("imageload_jobs", status="complete") == 1
    assert scrape.value("imageload_images_pending") == 0


def test_every_code_has_a_series_from_the_start(service: RunningService) -> None:
    """A rate needs a first value to begin from."""
    scrape = Scrape(service)
    for code in image_error_codes():
        assert scrape.value("imageload_images_total", state="failed", code=code) == 0


def test_a_second_try_is_counted_with_its_phase(
    service: RunningService, sandbox: RunningSandbox, origin: Origin
) -> None:
    sandbox.fault("answer", match="upload", status=500, count=2)
    service.finish(service.submit([origin.image(PNG)]))
    scrape = Scrape(service)
    assert scrape.value("imageload_retries_total", phase="upload") == 2
    assert scrape.value("imageload_retries_total", phase="download") == 0
    assert scrape.value("imageload_phase_seconds_count", phase="upload") == 3
    failed = sum(
        value
        for labels, value in scrape["imageload_imgur_requests_total"]
        if labels["code"] and value
    )
    assert failed == 2


def test_a_conversion_is_a_phase(service: RunningService, origin: Origin) -> None:
    service.finish(service.submit([origin.image("webp-lossy-vp8.webp")]))
    scrape = Scrape(service)
    assert scrape.value("imageload_phase_seconds_count", phase="convert") == 1
    assert scrape.value("imageload_phase_seconds_sum", phase="convert") > 0


def test_parked_images_and_the_reason_are_shown(tmp_path: Path, origin: Origin) -> None:
    with (
        running_sandbox(tmp_path / "s", user_credits=31) as sandbox,
        running_service(
            tmp_path / "t", imgur_base_url=sandbox.url, imgur_link_base=sandbox.url
        ) as service,
    ):
        urls = [f"{origin.image(PNG)}?{number}" for number in range(5)]
        job_id = str(service.post(json={"urls": urls, "dedupe": False}).json()["jobId"][0])
        while service.get("/v1/quota").json()["parked"] < 2:
            service.get(f"{PATH}/{job_id}", headers={"Prefer": "wait=1", "If-None-Match": "*"})
        scrape = Scrape(service)
        assert scrape.value("imageload_images_parked") == 2
        assert scrape.value("imageload_slots_waited_for", phase="upload") == 2
        assert scrape.value("imageload_images_pending", state="downloaded") == 2
        assert scrape.value("imageload_temp_files") >= 2
        assert scrape.value("imageload_temp_bytes") > 0
        assert scrape.value("imageload_jobs", status="in-progress") == 1
        assert 3000 < scrape.value("imageload_imgur_wait_seconds", reason="user") < 3601
        assert scrape.value("imageload_quota_limit", budget="user", client="1") == 31
        assert scrape.value("imageload_quota_remaining", budget="user", client="1") < 10


def test_the_journals_transactions_are_timed(tmp_path: Path) -> None:
    with running_service(tmp_path / "t", store=str(tmp_path / "journal")) as service:
        service.finish(service.submit(["ftp://no.example/"]))
        scrape = Scrape(service)
        assert scrape.value("imageload_journal_commit_seconds_count") >= 1
        assert scrape.value("imageload_journal_failing") == 0


# Requests


def test_labels_do_not_depend_on_requests(service: RunningService) -> None:
    def labels() -> set[str]:
        lines = Scrape(service).text.splitlines()
        return {line.rpartition(" ")[0] for line in lines if "http_request_seconds_count" in line}

    def ask(number: int) -> None:
        for path in (
            f"/wp-{number}.php",
            f"{PATH}/{number}",
            f"{PATH}/:{number}/images?a={number}",
        ):
            service.get(path)
        requests.request(f"BREW{number}", service.url + PATH, timeout=PATIENCE)

    labels()
    ask(1)
    before = labels()
    for number in range(2, 6):
        ask(number)
    assert labels() == before
    text = "\n".join(before)
    assert 'route="other"' in text
    assert 'method="other"' in text
    assert 'route="/v1/images/upload/{job_id}"' in text


def test_a_request_is_counted_with_its_answer(service: RunningService) -> None:
    service.get(f"{PATH}/none")
    service.post(data=b"{")
    with Wire(service.url) as wire:
        wire.send(b"POST /v1/images/upload HTTP/1.1\r\nHost: localhost\r\n")
        wire.send(b"Content-Length: 999999999\r\n\r\n")
        assert wire.answer().status == 413
    scrape = Scrape(service)
    name = "imageload_http_request_seconds_count"
    assert scrape.value(name, route=PATH + "/{job_id}", method="GET", status="505") == 1
    assert scrape.value(name, route=PATH, method="POST", status="400") == 1
    assert scrape.value(name, route=PATH, method="POST", status="413") == 1


def test_the_duration_excludes_a_preferred_wait(service: RunningService, origin: Origin) -> None:
    job_id = service.submit([origin.page("/hang", origin.hang)])
    assert origin.hanging.acquire(timeout=PATIENCE)
    first = service.get(f"{PATH}/{job_id}")
    wait = {"Prefer": "wait=2", "If-None-Match": first.headers["ETag"]}
    second = service.get(f"{PATH}/{job_id}", headers=wait)
    elapsed = (first.elapsed + second.elapsed).total_seconds()
    assert second.elapsed.total_seconds() > 1.5
    seconds = Scrape(service).value(
        "imageload_http_request_seconds_sum", route=PATH + "/{job_id}", method="GET"
    )
    assert seconds < elapsed - 1.9


def test_a_closed_connection_is_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running_service(tmp_path / "t", client_seconds=0.2) as service:
        with Wire(service.url) as wire:
            wire.send(b"GET / HTTP/1.1\r\n")
            assert wire.answer().status == 408
        assert Scrape(service).value("imageload_connections_cut_total", reason="too-slow") == 1
    assert "too-slow 1" in caplog.text


def test_a_scrape_may_be_open_metrics(service: RunningService) -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    answer = service.get("/metrics", headers={"Accept": accept})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert list(open_metrics(answer.text))  # type: ignore[no-untyped-call]
    plain = service.get("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain; version=")


def test_metrics_require_a_token_if_there_are_tokens(tmp_path: Path) -> None:
    with running_service(tmp_path / "t", api_token=("secret",)) as service:
        assert service.get("/metrics").status_code == 401
        allowed = service.get("/metrics", headers={"Authorization": "Bearer secret"})
        assert allowed.status_code == 200


# Names of metrics in other files


def names_of(service: RunningService) -> set[str]:
    """The names of all samples, and of families without a sample."""
    scrape = Scrape(service)
    families = set(re.findall(r"^# TYPE (\w+) ", scrape.text, re.MULTILINE))
    return {*scrape, *families}


def expressions(value: Any) -> list[str]:
    """All `expr` within."""
    if isinstance(value, dict):
        own = [value["expr"]] if isinstance(value.get("expr"), str) else []
        return own + [found for each in value.values() for found in expressions(each)]
    return (
        [found for each in value for found in expressions(each)] if isinstance(value, list) else []
    )


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningService]:
    """A node of a cluster, which has the metrics of one machine, and more."""
    with running_service(tmp_path / "node", store=fresh_database()) as running:
        yield running


def test_dashboard_alerts_and_documents_name_existing_metrics_only(node: RunningService) -> None:
    node.finish(node.submit(["ftp://no.example/"]))
    there = names_of(node)
    deploy = ROOT / "deploy"
    asked = " ".join(
        [
            *expressions(json.loads((deploy / "grafana-dashboard.json").read_text("utf-8"))),
            (deploy / "alerts.yml").read_text("utf-8"),
            (ROOT / "docs" / "operating.md").read_text("utf-8"),
        ]
    )
    named = set(re.findall(r"\b(?:imageload|process)_[a-z0-9_]+[a-z0-9]\b", asked))
    assert len(named) > 30
    assert named <= there | {"imageload_images"}


def test_alerts_name_existing_codes_and_reasons() -> None:
    text = (ROOT / "deploy" / "alerts.yml").read_text("utf-8")
    codes = set(re.findall(r'code="(\w+)"', text))
    assert codes
    assert codes <= image_error_codes()


def test_every_metric_is_documented(node: RunningService) -> None:
    text = (ROOT / "docs" / "operating.md").read_text("utf-8")
    families = set(re.findall(r"^# TYPE (imageload_\w+) ", Scrape(node).text, re.MULTILINE))
    assert {name for name in families if f"`{name}`" not in text} == set()
