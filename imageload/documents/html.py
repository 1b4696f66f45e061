"""Images in HTML and XML: every element and attribute that shows one.

An `<img>` is one image, however many addresses it has: `src`, each candidate of `srcset`, lazy
attributes. So is a `<picture>` with all its sources. The largest of them is taken: by width, then
by density; a lazy attribute is larger than `src`, which is a placeholder beside it. When it lands,
its link is written in all these places, a whole srcset becomes that one link.

Relative URLs are resolved with the first `<base href>`, which itself may be relative to the base of
the document. `<pre>`, comments, scripts (but JSON-LD) and text of raw elements are left alone.
"""

from __future__ import annotations

import html
import re
from html.entities import html5
from typing import NamedTuple

from imageload.documents import css, jsontext, named, srcset
from imageload.documents import text as bare
from imageload.documents.found import Escape, Finds, Found, Part, decoded, plain
from imageload.documents.html_elements import (
    BACKGROUNDS,
    BOUND,
    COMPONENTS,
    ENDS_IMAGE,
    ICON,
    IMAGES,
    LAZY,
    META,
    OTHERS,
    SRCSETS,
    TYPED,
    WELL_KNOWN,
)
from imageload.documents.html_tokens import Attribute, Token, tokens
from imageload.documents.urls import absolute, is_image, is_other

_IS_XML = re.compile(r"\s*(?:<\?xml|<rss\b|<feed\b|<urlset\b|<rdf:RDF\b|<mediawiki\b)")
_TAG = re.compile(r"<[A-Za-z!]")
_ABSOLUTE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
_DEPTH = 3  # HTML in the text of a feed in the text of a feed


class Size(NamedTuple):
    """How large one address of an image is; sizes compare."""

    is_full: bool = False
    width: float = 0
    density: float = 1
    lazy: int = 0


def find(text: str, base: str = "", depth: int = 0) -> Finds:
    """The images of an HTML or XML document, or of a fragment."""
    reader = _Reader(text, base, _IS_XML.match(text) is not None, depth)
    for token in tokens(text, reader.is_xml):
        reader.read(token)
    reader.end()
    return reader.finds.in_order()


class _Addresses:
    """The addresses of one image, as they are read; put into `found` when the image is complete."""

    def __init__(self, found: list[Found]) -> None:
        self.is_picture = False
        self._found = found
        self._places: list[tuple[Size, Found]] = []

    def add(self, size: Size, place: Found) -> None:
        """Add one more address."""
        self._places.append((size, place))

    def end(self) -> None:
        """The image is complete: the largest of its addresses stands for all."""
        if self._places:
            # Of equal ones the last is taken: the `<img>` of a picture, which every browser reads.
            _, largest = max(reversed(self._places), key=lambda place: place[0])
            for _, place in self._places:
                self._found.append(
                    Found(largest.url, place.start, place.end, place.as_written, place.escapes)
                )
        self._places = []
        self.is_picture = False

    def separate(self) -> None:
        """Each address is an image of its own."""
        if self._places:
            self._found.extend(place for _, place in self._places)
            self._places = []


