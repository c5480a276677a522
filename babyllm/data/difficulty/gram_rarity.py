"""How rare the tokens of a row are, alone or in runs of two or three.

rows -> grams within a row, as whole numbers -> count of each over all rows -> minus the mean log of count / all grams

This is the measure of CBC (Campos 2021, "Curriculum Learning for Language Modeling"): a gram's probability is not
conditional on the tokens before it. For n = 1, e to its power is the row's unigram perplexity [prod 1/P(w_i)]^(1/n) of
CLIMB (Diehl Martinez et al. 2023), so both order the rows alike.

Memory: at most `MAX_GRAMS` different grams are counted together. 20 million different runs of three, counted in two
parts, took 1.6 GB. Where there are more, grams are divided by a hash into parts, and the data is read twice for each
part; the result is the same to the last bits of a float64 sum.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.data.difficulty.row_ids import chunks
from babyllm.data.order.shuffle import Rows
from babyllm.errors import UserError
from babyllm.ragged import Ragged, mix, positions

MAX_GRAMS = 1 << 24
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


class _Counts(NamedTuple):
    """Different grams, sorted, and the count of each: (m,) uint64 and (m,) int64."""

    grams: U64
    counts: I64


def rarity(data: Rows, n: int, vocab_size: int, max_grams: int = MAX_GRAMS) -> NDArray[np.float64]:
    """Minus the mean log-probability of each row's grams, in nats; 0 for a row that is shorter than a gram.

    Args:
        data: rows; a gram lies within one row.
        n: tokens of a gram, 1 to 3.
        vocab_size: number of different ids.
        max_grams: largest number of different grams that are counted together.

    Returns:
        (len(data),) float64, at least 0; greater for rarer grams.

    Raises:
        UserError: a gram does not fit into 64 bits.
    """
    if vocab_size**n > 1 << 64:
        raise UserError(
            f"data.curriculum.by: runs of {n} tokens are not counted for a vocabulary of {vocab_size:,}; choose "
            "unigram or bigram"
        )
    parts = 1
    while (found := _in_parts(data, n, vocab_size, parts, max_grams)) is None:
        parts *= 2
    return found


def _in_parts(data: Rows, n: int, vocab_size: int, parts: int, max_grams: int) -> NDArray[np.float64] | None:
    """The result of `rarity`, with the grams divided into parts; None where a part has too many different ones."""
    sums, sizes = np.zeros(len(data)), np.zeros(len(data), np.int64)
    for part in range(parts):
        table = _counted(data, n, vocab_size, (part, parts), max_grams)
        if table is None:
            return None
        for chunk in chunks(data, "rows measured"):
            grams, row = _grams(chunk.ids, n, vocab_size)
            n_rows = len(chunk.ids.offsets) - 1
            here = slice(chunk.first, chunk.first + n_rows)
            sizes[here] = np.bincount(row, minlength=n_rows)
            if parts > 1:
                is_mine = _part(grams, parts) == part
                grams, row = grams[is_mine], row[is_mine]
            if len(grams):
                logs = np.log(table.counts[np.searchsorted(table.grams, grams)])
                sums[here] += np.bincount(row, logs, n_rows)
    total = int(sizes.sum())
    mean_logs = sums / np.maximum(sizes, 1) - np.log(max(total, 1))
    return np.where(sizes > 0, np.maximum(-mean_logs, 0.0), 0.0)


def _counted(data: Rows, n: int, vocab_size: int, part: tuple[int, int], max_grams: int) -> _Counts | None:
    """The counts of the grams of one part of several; None as soon as there are too many different ones."""
    runs: list[_Counts] = []
    for chunk in chunks(data, "rows counted"):
        grams, _ = _grams(chunk.ids, n, vocab_size)
        if part[1] > 1:
            grams = grams[_part(grams, part[1]) == part[0]]
        runs.append(_Counts(*np.unique(grams, return_counts=True)))
        # Runs of similar size are merged, so each gram is moved a logarithmic number of times.
        while len(runs) > 1 and len(runs[-2].grams) <= 2 * len(runs[-1].grams):
            runs.append(_merged(runs.pop(), runs.pop()))
        if max(len(run.grams) for run in runs) > max_grams and part[1] < max_parts(data):
            return None
    table = _Counts(np.empty(0, np.uint64), np.empty(0, np.int64))
    while runs:
        table = _merged(table, runs.pop())
    return table if len(table.grams) <= max_grams or part[1] >= max_parts(data) else None


def max_parts(data: Rows) -> int:
    """The largest number of parts: more than one for each row would only be slow."""
    return max(1, len(data))


def _merged(one: _Counts, two: _Counts) -> _Counts:
    grams, place = np.unique(np.concatenate([one.grams, two.grams]), return_inverse=True)
    counts = np.bincount(place, np.concatenate([one.counts, two.counts]), len(grams))  # exact up to 2**53
    return _Counts(grams, counts.astype(np.int64))


def _grams(rows: Ragged, n: int, vocab_size: int) -> tuple[U64, I64]:
    """The (m,) uint64 grams of rows, in the order of the rows, and the (m,) int64 index of the row of each."""
    row = np.repeat(np.arange(len(rows.offsets) - 1), rows.lengths())
    ids = rows.values.astype(np.uint64)
    is_start = positions(rows.offsets) + n <= rows.lengths()[row]
    starts = np.flatnonzero(is_start)
    grams = np.zeros(len(starts), np.uint64)
    for k in range(n):
        grams = grams * np.uint64(vocab_size) + ids[starts + k]
    return grams, row[starts]


def _part(grams: U64, parts: int) -> U64:
    part: U64 = mix(grams) % np.uint64(parts)
    return part
