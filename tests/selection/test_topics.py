"""`babyllm topics`: topics found in a sample, given to all documents, and used as domains."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from model_fixtures import Tiny, decisive

from babyllm.__main__ import run
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.interop.huggingface import save_model
from babyllm.pipeline.partitions import WorkConfig
from babyllm.selection.numeric.importance import ImportanceConfig
from babyllm.selection.topics.topic_stage import find_topics
from babyllm.selection.topics.topics_config import TopicsConfig
from babyllm.selection.topics.word_vectors import fit_words, read_sample
from babyllm.store.corpus import open_corpus
from babyllm.store.shards import open_tokens
from babyllm.text.takedowns import take_down
from babyllm.tokenizer import Tokenizer
from tests.support.disk_fixtures import corpus_of

WORDS = {
    "sport": ["比赛", "球队", "进球", "教练", "联赛", "冠军", "球员"],
    "money": ["股票", "市场", "投资", "银行", "利率", "基金", "经济"],
    "food": ["recipe ", "oven ", "butter ", "sugar ", "flour ", "bake ", "cake "],
}
CONFIG = TopicsConfig(n=3, dimensions=8, work=WorkConfig(1, 20_000))


def documents(seed: int, n: int = 90) -> list[Document]:
    """Documents about three things, half as many of each as of the one before; their ids say about which."""
    rng, found = random.Random(seed), list[Document]()
    for i in range(n):
        kind = "sport" if i % 7 < 4 else "money" if i % 7 < 6 else "food"
        found.append(Document("".join(rng.choices(WORDS[kind], k=20)), ("news", "web")[i % 2], f"{kind}:{i}"))
    return found


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_of(tmp_path_factory.mktemp("topics") / "corpus", [*documents(1), Document("……！", "web", "none:0")])


@pytest.fixture(scope="module")
def found(three: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("found") / "out"
    find_topics([three], out, CONFIG)
    return out


def topics_of(out: Path) -> dict[str, Any]:
    return {row["id"]: row["topic"] for row in pq.read_table(out / "topics.parquet").to_pylist()}


def test_what_is_alike_has_one_topic(three: Path, found: Path) -> None:
    """Each planted group is a topic, the largest first, with words of its own; texts stay, domains are topics."""
    names = {"sport": "topic-0", "money": "topic-1", "food": "topic-2", "none": "topic-none"}
    topics = topics_of(found)
    assert topics == {place: names[place.partition(":")[0]] for place in topics} and len(topics) == 91
    before, after = (list(open_corpus(place).documents()) for place in (three, found))
    assert [(d.id, d.text) for d in after] == [(d.id, d.text) for d in before]
    assert [d.domain for d in after] == [topics[d.id] for d in after]
    tables = json.loads((found / "report.json").read_text(encoding="utf-8"))["tables"]
    for row, kind in zip(tables[0]["rows"], WORDS, strict=False):
        shown = row[-1].split(", ")
        assert len(shown) == 8 and {word.strip() for word in WORDS[kind]} & set(shown)
    pairs = {(row[0], row[1]): row[2] for row in tables[1]["rows"]}
    assert sum(pairs.values()) == 91 and pairs["web", "topic-none"] == 1


def test_workers_change_nothing_and_topics_become_domains_of_tokens(
    three: Path, found: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Two workers write the same bytes; a second call does nothing; `tokenize` makes a domain of each topic."""
    run(
        [
            "topics",
            str(three),
            str(tmp_path / "out"),
            "--n=3",
            "--dimensions=8",
            "--work.workers=2",
            "--work.partition_bytes=20000",
        ]
    )
    for file in [*found.glob("*.parquet"), found / "topics.npz"]:
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes(), file
    assert find_topics([three], tmp_path / "out", CONFIG) is None
    tokenizer.save(tmp_path / "tokenizer")
    run(["tokenize", str(found), str(tmp_path / "tokens"), f"--tokenizer={tmp_path / 'tokenizer'}", "--work.workers=1"])
    assert open_tokens(tmp_path / "tokens").domains("train")[:3] == ["topic-0", "topic-1", "topic-2"]


