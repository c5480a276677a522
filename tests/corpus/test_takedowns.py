"""Takedowns: recorded lines that clean, dedup, select and tokenize obey."""

import json
from pathlib import Path

import pytest

from babyllm.commands.corpus import takedown
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.report import Report
from babyllm.prepare.tokens import tokenize
from babyllm.prepare.vocabulary import learn_vocabulary
from babyllm.prepare.vocabulary_config import VocabularyConfig
from babyllm.selection.select_config import SelectConfig
from babyllm.selection.select_documents import select_documents
from babyllm.store.corpus import open_corpus
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.stage import clean
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.stage import dedup
from babyllm.text.dedup.units import LinesConfig
from babyllm.text.takedowns import LIST, content_hash, find_takedowns
from babyllm.tokenizer import Tokenizer
from tests.support.disk_fixtures import corpus_of, store_corpus

ONE = WorkConfig(1)
TEXTS = [
    "今天天气很好，我们去公园。",
    "第二篇文章在这里。",
    "The third document\n\n\nhas three lines.",
    "第四篇。",
    "第五篇文章。",
]
DOCUMENTS = [
    Document(text, "web", f"crawl/a.jsonl:{i}", f"https://example.org/{i}" if i % 2 else "")
    for i, text in enumerate(TEXTS)
]
LEFT = [TEXTS[i] for i in (3, 4)]


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A corpus with a list that names a document by id, one by url and one by a text with other whitespace."""
    place = store_corpus(tmp_path / "corpus", [DOCUMENTS[:2], DOCUMENTS[2:]])
    takedown.run(takedown.Flags(id=["crawl/a.jsonl:0"], why="asked for"), str(place))
    with (place / LIST).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"url": "https://example.org/1"}))  # by hand, without a line break
    takedown.run(takedown.Flags(text=["The  third document \r\n\r\nhas three lines."]), str(place))
    return place


def texts_of(out: Path) -> list[str]:
    return [document.text for document in open_corpus(out).documents()]


def test_a_line_names_documents_and_never_holds_a_text(listed: Path) -> None:
    """The command records ids, urls and hashes with the reason."""
    lines = [json.loads(line) for line in (listed / LIST).read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"id": "crawl/a.jsonl:0", "why": "asked for"},
        {"url": "https://example.org/1"},
        {"hash": content_hash(TEXTS[2])},
    ]


def test_clean_dedup_and_select_leave_out_what_the_lists_of_their_inputs_name(listed: Path, tmp_path: Path) -> None:
    """Each stage that reads the corpus leaves the documents out, and its report counts them."""
    reports: dict[str, Report | None] = {
        "clean": clean([listed], tmp_path / "clean", CleanConfig(filters=[]), work=ONE),
        "dedup": dedup([listed], tmp_path / "dedup", DedupConfig(work=ONE)),
        "select": select_documents([listed], tmp_path / "select", SelectConfig(work=ONE)),
    }
    for name, report in reports.items():
        assert report is not None and texts_of(tmp_path / name) == LEFT, name
        assert "taken down" in json.dumps(report.to_json()), name
    rejected = [json.loads(line) for line in (tmp_path / "clean" / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert [(row["reason"], row["excerpt"]) for row in rejected] == [("taken down", "")] * 3


@pytest.mark.parametrize("is_corpus", [True, False])
def test_tokenize_leaves_them_out(listed: Path, tmp_path: Path, is_corpus: bool, tokenizer: Tokenizer) -> None:
    """So do the tokens of a corpus, and those of raw files with a list that a setting names."""
    source, named = listed, list[Path]()
    if not is_corpus:
        (tmp_path / "raw").mkdir()
        source, named = tmp_path / "raw" / "a.jsonl", [listed]
        rows = [{"text": d.text, "id": d.id, "url": d.url} for d in DOCUMENTS]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = tokenize([source], tokenizer, tmp_path / "tokens", held_out=0.0, work=ONE, takedowns=named)
    assert report is not None
    n_taken = 3 if is_corpus else 2  # a raw file has ids of its own
    assert (dict(report.facts)["documents"], dict(report.facts)["rejected: taken down"]) == (5 - n_taken, n_taken)


def test_a_tokenizer_is_trained_without_them(listed: Path, tmp_path: Path) -> None:
    """The letters of the document in English do not become tokens, whether a setting or the corpus names it."""
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 20), encoding="utf-8")
    config = VocabularyConfig(2000, "char", character_coverage=1.0, hard_vocab_limit=False, held_out=0.0)
    for number, (source, named) in enumerate([(listed, []), (raw, [listed]), (raw, list[Path]())]):
        out = tmp_path / str(number)
        assert learn_vocabulary([source], out, config, work=ONE, takedowns=named)
        learned = Tokenizer.load(out)
        letters = [learned.token_bytes(token) for token in range(learned.vocab_size)]
        assert letters.count(b"T") == 1 + (number == 2)  # one is the byte
        assert learn_vocabulary([source], out, config, work=ONE, takedowns=named) is None
    with pytest.raises(UserError, match="takedowns"):
        learn_vocabulary([raw], tmp_path / "2", config, work=ONE, takedowns=[listed])


def test_they_are_recognised_before_lines_are_removed(tmp_path: Path) -> None:
    """A document named by its text neither loses the line that it shares with others nor keeps it for them."""
    texts = [f"所有文章共有的一行文字。\n{text * 5}" for text in "甲乙丙"]
    corpus = corpus_of(tmp_path / "corpus", texts, 1)
    takedown.run(takedown.Flags(text=[texts[0]]), str(corpus))
    report = dedup([corpus], tmp_path / "out", DedupConfig(lines=LinesConfig(2), work=ONE))
    assert report is not None and dict(report.facts)["taken down"] == 1
    assert texts_of(tmp_path / "out") == [texts[1], "丙" * 5]


def test_a_result_made_before_a_takedown_is_not_passed_off_as_complete(listed: Path, tmp_path: Path) -> None:
    """Once a line is added, the same command names the takedowns that its result lacks."""
    config = DedupConfig(work=ONE)
    dedup([listed], tmp_path / "out", config)
    assert dedup([listed], tmp_path / "out", config) is None
    takedown.run(takedown.Flags(id=["crawl/a.jsonl:4"]), str(listed))
    with pytest.raises(UserError, match="was made with other takedowns"):
        dedup([listed], tmp_path / "out", config)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "takedowns.jsonl:1: not a line of JSON"),
        ('{"why": "x"}', "takedowns.jsonl:1: names no document"),
        ('{"id": 3}', "takedowns.jsonl:1: names no document"),
        ('{"hash": "12"}', "takedowns.jsonl:1: hash 12 is not one of 32 hexadecimal digits"),
    ],
)
def test_lines_that_name_nothing_are_refused(tmp_path: Path, line: str, message: str) -> None:
    """The message names the line, so that no takedown is lost by a slip."""
    (tmp_path / LIST).write_text(line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        find_takedowns([tmp_path])
    with pytest.raises(UserError, match=r"holds no takedowns\.jsonl"):
        find_takedowns([], [tmp_path / "none"])
