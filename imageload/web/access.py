"""Who may ask: the names that we answer to, the sites whose pages may call us, and tokens.

All of it is judged by a request's head. A browser is the one client that others can make send
something, so the first two rules are about browsers, and hinder no other client:

    Host      on a loopback address only its names are ours; else a page that has its own name
              point at 127.0.0.1 (DNS rebinding) could read and post as if it were ours
    Origin    a POST that another site's page makes a browser send is refused, for a simple
              request (text/plain) asks for no permission first, and would make us fetch
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest

from imageload.errors import Refused
from imageload.settings import BEARER_TOKEN, Config

_SAFE = ("GET", "HEAD", "OPTIONS")
_REALM = 'Bearer realm="imageload"'

_EXPOSED = "ETag, Idempotency-Replayed, Link, Location, Retry-After, X-Request-ID"
_REQUEST_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, "
    "X-Request-ID"
)
# Chromium remembers a permission for two hours at most.
_PREFLIGHT_SECONDS = 7_200


def read_tokens(config: Config) -> list[str]:
    """Every token that `config` names, those in its file included.

    In the file one stands on a line; blank lines and lines that begin with # are none. OSError
    where it cannot be read, or has none, or what cannot be one.
    """
    tokens = list(config.api_token)
    if config.api_token_file:
        text = Path(config.api_token_file).read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found or not all(BEARER_TOKEN.fullmatch(token) for token in found):
            raise OSError(f"{config.api_token_file}: not a file of tokens, one a line")
        tokens += found
    return tokens


class Access:
    """Judges requests by the options `allow_host` and `cors_origin`, and by `tokens`."""

    def __init__(self, config: Config, tokens: Iterable[str]) -> None:
        self._hosts = _our_hosts(config)
        self._is_local = _is_local(config.address)
        self._sites = frozenset(config.cors_origin)
        self._tokens = [_digest(token) for token in tokens]

    @property
    def wants_token(self) -> bool:
        """Whether there are tokens, one of which has to be shown."""
        return bool(self._tokens)

    @property
    def is_open_to_all(self) -> bool:
        """Whether other machines may ask, and without a token."""
        return not (self.wants_token or self._is_local)

    def refusal(self, request: HTTPServerRequest, *, is_open: bool) -> Refused | None:
        """Why the request is not taken; None where it is. `is_open`: without a token too."""
        if self._hosts is not None and not _is_one_of(self._hosts, request.host_name):
            return Refused(
                "unknown-host",
                f"This service does not answer to the name {request.host_name}. Where that is its "
                "name, behind a proxy perhaps, it belongs into --allow-host.",
            )
        if request.method in _SAFE:
            return None if is_open or request.method == "OPTIONS" else self._token_refusal(request)
        if not self._is_same_site(request):
            return Refused(
                "cross-origin",
                "A page of another site sent this. Where it may, its site belongs into "
                "--cors-origin; where the page is ours, a proxy before us must pass Host on.",
            )
        return None if is_open else self._token_refusal(request)

    def _is_same_site(self, request: HTTPServerRequest) -> bool:
        """As Go's CrossOriginProtection decides: browsers say whose page it is, others nothing."""
        origin = request.headers.get("Origin")
        if origin in self._sites:
            return True
        fetched_from = request.headers.get("Sec-Fetch-Site")
        if fetched_from is not None:
            return fetched_from in ("same-origin", "none")
        return origin is None or _netloc(origin) == request.host.lower()

    def _token_refusal(self, request: HTTPServerRequest) -> Refused | None:
        if not self._tokens:
            return None
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return _unauthorized(
                "This service wants a token: send Authorization: Bearer <token>.", _REALM
            )
        shown = _digest(token.strip())
        # Every one is compared, in constant time: how long it takes tells nothing.
        if not sum(hmac.compare_digest(shown, known) for known in self._tokens):
            challenge = f'{_REALM}, error="invalid_token"'
            return _unauthorized("The token is none that this service knows.", challenge)
        return None

    def caller(self, request: HTTPServerRequest) -> str:
        """What tells one caller from another: a digest of what it shows; empty without tokens."""
        if not self._tokens:
            return ""
        return hashlib.sha256(request.headers.get("Authorization", "").encode()).hexdigest()

    def cors_headers(self, request: HTTPServerRequest) -> dict[str, str]:
        """What any answer tells a browser about who may read it."""
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
        """What the answer to OPTIONS says beside them, where the site may send `methods`."""
        if request.headers.get("Origin") not in self._sites:
            return {}
        return {
            "Access-Control-Allow-Methods": ", ".join(methods),
            "Access-Control-Allow-Headers": _REQUEST_HEADERS,
            "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
        }


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _our_hosts(config: Config) -> frozenset[str] | None:
    """The names of a service that has a list of them; None where any name may be ours."""
    named = frozenset(name.lower().rstrip(".") for name in config.allow_host)
    if named or _is_local(config.address):
        return named | {"localhost", config.address.lower()}
    return None


def _is_local(address: str) -> bool:
    ip = _ip(address)
    return address.lower() == "localhost" or (ip is not None and ip.is_loopback)


def _is_one_of(hosts: frozenset[str], host: str) -> bool:
    # Nobody can have an IP address lead elsewhere, so one in Host is no rebinding.
    host = host.rstrip(".")
    return host in hosts or host.endswith(".localhost") or _ip(host) is not None


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _unauthorized(message: str, challenge: str) -> Refused:
    return Refused("unauthorized", message, headers={"WWW-Authenticate": challenge})
