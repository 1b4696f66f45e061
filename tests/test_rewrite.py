"""Tests of `imageload rewrite` and of documents of `imageload upload`, against a real service."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import pytest

from imageload.cli import archive, documents, files
from imageload.documents import kinds
from sandbox.testing import RunningSandbox
from tests.cli import Cli, in_a_pipe
from tests.notes import rewritten_with_a_kill
from tests.origin import IMAGES, Origin, answer
from tests.relay import Relay, running_relay
from tests.service import RunningService, running_service, wired


def jobs(service: RunningService) -> list[str]:
    """The ids of all jobs."""
    listed = service.get("/v1/images/upload?limit=1000").json()["jobs"]
    return [str(job["job_id"]) for job in listed]


def links(service: RunningService) -> dict[str, str]:
    """The link of each URL of all jobs that has one."""
    found = {}
    for job_id in jobs(service):
        for url, record in service.records(job_id).items():
            if record["link"]:
                found[url] = record["link"]
    return found


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


# A whole folder


def test_a_killed_run_goes_on_and_changes_nothing_but_urls(
    notes: Path, origin: Origin, sandbox: RunningSandbox, service: RunningService
) -> None:
    counts = rewritten_with_a_kill(notes, origin, sandbox, service, 20)
    assert counts.is_right(), counts


def test_a_folder_goes_below_the_output_and_stays_as_it_is(
    cli: Cli, service: RunningService, origin: Origin, notes: Path, tmp_path: Path
) -> None:
    url = origin.image("png-rgb.png")
    (notes / "deep" / ".git").mkdir(parents=True)
    (notes / ".obsidian").mkdir()
    text = f"![]({url})\n"
    for name in ("a.md", "deep/b.html.md", ".hidden.md", "deep/.git/c.md", ".obsidian/d.md"):
        (notes / name).write_text(text)
    (notes / "plain.txt").write_text("No image.\n")
    (notes / "photo.bin").write_bytes(b"\0")
    (notes / "binary.md").write_bytes(b"\0")
    (notes / "program.py").write_text(text)
    (tmp_path / "outside.md").write_text(text)
    (notes / "link.md").symlink_to(tmp_path / "outside.md")
    (notes / "folder").symlink_to(tmp_path)
    (notes / "a.md").chmod(0o640)
    output = notes / "out"
    ended = cli("rewrite", str(notes), f"--output={output}")
    assert (ended.status, ended.out) == (0, "")
    assert ended.err.endswith("2 of 3 documents rewritten, 2 of 2 images replaced\n")
    written = {str(path.relative_to(output)): path for path in output.rglob("*") if path.is_file()}
    assert sorted(written) == [".imageload", "a.md", "deep/b.html.md", "plain.txt"]
    assert written["a.md"].read_text() == text.replace(url, links(service)[url])
    assert written["a.md"].stat().st_mode & 0o777 == 0o640
    assert written["plain.txt"].read_text() == "No image.\n"
    assert (notes / "a.md").read_text() == text
    again = cli("rewrite", str(notes), f"--output={output}")
    assert (again.status, len(jobs(service))) == (0, 2)
    assert again.err.endswith("2 documents done before\n")


def test_what_is_done_in_the_output_needs_no_service_that_remembers(
    bare_cli: Cli, sandbox: RunningSandbox, origin: Origin, notes: Path, tmp_path: Path
) -> None:
    (notes / "a.md").write_text(f"![]({origin.image('png-rgb.png')})\n")
    (notes / "b.md").write_text(f"![]({origin.url}/later.png)\n")
    command = ["rewrite", str(notes), f"--output={tmp_path / 'out'}"]
    with running_service(tmp_path / "one", **wired(sandbox)) as service:
        assert bare_cli(*command, f"--server={service.url}").status == 1
    origin.page("/later.png", answer((IMAGES / "gif-89a.gif").read_bytes()))
    with running_service(tmp_path / "two", **wired(sandbox)) as service:
        assert bare_cli(*command, f"--server={service.url}").status == 0
        assert len(jobs(service)) == 1
    assert len(sandbox.images()) == 2
    assert sandbox.url in (tmp_path / "out" / "b.md").read_text()


def test_each_documents_own_url_is_below_that_of_its_folder(
    cli: Cli, origin: Origin, notes: Path
) -> None:
    (notes / "ä b").mkdir()
    for name in ("ä b/c.md", "d.md"):
        (notes / name).write_text("![](../images/png-rgb.png) ![](images/1.png)\n")
    image = (IMAGES / "png-rgb.png").read_bytes()
    for path in ("/docs/images/png-rgb.png", "/docs/%C3%A4%20b/images/1.png", "/docs/images/1.png"):
        origin.page(path, answer(image))
    ended = cli("rewrite", str(notes), "--in-place", f"--base={origin.url}/docs")
    assert ended.status == 0, ended.err
    assert "](images" not in (notes / "ä b/c.md").read_text() + (notes / "d.md").read_text()
    assert origin.requests["/docs/%C3%A4%20b/images/1.png"] == 1


# What stays


def test_what_stays_is_listed_with_its_place_and_makes_the_status_1(
    cli: Cli, origin: Origin, notes: Path
) -> None:
    path = notes / "a.md"
    gone = [f"{origin.url}/gone/{number}.png" for number in range(5)]
    text = "".join(f"\n![]({url})\n" for url in gone) + "![](local.png)\n"
    path.write_text(text + f"![]({origin.image('png-rgb.png')})\n")
    ended = cli("rewrite", "--in-place", str(notes))
    assert ended.status == 1
    lines = ended.err.splitlines()
    reason = "5 images failed http_status: The origin answered 404 Not Found."
    at = lines.index(f"imageload: {reason}")
    assert lines[at + 1 : at + 3] == [
        f"imageload:     {path}:{2 * n + 2} {gone[n]}" for n in range(2)
    ]
    assert lines[at + 4 :] == [
        "imageload:     and 2 more",
        "imageload: 1 of 1 document rewritten, 1 of 6 images replaced, 5 images failed",
    ]
    assert f"imageload: ignored {path}:11 local.png A relative URL: name" in ended.err
    assert text in path.read_text()
    report = json.loads(cli("rewrite", "--in-place", "--json", str(notes)).out)
    assert (report["images"], report["replaced"], report["refused"]) == (5, 0, [])
    assert report["failed"][1] == {
        "file": str(path),
        "line": 4,
        "url": gone[1],
        "code": "http_status",
        "message": "The origin answered 404 Not Found.",
    }
    assert report["ignored"][0]["text"] == "local.png"


def test_another_run_retries_what_failed(
    cli: Cli, service: RunningService, origin: Origin, notes: Path
) -> None:
    path = notes / "a.md"
    path.write_text(f"![]({origin.url}/late.png)\n")
    assert cli("rewrite", "--in-place", str(path)).status == 1
    origin.page("/late.png", answer((IMAGES / "png-rgb.png").read_bytes()))
    assert cli("rewrite", "--in-place", str(path)).status == 0
    assert len(jobs(service)) == 1
    assert path.read_text() == f"![]({links(service)[f'{origin.url}/late.png']})\n"


def test_documents_without_images_and_binary_files_stay(
    cli: Cli, service: RunningService, notes: Path
) -> None:
    before = {"a.md": b"# No image\n", "b.md": b"", "c.md": b"![](http://x/\0.png)", "d.md": b" \n"}
    for name, content in before.items():
        (notes / name).write_bytes(content)
    ended = cli("rewrite", "--in-place", "--backup", str(notes))
    assert ended.status == 0
    assert f"left out {notes / 'c.md'} It is binary.\n" in ended.err
    assert {path.name: path.read_bytes() for path in notes.iterdir()} == before
    assert not jobs(service)


def test_a_document_that_the_service_refuses_does_not_hold_up_others(
    bare_cli: Cli, sandbox: RunningSandbox, origin: Origin, notes: Path, tmp_path: Path
) -> None:
    url = origin.image("png-rgb.png")
    (notes / "a.md").write_text(f"![]({url})\n")
    (notes / "b.md").write_text(f"![]({url})\n" + "x" * 2_000)
    (notes / "c.html").write_text(f"<img src='{url}'>\n")
    with running_service(tmp_path / "t", **wired(sandbox, max_documents_bytes=1_000)) as service:
        ended = bare_cli("rewrite", "--in-place", str(notes), f"--server={service.url}")
    assert ended.status == 1
    assert f"not rewritten {notes / 'b.md'} {service.url} answered 413: " in ended.err
    assert url not in (notes / "a.md").read_text() + (notes / "c.html").read_text()


def test_a_file_that_changes_meanwhile_is_not_overwritten(
    service: RunningService, origin: Origin, notes: Path
) -> None:
    path = notes / "a.md"
    path.write_text(f"![]({origin.page('/held.png', origin.hang)})\n")
    with in_a_pipe("rewrite", "--in-place", str(path), f"--server={service.url}") as command:
        assert origin.hanging.acquire(timeout=60)
        path.write_text("Mine.\n")
        origin.page("/held.png", answer((IMAGES / "png-rgb.png").read_bytes()))
        origin.released.set()
        assert command.end() == 1
        assert "It has changed meanwhile: run the command again." in command.shown
    assert path.read_text() == "Mine.\n"


# Files


def test_a_file_is_printed_and_so_is_stdin(
    service: RunningService, origin: Origin, notes: Path
) -> None:
    url = origin.image("png-rgb.png")
    content = f"Vögel ![ä]({url})\r\n".encode("latin-1")
    (notes / "a.md").write_bytes(content)
    for source in (str(notes / "a.md"), "-"):
        with in_a_pipe("rewrite", source, stdin=content, IMAGELOAD_SERVER=service.url) as command:
            assert command.process.stdout is not None
            out = command.process.stdout.read()
            assert command.end() == 0
            assert out == content.replace(url.encode(), links(service)[url].encode())
    assert (notes / "a.md").read_bytes() == content


def test_a_replaced_file_keeps_its_permissions_and_its_backups(
    cli: Cli, service: RunningService, origin: Origin, notes: Path
) -> None:
    url, path = origin.image("png-rgb.png"), notes / "a.md"
    text = f"![]({url})\n"
    path.write_text(text)
    path.chmod(0o604)
    (notes / "a.md.bak").write_text("Something else.\n")
    (notes / "link.md").symlink_to(path)
    assert cli("rewrite", "--in-place", "--backup", str(notes / "link.md")).status == 0
    new = text.replace(url, links(service)[url])
    assert path.read_text() == new
    assert path.stat().st_mode & 0o777 == 0o604
    assert (notes / "link.md").is_symlink()
    assert (notes / "a.md.bak").read_text() == "Something else.\n"
    assert (notes / "a.md.bak2").read_text() == text
    path.write_text(text)
    assert cli("rewrite", "--in-place", "--backup", str(path)).status == 0
    names = sorted(each.name for each in notes.iterdir())
    assert names == ["a.md", "a.md.bak", "a.md.bak2", "link.md"]


def test_a_file_is_replaced_as_a_whole_or_not_at_all(notes: Path) -> None:
    path = notes / "a.md"
    path.write_bytes(b"before")

    def interrupted() -> None:
        with files.replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [*notes.iterdir()] == [path]
    assert path.read_bytes() == b"before"


def test_two_runs_do_not_write_one_file(notes: Path) -> None:
    with files.replacing(notes / "a.md") as file:
        file.write(b"first")
        with (
            pytest.raises(OSError, match="Another run writes this file now"),
            files.replacing(notes / "a.md"),
        ):
            pass
    assert (notes / "a.md").read_bytes() == b"first"


def test_a_large_table_keeps_its_columns_and_gets_others_beside_them(
    cli: Cli, service: RunningService, origin: Origin, notes: Path
) -> None:
    images = [origin.image("png-rgb.png"), origin.image("gif-89a.gif")]
    rows = [
        [str(n), images[n % 2], f'Größe "{n}"; a,b', images[(n + 1) % 2] if n % 3 else "", "€"]
        for n in range(5_000)
    ]
    heading = ["sku", "front", "title", "back", "price"]
    path, text = notes / "products.csv", io.StringIO(newline="")
    csv.writer(text, delimiter=";").writerows([heading, *rows])
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    assert cli("rewrite", "--in-place", str(path)).status == 0
    with path.open(encoding="utf-8", newline="") as file:
        written = list(csv.reader(file, delimiter=";"))
    added = ["front", "front_link", "front_error", "title", "back", "back_link", "back_error"]
    assert written[0] == ["sku", *added, "price"]
    found = links(service)
    for (sku, front, title, back, price), row in zip(rows, written[1:], strict=True):
        back_link = found[back] if back else ""
        assert row == [sku, front, found[front], "", title, back, back_link, "", price]


def test_a_column_is_named_for_tables_only(cli: Cli, origin: Origin, notes: Path) -> None:
    (notes / "a.csv").write_text(f"id,address\n1,{origin.url}/1\n")
    (notes / "b.md").write_text(f"![]({origin.url}/1)\n")
    origin.page("/1", answer((IMAGES / "png-rgb.png").read_bytes()))
    assert cli("rewrite", "--in-place", "--column=address", str(notes)).status == 0
    assert (notes / "a.csv").read_text().startswith("id,address,link,error\n")
    assert origin.url not in (notes / "b.md").read_text()


# Zip files


def make_zip(path: Path, entries: dict[str, bytes]) -> dict[str, zipfile.ZipInfo]:
    """A zip file of these entries, stored and packed in turn."""
    with zipfile.ZipFile(path, "w") as made:
        made.comment = b"Mine."
        for number, (name, content) in enumerate(entries.items()):
            entry = zipfile.ZipInfo(name, (2001, 2, 3, 4, 5, 2 * number))
            entry.compress_type = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2]
            entry.external_attr = 0o640 << 16
            made.writestr(entry, content)
    return described(path)


def described(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The entries of a zip file, in order."""
    with zipfile.ZipFile(path) as read:
        assert read.testzip() is None
        assert read.comment == b"Mine."
        return {entry.filename: entry for entry in read.infolist()}


