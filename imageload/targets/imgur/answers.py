"""Read Imgur's responses: the rate limits in their headers, and the UploadError of a failure.

Imgur reports errors in four shapes (a text, an object, a list of objects, a page that is not
JSON), and the HTTP status, the status in the body and the code in the error may all differ. What is
known of them is the table MEANINGS. Nothing here does I/O.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import re
import time
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

import msgspec

from imageload import errors

_EPOCH = 1_000_000_000
# Prefix in `budgets`, prefix of the headers, and name of each budget.
_BUDGETS = (
    ("User", "x-ratelimit-user", "user"),
    ("Client", "x-ratelimit-client", "client"),
    ("Post", "x-post-rate-limit-", "posts"),
)
_LIMIT_HEADERS = tuple(
    (f"{prefix}{key}", f"{header}{key.lower()}")
    for prefix, header, _ in _BUDGETS
    for key in ("Limit", "Remaining", "Reset")
)
# Markup, control characters and halves of surrogate pairs: none belongs in a message or a log line.
_UNWANTED = re.compile(r"(?:<[^<>]*>|[<\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029])+")
_MAX_MESSAGE = 2_000


class Meaning(NamedTuple):
    """A response that is known, and the row of ERRORS that it means.

    It fits a response whose HTTP status is in `statuses`, one of whose statuses and codes is in
    `codes`, whose message has one of `words`, and which is of this `kind`; an empty field fits all.
    """

    error: str
    message: str
    codes: Container[int] = ()
    words: tuple[str, ...] = ()
    statuses: Container[int] = ()
    kind: str = ""


_BLOCK = "Imgur refuses this address or client id."
_REFUSED = "Imgur does not take the client id or token."
_NOT_OURS = "Imgur does not let us change this."
_AWAY = "Imgur, or a gateway before it, is unavailable."
_NO_WAIT = "A gateway before Imgur did not wait for its response."
_IMAGE = "Imgur refused the image."

MEANINGS = (
    Meaning("rate_limited", "Imgur's rate limit is reached.", codes=(429,)),
    Meaning("rate_limited", "Imgur's rate limit is reached.", words=("too fast",)),
    Meaning("upload_blocked", _BLOCK, words=("actions are forbidden", "in your country")),
    Meaning("upload_blocked", _BLOCK, words=("banned country",)),
    Meaning("upload_blocked", _BLOCK, codes=(403,), words=("capacity", "forbidden")),
    Meaning("bad_credentials", _REFUSED, codes=(401,)),
    Meaning("bad_credentials", _REFUSED, words=("client_id", "access token", "auth header")),
    Meaning("bad_credentials", _REFUSED, words=("authentication",)),
    Meaning("upload_rejected", _NOT_OURS, words=("unauthorized",), kind="of one"),
    Meaning("upload_rejected", _NOT_OURS, codes=(403,), statuses=range(300, 600), kind="of one"),
    Meaning("bad_credentials", _REFUSED, words=("unauthorized",)),
    Meaning("upload_blocked", _BLOCK, codes=(403,), statuses=range(300, 600)),
    Meaning("not_on_imgur", "Imgur has no such image or album.", codes=(404,), kind="of Imgur"),
    Meaning(
        "not_on_imgur",
        "Imgur has no such image or album.",
        words=("unable to find",),
        kind="of Imgur",
    ),
    Meaning("upload_error", "Imgur's response is not valid.", statuses=(200,), kind="object"),
    Meaning("unavailable", _AWAY, statuses=range(100, 400), kind="page"),
    Meaning("response_lost", "Imgur's response is empty or cut off.", statuses=range(200, 300)),
    Meaning("too_large_for_target", "Imgur finds the image too large.", codes=(413,)),
    Meaning("too_large_for_target", "Imgur finds the image too large.", words=("size limit",)),
    Meaning("response_lost", _NO_WAIT, statuses=(504,)),
    # In these words Imgur says with 400, 417 and 500 that it has too much to do.
    Meaning("unavailable", _AWAY, words=("capacity", "limit exceeded", "circuit breaker")),
    # "Internal expectation failed", its commonest failure: another try may succeed.
    Meaning("server_fault", "Imgur failed to process this request.", codes=(417,)),
    Meaning("server_fault", "Imgur failed to process this request.", statuses=(500,)),
    Meaning("unavailable", _AWAY, statuses=range(400, 500), kind="page"),
    Meaning("unavailable", _AWAY, statuses=(404, 408, *range(501, 600))),
    Meaning("unavailable", _AWAY, statuses=range(100, 400)),
    Meaning("upload_rejected", _IMAGE, codes=(1003, 415)),
    Meaning("upload_rejected", _IMAGE, words=("file type", "no image data", "invalid url")),
    Meaning("upload_rejected", _NOT_OURS, words=("not the owner", "own all the image ids")),
    Meaning("unknown_rejection", _IMAGE),
)
"""The first that fits a response says what it means. Sources: docs/decisions/rejections.md."""

_CLASSES: Mapping[str, Callable[..., errors.UploadError]] = {
    "rate_limited": errors.QuotaExceeded,
    "upload_blocked": errors.UploadBlocked,
    "bad_credentials": errors.CredentialsRefused,
    "not_on_imgur": errors.NotFoundOnImgur,
}


class ApiResponse(NamedTuple):
    """HTTP status, headers with names in lower case, and the body's JSON; None: it is not JSON."""

    status: int
    headers: Mapping[str, str]
    json: Any


