"""Tests of the documents: their lists match the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from imageload import options
from imageload.errors import image_error_codes
from imageload.tuning import Tuning
from main import ROUTES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def test_the_page_of_options_is_the_generated_one() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == options.document(), "run: python -m imageload.options > docs/options.md"


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    assert len(README.split()) <= 1_500
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in README, page.name


def test_no_document_has_the_marks_of_a_merge() -> None:
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^(<{7}|>{7})( |$)", text, re.MULTILINE), path


def test_no_document_names_a_number_that_is_not_an_option() -> None:
    gone = {field.name for field in fields(Tuning)}
    names = {options.flag(name) for name in gone} | {
        options.environment_name(name) for name in gone
    }
    for path in [*DOCUMENTS, ROOT / "Makefile", *(ROOT / "deploy").iterdir()]:
        if path.name != "CHANGELOG.md":
            text = path.read_text(encoding="utf-8")
            assert not [name for name in names if re.search(rf"{name}\b", text)], path


def test_every_make_target_is_in_a_table_and_explains_itself() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    for target in phony.split():
        assert f"| `make {target}" in CONTRIBUTING or target == "help", target
        assert re.search(rf"^{target}:.*## \S", makefile, re.MULTILINE), target


def test_every_route_of_the_api_is_in_its_table() -> None:
    shown = [path.rstrip("/") or "/" for path, _ in ROUTES if not path.startswith("/page/")]
    listed = set(re.findall(r"^\| `(?:GET|POST) ([^`?]*)[^`]*`", API, re.MULTILINE))
    assert {path.replace("{job_id}", "<jobId>") for path in shown} <= listed


def test_every_error_code_is_explained() -> None:
    missing = [code for code in sorted(image_error_codes()) if f"`{code}`" not in API]
    assert not missing


def test_the_pictures_of_the_readme_are_small() -> None:
    pictures = re.findall(r'src(?:set)?="([^"]+)"', README)
    assert len(pictures) == 2
    assert all((ROOT / picture).stat().st_size < 150_000 for picture in pictures)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_has_a_target(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", text):
        linked = document.parent / target if target else document
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


def anchors(document: Path) -> set[str]:
    """The anchors of the document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_requirements_are_pinned() -> None:
    for name in ("requirements.txt", "requirements-cluster.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("#", "-r ")):
                assert re.fullmatch(r"[A-Za-z0-9_.-]+(\[[a-z]+\])?==[0-9][0-9.]*", line), line
