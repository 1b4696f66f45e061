"""Tests of web.jobs.prefers: CSV or JSON by the Accept header (RFC 9110, 12.5.1)."""

from __future__ import annotations

import pytest

from imageload.web.jobs import prefers


@pytest.mark.parametrize(
    ("accept", "wants_csv"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("text/csv", True),
        ("Text/CSV", True),
        ("text/csv; charset=utf-8", True),
        ("text/csv;header=present;q=0.1", True),
        ("text/csv, */*", False),
        ("text/csv, */*;q=0.1", True),
        ("text/csv;q=0.9, application/json", False),
        ("application/json;q=0.5, text/csv;q=0.8", True),
        ("application/json, text/csv", False),
        ("text/csv;q=0", False),
        ("text/csv;q=0.000, */*;q=0.1", False),
        ("application/json;q=0, text/csv;q=0.1", True),
        ("text/csv;Q=0.2, application/json;Q=0.1", True),
        ("text/html", False),
        (",,;;,", False),
        ("text/*", True),
        ("application/*", False),
        ("text/*;q=0.5, application/*", False),
        ("text/csv;q=0.5, application/*;q=0.9", False),
        ("text/csv;q=0.5, application/*;q=0.9, application/json;q=0.1", True),
        ("text/*, text/csv;q=0", False),
    ],
)
def test_csv_is_preferred_only_by_a_higher_weight(accept: str, wants_csv: bool) -> None:
    assert prefers(accept, "text/csv") is wants_csv


@pytest.mark.parametrize("weight", ["", "x", "1.0.0", "--1"])
def test_a_malformed_weight_is_ignored(weight: str) -> None:
    assert prefers(f"text/csv;q={weight}", "text/csv")
    assert not prefers(f"text/csv;q={weight}, application/json", "text/csv")
