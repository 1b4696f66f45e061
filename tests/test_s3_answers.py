"""Tests of what an S3 service says, and of where a bucket is: nothing here does I/O."""

from __future__ import annotations

import pytest

from imageload.errors import BucketRefused, QuotaExceeded, UploadError
from imageload.targets.s3.answers import ApiResponse, checked, error_of
from imageload.targets.s3.bucket import name_of
from imageload.targets.s3.location import Location
from tests.targets import upload

# Codes and statuses as in AWS's list of error responses.
KNOWN = [
    (403, "InvalidAccessKeyId", "bad_credentials"),
    (403, "SignatureDoesNotMatch", "bad_credentials"),
    (400, "ExpiredToken", "bad_credentials"),
    (403, "RequestTimeTooSkewed", "clock_skew"),
    (400, "AuthorizationHeaderMalformed", "wrong_region"),
    (301, "PermanentRedirect", "wrong_region"),
    (301, "", "wrong_region"),
    (404, "NoSuchBucket", "no_bucket"),
    (403, "AccessDenied", "access_denied"),
    (403, "", "access_denied"),
    (503, "SlowDown", "rate_limited"),
    (429, "", "rate_limited"),
    (500, "InternalError", "server_fault"),
    (200, "InternalError", "server_fault"),
    (400, "RequestTimeout", "server_fault"),
    (503, "ServiceUnavailable", "unavailable"),
    (502, "", "unavailable"),
    (404, "", "unavailable"),
    (400, "EntityTooLarge", "too_large_for_target"),
    (413, "", "too_large_for_target"),
    (400, "InvalidArgument", "unknown_rejection"),
]
OPERATORS = {"bad_credentials", "clock_skew", "wrong_region", "no_bucket", "access_denied"}


def body(code: str, more: str = "") -> bytes:
    """An error's body; empty without a code."""
    text = f'<?xml version="1.0"?>\n<Error><Code>{code}</Code>{more}</Error>'
    return text.encode() if code else b""


def error(status: int, content: bytes, **headers: str) -> UploadError:
    """What a response means."""
    with pytest.raises(UploadError) as caught:
        checked(ApiResponse(status, headers, content), secrets=("s3cr3t",))
    return caught.value


@pytest.mark.parametrize(("status", "code", "row"), KNOWN)
def test_each_known_response_has_its_row(status: int, code: str, row: str) -> None:
    found = error(status, body(code))
    assert found.name == row
    assert isinstance(found, BucketRefused) is (row in OPERATORS)
    assert isinstance(found, QuotaExceeded) is (row == "rate_limited")
    assert len(found.message) > 20
    assert found.status_code == status
    assert not found.maybe_landed


def test_a_success_is_a_success() -> None:
    assert checked(ApiResponse(200, {}, b"")).status == 200
    assert checked(ApiResponse(204, {}, b""), (204,)).status == 204


def test_the_message_names_the_region_and_quotes_without_secrets() -> None:
    said = "<Message>s3cr3t\nis wrong</Message><Region>eu-west-1</Region>"
    found = error(400, body("AuthorizationHeaderMalformed", said))
    assert "--s3-region=eu-west-1" in found.message
    assert '"AuthorizationHeaderMalformed: ... is wrong"' in found.message


def test_a_throttled_request_waits_as_the_response_says() -> None:
    assert error(503, body("SlowDown"), **{"retry-after": "7"}).retry_after == 7.0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"\xff\xfe\x00",
        b"<Error><Other/></Error>",
        b"<a>" * 20_000,
        b"<List><Error><Code>x</Code></Error></List>",
        b'<!DOCTYPE a [<!ENTITY b "SlowDown">]><Error><Code>&b;</Code></Error>',
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><Error><Code>x</Code></Error>',
    ],
)
def test_what_is_no_xml_error_says_nothing(content: bytes) -> None:
    assert error_of(content) == {}


def test_an_error_that_is_cut_off_or_in_a_namespace_is_read() -> None:
    cut = b"<Error><Code>SlowDown</Code><Message>Please red"
    assert error_of(cut) == {"Code": "SlowDown", "Message": "Please red"}
    spaced = b'<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>A</Code></Error>'
    assert error_of(spaced) == {"Code": "A"}


@pytest.mark.parametrize(
    ("target", "endpoint", "public", "url", "link"),
    [
        ("s3://abc", "", "", "https://abc.s3.eu-west-1.amazonaws.com", None),
        ("s3://a.bc", "", "", "https://s3.eu-west-1.amazonaws.com/a.bc", None),
        ("s3://abc/x/y/", "https://h:1/", "", "https://h:1/abc", "https://h:1/abc/x/y/"),
        ("s3://abc/x", "http://h", "https://cdn/z/", "http://h/abc", "https://cdn/z/x/"),
    ],
)
def test_a_bucket_has_a_url_for_requests_and_one_for_links(
    target: str, endpoint: str, public: str, url: str, link: str | None
) -> None:
    location = Location.of(target, region="eu-west-1", endpoint=endpoint, public_url=public)
    assert location.url == url
    assert location.link_base == (link or f"{url}/")


def test_an_object_is_named_by_its_bytes_and_texts() -> None:
    plain = name_of(upload())
    assert plain == f"{upload().content}.png"
    titled = {name_of(upload(title=title)) for title in ("", "A", "B", "\ud800")}
    assert len({plain, *titled}) == 5
    assert name_of(upload(title="A", type="image/jpeg")).endswith(".jpg")