def read_json(body: bytes) -> Any:
    """The JSON in `body`, or None."""
    try:
        return msgspec.json.decode(body)  # in a sixth of the time
    except (msgspec.MsgspecError, ValueError, RecursionError):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(body)  # with a byte order mark, or halves of surrogate pairs
    return None


def budgets(headers: Mapping[str, str]) -> dict[str, float | None]:
    """The rate-limit headers of a response, by imgurpython's names and a few more.

    Limits and remaining counts are credits (POSTs for Post...), resets are seconds from now. Imgur
    sends seconds since 2021 and sent an epoch before: a value above 1e9 is an epoch, compared with
    the response's Date if it has one.
    """
    read: dict[str, float | None] = {}
    for name, header in _LIMIT_HEADERS:
        text = headers.get(header)
        number: float | None = None if text is None else _number(text)
        if number is not None and number > _EPOCH and name.endswith("Reset"):
            number = max(0.0, number - _now_there(headers))
        read[name] = number
    return read


def _now_there(headers: Mapping[str, str]) -> float:
    """The epoch by Imgur's clock; by ours, which is more precise, if they differ by a second."""
    here = time.time()
    try:
        there = email.utils.parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        return here
    return here if -1.0 < here - there < 2.0 else there


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d{1,15}", text.strip()) else None


def _complaint(response: ApiResponse, about: str) -> tuple[set[int], str]:
    """The statuses and codes that an error response of any shape names, and its message."""
    statuses, message = {response.status}, ""
    body = response.json if isinstance(response.json, dict) else {}
    found: list[Any] = [body, body.get("data")]
    if isinstance(found[1], dict):
        found.append(found[1].get("error"))
    if isinstance(body.get("errors"), list):
        found.extend(body["errors"][:1])
    for item in found:
        if isinstance(item, str):
            message = item
        elif isinstance(item, dict):
            statuses |= {*_codes(item.get("status")), *_codes(item.get("code"))}
            words = [item.get(key) for key in ("message", "detail")]
            message = next((word for word in words if isinstance(word, str) and word), message)
    if about:
        message = message.replace(about, "...")
    return statuses, _UNWANTED.sub(" ", message[:_MAX_MESSAGE]).strip()[:300]


def _codes(value: Any) -> list[int]:
    """The status code that `value` is or spells, as a list of at most one."""
    text = str(value) if isinstance(value, int | str) else ""
    return [int(text)] if re.fullmatch(r"[0-9]{3,4}", text) else []


def checked(response: ApiResponse, about: str = "") -> ApiResponse:
    """`response` if it is a success; raises the UploadError that it means otherwise.

    `about` is the id or deletehash of the image or album that the request was about. It may be a
    secret, so it is not quoted. A refusal that concerns it does not block other requests.
    """
    body = response.json
    refused = isinstance(body, dict) and (
        body.get("success") is False
        or "errors" in body
        or (isinstance(body.get("data"), dict) and "error" in body["data"])
    )
    if response.status == 200 and isinstance(body, dict) and not refused:
        return response
    raise _meaning(response, about)


def _meaning(response: ApiResponse, about: str) -> errors.UploadError:
    codes, message = _complaint(response, about)
    words, kinds = message.lower(), _kinds(response, about)
    means = next(each for each in MEANINGS if _fits(each, response.status, codes, words, kinds))
    text = f'{means.message} Imgur says: "{message}"' if message else means.message
    if means.error == "rate_limited":
        return _quota_exceeded(response, words, text)
    of_type = _CLASSES.get(means.error)
    if of_type is None:
        return errors.UploadError(means.error, text, status_code=response.status)
    error = of_type(text, status_code=response.status)
    if isinstance(error, errors.UploadBlocked):
        error.is_by_edge = not any(name.startswith("x-ratelimit-") for name in response.headers)
    return error


def _fits(means: Meaning, status: int, codes: set[int], words: str, kinds: set[str]) -> bool:
    return (
        (not means.statuses or status in means.statuses)
        and (not means.codes or any(code in means.codes for code in codes))
        and (not means.words or any(word in words for word in means.words))
        and (not means.kind or means.kind in kinds)
    )


def _kinds(response: ApiResponse, about: str) -> set[str]:
    """What else is known of a response: the `kind` of a Meaning."""
    kinds = set()
    if response.headers.get("content-type", "").lower().startswith("text/html"):
        kinds.add("page")
    if isinstance(response.json, dict):
        kinds.add("object")
    if _is_imgurs(response):
        kinds |= {"of Imgur", "of one"} if about else {"of Imgur"}
    return kinds


def _is_imgurs(response: ApiResponse) -> bool:
    """Is this from Imgur and not from a gateway before it? It has one of Imgur's shapes then."""
    return isinstance(response.json, dict) and not response.json.keys().isdisjoint(
        ("data", "errors")
    )


def _quota_exceeded(response: ApiResponse, words: str, text: str) -> errors.QuotaExceeded:
    """A rate limit: which budget is used up and until when, if the response says so."""
    found = budgets(response.headers)
    empty = [(key, name) for key, _, name in _BUDGETS if found[f"{key}Remaining"] == 0]
    minutes = re.search(r"wait ([0-9]{1,4}) more minute", words)
    budget, wait = None, int(minutes[1]) * 60.0 if minutes else None
    if empty:
        key, budget = empty[0]
        wait = wait or found[f"{key}Reset"]
    elif "daily" in words:
        budget = "client"
    error = errors.QuotaExceeded(text, status_code=429, retry_after=wait)
    error.budget = budget
    return error
