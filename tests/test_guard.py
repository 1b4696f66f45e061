"""Tests of fetch.guard: connections only to global unicast addresses, however they are spelled,
and URLs normalized to ASCII.

`corpora/ip_verdicts.tsv` has the edges of every special block, `corpora/ssrf_urls.tsv` the
spellings of forbidden and legitimate targets; their first lines name the sources.
"""

from __future__ import annotations

import csv
import ipaddress
import json
import socket
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imageload.errors import InvalidURL
from imageload.fetch.guard import Guard, check_url, redact_url, special_rule

CORPORA = Path(__file__).parent / "corpora"
Verdict = Literal["allow", "block"]

# Rows of ssrf_urls.tsv that are "defensible either way", where our verdict is the other one.
OURS = {
    # An encoded spelling of a public address is judged by the address it means.
    119: "allow",
    121: "allow",
    123: "allow",
    # NAT64: on a machine without IPv4 every IPv4 address has this form.
    176: "allow",
    # ISATAP tunnels need an interface for them; the address itself is global unicast.
    190: "allow",
    # White space around a URL is stripped.
    433: "allow",
}


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a corpus, by the names of its columns."""
    text = (CORPORA / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


IP_ROWS = rows("ip_verdicts.tsv")
URL_ROWS = rows("ssrf_urls.tsv")


def addresses(host: str, resolves_to: str) -> list[str]:
    """The addresses of `host`: itself in any spelling of an address, else those resolved."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        return [socket.inet_ntoa(socket.inet_aton(host))]
    except OSError:
        pass
    if resolves_to in ("-", "NXDOMAIN", "EMPTY", "TIMEOUT", "not-an-ip"):
        return []
    return resolves_to.split(",")


def verdict(url: str, resolves_to: str) -> Verdict:
    """Check `url`; raise if the guard refuses it or any of its addresses."""
    try:
        target = check_url(url)
    except InvalidURL:
        return "block"
    port = urlsplit(target.url).port or (443 if target.scheme == "https" else 80)
    found = addresses(target.host, resolves_to)
    if not found:
        return "block"
    refused = [Guard().refusal(target.host, address, port) for address in found]
    return "block" if any(refused) else "allow"


# Addresses


def test_every_edge_of_every_special_block_has_its_verdict() -> None:
    verdicts = {row["address"]: row["verdict"] for row in IP_ROWS}
    assert len(verdicts) > 150
    assert {a: "block" if special_rule(a) else "allow" for a in verdicts} == verdicts
    refusals = {a: Guard().refusal("a.example", a, 443) for a in verdicts}
    assert {a: "block" if reason else "allow" for a, reason in refusals.items()} == verdicts


@pytest.mark.parametrize("prefix", ["::ffff:", "64:ff9b::"], ids=["mapped", "NAT64"])
def test_an_address_in_an_ipv6_address_is_judged_as_the_one_inside(prefix: str) -> None:
    for address in (row["address"] for row in IP_ROWS if ":" not in row["address"]):
        assert special_rule(f"{prefix}{address}") == special_rule(address)


def test_a_nat64_address_may_be_listed_in_either_form() -> None:
    address = "64:ff9b::10.0.0.1"
    assert Guard().refusal("a.example", address, 443)
    for listed in ("10.0.0.0/8", "64:ff9b::/96", "64:ff9b::a00:1"):
        assert Guard(allow=[listed]).refusal("a.example", address, 443) is None
    for listed in ("8.8.8.8", "64:ff9b::/96"):
        assert Guard(deny=[listed]).refusal("a.example", "64:ff9b::8.8.8.8", 443)
    assert Guard(allow=["64:ff9b::/96"]).refusal("a.example", "10.0.0.1", 443)


@pytest.mark.parametrize("address", ["198.18.0.7", "64:ff9b:1::7f00:1", "10.0.0.1"])
def test_a_refusal_names_the_option_that_allows_the_address(address: str) -> None:
    assert "--allow-origin" in (Guard().refusal("a.example", address, 443) or "")
    assert Guard(allow=[address]).refusal("a.example", address, 443) is None


@pytest.mark.parametrize("zone", ["%eth0", "%1", "%25lo"])
def test_a_zone_changes_no_verdict(zone: str) -> None:
    assert special_rule(f"fe80::1{zone}") == "link-local"
    assert special_rule(f"::1{zone}") == "loopback"
    assert special_rule(f"2606:4700::1{zone}") is None


