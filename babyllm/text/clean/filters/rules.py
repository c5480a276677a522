r"""Filters for rules of the user's own (edits; sections, paragraphs and lines to remove) and for repetitions in a text.

    rules: edits (pattern -> replacement) -> sections by heading -> paragraphs -> lines
    repeats: paragraphs, lines that occurred before in the text

Edits apply to the whole text. Rules for paragraphs and lines never remove code, whose lines are often
short or repeated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from babyllm.config.values import AnyCount
from babyllm.errors import UserError
from babyllm.text.clean.syntax.code import fenced_lines, lines_of_code

_HEADING = re.compile(
    r"[ \t]*(?:(?P<hashes>#{1,6})[ \t]*(?P<markdown>[^\n]*?)[ \t]*#*"
    r"|(?P<signs>={2,6})[ \t]*(?P<wiki>[^=\n]+?)[ \t]*={2,6})[ \t]*$"
)
_AROUND_TITLE = " \t*_【】[]〔〕<>《》:："
_NUMBER = re.compile(r"(?:[0-9]+(?:\.[0-9]+)*|[一二三四五六七八九十]+)[.、．)]?[ \t]*(?=\D)")
_SETEXT = re.compile(r"(?:=+|-+)[ \t]*$")
_ALONE = 30  # most characters of a heading without a mark
_NO_HEADING = re.compile(r"[。！？!?；;，,]|^[ \t]*(?:[-*+•·]|[\[(（]?[0-9]+[\])）.、])|\.$")
_UNMARKED = 7  # the level of a heading without a mark


@dataclass(frozen=True)
class Rules:
    r"""Edit texts by rules of your own: Python regular expressions, headings, lines.

    Attributes:
        edits: map from pattern to replacement, applied in order; \1 stands for a group, ^ and $ for the ends of lines.
        sections: headings whose sections are removed, up to the next heading of the same or a higher level; in upper or
            lower case, marked as in Markdown or a wiki, or alone on a line.
        paragraphs: patterns; a paragraph that contains a match is removed.
        lines: lines to remove, in upper or lower case and with any spaces around them.
        line_patterns: patterns; a line that contains a match is removed.
        min_line: fewest characters of a line that stays.
        max_line: most characters of a line that stays; null for no limit.
    """

    edits: dict[str, str] = field(default_factory=dict)
    sections: list[str] = field(default_factory=list)
    paragraphs: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    line_patterns: list[str] = field(default_factory=list)
    min_line: AnyCount = 0
    max_line: AnyCount | None = None

    def edit(self, text: str) -> str:
        """The text after all rules.

        Raises:
            UserError: a pattern or a replacement is invalid; the message names it.
        """
        for pattern, replacement in _edits(tuple(self.edits.items())):
            text = pattern.sub(replacement, text)
        paragraphs = _patterns("--rules.paragraphs", tuple(self.paragraphs))
        line_patterns = _patterns("--rules.line_patterns", tuple(self.line_patterns))
        if self.sections:
            text = _without_sections(text, {_title(section) for section in self.sections})
        if paragraphs:
            text = _without_paragraphs(text, lambda paragraph: any(p.search(paragraph) for p in paragraphs))
        if self.lines or line_patterns or self.min_line or self.max_line is not None:
            exact = frozenset(line.strip().casefold() for line in self.lines)
            text = _without_lines(text, lambda line: self._goes(line.strip(), exact, line_patterns))
        return text

    def _goes(self, line: str, exact: frozenset[str], patterns: Sequence[re.Pattern[str]]) -> bool:
        if line.casefold() in exact or any(pattern.search(line) for pattern in patterns):
            return True
        return len(line) < self.min_line or (self.max_line is not None and len(line) > self.max_line)


@dataclass(frozen=True)
class Repeats:
    """Remove paragraphs and lines that occurred before in the same text; the first occurrence stays.

    Attributes:
        paragraphs: true if paragraphs are compared.
        lines: true if lines are compared; lines of code stay in any case.
        min_characters: fewest characters of a paragraph or line that is removed; shorter ones repeat in good texts,
            such as the refrain of a song or a word in a column.
    """

    paragraphs: bool = True
    lines: bool = True
    min_characters: AnyCount = 10

    def edit(self, text: str) -> str:
        """The text without repetitions."""
        if "\n" not in text:
            return text
        if self.paragraphs:
            text = _without_paragraphs(text, self._came_before())
        return _without_lines(text, self._came_before()) if self.lines else text

    def _came_before(self) -> Callable[[str], bool]:
        seen: set[str] = set()

        def test(piece: str) -> bool:
            key = " ".join(piece.split())
            if len(key) < self.min_characters:
                return False
            is_known = key in seen
            seen.add(key)
            return is_known

        return test


# ---- patterns


@cache
def _edits(rules: Sequence[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    result = []
    for pattern, replacement in rules:
        compiled = _compiled("--rules.edits", pattern)
        try:
            compiled.sub(replacement, "")
        except (re.error, IndexError) as error:
            raise UserError(f"--rules.edits: '{replacement}' cannot replace '{pattern}' ({error})") from error
        result.append((compiled, replacement))
    return result


@cache
def _patterns(flag: str, patterns: Sequence[str]) -> list[re.Pattern[str]]:
    return [_compiled(flag, pattern) for pattern in patterns]


def _compiled(flag: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.MULTILINE)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"{flag}: '{pattern}' is not a regular expression of Python ({error})") from error


# ---- lines and paragraphs


def _without_lines(text: str, goes: Callable[[str], bool]) -> str:
    lines = text.split("\n")
    kept = [
        line
        for line, is_code in zip(lines, lines_of_code(text), strict=True)
        if is_code or not line.strip() or not goes(line)
    ]
    return text if len(kept) == len(lines) else "\n".join(kept)


def _without_paragraphs(text: str, goes: Callable[[str], bool]) -> str:
    kept = [
        "\n".join(lines)
        for is_code, lines in _paragraphs(text)
        if is_code or not lines[0].strip() or not goes("\n".join(lines))
    ]
    return "\n".join(kept)


def _paragraphs(text: str) -> Iterator[tuple[bool, list[str]]]:
    """(whether it is code, its lines) of each paragraph, and of each gap between two paragraphs."""
    gathered: list[str] = []
    kind = (False, False)
    for line, is_code in zip(text.split("\n"), lines_of_code(text), strict=True):
        now = (is_code, not is_code and not line.strip())
        if gathered and now != kind:
            yield kind[0], gathered
            gathered = []
        gathered.append(line)
        kind = now
    yield kind[0], gathered


# ---- sections


def _without_sections(text: str, titles: set[str]) -> str:
    lines = text.split("\n")
    is_fenced = fenced_lines(lines)
    kept: list[str] = []
    dropping: int | None = None  # the level of the section that is being removed
    for i, line in enumerate(lines):
        heading = None if is_fenced[i] else _heading(lines, i, titles)
        if heading is not None and (dropping is None or heading[0] <= dropping):
            dropping = heading[0] if heading[1] in titles else None
        if dropping is None:
            kept.append(line)
    return text if len(kept) == len(lines) else "\n".join(kept)


def _heading(lines: Sequence[str], i: int, titles: set[str]) -> tuple[int, str] | None:
    """The level and the title of the heading in line `i`; None for other lines."""
    line = lines[i]
    if found := _HEADING.match(line):
        return len(found["hashes"] or found["signs"]), _title(found["markdown"] or found["wiki"] or "")
    after = lines[i + 1] if i + 1 < len(lines) else ""
    if line.strip() and _SETEXT.match(after):
        return (1 if after.startswith("=") else 2), _title(line)
    title = _title(line)
    is_alone = (i == 0 or not lines[i - 1].strip()) and 0 < len(line.strip()) <= _ALONE and not _NO_HEADING.search(line)
    return (_UNMARKED, title) if title in titles or (is_alone and not after.strip()) else None


def _title(heading: str) -> str:
    return " ".join(_NUMBER.sub("", heading.strip(_AROUND_TITLE)).casefold().split())
