"""The nats a model needs for marked ids of rows of any length: the one scorer of all evaluation.

rows -> batches of like length -> padded tokens and targets -> forward pass -> nats of each target -> sums of rows

Legend: R rows, L ids of a row, B rows of a batch, T targets of the longest of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from babyllm.model.cross_entropy import IGNORE
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.runtime.precision import reads_in

BATCH_TOKENS = 8192
"""Tokens of a forward pass, padding included, unless a caller names another number."""


class Row(NamedTuple):
    """Ids, some of which are scored given all ids before them.

    Attributes:
        ids: (L,) int64, two or more.
        is_scored: (L,) bool; the mark of the first id is not read, because nothing stands before it.
    """

    ids: NDArray[np.int64]
    is_scored: NDArray[np.bool_]

    @property
    def targets(self) -> NDArray[np.int64]:
        """(L - 1,) the id after each but the last, or `IGNORE` where it is not scored."""
        return np.where(self.is_scored[1:], self.ids[1:], IGNORE)

    @property
    def scored_ids(self) -> NDArray[np.int64]:
        """(n,) the ids that are scored."""
        return self.ids[1:][self.is_scored[1:]]


def overlapping_rows(ids: NDArray[np.int64], seq_len: int) -> Iterator[Row]:
    """Rows of at most `seq_len` targets that overlap by half, in which each id but the first is scored once.

    Args:
        ids: (L,) of a document, <eos> before it included.
        seq_len: targets of a row.
    """
    start, n_context = 0, 0
    while True:
        part = ids[start : start + seq_len + 1]
        yield Row(part, np.arange(len(part)) > n_context)
        if start + seq_len + 1 >= len(ids):
            return
        step = seq_len - seq_len // 2
        start, n_context = start + step, seq_len - step


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of rows of like length, the shortest first, at most `batch_tokens` with padding or a single row.

    Args:
        lengths: (R,) ids of each row.
        batch_tokens: tokens of a batch, padding included.
    """
    batch: list[int] = []
    for index in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[index] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.no_grad()
def target_nats(model: Transformer, rows: Sequence[Row], runtime: Runtime | None = None) -> torch.Tensor:
    """Nats of each target of a batch, (B, T) float32 on the model's device, 0 where an id is not scored.

    The device's work is not waited for.

    Args:
        model: a model in evaluation mode.
        rows: B rows, which are padded to the longest.
        runtime: its device and the type to read in; None reads in float32 where the model is.
    """
    device = model.embed_tokens.weight.device if runtime is None else runtime.device
    tokens = np.zeros((len(rows), max(len(row.ids) for row in rows) - 1), np.int64)
    targets = np.full_like(tokens, IGNORE)
    for line, row in enumerate(rows):
        tokens[line, : len(row.ids) - 1] = row.ids[:-1]
        targets[line, : len(row.ids) - 1] = row.targets
    inputs = (_on_device(array, device) for array in (tokens, targets))
    with reads_in(device, torch.float32 if runtime is None else runtime.reading_dtype):
        nats: torch.Tensor = model(*inputs, n_targets=int((targets != IGNORE).sum()))
    return nats


def row_nats(
    model: Transformer, rows: Sequence[Row], runtime: Runtime | None = None, *, batch_tokens: int = BATCH_TOKENS
) -> NDArray[np.float64]:
    """(R,) nats of the scored ids of each row together; on this rank alone.

    Args:
        model: switched to evaluation and back.
        rows: R rows of any lengths.
        runtime: its device and the type to read in; None reads in float32 where the model is. A stop signal cuts the
            work short, and the rows that were not read have 0.
        batch_tokens: tokens, padding included, per forward pass.
    """
    read: list[int] = []
    sums: list[torch.Tensor] = []
    with evaluating(model):
        for batch in batches([len(row.ids) for row in rows], batch_tokens):
            if runtime and runtime.stop_requested:
                break
            nats = target_nats(model, [rows[index] for index in batch], runtime)
            sums.append(nats.sum(dim=1, dtype=sum_dtype(nats.device)))
            read += batch
    result = np.zeros(len(rows))
    if sums:  # read from the device here, once
        result[read] = torch.cat(sums).cpu().double().numpy()
    return result


@contextmanager
def evaluating(model: Transformer) -> Iterator[None]:
    """A context in which a model is in evaluation mode; after it, the model is in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def sum_dtype(device: torch.device) -> torch.dtype:
    """The widest type that a device adds in."""
    return torch.float32 if device.type == "mps" else torch.float64


def _on_device(array: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
