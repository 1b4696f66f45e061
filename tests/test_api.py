"""Tests of the HTTP contract over real sockets: version 1 line by line, and the errors."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sandbox.testing import RunningSandbox
from tests.origin import IMAGES, Origin
from tests.service import RunningService, assert_problem, running_service
from tests.waiting import PATIENCE

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_a_posted_list_is_accepted_with_its_location(
    service: RunningService, origin: Origin
) -> None:
    answer = service.post(json={"urls": [origin.image("png-rgb.png")]})
    assert answer.status_code == 202
    (job_id,) = answer.json()["jobId"]
    assert UUID4.fullmatch(job_id)
    assert answer.headers["Location"] == f"/v1/images/upload/{job_id}"
    service.finish(job_id)


def test_curls_form_type_is_read_as_json(service: RunningService, origin: Origin) -> None:
    body = f'["{origin.image("png-rgb.png")}"]'
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = service.post(data=body, headers=headers)
    assert answer.status_code == 202
    service.finish(answer.json()["jobId"][0])


def test_plain_text_is_one_job(service: RunningService, origin: Origin) -> None:
    names = ["png-rgb.png", "jpeg-baseline.jpg", "gif-89a.gif"]
    first, second, third = (origin.image(name) for name in names)
    answer = service.post(
        data=f"{first},{second}\r\n\n  {third}\n", headers={"Content-Type": "text/plain"}
    )
    (job_id,) = answer.json()["jobId"]
    status = service.finish(job_id)
    assert len(status["uploaded"]["completed"]) == 3
    assert list(service.records(job_id)) == [first, second, third]


def test_several_lists_are_several_jobs_in_order(service: RunningService, origin: Origin) -> None:
    lists = [[origin.image("png-rgb.png")], [origin.image("gif-89a.gif"), "foo"]]
    answer = service.post(json={"urls": lists})
    assert answer.status_code == 202
    assert "Location" not in answer.headers
    job_ids = answer.json()["jobId"]
    assert len(set(job_ids)) == 2
    for job_id, urls in zip(job_ids, lists, strict=True):
        service.finish(job_id)
        assert list(service.records(job_id)) == urls


@pytest.mark.imgur("asks the sandbox what it got")
def test_a_url_given_twice_is_uploaded_once(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    url = origin.image("png-rgb.png")
    job_id = service.submit([url, "", f"  {url} ", url, "   "])
    status = service.finish(job_id)
    assert len(status["uploaded"]["completed"]) == 1
    assert origin.requests["/images/png-rgb.png"] == 1
    assert len(sandbox.images()) == 1


def test_the_status_has_the_form_of_the_contract(service: RunningService, origin: Origin) -> None:
    hanging = origin.page("/hang", origin.hang)
    good, bad = origin.image("png-rgb.png"), origin.image("missing.png")
    job_id = service.submit([hanging, bad, good])
    assert origin.hanging.acquire(timeout=PATIENCE)
    while (status := service.status(job_id))["uploaded"]["completed"] == []:
        pass
    assert status["job_id"] == job_id
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", status["created"])
    assert status["finished"] is False
    assert status["status"] == "in-progress"
    assert set(status) == {"job_id", "created", "finished", "status", "uploaded"}
    assert set(status["uploaded"]) == {"pending", "completed", "failed"}
    assert {"status_code": None, "url": hanging, "temp_fn": None} in status["uploaded"]["pending"]
    origin.released.set()
    status = service.finish(job_id)
    assert status["status"] == "complete"
    assert status["uploaded"]["pending"] == []
    assert status["uploaded"]["failed"] == [hanging, bad]


@pytest.mark.imgur("has the sandbox hang")
def test_an_image_being_uploaded_is_pending_with_its_report(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    sandbox.fault("hang", count=1)
    job_id = service.submit([origin.image("png-rgb.png")])
    sandbox.wait_for("upload")
    (pending,) = service.status(job_id)["uploaded"]["pending"]
    assert pending["status_code"] == 200
    assert pending["url"] == origin.image("png-rgb.png")
    assert pending["temp_fn"].startswith(str(service.temp_dir))


def test_completed_and_failed_are_in_the_order_of_the_input(
    service: RunningService, origin: Origin
) -> None:
    names = sorted(p.name for p in IMAGES.glob("*.png") if "truncated" not in p.name)
    urls = [u for name in names for u in (origin.image(name), origin.image(f"no-{name}"))]
    job_id = service.submit(urls)
    status = service.finish(job_id)
    links = [r["link"] for r in service.records(job_id).values() if r["link"]]
    assert status["uploaded"]["completed"] == links
    assert len(links) == len(names)
    assert status["uploaded"]["failed"] == [origin.image(f"no-{name}") for name in names]


def test_the_jobid_may_be_in_the_query_or_after_a_colon(
    service: RunningService, origin: Origin
) -> None:
    job_id = service.submit([origin.image("png-rgb.png")])
    status = service.finish(job_id)
    assert service.get(f"/v1/images/upload/:{job_id}").json() == status
    assert service.get(f"/v1/images/upload?jobId={job_id}").json() == status
    assert service.get(f"/v1/images/upload?jobId=:{job_id}").json() == status
    assert service.get(f"/v1/images/upload/:{job_id}/images").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/upload/1ee96a77-fbfe-4444-93f7-9f9a594ec8c9",
        "/v1/images/upload/malformed",
        "/v1/images/upload/:",
        "/v1/images/upload/%00%ff",
        "/v1/images/upload?jobId=",
        "/v1/images/upload?jobId=1",
        "/v1/images/upload/malformed/images",
        "/v1/images/upload?after=malformed",
        "/v1/images?after=malformed:3",
    ],
)
def test_an_unknown_job_is_505(service: RunningService, path: str) -> None:
    assert_problem(service.get(path), 505, "unknown-job")


def test_an_unknown_job_is_404_with_the_option(sandbox: RunningSandbox, tmp_path: Any) -> None:
    with running_service(
        tmp_path / "t", imgur_base_url=sandbox.url, unknown_job_status=404
    ) as service:
        assert_problem(service.get("/v1/images/upload/malformed"), 404, "unknown-job")


def test_every_link_of_every_job_is_listed_oldest_job_first(
    service: RunningService, origin: Origin
) -> None:
    assert service.get("/v1/images").json() == {"uploaded": []}
    links = []
    for names in (["png-rgb.png", "gif-89a.gif"], ["jpeg-baseline.jpg", "missing.jpg"]):
        job_id = service.submit([origin.image(name) for name in names])
        links += service.finish(job_id)["uploaded"]["completed"]
    answer = service.get("/v1/images")
    assert answer.json() == {"uploaded": links}
    assert answer.headers["Content-Type"] == "application/json"
    assert len(links) == 3


def test_links_are_paged_on_request(service: RunningService, origin: Origin) -> None:
    names = ["png-rgb.png", "gif-89a.gif", "jpeg-baseline.jpg", "png-palette.png", "missing.png"]
    for chunk in (names[:2], names[2:]):
        service.finish(service.submit([origin.image(name) for name in chunk]))
    collected, path = [], "/v1/images?limit=3"
    while path:
        answer = service.get(path)
        collected.append(answer.json()["uploaded"])
        path = answer.links.get("next", {}).get("url", "")
    assert [len(page) for page in collected] == [3, 1]
    assert [link for page in collected for link in page] == service.get("/v1/images").json()[
        "uploaded"
    ]


@pytest.mark.parametrize(
    "query", ["limit=100001", "limit=00000000120000", "after=x", "after=x:y", f"after=x:{'9' * 20}"]
)
def test_a_malformed_page_of_links_is_refused(service: RunningService, query: str) -> None:
    assert_problem(service.get(f"/v1/images?{query}"), 400, "bad-request")


def test_a_page_of_links_after_an_unknown_job_is_refused(service: RunningService) -> None:
    assert_problem(service.get("/v1/images?after=x:1"), 505, "unknown-job")
    assert_problem(service.get("/v1/images?after=x:1&limit=2"), 505, "unknown-job")


def test_the_jobs_are_listed_newest_first_and_paged(
    service: RunningService, origin: Origin
) -> None:
    job_ids = [service.submit([origin.image("missing.png")]) for _ in range(5)]
    for job_id in job_ids:
        service.finish(job_id)
    found, path = [], "/v1/images/upload?limit=2"
    while path:
        answer = service.get(path)
        found += answer.json()["jobs"]
        path = answer.links.get("next", {}).get("url", "")
    assert [job["job_id"] for job in found] == job_ids[::-1]
    assert found[0]["counts"] == {
        "total": 1,
        "pending": 0,
        "completed": 0,
        "failed": 1,
        "maybe_duplicate": 0,
    }
    assert found[0]["status"] == "complete"


def test_every_image_has_a_record_of_its_result(service: RunningService, origin: Origin) -> None:
    good, bad = origin.image("jpeg-baseline.jpg"), origin.image("missing.jpg")
    job_id = service.submit([bad, good])
    service.finish(job_id)
    records = service.records(job_id)
    assert list(records) == [bad, good]
    assert records[bad]["state"] == "failed"
    assert records[bad]["error"]["code"] == "http_status"
    assert "404" in records[bad]["error"]["message"]
    assert records[bad]["status_code"] == 404
    assert records[good]["state"] == "completed"
    assert records[good]["error"] is None
    assert records[good]["type"] == "image/jpeg"
    assert (records[good]["width"], records[good]["height"]) == (128, 128)
    assert records[good]["bytes"] == (IMAGES / "jpeg-baseline.jpg").stat().st_size
    assert "deletehash" not in str(records)


def test_records_are_filtered_by_state_and_paged(service: RunningService, origin: Origin) -> None:
    urls = [origin.image("png-rgb.png" if i % 3 == 0 else f"no-{i}.png") for i in range(10)]
    job_id = service.submit(urls)
    service.finish(job_id)
    found, path = [], f"/v1/images/upload/{job_id}/images?state=failed&limit=4"
    while path:
        answer = service.get(path)
        found.append([record["url"] for record in answer.json()["images"]])
        path = answer.links.get("next", {}).get("url", "")
    assert [len(page) for page in found] == [4, 2]
    assert sum(found, []) == [url for url in urls if "no-" in url]  # noqa: RUF017
    for query in ("state=lost", "limit=0", "limit=x", "after=-1", "after=1e9", f"after={'9' * 30}"):
        answer = service.get(f"/v1/images/upload/{job_id}/images?{query}")
        assert_problem(answer, 400, "bad-request")
    behind = service.get(f"/v1/images/upload/{job_id}/images?after=99")
    assert (behind.status_code, behind.json()["images"]) == (200, [])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"5",
        b'"http://a"',
        b'{"urls": []}',
        b'{"urls": null}',
        b'{"urls": "http://a"}',
        b'{"urls": [" ", "", null]}',
        b'{"urls": [["http://a/"], []]}',
        b'{"urls": [["http://a/"], "http://b/"]}',
        b'["http://a/", 5]',
        b'["http://a/", {"x": 1}]',
        b'["http://a/", NaN]',
        b'["http://a/\xff"]',
        b'["http://a/\\ud800"]',
        b"[" * 100_000,
        b'["http://a/"',
    ],
)
def test_a_body_without_urls_makes_no_job(service: RunningService, body: bytes) -> None:
    assert_problem(service.post(data=body), 400, "bad-request")
    assert service.get("/v1/images/upload").json() == {"jobs": []}


def test_a_malformed_url_fails_alone(service: RunningService, origin: Origin) -> None:
    odd = ["ftp://a/b.jpg", "foo", "http://", "http://user:pw@a/", "http://10.1.2.3/a.png"]
    job_id = service.submit([*odd, origin.image("png-rgb.png")])
    status = service.finish(job_id)
    assert status["uploaded"]["failed"] == odd
    assert len(status["uploaded"]["completed"]) == 1
    codes = [
        record["error"] and record["error"]["code"] for record in service.records(job_id).values()
    ]
    assert codes == ["invalid_url"] * 4 + ["blocked_address", None]


def test_a_body_past_the_limit_is_refused_before_it_is_read(
    sandbox: RunningSandbox, tmp_path: Any
) -> None:
    with running_service(
        tmp_path / "t", imgur_base_url=sandbox.url, max_body_bytes=10_000, max_urls=5, max_lists=3
    ) as service:
        assert_problem(service.post(data=b"x" * 10_001), 413, "too-large")
        assert_problem(service.post(data=b"x" * 5_000_000), 413, "too-large")
        urls = [f"http://a/{n}" for n in range(6)]
        assert_problem(service.post(json=urls), 413, "too-large")
        assert_problem(service.post(json=[["http://a/"]] * 4), 413, "too-large")
        assert_problem(service.post(json=[["http://a/"], urls]), 413, "too-large")
        assert service.get("/v1/images/upload").json() == {"jobs": []}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images",
        "/v1/images?limit=5",
        "/v1/images/upload",
        "/v1/images/upload/{job_id}",
        "/v1/images/upload/{job_id}/images",
        "/v1/images/upload/{job_id}/map",
        "/v1/images/upload/unknown",
        "/v1/quota",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/nothing",
    ],
)
def test_json_ends_with_a_line_feed(service: RunningService, path: str) -> None:
    job_id = service.submit(["ftp://no.example/"])
    service.finish(job_id)
    answer = service.get(path.format(job_id=job_id))
    assert re.fullmatch(rb"\{.*[^\s]\n", answer.content)
    head = service.session.head(service.url + path.format(job_id=job_id), timeout=30)
    if path != "/v1/images":  # it is streamed
        assert int(answer.headers["Content-Length"]) == len(answer.content)
        assert head.headers["Content-Length"] == answer.headers["Content-Length"]


ODD_NUMBERS = (
    "",
    "0",
    "-1",
    "%2B1",
    "1.0",
    "1e3",
    "0x10",
    "1_0",
    "9" * 5_000,
    "00000000120000",
    "%D9%A1",  # an Arabic digit
    "%EF%BC%91",  # a full-width digit
    "%C2%B2",  # a superscript
    "%FF",
    "1%00",
    "1&{name}=2",
)


@pytest.mark.parametrize(
    "path", ["/v1/images", "/v1/images/upload", "/v1/images/upload/{job_id}/images"]
)
def test_a_number_in_a_query_is_a_plain_one_within_its_limits(
    service: RunningService, path: str
) -> None:
    path = path.format(job_id=service.submit(["ftp://no.example/"]))
    for name in ("limit", "after") if "/upload/" in path else ("limit",):
        for number in ODD_NUMBERS:
            query = f"{name}={number.format(name=name)}"
            assert_problem(service.get(f"{path}?{query}"), 400, "bad-request")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("?jobId=%FF%FE", 505),
        ("?jobId=", 505),
        ("?jobId={job_id}&jobId={job_id}", 400),
        ("?after=%FF", 505),
        ("?after={job_id}&after=x", 400),
        ("/%FF%FE", 505),
        ("/%E2%80%AE", 505),
        ("/{job_id}/images?state=%FF", 400),
        ("/{job_id}/images?state=failed&state=completed", 400),
        ("/{job_id}/map?format=csv&format=csv", 400),
    ],
)
def test_an_odd_query_or_path_is_refused(service: RunningService, path: str, status: int) -> None:
    job_id = service.submit(["ftp://no.example/"])
    answer = service.get("/v1/images/upload" + path.format(job_id=job_id))
    assert_problem(answer, status, "bad-request" if status == 400 else "unknown-job")


@pytest.mark.parametrize(
    "event_id", ["9" * 5_000, "-1", "1.5", "\xb2", "\xff", "1-end-end", "999999999999999999-end"]
)
def test_an_odd_event_id_is_the_start(service: RunningService, event_id: str) -> None:
    job_id = service.submit(["ftp://no.example/"])
    service.finish(job_id)
    headers = {"Last-Event-ID": event_id.encode("latin-1")}
    answer = service.get(f"/v1/images/upload/{job_id}/events", headers=headers)
    assert answer.status_code == 200
    assert "event: complete" in answer.text


def test_unknown_paths_and_methods_are_problem_documents(service: RunningService) -> None:
    assert_problem(service.get("/nothing"), 404, "not-found")
    assert_problem(service.get("/v1/images/upload/a/b/c"), 404, "not-found")
    assert_problem(service.get("/page/secret.txt"), 404, "not-found")
    for method, path, allowed in (
        ("PUT", "/v1/images", "GET, HEAD, OPTIONS"),
        ("DELETE", "/healthz", "GET, HEAD, OPTIONS"),
        ("PATCH", "/v1/images/upload", "GET, HEAD, POST, OPTIONS"),
        ("POST", "/v1/images", "GET, HEAD, OPTIONS"),
    ):
        answer = service.session.request(method, service.url + path, data=b"x", timeout=PATIENCE)
        assert_problem(answer, 405, "method-not-allowed")
        assert answer.headers["Allow"] == allowed
    answer = service.session.request("BREW", f"{service.url}/", timeout=PATIENCE)
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_health_is_200_while_the_process_is_alive(service: RunningService) -> None:
    answer = service.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_a_bug_is_a_problem_document_without_a_traceback(
    service: RunningService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(*_: object) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(service.service.registry, "newest", bug)
    problem = assert_problem(service.get("/v1/images/upload"), 500, "internal-server-error")
    assert "secret" not in str(problem)
    assert "the secret inside" in caplog.text


def test_head_is_get_without_the_body(service: RunningService) -> None:
    for path in ("/", "/healthz", "/v1/images/upload"):
        answer = service.session.head(service.url + path, timeout=PATIENCE)
        assert (answer.status_code, answer.content) == (200, b"")
