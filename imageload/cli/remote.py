"""The service over its HTTP API, and its errors in our words.

No answer is believed to be the service's before it looks like one, and no message shows a token
or what stands before the @ of the server's URL.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import requests
import urllib3.exceptions

from imageload.cli.source import (
    Body,
    Busy,
    CommandError,
    Entry,
    Misuse,
    Page,
    UnknownJob,
    Unreachable,
)

JOBS = "/v1/images/upload"
_CONNECT_SECONDS = 5.0
_SECONDS = {"GET": 15.0, "POST": 120.0, "DELETE": 60.0}
"""Between two bytes of the answer: what is only asked can soon be asked again."""

_SERVER_FORM = "The server is given as http://host:port or https://host."
_LARGEST_LIST = 1_000
_RECORDS = 1_000


class Remote:
    """A service at `server`, asked with `token` where it wants one."""

    outlives_us = True

    def __init__(self, server: str, token: str = "") -> None:
        """Raises Misuse where either cannot be used."""
        self.shown, host = _checked(server)
        self._base = server.rstrip("/")
        self._session = requests.Session()
        # A proxy of the environment leads nowhere near our own machine.
        self._session.trust_env = not _is_loopback(host)
        if token:
            if not (token.isascii() and token.isprintable() and " " not in token):
                raise Misuse("The token has characters that no token has.")
            # As `auth`, not as a header, for that a ~/.netrc would replace.
            self._session.auth = _Bearer(token)
        self._newer: str | None = None
        """The job listed right before those that were asked for last: a cheap way back to them."""

    def submit(self, body: Body) -> list[str]:
        """POST `body`: the ids of its jobs. Busy means that nothing was made of it."""
        headers = {"Content-Type": body.content_type}
        answer = self._ask("POST", JOBS, data=body.content, headers=headers)
        return [str(job_id) for job_id in self._field(answer, "jobId", list)]

    def entries(self, job_ids: Sequence[str]) -> list[Entry]:
        """The jobs with these ids; one request, and a small one, from the second call on."""
        found: dict[str, Entry] = {}
        if self._newer is not None:
            try:
                found = self._listed(job_ids, self._newer)
            except UnknownJob:  # the one before ours was forgotten
                self._newer = None
        if len(found) < len(job_ids):
            found = self._listed(job_ids, None)
        for job_id in job_ids:
            if job_id not in found:
                raise UnknownJob(f"The service at {self.shown} knows no job {job_id}.")
        return [found[job_id] for job_id in job_ids]

    def _listed(self, job_ids: Sequence[str], after: str | None) -> dict[str, Entry]:
        wanted, found = set(job_ids), dict[str, Entry]()
        newer = after
        for entry in self.jobs(after, first=len(wanted)):
            if entry["job_id"] in wanted:
                if not found:
                    self._newer = newer
                found[entry["job_id"]] = entry
                if len(found) == len(wanted):
                    break
            newer = entry["job_id"]
        return found

    def jobs(self, after: str | None = None, *, first: int = _LARGEST_LIST) -> Iterator[Entry]:
        """Every job, newest first, those behind `after`; `first` is how many are likely wanted."""
        limit = min(first, _LARGEST_LIST)
        while True:
            answer = self._ask("GET", JOBS, params={"limit": limit, "after": after})
            yield from self._field(answer, "jobs", list)
            after, limit = _next_after(answer), _LARGEST_LIST
            if after is None:
                return

    def records(self, job_id: str, *, state: str | None = None, after: str | None = None) -> Page:
        """A page of the job's records."""
        params = {"limit": _RECORDS, "state": state, "after": after}
        answer = self._ask("GET", f"{_path(job_id)}/images", params=params)
        return Page(self._field(answer, "images", list), _next_after(answer))

    def links(self) -> Iterator[str]:
        """Every link of every job, oldest job first."""
        after: str | None = None
        while True:
            answer = self._ask("GET", "/v1/images", params={"limit": 10_000, "after": after})
            yield from self._field(answer, "uploaded", list)
            after = _next_after(answer)
            if after is None:
                return

    def retry(self, job_id: str, *, only: str | None) -> int:
        """Have the failed images tried again, or those of a kind; how many that are."""
        answer = self._ask("POST", f"{_path(job_id)}/retry", params={"only": only})
        return int(self._field(answer, "requeued", int))

    def cancel(self, job_id: str, *, purge: bool = False) -> tuple[int, int]:
        """End what has not ended, and with `purge` delete from Imgur: how many of either."""
        answer = self._ask("DELETE", _path(job_id), params={"purge": "true" if purge else None})
        return self._field(answer, "cancelled", int), self._field(answer, "purging", int)

    def quota(self) -> dict[str, Any]:
        """What Imgur still allows the service."""
        answer = self._ask("GET", "/v1/quota")
        self._field(answer, "budgets", list)
        return dict(answer.json())

    def stop(self) -> None:
        """Nothing: the service goes on."""

    def _ask(self, method: str, path: str, **keywords: Any) -> requests.Response:
        keywords["timeout"] = (_CONNECT_SECONDS, _SECONDS[method])
        try:
            answer = self._session.request(
                method, self._base + path, allow_redirects=False, **keywords
            )
        except requests.exceptions.SSLError:
            raise CommandError(f"The certificate of {self.shown} is not to be trusted.") from None
        except (requests.exceptions.InvalidURL, urllib3.exceptions.LocationParseError):
            raise Misuse(_SERVER_FORM) from None
        except requests.RequestException as error:
            text = f"No answer from {self.shown}: {_reason(error)}"
            raise Unreachable(text, sent=_connected(error)) from None
        if not 200 <= answer.status_code < 300:
            raise self._refusal(answer)
        return answer

    def _refusal(self, answer: requests.Response) -> CommandError:
        """What an answer that is no success means for the command."""
        status, said = answer.status_code, _problem(answer)
        text = f"{self.shown} answered {status}: {said.get('detail') or answer.reason}"
        if said.get("type", "").endswith(":unknown-job"):
            return UnknownJob(text)
        if 300 <= status < 400:
            return Misuse(f"{self.shown} leads to {answer.headers.get('Location')}: give that.")
        if status == 401:
            return Misuse(f"{text} IMAGELOAD_TOKEN, or --token, is where a token goes.")
        if status in (429, 503):
            wait = answer.headers.get("Retry-After", "")
            return Busy(text, float(wait) if wait.isascii() and wait.isdigit() else 0.0)
        if status in (502, 504):
            return Unreachable(text)
        return Misuse(text) if status in (400, 403, 413, 415, 422) else CommandError(text)

    def _field(self, answer: requests.Response, name: str, kind: type) -> Any:
        """The value of `name` in an answer of the service; CommandError in one of another's."""
        try:
            value = answer.json()[name]
        except (requests.JSONDecodeError, LookupError, TypeError):
            value = None
        if not isinstance(value, kind):
            raise CommandError(f"What answers at {self.shown} is no imageload service.")
        return value


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _checked(server: str) -> tuple[str, str]:
    """`server` as it may be shown, and its host."""
    try:
        parts = urlsplit(server)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise Misuse(_SERVER_FORM)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    return shown, host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _path(job_id: str) -> str:
    return f"{JOBS}/{quote(job_id, safe='')}"


def _next_after(answer: requests.Response) -> str | None:
    """Where the next page begins. Not its path: a proxy may have us under another one."""
    url = answer.links.get("next", {}).get("url", "")
    return next(iter(parse_qs(urlsplit(url).query).get("after", [])), None)


def _problem(answer: requests.Response) -> dict[str, str]:
    """The texts of a problem document; empty where the answer is none."""
    try:
        said = answer.json()
    except requests.JSONDecodeError:
        return {}
    return {k: v for k, v in said.items() if isinstance(v, str)} if isinstance(said, dict) else {}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: requests.RequestException) -> str:
    """The system's word for it, which the libraries bury under their own."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.strerror:
            return f"{cause.strerror}."
    if isinstance(error, requests.Timeout):
        return "it takes too long."
    return "the connection broke."


def _connected(error: requests.RequestException) -> bool:
    unconnected = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
    return not any(isinstance(cause, unconnected) for cause in _chain(error))
