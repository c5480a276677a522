"""The nats of single texts, from which every figure per token, byte or character follows.

texts -> tokens -> rows [<eos>, document, <eos>], overlapping if long -> batches of similar length -> nats of each text

Batches depend on the texts alone, and the rows of a text are added in order. So the nats are the same to the last digit
on any number of ranks, if each has the same device and number of threads.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from babyllm.evaluate.scoring import (
    BATCH_TOKENS,
    Row,
    evaluating,
    overlapping_rows,
    row_batches,
    sum_dtype,
    target_nats,
)
from babyllm.loading import load
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer

_ENCODED_TEXTS, _ENCODED_BYTES = 256, 1 << 20  # encoded at a time; the last text may be longer


class TextNats(NamedTuple):
    """What a model needs to encode each text.

    Attributes:
        nats: (N,) float64 nats of all tokens of each text and of the <eos> after it.
        tokens: (N,) int64 number of these tokens.
    """

    nats: NDArray[np.float64]
    tokens: NDArray[np.int64]


def text_nats(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    runtime: Runtime | None = None,
    *,
    seq_len: int | None = None,
    stride: int | None = None,
) -> TextNats:
    """The nats and tokens of each text; every rank must call it, and ranks share the work.

    Args:
        model: model to evaluate; it is in evaluation mode meanwhile.
        tokenizer: tokenizer of the model.
        texts: N texts, the same on every rank, which are read once and not held in memory.
        runtime: device, dtype and ranks; None computes in float32 on the model's device, on one rank.
        seq_len: largest number of tokens of a row; None takes the model's context.
        stride: tokens from the beginning of a row to that of the next, from 1 to `seq_len`, for longer texts; None
            overlaps by half.

    Raises:
        KeyboardInterrupt: a stop signal arrived at a rank.
    """
    text_of_row, n_tokens = array("q"), array("q")

    def rows() -> Iterator[Row]:
        for ids in _documents(tokenizer, texts):
            for row in overlapping_rows(ids, seq_len or model.config.max_seq_len, stride):
                text_of_row.append(len(n_tokens))
                yield row
            n_tokens.append(len(ids) - 1)

    indices, sums = _row_sums(model, rows(), runtime)
    # A rank that was stopped has not seen all rows, so this comes before the sums.
    if runtime and runtime.sum([float(runtime.stop_requested)])[0]:
        raise KeyboardInterrupt
    of_rows = np.zeros(len(text_of_row))
    of_rows[indices] = sums
    if runtime:
        of_rows = np.array(runtime.sum(of_rows.tolist()))  # exact, since all ranks but one have 0
    nats = np.bincount(np.array(text_of_row), of_rows, len(n_tokens))
    return TextNats(nats.astype(np.float64), np.array(n_tokens))


def _row_sums(
    model: Transformer, rows: Iterable[Row], runtime: Runtime | None
) -> tuple[list[int], NDArray[np.float64]]:
    """The indices of the rows that this rank read, and the nats of each; a stop signal cuts the reading short."""
    indices: list[int] = []
    sums: list[torch.Tensor] = []
    rank, world_size = (runtime.rank, runtime.world_size) if runtime else (0, 1)
    with evaluating(model):
        for number, (found, batch) in enumerate(row_batches(rows, BATCH_TOKENS)):
            if runtime and runtime.stop_requested:
                break
            if number % world_size == rank:
                nats = target_nats(model, batch, runtime)
                sums.append(nats.sum(dim=1, dtype=sum_dtype(nats.device)))
                indices += found
    return indices, torch.cat(sums).cpu().double().numpy() if sums else np.zeros(0)  # one transfer from the device


def _documents(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[NDArray[np.int64]]:
    """The ids of each text, (L,) int64, after the token that begins a text and with <eos> at the end."""
    for batch in _encoded_together(texts):
        ids, lengths = tokenizer.encode_documents(batch)
        for document in np.split(ids.astype(np.int64), np.cumsum(lengths)[:-1]):
            yield np.concatenate([[tokenizer.begin_id], document])


def _encoded_together(texts: Iterable[str]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    n_bytes = 0
    for text in texts:
        batch.append(text.encode())
        n_bytes += len(batch[-1])
        if len(batch) == _ENCODED_TEXTS or n_bytes >= _ENCODED_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


def bits_per_byte(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str]) -> list[float]:
    """The bits per byte of each text: nats of all its tokens and its <eos> / ln 2 / UTF-8 bytes; infinite if empty.

    Args:
        model: model that runs in float32. A text longer than its `max_seq_len` is read in rows that overlap by half.
        tokenizer: tokenizer of the model.
        texts: texts of any lengths.
    """
    nats = text_nats(model, tokenizer, texts).nats.tolist()
    sizes = (len(text.encode()) for text in texts)
    return [n / math.log(2) / size if size else math.inf for n, size in zip(nats, sizes, strict=True)]


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
