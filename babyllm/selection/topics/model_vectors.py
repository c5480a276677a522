"""Documents as vectors of a language model: the mean of its last hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from babyllm.evaluate.scoring import BATCH_TOKENS, batches, evaluating
from babyllm.generation.pooling import MarkedRow, pooled_hidden
from babyllm.loading import load, model_directory
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.selection.numeric.vectors import F32
from babyllm.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelVectors:
    """What turns texts into vectors, up to the context of a model.

    Attributes:
        model: model that reads the texts.
        tokenizer: its tokenizer.
    """

    model: Transformer
    tokenizer: Tokenizer

    def vectors(self, texts: Sequence[str]) -> F32:
        """(n, d) float32 mean hidden states; zero for an empty text."""
        found = np.zeros((len(texts), self.model.config.d_model), np.float32)
        ids = [row[: self.model.config.max_seq_len] for row in self.tokenizer.encode_batch(list(texts))]
        known = [i for i, row in enumerate(ids) if len(row)]
        with evaluating(self.model):
            for batch in batches([len(ids[i]) for i in known], BATCH_TOKENS):
                rows = [MarkedRow(np.array(ids[known[j]], np.int64), np.ones(len(ids[known[j]]), bool)) for j in batch]
                found[[known[j] for j in batch]] = pooled_hidden(self.model, rows)
        return found


def load_vectors(path: str | Path, runtime: Runtime) -> ModelVectors:
    """The model in a run or directory, on the device of a runtime, as a source of vectors.

    Raises:
        UserError: it cannot be read.
    """
    model, tokenizer = load(model_directory(path))
    return ModelVectors(model.to(runtime.device), tokenizer)
