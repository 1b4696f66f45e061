"""Which schemes, ports and addresses may be fetched.

Two questions, asked at two moments. `check_url` reads a URL as text, before anything is done with
it. `refusal` judges the address that is about to be connected to, for every connect: the first
hop, each redirect, each name that was resolved again. A name never decides, so a name that
changes its mind (DNS rebinding) gains nothing. It never resolves and never connects.

Addresses: only global unicast. IPv4 is everything but the IANA special-purpose registry
(RFC 6890 and its updates), multicast (RFC 5771) and one cloud provider's metadata address in
public space; IPv6 is 2000::/3 (RFC 4291) without the blocks in it that are no destination or
carry an IPv4 address. `::ffff:0:0/96` is judged as the IPv4 address inside.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import idna

from imageload.errors import InvalidURL

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_SPECIAL: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "carrier-grade NAT"),
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "cloud metadata"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "documentation"),
    ("192.31.196.0/24", "reserved"),
    ("192.52.193.0/24", "reserved"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("192.175.48.0/24", "reserved"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("::/96", "IPv4-carrying"),
    ("64:ff9b::/96", "IPv4-carrying"),
    ("64:ff9b:1::/48", "IPv4-carrying"),
    ("2001::/32", "IPv4-carrying"),
    ("2001::/23", "reserved"),
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "IPv4-carrying"),
    ("2620:4f:8000::/48", "reserved"),
    ("3fff::/20", "documentation"),
    ("fc00::/7", "unique-local"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
)
_RULES: tuple[tuple[Network, str], ...] = tuple(
    (ipaddress.ip_network(network), rule) for network, rule in _SPECIAL
)
_IPV6_UNICAST = ipaddress.IPv6Network("2000::/3")

# What RFC 3986 lets stand in a path or query, and "%" for what is escaped already.
_SAFE = "!#$%&'()*+,/:;=?@[]~"
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_HOST = re.compile(r"[a-z0-9_.-]{1,253}")
_MAX_URL = 8_000


@dataclass(frozen=True, slots=True)
class Target:
    """A URL fit to be fetched: all ASCII, with the host as it is looked up."""

    url: str
    scheme: str
    host: str


def check_url(url: str) -> Target:
    """The Target that `url` names; raises InvalidURL with what is wrong with it.

    Unicode hosts go through IDNA (UTS 46, non-transitional); unicode and blanks in the path are
    percent-encoded as UTF-8, as browsers do (WHATWG URL). The fragment is dropped.
    """
    if len(url) > _MAX_URL:
        raise InvalidURL(f"The URL is longer than {_MAX_URL} characters.")
    if _UNFIT.search(url):
        raise InvalidURL("The URL has characters in it that no URL may have.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidURL("This does not read as a URL: look at its host and port.") from None
    if parts.scheme not in ("http", "https"):
        raise InvalidURL("Only http:// and https:// URLs are fetched.")
    if "\\" in parts.netloc or "@" in parts.netloc:
        raise InvalidURL("A URL with a user name, a password or a backslash is not fetched.")
    if port == 0:
        raise InvalidURL("Port 0 is no port.")
    host = _ascii_host(parts.hostname or "", parts.netloc)
    authority = f"[{host}]" if ":" in host else host
    if port is not None:
        authority = f"{authority}:{port}"
    path = quote(parts.path, safe=_SAFE) or "/"
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    checked = f"{parts.scheme}://{authority}{path}{query}"
    if len(checked) > _MAX_URL:
        raise InvalidURL(f"The URL is longer than {_MAX_URL} characters once it is escaped.")
    return Target(checked, parts.scheme, host)


def _ascii_host(host: str, netloc: str = "") -> str:
    if "%" in host:
        raise InvalidURL("The host has an escape or a zone in it; hosts have neither.")
    if ":" in host or "[" in netloc:
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise InvalidURL("The host is no IPv6 address.") from None
    if not host.isascii():
        try:
            host = _in_idna(host)
        except (idna.IDNAError, UnicodeError):
            raise InvalidURL("The host cannot be written in IDNA.") from None
    host = host.removesuffix(".")  # of the root: the same host, and no second name for it
    if not _HOST.fullmatch(host) or "" in host.split("."):
        raise InvalidURL("The URL has no host that could be looked up.")
    return host


def _in_idna(host: str) -> str:
    """The host as DNS knows it: by IDNA 2008, or as browsers do it where that knows no way.

    Browsers map by UTS 46 and then write any label in Punycode, symbols too (WHATWG URL).
    """
    try:
        return idna.encode(host, uts46=True).decode()
    except idna.IDNAError:
        labels = idna.uts46_remap(host, std3_rules=False).split(".")
        return ".".join(
            label if label.isascii() else f"xn--{label.encode('punycode').decode()}"
            for label in labels
        )


def _judged_address(text: str) -> Address:
    """The address that `text` stands for: without a zone, and the IPv4 one inside a mapped one."""
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _judged_network(text: str) -> Network:
    """The network that `text` names; of a mapped one, that of the IPv4 addresses inside."""
    if "%" in text:
        raise ValueError("a zone is no part of an address here")
    network = ipaddress.ip_network(text, strict=False)
    mapped = network.network_address.ipv4_mapped if network.version == 6 else None
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - 96))


@functools.lru_cache(maxsize=4096)
def special_rule(text: str) -> str | None:
    """The name of the rule that keeps the address `text` from being fetched, or None."""
    address = _judged_address(text)
    for network, rule in _RULES:
        if address.version == network.version and address in network:
            return rule
    if isinstance(address, ipaddress.IPv6Address) and address not in _IPV6_UNICAST:
        return "reserved"
    return None


def _named_host(entry: str) -> str:
    if re.fullmatch(r"[0-9.]*", entry):
        raise InvalidURL("This looks like an address, and is none.")
    return _ascii_host(entry.lower())


class _Places:
    """Addresses, networks and host names, as an operator lists them."""

    def __init__(self, entries: Iterable[str]) -> None:
        networks: list[Network] = []
        hosts: set[str] = set()
        for entry in entries:
            try:
                networks.append(_judged_network(entry.strip("[]")))
            except ValueError:
                try:
                    hosts.add(_named_host(entry))
                except InvalidURL:
                    message = f"{entry!r} is no address, network or host name"
                    raise ValueError(message) from None
        self._networks = tuple(networks)
        self._hosts = frozenset(hosts)

    def have(self, host: str, address: str) -> bool:
        """Is either of them listed?"""
        if host in self._hosts:
            return True
        if not self._networks:
            return False
        judged = _judged_address(address)
        return any(judged.version == n.version and judged in n for n in self._networks)


class Guard:
    """Says what may be connected to. Immutable, so any thread may ask.

    `allow` and `deny` hold addresses, networks and host names; what is allowed is exempt from
    every rule, but not from `deny`. `ports` are the allowed ports below 1024. Raises ValueError
    where an entry is none of the three.
    """

    def __init__(
        self,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        ports: Iterable[int] = (80, 443),
    ) -> None:
        self._ports = frozenset(ports)
        self._allowed = _Places(allow)
        self._denied = _Places(deny)

    def refusal(self, host: str, address: str, port: int) -> str | None:
        """Why `address` and `port`, which `host` led to, may not be connected to; None: it may.

        The reason names the rule, never the address, which may be a secret of our network.
        """
        if self._denied.have(host, address):
            return "This URL leads to a host that this service does not fetch from."
        if self._allowed.have(host, address):
            return None
        rule = special_rule(address)
        if rule is not None:
            return f"This URL leads to a {rule} address, and those are not fetched."
        if port not in self._ports and port < 1024:
            return f"Port {port} is not one that images are fetched from."
        return None
