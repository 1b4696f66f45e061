"""What Imgur's answers mean: its budgets, and which UploadError each of its error shapes is.

Imgur complains in four shapes (an error text, an error object, a list of errors, a page that is
no JSON), and the HTTP status, the status in the body and the code in the error may all differ.
Read here is what any of them says. It never sends anything.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from imageload import errors

_EPOCH = 1_000_000_000
# Markup and control characters: neither belongs into a sentence or a log line.
_TAGS = re.compile(r"(?:<[^>]*>|[\x00-\x1f\x7f])+")


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


def budgets(fields: Mapping[str, str]) -> dict[str, int | None]:
    """What the rate-limit fields of an answer say, by imgurpython's names and a few more.

    Remaining counts and limits are credits (posts for Post...); a reset is in seconds from now,
    whether Imgur sent seconds (since 2021) or an epoch (before): above 1e9 it is an epoch.
    """
    read = {
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
            read[key] = max(0, value - int(time.time()))
    return read


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d{1,15}", text.strip()) else None


class _Complaint(NamedTuple):
    """The gist of an error answer: every status or code it names, and its words."""

    statuses: frozenset[int]
    message: str


def _complaint(answer: Answer) -> _Complaint:
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
    return _Complaint(frozenset(statuses), _TAGS.sub(" ", message).strip()[:300])


def _codes(value: Any) -> list[int]:
    """The number that `value` is or spells, as a list of none or one."""
    return [int(value)] if re.fullmatch(r"\d{3,4}", str(value)) else []


def checked(answer: Answer) -> Answer:
    """`answer` if it is a success; else raises the UploadError that it means."""
    body = answer.json
    refused = isinstance(body, dict) and (
        body.get("success") is False
        or "errors" in body
        or (isinstance(body.get("data"), dict) and "error" in body["data"])
    )
    if answer.status == 200 and isinstance(body, dict) and not refused:
        return answer
    raise _meaning(answer)


def _meaning(answer: Answer) -> errors.UploadError:
    statuses, message = _complaint(answer)
    words = message.lower()
    said = f' Imgur says: "{message}"' if message else ""
    if 429 in statuses or "too fast" in words:
        wait = _seconds_to_reset(answer.fields, words)
        return errors.QuotaExceeded(
            f"Imgur's rate limit is reached.{said}", status_code=429, retry_after=wait
        )
    if _has(words, ("actions are forbidden", "in your country")) or (
        403 in statuses and _has(words, ("capacity", "forbidden"))
    ):
        sentence = f"Imgur refuses this address or client id.{said}"
        return errors.UploadBlocked(sentence, status_code=answer.status)
    unknown = ("client_id", "access token", "auth header", "authentication", "unauthorized")
    if 401 in statuses or _has(words, unknown):
        sentence = f"Imgur does not take the client id or token.{said}"
        return errors.CredentialsRefused(sentence, status_code=answer.status)
    if 403 in statuses and answer.status != 200:
        sentence = f"Imgur, or a gateway before it, refuses this client.{said}"
        return errors.UploadBlocked(sentence, status_code=answer.status)
    if answer.status == 200 and answer.json is not None:
        return errors.BadAnswer(f"Imgur's answer makes no sense.{said}", status_code=200)
    if 413 in statuses or "size limit" in words:
        return errors.OverSize(f"Imgur finds the image too large.{said}", status_code=answer.status)
    if answer.status >= 500 or answer.status < 400 or answer.status == 408:
        sentence = f"Imgur is out of order, or something on the way to it.{said}"
        return errors.Unavailable(sentence, status_code=answer.status)
    return errors.Rejected(f"Imgur refused the image.{said}", status_code=answer.status)


def _has(words: str, parts: Iterable[str]) -> bool:
    return any(part in words for part in parts)


def _seconds_to_reset(fields: Mapping[str, str], words: str) -> float | None:
    """How long until the budget that ran out is full again; None where the answer does not say."""
    minutes = re.search(r"wait (\d{1,4}) more minute", words)
    if minutes:
        return int(minutes[1]) * 60.0
    found = budgets(fields)
    for name in ("User", "Client", "Post"):
        reset = found[f"{name}Reset"]
        if found[f"{name}Remaining"] == 0 and reset is not None:
            return float(reset)
    return None