@given(st.ip_addresses(v=4))
def test_no_private_ipv4_address_is_missed(address: ipaddress.IPv4Address) -> None:
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert special_rule(str(address)) is not None


@given(st.ip_addresses(v=6))
def test_no_ipv6_address_outside_of_global_unicast_is_missed(
    address: ipaddress.IPv6Address,
) -> None:
    is_ipv4 = address.ipv4_mapped or address in ipaddress.IPv6Network("64:ff9b::/96")
    if address not in ipaddress.IPv6Network("2000::/3") and not is_ipv4:
        assert special_rule(str(address)) is not None


# Spellings of targets


def test_every_spelling_of_a_target_has_its_verdict() -> None:
    expected = {int(row["id"]): row["verdict"] for row in URL_ROWS} | OURS
    assert len(expected) > 300
    found = {
        int(row["id"]): verdict(json.loads(row["url_json"]), row["resolves_to"]) for row in URL_ROWS
    }
    assert found == expected


def test_the_guard_differs_from_the_corpus_only_in_debatable_cases() -> None:
    differing = {int(row["id"]): row for row in URL_ROWS if int(row["id"]) in OURS}
    assert {row["strength"] for row in differing.values()} == {"policy"}
    for number, row in differing.items():
        assert row["verdict"] != OURS[number]


# The Guard


def test_the_refusal_names_the_rule_and_never_the_address() -> None:
    for address in (row["address"] for row in IP_ROWS if row["verdict"] == "block"):
        reason = Guard().refusal("a.example", address, 443)
        rule = special_rule(address)
        assert reason
        assert reason.startswith(f"This URL leads to an address that is not public ({rule}).")
        assert address not in reason
    assert Guard().refusal("a.example", "169.254.169.254", 80) == (
        "This URL leads to an address that is not public (link-local). The operator can allow it"
        " with --allow-origin."
    )


@pytest.mark.parametrize("port", [80, 443, 1024, 8080, 65_535])
def test_ports_of_web_servers_are_fetched_from(port: int) -> None:
    assert Guard().refusal("a.example", "8.8.8.8", port) is None


@pytest.mark.parametrize("port", [1, 22, 25, 79, 81, 442, 444, 1023])
def test_other_ports_below_1024_are_not_and_the_reason_names_the_port(port: int) -> None:
    reason = Guard().refusal("a.example", "8.8.8.8", port)
    assert reason
    assert f"does not fetch from port {port}." in reason


def test_the_ports_below_1024_may_be_chosen() -> None:
    guard = Guard(ports=[81])
    assert guard.refusal("a.example", "8.8.8.8", 81) is None
    assert guard.refusal("a.example", "8.8.8.8", 80) is not None
    assert guard.refusal("a.example", "8.8.8.8", 8080) is None


@pytest.mark.parametrize(
    ("entry", "allowed", "refused"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
        ("10.1.0.0/16", "10.1.255.255", "10.2.0.0"),
        ("10.1.2.3/16", "10.1.0.0", "10.2.0.0"),  # host bits do no harm
        ("::1", "::1", "::2"),
        ("[::1]", "::1", "::2"),
        ("fd00::/8", "fd12::1", "fc00::1"),
        ("fe80::/10", "fe80::1%eth0", "fec0::1"),
        ("127.0.0.1", "::ffff:127.0.0.1", "::ffff:127.0.0.2"),
        ("10.0.0.0/8", "::ffff:10.9.8.7", "::ffff:11.0.0.1%lo"),
        ("::ffff:127.0.0.1", "127.0.0.1", "127.0.0.2"),
        ("::ffff:10.0.0.0/104", "10.255.0.1", "11.0.0.1"),
        ("::ffff:10.1.0.0/112", "::ffff:10.1.2.3", "10.2.0.0"),
    ],
)
def test_an_address_or_network_that_is_allowed_is_exempt_and_its_neighbour_is_not(
    entry: str, allowed: str, refused: str
) -> None:
    guard = Guard([entry])
    assert guard.refusal("a.example", allowed, 80) is None
    assert guard.refusal("a.example", allowed, 22) is None
    assert guard.refusal("a.example", refused, 22) is not None


