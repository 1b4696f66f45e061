"""Tests of the commands against a real service: output, files and exit status."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageload.cli import urls as lists
from imageload.cli.client import Body, Client
from imageload.cli.output import WAITS
from imageload.lists import split_list
from imageload.targets.limits.breaker import MESSAGES
from imageload.web.intake import read_orders
from sandbox.testing import RunningSandbox
from tests.cli import Cli
from tests.contract import JOB, Contract, running_contract
from tests.origin import IMAGES, Origin, answer, raw, redirect, reset
from tests.relay import running_relay
from tests.service import ROOT, RunningService, running_service
from tests.waiting import PATIENCE


def only_job(service: RunningService) -> str:
    """The id of the one job that there is."""
    (job_id,) = service.service.image_load.job_list_s
    return job_id


def test_every_command_and_option_is_in_the_documentation(bare_cli: Cli) -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    (\w+) ", bare_cli("--help").out, re.MULTILINE)
    assert len(commands) == 12
    for command in commands:
        assert f"`imageload {command}" in text
        if command == "serve":
            continue  # its options are the service's, and in README.md
        for option in re.findall(r"--[a-z-]+", bare_cli(command, "--help").out):
            assert option == "--help" or f"`{option}" in text, option


# upload


def test_links_are_printed_in_the_order_of_the_input_and_nothing_else(
    cli: Cli, service: RunningService, origin: Origin
) -> None:
    second_asked = threading.Event()

    def last_to_come(connection: socket.socket) -> None:
        assert second_asked.wait(PATIENCE)
        answer((IMAGES / "png-rgb.png").read_bytes())(connection)

    def quick(connection: socket.socket) -> None:
        second_asked.set()
        answer((IMAGES / "gif-89a.gif").read_bytes())(connection)

    urls = [origin.page("/slow.png", last_to_come), origin.page("/quick.gif", quick)]
    ended = cli("upload", *urls)
    records = service.records(only_job(service))
    assert ended.status == 0
    assert ended.lines == [records[url]["link"] for url in urls]
    assert ended.err.splitlines()[-1] == "imageload: 2 of 2 landed"


def test_a_failure_is_listed_with_its_reason_and_makes_the_status_1(
    cli: Cli, origin: Origin
) -> None:
    ended = cli("upload", origin.image("png-rgb.png"), origin.url + "/gone.png")
    assert ended.status == 1
    assert len(ended.lines) == 1
    (line,) = [line for line in ended.err.splitlines() if " failed " in line and "gone" in line]
    assert line == (
        f"imageload: failed http_status {origin.url}/gone.png The origin answered 404 Not Found."
    )


def test_many_failures_of_one_reason_are_one_line_and_three_examples(
    cli: Cli, origin: Origin
) -> None:
    urls = [f"{origin.url}/gone/{number}" for number in range(5)]
    failures = cli("upload", *urls, "no://url").err.splitlines()[-7:]
    assert failures == [
        "imageload: 5 images failed http_status: The origin answered 404 Not Found.",
        *[f"imageload:     {url}" for url in urls[:3]],
        "imageload:     and 2 more",
        failures[-2],
        "imageload: 0 of 6 landed, 6 failed",
    ]
    assert failures[-2].startswith("imageload: failed invalid_url no://url ")


def test_the_file_of_failed_urls_can_be_uploaded_again(
    cli: Cli, origin: Origin, tmp_path: Path
) -> None:
    file = tmp_path / "failed.txt"
    ended = cli("upload", "--failed-to", str(file), origin.image("gif-89a.gif"), f"{origin.url}/a")
    assert (ended.status, file.read_text()) == (1, f"{origin.url}/a\n")
    origin.page("/a", answer((IMAGES / "png-rgb.png").read_bytes()))
    ended = cli("upload", "--failed-to", str(file), str(file))
    assert (ended.status, len(ended.lines), file.read_bytes()) == (0, 1, b"")


@pytest.mark.parametrize("form", ["text", "json", "lists"])
def test_a_file_is_posted_as_the_api_accepts_it(
    cli: Cli, service: RunningService, origin: Origin, tmp_path: Path, form: str
) -> None:
    one, other = origin.image("png-rgb.png"), origin.image("gif-89a.gif")
    file = tmp_path / "urls"
    forms = {
        "text": f"\ufeff{one},{other}\n",
        "json": json.dumps({"urls": [one, other]}),
        "lists": json.dumps([[one], [other]]),
    }
    file.write_text(forms[form], encoding="utf-8")
    ended = cli("upload", str(file))
    assert (ended.status, len(ended.lines)) == (0, 2)
    assert len(service.service.image_load.job_list_s) == (2 if form == "lists" else 1)


def test_no_dedupe_uploads_the_same_images_again(
    cli: Cli, sandbox: RunningSandbox, origin: Origin, tmp_path: Path
) -> None:
    file = tmp_path / "urls.txt"
    file.write_text(f"{origin.image('png-rgb.png')}\n\n")
    first, again = cli("upload", str(file)), cli("upload", str(file))
    anew = cli("upload", "--no-dedupe", str(file))
    assert first.out == again.out != anew.out
    assert len(sandbox.images()) == 2


def test_detach_prints_the_job_id_and_watch_follows_the_job(
    cli: Cli, service: RunningService, origin: Origin
) -> None:
    ended = cli("upload", "--detach", origin.image("png-rgb.png"))
    assert ended == (0, f"{only_job(service)}\n", "")
    watched = cli("watch", only_job(service))
    assert (watched.status, len(watched.lines)) == (0, 1)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("text", "{link}\n"),
        ("markdown", "![png-rgb.png]({link})\n"),
        ("bbcode", "[img]{link}[/img]\n"),
        ("html", '<img src="{link}" alt="png-rgb.png">\n'),
    ],
)
def test_links_are_printed_in_formats_to_paste(
    cli: Cli, origin: Origin, form: str, expected: str
) -> None:
    link = cli("upload", origin.image("png-rgb.png")).out.strip()
    ended = cli("upload", "--format", form, origin.image("png-rgb.png"), origin.url + "/gone")
    assert (ended.status, ended.out) == (1, expected.format(link=link))


def test_csv_and_json_have_every_image(cli: Cli, origin: Origin) -> None:
    good, gone = origin.image("png-rgb.png"), origin.url + "/gone,1"
    table = list(csv.DictReader(io.StringIO(cli("upload", "--format=csv", good, gone).out)))
    assert [(row["url"], row["error"]) for row in table] == [(good, ""), (gone, "http_status")]
    records = json.loads(cli("upload", "--format=json", good, gone).out)
    assert [record["link"] for record in records] == [table[0]["link"], None]


def test_no_name_breaks_out_of_its_format(cli: Cli, origin: Origin) -> None:
    body = (IMAGES / "png-rgb.png").read_bytes()
    url = f"{origin.url}/x](http:%2F%2Fevil)%22%3E%3Cb%3E.png"
    origin.default = answer(body)
    shown = cli("upload", "--format=markdown", url).out
    assert shown.startswith(r'![x\](http://evil)"\>\<b\>.png](http://127')
    assert ' alt="x](http://evil)&quot;&gt;&lt;b&gt;.png">' in (
        cli("upload", "--format=html", url).out
    )


# errors

LOCAL = ["upload", "--local", "http://x/", "--", "--imgur-client-id=test"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["upload"], "FILE|URL|-"),
        (["upload", "no-such-file"], "There is no file no-such-file"),
        (["upload", "tests"], "tests cannot be read: Is a directory"),
        (["upload", "a\0b"], "cannot be read"),
        (["upload", "http://x/", "README.md"], "Give URLs, one FILE, or -"),
        (["upload", "--format=pdf", "http://x/"], "invalid choice"),
        (["upload", "--failed-to=/no/such/x", "http://x/"], "/no/such/x cannot be written"),
        (["upload", "--local", "--detach", "http://x/"], "--local cannot be combined with"),
        (["upload", "--patience=soon", "http://x/"], "'soon' is not a number of seconds"),
        (["upload", "--server=localhost:8888", "http://x/"], "http://host:port"),
        (["upload", "--server=http://[", "http://x/"], "http://host:port"),
        (["upload", "--server=http://a..b/", "http://x/"], "http://host:port"),
        (["upload", "--token=geheim\n", "http://x/"], "The token contains characters"),
        (["upload", "--album=A", "pyproject.toml"], "begins like JSON but is not valid"),
        (["jobs", "--limit=0"], "'0' is not a positive number"),
        ([*LOCAL, "--max-bytes=x"], "'x' is not valid"),
        ([*LOCAL, "--no-such-option"], "unrecognized arguments"),
    ],
)
def test_misuse_exits_with_2_and_a_message(bare_cli: Cli, arguments: list[str], said: str) -> None:
    ended = bare_cli(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err
    assert "geheim" not in ended.err


def test_a_list_that_the_service_refuses_is_misuse(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "empty.txt"
    file.write_bytes(b"\n , \n")
    ended = cli("upload", str(file))
    assert (ended.status, ended.out) == (2, "")
    assert "answered 400: There is no URL in it." in ended.err


def test_a_missing_service_is_reported_at_once(bare_cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    ended = bare_cli("upload", f"--server=http://a:geheim@127.0.0.1:{port}", "http://x.example/")
    assert ended.status == 1
    assert ended.err == (
        f"imageload: No answer from http://127.0.0.1:{port}: Connection refused. "
        "`imageload serve` starts a service; --local needs none.\n"
    )


def test_another_server_is_not_taken_for_the_service(bare_cli: Cli, origin: Origin) -> None:
    origin.page("/v1/images/upload", answer(b"<html>hello</html>"))
    ended = bare_cli("jobs", "--server", origin.url)
    assert ended.status == 1
    assert f"The server at {origin.url} is not an imageload service." in ended.err


def test_a_server_without_http_causes_no_traceback(bare_cli: Cli, origin: Origin) -> None:
    origin.page("/v1/images/upload", raw(b"\x15\x03\x01\x00\x02\x02\x16"))
    assert bare_cli("jobs", "--server", origin.url).status == 1


def test_a_list_whose_response_was_lost_is_not_posted_again(bare_cli: Cli, origin: Origin) -> None:
    origin.page("/v1/images/upload", reset)
    ended = bare_cli("upload", "--server", origin.url, "http://x.example/a.png")
    assert ended.status == 1
    assert "The service may have accepted the list: see `imageload jobs`." in ended.err
    assert origin.requests["/v1/images/upload"] == 1


def test_an_unknown_job_is_status_1(cli: Cli) -> None:
    for command in ("status", "watch", "links"):
        ended = cli(command, "../4227cacf")
        assert ended.status == 1
        assert "job" in ended.err


def test_a_full_backlog_is_waited_for_up_to_the_limit(
    bare_cli: Cli, sandbox: RunningSandbox, origin: Origin, tmp_path: Path
) -> None:
    hanging = origin.page("/hangs", origin.hang)
    with running_service(
        tmp_path / "t", imgur_base_url=sandbox.url, max_active_jobs=1, max_waiting_jobs=1
    ) as service:
        for number in range(2):
            service.submit([f"{hanging}?{number}"])
        begun = time.monotonic()
        ended = bare_cli("upload", "--patience=0.1", "--server", service.url, "http://x.example/")
        assert time.monotonic() - begun < 29, "the service asks for 30 s"
        assert ended.status == 1
        assert "Trying again for 0.1 s." in ended.err
        assert "The backlog is full" in ended.err.splitlines()[-1]
        assert len(service.service.image_load.job_list_s) == 2


# status, jobs, links


def test_status_prints_the_failures_and_then_the_progress(
    cli: Cli, service: RunningService, origin: Origin
) -> None:
    job_id = service.submit([origin.image("png-rgb.png"), origin.url + "/gone"])
    service.finish(job_id)
    ended = cli("status", job_id)
    assert ended.status == 0
    assert ended.lines[0].startswith(f"failed http_status {origin.url}/gone ")
    assert ended.lines[-2].endswith(": complete")
    assert ended.lines[-1] == "1 of 2 landed, 1 failed, 0 pending"
    assert json.loads(cli("status", "--format=json", job_id).out)["counts"]["failed"] == 1


def test_status_prints_a_reason_once_and_each_of_its_urls(
    cli: Cli, service: RunningService, origin: Origin
) -> None:
    urls = [f"{origin.url}/gone/{number}" for number in range(30)]
    job_id = service.submit(urls)
    service.finish(job_id)
    lines = cli("status", job_id).lines
    assert lines[0] == "30 images failed http_status: The origin answered 404 Not Found."
    assert lines[1:31] == [f"    {url}" for url in urls]
    assert lines[-1] == "0 of 30 landed, 30 failed, 0 pending"


def test_a_job_is_named_by_latest_or_by_the_beginning_of_its_id(
    cli: Cli, service: RunningService, origin: Origin
) -> None:
    first, second = (service.submit([origin.url + "/gone"]) for _ in range(2))
    for job_id in (first, second):
        service.finish(job_id)
    assert cli("status", first[:12]).lines[-2].startswith(f"job {first}, created ")
    for command in ("links", "check", "retry", "cancel", "undo"):
        assert cli(command, "latest").err.startswith(f"imageload: job {second}\n"), command
    assert cli("watch", "latest", second[:12], first).err.startswith(
        f"imageload: job {second} {first}\n"
    )


def test_a_name_that_may_mean_several_jobs_is_misuse_and_lists_them(
    bare_cli: Cli, contract: Contract
) -> None:
    ids = [f"4227cacf-2ee1-4b52-b231-11030000000{n}" for n in range(3)]
    contract.put("GET /v1/images/upload", {"jobs": [{"job_id": each} for each in ids]})
    ended = bare_cli("undo", "4227c")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == f"imageload: 4227c may be any of these 3 jobs: {', '.join(ids)}\n"
    assert bare_cli("undo", "422").status == 2
    unknown = bare_cli("undo", "5555")
    assert (unknown.status, "has no job 5555" in unknown.err) == (1, True)
    assert {each.target for each in contract.asked} == {"GET /v1/images/upload?limit=1000"}


def test_jobs_are_listed_newest_first(cli: Cli, service: RunningService, origin: Origin) -> None:
    ids = [service.submit([origin.image("png-rgb.png")]) for _ in range(3)]
    for job_id in ids:
        service.finish(job_id)
    rows = cli("jobs", "--limit=2").lines
    assert [row.split()[0] for row in rows] == ["JOB", ids[2], ids[1]]
    assert rows[1].split()[2:] == ["complete", "1", "0", "1"]
    assert [job["job_id"] for job in json.loads(cli("jobs", "--format=json").out)] == ids[::-1]


def test_links_are_those_of_a_job_or_of_all(
    cli: Cli, service: RunningService, origin: Origin
) -> None:
    names = ("png-rgb.png", "gif-89a.gif")
    first, second = (service.submit([origin.image(name)]) for name in names)
    (one,) = service.finish(first)["uploaded"]["completed"]
    (other,) = service.finish(second)["uploaded"]["completed"]
    assert cli("links", second).lines == [other]
    assert cli("links").lines == [one, other]
    assert cli("links", "--format=bbcode").lines[0] == f"[img]{one}[/img]"


def test_a_job_of_many_pages_is_printed_whole(cli: Cli, service: RunningService) -> None:
    job_id = service.submit([f"no-url-{number}" for number in range(1_500)])
    service.finish(job_id)
    rows = cli("links", "--format=csv", job_id).lines[1:]
    assert rows == [f"no-url-{number},,invalid_url" for number in range(1_500)]


# retry, cancel, undo, quota


def test_retry_loads_failed_images_in_their_job(
    cli: Cli, service: RunningService, origin: Origin
) -> None:
    job_id = service.submit([origin.url + "/late", origin.url + "/never"])
    service.finish(job_id)
    origin.page("/late", answer((IMAGES / "png-rgb.png").read_bytes()))
    assert cli("retry", "--only=transient", job_id) == (0, "0 images tried again\n", "")
    assert cli("retry", job_id) == (0, "2 images tried again\n", "")
    watched = cli("watch", job_id)
    assert (watched.status, len(watched.lines)) == (1, 1)
    assert cli("links", job_id).out == watched.out


def test_cancel_ends_pending_images(cli: Cli, service: RunningService, origin: Origin) -> None:
    job_id = service.submit([origin.page("/hangs", origin.hang), origin.page("/too", origin.hang)])
    assert origin.hanging.acquire(timeout=PATIENCE)
    assert cli("cancel", job_id) == (0, "2 images cancelled\n", "")
    watched = cli("watch", job_id)
    assert (watched.status, watched.err.count("cancelled http")) == (1, 2)
    assert cli("status", job_id).lines[-1] == "0 of 2 landed, 2 cancelled, 0 pending"


def test_undo_leaves_nothing_on_imgur(
    cli: Cli, service: RunningService, sandbox: RunningSandbox, origin: Origin
) -> None:
    job_id = service.submit([origin.image("png-rgb.png"), origin.image("gif-89a.gif")])
    service.finish(job_id)
    ended = cli("undo", job_id)
    assert (ended.status, ended.out) == (0, "")
    assert ended.err.startswith("imageload: deleting 2 images\n")
    assert ended.err.endswith("imageload: 2 of 2 deleted\n")
    assert sandbox.images() == []
    assert cli("links", job_id).out == ""
    assert cli("undo", job_id) == (0, "", "imageload: no image to delete\n")
    assert cli("status", job_id).lines[-1] == "0 of 2 landed, 2 deleted, 0 pending"


def test_undo_lists_images_that_could_not_be_deleted(
    cli: Cli, service: RunningService, sandbox: RunningSandbox, origin: Origin
) -> None:
    job_id = service.submit([origin.image("png-rgb.png")])
    (link,) = service.finish(job_id)["uploaded"]["completed"]
    sandbox.fault("answer", status=400, match="DELETE")
    ended = cli("undo", job_id)
    assert ended.status == 1
    assert re.search(rf"imageload: not deleted \w+ {re.escape(link)} ", ended.err)
    assert ended.err.endswith("imageload: 0 of 1 image deleted\n")
    assert len(sandbox.images()) == 1


def test_an_album_and_titles_get_to_imgur(
    cli: Cli, sandbox: RunningSandbox, origin: Origin, tmp_path: Path
) -> None:
    file = tmp_path / "urls.txt"
    file.write_text(origin.image("png-rgb.png"))
    options = ["--album=Birds", "--title=A bird", "--description=It flies."]
    ended = cli("upload", *options, "--format=markdown", str(file))
    assert ended.status == 0
    assert ended.out.startswith("![A bird](http")
    assert f"imageload: album 'Birds': {sandbox.url}/a/" in ended.err
    assert ended.err.endswith("imageload: 1 of 1 landed\n")
    (image,) = sandbox.images()
    assert (image["title"], image["description"]) == ("A bird", "It flies.")


def test_quota_lists_the_budgets_of_imgur(cli: Cli, origin: Origin) -> None:
    assert cli("upload", origin.image("png-rgb.png")).status == 0
    ended = cli("quota")
    assert ended.status == 0
    assert ended.lines[:2] == [
        "Uploads are not waiting.",
        "0 images pending, 0 of them downloaded and waiting",
    ]
    budgets = json.loads(cli("quota", "--format=json").out)["budgets"]
    assert [row.split()[1] for row in ended.lines[3:]] == [each["budget"] for each in budgets]


def test_every_command_prints_one_json_document(
    cli: Cli, service: RunningService, origin: Origin
) -> None:
    def said(*arguments: str) -> Any:
        return json.loads(cli(*arguments, "--json").out)

    urls = [origin.image("png-rgb.png"), origin.url + "/gone"]
    (job_id,) = said("upload", "--detach", *urls)["jobId"]
    assert [record["state"] for record in said("watch", job_id)] == ["completed", "failed"]
    assert said("links", job_id) == said("watch", job_id)
    assert [said("status", job_id)] == said("jobs")
    assert said("check", job_id)["counts"]["alive"] == 1
    assert said("retry", job_id) == {"job_id": job_id, "requeued": 1}
    service.finish(job_id)
    assert said("cancel", job_id) == {"job_id": job_id, "cancelled": 0}
    numbers = {"cancelled": 0, "purging": 1}
    assert said("undo", job_id) == {"job_id": job_id, **numbers, "not_deleted": []}
    assert said("quota")["pending"] == 0


# on the way


def test_following_a_job_among_many_requests_only_its_entry(
    service: RunningService, origin: Origin
) -> None:
    oldest = service.submit([f"no-url-{number}" for number in range(2_000)])
    for _ in range(30):
        service.submit([origin.image("png-rgb.png")])
    with running_relay(service.url) as relay:
        client = Client(relay.url)
        client.entries([oldest])
        before = relay.answered
        (entry,) = client.entries([oldest])
        assert entry["counts"]["total"] == 2_000
        assert relay.answered - before < 1_000


def test_a_job_is_found_after_its_neighbour_in_the_list_was_retired(
    service: RunningService, origin: Origin
) -> None:
    ours, neighbour = (service.submit([origin.image("png-rgb.png")]) for _ in range(2))
    client = Client(service.url)
    client.entries([ours])
    del service.service.image_load.job_list_s[neighbour]
    (entry,) = client.entries([ours])
    assert entry["job_id"] == ours


def test_a_proxy_in_the_environment_is_not_used_for_this_machine(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert cli("jobs").status == 0


# prepared states of the API


@pytest.fixture
def contract(monkeypatch: pytest.MonkeyPatch) -> Iterator[Contract]:
    """A server of prepared responses that the command line uses."""
    with running_contract() as running:
        monkeypatch.setenv("IMAGELOAD_SERVER", running.url)
        yield running


def record(**fields: object) -> dict[str, object]:
    """A record of the images page."""
    plain = {"url": "http://x.example/a.png", "state": "completed", "link": "l", "error": None}
    return {**plain, **fields}


FINISHED = {"status": "complete", "finished": True}
RECORDS = f"GET /v1/images/upload/{JOB}/images"


def test_the_token_is_sent_and_never_printed(
    bare_cli: Cli, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGELOAD_API_TOKEN", "geheim")
    contract.put("GET /v1/images/upload", {"detail": "Send a token."}, status=401)
    ended = bare_cli("jobs")
    assert ended.status == 2
    assert "Send a token. Set the token with IMAGELOAD_API_TOKEN" in ended.err
    assert "geheim" not in ended.err + ended.out + bare_cli("jobs", "--help").out
    assert contract.asked[0].headers["Authorization"] == "Bearer geheim"


def test_options_of_an_upload_are_keys_of_the_post(
    bare_cli: Cli, contract: Contract, tmp_path: Path
) -> None:
    file = tmp_path / "urls.json"
    item = {"url": "http://x.example/", "title": "own"}
    file.write_text(json.dumps({"urls": [item], "album": "old", "x": 1}))
    contract.put("POST /v1/images/upload", {"jobId": [JOB]}, status=202)
    options = ["--album=New", "--title=T", "--description=D", "--no-dedupe", "--detach"]
    assert bare_cli("upload", *options, str(file)).out == f"{JOB}\n"
    posted = {"album": "New", "title": "T", "description": "D", "dedupe": False}
    assert json.loads(contract.asked[0].body) == {"urls": [item], "x": 1, **posted}


def test_a_list_is_not_posted_to_the_target_of_a_redirect(bare_cli: Cli, origin: Origin) -> None:
    origin.page("/v1/images/upload", redirect("https://x.example/"))
    ended = bare_cli("upload", "--server", origin.url, "http://x.example/")
    assert (ended.status, ended.out) == (2, "")
    assert f"{origin.url} redirects to https://x.example/." in ended.err


def test_a_list_is_posted_again_to_a_busy_service(bare_cli: Cli, contract: Contract) -> None:
    contract.put("POST /v1/images/upload", {"detail": "The backlog is full."}, status=429)
    contract.put("POST /v1/images/upload", {"jobId": [JOB]}, status=202)
    ended = bare_cli("upload", "--detach", "http://x.example/")
    assert (ended.status, ended.out) == (0, f"{JOB}\n")
    assert "The backlog is full. Trying again for 60 s." in ended.err


def local(form: str) -> str:
    """The beginning of 2026 in UTC, by the clock here."""
    return datetime(2026, 1, 1, tzinfo=UTC).astimezone().strftime(form)


def test_the_reason_of_a_wait_is_printed_once(bare_cli: Cli, contract: Contract) -> None:
    waiting = {"waiting_for": "user", "waiting_until": "2026-01-01T00:00:00Z"}
    contract.put_job(waiting, waiting, {}, FINISHED)
    contract.put(RECORDS, {"images": []})
    ended = bare_cli("watch", JOB)
    assert ended.status == 0
    said = [line for line in ended.err.splitlines() if "ait" in line]
    assert said == [
        "imageload: Waiting for Imgur's hourly budget of this address or account, "
        f"until {local('%Y-%m-%d %H:%M:%S %Z')}.",
        "imageload: The wait is over.",
    ]


def test_every_reason_of_a_wait_has_its_words() -> None:
    assert set(MESSAGES) == set(WAITS)


def test_an_album_that_failed_makes_the_status_1(bare_cli: Cli, contract: Contract) -> None:
    good = {"title": "A", "link": "https://imgur.com/a/x", "error": None}
    bad = {"title": "B", "link": None, "error": {"code": "x", "message": "Imgur said no."}}
    contract.put_job({**FINISHED, "album": good}, {**FINISHED, "album": good})
    contract.put_job({**FINISHED, "album": bad})
    contract.put(RECORDS, {"images": [record()]})
    ended = bare_cli("watch", JOB)
    assert (ended.status, "album 'A': https://imgur.com/a/x" in ended.err) == (0, True)
    ended = bare_cli("watch", JOB)
    assert (ended.status, "album 'B': Imgur said no." in ended.err) == (1, True)


def test_undo_waits_for_the_end_of_the_purge_and_lists_the_remaining_images(
    bare_cli: Cli, contract: Contract
) -> None:
    path = f"/v1/images/upload/{JOB}"
    contract.put(f"DELETE {path}?purge=true", {"cancelled": 0, "purging": 2}, status=202)
    before = {"total": 2, "pending": 0, "completed": 2, "failed": 0}
    after = {"total": 2, "pending": 0, "completed": 1, "failed": 1}
    contract.put_job({"counts": before}, {**FINISHED, "counts": after})
    kept = record(link="https://i.imgur.com/k.png", error={"code": "x", "message": "No."})
    contract.put(RECORDS, {"images": [kept]})
    ended = bare_cli("undo", JOB)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.splitlines() == [
        "imageload: deleting 2 images",
        "imageload: 0 of 2 deleted",
        "imageload: 1 of 2 deleted",
        "imageload: not deleted x https://i.imgur.com/k.png No.",
        "imageload: 1 of 2 images deleted",
    ]
    contract.answers[RECORDS].clear()
    contract.put(RECORDS, {"images": []})
    assert bare_cli("undo", JOB).status == 0


def test_quota_prints_the_remaining_credits_and_the_reset(
    bare_cli: Cli, contract: Contract
) -> None:
    budget = {"client": 1, "budget": "user", "limit": 500, "remaining": 3}
    state = {
        "waiting_until": "2026-01-01T00:00:00Z",
        "waiting_for": "client",
        "reason": "Daily client requests exceeded",
        "parked": 4,
        "pending": 1_200,
        "done_at": None,
        "budgets": [{**budget, "resets_at": "2026-01-01T00:00:00Z"}],
    }
    contract.put("GET /v1/quota", state)
    ended = bare_cli("quota")
    assert ended.status == 0
    assert ended.lines[:3] == [
        "Waiting for Imgur's daily budget of the client id, "
        f"until {local('%Y-%m-%d %H:%M:%S %Z')}.",
        "Reason: Daily client requests exceeded",
        "1,200 images pending, 4 of them downloaded and waiting",
    ]
    assert ended.lines[-1].split() == ["1", "user", "3", "500", "2026-01-01T00:00:00Z"]
    assert json.loads(bare_cli("quota", "--format=json").out) == state


# lists


def urls_of(body: Body) -> list[str]:
    """The URLs that the service reads from the body."""
    (order,) = read_orders(body.content, body.content_type, max_urls=1_000, max_lists=1)
    return [item if isinstance(item, str) else item.url for item in order.items]


_entries = st.text("ab:/,h \n\r\t\ufeff[{\"'\u2028\x1b", min_size=1, max_size=8) | st.sampled_from(
    ["http://a.example/,b", "https://b.example/x,http://c.example/", ",http://d.example/,,"]
)


@given(st.lists(_entries, min_size=1))
def test_text_is_split_as_the_service_splits_it(entries: list[str]) -> None:
    text = "h://x," + ",".join(entries)
    body = Body(text.encode(), "text/plain")
    assert urls_of(body) == list(dict.fromkeys(split_list(text)))


@given(st.lists(_entries.map(str.strip).filter(bool), min_size=1, unique=True))
def test_a_file_of_failed_urls_is_read_back_unchanged(urls: list[str]) -> None:
    content = lists.list_of({"url": url} for url in urls)
    assert urls_of(lists.as_posted(content, {})) == urls


def test_the_file_of_failed_urls_keeps_titles() -> None:
    records = [{"url": "http://x.example/", "title": "Bird", "description": None}]
    assert json.loads(lists.list_of(records)) == [{"url": "http://x.example/", "title": "Bird"}]
