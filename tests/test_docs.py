"""The documents against the code: what they list is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from imageload import settings as config
from imageload.errors import image_error_codes
from main import ROUTES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def option_table() -> list[str]:
    """The README's rows of options, as they must stand there."""
    return [
        f"| `{config.flag(option.name)}`<br>`{config.environment_name(option.name)}` "
        f"| {_default(option.default)} | {option.metadata['unit']} "
        f"| {option.metadata['reason']} |"
        for option in config.options()
    ]


def _default(value: object) -> str:
    shown = config.show(value)
    return "" if shown == "none" else f"`{shown}`"


def test_every_option_is_in_the_readme() -> None:
    rows = option_table()
    missing = [row for row in rows if row not in README]
    assert not missing, "\n".join(["the table should be:", *rows])


def test_every_make_target_is_in_the_readme_and_explains_itself() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    for target in phony.split():
        assert f"`make {target}" in README, target
        assert re.search(rf"^{target}:.*## \S", makefile, re.MULTILINE), target


def test_every_route_of_the_api_is_in_the_readme() -> None:
    shown = [path.rstrip("/") or "/" for path, _ in ROUTES if not path.startswith("/page/")]
    listed = set(re.findall(r"^\| `(?:GET|POST) ([^`?]*)[^`]*`", README, re.MULTILINE))
    assert {path.replace("{job_id}", "<jobId>") for path in shown} <= listed


def test_every_error_code_is_explained() -> None:
    missing = [code for code in sorted(image_error_codes()) if f"`{code}`" not in API]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (document.parent / target).exists(), target


def test_requirements_are_pinned() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("#", "-r ")):
                assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9.]*", line), line
