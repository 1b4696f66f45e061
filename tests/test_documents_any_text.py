"""Whatever the text is: no exception, no lost byte, and work that grows with its length alone."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageload.documents.document import Document, read_document
from imageload.documents.finders import find_images, judged
from imageload.documents.found import replace
from imageload.documents.kinds import KINDS
from imageload.documents.lists import split_list
from imageload.documents.tables import records
from tests.hostile_documents import UNITS, hostile

EXAMPLES = 40
texts = st.lists(st.sampled_from(UNITS) | st.text(max_size=8), max_size=30).map("".join)
kinds = st.sampled_from([*KINDS])


@settings(max_examples=EXAMPLES, deadline=None)
@given(texts, kinds, st.sampled_from(["", "http://b.e/x/"]))
def test_no_text_raises_and_a_url_replaced_by_itself_changes_nothing(
    text: str, kind: str, base: str
) -> None:
    for each in {kind, judged(text)}:
        document = Document(text, each)
        finds = document.find(base)
        at = 0
        for found in finds.found:
            assert at <= found.start < found.end <= len(text)
            assert text[found.start : found.end] == found.as_written
            at = found.end
        for ignored in finds.ignored:
            assert 0 <= ignored.start <= len(text)
            assert document.line(ignored.start) >= 1
        if not finds.cells:
            same = {found.url: found.url for found in finds.found}
            assert replace(text, finds, same) == text
        assert replace(text, finds, {}) == text


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.binary(max_size=60) | texts.map(lambda text: text.encode("utf-16", "surrogatepass")),
    st.sampled_from(
        [None, "text/html; charset=utf-8", "text/csv; charset=shift_jis", "a/b;charset=x"]
    ),
)
def test_no_bytes_raise_and_none_is_lost(data: bytes, content_type: str | None) -> None:
    document = read_document(data, content_type)
    assert document.replaced(document.find(), {}) == data


FORMS = {
    "markdown": [
        *("![a](URL)", "[![a](URL)](https://p.e/)", "> ![q](<URL> 't')\n", "\n\n- ![l](URL)\n"),
        *("<img src='URL'>", "words `code` **bold**", "\n\n| a |\n|---|\n| ![c](URL) |\n\n"),
    ],
    "html": [
        *('<img src="URL">', "<p style='background:url(URL)'>", "<picture><img src=URL></picture>"),
        *(
            "<img srcset='URL'>",
            "<!-- x -->",
            "<pre> x </pre>",
            "<a href='https://p.e/'>text</a>",
        ),
    ],
    "bbcode": ["[img]URL[/img]", "[url=https://p.e/][img]URL[/img][/url]", "[b]x[/b]", "\n"],
    "json": ['{"image": "URL"}\n', '["URL", 1, null]\n', '{"html": "<img src=\\"URL\\">"}\n'],
    "text": ["see URL, and", "\uff08URL\uff09", "\u300cURL\u300d", "\n", "(URL)."],
    "list": ["URL\n", "URL, ", "<URL>\n", "# comment\n", "\n"],
    "org": ["[[URL]] ", "[[https://p.e/][URL]]\n", "text\n", "#+begin_src\ncode\n#+end_src\n"],
    "asciidoc": ["image::URL[a]\n", "text image:URL[b] text\n", "----\ncode\n----\n"],
    "wiki": ["{{URL|t}} ", "!URL! ", "[URL x]\n", "<nowiki>x</nowiki>\n"],
}


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data(), st.sampled_from(sorted(FORMS)))
def test_replacing_by_links_and_back_gives_the_original(data: st.DataObject, kind: str) -> None:
    forms = data.draw(st.lists(st.sampled_from(FORMS[kind]), max_size=12))
    parts = [form.replace("URL", f"https://a.e/{n}.png") for n, form in enumerate(forms)]
    text = " ".join(parts) if kind in ("text", "wiki", "markdown") else "".join(parts)
    urls = [f"https://a.e/{n}.png" for n, form in enumerate(forms) if "URL" in form]
    document = Document(text, kind)
    finds = document.find()
    assert [found.url for found in finds.found] == urls
    links = {url: f"https://i.imgur.e/x_{n}(1).jpg" for n, url in enumerate(urls)}
    after = Document(document.replaced(finds, links).decode(), kind)
    places = after.find()
    back = {place.url: url for place, url in zip(places.found, urls, strict=True)}
    assert after.replaced(places, back).decode() == text


cells = st.text(st.sampled_from('ab,;"\t \n|\u00e9'), max_size=6)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.lists(cells, min_size=2, max_size=4), min_size=1, max_size=5))
def test_the_cells_of_a_table_are_those_that_the_csv_module_reads(rows: list[list[str]]) -> None:
    lines: list[str] = []
    writer = csv.writer(_Lines(lines))
    writer.writerows(rows)
    text = "".join(lines)
    read = [
        [
            text[cell.start : cell.end].replace('""', '"')
            if cell.is_quoted
            else text[cell.start : cell.end]
            for cell in row
        ]
        for row in records(text, ",")
    ]
    assert read == list(csv.reader(lines))


class _Lines:
    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def write(self, line: str) -> None:
        self.lines.append(line)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.integers(0, 99).map("https://a.e/{},x.png".format), max_size=9), st.data())
def test_a_list_gives_every_url_once_whatever_separates_them(
    urls: list[str], data: st.DataObject
) -> None:
    separators = st.sampled_from(["\n", "\r\n", ",", ", ", " ", "\t", ";", " | ", ",,", "\n# c\n"])
    text = "".join(url + data.draw(separators) for url in urls)
    assert split_list(text) == urls


# Work


def lines_run(text: str, kind: str) -> int:
    """The lines of Python that the finder runs."""
    count = 0

    def trace(_frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        find_images(text, kind)
    finally:
        sys.settrace(before)
    return count


WORST = [
    *("![", "[a](b", "![a][", "<img ", "<!--", "<style>", "http://a.e/(", "http://a.e/a,", "[img]"),
    *("* [a\n", "> [", "- [", "|a|[b|\n|-|-|\n", "1. a\n", "#\n"),
    *('"a', '{"a":', "a,http://a.e/b.png\n", "{{http://", "image::", "----\n-----\n", ")", "[["),
    *("[[a](b)", "![a](b", "<b>\n", "</p>", "%%", "|", ", ", ",", "[a]: <", "``a`", "#+html:\n"),
    *("<p a>", "<img src=a>", "<p style='url(a)'>"),
]
MOST_LINES = 20
"""Of Python for each character, in our own code; a second of CPU time runs some 20 million."""
MOST_LINES_OF_BLOCKS = 130
"""Of markdown-it, whose steps are bounded, for each character of lines of one or two."""


@pytest.mark.parametrize("kind", KINDS)
def test_twice_the_text_is_twice_the_work_and_none_is_much(kind: str) -> None:
    for unit in WORST:
        single, double = (lines_run(hostile(unit, size), kind) for size in (300, 600))
        assert double < 2.5 * single + 500, unit
        has_blocks = kind == "markdown" and ("\n" in unit or unit[1:] == " [")
        most = MOST_LINES_OF_BLOCKS if has_blocks else MOST_LINES
        assert double - single < 300 * most, unit


def large() -> Iterator[tuple[str, str, int]]:
    """A kind, a large document, and the number of its images."""
    yield "markdown", "![" * 20_000, 0
    yield "markdown", "http://a.e/b.png" + ")" * 100_000, 1
    yield "markdown", ">" * 100_000 + "![](http://a.e/b.png)", 0  # nested too deeply: ignored
    yield "html", "<img " * 20_000, 0
    yield "html", "<img srcset='" + "http://a.e/b.png 2x, " * 5_000 + "'>", 1
    yield "html", "<div>" * 20_000 + "<img src=http://a.e/b>", 1
    yield "json", "[" * 100_000 + '"http://a.e/b.png"' + "]" * 100_000, 1
    yield "csv", 'a,b\n1,"' + "x" * 1_000_000 + " http://a.e/b.png", 1
    yield "text", "http://a.e/b.png" + ")" * 100_000, 1
    yield "list", "http://a.e/b" + "," * 20_000, 1


@pytest.mark.parametrize(("kind", "text", "count"), [*large()], ids=lambda each: str(each)[:9])
def test_a_large_and_hostile_document_is_read(kind: str, text: str, count: int) -> None:
    assert len(find_images(text, kind).found) == count


def test_an_image_that_is_nested_too_deeply_is_named_as_ignored() -> None:
    finds = find_images(">" * 1_000 + "![](http://a.e/b.png)", "markdown")
    assert [ignored.text for ignored in finds.ignored] == ["http://a.e/b.png"]


def test_images_between_brackets_that_never_close_are_found() -> None:
    text = "![a][" * 1_000 + " http://a.e/b.png ![c](http://a.e/c)"
    finds = find_images(text, "markdown")
    assert [found.url for found in finds.found] == ["http://a.e/b.png", "http://a.e/c"]
    assert finds.ignored == []


TANGLED = {
    "lists of letters": "* a\n" * 10_000,
    "lines that all quotes are asked about": "> " * 90 + "a\n" + "b\n" * 1_000,
    "a table with short rows": "|a" * 200 + "|\n" + "|-" * 200 + "|\n" + "|a\n" * 250,
}


@pytest.mark.parametrize("text", TANGLED.values(), ids=TANGLED.keys())
def test_a_text_with_too_many_blocks_is_named_as_ignored_and_its_image_urls_are_found(
    text: str,
) -> None:
    finds = find_images(f"{text}\n![c](http://a.e/c) http://a.e/b.png", "markdown")
    assert [found.url for found in finds.found] == ["http://a.e/b.png"]
    assert finds.ignored[0].why == "Too many lists, quotes or cells to read."


@pytest.mark.parametrize(
    ("kind", "text"),
    [("csv", "[a]: //b,c\n" * 5_000), ("json", '"<b/>",' * 7_000)],
    ids=["cells", "strings"],
)
def test_many_texts_in_cells_or_strings_are_named_as_ignored_and_their_image_urls_are_found(
    kind: str, text: str
) -> None:
    finds = find_images(f'{text}"<b> http://a.e/b.png"\n', kind)
    assert [found.url for found in finds.found] == ["http://a.e/b.png"]
    assert finds.ignored[-1].why == "Too many texts in cells or strings to read."


def test_messages_that_are_each_an_image_of_markdown_are_read() -> None:
    message = '{{"id": {}, "text": "![](https://a.example/{})"}}\n'
    messages = "".join(message.format(n, n) for n in range(6_000))
    assert len(find_images(messages, "json").found) == 6_000


def test_a_long_document_of_prose_lists_and_tables_is_read() -> None:
    pages = sorted((Path(__file__).parent.parent / "docs").rglob("*.md"))
    text = "\n\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert len(text) > 150_000
    whys = {ignored.why for ignored in find_images(f"{text}\n<img>", "markdown").ignored}
    assert not any("Too many" in why for why in whys)
