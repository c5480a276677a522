"""Bits per byte of single documents, by which a corpus can be filtered.

texts -> tokens -> rows [<eos>, document, <eos>], overlapping if long -> batches of similar length -> nats -> bits
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from babyllm.evaluate.scoring import Row, overlapping_rows, row_nats
from babyllm.loading import load
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer


def load_scorer(directory: str) -> Callable[[Sequence[str]], list[float]]:
    """A function that returns the bits per byte of texts, by the model in a run, step or Hugging Face directory.

    It runs on one CPU thread. More threads would add numbers in another order, which changes the last bits of a result;
    callers use several processes instead.

    Raises:
        UserError: a file is missing or does not fit; the message names it.
    """
    model, tokenizer = load(directory)

    def score(texts: Sequence[str]) -> list[float]:
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return bits_per_byte(model, tokenizer, texts)
        finally:
            torch.set_num_threads(n_threads)

    return score


def bits_per_byte(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str]) -> list[float]:
    """The bits per byte of each text: nats of all its tokens and its <eos> / ln 2 / UTF-8 bytes; infinite if empty.

    Args:
        model: model that runs in float32. A text longer than its `max_seq_len` is read in rows that overlap by half.
        tokenizer: tokenizer of the model.
        texts: texts of any lengths.
    """
    rows: list[tuple[int, Row]] = []
    for number, ids in enumerate(tokenizer.encode_batch(texts)):
        document = np.array([tokenizer.begin_id, *ids, tokenizer.eos_id], np.int64)
        rows += [(number, row) for row in overlapping_rows(document, model.config.max_seq_len)]
    rows.sort(key=lambda item: len(item[1].ids))
    numbers = np.array([number for number, _ in rows], np.int64)
    nats = np.bincount(numbers, row_nats(model, [row for _, row in rows]), len(texts))
    sizes = (len(text.encode()) for text in texts)
    return [n / math.log(2) / size if size else math.inf for n, size in zip(nats.tolist(), sizes, strict=True)]
