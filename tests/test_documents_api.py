"""Tests of POST /v1/documents and of a job's document, and of entries with an id."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import tests.service
from imageload.web.originals import disposition
from sandbox.testing import RunningSandbox
from tests.contract import Contract, running_contract
from tests.events import Subscriber
from tests.origin import Origin
from tests.service import (
    Client,
    RunningService,
    Start,
    assert_problem,
    running_service,
    wired,
)
from tests.waiting import PATIENCE, wait_until

MARKDOWN = "text/markdown"


def post(client: Client, body: bytes | str, kind: str = "", **options: Any) -> requests.Response:
    """POST one document; `headers` are further ones, other options are query arguments."""
    headers = options.pop("headers", {}) | ({"Content-Type": kind} if kind else {})
    data = body.encode() if isinstance(body, str) else body
    return client.session.post(
        f"{client.url}/v1/documents", data=data, headers=headers, params=options, timeout=PATIENCE
    )


def post_files(client: Client, *files: tuple[str, tuple[str, Any, str]]) -> requests.Response:
    """POST several documents: (field, (file name, content, content type))."""
    return client.session.post(f"{client.url}/v1/documents", files=files, timeout=PATIENCE)


def job_of(answer: requests.Response) -> str:
    """The one jobId."""
    assert answer.status_code == 202, answer.text
    (job_id,) = answer.json()["jobId"]
    return str(job_id)


def document(client: Client, job_id: str, **keywords: Any) -> requests.Response:
    """The document of a job."""
    return client.get(f"/v1/images/upload/{job_id}/document", **keywords)


def link_of(client: Client, job_id: str) -> str:
    """The one link of a job."""
    (link,) = client.status(job_id)["uploaded"]["completed"]
    return str(link)


# There and back


def test_a_document_comes_back_with_links_and_is_else_the_same(
    service: RunningService, origin: Origin
) -> None:
    bird, gone = origin.image("png-rgb.png"), origin.image("missing.png")
    text = f"\ufeff# Übung\r\n![b]({bird}) and `{bird}`\r\n![gone]({gone})\r\n![b]({bird})\t\r\n"
    answer = post(service, text, MARKDOWN)
    job_id = job_of(answer)
    assert answer.headers["Location"] == f"/v1/images/upload/{job_id}"
    assert answer.json()["kinds"] == ["markdown"]
    service.finish(job_id)
    found = document(service, job_id)
    link = link_of(service, job_id)
    expected = text.replace(f"({bird})", f"({link})")
    assert found.content == expected.encode()
    assert found.headers["Content-Type"] == MARKDOWN
    assert found.headers["X-Images"] == "completed=1, failed=1, pending=0"
    assert found.headers["Content-Security-Policy"] == "sandbox"
    name = f"imageload-{job_id}.md"
    assert found.headers["Content-Disposition"] == f'attachment; filename="{name}"'


def test_relative_urls_are_made_absolute_with_the_base(
    service: RunningService, origin: Origin
) -> None:
    base = origin.image("png-rgb.png")
    job_id = job_of(post(service, '<p><img src="png-rgb.png">', "text/html", base=base))
    service.finish(job_id)
    content = document(service, job_id).text
    assert content == f'<p><img src="{link_of(service, job_id)}">'


def test_a_table_gets_the_links_and_the_reasons_of_failures(
    service: RunningService, origin: Origin
) -> None:
    bird, gone = origin.image("png-rgb.png"), origin.image("missing.png")
    table = f"sku,photo\r\n1,{bird}\r\n2,{gone}\r\n"
    job_id = job_of(post(service, table, "text/csv", column="photo"))
    service.finish(job_id)
    rows = list(csv.DictReader(io.StringIO(document(service, job_id).text, newline="")))
    assert rows[0] == {
        "sku": "1", "photo": bird, "link": link_of(service, job_id), "error": "",
    }  # fmt: skip
    assert "404" in rows[1]["error"]


def test_several_documents_are_a_job_each_in_their_order(
    service: RunningService, origin: Origin
) -> None:
    page = origin.image("png-rgb.png")
    names = ["ä 1.md", "../2.md", '3".md']
    fields = ["a", "b", "a"]  # a form may have several files under one name, and others between
    urls = [f"{page}?{number}" for number in range(3)]
    files = [
        (field, (name, f"![]({url})", MARKDOWN))
        for field, name, url in zip(fields, names, urls, strict=True)
    ]
    answer = post_files(service, *files)
    assert answer.status_code == 202, answer.text
    job_ids = answer.json()["jobId"]
    assert "Location" not in answer.headers
    assert [list(service.records(job_id)) for job_id in job_ids] == [[url] for url in urls]
    shown = [document(service, job_id).headers["Content-Disposition"] for job_id in job_ids]
    assert shown[0] == "attachment; filename=\"_ 1.md\"; filename*=UTF-8''%C3%A4%201.md"
    assert shown[1] == 'attachment; filename="2.md"'
    assert shown[2].startswith('attachment; filename="3_22.md"; filename*=')


def test_a_file_name_cannot_add_a_header_or_a_folder() -> None:
    assert disposition('a"\r\nSet-Cookie: b; c/../d\\e.md') == 'attachment; filename="e.md"'
    hostile = disposition('x"; filename=y\r\nA: b')
    assert not {"\r", "\n"} & {*hostile}
    assert hostile.startswith('attachment; filename="x__ filename_yA_ b"; filename*=')
    assert disposition("..") == disposition("") == 'attachment; filename="document"'


@pytest.mark.parametrize("kind", ["", "application/x-www-form-urlencoded"])
def test_a_kind_that_is_not_said_is_judged_and_named(
    service: RunningService, origin: Origin, kind: str
) -> None:
    answer = post(service, f"# Birds\n![]({origin.image('png-rgb.png')})\n", kind)
    assert answer.json()["kinds"] == ["markdown"]
    found = document(service, job_of(answer))
    assert found.headers["Content-Type"] == "text/markdown; charset=utf-8"


def test_a_document_is_given_while_its_job_is_in_progress(
    service: RunningService, origin: Origin
) -> None:
    bird, slow = origin.image("png-rgb.png"), origin.page("/slow.png", origin.hang)
    job_id = job_of(post(service, f"{bird}\n{slow}\n", "text/plain"))
    wait_until(lambda: service.status(job_id)["uploaded"]["completed"])
    found = document(service, job_id)
    assert found.headers["X-Images"] == "completed=1, failed=0, pending=1"
    assert found.text == f"{link_of(service, job_id)}\n{slow}\n"


def test_a_document_is_sent_again_only_if_its_job_has_changed(
    service: RunningService, origin: Origin
) -> None:
    job_id = job_of(post(service, f"![]({origin.image('png-rgb.png')})", MARKDOWN))
    service.finish(job_id)
    tag = document(service, job_id).headers["ETag"]
    assert tag == service.get(f"/v1/images/upload/{job_id}").headers["ETag"]
    assert document(service, job_id, headers={"If-None-Match": tag}).status_code == 304


def test_a_link_of_the_target_is_not_uploaded_again(
    service: RunningService, sandbox: RunningSandbox, origin: Origin
) -> None:
    text = f"![]({origin.image('png-rgb.png')})\n"
    first = job_of(post(service, text, MARKDOWN))
    service.finish(first)
    done = document(service, first).text
    refused = assert_problem(post(service, done, MARKDOWN), 422, "no-images")
    assert refused["detail"].endswith("this image is there already.")
    (preview,) = post(service, done, MARKDOWN, dry_run="true").json()["documents"]
    assert [each["text"] for each in preview["ignored"]] == [link_of(service, first)]
    second = job_of(post(service, f"{done}![]({origin.image('gif-89a.gif')})\n", MARKDOWN))
    service.finish(second)
    assert [*service.records(second)] == [origin.image("gif-89a.gif")]
    assert document(service, second).text == f"{done}![]({link_of(service, second)})\n"
    table = f"photo,price\n{link_of(service, first)},1\n{origin.image('png-16-bit.png')},2\n"
    third = job_of(post(service, table, "text/csv"))
    service.finish(third)
    rows = [[*row.values()] for row in csv.DictReader(io.StringIO(document(service, third).text))]
    assert [row[1] for row in rows] == [link_of(service, first), link_of(service, third)]
    assert len(sandbox.images()) == 3


# Previews


def test_a_dry_run_shows_the_images_and_makes_no_job(service: RunningService) -> None:
    text = "One\n\n![a](a.png)\n![b]({{b}}.png)\n![c](http://c.example/1)\n"
    answer = post(service, text, MARKDOWN, dry_run="true", base="https://docs.example/x/")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "documents": [
            {
                "kind": "markdown",
                "images": [
                    {"url": "https://docs.example/x/a.png", "line": 3, "as_written": "a.png"},
                    {
                        "url": "http://c.example/1",
                        "line": 5,
                        "as_written": "http://c.example/1",
                    },
                ],
                "ignored": [
                    {
                        "text": "{{b}}.png",
                        "line": 4,
                        "why": "A template: its value is not in the document.",
                    }
                ],
            }
        ]
    }
    assert service.get("/v1/images/upload").json()["jobs"] == []
    form = {"skip": "http://c.example/1\r\n"}
    files = {"a": ("a.md", text)}
    url = f"{service.url}/v1/documents?dry_run=true"
    skipped = service.session.post(url, data=form, files=files, timeout=PATIENCE).json()
    (without,) = skipped["documents"]
    assert without["images"] == []
    assert [(each["text"], each["line"]) for each in without["ignored"]] == [
        ("a.png", 3), ("{{b}}.png", 4), ("http://c.example/1", 5),
    ]  # fmt: skip
    empty = post(service, "Nothing.", MARKDOWN, dry_run="true").json()
    assert empty == {"documents": [{"kind": "markdown", "images": [], "ignored": []}]}


def test_an_image_to_skip_is_not_uploaded_and_keeps_its_url(
    service: RunningService, origin: Origin
) -> None:
    page = origin.image("png-rgb.png")
    text = f"![]({page}?1) ![]({page}?2) <img src='{page}?1'>"
    url = f"{service.url}/v1/documents"

    def posted(skip: str) -> requests.Response:
        files = {"document": ("README.md", text)}
        return service.session.post(url, data={"skip": skip}, files=files, timeout=PATIENCE)

    job_id = job_of(posted(f"{page}?1"))
    service.finish(job_id)
    assert list(service.records(job_id)) == [f"{page}?2"]
    link = link_of(service, job_id)
    assert document(service, job_id).text == text.replace(f"{page}?2", link)
    (job,) = service.get("/v1/images/upload").json()["jobs"]
    assert (job["document"], job["first_url"]) == ("README.md", f"{page}?2")
    assert_problem(posted(f"{page}?1\n{page}?2"), 422, "no-images")
    unknown = assert_problem(posted(f"{page}?3"), 400, "bad-request")
    assert f"{page}?3 is no image" in unknown["detail"]


# Options


def test_the_options_of_a_post_are_query_arguments(service: RunningService, origin: Origin) -> None:
    options = {"album": "Birds", "title": "A bird", "callback": "http://127.0.0.1:1/told"}
    options["description"] = "It sings."
    answer = post(service, origin.image("png-rgb.png"), "text/plain", dedupe="false", **options)
    job_id = job_of(answer)
    (record,) = service.records(job_id).values()
    assert (record["title"], record["description"]) == ("A bird", "It sings.")
    (job,) = service.get("/v1/images/upload").json()["jobs"]
    assert (job["album"]["title"], job["callback"]["host"]) == ("Birds", "127.0.0.1")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"base": "docs/"}, "base"),
        ({"dedupe": "no"}, "dedupe"),
        ({"dry_run": "1"}, "dry_run"),
        ({"title": "x" * 1_001}, "title"),
        ({"callback": "ftp://a.example/"}, "callback"),
        ({"column": "photo"}, "column"),
    ],
)
def test_a_wrong_option_is_a_bad_request(
    service: RunningService, options: dict[str, str], word: str
) -> None:
    answer = post(service, "![](https://a.example/1.png)", MARKDOWN, **options)
    assert word in assert_problem(answer, 400, "bad-request")["detail"]


def test_a_post_that_is_sent_again_with_its_key_makes_no_second_job(
    service: RunningService, origin: Origin
) -> None:
    files = ("a", ("a.md", f"![]({origin.image('png-rgb.png')})", MARKDOWN))

    def send(title: str = "") -> requests.Response:
        return service.session.post(
            f"{service.url}/v1/documents",
            files=[files],  # a form has another boundary each time
            headers={"Idempotency-Key": "k"},
            params={"title": title} if title else {},
            timeout=PATIENCE,
        )

    first, second = send(), send()
    assert second.json() == first.json()
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert_problem(send("Another"), 422, "key-reused")
    listed = {"urls": ["https://a.example/"]}
    assert_problem(service.post(json=listed, headers={"Idempotency-Key": "k"}), 422, "key-reused")


# Refusals


def test_a_document_without_an_image_is_refused_and_the_reason_says_what_was_looked_for(
    service: RunningService,
) -> None:
    answer = post(service, "![](a.png)\n", MARKDOWN)
    detail = assert_problem(answer, 422, "no-images")["detail"]
    for word in ("as markdown", "![](https", "line 1", "base"):
        assert word in detail
    files = [
        (str(n), (f"{n}.md", text, MARKDOWN)) for n, text in enumerate(("![](http://a/)", "x"))
    ]
    assert "Document 2" in assert_problem(post_files(service, *files), 422, "no-images")["detail"]
    assert service.get("/v1/images/upload").json()["jobs"] == []


def test_what_is_no_text_is_refused(service: RunningService) -> None:
    assert_problem(post(service, b"%PDF", "application/pdf"), 415, "unsupported-type")
    assert_problem(post(service, b"x", "multipart/mixed; boundary=a"), 415, "unsupported-type")
    packed = post(service, b"\x1f\x8b", MARKDOWN, headers={"Content-Encoding": "gzip"})
    assert_problem(packed, 415, "unsupported-type")
    assert_problem(post(service, b" \n", MARKDOWN), 400, "bad-request")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b\r\n",
        b"--b\r\n\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\ntext\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="a"; filename="\xff"\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\nx\r\n' * 101
        + b"--b--\r\n",
    ],
)
def test_a_broken_form_is_refused(service: RunningService, body: bytes) -> None:
    answer = post(service, body, "multipart/form-data; boundary=b")
    assert_problem(answer, 400, "bad-request")


def test_more_than_a_request_may_have_is_refused(tmp_path: Path, sandbox: RunningSandbox) -> None:
    options = wired(sandbox, max_urls=2, max_documents_bytes=200)
    with running_service(tmp_path / "t", **options) as service:
        many = "\n".join(f"http://a.example/{n}" for n in range(3))
        detail = assert_problem(post(service, many, "text/plain"), 413, "too-large")["detail"]
        assert detail == "This has 3 images; a job may have 2. Split the document."
        assert_problem(post(service, "x" * 201, "text/plain"), 413, "too-large")


def test_a_job_of_a_list_has_no_document(service: RunningService) -> None:
    job_id = service.submit(["ftp://a.example/"])
    assert_problem(document(service, job_id), 404, "no-document")
    tag = service.get(f"/v1/images/upload/{job_id}").headers["ETag"]
    with_tag = document(service, job_id, headers={"If-None-Match": tag})
    assert_problem(with_tag, 404, "no-document")
    assert "ETag" not in with_tag.headers
    assert_problem(document(service, "unknown"), 505, "unknown-job")


# Where it is kept


def test_documents_in_memory_count_and_leave_with_their_jobs(
    tmp_path: Path, sandbox: RunningSandbox
) -> None:
    padding = "".join(f"{number:x} " for number in range(10_000))  # some 20 kB when compressed
    with running_service(tmp_path / "t", **wired(sandbox, jobs_bytes=40_000)) as service:
        first = job_of(post(service, f"![](http://127.0.0.1:1/1.png)\n{padding}", MARKDOWN))
        assert service.service.image_load.kept.bytes_held > 10_000
        service.finish(first)
        wait_until(lambda: not service.service.image_load._active)
        second = job_of(post(service, f"![](http://127.0.0.1:1/2.png)\n{padding}", MARKDOWN))
        assert_problem(document(service, first), 505, "unknown-job")
        assert document(service, second).status_code == 200
        assert service.service.image_load.kept.bytes_held < 40_000


def test_a_document_and_ids_survive_a_restart(start: Start, origin: Origin) -> None:
    page = origin.image("png-rgb.png")
    first = start()
    job_id = job_of(post(first, f"![]({page})", MARKDOWN))
    first.finish(job_id)
    before = document(first, job_id)
    with_id = first.post(json=[{"url": f"{page}?1", "id": "row 1"}]).json()["jobId"][0]
    first.finish(with_id)
    assert first.stop() == 0
    second = start()
    after = document(second, job_id)
    with_document = second.get("/v1/images/upload").json()["jobs"][1]
    assert (with_document["document"], with_document["first_url"]) == ("document.md", page)
    assert after.content == before.content == f"![]({link_of(second, job_id)})".encode()
    assert after.headers["ETag"] == before.headers["ETag"]
    assert [record["id"] for record in second.records(with_id).values()] == ["row 1"]


@pytest.fixture
def two_nodes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sandbox: RunningSandbox
) -> Iterator[RunningService]:
    """Two nodes that get requests in turn."""
    monkeypatch.setattr(tests.service, "nodes", 2)
    with running_service(tmp_path / "t", **wired(sandbox)) as running:
        yield running


def test_a_document_and_ids_are_read_on_any_node(two_nodes: RunningService, origin: Origin) -> None:
    page = origin.image("png-rgb.png")
    job_id = job_of(post(two_nodes, f"![]({page})", MARKDOWN))
    two_nodes.finish(job_id)
    answers = [document(two_nodes, job_id) for _ in range(2)]
    assert {each.text for each in answers} == {f"![]({link_of(two_nodes, job_id)})"}
    assert len({each.headers["ETag"] for each in answers}) == 1
    for _ in range(2):
        (job,) = two_nodes.get("/v1/images/upload").json()["jobs"]
        assert (job["document"], job["first_url"]) == ("document.md", page)
    entries = [{"url": f"{page}?{n}", "id": f"row {n}"} for n in range(2)]
    with_ids = two_nodes.post(json=entries).json()["jobId"][0]
    two_nodes.finish(with_ids)
    for _ in range(2):
        assert [each["id"] for each in two_nodes.records(with_ids).values()] == ["row 0", "row 1"]


# Entries with an id


@pytest.fixture
def hook() -> Iterator[Contract]:
    """The receiver of callbacks."""
    with running_contract() as contract:
        yield contract


def test_an_id_comes_back_in_every_form(
    service: RunningService, origin: Origin, hook: Contract
) -> None:
    page = origin.image("png-rgb.png")
    entries = [
        {"url": page, "id": "row 1"},
        {"url": page, "id": "row 2"},  # the same image for another row
        {"url": page, "id": "row 1"},
        {"url": "ftp://a.example/", "id": "row 1"},
        page,
    ]
    hook.put("POST /hook", {})
    body = {"urls": entries, "callback": f"{hook.url}/hook"}
    job_id = service.post(json=body).json()["jobId"][0]
    service.finish(job_id)
    (link,) = {*service.status(job_id)["uploaded"]["completed"]}
    pairs = [("row 1", link), ("row 2", link), ("row 1", None), (None, link)]
    path = f"/v1/images/upload/{job_id}"
    images = service.get(f"{path}/images").json()["images"]
    assert [(each["id"], each["link"]) for each in images] == pairs
    with Subscriber(f"{service.url}{path}/events") as stream:
        events = [each.data for each in stream.events() if each.name == "image"]
    events.sort(key=lambda each: each["number"])
    assert [(each["id"], each["link"]) for each in events] == pairs
    found = service.get(f"{path}/map").json()
    assert found["map"] == {page: link}
    assert [(each["id"], each["link"]) for each in found["entries"]] == pairs[:3]
    assert found["entries"][2]["error"]["code"] == "invalid_url"
    rows = service.get(f"{path}/map?format=csv").text
    assert rows.splitlines() == [
        "url,link,id", f"{page},{link},row 1", f"{page},{link},row 2", f"{page},{link},",
    ]  # fmt: skip
    lines = service.get(f"{path}/map", headers={"Accept": "application/x-ndjson"})
    assert lines.headers["Content-Type"] == "application/x-ndjson"
    assert [json.loads(line) for line in lines.text.splitlines()][:3] == found["entries"]
    assert len(lines.text.splitlines()) == 4
    wait_until(lambda: hook.asked)
    assert json.loads(hook.asked[0].body)["data"]["entries"] == found["entries"]


def test_an_id_is_a_text_of_at_most_200_characters(service: RunningService) -> None:
    url = "ftp://a.example/"
    assert service.post(json=[{"url": url, "id": "x" * 200}]).status_code == 202
    for wrong in ("x" * 201, 7, ["a"]):
        answer = service.post(json=[{"url": url, "id": wrong}])
        assert "urls[0].id" in assert_problem(answer, 400, "bad-request")["detail"]
