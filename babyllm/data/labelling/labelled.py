"""Rows of one text each, whose target is a label.

ids of texts, numbers of labels -> Labelled -> tokens, targets (n, T)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from babyllm.data.rows.arrays import RowArrays


class Labelled:
    """Rows of one text each, padded at the end.

    Args:
        ids: ids of each text, at most `seq_len` and at least one.
        labels: number of each text's label.
        seq_len: columns of a row.
        padding: id of the columns after a text.
    """

    def __init__(self, ids: Sequence[Sequence[int]], labels: Sequence[int], seq_len: int, padding: int) -> None:
        self._ids, self._labels = [np.array(row, np.int64) for row in ids], np.array(labels, np.int64)
        self._lengths = np.array([len(row) for row in ids], np.int64)
        self._seq_len, self._padding = seq_len, padding

    def __len__(self) -> int:
        """The number of texts, one in each row."""
        return len(self._ids)

    def counts(self, labels: Sequence[str]) -> dict[str, int]:
        """The number of texts with each label, by its name."""
        return dict(zip(labels, np.bincount(self._labels, minlength=len(labels)).tolist(), strict=True))

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the tokens of each row, for (n,) indices."""
        lengths: NDArray[np.int64] = self._lengths[indices]
        return lengths

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        """The rows with these (n,) int64 indices.

        Returns:
            "tokens" and "targets", (n, seq_len) int64; the target is the label's number at the last token of the text,
            and `IGNORE` elsewhere. The unit is "text".
        """
        from babyllm.model.cross_entropy import IGNORE  # imported here: it loads torch

        tokens = np.full((len(indices), self._seq_len), self._padding, np.int64)
        targets = np.full((len(indices), self._seq_len), IGNORE, np.int64)
        for row, i in enumerate(indices):
            tokens[row, : self._lengths[i]] = self._ids[i]
            targets[row, self._lengths[i] - 1] = self._labels[i]
        arrays = {"tokens": tokens, "targets": targets}
        return RowArrays(arrays, self.lengths(indices), {"text": np.ones(len(indices), np.int64)})
