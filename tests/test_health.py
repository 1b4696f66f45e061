"""Tests of checks of links, and of loading images again whose links are dead."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import requests

from sandbox.picture import placeholder
from sandbox.testing import RunningSandbox
from tests.cli import Cli
from tests.jobs import all_landed, delete, distinct, retry, urls
from tests.origin import IMAGES, Origin, answer, redirect
from tests.postgres import emptied_database
from tests.s3_server import S3Server, xml
from tests.service import Client, RunningService, assert_problem, running_service, wired
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.imgur("has the sandbox lose images")

PNG = (IMAGES / "png-rgb.png").read_bytes()
NONE = {"alive": 0, "gone": 0, "replaced": 0, "refused": 0, "unreachable": 0}


def path_of(job_id: str, verb: str) -> str:
    return f"/v1/images/upload/{job_id}/{verb}"


def post(service: Client, job_id: str, verb: str) -> requests.Response:
    """POST a verb of a job."""
    return service.session.post(service.url + path_of(job_id, verb), timeout=PATIENCE)


def check(service: Client, job_id: str) -> dict[str, Any]:
    """The result of a check of the job's links."""
    begun = post(service, job_id, "check")
    assert begun.status_code == 202, begun.text
    path = path_of(job_id, "check")
    wait_until(lambda: service.get(path).json()["finished"])
    result: dict[str, Any] = service.get(path).json()
    assert result["total"] == result["checked"] == sum(result["counts"].values())
    assert result["job_id"] == job_id
    return result


def states(result: dict[str, Any]) -> dict[str, str]:
    """The states of the links that are not alive."""
    return {each["link"]: each["state"] for each in result["links"]}


def rehost(service: Client, job_id: str) -> int:
    """How many images are loaded again."""
    answered = post(service, job_id, "rehost")
    assert answered.status_code == 202, answered.text
    return int(answered.json()["requeued"])


def links_of(service: Client, job_id: str) -> list[str]:
    """The link of every image, in order."""
    return [each["link"] for each in service.records(job_id).values()]


def landed(service: Client, some: list[str]) -> tuple[str, list[str]]:
    """A job of these URLs, which have landed, and its links."""
    job_id = service.submit(some)
    assert all_landed(service, [job_id])
    return job_id, links_of(service, job_id)


def job_with(service: RunningService, links: list[str]) -> str:
    """The id of a job that has landed at these links, as if it were of another target."""
    service.add_landed(links)
    service.service.store.accept(service.service.image_load.jobs())
    (job,) = service.get("/v1/images/upload").json()["jobs"]
    return str(job["job_id"])


def id_of(link: str) -> str:
    return link.rpartition("/")[2].partition(".")[0]


def remove(sandbox: RunningSandbox, link: str) -> None:
    """Delete an image from the sandbox, as its owner would; a placeholder takes its place."""
    (image,) = [each for each in sandbox.images() if each["id"] == id_of(link)]
    headers = {"Authorization": "Client-ID other"}
    path = f"{sandbox.url}/3/image/{image['deletehash']}"
    assert requests.delete(path, headers=headers, timeout=PATIENCE).status_code == 200


@pytest.fixture
def store(tmp_path: Path, sandbox: RunningSandbox) -> dict[str, Any]:
    """Options of services that start one after the other on one journal."""
    return wired(sandbox, store=str(tmp_path / "journal"))


# The check


