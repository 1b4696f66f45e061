"""Access rules: the service's host names, the sites whose pages may call it, and tokens.

All rules look only at the head of a request. Two of them protect against browsers, which other
sites can make send requests; they do not affect other clients:

    Host      on a loopback address only loopback names are accepted: otherwise a page whose name
              resolves to 127.0.0.1 (DNS rebinding) could use the service
    Origin    a POST that another site's page sends is refused: browsers send a simple request
              (text/plain) without asking for permission first
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from pathlib import Path

from tornado.httputil import HTTPServerRequest

from imageload.errors import Refused
from imageload.settings import BEARER_TOKEN, Settings

_SAFE = ("GET", "HEAD", "OPTIONS")
_REALM = 'Bearer realm="imageload"'

_EXPOSED = "ETag, Idempotency-Replayed, Link, Location, Retry-After, X-Images, X-Request-ID"
_REQUEST_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, "
    "X-Request-ID"
)
# The most that Chromium allows.
_PREFLIGHT_SECONDS = 7_200


def read_tokens(settings: Settings) -> list[str]:
    """The tokens of --api-token and --api-token-file.

    The file has one token a line; blank lines and lines that begin with # are skipped. Raises
    OSError if the file cannot be read, has no token, or has a line that cannot be a token.
    """
    tokens = list(settings.api_token)
    if settings.api_token_file:
        text = Path(settings.api_token_file).read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found or not all(BEARER_TOKEN.fullmatch(token) for token in found):
            raise OSError(f"{settings.api_token_file}: not a file of tokens, one a line")
        tokens += found
    return tokens


class Access:
    """Decides by `allow_host`, `cors_origin` and `tokens` whether a request is accepted."""

    def __init__(self, settings: Settings, tokens: Iterable[str]) -> None:
        self._is_local = _is_local(settings.address)
        named = frozenset(name.lower().rstrip(".") for name in settings.allow_host)
        own = {"localhost", settings.address.lower()}
        self._hosts = named | own if named or self._is_local else None
        """The only host names that are accepted; None: all are."""
        self._sites = frozenset(settings.cors_origin)
        self._tokens = [_digest(token) for token in tokens]

    @property
    def wants_token(self) -> bool:
        """True if requests need a token."""
        return bool(self._tokens)

    @property
    def is_open_to_all(self) -> bool:
        """True if other machines can use the service without a token."""
        return not (self.wants_token or self._is_local)

    def refusal(self, request: HTTPServerRequest, *, is_open: bool) -> Refused | None:
        """Why the request is refused, or None. `is_open`: it needs no token."""
        if self._hosts is not None and not _is_one_of(self._hosts, request.host_name):
            return Refused(
                "unknown-host",
                f"This service does not answer to the name {request.host_name}. If it is the "
                "service's name, for example behind a proxy, add it to --allow-host.",
            )
        if request.method not in _SAFE and not self._is_same_site(request):
            return Refused(
                "cross-origin",
                "A page of another site sent this request. To allow it, add the site to "
                "--cors-origin. If the page is the service's own, its proxy must pass Host on.",
            )
        return None if is_open or request.method == "OPTIONS" else self._token_refusal(request)

    def _is_same_site(self, request: HTTPServerRequest) -> bool:
        """The rule of Go's CrossOriginProtection: only browsers say where a page is from."""
        origin = request.headers.get("Origin")
        if origin in self._sites:
            return True
        fetched_from = request.headers.get("Sec-Fetch-Site")
        if fetched_from is not None:
            return fetched_from in ("same-origin", "none")
        return origin is None or origin.partition("://")[2].lower() == request.host.lower()

    def _token_refusal(self, request: HTTPServerRequest) -> Refused | None:
        if not self._tokens:
            return None
        token = _token(request)
        if token is None:
            message = "This service requires a token: send Authorization: Bearer <token>."
            return Refused("unauthorized", message, {"WWW-Authenticate": _REALM})
        digest = _digest(token)
        # All are compared, each in constant time: the duration gives no hint.
        if not sum(hmac.compare_digest(digest, known) for known in self._tokens):
            challenge = f'{_REALM}, error="invalid_token"'
            message = "The service does not know this token."
            return Refused("unauthorized", message, {"WWW-Authenticate": challenge})
        return None

    def caller(self, request: HTTPServerRequest) -> str:
        """A name for the caller: a digest of its token; empty if the service has no tokens."""
        return _digest(_token(request) or "").hex() if self._tokens else ""

    def cors_headers(self, request: HTTPServerRequest) -> dict[str, str]:
        """The CORS headers of every response."""
        if not self._sites:
            return {}
        headers = {"Vary": "Origin"}
        origin = request.headers.get("Origin")
        if origin in self._sites:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = _EXPOSED
        return headers

    def preflight_headers(
        self, request: HTTPServerRequest, methods: Iterable[str]
    ) -> dict[str, str]:
        """The further headers of a response to OPTIONS, if the site may send `methods`."""
        if request.headers.get("Origin") not in self._sites:
            return {}
        return {
            "Access-Control-Allow-Methods": ", ".join(methods),
            "Access-Control-Allow-Headers": _REQUEST_HEADERS,
            "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
        }


def _token(request: HTTPServerRequest) -> str | None:
    """The bearer token of the request (RFC 6750), or None."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _is_local(address: str) -> bool:
    ip = _ip(address)
    return address.lower() == "localhost" or (ip is not None and ip.is_loopback)


def _is_one_of(hosts: frozenset[str], host: str) -> bool:
    # An IP address in Host is accepted: DNS rebinding needs a name.
    host = host.rstrip(".")
    return host in hosts or host.endswith(".localhost") or _ip(host) is not None


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
