"""Loss and bits per byte on held-out documents, by domain.

held-out shards -> documents -> rows [<eos>, document] -> nats of every token, including the last <eos> -> sums

Bits per byte compares models with different tokenizers: nats / ln 2 / UTF-8 bytes of the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

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
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.store.shards import TokenData, TokenStream

READ_TOKENS = 1 << 20
_Score = tuple[torch.Tensor, int, int]  # nats, on the device; tokens; bytes


def perplexity(
    model: Transformer,
    data: TokenData,
    runtime: Runtime,
    *,
    seq_len: int,
    max_tokens: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    token_bytes: NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """Mean loss and bits per byte of each domain's held-out documents; every rank must call it.

    A document longer than `seq_len` is read in rows that overlap by half. So every token is scored once and, except in
    the first row, after at least half a row of context. A stop signal cuts the reading short.

    Args:
        model: model to evaluate; it is in evaluation mode meanwhile.
        data: token data, of which the "val" split is read.
        runtime: device and ranks; ranks share the rows.
        seq_len: tokens per row.
        max_tokens: number of tokens read from the start of each domain; None reads all.
        batch_tokens: tokens per forward pass, including padding.
        token_bytes: (V,) int64 number of UTF-8 bytes of each token. It is needed for a domain that `max_tokens`
            cuts short, or whose bytes the manifest lacks; without it, the domain has no bits per byte.

    Returns:
        "<domain>/loss" in nats per token, "<domain>/bpb" in bits per byte, and the same for "all"; empty if
        there are no held-out tokens.
    """
    result: dict[str, float] = {}
    overall = np.zeros(3)
    domains = data.domains("val")
    with evaluating(model):
        for domain in domains:
            stream = data.stream("val", domain)
            documents = _documents(stream, data.manifest.eos_id, max_tokens)
            rows = _rows(documents, data.manifest.eos_id, seq_len)
            score = _score(model, row_batches(rows, batch_tokens), runtime, token_bytes)
            sums = np.array(runtime.sum(score))  # nats, tokens, bytes
            if sums[1] == len(stream) and data.text_bytes("val", domain):
                sums[2] = data.text_bytes("val", domain)
            if sums[1]:
                result |= _means(domain, sums)
            overall += sums
    if not all(f"{domain}/bpb" in result for domain in domains):
        overall[2] = 0
    return {**result, **_means("all", overall)} if result else result


def _means(name: str, sums: NDArray[np.float64]) -> dict[str, float]:
    nats, tokens, n_bytes = sums
    means = {f"{name}/loss": float(nats / tokens)}
    return means | ({f"{name}/bpb": float(nats / math.log(2) / n_bytes)} if n_bytes else {})


def _documents(stream: TokenStream, eos_id: int, max_tokens: int | None) -> Iterator[NDArray[np.int64]]:
    """Documents (L,), each with its <eos>, until `max_tokens` have been read; the last one is cut at that number."""
    limit = len(stream) if max_tokens is None else min(max_tokens, len(stream))
    rest, position, n_yielded = np.empty(0, np.int64), 0, 0
    while position < len(stream) and n_yielded < limit:
        rest = np.concatenate([rest, stream.read(position, position + READ_TOKENS)])
        position += READ_TOKENS
        *documents, rest = np.split(rest, np.flatnonzero(rest == eos_id) + 1)
        for document in documents:
            if n_yielded >= limit:
                return
            n_yielded += len(document)
            yield document
        if n_yielded + len(rest) >= limit:
            break
    if len(rest) and n_yielded < limit:
        yield rest[: limit - n_yielded]


def _rows(documents: Iterator[NDArray[np.int64]], eos_id: int, seq_len: int) -> Iterator[Row]:
    for document in documents:
        yield from overlapping_rows(np.concatenate([[eos_id], document]), seq_len)


def _score(
    model: Transformer,
    found: Iterator[tuple[list[int], list[Row]]],
    runtime: Runtime,
    token_bytes: NDArray[np.int64] | None,
) -> list[float]:
    """Nats, tokens and bytes of this rank's share of the batches; a stop signal cuts it short."""
    scores: list[_Score] = []
    for index, (_, batch) in enumerate(found):
        if runtime.stop_requested:
            break
        if index % runtime.world_size == runtime.rank:
            nats = target_nats(model, batch, runtime).sum(dtype=sum_dtype(runtime.device))
            scored = np.concatenate([row.scored_ids for row in batch])
            scores.append((nats, len(scored), 0 if token_bytes is None else int(token_bytes[scored].sum())))
    if not scores:
        return [0.0, 0.0, 0.0]
    values, tokens, n_bytes = zip(*scores, strict=True)
    # The nats are read from the device here, once.
    return [float(torch.stack(values).cpu().double().sum()), float(sum(tokens)), float(sum(n_bytes))]