@pytest.mark.parametrize("in_place", [True, False])
def test_a_zip_file_keeps_its_other_entries_their_names_dates_and_order(
    cli: Cli, service: RunningService, origin: Origin, notes: Path, in_place: bool
) -> None:
    url, path = origin.image("png-rgb.png"), notes / "site.zip"
    image = (IMAGES / "png-rgb.png").read_bytes()
    entries = {
        "z/": b"",
        "z/ä.md": f"![]({url})\n".encode(),
        "image.png": image,
        "b.html": f"<img src={url}>".encode(),
        "a.txt": b"No image.",
        ".hidden.md": f"![]({url})\n".encode(),
        "c.md": b"\0 binary",
    }
    before = make_zip(path, entries)
    where = ["--in-place"] if in_place else [f"--output={notes / 'out'}"]
    assert cli("rewrite", str(path), *where).status == 0
    new = path if in_place else notes / "out" / "site.zip"
    after = described(new)
    assert [*after] == [*before]
    for name in ("date_time", "compress_type", "external_attr", "filename"):
        assert [getattr(each, name) for each in after.values()] == [
            getattr(each, name) for each in before.values()
        ]
    link = links(service)[url].encode()
    with zipfile.ZipFile(new) as read:
        for name, content in entries.items():
            is_rewritten = name in ("z/ä.md", "b.html")
            assert read.read(name) == (
                content.replace(url.encode(), link) if is_rewritten else content
            )
    bytes_after = new.read_bytes()
    assert cli("rewrite", str(path), *where).status == 0
    assert new.read_bytes() == bytes_after


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/etc/a.md", "leads out of its folder: /etc/a.md"),
        ("a/../../b.md", "leads out of its folder: a/../../b.md"),
        ("C:\\b.md", "leads out of its folder: C:"),
        ("bomb.md", "would unpack to 110,000,000 bytes"),
    ],
)
def test_a_zip_file_that_may_do_harm_is_refused(
    cli: Cli, notes: Path, name: str, said: str
) -> None:
    path = notes / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made, made.open(name, "w") as entry:
        for _ in range(11 if name == "bomb.md" else 1):
            entry.write(b" " * 10_000_000)
    before = path.read_bytes()
    ended = cli("rewrite", "--in-place", str(path))
    assert (ended.status, said in ended.err) == (1, True), ended.err
    assert path.read_bytes() == before


