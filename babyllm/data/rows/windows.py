"""Windows over a token stream: row i -> tokens, targets, and for document masking positions and documents.

Window i holds tokens [i * seq_len, (i + 1) * seq_len + 1) of the stream, so the last target of one window is the first
input of the next. Every token but the stream's first is a target exactly once per epoch, the tail included.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from babyllm.data.rows.arrays import RowArrays
from babyllm.errors import UserError
from babyllm.model.cross_entropy import IGNORE
from babyllm.store.shards import TokenStream


class Windows:
    """The rows of a token stream.

    Args:
        stream: the token ids.
        seq_len: inputs per row.
        eos_id: id of <eos>, which pads the last row and, with `mask_documents`, begins a document.
        mask_documents: whether rows have document numbers, and positions that restart with each document. The <eos>
            before a document is its first input, which predicts its first token.
        name: name of the stream's contents in messages.

    Attributes:
        stream: the token ids.
        seq_len: inputs per row.
        eos_id: id of <eos>.

    Raises:
        UserError: the stream has at most `seq_len` tokens.
    """

    def __init__(
        self,
        stream: TokenStream,
        seq_len: int,
        eos_id: int,
        mask_documents: bool = False,
        name: str = "the training data",
    ) -> None:
        if len(stream) <= seq_len:
            raise UserError(f"data.seq_len={seq_len}: {name} holds only {len(stream)} tokens; choose a smaller seq_len")
        self.stream, self.seq_len, self.eos_id, self._mask = stream, seq_len, eos_id, mask_documents

    def __len__(self) -> int:
        """The number of rows per epoch, with the shorter last one."""
        return -(-(len(self.stream) - 1) // self.seq_len)

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the inputs of each row that are not padding, for (n,) indices; only the last row is shorter."""
        return np.minimum(self.seq_len, len(self.stream) - 1 - indices * self.seq_len)

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        """The rows with these (n,) int64 indices.

        Returns:
            Arrays of (n, seq_len) int64: "tokens" and "targets", and with `mask_documents` "positions" and "documents".
        """
        T = self.seq_len
        tokens = np.full((len(indices), T), self.eos_id, dtype=np.int64)
        targets = np.full((len(indices), T), IGNORE, dtype=np.int64)
        for row, index in enumerate(indices):
            window = self.stream.read(int(index) * T, int(index + 1) * T + 1)
            tokens[row, : len(window) - 1] = window[:-1]
            targets[row, : len(window) - 1] = window[1:]
        if not self._mask:
            return RowArrays({"tokens": tokens, "targets": targets})
        documents = np.cumsum(tokens == self.eos_id, axis=1)
        is_start = np.diff(documents, axis=1, prepend=-1) != 0
        here = np.broadcast_to(np.arange(T), documents.shape)
        positions = here - np.maximum.accumulate(np.where(is_start, here, 0), axis=1)
        return RowArrays({"tokens": tokens, "targets": targets, "positions": positions, "documents": documents})