def test_only_an_allowed_host_may_have_any_address() -> None:
    guard = Guard(["Images.Internal", "bücher.example"])
    assert guard.refusal("images.internal", "10.0.0.1", 22) is None
    assert guard.refusal("xn--bcher-kva.example", "10.0.0.1", 80) is None
    for host in ("a.images.internal", "images.internal.example", "internal", ""):
        assert guard.refusal(host, "10.0.0.1", 80) is not None


def test_a_host_that_is_allowed_as_a_name_is_not_allowed_as_an_address() -> None:
    assert Guard(["localhost"]).refusal("127.0.0.1", "127.0.0.1", 80) is not None


@pytest.mark.parametrize(
    "entry",
    [
        "",
        " ",
        "http://a.example",
        "a.example:80",
        "127.0.0.1:80",
        "10.0.0.0/33",
        "a/b",
        "*.a",
        "::g",
        "127.0.0.256",
        "127.0.0",
        "10.0.0.0.0",
        "1",
        "...",
        "a%2eexample",
    ],
)
def test_an_entry_that_is_no_address_network_or_host_is_an_error(entry: str) -> None:
    with pytest.raises(ValueError, match="is not an address, network or host name"):
        Guard([entry])


def test_nothing_is_exempt_by_default() -> None:
    assert Guard().refusal("localhost", "127.0.0.1", 80) is not None


# URLs