def test_a_broken_zip_file_is_refused(cli: Cli, notes: Path) -> None:
    path = notes / "a.zip"
    make_zip(path, {"a.md": b"![](http://a.example/1.png)" * 100})
    for content in (
        path.read_bytes()[:-30],
        b"",
        path.read_bytes().replace(b"example", b"exampel"),
    ):
        path.write_bytes(content)
        ended = cli("rewrite", "--in-place", str(path))
        assert ended.status == 1
        assert "is no zip file that can be read" in ended.err
        assert path.read_bytes() == content


# On the way


def test_ctrl_c_leaves_the_jobs_and_the_same_command_goes_on(
    service: RunningService, origin: Origin, notes: Path
) -> None:
    path = notes / "a.md"
    path.write_text(f"![]({origin.page('/held.png', origin.hang)})\n")
    arguments = ["rewrite", "--in-place", str(path), f"--server={service.url}"]
    with in_a_pipe(*arguments) as command:
        assert origin.hanging.acquire(timeout=60)
        command.wait_for("0 of 1 replaced")
        command.interrupt()
        assert command.end() == 130
        assert command.shown.endswith("The same command goes on with them.\n")
    origin.page("/held.png", answer((IMAGES / "png-rgb.png").read_bytes()))
    origin.released.set()
    with in_a_pipe(*arguments) as command:
        assert command.end() == 0
    assert len(jobs(service)) == 1
    assert links(service)[f"{origin.url}/held.png"] in path.read_text()


