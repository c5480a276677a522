"""The measures of difficulty, each against a direct computation, and how a run stores them."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from training_fixtures import CPU

from babyllm.data.difficulty.given_numbers import given_numbers
from babyllm.data.difficulty.gram_rarity import rarity
from babyllm.data.difficulty.parts_of_speech import n_parts_of_speech
from babyllm.data.difficulty.row_difficulty import NUMBERS, Measured, difficulty
from babyllm.data.difficulty.text_lengths import text_lengths
from babyllm.data.row_config import CompetenceConfig
from babyllm.data.rows.arrays import RowArrays
from babyllm.data.token_config import DataConfig
from babyllm.data.token_data import PretrainingData, open_pretraining_data
from babyllm.errors import UserError
from babyllm.runtime import Runtime, start
from babyllm.tokenizer import Tokenizer


class Given:
    """Rows of given ids, padded with 0."""

    def __init__(self, ids: list[list[int]]) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([len(self._ids[i]) for i in indices], np.int64)

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        width = max(map(len, self._ids), default=0)
        tokens = np.array([self._ids[i] + [0] * (width - len(self._ids[i])) for i in indices], np.int64)
        return RowArrays({"tokens": tokens, "targets": tokens})


def directly(rows: list[list[int]], n: int) -> list[float]:
    """Minus the mean log of count over all grams, gram by gram."""
    grams = [[tuple(row[i : i + n]) for i in range(len(row) - n + 1)] for row in rows]
    counts = Counter(gram for of_row in grams for gram in of_row)
    total = counts.total()
    return [-sum(math.log(counts[g] / total) for g in of_row) / len(of_row) if of_row else 0.0 for of_row in grams]


@given(rows=st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=30), n=st.integers(1, 3))
def test_rarity_is_the_mean_log_of_the_share_of_each_gram(rows: list[list[int]], n: int) -> None:
    """The value of a row is that of a direct count, with all grams in one table and with the table in parts."""
    assert rarity(Given(rows), n, 10).tolist() == pytest.approx(directly(rows, n), abs=1e-12)
    assert rarity(Given(rows), n, 10, max_grams=3).tolist() == pytest.approx(directly(rows, n), abs=1e-12)


def test_rarity_counts_a_stream_of_many_chunks(token_dir: Path) -> None:
    """The trigrams of a corpus have the same rarity whether they are counted together or 500 different ones at once."""
    windows = opened(token_dir).windows(8)
    together = rarity(windows, 3, 400)
    assert together.tolist() == pytest.approx(rarity(windows, 3, 400, max_grams=500).tolist(), abs=1e-12)
    rows = windows.rows(np.arange(len(windows)))["tokens"]
    lengths = windows.lengths(np.arange(len(windows)))
    ids = [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]
    assert together.tolist() == pytest.approx(directly(ids, 3), abs=1e-12)


def test_grams_that_do_not_fit_are_refused() -> None:
    """Trigrams of a vocabulary above 64 bits are an error that names what to choose."""
    with pytest.raises(
        UserError, match=r"data\.curriculum\.by: runs of 3 tokens .* 3,000,000; choose unigram or bigram"
    ):
        rarity(Given([[1, 2, 3]]), 3, 3_000_000)


@pytest.fixture(scope="module")
def runtime() -> Any:
    with start(CPU) as started:
        yield started


def opened(path: Path) -> PretrainingData:
    return open_pretraining_data(DataConfig(path=str(path), seq_len=8))


def test_the_length_of_a_window_is_that_of_its_documents(token_dir: Path) -> None:
    """Each token counts the length of its document, across the borders of shards and windows."""
    data = opened(token_dir)
    stream = data.tokens.stream("train")
    ids = stream.read(0, len(stream)).tolist()
    length_of: list[int] = []
    document = 0
    for token in ids:
        document += 1
        if token == data.tokens.manifest.eos_id:
            length_of += [document] * document
            document = 0
    found, n = text_lengths(data.windows(16)), (len(ids) - 1) // 16
    assert found[:n].tolist() == pytest.approx([sum(length_of[16 * i : 16 * i + 16]) / 16 for i in range(n)], abs=1e-6)
    assert len(found) == len(data.windows(16))


def measured(data: PretrainingData, seq_len: int = 8, tokenizer: Tokenizer | None = None) -> Measured:
    domains = data.tokens.domains("train")
    return Measured(
        data.windows(seq_len), domains, lambda places: places[data.domains_of(seq_len)], 400, tokenizer, ["x", seq_len]
    )


def test_sources_come_in_their_order(token_dir: Path, runtime: Runtime) -> None:
    """Every row of the first source is easier than all of the second; within one, the order is one of chance."""
    data = opened(token_dir)
    config = CompetenceConfig(by="sources", sources=["reviews", "news"])
    found = difficulty(config, measured(data), 1, runtime, None)
    assert found is not None
    domain = data.domains_of(8)
    shards = [shard for shard in data.tokens.manifest.shards if shard.split == "train"]
    firsts = np.cumsum([0] + [shard.tokens for shard in shards])
    for i, row in enumerate(domain.tolist()):
        shard = shards[int(np.searchsorted(firsts, i * 8, side="right")) - 1]
        assert ["news", "reviews"][row] == shard.domain
    assert found[domain == 1].max() < 1 <= found[domain == 0].min()
    assert len(set(found.tolist())) == len(found)
    for wrong in (["news"], ["news", "books"], ["news", "news"]):
        with pytest.raises(UserError, match=r"data\.curriculum\.sources=.*must name each domain once: news, reviews"):
            difficulty(replace(config, sources=wrong), measured(data), 1, runtime, None)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (CompetenceConfig(by="sources"), "sources"),
        (CompetenceConfig(by="random", sources=["a"]), "sources"),
        (CompetenceConfig(by="column"), "column"),
        (CompetenceConfig(by="length", column="x.npy"), "column"),
    ],
)
def test_settings_of_another_measure_are_refused(
    config: CompetenceConfig, key: str, token_dir: Path, runtime: Runtime
) -> None:
    """A key that its measure needs, or that only another one reads, is named."""
    with pytest.raises(UserError, match=rf"^data\.curriculum\.{key}: .*; set both or none$"):
        difficulty(config, measured(opened(token_dir)), 1, runtime, None)


def test_given_numbers_are_read_from_both_kinds_of_file(tmp_path: Path) -> None:
    """A .npy file, a table of one column, and the column difficulty of a larger one hold the same numbers."""
    np.save(tmp_path / "a.npy", np.array([3, 1, 2]))
    pq.write_table(pa.table({"depth": [3, 1, 2]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"id": ["x", "y", "z"], "difficulty": [3.0, 1.0, 2.0]}), tmp_path / "c.parquet")
    for name in ("a.npy", "b.parquet", "c.parquet"):
        assert given_numbers(tmp_path / name, 3).tolist() == [3, 1, 2]
    with pytest.raises(UserError, match=r"a\.npy: holds .*3.* and there are 4 training rows"):
        given_numbers(tmp_path / "a.npy", 4)


@pytest.mark.parametrize("name", ["missing.npy", "text.npy", "words.parquet", "two.parquet", "nan.npy"])
def test_a_file_without_the_numbers_is_refused(tmp_path: Path, name: str) -> None:
    """The message names the file, whatever is wrong with it."""
    (tmp_path / "text.npy").write_text("3 1 2", encoding="utf-8")
    pq.write_table(pa.table({"words": ["a", "b", "c"]}), tmp_path / "words.parquet")
    pq.write_table(pa.table({"one": [1, 2, 3], "two": [1, 2, 3]}), tmp_path / "two.parquet")
    np.save(tmp_path / "nan.npy", np.array([1, math.nan, 2]))
    with pytest.raises(UserError, match=f"data.curriculum.column=.*{name}: "):
        given_numbers(tmp_path / name, 3)


def test_parts_of_speech_are_counted_by_jieba() -> None:
    """A row with more different tags has the greater number."""
    posseg = pytest.importorskip("jieba.posseg")
    texts = ["书书书", "今天我们去公园看书", "他很高兴,但是我不高兴。"]
    tokenizer = Tokenizer.train(texts * 5, 320, n_threads=1)
    found = n_parts_of_speech(Given([tokenizer.encode(text) for text in texts]), tokenizer)
    assert found.tolist() == [len({word.flag for word in posseg.lcut(text, HMM=False)}) for text in texts]
    assert found[0] < found[1] < found[2]
    with pytest.raises(UserError, match=r"data\.curriculum\.by=pos: needs the tokenizer"):
        n_parts_of_speech(Given([[1]]), None)


def test_numbers_are_computed_once_for_a_run(token_dir: Path, runtime: Runtime, tmp_path: Path) -> None:
    """A second start reads the stored numbers; other settings, or a damaged file, are computed again."""
    config, data = CompetenceConfig(by="bigram"), measured(opened(token_dir))
    first = difficulty(config, data, 1, runtime, tmp_path)
    assert first is not None
    unread = replace(data, rows=Given([[]] * len(data.rows)))  # whose rarity would be 0
    again = difficulty(config, unread, 1, runtime, tmp_path)
    assert again is not None and again.tolist() == first.tolist()
    content = bytearray((tmp_path / NUMBERS).read_bytes())
    content[-1] ^= 1
    (tmp_path / NUMBERS).write_bytes(content)
    for changed in (data, replace(data, made_of=["y", 8])):
        found = difficulty(config, changed, 1, runtime, tmp_path)
        assert found is not None and found.tolist() == first.tolist()
    other = difficulty(replace(config, by="unigram"), data, 1, runtime, tmp_path)
    assert other is not None and other.tolist() != first.tolist()
