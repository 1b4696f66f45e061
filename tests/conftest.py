"""Fixtures: an origin, a sandbox and a service between them, all real, all on 127.0.0.1."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.testing import RunningSandbox, running_sandbox
from tests.downloads import Download
from tests.origin import Origin, running_origin
from tests.service import RunningService, running_service


@pytest.fixture
def origin() -> Iterator[Origin]:
    """A server of images and of trouble."""
    with running_origin() as running:
        yield running


@pytest.fixture
def download(tmp_path: Path) -> Iterator[Download]:
    """A Downloader that may fetch from 127.0.0.1."""
    folder = tmp_path / "temp"
    folder.mkdir()
    download = Download(folder)
    yield download
    download.close()


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[RunningSandbox]:
    """An Imgur that refuses nothing for its budgets."""
    with running_sandbox(tmp_path / "sandbox", unlimited=True) as running:
        yield running


@pytest.fixture
def service(sandbox: RunningSandbox, tmp_path: Path) -> Iterator[RunningService]:
    """The service, uploading to the sandbox."""
    with running_service(
        tmp_path / "temp", imgur_base_url=sandbox.url, imgur_link_base=sandbox.url
    ) as running:
        yield running


def real_component(*names: str) -> str:
    """The path of the first of these programs that is there.

    Without any, the test is skipped with word of what to install; in CI it fails.
    """
    # Debian puts servers where only root looks.
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"])
    for name in names:
        path = shutil.which(name, path=places)
        if path is not None:
            return path
    message = (
        f"needs {names[0]}: on Debian, apt-get install {names[0].replace('nginx', 'nginx-light')}"
    )
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