def test_a_post_whose_response_is_lost_is_sent_again_and_makes_one_job(
    service: RunningService, origin: Origin, notes: Path
) -> None:
    (notes / "a.md").write_text(f"![]({origin.image('png-rgb.png')})\n")
    with running_relay(service.url) as relay:
        lost: list[bytes] = []

        def lose(chunk: bytes, is_answer: bool) -> None:
            if is_answer and b" 202 " in chunk and not lost:
                lost.append(chunk)
                raise ConnectionResetError

        relay.watch = lose
        with in_a_pipe("rewrite", "--in-place", str(notes), f"--server={relay.url}") as command:
            assert command.end() == 0
            assert "Trying again for 60 s." in command.shown
    assert len(lost) == len(jobs(service)) == 1


def test_a_service_that_has_forgotten_the_jobs_gets_them_again(
    bare_cli: Cli, sandbox: RunningSandbox, origin: Origin, notes: Path, tmp_path: Path
) -> None:
    path, held = notes / "a.md", origin.page("/held.png", origin.hang)
    path.write_text(f"![]({held})\n")
    with running_service(tmp_path / "one", **wired(sandbox)) as first:
        relay = Relay(first.url)
        command = ["rewrite", "--in-place", str(path), f"--server={relay.url}"]
        with in_a_pipe(*command) as running:
            running.wait_for("0 of 1 replaced")
            with running_service(tmp_path / "two", **wired(sandbox)) as second:
                relay.take_away()
                relay.lead_to(second.url)
                relay.bring_back()
                assert running.end() == 1
                assert running.shown.endswith("Run the same command again: it goes on.\n")
                origin.page("/held.png", answer((IMAGES / "png-rgb.png").read_bytes()))
                assert bare_cli(*command).status == 0
                relay.take_away()
        origin.released.set()
    assert sandbox.url in path.read_text()


