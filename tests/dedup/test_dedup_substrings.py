"""Spans of characters that repeat, removed by `babyllm dedup --substrings` from the documents that stay."""

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babyllm.commands.corpus import dedup as command
from babyllm.config import parse
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.integrity import MEMORY
from babyllm.pipeline.partitions import WorkConfig
from babyllm.store.corpus import open_corpus
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.stage import dedup
from babyllm.text.dedup.substrings import cutting, fingerprints
from babyllm.text.dedup.substrings.cutting import without
from babyllm.text.dedup.substrings.substrings_config import SubstringsConfig
from babyllm.text.dedup.units import LinesConfig
from tests.support.disk_fixtures import corpus_of

SUBSTRINGS = SubstringsConfig(min_characters=10, min_left=1)
CONFIG = DedupConfig(near=[], substrings=SUBSTRINGS, work=WorkConfig(workers=1))
NOTICE = "版权所有，未经许可不得转载或翻印。"
PIECES = ["a", "b", "\n", " \t", "ab" * 5, "a" * 12, "春眠不觉晓处处闻啼鸟", "夜来风雨声花落知多少", "the same words"]
TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), min_size=1, max_size=7)


def removed_from(texts: Sequence[str], n: int, keep: str) -> list[list[tuple[int, int]]]:
    """The spans that each text loses, by plain Python: all that equal windows without overlap cover."""
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, text in enumerate(texts):
        form = re.sub(r"\s", " ", text)
        for i in range(len(form) - n + 1):
            places[form[i : i + n]].append((number, i))
    lost: list[set[int]] = [set() for _ in texts]
    for found in places.values():
        for place in found:
            apart = [other for other in found if other[0] != place[0] or abs(other[1] - place[1]) >= n]
            if any(keep == "none" or other < place for other in apart):
                lost[place[0]] |= set(range(place[1], place[1] + n))
    return [spans_of(characters) for characters in lost]


def spans_of(characters: set[int]) -> list[tuple[int, int]]:
    starts = sorted(i for i in characters if i - 1 not in characters)
    stops = sorted(i + 1 for i in characters if i + 1 not in characters)
    return list(zip(starts, stops, strict=True))


def texts_of(out: Path) -> list[str]:
    return [document.text for document in open_corpus(out).documents()]


def content(out: Path) -> dict[str, bytes]:
    """The contents of the files by name."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != MEMORY]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def random_text(rng: random.Random, n: int) -> str:
    """Chinese or English words."""
    if rng.random() < 0.5:
        return "".join(chr(0x4E00 + rng.randrange(3000)) for _ in range(n))
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz  ") for _ in range(n))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of many lengths with many common spans, in four parts."""
    rng = random.Random(3)
    common = [random_text(rng, rng.randrange(8, 60)) for _ in range(20)]
    texts = ["".join(rng.choice([rng.choice(common), random_text(rng, 15)]) for _ in range(6)) for _ in range(120)]
    return corpus_of(tmp_path_factory.mktemp("substrings") / "in", texts, 4)


@pytest.fixture(scope="module")
def straight(corpus: Path) -> Path:
    dedup([corpus], corpus.parent / "straight", CONFIG)
    return corpus.parent / "straight"


@pytest.mark.parametrize("keep", ["first", "none"])
@settings(max_examples=25, deadline=None)
@given(new=TEXTS, old=st.one_of(st.just([]), TEXTS), windows_at_once=st.sampled_from([3, 1000]))
def test_removal_agrees_with_plain_python(keep: Any, new: list[str], old: list[str], windows_at_once: int) -> None:
    """Every text loses exactly the characters of windows that occur before (or elsewhere), those of --against too."""
    new = ["".join(map(chr, range(0x5000, 0x5040))), *(f"{text}@{i}" for i, text in enumerate(new))]
    old = [f"{text}#{i}" for i, text in enumerate(old)]
    spans = removed_from([*old, *new], 10, keep)[len(old) :]
    left = [without(text, of_text) for text, of_text in zip(new, spans, strict=True)]
    expected = [text for text, of_text in zip(left, spans, strict=True) if not of_text or len(text.strip()) >= 3]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprints, "WINDOWS_AT_ONCE", windows_at_once)
        against = [str(corpus_of(Path(folder, "old"), old, 1))] if old else []
        config = replace(CONFIG, against=against, substrings=SubstringsConfig(10, keep, 3))
        dedup([corpus_of(Path(folder, "new"), new, 2)], Path(folder, "out"), config)
        assert texts_of(Path(folder, "out")) == expected
        rows = pq.read_table(Path(folder, "out", "substrings.parquet")).to_pylist()
    changed = [(len(of_text), text) for text, of_text in zip(left, spans, strict=True) if of_text]
    assert [(row["units"], row["removed"]) for row in rows] == [(n, len(text.strip()) < 3) for n, text in changed]


