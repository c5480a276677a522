"""`babyllm dedup` from corpora to a corpus: which documents stay, for any number of workers and interruptions."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babyllm.commands.corpus import dedup as command
from babyllm.config import parse
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.integrity import MEMORY
from babyllm.pipeline.partitions import WorkConfig
from babyllm.store.corpus import open_corpus
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.near.shingles import ShingleConfig
from babyllm.text.dedup.normal import normal_form
from babyllm.text.dedup.stage import dedup
from tests.support.disk_fixtures import corpus_of

ONE = WorkConfig(workers=1)
CONFIG = DedupConfig(work=ONE)
STEPS = ("sketch", "exact", "minhash", "sets", "minhash-links", "keep")
# Runs the stage and kills itself as soon as a step has begun, or has finished a partition.
KILLED = """
import os, signal, sys, threading, time
from pathlib import Path
from babyllm.text.dedup.stage import dedup
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.pipeline.partitions import WorkConfig
corpus, out, mark = map(Path, sys.argv[1:])
def watch():
    while not mark.exists():
        time.sleep(0.0002)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
dedup([corpus], out, DedupConfig(work=WorkConfig(1, 20_000)))
"""


def documents(n: int, seed: int = 1) -> list[Document]:
    """Texts, a third of which repeat another, with edits or in another width."""
    rng = random.Random(seed)
    found: list[Document] = []
    for i in range(n):
        kind = rng.random() if found else 1.0
        text = rng.choice(found).text if kind < 0.35 else ""
        if kind < 0.25:
            letters = list(text)
            for _ in range(rng.randrange(4)):
                letters[rng.randrange(len(letters))] = chr(rng.randrange(0x4E00, 0x9FA0))
            text = "".join(letters)
        elif kind < 0.35:
            text = text.replace("，", " , ") + "。"
        else:
            text = "".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(rng.randrange(5, 120))) + "，x"
        found.append(Document(text, rng.choice(["news", "wiki"]), f"file.jsonl:{i * 7919 % 10007}"))
    return found


def texts_of(out: Path) -> list[str]:
    return [document.text for document in open_corpus(out).documents()]


def members(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "clusters.parquet").to_pylist()
    return rows


def content(out: Path) -> dict[str, bytes]:
    """The contents of the files by name, except what opening a corpus stores beside it, which contains times."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != MEMORY]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def shingle_set(text: str) -> set[str]:
    normal = normal_form(text)
    return {normal[i : i + 5] for i in range(max(1, len(normal) - 4))}


def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_of(tmp_path_factory.mktemp("corpus") / "in", documents(600))


@pytest.fixture(scope="module")
def straight(corpus: Path) -> Path:
    dedup([corpus], corpus.parent / "straight", CONFIG)
    return corpus.parent / "straight"


def test_clusters_are_the_closure_of_all_pairs_at_the_threshold(corpus: Path, straight: Path) -> None:
    """Clusters are connected by similar pairs; the longest document stays, of equal ones that with the smallest id."""
    everything = {d.id: d for d in open_corpus(corpus).documents()}
    part = {name: {name} for name in everything}
    sets = {name: shingle_set(document.text) for name, document in everything.items()}
    for a, b in combinations(everything, 2):
        if jaccard(sets[a], sets[b]) >= 0.85:
            union = part[a] | part[b]
            for name in union:
                part[name] = union
    survivor = {name: min(part[name], key=lambda i: (-len(everything[i].text), i)) for name in everything}
    rows = members(straight)
    assert {row["id"]: row["cluster"] for row in rows} == {n: s for n, s in survivor.items() if len(part[n]) > 1}
    assert all(row["removed"] == (row["id"] != row["cluster"]) for row in rows) and len(rows) > 150
    for row in rows:
        assert row["similarity"] == jaccard(sets[row["id"]], sets[row["neighbour"]])
        assert row["domain"] == everything[row["id"]].domain
    left = list(open_corpus(straight).documents())
    assert left == [d for d in everything.values() if survivor[d.id] == d.id]
    assert sum(count.characters for count in open_corpus(straight).domains().values()) == sum(len(d.text) for d in left)
    assert [part.file for part in open_corpus(straight).parts] == [part.file for part in open_corpus(corpus).parts]


@pytest.mark.parametrize(("workers", "partition_bytes"), [(1, 5_000), (2, 20_000), (4, 1 << 26)])
def test_workers_and_partitions_change_nothing(
    corpus: Path, straight: Path, tmp_path: Path, workers: int, partition_bytes: int
) -> None:
    """Every file is the same, byte for byte."""
    work = WorkConfig(workers=workers, partition_bytes=partition_bytes)
    dedup([corpus], tmp_path / "out", replace(CONFIG, work=work))
    assert content(tmp_path / "out") == content(straight)


