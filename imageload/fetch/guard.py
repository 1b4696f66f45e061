"""Which schemes, ports and addresses may be fetched.

`check_url` judges a URL as text, before any use of it. `Guard.refusal` judges the address before
each connect: of the first request, of each redirect, and each time a name is resolved again. A name
never decides, so a name that changes its address (DNS rebinding) gains nothing. This module never
resolves a name and never connects.

Only global unicast addresses are allowed. IPv4: all except the IANA special-purpose registry
(RFC 6890 and its updates), multicast (RFC 5771) and one cloud provider's metadata address in public
space. IPv6: 2000::/3 (RFC 4291) except its blocks that are no destination or contain an IPv4
address. `::ffff:0:0/96`, and `64:ff9b::/96` of networks without IPv4 (NAT64, RFC 6052), are judged
as the IPv4 address inside.
"""

from __future__ import annotations

import codecs
import functools
import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlsplit

import idna

from imageload.errors import InvalidURL

# Loads the codec now: it is read from a file, and later there may be no file descriptor for that.
codecs.lookup("unicode_escape")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# By the rule that forbids them. The first network that has the address names the rule.
_SPECIAL = {
    "unspecified": "0.0.0.0/8 ::/128",
    "loopback": "127.0.0.0/8 ::1/128",
    "private": "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16",
    "carrier-grade NAT": "100.64.0.0/10",
    "cloud metadata": "168.63.129.16/32",
    "link-local": "169.254.0.0/16 fe80::/10",
    "unique-local": "fc00::/7",
    "site-local": "fec0::/10",
    "benchmarking, or a local proxy's substitute": "198.18.0.0/15",
    "documentation": "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20",
    "multicast": "224.0.0.0/4 ff00::/8",
    "contains an IPv4 address": "::/96 64:ff9b:1::/48 2001::/32 2002::/16",
    "reserved": (
        "192.0.0.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.175.48.0/24 240.0.0.0/4"
        " 2001::/23 2620:4f:8000::/48"
    ),
}
_RULES: tuple[tuple[Network, str], ...] = tuple(
    (ipaddress.ip_network(network), rule)
    for rule, networks in _SPECIAL.items()
    for network in networks.split()
)
_IPV6_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

# RFC 3986 allows these in a path or query; "%" is there for characters that are escaped already.
_SAFE = "!#$%&'()*+,/:;=?@[]~"
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_HOST = re.compile(r"[a-z0-9_.-]{1,253}")
_AUTHORITY = re.compile(r"[^/?#]*//([^/?#]*)")
_MAX_URL = 8_000
_MAX_HOST = 253  # RFC 1035, without the final dot
_MAX_LABEL = 63
_MAX_AUTHORITY = _MAX_HOST + len(".:65535")


class Target(NamedTuple):
    """A URL that may be fetched: all ASCII, with the host as DNS has it."""

    url: str
    scheme: str
    host: str
    port: int


def check_url(url: str) -> Target:
    """The Target of `url`; raises InvalidURL, whose message says what is wrong.

    A Unicode host is encoded by IDNA (UTS 46, non-transitional). Unicode and blanks in the path are
    percent-encoded as UTF-8, as browsers do (WHATWG URL). The fragment is dropped.
    """
    if len(url) > _MAX_URL:
        raise InvalidURL(f"The URL is longer than {_MAX_URL} characters.")
    if _FORBIDDEN.search(url):
        raise InvalidURL("The URL contains control characters or broken Unicode.")
    try:
        parts = split_url(url)
        port = parts.port
    except ValueError:
        raise InvalidURL("This is not a valid URL: check its host and port.") from None
    if parts.scheme not in ("http", "https"):
        raise InvalidURL("Only http:// and https:// URLs are fetched.")
    if "\\" in parts.netloc or "@" in parts.netloc:
        raise InvalidURL("A URL with a user name, a password or a backslash is not fetched.")
    if port == 0:
        raise InvalidURL("Port 0 is not a valid port.")
    host = _ascii_host(parts.hostname or "", parts.netloc)
    authority = f"[{host}]" if ":" in host else host
    if port is not None:
        authority = f"{authority}:{port}"
    path = quote(parts.path, safe=_SAFE) or "/"
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    checked = f"{parts.scheme}://{authority}{path}{query}"
    if len(checked) > _MAX_URL:
        raise InvalidURL(f"The URL is longer than {_MAX_URL} characters once it is escaped.")
    return Target(checked, parts.scheme, host, port or (443 if parts.scheme == "https" else 80))


def split_url(url: str) -> SplitResult:
    """`urlsplit`, which takes long for a host of thousands of Unicode characters.

    Raises ValueError if there is no URL, and InvalidURL if its host is too long for DNS.
    """
    authority = _AUTHORITY.match(url)
    if authority and len(authority[1]) > _MAX_AUTHORITY:
        raise InvalidURL(f"The host is longer than {_MAX_HOST} characters.")
    return urlsplit(url)


