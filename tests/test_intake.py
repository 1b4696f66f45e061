"""Tests of web.intake: the forms of the contract are read, others refused with the place.

`corpora/json_test_suite` is Nicolas Seriot's JSONTestSuite: n_ files are not JSON, y_ files are,
and i_ files may be either.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageload.errors import Refused
from imageload.image import Item
from imageload.registry import Order
from imageload.web.intake import read_orders
from tests.raising import raises_refused

SUITE = sorted((Path(__file__).parent / "corpora/json_test_suite/test_parsing").glob("*.json"))

A, B, C = "https://a.example/1.png", "https://b.example/2.png", "http://c.example/3.png"


def read(body: bytes | str, content_type: str = "application/json") -> list[list[str]]:
    """The lists in `body`, under limits of 5 URLs and 3 lists."""
    encoded = body.encode() if isinstance(body, str) else body
    orders = read_orders(encoded, content_type, max_urls=5, max_lists=3)
    assert all(isinstance(item, str) for order in orders for item in order.items)
    return [[str(item) for item in order.items] for order in orders]


def read_text(body: bytes | str) -> list[str]:
    """The one list in a text/plain body."""
    (urls,) = read(body, "text/plain")
    return urls


def refusal(body: bytes | str, content_type: str = "application/json") -> str:
    """The message, in lower case, with which `body` is refused."""
    with raises_refused("bad-request") as caught:
        read(body, content_type)
    assert caught.value.status == 400
    return str(caught.value).lower()


# JSON


@pytest.mark.parametrize(
    ("value", "lists"),
    [
        ({"urls": [A]}, [[A]]),
        ({"urls": [A, B, C]}, [[A, B, C]]),
        ([A, B], [[A, B]]),
        ({"urls": [[A], [B, C]]}, [[A], [B, C]]),
        ([[A], [B, C]], [[A], [B, C]]),
        ([[A]], [[A]]),
        ({"urls": [[A], None, [B]]}, [[A], [B]]),
        ({"urls": [A], "album": "Birds", "limit": 3}, [[A]]),
        ([A, A, B, A], [[A, B]]),
        ([C, A, C, B], [[C, A, B]]),
        ([[A, B], [A]], [[A, B], [A]]),
        (["", A, "  ", None, "\t\r\n"], [[A]]),
        ([f"  {A}\n", f"\u00a0{A} ", A], [[A]]),
        ([[None, A], ["", B]], [[A], [B]]),
        (["foo", "ftp://a.example/", "/etc/passwd"], [["foo", "ftp://a.example/", "/etc/passwd"]]),
        ([f"{A}?x=1,2#three four"], [[f"{A}?x=1,2#three four"]]),
        (["https://例え.example/é.png"], [["https://例え.example/é.png"]]),
    ],
)
def test_every_json_form_gives_its_lists_clean_and_in_order(
    value: object, lists: list[list[str]]
) -> None:
    assert read(json.dumps(value)) == lists
    assert read(json.dumps(value, ensure_ascii=False)) == lists


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/x-www-form-urlencoded",
        "text/html",
        "text/plainer",
        "application/octet-stream",
        "",
        "junk",
    ],
)
def test_json_is_taken_with_any_content_type_but_text_plain(content_type: str) -> None:
    assert read(json.dumps([A]), content_type) == [[A]]


def test_json_may_begin_with_a_byte_order_mark() -> None:
    assert read(b"\xef\xbb\xbf" + json.dumps([A]).encode()) == [[A]]


def test_json_may_be_surrounded_by_white_space() -> None:
    assert read(f" \r\n\t{json.dumps([A], indent=4)}\n") == [[A]]


@pytest.mark.parametrize(
    ("value", "dedupe"),
    [
        ({"urls": [A]}, True),
        ({"urls": [A], "dedupe": True}, True),
        ({"urls": [A], "dedupe": False}, False),
        ({"dedupe": False, "urls": [[A], [B]]}, False),
        ([A], True),
        ([[A], [B]], True),
    ],
)
def test_images_are_shared_unless_the_post_says_otherwise(value: Any, dedupe: bool) -> None:
    orders = read_orders(json.dumps(value).encode(), "", max_urls=5, max_lists=3)
    assert {order.dedupe for order in orders} == {dedupe}
    assert orders[0].items == [A]


def test_plain_text_images_are_shared() -> None:
    body = f'{A}\n{{"dedupe": false}}'.encode()
    (order,) = read_orders(body, "text/plain", max_urls=5, max_lists=3)
    assert order.dedupe is True


# Titles, descriptions, albums


def orders(value: object) -> list[Order]:
    """Parse `value` as a JSON body."""
    return read_orders(json.dumps(value).encode(), "", max_urls=5, max_lists=3)


def test_an_entry_may_be_an_object_with_its_own_texts() -> None:
    entries = [{"url": f" {A} ", "title": "A bird", "description": "It\nsings."}, B, {"url": C}]
    (order,) = orders({"urls": entries})
    assert order.items == [Item(A, "A bird", "It\nsings."), B, Item(C)]


def test_texts_of_the_post_apply_to_images_without_their_own() -> None:
    entries = [{"url": A, "title": "Own"}, B, None, {"url": " "}]
    (order,) = orders({"urls": entries, "title": "All", "description": "Of them"})
    assert order.items == [Item(A, "Own", "Of them"), Item(B, "All", "Of them")]


def test_the_first_entry_of_a_repeated_url_counts() -> None:
    (order,) = orders([{"url": A, "title": "First"}, A, {"url": A, "title": "Last"}])
    assert order.items == [Item(A, "First")]


def test_an_album_applies_to_every_list() -> None:
    assert [each.album for each in orders({"urls": [[A], [B]], "album": " Birds "})] == [
        "Birds"
    ] * 2
    assert [each.album for each in orders({"urls": [A], "album": "  "})] == [None]


def test_control_characters_in_texts_are_dropped() -> None:
    (order,) = orders([{"url": A, "title": "a\x00\x1b[31mb\r\x7f", "description": "c\td\ne"}])
    assert order.items == [Item(A, "a[31mb", "c\td\ne")]


@pytest.mark.parametrize("key", ["album", "title", "description"])
@pytest.mark.parametrize("text", [1, True, [], {}, ["x"]])
def test_a_text_of_another_type_is_refused(key: str, text: object) -> None:
    assert f"{key} must be a text" in refusal(json.dumps({"urls": [A], key: text}))
    if key != "album":
        assert f"urls[1].{key} must be a text" in refusal(json.dumps([A, {"url": B, key: text}]))


@pytest.mark.parametrize(
    ("key", "most"), [("album", 1_000), ("title", 1_000), ("description", 10_000)]
)
def test_a_text_that_is_too_long_is_refused(key: str, most: int) -> None:
    assert orders({"urls": [A], key: "x" * most})
    assert f"{most:,} characters" in refusal(json.dumps({"urls": [A], key: "x" * (most + 1)}))


@pytest.mark.parametrize(
    "entry", [{}, {"url": None}, {"url": 1}, {"url": [A]}, {"title": "no url"}]
)
def test_an_object_without_a_url_is_refused(entry: object) -> None:
    assert "urls[1] is neither a text nor an object with a url" in refusal(json.dumps([A, entry]))


@pytest.mark.parametrize("dedupe", [None, 0, 1, "false", "true", [], {}, 0.0])
def test_dedupe_must_be_true_or_false(dedupe: object) -> None:
    assert refusal(json.dumps({"urls": [A], "dedupe": dedupe})) == "dedupe must be true or false."


def test_the_last_of_a_repeated_key_counts() -> None:
    assert read(f'{{"urls": ["{A}"], "urls": ["{B}"]}}') == [[B]]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ("", "the body is empty"),
        (" \r\n\t", "the body is empty"),
        ("\ufeff", "the body is not valid json"),
        ("null", "no list of urls"),
        ("true", "no list of urls"),
        ("5", "no list of urls"),
        (f'"{A}"', "no list of urls"),
        ("{}", "no list of urls"),
        (f'{{"url": ["{A}"]}}', "no list of urls"),
        (f'{{"URLS": ["{A}"]}}', "no list of urls"),
        (f'{{"urls": "{A}"}}', "no list of urls"),
        ('{"urls": null}', "no list of urls"),
        (f'{{"urls": {{"0": "{A}"}}}}', "no list of urls"),
        ("[]", "there is no url"),
        ('{"urls": []}', "there is no url"),
        ('["", null, "  "]', "there is no url"),
        ("[[]]", "there is no url"),
        (f'[["{A}"], []]', "list 1: there is no url"),
        (f'[[""], ["{A}"]]', "list 0: there is no url"),
        ("[1]", "urls[0] is neither a text"),
        (f'["{A}", "{B}", false]', "urls[2] is neither a text"),
        (f'[["{A}", 5]]', "urls[0][1] is neither a text"),
        (f'[["{A}"], ["{B}", "{C}", {{}}]]', "urls[1][2] is neither a text"),
        (f'[[["{A}"]]]', "urls[0][0] is neither a text"),
        (f'[["{A}"], "{B}"]', "urls[1] is not a list"),
        (f'["{B}", ["{A}"]]', "urls[0] is not a list"),
        (f'[["{A}"], {{}}]', "urls[1] is not a list"),
        (f'["{A}"', "not valid json"),
        (f'["{A}",]', "line 1, column 28, in urls[1]: trailing comma"),
        (f'["{A}"] x', "trailing characters"),
        (f"['{A}']", "line 1, column 2, in urls[0]: invalid character"),
        (f"[{A}]", "line 1, column 2, in urls[0]: invalid character"),
        (f"urls={A}", "line 1, column 1: invalid character"),
        ("[NaN]", "line 1, column 2, in urls[0]: invalid character"),
        ("[Infinity]", "line 1, column 2, in urls[0]: invalid character"),
        ("[-Infinity]", "not valid json"),
        (r'["\x41"]', "line 1, column 5, in urls[0]: invalid escape character"),
        (f'{{"urls": [\n  "{A}",\n  b\n]}}', "line 3, column 3, in urls[1]: invalid"),
        (f'{{"urls": ["{A}"], "title": "', "in title: the end is missing"),
        (f'{{"urls": ["{A}"], "title": x}}', "in title: invalid character"),
    ],
)
def test_json_without_lists_of_urls_is_refused_with_the_place_of_the_error(
    body: str, where: str
) -> None:
    detail = refusal(body)
    assert where in detail
    assert '{"urls": ["https://...", ...]}' in detail  # and with what to send


HALF = r"\ud83d is half of a character"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (r'["a", "b", {"url": "c", "title": "Bird \ud83d"}]', "urls[2].title: " + HALF),
        (r'["a", {"url": "c", "title": "Bird \ud83d, and more of it"}]', "urls[1].title: " + HALF),
        (r'{"urls": [["a"], ["b\ud83d\u0041"]]}', "urls[1][0]: " + HALF),
        (r'{"title": "\\ud83d \ud83d\ude00 \uD83D", "urls": ["a"]}', "title: " + HALF),
        (r'{"urls": ["a"], "description": "\ude00"}', "description: \\ude00 is half"),
        (r'["\ud800"]', r"urls[0]: \ud800 is half"),
        (r'["\udc00\ud800"]', r"urls[0]: \udc00 is half"),
    ],
)
def test_a_text_cut_within_a_character_is_refused_with_its_entry(body: str, where: str) -> None:
    assert where.lower() in refusal(body)


def test_a_whole_emoji_is_accepted_in_either_form() -> None:
    (order,) = orders([{"url": A, "title": "\U0001f426"}])
    assert order.items == [Item(A, "\U0001f426")]
    body = json.dumps([{"url": A, "title": "\U0001f426"}], ensure_ascii=False).encode()
    assert read_orders(body, "", max_urls=5, max_lists=3)[0].items == order.items


@pytest.mark.parametrize(
    "body",
    [
        b'["\xff"]',
        b'["\xed\xa0\x80"]',
        b'["\xc0\xaf"]',
        b'\xff\xfe["a"]',
        json.dumps([A]).encode("utf-16"),
        json.dumps([A]).encode("utf-32"),
        b'["a"]\x00',
        b'["a\x00b"]',
        b"\x00",
        bytes(range(256)),
    ],
)
def test_bytes_that_are_not_json_in_utf_8_are_refused(body: bytes) -> None:
    assert "not valid json" in refusal(body)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"urls":' * 100_000,
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"urls":["a"]}',
    ],
    ids=["open", "closed", "objects", "beside"],
)
def test_json_that_is_nested_too_deeply_is_refused(body: bytes) -> None:
    assert "not valid json" in refusal(body)


@pytest.mark.parametrize("number", ["9" * 100_000, "1e999999"])
def test_a_number_beyond_all_range_does_no_harm(number: str) -> None:
    assert read(f'{{"ignored": {number}, "urls": ["{A}"]}}') == [[A]]
    assert refusal(f'["{A}", {number}]')


@pytest.mark.parametrize("body", ["[" + "[]," * 400_000 + "[]]", '{"x":' + "[" * 1_100_000])
def test_a_large_body_of_lists_is_refused_before_it_is_decoded(body: str) -> None:
    with raises_refused("too-large") as caught:
        read(body)
    assert "3 lists" in str(caught.value)


@pytest.mark.parametrize("entry", ["null", '""', '"a"', '{"url":"a"}'])
def test_more_values_than_are_decoded_at_once_are_refused_before_that(entry: str) -> None:
    with raises_refused("too-large") as caught:
        read("[" + f"{entry}," * 1_000_000 + f'"{A}"]')
    assert "1,000,000 urls and texts" in str(caught.value).lower()


@pytest.mark.parametrize("separator", ["\n", ", "])
def test_more_lines_of_text_than_are_read_at_once_are_refused(separator: str) -> None:
    with raises_refused("too-large") as caught:
        read(f"a{separator}" * 1_000_001, "text/plain")
    assert "1,000,000 urls and texts" in str(caught.value).lower()


def test_commas_in_texts_are_no_values() -> None:
    commas = r"\"," * 200_000
    entries = [f'{{"url": "http://a/{n}", "x": "{commas}"}}' for n in range(6)]
    with raises_refused("too-large") as caught:
        read(f"[{', '.join(entries)}]")
    assert "This has 6" in str(caught.value)


def test_brackets_in_texts_are_no_lists() -> None:
    title = r"\"[[\\[[" * 100
    entries = ", ".join(f'{{"url": "http://a/{n}", "title": "{title}"}}' for n in range(2_000))
    (order,) = read_orders(f"[{entries}]".encode(), "", max_urls=2_000, max_lists=3)
    assert len(order.items) == 2_000


@pytest.mark.parametrize("kind", ["n", "y", "i"])
def test_the_json_test_suite_is_read_or_refused(kind: str) -> None:
    files = [path for path in SUITE if path.name.startswith(f"{kind}_")]
    assert len(files) > 30
    for path in files:
        body = path.read_bytes()
        if kind == "n":
            with raises_refused("bad-request"):
                read(body)
            continue
        try:
            lists = read(body)
        except Refused:
            continue
        assert_clean(lists)


# Plain text


@pytest.mark.parametrize(
    ("body", "urls"),
    [
        (A, [A]),
        (f"{A}\n{B}\n", [A, B]),
        (f"{A}\r\n{B}\r\n", [A, B]),
        (f"{A}\r{B}", [A, B]),
        (f"\n\n{A}\n \n\n{B}\n\n", [A, B]),
        (f"\ufeff{A}\n{B}", [A, B]),
        (f"  {A}\t\n\t{B}  ", [A, B]),
        (f"{A},{B}", [A, B]),
        (f"{A}, {B} ,{C}", [A, B, C]),
        (f"{A},{B},", [A, B]),
        (f"{A},,{B},\n,{C}", [A, B, C]),
        (f"{A},\r\n{B}", [A, B]),
        (f"{A}\n{B}\n{A}", [A, B]),
        (f"{A},HTTPS://D.EXAMPLE/4.PNG", [A, "HTTPS://D.EXAMPLE/4.PNG"]),
        (f"{A},ftp://d.example/", [A, "ftp://d.example/"]),
        # Commas inside of URLs.
        (f"{A}?size=10,20", [f"{A}?size=10,20"]),
        (f"https://a.example/w_300,h_200/x.png,{B}", ["https://a.example/w_300,h_200/x.png", B]),
        (f"https://a.example/a,b,c.png\n{B}", ["https://a.example/a,b,c.png", B]),
        (f"{A}?next=%2C,x://y", [f"{A}?next=%2C", "x://y"]),
        (f"{A},foo,{B}", [f"{A},foo", B]),
        (f"{A} {B}", [f"{A} {B}"]),  # white space alone does not separate
        ("foo", ["foo"]),
        ('["not json"]', ['["not json"]']),
        ("https://例え.example/é.png", ["https://例え.example/é.png"]),
    ],
)
def test_plain_text_is_one_list_separated_by_newlines_and_commas_before_urls(
    body: str, urls: list[str]
) -> None:
    assert read_text(body) == urls


@pytest.mark.parametrize(
    "content_type", ["text/plain", "Text/Plain", "text/plain; charset=utf-8", " text/plain ;x"]
)
def test_text_plain_is_recognized_in_any_spelling(content_type: str) -> None:
    assert read(f"{A}\n{B}", content_type) == [[A, B]]


@pytest.mark.parametrize("body", ["", "\n", " , ,,\r\n", "\ufeff"])
def test_plain_text_without_a_url_is_refused(body: str) -> None:
    assert "there is no url" in refusal(body, "text/plain")


def test_plain_text_that_is_not_utf_8_is_refused_with_the_position() -> None:
    assert "byte 2" in refusal(b"ab\xff", "text/plain")
    assert "byte 0" in refusal(A.encode("utf-16"), "text/plain")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["http://a/", "https://ab/"]),
            st.lists(st.sampled_from(["a", "=", "?", ",b"]), max_size=3).map("".join),
        ).map("".join)
    )
)
def test_urls_joined_by_commas_or_newlines_are_separated_again(urls: list[str]) -> None:
    for separator in (",", ", ", "\n", "\r\n"):
        body = separator.join(urls).encode()
        if urls:
            (order,) = read_orders(body, "text/plain", max_urls=99, max_lists=1)
            assert order.items == list(dict.fromkeys(urls))


# Limits


def many(count: int) -> list[str]:
    return [f"https://a.example/{number}" for number in range(count)]


def test_lists_and_urls_up_to_the_limits_are_accepted() -> None:
    assert read(json.dumps(many(5))) == [many(5)]
    assert read("\n".join(many(5)), "text/plain") == [many(5)]
    assert len(read(json.dumps([many(5)] * 3))) == 3


def test_dropped_entries_do_not_count() -> None:
    assert read(json.dumps([*many(5), *many(5), "", None, " "])) == [many(5)]
    assert len(read(json.dumps([[A], None, [B], None, [C]]))) == 3


@pytest.mark.parametrize(
    ("body", "content_type", "where"),
    [
        (json.dumps(many(6)), "application/json", "this has 6 urls; a job may have 5"),
        ("\n".join(many(6)), "text/plain", "this has 6 urls; a job may have 5"),
        (json.dumps([[A], many(6)]), "application/json", "list 1: this has 6 urls"),
        (json.dumps([[A]] * 4), "application/json", "may have 3 lists"),
        (json.dumps([[]] * 4), "application/json", "may have 3 lists"),
    ],
)
def test_more_than_the_limit_is_too_large_and_the_detail_names_the_limit(
    body: str, content_type: str, where: str
) -> None:
    with raises_refused("too-large") as caught:
        read(body, content_type)
    assert caught.value.status == 413
    assert where in str(caught.value).lower()


# Anything at all


def assert_clean(lists: list[list[str]]) -> None:
    """Check that the lists of URLs are valid for a Job."""
    assert lists
    for urls in lists:
        assert urls
        assert len({*urls}) == len(urls)
        assert all(isinstance(url, str) and url == url.strip() and url for url in urls)


@given(st.binary() | st.text().map(str.encode), st.sampled_from(["text/plain", ""]))
def test_any_bytes_give_clean_lists_or_are_refused(body: bytes, content_type: str) -> None:
    try:
        assert_clean(read(body, content_type))
    except Refused:
        return


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["urls", "x"]), inner),
    )
)
def test_any_json_gives_clean_lists_or_is_refused(value: object) -> None:
    try:
        assert_clean(read(json.dumps(value)))
    except Refused:
        return


@given(st.lists(st.none() | st.text()))
def test_any_texts_are_accepted_without_blanks_and_repeats(
    entries: list[str | None],
) -> None:
    expected = list(dict.fromkeys(entry.strip() for entry in entries if entry and entry.strip()))
    body = json.dumps(entries).encode()
    if expected:
        (order,) = read_orders(body, "", max_urls=999, max_lists=1)
        assert order.items == expected
    else:
        assert "there is no url" in refusal(body)
