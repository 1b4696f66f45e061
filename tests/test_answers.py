"""Tests of targets.imgur.answers: budgets from both families of headers, and one UploadError for
each meaning of a response, in any of Imgur's four formats.

The error texts are Imgur's own, from public captures and issue threads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageload import errors
from imageload.targets.imgur.answers import ApiResponse, budgets, checked, read_json

FAST = "You are uploading too fast. Please wait 12 more minutes."
CAPACITY = "Imgur is temporarily over capacity. Please try again later."
FORBIDDEN = "These actions are forbidden."
COUNTRY = "We're really sorry, but anonymous uploading in your country has been disabled."

SUCCESS = {"status": 200, "success": True, "data": {"link": "https://i.imgur.com/a.png"}}


def text(error: str, status: int, body_status: int | None = None) -> tuple[int, Any]:
    """Shape 1: an error text."""
    complaint = {"error": error, "request": "/3/upload", "method": "POST"}
    return status, {"data": complaint, "success": False, "status": body_status or status}


def edge(error: str, status: int) -> tuple[int, Any]:
    """Shape 1 as the edge makes it, without `request` and `method`."""
    return status, {"data": {"error": error}, "success": False, "status": status}


def thing(code: int, message: str, status: int, kind: str = "ImgurException") -> tuple[int, Any]:
    """Shape 2: an error object."""
    error = {"code": code, "message": message, "type": kind, "exception": []}
    return text(error, status)  # type: ignore[arg-type]


def listed(code: str, detail: str, status: int) -> tuple[int, Any]:
    """Shape 3: a list of errors."""
    entry = {"id": "legacy-api-5c/x1-2", "code": code, "status": detail, "detail": detail}
    return status, {"errors": [entry]}


def page(words: str, status: int) -> tuple[int, Any, dict[str, str]]:
    """Shape 4: no JSON at all."""
    body = f"<!DOCTYPE html><html><body><h1>{words}</h1></body></html>".encode()
    return status, read_json(body), {"content-type": "text/html; charset=utf-8"}


CATALOGUE: list[tuple[tuple[Any, ...], str]] = [
    # Refused images.
    (text("No image data was sent to the upload api", 400), "upload_rejected"),
    (thing(1003, "File type invalid (1)", 400), "upload_rejected"),
    (thing(1003, "File type invalid (1)", 415, "Exception_UploadError"), "upload_rejected"),
    (text("Invalid URL (http://a.example/)", 400), "upload_rejected"),
    (text("File is over the size limit", 400), "too_large_for_target"),
    (text("file is over the size limit", 413), "too_large_for_target"),
    (listed("413", "Request Entity Too Large", 413), "too_large_for_target"),
    (page("413 Request Entity Too Large", 413), "too_large_for_target"),
    (thing(0, "Invalid URL", 400), "upload_rejected"),
    (text("You must own all the image ids to add them to album x", 400), "upload_rejected"),
    (text("Unable to find an image with the id, abc", 404), "not_on_imgur"),
    (listed("404", "Not Found", 404), "not_on_imgur"),
    (text("You are not the owner of album 'X', which means you can't add", 400), "upload_rejected"),
    ((400, {"data": False, "success": False, "status": 400}), "unknown_rejection"),
    ((400, {"data": None, "success": False, "status": 400}), "unknown_rejection"),
    ((400, {"errors": []}), "unknown_rejection"),
    ((400, None), "unknown_rejection"),
    (text("Something new", 400), "unknown_rejection"),
    # Its rate limit.
    (thing(429, FAST, 400), "rate_limited"),
    (thing(429, FAST, 429), "rate_limited"),
    (thing(429, FAST, 200), "rate_limited"),
    (text("Uploading file too fast!", 400), "rate_limited"),
    (text("Daily client requests exceeded", 429), "rate_limited"),
    (text("Something", 429, body_status=400), "rate_limited"),
    (text("Something", 429, body_status=500), "rate_limited"),
    (text("Something", 400, body_status=429), "rate_limited"),
    (listed("429", "Too Many Requests", 429), "rate_limited"),
    (listed("429", "Too Many Requests", 200), "rate_limited"),
    (edge(CAPACITY, 429), "rate_limited"),
    (page("429 Too Many Requests", 429), "rate_limited"),
    ((429, {"message": "You have exceeded the MONTHLY quota"}), "rate_limited"),
    ((429, None), "rate_limited"),
    # Refused clients.
    (edge(FORBIDDEN, 400), "upload_blocked"),
    (edge(FORBIDDEN, 403), "upload_blocked"),
    (edge(COUNTRY, 400), "upload_blocked"),
    (thing(403, "Forbidden", 400), "upload_blocked"),
    (thing(403, "Forbidden", 200), "upload_blocked"),
    (edge(CAPACITY, 403), "upload_blocked"),
    # A 403 without words that are known: a gateway's, or a page.
    (text("Something", 403), "upload_blocked"),
    ((403, None), "upload_blocked"),
    ((403, {"message": "You are not subscribed to this API."}), "upload_blocked"),
    (page("Access denied", 403), "upload_blocked"),
    (thing(403, "Something", 400), "upload_blocked"),
    # Whom it does not know.
    (text("Authentication required", 401), "bad_credentials"),
    (text("Invalid client_id", 403), "bad_credentials"),
    (text("Authentication required", 403), "bad_credentials"),
    (text("Unauthorized", 403), "bad_credentials"),
    (text("Unauthorized", 400), "bad_credentials"),
    (thing(1000, "This method requires authentication", 400), "bad_credentials"),
    ((403, {"message": "Unauthorized"}), "bad_credentials"),
    (text("Malformed auth header", 403), "bad_credentials"),
    (text("The access token provided is invalid.", 403), "bad_credentials"),
    (text("The access token provided is invalid.", 401), "bad_credentials"),
    ((401, None), "bad_credentials"),
    # Transient errors.
    (thing(1001, "File was not uploaded correctly", 500, "Exception_Logged"), "server_fault"),
    (thing(1001, "[id]: Failed stripping metadata", 500), "server_fault"),
    (text("Could not process upload!", 500), "server_fault"),
    (edge(CAPACITY, 500), "unavailable"),
    (edge(CAPACITY, 400), "unavailable"),
    (text("Request limit exceeded", 400), "unavailable"),
    (text("Hystrix circuit breaker is open", 500), "unavailable"),
    (thing(1000, "Circuit breaker open", 400), "unavailable"),
    (page("400 Bad Request", 400), "unavailable"),
    (page("405 Not Allowed", 405), "unavailable"),
    (text("Internal expectation failed", 417), "server_fault"),
    (thing(417, "Internal expectation failed", 400), "server_fault"),
    ((417, None), "server_fault"),
    ((500, {"data": "An error occurred", "success": False, "status": 500}), "server_fault"),
    ((500, {"data": None, "success": True, "status": 200}), "server_fault"),
    (text("Something", 500, body_status=1203), "server_fault"),
    ((500, None), "server_fault"),
    (page("503 client read error: Error 54113", 503), "unavailable"),
    (page("Imgur overloaded. Hang in there with kittens", 503), "unavailable"),
    (page("502", 502), "unavailable"),
    ((504, {"message": "The upstream server is timing out"}), "response_lost"),
    ((502, {"message": "Bad gateway"}), "unavailable"),
    ((408, None), "unavailable"),
    # A 404 of another server does not show that the image is missing on Imgur.
    (page("404 Not Found", 404), "unavailable"),
    ((404, {"message": "Endpoint '/3/upload' does not exist"}), "unavailable"),
    # Responses of other servers, such as captive portals.
    (page("Welcome to our Wi-Fi. Log in here.", 200), "unavailable"),
    (page("302 Found", 302), "unavailable"),
    ((301, None), "unavailable"),
    # Lost: the image was sent, and the response does not say what became of it.
    ((204, None), "response_lost"),
    ((202, None), "response_lost"),
    ((200, read_json(b"null")), "response_lost"),
    ((200, read_json(b"")), "response_lost"),
    ((200, read_json(b'{"data":{"id":"aB3","li')), "response_lost"),
    ((200, read_json(b'{"data":"\xff\xfe"}')), "response_lost"),
    ((200, 5), "response_lost"),
    ((200, "yes"), "response_lost"),
    ((200, []), "response_lost"),
    ((200, [SUCCESS]), "response_lost"),
    ((200, False), "response_lost"),
    # JSON with status 200 that is no success.
    ((200, {"success": False}), "upload_error"),
    ((200, {"data": {"id": "abc"}, "success": False, "status": 200}), "upload_error"),
    ((200, {"data": "An error occurred", "success": False, "status": 500}), "upload_error"),
    ((200, {"errors": [{"code": "500", "detail": "Internal"}]}), "upload_error"),
    ((200, {"errors": "all of them"}), "upload_error"),
    (text("Unable to find an image with the id, abc", 200), "not_on_imgur"),
]


def meaning(
    status: int, body: object, fields: dict[str, str] | None = None, about: str = ""
) -> errors.UploadError:
    """Return the error raised for a response."""
    with pytest.raises(errors.UploadError) as caught:
        checked(ApiResponse(status, fields or {}, body), about)
    return caught.value


@pytest.mark.parametrize(("answer", "expected"), CATALOGUE)
def test_every_response_of_the_catalogue_has_its_error(
    answer: tuple[Any, ...], expected: str
) -> None:
    error = meaning(*answer)
    assert error.name == expected
    assert error.status_code == (429 if expected == "rate_limited" else answer[0])
    assert error.retry_after is None or expected == "rate_limited"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (text("Unauthorized", 403), "upload_rejected"),
        (text("Unauthorized", 400), "upload_rejected"),
        (text("Something", 403), "upload_rejected"),
        (text("Invalid client_id", 403), "bad_credentials"),
        (text("The access token provided is invalid.", 403), "bad_credentials"),
        (text("Unauthorized", 401), "bad_credentials"),
        ((403, {"message": "Unauthorized"}), "bad_credentials"),
        (edge(CAPACITY, 403), "upload_blocked"),
        (edge(FORBIDDEN, 400), "upload_blocked"),
        (page("Access denied", 403), "upload_blocked"),
    ],
)
def test_an_error_about_one_image_has_its_own_code(answer: tuple[Any, ...], expected: str) -> None:
    status, body, *headers = answer
    fields = headers[0] if headers else None
    assert meaning(status, body, fields, about="aB3dE6gH9jK2mN5").name == expected


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500])
def test_the_requested_name_is_never_quoted(status: int) -> None:
    """It is a deletehash, mostly, and messages are logged and shown."""
    secret = "aB3dE6gH9jK2mN5"
    for words in (f"You must own album {secret}", "x" * 290 + secret, f"<{secret}>{secret}"):
        for body in (text(words, status), listed(str(status), words, status)):
            message = meaning(*body, about=secret).message
            assert secret[:5] not in message


@pytest.mark.parametrize(
    "body",
    [
        SUCCESS,
        {"data": True, "success": True, "status": 200},
        {"data": {"id": "abc", "deletehash": "def"}, "success": True, "status": 200},
        {"access_token": "a", "refresh_token": "b", "expires_in": 3600},
        {"data": [], "success": True, "status": 200},
    ],
)
def test_the_data_of_a_success_is_returned_unchanged(body: object) -> None:
    answer = ApiResponse(200, {"etag": "x"}, body)
    assert checked(answer) is answer


def test_imgurs_error_text_is_in_the_message() -> None:
    for (status, body), words in (
        (text("File is over the size limit", 400), "File is over the size limit"),
        (thing(1003, "File type invalid (1)", 400), "File type invalid (1)"),
        (listed("429", "Too Many Requests", 429), "Too Many Requests"),
        ((502, {"message": "Bad gateway"}), "Bad gateway"),
        ((500, {"data": "An error occurred", "success": False}), "An error occurred"),
    ):
        assert f'Imgur says: "{words}"' in meaning(status, body).message


@pytest.mark.parametrize("status", [200, 301, 302, 400, 403, 404, 413, 429, 500, 502, 503])
def test_a_page_is_never_quoted(status: int) -> None:
    message = meaning(*page("Log in <a href='http://evil.example'>here</a>", status)).message
    assert "<" not in message
    assert "Imgur says" not in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("<b>File</b> is over", "File  is over"),
        ("<script>alert(1)</script>over", "alert(1) over"),
        ("over\r\nfailed job=forged", "over failed job=forged"),
        ("over\x1b[31m\x00\x7f", "over [31m"),
        ("<img\nsrc=x>over", "over"),
        ("<<b>b>over", "b>over"),
        ("a < b", "a   b"),
        ("\ud800\u2028over\x9b", "over"),
    ],
)
@pytest.mark.parametrize("shape", [text, edge])
def test_tags_and_control_characters_are_never_in_a_message(
    shape: Callable[[str, int], tuple[int, Any]], said: str, shown: str
) -> None:
    message = meaning(*shape(said, 400)).message
    assert f'Imgur says: "{shown}"' in message
    assert message.isprintable()


@given(st.text(max_size=40))
def test_control_characters_of_imgurs_text_are_removed(said: str) -> None:
    message = meaning(*text(said, 400)).message
    assert not any(ord(character) < 32 or ord(character) == 127 for character in message)


@pytest.mark.parametrize("character", ["x", "<"])
def test_a_message_of_any_length_is_cut(character: str) -> None:
    """At once: a pattern on a million of `<` could take half an hour."""
    assert len(meaning(*text(character * 1_000_000, 400)).message) < 500


@pytest.mark.parametrize("value", [10**4_000, "9" * 10_000, 4.29e2, [429], {"a": 1}, True, None])
def test_a_code_of_any_type_and_size_is_no_code(value: object) -> None:
    body = {"data": {"error": {"code": value, "message": "No."}}, "status": value}
    assert meaning(400, body).name == "unknown_rejection"


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"data":' * 100_000, b"9" * 10_000, b"\xff"])
def test_a_body_that_is_no_json_or_too_deep_is_none(body: bytes) -> None:
    assert read_json(body) is None


@pytest.mark.parametrize("is_by_edge", [True, False])
def test_a_block_with_rate_limits_is_by_imgurs_api_and_not_by_its_edge(is_by_edge: bool) -> None:
    limits = {} if is_by_edge else {"x-ratelimit-userremaining": "500"}
    error = meaning(*edge("Something", 403), limits)
    assert isinstance(error, errors.UploadBlocked)
    assert error.is_by_edge is is_by_edge


# How long to wait


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Please wait 12 more minutes.", 720),
        ("Please wait 1 more minute.", 60),
        ("please WAIT 60 More Minutes", 3_600),
    ],
)
@pytest.mark.parametrize("status", [400, 429])
def test_the_wait_is_the_number_of_minutes_in_imgurs_text(
    words: str, seconds: float, status: int
) -> None:
    error = meaning(*thing(429, f"You are uploading too fast. {words}", status))
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, None),
        ({"x-ratelimit-userremaining": "0", "x-ratelimit-userreset": "3600"}, 3_600),
        ({"x-ratelimit-clientremaining": "0", "x-ratelimit-clientreset": "86400"}, 86_400),
        ({"x-post-rate-limit-remaining": "0", "x-post-rate-limit-reset": "1200"}, 1_200),
        # Of several budgets the one that ran out counts.
        (
            {
                "x-ratelimit-userremaining": "499",
                "x-ratelimit-userreset": "3600",
                "x-ratelimit-clientremaining": "0",
                "x-ratelimit-clientreset": "86400",
                "x-post-rate-limit-remaining": "1206",
                "x-post-rate-limit-reset": "1200",
            },
            86_400,
        ),
        ({"x-ratelimit-userremaining": "1", "x-ratelimit-userreset": "3600"}, None),
        ({"x-ratelimit-userremaining": "0"}, None),
        ({"x-ratelimit-userremaining": "0", "x-ratelimit-userreset": "soon"}, None),
    ],
)
def test_the_wait_is_the_reset_of_the_used_up_budget(
    fields: dict[str, str], seconds: float | None
) -> None:
    assert meaning(*listed("429", "Too Many Requests", 429), fields).retry_after == seconds


def test_a_reset_that_is_an_epoch_becomes_the_seconds_until_then() -> None:
    fields = {
        "x-ratelimit-userremaining": "0",
        "x-ratelimit-userreset": str(int(time.time()) + 1_800),
    }
    wait = meaning(*listed("429", "Too Many Requests", 429), fields).retry_after
    assert wait is not None
    assert 1_700 < wait <= 1_800


# Budgets


def test_budgets_are_read_from_both_families() -> None:
    assert budgets(
        {
            "x-ratelimit-userlimit": "500",
            "x-ratelimit-userremaining": "490",
            "x-ratelimit-userreset": "3600",
            "x-ratelimit-clientlimit": "12500",
            "x-ratelimit-clientremaining": "12490",
            "x-ratelimit-clientreset": "86400",
            "x-post-rate-limit-limit": "1250",
            "x-post-rate-limit-remaining": "1249",
            "x-post-rate-limit-reset": "3599",
            "content-type": "application/json",
        }
    ) == {
        "UserLimit": 500,
        "UserRemaining": 490,
        "UserReset": 3_600,
        "ClientLimit": 12_500,
        "ClientRemaining": 12_490,
        "ClientReset": 86_400,
        "PostLimit": 1_250,
        "PostRemaining": 1_249,
        "PostReset": 3_599,
    }


def test_budgets_that_are_not_named_are_none() -> None:
    found = budgets({"x-ratelimit-userremaining": "7"})
    assert found.pop("UserRemaining") == 7
    assert {*found.values()} == {None}
    assert {*budgets({}).values()} == {None}


@pytest.mark.parametrize(
    "name", ["x-ratelimit-userreset", "x-ratelimit-clientreset", "x-post-rate-limit-reset"]
)
def test_a_reset_is_in_seconds_from_now_whether_it_came_as_seconds_or_as_an_epoch(
    name: str,
) -> None:
    def reset(value: int) -> float:
        (found,) = [each for each in budgets({name: str(value)}).values() if each is not None]
        return found

    assert reset(3_600) == 3_600
    assert reset(0) == 0
    assert 3_500 < reset(int(time.time()) + 3_600) <= 3_600
    assert reset(1_496_449_847) == 0  # an epoch long past


@pytest.mark.parametrize("junk", ["", " ", "soon", "1.5", "0x10", "1e3", "1,000", "9" * 5_000])
def test_junk_is_no_budget(junk: str) -> None:
    assert {*budgets({"x-ratelimit-userremaining": junk}).values()} == {None}


# Hostile bodies


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html></html>",
        b"{",
        b'{"data": \xff}',
        b'"\xff\xfe"',
        b"\x00\x00\x00",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"data":' * 100_000 + b"1" + b"}" * 100_000,
        b"9" * 100_000,
        b'{"status": ' + b"9" * 5_000 + b"}",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_that_is_not_json_is_none(body: bytes) -> None:
    assert read_json(body) is None


@pytest.mark.parametrize(
    "body", [b'{"a": [1, "\\u00e9"]}', b" null ", '"é"'.encode(), b"1e999", b'"\\ud800"']
)
def test_json_is_read(body: bytes) -> None:
    assert read_json(body) == json.loads(body)


@pytest.mark.parametrize("depth", [10, 900])
@pytest.mark.parametrize("status", [200, 400])
def test_errors_of_any_depth_or_size_are_still_errors(depth: int, status: int) -> None:
    deep: Any = []
    for _ in range(depth):
        deep = [deep]
    values: list[Any] = [deep, 10**4_000, -1, 1e999, "9" * 10_000, "\ud800", {}, None, True]
    for value in values:
        for body in (
            {"data": value, "success": False},
            {"data": {"error": value}},
            {"data": {"error": {"code": value, "message": value}}},
            {"errors": [{"code": value, "status": value, "detail": value}]},
            {"errors": value},
            {"message": value, "status": value, "success": False},
        ):
            assert meaning(status, body).message


@given(
    st.integers(100, 599),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["data", "error", "errors", "code", "status", "message", "detail"]),
                inner,
                max_size=4,
            )
        ),
    ),
)
def test_any_response_is_a_success_or_an_upload_error(status: int, body: object) -> None:
    answer = ApiResponse(status, {}, body)
    try:
        taken = checked(answer)
    except errors.UploadError:
        return
    assert taken is answer
    assert status == 200