def test_planted_repeats_of_50_characters_are_all_found(tmp_path: Path) -> None:
    """Each of 300 spans planted twice, in Chinese and English, stays only at its first place; nothing else is lost."""
    rng = random.Random(5)
    planted = [random_text(rng, 50) for _ in range(300)]
    order = [*planted, *rng.sample(planted, len(planted))]
    marks = ["【】"] * 300 + ["《》"] * 300
    texts = [
        random_text(rng, rng.randrange(40)) + mark[0] + span + mark[1] + random_text(rng, 30)
        for mark, span in zip(marks, order, strict=True)
    ]
    config = replace(CONFIG, substrings=SubstringsConfig(50), near=["minhash"])
    dedup([corpus_of(tmp_path / "in", texts)], tmp_path / "out", config)
    cut = [text.replace(span, "") for text, span in zip(texts[300:], order[300:], strict=True)]
    assert texts_of(tmp_path / "out") == [*texts[:300], *cut]


@pytest.mark.parametrize("step", ["mark_segments", "mark_windows", "settle", "cut_part"])
def test_an_interrupted_run_continues(
    step: str, corpus: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage stopped within a step ends with the same files, even if it goes on with other partitions."""
    work, calls = getattr(cutting, step), [0]

    def stopped(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return work(*arguments, **named)

    monkeypatch.setattr(cutting, step, stopped)
    with pytest.raises(KeyboardInterrupt):
        dedup([corpus], tmp_path / "out", replace(CONFIG, work=WorkConfig(1, 40_000)))
    assert not (tmp_path / "out" / "corpus.json").exists()
    dedup([corpus], tmp_path / "out", replace(CONFIG, work=WorkConfig(1, 3_000)))
    assert content(tmp_path / "out") == content(straight)


def test_workers_change_nothing(corpus: Path, tmp_path: Path) -> None:
    """Every file is the same, byte for byte, with two processes and small partitions, also if lines are removed."""
    config = replace(CONFIG, lines=LinesConfig(2, min_characters=4))
    for name, work in (("one", WorkConfig(1)), ("two", WorkConfig(2, 20_000))):
        dedup([corpus], tmp_path / name, replace(config, work=work))
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_line_repeated_many_times_is_passed_on_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that repeats within a slice adds a bounded number of keys, however often it occurs."""
    work, counts = cutting.mark_segments, list[int]()

    def counted(*arguments: Any, **named: Any) -> Any:
        counts.append(work(*arguments, **named))
        return counts[-1]

    monkeypatch.setattr(cutting, "mark_segments", counted)
    for n in (100, 20_000):
        texts = [(NOTICE + "\n") * n + "甲乙丙丁", "戊己庚辛" + (NOTICE + "\n") * n, "一" * n]
        dedup([corpus_of(tmp_path / f"in{n}", texts, 1)], tmp_path / f"out{n}", CONFIG)
        assert texts_of(tmp_path / f"out{n}") == [NOTICE + "\n甲乙丙丁", "戊己庚辛", "一" * 10]
    assert counts[1] <= counts[0] + 20


def test_the_first_occurrence_stays_unless_against_has_it(tmp_path: Path) -> None:
    """The first input in the order given keeps a span; with --against or keep=none, no input does."""
    texts = [f"甲乙丙丁{NOTICE}", f"{NOTICE}戊己庚辛"]
    one, two = corpus_of(tmp_path / "one", texts[:1], 1), corpus_of(tmp_path / "two", texts[1:], 1)
    old = corpus_of(tmp_path / "old", [f"子丑寅卯{NOTICE}辰巳"], 1)
    cases = {
        "a": ([one, two], CONFIG, [texts[0], "戊己庚辛"]),
        "b": ([two, one], CONFIG, [texts[1], "甲乙丙丁"]),
        "c": ([one, two], replace(CONFIG, against=[str(old)]), ["甲乙丙丁", "戊己庚辛"]),
        "d": ([one, two], replace(CONFIG, substrings=replace(SUBSTRINGS, keep="none")), ["甲乙丙丁", "戊己庚辛"]),
    }
    for name, (inputs, config, expected) in cases.items():
        dedup(inputs, tmp_path / name, config)
        assert texts_of(tmp_path / name) == expected


def test_spans_are_compared_without_what_fold_says(tmp_path: Path) -> None:
    """Whitespace is always equal; case, width and punctuation are with their fold."""
    texts = ["The quick brown fox, jumps\nover it", "1 THE QUICK BROWN FOX， JUMPS OVER IT 2"]
    corpus = corpus_of(tmp_path / "in", [*texts, "again: The quick\tbrown fox"], 1)
    dedup([corpus], tmp_path / "plain", CONFIG)
    assert texts_of(tmp_path / "plain") == [*texts, "again:"]
    dedup([corpus], tmp_path / "fold", replace(CONFIG, fold=["case", "width", "punctuation"]))
    assert texts_of(tmp_path / "fold") == [texts[0], "1 2", "again:"]


def test_spans_are_looked_for_among_the_documents_that_stay(tmp_path: Path) -> None:
    """A near-duplicate is removed as a whole and not cut; a span that only removed documents share stays."""
    rng = random.Random(7)
    poem, other = (random_text(random.Random(seed), 200) for seed in (11, 12))
    texts = [poem + NOTICE[:3], poem + NOTICE + random_text(rng, 5), other + NOTICE[3:8]]
    config = replace(CONFIG, near=["minhash"], threshold=0.7)
    dedup([corpus_of(tmp_path / "in", texts)], tmp_path / "out", config)
    assert texts_of(tmp_path / "out") == texts[1:]


@pytest.mark.parametrize(
    ("text", "removed", "left"),
    [
        ("abcdef", [(2, 4)], "abef"),
        ("ab  cd\n\nef", [(4, 6)], "ab\n\nef"),
        ("ab\ncd ef", [(3, 5)], "ab\nef"),
        (" ab cd ", [(4, 6)], " ab"),
        (" ab cd ", [(1, 3)], "cd "),
        ("ab cd ", [(3, 6)], "ab"),
        ("ab", [(0, 2)], ""),
        ("ab \n cd", [(0, 2), (5, 7)], ""),
        ("abXcdYef", [(2, 3), (5, 6)], "abcdef"),
        ("ab X\n Y cd", [(3, 4), (6, 7)], "ab\n cd"),
    ],
)
def test_the_whitespace_on_both_sides_of_a_span_becomes_one(
    text: str, removed: list[tuple[int, int]], left: str
) -> None:
    """Of the gaps at a span, the one with more line breaks stays, then the longer; what is beside them is joined."""
    assert without(text, removed) == left


def test_the_report_counts_what_was_removed(tmp_path: Path) -> None:
    """Spans, characters, documents cut and removed are counted by domain, and the longest spans are shown."""
    rows = [Document(f"这是第{i}篇\n{NOTICE}", "news", f"a:{i}") for i in range(3)]
    rows += [Document(NOTICE + "完", "wiki", "b:0"), Document("甲乙丙丁戊己", "wiki", "b:1")]
    config = replace(CONFIG, substrings=replace(SUBSTRINGS, min_left=3))
    report = dedup([corpus_of(tmp_path / "in", rows)], tmp_path / "out", config)
    assert report is not None
    (table,) = [table for table in report.tables if table.title.startswith("Spans")]
    assert [row[:5] for row in table.rows] == [["news", 2, 2 * 19, 2, 0], ["wiki", 1, 18, 0, 1]]
    facts = dict(report.facts)
    assert (facts["documents before"], facts["removed"], facts["documents after"]) == (5, 1, 4)
    assert (facts["spans removed"], facts["documents cut"]) == (3, 2)
    (examples,) = report.to_json()["examples"]
    assert [item["label"] for item in examples["items"]] == ["19 characters", "17 characters"]
    lost = pq.read_table(tmp_path / "out" / "substrings.parquet").to_pylist()
    assert lost[-1] == {"id": "b:0", "domain": "wiki", "units": 1, "characters": 18, "removed": True}
    assert sum(part.domains["wiki"].documents for part in open_corpus(tmp_path / "out").parts if "wiki" in part.domains)


def test_nothing_left_is_a_user_error(tmp_path: Path) -> None:
    """If all documents are too short without their spans, the reason is named and nothing is written."""
    config = replace(CONFIG, substrings=SubstringsConfig(10, "none"))
    with pytest.raises(UserError, match=r"no document is left: all 2 records: keeps less than --substrings\.min_left"):
        dedup([corpus_of(tmp_path / "in", [NOTICE + "甲", NOTICE + "乙"])], tmp_path / "out", config)
    assert not (tmp_path / "out" / "corpus.json").exists()


@pytest.mark.parametrize("flag", ["--substrings.min_characters=9", "--substrings.keep=all", "--substrings.min_left=0"])
def test_wrong_settings_are_named(flag: str, corpus: Path, tmp_path: Path) -> None:
    """An invalid value is refused in one line that names its flag."""
    with pytest.raises(UserError, match=flag.split("=")[0].removeprefix("--")) as refused:
        command.run(parse(command.Flags, [flag], prog="dedup"), str(corpus), str(tmp_path / "out"))
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=r"--substrings\.min_characters=1: must be at least 10"):
        dedup([corpus], tmp_path / "out", replace(CONFIG, substrings=SubstringsConfig(1)))


def test_a_corpus_made_without_substrings_names_no_setting_of_them(corpus: Path, tmp_path: Path) -> None:
    """Corpora made before spans could be removed are recognised: without the flag, the description has not changed."""
    out = tmp_path / "out"
    dedup([corpus], out, replace(CONFIG, substrings=SubstringsConfig()))
    assert "substrings" not in open_corpus(out).about["config"] and not (out / "substrings.parquet").exists()
    assert dedup([corpus], out, replace(CONFIG, substrings=SubstringsConfig(min_left=3))) is None
    with pytest.raises(UserError, match="was made with other config"):
        dedup([corpus], out, CONFIG)
