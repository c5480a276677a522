"""Lines and paragraphs that many documents share, removed by `babyllm dedup` before documents are compared."""

import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from babyllm.commands.corpus import dedup as command
from babyllm.config import parse
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.integrity import MEMORY
from babyllm.pipeline.partitions import WorkConfig
from babyllm.store.corpus import ROW_GROUP_CHARACTERS, open_corpus
from babyllm.text.dedup import trimming
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.stage import dedup
from babyllm.text.dedup.units import LinesConfig
from tests.support.disk_fixtures import corpus_of

LINES = LinesConfig(min_documents=2, min_characters=4)
CONFIG = DedupConfig(near=[], lines=LINES, work=WorkConfig(workers=1))
FOOTER = "版权所有，翻印必究。"


def documents(n: int, seed: int = 1) -> list[Document]:
    """Texts of lines and gaps; other texts contain many of the lines, perhaps with other spacing."""
    rng = random.Random(seed)
    letters = [chr(0x4E00 + i) for i in range(400)]
    common = ["".join(rng.choices(letters, k=rng.randrange(2, 9))) + "。" for _ in range(12)]
    found = []
    for i in range(n):
        lines: list[str] = []
        for _ in range(rng.randrange(1, 9)):
            own = "".join(rng.choices(letters, k=12)) + str(i)
            lines += [rng.choice([own, rng.choice(common), rng.choice(common) + "  ", ""])]
        found.append(Document("\n".join(lines), rng.choice(["news", "wiki"]), f"f:{i:04d}"))
    return found


def units_of(text: str, unit: str, min_characters: int) -> list[list[int]]:
    """The lines of each unit of a text without code."""
    groups: list[list[int]] = []
    before_is_blank = True
    for i, line in enumerate(text.split("\n")):
        if line.strip():
            if unit == "line" or before_is_blank:
                groups.append([])
            groups[-1].append(i)
        before_is_blank = not line.strip()
    return [group for group in groups if len(joined(text, group)) >= min_characters]


def joined(text: str, group: Sequence[int]) -> str:
    return "\n".join(text.split("\n")[i] for i in group).strip()


def form(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.split("\n"))


def trimmed(texts: Sequence[str], others: Sequence[str], config: LinesConfig) -> list[str | None]:
    """Each trimmed text, by plain Python; None if too little is left."""
    holders: dict[str, list[int]] = {}
    for number, text in enumerate([*others, *texts]):
        for key in {form(joined(text, g)) for g in units_of(text, config.unit, config.min_characters)}:
            holders.setdefault(key, []).append(number)
    left: list[str | None] = []
    for number, text in enumerate(texts, len(others)):
        gone: set[int] = set()
        for group in units_of(text, config.unit, config.min_characters):
            found = holders[form(joined(text, group))]
            if len(found) >= (config.min_documents or 0) and (config.keep == "none" or found[0] != number):
                gone |= set(group)
        kept: list[str] = []
        was_removed = False
        for i, line in enumerate(text.split("\n")):
            if i in gone or (was_removed and not line.strip() and not (kept and kept[-1].strip())):
                was_removed = True
            else:
                was_removed = was_removed and not line.strip()
                kept.append(line)
        while was_removed and kept and not kept[-1].strip():
            kept.pop()
        result = "\n".join(kept)
        left.append(None if gone and len(result.strip()) < config.min_left else result)
    return left


def texts_of(out: Path) -> list[str]:
    return [document.text for document in open_corpus(out).documents()]


