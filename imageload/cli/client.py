"""A client of the HTTP API, and its errors as sentences for the user.

A response is checked before it is believed to be the service's. No message shows a token, or the
user and password of the server's URL. Jobs and records are the JSON objects of docs/api.md.

    CommandError            ends a command with a message and an exit status
    ├── Misuse              wrong arguments or a refused list; nothing was done
    ├── UnknownJob
    └── Away                the service cannot answer now
        ├── Busy            it refused the request for now
        └── Unreachable     no response
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

import requests
import urllib3.exceptions

from imageload.cli.output import Entry, Record, print_message

JOBS = "/v1/images/upload"
_SERVER_FORM = "Give the server as http://host:port or https://host."
_PAGE = 1_000
_CONNECT_SECONDS = 5.0
_SECONDS = {"GET": 15.0, "POST": 120.0, "DELETE": 60.0}
"""The longest silence of the server, by method."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0


class Body(NamedTuple):
    """The body of a POST: one or more lists of URLs."""

    content: bytes
    content_type: str


class CommandError(Exception):
    """Ends a command: a sentence for the user, and the exit status."""

    status = 1


class Misuse(CommandError):
    """The arguments are wrong, or the service refused the list. Nothing was done."""

    status = 2


class UnknownJob(CommandError):
    """The service has no job with this id."""


