"""The package: its files, and its service and command line outside a checkout."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution, requires
from pathlib import Path

import pytest
import requests
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from imageload.settings import VERSION
from tests.origin import IMAGES, Origin
from tests.service import ROOT, ServiceProcess
from tests.test_commands import commands
from tests.waiting import PATIENCE

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

DEBIAN = Path("/usr/bin/python3")
"""Debian's Python, which installs packages into virtual environments only."""


def name_of(requirement: str) -> str:
    """The package's normalized name."""
    return canonicalize_name(Requirement(requirement).name)


def pinned(file: str) -> set[str]:
    """The requirements in a file, without those that it includes."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-r "))}


def with_needs(requirements: Iterable[str]) -> set[str]:
    """The names of these packages and of all that they need in turn on this machine."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in requirements]
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        found.add(name)
        for extra in {"", *wanted.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            for each in map(Requirement, requires(name) or []):
                if each.marker is None or each.marker.evaluate({"extra": extra}):
                    waiting.append(each)
    return found


def test_the_package_requires_the_pinned_versions_and_no_others() -> None:
    named = {*PROJECT["dependencies"], *EXTRAS["cli"]}
    assert pinned("requirements.txt") >= named, "as in pyproject.toml"
    assert {name_of(line) for line in pinned("requirements.txt")} == with_needs(named)


def test_the_extra_for_many_nodes_requires_the_pinned_versions_and_no_others() -> None:
    named = set(EXTRAS["cluster"])
    assert pinned("requirements-cluster.txt") >= named, "as in pyproject.toml"
    of_all = {name_of(line) for line in pinned("requirements.txt")}
    of_it = {name_of(line) for line in pinned("requirements-cluster.txt")}
    assert of_it == with_needs(named) - of_all


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """Run the command; its stdout."""
    ended = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=2 * PATIENCE,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def copied_files() -> set[str]:
    """The files and folders of the checkout that the Dockerfile copies."""
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    lines = re.findall(r"^COPY (?!--)(.*) \S+$", dockerfile, re.MULTILINE)
    return {name.rstrip("/") for line in lines for name in line.split()}


def link_libraries(folder: Path, names: Iterable[str]) -> None:
    """Put the installed packages of these names into `folder`."""
    for name in names:
        found = distribution(name)
        for part in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            (folder / part).symlink_to(str(found.locate_file(part)))


def system_python() -> Path:
    """Debian's Python if it is there and of the version that runs the tests, else the latter."""
    version = "python{}.{}".format(*sys.version_info)
    marked = DEBIAN.exists() and Path("/usr/lib", version, "EXTERNALLY-MANAGED").exists()
    has_venv = Path("/usr/lib", version, "ensurepip").exists()
    return DEBIAN if marked and has_venv else Path(sys.executable)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The virtual environment that the README's lines make in the unpacked sdist.

    The sdist is that of the files from which the Dockerfile builds. For want of a network the
    environment finds the libraries of the tests, but for those of the extra `cluster`.
    """
    folder = tmp_path_factory.mktemp("package")
    (folder / "tree").mkdir()
    for name in copied_files():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / "tree" / name)
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(folder)]
    run(*build, folder=folder / "tree")
    (sdist,) = folder.glob("*.tar.gz")
    run("tar", "xzf", sdist, folder=folder)
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    libraries = folder / "libraries"
    libraries.mkdir()
    link_libraries(
        libraries, {*with_needs([*PROJECT["dependencies"], *EXTRAS["cli"]]), "setuptools"}
    )
    make, install, serve = commands(ROOT / "README.md")[:3]
    assert serve == ".venv/bin/imageload serve"
    path = f"{system_python().parent}:{os.environ['PATH']}"
    run("bash", "-c", make, folder=unpacked, PATH=path)
    (site,) = unpacked.glob(".venv/lib/python3*/site-packages")
    (site / "libraries.pth").write_text(f"import sys; sys.path.insert(1, {str(libraries)!r})\n")
    run("bash", "-c", install, folder=unpacked, PIP_NO_INDEX="1", PIP_NO_BUILD_ISOLATION="0")
    return unpacked / ".venv"


@pytest.fixture(scope="module")
def programs(installed: Path) -> Path:
    """The folder of programs of the environment."""
    return installed / "bin"


@pytest.fixture
def installed_service(programs: Path, tmp_path: Path) -> Iterator[ServiceProcess]:
    """`imageload serve` of the wheel with a sandbox of its own, started in an empty folder."""
    service = ServiceProcess(
        "--port=0",
        "--sandbox-port=0",
        "--allow-origin=127.0.0.1",
        command=(str(programs / "imageload"), "serve"),
        folder=tmp_path,
    )
    try:
        yield service
    finally:
        service.stop()


def test_the_package_holds_one_package_and_one_module(installed: Path) -> None:
    (record,) = installed.glob("lib/*/site-packages/imageload-*.dist-info/RECORD")
    with record.open(newline="") as file:
        names = {row[0] for row in csv.reader(file) if "__pycache__" not in row[0]}
    names = {name for name in names if not name.startswith(("..", record.parent.name))}
    assert {name.partition("/")[0] for name in names} == {"imageload", "imgurapi.py"}
    shipped = {"imgurapi.py", "imageload/main.py"}
    for folder in (ROOT / "imageload", ROOT / "sandbox"):
        inside = "imageload/sandbox" if folder.name == "sandbox" else folder.name
        files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
        shipped |= {f"{inside}/{path.relative_to(folder).as_posix()}" for path in files}
    assert names == shipped


def test_the_package_says_what_it_is(installed: Path) -> None:
    (folder,) = installed.glob("lib/*/site-packages/imageload-*.dist-info")
    metadata = Distribution.at(folder).metadata
    assert metadata["Version"] == VERSION
    assert metadata["License-Expression"] == "MIT AND Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    description = (folder / "METADATA").read_text(encoding="utf-8").partition("\n\n")[2]
    assert "pip install 'imageload[cli]'" in description
    assert "In a clone of this" not in description
    assert not re.findall(r"\]\((?!https?:)", description), "links that work in a clone only"
    assert (folder / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_an_installed_package_runs_a_job_and_opens_its_links(
    programs: Path, installed_service: ServiceProcess, origin: Origin, tmp_path: Path
) -> None:
    images = ["png-rgba.png", "webp-lossy-vp8.webp"]
    job_id = installed_service.submit([origin.image(name) for name in images])
    links = installed_service.finish(job_id)["uploaded"]["completed"]
    opened = [requests.get(link, timeout=PATIENCE).content for link in links]
    assert opened[0] == (IMAGES / "png-rgba.png").read_bytes()
    assert opened[1].startswith(b"\xff\xd8"), "a JPEG"
    assert requests.get(installed_service.url, timeout=PATIENCE).status_code == 200
    assert requests.get(f"{installed_service.url}/openapi.json", timeout=PATIENCE).json()["paths"]
    command = (programs / "imageload", "links", f"--server={installed_service.url}", job_id)
    assert run(*command, folder=tmp_path).split() == links


def test_an_installed_package_without_the_extra_says_what_postgresql_needs(
    programs: Path, tmp_path: Path
) -> None:
    refused = subprocess.run(
        [programs / "imageload", "serve", "--store=postgresql://127.0.0.1/imageload"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert refused.returncode == 1
    (line,) = [line for line in refused.stderr.splitlines() if "cannot start" in line]
    assert "install the extra `cluster`" in line
    assert "Traceback" not in refused.stderr


def test_the_container_gets_the_files_that_it_copies() -> None:
    ignore = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    assert {line[1:] for line in ignore.splitlines() if line.startswith("!")} == copied_files()
