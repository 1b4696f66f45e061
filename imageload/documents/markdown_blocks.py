"""The blocks of Markdown by markdown-it-py, with rules that note where definitions' URLs stand.

The environment of a text has its `steps`, which are counted down, and gets `spans`: where the URL
of each definition stands, by its label.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from markdown_it import MarkdownIt, rules_block
from markdown_it.rules_block import StateBlock

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


@functools.cache
def parser() -> MarkdownIt:
    """markdown-it with our rules. It parses blocks only; raises Tangled."""
    made = MarkdownIt("commonmark", {"maxNesting": NESTING})
    made.enable("table").disable("inline")
    made.block.ruler.at("reference", _reference, {"alt": []})
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
