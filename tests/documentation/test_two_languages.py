"""Both languages have the same pages, the same commands and the same figures."""

import re
from collections import Counter
from pathlib import Path

import pytest
from page_commands import DOCS, ROOT, Block, blocks, english_pages, in_chinese

_CODE = re.compile(r"^```.*?^```|`[^`\n]*`|\]\([^)]*\)|\{#[^}]*\}|https?://\S+", re.DOTALL | re.MULTILINE)
_FIGURE = re.compile(
    r"(?<![\w.,-])(\d[\d,]*(?:\.\d+)?)[ \xa0]?(%|M\b|B\b|k\b|million|billion|thousand|万亿|亿|百万|千万|万|千|倍)?"
)
_UNITS = {
    **{"k": 1e3, "thousand": 1e3, "千": 1e3, "万": 1e4, "M": 1e6, "million": 1e6, "百万": 1e6, "千万": 1e7},
    **{"亿": 1e8, "B": 1e9, "billion": 1e9, "万亿": 1e12},
}
_LEAST = 13
"""Smaller whole numbers may be words in one language and digits in the other."""


def figures(page: Path) -> Counter[float]:
    """The figures in a page's text and tables: percentages, decimals, and numbers above a dozen, without units."""
    text = _CODE.sub(" ", page.read_text(encoding="utf-8"))
    found: Counter[float] = Counter()
    for number, unit in _FIGURE.findall(text):
        value = float(number.replace(",", "")) * _UNITS.get(unit, 1)
        if "." in number or unit == "%" or value >= _LEAST:
            found[float(f"{value:.6g}")] += 1
    return found


def code(block: Block) -> list[object]:
    """A block without its comments."""
    if block.language == "bash":
        return [*block.commands]
    lines = (re.sub(r"(^|\s+)#\s.*$", "", line).rstrip() for line in block.text.splitlines())
    return [line for line in lines if line]


def test_every_page_is_there_in_both_languages() -> None:
    english = {page.relative_to(DOCS / "en") for page in (DOCS / "en").rglob("*.md")}
    chinese = {page.relative_to(DOCS / "zh") for page in (DOCS / "zh").rglob("*.md")}
    assert english == chinese


@pytest.mark.parametrize("page", english_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_code_is_the_same_in_both_languages(page: Path) -> None:
    """Comments may be in either language; marks and everything else are equal."""
    other = in_chinese(page)
    for language in ("bash", "python", "yaml", "json"):
        ours, theirs = blocks(page, language), blocks(other, language)
        for one, two in zip(ours, theirs, strict=False):
            assert code(two) == code(one), f"{two} and {one}"
            assert two.mark.partition(":")[0] == one.mark.partition(":")[0], f"{two} and {one}"
        assert len(theirs) == len(ours), f"{other}: {len(theirs)} blocks of {language}, {len(ours)} in English"


@pytest.mark.parametrize("page", english_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_figures_are_the_same_in_both_languages(page: Path) -> None:
    ours, theirs = set(figures(page)), set(figures(in_chinese(page)))
    assert ours == theirs, f"English alone {sorted(ours - theirs)}, Chinese alone {sorted(theirs - ours)}"


def test_figures_are_read_with_their_units(tmp_path: Path) -> None:
    """1.3 M is 130 万, and 8,100 万 is 81 million; small whole numbers, code and links do not count."""
    (tmp_path / "a.md").write_text(
        "1.3 M parameters, 81 million, 20.9 %, 4,096, three of 5, `8.5`, [a](b-2.5.md)\n", "utf-8"
    )
    (tmp_path / "b.md").write_text("130 万参数，8,100 万，20.9 %，4,096，5 个中的 3 个\n", "utf-8")
    assert figures(tmp_path / "a.md") == figures(tmp_path / "b.md") == Counter({1.3e6: 1, 8.1e7: 1, 20.9: 1, 4096.0: 1})


def test_no_line_of_the_chinese_readme_ends_between_two_chinese_characters() -> None:
    """A code host shows the end of a line as a space; the site joins such lines itself."""
    character = r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"
    text = (ROOT / "README.zh.md").read_text(encoding="utf-8")
    assert re.findall(rf".*{character}\n *{character}.*", text) == []
