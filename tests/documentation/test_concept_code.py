"""The code of the pages in docs/*/concepts, and the pictures they show."""

import re
from pathlib import Path

import pytest

from benchmarks.concept_figures import gradient_errors, lora_losses, unigram_losses
from benchmarks.concept_pictures import LANGUAGES, PICTURES, draw

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs/en/concepts").glob("*.md"))
PICTURE_FILES = ROOT / "docs/images/concepts"


def blocks(page: Path) -> list[str]:
    """The blocks of Python on a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def in_chinese(page: Path) -> Path:
    """The same page in Chinese."""
    return ROOT / "docs/zh/concepts" / page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_runs_and_compares_itself_with_the_library(page: Path) -> None:
    """Each page has code that imports babyllm, asserts that it computes the same, and runs as it stands."""
    found = blocks(page)
    assert found, page
    for code in found:
        assert "from babyllm" in code and "\nassert " in code
        exec(compile(code, str(page), "exec"), {"__name__": page.stem})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_is_the_same_in_chinese_but_for_comments(page: Path) -> None:
    """Whoever reads the page in Chinese gets the same code."""

    def bare(code: str) -> str:
        return "\n".join(re.sub(r"\s*#.*", "", line) for line in code.splitlines())

    assert [bare(code) for code in blocks(in_chinese(page))] == [bare(code) for code in blocks(page)]


def test_every_page_shows_its_own_picture_in_its_own_language() -> None:
    """No page lacks its picture, and no picture lacks its page."""
    shown = set()
    for page in PAGES:
        for language, file in (("en", page), ("zh", in_chinese(page))):
            name = f"{page.stem}.{language}.svg"
            assert f"](../../images/concepts/{name})" in file.read_text(encoding="utf-8"), file
            shown.add(name)
    assert shown == {file.name for file in PICTURE_FILES.glob("*.svg")}
    assert shown == {f"{name}.{language}.svg" for name in PICTURES for language in LANGUAGES}


@pytest.mark.parametrize("name", ["schedule", "packing", "dpo", "ppo", "grpo"])
def test_a_picture_can_be_drawn_again(name: str, tmp_path: Path) -> None:
    """The command draws both languages, with their words as text, which any program can set and search."""
    english, chinese = (file.read_text(encoding="utf-8") for file in draw(name, tmp_path))
    assert "<svg" in english and "<svg" in chinese
    assert not re.search("[一-龥]", english) and re.search("[一-龥]", chinese)


def test_one_division_is_exact_and_the_mean_of_means_is_not() -> None:
    """The picture of the global batch shows the library's own gradients."""
    for size, by_means, by_sums in gradient_errors((32, 4, 1)):
        assert by_sums < 1e-5
        assert by_means < 1e-5 if size == 32 else by_means > 0.1


def test_an_update_of_rank_four_needs_rank_four() -> None:
    """The picture of LoRA: below the task's rank the loss sits, from it on the task is learned."""
    last = {rank: losses[-1] for rank, losses in lora_losses((1, 2, 4), steps=250).items()}
    assert last[1] > 0.4 > last[2] > 0.2 > 1e-4 > last[4]


def test_a_larger_vocabulary_makes_nats_rise_and_bits_fall() -> None:
    """The picture of loss units: the two units rank the same models differently."""
    (_, nats_few, bits_few), (_, nats_many, bits_many) = unigram_losses((1100, 1500))
    assert nats_few < nats_many and bits_few > bits_many
