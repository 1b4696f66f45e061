"""An HTTP connection to the service, and its errors as sentences for the user.

A response is checked before it is believed to be the service's. No message shows a token, or the
user and password of the server's URL.

    CommandError            ends a command with a message and an exit status
    ├── Misuse              wrong arguments; nothing was done
    │   └── Rejected        the service refused a list or a document
    ├── UnknownJob
    └── Away                the service cannot answer now
        ├── Busy            it refused the request for now
        └── Unreachable     no response
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3.exceptions

from imageload.cli.output import print_message

_SERVER_FORM = "Give the server as http://host:port or https://host."
_CONNECT_SECONDS = 5.0
_SECONDS = {"GET": 15.0, "POST": 120.0, "DELETE": 60.0}
"""The longest silence of the server, by method."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0


class CommandError(Exception):
    """Ends a command: a sentence for the user, and the exit status."""

    status = 1


class Misuse(CommandError):
    """The arguments are wrong. Nothing was done."""

    status = 2


class Rejected(Misuse):
    """The service refused a list or a document: another one may be accepted."""


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


class Connection:
    """A connection to the service at `server`. `shown` is its URL without user and password.

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

    def patiently(
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
        if status in (400, 413, 415, 422):
            return Rejected(text)
        return Misuse(text) if status == 403 else CommandError(text)

    def field(self, response: requests.Response, name: str, kind: type) -> Any:
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