@functools.lru_cache(maxsize=4096)
def _ascii_host(host: str, netloc: str = "") -> str:
    # Before IDNA, whose time grows faster than the length.
    if len(host) > _MAX_HOST + 1:
        raise InvalidURL(f"The host is longer than {_MAX_HOST} characters.")
    if any(len(label) > _MAX_LABEL for label in host.split(".")):
        raise InvalidURL(f"A part of the host is longer than {_MAX_LABEL} characters.")
    if "%" in host:
        raise InvalidURL("The host contains a % escape or an IPv6 zone, which a URL cannot use.")
    if ":" in host or "[" in netloc:
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise InvalidURL("The host is not an IPv6 address.") from None
    if not host.isascii():
        try:
            host = _in_idna(host)
        except (idna.IDNAError, UnicodeError):
            raise InvalidURL("The host is not a valid international domain name (IDNA).") from None
    host = host.removesuffix(".")  # the DNS root: the same host under a second name
    if not _HOST.fullmatch(host) or "" in host.split("."):
        raise InvalidURL("The URL has no valid host.")
    return host


def _in_idna(host: str) -> str:
    """The host as DNS has it: by IDNA 2008, or as browsers do if that rejects it.

    Browsers map by UTS 46 and then encode any label in Punycode, symbols too (WHATWG URL).
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
    """The address in `text` without its zone; of IPv4-mapped ones and NAT64 the one inside."""
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        return address.ipv4_mapped or address
    return address


def _judged_network(text: str) -> Network:
    """The network in `text`; for an IPv4-mapped one the network of the IPv4 addresses inside."""
    if "%" in text:
        raise ValueError("an address here has no zone")
    network = ipaddress.ip_network(text, strict=False)
    mapped = network.network_address.ipv4_mapped if network.version == 6 else None
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - 96))


@functools.lru_cache(maxsize=4096)
def special_rule(text: str) -> str | None:
    """The name of the rule that forbids the address `text`, or None if it may be fetched."""
    address = _judged_address(text)
    for network, rule in _RULES:
        if address.version == network.version and address in network:
            return rule
    if isinstance(address, ipaddress.IPv6Address) and address not in _IPV6_UNICAST:
        return "reserved"
    return None


def _named_host(entry: str) -> str:
    if re.fullmatch(r"[0-9.]*", entry):
        raise InvalidURL("This is not a valid IPv4 address.")
    return _ascii_host(entry.lower())


class _HostList:
    """Addresses, networks and host names from an option."""

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
                    what = "an address, network or host name"
                    message = f"--allow-origin, --deny-origin: {entry!r} is not {what}"
                    raise ValueError(message) from None
        self._networks = tuple(networks)
        self._hosts = frozenset(hosts)

    def has_either(self, host: str, address: str) -> bool:
        """The host or the address is listed."""
        if host in self._hosts:
            return True
        if not self._networks:
            return False
        judged, whole = _judged_address(address), ipaddress.ip_address(address.partition("%")[0])
        is_nat64 = whole.version == 6 and whole in _NAT64
        either = {judged, whole} if is_nat64 else {judged}
        return any(a.version == n.version and a in n for a in either for n in self._networks)


class Guard:
    """Decides which addresses may be connected to. Immutable, so any thread may use it.

    `allow` and `deny` hold addresses, networks and host names. An allowed one is exempt from every
    rule, but not from `deny`. `ports` are the allowed ports below 1024. Raises ValueError if an
    entry is none of the three.
    """

    def __init__(
        self,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        ports: Iterable[int] = (80, 443),
    ) -> None:
        self._ports = frozenset(ports)
        self._allowed = _HostList(allow)
        self._denied = _HostList(deny)

    def refusal(self, host: str, address: str, port: int) -> str | None:
        """Why a connection to `address` and `port` for `host` is forbidden; None if it is allowed.

        The reason names the rule but not the address, which may be a secret of our network.
        """
        if self._denied.has_either(host, address):
            return "This service does not fetch from the host that this URL leads to."
        if self._allowed.has_either(host, address):
            return None
        rule = special_rule(address)
        if rule is not None:
            return (
                f"This URL leads to an address that is not public ({rule}). The operator can allow"
                " it with --allow-origin."
            )
        if port not in self._ports and port < 1024:
            return f"This service does not fetch from port {port}."
        return None


def redact_url(url: str) -> str:
    """`url` for a log line: no query, user name or fragment, control characters escaped.

    The parts left out may be secrets. The rest is cut at 200 characters.
    """
    try:
        parts = split_url(url)
    except (ValueError, InvalidURL):
        return "(unreadable)"
    host = parts.netloc.rpartition("@")[2]
    if ":" in host and "@" in url and "@" not in parts.netloc:
        return "(unreadable)"  # a password with a slash in it
    # Without a host, the path may begin with a user name and a password.
    path = parts.path if host else parts.path.rpartition("@")[2]
    if parts.scheme in ("http", "https"):
        path = f"{parts.scheme}://{host}{path}"
    return path.encode("unicode_escape").decode("ascii")[:200]
