"""Read the responses of an S3 service: the UploadError that a failure means.

Errors are XML: `<Error><Code>SlowDown</Code><Message>...</Message></Error>`, also with status 200.
What is known of them is the table MEANINGS. Nothing here does I/O.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple
from xml.parsers import expat

from imageload import errors

MAX_RESPONSE_BYTES = 64 * 2**10

_FIELDS = ("Code", "Message", "Region", "Endpoint")
_MAX_FIELD = 300
_UNWANTED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]+")


class Meaning(NamedTuple):
    """A response that is known, and the row of ERRORS that it means.

    It fits a response whose code is in `codes` and whose HTTP status is in `statuses`; an empty
    field fits all. `{region}` and `{said}` in the message are the response's.
    """

    error: str
    message: str
    codes: Container[str] = ()
    statuses: Container[int] = ()


_BAD_KEY = (
    "The bucket's service does not accept the keys: check AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN."
)
_SKEW = "This machine's clock differs too much from the bucket's service's: set it by NTP."
_REGION = "The bucket is in another region: set --s3-region{region}."
_NO_BUCKET = "There is no such bucket: check --target and --s3-endpoint, or make the bucket."
_DENIED = (
    "The keys may not do this in the bucket: allow them s3:PutObject, s3:GetObject and "
    "s3:DeleteObject below the prefix."
)
_SLOW = "The bucket's service accepts fewer requests at the moment."
_AWAY = "The bucket's service, or a gateway before it, is unavailable."
_NOT_S3 = "This is no response of an S3 service: check --s3-endpoint."

MEANINGS = (
    Meaning(
        "bad_credentials",
        _BAD_KEY,
        codes=(
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "ExpiredToken",
            "InvalidToken",
            "TokenRefreshRequired",
            "InvalidSecurity",
            "InvalidClientTokenId",
        ),
    ),
    Meaning("clock_skew", _SKEW, codes=("RequestTimeTooSkewed", "RequestExpired")),
    Meaning(
        "wrong_region",
        _REGION,
        codes=(
            "AuthorizationHeaderMalformed",
            "PermanentRedirect",
            "IllegalLocationConstraintException",
        ),
    ),
    Meaning("wrong_region", _REGION, statuses=(301,)),
    Meaning("no_bucket", _NO_BUCKET, codes=("NoSuchBucket", "InvalidBucketName")),
    Meaning("access_denied", _DENIED, codes=("AccessDenied", "AllAccessDisabled")),
    Meaning("access_denied", _DENIED, codes=("AccountProblem", "NotSignedUp")),
    Meaning("rate_limited", _SLOW, codes=("SlowDown", "TooManyRequests", "RequestLimitExceeded")),
    Meaning("rate_limited", _SLOW, statuses=(429,)),
    Meaning(
        "too_large_for_target",
        "The bucket's service finds the image too large.",
        codes=("EntityTooLarge",),
    ),
    Meaning("too_large_for_target", "The bucket's service finds it too large.", statuses=(413,)),
    Meaning(
        "server_fault",
        "The bucket's service failed to process this request.",
        codes=("InternalError", "OperationAborted", "RequestTimeout", "BadDigest"),
    ),
    Meaning("unavailable", _AWAY, codes=("ServiceUnavailable", "TemporaryRedirect", "Busy")),
    Meaning("server_fault", "The bucket's service failed.", statuses=(500,)),
    Meaning("unavailable", _AWAY, statuses=(408, 425, *range(501, 600))),
    Meaning("access_denied", _DENIED, statuses=(401, 403), codes=("",)),
    Meaning("unavailable", _NOT_S3, codes=("",)),
    Meaning("unknown_rejection", "The bucket's service refused the image."),
)
"""The first that fits a response says what it means. `""` in codes: the body is no XML error."""

_OPERATORS = ("bad_credentials", "clock_skew", "wrong_region", "no_bucket", "access_denied")


class ApiResponse(NamedTuple):
    """HTTP status, headers with names in lower case, and the beginning of the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def checked(
    response: ApiResponse, statuses: Container[int] = (200,), secrets: Sequence[str] = ()
) -> ApiResponse:
    """`response` if it has one of `statuses` and no error in its body; raises UploadError.

    What it says is quoted without `secrets`.
    """
    found = error_of(response.body)
    if response.status in statuses and not found:
        return response
    code = found.get("Code", "")
    means = next(each for each in MEANINGS if _fits(each, response.status, code))
    region = found.get("Region") or response.headers.get("x-amz-bucket-region", "")
    text = means.message.format(region=f"={region}" if _is_name(region) else "")
    if code:
        said = f"{code}: {found['Message']}" if found.get("Message") else code
        for secret in secrets:
            said = said.replace(secret, "...")
        text = f'{text} It says: "{said}"'
    status = response.status
    if means.error in _OPERATORS:
        raise errors.BucketRefused(means.error, text, status_code=status)
    if means.error == "rate_limited":
        wait = _retry_after(response)
        raise errors.QuotaExceeded(text, status_code=status, retry_after=wait)
    raise errors.UploadError(means.error, text, status_code=status)


def error_of(body: bytes) -> dict[str, str]:
    """The fields of an XML error, by name; empty if the body is none.

    A document type declaration, with which entities begin, ends the reading.
    """
    found: dict[str, str] = {}
    path: list[str] = []

    def start(name: str, _attributes: object) -> None:
        path.append(name.rpartition(":")[2])

    def end(_name: str) -> None:
        path.pop()

    def text(piece: str) -> None:
        if len(path) == 2 and path[0] == "Error" and path[1] in _FIELDS:
            found[path[1]] = (found.get(path[1], "") + piece)[:_MAX_FIELD]

    def refuse(*_: object) -> None:
        raise ValueError("a document type declaration")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError):
        if "Code" not in found:
            return {}
    return {name: _UNWANTED.sub(" ", value).strip() for name, value in found.items()}


def _fits(means: Meaning, status: int, code: str) -> bool:
    return (not means.codes or code in means.codes) and (
        not means.statuses or status in means.statuses
    )


def _is_name(region: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9-]{1,40}", region) is not None


def _retry_after(response: ApiResponse) -> float | None:
    text = response.headers.get("retry-after", "")
    return float(text) if re.fullmatch(r"[0-9]{1,4}", text) else None