@pytest.mark.slow
def test_a_run_killed_in_every_step_ends_as_an_undisturbed_one(corpus: Path, straight: Path, tmp_path: Path) -> None:
    """A stage killed when a step begins, or when its first partition is done, continues and writes the same files."""
    out = tmp_path / "out"
    for step in STEPS:
        mark = out / ".work" / step / ("00000" if step in ("sketch", "keep") else "")
        killed = subprocess.run([sys.executable, "-c", KILLED, str(corpus), str(out), str(mark)], capture_output=True)
        assert killed.returncode == -9, killed.stderr
        assert not (out / "corpus.json").exists()
    dedup([corpus], out, replace(CONFIG, work=WorkConfig(1, 20_000)))
    assert content(out) == content(straight)


def test_a_finished_corpus_is_left_alone(corpus: Path, straight: Path) -> None:
    """The same command does nothing again, with another number of workers, too; other settings are refused."""
    before = content(straight)
    assert dedup([corpus], straight, replace(CONFIG, work=WorkConfig(workers=3))) is None
    with pytest.raises(UserError, match=r"straight: was made with other config"):
        dedup([corpus], straight, replace(CONFIG, threshold=0.9))
    assert content(straight) == before and not (straight / ".work").exists()


def test_a_run_with_other_settings_uses_nothing_of_an_earlier_one(corpus: Path, tmp_path: Path) -> None:
    """The files of an interrupted run with another threshold and more partitions have no effect."""
    out, mark = tmp_path / "out", tmp_path / "out" / ".work" / "keep"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(corpus), str(out), str(mark)], capture_output=True)
    assert killed.returncode == -9, killed.stderr
    config = replace(CONFIG, threshold=0.6)
    dedup([corpus], out, config)
    dedup([corpus], tmp_path / "other", config)
    assert content(out) == content(tmp_path / "other")


def test_the_order_of_documents_changes_nothing(corpus: Path, straight: Path, tmp_path: Path) -> None:
    """Shuffled documents make the same clusters with the same survivors."""
    rows = list(open_corpus(corpus).documents())
    random.Random(2).shuffle(rows)
    dedup([corpus_of(tmp_path / "in", rows, n_parts=2)], tmp_path / "out", CONFIG)
    assert members(tmp_path / "out") == members(straight)


@pytest.mark.parametrize("near", [[], ["minhash"], ["simhash"], ["minhash", "simhash"]])
@pytest.mark.parametrize(
    "texts", [[""], ["", " \n"], ["", "。", "！", "天"], ["天地"] * 30, ["天地玄黄宇宙"], ["天", "天。", "地", "天地"]]
)
def test_corpora_with_hardly_any_text(texts: list[str], near: Any, tmp_path: Path) -> None:
    """One of equal texts stays; with near-duplicates, one of similar texts, too, but punctuation alone has none."""
    report = dedup([corpus_of(tmp_path / "in", texts, n_parts=1)], tmp_path / "out", replace(CONFIG, near=near))
    assert report is not None

    def key(text: str) -> str:
        return normal_form(text) if near and normal_form(text) else text.strip()

    assert sorted(map(key, texts_of(tmp_path / "out"))) == sorted(set(map(key, texts)))


def test_ten_thousand_similar_texts_are_one_cluster(tmp_path: Path) -> None:
    """A bucket of 10,000 texts that differ in one character each does not take quadratic time."""
    rng, base = random.Random(3), [chr(0x4E00 + i) for i in range(240)]
    texts = []
    for i in range(10_000):
        letters = list(base)
        letters[rng.randrange(240)] = chr(0x6000 + i)
        texts.append("".join(letters))
    dedup([corpus_of(tmp_path / "in", texts)], tmp_path / "out", CONFIG)
    assert texts_of(tmp_path / "out") == [texts[0]]


def test_of_several_corpora_the_first_may_be_kept(tmp_path: Path) -> None:
    """With keep=first a shorter document of an earlier corpus stays, else the longest; ids name the corpus."""
    text = "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少"
    one = corpus_of(tmp_path / "one", [text, "白日依山尽"], 1)
    two = corpus_of(tmp_path / "two", [text + "。", "举头望明月"], 1)
    dedup([one, two], tmp_path / "longest", CONFIG)
    assert texts_of(tmp_path / "longest") == ["白日依山尽", text + "。", "举头望明月"]
    dedup([one, two], tmp_path / "first", replace(CONFIG, keep="first"))
    assert texts_of(tmp_path / "first") == [text, "白日依山尽", "举头望明月"]
    ids = [document.id for document in open_corpus(tmp_path / "first").documents()]
    assert ids == ["one/000", "one/001", "two/001"]
    assert [row["cluster"] for row in members(tmp_path / "first")] == ["one/000"] * 2
    with pytest.raises(UserError, match="named twice"):
        dedup([one, one], tmp_path / "twice", CONFIG)


