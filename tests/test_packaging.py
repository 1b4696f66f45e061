"""What `pip install .` installs: every module, what they need, and the command."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import EntryPoint, requires
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, SETUPTOOLS = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]
NAMED = {*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cli"]}


def name_of(requirement: str) -> str:
    """The package's name, in its one normal form."""
    (name,) = re.findall(r"^[A-Za-z0-9_.-]+", requirement)
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> set[str]:
    """The lines of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def test_the_package_asks_for_what_is_pinned_and_leaves_nothing_out() -> None:
    assert pinned() >= NAMED
    needed = [name_of(each) for line in NAMED for each in requires(name_of(line)) or []]
    indirect = [name_of(each) for name in needed for each in requires_if_there(name)]
    left_out = {name_of(line) for line in pinned() - NAMED}
    assert left_out <= {*needed, *indirect}, "name it in pyproject.toml too"


def requires_if_there(name: str) -> list[str]:
    """What the package needs; nothing where it is an extra that is not installed."""
    try:
        return requires(name) or []
    except ModuleNotFoundError:
        return []


def test_every_module_beside_the_packages_is_installed() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == set(SETUPTOOLS["py-modules"])
    patterns = SETUPTOOLS["packages"]["find"]["include"]
    assert {f"{name}*" for name in ("imageload", "sandbox")} == set(patterns)


def test_files_that_are_no_modules_come_along() -> None:
    others = {
        str(path.relative_to(ROOT / package))
        for package in ("imageload", "sandbox")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    installed = {
        str(path.relative_to(ROOT / "imageload"))
        for pattern in SETUPTOOLS["package-data"]["imageload.web"]
        for path in (ROOT / "imageload" / "web").glob(pattern)
    }
    assert others <= installed


def test_the_command_leads_to_a_function() -> None:
    command = EntryPoint("imageload", PROJECT["scripts"]["imageload"], "console_scripts")
    assert callable(command.load())


def test_the_container_gets_every_module() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    ignore = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    copied = {
        name.rstrip("/")
        for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE)
        for name in line.split()
    }
    modules = {f"{name}.py" for name in SETUPTOOLS["py-modules"]}
    assert copied >= modules | {"imageload", "sandbox", "requirements.txt"}
    assert {line[1:] for line in ignore.splitlines() if line.startswith("!")} == copied