@pytest.mark.parametrize(
    ("given_url", "url", "host"),
    [
        ("http://a.example", "http://a.example/", "a.example"),
        ("HTTPS://A.Example/B.PNG", "https://a.example/B.PNG", "a.example"),
        ("https://a.example:8443/x", "https://a.example:8443/x", "a.example"),
        ("https://a.example:443/x", "https://a.example:443/x", "a.example"),
        ("https://a.example:/x", "https://a.example/x", "a.example"),
        ("https://a.example./x", "https://a.example/x", "a.example"),
        ("https://my_bucket.example/x", "https://my_bucket.example/x", "my_bucket.example"),
        ("  https://a.example/x", "https://a.example/x", "a.example"),
        ("https://a.example/x#fragment", "https://a.example/x", "a.example"),
        ("https://a.example#fragment", "https://a.example/", "a.example"),
        ("https://a.example?q=1", "https://a.example/?q=1", "a.example"),
        ("https://a.example/x?q=1?r&s=[2]#f", "https://a.example/x?q=1?r&s=[2]", "a.example"),
        ("https://a.example/x y?z w", "https://a.example/x%20y?z%20w", "a.example"),
        ("https://a.example/é?ü", "https://a.example/%C3%A9?%C3%BC", "a.example"),
        ("https://a.example/画像.png", "https://a.example/%E7%94%BB%E5%83%8F.png", "a.example"),
        ("https://a.example/%C3%A9%20%zz", "https://a.example/%C3%A9%20%zz", "a.example"),
        ("https://a.example/a/../b//c", "https://a.example/a/../b//c", "a.example"),
        ('https://a.example/"<>^`{|}', "https://a.example/%22%3C%3E%5E%60%7B%7C%7D", "a.example"),
        ("https://a.example/a\\b", "https://a.example/a%5Cb", "a.example"),
        ("https://a.example/@me", "https://a.example/@me", "a.example"),
        ("https://a.example/~a/!$&'()*+,;=:@", "https://a.example/~a/!$&'()*+,;=:@", "a.example"),
        ("https://münchen.example/", "https://xn--mnchen-3ya.example/", "xn--mnchen-3ya.example"),
        ("https://MÜNCHEN.example/", "https://xn--mnchen-3ya.example/", "xn--mnchen-3ya.example"),
        ("https://straße.example/", "https://xn--strae-oqa.example/", "xn--strae-oqa.example"),
        ("https://例え.テスト/", "https://xn--r8jz45g.xn--zckzah/", "xn--r8jz45g.xn--zckzah"),
        ("https://\uff45\uff58.example/", "https://ex.example/", "ex.example"),
        ("https://127。0。0。1/", "https://127.0.0.1/", "127.0.0.1"),
        ("http://[2606:4700:0:0::1111]:81/", "http://[2606:4700::1111]:81/", "2606:4700::1111"),
        ("http://[2606:4700::ABCD]", "http://[2606:4700::abcd]/", "2606:4700::abcd"),
    ],
)
def test_a_url_is_made_ascii_and_keeps_its_meaning(given_url: str, url: str, host: str) -> None:
    target = check_url(given_url)
    assert (target.url, target.host) == (url, host)
    assert target.scheme == url.partition(":")[0]
    assert check_url(url) == target


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "Only http:// and https://"),
        ("foo", "Only http:// and https://"),
        ("//a.example/x", "Only http:// and https://"),
        ("ftp://a.example/x", "Only http:// and https://"),
        ("file:///etc/passwd", "Only http:// and https://"),
        ("data:image/png;base64,AAAA", "Only http:// and https://"),
        ("http://", "no valid host"),
        ("http:///x", "no valid host"),
        ("http:a.example", "no valid host"),
        ("http://./", "no valid host"),
        ("http://a..example/", "no valid host"),
        ("http://.example/", "no valid host"),
        ("http://a b.example/", "no valid host"),
        ("http://a%20b.example/", "escape or an IPv6 zone"),
        ("http://%61.example/", "escape or an IPv6 zone"),
        ("http://a.example%00/", "escape or an IPv6 zone"),
        ("http://[fe80::1%25eth0]/", "escape or an IPv6 zone"),
        ("http://[2606:4700::1%eth0]/", "escape or an IPv6 zone"),
        ("http://[v1.a]/", "not an IPv6 address"),
        ("http://[v1.127.0.0.1]/", "not an IPv6 address"),
        ("http://*.example/", "no valid host"),
        pytest.param(f"http://{'a.' * 127}example/", "longer than 253", id="long host"),
        ("http://user@a.example/", "user name"),
        ("http://user:pass@a.example/", "user name"),
        ("http://@a.example/", "user name"),
        ("http://a.example\\@b.example/", "backslash"),
        ("http://a.example\\b", "backslash"),
        ("http://a.example/\x00", "control characters"),
        ("http://a.example/\r\nHost: b", "characters"),
        ("http://a.exa\tmple/", "characters"),
        ("http://a.example/\x7f", "characters"),
        ("http://a.example/\ud800", "characters"),
        ("http://a.example:0/", "Port 0"),
        ("http://a.example:65536/", "host and port"),
        ("http://a.example:x/", "host and port"),
        ("http://a.example:+80/", "host and port"),
        ("http://a.example:\uff18\uff10/", "host and port"),
        ("http://[::1", "host and port"),
        ("http://a.example\uff0fb/", "host and port"),
        ("http://::1/", "host and port"),
        ("http://a\u200b\u200bb\u2028.example/", "IDNA"),
        # Its normal form takes a third of a second.
        pytest.param("http://a" + "\u0323\u0301" * 3_900, "longer than 253", id="long accents"),
        pytest.param("http://" + "\u00fc" * 64, "longer than 63", id="long part"),
        pytest.param("http://a.example/".ljust(8_001, "a"), "longer than 8000", id="long"),
        pytest.param(
            "http://a.example/".ljust(4_000, "é"), "once it is escaped", id="long once escaped"
        ),
    ],
)
def test_an_invalid_url_is_rejected_with_the_reason(url: str, sentence: str) -> None:
    with pytest.raises(InvalidURL) as caught:
        check_url(url)
    assert sentence in caught.value.message
    assert caught.value.message.endswith(".")


def test_a_url_of_8000_characters_is_taken() -> None:
    url = "http://a.example/".ljust(8_000, "a")
    assert check_url(url).url == url
    escaped = "http://a.example/" + "é" * ((8_000 - len("http://a.example/")) // 6)
    assert len(check_url(escaped).url) <= 8_000


HOSTS = (
    st.sampled_from(["a.example", "A-b_c.EXAMPLE.", "münchen.例え", "127.1", "\uff10x7f", "a。b"])
    | st.text("aZ0-_.éß例%。", max_size=12)
    | st.ip_addresses(v=6).map(lambda address: f"[{address}]")
)
URLS = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["http://", "HTTPS://", " http://", "http:", "ftp://", "//"]),
    HOSTS,
    st.sampled_from(["", ":", ":80", ":0", ":99999", "@b", "\\"]),
    st.text(max_size=30).map(lambda text: f"/{text}"),
    st.sampled_from(["", "?q", "#f", "?a b#c", "??", "#?"]),
)