class _Reader:
    """Reads the tokens of one text and collects its images."""

    def __init__(self, text: str, base: str, is_xml: bool, depth: int) -> None:
        self.text = text
        self.base = base
        self.is_xml = is_xml
        self.depth = depth
        self.finds = Finds()
        self._has_base = False
        self._pre = 0
        self._image = _Addresses(self.finds.found)
        self._script = ""
        self._open = ["", ""]  # the last two start tags

    def read(self, token: Token) -> None:
        """Take one token."""
        if token.kind == "start":
            self._open = [self._open[-1], token.name]
            self._start(token)
        elif token.kind == "end":
            self._end(token)
        elif token.kind == "text":
            self._text(token)
        elif token.kind == "raw":
            self._raw(token)
        elif token.kind == "cdata":
            end = token.end - 3 if self.text.endswith("]]>", token.start, token.end) else token.end
            self._xml_text(plain(self.text, token.start + 9, end), None)
        elif token.kind == "comment":
            self._ignore(token, "In a comment.")
        elif "://" in (text := self.text[token.start : token.end]):
            self.finds.ignore(text, token.start, "A tag that never ends.")

    def end(self) -> None:
        """The text is read."""
        self._image.end()

    def _start(self, token: Token) -> None:
        if token.name == "pre":
            self._pre += 1
        elif self._pre:
            self._ignore(token, "In a <pre> element.")
            return
        if not token.attributes and token.name not in ENDS_IMAGE:
            self._script = ""
            return
        values = {each.name: each for each in reversed(token.attributes)}
        if token.name == "picture":
            self._image.end()
            self._image.is_picture = True
        elif token.name in IMAGES or token.name.endswith(COMPONENTS):
            self._image_element(values)
            self._image.end()
        elif token.name == "source":
            self._source(values)
        elif token.name == "base" and "href" in values and not self._has_base:
            url, _ = absolute(self._value(values["href"]).text, self.base)
            self._has_base, self.base = True, url or self.base
        else:
            self._script = self._word(values, "type") if token.name == "script" else ""
            self._other_element(token.name, values)
        self._any_element(token.name, values)
        if token.name not in WELL_KNOWN:
            self._component(token)

    def _component(self, token: Token) -> None:
        """Components, and vocabularies of XML: in any attribute a URL may end like an image.

        HTML in an attribute is text, such as that of a `title`.
        """
        tag = self.text[token.start + 1 : token.end]
        if "://" in tag and "<" not in tag:
            part = decoded(self.text, token.start, token.end, _REFERENCE, _in_text)
            self.finds.add(part.moved(bare.find(part.text), self.text, html.escape))

    def _end(self, token: Token) -> None:
        self._pre -= token.name == "pre" and self._pre > 0
        if token.name == "picture":
            self._image.end()
        self._open = ["", self._open[0]]

    def _image_element(self, values: dict[str, Attribute]) -> None:
        for name, value in values.items():
            if name in SRCSETS:
                self._srcset(value, int(name != "srcset"))
            elif name == "src" or name in LAZY:
                lazy = LAZY.get(name, 0)
                self._place(value, Size(is_full=lazy > 1, lazy=lazy))
            elif name in BOUND:
                part = self._value(value)
                self.finds.add(part.moved(bare.find(part.text), self.text, html.escape))

    def _source(self, values: dict[str, Attribute]) -> None:
        """A source of a picture, or of a film, which has no srcset."""
        for name in SRCSETS & values.keys():
            self._srcset(values[name], int(name != "srcset"))
        if not self._image.is_picture:
            self._image.end()

    def _other_element(self, name: str, values: dict[str, Attribute]) -> None:
        names: list[str] = [*OTHERS.get(name, ())]
        if name in TYPED and self._is_typed_image(name, values):
            names.append(TYPED[name])
        elif name == "link" and self._is_image_link(values):
            names.append("href")
            if "imagesrcset" in values:
                self._srcset(values["imagesrcset"], 0)
        elif name == "meta":
            key = self._word(values, "property") or self._word(values, "name")
            if META.fullmatch(key or self._word(values, "itemprop")):
                names.append("content")
        elif name in ("a", "link") and "href" in values:
            url, _ = absolute(self._value(values["href"]).text, self.base)
            if is_image(url) and name == "a":
                names.append("href")
        for each in names:
            if each in values:
                self._place(values[each], Size())
        if not self._image.is_picture:
            self._image.separate()

    def _any_element(self, name: str, values: dict[str, Attribute]) -> None:
        """Attributes that every element may have."""
        if "poster" in values and name not in OTHERS:
            self._place(values["poster"], Size())
            self._image.separate()
        if "style" in values:
            part = self._value(values["style"])
            finds = css.find(part.text, self.base)
            self.finds.add(part.moved(finds, self.text, html.escape))
        keys = [key for key in values if key.startswith("data-")]
        if keys and (name in IMAGES or name == "source"):
            keys = [key for key in keys if key not in LAZY and key not in SRCSETS]
        if not keys:
            return
        image, self._image = self._image, _Addresses(self.finds.found)
        for key in keys:
            if key in SRCSETS:
                self._srcset(values[key], 0)
            elif key in BACKGROUNDS or self._is_image_url(key, values[key]):
                self._place(values[key], Size())
        self._image.separate()
        self._image = image

    def _is_image_url(self, name: str, attribute: Attribute) -> bool:
        """Whether the value is the URL of an image, by its own looks or by its name."""
        text = self._value(attribute).text.strip()
        if "/" not in text or re.search(r"\s|^data:", text):
            return False
        return is_image(text) or (
            _ABSOLUTE.match(text) is not None
            and jsontext.names_image(name[5:])
            and not {"link", "href", "page"} & {*name.split("-")}
        )

    def _is_typed_image(self, name: str, values: dict[str, Attribute]) -> bool:
        kind = self._word(values, "type") or self._word(values, "medium")
        if kind:
            return kind.split("/")[0] == "image"
        attribute = values.get(TYPED[name])
        return name != "input" and attribute is not None and is_image(self._value(attribute).text)

    def _is_image_link(self, values: dict[str, Attribute]) -> bool:
        rel = self._word(values, "rel")
        is_preload = rel in ("preload", "prefetch") and self._word(values, "as") == "image"
        is_enclosure = rel == "enclosure" and self._word(values, "type").startswith("image/")
        return is_preload or is_enclosure or bool(ICON.search(rel))

    def _word(self, values: dict[str, Attribute], name: str) -> str:
        """A short attribute's value in lower case; empty if it is missing."""
        attribute = values.get(name)
        return self._value(attribute).text.strip().lower() if attribute else ""

    def _value(self, attribute: Attribute) -> Part:
        return decoded(self.text, attribute.start, attribute.end, _REFERENCE, _in_attribute)

    def _place(self, attribute: Attribute, size: Size) -> None:
        """Collect the address in this attribute."""
        part = self._value(attribute)
        url, why = absolute(part.text, self.base)
        if url and not is_other(url):
            found = Found(url, *_trimmed(part.text), "")
            moved = part.moved(Finds([found]), self.text, html.escape)
            self._image.add(size, moved.found[0])
        elif why:
            self.finds.ignore(part.text.strip(), attribute.start, why)

    def _srcset(self, attribute: Attribute, lazy: int) -> None:
        """Collect a srcset: its largest candidate stands for all of it."""
        part = self._value(attribute)
        sized: list[tuple[Size, str]] = []
        for each in srcset.candidates(part.text):
            url, why = absolute(part.text[each.start : each.end], self.base)
            if url:
                sized.append((Size(False, each.width, each.density, lazy), url))
            elif why:
                written = part.text[each.start : each.end]
                self.finds.ignore(written, part.span(each.start, each.end)[0], why)
        if sized:
            size, url = max(sized, key=lambda each: each[0])
            found = Found(url, *_trimmed(part.text), "")
            moved = part.moved(Finds([found]), self.text, html.escape)
            self._image.add(size, moved.found[0])

    def _text(self, token: Token) -> None:
        if self._pre:
            self._ignore(token, "In a <pre> element.")
            return
        if self.text.find("://", token.start, token.end) < 0:
            return
        part = decoded(self.text, token.start, token.end, _REFERENCE, _in_text)
        if self.is_xml:
            self._xml_text(part, _escape_text)
        else:
            self.finds.add(part.moved(named.find(part.text), self.text, _escape_text))

    def _xml_text(self, part: Part, escape: Escape | None) -> None:
        """Text of XML: it may be the URL of an image, by its element, or HTML, as in feeds."""
        outer, name = self._open
        url, _ = absolute(part.text, "")
        is_named = jsontext.names_image(outer if name in ("url", "href") else name)
        if url and is_named and not is_other(url) and not re.search(r"\s", part.text.strip()):
            finds = Finds([Found(url, *_trimmed(part.text), "")])
        elif _TAG.search(part.text) and self.depth < _DEPTH:
            finds = find(part.text, self.base, self.depth + 1)
        else:
            finds = bare.find(part.text)
        self.finds.add(part.moved(finds, self.text, escape))

    def _raw(self, token: Token) -> None:
        part = plain(self.text, token.start, token.end)
        if token.name == "style":
            self.finds.add(part.moved(css.find(part.text, self.base), self.text))
        elif token.name == "script" and self._script == "application/ld+json":
            self.finds.add(part.moved(jsontext.find(part.text, self.base), self.text))
        else:
            self._ignore(token, f"In a <{token.name}> element.")

    def _ignore(self, token: Token, why: str) -> None:
        text = self.text[token.start : token.end]
        self.finds.add(bare.ignored(text, token.start, why))


# Character references. In an attribute, one without its semicolon is text if it goes on.
_REFERENCE = re.compile(r"&(?:#[0-9]{1,9};?|#[xX][0-9A-Fa-f]{1,8};?|[A-Za-z][A-Za-z0-9]{1,31};?)")


def _in_text(match: re.Match[str]) -> str:
    return html.unescape(match[0])


def _in_attribute(match: re.Match[str]) -> str:
    name = match[0][1:]
    if name[0] == "#" or name.endswith(";"):
        return html.unescape(match[0])
    follows = match.string[match.end() : match.end() + 1]
    return match[0] if follows == "=" or follows.isalnum() else html5.get(name, match[0])


def _escape_text(link: str) -> str:
    """A link in text of HTML."""
    return html.escape(link, quote=False)


def _trimmed(text: str) -> tuple[int, int]:
    """The span of the text without the white space around it."""
    start = len(text) - len(text.lstrip(" \t\r\n\f\x00"))
    return start, max(start, len(text.rstrip(" \t\r\n\f\x00")))
