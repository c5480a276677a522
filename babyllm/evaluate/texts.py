"""Bits per byte of single documents, by which a corpus can be filtered.

texts -> tokens -> rows [<eos>, document, <eos>], long ones overlapping -> batches of like length -> nats -> bits
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from babyllm.evaluate.perplexity import Row, overlapping_rows
from babyllm.loading import load
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

BATCH_TOKENS = 8192


def load_scorer(directory: str) -> Callable[[Sequence[str]], list[float]]:
    """What gives the bits per byte of each of some texts, under the model in a run, step or Hugging Face directory.

    It runs on one thread of the CPU: threads would add numbers in another order and change the last bits, and the work
    is shared out over processes.

    Raises:
        UserError: names the file that is missing or does not fit.
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


@torch.no_grad()
def bits_per_byte(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str]) -> list[float]:
    """Nats of all tokens of each text, its <eos> included, over ln 2, over its UTF-8 bytes; infinite for an empty text.

    Args:
        model: in evaluation mode. A text longer than its `max_seq_len` is read in rows that overlap by half.
        tokenizer: of the model.
        texts: any number.
    """
    rows: list[tuple[int, Row]] = []
    for number, ids in enumerate(tokenizer.encode_batch(texts)):
        document = np.array([tokenizer.eos_id, *ids, tokenizer.eos_id], np.int64)
        rows += [(number, row) for row in overlapping_rows(document, model.config.max_seq_len)]
    rows.sort(key=lambda item: len(item[1][0]))
    nats = np.zeros(len(texts))
    batch: list[tuple[int, Row]] = []
    for item in rows:
        if batch and (len(batch) + 1) * len(item[1][0]) > BATCH_TOKENS:
            _add_nats(nats, model, batch)
            batch = []
        batch.append(item)
    if batch:
        _add_nats(nats, model, batch)
    sizes = (len(text.encode()) for text in texts)
    return [n / math.log(2) / size if size else math.inf for n, size in zip(nats.tolist(), sizes, strict=True)]


def _add_nats(
    nats: np.ndarray[tuple[int], np.dtype[np.float64]], model: Transformer, batch: list[tuple[int, Row]]
) -> None:
    """Add to `nats` (texts,) what the rows of a batch hold of each text."""
    longest = max(len(ids) for _, (ids, _) in batch)
    tokens = np.zeros((len(batch), longest - 1), np.int64)
    targets = np.full_like(tokens, IGNORE)
    for i, (_, (ids, context)) in enumerate(batch):
        tokens[i, : len(ids) - 1] = ids[:-1]
        targets[i, context : len(ids) - 1] = ids[context + 1 :]
    losses = model(torch.from_numpy(tokens), torch.from_numpy(targets)).double().sum(dim=1).tolist()
    for (number, _), loss in zip(batch, losses, strict=True):
        nats[number] += loss
