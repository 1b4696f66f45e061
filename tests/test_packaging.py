"""The wheel: its files, and its service and command line outside a checkout."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
import requests
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.origin import IMAGES, Origin
from tests.postgres import fresh_database
from tests.service import ROOT, ServiceProcess
from tests.waiting import PATIENCE

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

WITHOUT_CLUSTER = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("psycopg", "psycopg_pool", "procrastinate"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from imageload.__main__ import main
sys.exit(main())
"""
"""`imageload` where the extra `cluster` is not installed."""


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


def run(*command: str | Path, folder: Path) -> str:
    """Run the command; its stdout."""
    ended = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, encoding="utf-8", timeout=2 * PATIENCE
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def build(kind: str, source: Path, folder: Path) -> Path:
    """The sdist or the wheel of the tree `source`, built by its own backend without a network."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(folder)!r})"
    run(sys.executable, "-c", code, folder=source)
    (built,) = folder.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return built


def copied_files() -> set[str]:
    """The files and folders of the checkout that the Dockerfile copies."""
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    lines = re.findall(r"^COPY (?!--)(.*) \S+$", dockerfile, re.MULTILINE)
    return {name.rstrip("/") for line in lines for name in line.split()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the sdist of the files from which the Dockerfile builds it."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "tree").mkdir()
    for name in copied_files():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / "tree" / name)
    sdist = build("sdist", folder / "tree", folder)
    run("tar", "xzf", sdist, folder=folder)
    return build("wheel", folder / sdist.name.removesuffix(".tar.gz"), folder)


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a fresh virtual environment in which the wheel is installed.

    It sees the libraries of the environment that runs the tests.
    """
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", "venv", folder=folder)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    run(*pip, "install", "--no-deps", "--no-index", "--quiet", wheel, folder=folder)
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", find, folder=folder).strip())
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "libraries.pth").write_text("\n".join(libraries))
    return python.parent


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


def test_the_wheel_holds_one_package_and_one_module(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in names} == {"imageload", "imgurapi.py"}
    shipped = {"imgurapi.py", "imageload/main.py"}
    for folder in (ROOT / "imageload", ROOT / "sandbox"):
        inside = "imageload/sandbox" if folder.name == "sandbox" else folder.name
        files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
        shipped |= {f"{inside}/{path.relative_to(folder).as_posix()}" for path in files}
    assert names == shipped


def test_an_installed_wheel_runs_a_job_and_opens_its_link(
    programs: Path, installed_service: ServiceProcess, origin: Origin, tmp_path: Path
) -> None:
    job_id = installed_service.submit([origin.image("png-rgba.png")])
    (link,) = installed_service.finish(job_id)["uploaded"]["completed"]
    assert requests.get(link, timeout=PATIENCE).content == (IMAGES / "png-rgba.png").read_bytes()
    assert requests.get(installed_service.url, timeout=PATIENCE).status_code == 200
    assert requests.get(f"{installed_service.url}/openapi.json", timeout=PATIENCE).json()["paths"]
    server = f"--server={installed_service.url}"
    upload: list[str | Path] = [
        programs / "imageload",
        "upload",
        server,
        origin.image("png-rgba.png"),
    ]
    assert run(*upload, folder=tmp_path) == f"{link}\n"


def test_an_installed_wheel_converts_and_works_without_a_server(
    programs: Path, origin: Origin, tmp_path: Path
) -> None:
    upload: list[str | Path] = [
        programs / "imageload",
        "upload",
        "--local",
        origin.image("webp-lossy-vp8.webp"),
    ]
    service_options = ["--", "--allow-origin=127.0.0.1"]
    assert run(*upload, *service_options, folder=tmp_path).startswith("http://127.0.0.1:")


def test_an_installed_wheel_without_the_extra_serves_and_says_what_postgresql_needs(
    programs: Path, origin: Origin, tmp_path: Path
) -> None:
    command = (str(programs / "python"), "-c", WITHOUT_CLUSTER, "serve")
    options = ("--port=0", "--sandbox-port=0", "--allow-origin=127.0.0.1")
    service = ServiceProcess(
        *options, f"--store={tmp_path / 'journal'}", command=command, folder=tmp_path
    )
    try:
        job_id = service.submit([origin.image("png-rgb.png")])
        assert len(service.finish(job_id)["uploaded"]["completed"]) == 1
    finally:
        service.stop()
    refused = subprocess.run(
        [*command, *options, "--store=postgresql://127.0.0.1/imageload"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert refused.returncode == 1
    (line,) = [line for line in refused.stderr.splitlines() if "cannot start" in line]
    assert "install the extra `cluster`" in line
    assert "Traceback" not in refused.stderr


def test_an_installed_wheel_with_the_extra_is_a_node(
    programs: Path, origin: Origin, tmp_path: Path
) -> None:
    service = ServiceProcess(
        "--port=0",
        "--sandbox-port=0",
        "--allow-origin=127.0.0.1",
        f"--store={fresh_database()}",
        command=(str(programs / "imageload"), "serve"),
        folder=tmp_path,
    )
    try:
        job_id = service.submit([origin.image("png-rgb.png")])
        assert len(service.finish(job_id)["uploaded"]["completed"]) == 1
    finally:
        service.stop()


def test_a_checkout_serves_by_the_same_command(origin: Origin, tmp_path: Path) -> None:
    service = ServiceProcess(
        "--port=0",
        "--sandbox-port=0",
        "--allow-origin=127.0.0.1",
        f"--sandbox-dir={tmp_path}",
        command=(sys.executable, "-m", "imageload", "serve"),
    )
    try:
        job_id = service.submit([origin.image("png-rgb.png")])
        assert len(service.finish(job_id)["uploaded"]["completed"]) == 1
    finally:
        service.stop()


def test_the_container_gets_the_files_that_it_copies() -> None:
    ignore = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    assert {line[1:] for line in ignore.splitlines() if line.startswith("!")} == copied_files()
