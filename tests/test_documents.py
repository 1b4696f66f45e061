"""Images in documents: the corpus of tests/documents, and the replacing of URLs by links.

Beside each document of the corpus stands `NAME.finds`: its kind, the URLs in their order, a line
for each place, and after `- ` each text that is ignored.
"""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt

import imageload.lists
from imageload.documents import lists
from imageload.documents.document import Document, read_document
from imageload.documents.finders import find_images, judged
from imageload.documents.found import Finds, Found
from imageload.documents.markdown_blocks import NESTING
from imageload.documents.urls import absolute, is_image

CORPUS = Path(__file__).parent / "documents"
LINK = "https://i.imgur.example/{}.jpg"


class Expected(NamedTuple):
    """A document of the corpus, and what stands in its `.finds`."""

    path: Path
    heads: dict[str, str]
    urls: list[str]
    ignored: list[str]

    def document(self) -> Document:
        said = self.heads.get("type")
        name = None if said else self.path.name
        return read_document(self.path.read_bytes(), said, name)

    def finds(self) -> Finds:
        return self.document().find(self.heads.get("base", ""), self.heads.get("column", ""))


def expected(path: Path) -> Expected:
    heads: dict[str, str] = {}
    text = path.read_text(encoding="utf-8")
    while head := re.match(r"# (\w+): (.*)\n", text):
        heads[head[1]] = head[2]
        text = text[head.end() :]
    entries = re.split(r"\n(?=- |https?://)", text.strip("\n"), flags=re.IGNORECASE)
    urls = [entry for entry in entries if not entry.startswith("- ")]
    ignored = [entry[2:] for entry in entries if entry.startswith("- ")]
    return Expected(path.with_suffix(""), heads, urls, ignored)


DOCUMENTS = [expected(path) for path in sorted(CORPUS.glob("*.finds"))]
of_the_corpus = pytest.mark.parametrize("each", DOCUMENTS, ids=lambda each: each.path.name)


def links_of(finds: Finds) -> dict[str, str]:
    """A link for each URL."""
    urls = dict.fromkeys(found.url for found in finds.found)
    return {url: LINK.format(number) for number, url in enumerate(urls)}


def test_the_corpus_has_sixty_documents_and_each_has_its_finds() -> None:
    files = {path.name for path in CORPUS.iterdir() if path.suffix != ".finds"}
    assert files - {".gitattributes"} == {each.path.name for each in DOCUMENTS}
    assert len(DOCUMENTS) >= 60


@of_the_corpus
def test_every_image_of_a_document_is_found_and_what_is_not_taken_is_named(each: Expected) -> None:
    finds = each.finds()
    assert each.document().kind == each.heads["kind"]
    assert [found.url for found in finds.found] == each.urls
    assert sorted(ignored.text for ignored in finds.ignored) == sorted(each.ignored)
    assert all(ignored.why for ignored in finds.ignored)


@of_the_corpus
def test_a_place_is_the_source_as_it_is_written(each: Expected) -> None:
    text = each.document().text
    for found in each.finds().found:
        assert text[found.start : found.end] == found.as_written


@of_the_corpus
def test_without_links_a_document_keeps_every_byte(each: Expected) -> None:
    assert each.document().replaced(each.finds(), {}) == each.path.read_bytes()


@of_the_corpus
def test_links_are_found_where_urls_were_and_all_else_is_the_same(each: Expected) -> None:
    document, finds = each.document(), each.finds()
    if finds.cells:
        return  # a table keeps its URLs: see below
    links = links_of(finds)
    data = document.replaced(finds, links)
    assert document.replaced(finds, {found.url: found.url for found in finds.found}) == (
        each.path.read_bytes()
    )
    after = read_document(data, each.heads.get("type"), each.path.name)
    places = find_images(after.text, document.kind, each.heads.get("base", "")).found
    assert [place.url for place in places] == [links[found.url] for found in finds.found]
    restored = [Found(f"{n}", place.start, place.end, "") for n, place in enumerate(places)]
    pieces, at = [], 0
    for place, found in zip(restored, finds.found, strict=True):
        pieces += [after.text[at : place.start], found.as_written]
        at = place.end
    assert "".join([*pieces, after.text[at:]]) == document.text


# Markdown beside its reference