def test_ctrl_c_of_local_work_writes_what_has_landed(
    sandbox: RunningSandbox, origin: Origin, notes: Path
) -> None:
    path, held = notes / "a.md", origin.page("/held.png", origin.hang)
    path.write_text(f"![]({held}) ![]({origin.image('png-rgb.png')})\n")
    imgur = [f"--imgur-base-url={sandbox.url}", f"--imgur-link-base={sandbox.url}"]
    service = ["--", "--allow-origin=127.0.0.1", "--imgur-client-id=test", *imgur]
    with in_a_pipe("rewrite", "--local", "--in-place", str(path), *service) as command:
        sandbox.wait_for("upload")
        command.wait_for("1 of 2 replaced")
        command.interrupt()
        assert command.end() == 130
        assert f"failed cancelled {path}:1 {held}" in command.shown
    assert sandbox.url in path.read_text()
    assert held in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-file"], "There is no file no-such-file"),
        (["tests"], "Give --output=DIR or --in-place"),
        (["README.md", "LICENSE"], "Give --output=DIR or --in-place"),
        (["--in-place", "--output=x", "LICENSE"], "cannot be combined"),
        (["--backup", "LICENSE"], "--backup is for --in-place"),
        (["--json", "LICENSE"], "--json needs --output or --in-place"),
        (["--in-place", "-"], "stdin is printed"),
        (["--base=docs/", "LICENSE"], "--base is an http or https URL"),
        (["--output=.", "LICENSE"], "LICENSE would be replaced: that is --in-place."),
        (["--output=x", "README.md", "docs/../README.md", "bench/README.md"], "no file bench"),
        (["--output=x", "README.md", "tests/images/README.md"], "would both become x/README.md"),
        (["a\0b"], "cannot be read"),
    ],
)
def test_misuse_exits_with_2_and_a_message(bare_cli: Cli, arguments: list[str], said: str) -> None:
    ended = bare_cli("rewrite", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err


def test_documents_are_known_by_the_suffixes_that_the_service_knows() -> None:
    assert set(kinds._SUFFIXES) | {"txt"} == documents.SUFFIXES
    assert {name for name, kind in kinds._SUFFIXES.items() if kind == "csv"} == documents.TABLES


def test_extra_fields_of_zip_entries_stay_but_for_sizes() -> None:
    sizes, dates = b"\x01\0\x02\0ab", b"UT\x01\0c"
    assert archive._without_sizes(sizes + dates + b"x") == dates + b"x"


# Upload


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", "# Birds\n![]({})\n"),
        ("a.html", "<img src={}>"),
        ("a.csv", "sku,image\n1,{}\n"),
        ("a.json", '{{"products": [{{"photo": "{}"}}]}}'),
        ("a.csv", "{}\n"),
        ("a.json", '[{{"url": "{}"}}]'),
        ("a.txt", "{}\n"),
        ("a", "{}\n"),
    ],
)
def test_the_images_of_a_document_are_uploaded_and_so_are_those_of_a_list(
    cli: Cli, service: RunningService, origin: Origin, notes: Path, name: str, text: str
) -> None:
    origin.page("/1", answer((IMAGES / "png-rgb.png").read_bytes()))
    url = f"{origin.url}/1" if "image" not in text else origin.image("png-rgb.png")
    (notes / name).write_text(text.format(url))
    options = ["--album=Birds", "--title=T", "--description=D", "--no-dedupe"]
    ended = cli("upload", *options, str(notes / name))
    assert (ended.status, ended.lines) == (0, [links(service)[url]])
    (record,) = service.records(jobs(service)[0]).values()
    assert (record["title"], record["description"]) == ("T", "D")


def test_a_document_without_images_cannot_be_uploaded(cli: Cli, notes: Path) -> None:
    (notes / "a.md").write_text("# Birds\n")
    ended = cli("upload", str(notes / "a.md"))
    assert (ended.status, ended.out) == (2, "")
    assert "answered 422: There is no image in it. It was read as markdown" in ended.err