def test_a_later_corpus_gets_the_same_topics(found: Path, tmp_path: Path) -> None:
    """With --like a text has the topic it would have had, beside its domain if wanted; takedowns are obeyed."""
    later = corpus_of(tmp_path / "later", documents(2, 30))
    take_down(later, [{"id": "sport:0"}])
    out = tmp_path / "out"
    run(["topics", str(later), str(out), f"--like={found}", "--domains=both", "--work.workers=1"])
    topics = topics_of(out)
    assert len(topics) == 29 and "sport:0" not in topics
    assert {(place.partition(":")[0], topic) for place, topic in topics.items()} == {
        *(("sport", "topic-0"), ("money", "topic-1"), ("food", "topic-2"))
    }
    assert set(open_corpus(out).domains()) == {f"{d}/topic-{i}" for d in ("news", "web") for i in range(3)}
    assert (out / "topics.npz").read_bytes() == (found / "topics.npz").read_bytes()


def test_hidden_states_in_place_of_words(three: Path, tmp_path: Path, tiny: Tiny, tokenizer: Tokenizer) -> None:
    """With --model each document has a topic by the model's mean hidden states, and --like needs the same model."""
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", decisive(tiny(vocab_size=tokenizer.vocab_size, max_seq_len=64)), tokenizer)
    out, model = tmp_path / "out", f"--model={tmp_path / 'model'}"
    flags = ["--n=3", "--domains=same", "--runtime.device=cpu", "--runtime.dtype=float32"]
    run(["topics", str(three), str(out), model, *flags])
    topics = topics_of(out)
    assert set(topics.values()) == {"topic-0", "topic-1", "topic-2"}
    assert set(open_corpus(out).domains()) == {"news", "web"}
    run(["topics", str(three), str(tmp_path / "again"), model, *flags, f"--like={out}"])
    assert topics_of(tmp_path / "again") == topics
    with pytest.raises(UserError, match="its topics were found with a --model"):
        run(["topics", str(three), str(tmp_path / "words"), f"--like={out}"])


def test_the_directions_are_those_of_the_decomposition() -> None:
    """Distances of projected vectors are those of the exact singular vectors of the weighted counts."""
    hashing = ImportanceConfig(buckets=4096, grams=2)
    texts = [document.text for document in documents(3, 60)]
    words = fit_words(read_sample(texts, hashing), hashing, dimensions=3, least=2, seed=1)
    rows = np.zeros((60, 4096))
    sample = read_sample(texts, hashing)
    for i in range(60):
        mine = slice(sample.offsets[i], sample.offsets[i + 1])
        rows[i, sample.buckets[mine]] = 1 + np.log(sample.counts[mine])
    held = (rows > 0).sum(0)
    rows *= np.where((held >= 2) & (held < 60), np.log(60 / np.maximum(held, 1)), 0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    exact = rows @ np.linalg.svd(rows, full_matrices=False)[2][:3].T
    vectors = words.vectors(texts)
    np.testing.assert_allclose(vectors @ vectors.T, exact @ exact.T, atol=5e-3)
    np.testing.assert_array_equal(words.vectors(texts[7:8])[0], vectors[7])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n=92"], "--n=92: the sample has 90 documents with words; ask for fewer topics"),
        (["--like={here}"], "topics.npz cannot be read"),
    ],
)
def test_wrong_settings_are_named(three: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    """More topics than documents, and a directory without topics, end with one line that names the flag."""
    (tmp_path / "here").mkdir()
    with pytest.raises(UserError, match=message):
        run(
            [
                "topics",
                str(three),
                str(tmp_path / "out"),
                "--work.workers=1",
                *(f.format(here=tmp_path / "here") for f in flags),
            ]
        )
