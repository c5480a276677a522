"""Importance resampling against plain Python, and its independence of order and partitions."""

import hashlib
import math
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from babyllm.errors import UserError
from babyllm.ragged import mix
from babyllm.selection.numeric.importance import (
    ImportanceConfig,
    TopRows,
    count,
    log_ratios,
    noisy,
    tokens_by,
    weigh,
)
from babyllm.selection.numeric.keys import text_keys, uniform

POEMS = ["牀前明月光，疑是地上霜。", "舉頭望明月，低頭思故鄉。", "春眠不覺曉，處處聞啼鳥。", "白日依山盡，黃河入海流。"]
NEWS = [
    "今天股市上漲 3.5%，Apple 股價創新高。",
    "The market rose today.",
    "",
    "！？",
    "股市今天下跌",
    "公司 today 宣布上市",
]
RAW = [a + b for a in POEMS + NEWS for b in NEWS + POEMS]


def plain_tokens(text: str) -> list[str]:
    return re.findall("[\u4e00-\u9fff]|[A-Za-z0-9]+", text.lower())


def plain_buckets(text: str, n_buckets: int) -> Counter[int]:
    """The buckets of single tokens and pairs, by Python's integers."""
    keys = [int.from_bytes(hashlib.blake2b(t.encode(), digest_size=8).digest(), "little") for t in plain_tokens(text)]
    pairs = [(a * 0xA24BAED4963EE407 + b) % 2**64 for a, b in pairwise(keys)]
    return Counter(int(mix(np.array([key], np.uint64))[0]) % n_buckets for key in keys + pairs)


def plain_weights(target: list[str], raw: list[str], n_buckets: int, smoothing: float) -> list[float]:
    """Formula by formula: counts, smoothed distributions, and the sum of log ratios over a document's n-grams."""
    counts = [sum((plain_buckets(text, n_buckets) for text in texts), Counter()) for texts in (target, raw)]
    totals = [sum(c.values()) + smoothing * n_buckets for c in counts]
    logs = [
        math.log((counts[0][i] + smoothing) / totals[0]) - math.log((counts[1][i] + smoothing) / totals[1])
        for i in range(n_buckets)
    ]
    return [sum(n * logs[bucket] for bucket, n in plain_buckets(text, n_buckets).items()) for text in raw]


@pytest.mark.parametrize(("n_buckets", "smoothing"), [(10_000, 1.0), (50, 0.1), (1, 1.0)])
def test_weights_are_those_of_plain_python(n_buckets: int, smoothing: float) -> None:
    """Log weights and the number of n-grams equal a direct computation, with collisions of buckets or without."""
    config = ImportanceConfig(buckets=n_buckets, smoothing=smoothing)
    ratios = log_ratios(count(POEMS, config), count(RAW, config), smoothing)
    found = weigh(RAW, ratios, config)
    assert found.log_weights == pytest.approx(plain_weights(POEMS, RAW, n_buckets, smoothing), abs=1e-9)
    lengths = [len(plain_tokens(text)) for text in RAW]
    assert found.n_grams.tolist() == [max(0, 2 * n - 1) for n in lengths]


def test_what_resembles_the_target_weighs_more() -> None:
    """Poems weigh more than news where poems are the target, and a text without tokens weighs nothing."""
    config = ImportanceConfig()
    ratios = log_ratios(count(POEMS[:2], config), count(POEMS + NEWS, config), config.smoothing)
    found = weigh(["明月光", "股市今天", "！"], ratios, config).log_weights
    assert found[0] > 0 > found[1] and found[2] == 0


def test_counts_of_partitions_add_up() -> None:
    """Counts of partitions, of more n-grams than are counted at once, are those of the whole."""
    config = ImportanceConfig(buckets=300, grams=3)
    texts = RAW * 60
    assert np.array_equal(count(texts, config), count(texts[:999], config) + count(texts[999:], config))
    assert count([], config).sum() == 0


def draw(texts: list[str], seed: int, cuts: list[int], n: int) -> list[str]:
    """The texts that are drawn if they come in partitions."""
    config = ImportanceConfig()
    ratios = log_ratios(count(POEMS, config), count(RAW, config), config.smoothing)
    top = TopRows(n)
    for first, last in zip([0, *cuts], [*cuts, len(texts)], strict=True):
        part = texts[first:last]
        keys = text_keys(part)
        top.add(noisy(weigh(part, ratios, config).log_weights, keys, seed), keys, np.arange(first, last))
    return [texts[row] for row in top.rows()]


def test_order_and_partitions_change_nothing() -> None:
    """The same texts are drawn in any order and from any partitions; a smaller draw is the beginning of a larger."""
    whole = draw(RAW, 3, [], 30)
    assert draw(RAW[::-1], 3, [1, 50, 50, 77], 30) == whole
    assert draw(RAW, 3, [10], 7) == whole[:7]
    assert draw(RAW, 4, [], 30) != whole


def test_draws_follow_the_weights() -> None:
    """Over many seeds, a document is drawn first as often as its weight says (chi-square)."""
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    keys, n = text_keys("abcd"), 4000
    seen = np.bincount([noisy(np.log(weights), keys, seed).argmax() for seed in range(n)], minlength=4)
    expected = weights / weights.sum() * n
    assert ((seen - expected) ** 2 / expected).sum() < 16.3  # 0.999 of the distribution with 3 degrees of freedom


def test_the_noise_is_gumbels() -> None:
    """The noise is -ln(-ln(u)) of the text's own uniform number."""
    keys = text_keys(["月", "光"])
    expected = [1.5 - math.log(-math.log(u)) for u in uniform(keys, 9)]
    assert noisy(np.array([1.5, 1.5]), keys, 9).tolist() == pytest.approx(expected)


def test_equal_values_are_in_the_order_of_keys_and_rows() -> None:
    """Of equal values the lowest key and then the lowest row is kept, and NaN never is."""
    top = TopRows(3)
    top.add(np.array([1.0, np.nan, 1.0]), np.array([5, 1, 5], np.uint64), np.array([9, 8, 7]))
    top.add(np.array([1.0, 0.0]), np.array([4, 0], np.uint64), np.array([30, 31]))
    assert top.rows().tolist() == [30, 7, 9]


def test_tokens_are_characters_and_words_or_those_of_jieba() -> None:
    """A Chinese character is a token, so is a word of another script; jieba's words are tokens when it is asked for."""
    text = "今天股市上漲 3.5%，Apple 股價"
    assert tokens_by(ImportanceConfig())(text) == [*"今天股市上漲", "3", "5", "apple", *"股價"]
    pytest.importorskip("jieba")
    assert tokens_by(ImportanceConfig(tokens="jieba"))("今天股市！Apple") == ["今天", "股市", "apple"]


def test_a_corpus_without_tokens_is_refused() -> None:
    """A target or raw corpus without any token, and counts of different settings, are refused."""
    config = ImportanceConfig()
    with pytest.raises(UserError, match="target corpus has no token"):
        log_ratios(count(["！"], config), count(RAW, config), 1.0)
    with pytest.raises(UserError, match="same settings"):
        log_ratios(count(RAW, config), count(RAW, ImportanceConfig(buckets=5)), 1.0)