class Away(CommandError):
    """The service cannot answer now. `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Busy(Away):
    """The service refused the request for now."""


class Unreachable(Away):
    """There was no response. If `sent`, the request may have arrived."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class Client:
    """The service at `server`. `shown` is its URL without user and password.

    GET requests are repeated for `patience` seconds while the service is Away.
    """

    def __init__(self, server: str, token: str = "", patience: float = 0.0) -> None:
        """Raises Misuse if the server or the token has the wrong form."""
        self.shown, host = _checked(server)
        self._base, self._patience = server.rstrip("/"), patience
        self._session = requests.Session()
        # The environment's proxy cannot reach this machine's loopback addresses.
        self._session.trust_env = not _is_loopback(host)
        if token:
            if not (token.isascii() and token.isprintable() and " " not in token):
                raise Misuse("The token contains characters that are not allowed in a token.")

            def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
                request.headers["Authorization"] = f"Bearer {token}"
                return request

            # As `auth`: a ~/.netrc would replace a header.
            self._session.auth = authorize
        # The job listed right before the jobs of the last `entries`: where to look next time.
        self._newer: str | None = None

    def submit(self, body: Body) -> list[str]:
        """POST `body`; the ids of the new jobs. Waits while the service is Busy.

        It never posts twice: without a response it raises CommandError.
        """
        headers = {"Content-Type": body.content_type}
        try:
            response = self._patiently(Busy, "POST", JOBS, data=body.content, headers=headers)
        except Unreachable as error:
            hint = "`imageload serve` starts a service; --local needs none."
            if error.sent:
                hint = "The service may have accepted the list: see `imageload jobs`."
            raise CommandError(f"{error} {hint}") from None
        return [str(job_id) for job_id in self._field(response, "jobId", list)]

    def entries(self, job_ids: Sequence[str]) -> list[Entry]:
        """The jobs with these ids, in this order. From the second call on, one small request."""
        found: dict[str, Entry] = {}
        if self._newer is not None:
            try:
                found = self._listed(job_ids, self._newer)
            except UnknownJob:  # the service has dropped that job
                self._newer = None
        if len(found) < len(job_ids):
            found = self._listed(job_ids, None)
        for job_id in job_ids:
            if job_id not in found:
                raise UnknownJob(f"The service at {self.shown} has no job {job_id}.")
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

    def jobs(self, after: str | None = None, *, first: int) -> Iterator[Entry]:
        """Every job after `after`, newest first. `first`: the size of the first page."""
        return self._pages(JOBS, "jobs", after=after, first=first)

    def records(self, job_id: str, state: str | None = None) -> Iterator[Record]:
        """The job's images, all or those in `state`, in input order."""
        return self._pages(f"{_path(job_id)}/images", "images", state=state)

    def links(self) -> Iterator[str]:
        """Every link of every job, oldest job first."""
        return self._pages("/v1/images", "uploaded")

    def retry(self, job_id: str, *, only: str | None) -> int:
        """Retry the failed images, or the `only` transient ones; their number."""
        response = self._send("POST", f"{_path(job_id)}/retry", params={"only": only})
        return int(self._field(response, "requeued", int))

    def cancel(self, job_id: str, *, purge: bool = False) -> tuple[int, int]:
        """Cancel the job, with `purge` also delete its images: (cancelled, purging)."""
        params = {"purge": "true" if purge else None}
        response = self._send("DELETE", _path(job_id), params=params)
        return self._field(response, "cancelled", int), self._field(response, "purging", int)

    def quota(self) -> dict[str, Any]:
        """The remaining budgets and the current wait."""
        response = self._get("/v1/quota")
        self._field(response, "budgets", list)
        return dict(response.json())

    def _pages(
        self, path: str, name: str, *, after: str | None = None, first: int = _PAGE, **params: Any
    ) -> Iterator[Any]:
        """The entries of the list `name`, page by page."""
        limit = min(first, _PAGE)
        while True:
            response = self._get(path, limit=limit, after=after, **params)
            yield from self._field(response, name, list)
            # Only the key of the link is used: a proxy may have changed the path.
            query = urlsplit(response.links.get("next", {}).get("url", "")).query
            after, limit = next(iter(parse_qs(query).get("after", [])), None), _PAGE
            if after is None:
                return

    def _get(self, path: str, **params: Any) -> requests.Response:
        return self._patiently(Away, "GET", path, params=params)

    def _patiently(
        self, kind: type[Away], method: str, path: str, **keywords: Any
    ) -> requests.Response:
        """The response of `_send`, repeated for `patience` seconds while it raises `kind`.

        Says when the service stops answering and when it answers again.
        """
        deadline: float | None = None
        pause = _FIRST_PAUSE
        while True:
            try:
                response = self._send(method, path, **keywords)
            except kind as away:
                now = time.monotonic()
                if deadline is None:
                    deadline = now + self._patience
                    if self._patience:
                        print_message(f"{away} Trying again for {self._patience:g} s.")
                if now >= deadline:
                    raise
                time.sleep(min(max(pause, away.retry_after), deadline - now))
                pause = min(_LONGEST_PAUSE, pause * 1.5)
            else:
                if deadline is not None:
                    print_message("The service answers again.")
                return response

    def _send(self, method: str, path: str, **keywords: Any) -> requests.Response:
        keywords["timeout"] = (_CONNECT_SECONDS, _SECONDS[method])
        try:
            response = self._session.request(
                method, self._base + path, allow_redirects=False, **keywords
            )
        except requests.exceptions.SSLError:
            raise CommandError(f"The certificate of {self.shown} is not trusted.") from None
        except (requests.exceptions.InvalidURL, urllib3.exceptions.LocationParseError):
            raise Misuse(_SERVER_FORM) from None
        except requests.RequestException as error:
            text = f"No answer from {self.shown}: {_reason(error)}"
            raise Unreachable(text, sent=_connected(error)) from None
        if not 200 <= response.status_code < 300:
            raise self._refusal(response)
        return response

    def _refusal(self, response: requests.Response) -> CommandError:
        """The error for a response that is not a success."""
        status, said = response.status_code, _problem(response)
        text = f"{self.shown} answered {status}: {said.get('detail') or response.reason}"
        if said.get("type", "").endswith(":unknown-job"):
            return UnknownJob(text)
        if 300 <= status < 400:
            location = response.headers.get("Location")
            return Misuse(f"{self.shown} redirects to {location}. Give that URL as the server.")
        if status == 401:
            return Misuse(f"{text} Set the token with IMAGELOAD_API_TOKEN or --token.")
        if status in (429, 503):
            wait = response.headers.get("Retry-After", "")
            return Busy(text, retry_after=float(wait) if wait.isdecimal() else 0.0)
        if status in (502, 504):
            return Unreachable(text)
        return Misuse(text) if status in (400, 403, 413, 415, 422) else CommandError(text)

    def _field(self, response: requests.Response, name: str, kind: type) -> Any:
        """The value of `name` in a response; CommandError if it does not look like one of ours."""
        try:
            value = response.json()[name]
        except (requests.JSONDecodeError, LookupError, TypeError):
            value = None
        if not isinstance(value, kind):
            raise CommandError(f"The server at {self.shown} is not an imageload service.")
        return value


def _checked(server: str) -> tuple[str, str]:
    """`server` without user and password, and its host."""
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


def _problem(response: requests.Response) -> dict[str, str]:
    """The texts of a problem document; empty if the response is not one."""
    try:
        said = response.json()
    except requests.JSONDecodeError:
        return {}
    return {k: v for k, v in said.items() if isinstance(v, str)} if isinstance(said, dict) else {}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: requests.RequestException) -> str:
    """The operating system's message, which the libraries wrap in their own."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.strerror:
            return f"{cause.strerror}."
    if isinstance(error, requests.Timeout):
        return "it took too long."
    return "the connection broke."


def _connected(error: requests.RequestException) -> bool:
    unconnected = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
    return not any(isinstance(cause, unconnected) for cause in _chain(error))