def test_a_check_tells_alive_gone_replaced_refused_and_unreachable_links_apart(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    job_id, links = landed(service, distinct(origin, 6))
    sandbox.fault("404", match=f"/{id_of(links[1])}.", count=0)
    remove(sandbox, links[2])
    sandbox.fault("403", match=f"/{id_of(links[3])}.", count=0)
    sandbox.fault("reset_before_store", match=f"/{id_of(links[4])}.", count=0)
    result = check(service, job_id)
    assert result["counts"] == {
        "alive": 2, "gone": 1, "replaced": 1, "refused": 1, "unreachable": 1
    }  # fmt: skip
    found = ("gone", 404), ("replaced", 302), ("refused", 403), ("unreachable", None)
    assert result["links"] == [
        {
            "number": n + 1,
            "url": url,
            "link": links[n],
            "state": state,
            "status_code": status,
        }
        for (state, status), (n, url) in zip(
            found, list(enumerate(service.records(job_id)))[1:5], strict=True
        )
    ]


def test_every_link_is_asked_for_once_and_the_image_is_not_downloaded(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    picture = origin.image("png-palette.png")
    job_id, links = landed(service, [f"{picture}?{n}" for n in range(5)])
    assert len(set(links)) == 1
    result = check(service, job_id)
    assert (result["counts"], result["links"]) == ({**NONE, "alive": 5}, [])
    assert sandbox.stats()["requests"]["link"] == 1
    counted = 'imageload_links_checked_total{state="alive"} 1.0'
    assert any(counted in service.get("/metrics").text for _ in range(2)), "each node has its own"


def test_a_placeholder_with_the_status_200_is_known_by_its_bytes(
    origin: Origin, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    picture = hashlib.sha256(placeholder(336, 478)).hexdigest()
    options = wired(sandbox, reject_sha256=(picture,))
    with running_service(tmp_path / "t", **options) as service:
        job_id, _ = landed(service, distinct(origin, 2))
        sandbox.settings(region_blocked=True)
        assert check(service, job_id)["counts"] == {**NONE, "replaced": 2}


def test_links_of_other_hosts_are_asked_for_under_the_guard(
    origin: Origin, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    links = [f"{sandbox.url}/abcdefg.png", origin.image("png-rgb.png")]
    with running_service(tmp_path / "t", **wired(sandbox, allow_origin=())) as service:
        result = check(service, job_with(service, links))
    assert states(result) == {links[0]: "replaced", links[1]: "unreachable"}
    assert origin.connections == 0


def test_redirects_are_followed_and_a_host_without_head_is_asked_with_get(
    service: RunningService, origin: Origin
) -> None:
    def without_head(connection: Any) -> None:
        is_get = origin.heads[-1].startswith("GET")
        (answer(PNG) if is_get else answer(b"", "405 Method Not Allowed"))(connection)

    links = [
        origin.page("/moved", redirect("/images/png-rgb.png")),
        origin.page("/no-head", without_head),
        origin.page("/moved-to-nothing", redirect("/nothing")),
        origin.page("/circle", redirect("/circle")),
        origin.page("/empty", answer(b"")),
    ]
    result = check(service, job_with(service, links))
    assert result["counts"]["alive"] == 2
    assert states(result) == {
        links[2]: "gone",
        links[3]: "unreachable",
        links[4]: "unreachable",
    }


def test_a_job_has_one_check_at_a_time_and_a_stop_ends_it(
    origin: Origin, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    with running_service(tmp_path / "t", **wired(sandbox)) as service:
        job_id, _ = landed(service, distinct(origin, 1))
        sandbox.fault("hang", match="link", count=0)
        first = post(service, job_id, "check").json()
        assert (first["finished"], first["total"], first["checked"]) == (False, 1, 0)
        sandbox.wait_for("link")
        assert post(service, job_id, "check").json() == first
        assert service.get(path_of(job_id, "check")).json() == first
        assert_problem(post(service, job_id, "rehost"), 409, "job-busy")
        assert sandbox.stats()["requests"]["link"] == 1


def test_the_links_of_a_check_have_pages(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    job_id, links = landed(service, distinct(origin, 5))
    sandbox.fault("404", match="link", count=0)
    whole = check(service, job_id)["links"]
    assert [each["link"] for each in whole] == links
    found, path = [], f"{path_of(job_id, 'check')}?limit=2"
    while path:
        page = service.get(path)
        found += page.json()["links"]
        assert len(page.json()["links"]) <= 2
        path = page.links.get("next", {}).get("url", "")
    assert found == whole
    assert_problem(service.get(f"{path_of(job_id, 'check')}?limit=0"), 400, "bad-request")


def test_a_job_that_was_not_checked_has_no_check(service: RunningService, origin: Origin) -> None:
    job_id, _ = landed(service, distinct(origin, 1))
    assert_problem(service.get(path_of(job_id, "check")), 404, "no-check")
    assert_problem(post(service, job_id, "rehost"), 409, "not-checked")
    for verb in ("check", "rehost"):
        assert_problem(post(service, "unknown", verb), 505, "unknown-job")


# Rehosting


def test_images_whose_links_are_dead_land_again_with_new_links(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    job_id, links = landed(service, distinct(origin, 4))
    remove(sandbox, links[1])
    sandbox.fault("404", match=f"/{id_of(links[2])}.", count=0)
    check(service, job_id)
    assert rehost(service, job_id) == 2
    assert all_landed(service, [job_id])
    now = links_of(service, job_id)
    assert [old == new for old, new in zip(links, now, strict=True)] == [True, False, False, True]
    assert service.get("/v1/images").json()["uploaded"] == now
    assert service.get(path_of(job_id, "check")).json()["links"] == [], "they have changed"
    assert rehost(service, job_id) == 0, "the result of a check is used once"
    assert check(service, job_id)["counts"] == {**NONE, "alive": 4}


def test_a_document_has_the_new_links(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    (url,) = distinct(origin, 1)
    headers = {"Content-Type": "text/markdown"}
    posted = service.session.post(
        f"{service.url}/v1/documents", f"![]({url})", headers=headers, timeout=PATIENCE
    )
    (job_id,) = posted.json()["jobId"]
    service.finish(job_id)
    (old,) = links_of(service, job_id)
    document = path_of(job_id, "document")
    before = service.get(document)
    assert before.text == f"![]({old})"
    remove(sandbox, old)
    check(service, job_id)
    assert rehost(service, job_id) == 1
    service.finish(job_id)
    (new,) = links_of(service, job_id)
    after = service.get(document, headers={"If-None-Match": before.headers["ETag"]})
    assert (after.status_code, after.text) == (200, f"![]({new})")
    assert new != old


def test_a_dead_link_is_not_reused_for_the_same_bytes(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    pages = urls(origin, 3)
    job_id, (old, *_) = landed(service, pages)
    other, (shared, *_) = landed(service, pages)
    assert shared == old
    remove(sandbox, old)
    check(service, job_id)
    assert rehost(service, job_id) == 3
    assert all_landed(service, [job_id])
    (new,) = set(links_of(service, job_id))
    assert new != old
    assert landed(service, urls(origin, 1, "later"))[1] == [new]
    check(service, other)
    assert rehost(service, other) == 3
    assert all_landed(service, [other])
    assert set(links_of(service, other)) == {new}
    assert len(sandbox.images()) == 1


def test_an_image_that_its_origin_has_no_more_keeps_its_link_and_says_why(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    (url,) = distinct(origin, 1)
    job_id, (link,) = landed(service, [url])
    remove(sandbox, link)
    origin.page("/d-0", answer(b"", "404 Not Found"))
    check(service, job_id)
    assert rehost(service, job_id) == 1
    assert service.finish(job_id)["uploaded"]["completed"] == [link]
    (record,) = service.records(job_id).values()
    assert (record["state"], record["link"], record["sha256"]) == ("completed", link, None)
    assert record["error"]["code"] == "http_status"
    assert retry(service, job_id).json()["requeued"] == 0
    assert rehost(service, job_id) == 0, "it was tried since"
    origin.page("/d-0", answer(PNG))
    assert check(service, job_id)["counts"] == {**NONE, "replaced": 1}
    assert rehost(service, job_id) == 1
    assert all_landed(service, [job_id])
    (record,) = service.records(job_id).values()
    assert record["error"] is None
    assert record["link"] != link


def test_a_cancelled_rehost_leaves_the_links_and_only_finished_jobs_are_rehosted(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    job_id, links = landed(service, distinct(origin, 2))
    for link in links:
        remove(sandbox, link)
    check(service, job_id)
    sandbox.fault("hang", count=0)
    assert rehost(service, job_id) == 2
    assert service.get("/v1/images").json()["uploaded"] == links, "until there are new ones"
    assert_problem(post(service, job_id, "rehost"), 409, "job-busy")
    assert delete(service, job_id) == {"cancelled": 2, "purging": 0}
    assert service.finish(job_id)["uploaded"]["completed"] == links


def test_a_job_is_purged_whether_its_dead_links_were_replaced_or_not(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> None:
    job_id, links = landed(service, distinct(origin, 3))
    remove(sandbox, links[0])
    remove(sandbox, links[1])
    origin.page("/d-1", answer(b"", "404 Not Found"))
    check(service, job_id)
    assert rehost(service, job_id) == 2
    service.finish(job_id)
    assert len(sandbox.images()) == 2
    delete(service, job_id, "?purge=true")
    service.finish(job_id)
    assert sandbox.images() == []
    assert {each["error"]["code"] for each in service.records(job_id).values()} == {"purged"}


# Restarts


def test_a_restart_between_a_rehost_and_its_landing_loses_nothing(
    store: dict[str, Any], origin: Origin, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    with running_service(tmp_path / "t", **store) as service:
        job_id, links = landed(service, distinct(origin, 3))
        remove(sandbox, links[1])
        result = check(service, job_id)
        sandbox.fault("hang", count=0)
        assert rehost(service, job_id) == 1
        sandbox.wait_for("upload", 4)
    sandbox.clear_faults()
    with running_service(tmp_path / "t", **store) as service:
        assert all_landed(service, [job_id])
        now = links_of(service, job_id)
        assert [old == new for old, new in zip(links, now, strict=True)] == [True, False, True]
        kept = service.get(path_of(job_id, "check")).json()
        assert kept == {**result, "links": []}


def test_a_restart_does_not_bring_a_dead_link_back(
    store: dict[str, Any], origin: Origin, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    pages = distinct(origin, 2)
    with running_service(tmp_path / "t", **store) as service:
        job_id, links = landed(service, pages)
        landed(service, pages)  # this one has the same links, and is not checked
        for link in links:
            remove(sandbox, link)
        origin.page("/d-1", answer(b"", "404 Not Found"))
        check(service, job_id)
    with running_service(tmp_path / "t", **store) as service:
        assert rehost(service, job_id) == 2, "the result of the check was kept"
        service.finish(job_id)
        new, kept = links_of(service, job_id)
        assert (kept, new == links[0]) == (links[1], False)
    origin.pages["/d-1"] = answer(PNG + b"d1")
    with running_service(tmp_path / "t", **store) as service:
        _, (again, other) = landed(service, [f"{page}?later" for page in pages])
        assert again == new
        assert other not in links


# Buckets, nodes, the command line


@pytest.mark.parametrize("is_public", [True, False])
def test_a_lost_object_of_a_bucket_is_gone_and_comes_back_at_its_link(
    s3: S3Server, origin: Origin, tmp_path: Path, *, is_public: bool
) -> None:
    with running_service(tmp_path / "t", **s3.options()) as service:
        job_id, links = landed(service, distinct(origin, 2))
        (s3.rclone.folder / links[0].removeprefix(f"{s3.url}/")).unlink()
        s3.is_public = is_public
        s3.fault = lambda received: (  # rclone still has it in its cache
            xml(404, "NoSuchKey")
            if received.method == "HEAD" and links[0].endswith(received.path)
            else None
        )
        result = check(service, job_id)
        other = {} if is_public else {links[1]: "refused"}
        assert states(result) == {links[0]: "gone", **other}, "the keys are asked what is there"
        assert rehost(service, job_id) == 1
        assert all_landed(service, [job_id])
        assert links_of(service, job_id) == links
        assert len(s3.objects()) == 2


def test_a_link_that_a_bucket_refuses_to_its_own_keys_is_not_gone(
    s3: S3Server, origin: Origin, tmp_path: Path
) -> None:
    with running_service(tmp_path / "t", **s3.options()) as service:
        job_id, links = landed(service, distinct(origin, 1))
        s3.is_public = False
        s3.fault = lambda received: xml(403, "AccessDenied") if received.method == "HEAD" else None
        assert states(check(service, job_id)) == {links[0]: "refused"}
        assert rehost(service, job_id) == 0


def test_a_node_without_a_worker_takes_checks_and_rehosts(
    origin: Origin, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    with (
        emptied_database() as url,
        running_service(tmp_path / "api", **wired(sandbox, store=url, role="api")) as api,
        running_service(tmp_path / "w", **wired(sandbox, store=url, role="worker")),
    ):
        pages = distinct(origin, 3)
        job_id, links = landed(api, pages)
        remove(sandbox, links[0])
        check(api, job_id)
        assert rehost(api, job_id) == 1
        assert all_landed(api, [job_id])
        new = links_of(api, job_id)
        assert (new[0] == links[0], new[1:]) == (False, links[1:])
        assert landed(api, [f"{page}?later" for page in pages])[1] == new


@pytest.fixture
def broken(
    service: RunningService, origin: Origin, sandbox: RunningSandbox
) -> tuple[str, list[str]]:
    """A job of two images, of which one was removed, and its links."""
    job_id, links = landed(service, distinct(origin, 2))
    remove(sandbox, links[1])
    return job_id, links


def test_the_command_prints_links_that_are_not_alive_and_with_rehost_their_new_ones(
    cli: Cli, service: RunningService, sandbox: RunningSandbox, broken: tuple[str, list[str]]
) -> None:
    job_id, links = broken
    ended = cli("check", job_id)
    assert (ended.status, ended.out.split()[:3]) == (1, ["replaced", "302", links[1]])
    assert ended.err.endswith("imageload: 2 links: 1 alive, 1 replaced\n")
    ended = cli("check", job_id, "--rehost")
    new = links_of(service, job_id)[1]
    assert (ended.status, ended.out.split()) == (0, [links[1], new])
    assert ended.err.endswith("imageload: 1 of 1 dead link replaced\n")
    assert new != links[1]
    assert cli("check", job_id)[:2] == (0, "")
    remove(sandbox, new)
    (dead,) = json.loads(cli("check", job_id, "--rehost", "--json").out)["links"]
    assert (dead["link"], dead["new_link"]) == (new, links_of(service, job_id)[1])


def test_links_that_cannot_be_replaced_are_listed_by_reason(
    cli: Cli, origin: Origin, broken: tuple[str, list[str]]
) -> None:
    job_id, links = broken
    origin.page("/d-1", answer(status="404 Not Found"))
    ended = cli("check", job_id, "--rehost")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.splitlines()[-2:] == [
        f"imageload: not replaced http_status {links[1]} The origin answered 404 Not Found.",
        "imageload: 0 of 1 dead link replaced",
    ]
