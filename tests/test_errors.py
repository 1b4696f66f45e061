"""Tests of errors: a bounded set of codes, failures that are values, and refusals
that name their HTTP status.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from imageload import errors
from imageload.errors import ERRORS, REFUSALS, Failure, ImageError, ImageLoadError, Refused

ROOT = Path(__file__).parent.parent

# In the API, the log and the metric label: a new code is a new word of the API.
CODES = {
    "access_denied",
    "clock_skew",
    "no_bucket",
    "wrong_region",
    "bad_credentials",
    "bad_redirect",
    "bad_response",
    "blocked_address",
    "cancelled",
    "connect_error",
    "conversion_failed",
    "metadata_kept",
    "disk_error",
    "disk_full",
    "dns_error",
    "empty_body",
    "http_status",
    "internal_error",
    "invalid_url",
    "not_image",
    "not_on_imgur",
    "poison",
    "purged",
    "rate_limited",
    "refused_at_origin",
    "removed_at_origin",
    "resource_error",
    "shutdown",
    "timeout",
    "tls_error",
    "too_large",
    "too_many_pixels",
    "too_many_redirects",
    "truncated",
    "unsupported_type",
    "upload_blocked",
    "upload_connect_error",
    "upload_error",
    "upload_rejected",
    "upload_timeout",
}
CLASSES = [value for value in vars(errors).values() if isinstance(value, type)]
OF_ONE_ROW = [kind for kind in CLASSES if issubclass(kind, errors._OfOneRow)]


def test_the_codes_are_exactly_these() -> None:
    assert errors.image_error_codes() == CODES
    assert {ImageError(name, "What went wrong.").code for name in ERRORS} == CODES


@pytest.mark.parametrize("name", ERRORS)
def test_every_image_error_has_a_code_in_snake_case(name: str) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", ImageError(name, "What went wrong.").code)


@pytest.mark.parametrize("name", ERRORS)
def test_every_image_error_becomes_a_failure_with_its_values(name: str) -> None:
    error = ImageError(name, "What went wrong.", status_code=503, retry_after=3)
    assert error.failure() == Failure(error.code, "What went wrong.", ERRORS[name].transient, 503)
    assert ImageError(name, "What went wrong.").failure().status_code is None


def test_an_error_that_is_caught_by_its_type_has_a_row_of_its_own() -> None:
    named = [kind for kind in OF_ONE_ROW if "row" in vars(kind)]
    assert len({kind.row for kind in named}) == len(named)
    for kind in named:
        error = kind("What went wrong.", retry_after=2)
        assert (error.name, error.message, error.retry_after) == (kind.row, "What went wrong.", 2)


def test_every_name_that_the_sources_raise_is_in_a_table() -> None:
    pattern = re.compile(r"\b(\w+Error|Refused)\(\s*\"([a-z_-]+)\"")
    sources = [*(ROOT / "imageload").rglob("*.py"), ROOT / "main.py", ROOT / "imgurapi.py"]
    for source in sources:
        for kind, name in pattern.findall(source.read_text(encoding="utf-8")):
            if kind in ("ImageError", "DownloadError", "UploadError"):
                assert name in ERRORS, source
            elif kind == "Refused":
                assert name in REFUSALS, source


def test_failures_are_values() -> None:
    one, other = (
        errors.DownloadError("tls_error", "Not to be trusted.").failure() for _ in range(2)
    )
    assert one == other
    assert one is not other
    assert hash(one) == hash(other)
    assert one != errors.DownloadError("tls_error", "Something else.").failure()


def test_a_failure_holds_no_traceback_alive() -> None:
    try:
        raise errors.DiskFull("No room.")
    except errors.DiskFull as error:
        failure = error.failure()
    assert {type(getattr(failure, name)) for name in Failure.__struct_fields__} <= {
        str,
        bool,
        type(None),
    }


@pytest.mark.parametrize("name", ERRORS)
def test_only_errors_that_may_be_tried_again_limit_their_tries(name: str) -> None:
    row = ERRORS[name]
    if row.max_tries is not None:
        assert row.transient
        assert row.max_tries >= 2


def test_an_image_error_has_its_message() -> None:
    error = errors.QuotaExceeded("The limit is reached.", retry_after=60)
    assert str(error) == error.message == "The limit is reached."
    assert (error.status_code, error.retry_after) == (None, 60)


def test_the_maybe_duplicate_mark_depends_on_the_row_and_the_sent_bytes() -> None:
    assert errors.UploadError("response_lost", "Lost.").maybe_landed
    assert not errors.UploadError("upload_timeout", "Late.").maybe_landed
    assert errors.UploadError("upload_timeout", "Late.", maybe_landed=True).maybe_landed
    assert errors.Shutdown("Stopped.", maybe_landed=True).maybe_landed


def test_the_tree_says_which_side_failed() -> None:
    assert issubclass(errors.TooLarge, errors.DownloadError)
    assert issubclass(errors.QuotaExceeded, errors.UploadError)
    assert not issubclass(errors.IllegalChange, ImageError)
    assert not issubclass(Refused, ImageError)
    assert issubclass(errors.StoreUnavailable, Refused)
    assert issubclass(errors.StoreError, ImageLoadError)


def test_every_refusal_has_its_http_status() -> None:
    assert {slug: row.status for slug, row in REFUSALS.items()} == {
        "bad-request": 400,
        "unauthorized": 401,
        "cross-origin": 403,
        "too-large": 413,
        "unsupported-type": 415,
        "unknown-host": 421,
        "key-reused": 422,
        "no-images": 422,
        "too-complex": 422,
        "no-albums": 422,
        "backlog-full": 429,
        "no-document": 404,
        "no-check": 404,
        "job-busy": 409,
        "not-checked": 409,
        "out-of-room": 503,
        "out-of-threads": 503,
        "out-of-files": 503,
        "journal-unavailable": 503,
        "shutting-down": 503,
        "too-many-streams": 503,
        "unknown-job": 505,
    }


@pytest.mark.parametrize("slug", REFUSALS)
def test_every_refusal_has_a_slug_and_a_title_and_passing_ones_say_when_to_come_back(
    slug: str,
) -> None:
    refused = Refused(slug, "What was refused.")
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", slug)
    assert refused.title
    passes = slug == "job-busy" or refused.status in (429, 503)
    assert (refused.retry_after is not None) is passes
