"""What a response says besides its body: the image comes, another URL has it, or an error.

Statuses, Content-Range, Retry-After and Location are read as browsers read them.
"""

from __future__ import annotations

import email.utils
import re
import string
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import quote, urljoin

from imageload import errors
from imageload.fetch import imgur
from imageload.fetch.guard import Target, check_url
from imageload.transport.request import Response

# Browsers show the image of each of them; of a 206, if it is whole.
SUCCESSES = frozenset({200, 201, 202, 203, 206})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Of HTTP, and of the proxies and networks in front of origins: Cloudflare's 52x and 530, nginx's
# and shared hosting's 507, 509 and 529, proxies' 598 and 599, and 420 of older rate limits.
_BUSY = frozenset({408, 420, 425, 429, 500, 502, 503, 504, 507, 509, *range(520, 531), 598, 599})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


def check_status(target: Target, response: Response) -> None:
    """Raise the error of a response of `target` without the image."""
    status, wait = response.status, None
    if status in SUCCESSES and not _is_part(response):
        return
    if not 200 <= status <= 599:
        raise errors.DownloadError("bad_response", f"The origin answered with the status {status}.")
    name = "empty_body" if status in (204, 205) else "http_status"
    if status in _BUSY:
        name, wait = "origin_busy", retry_after(response.headers.get("retry-after"))
    message = f"The origin answered {status} {_phrase(status)}".rstrip() + "."
    name, message = imgur.refusal(target, status) or (name, message)
    if status == 206:
        message = "The origin sent only a part of the image, with the status 206."
    raise errors.DownloadError(name, message, status_code=status, retry_after=wait)


def _is_part(response: Response) -> bool:
    """True if it is a 206 whose Content-Range leaves bytes out (RFC 9110, 14.4)."""
    if response.status != 206:
        return False
    found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if found is None:
        return False
    first, last, length = found.groups()
    return int(first) > 0 or (length != "*" and int(last) + 1 < int(length))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def retry_after(value: str | None) -> float | None:
    """The seconds of a Retry-After header (RFC 9110, 10.2.3); None if it cannot be read."""
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def redirected(target: Target, response: Response, *, downgrade: bool) -> Target:
    location = response.headers.get("location", "")
    if not location:
        raise errors.DownloadError(
            "bad_response",
            f"The origin answered {response.status} without a Location.",
            status_code=response.status,
        )
    try:
        following = check_url(urljoin(target.url, _as_browsers_read(location)))
    except (errors.InvalidURL, ValueError):
        raise errors.DownloadError(
            "bad_redirect", "The origin redirects to a URL that is not http or https."
        ) from None
    if target.scheme == "https" and following.scheme == "http" and not downgrade:
        raise errors.DownloadError("bad_redirect", "The origin redirects from https to http.")
    imgur.check_redirect(following, response.status)
    return following


def _as_browsers_read(location: str) -> str:
    """The Location, which was decoded as Latin-1: as UTF-8, or with the bytes percent-encoded.

    A backslash in the path is a slash (WHATWG URL).
    """
    raw = location.encode("latin-1")
    try:
        location = raw.decode()
    except UnicodeDecodeError:
        location = quote(raw, safe=string.punctuation + " ")
    path, *rest = re.split(r"(?=[?#])", location, maxsplit=1)
    return "".join([path.replace("\\", "/"), *rest])
