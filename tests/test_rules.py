"""The import rules of docs/architecture.md, and one about threads."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
CORE = {"image", "job", "errors", "settings", "tuning", "retry"}
ROOMS = {"fetch", "convert", "targets", "store", "observers"}
SHARED = {"transport", "processes", "image", "job", "errors"}
CLUSTER = {"store", "loader", "registry", "jobs", "targets", "transport", "image", "job", "errors"}
EXCEPTIONS = {
    "job": {"image"},
    "convert": {"fetch"},  # the sniffer and the temp files
    "targets": {"fetch"},  # the temp files' disk errors
    "observers": {"fetch", "documents", "schemas", "job_json"},  # the guard, what is counted, JSON
}
LIBRARIES = {
    "pycurl": {"transport"},
    "PIL": {"convert"},
    "sqlite3": {"store"},
    "psycopg": {"store", "cluster"},
    "procrastinate": {"cluster"},
    "tornado": {"web", "main"},
    "prometheus_client": {"observers", "web"},
}

_IMPORT = re.compile(r"^ *(?:from ([\w.]+) import ([\w, ]*)|import ([\w.]+))", re.MULTILINE)


def modules() -> dict[Path, tuple[str, set[str]]]:
    """Each file with its room and its imports: rooms of ours, and libraries."""
    found = {}
    for path in [ROOT / "main.py", ROOT / "imgurapi.py", *(ROOT / "imageload").rglob("*.py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        room = parts[min(1, len(parts) - 1)]
        names = set()
        for package, inner, whole in _IMPORT.findall(path.read_text(encoding="utf-8")):
            # `from imageload import a, b` names rooms; every other import names its module.
            names |= {*inner.split(", ")} if package == "imageload" else {package or whole}
        found[path] = room, {name.removeprefix("imageload.").split(".")[0] for name in names}
    return found


def test_imports_keep_the_rules() -> None:
    ours = {room for room, _ in modules().values()}
    for path, (room, imported) in modules().items():
        inside = (imported & ours) - {room}
        if room in CORE:
            assert inside <= {"errors"} | EXCEPTIONS.get(room, set()), path
        elif room in ROOMS:
            assert inside <= SHARED | EXCEPTIONS.get(room, set()), path
        elif room in ("transport", "processes"):
            assert inside <= {"errors"}, path
        elif room == "documents":
            assert inside <= {"errors", "processes", "transport", "schemas"}, path
        elif room == "cli":
            assert inside <= {"settings", "lists", "escapes"}, path
        elif room == "cluster":
            assert inside <= CLUSTER, path
        if room not in ("main", "web"):
            assert not inside & {"main", "web"}, path
        assert not inside & {"imgurapi", "cluster"} or room == "service", path
        for library, rooms in LIBRARIES.items():
            assert library not in imported or room in rooms, path


def test_types_are_decoded_by_decoders_that_are_made_at_import() -> None:
    """msgspec 0.22 crashes if two threads are the first to decode a Struct."""
    late = re.compile(r"(?:json|msgpack)\.decode\((?:[^()]|\([^()]*\))*\btype=")
    assert [path for path in modules() if late.search(path.read_text(encoding="utf-8"))] == []
