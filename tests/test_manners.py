"""Tests of HTTP features of all routes: request ids, HEAD, OPTIONS, idempotency keys."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from imageload.errors import Refused
from imageload.job import Job
from imageload.registry import Sender
from imageload.store import Posted
from imageload.store.memory import MemoryStore
from imageload.web.idempotency import IdempotencyKeys, checked_key
from main import ROUTES
from tests.raising import raises_refused
from tests.service import RunningService, ServiceProcess, assert_problem, running_service
from tests.waiting import PATIENCE
from tests.wire import PATH

URLS = ["ftp://a.example/"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with a small backlog."""
    folder = tmp_path_factory.mktemp("temp")
    with running_service(folder / "t", max_urls=100_000) as running:
        yield running


# OPTIONS


def paths() -> list[str]:
    """A path of every route."""
    job = "4227cacf-2ee1-4b52-b231-110304c4e203"
    return [path.format(job_id=job, file="page.js") for path, _ in ROUTES]


@pytest.mark.parametrize("path", paths())
def test_options_lists_the_methods_of_a_path(service: RunningService, path: str) -> None:
    answer = requests.options(service.url + path, timeout=PATIENCE)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "Content-Type" not in answer.headers
    allowed = answer.headers["Allow"].split(", ")
    assert "OPTIONS" in allowed
    for method in {"GET", "POST", "DELETE", "PUT", "PATCH"} - set(allowed):
        refused = requests.request(method, service.url + path, timeout=PATIENCE)
        assert_problem(refused, 405, "method-not-allowed")
        assert refused.headers["Allow"] == answer.headers["Allow"]


def test_options_of_an_unknown_path_is_404(service: RunningService) -> None:
    assert_problem(requests.options(f"{service.url}/nothing", timeout=PATIENCE), 404, "not-found")


def test_every_response_has_the_security_headers(service: RunningService) -> None:
    for path in ("/", "/v1/images", "/nothing", f"{PATH}/none"):
        for method in ("GET", "HEAD", "OPTIONS", "PUT"):
            headers = requests.request(method, service.url + path, timeout=PATIENCE).headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert headers["Cache-Control"] == "no-store"
            assert "Server" not in headers


# X-Request-ID


def test_every_response_has_its_own_request_id(service: RunningService) -> None:
    names = [service.get("/healthz").headers["X-Request-ID"] for _ in range(50)]
    assert len(set(names)) == 50
    assert all(re.fullmatch(r"[0-9a-f]{16}", name) for name in names)


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 64])
def test_a_request_id_from_the_client_is_used(service: RunningService, name: str) -> None:
    answer = service.get("/nothing", headers={"X-Request-ID": name})
    assert answer.headers["X-Request-ID"] == name
    assert answer.json()["instance"] == f"urn:imageload:request:{name}"


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a,b", 'a"b', "\xfc", "a:b"])
def test_a_malformed_request_id_is_replaced(service: RunningService, name: str) -> None:
    answer = service.get("/healthz", headers={"X-Request-ID": name.encode("latin-1")})
    assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["X-Request-ID"])


def test_log_lines_of_a_request_have_its_id(tmp_path: Path) -> None:
    process = ServiceProcess(
        "--port=0", "--log-level=DEBUG", f"--temp-dir={tmp_path}", "--imgur-client-id=x"
    )
    try:
        large = [f"ftp://a.example/{n}" for n in range(2_000)]
        for name, urls in (("small-1", URLS), ("large-1", large)):
            answer = process.post(json=urls, headers={"X-Request-ID": name})
            assert answer.status_code == 202
        process.get("/nothing", headers={"X-Request-ID": "lost-1"})
        process.get("/healthz")
    finally:
        process.stop()
    log = "".join(process.log)
    assert re.search(r" accepted job=\S+ urls=1 request=small-1\n", log)
    assert re.search(r" accepted job=\S+ urls=2000 request=large-1\n", log)
    assert re.search(r"GET /nothing 404 .* request=lost-1\n", log)
    assert re.search(r"GET /healthz 200 .* request=[0-9a-f]{16}\n", log)
    assert "request=" not in next(line for line in process.log if "listening on" in line)
    assert "request=" not in next(line for line in process.log if "failed job=" in line)


# HEAD


def test_head_has_the_headers_of_get(service: RunningService) -> None:
    job_id = service.submit(URLS)
    service.finish(job_id)
    url = f"{service.url}{PATH}/{job_id}"
    answers = [requests.request(method, url, timeout=PATIENCE) for method in ("GET", "HEAD")]
    for answer in answers:
        del answer.headers["X-Request-ID"], answer.headers["Date"]
    assert answers[0].headers == answers[1].headers


def test_all_links_are_streamed(service: RunningService) -> None:
    links = [f"https://i.imgur.com/{n:07d}.png" for n in range(5_000)]
    service.add_landed(links)
    answer = service.get("/v1/images")
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.json()["uploaded"] == links


# Idempotency-Key


def send(
    service: RunningService, key: str, body: object = URLS, **headers: str
) -> requests.Response:
    """POST `body` with this key."""
    fields = {"Idempotency-Key": key, **headers}
    return requests.post(
        service.url + PATH, data=json.dumps(body), headers=fields, timeout=PATIENCE
    )


def job_count(service: RunningService) -> int:
    """How many jobs there are."""
    return len(service.service.image_load.job_list_s)


def test_a_repeated_post_gives_the_same_job(service: RunningService) -> None:
    before = job_count(service)
    first, again = send(service, "again-1"), send(service, "again-1")
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert first.headers["Location"] == again.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    service.finish(first.json()["jobId"][0])
    assert send(service, "again-1").json() == first.json()
    assert job_count(service) == before + 1