def test_documents_against_which_a_corpus_is_deduplicated_are_not_written(tmp_path: Path) -> None:
    """Documents of --against are removed from IN, even longer ones; repetitions within --against are not reported."""
    text = "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少"
    new = corpus_of(tmp_path / "new", [text + "！", "白日依山尽"], 1)
    old = corpus_of(tmp_path / "old", [text, "欲穷", "欲穷"], 1)
    dedup([new], tmp_path / "out", replace(CONFIG, against=[str(old)]))
    assert texts_of(tmp_path / "out") == ["白日依山尽"]
    rows = members(tmp_path / "out")
    assert [(row["id"], row["cluster"], row["removed"]) for row in rows] == [
        ("new/000", "old/000", True),
        ("old/000", "old/000", False),
    ]


@pytest.mark.parametrize("kind", ["words", "jieba"])
def test_shingles_may_be_of_words(kind: Any, tmp_path: Path) -> None:
    """English sentences with one of twenty words changed are similar by words at a lower threshold."""
    pytest.importorskip("jieba")
    words = [f"word{i}" for i in range(30)]
    texts = [" ".join(words), " ".join([*words[:29], "other"]), " ".join(reversed(words))]
    config = replace(CONFIG, threshold=0.8, shingles=ShingleConfig(kind, 2))
    dedup([corpus_of(tmp_path / "in", texts, 1)], tmp_path / "out", config)
    assert len(texts_of(tmp_path / "out")) == 2


@pytest.mark.parametrize("weights", ["equal", "tfidf"])
@pytest.mark.parametrize("bits", [64, 128])
def test_simhash_finds_long_texts_with_a_small_change(weights: Any, bits: Any, tmp_path: Path) -> None:
    """Copies of long texts that lack a character are removed, with any weights; links are verified."""
    rng = random.Random(5)
    long = ["".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(4000)) for _ in range(12)]
    copies = [text[:-1] for text in long]
    config = replace(CONFIG, near=["simhash"], simhash=replace(CONFIG.simhash, bits=bits, weights=weights))
    dedup([corpus_of(tmp_path / "in", [*long, *copies, "甲乙"])], tmp_path / "out", config)
    assert texts_of(tmp_path / "out") == [*long, "甲乙"]
    assert {row["method"] for row in members(tmp_path / "out") if row["removed"]} == {"simhash"}


def test_documents_with_an_ngram_of_an_evaluation_set_are_removed(tmp_path: Path) -> None:
    """Thirteen successive words suffice, in every kind of file and with any punctuation; twelve do not."""
    grams = {
        "a.csv": "北京大学是中国最著名的大学之一",
        "b.json": "the quick brown fox jumps over the lazy dog and then runs away",
        "c.jsonl": "一二三四五六七八九十甲乙丙丁",
        "d.txt": "金木水火土日月星辰山川河流海",
        "e.parquet": "东南西北上下左右前后内外中间",
    }
    folder = tmp_path / "eval"
    folder.mkdir()
    (folder / "a.csv").write_text(f"﻿,Question,A\n0,{grams['a.csv']},甲\n", encoding="utf-8")
    (folder / "b.json").write_text(json.dumps([{"q": {"text": [grams["b.json"]]}}]))
    (folder / "c.jsonl").write_text(json.dumps({"q": grams["c.jsonl"]}) + "\n\n" + json.dumps({"q": "短"}) + "\n")
    (folder / "d.txt").write_text(grams["d.txt"], encoding="utf-8")
    pq.write_table(pa.table({"q": [grams["e.parquet"]], "n": [1]}), folder / "e.parquet")
    dirty = [f"前言，{gram[:3]}{gram[3:]}。后记" for gram in grams.values()]
    clean = ["北京大学是中国最著名的大楼", "the quick brown fox jumps over the lazy dog and then", "短", "别的"]
    config = replace(CONFIG, decontaminate=[str(folder)])
    report = dedup([corpus_of(tmp_path / "in", [*dirty, *clean, dirty[0] + "。"])], tmp_path / "out", config)
    assert texts_of(tmp_path / "out") == clean
    rows = pq.read_table(tmp_path / "out" / "contaminated.parquet").to_pylist()
    assert [Path(row["file"]).name for row in rows] == [*grams, "a.csv"]
    assert [row["id"] for row in rows] == ["000", "001", "002", "003", "004", "009"]
    assert rows[2]["question"] == grams["c.jsonl"] and rows[2]["matches"] == 2
    assert report is not None
    rows = next(table.rows for table in report.tables if table.title == "Evaluation sets")
    assert [row[0] for row in rows] == list(grams) and sum(int(row[-1] or 0) for row in rows) == 6