def content(out: Path) -> dict[str, bytes]:
    """The contents of the files by name."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != MEMORY]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_of(tmp_path_factory.mktemp("lines") / "in", documents(300), 3)


@pytest.fixture(scope="module")
def straight(corpus: Path) -> Path:
    dedup([corpus], corpus.parent / "straight", CONFIG)
    return corpus.parent / "straight"


@pytest.mark.parametrize("unit", ["line", "paragraph"])
@pytest.mark.parametrize("keep", ["first", "none"])
@pytest.mark.parametrize(("min_documents", "min_characters", "min_left"), [(2, 0, 1), (3, 6, 20)])
def test_trimming_agrees_with_plain_python(
    unit: Any, keep: Any, min_documents: int, min_characters: int, min_left: int, tmp_path: Path
) -> None:
    """Every text loses exactly the units that enough documents share, those of --against included."""
    lines = LinesConfig(min_documents, unit, min_characters, keep, min_left)
    new, old = documents(120, seed=2), documents(40, seed=2)[20:]
    (tmp_path / "all").mkdir()
    one, against = corpus_of(tmp_path / "all" / "new", new), corpus_of(tmp_path / "all" / "old", old, 1)
    left = trimmed([d.text for d in new], [d.text for d in old], lines)
    config = replace(CONFIG, lines=lines, against=[str(against)])
    before = content(against)
    dedup([one], tmp_path / "out", config)
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "out" / "trimmed.parquet").to_pylist()}
    changed = {"new/" + d.id: text for d, text in zip(new, left, strict=True) if text != d.text}
    assert {name: row["removed"] for name, row in rows.items()} == {name: t is None for name, t in changed.items()}
    gone = {row["id"] for row in pq.read_table(tmp_path / "out" / "clusters.parquet").to_pylist() if row["removed"]}
    expected = {"new/" + d.id: text for d, text in zip(new, left, strict=True) if text is not None}
    found = {d.id: d.text for d in open_corpus(tmp_path / "out").documents()}
    assert found == {name: text for name, text in expected.items() if name not in gone}
    assert len(changed) >= 5 and content(against) == before


@pytest.mark.parametrize("partition_bytes", [3_000, 20_000])
def test_partitions_change_nothing(corpus: Path, straight: Path, tmp_path: Path, partition_bytes: int) -> None:
    """Every file is the same, byte for byte; `test_dedup_substrings` shows it for two workers."""
    dedup([corpus], tmp_path / "out", replace(CONFIG, work=WorkConfig(1, partition_bytes)))
    assert content(tmp_path / "out") == content(straight)


def test_row_groups_are_those_of_any_partition_size(tmp_path: Path) -> None:
    """A part of several row groups is cut, trimmed and written in the same way, however small the partitions are."""
    texts = [f"{i}\n{FOOTER}\n" + chr(0x4E00 + i) * (ROW_GROUP_CHARACTERS // 4) for i in range(12)]
    corpus = corpus_of(tmp_path / "in", texts, 1)
    for name, size in (("large", 1 << 26), ("small", 1 << 10)):
        dedup([corpus], tmp_path / name, replace(CONFIG, work=WorkConfig(1, size)))
    assert content(tmp_path / "large") == content(tmp_path / "small")
    assert sum(FOOTER in text for text in texts_of(tmp_path / "large")) == 1


@pytest.mark.parametrize("step", ["hash_units", "find_frequent", "trim"])
def test_an_interrupted_run_continues(
    step: str, corpus: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage stopped within a step ends with the same files, and does not repeat finished partitions."""
    out, config = tmp_path / "out", replace(CONFIG, work=WorkConfig(1, 3_000))
    work, calls = getattr(trimming, step), [0]

    def stopped(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return work(*arguments, **named)

    monkeypatch.setattr(trimming, step, stopped)
    with pytest.raises(KeyboardInterrupt):
        dedup([corpus], out, config)
    assert not (out / "corpus.json").exists()
    n_before = calls[0] - 1
    calls[0] = 2
    dedup([corpus], out, config)
    n_again = calls[0] - 2
    monkeypatch.undo()
    fresh = [0]
    monkeypatch.setattr(trimming, step, lambda *a, **k: (fresh.__setitem__(0, fresh[0] + 1), work(*a, **k))[1])
    dedup([corpus], tmp_path / "fresh", config)
    assert n_before + n_again == fresh[0]
    assert content(out) == content(tmp_path / "fresh") == content(straight)


def test_code_tables_and_short_lines_are_left_alone(tmp_path: Path) -> None:
    """Lines of code and rows of tables stay however many documents share them, as do short and blank lines."""
    table = "| 甲乙丙 | 丁戊己 |\n| --- | --- |\n| 一二三 | 四五六 |"
    shared = f"import numpy as np\nfor name in names:\n    print(name)\n\n{table}"
    texts = [
        f"第{i}篇文章的开头\n\n```python\nvalue = compute()\n```\n\n{shared}\n\n短句\n\n{FOOTER}" for i in "一二三"
    ]
    dedup([corpus_of(tmp_path / "in", texts)], tmp_path / "out", CONFIG)
    assert texts_of(tmp_path / "out") == [texts[0], *(text.removesuffix("\n\n" + FOOTER) for text in texts[1:])]


def test_later_steps_see_the_trimmed_text(tmp_path: Path) -> None:
    """Documents that are equal only without the repeated lines around them are found to be equal."""
    poem = "春眠不觉晓，处处闻啼鸟"
    menus = ["首页 新闻 体育 财经", "登录 注册 联系我们"]
    texts = [f"{menus[0]}\n{poem}{i // 2}" if i % 2 else f"{poem}{i // 2}\n{menus[1]}" for i in range(4)]
    config = replace(CONFIG, lines=replace(LINES, keep="none"))
    texts += [menus[0] + "\n甲乙丙丁", menus[1] + "\n戊己庚辛"]
    dedup([corpus_of(tmp_path / "in", texts)], tmp_path / "out", config)
    assert texts_of(tmp_path / "out") == ["甲乙丙丁", "戊己庚辛"]
    config = replace(config, lines=replace(config.lines, min_documents=3))
    dedup([tmp_path / "in"], tmp_path / "more", config)
    assert texts_of(tmp_path / "more") == [f"{poem}0", f"{poem}1", "甲乙丙丁", "戊己庚辛"]


def test_a_line_stays_in_the_first_input_unless_against_has_it(tmp_path: Path) -> None:
    """The first document in the order of the inputs keeps all its copies of a line, unless --against has the line."""
    texts = [f"{FOOTER}\n甲乙丙丁\n{FOOTER}", f"戊己庚辛\n{FOOTER}"]
    one, two = corpus_of(tmp_path / "one", texts[:1], 1), corpus_of(tmp_path / "two", texts[1:], 1)
    old = corpus_of(tmp_path / "old", [FOOTER], 1)
    dedup([one, two], tmp_path / "a", CONFIG)
    assert texts_of(tmp_path / "a") == [texts[0], "戊己庚辛"]
    dedup([two, one], tmp_path / "b", CONFIG)
    assert texts_of(tmp_path / "b") == [texts[1], "甲乙丙丁"]
    dedup([one, two], tmp_path / "c", replace(CONFIG, against=[str(old)]))
    assert texts_of(tmp_path / "c") == ["甲乙丙丁", "戊己庚辛"]


def test_the_report_counts_what_was_removed(tmp_path: Path) -> None:
    """Units, characters, documents trimmed and removed are counted by domain; the most frequent lines are shown."""
    rows = [Document(f"第{i}篇\n{FOOTER}", "news", f"a:{i}") for i in range(5)]
    rows += [Document(FOOTER, "wiki", "b:0"), Document("甲乙丙丁戊己", "wiki", "b:1")]
    out = tmp_path / "out"
    report = dedup([corpus_of(tmp_path / "in", rows)], out, CONFIG)
    assert report is not None
    table = report.tables[0]
    assert table.title.startswith("Lines and paragraphs") and [row[:5] for row in table.rows] == [
        ["news", 4, 4 * 11, 4, 0],
        ["wiki", 1, 10, 0, 1],
    ]
    facts = dict(report.facts)
    assert (facts["documents before"], facts["removed"], facts["documents after"]) == (7, 1, 6)
    assert facts["lines removed"] == 5 and facts["documents trimmed"] == 4
    tables = {table.title: table.rows for table in report.tables}
    assert ["wiki", 1, 0, 0, 1, 0.0] in tables["Removed of each domain"]
    assert report.examples
    (examples,) = report.to_json()["examples"]
    assert examples["items"] == [{"label": "removed from 5 documents", "texts": [FOOTER]}]
    lost = pq.read_table(out / "trimmed.parquet").to_pylist()
    assert lost[-1] == {"id": "b:0", "domain": "wiki", "units": 1, "characters": 10, "removed": True}


def test_a_part_that_loses_all_documents_stays_as_an_empty_file(tmp_path: Path) -> None:
    """Of two parts with the same lines, the second is left without a document; URLs stay."""
    rows = [Document(text, "web", name, "http://x/" + name) for name in "ab" for text in (FOOTER,)]
    dedup([corpus_of(tmp_path / "in", rows, 2)], tmp_path / "out", CONFIG)
    assert list(open_corpus(tmp_path / "out").documents()) == rows[:1]
    assert [len(part.domains) for part in open_corpus(tmp_path / "out").parts] == [1, 0]


def test_nothing_left_is_a_user_error(tmp_path: Path) -> None:
    """If all documents lose all lines, the reason is named and nothing is written."""
    config = replace(CONFIG, lines=replace(LINES, keep="none"))
    with pytest.raises(UserError, match=r"no document is left: all 2 records: keeps less than --lines\.min_left"):
        dedup([corpus_of(tmp_path / "in", [FOOTER, FOOTER])], tmp_path / "out", config)
    assert not (tmp_path / "out" / "corpus.json").exists()


@pytest.mark.parametrize(
    "flag", ["--lines.min_documents=1", "--lines.min_characters=-1", "--lines.min_left=0", "--lines.unit=word"]
)
def test_wrong_settings_are_named(flag: str, corpus: Path, tmp_path: Path) -> None:
    """An invalid value is refused in one line that names its flag."""
    with pytest.raises(UserError, match=flag.split("=")[0].removeprefix("--")) as refused:
        command.run(parse(command.Flags, [flag], prog="dedup"), str(corpus), str(tmp_path / "out"))
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=r"--lines\.min_documents=1: must be at least 2"):
        dedup([corpus], tmp_path / "out", replace(CONFIG, lines=LinesConfig(1)))


def test_a_corpus_made_with_all_lines_names_no_setting_of_lines(corpus: Path, tmp_path: Path) -> None:
    """Corpora made before lines could be removed are recognised: without the flag, the description has not changed."""
    out = tmp_path / "out"
    dedup([corpus], out, replace(CONFIG, lines=LinesConfig()))
    assert "lines" not in open_corpus(out).about["config"] and not (out / "trimmed.parquet").exists()
    assert dedup([corpus], out, replace(CONFIG, lines=LinesConfig(min_characters=3))) is None
    with pytest.raises(UserError, match="was made with other config"):
        dedup([corpus], out, CONFIG)
    shutil.rmtree(out)
