"""How far apart conversations are: mean distances over all pairs of a sample, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from babyllm.chat_corpus.diversity.terms import pairs_of, tokens_of
from babyllm.ragged import Ragged
from babyllm.text.dedup.near.shingles import counted

BUCKETS = 1 << 15
"""Width of the vectors of tf-idf; tokens are hashed into it."""
F64 = NDArray[np.float64]


class Mean(NamedTuple):
    """A mean over pairs and its standard error.

    Attributes:
        value: mean.
        error: standard error as a sample of all conversations; 0 if it is all of them.
        chance: standard error as a sample of endlessly many such conversations.
    """

    value: float
    error: float
    chance: float


class Distances(NamedTuple):
    """Distances between the conversations of a sample.

    Attributes:
        n: number of conversations in the sample.
        jaccard: 1 minus the Jaccard similarity of the sets of pairs of adjacent tokens.
        cosine: 1 minus the cosine of the tf-idf vectors of tokens.
        overlap: mean share of a conversation's different pairs of tokens that another one of the sample has, too.
    """

    n: int
    jaccard: Mean
    cosine: Mean
    overlap: float


def distances(texts: Sequence[str], total: int, reference: Sequence[str] | None = None) -> Distances | None:
    """The distances between the texts of a sample; None for fewer than two.

    The mean over pairs is a U-statistic, whose standard error is 2 s / sqrt(n) with s the standard deviation of the
    texts' mean distances to the others (Hoeffding 1948), times sqrt(1 - n / total), since the sample is drawn without
    replacement. The weights of tf-idf are tf * (1 + ln((1 + n) / (1 + df))).

    Args:
        texts: (n,) texts of the sample.
        total: number of conversations that the sample is drawn from.
        reference: texts in which documents with a token are counted; None takes the sample itself.
    """
    n = len(texts)
    if n < 2:
        return None
    tokens = tokens_of(texts).rows
    shingles = counted(pairs_of(tokens))[0]
    left = math.sqrt(max(0.0, 1 - n / total))
    of_others, overlap = _jaccard(shingles)
    weights = _weights(tokens if reference is None else tokens_of(reference).rows)
    return Distances(n, _mean(of_others, left), _mean(_cosine(tokens, weights), left), overlap)


def _mean(of_others: F64, left: float) -> Mean:
    """The mean distance, from the mean similarity of each text to the others; `left` is the factor of the error."""
    chance = 2 * float(of_others.std(ddof=1)) / math.sqrt(len(of_others))
    return Mean(1 - float(of_others.mean()), left * chance, chance)


def _jaccard(sets: Ragged) -> tuple[F64, float]:
    """(n,) mean Jaccard similarity of each set to the others, and the mean share of members that another set has."""
    n, sizes = len(sets.offsets) - 1, sets.lengths()
    members, columns = np.unique(sets.values, return_inverse=True)
    matrix = csr_array((np.ones(len(columns)), columns, sets.offsets), shape=(n, max(1, len(members))))
    shared = np.asarray((matrix @ matrix.T).todense())
    united = sizes[:, None] + sizes[None, :] - shared
    similarity = np.where(united > 0, shared / np.maximum(united, 1), 1.0)  # empty sets are equal
    is_shared = np.bincount(columns, minlength=1) > 1
    shares = [is_shared[columns[a:b]].mean() for a, b in zip(sets.offsets[:-1], sets.offsets[1:], strict=True) if a < b]
    return (similarity.sum(1) - 1) / (n - 1), float(np.mean(shares)) if shares else 0.0


def _buckets(tokens: Ragged) -> Any:
    """(n, BUCKETS) sparse matrix of how often each bucket's tokens occur in each text."""
    columns = (tokens.values >> np.uint64(32)).astype(np.int64) % BUCKETS
    offsets = tokens.offsets.copy()  # summing changes it
    matrix = csr_array((np.ones(len(columns)), columns, offsets), shape=(len(offsets) - 1, BUCKETS))
    matrix.sum_duplicates()
    return matrix


def _weights(tokens: Ragged) -> F64:
    """(BUCKETS,) inverse document frequencies."""
    matrix = _buckets(tokens)
    return np.asarray(1 + np.log((1 + matrix.shape[0]) / (1 + np.bincount(matrix.indices, minlength=BUCKETS))))


def _cosine(tokens: Ragged, weights: F64) -> F64:
    """(n,) mean cosine of each text's vector with the others'; texts without tokens are equal, and unlike others."""
    matrix = _buckets(tokens)
    n = matrix.shape[0]
    rows = np.repeat(np.arange(n), np.diff(matrix.indptr))
    values = matrix.data * weights[matrix.indices]
    norms = np.sqrt(np.bincount(rows, values**2, n))
    values /= norms[rows]
    summed = np.bincount(matrix.indices, values, BUCKETS)
    similarity = np.bincount(rows, values * summed[matrix.indices], n) - (norms > 0)
    blank = norms == 0
    similarity[blank] += blank.sum() - 1
    return np.asarray(similarity / (n - 1))
