"""Documents drawn so that they resemble a target corpus: importance resampling (DSIR), also of Chinese texts.

Xie et al. 2023, Data Selection for Language Models via Importance Resampling (arXiv:2302.03169), section 3: a document
is a bag of its n-grams, hashed into buckets. The log importance weight is the sum over its n-grams of
ln(p_target / p_raw) of their buckets. Documents are drawn without replacement, with probabilities proportional to their
weights, as those with the largest sums of log weight and Gumbel noise.

    pass 1: texts -> `count` for each partition of the target and of the raw corpus; counts add up
            -> `log_ratios` of the buckets
    pass 2: texts -> `weigh`: log weights -> `noisy`: with noise that belongs to the text -> the largest (`TopRows`)

The paper's code takes English words and signs of punctuation; here a token is a Chinese character or a word of another
script, and punctuation is left out. It adds 1e-8 to each probability; here, each bucket is counted `smoothing` times
more, so that what one corpus lacks by chance weighs less. Longer documents have larger weights, of either sign, as in
the paper; `Weighed.n_grams` is there for those who want a mean.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np

from babyllm.config.values import Limits, Positive, Seed
from babyllm.errors import UserError
from babyllm.ragged import U64, mix
from babyllm.selection.numeric.keys import uniform
from babyllm.selection.numeric.vectors import F64, Rows
from babyllm.text.clean.syntax.characters import HAN
from babyllm.tokenizer.borders import load_jieba

_TOKEN = re.compile(rf"[{HAN}]|[^\W{HAN}]+")
_BASE = np.uint64(0xA24BAED4963EE407)
_AT_ONCE = 1 << 16  # n-grams that are counted together
_CACHED = 1 << 20  # tokens whose hash is remembered


@dataclass(frozen=True)
class ImportanceConfig:
    """How documents are compared with a target corpus, and drawn.

    Attributes:
        buckets: number of buckets into which n-grams are hashed.
        grams: largest n of the n-grams; 2 for single tokens and pairs.
        tokens: tokens of a text: characters (each Chinese character, and each word of another script) or jieba (its
            words, without punctuation); all in lower case.
        smoothing: number added to the count of each bucket, in the target and in the raw corpus.
        seed: seed of the draw.
    """

    buckets: Annotated[int, Limits(1, 1 << 24)] = 10_000
    grams: Annotated[int, Limits(1, 16)] = 2
    tokens: Literal["characters", "jieba"] = "characters"
    smoothing: Positive = 1.0
    seed: Seed = 0


class Weighed(NamedTuple):
    """The weights of some documents.

    Attributes:
        log_weights: (n,) float64 log importance weights; 0 for a document without tokens.
        n_grams: (n,) int64 number of n-grams in each.
    """

    log_weights: F64
    n_grams: Rows


class _Hashes(dict[str, int]):
    """The first 8 bytes of the BLAKE2b hash of tokens, remembered."""

    def __missing__(self, token: str) -> int:
        if len(self) >= _CACHED:
            self.clear()
        digest = hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[token] = number = int.from_bytes(digest, "little")
        return number


def tokens_by(config: ImportanceConfig) -> Callable[[str], list[str]]:
    """The function that cuts a text into tokens.

    Raises:
        UserError: jieba is asked for and not installed.
    """
    if config.tokens == "characters":
        return lambda text: _TOKEN.findall(text.lower())
    jieba = load_jieba("--importance.tokens=jieba")
    return lambda text: [word for word in jieba.lcut(text.lower()) if _TOKEN.search(word)]


def bucket_rows(texts: Iterable[str], config: ImportanceConfig) -> Iterator[Rows]:
    """For each text the (n-grams,) int64 buckets of its n-grams: of its tokens in order, of its pairs, and so on.

    The hash of an n-gram is `mix` of its tokens' hashes as the digits of a number, modulo 2**64; its bucket is the
    rest of a division by the number of buckets.
    """
    cut, hashes, n_buckets = tokens_by(config), _Hashes(), np.uint64(config.buckets)
    for text in texts:
        tokens: U64 = np.array([hashes[token] for token in cut(text)], np.uint64)
        grams, found = tokens, [mix(tokens.copy())]
        for n in range(2, min(config.grams, len(tokens)) + 1):
            grams = grams[:-1] * _BASE + tokens[n - 1 :]
            found.append(mix(grams.copy()))
        yield (np.concatenate(found) % n_buckets).astype(np.int64)


def count(texts: Iterable[str], config: ImportanceConfig) -> Rows:
    """(buckets,) int64, how many n-grams of the texts are in each bucket; counts of partitions are added.

    Raises:
        UserError: jieba is asked for and not installed.
    """
    counts, waiting, n_waiting = np.zeros(config.buckets, np.int64), [np.empty(0, np.int64)], 0
    for buckets in bucket_rows(texts, config):
        waiting.append(buckets)
        n_waiting += len(buckets)
        if n_waiting >= _AT_ONCE:
            counts += np.bincount(np.concatenate(waiting), minlength=config.buckets)
            waiting, n_waiting = [], 0
    return counts + np.bincount(np.concatenate([np.empty(0, np.int64), *waiting]), minlength=config.buckets)


def log_ratios(target: Rows, raw: Rows, smoothing: float) -> F64:
    """(buckets,) float64 ln(p_target / p_raw), with p = (count + smoothing) / (sum of counts + smoothing * buckets).

    Args:
        target: (buckets,) counts in the target corpus.
        raw: (buckets,) counts in the corpus from which documents are drawn.
        smoothing: number added to each count.

    Raises:
        UserError: one corpus has no n-gram, or their numbers of buckets differ.
    """
    if target.shape != raw.shape:
        raise UserError(f"counts of {len(target):,} and of {len(raw):,} buckets: count both with the same settings")
    for name, counts in (("target", target), ("raw", raw)):
        if not counts.sum():
            raise UserError(f"the {name} corpus has no token: nothing can be compared with it")
    both = [np.log(counts + smoothing) - np.log(counts.sum() + smoothing * len(counts)) for counts in (target, raw)]
    return np.asarray(both[0] - both[1])


def weigh(texts: Iterable[str], ratios: F64, config: ImportanceConfig) -> Weighed:
    """The log importance weight of each text, from the (buckets,) float64 log ratios.

    Raises:
        UserError: jieba is asked for and not installed.
    """
    found = [(float(ratios[buckets].sum()), len(buckets)) for buckets in bucket_rows(texts, config)]
    return Weighed(np.array([weight for weight, _ in found]), np.array([n for _, n in found], np.int64))


def noisy(log_weights: F64, keys: U64, seed: int) -> F64:
    """(n,) float64 log weights plus Gumbel noise that the text and the seed decide.

    The n largest are a draw without replacement (Kool et al. 2019, Stochastic Beams and Where to Find Them, section
    2.3). Equal texts have equal noise, so they are drawn together or not at all: remove repetitions before.

    Args:
        log_weights: (n,) float64.
        keys: (n,) uint64 hashes of the texts, from `keys.text_keys`.
        seed: seed of the draw.
    """
    return np.asarray(log_weights - np.log(-np.log(uniform(keys, seed))))


class TopRows:
    """The rows with the largest values of a stream; of equal values, those with the lowest keys and then rows.

    Partitions may come in any order. Memory is that of twice `n` rows and one partition.

    Args:
        n: number of rows to keep.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._values, self._keys, self._rows = np.empty(0), np.empty(0, np.uint64), np.empty(0, np.int64)

    def add(self, values: F64, keys: U64, rows: Rows) -> None:
        """Add rows, (m,) int64, with their (m,) float64 values and (m,) uint64 keys; values that are NaN are left out.

        Args:
            values: numbers of which the largest are kept, such as those of `noisy`.
            keys: hashes of the texts.
            rows: numbers of the documents.
        """
        valid = ~np.isnan(values)
        values = np.concatenate([self._values, values[valid]])
        keys, rows = np.concatenate([self._keys, keys[valid]]), np.concatenate([self._rows, rows[valid]])
        order = np.lexsort((rows, keys, -values))[: self._n]
        self._values, self._keys, self._rows = values[order], keys[order], rows[order]

    def rows(self) -> Rows:
        """(up to n,) int64, the rows by descending value."""
        return self._rows
