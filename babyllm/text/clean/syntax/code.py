r"""Lines of code and of tables, and code and formulas within lines, which filters that edit prose leave alone.

    text -> lines -> regions (fences, docstrings, comments, formulas), single lines, their neighbours -> is it code?
    text -> `a ~ mark ~ b`, [pieces that the marks stand for] -> the filter -> the pieces put back

A line is recognised by its own form or by the lines around it. A text in which most lines are code is code as a whole.
The work is done only for texts that a filter would change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

from babyllm.text.clean.syntax.characters import HAN
from babyllm.text.clean.syntax.code_lines import is_chinese, is_key, is_statement, is_weak

_SHORT = 1 << 14  # characters; the result for a longer text is not cached, which bounds memory
_MARK = "\U0010fffe"  # stands for a piece that is left alone; a code point that is never a character
_SIGNS = re.compile('[\t`(){}\\[\\]=;<>|$\\\\#"~^*+]')
_PAGE = re.compile(r"\s*<(?:!doctype|!--|[a-z][a-z0-9]*[\s/>])", re.IGNORECASE)
_SPAN = re.compile(
    rf"(?<!`)(`+)(?!`)[^\n]{{1,2000}}?(?<!`)\1(?!`)"
    rf"|(\$\$?)(?=[^\s$])[^$\n{HAN}]{{0,300}}(?<=[^\s$])\2(?![0-9])"
    r"|\\\([^\n]{1,300}?\\\)|\\\[[^\n]{1,300}?\\\]"
)


def _has_signs(text: str) -> bool:
    """Whether a text may hold code at all; searching for one set of characters is quick, for alternatives it is not."""
    return "---" in text or "\n " in text or "\n\xa0" in text or _SIGNS.search(text) is not None


def in_prose(text: str, edit: Callable[[str], str], edit_code: Callable[[str], str] | None = None) -> str:
    """The edited text, in which code, tables and formulas are left as they are.

    Args:
        text: any text.
        edit: function that edits prose; in its argument each piece of code, table or formula is replaced by one
            character that is neither a word character nor punctuation.
        edit_code: function that edits these pieces; None leaves them alone.
    """
    edited = edit(text)
    if edited == text or not _has_signs(text):
        return edited
    masked, pieces = without_code(text)
    if not pieces:
        return edited
    return with_code(edit(masked), [edit_code(piece) for piece in pieces] if edit_code else pieces, text)


def without_code(text: str, *, markup: bool = False) -> tuple[str, list[str]]:
    """The text with a mark in place of each piece that is not prose, and the pieces.

    Args:
        text: any text.
        markup: whether lines of tags count as prose, and in a text that begins with a tag all lines outside of
            Markdown's fences.
    """
    if _MARK in text:
        return text, []
    is_page = markup and _PAGE.match(text) is not None
    lines = text.split("\n")
    is_code = fenced_lines(lines) if is_page else _code_lines(text, not markup)
    pieces: list[str] = []

    def keep(found: re.Match[str]) -> str:
        pieces.append(found[0])
        return _MARK

    masked = []
    for code, first, last in _stretches(is_code):
        stretch = "\n".join(lines[first:last])
        if code:
            pieces.append(stretch)
            masked.append(_MARK)
        else:
            masked.append(_SPAN.sub(keep, stretch) if "`" in stretch or "$" in stretch or "\\" in stretch else stretch)
    return "\n".join(masked), pieces


def with_code(edited: str, pieces: Sequence[str], text: str) -> str:
    """The edited text with each mark replaced by its piece; the original `text` if the edit removed or added marks."""
    between = edited.split(_MARK)
    if len(between) != len(pieces) + 1:
        return text
    return between[0] + "".join(piece + after for piece, after in zip(pieces, between[1:], strict=True))


def count_code(text: str) -> tuple[int, int]:
    """The number of lines of a text that are code or rows of a table, empty ones aside, and their characters."""
    if not _has_signs(text):
        return 0, 0
    sizes = [len(line) for line, code in zip(text.split("\n"), _code_lines(text, True), strict=True) if code]
    return sum(map(bool, sizes)), sum(sizes)


def lines_of_code(text: str) -> Sequence[bool]:
    """Whether each line of a text is code or part of a table, one value per line."""
    return _code_lines(text, True) if _has_signs(text) else [False] * (text.count("\n") + 1)


def _stretches(is_code: Sequence[bool]) -> Iterator[tuple[bool, int, int]]:
    first = 0
    for i in range(1, len(is_code) + 1):
        if i == len(is_code) or is_code[i] != is_code[first]:
            yield is_code[first], first, i
            first = i


def _code_lines(text: str, has_tags: bool) -> Sequence[bool]:
    look = _known_code_lines if len(text) < _SHORT else _known_code_lines.__wrapped__
    return look(text, has_tags)


@lru_cache(1024)  # for later filters, which see most texts unchanged
def _known_code_lines(text: str, has_tags: bool) -> Sequence[bool]:
    return code_lines(text.split("\n"), has_tags=has_tags)


# ---- lines


def code_lines(lines: Sequence[str], *, has_tags: bool = True) -> list[bool]:
    """Whether each line is code or part of a table; so are empty lines between such lines.

    Args:
        lines: lines of a text.
        has_tags: whether every line that begins and ends with tags is code; otherwise only an indented one is.
    """
    fenced = fenced_lines(lines)
    is_code = [
        fence or region or is_statement(line)
        for fence, region, line in zip(fenced, _regions(lines), lines, strict=True)
    ]
    _mark_tables(lines, is_code)
    _mark_tags(lines, is_code, indented_only=not has_tags)
    if not any(is_code):
        return is_code
    _spread(lines, is_code)
    n_lines = sum(bool(line.strip()) for line, fence in zip(lines, fenced, strict=True) if not fence)
    n_code = sum(bool(line.strip()) for line, code, fence in zip(lines, is_code, fenced, strict=True) if code > fence)
    if n_code >= 3 and 3 * n_code >= 2 * n_lines and not any(fenced):
        return [code or not is_chinese(line) for code, line in zip(is_code, lines, strict=True)]
    return is_code


def _spread(lines: Sequence[str], is_code: list[bool]) -> None:
    """Mark lines that are code if a neighbour is and that stand next to code, and empty lines between code."""
    for numbers, step in ((range(1, len(lines)), -1), (range(len(lines) - 2, -1, -1), 1)):
        last_is_code = is_code[numbers[0] + step] if len(lines) > 1 else False
        for i in numbers:
            if lines[i].strip():
                is_code[i] = is_code[i] or (last_is_code and is_weak(lines[i]))
                last_is_code = is_code[i]
    inked = [i for i, line in enumerate(lines) if line.strip()]
    for before, after in pairwise(inked):
        if is_code[before] and is_code[after]:
            is_code[before + 1 : after] = [True] * (after - before - 1)


# ---- regions

_FENCE = re.compile(r"[ \t>]*(`{3,}|~{3,})[^`\n]*$")
_TRIPLE = re.compile(r"""[ \t]*(?:[\w.,:\[\] \t=(]*[=(,:][ \t]*)?[rRbBuUfF]{0,2}("{3}|'{3})""", re.ASCII)
_FORMULAS = {"$$": "$$", "\\[": "\\]"}
_BEGIN = re.compile(r"[ \t]*\\begin\{(\w+\*?)\}")


def fenced_lines(lines: Sequence[str]) -> list[bool]:
    """Whether each line belongs to a fenced block of Markdown, which ends with a fence like its first."""
    inside = [False] * len(lines)
    fences = [
        (i, found[1])
        for i, line in enumerate(lines)
        if "```" in line or "~~~" in line
        for found in [_FENCE.match(line)]
        if found
    ]
    opening: tuple[int, str] | None = None
    for i, fence in fences:
        if opening is None:
            opening = (i, fence)
        elif fence.startswith(opening[1]) and lines[i].strip(" \t>`~") == "":
            inside[opening[0] : i + 1] = [True] * (i + 1 - opening[0])
            opening = None
    return inside


def _regions(lines: Sequence[str]) -> list[bool]:
    """Whether each line belongs to a docstring, a block comment or a formula of several lines."""
    inside = [False] * len(lines)
    unclosed: set[str] = set()
    i = 0
    while i < len(lines):
        closing = _closing(lines[i])
        end = None if closing is None or closing in unclosed else _find(lines, i + 1, closing)
        if end is not None:
            inside[i : end + 1] = [True] * (end + 1 - i)
            i = end
        elif closing is not None:
            unclosed.add(closing)
        i += 1
    return inside


def _closing(line: str) -> str | None:
    """The text that closes a region which begins in the line and does not end in it; None if there is none."""
    if "/*" in line and "*/" not in line[line.rindex("/*") :]:
        return "*/"
    if ('"""' in line or "'''" in line) and (found := _TRIPLE.match(line)) and line.count(found[1]) % 2:
        return found[1]
    if line.startswith(("$$", "\\[")) and line.strip() in _FORMULAS:
        return _FORMULAS[line.strip()]
    if "\\begin" in line and (found := _BEGIN.match(line)) and f"\\end{{{found[1]}}}" not in line:
        return f"\\end{{{found[1]}}}"
    return None


def _find(lines: Sequence[str], start: int, closing: str) -> int | None:
    return next((i for i in range(start, len(lines)) if closing in lines[i]), None)


# ---- tables


_PIPES = re.compile(r"[ \t]*\|.*\|[ \t]*$|[ \t]*:?-{2,}:?[ \t]*(?:\|[ \t]*:?-{2,}:?[ \t]*)+\|?$")
_BORDER = re.compile(r"[ \t]*(?=.*[-=+].*[-=+])(?:[-=]{2,}[ \t]+)+[-=]{2,}[ \t]*$|[ \t]*\+[-=+]+\+[ \t]*$")
_TAG_LINE = re.compile(r"[ \t]*</?[A-Za-z][\w:.-]*(?:[ \t][^<>]*)?/?>(?:[^\n]*>)?[ \t]*$")
_UNDERLINES = tuple("=~^*+#-")
_UNDERLINE = re.compile(r"([=~^*+#-])\1{2,}[ \t]*$")


def _mark_tables(lines: Sequence[str], is_code: list[bool]) -> None:
    """Mark rows with cells between tabs, bars, commas or borders, and lines that underline headings."""
    cells = {mark: [_cells(line, mark) for line in lines] for mark in "\t,"}
    for i, line in enumerate(lines):
        is_code[i] = is_code[i] or cells["\t"][i] >= 3 or _is_row(line)
        for mark, least in (("\t", 2), (",", 4)):
            if i and cells[mark][i] == cells[mark][i - 1] >= least:
                is_code[i - 1] = is_code[i] = True
        if i and is_key(line) and is_key(lines[i - 1]):
            is_code[i - 1] = is_code[i] = True
        if line[:1] in _UNDERLINES and _UNDERLINE.match(line) and _has_words(lines, i - 1, i + 1):
            is_code[i] = True
    for i, line in enumerate(lines):
        if "|" in line and not is_code[i] and any(0 <= j < len(lines) and _is_row(lines[j]) for j in (i - 1, i + 1)):
            is_code[i] = True


def _is_row(line: str) -> bool:
    return ("|" in line and bool(_PIPES.match(line))) or (("==" in line or "--" in line) and bool(_BORDER.match(line)))


def _mark_tags(lines: Sequence[str], is_code: list[bool], indented_only: bool) -> None:
    """Mark lines that begin and end with tags: all of them, or only those in code blocks indented as in Markdown."""
    for i, line in enumerate(lines):
        if "<" in line and _TAG_LINE.match(line):
            after_gap = i == 0 or not lines[i - 1].strip() or is_code[i - 1]
            is_code[i] = is_code[i] or not indented_only or (after_gap and line.startswith(("    ", "\t")))


def _has_words(lines: Sequence[str], *numbers: int) -> bool:
    return any(0 <= i < len(lines) and any(map(str.isalnum, lines[i])) for i in numbers)


def _cells(line: str, mark: str) -> int:
    """The number of cells that a mark separates in a line; 0 if the mark is absent or is used as in prose."""
    n = line.count(mark)
    if (
        n < (mark == ",") * 2 + 1
        or (mark == "\t" and (" \t" in line or "\t " in line))
        or (mark == "," and ", " in line)
    ):
        return 0
    return n + 1 if line.strip(mark + " ") and (mark in line.strip()) else 0
