"""What Imgur's answers mean: its budgets, and which UploadError each of its error shapes is.

Imgur complains in four shapes (an error text, an error object, a list of errors, a page that is
no JSON), and the HTTP status, the status in the body and the code in the error may all differ.
Read here is what any of them says. It never sends anything.
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
_BUDGETS = {"User": "user", "Client": "client", "Post": "posts"}
# Markup and control characters: neither belongs into a sentence or a log line.
_TAGS = re.compile(r"(?:<[^>]*>|[\x00-\x1f\x7f])+")
_OF_US = ("client_id", "access token", "auth header", "authentication")


class Answer(NamedTuple):
    """What came back: HTTP status, fields with names in lower case, and the JSON, if it is any."""

    status: int
    fields: Mapping[str, str]
    json: Any


def read_json(body: bytes) -> Any:
    """The JSON in `body`, or None."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def budgets(fields: Mapping[str, str]) -> dict[str, float | None]:
    """What the rate-limit fields of an answer say, by imgurpython's names and a few more.

    Remaining counts and limits are credits (posts for Post...); a reset is in seconds from now,
    whether Imgur sent seconds (since 2021) or an epoch (before): above 1e9 it is an epoch, read
    by Imgur's own clock where the answer has its Date.
    """
    read: dict[str, float | None] = {
        key: _number(fields.get(f"x-ratelimit-{key.lower()}"))
        for key in (
            "UserLimit",
            "UserRemaining",
            "UserReset",
            "ClientLimit",
            "ClientRemaining",
            "ClientReset",
        )
    }
    for key in ("Limit", "Remaining", "Reset"):
        read[f"Post{key}"] = _number(fields.get(f"x-post-rate-limit-{key.lower()}"))
    for key in ("UserReset", "ClientReset", "PostReset"):
        value = read[key]
        if value is not None and value > _EPOCH:
            read[key] = max(0.0, value - _now_there(fields))
    return read


def _now_there(fields: Mapping[str, str]) -> float:
    """The epoch by the other side's clock; by ours, which is finer, where they go together."""
    here = time.time()
    try:
        there = email.utils.parsedate_to_datetime(fields.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        return here
    return here if -1.0 < here - there < 2.0 else there


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d{1,15}", text.strip()) else None


class _Complaint(NamedTuple):
    """The gist of an error answer: every status or code it names, and its words."""

    statuses: frozenset[int]
    message: str


def _complaint(answer: Answer, about: str) -> _Complaint:
    """The gist of any of Imgur's four error shapes: text, object, list of errors, no JSON."""
    statuses, message = {answer.status}, ""
    body = answer.json if isinstance(answer.json, dict) else {}
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
    return _Complaint(frozenset(statuses), _TAGS.sub(" ", message).strip()[:300])


def _codes(value: Any) -> list[int]:
    """The number that `value` is or spells, as a list of none or one."""
    return [int(value)] if re.fullmatch(r"\d{3,4}", str(value)) else []


def checked(answer: Answer, about: str = "") -> Answer:
    """`answer` if it is a success; else raises the UploadError that it means.

    `about` is the id or deletehash of the one image or album that was asked about. It may be a
    secret and is not quoted; and what Imgur refuses with it says nothing of other requests.
    """
    body = answer.json
    refused = isinstance(body, dict) and (
        body.get("success") is False
        or "errors" in body
        or (isinstance(body.get("data"), dict) and "error" in body["data"])
    )
    if answer.status == 200 and isinstance(body, dict) and not refused:
        return answer
    raise _meaning(answer, about)


def _meaning(answer: Answer, about: str) -> errors.UploadError:
    statuses, message = _complaint(answer, about)
    words = message.lower()
    said = f' Imgur says: "{message}"' if message else ""
    status = answer.status
    if 429 in statuses or "too fast" in words:
        return _quota_exceeded(answer, words, said)
    if _has(words, ("actions are forbidden", "in your country")) or (
        403 in statuses and _has(words, ("capacity", "forbidden"))
    ):
        sentence = f"Imgur refuses this address or client id.{said}"
        return errors.UploadBlocked(sentence, status_code=status)
    is_its_own = bool(about) and _is_imgurs(answer)
    if 401 in statuses or _has(words, _OF_US) or ("unauthorized" in words and not is_its_own):
        sentence = f"Imgur does not take the client id or token.{said}"
        return errors.CredentialsRefused(sentence, status_code=status)
    if 403 in statuses and status != 200:
        if is_its_own:
            return errors.UploadError(
                "upload_rejected", f"Imgur does not let us change this.{said}", status_code=status
            )
        sentence = f"Imgur, or a gateway before it, refuses this client.{said}"
        return errors.UploadBlocked(sentence, status_code=status)
    if _is_imgurs(answer) and (404 in statuses or "unable to find" in words):
        return errors.NotFoundOnImgur(f"Imgur has no such thing.{said}", status_code=status)
    if status == 200 and answer.json is not None:
        return errors.UploadError(
            "upload_error", f"Imgur's answer makes no sense.{said}", status_code=200
        )
    if 413 in statuses or "size limit" in words:
        return errors.UploadError(
            "too_large_for_target", f"Imgur finds the image too large.{said}", status_code=status
        )
    if status == 504:
        sentence = f"Something on the way to Imgur did not wait for its answer.{said}"
        return errors.UploadError("response_lost", sentence, status_code=status)
    if status == 500 and "capacity" not in words:
        return errors.UploadError(
            "server_fault", f"Imgur broke down over this.{said}", status_code=status
        )
    if status >= 500 or status < 400 or status in (404, 408):
        sentence = f"Imgur is out of order, or something on the way to it.{said}"
        return errors.UploadError("unavailable", sentence, status_code=status)
    return errors.UploadError(
        "upload_rejected", f"Imgur refused the image.{said}", status_code=status
    )


def _is_imgurs(answer: Answer) -> bool:
    """Does Imgur say this, and no gateway before it: is it in one of Imgur's own shapes?"""
    return isinstance(answer.json, dict) and not answer.json.keys().isdisjoint(("data", "errors"))


def _has(words: str, parts: Iterable[str]) -> bool:
    return any(part in words for part in parts)


def _quota_exceeded(answer: Answer, words: str, said: str) -> errors.QuotaExceeded:
    """Which budget ran out and how long until it is full again, as far as the answer says so."""
    found = budgets(answer.fields)
    empty = [name for name in ("User", "Client", "Post") if (found[f"{name}Remaining"]) == 0]
    minutes = re.search(r"wait (\d{1,4}) more minute", words)
    budget: str | None = None
    wait: float | None = None
    if minutes:
        budget, wait = "user", int(minutes[1]) * 60.0
    elif empty:
        budget, wait = _BUDGETS[empty[0]], found[f"{empty[0]}Reset"]
    elif "daily" in words:
        budget = "client"
    sentence = f"Imgur's rate limit is reached.{said}"
    error = errors.QuotaExceeded(sentence, status_code=429, retry_after=wait)
    error.budget = budget
    return error
