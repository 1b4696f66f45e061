"""Fixtures: an origin, a sandbox and a service between them, all real, all on 127.0.0.1."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import tests.postgres_server
import tests.service
from sandbox.testing import RunningSandbox, running_sandbox
from tests.cli import bare_cli, cli
from tests.downloads import Download, MakeDownload
from tests.origin import Origin, running_origin
from tests.s3_server import S3Server, rclone, s3
from tests.service import RunningService, Start, running_service, service_processes
from tests.waiting import wait_until
from tests.wired import DownloadCall, Folder, UploadCall, Wired

__all__ = ["bare_cli", "cli", "rclone", "s3"]

# A busy machine is slow with an example now and then.
settings.register_profile(
    "any machine",
    parent=settings(),
    deadline=None,
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.too_slow],
)
settings.load_profile("any machine")


_ONE_PROCESS = "it is about a limit, a counter or a stop of one process"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--nodes=2` runs the services of tests as two nodes that get requests in turn.

    `--target=s3` has them upload to a bucket.
    """
    parser.addoption("--nodes", type=int, default=0)
    parser.addoption("--target", choices=("imgur", "s3"), default="imgur")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of the page first.

    Of several processes one then runs them all, with one browser: others steal the last tests.
    """
    items.sort(key=lambda item: item.path.name != "test_page.py")


@pytest.fixture(autouse=True)
def nodes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run services as nodes, if `--nodes` says so."""
    count = request.config.getoption("--nodes")
    if count > 1 and request.node.get_closest_marker("one_process") is not None:
        pytest.skip(_ONE_PROCESS)
    monkeypatch.setattr(tests.service, "nodes", count)


@pytest.fixture(autouse=True)
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have services upload to a bucket, if `--target` says so."""
    if request.config.getoption("--target") == "s3":
        of_imgur = request.node.get_closest_marker("imgur")
        if of_imgur is not None:
            pytest.skip(f"of Imgur alone: {of_imgur.args[0]}")
        server: S3Server = request.getfixturevalue("s3")
        monkeypatch.setattr(tests.service, "bucket", server)


@pytest.fixture(scope="session", autouse=True)
def template(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have all processes of the tests copy the files of one new PostgreSQL."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    tests.postgres_server.template = shared / "postgres"


@pytest.fixture
def origin() -> Iterator[Origin]:
    """A server of images and of pages that fail."""
    with running_origin() as running:
        yield running


@pytest.fixture
def make_download(tmp_path: Path) -> Iterator[MakeDownload]:
    """Makes Downloaders, each with an empty temp directory."""
    made: list[Download] = []

    def make(**options: Any) -> Download:
        folder = tmp_path / f"temp{len(made)}"
        folder.mkdir()
        made.append(Download(folder, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def download(make_download: MakeDownload) -> Download:
    """A Downloader that may fetch from 127.0.0.1."""
    return make_download()


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[RunningSandbox]:
    """A sandbox that never refuses a request because of a budget."""
    with running_sandbox(tmp_path / "sandbox", unlimited=True) as running:
        yield running


@pytest.fixture
def service(sandbox: RunningSandbox, tmp_path: Path) -> Iterator[RunningService]:
    """The service, uploading to the sandbox."""
    with running_service(
        tmp_path / "temp", imgur_base_url=sandbox.url, imgur_link_base=sandbox.url
    ) as running:
        yield running


@pytest.fixture
def start(tmp_path: Path, sandbox: RunningSandbox) -> Iterator[Start]:
    """Starts the service as a process, again and again on the same journal."""
    with service_processes(tmp_path, sandbox) as start_one:
        yield start_one


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Temp files of a `Wired`."""
    return Folder(tmp_path / "temp")


@pytest.fixture
def wire(folder: Folder) -> Iterator[Callable[..., Wired]]:
    """Make ImageLoads; check that each leaves no thread, no task and no temp file."""
    before = set(threading.enumerate())
    made: list[Wired] = []

    def wire_up(
        download: DownloadCall = folder.download,
        upload: UploadCall = folder.upload,
        **options: Any,
    ) -> Wired:
        made.append(Wired(download, upload, folder, **options))
        return made[-1]

    yield wire_up
    for wired in made:
        wired.close()
        for job in wired.load.jobs():
            assert job.summary().finished or wired.is_left(job)
    wait_until(lambda: set(threading.enumerate()) <= before)
    assert folder.files() == []
    given_back = [path for path in folder.given_back if "nonexistent" not in path]
    assert sorted(given_back) == sorted(folder.made), "each file goes back, once"
