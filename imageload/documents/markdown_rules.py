"""markdown-it-py with rules that note where in the source a destination stands.

markdown-it's own rules for links and images give the URL and forget its place. These read the same
grammar with markdown-it's functions for labels, destinations and titles, and two forms more:
`![[URL]]` of Obsidian, and `![](URL =100x50)` with a size.

The environment of a text has its `steps`, which are counted down, and gets `spans`: where the URL
of each definition stands, by its label.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from markdown_it import MarkdownIt, rules_block
from markdown_it.common.utils import normalizeReference
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

NESTING: Final = 100
"""Blocks in blocks, and brackets in brackets, that are looked into."""

_BRACKETED = re.compile(r"<(?:[^<>\n\\]++|\\.)*+>", re.DOTALL)
# Of a destination, up to a bracket or its end.
_RUN = re.compile(r"(?:[^\x00-\x20\x7f\\()]++|\\[^ ]|\\\Z)++")
_MOST_LEVELS = 32
_GAP = re.compile(r"[ \t\n]*")
_SIZE = re.compile(r"[ \t]+=[0-9]{0,6}%?x?[0-9]{0,6}%?[ \t]*(?=\))")
_EMBED = re.compile(r"!\[\[([^\[\]\n|#]{1,8000})(?:[#|][^\[\]\n]{0,1000})?\]\]")


_TOKENS_PER_STEP = 4

BlockRule = Callable[[StateBlock, int, int, bool], bool]


class Span(NamedTuple):
    """A span of a text."""

    start: int
    end: int


class Tangled(Exception):
    """The parser would need more steps than it may take."""


@functools.cache
def parser() -> MarkdownIt:
    """markdown-it with our rules. It parses blocks only; raises Tangled."""
    made = MarkdownIt("commonmark", {"maxNesting": NESTING})
    made.enable("table").disable(["emphasis", "inline"])
    made.block.ruler.at("reference", _reference, {"alt": []})
    made.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    rules = {name: made.block.ruler.getRules(name) for name in _CHAINS}
    chains = {name: [_by_first_letter(rules[name])] for name in _CHAINS}
    made.block.ruler.getRules = chains.__getitem__  # type: ignore[method-assign, assignment]
    made.inline.ruler.at("image", image)
    made.inline.ruler.at("link", link)
    made.inline.ruler.before("image", "embed", embed)
    for name in ("html_inline", "backticks", "autolink"):
        ruler = made.inline.ruler
        rule = next(each.fn for each in ruler.__rules__ if each.name == name)
        ruler.at(name, noting(rule))
    skip = made.inline.skipToken

    def counted(state: StateInline) -> None:
        _count(state.env)
        skip(state)

    made.inline.skipToken = counted  # type: ignore[method-assign]
    return made


def _count(environment: Any, steps: int = 1) -> None:
    environment["steps"] -= steps
    if environment["steps"] < 0:
        raise Tangled


def _reference(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """markdown-it's rule for `[label]: URL`, which notes where the URL stands."""
    before = len(state.env.get("references", ()))
    if not rules_block.reference(state, start, end, silent):
        return False
    references = state.env.get("references", {})
    if not silent and len(references) > before:
        span = _destination_of_reference(state, start)
        if span:
            state.env["spans"][next(reversed(references))] = span
    return True


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """markdown-it's rule for tables. It fills up short rows with up to 65,536 cells."""
    before = len(state.tokens)
    is_done = rules_block.table(state, start, end, silent)
    _count(state.env, (len(state.tokens) - before) // _TOKENS_PER_STEP)
    return is_done


_CHAINS = ("", "paragraph", "reference", "blockquote", "list")
"""Which rules begin a block, and which of them end a block of another kind."""

_FIRST_LETTERS: dict[BlockRule, str] = {
    rules_block.fence: "`~",
    rules_block.blockquote: ">",
    rules_block.hr: "*-_",
    rules_block.list_block: "*-+0123456789",
    rules_block.html_block: "<",
    rules_block.heading: "#",
    _reference: "[",
}
"""With which a rule's block begins; other rules read every line."""


def _by_first_letter(rules: Sequence[BlockRule]) -> BlockRule:
    """A rule that tries these rules, without those whose block begins with another letter."""
    others = [rule for rule in rules if rule not in _FIRST_LETTERS]
    tried = {
        letter: [rule for rule in rules if letter in _FIRST_LETTERS.get(rule, letter)]
        for letter in "".join(_FIRST_LETTERS.values())
    }

    def by_first_letter(state: StateBlock, line: int, end: int, silent: bool) -> bool:
        _count(state.env)
        at = state.bMarks[line] + state.tShift[line]
        for rule in tried.get(state.src[at : at + 1], others):
            if rule(state, line, end, silent):
                return True
        return False

    return by_first_letter


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


def _destination_of_reference(state: StateBlock, first: int) -> Span | None:
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