class Rendered(HTMLParser):
    """The images that a rendered document shows: in `<img>`, in links and in text."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.urls: set[str] = set()
        self.code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        tag = "img" if tag == "image" else tag  # as the HTML standard reads it
        self.code += tag in ("pre", "code")
        values = dict(attrs)
        url, _ = absolute(values.get({"img": "src", "a": "href"}.get(tag, "-")) or "", self.base)
        if url and not self.code and (tag == "img" or is_image(url)):
            self.urls.add(url)

    def handle_endtag(self, tag: str) -> None:
        self.code -= tag in ("pre", "code")

    def handle_data(self, data: str) -> None:
        if not self.code:
            self.urls |= {found.url for found in find_images(data, "text").found}


# Their code and their images are not CommonMark's.
DIALECTS = {"markdown-docusaurus.mdx", "markdown-jekyll.md", "markdown-shortcodes.md"}
NOT_RENDERED = {
    "markdown-reference.md": {"https://a.example/unused.gif"},  # a definition that nobody uses
}


@pytest.mark.parametrize(
    "each",
    [
        each
        for each in DOCUMENTS
        if each.heads["kind"] == "markdown" and each.path.name not in DIALECTS
    ],
    ids=lambda each: each.path.name,
)
def test_the_images_of_markdown_are_those_that_markdown_it_renders(each: Expected) -> None:
    reference = MarkdownIt("commonmark", {"maxNesting": NESTING}).enable("table")
    page = Rendered(each.heads.get("base", ""))
    page.feed(reference.render(each.document().text.lstrip("\ufeff")))
    page.close()
    normal = reference.normalizeLink
    found = {normal(found.url) for found in each.finds().found}
    assert found - NOT_RENDERED.get(each.path.name, set()) == {normal(url) for url in page.urls}


# Writing


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("html", '<img src="http://a.e/b">', '<img src="https://l.e/a?x=1&amp;y=%22">'),
        ("html", "<img src=http://a.e/b>", "<img src=https://l.e/a?x=1&amp;y=%22>"),
        ("html", "<p>http://a.e/b.png</p>", "<p>https://l.e/a?x=1&amp;y=%22</p>"),
        ("json", r'["http:\/\/a.e\/b.png"]', r'["https:\/\/l.e\/a?x=1&y=%22"]'),
        ("markdown", "![](http://a.e/b 'c')", "![](https://l.e/a?x=1&y=%22 'c')"),
        ("bbcode", "[img]http://a.e/b[/img]", "[img]https://l.e/a?x=1&y=%22[/img]"),
        ("bbcode", "[img]http://a.e/b?a&amp;b[/img]", "[img]https://l.e/a?x=1&amp;y=%22[/img]"),
        ("list", "<http://a.e/b>", "<https://l.e/a?x=1&y=%22>"),
        (
            "json",
            r'{"html": "<img src=\"http:\/\/a.e\/b?c&amp;d\">"}',
            r'{"html": "<img src=\"https:\/\/l.e\/a?x=1&amp;y=%22\">"}',
        ),
    ],
)
def test_a_link_is_written_in_the_escaping_of_its_place(kind: str, before: str, after: str) -> None:
    document = Document(before, kind)
    finds = document.find()
    links = dict.fromkeys((found.url for found in finds.found), "https://l.e/a?x=1&y=%22")
    assert len(links) == 1
    assert document.replaced(finds, links) == after.encode()


def test_a_link_with_brackets_stays_one_destination() -> None:
    link = "https://l.e/(a)|b.png"
    for text in ("![](http://a.e/b)", "![](<http://a.e/b>)", "| ![](http://a.e/b) |\n|-|\n"):
        document = Document(text, "markdown")
        replaced = document.replaced(document.find(), {"http://a.e/b": link}).decode()
        (found,) = Document(replaced, "markdown").find().found
        assert found.url == "https://l.e/%28a%29%7Cb.png"


def test_a_url_is_never_replaced_as_the_beginning_of_another() -> None:
    text = "http://a.e/b.png http://a.e/b.png?c http://a.e/b.png/d http://a.e/b.pngs"
    document = Document(text, "text")
    replaced = document.replaced(document.find(), {"http://a.e/b.png": "L"}).decode()
    assert replaced == text.replace("http://a.e/b.png ", "L ")


def test_what_has_no_link_keeps_its_url() -> None:
    text = "![](http://a.e/1) ![](http://a.e/2) ![](http://a.e/1)"
    document = Document(text, "markdown")
    replaced = document.replaced(document.find(), {"http://a.e/1": "https://l.e/1"}).decode()
    assert replaced == "![](https://l.e/1) ![](http://a.e/2) ![](https://l.e/1)"


def test_a_string_of_php_keeps_its_length_behind_an_opening_that_has_no_end() -> None:
    text = """s:5:\\" s:18:"http://a.e/php.png"; http://a.e/1.png"""
    document = Document(text, "text")
    links = {"http://a.e/php.png": "L", "http://a.e/1.png": "L"}
    replaced = document.replaced(document.find(), links).decode()
    assert replaced == text.replace("http://a.e/1.png", "L")


