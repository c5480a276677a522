"""The loss in nats of marked ids in rows of any length; all evaluations use it.

rows -> batches of similar length -> padded tokens and targets -> forward pass -> nats of each target -> sum per row

Legend: R rows, L ids of a row, B rows of a batch, T targets of the longest row of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from babyllm.model.cross_entropy import IGNORE
from babyllm.model.linear import dense_weight
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.runtime.precision import reads_in

BATCH_TOKENS = 8192
"""Default number of tokens per forward pass, including padding."""
_POOL_BATCHES = 16  # Number of batches whose rows are sorted by length together.
_HEAD_TOKENS = 256  # tokens whose logits are in memory together


class Row(NamedTuple):
    """A row of token ids, some of which are scored given all ids before them.

    Attributes:
        ids: (L,) int64 token ids, two or more.
        is_scored: (L,) bool; the first element is ignored, because no id precedes the first one.
    """

    ids: NDArray[np.int64]
    is_scored: NDArray[np.bool_]

    @property
    def targets(self) -> NDArray[np.int64]:
        """The targets, (L - 1,) int64: the id after each one except the last, or `IGNORE` if it is not scored."""
        return np.where(self.is_scored[1:], self.ids[1:], IGNORE)

    @property
    def scored_ids(self) -> NDArray[np.int64]:
        """The scored ids, (n,) int64."""
        return self.ids[1:][self.is_scored[1:]]


class Score(NamedTuple):
    """The score of a text.

    Attributes:
        nats: minus its log-probability, in nats.
        is_greedy: whether each of its tokens is the most probable one there.
    """

    nats: float
    is_greedy: bool


def overlapping_rows(ids: NDArray[np.int64], seq_len: int, stride: int | None = None) -> Iterator[Row]:
    """Rows of at most `seq_len` targets that overlap, in which each id but the first is scored once.

    Args:
        ids: (L,) int64 ids of a document, including the <eos> before it.
        seq_len: largest number of targets of a row.
        stride: ids from the beginning of a row to that of the next, from 1 to `seq_len`; None overlaps by half.
    """
    start, n_context, step = 0, 0, stride or seq_len - seq_len // 2
    while True:
        part = ids[start : start + seq_len + 1]
        yield Row(part, np.arange(len(part)) > n_context)
        if start + seq_len + 1 >= len(ids):
            return
        start, n_context = start + step, seq_len - step


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Batches of row indices, sorted by length, each of at most `batch_tokens` tokens with padding or a single row.

    Args:
        lengths: (R,) number of ids of each row.
        batch_tokens: largest number of tokens of a batch, including padding.
    """
    batch: list[int] = []
    for index in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[index] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def row_batches(rows: Iterable[Row], batch_tokens: int) -> Iterator[tuple[list[int], list[Row]]]:
    """Batches of rows of similar length: the indices in `rows`, and the rows.

    A batch depends on the rows and on `batch_tokens` alone.

    Args:
        rows: rows of any lengths, of which a few batches are held in memory.
        batch_tokens: largest number of tokens of a batch, including padding, unless it has a single row.
    """
    pool: list[Row] = []
    n_before = n_tokens = 0
    for row in rows:
        pool.append(row)
        n_tokens += len(row.ids)
        if n_tokens >= _POOL_BATCHES * batch_tokens:
            yield from _packed(pool, n_before, batch_tokens)
            n_before, pool, n_tokens = n_before + len(pool), [], 0
    yield from _packed(pool, n_before, batch_tokens)


def _packed(pool: Sequence[Row], n_before: int, batch_tokens: int) -> Iterator[tuple[list[int], list[Row]]]:
    for batch in batches([len(row.ids) for row in pool], batch_tokens):
        yield [n_before + index for index in batch], [pool[index] for index in batch]


@torch.no_grad()
def target_nats(model: Transformer, rows: Sequence[Row], runtime: Runtime | None = None) -> torch.Tensor:
    """Nats of each target of a batch, (B, T) float32 on the model's device, 0 where an id is not scored.

    It returns without waiting for the device.

    Args:
        model: a model in evaluation mode.
        rows: B rows, which are padded to the longest.
        runtime: device and dtype of inference; None computes in float32 on the model's device.
    """
    tokens, targets, n_targets = _padded(model, rows, runtime)
    with _reading(tokens.device, runtime):
        nats: torch.Tensor = model(tokens, targets, n_targets=n_targets)
    return nats


@torch.no_grad()
def row_scores(model: Transformer, rows: Sequence[Row], runtime: Runtime | None = None) -> list[Score]:
    """The score of the scored ids of each row, which are read in one forward pass.

    Args:
        model: model to evaluate; it is in evaluation mode meanwhile.
        rows: rows, which are padded to the longest.
        runtime: device and dtype of inference; None computes in float32 on the model's device.
    """
    tokens, targets, n_targets = _padded(model, rows, runtime)
    is_scored = targets != IGNORE
    with evaluating(model), _reading(tokens.device, runtime):
        found = model(tokens, targets, n_targets=n_targets, returns=("nats", "hidden"))
        weight = dense_weight(model.lm_head).to(found["hidden"].dtype)
        likeliest = [F.linear(part, weight).argmax(-1) for part in found["hidden"][is_scored].split(_HEAD_TOKENS)]
    greedy = targets.clone()
    greedy[is_scored] = torch.cat(likeliest)
    nats = found["nats"].sum(dim=1, dtype=sum_dtype(tokens.device))
    return [Score(*each) for each in zip(nats.tolist(), (greedy == targets).all(dim=1).tolist(), strict=True)]


def _padded(model: Transformer, rows: Sequence[Row], runtime: Runtime | None) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Tokens and targets (B, T) on the device of inference, and the number of targets."""
    device = model.embed_tokens.weight.device if runtime is None else runtime.device
    tokens = np.zeros((len(rows), max(len(row.ids) for row in rows) - 1), np.int64)
    targets = np.full_like(tokens, IGNORE)
    for line, row in enumerate(rows):
        tokens[line, : len(row.ids) - 1] = row.ids[:-1]
        targets[line, : len(row.ids) - 1] = row.targets
    return _on_device(tokens, device), _on_device(targets, device), int((targets != IGNORE).sum())


def _reading(device: torch.device, runtime: Runtime | None) -> AbstractContextManager[Any]:
    return reads_in(device, torch.float32 if runtime is None else runtime.reading_dtype)


def row_nats(
    model: Transformer, rows: Sequence[Row], runtime: Runtime | None = None, *, batch_tokens: int = BATCH_TOKENS
) -> NDArray[np.float64]:
    """Nats of the scored ids of each row, summed per row, (R,) float64; ranks do not share the work.

    Args:
        model: model to evaluate; it is in evaluation mode meanwhile.
        rows: R rows of any lengths.
        runtime: device and dtype of inference; None computes in float32 on the model's device. A stop signal cuts the
            work short, and rows that were not read have 0.
        batch_tokens: tokens per forward pass, including padding.
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
    if sums:  # one transfer from the device
        result[read] = torch.cat(sums).cpu().double().numpy()
    return result


@contextmanager
def evaluating(model: Transformer) -> Iterator[None]:
    """A context in which a model is in evaluation mode; it restores the previous mode at its end."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def sum_dtype(device: torch.device) -> torch.dtype:
    """The widest floating-point dtype in which a device can add: float64, or float32 on MPS."""
    return torch.float32 if device.type == "mps" else torch.float64


def _on_device(array: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
