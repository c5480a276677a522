"""How long the texts in a row are: documents for windows of a stream, conversations for the others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from babyllm.data.difficulty.row_ids import chunks
from babyllm.data.order.shuffle import Rows
from babyllm.data.rows.windows import Windows
from babyllm.ragged import offsets_of
from babyllm.store.shards import TokenStream

READ_TOKENS = 1 << 22


def text_lengths(data: Rows) -> NDArray[np.float64]:
    """(len(data),) float64, the mean length of the texts in each row, in tokens, where each token counts once.

    A window that lies inside a document has the length of that document. A row of one conversation has its length.
    """
    if isinstance(data, Windows):
        return _of_windows(data)
    out = np.zeros(len(data))
    for chunk in chunks(data):
        # A text is a run of equal numbers in "documents"; padding is not in `chunk.ids`.
        row = np.repeat(np.arange(len(chunk.ids.offsets) - 1), chunk.ids.lengths())
        places = np.arange(len(row)) - chunk.ids.offsets[row]
        text = chunk.arrays["documents"][row, places]
        begins = np.flatnonzero(np.diff(row, prepend=-1) | np.diff(text, prepend=-1))
        sizes = np.diff(np.append(begins, len(row)))
        squares = np.bincount(row[begins], sizes.astype(np.float64) ** 2, len(chunk.ids.offsets) - 1)
        out[chunk.first : chunk.first + len(squares)] = squares / np.maximum(chunk.ids.lengths(), 1)
    return out


def _of_windows(data: Windows) -> NDArray[np.float64]:
    offsets = offsets_of(_document_sizes(data.stream, data.eos_id))
    # Up to each document's end, the sum over tokens of the length of their document; between, it grows evenly.
    summed = np.concatenate([[0.0], np.cumsum(np.diff(offsets).astype(np.float64) ** 2)])
    starts = np.arange(len(data)) * data.seq_len
    lengths = data.lengths(np.arange(len(data)))
    begin, end = (np.interp(places, offsets, summed) for places in (starts, starts + lengths))
    # Equal documents have equal lengths, whatever was rounded before.
    means: NDArray[np.float64] = np.round((end - begin) / lengths, 6)
    return means


def _document_sizes(stream: TokenStream, eos_id: int) -> NDArray[np.int64]:
    """(documents,) int64, the tokens of each document with its <eos>; the last one may lack it."""
    ends = []
    for first in range(0, len(stream), READ_TOKENS):
        ends.append(np.flatnonzero(stream.read(first, first + READ_TOKENS) == eos_id) + first + 1)
    borders = np.unique(np.concatenate([[0], *ends, [len(stream)]]))
    return np.diff(borders)
