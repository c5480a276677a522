"""Log-probabilities of a prompt's own tokens, part by part, so that answers being written are not held up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from babyllm.generation.sampling import Token
from babyllm.model.cache import KVCache
from babyllm.model.transformer import Transformer

CHUNK = 256  # tokens read at once


def prompt_scores(model: Transformer, ids: Sequence[int], k: int) -> Iterator[list[Token]]:
    """The tokens of a prompt in parts, each with its natural log-probability behind those before it.

    The first has none, since nothing stands before it.

    Args:
        model: in evaluation mode.
        ids: at least one.
        k: how many of the most probable tokens are told at each place.
    """
    device = model.embed_tokens.weight.device
    yield [Token(ids[0])]
    is_reduced = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if is_reduced else model.embed_tokens.weight.dtype
    cache = KVCache(model.config, 1, len(ids), device, dtype)
    for start in range(0, len(ids) - 1, CHUNK):
        told = list(ids[start + 1 : start + CHUNK + 1])
        with torch.inference_mode():
            tokens = torch.tensor([ids[start : start + len(told)]], device=device)
            logprobs = model.logits(tokens, cache)[0].log_softmax(-1)
            top = logprobs.topk(min(k, logprobs.shape[-1]), dim=-1)
            own = logprobs[torch.arange(len(told)), torch.tensor(told, device=device)].tolist()
            best = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        yield [
            Token(token, logprob, tuple(zip(names, values, strict=True)))
            for token, logprob, (names, values) in zip(told, own, best, strict=True)
        ]