def test_a_line_is_counted_with_every_line_end() -> None:
    document = Document("a\r\nb\rc\nd", "text")
    lines = [document.line(document.text.index(letter)) for letter in "abcd"]
    assert lines == [1, 2, 3, 4]


# Tables


def test_a_table_keeps_its_columns_and_gets_link_and_error() -> None:
    text = (
        "sku,image,html\r\n"
        '1,http://a.e/1.png,"<img src=""http://a.e/2"">"\r\n'
        '"2","http://a.e/3,4.png",\r\n'
        "3,,x\r\n"
    )
    document = Document(text, "csv")
    replaced = document.replaced(
        document.find(),
        {"http://a.e/1.png": "https://l.e/1", "http://a.e/2": "https://l.e/2"},
        {"http://a.e/3,4.png": 'No "image", a page.'},
    ).decode()
    assert replaced == (
        "sku,image,link,error,html\r\n"
        '1,http://a.e/1.png,https://l.e/1,,"<img src=""https://l.e/2"">"\r\n'
        '"2","http://a.e/3,4.png",,"No ""image"", a page.",\r\n'
        "3,,,,x\r\n"
    )


def test_two_columns_of_urls_get_columns_of_their_own_name() -> None:
    text = "front;back\nhttp://a.e/1.png;http://a.e/2.png\n"
    document = Document(text, "csv")
    replaced = document.replaced(document.find(), {"http://a.e/2.png": "https://l.e/2"})
    rows = list(csv.reader(replaced.decode().splitlines(), delimiter=";"))
    assert rows == [
        ["front", "front_link", "front_error", "back", "back_link", "back_error"],
        ["http://a.e/1.png", "", "", "http://a.e/2.png", "https://l.e/2", ""],
    ]


def test_several_urls_of_a_cell_are_links_in_the_same_form() -> None:
    text = 'a,images\n1,"http://a.e/1.png, http://a.e/2.png"\n'
    document = Document(text, "csv")
    links = {"http://a.e/1.png": "https://l.e/1", "http://a.e/2.png": "https://l.e/2"}
    replaced = document.replaced(document.find(), links).decode()
    assert list(csv.reader(replaced.splitlines()))[1][2] == "https://l.e/1, https://l.e/2"


LINK_BASE = "https://l.e/"


@pytest.mark.parametrize(
    "before",
    [
        "sku,image,price\n1,http://a.e/1.png,5\n2,http://a.e/2.png,6\n",
        "sku;front;back\n1;http://a.e/1.png;http://a.e/2.png\n2;;http://a.e/1.png\n",
        "1,http://a.e/1.png,5\n2,http://a.e/2.png,6\n",
        'sku,images\n1,"http://a.e/1.png, http://a.e/2.png"\n',
        "sku,image\n1,https://l.e/9.png\n2,http://a.e/2.png\n",
    ],
    ids=["one", "two", "no-heading", "several-in-a-cell", "with-a-link"],
)
def test_a_table_that_has_its_links_is_done(before: str) -> None:
    document = Document(before, "csv")
    finds = document.find(link_base=LINK_BASE)
    links = {each.url: LINK_BASE + each.url[-5:] for each in finds.found}
    done = Document(document.replaced(finds, links).decode(), "csv")
    assert done.text != before
    again = done.find(link_base=LINK_BASE)
    assert [each for each in again.found if not each.url.startswith(LINK_BASE)] == []
    assert done.replaced(again, {each.url: each.url for each in again.found}).decode() == done.text


def test_a_row_that_failed_or_is_new_gets_its_link_into_the_columns_that_are_there() -> None:
    text = (
        "sku,image,link,error,price\n"
        "1,http://a.e/1.png,https://l.e/1,,5\n"
        '2,http://a.e/2.png,,"Gone, it is.",6\n'
        "3,http://a.e/3.png,,,7\n"
        "4,http://a.e/4.png\n"
    )
    document = Document(text, "csv")
    finds = document.find(link_base=LINK_BASE)
    urls = [f"http://a.e/{number}.png" for number in (2, 3, 4)]
    assert [each.url for each in finds.found] == urls
    assert document.replaced(finds, {}).decode() == text
    links = {urls[0]: "https://l.e/2", urls[2]: "https://l.e/4"}
    assert document.replaced(finds, links, {urls[1]: "No."}).decode() == (
        "sku,image,link,error,price\n"
        "1,http://a.e/1.png,https://l.e/1,,5\n"
        "2,http://a.e/2.png,https://l.e/2,,6\n"
        "3,http://a.e/3.png,,No.,7\n"
        "4,http://a.e/4.png,https://l.e/4,\n"
    )


