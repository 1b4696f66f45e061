"""Images in BBCode: `[img]`, with HTML beside it, as forums have it.

A tag's content goes to the next closing tag, as in phpBB, vBulletin and XenForo. Text of `[code]`
and its kin is left alone.
"""

from __future__ import annotations

import html as escapes
import re
from collections.abc import Iterator
from typing import NamedTuple

from imageload.documents import html
from imageload.documents import text as bare
from imageload.documents.found import Finds, Found, decoded, masked
from imageload.documents.jsontext import json_escape, json_escape_slashes
from imageload.documents.urls import absolute, is_image

IMAGE_TAGS = {"img", "timg", "thumb", "thumbnail", "image", "simg", "imgl", "imgr", "limg", "rimg"}
CODE_TAGS = {"code", "noparse", "nobbc", "plain", "pre", "icode", "php", "html", "css", "c", "tt"}

_QUOTED = r"""="[^"\[\n]{0,500}+"(?=[ \]])|='[^'\[\n]{0,500}+'(?=[ \]])"""
_TAG = re.compile(
    rf"\[(/?)([A-Za-z]{{1,12}}2?)((?:(?=[ =:])(?:{_QUOTED}|[^\[\]\n]){{1,8000}}+)?)\]"
)
_UID = re.compile(r":[0-9a-z]{5,10}")  # of phpBB's database: `[img:1a2b3c4d]`
_SOURCE = re.compile(r"""\\?"src\\?"\s*:\s*\\?"((?:[^"\\\n]|\\{1,3}/){1,8000})\\?\"""")
_SLASH = re.compile(r"\\+/")
_ARGUMENT = re.compile(r"""=\s*(?:"([^"\n]*)"|'([^'\n]*)'|([^\s\]]+))""")
# phpBB writes `:` and `.` of URLs as references too.
_ENTITY = re.compile(r"&(?:amp|#0*38|#x0*26|quot|#0*39|#0*46|#0*58|lt|gt);", re.IGNORECASE)


class _Tag(NamedTuple):
    start: int
    end: int
    is_end: bool
    name: str
    arguments: tuple[int, int]


def find(text: str, base: str = "") -> Finds:
    """The images of a text with BBCode, and with HTML beside it."""
    finds = Finds()
    seen: list[tuple[int, int]] = []
    tags = list(_tags(text))
    ends = _ends(tags)
    at = 0
    for index, tag in enumerate(tags):
        if tag.is_end or tag.start < at:
            continue
        end = tags[ends[index]] if ends[index] >= 0 else None
        if tag.name in CODE_TAGS and end:
            finds.add(bare.ignored(text[tag.end : end.start], tag.end, f"In [{tag.name}]."))
            seen.append((tag.end, end.start))
            at = end.start
        elif tag.name in IMAGE_TAGS:
            spans = [tag.arguments] if not end else [(tag.end, end.start), tag.arguments]
            if any(_take(finds, text, span, base, is_marked=True) for span in spans):
                seen.append((tag.start, end.start if end else tag.end))
                at = end.start if end else tag.end
        elif tag.name == "img2" and end:
            seen += _take_json(finds, text, (tag.end, end.start), base)
            at = end.start
        elif tag.name == "url":
            span = _without_uid(text, tag.arguments, end)
            if _take(finds, text, span, base, is_marked=False):
                seen.append(span)
    finds.add(html.find(masked(text, seen), base))
    return finds.in_order()


def _without_uid(text: str, span: tuple[int, int], end: _Tag | None) -> tuple[int, int]:
    """The arguments of `[url=URL:1a2b3c4d]`, which ends with `[/url:1a2b3c4d]`, without its uid."""
    uid = text[slice(*end.arguments)] if end else ""
    if _UID.fullmatch(uid) and text.endswith(uid, *span):
        return span[0], span[1] - len(uid)
    return span


def _tags(text: str) -> Iterator[_Tag]:
    for tag in _TAG.finditer(text):
        yield _Tag(*tag.span(), bool(tag[1]), tag[2].lower(), tag.span(3))


def _ends(tags: list[_Tag]) -> list[int]:
    """For each tag the index of the closing tag of its name, or -1."""
    following: dict[str, int] = {}
    ends = [-1] * len(tags)
    for index in range(len(tags) - 1, -1, -1):
        ends[index] = following.get(tags[index].name, -1)
        if tags[index].is_end:
            following[tags[index].name] = index
        elif tags[index].name in IMAGE_TAGS:  # one is never in another
            following.pop(tags[index].name, None)
    return ends


def _take(finds: Finds, text: str, span: tuple[int, int], base: str, *, is_marked: bool) -> bool:
    """Take the URL of this span: a tag's content or its arguments. Whether it is dealt with."""
    start, end = span
    if text[start : start + 1] in ("=", " ", ":"):
        argument = next(
            (each for each in _ARGUMENT.finditer(text, start, end) if _is_url(each)), None
        )
        if not argument:
            return False
        start, end = argument.span(argument.lastindex or 0)
    while start < end and text[start] in " \t\r\n\"'":
        start += 1
    while start < end and text[end - 1] in " \t\r\n\"'":
        end -= 1
    part = decoded(text, start, end, _ENTITY, lambda match: escapes.unescape(match[0]))
    if "[" in part.text or "<" in part.text or "\n" in part.text:
        return False
    url, why = absolute(part.text, base)
    if url and (is_marked or is_image(url)):
        found = Found(url, 0, len(part.text), "")
        escape = escapes.escape if "&amp;" in text[start:end] else bbcode
        finds.add(part.moved(Finds([found]), text, escape))
        return True
    if is_marked and why:
        finds.ignore(text[start:end], start, why)
    return is_marked and bool(why)


def _take_json(
    finds: Finds, text: str, span: tuple[int, int], base: str
) -> Iterator[tuple[int, int]]:
    """Take the image of vBulletin's `[img2=json]{"src":"URL"}`; its span, if there is one."""
    source = _SOURCE.search(text, *span)
    if not source:
        return
    start, end = source.span(1)
    part = decoded(text, start, end, _SLASH, lambda _: "/")
    url, why = absolute(part.text, base)
    if url:
        escape = json_escape_slashes if part.text != source[1] else json_escape
        finds.found.append(Found(url, start, end, source[1], (escape,)))
        yield start, end
    elif why:
        finds.ignore(source[1], start, why)


def _is_url(argument: re.Match[str]) -> bool:
    value = argument[argument.lastindex] if argument.lastindex else ""
    return "//" in value


def bbcode(link: str) -> str:
    """A link in a tag: without brackets, which would end it."""
    return re.sub(r"[\s\[\]\"']", lambda match: f"%{ord(match[0]):02X}", link)
