"""Tests of errors: a bounded set of codes, failures that are values, and refusals
that name their HTTP status.
"""

from __future__ import annotations

import re

import pytest

from imageload import errors
from imageload.errors import Failure, ImageError, ImageLoadError, Refused

# In the API, the log and the metric label: a new code is a new word of the API.
CODES = {
    "bad_credentials",
    "bad_redirect",
    "bad_response",
    "blocked_address",
    "cancelled",
    "connect_error",
    "conversion_failed",
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


ALL = [value for value in vars(errors).values() if isinstance(value, type)]
IMAGE_ERRORS = [kind for kind in ALL if issubclass(kind, ImageError)]
REFUSALS = [kind for kind in ALL if issubclass(kind, Refused)]


def test_the_codes_are_exactly_these() -> None:
    assert {kind.code for kind in IMAGE_ERRORS} == CODES
    assert errors.image_error_codes() == CODES


@pytest.mark.parametrize("kind", IMAGE_ERRORS)
def test_every_image_error_has_a_code_in_snake_case(kind: type[ImageError]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)


@pytest.mark.parametrize("kind", IMAGE_ERRORS)
def test_every_image_error_becomes_a_failure_with_all_that_it_knows(
    kind: type[ImageError],
) -> None:
    failure = kind("What went wrong.", status_code=503, retry_after=3).failure()
    assert failure == Failure(kind.code, "What went wrong.", kind.transient, 503)
    assert kind("What went wrong.").failure().status_code is None


def test_failures_are_values() -> None:
    one, other = (errors.TlsError("Not to be trusted.").failure() for _ in range(2))
    assert one == other
    assert one is not other
    assert hash(one) == hash(other)
    assert one != errors.TlsError("Something else.").failure()


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


@pytest.mark.parametrize("kind", IMAGE_ERRORS)
def test_only_what_may_be_tried_again_limits_its_tries(kind: type[ImageError]) -> None:
    if kind.max_tries is not None:
        assert kind.transient
        assert kind.max_tries >= 2


def test_an_image_error_speaks_its_message() -> None:
    error = errors.QuotaExceeded("The limit is reached.", retry_after=60)
    assert str(error) == error.message == "The limit is reached."
    assert (error.status_code, error.retry_after) == (None, 60)


def test_the_tree_tells_whose_fault_it_was() -> None:
    assert issubclass(errors.OriginBusy, errors.HttpStatus)
    assert issubclass(errors.HttpStatus, errors.DownloadError)
    assert issubclass(errors.QuotaExceeded, errors.UploadError)
    assert not issubclass(errors.IllegalChange, ImageError)
    assert not issubclass(Refused, ImageError)
    assert {kind for kind in ALL if issubclass(kind, ImageLoadError)} == {
        ImageLoadError,
        errors.IllegalChange,
        errors.JournalError,
        *REFUSALS,
        *IMAGE_ERRORS,
    }


def test_every_refusal_has_its_http_status() -> None:
    assert {kind: kind.status for kind in REFUSALS} == {
        Refused: 400,
        errors.BadRequest: 400,
        errors.Unauthorized: 401,
        errors.CrossOrigin: 403,
        errors.TooMany: 413,
        errors.UnknownHost: 421,
        errors.KeyReused: 422,
        errors.BacklogFull: 429,
        errors.JobBusy: 409,
        errors.OutOfRoom: 503,
        errors.OutOfThreads: 503,
        errors.OutOfFiles: 503,
        errors.JournalUnavailable: 503,
        errors.ShuttingDown: 503,
    }


@pytest.mark.parametrize("kind", REFUSALS)
def test_every_refusal_has_a_slug_and_a_title_and_passing_ones_say_when_to_come_back(
    kind: type[Refused],
) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.slug)
    assert kind.title
    assert (kind.retry_after is not None) is (kind.status in (409, 429, 503))
