"""Filters that normalise letters, digits and punctuation in prose; code and tables stay as they are."""

from __future__ import annotations

import re
from dataclasses import dataclass

from babyllm.text.clean.syntax.characters import HAN, HAS_HAN, KANA
from babyllm.text.clean.syntax.code import in_prose

# ---- width

_WIDE = "０-９Ａ-Ｚａ-ｚ＃＄％＆＊＋－／＝＠＿"
_WIDE_RUN = re.compile(f"[{_WIDE}](?:[{_WIDE}．]*[{_WIDE}])?|(?<=[0-9A-Za-z０-９Ａ-Ｚａ-ｚ])．(?=[0-9A-Za-z])|[｡｢｣､･]")
_HAS_WIDE = re.compile(f"[{_WIDE}．｡｢｣､･]")
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | dict(
    zip(map(ord, "｡｢｣､･"), "。「」、・", strict=True)
)


@dataclass(frozen=True)
class Width:
    """Replace full-width letters, digits and their signs with ordinary ones (１９９８ -> 1998)."""

    def edit(self, text: str) -> str:
        """The text with ordinary letters and digits."""
        return in_prose(text, _narrowed) if _HAS_WIDE.search(text) else text


def _narrowed(text: str) -> str:
    return _WIDE_RUN.sub(lambda run: run[0].translate(_NARROW), text)


# ---- punctuation

_TO_FULL = str.maketrans(",;:!?.()", "，；：！？。（）")
_TO_HALF = str.maketrans("，；：！？。（）", ",;:!?.()")
_CHINESE = f"{HAN}{KANA}、。〈-】〔-〗！（），：；？"  # characters next to which punctuation is full-width
_NEAR = 20  # characters on either side; one Chinese character among them makes the context Chinese
# The alternatives begin after the first mark, so that the search scans the text for one set of characters.
_MARK = re.compile(
    "[,;:!?.，。！？：；]"
    f"(?:(?P<full>(?:(?<=[{_CHINESE}][,;:!?])|(?<=[{HAN}][”’][,;:!?]))(?!(?<=[:;])[-()])[,;:!?]*[ ]*)"
    f"|(?P<mixed>(?<=[A-Za-z0-9)%][,;:!?])[,;:!?]*(?=[{HAN}]))"
    f"|(?P<stop>(?<=[{HAN}）》][.])(?:(?=[\\s”’」』]|\\Z)[ ]*|(?P<inner>(?=[{HAN}]))))"
    "|(?P<time>(?<=[0-9]：)(?=[0-9]))"
    "|(?P<half>(?<=[A-Za-z0-9)][，。！？：；])[，。！？：；]*(?=[A-Za-z0-9\\s]|\\Z)))"
)
_THOUSANDS = re.compile("[0-9]{3}(?![0-9])")
_NEAR_CHINESE = re.compile(f"[{HAN}{KANA}、《》「」『』【】]")
_URL_BEFORE = re.compile(r"://[!-~]*\Z")
_PARENTHESES = re.compile(r"([(（])([^()（）\n]{0,200})([)）])")


@dataclass(frozen=True)
class Punctuation:
    """Fit the width of ，。！？：；（） to the script around them: full next to Chinese, half in Latin text.

    Numbers (3.14, 10:30), file names and URLs stay. A point between Chinese characters, as in names, stays if the text
    contains 。; otherwise points end its sentences. Spaces after a mark that becomes full-width are removed, because
    the mark contains its own; a mark that becomes half-width between words is followed by a space.
    """

    def edit(self, text: str) -> str:
        """The text with marks of fitting width."""
        return in_prose(text, _marked)


def _marked(text: str) -> str:
    mark = _mark_beside_stops if "。" in text else _mark
    return _MARK.sub(mark, _PARENTHESES.sub(_parentheses, text))


def _mark_beside_stops(found: re.Match[str]) -> str:
    return _mark(found) if found["inner"] is None else "."


def _mark(found: re.Match[str]) -> str:
    marks, text = found[0], found.string
    if found["half"] is not None:
        if _is_chinese_near(found):
            return marks
        is_number = marks == "，" and _THOUSANDS.match(text, found.end()) and text[found.start() - 1].isdigit()
        return marks.translate(_TO_HALF) + ("" if is_number or not _is_word(text, found.end()) else " ")
    if found["time"] is not None:
        return ":"
    if found["mixed"] is not None and _URL_BEFORE.search(text, max(0, found.start() - 200), found.start()):
        return marks
    return marks.rstrip(" ").translate(_TO_FULL)


def _parentheses(found: re.Match[str]) -> str:
    text, start = found.string, found.start()
    before = text[start - 1] if start else ""
    opening, inside, closing = found.groups()
    if HAS_HAN.match(before) or (before != " " and HAS_HAN.search(inside)):
        return f"（{inside}）"
    if opening + closing == "()":
        return found[0]
    if _is_chinese_near(found):
        return f"（{inside}）" if opening == "（" else f"({inside})"
    return f"{' ' * _is_word(text, start - 1)}({inside}){' ' * _is_word(text, found.end())}"


def _is_word(text: str, index: int) -> bool:
    return 0 <= index < len(text) and text[index].isalnum()


def _is_chinese_near(found: re.Match[str]) -> bool:
    return _NEAR_CHINESE.search(found.string, max(0, found.start() - _NEAR), found.end() + _NEAR) is not None


# ---- runs

_RUN = re.compile(r"([。！？，；：、～…—!?,;~=*_+·.-])\1+")
# The mark: the shortest run that is replaced, and its replacement.
_SHORT = (
    {mark: (2, mark) for mark in "！？，；：、～"}
    | {mark: (3, mark) for mark in "!?,;~"}
    | {mark: (3, mark * 2) for mark in "…—"}
    | {mark: (4, mark * 3) for mark in "-=*_+·."}
)
_SPREAD = re.compile("[a-z_$]")  # begins the operand of `...`, an operator of programming languages
_TIGHT = "*,;"  # marks that hide digits and letters, or separate empty cells


@dataclass(frozen=True)
class Runs:
    """Shorten runs of one punctuation mark.

    ！！！！ -> ！ (also ？，；：、～); !!! -> ! (also ? , ; ~, from three on); 。。。 -> …… (。。 -> 。); ……… -> ……;
    ——— -> ——; 他说... -> 他说……; ....... -> ... (also - = * _ + ·, from four on, so that Markdown stays). Asterisks
    that hide digits (138****1234) and commas of empty list items ([1,,,2]) stay.
    """

    def edit(self, text: str) -> str:
        """The text with its runs shortened."""
        return in_prose(text, _without_runs)


def _without_runs(text: str) -> str:
    return _RUN.sub(_shortened, text)


def _shortened(run: re.Match[str]) -> str:
    mark, n = run[1], len(run[0])
    if mark == "。":
        return "。" if n == 2 else "……"
    if n == 3 and mark == "." and _SPREAD.match(run.string, run.end()):
        return run[0]
    if mark == "." and n >= 3 and HAS_HAN.match(run.string, run.start() - 1) and run.start():
        return "……"
    if mark in _TIGHT and _is_tight(run):
        return run[0]
    least, short = _SHORT[mark]
    return short if n >= least else run[0]


def _is_tight(run: re.Match[str]) -> bool:
    """Whether a run belongs to a number, a name or a list: 138****1234, [1,,,2]."""
    text, start, end = run.string, run.start(), run.end()
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    around = [
        character
        for character in (before, after)
        if character.isascii() and (character.isalnum() or character in "[]()@")
    ]
    return len([character for character in around if character]) >= (1 if run[1] == "*" else 2)
