"""Rules for markdown-it-py that note where in the source a destination stands.

markdown-it's own rules for links and images give the URL and forget its place. These read the same
grammar with markdown-it's functions for labels, destinations and titles, and two forms more:
`![[URL]]` of Obsidian, and `![](URL =100x50)` with a size.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from markdown_it.common.utils import normalizeReference
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

_BRACKETED = re.compile(r"<(?:[^<>\n\\]++|\\.)*+>", re.DOTALL)
# Of a destination, up to a bracket or its end.
_RUN = re.compile(r"(?:[^\x00-\x20\x7f\\()]++|\\[^ ]|\\\Z)++")
_MOST_LEVELS = 32
_GAP = re.compile(r"[ \t\n]*")
_SIZE = re.compile(r"[ \t]+=[0-9]{0,6}%?x?[0-9]{0,6}%?[ \t]*(?=\))")
_EMBED = re.compile(r"!\[\[([^\[\]\n|#]{1,8000})(?:[#|][^\[\]\n]{0,1000})?\]\]")


class Span(NamedTuple):
    """A span of a text."""

    start: int
    end: int


def destination_end(source: str, at: int, stop: int) -> int:
    """Where the destination that begins here ends; -1 if none does.

    As markdown-it's `parseLinkDestination`, which reads character by character: of `[a](` without
    an end it reads 160 of them, again and again.
    """
    if source.startswith("<", at, stop):
        bracketed = _BRACKETED.match(source, at, stop)
        return bracketed.end() if bracketed else -1
    begin, level = at, 0
    while True:
        run = _RUN.match(source, at, stop)
        at = run.end() if run else at
        mark = source[at] if at < stop else ""
        if mark not in ("(", ")") or (mark == ")" and not level):
            return at if at > begin and not level else -1
        level += 1 if mark == "(" else -1
        if level > _MOST_LEVELS:
            return -1
        at += 1


def destination_of_reference(state: StateBlock, first: int) -> Span | None:
    """Where the URL of the definition that begins in this line stands in the source."""
    lines = range(first, max(first + 1, state.line))
    starts = [state.bMarks[line] + state.tShift[line] for line in lines]
    string = "".join(
        state.src[at : state.eMarks[line] + 1] for at, line in zip(starts, lines, strict=True)
    )
    end = re.compile(r"(?:\\.|[^\\\]])*\]:[ \t\n]*", re.DOTALL).match(string)
    if not end:
        return None
    after = destination_end(string, end.end(), len(string))
    before = string.count("\n", 0, end.end())
    column = end.end() - (string.rfind("\n", 0, end.end()) + 1)
    is_bracketed = string.startswith("<", end.end())
    start = starts[before] + column + is_bracketed
    length = after - end.end() - 2 * is_bracketed
    return Span(start, start + length) if after >= 0 else None


def noting(rule: Any) -> Any:
    """A rule of markdown-it that notes the span of the token that it adds."""

    def noting(state: StateInline, silent: bool) -> bool:
        start, count = state.pos, len(state.tokens)
        is_done: bool = rule(state, silent)
        if is_done and len(state.tokens) > count:
            token = state.tokens[-1]
            token.meta["whole"] = (start, state.pos)
            if token.type == "link_close":  # an autolink
                token.meta["destination"] = Span(start + 1, state.pos - 1)
        return is_done

    return noting


def embed(state: StateInline, silent: bool) -> bool:
    """`![[URL]]` and `![[URL|300]]`, as Obsidian writes an image."""
    match = _EMBED.match(state.src, state.pos, state.posMax)
    if not match:
        return False
    if not silent:
        token = state.push("image", "img", 0)
        token.meta["destination"] = Span(*match.span(1))
    state.pos = match.end()
    return True


def image(state: StateInline, silent: bool) -> bool:
    if not state.src.startswith("![", state.pos):
        return False
    return _bracketed(state, silent, state.pos + 1, is_image=True)


def link(state: StateInline, silent: bool) -> bool:
    if not state.src.startswith("[", state.pos):
        return False
    return _bracketed(state, silent, state.pos, is_image=False)


def _bracketed(state: StateInline, silent: bool, opening: int, *, is_image: bool) -> bool:
    """A link or an image, as markdown-it reads it, from its `[`."""
    if state.html_terminator_last("]") < opening:
        return False
    start, stop = state.pos, state.posMax
    close = state.md.helpers.parseLinkLabel(state, opening, not is_image)
    if close < 0:
        return False
    span, label = None, ""
    is_inline = state.src[close + 1 : close + 2] == "(" and close + 1 < stop
    target = _target(state, close + 1) if is_inline else None
    if target:
        span, end = target
    elif is_inline and is_image:
        return False
    else:
        label, end = _label(state, opening, close)
        if label not in state.env.get("references", {}):
            return False
    if not silent:
        token = state.push("image", "img", 0) if is_image else state.push("link_open", "a", 1)
        token.meta.update({"destination": span} if span else {"label": label})
        if not is_image:
            state.pos, state.posMax = opening + 1, close
            state.md.inline.tokenize(state)
            state.push("link_close", "a", -1)
    assert end > start
    state.pos, state.posMax = end, stop
    return True


def _target(state: StateInline, at: int) -> tuple[Span | None, int] | None:
    """The destination in `(destination "title")` here, and where the bracket ends."""
    source, stop, helpers = state.src, state.posMax, state.md.helpers
    if state.html_terminator_last(")") < at:
        return None
    begin = _skip(source, at + 1, stop)
    end = destination_end(source, begin, stop)
    at = end if end >= 0 else begin
    is_bracketed = source[begin : begin + 1] == "<"
    span = Span(begin + is_bracketed, at - is_bracketed)
    size = _SIZE.match(source, at, stop)
    after = size.end() if size else _skip(source, at, stop)
    if not size:
        title = helpers.parseLinkTitle(source, after, stop)
        if after < stop and after != at and title.ok:
            after = _skip(source, title.pos, stop)
    if after >= stop or source[after] != ")":
        return None
    return (span if span.end > span.start else None), after + 1


def _label(state: StateInline, opening: int, close: int) -> tuple[str, int]:
    """The label in `[text][label]`, `[label][]` or `[label]`, and where it all ends."""
    source = state.src
    if source[close + 1 : close + 2] == "[" and close + 1 < state.posMax:
        end = state.md.helpers.parseLinkLabel(state, close + 1)
        if end >= 0:
            inner = source[close + 2 : end] or source[opening + 1 : close]
            return normalizeReference(inner), end + 1
    return normalizeReference(source[opening + 1 : close]), close + 1


def _skip(source: str, at: int, stop: int) -> int:
    gap = _GAP.match(source, at, stop)
    return gap.end() if gap else at