@pytest.mark.parametrize(
    ("name", "text"), [("x.json", "{"), ("x.csv", '"a\nb"c\x00'), ("x.parquet", "no"), ("x.doc", "")]
)
def test_evaluation_files_that_cannot_be_read_are_named(name: str, text: str, corpus: Path, tmp_path: Path) -> None:
    """A damaged or unknown file is a user's error that names it."""
    (tmp_path / name).write_bytes(b"\xff" + text.encode() if name != "x.doc" else b"")
    with pytest.raises(UserError, match=name):
        dedup([corpus], tmp_path / "out", replace(CONFIG, decontaminate=[str(tmp_path / name)]))


def test_the_report_shows_which_domain_repeats_which(tmp_path: Path) -> None:
    """An anthology that repeats another is found in the table of domains, with examples side by side."""
    rng = random.Random(6)
    poems = ["".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(80)) for _ in range(40)]
    rows = [Document(text + "。", "songs", f"a:{i:02d}") for i, text in enumerate(poems)]
    rows += [Document(text[:79] + "也", "anthology", f"b:{i:02d}") for i, text in enumerate(poems[:30])]
    report = dedup([corpus_of(tmp_path / "in", rows)], tmp_path / "out", CONFIG)
    assert report is not None
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored == json.loads(json.dumps(report.to_json()))
    tables = {table["title"]: table["rows"] for table in stored["tables"]}
    assert tables["Which domain repeats which"] == [["anthology", "songs", 30, 1.0]]
    assert tables["Removed of each domain"] == [["anthology", 30, 30, 0, 0, 1.0], ["songs", 40, 0, 0, 40, 0.0]]
    assert tables["Clusters by size"] == [["2", 30, 60]]
    (examples,) = report.examples or ()
    assert examples.items[0].texts == [poems[0][:79] + "也", poems[0] + "。"]
    assert examples.items[0].label == f"similarity {75 / 77:.3f}: anthology | songs"
    assert poems[0] in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_the_command_prints_the_report(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Flags reach the stage; a second call reports that there is nothing to do; a wrong value is named."""
    flags = parse(command.Flags, ["--near=[]", "--work.workers=1"], prog="dedup")
    command.run(flags, str(corpus), str(tmp_path / "out"))
    printed = capsys.readouterr().out
    assert "Removed by" in printed and "minhash" not in printed and "report.html" in printed
    command.run(flags, str(corpus), str(tmp_path / "out"))
    assert "nothing to do" in capsys.readouterr().out
    for flag in ("--threshold=0", "--shingles.n=0", "--simhash.distance=9", "--minhash.recall=1"):
        with pytest.raises(UserError, match=flag.removeprefix("--")):
            command.run(parse(command.Flags, [flag], prog="dedup"), str(corpus), str(tmp_path / "wrong"))
    with pytest.raises(UserError, match=r"holds no corpus\.json"):
        command.run(flags, str(tmp_path / "out" / "nothing"), str(tmp_path / "wrong"))


@pytest.mark.slow
@pytest.mark.skipif("BABYLLM_DATA" not in os.environ, reason="needs BABYLLM_DATA")
def test_the_anthology_that_repeats_another_is_found(tmp_path: Path) -> None:
    """A fifth of the poems of the Yuding anthology are also in the Complete Tang Poems."""
    path = Path(os.environ["BABYLLM_DATA"]) / "corpora" / "chinese-poetry.parquet"
    columns = pq.read_table(path, columns=["text", "source", "id"]).to_pydict()
    rows = [
        Document(*row)
        for row in zip(*columns.values(), strict=True)
        if row[1] in ("quantangshi.tang", "yudingquantangshi")
    ]
    report = dedup([corpus_of(tmp_path / "in", rows)], tmp_path / "out", DedupConfig(work=WorkConfig(workers=2)))
    assert report is not None
    rows = next(table.rows for table in report.tables if table.title == "Which domain repeats which")
    assert list(rows[0][:2]) == ["yudingquantangshi", "quantangshi.tang"] and float(rows[0][3] or 0) > 0.2
