"""The blocks of Markdown by markdown-it-py, with rules that note where definitions' URLs stand.

The environment of a text has its `steps`, which are counted down, and gets `spans`: where the URL
of each definition stands, by its label.

Rules and tokens that cannot matter to images are left out, because a rule takes 1 to 10 µs.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

from markdown_it import MarkdownIt, rules_block
from markdown_it.rules_block import StateBlock
from markdown_it.token import Token

from imageload.documents.markdown_inline import destination_end

NESTING: Final = 100
"""Blocks in blocks that are looked into."""

_TOKENS_PER_STEP = 4

BlockRule = Callable[[StateBlock, int, int, bool], bool]


class Span(NamedTuple):
    """A span of a text."""

    start: int
    end: int


class Tangled(Exception):
    """The parser would need more steps than it may take."""


def blocks(text: str, environment: dict[str, Any]) -> list[Token]:
    """The tokens of a text that have text, code or HTML, and the beginnings of cells and rows.

    They have a type, a content and lines (`map`). Raises Tangled.
    """
    state = _State(text, _parser(), environment, [])
    state.md.block.tokenize(state, 0, state.lineMax)
    return state.tokens


class _State(StateBlock):
    """markdown-it's state, which makes only the tokens that are read."""

    _unread = Token("", "", 0)

    def __init__(self, src: str, md: MarkdownIt, env: dict[str, Any], tokens: list[Token]) -> None:
        super().__init__(src, md, env, tokens)
        starts = [match.start() for match in _UNDERLINE.finditer(src)]
        end = len(self.bMarks)
        self._underlines = [*(bisect_right(self.bMarks, at) - 1 for at in starts), end]
        self._blanks = [*filter(self.isEmpty, range(end)), end]

    def may_be_heading(self, line: int) -> bool:
        """Whether an underline follows this line before a blank one."""
        underline = self._underlines[bisect_right(self._underlines, line)]
        return underline < self._blanks[bisect_right(self._blanks, line)]

    def push(self, ttype: str, tag: str, nesting: Literal[-1, 0, 1]) -> Token:  # noqa: ARG002
        """Add a token of a type that is read; others are not kept."""
        if nesting < 0:
            self.level -= 1
        token = self._unread
        if ttype in _READ:
            token = Token.__new__(Token)
            token.type, token.level, token.map, token.content = ttype, self.level, None, ""
            self.tokens.append(token)
        if nesting > 0:
            self.level += 1
        return token


_UNDERLINE = re.compile(r"[-=][ \t]*$", re.MULTILINE)
_READ = {"inline", "html_block", "fence", "code_block", "tr_open", "th_open", "td_open"}


@functools.cache
def _parser() -> MarkdownIt:
    """markdown-it with our rules for blocks."""
    made = MarkdownIt("commonmark", {"maxNesting": NESTING}).enable("table")
    # URLs are judged and written by us.
    made.normalizeLink = lambda url: url  # type: ignore[method-assign]
    made.block.ruler.at("reference", _reference, {"alt": []})
    made.block.ruler.at("lheading", _lheading, {"alt": []})
    made.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    rules = {name: made.block.ruler.getRules(name) for name in _CHAINS}
    chains = {name: [_by_first_letter(rules[name])] for name in _CHAINS}
    made.block.ruler.getRules = chains.__getitem__  # type: ignore[method-assign, assignment]
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


def _lheading(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """markdown-it's rule for headings with an underline. It reads the whole paragraph."""
    assert isinstance(state, _State)
    return state.may_be_heading(start) and rules_block.lheading(state, start, end, silent)


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """markdown-it's rule for tables. It fills up short rows with up to 65,536 cells."""
    second = state.bMarks[start + 1] + state.tShift[start + 1]
    has_row = state.src.find("|", state.bMarks[start], state.eMarks[start]) >= 0
    if not has_row or state.src[second : second + 1] not in _DELIMITERS:
        return False
    before = len(state.tokens)
    is_done = rules_block.table(state, start, end, silent)
    _count(state.env, (len(state.tokens) - before) // _TOKENS_PER_STEP)
    return is_done


_DELIMITERS = frozenset("|-:")  # begin the second line of every table

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
        state.env["steps"] -= 1
        if state.env["steps"] < 0:
            raise Tangled
        at = state.bMarks[line] + state.tShift[line]
        for rule in tried.get(state.src[at : at + 1], others):
            if rule(state, line, end, silent):
                return True
        return False

    return by_first_letter


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
    after = destination_end(string, end.end())
    before = string.count("\n", 0, end.end())
    column = end.end() - (string.rfind("\n", 0, end.end()) + 1)
    is_bracketed = string.startswith("<", end.end())
    start = starts[before] + column + is_bracketed
    length = after - end.end() - 2 * is_bracketed
    return Span(start, start + length) if length > 0 else None