def test_a_repeated_post_of_several_lists_gives_the_same_jobs(service: RunningService) -> None:
    before = job_count(service)
    answers = [send(service, "lists-1", [URLS, ["foo"], ["bar"]]).json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert job_count(service) == before + 3


def test_another_key_or_none_is_another_job(service: RunningService) -> None:
    bodies = [send(service, key).json() for key in ("one-1", "two-1")]
    bodies += [service.post(json=URLS).json() for _ in range(2)]
    assert len({body["jobId"][0] for body in bodies}) == 4


def test_a_key_with_another_body_is_refused(service: RunningService) -> None:
    first = send(service, "other-1")
    before = job_count(service)
    assert_problem(send(service, "other-1", ["foo"]), 422, "key-reused")
    as_text = send(service, "other-1", URLS, **{"Content-Type": "text/plain"})
    assert_problem(as_text, 422, "key-reused")
    assert send(service, "other-1").json() == first.json()
    assert job_count(service) == before


@pytest.mark.parametrize("count", [1, 3_000])
def test_concurrent_posts_with_one_key_make_one_job(service: RunningService, count: int) -> None:
    before = job_count(service)
    start = threading.Barrier(8)
    body = [f"ftp://a.example/{n}" for n in range(count)]

    def post(_: int) -> str:
        start.wait(PATIENCE)
        answer = send(service, f"race-{count}", body)
        assert answer.status_code == 202
        return str(answer.json()["jobId"])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(post, range(8)))) == 1
    assert job_count(service) == before + 1


def test_a_refused_post_does_not_use_up_its_key(service: RunningService) -> None:
    assert_problem(send(service, "refused-1", []), 400, "bad-request")
    assert_problem(send(service, "refused-1", {}), 400, "bad-request")
    assert send(service, "refused-1").status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", "schl\xfcssel"])
def test_a_malformed_key_is_refused(service: RunningService, key: str) -> None:
    before = job_count(service)
    headers = {"Idempotency-Key": key.encode("latin-1")}
    assert_problem(service.post(json=URLS, headers=headers), 400, "bad-request")
    assert job_count(service) == before
    assert send(service, "x" * 255).status_code == 202


def test_the_same_key_of_two_callers_is_two_keys(tmp_path: Path) -> None:
    with running_service(tmp_path / "t", api_token=("one", "two")) as service:
        answers = [
            send(service, "same", body, Authorization=f"Bearer {token}")
            for token, body in (("one", URLS), ("two", ["foo"]), ("one", URLS))
        ]
        answers.append(send(service, "same", URLS, Authorization="bearer  one"))
        assert [answer.status_code for answer in answers] == [202] * 4
        assert answers[0].json() == answers[2].json() == answers[3].json()
        assert answers[0].json() != answers[1].json()


def test_a_content_type_may_be_spelled_in_another_way_with_the_same_key(
    service: RunningService,
) -> None:
    spellings = ("application/json", "Application/JSON; charset=utf-8", "application/json ;x=y")
    answers = [send(service, "spelled", **{"Content-Type": each}) for each in spellings]
    assert [answer.status_code for answer in answers] == [202] * 3
    assert len({answer.text for answer in answers}) == 1
    assert send(service, "spelled", **{"Content-Type": "text/plain"}).status_code == 422


def test_a_key_is_forgotten_with_its_last_job() -> None:
    async def run() -> None:
        store = MemoryStore()
        keys = IdempotencyKeys(store)
        jobs = [Job(["http://a/"]) for _ in range(3)]

        async def once(fingerprint: bytes, made: list[Job]) -> tuple[list[str], bool]:
            sender = Sender("", "k", fingerprint)

            async def accept() -> list[str]:
                job_ids = [job.job_id for job in made]
                store.accept(made, posted=Posted(*sender, tuple(job_ids)))
                return job_ids

            return await keys.once(sender, accept)

        a, b, c = (job.job_id for job in jobs)
        assert await once(b"1", jobs[:2]) == ([a, b], False)
        store.delete([a])
        assert await once(b"1", jobs[2:]) == ([a, b], True)
        store.delete([b])
        assert await once(b"2", jobs[2:]) == ([c], False)

    asyncio.run(run())


def test_concurrent_posts_share_a_refusal() -> None:
    async def run() -> None:
        keys = IdempotencyKeys(MemoryStore())
        sender = Sender("", "k", b"1")
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def refuse() -> list[str]:
            begun.set()
            await go_on.wait()
            raise Refused("backlog-full", "full")

        async def accept() -> list[str]:
            return ["a"]

        first = asyncio.create_task(keys.once(sender, refuse))
        await begun.wait()
        second = asyncio.create_task(keys.once(sender, accept))
        with raises_refused("key-reused"):
            await keys.once(Sender("", "k", b"2"), accept)
        await asyncio.sleep(0)
        go_on.set()
        for task in (first, second):
            with raises_refused("backlog-full"):
                await task
        assert await keys.once(sender, accept) == (["a"], False)

    asyncio.run(run())


def test_a_key_survives_a_restart(tmp_path: Path) -> None:
    answers = []
    for _ in range(2):
        with running_service(tmp_path / "t", store=str(tmp_path / "journal")) as service:
            answers.append(send(service, "kept"))
    assert answers[0].json() == answers[1].json()
    assert "Idempotency-Replayed" in answers[1].headers


def test_a_key_is_visible_ascii() -> None:
    assert checked_key(None) is None
    assert checked_key('"8e03978e-40d5-43e8-bc93-6894a57f9324"') is not None
    with raises_refused("bad-request", match="255"):
        checked_key("a\tb")
