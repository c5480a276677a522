"""Loss and bits per byte on held-out documents, by domain.

held-out shards -> documents -> rows [<eos>, document] -> nats of every token, the closing <eos> included -> sums

Bits per byte compares models with different tokenizers: nats / ln 2 / UTF-8 bytes of the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from babyllm.model.cross_entropy import IGNORE
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.runtime.precision import reads_in
from babyllm.store.shards import TokenData, TokenStream

READ_TOKENS = 1 << 20
_Score = tuple[torch.Tensor, int, int]  # nats, on the device, tokens, bytes
Row = tuple[NDArray[np.int64], int]
"""Token ids, and how many of the first targets are only context."""


def perplexity(
    model: Transformer,
    data: TokenData,
    runtime: Runtime,
    *,
    seq_len: int,
    max_tokens: int | None = None,
    batch_tokens: int = 8192,
    token_bytes: NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """Mean loss and bits per byte of each domain's held-out documents; every rank must call it.

    A document longer than `seq_len` is read in rows that overlap by half, so that every token is scored once and, but
    for the first row, with at least half a row before it. A stop signal cuts the reading short.

    Args:
        model: switched to evaluation and back.
        data: its "val" split is read.
        runtime: device and ranks; ranks share the rows.
        seq_len: tokens per row.
        max_tokens: of each domain, from the start; None reads all.
        batch_tokens: tokens, padding included, per forward pass.
        token_bytes: (V,) UTF-8 bytes that each id stands for, which counts the text where `max_tokens` cuts it short;
            the bytes of whole domains are known. Without either, bits per byte are left out.

    Returns:
        "<domain>/loss" in nats per token, "<domain>/bpb" in bits per byte, and the same for "all"; nothing where there
        is nothing to read.
    """
    was_training = model.training
    model.eval()
    result: dict[str, float] = {}
    overall = np.zeros(3)
    try:
        for domain in data.domains("val"):
            scores: list[_Score] = []
            documents = _documents(data.stream("val", domain), data.manifest.eos_id, max_tokens)
            for index, batch in enumerate(_batches(documents, data.manifest.eos_id, seq_len, batch_tokens)):
                if runtime.stop_requested:
                    break
                if index % runtime.world_size == runtime.rank:
                    scores.append(_score(model, batch, runtime, token_bytes))
            sums = np.array(runtime.sum(_total(scores)))  # nats, tokens, bytes
            if sums[1] == len(data.stream("val", domain)) and data.text_bytes("val", domain):
                sums[2] = data.text_bytes("val", domain)
            if sums[1]:
                result |= _means(domain, sums)
            overall += sums
    finally:
        model.train(was_training)
    if not all(f"{domain}/bpb" in result for domain in data.domains("val")):
        overall[2] = 0
    return {**result, **_means("all", overall)} if result else result


def _means(name: str, sums: NDArray[np.float64]) -> dict[str, float]:
    nats, tokens, n_bytes = sums
    means = {f"{name}/loss": float(nats / tokens)}
    return means | ({f"{name}/bpb": float(nats / math.log(2) / n_bytes)} if n_bytes else {})


def _documents(stream: TokenStream, eos_id: int, max_tokens: int | None) -> Iterator[NDArray[np.int64]]:
    """Whole documents, each with its <eos>, until `max_tokens` have been read; one longer than what is left is cut."""
    limit = len(stream) if max_tokens is None else min(max_tokens, len(stream))
    rest, position, given = np.empty(0, np.int64), 0, 0
    while position < len(stream) and given < limit:
        rest = np.concatenate([rest, stream.read(position, position + READ_TOKENS)])
        position += READ_TOKENS
        *documents, rest = np.split(rest, np.flatnonzero(rest == eos_id) + 1)
        for document in documents:
            if given >= limit:
                return
            given += len(document)
            yield document
        if given + len(rest) >= limit:
            break
    if len(rest) and given < limit:
        yield rest[: limit - given]


def _batches(
    documents: Iterator[NDArray[np.int64]], eos_id: int, seq_len: int, batch_tokens: int
) -> Iterator[list[Row]]:
    """Rows of about the same length, at most `batch_tokens` with padding."""
    pool: list[Row] = []
    for document in documents:
        pool.extend(overlapping_rows(np.concatenate([[eos_id], document]), seq_len))
        if sum(len(ids) for ids, _ in pool) >= 16 * batch_tokens:
            yield from _packed(pool, batch_tokens)
            pool = []
    yield from _packed(pool, batch_tokens)


def overlapping_rows(ids: NDArray[np.int64], seq_len: int) -> Iterator[Row]:
    """A document in rows of at most `seq_len` targets that overlap by half, so that each target is scored once."""
    start, context = 0, 0
    while True:
        yield ids[start : start + seq_len + 1], context
        if start + seq_len + 1 >= len(ids):
            return
        step = seq_len - seq_len // 2
        start, context = start + step, seq_len - step


def _packed(pool: list[Row], batch_tokens: int) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in sorted(pool, key=lambda r: len(r[0])):
        if batch and (len(batch) + 1) * len(row[0]) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@torch.no_grad()
def _score(model: Transformer, batch: list[Row], runtime: Runtime, token_bytes: NDArray[np.int64] | None) -> _Score:
    longest = max(len(ids) for ids, _ in batch)
    tokens = np.zeros((len(batch), longest - 1), dtype=np.int64)
    targets = np.full_like(tokens, IGNORE)
    for i, (ids, context) in enumerate(batch):
        tokens[i, : len(ids) - 1] = ids[:-1]
        targets[i, context : len(ids) - 1] = ids[context + 1 :]
    scored = targets[targets != IGNORE]
    inputs = (on_device(array, runtime.device) for array in (tokens, targets))
    with reads_in(runtime.device, runtime.reading_dtype):
        losses = model(*inputs, n_targets=len(scored))
    n_bytes = 0 if token_bytes is None else int(token_bytes[scored].sum())
    return losses.sum(dtype=sum_dtype(runtime.device)), len(scored), n_bytes


def _total(scores: list[_Score]) -> list[float]:
    """Nats, tokens and bytes; the nats are read from the device here, once."""
    if not scores:
        return [0.0, 0.0, 0.0]
    nats, tokens, n_bytes = zip(*scores, strict=True)
    return [float(torch.stack(nats).cpu().double().sum()), float(sum(tokens)), float(sum(n_bytes))]


def on_device(array: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    """An array as a tensor on a device, whose work so far is not waited for."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def sum_dtype(device: torch.device) -> torch.dtype:
    """The widest type that a device adds in."""
    return torch.float32 if device.type == "mps" else torch.float64