@settings(max_examples=200)
@given(st.text() | URLS)
@example("http://[::ffff:1.2.3.4]/%")
@example("http://ª.example/")
def test_any_text_gives_an_ascii_url_with_the_host_that_is_seen_in_it_or_is_refused(
    text: str,
) -> None:
    try:
        target = check_url(text)
    except InvalidURL:
        return
    assert target.url.isascii()
    assert target.url.startswith(("http://", "https://"))
    assert urlsplit(target.url).hostname == target.host
    seen = urlsplit(text)
    assert seen.scheme == target.scheme
    assert (seen.port, seen.username) == (urlsplit(target.url).port, None)
    if ":" in target.host:
        assert ipaddress.ip_address(target.host) == ipaddress.ip_address(seen.hostname or "")
    elif (seen.hostname or "").isascii():
        assert target.host == (seen.hostname or "").removesuffix(".")
    again = check_url(target.url)
    assert again == target


@pytest.mark.parametrize("host", ["0.。", "a..", "a..b", ".a", "."])
def test_a_host_with_an_empty_label_is_refused(host: str) -> None:
    with pytest.raises(InvalidURL):
        check_url(f"http://{host}")


def test_a_host_with_a_symbol_is_written_as_browsers_write_it() -> None:
    """IDNA 2008 has no symbols; the names exist all the same."""
    assert check_url("http://☺.damowmow.com/").host == "xn--74h.damowmow.com"
    assert check_url("http://✪df.ws/123").url == "http://xn--df-oiy.ws/123"


@pytest.mark.parametrize("entry", ["evil.example", "evil.example."])
@pytest.mark.parametrize("host", ["evil.example", "evil.example.", "EVIL.example."])
def test_a_trailing_dot_does_not_bypass_a_denied_name(entry: str, host: str) -> None:
    target = check_url(f"http://{host}/")
    assert Guard(deny=[entry]).refusal(target.host, "8.8.8.8", 80) is not None


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://a.example/x.png", "https://a.example/x.png"),
        ("https://a.example:8443/x/", "https://a.example:8443/x/"),
        ("https://a.example/x?token=s3cret", "https://a.example/x"),
        ("https://a.example?token=s3cret", "https://a.example"),
        ("https://a.example/x#s3cret", "https://a.example/x"),
        ("https://me:s3cret@a.example/x", "https://a.example/x"),
        ("https://s3cret@a.example/x", "https://a.example/x"),
        ("https://s3@cr:e@t@a.example/x", "https://a.example/x"),
        ("https://a.example/@me", "https://a.example/@me"),
        ("//me:s3cret@a.example/x", "/x"),
        ("foo", "foo"),
        ("", ""),
        ("me:s3cret@a.example/x", "a.example/x"),
        ("http:/me:s3cret@a.example/x", "http://a.example/x"),
        ("http:me:s3cret@a.example/x", "http://a.example/x"),
        ("http:///me:s3cret@a.example/x", "http://a.example/x"),
        ("https://me:s3cret@", "https://"),
        ("me:s3c/ret@a.example/x?y@z", "a.example/x"),
        ("https://[::1/", "(unreadable)"),
        ("https://a.example/é", r"https://a.example/\xe9"),
        ("https://a.example/\x00\x1b[31m\x7f", r"https://a.example/\x00\x1b[31m\x7f"),
        ("https://a.example/x y\u2028z", r"https://a.example/x y\u2028z"),
        ("https://a.example/\ud800", r"https://a.example/\ud800"),
        (f"https://a.example/{'x' * 500}", f"https://a.example/{'x' * 182}"),
    ],
)
def test_redact_url_omits_secrets_and_escapes_control_characters(url: str, text: str) -> None:
    assert redact_url(url) == text
    assert redact_url(url).isascii()
    assert len(redact_url(url)) <= 200


def test_no_url_breaks_a_line_of_the_log() -> None:
    for control in map(chr, [*range(32), *range(127, 160), 0x2028, 0x2029]):
        text = redact_url(f"https://a.example/{control}failed job=forged")
        assert text.isprintable()
        assert len(text.splitlines()) == 1
