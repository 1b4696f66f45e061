"""The house: imports point down its floors, never up, and every module has a floor."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = {
    "imageload.announcement": 0,
    "imageload.settings": 0,
    "imageload.errors": 0,
    "imageload.inbox": 0,
    "imageload.targets.imgur.budget": 0,
    "imageload.loggable": 0,
    "imageload.fetch.tempfolder": 0,
    "imageload.targets.imgur.answers": 1,
    "imageload.store.black_box": 1,
    "imageload.fetch.guard": 1,
    "imageload.transport.slots": 1,
    "imageload.fetch.hosts": 1,
    "imageload.fetch.sniff": 1,
    "imageload.job": 1,
    "imageload.targets.imgur.quota": 1,
    "imageload.retry": 1,
    "imageload.fetch.tempfiles": 1,
    "imageload.transport.request": 1,
    "imageload.targets.imgur.albums": 2,
    "imageload.convert.pool": 2,
    "imageload.fetch.download": 2,
    "imageload.transport.engine": 2,
    "imageload.store.rows": 2,
    "imageload.sharing": 2,
    "imageload.views": 2,
    "imgurapi": 2,
    "imageload.fetch.backlog": 3,
    "imageload.observers.webhooks": 3,
    "imageload.convert.fit": 3,
    "imageload.leads": 3,
    "imageload.observers.metrics": 3,
    "imageload.convert.worker": 3,
    "imageload.road": 3,
    "imageload.targets.imgur.purge": 4,
    "imageload.store.file": 3,
    "imageload.store.writer": 3,
    "imageload.store.sqlite": 4,
    "imageload.run": 4,
    "imageload.targets.imgur.uploader": 4,
    "imageload.web.news": 3,
    "imageload.web.feeds": 4,
    "imageload.web.changes": 5,
    "imageload.loader": 5,
    "imageload": 5,
    "web": 6,
    "imageload.web.access": 6,
    "imageload.web.compress": 6,
    "imageload.web.server.file_limit": 6,
    "imageload.web.idempotency": 6,
    "imageload.web.lists": 6,
    "imageload.web.shapes": 3,
    "imageload.web.notes": 6,
    "imageload.web.request_id": 6,
    "imageload.web.logs": 7,
    "imageload.web.front": 7,
    "imageload.web.problems": 8,
    "imageload.web.server.connections": 9,
    "imageload.web.scrape": 10,
    "imageload.web.base": 11,
    "imageload.web.events": 12,
    "imageload.web.jobs": 12,
    "imageload.web.status": 12,
    "imageload.web.operations": 12,
    "imageload.web.openapi.examples": 6,
    "imageload.web.openapi.parts": 7,
    "imageload.web.openapi.paths": 8,
    "imageload.web.openapi.problems": 9,
    "imageload.web.openapi": 10,
    "imageload.web.pages": 12,
    "imageload.service": 12,
    "main": 13,
}
# The command line stands apart: a plain HTTP client, which nothing of the service imports.
APART = {
    "imageload.__main__",
    "imageload.cli",
    "imageload.cli.arguments",
    "imageload.cli.commands",
    "imageload.cli.follow",
    "imageload.cli.formats",
    "imageload.cli.local",
    "imageload.cli.posting",
    "imageload.cli.printable",
    "imageload.cli.remote",
    "imageload.cli.screen",
    "imageload.cli.source",
    "imageload.cli.tables",
    "imageload.cli.uploading",
}
OURS = ("imageload", "imgurapi", "web", "main", "sandbox")


def modules() -> dict[str, Path]:
    """Every module of the service, by its dotted name."""
    paths = [ROOT / "main.py", ROOT / "imgurapi.py"]
    paths += [*(ROOT / "imageload").rglob("*.py"), *(ROOT / "web").rglob("*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


def imported(path: Path) -> set[str]:
    """The modules of this project that the file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found = inner & set(modules())
            names |= found or {node.module}
    return {name for name in names if name.split(".")[0] in OURS}


def test_every_module_has_a_floor() -> None:
    assert set(modules()) == set(FLOORS) | APART


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_imports_point_down(name: str) -> None:
    for other in imported(modules()[name]) - {"sandbox.child"}:
        if name == "imageload":
            assert FLOORS[other] <= 5
        else:
            assert FLOORS[other] < FLOORS[name], f"{name} imports {other}"


def test_only_a_start_knows_the_sandbox() -> None:
    importers = {name for name, path in modules().items() if "sandbox.child" in imported(path)}
    assert importers == {"main", "imageload.cli.local"}


@pytest.mark.parametrize("name", sorted(APART - {"imageload.cli.local"}))
def test_the_command_line_knows_the_service_by_http_alone(name: str) -> None:
    assert imported(modules()[name]) <= APART | {"imageload.settings"}, "config for the version"


def test_the_sandbox_imports_nothing_of_the_service() -> None:
    for path in (ROOT / "sandbox").rglob("*.py"):
        assert {name.split(".")[0] for name in imported(path)} <= {"sandbox"}, path


def test_the_work_itself_knows_no_http_server() -> None:
    for path in (ROOT / "imageload").rglob("*.py"):
        assert "tornado" not in path.read_text(encoding="utf-8"), path