def test_a_column_named_link_that_has_something_else_stays() -> None:
    text = "image,link,error\nhttp://a.e/1.png,https://shop.e/1,\n"
    document = Document(text, "csv")
    finds = document.find(link_base=LINK_BASE)
    replaced = document.replaced(finds, {"http://a.e/1.png": "https://l.e/1"}).decode()
    assert replaced.splitlines()[1] == "http://a.e/1.png,https://l.e/1,,https://shop.e/1,"


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    finds = Document("a,b\n1,http://a.e/1.png\n", "csv").find(column="c")
    assert not finds.found
    assert finds.ignored[0].why == "There is no column of this name; there are: a, b."


def test_a_quote_that_is_never_closed_loses_no_image_unseen() -> None:
    text = 'id,image\n1,http://a.e/1.png\n2,"http://a.e/2.png\n3,http://a.e/3.png\n'
    finds = Document(text, "csv").find()
    seen = [found.url for found in finds.found] + [ignored.text for ignored in finds.ignored]
    assert [number for number in "123" if f"http://a.e/{number}.png" in "\n".join(seen)] == [*"123"]


# Lists


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("https://a.example/1\nno-url\nftp://b.example/2.png\n", "list"),
        ("https://a.example/1, https://a.example/2\nno-url", "list"),
        ("https://a.example/1\nTwo words", "text"),
        ("https://a.example/1\n(see", "text"),
        ("no-url\nneither", "text"),
    ],
)
def test_a_list_may_have_words_among_its_urls(text: str, kind: str) -> None:
    assert read_document(text.encode(), "").kind == kind


def test_a_list_is_split_as_the_service_splits_it() -> None:
    for text in (
        "https://a.e/1\nhttps://a.e/2\r\n\nhttps://a.e/1",
        " https://a.e/1, https://a.e/2,https://a.e/3,\n",
        "https://a.e/x,y.jpg,,HTTP://A.E/2 ,\tftp://a.e/3",
        "foo\nhttps://a.e/a b.png\n\ufeff",
        ",,\n \n",
    ):
        assert lists.split_list(text) == imageload.lists.split_list(text.replace("\ufeff", ""))


# Kinds and encodings


@pytest.mark.parametrize(
    ("content_type", "name", "kind"),
    [
        ("text/markdown; charset=utf-8", "a.html", "markdown"),
        ("application/vnd.api+json", None, "json"),
        ("application/atom+xml", None, "html"),
        ("text/plain", "README.md", "markdown"),
        ("text/plain", None, "text"),
        ("application/x-www-form-urlencoded", None, "markdown"),
        (None, "page.HTM", "html"),
        (None, None, "markdown"),
    ],
)
def test_a_kind_is_what_the_client_says_then_the_name_then_the_text(
    content_type: str | None, name: str | None, kind: str
) -> None:
    assert read_document(b"![a](http://a.e/b) x", content_type, name).kind == kind


@of_the_corpus
def test_a_text_without_a_type_and_a_name_has_the_same_images(each: Expected) -> None:
    if each.path.name in {"csv-named-column.csv", "list-faults.urls"}:
        return  # only their type says what they are
    text = each.document().text
    finds = find_images(text, judged(text), each.heads.get("base", ""))
    assert [found.url for found in finds.found] == each.urls


@pytest.mark.parametrize(
    ("encoding", "letters"),
    [
        ("utf-8", "\u00e9\u4e2d"),
        ("utf-16", "\u00e9\u4e2d"),
        ("utf-32", "\u00e9\u4e2d"),
        ("latin-1", "\u00e9\u00e8"),
        ("shift_jis", "\u4e2d\u6587"),
        ("gb18030", "\u4e2d\u6587"),
        ("koi8-r", "\u0444\u043e\u0442\u043e"),
    ],
)
def test_an_encoding_survives(encoding: str, letters: str) -> None:
    text = f"{letters} http://a.e/b.png {letters}\r\n"
    data = text.encode(encoding)
    document = read_document(data, f"text/plain; charset={encoding}")
    replaced = document.replaced(document.find(), {"http://a.e/b.png": "https://l.e/b"})
    assert replaced.decode(encoding) == text.replace("http://a.e/b.png", "https://l.e/b")


def test_bytes_that_are_no_text_survive() -> None:
    data = b"\xff\xfea\x00\x00\xd8" + "http://a.e/b.png".encode("utf-16-le") + b"x"
    document = read_document(data)
    (found,) = document.find().found
    assert found.url == "http://a.e/b.png"
    assert document.replaced(document.find(), {}) == data
