"""Which requests are answered: not those that a web page of another site sends.

Imgur lets any page use its API, which needs a client id. The sandbox takes any client id, so a page
in a browser of this machine could fill its disk or read its images. DNS rebinding makes such a page
look like one of the sandbox's own; the name in Host gives it away.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest

from .state import State

IMGUR_HOSTS = ("imgur.com", "api.imgur.com", "i.imgur.com")


def is_own_name(name: str, state: State) -> bool:
    """Whether `name` in Host is the sandbox's; any name is if it listens for other machines."""
    if not is_loopback(state.options.address):
        return True
    own = urlsplit(state.link_base).hostname
    return is_loopback(name) or name in (own, *IMGUR_HOSTS)


def is_cross_site(request: HTTPServerRequest) -> bool:
    """Whether a web page of another site sends the request (Fetch Metadata, or Origin)."""
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        return True
    origin = request.headers.get("Origin")
    if origin is None:
        return False
    name = _hostname(origin)
    return name != request.host_name.strip("[]") and not is_loopback(name)


def is_loopback(name: str) -> bool:
    """Whether a host name or an address is this machine's own."""
    if name == "localhost":
        return True
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _hostname(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""
