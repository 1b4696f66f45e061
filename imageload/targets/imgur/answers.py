"""Read Imgur's responses: the rate limits in their headers, and the UploadError of a failure.

Imgur reports errors in four shapes (a text, an object, a list of objects, a page that is not
JSON), and the HTTP status, the status in the body and the code in the error may all differ.
Nothing here does I/O.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from imageload import errors

_EPOCH = 1_000_000_000
# Prefix in `budgets`, prefix of the headers, and name of each budget.
_BUDGETS = (
    ("User", "x-ratelimit-user", "user"),
    ("Client", "x-ratelimit-client", "client"),
    ("Post", "x-post-rate-limit-", "posts"),
)
# Markup and control characters: neither belongs in a message or a log line.
_TAGS = re.compile(r"(?:<[^>]*>|[\x00-\x1f\x7f])+")
_MAX_MESSAGE = 2_000
_OF_US = ("client_id", "access token", "auth header", "authentication")


class ApiResponse(NamedTuple):
    """HTTP status, headers with names in lower case, and the body's JSON; None: it is not JSON."""

    status: int
    headers: Mapping[str, str]
    json: Any


def read_json(body: bytes) -> Any:
    """The JSON in `body`, or None."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def budgets(headers: Mapping[str, str]) -> dict[str, float | None]:
    """The rate-limit headers of a response, by imgurpython's names and a few more.

    Limits and remaining counts are credits (POSTs for Post...), resets are seconds from now. Imgur
    sends seconds since 2021 and sent an epoch before: a value above 1e9 is an epoch, compared with
    the response's Date if it has one.
    """
    read: dict[str, float | None] = {}
    for prefix, header, _ in _BUDGETS:
        for key in ("Limit", "Remaining", "Reset"):
            read[f"{prefix}{key}"] = _number(headers.get(f"{header}{key.lower()}"))
        reset = read[f"{prefix}Reset"]
        if reset is not None and reset > _EPOCH:
            read[f"{prefix}Reset"] = max(0.0, reset - _now_there(headers))
    return read


def _now_there(headers: Mapping[str, str]) -> float:
    """The epoch by Imgur's clock; by ours, which is more precise, if they differ by a second."""
    here = time.time()
    try:
        there = email.utils.parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        return here
    return here if -1.0 < here - there < 2.0 else there


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d{1,15}", text.strip()) else None


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
    # Cut before: the time of the pattern grows with the square of the length.
    return statuses, _TAGS.sub(" ", message[:_MAX_MESSAGE]).strip()[:300]


def _codes(value: Any) -> list[int]:
    """The status code that `value` is or spells, as a list of at most one."""
    return [int(value)] if re.fullmatch(r"\d{3,4}", str(value)) else []


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
    statuses, message = _complaint(response, about)
    words, status = message.lower(), response.status
    said = f' Imgur says: "{message}"' if message else ""
    if 429 in statuses or "too fast" in words:
        return _quota_exceeded(response, words, said)
    if _has(words, ("actions are forbidden", "in your country")) or (
        403 in statuses and _has(words, ("capacity", "forbidden"))
    ):
        text = f"Imgur refuses this address or client id.{said}"
        return errors.UploadBlocked(text, status_code=status)
    is_its_own = bool(about) and _is_imgurs(response)
    if 401 in statuses or _has(words, _OF_US) or ("unauthorized" in words and not is_its_own):
        text = f"Imgur does not take the client id or token.{said}"
        return errors.CredentialsRefused(text, status_code=status)
    if 403 in statuses and status != 200:
        if not is_its_own:
            text = f"Imgur, or a gateway before it, refuses this client.{said}"
            return errors.UploadBlocked(text, status_code=status)
        name, text = "upload_rejected", "Imgur does not let us change this."
    elif _is_imgurs(response) and (404 in statuses or "unable to find" in words):
        text = f"Imgur has no such image or album.{said}"
        return errors.NotFoundOnImgur(text, status_code=status)
    else:
        name, text = _failure_of_one(response, statuses, words)
    return errors.UploadError(name, text + said, status_code=status)


def _failure_of_one(response: ApiResponse, statuses: set[int], words: str) -> tuple[str, str]:
    """Name in ERRORS and message of a failure that other requests need not share."""
    status = response.status
    if status == 200 and response.json is not None:
        return "upload_error", "Imgur's response is not valid."
    if 413 in statuses or "size limit" in words:
        return "too_large_for_target", "Imgur finds the image too large."
    if status == 504:
        return "response_lost", "A gateway before Imgur did not wait for its response."
    if status == 500 and "capacity" not in words:
        return "server_fault", "Imgur failed to process this request."
    if status >= 500 or status < 400 or status in (404, 408):
        return "unavailable", "Imgur, or a gateway before it, is unavailable."
    return "upload_rejected", "Imgur refused the image."


def _is_imgurs(response: ApiResponse) -> bool:
    """Is this from Imgur and not from a gateway before it? It has one of Imgur's shapes then."""
    return isinstance(response.json, dict) and not response.json.keys().isdisjoint(
        ("data", "errors")
    )


def _has(words: str, parts: Iterable[str]) -> bool:
    return any(part in words for part in parts)


def _quota_exceeded(response: ApiResponse, words: str, said: str) -> errors.QuotaExceeded:
    """A rate limit: which budget is used up and until when, if the response says so."""
    found = budgets(response.headers)
    empty = [(key, name) for key, _, name in _BUDGETS if found[f"{key}Remaining"] == 0]
    minutes = re.search(r"wait (\d{1,4}) more minute", words)
    budget: str | None = None
    wait: float | None = None
    if minutes:
        budget, wait = "user", int(minutes[1]) * 60.0
    elif empty:
        key, budget = empty[0]
        wait = found[f"{key}Reset"]
    elif "daily" in words:
        budget = "client"
    text = f"Imgur's rate limit is reached.{said}"
    error = errors.QuotaExceeded(text, status_code=429, retry_after=wait)
    error.budget = budget
    return error
