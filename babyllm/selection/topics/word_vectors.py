"""Documents as vectors of their words: hashed counts, weighted by rarity, projected on the main directions of a sample.

texts -> hashed words and pairs (Weinberger et al. 2009, arXiv:0902.2206) -> (1 + ln tf) * ln(N / df), of length 1
-> product with the right singular vectors of the sample: latent semantic analysis (Deerwester et al. 1990)

The singular vectors are those of a random projection with power iterations (Halko, Martinsson and Tropp 2011, Finding
Structure with Randomness, algorithm 4.4).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, tee
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.selection.numeric.importance import ImportanceConfig, bucket_rows, tokens_by
from babyllm.selection.numeric.vectors import F32, F64, Rows

_MORE = 10  # directions beyond those asked for, which make those exact
_POWERS = 2
_TERMS = 60  # buckets of a topic from which its words are taken
_EMPTY = re.compile("^.$|[的了是在和与就也都而及着或这那之]")  # Chinese terms that say nothing


@dataclass(frozen=True)
class WordVectors:
    """What turns texts into vectors.

    Attributes:
        hashing: how words and pairs are hashed.
        rarity: (buckets,) float32 weight of each bucket; 0 for those that do not count.
        directions: (buckets that count, d) float32 directions of these, in their order.
    """

    hashing: ImportanceConfig
    rarity: F32
    directions: F32

    def vectors(self, texts: Sequence[str]) -> F32:
        """(n, d) float32, each a function of its text alone; zero for a text without words that count."""
        places = np.cumsum(self.rarity > 0) - 1
        found = np.zeros((len(texts), self.directions.shape[1]), np.float32)
        for row, buckets in zip(found, bucket_rows(texts, self.hashing), strict=True):
            numbers, counts = np.unique(buckets[self.rarity[buckets] > 0], return_counts=True)
            if len(numbers):
                weights = _weighted(counts, self.rarity[numbers])
                weights /= np.sqrt(np.sum(weights * weights))
                # Not a matrix product, whose last bits depend on the number of threads.
                row[:] = np.einsum("n,nd->d", weights, self.directions[places[numbers]])
        return found


def _weighted(counts: NDArray[Any], rarity: F32) -> F32:
    return np.asarray((1 + np.log(counts.astype(np.float32))) * rarity, np.float32)


class Sample(NamedTuple):
    """The hashed words of the texts of a sample, as the rows of a sparse matrix.

    Attributes:
        offsets: (n + 1,) int64 begin of each text.
        buckets: (entries,) int32 different buckets of each text.
        counts: (entries,) float32 how often each occurs in it.
    """

    offsets: Rows
    buckets: NDArray[np.int32]
    counts: F32


def read_sample(texts: Iterable[str], hashing: ImportanceConfig) -> Sample:
    """The hashed words of some texts."""
    buckets, counts, lengths = [np.empty(0, np.int32)], [np.empty(0, np.float32)], [0]
    for row in bucket_rows(texts, hashing):
        numbers, n = np.unique(row, return_counts=True)
        buckets.append(numbers.astype(np.int32))
        counts.append(n.astype(np.float32))
        lengths.append(len(numbers))
    return Sample(np.cumsum(lengths), np.concatenate(buckets), np.concatenate(counts))


def fit_words(sample: Sample, hashing: ImportanceConfig, dimensions: int, least: int, seed: int) -> WordVectors:
    """The weights of buckets and the main directions of a sample.

    Args:
        sample: hashed words of its texts.
        hashing: how they were hashed.
        dimensions: number d of directions, or fewer for a small sample.
        least: number of texts in which a bucket must occur to count.
        seed: seed of the random projection.
    """
    from scipy import sparse

    n = len(sample.offsets) - 1
    documents = np.bincount(sample.buckets, minlength=hashing.buckets)
    counts_at_all = (documents >= least) & (documents < n)
    if not counts_at_all.any():
        return WordVectors(hashing, np.zeros(hashing.buckets, np.float32), np.zeros((0, 1), np.float32))
    rarity = np.where(counts_at_all, np.log(n / np.maximum(documents, 1)), 0).astype(np.float32)
    values = _weighted(sample.counts, rarity[sample.buckets])
    matrix = sparse.csr_matrix((values, sample.buckets, sample.offsets), shape=(n, hashing.buckets))
    matrix = matrix[:, np.flatnonzero(counts_at_all)].astype(np.float64)
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix = sparse.diags_array(1 / np.maximum(lengths, 1e-30)) @ matrix
    directions = _directions(matrix.tocsr(), min(dimensions, *matrix.shape), seed)
    return WordVectors(hashing, rarity, directions.astype(np.float32))


def _directions(matrix: Any, d: int, seed: int) -> F64:
    """(columns, d) the first right singular vectors of a sparse matrix, signed so that their sums are not negative."""
    width = min(d + _MORE, *matrix.shape)
    start = np.random.Generator(np.random.PCG64(seed & 0xFFFFFFFF)).standard_normal((matrix.shape[1], width))
    basis = np.linalg.qr(matrix @ start)[0]
    for _ in range(_POWERS):
        basis = np.linalg.qr(matrix @ np.linalg.qr(matrix.T @ basis)[0])[0]
    rows = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)[2][:d]
    return np.asarray((rows * np.where(rows.sum(axis=1) < 0, -1, 1)[:, None]).T)


def top_words(
    sample: Sample, texts: Iterable[str], labels: Rows, n_topics: int, hashing: ImportanceConfig, n_words: int = 8
) -> list[list[str]]:
    """The words and pairs that set each topic apart, the best first.

    They are those with the largest p * ln(p / q), where p is the share of the topic's texts that hold a word and q that
    of all texts: the terms of the divergence of Kullback and Leibler. Of Chinese characters only pairs are named.

    Args:
        sample: hashed words of the texts.
        texts: the texts again.
        labels: (n,) int64 topic of each text; negative for none.
        n_topics: number of topics.
        hashing: how words were hashed.
        n_words: most words of a topic.
    """
    rows = np.repeat(labels.astype(np.int32), np.diff(sample.offsets))
    order = np.argsort(rows, kind="stable")
    edges = np.searchsorted(rows[order], np.arange(n_topics + 1))
    everywhere = np.bincount(sample.buckets, minlength=hashing.buckets) / max(1, len(labels))
    wanted: dict[int, Counter[str]] = {}
    ranked: list[list[int]] = []
    for topic in range(n_topics):
        mine = sample.buckets[order[edges[topic] : edges[topic + 1]]]
        here = np.bincount(mine, minlength=hashing.buckets) / max(1, int(np.count_nonzero(labels == topic)))
        found = np.flatnonzero(here > 0)
        gains = here[found] * np.log(here[found] / everywhere[found])
        ranked.append(found[np.lexsort((found, -gains))[:_TERMS]].tolist())
        wanted.update({bucket: Counter() for bucket in ranked[-1]})
    once, again = tee(texts)
    for terms, buckets in zip(_terms(once, hashing), bucket_rows(again, hashing), strict=True):
        for term, bucket in zip(terms, buckets.tolist(), strict=True):
            if bucket in wanted:
                wanted[bucket][term] += 1
    names = {bucket: counts.most_common(1)[0][0] for bucket, counts in wanted.items()}
    return [_readable([names[bucket] for bucket in buckets], n_words) for buckets in ranked]


def _terms(texts: Iterable[str], hashing: ImportanceConfig) -> Iterator[list[str]]:
    """The words and pairs of each text, in the order of their buckets."""
    cut = tokens_by(hashing)
    for text in texts:
        words = cut(text)
        yield words + [a + b if _is_han(a[-1]) and _is_han(b[0]) else f"{a} {b}" for a, b in pairwise(words)]


def _is_han(character: str) -> bool:
    return "\u3400" <= character <= "\u9fff" or "\U00020000" <= character <= "\U0003ffff"


def _readable(terms: Sequence[str], n: int) -> list[str]:
    """The first terms that say something: no single characters of Chinese, and none that is part of an earlier one."""
    found: list[str] = []
    for term in terms:
        is_han = _is_han(term[0])
        is_part = any(term in (other if is_han else other.split()) for other in found)
        if not (is_han and _EMPTY.search(term)) and not is_part:
            found.append(term)
    return found[:n]
